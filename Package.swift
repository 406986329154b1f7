// swift-tools-version: 6.2
import PackageDescription

let settings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .treatAllWarnings(as: .error),
]

let package = Package(
    name: "dsr",
    products: [
        .executable(name: "dsrd", targets: ["dsrd"]),
        .executable(name: "dsrctl", targets: ["dsrctl"]),
        .executable(name: "dsr-agent", targets: ["dsr-agent"]),
        .executable(name: "dsr-lab", targets: ["dsr-lab"]),
        .library(name: "DataPlane", targets: ["DataPlane"]),
        .library(name: "StorageProtocols", targets: ["StorageProtocols"]),
        .library(name: "ControlPlane", targets: ["ControlPlane"]),
        .library(name: "FuzzSupport", targets: ["FuzzSupport"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
        .package(url: "https://github.com/swhitty/FlyingFox", from: "0.27.1"),
    ],
    targets: [
        // C: macros and flexible array members that Swift cannot import, and libraries of the system.
        .target(name: "CLinux"),
        .systemLibrary(
            name: "CPcap", pkgConfig: "libpcap", providers: [.apt(["libpcap-dev"])]),
        .systemLibrary(
            name: "CNetlink", pkgConfig: "libnl-route-3.0",
            providers: [.apt(["libnl-3-dev", "libnl-route-3-dev"])]),

        // The whole hot path: no Foundation, no allocation per packet.
        .target(
            name: "DataPlane", dependencies: ["CLinux", "CPcap"], exclude: ["README.md"],
            swiftSettings: settings),
        // Codecs and state machines: bytes in, actions out; no sockets, no clock.
        .target(
            name: "StorageProtocols",
            dependencies: [.product(name: "Crypto", package: "swift-crypto")],
            exclude: ["README.md"], swiftSettings: settings),
        .target(
            name: "ControlPlane",
            dependencies: [
                "DataPlane", "StorageProtocols", "CLinux", "CNetlink", "Yams",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "FlyingFox", package: "FlyingFox"),
            ],
            exclude: ["README.md"], swiftSettings: settings),

        .executableTarget(
            name: "dsrd",
            dependencies: [
                "ControlPlane", "CLinux",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ], swiftSettings: settings),
        .executableTarget(
            name: "dsrctl",
            dependencies: [
                "ControlPlane", "DataPlane",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ], swiftSettings: settings),
        // Runs beside storage servers: nothing of the switch is needed there.
        .executableTarget(
            name: "dsr-agent",
            dependencies: [
                "StorageProtocols", "Yams",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ], exclude: ["README.md", "dsr-agent.service"], swiftSettings: settings),
        .executableTarget(
            name: "dsr-lab",
            dependencies: [
                "Yams",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ], swiftSettings: settings),

        .target(
            name: "CAllocationCount", path: "Tests/CAllocationCount"),
        .target(
            name: "TestSupport",
            dependencies: ["DataPlane", "StorageProtocols", "CAllocationCount"],
            path: "Tests/TestSupport", swiftSettings: settings),
        // What Fuzz, a package of its own, needs of what only this package sees.
        .target(
            name: "FuzzSupport", dependencies: ["ControlPlane", "DataPlane", "StorageProtocols"],
            path: "Tests/FuzzSupport", swiftSettings: settings),
        .testTarget(
            name: "DataPlaneTests",
            dependencies: ["DataPlane", "StorageProtocols", "TestSupport"],
            resources: [.copy("Captures")], swiftSettings: settings),
        .testTarget(
            name: "StorageProtocolTests", dependencies: ["StorageProtocols", "TestSupport"],
            swiftSettings: settings),
        .testTarget(
            name: "ControlPlaneTests",
            dependencies: [
                "ControlPlane", "DataPlane", "StorageProtocols", "TestSupport",
                .product(name: "Logging", package: "swift-log"),
            ],
            resources: [.copy("Captures")], swiftSettings: settings),
        .testTarget(
            name: "SystemTests", dependencies: ["ControlPlane", "DataPlane", "TestSupport"],
            swiftSettings: settings),
    ]
)
