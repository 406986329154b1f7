/// Positions change hands: from kernel sockets to the dataplane, and back.
extension Splicer {
    mutating func install<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ client: SocketPositions, _ server: SocketPositions,
        _ messages: SpliceMessages?, _ log: SessionLog?, output: inout Output, now: UInt64
    ) {
        side(id, .client).pointee.sequenceDelta = server.sendNext - client.receiveNext
        side(id, .server).pointee.sequenceDelta = client.sendNext - server.receiveNext
        takePositions(id, .client, client)
        takePositions(id, .server, server)
        if records[Int(id)].usesTimestamps {
            for which in SpliceSide.allCases {
                side(id, which).pointee.timestampDelta =
                    side(id, which.other).pointee.sentTimestamp
                    &- side(id, which).pointee.timestamp
            }
        }
        dropLog(id)
        if let messages {
            makeTrackers(id, messages, log, client: client, server: server)
        }
        let record = records + Int(id)
        record.pointee.splicedAt = now
        record.pointee.floorUntil = now &+ Self.floorTime
        record.pointee.heldMessageSide = nil
        record.pointee.serverLoss = nil
        record.pointee.state = .spliced
        announce(id, .client, client, output: &output, now: now)
        announce(id, .server, server, output: &output, now: now)
        pool.removeAll(of: &side(id, .client).pointee.kept)
        pool.removeAll(of: &side(id, .server).pointee.kept)
        releaseHeld(id, output: &output, now: now)
    }

    /// What the frozen socket says becomes what is known of the side.
    private mutating func takePositions(
        _ id: SpliceID, _ which: SpliceSide, _ positions: SocketPositions
    ) {
        let record = side(id, which)
        var end = positions.receiveNext
        if record.pointee.isSeen, record.pointee.receivedEnd.isAfter(end) {
            end = record.pointee.receivedEnd
        }
        record.pointee.receivedEnd = highestEnd(record.pointee.held, from: end)
        if !record.pointee.isSeen {
            record.pointee.receivedEnd = positions.receiveNext
            record.pointee.acknowledged = positions.sendNext
            record.pointee.windowUpdate = positions.receiveNext
            record.pointee.window = UInt16(
                truncatingIfNeeded: min(
                    65_535, positions.sendWindow >> UInt32(record.pointee.remoteScale)))
        }
        record.pointee.sentEnd = positions.sendNext
        record.pointee.sentAcknowledgement = positions.receiveNext
        record.pointee.isSent = true
        if records[Int(id)].usesTimestamps {
            // The kernel clears bit 0 when it reads; never below the newest that was sent.
            let next = positions.timestamp | 1
            let sent = record.pointee.sentTimestamp
            let isNewest = record.pointee.isTimestampSent && Int32(bitPattern: sent &- next) > 0
            record.pointee.sentTimestamp = isNewest ? sent : next
            record.pointee.isTimestampSent = true
        }
        record.pointee.announcedFloor = positions.receiveNext
        record.pointee.clampsAcknowledgement = false
        record.pointee.isCutoffValid = false
    }

    private func highestEnd(_ queue: FrameQueue, from start: SequenceNumber) -> SequenceNumber {
        var end = start
        var entry = pool.first(of: queue)
        while let (block, frame, _) = entry {
            var headers = PacketHeaders()
            if PacketHeaders.parse(frame, into: &headers) == nil,
                headers.transportOffset >= 0, headers.sequenceEnd.isAfter(end)
            {
                end = headers.sequenceEnd
            }
            entry = pool.next(after: block)
        }
        return end
    }

    private func makeTrackers(
        _ id: SpliceID, _ messages: SpliceMessages, _ log: SessionLog?, client: SocketPositions,
        server: SocketPositions
    ) {
        // Without rules there is nothing to put into it.
        let log = messages.requests == nil ? nil : log
        records[Int(id)].log = log.map { Unmanaged.passRetained($0) }
        dropTracker(side(id, .client))
        dropTracker(side(id, .server))
        let fromClient = UnsafeMutablePointer<MessageTracker>.allocate(capacity: 1)
        fromClient.initialize(
            to: MessageTracker(
                messages.format, edits: messages.clientEdits, holdKinds: messages.clientHoldKinds,
                holdRule: messages.clientHoldRule, routing: messages.clientRouting,
                nextHeader: client.receiveNext + messages.clientHeaderDistance,
                followed: client.receiveNext, log: log?.log, role: .client,
                handles: messages.clientHandles))
        side(id, .client).pointee.tracker = fromClient
        let fromServer = UnsafeMutablePointer<MessageTracker>.allocate(capacity: 1)
        fromServer.initialize(
            to: MessageTracker(
                messages.format, edits: messages.serverEdits, holdKinds: 0,
                nextHeader: server.receiveNext + messages.serverHeaderDistance, log: log?.log,
                role: .server))
        side(id, .server).pointee.tracker = fromServer
    }

    /// A pure acknowledgement with our position and the *other end's* window: nudges the end, and
    /// prevents a deadlock after a zero window.
    private mutating func announce<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, _ positions: SocketPositions, output: inout Output,
        now: UInt64
    ) {
        let record = side(id, which)
        let other = side(id, which.other)
        var window = UInt64(other.pointee.window) << UInt64(other.pointee.remoteScale)
        let edge = positions.receiveNext + UInt32(truncatingIfNeeded: window)
        let unit = UInt64(1) << UInt64(record.pointee.localScale)
        if edge.isBefore(record.pointee.receivedEnd) {
            window = UInt64(record.pointee.receivedEnd - positions.receiveNext) + unit - 1
        }
        let field = UInt16(truncatingIfNeeded: min(65_535, window / unit))
        record.pointee.sentWindow = field
        // What was promised before still holds.
        let told = positions.receiveNext + UInt32(field) << UInt32(record.pointee.localScale)
        if !record.pointee.isEdgeKnown || told.isAfter(record.pointee.sentEdge) {
            record.pointee.sentEdge = told
        }
        record.pointee.isEdgeKnown = true
        notePromise(id, which)
        guard record.pointee.remoteMAC != .zero else { return }
        make(
            id, to: which,
            MadeSegment(
                sequence: positions.sendNext, acknowledgement: positions.receiveNext,
                window: field, flags: TCPFlags.ack), output: &output, now: now)
    }

    mutating func finishToSlow<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ client: SocketPositions, _ server: SocketPositions,
        output: inout Output, now: UInt64
    ) {
        records[Int(id)].state = .slow
        records[Int(id)].floorUntil = now &+ Self.floorTime
        let positions = [client, server]
        for which in SpliceSide.allCases {
            handToSocket(id, which, positions[which.index], output: &output, now: now)
        }
        dropLog(id)
        releaseHeld(id, output: &output, now: now)
        for which in SpliceSide.allCases where side(id, which).pointee.hasFIN {
            // The socket starts before the FIN, which is played again.
            let record = side(id, which)
            makeForSocket(
                id, from: which,
                MadeSegment(
                    sequence: record.pointee.finSequence,
                    acknowledgement: positions[which.index].sendNext,
                    window: record.pointee.window, flags: TCPFlags.fin | TCPFlags.ack),
                output: &output, now: now)
        }
    }

    /// One end talks to a kernel socket again, which starts at `position`.
    mutating func handToSocket<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, _ position: SocketPositions, output: inout Output,
        now: UInt64
    ) {
        let record = side(id, which)
        joinGapToHeld(record)
        dropTracker(record)
        records[Int(id)].heldMessageSide = nil
        record.pointee.sentEnd = position.sendNext
        record.pointee.clampsAcknowledgement = true
        record.pointee.acknowledgementFloor = position.sendNext
        record.pointee.isCutoffValid = false
        let unit = UInt32(1) << UInt32(record.pointee.localScale)
        let window = min(65_535, (position.receiveWindow &+ unit &- 1) / unit)
        make(
            id, to: which,
            MadeSegment(
                sequence: position.sendNext, acknowledgement: position.receiveNext,
                window: UInt16(truncatingIfNeeded: window), flags: TCPFlags.ack),
            output: &output, now: now)
    }
}
