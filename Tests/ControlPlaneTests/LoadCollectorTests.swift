import ControlPlane
import Foundation
import Logging
import Testing

private let second: UInt64 = 1_000_000_000

private func session(_ id: UInt32, serial: UInt64 = 1) -> SampledSession {
    SampledSession(id: id, serial: serial)
}

@Suite struct LoadMeterTests {
    private static let requestsOnly = LoadWeights(perMebibyte: 0, perOutstanding: 0)

    private func meter(halfLife: Duration = .zero) -> LoadMeter {
        LoadMeter(weights: Self.requestsOnly, halfLife: halfLife)
    }

    private func round(
        _ meter: inout LoadMeter, at now: UInt64, _ samples: [SessionSample],
        _ resources: [(name: String, isShared: Bool)] = [("r1", false), ("r2", false)]
    ) -> LoadReport? {
        meter.begin(at: now * second)
        for sample in samples { meter.add(sample) }
        return meter.finish(resources)
    }

    @Test func `rates are what has been added between two rounds`() throws {
        var meter = meter()
        let first = SessionSample(
            session: session(1), resource: "r1", server: "a", answered: 1_000,
            latencySum: 50 * second, bytes: 1 << 30, open: 3)
        #expect(round(&meter, at: 10, [first]) == nil, "there is nothing to compare with")
        var next = first
        next.answered += 400
        next.latencySum += second
        next.bytes += 8 << 20
        let report = try #require(round(&meter, at: 14, [next]))
        let expected = ResourceMeasurement(
            requestsPerSecond: 100, bytesPerSecond: 2 * 1_048_576, outstanding: 3, latency: 0.0025)
        #expect(report.measurements["r1"] == expected)
        #expect(report.measurements["r2"] == ResourceMeasurement())
        #expect(report.loads == ["r1": 100, "r2": 0])
        #expect(report.latencies == ["r1": ["a": 0.0025]])
    }

    @Test func `sessions that come and go between two rounds count whole, once`() throws {
        var meter = meter()
        let long = SessionSample(session: session(1), resource: "r1", server: "a", answered: 50)
        _ = round(&meter, at: 1, [long])
        var last = long
        last.answered = 80
        last.hasEnded = true
        last.open = 9
        let brief = SessionSample(
            session: session(2), resource: "r1", server: "a", answered: 5, hasEnded: true)
        let report = try #require(round(&meter, at: 2, [last, brief]))
        #expect(report.loads["r1"] == 35)
        #expect(report.measurements["r1"]?.outstanding == 0, "nobody waits any more")
        // Its number is used again.
        let again = SessionSample(
            session: session(1, serial: 2), resource: "r2", server: "a", answered: 7)
        let later = try #require(round(&meter, at: 3, [again]))
        #expect(later.loads == ["r1": 0, "r2": 7])
    }

    @Test func `sums that begin anew make no negative rate`() throws {
        var meter = meter()
        var sample = SessionSample(
            session: session(1), resource: "r1", server: "a", answered: 500, bytes: 500)
        _ = round(&meter, at: 1, [sample])
        sample.answered = 20
        sample.bytes = 0
        let report = try #require(round(&meter, at: 2, [sample]))
        #expect(report.measurements["r1"]?.requestsPerSecond == 20)
        #expect(report.measurements["r1"]?.bytesPerSecond == 0)
    }

    @Test func `a round disturbed by a move leaves the load as it was`() throws {
        var meter = meter()
        var sample = SessionSample(session: session(1), resource: "r1", server: "a")
        for now in 1...3 as ClosedRange<UInt64> {
            _ = round(&meter, at: now, [sample])
            sample.answered += 100
        }
        meter.disturb("r1")
        sample.answered -= 90
        let moving = try #require(round(&meter, at: 4, [sample]))
        #expect(moving.loads["r1"] == 100 && moving.fresh["r1"] == nil)
        #expect(moving.fresh["r2"] == 0)
        sample.answered += 60
        let after = try #require(round(&meter, at: 5, [sample]))
        #expect(after.loads["r1"] == 60 && after.fresh["r1"] == 60)
    }

    @Test func `loads are smoothed with the half-life`() throws {
        var meter = meter(halfLife: .seconds(1))
        var sample = SessionSample(session: session(1), resource: "r1", server: "a")
        _ = round(&meter, at: 1, [sample])
        sample.answered = 100
        _ = round(&meter, at: 2, [sample])
        let report = try #require(round(&meter, at: 3, [sample]))
        #expect(abs((report.loads["r1"] ?? 0) - 50) < 1e-6)
        #expect(report.fresh["r1"] == 0)
    }

    /// As the sums of an export go up.
    private func traffic(
        replies: UInt64, latency: UInt64 = 0, bytes: UInt64 = 0
    ) -> SessionSample {
        var traffic = NFSResourceStatistics()
        traffic.calls = replies + 7
        traffic.replies = replies
        traffic.latencySum = latency
        traffic.callOctets = bytes / 4
        traffic.replyOctets = bytes - bytes / 4
        return SessionSample(export: "r2", at: "b", traffic)
    }

    @Test func `an export has the load of a unit that does the same`() throws {
        let unit = SessionSample(session: session(1), resource: "r1", server: "a")
        var meter = LoadMeter(weights: LoadWeights(), halfLife: .zero)
        _ = round(&meter, at: 1, [unit, traffic(replies: 1_000, bytes: 9_000)])
        var busy = unit
        busy.answered = 400
        busy.latencySum = 6 * second
        busy.bytes = 8 << 20
        busy.open = 3
        // 400 calls of 15 ms in two seconds: three of them are open at any time.
        let report = try #require(
            round(
                &meter, at: 3,
                [busy, traffic(replies: 1_400, latency: 6 * second, bytes: 9_000 + 8 << 20)]))
        let expected = ResourceMeasurement(
            requestsPerSecond: 200, bytesPerSecond: 4_194_304, outstanding: 3, latency: 0.015)
        #expect(report.measurements["r1"] == expected)
        let measured = try #require(report.measurements["r2"])
        #expect(measured.requestsPerSecond == 200)
        #expect(measured.bytesPerSecond == 4_194_304)
        #expect(abs(measured.outstanding - 3) < 1e-9)
        #expect(abs(measured.latency - 0.015) < 1e-9)
        let load = try #require(report.loads["r1"])
        #expect(load == 200 + 4 * 16 + 3 * 4)
        #expect(abs((report.loads["r2"] ?? 0) - load) < 1e-6)
        let latency = try #require(report.latencies["r2"]?["b"])
        #expect(abs(latency - 0.015) < 1e-9)
    }

    @Test func `sums that an export has from before it was looked at are no load`() throws {
        var meter = meter()
        _ = round(&meter, at: 1, [])
        // It is new in the configuration, or the dataplane did not answer for a round.
        let first = try #require(round(&meter, at: 2, [traffic(replies: 1_000_000)]))
        #expect(first.loads["r2"] == 0)
        let next = try #require(round(&meter, at: 3, [traffic(replies: 1_000_050)]))
        #expect(next.loads["r2"] == 50)
        let silent = try #require(round(&meter, at: 4, []))
        #expect(silent.loads["r2"] == 0)
        let again = try #require(round(&meter, at: 5, [traffic(replies: 1_000_090)]))
        #expect(again.loads["r2"] == 0)
        let after = try #require(round(&meter, at: 6, [traffic(replies: 1_000_100)]))
        #expect(after.loads["r2"] == 10)
    }

    @Test func `two exports are told apart, and from sessions`() {
        let keys: Set = [
            SampledSession(export: "r1"), SampledSession(export: "r2"), session(0, serial: 0),
        ]
        #expect(keys.count == 3)
    }

    @Test func `what several servers serve counts at each of them`() throws {
        var meter = meter()
        var one = SessionSample(session: session(1), resource: "r1", server: "a")
        var two = SessionSample(session: session(2), resource: "r1", server: "b")
        let resources = [(name: "r1", isShared: true)]
        _ = round(&meter, at: 1, [one, two], resources)
        one.answered = 30
        two.answered = 70
        let report = try #require(round(&meter, at: 2, [one, two], resources))
        #expect(report.loads == ["r1": 0] && report.shared == ["a": 30, "b": 70])
        let quiet = try #require(round(&meter, at: 3, [one], resources))
        #expect(quiet.shared == ["a": 0, "b": 0])
    }
}

/// Sessions as a test wants them.
private final class FakeSource: LoadSource {
    var present: [SampledSession: SessionSample] = [:]
    var slices: [Int] = []
    var trimmed: [UInt32] = []
    var resources: [(name: String, isShared: Bool)] = [("r1", false)]

    func sessions() -> [SampledSession] { Array(present.keys) }
    func samples(of sessions: ArraySlice<SampledSession>) -> [SessionSample] {
        slices.append(sessions.count)
        return sessions.compactMap { present[$0] }
    }
    func trim(_ sessions: ArraySlice<SampledSession>) { trimmed += sessions.map(\.id) }
}

@Suite struct LoadCollectorTests {
    private let source = FakeSource()

    private func collector(_ settings: Configuration.Balance = .init()) -> LoadCollector {
        LoadCollector(source: source, settings: settings, log: Logger(label: "test"))
    }

    private func round(_ collector: LoadCollector, at time: UInt64) {
        #expect(collector.begin(at: time * second))
        while collector.step(at: time * second, wall: (1_000_000 + time) * second) {}
    }

    @Test func `many sessions are read in slices`() {
        for id in 0..<300 as Range<UInt32> {
            source.present[session(id)] = SessionSample(
                session: session(id), resource: "r1", server: "a")
        }
        let collector = collector()
        var reports: [LoadReport] = []
        collector.onReport = { reports.append($0) }
        round(collector, at: 1)
        #expect(source.slices == [128, 128, 44] && reports.isEmpty)
        for id in source.present.keys { source.present[id]?.answered = 2 }
        #expect(collector.begin(at: 2 * second))
        #expect(!collector.begin(at: 3 * second), "a round is under way")
        while collector.step(at: 3 * second, wall: 0) {}
        #expect(reports.map { $0.measurements["r1"]?.requestsPerSecond } == [600])
    }

    @Test func `logs of idle sessions are trimmed once, after ten seconds`() {
        source.present[session(1)] = SessionSample(
            session: session(1), resource: "r1", server: "a", answered: 5)
        source.present[session(2)] = SessionSample(
            session: session(2), resource: "r1", server: "a", answered: 5, open: 1)
        // There is no log of an export's calls.
        source.present[SampledSession(export: "r1")] = SessionSample(
            export: "r1", at: "a", NFSResourceStatistics())
        let collector = collector()
        for time in 1...10 as ClosedRange<UInt64> { round(collector, at: time) }
        #expect(source.trimmed == [])
        for time in 11...40 as ClosedRange<UInt64> { round(collector, at: time) }
        #expect(source.trimmed == [1])
        source.present[session(1)]?.answered = 6
        for time in 41...60 as ClosedRange<UInt64> { round(collector, at: time) }
        #expect(source.trimmed == [1, 1])
    }

    @Test func `histories survive a restart, and a wrong file is not fatal`() async throws {
        let path = FileManager.default.temporaryDirectory.path + "/load-\(UUID().uuidString).json"
        defer { try? FileManager.default.removeItem(atPath: path) }
        var settings = Configuration.Balance()
        settings.prediction.slotSeconds = 2
        settings.historyFile = path
        settings.weights = LoadWeights(perMebibyte: 0, perOutstanding: 0)
        settings.halfLifeMilliseconds = 0
        let collector = collector(settings)
        source.present[session(1)] = SessionSample(
            session: session(1), resource: "r1", server: "a")
        for time in 0...8 as ClosedRange<UInt64> {
            round(collector, at: time + 1)
            source.present[session(1)]?.answered += 10 * (time + 1)
        }
        let values = try #require(collector.histories["r1"]?.values)
        // Slots end with even seconds; rounds are at 2, 3, 4, ..., and tell of 10, 20, 30, ...
        #expect(values == [15, 35, 55])
        var read: [String: LoadHistory] = [:]
        for _ in 0..<200 where read["r1"]?.values != values {
            try await Task.sleep(for: .milliseconds(10))
            read = try LoadHistoryFile.load(path: path, slotSeconds: 2, capacity: 100)
        }
        #expect(read["r1"]?.values == values)

        let next = self.collector(settings)
        #expect(next.histories["r1"]?.values == values)
        #expect(throws: LoadHistoryFile.Unusable.self) {
            try LoadHistoryFile.load(path: path, slotSeconds: 3, capacity: 100)
        }
        // After a gap the slots between are there, without a value.
        round(next, at: 20)
        source.present[session(1)]?.answered += 8
        round(next, at: 21)
        round(next, at: 22)
        #expect(
            next.histories["r1"]?.values == [15, 35, 55] + Array(repeating: nil, count: 6) + [8])
        // It is written on another thread.
        for _ in 0..<200 where read["r1"]?.count != 10 {
            try await Task.sleep(for: .milliseconds(10))
            read = try LoadHistoryFile.load(path: path, slotSeconds: 2, capacity: 100)
        }
        #expect(read["r1"]?.values == next.histories["r1"]?.values)
        try Data("{\"version\":1,".utf8).write(to: URL(fileURLWithPath: path))
        #expect(self.collector(settings).histories.isEmpty)
    }
}

@Suite struct ServerSelectionTests {
    private func share(
        of server: String, _ selection: inout ServerSelection, sessions: Range<UInt64>
    ) -> Int {
        var random = SystemRandomNumberGenerator()
        var count = 0
        for id in sessions {
            let chosen = selection.choose(
                for: id, of: "r1", among: ["a", "b"], at: second, using: &random)
            if chosen == server { count += 1 }
            selection.settled(id, at: nil)
        }
        return count
    }

    @Test func `new sessions go to the server that answers faster`() {
        var selection = ServerSelection()
        _ = share(of: "a", &selection, sessions: 0..<10)
        selection.observe("r1", "a", taking: 0.001, at: second)
        selection.observe("r1", "b", taking: 0.010, at: second)
        // By the squares of the scores a hundred to one, but for probes.
        #expect(share(of: "a", &selection, sessions: 10..<1_010) > 900)
        selection.observe("r1", "a", taking: 0.100, at: second)
        #expect(share(of: "b", &selection, sessions: 2_000..<3_000) > 900)
    }

    @Test func `open sessions weigh`() {
        var selection = ServerSelection()
        var random = SystemRandomNumberGenerator()
        var counts: [String: Int] = [:]
        for id in 0..<400 as Range<UInt64> {
            let server = selection.choose(
                for: id, of: "r1", among: ["a", "b"], at: second, using: &random)
            counts[server ?? "", default: 0] += 1
        }
        #expect(abs((counts["a"] ?? 0) - (counts["b"] ?? 0)) < 60)
    }

    @Test func `a server that did not take the session in is left out`() {
        var random = SystemRandomNumberGenerator()
        for id in 0..<50 as Range<UInt64> {
            var selection = ServerSelection()
            let first = selection.choose(
                for: id, of: "r1", among: ["a", "b"], at: second, using: &random)
            let next = selection.choose(
                for: id, of: "r1", among: ["a", "b"], at: second, using: &random)
            #expect(first != next)
            #expect(
                selection.choose(for: id, of: "r1", among: ["a"], at: second, using: &random)
                    == "a")
            #expect(selection.choose(for: id, of: "r1", among: [], at: 1, using: &random) == nil)
        }
    }
}
