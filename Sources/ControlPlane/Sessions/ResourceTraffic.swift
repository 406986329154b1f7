import DataPlane

/// What passed for a resource or a service: in the fast path and through the control plane.
struct ResourceTraffic: Equatable, Sendable {
    var clientPackets: UInt64 = 0
    var clientBytes: UInt64 = 0
    var serverPackets: UInt64 = 0
    var serverBytes: UInt64 = 0

    init() {}

    init(_ snapshot: SpliceSnapshot) {
        clientPackets = snapshot.client.packets
        clientBytes = snapshot.client.bytes
        serverPackets = snapshot.server.packets
        serverBytes = snapshot.server.bytes
    }

    /// A session's share. Packets are those of the fast path alone: the control plane relays octets.
    /// Without a snapshot the session is not in the fast path any more.
    mutating func add(_ summary: SessionSummary, _ snapshot: SpliceSnapshot?) {
        add(summary.statistics, snapshot)
    }

    mutating func add(_ statistics: Redirect.Statistics, _ snapshot: SpliceSnapshot?) {
        let spliced = snapshot.map(ResourceTraffic.init) ?? statistics.inFastPath
        clientPackets += spliced.clientPackets
        clientBytes += spliced.clientBytes + statistics.relayedFromClient
        serverPackets += spliced.serverPackets
        serverBytes += spliced.serverBytes + statistics.relayedFromServer
    }
}

/// Sums of sessions that have ended. What the dataplane counted for them is read some at a time, while their
/// records linger there.
final class EndedTraffic {
    private var totals: [String: ResourceTraffic] = [:]
    private var unread: [SessionSummary] = []
    private let dataplane: DataPlaneWorker

    init(dataplane: DataPlaneWorker) { self.dataplane = dataplane }

    /// `lingers`: the dataplane keeps the session's record for some seconds. True when `read` must be
    /// called soon, before the record is freed.
    func add(_ summary: SessionSummary, lingers: Bool) -> Bool {
        guard let name = summary.resource else { return false }
        guard lingers else {
            totals[name, default: ResourceTraffic()].add(summary, nil)
            return false
        }
        unread.append(summary)
        return unread.count == 1
    }

    /// A nexus of a session that goes on, or ends with it: what passed through its own stream.
    func add(_ nexus: ISCSINexus) {
        guard !nexus.hasRecord else { return }
        totals[nexus.resource.name, default: ResourceTraffic()]
            .add(nexus.redirect.statistics, nil)
    }

    func read() {
        guard !unread.isEmpty else { return }
        let ids = unread.map(\.id)
        let snapshots = dataplane.call { $0.spliceSnapshots(ids[...]) } ?? [:]
        for summary in unread {
            totals[summary.resource ?? "", default: ResourceTraffic()]
                .add(summary, snapshots[summary.id])
        }
        unread.removeAll(keepingCapacity: true)
    }

    /// By resource or service.
    func all() -> [String: ResourceTraffic] {
        read()
        return totals
    }
}
