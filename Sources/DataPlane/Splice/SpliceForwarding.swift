// Packets of a splice, by state.

extension Splicer {
    /// A packet of splice `id` that came from the end (`origin` network) or the CPU port of `side`.
    mutating func process<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, side which: SpliceSide, origin: FlowKey.Origin, frame: Frame,
        headers: inout PacketHeaders, ingress: PortNumber, output: inout Output, now: UInt64
    ) -> SpliceDisposition {
        guard isOpen(id), headers.transportOffset >= 0 else { return .dropped(.spliceUnknown) }
        if origin == .cpu {
            return processFromSocket(
                id, which, frame: frame, headers: &headers, output: &output, now: now)
        }
        return processFromEnd(
            id, which, frame: frame, headers: &headers, ingress: ingress, isRelease: false,
            output: &output, now: now)
    }

    // MARK: From a remote end

    /// `isRelease`: the packet waited in a queue and is older than others that went ahead of it.
    mutating func processFromEnd<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, frame: Frame, headers: inout PacketHeaders,
        ingress: PortNumber, isRelease: Bool, output: inout Output, now: UInt64
    ) -> SpliceDisposition {
        let record = side(id, which)
        let state = records[Int(id)].state
        if headers.tcpFlags & TCPFlags.syn != 0, state != .slow, state != .drainToSplice {
            return processSYN(
                id, which, frame: frame, headers: headers, output: &output, now: now)
        }
        if isRelease, state != .hold { refresh(record, frame, &headers) }
        if headers.fragment != 0, state != .slow,
            state != .spliced || record.pointee.tracker != nil
        {
            // A part of a segment can be neither held back nor searched for messages; its sender
            // retransmits, and does not fragment when path MTU discovery is on.
            return .dropped(.fragmentTooSmall)
        }
        switch state {
        case .free: return .dropped(.spliceUnknown)
        case .closed:
            answerReset(id, which, headers, output: &output, now: now)
            return .dropped(.spliceClosed)
        case .serverLost:
            return wait(
                id, which, frame: frame, headers: headers, ingress: ingress, output: &output,
                now: now)
        case .slow:
            trackReceived(record, headers, ingress: ingress, now: now)
            clampForSocket(id, record, frame, &headers, now: now)
            output.transmitToCPU(frame, domain: record.pointee.domain, now: now)
            return .toCPU
        case .hold:
            progress(id, output: &output)
            return hold(record, frame, ingress: ingress)
        case .spliced:
            if mustWaitForRoom(id, which, headers, isRelease: isRelease) {
                return waitForRoom(
                    id, which, frame: frame, headers: headers, ingress: ingress,
                    isRelease: isRelease, output: &output, now: now)
            }
            let disposition = forward(
                id, which, frame: frame, headers: &headers, ingress: ingress, output: &output,
                now: now)
            if side(id, which.other).pointee.isRoomPromised {
                releaseForRoom(id, which.other, output: &output, now: now)
            }
            return disposition
        case .drainToSplice, .drainToSlow:
            progress(id, output: &output)
            return drain(
                id, which, frame: frame, headers: &headers, ingress: ingress,
                isRelease: isRelease, output: &output, now: now)
        }
    }

    /// The server is lost: the client's data waits for a socket, its acknowledgements are taken in.
    private mutating func wait<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, frame: Frame, headers: PacketHeaders,
        ingress: PortNumber, output: inout Output, now: UInt64
    ) -> SpliceDisposition {
        guard which == .client else { return .dropped(.spliceServerLost) }
        let record = side(id, .client)
        trackReceived(record, headers, ingress: ingress, now: now)
        progress(id, output: &output)
        if headers.tcpFlags & TCPFlags.rst != 0 {
            guard isResetInPlace(id, .client, headers) else {
                return .dropped(.spliceServerLost)
            }
            endSession(id, .resetByClient, output: &output, now: now)
            return .dropped(.spliceClosed)
        }
        guard headers.payloadLength > 0 || headers.tcpFlags & TCPFlags.fin != 0 else {
            return .held
        }
        return hold(record, frame, ingress: ingress)
    }

    // RFC 5961 section 3.2: the receiver ignores a reset beside what it expects.
    /// Whether a reset, as its sender wrote it, is where the stream is.
    private func isResetInPlace(
        _ id: SpliceID, _ which: SpliceSide, _ headers: PacketHeaders
    ) -> Bool {
        let record = side(id, which)
        let place = headers.sequence + record.pointee.sequenceDelta
        return !place.isBefore(side(id, which.other).pointee.acknowledged)
            && !headers.sequence.isAfter(record.pointee.receivedEnd)
    }

    // RFC 9293 section 3.10.7.1: "If the connection does not exist (CLOSED), then a reset is sent in
    // response to any incoming segment except another reset"; with the place that the end expects, which
    // the reset at the close could miss by data on its way.
    private func answerReset<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, _ headers: PacketHeaders, output: inout Output,
        now: UInt64
    ) {
        guard headers.tcpFlags & (TCPFlags.rst | TCPFlags.ack) == TCPFlags.ack else { return }
        make(
            id, to: which,
            MadeSegment(
                sequence: headers.acknowledgement, acknowledgement: SequenceNumber(0), window: 0,
                flags: TCPFlags.rst), output: &output, now: now)
    }

    /// A SYN on the tuple of a splice is never translated: it would make a connection to a server past
    /// the control plane, and its numbers say nothing of the session. While the session goes on it is
    /// answered as by a socket (RFC 5961 section 4.2): an end that began anew then resets its old
    /// connection. After the end a client that uses its port again finds the listener.
    private mutating func processSYN<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, frame: Frame, headers: PacketHeaders,
        output: inout Output, now: UInt64
    ) -> SpliceDisposition {
        let record = side(id, which)
        let isClosed = records[Int(id)].state == .closed
        guard isClosed || records[Int(id)].closingSince != 0 else {
            guard record.pointee.isSent else { return .dropped(.spliceSYN) }
            make(
                id, to: which,
                MadeSegment(
                    sequence: record.pointee.sentEnd,
                    acknowledgement: record.pointee.sentAcknowledgement,
                    window: record.pointee.sentWindow, flags: TCPFlags.ack), output: &output,
                now: now)
            return .dropped(.spliceSYN)
        }
        guard which == .client, headers.tcpFlags & TCPFlags.ack == 0,
            leaving == nil || leaving == id
        else { return .dropped(.spliceClosed) }
        // Flows stay as they are within a burst; the kernel's answer comes with a later one.
        leaving = id
        output.transmitToCPU(frame, domain: record.pointee.domain, now: now)
        return .toCPU
    }

    /// A released packet may be older than retransmissions that went ahead of it: its timestamp would
    /// fail PAWS (RFC 7323 section 5.3), and an acknowledgement far behind makes Linux since 6.7 drop
    /// the whole segment. Both are raised to the newest already passed on.
    mutating func refresh(
        _ record: UnsafeMutablePointer<SpliceSideRecord>, _ frame: Frame,
        _ headers: inout PacketHeaders
    ) {
        let before = SegmentSums(frame, headers)
        var isChanged = false
        if headers.timestampOffset >= 0, record.pointee.isTimestampSeen,
            Int32(bitPattern: headers.timestampValue &- record.pointee.timestamp) < 0
        {
            headers.timestampValue = record.pointee.timestamp
            (frame.start + Int(headers.timestampOffset)).store32(headers.timestampValue, 2)
            counters.timestampsRaised &+= 1
            isChanged = true
        }
        if headers.tcpFlags & TCPFlags.ack != 0, record.pointee.isSeen,
            headers.acknowledgement.isBefore(record.pointee.acknowledged)
        {
            raiseAcknowledgement(
                to: record.pointee.acknowledged, scale: record.pointee.remoteScale, frame, &headers)
            isChanged = true
        }
        if isChanged { updateChecksums(frame, headers, before: before) }
    }

    /// The window shrinks by what the acknowledgement grows, so that the edge stays.
    private mutating func raiseAcknowledgement(
        to acknowledgement: SequenceNumber, scale: UInt8, _ frame: Frame,
        _ headers: inout PacketHeaders
    ) {
        let raised = UInt64(acknowledgement - headers.acknowledgement)
        let window = UInt64(headers.window) << UInt64(scale)
        headers.acknowledgement = acknowledgement
        headers.window = UInt16(
            truncatingIfNeeded: (window > raised ? window - raised : 0) >> UInt64(scale))
        let tcp = frame.start + Int(headers.transportOffset)
        tcp.store32(acknowledgement.rawValue, 8)
        tcp.store16(headers.window, 14)
        counters.acknowledgementsRaised &+= 1
    }

    /// A repaired socket has `bytes_acked` 0: since Linux 6.7 it drops, payload and all, every segment
    /// whose acknowledgement is below its SND.UNA or above its SND.NXT.
    private mutating func clampForSocket(
        _ id: SpliceID, _ record: UnsafeMutablePointer<SpliceSideRecord>, _ frame: Frame,
        _ headers: inout PacketHeaders, now: UInt64
    ) {
        guard record.pointee.clampsAcknowledgement, headers.tcpFlags & TCPFlags.ack != 0 else {
            return
        }
        let splice = records + Int(id)
        if splice.pointee.floorUntil != 0, now > splice.pointee.floorUntil {
            splice.pointee.floorUntil = 0
        }
        let before = SegmentSums(frame, headers)
        record.pointee.acknowledgementFloor.follow(record.pointee.acknowledged)
        if splice.pointee.floorUntil != 0,
            headers.acknowledgement.isBefore(record.pointee.acknowledgementFloor)
        {
            raiseAcknowledgement(
                to: record.pointee.acknowledgementFloor, scale: record.pointee.remoteScale, frame,
                &headers)
        } else if headers.acknowledgement.isAfter(record.pointee.sentEnd) {
            headers.acknowledgement = record.pointee.sentEnd
            (frame.start + Int(headers.transportOffset)).store32(
                headers.acknowledgement.rawValue, 8)
            counters.acknowledgementsLimited &+= 1
        } else {
            return
        }
        updateChecksums(frame, headers, before: before)
    }

    mutating func hold(
        _ record: UnsafeMutablePointer<SpliceSideRecord>, _ frame: Frame, ingress: PortNumber
    ) -> SpliceDisposition {
        guard record.pointee.held.count < Self.heldFramesMaximum,
            record.pointee.held.bytes < Self.heldBytesMaximum,
            pool.append(frame, ingress: ingress, to: &record.pointee.held)
        else { return .dropped(.spliceHoldFull) }
        counters.held &+= 1
        return .held
    }

    /// Data beyond the cut-off waits; what is below it, and acknowledgements, go on.
    private mutating func drain<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, frame: Frame, headers: inout PacketHeaders,
        ingress: PortNumber, isRelease: Bool, output: inout Output, now: UInt64
    ) -> SpliceDisposition {
        let record = side(id, which)
        if headers.tcpFlags & (TCPFlags.rst | TCPFlags.syn) != 0 {
            return passDrain(
                id, which, frame: frame, headers: &headers, ingress: ingress, output: &output,
                now: now)
        }
        let hasData = headers.payloadLength > 0 || headers.tcpFlags & TCPFlags.fin != 0
        let isBeyond =
            hasData && record.pointee.isCutoffValid
            && headers.sequenceEnd.isAfter(record.pointee.cutoff)
        guard isBeyond else {
            return passDrain(
                id, which, frame: frame, headers: &headers, ingress: ingress, output: &output,
                now: now)
        }
        let disposition = hold(record, frame, ingress: ingress)
        if isRelease { return disposition }
        let below = headers.sequence.isBefore(record.pointee.cutoff)
        let keep =
            below
            ? min(Int(headers.payloadLength), Int(record.pointee.cutoff - headers.sequence)) : 0
        if keep > 0 || headers.sackCount > 0 || headers.window != record.pointee.window
            || headers.acknowledgement.isAfter(record.pointee.acknowledged)
        {
            let part = slice(
                frame, headers, offset: 0, count: keep, into: output.scratch(now: now))
            var partHeaders = PacketHeaders()
            if PacketHeaders.parse(part, into: &partHeaders) == nil {
                _ = passDrain(
                    id, which, frame: part, headers: &partHeaders, ingress: ingress,
                    output: &output, now: now)
            }
        }
        return disposition
    }

    private mutating func passDrain<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, frame: Frame, headers: inout PacketHeaders,
        ingress: PortNumber, output: inout Output, now: UInt64
    ) -> SpliceDisposition {
        if records[Int(id)].state == .drainToSlow {
            return forward(
                id, which, frame: frame, headers: &headers, ingress: ingress, output: &output,
                now: now)
        }
        let record = side(id, which)
        trackReceived(record, headers, ingress: ingress, now: now)
        clampForSocket(id, record, frame, &headers, now: now)
        output.transmitToCPU(frame, domain: record.pointee.domain, now: now)
        return .toCPU
    }

    // MARK: End to end

    /// The fast path: from one end to the other.
    mutating func forward<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, frame: Frame, headers: inout PacketHeaders,
        ingress: PortNumber, output: inout Output, now: UInt64
    ) -> SpliceDisposition {
        let record = side(id, which)
        if which == .server, headers.tcpFlags & (TCPFlags.rst | TCPFlags.fin) != 0, isGuarded(id) {
            return catchEnd(
                id, frame: frame, headers: &headers, ingress: ingress, output: &output, now: now)
        }
        if !record.pointee.isTimestampSeen, headers.timestampOffset >= 0 {
            // An end that was silent until now: its clock was not known at the installation.
            record.pointee.timestampDelta =
                side(id, which.other).pointee.sentTimestamp &- headers.timestampValue
        }
        trackReceived(record, headers, ingress: ingress, now: now)
        var payload: UInt32 = 0
        if record.pointee.tracker != nil, headers.payloadLength > 0 {
            switch followMessages(
                id, which, frame: frame, headers: headers, payload: &payload, now: now)
            {
            case .forward: break
            case .part(let count, let isGap):
                return forwardPart(
                    id, which, count, isGap: isGap, frame: frame, headers: headers,
                    ingress: ingress,
                    output: &output, now: now)
            case .drop(let reason): return .dropped(reason)
            }
        }
        let disposition = transmitTranslated(
            id, which, frame: frame, headers: &headers, payload: payload, output: &output,
            now: now)
        if record.pointee.tracker != nil, !record.pointee.gap.isEmpty {
            releaseGap(id, which, output: &output, now: now)
        }
        return disposition
    }

    /// A RST or FIN of the server is kept from the client; what data comes with a FIN goes on.
    private mutating func catchEnd<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, frame: Frame, headers: inout PacketHeaders, ingress: PortNumber,
        output: inout Output, now: UInt64
    ) -> SpliceDisposition {
        let server = side(id, .server)
        if headers.tcpFlags & TCPFlags.rst != 0 {
            guard isResetInPlace(id, .server, headers) else {
                return .dropped(.spliceServerLost)
            }
            serverIsLost(id, .reset, output: &output, now: now)
            return .held
        }
        // RFC 9293 section 3.10.7.4: only what lies in the window that the server was told.
        let end = headers.sequenceEnd + server.pointee.sequenceDelta
        guard !end.isBefore(side(id, .client).pointee.acknowledged),
            !headers.sequence.isAfter(server.pointee.sentEdge)
        else { return .dropped(.spliceServerLost) }
        var disposition = SpliceDisposition.held
        if headers.payloadLength > 0 {
            let before = SegmentSums(frame, headers)
            headers.tcpFlags &= ~TCPFlags.fin
            let tcp = frame.start + Int(headers.transportOffset)
            tcp.store8(tcp.load8(13) & ~UInt8(TCPFlags.fin), 13)
            updateChecksums(frame, headers, before: before)
            disposition = forward(
                id, .server, frame: frame, headers: &headers, ingress: ingress, output: &output,
                now: now)
            output.flush(now: now)
        }
        serverIsLost(id, .closed, output: &output, now: now)
        return disposition
    }

    /// Rewrites, follows, sends; notices the end of the session.
    mutating func transmitTranslated<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, frame: Frame, headers: inout PacketHeaders,
        payload: UInt32, output: inout Output, now: UInt64
    ) -> SpliceDisposition {
        let record = side(id, which)
        let destination = side(id, which.other)
        if headers.fragment == 1 {
            record.pointee.fragmentIdentification = headers.identification
            record.pointee.fragmentSequence = headers.sequence
            record.pointee.fragmentHeaderLength = UInt32(bitPattern: headers.tcpHeaderLength)
            record.pointee.isFragmentValid = true
        }
        rewrite(
            id, from: which, frame: frame, headers: &headers, payload: payload, now: now)
        trackSent(destination, headers, now: now)
        record.pointee.packets &+= 1
        record.pointee.bytes &+= UInt64(frame.length)
        let port = egress(destination, output)
        if port != 0 { output.transmit(frame, to: port, now: now) }
        noticeEnd(id, which, headers, output: &output, now: now)
        return port == 0 ? .dropped(.spliceNoRoute) : .forwarded(port)
    }

    @inline(__always)
    private mutating func noticeEnd<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, _ headers: PacketHeaders, output: inout Output,
        now: UInt64
    ) {
        if headers.tcpFlags & TCPFlags.rst != 0 {
            // RFC 5961 section 3.2: the receiver ignores a reset beside what it expects.
            let source = side(id, which)
            let end = source.pointee.receivedEnd + source.pointee.sequenceDelta
            guard !headers.sequence.isBefore(side(id, which.other).pointee.acknowledged),
                !headers.sequence.isAfter(end)
            else { return }
            endSession(
                id, which == .client ? .resetByClient : .resetByServer, output: &output, now: now)
            return
        }
        let client = side(id, .client)
        let server = side(id, .server)
        guard client.pointee.hasFIN, server.pointee.hasFIN,
            records[Int(id)].closingSince == 0,
            server.pointee.acknowledged.isAfter(
                client.pointee.finSequence + client.pointee.sequenceDelta),
            client.pointee.acknowledged.isAfter(
                server.pointee.finSequence + server.pointee.sequenceDelta)
        else { return }
        endSession(id, .finished, output: &output, now: now)
    }

    // MARK: From our own sockets

    /// A packet that the kernel emitted on the tuple of a splice.
    private mutating func processFromSocket<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, frame: Frame, headers: inout PacketHeaders,
        output: inout Output, now: UInt64
    ) -> SpliceDisposition {
        let record = side(id, which)
        switch records[Int(id)].state {
        case .slow, .drainToSplice:
            let isFirst =
                headers.tcpFlags & (TCPFlags.syn | TCPFlags.ack) == TCPFlags.syn
            if isFirst, record.pointee.stripTimestamps || record.pointee.stripSACK {
                stripOptions(record, frame, &headers)
            }
            liftSequence(record, frame, &headers)
            if headers.fragment == 0 { trackSent(record, headers, now: now) }
            if record.pointee.remoteMAC == .zero {
                record.pointee.remoteMAC = headers.destinationMAC
            }
            let port = egress(record, output)
            guard port != 0 else { return .dropped(.spliceNoRoute) }
            output.transmit(frame, to: port, now: now)
            return .toNetwork(port)
        case .hold:
            // Sent after all when the freeze is undone; forgotten when it succeeds.
            if record.pointee.kept.count < Self.keptFramesMaximum,
                pool.append(frame, ingress: 0, to: &record.pointee.kept)
            {
                return .held
            }
            return .dropped(.spliceHoldFull)
        default:
            // A reset must never get out here: the kernel does not know that the tuple is in use.
            counters.kernelPacketsDropped &+= 1
            return .dropped(.spliceKernelPacket)
        }
    }

    /// After an abrupt move our socket is behind the remote end: its pure acknowledgements carry an old
    /// sequence number and would be ignored. (One below is a keep-alive and is left alone.)
    private mutating func liftSequence(
        _ record: UnsafeMutablePointer<SpliceSideRecord>, _ frame: Frame,
        _ headers: inout PacketHeaders
    ) {
        let control = TCPFlags.syn | TCPFlags.fin | TCPFlags.rst
        guard record.pointee.clampsAcknowledgement, headers.payloadLength == 0,
            headers.tcpFlags & control == 0,
            headers.sequence.isBefore(record.pointee.acknowledged - 1)
        else { return }
        let before = SegmentSums(frame, headers)
        headers.sequence = record.pointee.acknowledged
        (frame.start + Int(headers.transportOffset)).store32(headers.sequence.rawValue, 4)
        updateChecksums(frame, headers, before: before)
        counters.sequencesMoved &+= 1
    }

    /// Blanks options of our SYN that the client did not offer, so that both legs are alike.
    private func stripOptions(
        _ record: UnsafeMutablePointer<SpliceSideRecord>, _ frame: Frame,
        _ headers: inout PacketHeaders
    ) {
        let before = SegmentSums(frame, headers)
        let tcp = frame.start + Int(headers.transportOffset)
        var offset = 20
        let end = Int(headers.tcpHeaderLength)
        while offset < end {
            let kind = tcp.load8(offset)
            if kind == 0 { break }
            if kind == 1 {
                offset += 1
                continue
            }
            guard offset + 1 < end else { break }
            let length = Int(tcp.load8(offset + 1))
            guard length >= 2, offset + length <= end else { break }
            let strips =
                (kind == 8 && record.pointee.stripTimestamps)
                || (kind == 4 && record.pointee.stripSACK)
            if strips {
                (tcp + offset).initializeMemory(as: UInt8.self, repeating: 1, count: length)
            }
            offset += length
        }
        if record.pointee.stripTimestamps { headers.timestampOffset = -1 }
        updateChecksums(frame, headers, before: before)
    }
}
