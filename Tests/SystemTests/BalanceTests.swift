import Foundation
import Testing

/// The example of the specification (Fig. 8) with real clients, servers and requests.
private struct BalanceRun {
    let lab: Laboratory
    /// Requests per second, r1 to r6: 100, 100, 150, 200, 300, 400 times this.
    static let scale = 1.5
    static let proportions = [100.0, 100, 150, 200, 300, 400]
    /// Seconds of a slot of the load history.
    static let slot = 10

    struct Place: Decodable {
        var name: String
        var assigned: String
    }

    struct Event: Decodable {
        var sequence: Int
        var kind: String
        var message: String
    }

    struct History: Decodable {
        struct Entry: Decodable {
            var lastSlot: Int
            var values: [Double?]
        }
        var resources: [String: Entry]
    }

    struct Report: Decodable {
        var ok: Bool
        var errorCount: Int
        var requests: Int
        var closedConnections: Int
        var longestStallMs: Double?
    }

    var historyFile: String { "\(lab.directory)/loads.json" }

    func configure(isAutomatic: Bool, base: String) async throws {
        try lab.configure(
            base + """

                balance:
                  auto: \(isAutomatic)
                  interval_ms: 2000
                  half_life_ms: 4000
                  rest_s: 0
                  minimum_improvement: 0.1
                  weights: {requests: 1, bytes: 0, open: 0, latency: 0}
                  predict: {slot_s: \(Self.slot), season_slots: 100}
                  history_file: \(historyFile)

                """)
        let result = try await lab.control(["reload"])
        try #require(result.status == 0, "\(result.output)")
    }

    func startLoad(seconds: Int) throws -> Program {
        let targets = (1...6).flatMap { ["--target", "iqn.2026-01.lab.dsr:r\($0)"] }
        let rates = Self.proportions.map { "\(Int($0 * Self.scale))" }.joined(separator: ",")
        return try lab.start(
            "client1",
            [
                "\(Laboratory.root)/tools/verify-load.py", "--portal", "10.10.0.100", "--seconds",
                "\(seconds)", "--rate", rates, "--smallest", "4096", "--largest", "4096",
                "--range-mib", "2", "--depth", "16", "--final-verify", "--output",
                "\(lab.directory)/load.json",
            ] + targets)
    }

    /// Mean loads of the last two slots, r1 to r6; nil: there are none yet.
    func measured() -> [Double]? {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        guard let data = FileManager.default.contents(atPath: historyFile),
            let history = try? decoder.decode(History.self, from: data)
        else { return nil }
        let loads = (1...6).compactMap { number -> Double? in
            let values = history.resources["r\(number)"]?.values.suffix(2).compactMap { $0 } ?? []
            return values.count == 2 ? values.reduce(0, +) / 2 : nil
        }
        return loads.count == 6 ? loads : nil
    }

    /// Largest distance from the proportions, as a fraction.
    static func deviation(_ loads: [Double]) -> Double {
        let unit = loads.reduce(0, +) / proportions.reduce(0, +)
        return zip(loads, proportions).map { abs($0 / ($1 * unit) - 1) }.max() ?? 1
    }

    func places() async throws -> [String: String] {
        let list = try await lab.get([Place].self, "/resources")
        return Dictionary(uniqueKeysWithValues: list.map { ($0.name, $0.assigned) })
    }

    func events(_ kind: String) async throws -> [String] {
        try await lab.get([Event].self, "/events").filter { $0.kind == kind }.map(\.message)
    }
}

extension SystemTests {
    @Suite("Load balancing", .serialized, .lab())
    struct BalanceTests {
        @Test func theExampleOfTheSpecificationUnderLoad() async throws {
            let lab = try Laboratory.here()
            let run = BalanceRun(lab: lab)
            let base = try lab.configurationInUse()
            try await run.configure(isAutomatic: false, base: base)
            let load = try run.startLoad(seconds: 600)

            // The clients' rates, as the redirector measures them.
            let isSteady = await eventually(within: 120) {
                guard load.isRunning, let loads = run.measured() else { return false }
                let wanted = BalanceRun.proportions.reduce(0, +) * BalanceRun.scale
                return abs(loads.reduce(0, +) / wanted - 1) < 0.1
                    && BalanceRun.deviation(loads) < 0.1
            }
            try #require(isSteady, "\(run.measured() ?? []); \(load.output.suffix(2_000))")
            let before = try await run.places()
            #expect(before["r4"] == "server2" && before["r5"] == "server3")
            let early = try await run.events("balance_planned")
            #expect(early == [], "nothing moves by itself yet")

            try await run.configure(isAutomatic: true, base: base)
            var after = before
            after["r4"] = "server1"
            after["r5"] = "server2"
            let isBalanced = try await eventually(within: 30) {
                try await run.places() == after
            }
            let planned = try await run.events("balance_planned")
            try #require(isBalanced, "\(planned)")

            // Ten periods, and more: the load that follows from the moves is even.
            try await Task.sleep(for: .seconds(22))
            let plans = try await run.events("balance_planned")
            #expect(plans.count == 1, "\(plans)")
            let changes = try await run.events("table_changed")
            #expect(changes.count == 1, "\(changes)")
            let places = try await run.places()
            #expect(places == after)
            for (resource, server) in [("r4", "server1"), ("r5", "server2")] {
                let servers = try await lab.sessions(of: resource).map(\.server)
                #expect(servers == [server])
            }
            let loads = try #require(run.measured())
            #expect(BalanceRun.deviation(loads) < 0.1, "\(loads)")

            load.signal(SIGTERM)
            let result = try await load.result(within: 90)
            #expect(result.status == 0, "\(result.output.suffix(3_000))")
            let decoder = JSONDecoder()
            decoder.keyDecodingStrategy = .convertFromSnakeCase
            let data = try #require(
                FileManager.default.contents(atPath: "\(lab.directory)/load.json"))
            let report = try decoder.decode(BalanceRun.Report.self, from: data)
            #expect(report.ok && report.errorCount == 0 && report.closedConnections == 0)
            print("balance: \(report.requests) requests, stall \(report.longestStallMs ?? 0) ms")
        }
    }
}
