extension ScriptedTCP {
    /// Octets that may be told as window now.
    var window: Int { max(0, options.receiveBuffer - readable.count) }

    /// A segment with everything that every segment says.
    func make(
        _ flags: UInt8, sequence: UInt32, payload: [UInt8] = []
    ) -> ScriptedTCPSegment {
        var segment = ScriptedTCPSegment(
            flags: flags, sequence: sequence, acknowledgement: receiveNext, payload: payload)
        // The right edge never moves left (RFC 9293 section 3.8.6).
        let unit = 1 << Int(localScale)
        let wanted = max(window, distance(edge, receiveNext))
        let field = min(65_535, (wanted + unit - 1) / unit)
        segment.window = UInt16(field)
        let told = receiveNext &+ UInt32(field * unit)
        if distance(told, edge) > 0 { edge = told }
        if usesTimestamps { segment.timestamps = .init(timestamp, recentTimestamp ?? 0) }
        return segment
    }

    package func acknowledge() {
        var segment = make(ScriptedTCPSegment.ack, sequence: sendNext)
        segment.sack = blocks
        onSend(segment)
    }

    /// A segment that says only where we are.
    package var probe: ScriptedTCPSegment { make(ScriptedTCPSegment.ack, sequence: sendNext) }

    private var dataInFlight: Int { distance(sendNext, unacknowledged) - (hasSentFIN ? 1 : 0) }

    /// Sends what the window takes.
    func transmit() {
        guard state == .established else { return }
        while !hasSentFIN {
            let inFlight = dataInFlight
            let unsent = sendBuffer.count - inFlight
            var count = min(
                unsent, options.maximumSegment * options.segmentsPerFrame,
                sendWindow - inFlight, options.maximumFlight - inFlight)
            if count <= 0 {
                guard unsent == 0, wantsFIN else { break }
                count = 0
            } else if options.cutsAtRandom {
                count = 1 + random.below(count)
            }
            let isLast = wantsFIN && count == unsent
            send(offset: inFlight, count: count, fin: isLast)
            sendNext &+= UInt32(count) &+ (isLast ? 1 : 0)
            if isLast { hasSentFIN = true }
        }
        armTimer()
    }

    private func send(offset: Int, count: Int, fin: Bool) {
        var flags = ScriptedTCPSegment.ack
        if count > 0, offset + count == sendBuffer.count { flags |= ScriptedTCPSegment.psh }
        if fin { flags |= ScriptedTCPSegment.fin }
        onSend(
            make(
                flags, sequence: unacknowledged &+ UInt32(offset),
                payload: Array(sendBuffer[offset..<offset + count])))
    }

    private func armTimer() {
        let isWaiting = sendNext != unacknowledged || sendBuffer.count > 0
        if !isWaiting {
            deadline = nil
        } else if deadline == nil {
            deadline = now + 30_000_000 * backoff
        }
    }

    /// The retransmission or persist timer.
    package func timeOut() {
        deadline = nil
        switch state {
        case .sentSYN, .receivedSYN: return sendSYN()
        case .established: break
        default: return
        }
        backoff = min(8, backoff * 2)
        if sendNext == unacknowledged {
            // Zero window: an old sequence number makes the other end answer.
            if !sendBuffer.isEmpty {
                onSend(make(ScriptedTCPSegment.ack, sequence: unacknowledged &- 1))
            }
        } else {
            sacked = []
            retransmitted = [:]
            isRecovering = true
            recover = sendNext
            duplicates = 0
            retransmit(at: unacknowledged)
        }
        transmit()
    }

    /// Sends again what lies between blocks that the other end has.
    func retransmitHoles() {
        var position = unacknowledged
        if sacked.isEmpty {
            retransmit(at: position)
            return
        }
        for range in sacked {
            while distance(position, range.left) < 0 {
                if let time = retransmitted[position], now < time + 10_000_000 { break }
                let before = position
                position = retransmit(at: position)
                if position == before { break }
            }
            position = range.right
        }
    }

    @discardableResult
    func retransmit(at sequence: UInt32) -> UInt32 {
        let offset = distance(sequence, unacknowledged)
        guard offset >= 0, distance(sequence, sendNext) < 0 else { return sequence }
        var count = min(options.maximumSegment, dataInFlight - offset)
        if let next = sacked.first(where: { distance($0.left, sequence) > 0 }) {
            count = min(count, distance(next.left, sequence))
        }
        if options.cutsAtRandom, count > 1 { count = 1 + random.below(count) }
        let isLast = hasSentFIN && offset + count == dataInFlight
        retransmitted[sequence] = now
        retransmissions += 1
        send(offset: offset, count: max(0, count), fin: isLast)
        return sequence &+ UInt32(max(0, count)) &+ (isLast ? 1 : 0)
    }
}
