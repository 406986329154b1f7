import DataPlane
import TestSupport
import Testing

@Suite struct ParserTests {
    let memory = FrameMemory()

    private func parse(_ bytes: [UInt8]) -> (PacketHeaders, DropReason?) {
        var headers = PacketHeaders()
        let reason = PacketHeaders.parse(memory.frame(bytes), into: &headers)
        return (headers, reason)
    }

    @Test(arguments: [("10.0.0.1", "10.0.0.2", 4), ("fd00::1", "fd00::2", 6)])
    func tcp(source: String, destination: String, version: UInt8) {
        let timestamps: [UInt8] = [1, 1, 8, 10, 0, 0, 0, 17, 0, 0, 0, 18]
        let sack: [UInt8] = [1, 1, 5, 18] + [UInt8](repeating: 7, count: 16)
        var builder = PacketBuilder(
            source, destination,
            .tcp(flags: 0x19, sequence: 77, acknowledgement: 88, options: timestamps + sack),
            payload: [1, 2, 3, 4, 5])
        builder.tos = 0xb9
        builder.ttl = 33
        builder.padding = 4
        let (headers, reason) = parse(builder.frame())
        let network = 14
        let transport = network + (version == 4 ? 20 : 40)
        #expect(reason == nil)
        #expect(headers.sourceMAC == builder.sourceMAC)
        #expect(headers.destinationMAC == builder.destinationMAC)
        #expect(headers.ipVersion == version)
        #expect(headers.networkOffset == Int32(network))
        #expect(headers.transportOffset == Int32(transport))
        #expect(headers.source == builder.source)
        #expect(headers.destination == builder.destination)
        #expect(headers.sourcePort == 40_000 && headers.destinationPort == 3_260)
        #expect(headers.tos == 0xb9 && headers.ttl == 33 && headers.ipProtocol == 6)
        #expect(headers.tcpFlags == 0x19 && headers.window == 8_192)
        #expect(headers.sequence.rawValue == 77 && headers.acknowledgement.rawValue == 88)
        #expect(headers.tcpHeaderLength == 52)
        #expect(headers.timestampOffset == Int32(transport + 22))
        #expect(headers.timestampValue == 17 && headers.timestampEcho == 18)
        #expect(headers.sackOffset == Int32(transport + 36) && headers.sackCount == 2)
        #expect(headers.payloadOffset == Int32(transport + 52) && headers.payloadLength == 5)
        #expect(headers.networkEnd == Int32(transport + 57))
        #expect(headers.sequenceEnd.rawValue == 77 + 5 + 1)
    }

    @Test func tags() {
        var builder = PacketBuilder()
        #expect(parse(builder.frame()).0.vlanTCI == 0)
        builder.tags = [.init(tci: 0x6064)]
        var headers = parse(builder.frame()).0
        #expect(headers.vlanTCI == 0x7064 && headers.vlanCount == 1)
        #expect(headers.networkOffset == 18)
        builder.tags = [.init(type: EtherType.serviceVLAN, tci: 5), .init(tci: 6)]
        headers = parse(builder.frame()).0
        #expect(headers.vlanTCI == 0x1005 && headers.vlanCount == 2)
        #expect(headers.etherType == EtherType.ipv4 && headers.sourcePort == 40_000)
        // A third tag is payload of an unknown type.
        builder.tags.append(.init(tci: 7))
        headers = parse(builder.frame()).0
        #expect(headers.vlanCount == 2 && headers.etherType == EtherType.vlan)
        #expect(headers.ipVersion == 0)
    }

    @Test func extensionHeaders() {
        let sample = PacketBuilder.samples.first { $0.name == "IPv6 extension headers" }
        let (headers, reason) = parse(sample?.bytes ?? [])
        #expect(reason == nil)
        #expect(headers.ipProtocol == 6 && headers.sourcePort == 40_000)
        #expect(headers.transportOffset == 14 + 40 + 8 + 8 + 16 + 12)
        #expect(headers.protocolOffset == 14 + 40 + 8 + 8 + 16)
        #expect(headers.payloadLength == 17)
    }

    @Test func tooManyExtensionHeaders() {
        var builder = PacketBuilder("fd00::1", "fd00::2", .udp)
        builder.extensions = Array(repeating: (0, [1, 4, 0, 0, 0, 0]), count: 7)
        #expect(parse(builder.frame()).1 == nil)
        builder.extensions.append((0, [1, 4, 0, 0, 0, 0]))
        #expect(parse(builder.frame()).1 == .malformedIPv6)
    }

    @Test(arguments: ["10.0.0.", "fd00::"])
    func fragments(prefix: String) {
        var builder = PacketBuilder(
            prefix + "1", prefix + "2", .udp, payload: [UInt8](repeating: 1, count: 40))
        builder.identification = 0x4321
        let parsed = builder.fragments(of: 16).map { parse($0) }
        #expect(parsed.count == 3)
        #expect(parsed.allSatisfy { $0.1 == nil && $0.0.identification == 0x4321 })
        #expect(parsed.map { $0.0.fragment } == [1, 3, 3])
        #expect(parsed.map { $0.0.fragmentOffset } == [0, 16, 32])
        #expect(parsed.map { $0.0.moreFragments } == [true, true, false])
        #expect(parsed[0].0.sourcePort == 40_000)
        #expect(parsed[1].0.transportOffset == -1 && parsed[1].0.ipProtocol == 17)
        #expect(parsed[1].0.payloadLength == 16)
    }

    // RFC 8200 section 4.5: a fragment header on a whole datagram ("atomic fragment", RFC 6946).
    @Test func atomicFragment() {
        let builder = PacketBuilder("fd00::1", "fd00::2", .udp, payload: [1, 2, 3])
        let (headers, reason) = parse(builder.fragments(of: 1_000)[0])
        #expect(reason == nil && headers.fragment == 0 && headers.sourcePort == 40_000)
    }

    @Test func arp() {
        let target = MACAddress(rawValue: 0x0a0b_0c0d_0e0f)
        let (headers, reason) = parse(PacketBuilder().arp(operation: 2, targetMAC: target))
        #expect(reason == nil)
        #expect(headers.etherType == EtherType.arp && headers.ipVersion == 0)
        #expect(headers.ipProtocol == 2)
        #expect(headers.source == IPAddress("10.0.0.1"))
        #expect(headers.destination == IPAddress("10.0.0.2"))
        #expect(headers.arpSourceMAC == PacketBuilder().sourceMAC)
        #expect(headers.arpTargetMAC == target)
    }

    @Test func icmp() {
        let (headers, reason) = parse(
            PacketBuilder("10.0.0.1", "10.0.0.2", .icmp(type: 3, code: 4), payload: [9]).frame())
        #expect(reason == nil && headers.sourcePort == 3 && headers.destinationPort == 4)
        #expect(headers.payloadLength == 1)
    }

    // MARK: What is refused, and why

    /// A sample with octets replaced; the IPv4 header checksum is made right again.
    private func changed(
        _ builder: PacketBuilder, _ changes: [(offset: Int, value: UInt8)]
    ) -> [UInt8] {
        var bytes = builder.frame()
        for change in changes { bytes[change.offset] = change.value }
        if builder.isIPv4 {
            bytes[24] = 0
            bytes[25] = 0
            let length = max(20, Int(bytes[14] & 15) * 4)
            let sum = naiveChecksum(Array(bytes[14..<min(bytes.count, 14 + length)]))
            bytes.replaceSubrange(24..<26, with: bigEndian16(Int(sum)))
        }
        return bytes
    }

    @Test func refusals() {
        let four = PacketBuilder(payload: [1, 2, 3])
        let six = PacketBuilder("fd00::1", "fd00::2", .udp, payload: [1, 2, 3])
        let udp = PacketBuilder("10.0.0.1", "10.0.0.2", .udp, payload: [1, 2, 3])
        let cases: [(String, [UInt8], DropReason)] = [
            ("13 octets", Array(four.frame().prefix(13)), .frameTooShort),
            ("no octets", [], .frameTooShort),
            ("cut tag", Array(four.ethernet(type: EtherType.vlan).prefix(16)), .malformedVLAN),
            ("version 5", changed(four, [(14, 0x55)]), .malformedIPv4),
            ("header of 16", changed(four, [(14, 0x44)]), .malformedIPv4),
            ("total beyond the frame", changed(four, [(17, 44)]), .malformedIPv4),
            ("total below the header", changed(four, [(17, 19)]), .malformedIPv4),
            ("TCP header of 16", changed(four, [(46, 0x40)]), .malformedTCP),
            ("TCP header beyond the end", changed(four, [(46, 0xf0)]), .malformedTCP),
            ("no room for TCP", changed(four, [(17, 39)]), .malformedTCP),
            ("UDP length 7", changed(udp, [(39, 7)]), .malformedUDP),
            ("UDP length beyond the end", changed(udp, [(39, 12)]), .malformedUDP),
            ("version 4 in IPv6", changed(six, [(14, 0x40)]), .malformedIPv6),
            ("IPv6 length beyond the frame", changed(six, [(19, 12)]), .malformedIPv6),
            (
                "no room for ICMP",
                PacketBuilder("10.0.0.1", "10.0.0.2", .other(1), payload: [8, 0, 0]).frame(),
                .malformedICMP
            ),
            (
                "tiny first fragment", PacketBuilder(payload: [1]).fragments(of: 8)[0],
                .fragmentTooSmall
            ),
            (
                "ARP for Ethernet addresses of 5",
                {
                    var bytes = four.arp()
                    bytes[18] = 5
                    return bytes
                }(), .malformedARP
            ),
            ("cut ARP", Array(four.arp().dropLast()), .malformedARP),
        ]
        for (name, bytes, reason) in cases {
            #expect(parse(bytes).1 == reason, "\(name)")
        }
        var bad = four.frame()
        bad[24] ^= 1
        #expect(parse(bad).1 == .headerChecksum)
    }

    /// Options that are not well formed end the search and nothing else.
    @Test func badOptions() {
        let lists: [[UInt8]] = [
            [8, 0, 0, 0], [8, 1, 0, 0], [8, 40, 0, 0], [1, 1, 1, 8], [5, 2, 0, 0], [5, 10, 0, 0],
            [0, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0], [254, 255, 255, 255],
        ]
        for options in lists {
            let (headers, reason) = parse(
                PacketBuilder("10.0.0.1", "10.0.0.2", .tcp(options: options), payload: [1]).frame())
            #expect(reason == nil && headers.timestampOffset == -1, "\(options)")
            #expect(headers.sackCount == 0 && headers.payloadLength == 1, "\(options)")
        }
    }
}
