extension Splicer {
    /// An ICMP error about a packet that was sent to the end of `side`: translated for the other end, as
    /// if it were about that end's own packet (RFC 5508 section 4.2 does the same in address
    /// translators). False when it is not for the fast path and must take the normal way.
    mutating func processICMPError<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, side which: SpliceSide, frame: Frame, headers: PacketHeaders,
        embedded: EmbeddedPacket, output: inout Output, now: UInt64
    ) -> SpliceDisposition? {
        guard isOpen(id) else { return nil }
        switch records[Int(id)].state {
        case .spliced, .drainToSlow, .hold: break
        default: return nil
        }
        let source = side(id, which.other)
        embedded.rewrite(
            frame, headers, innerSource: source.pointee.remoteAddress,
            innerSourcePort: source.pointee.remotePort,
            innerDestination: source.pointee.localAddress,
            innerDestinationPort: source.pointee.localPort,
            sequenceDelta: 0 &- source.pointee.sequenceDelta,
            outerSource: source.pointee.localAddress,
            outerDestination: source.pointee.remoteAddress)
        frame.start.storeMAC(source.pointee.remoteMAC, 0)
        frame.start.storeMAC(source.pointee.localMAC, 6)
        let port = egress(source, output)
        guard port != 0 else { return .dropped(.spliceNoRoute) }
        counters.icmpTranslated &+= 1
        output.transmit(frame, to: port, now: now)
        return .forwarded(port)
    }
}
