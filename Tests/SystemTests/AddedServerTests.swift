import Foundation
import Testing

/// fig2-san with a third server that runs, but is not in the configuration: the other two have all.
private func withoutServer3(_ text: String) throws -> String {
    let entry = #/  - name: server3\n(?:    .*\n)+/#
    let r5 = /(name: r5\n(?:    .*\n)*?    assigned: )server3/
    let r6 = /(name: r6\n(?:    .*\n)*?    assigned: )server3/
    let changed = text.replacing(entry, with: "")
        .replacing(r5) { "\($0.1)server1" }.replacing(r6) { "\($0.1)server2" }
        .replacingOccurrences(of: ", server3]", with: "]")
    // A topology that has changed its form would make this a test of nothing.
    try #require(!changed.contains("server3"))
    return changed + "\nbalance: {half_life_ms: 500, rest_s: 0}\n"
}

extension SystemTests {
    @Suite("A server joins", .serialized, .lab(configuration: withoutServer3))
    struct AddedServer {
        private struct Plan: Decodable {
            struct Move: Decodable { var resource: String, from: String, to: String }
            struct Load: Decodable { var server: String, before: Double, after: Double }
            var moves: [Move]
            var loads: [Load]
            var obstacle: String?
        }

        private let server = "server3"
        private let resources = ["r1", "r2", "r3", "r4", "r5", "r6"]

        private func add(_ lab: Laboratory) async throws {
            let words =
                [
                    "server", "add", server, "--address", "10.20.0.13", "fd20::13", "--wait",
                    "--resource",
                ] + resources
            let result = try await lab.control(words)
            try #require(result.status == 0, "\(result.output)")
            #expect(try await lab.health(server) == "up")
            // Nothing moves because there is one more.
            #expect(!(try await lab.assignment()).values.contains(server))
        }

        /// Loads are measured, the plan may be made now, and its first move is worth it.
        private func plan(_ lab: Laboratory) async throws -> Plan {
            var plan = try await lab.get(Plan.self, "/balance/plan")
            for _ in 0..<100 where plan.moves.isEmpty || plan.obstacle != nil {
                try await Task.sleep(for: .milliseconds(100))
                plan = try await lab.get(Plan.self, "/balance/plan")
            }
            try #require(!plan.moves.isEmpty && plan.obstacle == nil, "\(plan)")
            return plan
        }

        private func eventuallySessionsFollow(_ lab: Laboratory) async throws -> Bool {
            try await eventually(within: 5) {
                let places = try await lab.assignment()
                let sessions = try await lab.get([Session].self, "/sessions")
                    .filter { $0.resource != nil }
                return sessions.count == resources.count
                    && sessions.allSatisfy { $0.server == places[$0.resource ?? ""] }
            }
        }
        private struct Session: Decodable {
            var resource: String?
            var server: String?
        }

        /// Two servers have three loaded resources each. A third one joins and is given two of them while their
        /// initiators read and write; later it is emptied and leaves. They notice nothing of either.
        @Test func isGivenLoadAndLeaves() async throws {
            let lab = try Laboratory.here()
            let before = try await lab.assignment()
            #expect(Set(before.values) == ["server1", "server2"])
            let load = try await VerifiedLoad(
                lab, resources: resources, sessions: 6, seconds: 20,
                options: ["--rate", "60", "--largest", "8192"])
            try await add(lab)
            let plan = try await self.plan(lab)
            let applied = try await lab.control(["balance", "apply", "--wait"])
            #expect(applied.status == 0, "\(applied.output)")

            let after = try await lab.assignment()
            let arrived = after.filter { $0.value == server }.keys.sorted()
            #expect(arrived.count == 2, "\(after), plan \(plan)")
            // Two each. Loads are measured, not even: an exchange among the others may be the better plan.
            for name in ["server1", "server2", server] {
                #expect(after.filter { $0.value == name }.count == 2, "\(after), plan \(plan)")
            }
            #expect(try await eventuallySessionsFollow(lab))
            // The new one does its share of the work now.
            let isEven = try await eventually(within: 8) {
                let loads = try await lab.get(Plan.self, "/balance/plan").loads.map(\.before)
                guard let least = loads.min(), let most = loads.max() else { return false }
                return loads.count == 3 && least > 0 && most / least < 1.5
            }
            #expect(isEven)

            let removed = try await lab.control(["server", "remove", server, "--force", "--wait"])
            #expect(removed.status == 0, "\(removed.output)")
            let end = try await lab.assignment()
            #expect(!end.values.contains(server) && end.count == 6, "\(end)")
            #expect(try await eventuallySessionsFollow(lab))

            let report = try await load.report()
            #expect(
                report.ok && report.errors.isEmpty && report.closedConnections == 0, "\(report)")
            #expect(report.requests > 2_000, "\(report)")
            #expect(report.longestStallMs < 1_500, "\(report)")
        }
    }
}
