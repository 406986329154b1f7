import DataPlane

// Counters of NFS, for Prometheus.
extension Daemon {
    private struct NFSSnapshot: Sendable {
        var counters = NFSCounters()
        var traffic: [String: NFSResourceStatistics] = [:]
        var open = 0
        var waiting = 0
        var dropped: UInt64 = 0
    }

    /// Nothing without NFS.
    func nfsMetrics() async -> [MetricFamily] {
        guard let datagrams = dataplane.call({ $0.datagramStatus() }) else { return [] }
        let snapshot = await onLoop { [self] in nfsSnapshot(datagrams) }
        guard let snapshot else { return [] }
        return routerMetrics(snapshot) + exportMetrics(snapshot.traffic)
            + datagramMetrics(datagrams)
    }

    private func nfsSnapshot(_ datagrams: DatagramStatus) -> NFSSnapshot? {
        guard let nfs else { return nil }
        var snapshot = NFSSnapshot()
        snapshot.counters = nfs.router.counters
        snapshot.traffic = nfs.traffic(datagrams)
        snapshot.open = nfs.openCalls
        snapshot.waiting = nfs.waitingCalls
        snapshot.dropped = nfs.droppedDatagrams
        return snapshot
    }

    private func routerMetrics(_ snapshot: NFSSnapshot) -> [MetricFamily] {
        let counters = snapshot.counters
        var calls = MetricFamily(
            name: "dsr_nfs_calls_total",
            help: "Calls of clients that the control plane has taken, by what they are about.",
            kind: .counter)
        for group in NFSCounters.Group.allCases {
            calls.add(counters.calls[group] ?? 0, .init("group", group.rawValue))
        }
        var refusals = MetricFamily(
            name: "dsr_nfs_refusals_total",
            help: "Calls that the switch itself has answered with an error, or not at all.",
            kind: .counter)
        for reason in NFSCounters.Refusal.allCases {
            refusals.add(counters.refusals[reason] ?? 0, .init("reason", reason.rawValue))
        }
        var repeated = MetricFamily(
            name: "dsr_nfs_repeated_calls_total",
            help: "Calls that came again: answered from memory, or while they were under way.",
            kind: .counter)
        repeated.add(counters.replayed, .init("kind", "answered"))
        repeated.add(counters.underWay, .init("kind", "under_way"))
        repeated.add(counters.resumed, .init("kind", "given_up_before"))
        return [
            calls, refusals, repeated,
            counter(
                "dsr_nfs_mended_calls_total",
                "Calls done again at another server whose error was that they had been done: "
                    + "clients were told of success.", counters.mended),
            counter(
                "dsr_nfs_resolutions_total",
                "Questions of the switch itself to servers before a call could go on.",
                counters.resolutions),
            gauge("dsr_nfs_calls_open", "Calls in the control plane.", UInt64(snapshot.open)),
            gauge(
                "dsr_nfs_calls_waiting", "Calls that wait for a server.", UInt64(snapshot.waiting)),
            counter(
                "dsr_nfs_datagrams_dropped_total",
                "Calls and replies over UDP that found no room.", snapshot.dropped),
        ]
    }

    private func exportMetrics(_ traffic: [String: NFSResourceStatistics]) -> [MetricFamily] {
        var calls = MetricFamily(
            name: "dsr_export_calls_total", help: "Calls that went to servers.", kind: .counter)
        var replies = MetricFamily(
            name: "dsr_export_replies_total", help: "Replies of servers.", kind: .counter)
        var latency = MetricFamily(
            name: "dsr_export_latency_seconds_total",
            help: "From calls to their replies, summed.", kind: .counter)
        var bytes = MetricFamily(
            name: "dsr_export_bytes_total", help: "Octets of calls and replies.", kind: .counter)
        for (name, sum) in traffic.sorted(by: { $0.key < $1.key }) {
            let label = MetricFamily.Label("resource", name)
            calls.add(sum.calls, label)
            replies.add(sum.replies, label)
            latency.add(Double(sum.latencySum) / 1e9, label)
            bytes.add(sum.callOctets, label, .init("from", "client"))
            bytes.add(sum.replyOctets, label, .init("from", "server"))
        }
        return [calls, replies, latency, bytes]
    }

    private func datagramMetrics(_ status: DatagramStatus) -> [MetricFamily] {
        var fast = MetricFamily(
            name: "dsr_datagram_packets_total",
            help: "Calls and replies over UDP that the dataplane has forwarded by itself.",
            kind: .counter)
        fast.add(status.resources.reduce(0) { $0 + $1.calls }, .init("direction", "call"))
        fast.add(status.resources.reduce(0) { $0 + $1.replies }, .init("direction", "reply"))
        var misses = MetricFamily(
            name: "dsr_datagram_misses_total",
            help: "Datagrams of NFS that went to the control plane, by reason.", kind: .counter)
        for reason in DatagramMiss.allCases {
            misses.add(status.misses[reason] ?? 0, .init("reason", "\(reason)"))
        }
        var sizes = MetricFamily(
            name: "dsr_datagram_table_entries", help: "Entries of the tables of datagrams.",
            kind: .gauge)
        sizes.add(UInt64(status.handles), .init("table", "handles"), .init("kind", "used"))
        sizes.add(
            UInt64(status.handleCapacity), .init("table", "handles"), .init("kind", "capacity"))
        sizes.add(UInt64(status.bindings), .init("table", "clients"), .init("kind", "used"))
        sizes.add(
            UInt64(status.bindingCapacity), .init("table", "clients"), .init("kind", "capacity"))
        return [
            fast, misses, sizes,
            counter(
                "dsr_datagram_handles_evicted_total",
                "File handles that gave way to others because the table was full.",
                status.handleEvictions),
            gauge(
                "dsr_fragmented_datagrams", "Datagrams of which fragments are missing.",
                UInt64(status.fragments)),
            gauge(
                "dsr_fragments_waiting", "Fragments that wait for their first one.",
                UInt64(status.waitingFragments)),
        ]
    }
}
