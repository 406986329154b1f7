import Foundation
import Testing

private let exports = (1...6).map { "/e\($0)" }

extension Laboratory {
    fileprivate struct Connection: Decodable {
        var id: Int
        var `protocol`: String
        var state: String
        var server: String?
        var splices: Int
        var unsplices: Int
    }

    /// Connections of NFS, but for those of MOUNT and the portmapper, which are over soon.
    fileprivate func connections() async throws -> [Connection] {
        try await get([Connection].self, "/sessions").filter { $0.protocol == "nfs" }
    }

    fileprivate func spliced() async throws -> [Connection] {
        try await connections().filter { $0.state == "spliced" }
    }

    fileprivate func isSpliced(_ count: Int, within seconds: Double = 10) async -> Bool {
        await eventually(within: seconds) { (try? await spliced().count) == count }
    }

    /// Calls of all exports that the dataplane has passed by itself.
    fileprivate func fastCalls() async throws -> Int {
        struct Row: Decodable { var fastCalls: Int }
        return try await get([Row].self, "/nfs/exports").reduce(0) { $0 + $1.fastCalls }
    }

    fileprivate func upServers() async throws -> Int {
        try await dsrctl("server", "list").components(separatedBy: " up ").count - 1
    }
}

/// Reads and writes of stamped blocks, each connection in a file of its own.
private func verify(
    _ lab: Laboratory, _ exports: [String], seconds: Int, _ options: [String] = []
) async throws -> NFSLoad {
    try await NFSLoad(
        lab, "verify", exports: exports, waits: true,
        options: ["--seconds", "\(seconds)", "--final-verify", "--range-mib", "4"] + options)
}

extension SystemTests {
    /// Connections that one server serves pass by the dataplane alone.
    @Suite("NFS: spliced connections", .serialized, .lab("fig2-nas"))
    struct NFSSplice {
        private func expectGood(
            _ load: NFSLoad, requests: Int = 1_000, within milliseconds: Double = .infinity,
            location: SourceLocation = #_sourceLocation
        ) async throws {
            let report = try await load.report()
            #expect(
                report.ok && report.wrongBlocks == 0 && report.requests > requests
                    && (report.longestStallMs ?? .infinity) < milliseconds, "\(report)",
                sourceLocation: location)
        }

        @Test func connectionsOfOneServer() async throws {
            let lab = try Laboratory.here()
            let before = try await lab.fastCalls()
            let load = try await verify(lab, ["/e1", "/e3"], seconds: 6)
            let isSpliced = await lab.isSpliced(2)
            let seen = try await lab.connections()
            #expect(isSpliced, "\(seen)")
            let assignment = try await lab.assignment()
            let servers = Set(seen.compactMap(\.server))
            #expect(servers == Set(["e1", "e3"].compactMap { assignment[$0] }))
            try await expectGood(load)
            let fast = try await lab.fastCalls() - before
            #expect(fast > 500, "\(fast) calls in the dataplane")
        }

        /// What another server has, and what the dataplane does not pass, over the same connections.
        @Test func callsForOtherThingsBringThemBack() async throws {
            let lab = try Laboratory.here()
            let load = try await verify(lab, exports, seconds: 12, ["--stray", "2.5"])
            let isBack = await eventually(within: 12) {
                guard let all = try? await lab.connections() else { return false }
                return all.filter { $0.unsplices > 0 }.count > 3
            }
            let seen = try await lab.connections()
            #expect(isBack, "\(seen)")
            try await expectGood(load)
        }

        @Test func killedServers() async throws {
            let lab = try Laboratory.here()
            let load = try await verify(lab, exports, seconds: 14)
            for server in ["server1", "server3"] {
                let isSpliced = await lab.isSpliced(6)
                let seen = try await lab.connections()
                #expect(isSpliced, "\(seen)")
                try await lab.dsrlab("service", lab.prefix, server, "kill")
                let isLeft = await eventually(within: 5) {
                    (try? await lab.assignment().values.contains(server)) == false
                }
                #expect(isLeft, "\(server) still has exports")
                try await lab.dsrlab("service", lab.prefix, server, "start")
                let isUp = await eventually(within: 15) { (try? await lab.upServers()) == 3 }
                #expect(isUp)
            }
            try await expectGood(load, within: 1_500)
        }

        @Test func frozenServer() async throws {
            let lab = try Laboratory.here()
            let load = try await verify(lab, exports, seconds: 8)
            let isSpliced = await lab.isSpliced(6)
            #expect(isSpliced)
            try await lab.dsrlab("service", lab.prefix, "server2", "freeze")
            let isLeft = await eventually(within: 5) {
                (try? await lab.assignment().values.contains("server2")) == false
            }
            #expect(isLeft)
            // It was fenced.
            try await lab.dsrlab("service", lab.prefix, "server2", "start")
            try await expectGood(load, within: 1_500)
            let isUp = await eventually(within: 15) { (try? await lab.upServers()) == 3 }
            #expect(isUp)
        }

        @Test func movedExports() async throws {
            let lab = try Laboratory.here()
            let load = try await verify(lab, exports, seconds: 12)
            let isSpliced = await lab.isSpliced(6)
            #expect(isSpliced)
            for name in ["e1", "e2", "e3", "e4", "e5", "e6"] {
                let present = try await lab.assignment()[name]
                let other = present == "server1" ? "server2" : "server1"
                _ = try await lab.dsrctl("resource", "move", name, other, "--wait")
                try await Task.sleep(for: .milliseconds(200))
            }
            // They are again, at their new servers.
            let isAgain = await lab.isSpliced(6)
            let seen = try await lab.connections()
            #expect(isAgain, "\(seen)")
            let assignment = try await lab.assignment()
            #expect(Set(seen.compactMap(\.server)) == Set(assignment.values), "\(seen)")
            try await expectGood(load, within: 1_500)
        }
    }

    @Suite(
        "NFS: spliced connections with faults", .serialized,
        .lab(
            "fig2-nas",
            configuration: withFaults("drop: 0.01, duplicate: 0.003, reorder: 0.003, seed: 7")))
    struct NFSSpliceFaults {
        /// In and out again and again; no octet may be lost, no call be done for nobody.
        @Test func forcedChanges() async throws {
            let lab = try Laboratory.here()
            let text = try lab.configurationInUse()
            #expect(text.components(separatedBy: "drop: 0.01").count == 5)
            let load = try await verify(
                lab, ["/e2"], seconds: 12, ["--largest", "65536", "--depth", "4"])
            let isSpliced = await lab.isSpliced(1)
            try #require(isSpliced)
            let id = try #require(try await lab.spliced().first).id
            let end = ContinuousClock.now + .seconds(7)
            var pairs = 0
            while ContinuousClock.now < end {
                let isOut = try await lab.change(id, "unsplice")
                let isIn = try await lab.change(id, "splice")
                if isOut, isIn { pairs += 1 }
            }
            let report = try await load.report()
            #expect(report.ok && report.wrongBlocks == 0 && report.requests > 100, "\(report)")
            #expect(pairs > 10, "\(pairs) pairs")
        }
    }
}
