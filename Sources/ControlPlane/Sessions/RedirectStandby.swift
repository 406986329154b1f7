import DataPlane
import Logging
import StorageProtocols

/// The next server is logged in to while the present one finishes.
extension Redirect {
    /// Before the present server is left: it is as soon as the standby is decided. What goes wrong with it costs
    /// nothing but time: the next server is connected to again when the present one is left. False: there is none.
    func openStandby(
        _ purpose: ServerStandby.Purpose, login: ISCSINexusLogin, timeout: UInt64
    ) -> Bool {
        if let standby {
            if standby.purpose == purpose { return true }
            dropStandby()
        }
        // The dataplane changes the options of a client's SYN for a server only when it knows of the
        // connection beforehand.
        guard server != nil, client.usesTimestamps, client.usesSACK else { return false }
        switch state {
        case .relaying, .drainingToSplice, .spliced, .drainingToRelay: break
        case .clientOnly, .connecting, .restoring, .ended: return false
        }
        do {
            standby = try ServerStandby(
                purpose, login: login, client: client, engine: engine, timeout: timeout
            ) { [weak self] in
                // Not from within the standby.
                self?.engine.loop.postLocal { self?.standbyDecided() }
            }
        } catch {
            engine.log.debug("session \(id): standby at \(purpose.server): \(error)")
            return false
        }
        return true
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
            relay.canTakeOver(session),
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
        if relay.isSplit { keepFormer() }
        forgetServer()
        server = next
        if !hasMemoryClient {
            // The relay does not wait for it: only the next splice needs it.
            engine.apply(id, [followCommand(next)]) { [weak self] in
                guard let self, server?.descriptor == next.descriptor, next.descriptor >= 0 else {
                    return
                }
                try? engine.tellReceived(id, .server, next)
            }
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
        try engine.apply([.splice(followCommand(leg))])
        try engine.tellReceived(id, .server, leg)
    }

    private func followCommand(_ leg: Leg) -> SpliceCommand {
        .attachServer(
            id, leg.spliceLeg(domain: engine.storageDomain, localMAC: engine.storageMAC))
    }
}
