import DataPlane
import Logging
import StorageProtocols

/// The next server is logged in to while the present one finishes.
extension Redirect {
    /// For a redirect that holds new requests. What goes wrong with it costs nothing but time: the next server
    /// is connected to again when the present one is left.
    func openStandby(
        _ purpose: ServerStandby.Purpose, login: ISCSINexusLogin, timeout: UInt64
    ) {
        // The dataplane changes the options of a client's SYN for a server only when it knows of the
        // connection beforehand.
        guard isLeaving, state == .relaying, standby == nil, client.usesTimestamps, client.usesSACK
        else { return }
        do {
            standby = try ServerStandby(
                purpose, login: login, client: client, engine: engine, timeout: timeout
            ) { [weak self] in
                // Not from within the standby.
                self?.engine.loop.postLocal { self?.leaveQuietServer() }
            }
        } catch {
            engine.log.debug("session \(id): standby at \(purpose.server): \(error)")
        }
    }

    func dropStandby() {
        guard let standby else { return }
        statistics.standbyGiveUps += 1
        standby.cancel()
        self.standby = nil
    }

    /// The standby's connection becomes the server leg. Nil: it cannot be had, and nothing has changed.
    func takeStandby() -> (session: ISCSIInitiatorResult, rest: [UInt8])? {
        guard let standby, case .ready(let session)? = standby.outcome, standby.isSent,
            standby.leg.usesTimestamps, standby.leg.usesSACK
        else {
            if case .failed(let reason)? = standby?.outcome {
                engine.log.notice("session \(id): standby: \(reason)")
            }
            dropStandby()
            return nil
        }
        var next = standby.leg
        do {
            next.base = try base(of: next)
        } catch {
            engine.log.notice("session \(id): standby: \(error)")
            dropStandby()
            return nil
        }
        self.standby = nil
        leaveServer()
        server = next
        do {
            if !hasMemoryClient { try followServer(next) }
        } catch {
            engine.log.notice("session \(id): standby: \(error)")
            leaveServer()
            return nil
        }
        statistics.standbys += 1
        isServerBaseKnown = true
        connectedAt = engine.loop.now
        state = .relaying
        watch(.server)
        return (session, standby.rest)
    }

    /// The dataplane follows a connection to a server that has been there for a while.
    func followServer(_ leg: Leg) throws {
        try engine.apply([
            .splice(
                .attachServer(
                    id, leg.spliceLeg(domain: engine.storageDomain, localMAC: engine.storageMAC)))
        ])
        try engine.tellReceived(id, .server, leg)
    }
}
