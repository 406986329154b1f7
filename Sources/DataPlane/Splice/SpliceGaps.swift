// Message tracking in the spliced state: edits, and packets that must wait because a gap in the stream, or
// the end of a packet, hides a message header.

extension Splicer {
    enum Passage {
        case forward
        /// Only the first octets may go; the rest waits. 0: nothing. `isGap`: octets before it are missing.
        case part(Int, isGap: Bool)
        case drop(DropReason)
    }

    /// Lets the side's tracker see the payload and edit it.
    func followMessages(
        _ id: SpliceID, _ which: SpliceSide, frame: Frame, headers: PacketHeaders,
        payload: inout UInt32, now: UInt64
    ) -> Passage {
        guard let tracker = side(id, which).pointee.tracker else { return .forward }
        tracker.pointee.acknowledged(
            side(id, which.other).pointee.acknowledged
                - side(id, which).pointee.sequenceDelta)
        if let log = records[Int(id)].log {
            // What the client has acknowledged need not be said to it again.
            let position =
                side(id, .client).pointee.acknowledged - side(id, .server).pointee.sequenceDelta
            log._withUnsafeGuaranteedRef { $0.log.pointee.acknowledged(position) }
        }
        var delta = PayloadDelta()
        let verdict = tracker.pointee.inspect(
            payload: frame.start + Int(headers.payloadOffset), length: Int(headers.payloadLength),
            sequence: headers.sequence, delta: &delta, now: now)
        payload = fold(delta.sum)
        switch verdict {
        case .forward: return .forward
        case .forwardPrefix(let count): return .part(count, isGap: false)
        case .hold: return .part(0, isGap: !tracker.pointee.isKindHeld)
        case .malformed: return .drop(.messageMalformed)
        }
    }

    /// Sends the part of a packet that may go and queues the rest.
    mutating func forwardPart<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, _ count: Int, isGap: Bool, frame: Frame,
        headers: PacketHeaders, ingress: PortNumber, output: inout Output, now: UInt64
    ) -> SpliceDisposition {
        let record = side(id, which)
        let hadGap = !record.pointee.gap.isEmpty
        // RFC 5681 section 3.1: after a retransmission time-out a sender has one segment on its way. When it ends
        // within a header nobody acknowledges that end, and the rest never comes: a socket must take it.
        if record.pointee.tracker?.pointee.isRepeated == true {
            reportHeldMessage(id, which, output: &output)
        }
        let rest = slice(
            frame, headers, offset: count, count: Int(headers.payloadLength) - count,
            into: output.scratch(now: now))
        guard record.pointee.gap.count < Self.gapFramesMaximum,
            record.pointee.gap.bytes < Self.heldBytesMaximum,
            pool.insert(
                rest, ingress: ingress,
                sequence: headers.sequence + UInt32(truncatingIfNeeded: count),
                to: &record.pointee.gap)
        else { return .dropped(.messageHoldFull) }
        counters.gapHolds &+= 1
        // What the packet says besides its payload goes on in any case.
        let part = slice(frame, headers, offset: 0, count: count, into: output.scratch(now: now))
        var partHeaders = PacketHeaders()
        if PacketHeaders.parse(part, into: &partHeaders) == nil {
            _ = transmitTranslated(
                id, which, frame: part, headers: &partHeaders, payload: 0, output: &output,
                now: now)
        }
        // A part of a header may be what those behind waited for, though nothing of it can go yet.
        if hadGap, count > 0 || !isGap { releaseGap(id, which, output: &output, now: now) }
        reportIfKindHeld(id, which, output: &output)
        if isGap {
            acknowledgeGap(id, which, headers, output: &output, now: now)
        }
        return .held
    }

    private enum Offer {
        /// Octets went on, or the packet is no good: its memory is free again.
        case taken
        /// The end of a header is missing, or a held message is in front: later packets may go on.
        case waits
        /// Octets in front of it are missing, and so in front of all behind it.
        case blocked
    }

    /// Offers what waits to the tracker again, in the order of the stream, as long as something goes on:
    /// two rounds, mostly, since each goes as far as the next gap.
    mutating func releaseGap<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, output: inout Output, now: UInt64
    ) {
        let record = side(id, which)
        var isProgressing = true
        while isProgressing, !record.pointee.gap.isEmpty {
            isProgressing = false
            var waiting = record.pointee.gap
            record.pointee.gap = FrameQueue()
            round: while !waiting.isEmpty {
                switch offerFirst(of: waiting, id, which, output: &output, now: now) {
                case .taken:
                    isProgressing = true
                    // The frame's memory goes back: nothing queued may still point to it.
                    output.flush(now: now)
                    pool.removeFirst(of: &waiting)
                case .waits: pool.moveFirst(of: &waiting, to: &record.pointee.gap)
                case .blocked: break round
                }
            }
            pool.join(waiting, to: &record.pointee.gap)
        }
        reportIfKindHeld(id, which, output: &output)
    }

    private mutating func offerFirst<Output: FrameOutput & ~Copyable>(
        of queue: FrameQueue, _ id: SpliceID, _ which: SpliceSide, output: inout Output,
        now: UInt64
    ) -> Offer {
        let record = side(id, which)
        guard let (_, frame, ingress) = pool.first(of: queue) else { return .blocked }
        var headers = PacketHeaders()
        guard PacketHeaders.parse(frame, into: &headers) == nil else { return .taken }
        // The retransmission that filled the gap went ahead of it.
        refresh(record, frame, &headers)
        var payload: UInt32 = 0
        switch followMessages(
            id, which, frame: frame, headers: headers, payload: &payload, now: now)
        {
        case .forward:
            _ = transmitTranslated(
                id, which, frame: frame, headers: &headers, payload: payload, output: &output,
                now: now)
            counters.released &+= 1
            return .taken
        case .part(0, let isGap): return isGap ? .blocked : .waits
        case .part(let count, _):
            let rest = slice(
                frame, headers, offset: count, count: Int(headers.payloadLength) - count,
                into: output.scratch(now: now))
            if !pool.insert(
                rest, ingress: ingress,
                sequence: headers.sequence + UInt32(truncatingIfNeeded: count),
                to: &record.pointee.gap)
            {
                output.count(.messageHoldFull)
            }
            let part = slice(
                frame, headers, offset: 0, count: count, into: output.scratch(now: now))
            var partHeaders = PacketHeaders()
            if PacketHeaders.parse(part, into: &partHeaders) == nil {
                _ = transmitTranslated(
                    id, which, frame: part, headers: &partHeaders, payload: 0,
                    output: &output, now: now)
            }
            return .taken
        case .drop(let reason):
            output.count(reason)
            return .taken
        }
    }

    private mutating func reportIfKindHeld<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, output: inout Output
    ) {
        guard side(id, which).pointee.tracker?.pointee.isKindHeld == true else { return }
        reportHeldMessage(id, which, output: &output)
    }

    /// Once for each time that the session is spliced: it will not be for long.
    private mutating func reportHeldMessage<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, output: inout Output
    ) {
        guard records[Int(id)].heldMessageSide == nil else { return }
        records[Int(id)].heldMessageSide = which
        if !output.emit(.spliceMessageHeld(id, side: which)) {
            records[Int(id)].hasUnsaid = true
        }
    }

    /// A later fragment of a datagram whose first fragment went to this splice.
    mutating func processFragment<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, side which: SpliceSide, frame: Frame, headers: PacketHeaders,
        output: inout Output, now: UInt64
    ) -> SpliceDisposition {
        guard isOpen(id) else { return .dropped(.spliceUnknown) }
        let record = side(id, which)
        switch records[Int(id)].state {
        case .slow:
            output.transmitToCPU(frame, domain: record.pointee.domain, now: now)
            return .toCPU
        case .spliced where record.pointee.tracker == nil:
            return forwardFragment(
                id, which, frame: frame, headers: headers, output: &output, now: now)
        default: return .dropped(.fragmentTooSmall)
        }
    }

    private mutating func forwardFragment<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, frame: Frame, headers: PacketHeaders,
        output: inout Output, now: UInt64
    ) -> SpliceDisposition {
        let record = side(id, which)
        let destination = side(id, which.other)
        if record.pointee.isFragmentValid,
            record.pointee.fragmentIdentification == headers.identification
        {
            // The end in sequence space: the fragment's offset counts from the TCP header.
            let end =
                record.pointee.fragmentSequence
                + (headers.fragmentOffset &+ UInt32(bitPattern: headers.payloadLength)
                    &- record.pointee.fragmentHeaderLength)
            if end.isAfter(record.pointee.receivedEnd) { record.pointee.receivedEnd = end }
            let sent = end + record.pointee.sequenceDelta
            if sent.isAfter(destination.pointee.sentEnd) { destination.pointee.sentEnd = sent }
        }
        var changed = headers
        rewriteAddresses(frame, &changed, to: destination)
        if headers.ipVersion == 4 { setHeaderChecksum(frame.start + Int(headers.networkOffset)) }
        record.pointee.packets &+= 1
        record.pointee.bytes &+= UInt64(frame.length)
        let port = egress(destination, output)
        guard port != 0 else { return .dropped(.spliceNoRoute) }
        output.transmit(frame, to: port, now: now)
        return .forwarded(port)
    }
}
