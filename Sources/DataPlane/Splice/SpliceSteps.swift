// The steps of a splice's life, as the control plane commands them.

extension Splicer {
    /// Does a checked command.
    mutating func apply<Output: FrameOutput & ~Copyable>(
        _ command: SpliceCommand, flows: inout FlowTable, output: inout Output, now: UInt64
    ) -> CommandResult {
        switch command {
        case .open(let id, let leg, let timestamps, let sack):
            records[Int(id)] = SpliceRecord()
            activate(id)
            records[Int(id)].state = .slow
            records[Int(id)].usesTimestamps = timestamps
            records[Int(id)].usesSACK = sack
            attach(id, .client, leg, flows: &flows)
        case .attachServer(let id, let leg):
            forgetServer(id, flows: &flows)
            attach(id, .server, leg, flows: &flows)
        case .updateLeg(let id, let which, let remote, let local, let received):
            updateLeg(id, which, remoteScale: remote, localScale: local, received: received)
        case .beginDrainToSplice(let id): beginDrain(id, .drainToSplice, output: &output, now: now)
        case .beginDrainToSlow(let id): beginDrain(id, .drainToSlow, output: &output, now: now)
        case .probe(let id):
            probe(id, .client, output: &output, now: now)
            // A server that was lost is not asked any more.
            if records[Int(id)].state != .serverLost {
                probe(id, .server, output: &output, now: now)
            }
        case .hold(let id): records[Int(id)].state = .hold
        case .resumeDrain(let id):
            records[Int(id)].state = .drainToSplice
            sendKept(id, output: &output, now: now)
            releaseHeld(id, output: &output, now: now)
        case .abortToSlow(let id): leaveDrain(id, .slow, output: &output, now: now)
        case .abortToSpliced(let id): leaveDrain(id, .spliced, output: &output, now: now)
        case .install(let id, let client, let server, let messages, let log):
            install(id, client, server, messages, log, output: &output, now: now)
        case .finishToSlow(let id, let client, let server):
            finishToSlow(id, client, server, output: &output, now: now)
        case .loseServer(let id): loseServer(id, output: &output, now: now)
        case .restoreClient(let id, let client):
            restoreClient(id, client, flows: &flows, output: &output, now: now)
        case .setRequestDeadline(let id, let time): records[Int(id)].requestDeadline = time
        case .inspect(let id):
            records[Int(id)].isProgressPending = false
            return .splice(snapshot(id))
        case .close(let id): close(id, flows: &flows, output: &output, now: now)
        case .setTimeouts(let id, let idle, let keepAlive):
            records[Int(id)].idleTimeout = UInt64(idle) * 1_000_000_000
            records[Int(id)].keepAliveTime = UInt64(keepAlive) * 1_000_000_000
        }
        return .done
    }

    private mutating func attach(
        _ id: SpliceID, _ which: SpliceSide, _ leg: SpliceLeg, flows: inout FlowTable
    ) {
        let record = side(id, which)
        setAddresses(&record.pointee, leg)
        record.pointee.remoteScale = leg.remoteScale
        record.pointee.localScale = leg.localScale
        record.pointee.remoteBase = leg.remoteBase
        record.pointee.stripTimestamps = leg.stripTimestamps
        record.pointee.stripSACK = leg.stripSACK
        // The keys were checked to be free and the table to have room.
        _ = bind(id, which, flows: &flows)
    }

    /// The server leg is gone; what it counted belongs to the session.
    private mutating func forgetServer(_ id: SpliceID, flows: inout FlowTable) {
        let record = side(id, .server)
        let (packets, bytes) = (record.pointee.packets, record.pointee.bytes)
        unbind(id, .server, flows: &flows)
        clearSide(id, .server)
        record.pointee.packets = packets
        record.pointee.bytes = bytes
    }

    private func updateLeg(
        _ id: SpliceID, _ which: SpliceSide, remoteScale: UInt8, localScale: UInt8,
        received: (base: SequenceNumber, end: SequenceNumber)?
    ) {
        let record = side(id, which)
        record.pointee.remoteScale = min(14, remoteScale)
        record.pointee.localScale = min(14, localScale)
        guard let received else { return }
        record.pointee.remoteBase = received.base
        if !record.pointee.isSeen {
            record.pointee.receivedEnd = received.end
            record.pointee.isEndValid = true
        }
    }

    // MARK: Drains

    private mutating func beginDrain<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ state: SpliceState, output: inout Output, now: UInt64
    ) {
        for which in SpliceSide.allCases {
            let record = side(id, which)
            if state == .drainToSplice {
                record.pointee.cutoff = record.pointee.receivedEnd
                record.pointee.isCutoffValid =
                    record.pointee.isSeen || record.pointee.isEndValid
            } else {
                // What was forwarded: with messages tracked, some that was received waits for more.
                record.pointee.cutoff =
                    side(id, which.other).pointee.sentEnd - record.pointee.sequenceDelta
                record.pointee.isCutoffValid = true
            }
        }
        records[Int(id)].state = state
        probe(id, .client, output: &output, now: now)
        probe(id, .server, output: &output, now: now)
    }

    private mutating func leaveDrain<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ state: SpliceState, output: inout Output, now: UInt64
    ) {
        records[Int(id)].state = state
        side(id, .client).pointee.isCutoffValid = false
        side(id, .server).pointee.isCutoffValid = false
        if state == .slow { sendKept(id, output: &output, now: now) }
        releaseHeld(id, output: &output, now: now)
    }

    /// Everything forwarded up to the cut-offs is acknowledged, both ways, and message boundaries are
    /// known at both positions.
    func isQuiet(_ id: SpliceID) -> Bool {
        for which in SpliceSide.allCases {
            let record = side(id, which)
            let wanted = record.pointee.cutoff + record.pointee.sequenceDelta
            if side(id, which.other).pointee.acknowledged.isBefore(wanted) { return false }
            if let tracker = record.pointee.tracker,
                tracker.pointee.nextHeader.isBefore(record.pointee.cutoff)
            {
                return false
            }
        }
        return true
    }

    // MARK: Queues

    /// Kernel packets of an undone freeze go out after all.
    private mutating func sendKept<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, output: inout Output, now: UInt64
    ) {
        for which in SpliceSide.allCases {
            let record = side(id, which)
            while let (_, frame, _) = pool.first(of: record.pointee.kept) {
                var headers = PacketHeaders()
                let port = egress(record, output)
                if PacketHeaders.parse(frame, into: &headers) == nil, port != 0 {
                    trackSent(record, headers, now: now)
                    output.transmit(frame, to: port, now: now)
                    output.flush(now: now)
                }
                pool.removeFirst(of: &record.pointee.kept)
            }
        }
    }

    /// Hands everything that waits to the state that the splice is in now.
    mutating func releaseHeld<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, output: inout Output, now: UInt64
    ) {
        for which in SpliceSide.allCases {
            let record = side(id, which)
            // Taken out whole: what must still wait is queued anew, not met again here.
            var waiting = record.pointee.held
            record.pointee.held = FrameQueue()
            while let (_, frame, ingress) = pool.first(of: waiting) {
                var headers = PacketHeaders()
                if PacketHeaders.parse(frame, into: &headers) == nil {
                    let disposition = processFromEnd(
                        id, which, frame: frame, headers: &headers, ingress: ingress,
                        isRelease: true, output: &output, now: now)
                    if case .dropped(let reason) = disposition { output.count(reason) }
                    counters.released &+= 1
                }
                output.flush(now: now)
                pool.removeFirst(of: &waiting)
            }
        }
    }

    /// The gap queue goes in front of the held packets: it is older.
    mutating func joinGapToHeld(_ record: UnsafeMutablePointer<SpliceSideRecord>) {
        var joined = record.pointee.gap
        pool.join(record.pointee.held, to: &joined)
        record.pointee.gap = FrameQueue()
        record.pointee.held = joined
    }

    // MARK: The server is lost

    /// From now on nothing goes to the server; what the client sends waits for a socket. The client is
    /// asked for its exact position.
    mutating func loseServer<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, output: inout Output, now: UInt64
    ) {
        records[Int(id)].state = .serverLost
        side(id, .client).pointee.isCutoffValid = false
        let server = side(id, .server)
        server.pointee.isCutoffValid = false
        pool.removeAll(of: &server.pointee.held)
        pool.removeAll(of: &server.pointee.gap)
        pool.removeAll(of: &server.pointee.kept)
        probe(id, .client, output: &output, now: now)
    }

    /// The same, found by the dataplane.
    mutating func serverIsLost<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ loss: SpliceServerLoss, output: inout Output, now: UInt64
    ) {
        loseServer(id, output: &output, now: now)
        records[Int(id)].serverLoss = loss
        records[Int(id)].hasUnsaid = !output.emit(.spliceServerLost(id, loss))
    }

    private mutating func restoreClient<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ client: SocketPositions, flows: inout FlowTable, output: inout Output,
        now: UInt64
    ) {
        let server = side(id, .server)
        if records[Int(id)].serverLoss != .reset {
            // RFC 9293 section 3.10.7.4: it must be at the place that the server expects.
            make(
                id, to: .server,
                MadeSegment(
                    sequence: server.pointee.acknowledged,
                    acknowledgement: server.pointee.sentAcknowledgement, window: 0,
                    flags: TCPFlags.rst | TCPFlags.ack), output: &output, now: now)
        }
        output.flush(now: now)
        forgetServer(id, flows: &flows)
        records[Int(id)].state = .slow
        records[Int(id)].floorUntil = now &+ Self.floorTime
        handToSocket(id, .client, client, output: &output, now: now)
        dropLog(id)
        releaseHeld(id, output: &output, now: now)
        let record = side(id, .client)
        if record.pointee.hasFIN {
            makeForSocket(
                id, from: .client,
                MadeSegment(
                    sequence: record.pointee.finSequence, acknowledgement: client.sendNext,
                    window: record.pointee.window, flags: TCPFlags.fin | TCPFlags.ack),
                output: &output, now: now)
        }
    }

    // MARK: End

    private mutating func close<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, flows: inout FlowTable, output: inout Output, now: UInt64
    ) {
        let record = records + Int(id)
        switch record.pointee.state {
        case .slow, .drainToSplice:
            // The sockets are the kernel's: it ends them by itself.
            record.pointee.state = .slow
            releaseHeld(id, output: &output, now: now)
            release(id, flows: &flows)
            return
        case .spliced where record.pointee.isEndedByPeers:
            // Late packets of both ends are still translated for a while.
            break
        case .spliced, .drainToSlow, .hold, .serverLost:
            for which in SpliceSide.allCases {
                let end = side(id, which)
                make(
                    id, to: which,
                    MadeSegment(
                        sequence: end.pointee.acknowledged,
                        acknowledgement: end.pointee.sentAcknowledgement, window: 0,
                        flags: TCPFlags.rst | TCPFlags.ack), output: &output, now: now)
            }
            record.pointee.state = .closed
        case .closed, .free: break
        }
        record.pointee.retireAt = now &+ Self.lingerTime
    }

    // MARK: Reading

    func snapshot(_ id: SpliceID) -> SpliceSnapshot {
        var result = SpliceSnapshot()
        let record = records[Int(id)]
        result.id = id
        result.state = record.state
        result.closeReason = record.closeReason
        result.isQuiet = isQuiet(id)
        result.clientDelta = side(id, .client).pointee.sequenceDelta
        result.serverDelta = side(id, .server).pointee.sequenceDelta
        result.client = snapshot(id, .client)
        result.server = snapshot(id, .server)
        return result
    }

    private func snapshot(_ id: SpliceID, _ which: SpliceSide) -> SpliceSideSnapshot {
        let record = side(id, which).pointee
        var result = SpliceSideSnapshot()
        result.isKnown = record.isSeen
        result.base = record.remoteBase
        result.receivedEnd = record.receivedEnd
        result.acknowledged = record.acknowledged
        result.window = record.window
        result.windowUpdate = record.windowUpdate
        result.cutoff = record.cutoff
        result.isCutoffValid = record.isCutoffValid
        result.hasFIN = record.hasFIN
        result.finSequence = record.finSequence
        result.sentEnd = record.sentEnd
        result.sentAcknowledgement = record.sentAcknowledgement
        result.sentEdge = record.sentEdge
        result.sentTimestamp = record.sentTimestamp
        result.remoteScale = record.remoteScale
        result.localScale = record.localScale
        result.heldPackets = record.held.count &+ record.gap.count
        result.packets = record.packets
        result.bytes = record.bytes
        result.lastData = record.lastData
        result.remoteMAC = record.remoteMAC
        result.port = record.port
        if let tracker = record.tracker {
            let position =
                side(id, which.other).pointee.acknowledged - record.sequenceDelta
            result.headerDistance = tracker.pointee.nextHeader - position
            result.nextHeader = tracker.pointee.nextHeader
            result.followed = tracker.pointee.followed
        }
        return result
    }
}
