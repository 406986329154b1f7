import Foundation
import Testing

extension SystemTests {
    /// Figure 3: two RAID controllers behind three servers, which announce what they serve. A controller's units
    /// leave the announcements of some servers and enter those of others; clients notice nothing.
    @Suite("RAID controllers", .serialized, .lab("fig3-raid"))
    struct RAIDControllers {
        @Test func aControllerFailsUnderLoad() async throws {
            let lab = try Laboratory.here()
            let load = try await VerifiedLoad(
                lab, resources: ["r1", "r2", "r3", "r4", "r5", "r6"], sessions: 6, seconds: 6)
            try await Task.sleep(for: .seconds(1))
            try await lab.dsrlab("controller", lab.prefix, "raid1", "fail")
            let report = try await load.report()
            #expect(report.ok && report.longestStallMs < 1_500, "\(report)")
            let now = try await lab.assignment()
            // server1 reached its units by the failed controller only.
            #expect(!now.values.contains("server1"), "\(now)")
            #expect(now["r4"] == "server2" && now["r6"] == "server3", "\(now)")
            // An agent that dies takes nothing away.
            try await lab.dsrlab("service", lab.prefix, "server2", "kill", "--kind", "agent")
            try await Task.sleep(for: .seconds(4))
            #expect(try await lab.health("server2") == "up")
            #expect(try await lab.assignment() == now)
            try await lab.dsrlab("controller", lab.prefix, "raid1", "repair")
        }

        /// The assignment, once nothing has moved for two seconds: what a repaired controller gets back comes back.
        private func settled(_ lab: Laboratory) async throws -> [String: String] {
            var known = try await lab.assignment()
            var same = 0
            for _ in 0..<150 where same < 20 {
                try await Task.sleep(for: .milliseconds(100))
                let now = try await lab.assignment()
                same = now == known ? same + 1 : 0
                known = now
            }
            try #require(same >= 20, "resources go on moving: \(known)")
            return known
        }

        /// What is not signed, or was said before, is refused and counted; nothing appears by it.
        @Test func wrongAnnouncementsAreRefused() async throws {
            let lab = try Laboratory.here()
            let before = try await settled(lab)
            for server in ["server1", "server3"] {
                try await lab.run(
                    server,
                    ["sh", "-c", "head -c 200 /dev/urandom | socat -u - UDP:10.20.0.1:7411"])
            }
            try await lab.run(
                "server1",
                [
                    "sh", "-c",
                    "echo wrong-secret-of-16 > {state}/wrong; exec {products}/dsr-agent --server server1 --dsr 10.20.0.1 --secret-file {state}/wrong --once"
                        .replacing("{state}", with: lab.state)
                        .replacing("{products}", with: Laboratory.products),
                ])
            let isCounted = try await eventually(within: 3) {
                let malformed = try await lab.metric(
                    "dsr_announcements_total{result=\"malformed\"}")
                // Another secret has another key identifier.
                let unsigned = try await lab.metric(
                    "dsr_announcements_total{result=\"unknownKey\"}")
                return malformed >= 2 && unsigned >= 1
            }
            #expect(isCounted)
            #expect(try await lab.metric("dsr_announcements_total{result=\"accepted\"}") > 0)
            #expect(try await lab.assignment() == before)
        }
    }

    /// One idle server stands in for any other, and gives back what it had (P26).
    @Suite("Spare server", .serialized, .lab("fig2-san-spare"))
    struct SpareServer {
        @Test func takesOverAndGivesBack() async throws {
            let lab = try Laboratory.here()
            let before = try await lab.assignment()
            let load = try await VerifiedLoad(
                lab, resources: ["r1", "r2", "r3", "r4", "r5", "r6"], sessions: 4, seconds: 10)
            try await Task.sleep(for: .seconds(1))
            try await lab.dsrlab("service", lab.prefix, "server1", "kill")
            let isTaken = try await eventually(within: 5) {
                let now = try await lab.assignment()
                return now["r1"] == "server4" && now["r2"] == "server4"
            }
            #expect(isTaken)
            try await lab.dsrlab("service", lab.prefix, "server1", "start")
            let isBack = try await eventually(within: 20) { try await lab.assignment() == before }
            #expect(isBack)
            let report = try await load.report()
            #expect(report.ok && report.longestStallMs < 1_500, "\(report)")
        }
    }
}
