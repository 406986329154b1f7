/// ICMP errors that the switch sends itself.
enum ICMPError {
    enum Kind {
        /// RFC 792 time exceeded, RFC 4443 section 3.3.
        case timeExceeded
        /// RFC 1191 section 4 fragmentation needed, RFC 4443 section 3.2 packet too big.
        case tooBig(mtu: Int)
    }

    // RFC 1812 section 4.3.2.7: "An ICMP error message MUST NOT be sent as the result of receiving: an
    // ICMP error message, [...] a packet destined to an IP broadcast or IP multicast address, a packet
    // sent as a Link Layer broadcast, [...] Any fragment of a datagram other then the first fragment".
    static func isAllowed(about headers: PacketHeaders) -> Bool {
        guard headers.ipVersion != 0, headers.fragment != 3, !headers.destinationMAC.isGroup else {
            return false
        }
        if headers.transportOffset >= 0 {
            let type = headers.sourcePort
            if headers.ipProtocol == IPProtocol.icmp, [3, 4, 5, 11, 12].contains(type) {
                return false
            }
            if headers.ipProtocol == IPProtocol.icmpv6, type < 128 { return false }
        }
        if headers.ipVersion == 4 {
            return headers.destination.v4 >> 28 != 14 && headers.destination.v4 != .max
                && headers.source.v4 != 0 && headers.source.v4 >> 28 != 14
        }
        // RFC 4443 section 2.4 (e.6): nor to the unspecified address.
        return headers.destination.high >> 56 != 0xff && headers.source.high >> 56 != 0xff
            && (headers.source.high | headers.source.low) != 0
    }

    /// Builds the error about `original` in `buffer`, from `source` to the sender. 576 octets of IPv4,
    /// 1,280 of IPv6 at most (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c)).
    static func build(
        _ kind: Kind, about original: Frame, _ headers: PacketHeaders, source: IPAddress,
        in buffer: Frame
    ) -> Frame {
        let isIPv4 = headers.ipVersion == 4
        let linkLength = Int(headers.networkOffset)
        let start = buffer.start
        // Tags stay as they came; addresses are exchanged.
        start.copyMemory(from: original.start, byteCount: linkLength)
        start.storeMAC(headers.sourceMAC, 0)
        start.storeMAC(headers.destinationMAC, 6)
        let network = start + linkLength
        let headerLength = isIPv4 ? 20 : 40
        let room = (isIPv4 ? 576 : 1_280) - headerLength - 8
        let quoted = min(room, Int(headers.networkEnd) - Int(headers.networkOffset))
        let message = network + headerLength
        store(kind, isIPv4: isIPv4, message)
        (message + 8).copyMemory(from: original.start + linkLength, byteCount: quoted)
        let messageLength = 8 + quoted
        if isIPv4 {
            network.store32(0x45c0_0000 | UInt32(headerLength + messageLength), 0)
            network.store32(0, 4)
            network.store32(UInt32(64) << 24 | UInt32(IPProtocol.icmp) << 16, 8)
        } else {
            network.store32(0x6000_0000, 0)
            network.store16(UInt16(messageLength), 4)
            network.store8(IPProtocol.icmpv6, 6)
            network.store8(64, 7)
        }
        storeAddresses(network, isIPv4: isIPv4, source: source, destination: headers.source)
        if isIPv4 { setHeaderChecksum(network) }
        let bytes = UnsafeRawBufferPointer(start: message, count: messageLength)
        let checksum =
            isIPv4
            ? ~InternetChecksum.sum(bytes)
            : InternetChecksum.transport(
                source: source, destination: headers.source, ipProtocol: IPProtocol.icmpv6,
                segment: bytes)
        message.store16(checksum, 2)
        let frame = Frame(start: start, length: linkLength + headerLength + messageLength)
        frame.offload = VirtioHeader()
        return frame
    }

    private static func store(
        _ kind: Kind, isIPv4: Bool, _ message: UnsafeMutableRawPointer
    ) {
        switch kind {
        case .timeExceeded:
            message.store32(isIPv4 ? 0x0b00_0000 : 0x0300_0000, 0)
            message.store32(0, 4)
        case .tooBig(let mtu):
            message.store32(isIPv4 ? 0x0304_0000 : 0x0200_0000, 0)
            message.store32(UInt32(truncatingIfNeeded: isIPv4 ? mtu & 0xffff : mtu), 4)
        }
    }
}

/// The packet quoted in an ICMP error, as far as it is there: at least addresses and ports.
struct EmbeddedPacket {
    /// Offsets in the frame.
    var networkOffset: Int
    var transportOffset: Int
    var ipProtocol: UInt8
    var source: IPAddress
    var destination: IPAddress
    var sourcePort: UInt16
    var destinationPort: UInt16
    /// Octets of transport header that are there, at least 8.
    var transportAvailable: Int

    /// Nil when the frame is not an ICMP error, or quotes too little or something without ports.
    init?(_ frame: Frame, _ headers: PacketHeaders) {
        guard headers.transportOffset >= 0 else { return nil }
        let type = headers.sourcePort
        let isError4 =
            headers.ipVersion == 4 && headers.ipProtocol == IPProtocol.icmp
            && (type == 3 || type == 11 || type == 12)
        let isError6 =
            headers.ipVersion == 6 && headers.ipProtocol == IPProtocol.icmpv6
            && (1...4).contains(type)
        guard isError4 || isError6 else { return nil }
        let start = UnsafeRawPointer(frame.start)
        let offset = Int(headers.transportOffset) + 8
        let end = Int(headers.networkEnd)
        networkOffset = offset
        if isError4 {
            guard end >= offset + 20, start.load8(offset) >> 4 == 4 else { return nil }
            let length = Int(start.load8(offset) & 15) * 4
            guard length >= 20, start.load16(offset + 6) & 0x1fff == 0 else { return nil }
            transportOffset = offset + length
            ipProtocol = start.load8(offset + 9)
            source = IPAddress(v4: start.load32(offset + 12))
            destination = IPAddress(v4: start.load32(offset + 16))
        } else {
            guard end >= offset + 40, start.load8(offset) >> 4 == 6 else { return nil }
            transportOffset = offset + 40
            ipProtocol = start.load8(offset + 6)
            source = IPAddress(high: start.load64(offset + 8), low: start.load64(offset + 16))
            destination = IPAddress(
                high: start.load64(offset + 24), low: start.load64(offset + 32))
        }
        guard ipProtocol == IPProtocol.tcp || ipProtocol == IPProtocol.udp,
            end >= transportOffset + 8
        else { return nil }
        transportAvailable = end - transportOffset
        sourcePort = start.load16(transportOffset)
        destinationPort = start.load16(transportOffset + 2)
    }

    /// Key of the flow whose packets come from where the quoted packet was going.
    func reverseKey(domain: DomainID, origin: FlowKey.Origin) -> FlowKey {
        FlowKey(
            source: destination, sourcePort: destinationPort, destination: source,
            destinationPort: sourcePort, ipProtocol: ipProtocol, domain: domain, origin: origin)
    }

    /// Changes the quoted packet and the outer addresses, and brings all checksums along.
    func rewrite(
        _ frame: Frame, _ headers: PacketHeaders, innerSource: IPAddress,
        innerSourcePort: UInt16, innerDestination: IPAddress, innerDestinationPort: UInt16,
        sequenceDelta: UInt32, outerSource: IPAddress, outerDestination: IPAddress
    ) {
        let isIPv4 = headers.ipVersion == 4
        let inner = frame.start + networkOffset
        storeAddresses(inner, isIPv4: isIPv4, source: innerSource, destination: innerDestination)
        if isIPv4 { setHeaderChecksum(inner) }
        let transport = frame.start + transportOffset
        transport.store16(innerSourcePort, 0)
        transport.store16(innerDestinationPort, 2)
        if ipProtocol == IPProtocol.tcp {
            transport.store32(transport.load32(4) &+ sequenceDelta, 4)
        }
        let outer = frame.start + Int(headers.networkOffset)
        storeAddresses(outer, isIPv4: isIPv4, source: outerSource, destination: outerDestination)
        if isIPv4 { setHeaderChecksum(outer) }
        let message = frame.start + Int(headers.transportOffset)
        message.store16(0, 2)
        let bytes = UnsafeRawBufferPointer(
            start: message, count: Int(headers.networkEnd - headers.transportOffset))
        message.store16(
            isIPv4
                ? ~InternetChecksum.sum(bytes)
                : InternetChecksum.transport(
                    source: outerSource, destination: outerDestination,
                    ipProtocol: IPProtocol.icmpv6, segment: bytes), 2)
        // Complete now, whatever it was.
        frame.offload = VirtioHeader()
    }
}
