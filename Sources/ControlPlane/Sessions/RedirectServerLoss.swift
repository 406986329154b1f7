import DataPlane
import Logging

/// A server that is lost: the client leg comes back to a kernel socket and waits for another.
extension Redirect {
    /// Gives the server up at once: it is dead, or leads to nowhere.
    func loseServer(_ reason: String) {
        switch state {
        case .connecting: onOutcome(.connectFailed(reason))
        case .relaying, .drainingToSplice:
            guard relay.survivesServer else {
                return relay.wantsClientInput
                    ? end(reason, reset: true) : onOutcome(.connectFailed(reason))
            }
            lostWhileRelaying(reason)
        case .spliced, .drainingToRelay:
            guard relay.survivesServer else { return end(reason, reset: true) }
            do { try engine.apply([.splice(.loseServer(id))]) } catch {
                // It lost its server by itself in the meantime, or its client.
                return engine.log.debug("session \(id): \(error)")
            }
            beginRestore(reason)
        case .clientOnly, .restoring, .ended: break
        }
    }

    func serverLostInDataplane(_ loss: SpliceServerLoss) {
        guard state == .spliced || state == .drainingToRelay else { return }
        let reason =
            switch loss {
            case .reset: "reset by the server"
            case .closed: "closed by the server"
            case .vanished: "the server does not answer"
            }
        beginRestore(reason)
    }

    func lostWhileRelaying(_ reason: String) {
        if state == .drainingToSplice { _ = try? engine.apply([.splice(.abortToSlow(id))]) }
        stopTimer()
        leaveServer()
        onOutcome(.serverLost(reason))
    }

    private func beginRestore(_ reason: String) {
        lossReason = reason
        state = .restoring
        drainStarted = engine.loop.now
        nextProbe = drainStarted + 3_000_000
        continueRestore()
    }

    /// ns that the client may take to say how far it got. Where it has less than was sent to it the rest is
    /// made again.
    private static let restoreMaximum: UInt64 = 12_000_000

    func continueRestore() {
        guard state == .restoring else { return }
        do {
            guard case .splice(let snapshot) = try engine.apply([.splice(.inspect(id))])[0] else {
                return
            }
            if snapshot.closeReason != nil {
                return end("reset by the client", reset: true)
            }
            let now = engine.loop.now
            if snapshot.client.acknowledged == snapshot.client.sentEnd
                || now - drainStarted > Self.restoreMaximum
            {
                return try restoreClient(snapshot)
            }
            if now > nextProbe {
                nextProbe = now + 3_000_000
                try engine.apply([.splice(.probe(id))])
            }
        } catch {
            return end("the client leg cannot be restored: \(error)", reset: true)
        }
        schedule(after: 500_000) { [weak self] in self?.continueRestore() }
    }

    private func restoreClient(_ snapshot: SpliceSnapshot) throws {
        // What was passed on without a gap is in the log: it need not be sent again by the client.
        let position = position(
            of: .client, snapshot, receiveNext: snapshot.client.followed)
        statistics.inFastPath = ResourceTraffic(snapshot)
        client.descriptor = try restore(.client, snapshot.client, position)
        client.base = position.receiveNext
        try engine.apply([.splice(.restoreClient(id, client: position))])
        relay.detachSpliced(
            position: snapshot.client.acknowledged - snapshot.serverDelta,
            clientRemaining: snapshot.client.nextHeader - snapshot.client.followed)
        if let server {
            engine.ports.release(
                address: server.local.address, port: server.local.port, now: engine.loop.now,
                quarantine: Self.portRest)
        }
        server = nil
        dropStandby()
        isEOF = [false, false]
        isShut = [false, false]
        isLeaving = false
        needsRelay = false
        isReplacing = true
        statistics.unsplices += 1
        stopTimer()
        state = .clientOnly
        watch(.client)
        onOutcome(.serverLost(lossReason))
    }
}
