import DataPlane
import Logging

/// From a splice in the dataplane to two kernel sockets.
extension Redirect {
    func beginUnsplice() {
        guard state == .spliced, !isClosedByPeer else { return }
        let first: SpliceSnapshot
        do {
            // At once: each question to the dataplane is two changes of thread, milliseconds on a busy machine.
            let results = try engine.apply([
                .splice(.beginDrainToSlow(id)), .splice(.inspect(id)),
            ])
            guard case .splice(let snapshot) = results[1] else { return }
            // A session that is closing stays where it is.
            let isClosing =
                snapshot.closeReason != nil || snapshot.client.hasFIN || snapshot.server.hasFIN
            guard !isClosing, snapshot.client.isKnown, snapshot.server.isKnown else {
                try engine.apply([.splice(.abortToSpliced(id))])
                if isClosing { return }
                return schedule(after: 1_000_000) { [weak self] in self?.beginUnsplice() }
            }
            first = snapshot
        } catch {
            return engine.log.error("session \(id): cannot start to unsplice: \(error)")
        }
        state = .drainingToRelay
        drainStarted = engine.loop.now
        nextProbe = drainStarted + 2_000_000
        continueUnsplice(first)
    }

    /// One look at a splice that is being emptied.
    func continueUnsplice(_ known: SpliceSnapshot? = nil) {
        guard state == .drainingToRelay else { return }
        do {
            guard let snapshot = try known ?? inspect() else { return }
            // The event with its reason is on its way.
            if snapshot.state == .serverLost { return }
            if snapshot.closeReason != nil || snapshot.client.hasFIN || snapshot.server.hasFIN {
                try engine.apply([.splice(.abortToSpliced(id))])
                state = .spliced
                return
            }
            if snapshot.isQuiet { return try finishUnsplice() }
            let now = engine.loop.now
            if now - drainStarted > engine.drainMaximum {
                statistics.unspliceGiveUps += 1
                try engine.apply([.splice(.abortToSpliced(id))])
                state = .spliced
                return schedule(after: engine.drainBackoff()) { [weak self] in
                    guard let self, !wantsSplice || needsRelay || isLeaving else { return }
                    beginUnsplice()
                }
            }
            if now > nextProbe {
                nextProbe = now + 5_000_000
                try engine.apply([.splice(.probe(id))])
            }
        } catch {
            // The server may have been lost between the look and the command: its event is on its way.
            if isServerLost { return }
            return end("unsplice: \(error)", reset: true)
        }
        schedule(after: 500_000) { [weak self] in self?.continueUnsplice() }
    }

    private func inspect() throws(BatchError) -> SpliceSnapshot? {
        guard case .splice(let snapshot) = try engine.apply([.splice(.inspect(id))])[0] else {
            return nil
        }
        return snapshot
    }

    private var isServerLost: Bool {
        guard case .splice(let snapshot)? = try? engine.apply([.splice(.inspect(id))]).first else {
            return false
        }
        return snapshot.state == .serverLost
    }

    /// A message is held that only the control plane can answer: back to the relay, then splice again.
    func messageHeld() {
        needsRelay = true
        if state == .spliced { beginUnsplice() }
    }

    private func finishUnsplice() throws {
        let results = try engine.apply([.splice(.hold(id)), .splice(.inspect(id))])
        guard case .splice(let snapshot) = results[1] else { return }
        guard snapshot.isQuiet, !snapshot.client.hasFIN, !snapshot.server.hasFIN,
            snapshot.closeReason == nil
        else {
            try engine.apply([.splice(.abortToSpliced(id))])
            state = .spliced
            return schedule(after: engine.drainBackoff()) { [weak self] in
                guard let self, !wantsSplice || needsRelay || isLeaving else { return }
                beginUnsplice()
            }
        }
        let started = engine.loop.clock()
        let positions = SpliceSide.allCases.map { position(of: $0, snapshot) }
        do {
            for side in SpliceSide.allCases {
                let descriptor = try restore(side, snapshot[side], positions[side.index])
                if side == .client {
                    client.descriptor = descriptor
                    client.base = positions[0].receiveNext
                } else {
                    server?.descriptor = descriptor
                    server?.base = positions[1].receiveNext
                }
            }
        } catch {
            // Without both sockets the session goes on where it is.
            engine.log.error("session \(id): cannot restore a socket: \(error)")
            if client.descriptor >= 0 { TCPRepair.closeSilentlyAgain(client.descriptor) }
            client.descriptor = -1
            try engine.apply([.splice(.abortToSpliced(id))])
            state = .spliced
            return schedule(after: 1_000_000_000) { [weak self] in
                guard let self, !wantsSplice || needsRelay || isLeaving else { return }
                beginUnsplice()
            }
        }
        try engine.apply([
            .splice(.finishToSlow(id, client: positions[0], server: positions[1]))
        ])
        statistics.inFastPath = ResourceTraffic(snapshot)
        relay.resume(
            position: positions[1].receiveNext,
            clientHeaderDistance: snapshot.client.headerDistance,
            serverHeaderDistance: snapshot.server.headerDistance)
        isEOF = [false, false]
        isShut = [false, false]
        needsRelay = false
        statistics.unsplices += 1
        statistics.addFreeze(engine.loop.clock() - started)
        statistics.longestDrain = max(statistics.longestDrain, started - drainStarted)
        state = .relaying
        stopTimer()
        watch(.client)
        watch(.server)
        engine.changed(self)
        pump()
    }

    /// Where a kernel socket for the side must start.
    func position(
        of side: SpliceSide, _ snapshot: SpliceSnapshot, receiveNext: SequenceNumber? = nil
    ) -> SocketPositions {
        let own = snapshot[side]
        let other = snapshot[side.other]
        let delta = side == .client ? snapshot.clientDelta : snapshot.serverDelta
        // What we have told this end is acknowledged: the other end's newest, translated.
        let receiveNext = receiveNext ?? other.acknowledged - delta
        let room = Int32(bitPattern: own.sentEdge - receiveNext)
        let receiveWindow = room < 0 ? 0 : UInt32(room)
        let sendWindow = UInt32(own.window) << UInt32(own.remoteScale)
        // The kernel refuses a WL1 beyond the receive window.
        let isBeyond = own.windowUpdate.isAfter(receiveNext + receiveWindow)
        return SocketPositions(
            receiveNext: receiveNext, sendNext: own.acknowledged, sendWindow: sendWindow,
            sendWL1: (isBeyond ? receiveNext : own.windowUpdate).rawValue,
            maximumWindow: max(65_535, sendWindow), receiveWindow: receiveWindow,
            receiveWindowUpdate: receiveNext.rawValue, timestamp: own.sentTimestamp)
    }

    func restore(
        _ side: SpliceSide, _ snapshot: SpliceSideSnapshot, _ positions: SocketPositions
    ) throws(SystemCallError) -> Int32 {
        guard let leg = leg(side) else {
            throw SystemCallError(function: "restore", errno: 107, context: "no leg")
        }
        var positions = positions
        // Bit 0 would switch the socket to microsecond timestamps.
        positions.timestamp = (snapshot.sentTimestamp &+ 2) & ~1
        return try TCPRepair.restore(
            RepairSpecification(
                local: leg.local, remote: leg.remote, positions: positions,
                maximumSegment: client.maximumSegment, remoteScale: snapshot.remoteScale,
                localScale: snapshot.localScale, usesSACK: client.usesSACK,
                usesTimestamps: client.usesTimestamps,
                device: side == .client ? engine.clientDevice : engine.storageDevice))
    }
}
