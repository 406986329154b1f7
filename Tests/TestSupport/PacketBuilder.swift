package import DataPlane

/// Builds Ethernet frames as plain octets, with right checksums, without the product's code for
/// packets.
package struct PacketBuilder: Sendable {
    package enum Transport: Sendable {
        case tcp(
            flags: UInt16 = 0x10, sequence: UInt32 = 1_000, acknowledgement: UInt32 = 2_000,
            options: [UInt8] = [])
        case udp
        /// IPv4 only: the field is 0 (RFC 768).
        case udpWithoutChecksum
        /// ICMP or ICMPv6, as the addresses are.
        case icmp(type: UInt8, code: UInt8 = 0, rest: UInt32 = 0)
        case other(UInt8)
    }

    package struct Tag: Sendable {
        package var type: UInt16
        package var tci: UInt16
        package init(type: UInt16 = EtherType.vlan, tci: UInt16) {
            self.type = type
            self.tci = tci
        }
    }

    package var sourceMAC = MACAddress(rawValue: 0x0200_0000_0001)
    package var destinationMAC = MACAddress(rawValue: 0x0200_0000_0002)
    package var tags: [Tag] = []
    package var source: IPAddress
    package var destination: IPAddress
    package var sourcePort: UInt16 = 40_000
    package var destinationPort: UInt16 = 3_260
    package var tos: UInt8 = 0
    package var ttl: UInt8 = 64
    package var identification: UInt32 = 0x1234
    package var mayNotFragment = false
    /// IPv4 options, a multiple of 4 octets.
    package var options: [UInt8] = []
    /// IPv6: protocol numbers of extension headers and their octets behind the first two.
    package var extensions: [(type: UInt8, body: [UInt8])] = []
    package var transport: Transport
    package var payload: [UInt8] = []
    /// Octets behind the datagram, as short frames have them.
    package var padding = 0

    package init(
        _ source: String = "10.0.0.1", _ destination: String = "10.0.0.2",
        _ transport: Transport = .tcp(), payload: [UInt8] = []
    ) {
        guard let source = IPAddress(source), let destination = IPAddress(destination) else {
            preconditionFailure("not an address: \(source) or \(destination)")
        }
        self.source = source
        self.destination = destination
        self.transport = transport
        self.payload = payload
    }

    package var isIPv4: Bool { source.isIPv4 }

    package var ipProtocol: UInt8 {
        switch transport {
        case .tcp: 6
        case .udp, .udpWithoutChecksum: 17
        case .icmp: isIPv4 ? 1 : 58
        case .other(let number): number
        }
    }

    private static func octets(_ mac: MACAddress) -> [UInt8] {
        bigEndian16(Int(mac.rawValue >> 32)) + bigEndian32(UInt32(truncatingIfNeeded: mac.rawValue))
    }

    private func octets(_ address: IPAddress) -> [UInt8] {
        if isIPv4 { return bigEndian32(address.v4) }
        return [address.high, address.low].flatMap {
            bigEndian32(UInt32($0 >> 32)) + bigEndian32(UInt32(truncatingIfNeeded: $0))
        }
    }

    private func link(_ type: UInt16) -> [UInt8] {
        Self.octets(destinationMAC) + Self.octets(sourceMAC)
            + tags.flatMap { bigEndian16(Int($0.type)) + bigEndian16(Int($0.tci)) }
            + bigEndian16(Int(type))
    }

    /// Sum over the pseudo-header: what a partial checksum's field holds.
    package func pseudoSum(_ length: Int) -> UInt16 {
        naiveSum(
            octets(source) + octets(destination) + [0, ipProtocol]
                + bigEndian32(UInt32(length)))
    }

    /// Transport header and payload. `isPartial`: the checksum is left to the device.
    package func segment(isPartial: Bool = false) -> [UInt8] {
        let ports = bigEndian16(Int(sourcePort)) + bigEndian16(Int(destinationPort))
        var bytes: [UInt8]
        var field: Int?
        switch transport {
        case .tcp(let flags, let sequence, let acknowledgement, let options):
            let length = (20 + options.count) / 4
            bytes = ports + bigEndian32(sequence) + bigEndian32(acknowledgement)
            bytes += bigEndian16(length << 12 | Int(flags)) + bigEndian16(8_192) + [0, 0, 0, 0]
            bytes += options
            field = 16
        case .udp, .udpWithoutChecksum:
            bytes = ports + bigEndian16(8 + payload.count) + [0, 0]
            if case .udp = transport { field = 6 }
        case .icmp(let type, let code, let rest):
            bytes = [type, code, 0, 0] + bigEndian32(rest)
            field = 2
        case .other: bytes = []
        }
        bytes += payload
        guard let field else { return bytes }
        let pseudo = ipProtocol == 1 ? 0 : pseudoSum(bytes.count)
        var checksum = pseudo
        if !isPartial {
            checksum = ~naiveSum(bigEndian16(Int(pseudo)) + bytes)
            if ipProtocol == 17, checksum == 0 { checksum = 0xffff }
        }
        bytes.replaceSubrange(field..<field + 2, with: bigEndian16(Int(checksum)))
        return bytes
    }

    /// A frame around a part of the datagram's payload.
    private func frame(_ part: [UInt8], offset: Int, more: Bool, isFragment: Bool) -> [UInt8] {
        let pad = [UInt8](repeating: 0, count: padding)
        guard isIPv4 else {
            return link(EtherType.ipv6)
                + ipv6(part, offset: offset, more: more, isFragment: isFragment) + pad
        }
        let length = 20 + options.count
        var header: [UInt8] = [0x40 | UInt8(length / 4), tos] + bigEndian16(length + part.count)
        header += bigEndian16(Int(identification & 0xffff))
        header += bigEndian16((mayNotFragment ? 0x4000 : 0) | (more ? 0x2000 : 0) | offset / 8)
        header += [ttl, ipProtocol, 0, 0] + octets(source) + octets(destination) + options
        header.replaceSubrange(10..<12, with: bigEndian16(Int(naiveChecksum(header))))
        return link(EtherType.ipv4) + header + part + pad
    }

    private func ipv6(_ part: [UInt8], offset: Int, more: Bool, isFragment: Bool) -> [UInt8] {
        var chain = extensions
        if isFragment {
            chain.append(
                (
                    type: 44,
                    body: bigEndian16(offset | (more ? 1 : 0)) + bigEndian32(identification)
                ))
        }
        var bytes: [UInt8] = []
        for (index, header) in chain.enumerated() {
            let next = index + 1 < chain.count ? chain[index + 1].type : ipProtocol
            let size = header.body.count + 2
            let length =
                header.type == 44 ? 0 : header.type == 51 ? size / 4 - 2 : size / 8 - 1
            bytes += [next, UInt8(length)] + header.body
        }
        bytes += part
        return bigEndian32(0x6000_0000 | UInt32(tos) << 20) + bigEndian16(bytes.count)
            + [chain.first?.type ?? ipProtocol, ttl] + octets(source) + octets(destination)
            + bytes
    }

    package func frame(isPartial: Bool = false) -> [UInt8] {
        frame(segment(isPartial: isPartial), offset: 0, more: false, isFragment: false)
    }

    /// The datagram in fragments of `size` octets of payload, a multiple of 8.
    package func fragments(of size: Int) -> [[UInt8]] {
        fragments(at: Array(stride(from: 0, to: segment().count, by: size)))
    }

    /// The datagram in fragments that begin at these octets of its payload: 0, then multiples of 8.
    package func fragments(at starts: [Int]) -> [[UInt8]] {
        let whole = segment()
        return starts.indices.map { index in
            let end = index + 1 < starts.count ? starts[index + 1] : whole.count
            return frame(
                Array(whole[starts[index]..<end]), offset: starts[index], more: end < whole.count,
                isFragment: true)
        }
    }

    /// ARP (RFC 826) with these MAC addresses; `operation` 1 asks, 2 answers.
    package func arp(operation: Int = 1, targetMAC: MACAddress = .zero) -> [UInt8] {
        link(EtherType.arp) + [0, 1, 8, 0, 6, 4] + bigEndian16(operation)
            + Self.octets(sourceMAC) + octets(source) + Self.octets(targetMAC)
            + octets(destination) + [UInt8](repeating: 0, count: padding)
    }

    /// Any EtherType.
    package func ethernet(type: UInt16) -> [UInt8] { link(type) + payload }

    /// The datagram without its Ethernet header, as ICMP errors quote it.
    package func datagram() -> [UInt8] { Array(frame().dropFirst(14 + tags.count * 4)) }
}

extension PacketBuilder {
    /// One of each kind that the parser tells apart, with names for messages.
    package static var samples: [(name: String, bytes: [UInt8])] {
        let text = Array("some payload, odd".utf8)
        let timestamps: [UInt8] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]
        let sack: [UInt8] = [1, 1, 5, 18] + [UInt8](repeating: 7, count: 16)
        var result: [(String, [UInt8])] = []
        for (name, source, destination) in [
            ("IPv4", "10.0.0.1", "10.0.0.2"), ("IPv6", "fd00::1", "fd00::2"),
        ] {
            var tcp = PacketBuilder(
                source, destination, .tcp(options: timestamps + sack), payload: text)
            result.append(("\(name) TCP", tcp.frame()))
            tcp.tags = [Tag(tci: 100)]
            result.append(("\(name) TCP, tag", tcp.frame()))
            tcp.tags = [Tag(type: EtherType.serviceVLAN, tci: 7), Tag(tci: 0x6064)]
            result.append(("\(name) TCP, two tags", tcp.frame()))
            let udp = PacketBuilder(source, destination, .udp, payload: text)
            result.append(("\(name) UDP", udp.frame()))
            for (index, bytes) in udp.fragments(of: 16).enumerated() {
                result.append(("\(name) UDP, fragment \(index)", bytes))
            }
            let echo = PacketBuilder(
                source, destination, .icmp(type: name == "IPv4" ? 8 : 128, rest: 5),
                payload: text)
            result.append(("\(name) ICMP", echo.frame()))
            let quoting = PacketBuilder(
                source, destination, .icmp(type: name == "IPv4" ? 3 : 1, code: 1),
                payload: PacketBuilder(destination, source, .tcp(), payload: text).datagram())
            result.append(("\(name) ICMP error", quoting.frame()))
            result.append(
                (
                    "\(name) SCTP",
                    PacketBuilder(source, destination, .other(132), payload: text).frame()
                ))
            result.append(
                (
                    "\(name) other",
                    PacketBuilder(source, destination, .other(47), payload: text).frame()
                ))
        }
        var chain = PacketBuilder("fd00::1", "fd00::2", .tcp(), payload: text)
        chain.extensions = [
            (0, [5, 2, 0, 0, 1, 0]), (43, [0, 0, 0, 0, 0, 0]),
            (60, [UInt8](repeating: 0, count: 14)), (51, [UInt8](repeating: 3, count: 10)),
        ]
        result.append(("IPv6 extension headers", chain.frame()))
        var options = PacketBuilder(payload: text)
        options.options = [7, 7, 4, 0, 0, 0, 0, 0]
        options.padding = 5
        result.append(("IPv4 options and padding", options.frame()))
        result.append(("ARP", PacketBuilder().arp()))
        result.append(("other EtherType", PacketBuilder(payload: text).ethernet(type: 0x88cc)))
        return result
    }
}
