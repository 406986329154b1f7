import Foundation
import Testing

private let resources = ["r1", "r2", "r3", "r4", "r5", "r6"]

extension SystemTests {
    /// Servers that fail in every way under a verified load: no initiator notices.
    @Suite("Failover", .serialized, .lab())
    struct Failover {
        /// What every failure has to come to; ms that a request may take.
        private func expectUnnoticed(
            _ report: VerifiedLoad.Report, within milliseconds: Double,
            location: SourceLocation = #_sourceLocation
        ) {
            #expect(report.ok, "\(report)", sourceLocation: location)
            #expect(report.requests > 500, "\(report)", sourceLocation: location)
            #expect(report.longestStallMs < milliseconds, "\(report)", sourceLocation: location)
        }

        /// Servers serve what the configuration says: each test begins there.
        private func restore(_ lab: Laboratory) async throws {
            for server in ["server1", "server2", "server3"] {
                _ = try await Program([
                    "\(Laboratory.products)/dsr-lab", "service", lab.prefix, server, "start",
                ]).result(within: 20)
            }
            let isUp = try await eventually(within: 20) {
                for server in ["server1", "server2", "server3"]
                where try await lab.health(server) != "up" { return false }
                return true
            }
            try #require(isUp, "not all servers are healthy")
            let home = [
                "r1": "server1", "r2": "server1", "r3": "server2", "r4": "server2",
                "r5": "server3", "r6": "server3",
            ]
            for (resource, server) in try await lab.assignment() where server != home[resource] {
                _ = try await lab.dsrctl(
                    "resource", "move", resource, home[resource] ?? "", "--wait")
            }
        }

        private func fail(
            within milliseconds: Double, address: String = "10.10.0.100",
            _ failure: (Laboratory) async throws -> Void
        ) async throws {
            let lab = try Laboratory.here()
            try await restore(lab)
            let before = try await lab.eventRows().count
            let load = try await VerifiedLoad(
                lab, resources: resources, sessions: 4, seconds: 5, address: address)
            try await Task.sleep(for: .milliseconds(1_500))
            try await failure(lab)
            let report = try await load.report()
            expectUnnoticed(report, within: milliseconds)
            // Figure 7.
            let now = try await lab.assignment()
            #expect(now["r1"] == "server3" && now["r2"] == "server2", "\(now)")
            #expect(now["r3"] == "server2" && now["r5"] == "server3", "\(now)")
            let kinds = try await lab.eventRows().dropFirst(before).map(\.kind)
            let confirmations = kinds.indices.filter { kinds[$0] == "change_confirmed" }
            let change = try #require(kinds.firstIndex(of: "table_changed"), "\(kinds)")
            #expect(confirmations.count == 2 && confirmations.allSatisfy { $0 < change })
            #expect(kinds.contains("failover_finished"))
        }

        @Test(arguments: ["10.10.0.100", "[fd10::100]"])
        func killedServer(address: String) async throws {
            try await fail(within: 1_500, address: address) {
                try await $0.dsrlab("service", $0.prefix, "server1", "kill")
            }
        }

        @Test func frozenServer() async throws {
            try await fail(within: 1_500) {
                try await $0.dsrlab("service", $0.prefix, "server1", "freeze")
            }
        }

        @Test func linkDown() async throws {
            let lab = try Laboratory.here()
            try await fail(within: 1_500) {
                try await $0.dsrlab("link", $0.prefix, "server1", "down")
            }
            try await lab.dsrlab("link", lab.prefix, "server1", "up")
        }

        @Test func storagePortRemoved() async throws {
            let lab = try Laboratory.here()
            try await fail(within: 1_500) {
                try await $0.dsrlab("link", $0.prefix, "server1", "remove")
            }
            try await lab.dsrlab("link", lab.prefix, "server1", "add")
        }

        /// All but one, one after the other: the last has everything, and its clients notice nothing.
        @Test func twoServersFail() async throws {
            let lab = try Laboratory.here()
            try await restore(lab)
            let load = try await VerifiedLoad(lab, resources: resources, sessions: 6, seconds: 6)
            try await Task.sleep(for: .seconds(1))
            try await lab.dsrlab("service", lab.prefix, "server1", "kill")
            try await Task.sleep(for: .seconds(1))
            try await lab.dsrlab("service", lab.prefix, "server3", "kill")
            expectUnnoticed(try await load.report(), within: 1_500)
            #expect(Set(try await lab.assignment().values) == ["server2"])
        }

        /// What is on its way to a client that is far away is not acknowledged when its server is lost.
        @Test func distantClient() async throws {
            let lab = try await Laboratory.bringUp(topology: "fig2-san") {
                $0.replacingOccurrences(
                    of: "{name: c0, device: c0, side: client}",
                    with: "{name: c0, device: c0, side: client, faults: {delay_us: 8000}}")
            }
            do {
                let load = try await VerifiedLoad(
                    lab, resources: ["r1", "r2"], sessions: 2, seconds: 5,
                    options: ["--range-mib", "2"])
                try await Task.sleep(for: .seconds(1))
                try await lab.dsrlab("service", lab.prefix, "server1", "kill")
                let report = try await load.report()
                #expect(report.ok && report.longestStallMs < 2_000, "\(report)")
            } catch {
                try await lab.takeDown()
                throw error
            }
            try await lab.takeDown()
        }

        /// A server that is emptied while it works, and filled again.
        @Test func drain() async throws {
            let lab = try Laboratory.here()
            try await restore(lab)
            let load = try await VerifiedLoad(lab, resources: resources, sessions: 4, seconds: 5)
            try await Task.sleep(for: .seconds(1))
            let standbys = try await lab.metric("dsr_standby_servers_total{outcome=\"taken\"}")
            _ = try await lab.dsrctl("server", "drain", "server1", "--wait")
            #expect(!(try await lab.assignment()).values.contains("server1"))
            // The next server was logged in to while this one finished.
            let taken = try await lab.metric("dsr_standby_servers_total{outcome=\"taken\"}")
            #expect(taken > standbys)
            let sessions = try await lab.get([Laboratory.Session].self, "/sessions")
            #expect(!sessions.contains { $0.server == "server1" })
            _ = try await lab.dsrctl("server", "undrain", "server1")
            for name in ["r1", "r2"] {
                _ = try await lab.dsrctl("resource", "move", name, "server1", "--wait")
            }
            expectUnnoticed(try await load.report(), within: 1_000)
        }

        /// What a client has sent of its window finds room in the socket that takes its session over: the kernel
        /// drops nothing of it, and no end runs into a time-out.
        @Test func manyMovesLoseNoPacket() async throws {
            let lab = try Laboratory.here()
            try await restore(lab)
            let load = try await VerifiedLoad(lab, resources: resources, sessions: 4, seconds: 8)
            try await Task.sleep(for: .seconds(1))
            for round in 0..<24 {
                let server = round.isMultiple(of: 2) ? "server2" : "server1"
                _ = try await lab.dsrctl("resource", "move", "r1", server, "--wait")
                try await Task.sleep(for: .milliseconds(100))
            }
            expectUnnoticed(try await load.report(), within: 1_000)
            let counters = try await lab.run(
                "dsr1", ["nstat", "-asz", "TcpExtTCPRcvQDrop", "TcpExtTCPOFODrop"])
            let values = counters.split(separator: "\n").compactMap { line -> Double? in
                let words = line.split(separator: " ")
                return words.count >= 2 ? Double(words[1]) : nil
            }
            #expect(values == [0, 0], "\(counters)")
        }
    }
}
