package import Logging

/// Where samples of sessions come from.
package protocol LoadSource: AnyObject {
    /// Sessions that there are now, and those that have ended since they were asked for last; exports.
    func sessions() -> [SampledSession]
    /// What some of them have done. Those that say nothing are left out.
    func samples(of sessions: ArraySlice<SampledSession>) -> [SessionSample]
    /// Nothing was open in them for a while: their logs need no memory.
    func trim(_ sessions: ArraySlice<SampledSession>)
    /// All resources, with whether several servers serve each at once.
    var resources: [(name: String, isShared: Bool)] { get }
}

/// Measures loads once a second: asks for samples in slices, so that packets and sessions do not wait for
/// long, makes loads of them and keeps their histories.
///
/// Lives on the session thread. Clocks go in with each call.
package final class LoadCollector {
    private let source: any LoadSource
    private let log: Logger
    private var settings: Configuration.Balance
    private var meter: LoadMeter
    private var waiting: ArraySlice<SampledSession> = []
    private var isRunning = false
    private var idle: [SampledSession: Idle] = [:]
    private var tired: [SampledSession] = []
    package private(set) var histories: [String: LoadHistory] = [:]
    /// What the last round said.
    package private(set) var report = LoadReport()
    package var onReport: (LoadReport) -> Void = { _ in }
    /// A slot of the histories was closed.
    package var onSlot: ([String: LoadHistory]) -> Void = { _ in }

    private struct Idle {
        var answered: UInt64
        /// ns.
        var since: UInt64
        var isTrimmed: Bool
    }

    /// Sessions that are read at once.
    package static let slice = 128
    /// ns without an open request until a log's memory is given back.
    package static let idleTime: UInt64 = 10_000_000_000

    package init(source: any LoadSource, settings: Configuration.Balance, log: Logger) {
        self.source = source
        self.settings = settings
        self.log = log
        meter = LoadMeter(
            weights: settings.weights, halfLife: .milliseconds(settings.halfLifeMilliseconds))
        loadHistories()
    }

    package func update(_ new: Configuration.Balance) {
        let old = settings
        settings = new
        meter.update(
            weights: new.weights, halfLife: .milliseconds(new.halfLifeMilliseconds))
        let isOther =
            old.prediction.slotSeconds != new.prediction.slotSeconds
            || old.prediction.seasonSlots != new.prediction.seasonSlots
            || old.weights != new.weights
        if isOther || old.historyFile != new.historyFile {
            if isOther { histories = [:] }
            if histories.isEmpty { loadHistories() }
        }
    }

    /// A resource is on its way to another server.
    package func disturb(_ resource: String) { meter.disturb(resource) }

    // MARK: A round

    /// Begins a round, unless one is under way. True: `step` is to be called.
    package func begin(at now: UInt64) -> Bool {
        guard !isRunning else { return false }
        isRunning = true
        meter.begin(at: now)
        waiting = source.sessions()[...]
        if idle.count > 2 * waiting.count + 64 {
            let there = Set(waiting)
            idle = idle.filter { there.contains($0.key) }
        }
        return true
    }

    /// Takes the next slice. True: there are more. `wall`: ns since 1970.
    package func step(at now: UInt64, wall: UInt64) -> Bool {
        guard isRunning else { return false }
        let slice = waiting.prefix(Self.slice)
        waiting = waiting.dropFirst(Self.slice)
        if !slice.isEmpty {
            for sample in source.samples(of: slice) {
                meter.add(sample)
                note(sample, at: now)
            }
            trim()
        }
        if !waiting.isEmpty { return true }
        finish(wall: wall)
        return false
    }

    private func finish(wall: UInt64) {
        isRunning = false
        guard let report = meter.finish(source.resources) else { return }
        self.report = report
        onReport(report)
        if histories.keys.contains(where: { report.measurements[$0] == nil }) {
            histories = histories.filter { report.measurements[$0.key] != nil }
        }
        record(report.fresh, wall: wall)
    }

    private func note(_ sample: SessionSample, at now: UInt64) {
        let session = sample.session
        if sample.hasEnded {
            idle[session] = nil
            return
        }
        guard sample.open == 0, let before = idle[session], before.answered == sample.answered
        else {
            idle[session] = Idle(answered: sample.answered, since: now, isTrimmed: false)
            return
        }
        guard !before.isTrimmed, now >= before.since + Self.idleTime else { return }
        idle[session]?.isTrimmed = true
        tired.append(session)
    }

    private func trim() {
        guard !tired.isEmpty else { return }
        source.trim(tired[...])
        tired.removeAll(keepingCapacity: true)
    }

    // MARK: Histories

    private var capacity: Int { 7 * settings.prediction.seasonSlots }

    private func record(_ loads: [String: Double], wall: UInt64) {
        var isClosed = false
        for (name, load) in loads {
            let standard = LoadHistory(
                slotLength: .seconds(settings.prediction.slotSeconds), capacity: capacity)
            if histories[name, default: standard].add(load, at: wall) { isClosed = true }
        }
        guard isClosed else { return }
        if let path = settings.historyFile {
            LoadHistoryFile(histories, slotSeconds: settings.prediction.slotSeconds)
                .writeLater(to: path, log: log)
        }
        onSlot(histories)
    }

    private func loadHistories() {
        guard let path = settings.historyFile else { return }
        do {
            histories = try LoadHistoryFile.load(
                path: path, slotSeconds: settings.prediction.slotSeconds, capacity: capacity)
        } catch {
            log.error("load history \(path) is not used: \(error)")
        }
    }
}
