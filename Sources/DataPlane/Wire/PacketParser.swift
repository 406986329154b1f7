// One pass over a frame. Every length is checked here, once; nothing later checks again.

extension PacketHeaders {
    /// Parses `frame` into `headers`; all fields are set. Returns why the frame is bad, else nil.
    ///
    /// Unknown EtherTypes and protocols are not bad. Transport checksums are not verified (a switch does
    /// not); the IPv4 header checksum is.
    @inline(__always)
    package static func parse(_ frame: Frame, into headers: inout PacketHeaders) -> DropReason? {
        headers = PacketHeaders()
        let start = UnsafeRawPointer(frame.start)
        guard frame.length >= 14 else { return .frameTooShort }
        headers.destinationMAC = MACAddress(
            rawValue: UInt64(start.load16(0)) << 32 | UInt64(start.load32(2)))
        headers.sourceMAC = MACAddress(
            rawValue: UInt64(start.load16(6)) << 32 | UInt64(start.load32(8)))
        var type = start.load16(12)
        var offset = 14
        while type == EtherType.vlan || type == EtherType.serviceVLAN {
            guard headers.vlanCount < 2 else { break }
            guard frame.length >= offset + 4 else { return .malformedVLAN }
            if headers.vlanCount == 0 { headers.vlanTCI = start.load16(offset) | 0x1000 }
            headers.vlanCount += 1
            type = start.load16(offset + 2)
            offset += 4
        }
        headers.etherType = type
        headers.networkOffset = Int32(offset)
        headers.networkEnd = Int32(truncatingIfNeeded: frame.length)
        headers.payloadOffset = Int32(offset)
        switch type {
        case EtherType.ipv4: return headers.parseIPv4(start, offset, frame.length)
        case EtherType.ipv6: return headers.parseIPv6(start, offset, frame.length)
        case EtherType.arp: return headers.parseARP(start, offset, frame.length)
        default:
            headers.payloadLength = Int32(truncatingIfNeeded: frame.length - offset)
            return nil
        }
    }

    // RFC 826: hardware type 1, protocol type 0x0800, lengths 6 and 4.
    private mutating func parseARP(
        _ start: UnsafeRawPointer, _ offset: Int, _ length: Int
    ) -> DropReason? {
        guard length >= offset + 28 else { return .malformedARP }
        let packet = start + offset
        guard packet.load16(0) == 1, packet.load16(2) == EtherType.ipv4, packet.load8(4) == 6,
            packet.load8(5) == 4
        else { return .malformedARP }
        ipProtocol = UInt8(truncatingIfNeeded: min(255, packet.load16(6)))
        source = IPAddress(v4: packet.load32(14))
        destination = IPAddress(v4: packet.load32(24))
        arpSourceMAC = UnsafeMutableRawPointer(mutating: packet).loadMAC(8)
        arpTargetMAC = UnsafeMutableRawPointer(mutating: packet).loadMAC(18)
        networkEnd = Int32(offset + 28)
        return nil
    }

    // RFC 791 section 3.1.
    @inline(__always)
    private mutating func parseIPv4(
        _ start: UnsafeRawPointer, _ offset: Int, _ length: Int
    ) -> DropReason? {
        guard length >= offset + 20 else { return .malformedIPv4 }
        let packet = start + offset
        let headerLength = Int(packet.load8(0) & 15) * 4
        let total = Int(packet.load16(2))
        guard packet.load8(0) >> 4 == 4, headerLength >= 20, total >= headerLength,
            total <= length - offset
        else { return .malformedIPv4 }
        let sum = fold(
            nativeSum(UnsafeMutableRawPointer(mutating: packet), words: headerLength >> 2))
        guard sum == 0xffff else { return .headerChecksum }
        ipVersion = 4
        tos = packet.load8(1)
        ttl = packet.load8(8)
        ipProtocol = packet.load8(9)
        source = IPAddress(v4: packet.load32(12))
        destination = IPAddress(v4: packet.load32(16))
        identification = UInt32(packet.load16(4))
        networkEnd = Int32(truncatingIfNeeded: offset + total)
        let fragmentField = packet.load16(6)
        moreFragments = fragmentField & 0x2000 != 0
        fragmentOffset = UInt32(fragmentField & 0x1fff) * 8
        if fragmentOffset != 0 { fragment = 3 } else if moreFragments { fragment = 1 }
        return parseTransport(start, offset + headerLength)
    }

    // RFC 8200 sections 3 and 4.
    private mutating func parseIPv6(
        _ start: UnsafeRawPointer, _ offset: Int, _ length: Int
    ) -> DropReason? {
        guard length >= offset + 40 else { return .malformedIPv6 }
        let packet = start + offset
        let end = offset + 40 + Int(packet.load16(4))
        guard packet.load8(0) >> 4 == 6, end <= length else { return .malformedIPv6 }
        ipVersion = 6
        tos = UInt8(truncatingIfNeeded: packet.load16(0) >> 4)
        ttl = packet.load8(7)
        source = IPAddress(high: packet.load64(8), low: packet.load64(16))
        destination = IPAddress(high: packet.load64(24), low: packet.load64(32))
        networkEnd = Int32(truncatingIfNeeded: end)
        return parseExtensions(start, offset, end: end)
    }

    /// Walks the chain of extension headers to the transport header; at most eight.
    private mutating func parseExtensions(
        _ start: UnsafeRawPointer, _ offset: Int, end: Int
    ) -> DropReason? {
        var next = start.load8(offset + 6)
        protocolOffset = Int32(truncatingIfNeeded: offset + 6)
        var position = offset + 40
        for _ in 0..<8 {
            switch next {
            case 0, 43, 60, 51:  // hop-by-hop, routing, destination options, authentication
                guard end >= position + 8 else { return .malformedIPv6 }
                let unit = next == 51 ? 4 : 8
                let extra = Int(start.load8(position + 1))
                let size = next == 51 ? (extra + 2) * unit : (extra + 1) * unit
                guard end >= position + size else { return .malformedIPv6 }
                next = start.load8(position)
                protocolOffset = Int32(truncatingIfNeeded: position)
                position += size
            case 44:
                guard end >= position + 8, fragmentHeaderOffset < 0 else { return .malformedIPv6 }
                fragmentHeaderOffset = Int32(truncatingIfNeeded: position)
                let field = start.load16(position + 2)
                moreFragments = field & 1 != 0
                fragmentOffset = UInt32(field & 0xfff8)
                identification = start.load32(position + 4)
                if fragmentOffset != 0 { fragment = 3 } else if moreFragments { fragment = 1 }
                next = start.load8(position)
                protocolOffset = Int32(truncatingIfNeeded: position)
                position += 8
                if fragment == 3 {
                    ipProtocol = next
                    return parseTransport(start, position)
                }
            default:
                ipProtocol = next
                return parseTransport(start, position)
            }
        }
        return .malformedIPv6
    }

    @inline(__always)
    private mutating func parseTransport(
        _ start: UnsafeRawPointer, _ offset: Int
    ) -> DropReason? {
        payloadOffset = Int32(truncatingIfNeeded: offset)
        let available = Int(networkEnd) - offset
        payloadLength = Int32(truncatingIfNeeded: available)
        if fragment == 3 { return nil }
        switch ipProtocol {
        case IPProtocol.tcp: return parseTCP(start, offset, available)
        case IPProtocol.udp:
            // RFC 1858 section 3: "tiny" first fragments that cut the transport header are dropped.
            guard available >= 8 else { return fragment == 1 ? .fragmentTooSmall : .malformedUDP }
            let length = Int(start.load16(offset + 4))
            guard length >= 8, fragment == 1 || length <= available else { return .malformedUDP }
            setTransport(start, offset, headerLength: 8)
        case IPProtocol.icmp, IPProtocol.icmpv6:
            guard available >= 4 else { return fragment == 1 ? .fragmentTooSmall : .malformedICMP }
            transportOffset = Int32(truncatingIfNeeded: offset)
            sourcePort = UInt16(start.load8(offset))
            destinationPort = UInt16(start.load8(offset + 1))
            payloadOffset = Int32(truncatingIfNeeded: offset + min(8, available))
            payloadLength = Int32(truncatingIfNeeded: max(0, available - 8))
        case 132:  // SCTP: ports only
            guard available >= 12 else { return fragment == 1 ? .fragmentTooSmall : nil }
            setTransport(start, offset, headerLength: 12)
        default: break
        }
        return nil
    }

    @inline(__always)
    private mutating func setTransport(
        _ start: UnsafeRawPointer, _ offset: Int, headerLength: Int
    ) {
        transportOffset = Int32(truncatingIfNeeded: offset)
        sourcePort = start.load16(offset)
        destinationPort = start.load16(offset + 2)
        payloadOffset = Int32(truncatingIfNeeded: offset + headerLength)
        payloadLength = networkEnd - payloadOffset
    }

    // RFC 9293 section 3.1.
    @inline(__always)
    private mutating func parseTCP(
        _ start: UnsafeRawPointer, _ offset: Int, _ available: Int
    ) -> DropReason? {
        guard available >= 20 else { return fragment == 1 ? .fragmentTooSmall : .malformedTCP }
        let segment = start + offset
        let headerLength = Int(segment.load8(12) >> 4) * 4
        guard headerLength >= 20, headerLength <= available else {
            return fragment == 1 ? .fragmentTooSmall : .malformedTCP
        }
        setTransport(start, offset, headerLength: headerLength)
        sequence = SequenceNumber(segment.load32(4))
        acknowledgement = SequenceNumber(segment.load32(8))
        tcpFlags = segment.load16(12) & 0xfff
        window = segment.load16(14)
        tcpHeaderLength = Int32(truncatingIfNeeded: headerLength)
        if headerLength > 20 { parseOptions(segment, offset, headerLength) }
        return nil
    }

    /// A list that is not well formed ends the search; the segment is still good.
    @inline(__always)
    private mutating func parseOptions(
        _ segment: UnsafeRawPointer, _ offset: Int, _ headerLength: Int
    ) {
        // The common layout: NOP, NOP, timestamps.
        var position = 20
        while position < headerLength {
            let kind = segment.load8(position)
            if kind == 0 { return }
            if kind == 1 {
                position += 1
                continue
            }
            guard position + 1 < headerLength else { return }
            let length = Int(segment.load8(position + 1))
            guard length >= 2, position + length <= headerLength else { return }
            if kind == 8, length == 10 {
                timestampOffset = Int32(truncatingIfNeeded: offset + position)
                timestampValue = segment.load32(position + 2)
                timestampEcho = segment.load32(position + 6)
            } else if kind == 5 {
                sackOffset = Int32(truncatingIfNeeded: offset + position + 2)
                sackCount = UInt8(truncatingIfNeeded: (length - 2) / 8)
            }
            position += length
        }
    }
}
