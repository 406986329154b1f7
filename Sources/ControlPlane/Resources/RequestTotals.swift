import DataPlane

/// What request logs have counted: of sessions that are there, and summed up over those that have ended.
///
/// Lives on the session thread.
final class RequestTotals {
    /// Sums over sessions; what is only true now (open requests, octets kept) is not among them.
    struct Sum: Hashable, Sendable {
        var opened: UInt64 = 0
        var answered: UInt64 = 0
        var unprotected: UInt64 = 0
        /// ns
        var latency: UInt64 = 0
        /// As in `RequestStatistics`.
        var histogram: [UInt64] = []

        mutating func add(_ statistics: RequestStatistics) {
            opened += statistics.opened
            answered += statistics.answered
            unprotected += statistics.unprotectedTotal
            latency &+= statistics.latencySum
            let missing = max(0, statistics.histogram.count - histogram.count)
            histogram += [UInt64](repeating: 0, count: missing)
            for (index, count) in statistics.histogram.enumerated() { histogram[index] += count }
        }
    }

    /// One log: the dataplane's while the session is spliced, the session's else.
    struct Source {
        /// The session's.
        var id: SpliceID
        var resource: String?
        var log: SessionLog
        /// False: it is certainly not the dataplane's.
        var mayBeInDataplane: Bool
    }

    private let engine: SessionEngine
    private var ended: [String: Sum] = [:]
    private var unread: [Source] = []
    /// Logs that the dataplane is asked for at once: packets go on in between.
    static let atOnce = 256

    init(engine: SessionEngine) { self.engine = engine }

    /// Its log is read soon: the dataplane keeps what it has for some seconds.
    func ended(_ nexus: ISCSINexus) {
        guard let source = nexus.requests else { return }
        unread.append(source)
        guard unread.count == 1 else { return }
        engine.loop.postLocal { [weak self] in self?.readEnded() }
    }

    private func readEnded() {
        guard !unread.isEmpty else { return }
        let sources = unread
        unread.removeAll(keepingCapacity: true)
        for (source, statistics) in read(sources) {
            ended[source.resource ?? "", default: Sum()].add(statistics)
        }
    }

    /// What is known of each that has a log.
    func read(_ sources: [Source]) -> [(Source, RequestStatistics)] {
        var result: [(Source, RequestStatistics)] = []
        result.reserveCapacity(sources.count)
        let ids = sources.map(\.id)
        for start in stride(from: 0, to: sources.count, by: Self.atOnce) {
            let part = start..<min(start + Self.atOnce, sources.count)
            // Without an answer nobody knows whose the logs are: they must not be touched.
            guard let inDataplane = engine.dataplane.call({ $0.requestStatistics(ids[part]) })
            else { continue }
            for source in sources[part] {
                let statistics = source.mayBeInDataplane ? inDataplane[source.id] : nil
                result.append((source, statistics ?? source.log.statistics))
            }
        }
        return result
    }

    /// Logs of the sessions that are there.
    func live() -> [(Source, RequestStatistics)] {
        read(engine.sessions.values.flatMap(\.requests))
    }

    /// Since the start, by resource; `live` are the sessions of this moment.
    func sums(_ live: [(Source, RequestStatistics)]) -> [String: Sum] {
        readEnded()
        var result = ended
        for (source, statistics) in live {
            result[source.resource ?? "", default: Sum()].add(statistics)
        }
        return result
    }
}

extension MetricFamily.Histogram {
    init(_ histogram: DurationHistogram) {
        self.init(
            bounds: DurationHistogram.bounds, counts: histogram.counts, count: histogram.count,
            sum: histogram.sum)
    }

    /// Latencies of requests: bucket n of a log has those from 2^(n - 1) to 2^n times 16.384 us, the last one
    /// all above.
    package init(requestLatencies counts: [UInt64], sum: UInt64) {
        var total: UInt64 = 0
        let cumulative = counts.map { count in
            total += count
            return total
        }
        self.init(
            bounds: (0..<max(0, counts.count - 1)).map { Double(UInt64(1) << $0) * 16_384 / 1e9 },
            counts: cumulative, count: total, sum: Double(sum) / 1e9)
    }
}
