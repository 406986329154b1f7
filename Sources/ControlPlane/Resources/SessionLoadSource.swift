import DataPlane

/// Samples of iSCSI sessions at their servers: sums of the nexus itself, and those of the dataplane while it has the
/// session. Samples of exports: the calls of all clients, through here and through the dataplane.
final class SessionLoadSource: LoadSource {
    private let engine: SessionEngine
    private let portal: ISCSIPortal
    /// Sessions of the round that is under way.
    private var present: [SampledSession: ISCSINexus] = [:]
    /// Sessions that have ended, and whose last sums the dataplane still has for some seconds.
    private var lingering: [SampledSession: ISCSINexus] = [:]
    /// Last samples of the others that have ended.
    private var last: [SampledSession: SessionSample] = [:]
    /// What went to servers, by resource of NFS.
    var exportTraffic: (DatagramStatus) -> [String: NFSResourceStatistics] = { _ in [:] }

    init(engine: SessionEngine, portal: ISCSIPortal) {
        self.engine = engine
        self.portal = portal
    }

    var resources: [(name: String, isShared: Bool)] {
        portal.resources.all.map { ($0.name, $0.serving == .any) }
    }

    private func key(_ nexus: ISCSINexus) -> SampledSession {
        SampledSession(id: nexus.id, serial: nexus.serial)
    }

    func sessions() -> [SampledSession] {
        present.removeAll(keepingCapacity: true)
        for nexus in portal.allNexuses { present[key(nexus)] = nexus }
        let exports = portal.resources.all.filter { $0.export != nil }.map(\.name)
        return Array(present.keys) + Array(lingering.keys) + Array(last.keys)
            + exports.map { SampledSession(export: $0) }
    }

    /// A nexus is over; called before it is forgotten elsewhere.
    func ended(_ nexus: ISCSINexus) {
        let key = key(nexus)
        present[key] = nil
        if nexus.redirect.lingers {
            lingering[key] = nexus
        } else {
            last[key] = sample(nexus, nil, nil, hasEnded: true)
        }
    }

    func samples(of sessions: ArraySlice<SampledSession>) -> [SessionSample] {
        let ids = sessions.filter { $0.export == nil }.map(\.id)
        let hasExports = ids.count < sessions.count
        let read = engine.dataplane.call { pipeline in
            (
                pipeline.spliceSnapshots(ids[...]), pipeline.requestStatistics(ids[...]),
                hasExports ? pipeline.datagramStatus() : nil
            )
        }
        let (snapshots, statistics, datagrams) = read ?? ([:], [:], nil)
        // Without the dataplane's part sums would shrink.
        let traffic = datagrams.map { exportTraffic($0) }
        return sessions.compactMap { key in
            if let name = key.export {
                return traffic.map {
                    SessionSample(
                        export: name, at: portal.resources.assignedServer(of: name),
                        $0[name] ?? NFSResourceStatistics())
                }
            }
            if let sample = last.removeValue(forKey: key) { return sample }
            if let session = lingering.removeValue(forKey: key) {
                return sample(session, snapshots[key.id], statistics[key.id], hasEnded: true)
            }
            guard let session = present[key] else { return nil }
            return sample(session, snapshots[key.id], statistics[key.id], hasEnded: false)
        }
    }

    /// Without statistics of the dataplane the log is the session's.
    private func sample(
        _ nexus: ISCSINexus, _ snapshot: SpliceSnapshot?, _ statistics: RequestStatistics?,
        hasEnded: Bool
    ) -> SessionSample {
        let isInDataplane = nexus.hasRecord
        let requests = (isInDataplane ? statistics : nil) ?? nexus.log?.statistics
        let sums = nexus.redirect.statistics
        let traffic =
            (isInDataplane ? snapshot : nil).map(ResourceTraffic.init) ?? sums.inFastPath
        return SessionSample(
            session: key(nexus), resource: nexus.resource.name, server: nexus.serverName,
            answered: requests?.answered ?? 0, latencySum: requests?.latencySum ?? 0,
            bytes: traffic.clientBytes + traffic.serverBytes + sums.relayedFromClient
                + sums.relayedFromServer,
            open: UInt64(requests?.open ?? 0), hasEnded: hasEnded)
    }

    func trim(_ sessions: ArraySlice<SampledSession>) {
        let there = sessions.filter { present[$0] != nil }
        let ids = there.map(\.id)
        let owned: Set<SpliceID> =
            engine.dataplane.call { pipeline in
                pipeline.trimRequestLogs(ids[...])
                return Set(pipeline.requestStatistics(ids[...]).keys)
            } ?? []
        for key in there where !owned.contains(key.id) { present[key]?.log?.trim() }
    }
}
