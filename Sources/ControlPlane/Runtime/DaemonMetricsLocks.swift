import StorageProtocols

// Counters of locks of NFS, for Prometheus.
extension Daemon {
    private struct LockSnapshot: Sendable {
        var counters = NLMLocks.Counters()
        var held = 0
        var waiting = 0
    }

    /// Nothing without NLM.
    func lockMetrics() async -> [MetricFamily] {
        let snapshot = await onLoop { [self] () -> LockSnapshot? in
            guard let locks = nfs?.locks?.locks else { return nil }
            return LockSnapshot(
                counters: locks.counters, held: locks.heldCount, waiting: locks.waitingCount)
        }
        guard let snapshot else { return [] }
        let counters = snapshot.counters
        var calls = MetricFamily(
            name: "dsr_nlm_calls_total",
            help: "Calls of NLM: of clients, and GRANTED of servers.", kind: .counter)
        for procedure in NLMProcedure.allCases {
            calls.add(counters.calls[procedure] ?? 0, .init("procedure", procedure.name))
        }
        return [
            calls,
            gauge(
                "dsr_nlm_locks", "Locked ranges and shares of clients.", UInt64(snapshot.held)),
            gauge("dsr_nlm_waiting", "Locks that clients wait for.", UInt64(snapshot.waiting)),
            counter(
                "dsr_nlm_reclaimed_total", "Locks and shares that were set up at a server again.",
                counters.reclaimed),
            counter(
                "dsr_nlm_lost_total", "Locks and shares that could not be set up again.",
                counters.lost),
            counter(
                "dsr_nlm_refused_total", "Locks that were denied for want of room.",
                counters.refused),
            counter(
                "dsr_nlm_unwanted_grants_total",
                "Locks that clients did not want any more when they were granted.",
                counters.unwanted),
        ]
    }
}
