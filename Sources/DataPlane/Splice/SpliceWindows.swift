// An end may have been promised more room than the other end has: our own socket told it a window, and then the
// splice joined it to a server whose receive buffer is still small.

extension Splicer {
    /// Right edge of the room that the other end of a side has, in the side's own space.
    @inline(__always)
    private func room(for which: SpliceSide, of id: SpliceID) -> SequenceNumber {
        side(id, which.other).pointee.windowEdge - side(id, which).pointee.sequenceDelta
    }

    /// Whether an end was told more than the other end has room for; for a splice that was just installed.
    func notePromise(_ id: SpliceID, _ which: SpliceSide) {
        let record = side(id, which)
        record.pointee.isRoomPromised =
            record.pointee.isSent && side(id, which.other).pointee.isSeen
            && record.pointee.sentEdge.isAfter(room(for: which, of: id))
    }

    // RFC 9293 section 3.10.7.4: a segment that is not in the window "should be trimmed" or dropped; Linux since
    // 6.17 drops all of a segment that ends beyond it. The sender, which keeps to what it was told, would find
    // out by a time-out.
    /// Whether data must wait for room. A retransmission never does: it asks whether there is room.
    @inline(__always)
    func mustWaitForRoom(
        _ id: SpliceID, _ which: SpliceSide, _ headers: PacketHeaders, isRelease: Bool
    ) -> Bool {
        let record = side(id, which)
        guard record.pointee.isRoomPromised, headers.payloadLength > 0,
            isRelease || headers.sequenceEnd.isAfter(record.pointee.receivedEnd)
        else { return false }
        let receiver = side(id, which.other)
        // An end that has taken all and still has no room for the packet will not get any by waiting.
        return headers.sequenceEnd.isAfter(room(for: which, of: id))
            && receiver.pointee.sentEnd.isAfter(receiver.pointee.acknowledged)
    }

    /// The data of a packet waits; what else it says goes on.
    mutating func waitForRoom<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, frame: Frame, headers: PacketHeaders,
        ingress: PortNumber, isRelease: Bool, output: inout Output, now: UInt64
    ) -> SpliceDisposition {
        let record = side(id, which)
        let disposition = hold(record, frame, ingress: ingress)
        guard case .held = disposition else { return disposition }
        counters.roomWaits &+= isRelease ? 0 : 1
        if isRelease { return disposition }
        let part = slice(frame, headers, offset: 0, count: 0, into: output.scratch(now: now))
        var partHeaders = PacketHeaders()
        if PacketHeaders.parse(part, into: &partHeaders) == nil {
            _ = forward(
                id, which, frame: part, headers: &partHeaders, ingress: ingress, output: &output,
                now: now)
        }
        if headers.sequenceEnd.isAfter(record.pointee.receivedEnd) {
            record.pointee.receivedEnd = headers.sequenceEnd
        }
        return disposition
    }

    /// The other end of a side has said something: is there room now for what waits?
    mutating func releaseForRoom<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, output: inout Output, now: UInt64
    ) {
        let record = side(id, which)
        guard records[Int(id)].state == .spliced else { return }
        if let (_, frame, _) = pool.first(of: record.pointee.held) {
            var headers = PacketHeaders()
            if PacketHeaders.parse(frame, into: &headers) == nil,
                mustWaitForRoom(id, which, headers, isRelease: true)
            {
                return
            }
            output.flush(now: now)
            releaseHeld(id, output: &output, now: now)
        } else {
            notePromise(id, which)
        }
    }
}
