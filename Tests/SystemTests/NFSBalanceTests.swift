import Foundation
import Testing

extension Laboratory {
    fileprivate struct BalancePlan: Decodable {
        struct Move: Decodable {
            var resource: String
            var from: String
            var to: String
        }
        struct Load: Decodable {
            var server: String
            var before: Double
        }
        var moves: [Move]
        var loads: [Load]
        var reason: String
        var obstacle: String?

        func load(of server: String) -> Double {
            loads.first { $0.server == server }?.before ?? 0
        }
    }

    fileprivate struct ResourceLoad: Decodable {
        var name: String
        var load: Double
    }

    fileprivate struct ExportRow: Decodable {
        var name: String
        var assigned: String
        var calls: Int
        var fastCalls: Int
        var repliesPerS: Double
    }

    fileprivate struct ClientRow: Decodable {
        var client: String
        var transports: [String]
        var connections: Int
        var fastPorts: Int
        var fastCalls: Int
    }

    fileprivate func plan() async throws -> BalancePlan {
        try await get(BalancePlan.self, "/balance/plan")
    }

    fileprivate func loads() async throws -> [String: Double] {
        let rows = try await get([ResourceLoad].self, "/resources")
        return Dictionary(uniqueKeysWithValues: rows.map { ($0.name, $0.load) })
    }

    fileprivate func export(_ name: String) async throws -> ExportRow? {
        try await get([ExportRow].self, "/nfs/exports").first { $0.name == name }
    }
}

extension SystemTests {
    /// Calls to exports are load, as requests to disks are.
    @Suite("NFS: load balancing", .serialized, .lab("fig2-nas"))
    struct NFSBalance {
        /// All that is asked for is at one server; half of it moves to another.
        @Test(arguments: ["tcp", "udp"])
        func anExportLeavesABusyServer(transport: String) async throws {
            let lab = try Laboratory.here()
            for (name, server) in try await lab.assignment()
            where ["e1", "e2"].contains(name) && server != "server1" {
                _ = try await lab.dsrctl("resource", "move", name, "server1", "--wait")
            }
            let before = try await lab.export("e1")?.calls ?? 0
            let fastBefore = try await lab.export("e1")?.fastCalls ?? 0
            let load = try await NFSLoad(
                lab, "perf", exports: ["/e1", "/e2"], transport: transport, waits: true,
                options: ["--seconds", "120", "--sockets", "2", "--depth", "4", "--files", "2"])

            // Both exports are measured, and nothing else.
            let isPlanned = await eventually(within: 40) {
                guard let row = try? await lab.export("e1"), row.calls > before + 1_000,
                    row.repliesPerS > 50, let plan = try? await lab.plan(),
                    let move = plan.moves.first
                else { return false }
                return plan.moves.count == 1 && plan.obstacle == nil && move.from == "server1"
                    && ["e1", "e2"].contains(move.resource) && plan.load(of: "server1") > 100
            }
            let plan = try await lab.plan()
            try #require(isPlanned, "\(plan)")
            #expect(plan.load(of: "server2") < 20 && plan.load(of: "server3") < 20, "\(plan)")
            let loads = try await lab.loads()
            let (first, second) = (loads["e1"] ?? 0, loads["e2"] ?? 0)
            #expect(min(first, second) > 50 && max(first, second) < 2 * min(first, second))
            #expect((3...6).allSatisfy { (loads["e\($0)"] ?? .infinity) < 10 }, "\(loads)")
            let found = try await lab.export("e1")
            let row = try #require(found)
            let (calls, fast) = (row.calls - before, row.fastCalls - fastBefore)
            // A connection is relayed for the first second.
            #expect(fast > calls / (transport == "udp" ? 2 : 10), "\(row)")
            try await expectClient(lab, transport)

            let shown = try await lab.dsrctl("balance", "plan")
            #expect(shown.contains("move e") && shown.contains(" from server1 to server"))
            let applied = try await lab.dsrctl("balance", "apply", "--wait")
            #expect(applied.contains("done"), "\(applied)")
            let places = try await lab.assignment()
            let left = ["e1", "e2"].filter { places[$0] == "server1" }
            #expect(left.count == 1, "\(places)")

            // The load has gone with it, and there is nothing left to be gained.
            let moved = left == ["e1"] ? "e2" : "e1"
            let target = try #require(places[moved])
            let isEven = await eventually(within: 20) {
                guard let plan = try? await lab.plan() else { return false }
                return plan.moves.isEmpty && plan.load(of: "server1") > 50
                    && plan.load(of: target) > 50
            }
            let last = try await lab.plan()
            #expect(isEven, "\(last)")
            let isServed = await eventually(within: 10) {
                let row = try? await lab.export(moved)
                return row?.assigned == target && (row?.repliesPerS ?? 0) > 10
            }
            #expect(isServed, "\(moved) at \(target) does nothing")

            load.end()
            let report = try await load.report()
            #expect(report.ok, "\(report)")
        }

        /// What is told of the load's client.
        private func expectClient(_ lab: Laboratory, _ transport: String) async throws {
            let clients = try await lab.get([Laboratory.ClientRow].self, "/nfs/clients")
            let found = clients.first { $0.client == "10.10.0.11" }
            let client = try #require(found, "\(clients)")
            #expect(client.transports.contains(transport), "\(client)")
            if transport == "udp" {
                #expect(client.fastPorts > 0 && client.fastCalls > 100, "\(client)")
            } else {
                #expect(client.connections > 0, "\(client)")
            }
            let mounts = try await lab.dsrctl("nfs", "mounts")
            #expect(mounts.contains("10.10.0.11  /e1 "), "\(mounts)")
        }
    }
}
