import DataPlane

/// From two kernel sockets to a splice in the dataplane.
extension Redirect {
    /// Says whether the session should be in the dataplane; it gets there, or back, as soon as it can.
    func setWantsSplice(_ wanted: Bool) {
        wantsSplice = wanted
        switch (state, wanted) {
        case (.relaying, true): scheduleFirstSplice()
        case (.drainingToSplice, false): giveUpSplice(retryAfter: nil)
        case (.spliced, false): beginUnsplice()
        case (.drainingToRelay, true): break  // it finishes and comes back
        default: break
        }
    }

    func stopTimer() {
        timer?.cancel()
        timer = nil
    }

    func schedule(after delay: UInt64, _ body: @escaping () -> Void) {
        timer?.cancel()
        timer = engine.loop.schedule(after: delay) { [weak self] in
            self?.timer = nil
            body()
        }
    }

    private func scheduleSplice(after delay: UInt64) {
        schedule(after: delay) { [weak self] in self?.beginSplice() }
    }

    /// ns that requests which were held, or are done again, have before the splice.
    private static let replacedSettleTime: UInt64 = 50_000_000

    func scheduleFirstSplice() {
        // What waited for a new server must not wait for the drain as well.
        let settle = isReplacing ? max(settleTime, Self.replacedSettleTime) : settleTime
        let start = connectedAt + settle
        let now = engine.loop.now
        scheduleSplice(after: start > now ? start - now : 0)
    }

    private func beginSplice() {
        // Not before the relay is through with the server: until then it may still be given up.
        guard state == .relaying, wantsSplice, !isLeaving, server != nil, !isEOF[0], !isEOF[1],
            relay.wantsClientInput
        else { return }
        // The drain holds back what comes from now on: it must not wait for anything but what is here. What
        // makes this true is pumped, and brings us here again.
        guard relay.isSettled, output.toClient.isEmpty, output.toServer.isEmpty else { return }
        do {
            guard case .splice(let snapshot) = try engine.apply([.splice(.inspect(id))])[0] else {
                return
            }
            // The end's timestamps and MAC address are learned from its packets: without one, its
            // next packet or the server's first comes through the relay and brings us here again.
            guard snapshot.client.isKnown, snapshot.server.isKnown else { return }
            if !isServerBaseKnown {
                server?.base = snapshot.server.base
                isServerBaseKnown = true
            }
            // While the kernel waits for a hole to be filled, a drain would last until the sender's
            // retransmission time-out.
            if try hasHole(snapshot), holeSkips < 2_000 {
                holeSkips += 1
                return scheduleSplice(after: 1_000_000)
            }
            holeSkips = 0
            _ = try engine.apply([.splice(.beginDrainToSplice(id))])
        } catch {
            return end("cannot start a splice: \(error)", reset: true)
        }
        state = .drainingToSplice
        drainStarted = engine.loop.now
        nextProbe = drainStarted + 2_000_000
        freezeRetries = 0
        continueSplice()
    }

    /// What a kernel socket has received, in sequence space.
    func received(_ leg: Leg) throws(SystemCallError) -> SequenceNumber {
        let info = try TCPInfo(descriptor: leg.descriptor)
        return leg.base + UInt32(truncatingIfNeeded: info.bytesReceived)
    }

    private func hasHole(_ snapshot: SpliceSnapshot) throws(SystemCallError) -> Bool {
        for side in SpliceSide.allCases where snapshot[side].isKnown {
            guard let leg = leg(side) else { continue }
            if try received(leg).isBefore(snapshot[side].receivedEnd) { return true }
        }
        return false
    }

    /// One look at a draining splice; comes back by packets (`spliceProgress`) and by a timer.
    func continueSplice() {
        guard state == .drainingToSplice else { return }
        pump()
        guard state == .drainingToSplice else { return }
        if isEOF[0] || isEOF[1] { return giveUpSplice(retryAfter: nil) }
        do {
            if try trySplice() { return }
        } catch {
            // Out of repair mode, in which a close says nothing to the ends.
            for case let descriptor? in [client.descriptor, server?.descriptor]
            where descriptor >= 0 {
                try? TCPRepair.thaw(descriptor)
            }
            return end("splice: \(error)", reset: true)
        }
        guard state == .drainingToSplice else { return }
        let now = engine.loop.now
        if now - drainStarted > engine.drainMaximum {
            return giveUpSplice(retryAfter: engine.drainBackoff())
        }
        if now > nextProbe {
            nextProbe = now + 5_000_000
            _ = try? engine.apply([.splice(.probe(id))])
        }
        schedule(after: 500_000) { [weak self] in self?.continueSplice() }
    }

    func giveUpSplice(retryAfter delay: UInt64?) {
        undoDrainToSplice()
        if let delay, wantsSplice { scheduleSplice(after: delay) }
        pump()
    }

    /// The sockets get what was held; nothing is read from them yet.
    func undoDrainToSplice() {
        statistics.spliceGiveUps += 1
        _ = try? engine.apply([.splice(.abortToSlow(id))])
        state = .relaying
        stopTimer()
    }

    /// Nothing is left in our own hands: buffers, receive and send queues, holes.
    private func isDrained(_ snapshot: SpliceSnapshot) throws(SystemCallError) -> Bool {
        guard relay.isAtRest, output.toClient.isEmpty, output.toServer.isEmpty else {
            return false
        }
        for side in SpliceSide.allCases {
            guard let leg = leg(side) else { return false }
            guard try Socket.receiveQueue(leg.descriptor) == 0,
                try Socket.sendQueue(leg.descriptor) == 0
            else { return false }
            guard freezeRetries < 50, snapshot[side].isCutoffValid else { continue }
            if try received(leg).isBefore(snapshot[side].cutoff) { return false }
        }
        return true
    }

    private func trySplice() throws -> Bool {
        guard let server, case .splice(let snapshot) = try engine.apply([.splice(.inspect(id))])[0],
            try isDrained(snapshot)
        else { return false }
        let started = engine.loop.now
        try engine.apply([.splice(.hold(id))])
        let positions = [
            try TCPRepair.freeze(client.descriptor, timestamps: client.usesTimestamps),
            try TCPRepair.freeze(server.descriptor, timestamps: client.usesTimestamps),
        ]
        // Input may have come between the look and the freeze: the kernel must own nothing that an end
        // may think delivered.
        guard case .splice(let held) = try engine.apply([.splice(.inspect(id))])[0],
            try isStillDrained(held, positions)
        else {
            try TCPRepair.thaw(client.descriptor)
            try TCPRepair.thaw(server.descriptor)
            try engine.apply([.splice(.resumeDrain(id))])
            freezeRetries += 1
            return false
        }
        // The other end has no room for what is held.
        for side in SpliceSide.allCases
        where held[side].heldPackets > 0 && positions[side.other.index].sendWindow < 2_920 {
            try TCPRepair.thaw(client.descriptor)
            try TCPRepair.thaw(server.descriptor)
            giveUpSplice(retryAfter: engine.drainBackoff())
            return true
        }
        // The log is the dataplane's from here on.
        relay.spliced(at: positions[1].receiveNext)
        try engine.apply([
            .splice(
                .install(
                    id, client: positions[0], server: positions[1], messages: relay.messages,
                    log: relay.log)),
            .splice(.setRequestDeadline(id, requestDeadline())),
        ])
        for leg in [client, server] {
            engine.loop.unregister(leg.descriptor)
            TCPRepair.closeSilently(leg.descriptor)
        }
        client.descriptor = -1
        self.server?.descriptor = -1
        output = RelayOutput()
        stopTimer()
        statistics.splices += 1
        statistics.addFreeze(engine.loop.clock() - started)
        statistics.longestDrain = max(statistics.longestDrain, started - drainStarted)
        state = .spliced
        engine.changed(self)
        if !wantsSplice || isLeaving { beginUnsplice() }
        return true
    }

    private func isStillDrained(
        _ snapshot: SpliceSnapshot, _ positions: [SocketPositions]
    ) throws(SystemCallError) -> Bool {
        for side in SpliceSide.allCases {
            guard let leg = leg(side) else { return false }
            guard try Socket.receiveQueue(leg.descriptor) == 0,
                try Socket.sendQueue(leg.descriptor) == 0,
                try TCPInfo(descriptor: leg.descriptor).isEstablished
            else { return false }
            if snapshot[side].isCutoffValid,
                positions[side.index].receiveNext.isBefore(snapshot[side].cutoff)
            {
                return false
            }
        }
        return true
    }
}
