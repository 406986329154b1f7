// swift-tools-version: 6.2
import PackageDescription

// A package of its own, so that nobody who builds the product builds this.
let package = Package(
    name: "dsr-fuzz",
    dependencies: [
        .package(name: "dsr", path: ".."),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    ],
    targets: [
        .executableTarget(
            name: "fuzz",
            dependencies: [
                .product(name: "DataPlane", package: "dsr"),
                .product(name: "StorageProtocols", package: "dsr"),
                .product(name: "ControlPlane", package: "dsr"),
                .product(name: "FuzzSupport", package: "dsr"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: [
                .swiftLanguageMode(.v6),
                .enableUpcomingFeature("ExistentialAny"),
                .enableUpcomingFeature("MemberImportVisibility"),
                .enableUpcomingFeature("InternalImportsByDefault"),
                .treatAllWarnings(as: .error),
            ])
    ]
)
