// Packets that the splicer makes itself: probes, acknowledgements, resets, parts of other packets.

/// What a made segment says; sequence numbers in the space of the end that it goes to.
struct MadeSegment {
    var sequence: SequenceNumber
    var acknowledgement: SequenceNumber
    var window: UInt16
    var flags: UInt16
    /// Octets of payload, all zero.
    var payloadLength = 0
    /// One SACK block, when given.
    var sack: (SequenceNumber, SequenceNumber)?
}

extension Splicer {
    /// Port that leads to the remote end of a side; 0 when nobody knows.
    @inline(__always)
    func egress<Output: FrameOutput & ~Copyable>(
        _ record: UnsafeMutablePointer<SpliceSideRecord>, _ output: borrowing Output
    ) -> PortNumber {
        if record.pointee.port != 0 { return record.pointee.port }
        return output.port(of: record.pointee.remoteMAC, vlan: 0, domain: record.pointee.domain)
    }

    /// Sends a made segment to the remote end of a side, as our socket would.
    func make<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, to which: SpliceSide, _ segment: MadeSegment, output: inout Output,
        now: UInt64
    ) {
        let record = side(id, which)
        let port = egress(record, output)
        guard port != 0, record.pointee.remoteMAC != .zero else {
            return output.count(.spliceNoRoute)
        }
        let hasTimestamps = records[Int(id)].usesTimestamps
        let frame = build(
            segment, in: output.scratch(now: now), from: .local, record: record,
            timestamps: hasTimestamps
                ? (record.pointee.sentTimestamp, record.pointee.timestamp) : nil)
        output.transmit(frame, to: port, now: now)
    }

    /// Sends a made segment into our own socket, as the remote end of a side would.
    func makeForSocket<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, from which: SpliceSide, _ segment: MadeSegment, output: inout Output,
        now: UInt64
    ) {
        let record = side(id, which)
        let hasTimestamps = records[Int(id)].usesTimestamps
        let frame = build(
            segment, in: output.scratch(now: now), from: .remote, record: record,
            timestamps: hasTimestamps
                ? (record.pointee.timestamp, record.pointee.sentTimestamp) : nil)
        output.transmitToCPU(frame, domain: record.pointee.domain, now: now)
    }

    private enum Author { case local, remote }

    private func build(
        _ segment: MadeSegment, in buffer: Frame, from author: Author,
        record: UnsafeMutablePointer<SpliceSideRecord>, timestamps: (UInt32, UInt32)?
    ) -> Frame {
        let isLocal = author == .local
        let side = record.pointee
        let isIPv4 = side.remoteAddress.isIPv4
        let optionLength = (timestamps == nil ? 0 : 12) + (segment.sack == nil ? 0 : 12)
        let tcpLength = 20 + optionLength + segment.payloadLength
        let networkLength = isIPv4 ? 20 : 40
        let start = buffer.start
        start.storeMAC(isLocal ? side.remoteMAC : side.localMAC, 0)
        start.storeMAC(isLocal ? side.localMAC : side.remoteMAC, 6)
        start.store16(isIPv4 ? EtherType.ipv4 : EtherType.ipv6, 12)
        let network = start + 14
        storeIPHeader(network, isIPv4: isIPv4, payloadLength: tcpLength)
        storeAddresses(
            network, isIPv4: isIPv4, source: isLocal ? side.localAddress : side.remoteAddress,
            destination: isLocal ? side.remoteAddress : side.localAddress)
        if isIPv4 { setHeaderChecksum(network) }
        let tcp = network + networkLength
        tcp.store16(isLocal ? side.localPort : side.remotePort, 0)
        tcp.store16(isLocal ? side.remotePort : side.localPort, 2)
        tcp.store32(segment.sequence.rawValue, 4)
        tcp.store32(segment.acknowledgement.rawValue, 8)
        tcp.store16(UInt16((20 + optionLength) / 4) << 12 | segment.flags, 12)
        tcp.store16(segment.window, 14)
        tcp.store32(0, 16)
        var option = tcp + 20
        if let (value, echo) = timestamps {
            option.store32(0x0101_080a, 0)  // NOP NOP, timestamps, 10 octets
            option.store32(value, 4)
            option.store32(echo, 8)
            option += 12
        }
        if let (left, right) = segment.sack {
            option.store32(0x0101_050a, 0)  // NOP NOP, SACK, 10 octets
            option.store32(left.rawValue, 4)
            option.store32(right.rawValue, 8)
            option += 12
        }
        option.initializeMemory(as: UInt8.self, repeating: 0, count: segment.payloadLength)
        setSegmentChecksum(
            network: network, isIPv4: isIPv4, tcp: tcp, length: tcpLength, isPartial: false)
        let frame = Frame(start: start, length: 14 + networkLength + tcpLength)
        frame.offload = VirtioHeader()
        return frame
    }

    /// An IP header without addresses: no fragment, TTL 64, TCP.
    private func storeIPHeader(
        _ network: UnsafeMutableRawPointer, isIPv4: Bool, payloadLength: Int
    ) {
        if isIPv4 {
            network.store32(0x4500_0000 | UInt32(20 + payloadLength), 0)
            network.store32(0x0000_4000, 4)
            network.store32(UInt32(64) << 24 | UInt32(IPProtocol.tcp) << 16, 8)
        } else {
            network.store32(0x6000_0000, 0)
            network.store16(UInt16(payloadLength), 4)
            network.store8(IPProtocol.tcp, 6)
            network.store8(64, 7)
        }
    }

    // RFC 9293 section 3.8.4: "segments that do not contain data [...] An implementation SHOULD send a
    // keep-alive segment with no data; however, it MAY be configurable to send a keep-alive segment
    // containing one garbage octet". The old octet makes the end answer at once with its exact
    // acknowledgement and window, where it would otherwise wait for its delayed-ACK timer.
    /// Asks the remote end of a side for its position.
    mutating func probe<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, output: inout Output, now: UInt64
    ) {
        let record = side(id, which)
        guard record.pointee.isSeen, record.pointee.isSent else { return }
        counters.probes &+= 1
        make(
            id, to: which,
            MadeSegment(
                sequence: record.pointee.acknowledged - 1,
                acknowledgement: record.pointee.sentAcknowledgement,
                window: record.pointee.sentWindow, flags: TCPFlags.ack, payloadLength: 1),
            output: &output, now: now)
    }

    /// Tells the sender, which sees nothing of it otherwise, that a segment behind a gap has arrived: so
    /// that it mends the gap now and not after its retransmission time-out. A SACK is advisory
    /// (RFC 2018 section 8): the sender keeps the data until it is acknowledged.
    mutating func acknowledgeGap<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ which: SpliceSide, _ headers: PacketHeaders, output: inout Output,
        now: UInt64
    ) {
        let record = side(id, which)
        guard record.pointee.isSent else { return }
        counters.gapAcknowledgements &+= 1
        let block = (headers.sequence, headers.sequence + UInt32(bitPattern: headers.payloadLength))
        make(
            id, to: which,
            MadeSegment(
                sequence: record.pointee.sentEnd,
                acknowledgement: record.pointee.sentAcknowledgement,
                window: record.pointee.sentWindow, flags: TCPFlags.ack,
                sack: records[Int(id)].usesSACK ? block : nil), output: &output, now: now)
    }

    /// Copies the headers of a segment and `count` octets of its payload from `offset` into `buffer`: a
    /// valid segment of its own. Without the end of the payload it carries neither FIN nor PSH.
    func slice(
        _ frame: Frame, _ headers: PacketHeaders, offset: Int, count: Int, into buffer: Frame
    ) -> Frame {
        let headerLength = Int(headers.payloadOffset)
        let start = buffer.start
        start.copyMemory(from: frame.start, byteCount: headerLength)
        (start + headerLength).copyMemory(
            from: frame.start + headerLength + offset, byteCount: count)
        let network = start + Int(headers.networkOffset)
        let tcp = start + Int(headers.transportOffset)
        let isIPv4 = headers.ipVersion == 4
        let tcpLength = Int(headers.tcpHeaderLength) + count
        let ipHeaderLength = Int(headers.transportOffset - headers.networkOffset)
        if isIPv4 {
            network.store16(UInt16(truncatingIfNeeded: ipHeaderLength + tcpLength), 2)
            setHeaderChecksum(network)
        } else {
            network.store16(UInt16(truncatingIfNeeded: ipHeaderLength - 40 + tcpLength), 4)
        }
        tcp.store32((headers.sequence + UInt32(truncatingIfNeeded: offset)).rawValue, 4)
        if offset + count < Int(headers.payloadLength) {
            tcp.store8(tcp.load8(13) & ~UInt8(TCPFlags.fin | TCPFlags.psh), 13)
        }
        let result = Frame(start: start, length: headerLength + count)
        let original = frame.offload
        let staysSegmented = original.isSegmented && count > Int(original.segmentSize)
        result.offload = staysSegmented ? original : VirtioHeader()
        setSegmentChecksum(
            network: network, isIPv4: isIPv4, tcp: tcp, length: tcpLength,
            isPartial: staysSegmented)
        return result
    }
}
