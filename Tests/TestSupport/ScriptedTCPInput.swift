extension ScriptedTCP {
    package func receive(_ segment: ScriptedTCPSegment) {
        switch state {
        case .closed, .reset: return
        case .listening:
            guard segment.has(ScriptedTCPSegment.syn) else { return }
            acceptSYN(segment)
            state = .receivedSYN
            unacknowledged = options.initialSequence
            sendSYN()
        case .sentSYN:
            guard segment.has(ScriptedTCPSegment.syn), segment.has(ScriptedTCPSegment.ack),
                segment.acknowledgement == sendNext
            else { return }
            acceptSYN(segment)
            state = .established
            deadline = nil
            acknowledge()
            transmit()
        case .receivedSYN, .established: take(segment)
        }
    }

    private func take(_ segment: ScriptedTCPSegment) {
        if segment.has(ScriptedTCPSegment.syn) {
            if state == .receivedSYN { sendSYN() } else { acknowledge() }
            return
        }
        guard isTimely(segment), isInWindow(segment) else {
            if !segment.has(ScriptedTCPSegment.rst) { acknowledge() }
            return
        }
        if segment.has(ScriptedTCPSegment.rst) {
            state = .reset
            resets += 1
            deadline = nil
            return
        }
        guard segment.has(ScriptedTCPSegment.ack) else { return }
        // Linux since 6.7: outside this range the segment is dropped, payload and all.
        let tolerance = min(maximumWindow, acknowledgedOctets)
        guard distance(segment.acknowledgement, sendNext) <= 0,
            distance(segment.acknowledgement, unacknowledged) >= -tolerance
        else {
            refusedAcknowledgements += 1
            return acknowledge()
        }
        if state == .receivedSYN {
            state = .established
            deadline = nil
        }
        if let timestamps = segment.timestamps, usesTimestamps {
            if timestamps.echo != 0, distance(timestamps.echo, timestamp) > 2 {
                futureEchoes += 1
            }
            if distance(segment.sequence, receiveNext) <= 0 {
                recentTimestamp = timestamps.value
            }
        }
        takeAcknowledgement(segment)
        if segment.length > 0 { takeData(segment) }
        transmit()
    }

    /// RFC 7323 section 5.3.
    private func isTimely(_ segment: ScriptedTCPSegment) -> Bool {
        guard usesTimestamps, let timestamps = segment.timestamps, let recentTimestamp,
            !segment.has(ScriptedTCPSegment.rst), distance(timestamps.value, recentTimestamp) < 0
        else { return true }
        refusedByPAWS += 1
        return false
    }

    private func isInWindow(_ segment: ScriptedTCPSegment) -> Bool {
        distance(segment.end, receiveNext) >= 0 && distance(segment.sequence, edge) <= 0
    }

    // MARK: Acknowledgements

    private func takeAcknowledgement(_ segment: ScriptedTCPSegment) {
        let acknowledgement = segment.acknowledgement
        let advance = distance(acknowledgement, unacknowledged)
        let before = sendWindow
        if advance > 0 || distance(segment.sequence, windowSequence) > 0
            || (segment.sequence == windowSequence
                && distance(acknowledgement, windowAcknowledgement) >= 0)
        {
            sendWindow = Int(segment.window) << Int(remoteScale)
            maximumWindow = max(maximumWindow, sendWindow)
            windowSequence = segment.sequence
            windowAcknowledgement = acknowledgement
        }
        for block in segment.sack where distance(block.right, unacknowledged) > 0 {
            noteSACK(block)
        }
        if advance > 0 {
            sendBuffer.removeFirst(min(advance, sendBuffer.count))
            unacknowledged = acknowledgement
            acknowledgedOctets += advance
            sacked.removeAll { distance($0.right, acknowledgement) <= 0 }
            retransmitted = retransmitted.filter { distance($0.key, acknowledgement) >= 0 }
            duplicates = 0
            backoff = 1
            deadline = nil
            if isRecovering, distance(unacknowledged, recover) < 0 {
                retransmitHoles()
            } else {
                isRecovering = false
            }
        } else if advance == 0, segment.length == 0, sendNext != unacknowledged,
            sendWindow == before
        {
            duplicates += 1
            if duplicates >= 3 || sacked.count > 0 && duplicates >= 2 {
                isRecovering = true
                recover = sendNext
                retransmitHoles()
            }
        }
    }

    private func noteSACK(_ block: ScriptedTCPSegment.Block) {
        // Nothing is sent beyond what we sent.
        guard distance(block.right, sendNext) <= 0, distance(block.right, block.left) > 0 else {
            return
        }
        var merged = Range(left: block.left, right: block.right)
        sacked.removeAll { range in
            guard distance(range.left, merged.right) <= 0, distance(merged.left, range.right) <= 0
            else { return false }
            if distance(range.left, merged.left) < 0 { merged.left = range.left }
            if distance(range.right, merged.right) > 0 { merged.right = range.right }
            return true
        }
        sacked.append(merged)
        sacked.sort { distance($0.left, $1.left) < 0 }
    }

    // MARK: Data

    private func takeData(_ segment: ScriptedTCPSegment) {
        lastArrival = segment.sequence
        if segment.has(ScriptedTCPSegment.fin) { pendingFIN = segment.end &- 1 }
        var sequence = segment.sequence
        var bytes = segment.payload
        let old = distance(receiveNext, sequence)
        if old > 0 {
            duplicateData += 1
            bytes.removeFirst(min(old, bytes.count))
            sequence = receiveNext
        }
        let beyond = distance(sequence &+ UInt32(bytes.count), edge)
        if beyond > 0 { bytes.removeLast(min(beyond, bytes.count)) }
        if !bytes.isEmpty {
            if sequence == receiveNext {
                deliver(bytes)
            } else {
                outOfOrder.append((sequence: sequence, bytes: bytes))
            }
        }
        joinOutOfOrder()
        if pendingFIN == receiveNext, !hasFIN {
            hasFIN = true
            receiveNext &+= 1
        }
        acknowledge()
    }

    private func deliver(_ bytes: [UInt8]) {
        guard !hasFIN else { return }
        readable += bytes
        receiveNext &+= UInt32(bytes.count)
    }

    private func joinOutOfOrder() {
        var isMoving = true
        while isMoving {
            isMoving = false
            for index in outOfOrder.indices.reversed() {
                let (sequence, bytes) = outOfOrder[index]
                let end = sequence &+ UInt32(bytes.count)
                if distance(end, receiveNext) <= 0 {
                    outOfOrder.remove(at: index)
                } else if distance(sequence, receiveNext) <= 0 {
                    deliver(Array(bytes[distance(receiveNext, sequence)...]))
                    outOfOrder.remove(at: index)
                    isMoving = true
                }
            }
        }
    }

    /// RFC 2018 section 4: first the block with the newest arrival.
    var blocks: [ScriptedTCPSegment.Block] {
        guard usesSACK, !outOfOrder.isEmpty else { return [] }
        var ranges: [Range] = []
        for (sequence, bytes) in outOfOrder.sorted(by: { distance($0.sequence, $1.sequence) < 0 }) {
            let end = sequence &+ UInt32(bytes.count)
            if let last = ranges.last, distance(sequence, last.right) <= 0 {
                if distance(end, last.right) > 0 { ranges[ranges.count - 1].right = end }
            } else {
                ranges.append(Range(left: sequence, right: end))
            }
        }
        let newest = ranges.firstIndex {
            distance(lastArrival, $0.left) >= 0 && distance(lastArrival, $0.right) < 0
        }
        if let newest { ranges.insert(ranges.remove(at: newest), at: 0) }
        return ranges.prefix(usesTimestamps ? 3 : 4).map { .init($0.left, $0.right) }
    }
}
