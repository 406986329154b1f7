/// Whose requests are counted together: a session's, or those of all clients to an export. Tells
/// sessions apart: numbers of sessions that have ended are used again.
package struct SampledSession: Hashable, Sendable {
    package var id: UInt32
    /// Unlike any other's: numbers of sessions are used again.
    package var serial: UInt64
    /// Name of a resource of NFS, whose clients have no sessions; nil: it is a session.
    package var export: String?

    package init(id: UInt32, serial: UInt64) {
        self.id = id
        self.serial = serial
    }

    /// All calls to an export.
    package init(export: String) {
        self.init(id: 0, serial: 0)
        self.export = export
    }
}

/// What one session has done since it began, or all clients of an export. Sums only grow.
package struct SessionSample: Hashable, Sendable {
    package var session: SampledSession
    package var resource: String
    /// Where it is now; nil: nowhere.
    package var server: String?
    package var answered: UInt64
    /// ns, of all answered requests.
    package var latencySum: UInt64
    /// Octets, both ways.
    package var bytes: UInt64
    /// Requests without an answer; nil: they are not counted, and latencies tell their mean number.
    package var open: UInt64?
    /// There will be no further sample of it.
    package var hasEnded: Bool

    package init(
        session: SampledSession, resource: String, server: String?, answered: UInt64 = 0,
        latencySum: UInt64 = 0, bytes: UInt64 = 0, open: UInt64? = 0, hasEnded: Bool = false
    ) {
        self.session = session
        self.resource = resource
        self.server = server
        self.answered = answered
        self.latencySum = latencySum
        self.bytes = bytes
        self.open = open
        self.hasEnded = hasEnded
    }
}

/// What a round of samples says.
package struct LoadReport: Equatable, Sendable {
    /// Smoothed, by resource.
    package var loads: [String: Double] = [:]
    /// Of resources that were served without a disturbance since the round before; not smoothed.
    package var fresh: [String: Double] = [:]
    /// Load at each server of resources that several servers serve at once; smoothed.
    package var shared: [String: Double] = [:]
    package var measurements: [String: ResourceMeasurement] = [:]
    /// Mean time of an answer in seconds, by resource and server, of those that gave any.
    package var latencies: [String: [String: Double]] = [:]
}

/// Makes loads of resources from what their sessions have done: pure, times and samples go in.
///
/// A round is `begin`, `add` for each session, in as many slices as it takes, `finish`. Rates are what sums have
/// grown by since the round before. A session that came between counts from its first octet, one that has ended is
/// added once more, with `hasEnded`. A sum that has shrunk is one that began anew: it counts whole, so that no
/// rate is negative. Sums of an export may be older than the export: they count from the first look at them.
///
/// Work that a move of the resource has disturbed says nothing of the load: sessions wait, then do what has piled up.
/// `disturb` leaves the round out; the smoothed load stays as it was.
package struct LoadMeter: Sendable {
    private struct Sums: Sendable {
        var answered: UInt64 = 0
        var latencySum: UInt64 = 0
        /// ns, latencies of those whose open requests are not counted.
        var waited: UInt64 = 0
        var bytes: UInt64 = 0
        var open: UInt64 = 0

        mutating func add(_ other: Sums) {
            answered &+= other.answered
            latencySum &+= other.latencySum
            waited &+= other.waited
            bytes &+= other.bytes
            open &+= other.open
        }

        // Little's law: what waits on average is what comes in a time, times how long each waits.
        func measurement(over seconds: Double) -> ResourceMeasurement {
            ResourceMeasurement(
                requestsPerSecond: Double(answered) / seconds,
                bytesPerSecond: Double(bytes) / seconds,
                outstanding: Double(open) + Double(waited) * 1e-9 / seconds,
                latency: latency ?? 0)
        }

        var latency: Double? {
            answered > 0 ? Double(latencySum) * 1e-9 / Double(answered) : nil
        }
    }

    package private(set) var weights: LoadWeights
    private var halfLife: Duration
    private var known: [SampledSession: (sums: Sums, round: UInt64)] = [:]
    private var round: UInt64 = 0
    private var started: UInt64?
    private var previous: UInt64?
    /// Of this round: by resource and server; the empty name is for none.
    private var sums: [String: [String: Sums]] = [:]
    private var disturbed: Set<String> = []
    private var smoothed: [String: SmoothedValue] = [:]
    /// By resource, then by server.
    private var smoothedShares: [String: [String: SmoothedValue]] = [:]

    package init(weights: LoadWeights = .init(), halfLife: Duration = .seconds(5)) {
        self.weights = weights
        self.halfLife = halfLife
    }

    /// Another formula: what was measured with the old one does not mix with it.
    package mutating func update(weights: LoadWeights, halfLife: Duration) {
        guard weights != self.weights || halfLife != self.halfLife else { return }
        self.weights = weights
        self.halfLife = halfLife
        smoothed = [:]
        smoothedShares = [:]
    }

    package mutating func begin(at now: UInt64) {
        round += 1
        started = now
    }

    package mutating func add(_ sample: SessionSample) {
        let now = Sums(
            answered: sample.answered, latencySum: sample.latencySum,
            waited: sample.open == nil ? sample.latencySum : 0, bytes: sample.bytes,
            open: sample.open ?? 0)
        let before =
            known[sample.session]?.sums ?? (sample.session.export == nil ? Sums() : now)
        known[sample.session] = sample.hasEnded ? nil : (now, round)
        let growth = Sums(
            answered: Self.growth(before.answered, now.answered),
            latencySum: Self.growth(before.latencySum, now.latencySum),
            waited: Self.growth(before.waited, now.waited),
            bytes: Self.growth(before.bytes, now.bytes), open: sample.hasEnded ? 0 : now.open)
        sums[sample.resource, default: [:]][sample.server ?? "", default: Sums()].add(growth)
    }

    private static func growth(_ before: UInt64, _ now: UInt64) -> UInt64 {
        now >= before ? now - before : now
    }

    /// The resource is on its way: what is seen of it in this round and the running one is left out.
    package mutating func disturb(_ resource: String) { disturbed.insert(resource) }

    /// `resources`: all there are, with whether several servers serve each at once. Nil in the first round:
    /// there is nothing to compare with.
    package mutating func finish(_ resources: [(name: String, isShared: Bool)]) -> LoadReport? {
        defer {
            sums = [:]
            previous = started
            // Whoever was not in this round is gone.
            let round = round
            known = known.filter { $0.value.round == round }
        }
        guard let now = started, let previous, now > previous else { return nil }
        let seconds = Double(now - previous) * 1e-9
        var report = LoadReport()
        for (name, isShared) in resources {
            let places = sums[name] ?? [:]
            var total = Sums()
            for (server, part) in places {
                total.add(part)
                if !server.isEmpty, let latency = part.latency {
                    report.latencies[name, default: [:]][server] = latency
                }
            }
            let measurement = total.measurement(over: seconds)
            report.measurements[name] = measurement
            if isShared {
                share(name, places, seconds, now, &report)
                continue
            }
            smoothedShares[name] = nil
            var value = smoothed[name] ?? SmoothedValue(halfLife: halfLife)
            if !disturbed.contains(name) || value.value == nil {
                let load = weights.load(of: measurement)
                value.add(load, at: now)
                if !disturbed.contains(name) { report.fresh[name] = load }
            }
            smoothed[name] = value
            report.loads[name] = value.value
        }
        disturbed = []
        keep(Set(resources.map(\.name)))
        return report
    }

    /// Its load cannot be moved as a whole: it belongs to the servers that have parts of it.
    private mutating func share(
        _ name: String, _ places: [String: Sums], _ seconds: Double, _ now: UInt64,
        _ report: inout LoadReport
    ) {
        smoothed[name] = nil
        report.loads[name] = 0
        var values = smoothedShares[name] ?? [:]
        for server in Set(values.keys).union(places.keys) where !server.isEmpty {
            let load = weights.load(of: (places[server] ?? Sums()).measurement(over: seconds))
            values[server, default: SmoothedValue(halfLife: halfLife)].add(load, at: now)
            report.shared[server, default: 0] += values[server]?.value ?? 0
        }
        smoothedShares[name] = values
    }

    private mutating func keep(_ names: Set<String>) {
        if smoothed.keys.contains(where: { !names.contains($0) }) {
            smoothed = smoothed.filter { names.contains($0.key) }
        }
        if smoothedShares.keys.contains(where: { !names.contains($0) }) {
            smoothedShares = smoothedShares.filter { names.contains($0.key) }
        }
    }
}
