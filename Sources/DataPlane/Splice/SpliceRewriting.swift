// One packet, from one end to the other: addresses, ports, sequence space, windows, options.

extension Splicer {
    /// Rewrites a packet from `from` so that the other end takes it as sent by us. `payload`: checksum
    /// difference of edits already made in the payload.
    mutating func rewrite(
        _ id: SpliceID, from: SpliceSide, frame: Frame, headers: inout PacketHeaders,
        payload: UInt32, now: UInt64
    ) {
        let source = side(id, from)
        let destination = side(id, from.other)
        let before = SegmentSums(frame, headers)
        let tcp = frame.start + Int(headers.transportOffset)

        rewriteAddresses(frame, &headers, to: destination)
        tcp.store16(destination.pointee.localPort, 0)
        tcp.store16(destination.pointee.remotePort, 2)
        headers.sourcePort = destination.pointee.localPort
        headers.destinationPort = destination.pointee.remotePort

        headers.sequence += source.pointee.sequenceDelta
        let acknowledgementDelta = destination.pointee.sequenceDelta
        var raised: UInt32 = 0
        if headers.tcpFlags & TCPFlags.ack != 0 {
            headers.acknowledgement = headers.acknowledgement - acknowledgementDelta
            raised = limitAcknowledgement(id, destination, &headers, now: now)
            tcp.store32(headers.acknowledgement.rawValue, 8)
        }
        rewriteOptions(
            frame, &headers, acknowledgementDelta: acknowledgementDelta,
            timestampDelta: source.pointee.timestampDelta,
            echoDelta: destination.pointee.timestampDelta)

        var window = UInt64(headers.window) << UInt64(source.pointee.remoteScale)
        window = window > UInt64(raised) ? window - UInt64(raised) : 0
        window = keepEdge(destination, headers, window: window)
        movePureAcknowledgement(id, destination, &headers)
        tcp.store32(headers.sequence.rawValue, 4)
        headers.window = UInt16(
            truncatingIfNeeded: min(65_535, window >> UInt64(destination.pointee.localScale)))
        tcp.store16(headers.window, 14)
        updateChecksums(frame, headers, before: before, payload: payload)
    }

    @inline(__always)
    func rewriteAddresses(
        _ frame: Frame, _ headers: inout PacketHeaders,
        to destination: UnsafeMutablePointer<SpliceSideRecord>
    ) {
        frame.start.storeMAC(destination.pointee.remoteMAC, 0)
        frame.start.storeMAC(destination.pointee.localMAC, 6)
        headers.destinationMAC = destination.pointee.remoteMAC
        headers.sourceMAC = destination.pointee.localMAC
        storeAddresses(
            frame.start + Int(headers.networkOffset), isIPv4: headers.ipVersion == 4,
            source: destination.pointee.localAddress,
            destination: destination.pointee.remoteAddress)
        headers.source = destination.pointee.localAddress
        headers.destination = destination.pointee.remoteAddress
    }

    /// Floor and ceiling of an acknowledgement that goes to `destination`, already in its own space.
    /// Returns by how much it was raised: the window must shrink by the same amount.
    @inline(__always)
    private mutating func limitAcknowledgement(
        _ id: SpliceID, _ destination: UnsafeMutablePointer<SpliceSideRecord>,
        _ headers: inout PacketHeaders, now: UInt64
    ) -> UInt32 {
        var raised: UInt32 = 0
        let record = records + Int(id)
        if record.pointee.floorUntil != 0 {
            if now > record.pointee.floorUntil {
                record.pointee.floorUntil = 0
            } else if headers.acknowledgement.isBefore(destination.pointee.announcedFloor) {
                raised = destination.pointee.announcedFloor - headers.acknowledgement
                headers.acknowledgement = destination.pointee.announcedFloor
                counters.acknowledgementsRaised &+= 1
            } else {
                destination.pointee.announcedFloor.follow(headers.acknowledgement)
            }
        }
        // Never acknowledge what the other end has not sent: since Linux 6.7 a segment with such an
        // acknowledgement is dropped together with its payload.
        if destination.pointee.isSeen,
            headers.acknowledgement.isAfter(destination.pointee.receivedEnd)
        {
            headers.acknowledgement = destination.pointee.receivedEnd
            counters.acknowledgementsLimited &+= 1
        }
        return raised
    }

    /// The right edge told to an end is never left of what it has already sent: otherwise data in flight
    /// is cut off and the sender sits out a retransmission time-out.
    @inline(__always)
    private mutating func keepEdge(
        _ destination: UnsafeMutablePointer<SpliceSideRecord>, _ headers: PacketHeaders,
        window: UInt64
    ) -> UInt64 {
        guard destination.pointee.isSeen, headers.tcpFlags & TCPFlags.ack != 0 else {
            return window
        }
        let limit = destination.pointee.receivedEnd
        let edge = headers.acknowledgement + UInt32(truncatingIfNeeded: window)
        let needed = limit - headers.acknowledgement
        guard edge.isBefore(limit), needed >> 30 == 0 else { return window }
        counters.edgesKept &+= 1
        let unit = UInt64(1) << UInt64(destination.pointee.localScale)
        return UInt64(needed) & (unit - 1) != 0 ? UInt64(needed) + unit : UInt64(needed)
    }

    /// A pure acknowledgement outside the receiver's window would be ignored with all that it says: its
    /// sequence number is moved to where the receiver takes it.
    @inline(__always)
    private mutating func movePureAcknowledgement(
        _ id: SpliceID, _ destination: UnsafeMutablePointer<SpliceSideRecord>,
        _ headers: inout PacketHeaders
    ) {
        let control = TCPFlags.syn | TCPFlags.fin | TCPFlags.rst
        guard destination.pointee.isSeen, headers.payloadLength == 0,
            headers.tcpFlags & control == 0
        else { return }
        let edge = destination.pointee.windowEdge
        if headers.sequence.isAfter(edge) {
            headers.sequence = edge
            counters.sequencesMoved &+= 1
        } else if records[Int(id)].floorUntil != 0,
            headers.sequence.isBefore(destination.pointee.acknowledged - 1)
        {
            headers.sequence = destination.pointee.acknowledged
            counters.sequencesMoved &+= 1
        }
    }

    /// SACK blocks (RFC 2018 section 3) and timestamps (RFC 7323 section 3) by constants.
    @inline(__always)
    private func rewriteOptions(
        _ frame: Frame, _ headers: inout PacketHeaders, acknowledgementDelta: UInt32,
        timestampDelta: UInt32, echoDelta: UInt32
    ) {
        if headers.sackCount > 0 {
            let blocks = frame.start + Int(headers.sackOffset)
            for edge in 0..<(Int(headers.sackCount) * 2) {
                blocks.store32(blocks.load32(edge * 4) &- acknowledgementDelta, edge * 4)
            }
        }
        guard headers.timestampOffset >= 0 else { return }
        let option = frame.start + Int(headers.timestampOffset)
        headers.timestampValue &+= timestampDelta
        option.store32(headers.timestampValue, 2)
        if headers.timestampEcho != 0 || headers.tcpFlags & TCPFlags.ack != 0 {
            headers.timestampEcho &-= echoDelta
            option.store32(headers.timestampEcho, 6)
        }
    }
}

/// Stores both addresses of an IP header; checksums are the caller's.
@inline(__always)
func storeAddresses(
    _ network: UnsafeMutableRawPointer, isIPv4: Bool, source: IPAddress, destination: IPAddress
) {
    if isIPv4 {
        network.store32(source.v4, 12)
        network.store32(destination.v4, 16)
    } else {
        network.store64(source.high, 8)
        network.store64(source.low, 16)
        network.store64(destination.high, 24)
        network.store64(destination.low, 32)
    }
}
