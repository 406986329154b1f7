import ControlPlane
import Foundation
import Testing

@Suite struct SimulatorTests {
    private static let first: UInt64 = 1
    private static let last: UInt64 = 2000

    /// DSR_SIMULATOR_SEED repeats one schedule and prints all of it.
    private static var onlySeed: UInt64? {
        ProcessInfo.processInfo.environment["DSR_SIMULATOR_SEED"].flatMap { UInt64($0) }
    }

    @Test func `schedules of seeds 1 to 2000 keep all invariants`() {
        if let seed = Self.onlySeed {
            let simulator = Simulator(seed: seed, isTracing: true)
            simulator.run()
            print(simulator.trace.joined(separator: "\n"))
            #expect(simulator.violations.isEmpty, "seed \(seed)")
            return
        }
        var failures = 0
        var commits = 0
        var deadMoves = 0
        var orderlyMoves = 0
        var steps = 0
        var longest: UInt64 = 0
        for seed in Self.first...Self.last {
            let simulator = Simulator(seed: seed)
            simulator.run()
            commits += simulator.invariants.commits
            deadMoves += simulator.invariants.deadMoves
            orderlyMoves += simulator.invariants.orderlyMoves
            longest = max(longest, simulator.invariants.longestOutage)
            steps += simulator.steps
            guard let violation = simulator.violations.first else { continue }
            failures += 1
            if failures <= 10 { Issue.record("DSR_SIMULATOR_SEED=\(seed): \(violation)") }
        }
        print(
            "seeds \(Self.first) to \(Self.last): \(failures) failed, \(steps) steps, \(commits) "
                + "resources moved, sessions: \(deadMoves) dead, \(orderlyMoves) orderly, "
                + "longest avoidable outage \(longest / 1_000_000) ms")
        #expect(failures == 0)
        // Schedules in which nothing happens prove nothing.
        #expect(commits > 10_000 && deadMoves > 1000 && orderlyMoves > 1000)
    }

    @Test func `the simulator notices a manager that does not fence`() {
        let caught = (UInt64(1)...100).count { seed in
            let simulator = Simulator(seed: seed, deception: .fencing)
            simulator.run()
            return simulator.violations.contains { $0.contains("was not fenced") }
        }
        #expect(caught > 10)
    }

    @Test func `the same seed gives the same schedule`() {
        let runs = (0..<2).map { _ in
            let simulator = Simulator(seed: 7, isTracing: true)
            simulator.run()
            return simulator.trace
        }
        #expect(runs[0] == runs[1])
        #expect(runs[0].count > 100)
    }
}
