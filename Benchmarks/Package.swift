// swift-tools-version: 6.2
import PackageDescription

// A package of its own, so that neither its tools nor their build burden the switch.
let package = Package(
    name: "benchmarks",
    dependencies: [.package(name: "dsr", path: "..")],
    targets: [
        // recvmmsg and sendmmsg.
        .target(name: "CDatagrams"),
        // Load generator, its server end, and the table of medians.
        .executableTarget(name: "traffic", dependencies: ["CDatagrams"]),
        // Look-up and rewrite in memory.
        .executableTarget(
            name: "lookup", dependencies: [.product(name: "DataPlane", package: "dsr")]),
    ]
)
