import ControlPlane
import TestSupport
import Testing

/// The formula of the load, smoothing, and the choice among equal servers.
@Suite struct PlacementLoadTests {
    private let second: UInt64 = 1_000_000_000

    @Test func loadOfAResource() {
        let weights = LoadWeights()
        #expect(weights.load(of: ResourceMeasurement()) == 0)
        #expect(weights.load(of: ResourceMeasurement(requestsPerSecond: 700)) == 700)
        // 64 KiB requests: half of the load is from requests, half from octets.
        let large = ResourceMeasurement(requestsPerSecond: 160, bytesPerSecond: 160 * 65536)
        #expect(weights.load(of: large) == 320)
        #expect(weights.load(of: ResourceMeasurement(outstanding: 8)) == 32)
        let slow = LoadWeights(perSecondOfLatency: 1000)
        let measured = ResourceMeasurement(requestsPerSecond: 1, latency: 0.25)
        #expect(slow.load(of: measured) == 251)
        #expect(slow.load(of: ResourceMeasurement(latency: 0.25)) == 0)
    }

    @Test func loadOfAServer() {
        let weights = LoadWeights()
        #expect(weights.ownLoad(of: ServerMeasurement(processor: 0.5, memory: 0.8)) == 0)
        #expect(weights.ownLoad(of: ServerMeasurement(processor: 0.75)) == 500)
        #expect(abs(weights.ownLoad(of: ServerMeasurement(processor: 9, memory: 1)) - 2000) < 1e-9)
        #expect(LoadWeights(memoryFloor: 1).ownLoad(of: ServerMeasurement(memory: 1)) == 0)
    }

    @Test func brokenMeasurementsAreNoLoad() {
        let weights = LoadWeights()
        let broken = ResourceMeasurement(
            requestsPerSecond: .nan, bytesPerSecond: -5, outstanding: .infinity, latency: .nan)
        #expect(weights.load(of: broken) == 0)
        #expect(weights.ownLoad(of: ServerMeasurement(processor: .nan, memory: -1)) == 0)
    }

    @Test func smoothingHasAHalfLife() throws {
        var value = SmoothedValue(halfLife: .seconds(10))
        #expect(value.value == nil)
        value.add(100, at: 5 * second)
        #expect(value.value == 100)
        value.add(0, at: 15 * second)
        #expect(abs(try #require(value.value) - 50) < 1e-9)
        // Ten samples in ten seconds are as much as one.
        for step in 1...10 { value.add(0, at: (15 + UInt64(step)) * second) }
        #expect(abs(try #require(value.value) - 25) < 1e-9)
        value.add(.nan, at: 99 * second)
        value.add(7, at: 1 * second)
        #expect(abs(try #require(value.value) - 25) < 1e-9)
        var direct = SmoothedValue(halfLife: .zero)
        direct.add(1, at: 1)
        direct.add(9, at: 2)
        #expect(direct.value == 9)
    }

    /// Shares of requests that servers get. Each answers after its time; requests come every 10 ms,
    /// one at a time unless answers take longer.
    private func shares(
        _ choice: inout ServerChoice, _ times: [String: Double], from start: UInt64, seconds: Int,
        _ random: inout SplitMix64
    ) -> [String: Double] {
        let servers = times.keys.sorted()
        var counts: [String: Int] = [:]
        var answers: [(at: UInt64, server: String, began: UInt64)] = []
        var now = start
        let step: UInt64 = 10_000_000
        for _ in 0..<(seconds * 100) {
            for answer in answers where answer.at <= now {
                choice.finished(
                    on: answer.server, after: .nanoseconds(Int64(answer.at - answer.began)),
                    bytes: 65536, at: answer.at)
            }
            answers.removeAll { $0.at <= now }
            let server = choice.choose(among: servers, at: now, using: &random)!
            counts[server, default: 0] += 1
            answers.append((now + UInt64(times[server]! * 1e9), server, now))
            now += step
        }
        for answer in answers {
            choice.finished(
                on: answer.server, after: .nanoseconds(Int64(answer.at - answer.began)),
                bytes: 65536, at: answer.at)
        }
        return counts.mapValues { Double($0) / Double(seconds * 100) }
    }

    @Test(arguments: [ServerChoice.Criterion.responseTime, .throughput])
    func theFasterGetsMore(criterion: ServerChoice.Criterion) {
        var choice = ServerChoice(criterion: criterion)
        var random = SplitMix64(seed: 1)
        let equal = shares(
            &choice, ["a": 0.002, "b": 0.002, "c": 0.002], from: second, seconds: 60, &random)
        for server in ["a", "b", "c"] { #expect(equal[server, default: 0] > 0.2) }
        choice = ServerChoice(criterion: criterion)
        let shares = shares(
            &choice, ["a": 0.001, "b": 0.002, "c": 0.05], from: second, seconds: 60, &random)
        #expect(shares["a", default: 0] > 0.5)
        #expect(shares["c", default: 0] < 0.1)
        // Not starved either: probes.
        #expect(shares["c", default: 0] > 0.005)
    }

    @Test("A server that was slow and has recovered gets a fair share again within 80 s")
    func recovery() {
        for criterion in [ServerChoice.Criterion.responseTime, .throughput] {
            for probes in [0, 50] {
                var choice = ServerChoice(
                    criterion: criterion, halfLife: .seconds(10), probeInterval: probes)
                var random = SplitMix64(seed: 2)
                var now = second
                _ = shares(
                    &choice, ["a": 0.001, "b": 0.001, "c": 1], from: now, seconds: 30, &random)
                now += 30 * second
                let times = ["a": 0.001, "b": 0.001, "c": 0.001]
                _ = shares(&choice, times, from: now, seconds: 80, &random)
                now += 80 * second
                let fair = shares(&choice, times, from: now, seconds: 60, &random)
                #expect(
                    fair["c", default: 0] > 0.2, "\(criterion), probes every \(probes): \(fair)")
            }
        }
    }

    @Test func outstandingRequestsAndFailuresCount() throws {
        var choice = ServerChoice(probeInterval: 0)
        var random = SplitMix64(seed: 3)
        // Nothing is known: requests go where fewer are waiting.
        var waiting = ["a": 0, "b": 0]
        for _ in 0..<100 {
            waiting[choice.choose(among: ["a", "b"], at: 1, using: &random)!]! += 1
        }
        #expect(abs(waiting["a"]! - waiting["b"]!) <= 20, "\(waiting)")
        choice.finished(on: "a", after: .milliseconds(1), at: 2)
        choice.failed(on: "b", at: 2)
        let good = try #require(choice.score(of: "a", among: ["a", "b"], at: 2))
        let bad = try #require(choice.score(of: "b", among: ["a", "b"], at: 2))
        #expect(bad > 1000 * good)
        var chosen = Set<String?>()
        for _ in 0..<50 {
            chosen.insert(choice.choose(among: ["a", "b"], at: 3, using: &random))
        }
        #expect(chosen == ["a"])
        choice.keep(["a"])
        #expect(choice.score(of: "b", among: ["a", "b"], at: 3) == nil)
        let none = choice.choose(among: [], at: 3, using: &random)
        let only = choice.choose(among: ["z"], at: 3, using: &random)
        #expect(none == nil && only == "z")
        // Answers of servers that are not known are ignored.
        choice.finished(on: "nobody", after: .zero, bytes: -1, at: 3)
        choice.finished(on: "z", after: .zero, bytes: 0, at: 0)
    }
}
