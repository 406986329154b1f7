// Positions of both ends, followed packet by packet.

extension Splicer {
    /// Takes in a packet that came from the remote end of a side.
    @inline(__always)
    func trackReceived(
        _ record: UnsafeMutablePointer<SpliceSideRecord>, _ headers: PacketHeaders,
        ingress: PortNumber, now: UInt64
    ) {
        let isSilent = now &- record.pointee.lastReceived > Self.timestampLife
        record.pointee.lastReceived = now
        if headers.payloadLength > 0 { record.pointee.lastData = now }
        record.pointee.remoteMAC = headers.sourceMAC
        if ingress != 0 { record.pointee.port = ingress }
        if headers.tcpFlags & TCPFlags.rst != 0 { return }
        let end = headers.sequenceEnd
        let isSYN = headers.tcpFlags & TCPFlags.syn != 0
        if isSYN {
            // A handshake's only: a stray one says nothing of the positions of a connection.
            guard !record.pointee.isSent, !record.pointee.isEndValid else { return }
            record.pointee.isSeen = false
            record.pointee.isEndValid = false
            record.pointee.isTimestampSeen = false
            record.pointee.remoteBase = end
        }
        if !record.pointee.isSeen {
            if !record.pointee.isEndValid || end.isAfter(record.pointee.receivedEnd) {
                record.pointee.receivedEnd = end
            }
            record.pointee.acknowledged = headers.acknowledgement
            record.pointee.window = headers.window
            record.pointee.windowUpdate = headers.sequence
            record.pointee.isSeen = true
        }
        if end.isAfter(record.pointee.receivedEnd) { record.pointee.receivedEnd = end }
        if headers.tcpFlags & TCPFlags.fin != 0 {
            record.pointee.hasFIN = true
            record.pointee.finSequence = end - 1
        }
        if headers.timestampOffset >= 0 {
            let newer = Int32(bitPattern: headers.timestampValue &- record.pointee.timestamp) > 0
            if !record.pointee.isTimestampSeen || newer || isSilent {
                record.pointee.timestamp = headers.timestampValue
                record.pointee.isTimestampSeen = true
            }
        }
        if headers.tcpFlags & TCPFlags.ack != 0, !isSYN {
            trackAcknowledgement(record, headers)
        }
    }

    // RFC 9293 section 3.10.7.4: "If (SND.WL1 < SEG.SEQ or (SND.WL1 = SEG.SEQ and SND.WL2 =<
    // SEG.ACK)), set SND.WND <- SEG.WND, set SND.WL1 <- SEG.SEQ, and set SND.WL2 <- SEG.ACK."
    @inline(__always)
    private func trackAcknowledgement(
        _ record: UnsafeMutablePointer<SpliceSideRecord>, _ headers: PacketHeaders
    ) {
        let acknowledgement = headers.acknowledgement
        let isNewer = acknowledgement.isAfter(record.pointee.acknowledged)
        if isNewer || headers.sequence.isAfter(record.pointee.windowUpdate)
            || (headers.sequence == record.pointee.windowUpdate
                && acknowledgement == record.pointee.acknowledged)
        {
            record.pointee.window = headers.window
            record.pointee.windowUpdate = headers.sequence
        }
        if isNewer { record.pointee.acknowledged = acknowledgement }
    }

    /// Takes in a packet that is sent to the remote end of a side, in that side's sequence space.
    @inline(__always)
    func trackSent(
        _ record: UnsafeMutablePointer<SpliceSideRecord>, _ headers: PacketHeaders, now: UInt64
    ) {
        if headers.tcpFlags & TCPFlags.rst != 0 { return }
        let isSilent = now &- record.pointee.lastSent > Self.timestampLife
        record.pointee.lastSent = now
        let end = headers.sequenceEnd
        if headers.tcpFlags & TCPFlags.syn != 0 {
            // Acknowledgement 0 and a window that is not scaled: nothing more to learn.
            record.pointee.sentEnd = end
            if headers.timestampOffset >= 0 {
                record.pointee.sentTimestamp = headers.timestampValue
                record.pointee.isTimestampSent = true
            }
            return
        }
        let edge =
            headers.acknowledgement
            + UInt32(headers.window) << UInt32(record.pointee.localScale)
        if !record.pointee.isSent {
            record.pointee.sentEnd = end
            record.pointee.sentAcknowledgement = headers.acknowledgement
            record.pointee.sentEdge = edge
            record.pointee.isEdgeKnown = true
            record.pointee.isSent = true
        }
        // A pure acknowledgement carries the sender's newest position, and may run ahead of data that was
        // lost or that is held back: it says nothing of what was sent.
        if end != headers.sequence, end.isAfter(record.pointee.sentEnd) {
            record.pointee.sentEnd = end
        }
        if headers.tcpFlags & TCPFlags.ack != 0 {
            if headers.acknowledgement.isAfter(record.pointee.sentAcknowledgement) {
                record.pointee.sentAcknowledgement = headers.acknowledgement
            }
            record.pointee.sentWindow = headers.window
            if edge.isAfter(record.pointee.sentEdge) { record.pointee.sentEdge = edge }
        }
        if headers.timestampOffset >= 0,
            !record.pointee.isTimestampSent || isSilent
                || Int32(bitPattern: headers.timestampValue &- record.pointee.sentTimestamp) > 0
        {
            record.pointee.sentTimestamp = headers.timestampValue
            record.pointee.isTimestampSent = true
        }
    }
}
