import ControlPlane
import TestSupport
import Testing

private let second: UInt64 = 1_000_000_000

/// Automatic balancing with the policy of the configuration, and loads that come each second.
@Suite struct ManagerLoadTests {
    static let figure8: [String: Double] = [
        "r1": 100, "r2": 100, "r3": 150, "r4": 200, "r5": 300, "r6": 400,
    ]

    private static func bench(rest: UInt64 = 0) throws -> ManagerBench {
        var settings = ManagementSettings()
        settings.setBalance(Configuration.Balance())
        settings.balanceRest = rest
        var bench = ManagerBench.figure7(
            placement: .balancing(BalancePolicy()), settings: settings)
        try bench.perform(.setAutomaticBalance(true))
        return bench
    }

    /// One report of loads each second.
    private static func run(
        _ bench: inout ManagerBench, seconds: Int, _ loads: [String: Double] = figure8
    ) {
        for _ in 0..<seconds {
            bench.wait(second)
            bench.input(.loads(loads, own: [:]))
            bench.complete()
        }
    }

    @Test func `the example of the specification, and then nothing`() throws {
        var bench = try Self.bench()
        Self.run(&bench, seconds: 30)
        #expect(bench.commits == [["r4 server1", "r5 server2"]])
        bench.clear()
        Self.run(&bench, seconds: 300)
        #expect(bench.commits == [])
    }

    @Test func `uneven loads are acted on before the next look, but not at once after a move`()
        throws
    {
        var bench = try Self.bench()
        Self.run(&bench, seconds: 103, Self.figure8.mapValues { _ in 100 })
        #expect(bench.commits == [])
        Self.run(&bench, seconds: 1)
        #expect(bench.commits.count == 1)
        // Everything is the other way round now.
        let reversed = ["r1": 400.0, "r2": 300, "r3": 10, "r4": 400, "r5": 10, "r6": 10]
        bench.clear()
        Self.run(&bench, seconds: 9, reversed)
        #expect(bench.commits == [], "loads have to settle, and an interval to pass")
        Self.run(&bench, seconds: 5, reversed)
        #expect(bench.commits.count == 1)
    }

    @Test func `a forecast moves only while all is quiet and balancing is automatic`() throws {
        let proposal = BalanceProposal(
            moves: [PlannedMove(resource: "r1", from: "server1", to: "server2")], why: "forecast")
        var bench = try Self.bench()
        Self.run(&bench, seconds: 20, [:])
        bench.input(.foreseen(proposal))
        bench.complete()
        #expect(bench.commits == [["r1 server2"]])
        bench.clear()
        bench.input(
            .foreseen(
                BalanceProposal(
                    moves: [PlannedMove(resource: "r1", from: "server2", to: "server1")],
                    why: "back")))
        #expect(bench.confirmations.isEmpty, "it has just moved")
        var manual = ManagerBench.figure7()
        manual.input(.foreseen(proposal))
        manual.wait(second)
        #expect(manual.confirmations.isEmpty)
    }

    @Test func `another policy counts at once`() throws {
        var bench = try Self.bench()
        var balance = Configuration.Balance()
        balance.policy.ratio = 100
        var settings = ManagementSettings()
        settings.setBalance(balance)
        bench.manager.setBalance(.balancing(balance.policy), like: settings)
        Self.run(&bench, seconds: 100)
        #expect(bench.commits == [])
        bench.manager.setBalance(.balancing(BalancePolicy()), like: settings)
        Self.run(&bench, seconds: 2)
        #expect(bench.commits.count == 1)
    }
}

/// Loads are measured, never exact.
@Suite struct NoisyBalanceTests {
    /// The other pairs of moves differ by twice the noise of 600 of the example's load; what counts as equal is a
    /// part of 417: so the noise may be a third of `minimumImprovement`.
    @Test(arguments: [(0.05, 0.015), (0.1, 0.03)])
    func `noise within what counts as equal does not change the example's moves`(
        minimumImprovement: Double, noise: Double
    ) throws {
        let policy = BalancePolicy(minimumImprovement: minimumImprovement)
        var random = SplitMix64(seed: 8)
        let names = ["server1", "server2", "server3"]
        for _ in 0..<200 {
            let resources = ManagerLoadTests.figure8.sorted { $0.key < $1.key }.enumerated().map {
                number, entry in
                PlacementResource(
                    name: entry.key, servers: names, assigned: names[number / 2],
                    load: entry.value * Double.random(in: 1 - noise...1 + noise, using: &random))
            }
            var input = PlacementInput(
                servers: names.map { PlacementServer(name: $0) }, resources: resources)
            let plan = try #require(Placement.balance(input, policy: policy))
            #expect(plan.moves.map { "\($0.resource) \($0.to)" } == ["r4 server1", "r5 server2"])
            for move in plan.moves {
                let place = try #require(input.resources.firstIndex { $0.name == move.resource })
                input.resources[place].assigned = move.to
            }
            #expect(Placement.bestDistribution(input, policy: policy) == nil)
        }
    }
}
