/// Changes of a session's server.
struct SessionMoves: Sendable {
    var count: UInt64 = 0
    /// ns without a server at the last one.
    var lastStall: UInt64 = 0

    mutating func add(_ stall: UInt64) {
        count += 1
        lastStall = stall
    }
}

/// Sums since the start.
struct ManagementStatistics: Sendable {
    var failovers: UInt64 = 0
    var changes: UInt64 = 0
    var moves: UInt64 = 0
    var refusedConfirmations: UInt64 = 0
    /// Moves that no server took, and sessions given up by a change.
    var dropped: UInt64 = 0
    var abandoned: UInt64 = 0
    var announcementsIgnored: UInt64 = 0
    /// Changes planned, by reason.
    var planned: [String: UInt64] = [:]
    /// Sessions without a server, by how long: seconds.
    var stalls = DurationHistogram()
    var orderlyStalls = DurationHistogram()
    /// From detection to the last resource's new place.
    var failoverDurations = DurationHistogram()

    mutating func add(stall: UInt64, isOrderly: Bool) {
        if isOrderly { orderlyStalls.add(stall) } else { stalls.add(stall) }
    }

    mutating func count(_ event: ManagementEvent) {
        switch event {
        case .committed(_, _, let planned):
            changes += 1
            moves += UInt64(planned.count)
        case .changePlanned(_, let reason, _): planned[reason.label, default: 0] += 1
        case .refused: refusedConfirmations += 1
        case .dropped: dropped += 1
        case .sessionsAbandoned: abandoned += 1
        case .announcementIgnored: announcementsIgnored += 1
        case .failoverFinished(_, _, let duration):
            failovers += 1
            failoverDurations.add(duration)
        default: break
        }
    }
}

/// Counts of durations, as Prometheus has them: cumulative, by upper bound.
struct DurationHistogram: Sendable {
    /// Seconds.
    static let bounds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
    private(set) var counts = [UInt64](repeating: 0, count: Self.bounds.count)
    private(set) var count: UInt64 = 0
    private(set) var sum = 0.0

    mutating func add(_ nanoseconds: UInt64) {
        let seconds = Double(nanoseconds) / 1e9
        count += 1
        sum += seconds
        for (index, bound) in Self.bounds.enumerated() where seconds <= bound {
            counts[index] += 1
        }
    }
}
