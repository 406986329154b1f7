import DataPlane
import TestSupport
import Testing

/// A rewritten packet is, octet for octet, the packet that is built with the new fields.
@Suite struct RewriterTests {
    let memory = FrameMemory()

    /// A random change, made to the description of a packet and, through the rewriter, to the
    /// frame.
    private func change(
        _ builder: inout PacketBuilder, _ frame: inout Frame, _ headers: inout PacketHeaders,
        _ random: inout SplitMix64
    ) {
        let number = random.next()
        let mac = MACAddress(rawValue: number)
        let address =
            builder.isIPv4
            ? IPAddress(v4: UInt32(truncatingIfNeeded: number))
            : IPAddress(high: number, low: random.next())
        let port = UInt16(truncatingIfNeeded: number)
        let octet = UInt8(truncatingIfNeeded: number >> 8)
        let hasPorts = [6, 17].contains(builder.ipProtocol)
        switch random.below(13) {
        case 0:
            builder.sourceMAC = mac
            PacketRewriter.setSourceMAC(mac, frame, &headers)
        case 1:
            builder.destinationMAC = mac
            PacketRewriter.setDestinationMAC(mac, frame, &headers)
        case 2:
            builder.source = address
            PacketRewriter.setAddresses(source: address, destination: nil, frame, &headers)
        case 3:
            builder.destination = address
            PacketRewriter.setAddresses(source: nil, destination: address, frame, &headers)
        case 4:
            (builder.source, builder.destination) = (builder.destination, builder.source)
            PacketRewriter.setAddresses(
                source: builder.source, destination: builder.destination, frame, &headers)
        case 5:
            if hasPorts { builder.sourcePort = port }
            PacketRewriter.setPorts(source: port, destination: nil, frame, &headers)
        case 6:
            if hasPorts { builder.destinationPort = port }
            PacketRewriter.setPorts(source: nil, destination: port, frame, &headers)
        case 7:
            builder.tos = octet & 0xfc | builder.tos & 3
            PacketRewriter.setTOS(octet, frame, &headers)
        case 8:
            builder.ttl = octet
            PacketRewriter.setTTL(octet, frame, &headers)
        case 9:
            let isAlive = PacketRewriter.decrementTTL(frame, &headers)
            #expect(isAlive == (builder.ttl > 1))
            if isAlive { builder.ttl -= 1 }
        case 10:
            guard builder.tags.count < 2 else { return }
            builder.tags.insert(.init(type: EtherType.serviceVLAN, tci: port & 0xefff), at: 0)
            PacketRewriter.pushVLAN(EtherType.serviceVLAN, tci: port, &frame, &headers)
        case 11:
            if !builder.tags.isEmpty { builder.tags.removeFirst() }
            PacketRewriter.popVLAN(&frame, &headers)
        default:
            if builder.tags.isEmpty { builder.tags = [.init(tci: 0)] }
            builder.tags[0].tci = builder.tags[0].tci & ~0x0fff | port & 0x0fff
            PacketRewriter.setVLAN(port, mask: 0x0fff, &frame, &headers)
        }
    }

    private func start(_ random: inout SplitMix64) -> PacketBuilder {
        let prefix = random.below(2) == 0 ? "10.0.0." : "fd00::"
        var builder = PacketBuilder(prefix + "1", prefix + "2")
        switch random.below(5) {
        case 0, 1: builder.transport = .tcp(options: [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])
        case 2: builder.transport = .udp
        case 3: builder.transport = builder.isIPv4 ? .udpWithoutChecksum : .udp
        default: builder.transport = .icmp(type: builder.isIPv4 ? 8 : 128, rest: 3)
        }
        builder.payload = random.bytes(random.below(80))
        if random.below(4) == 0 { builder.tags = [.init(tci: 9)] }
        if builder.isIPv4, random.below(4) == 0 { builder.options = [7, 4, 4, 0] }
        if !builder.isIPv4, random.below(4) == 0 { builder.extensions = [(0, [1, 4, 0, 0, 0, 0])] }
        return builder
    }

    @Test(arguments: 1...4 as ClosedRange<UInt64>)
    func completeChecksums(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        for round in 0..<500 {
            var builder = start(&random)
            var frame = memory.frame(builder.frame())
            var headers = PacketHeaders()
            #expect(PacketHeaders.parse(frame, into: &headers) == nil)
            for _ in 0..<6 { change(&builder, &frame, &headers, &random) }
            guard frame.octets == builder.frame() else {
                Issue.record("round \(round): \(frame.octets), not \(builder.frame())")
                continue
            }
            if let problem = ChecksumView(frame.octets)?.problem { Issue.record("\(problem)") }
            // The parsed headers came along.
            var again = PacketHeaders()
            #expect(PacketHeaders.parse(frame, into: &again) == nil)
            #expect(String(describing: headers) == String(describing: again))
        }
    }

    /// Frames of a local sender: the checksum field holds the pseudo-header's sum only; GSO frames
    /// are longer than any wire takes.
    @Test(arguments: [100, 20_000])
    func partialChecksums(payload: Int) {
        var random = SplitMix64(seed: UInt64(payload))
        for _ in 0..<(payload > 1_000 ? 40 : 400) {
            var builder = start(&random)
            if case .tcp = builder.transport {} else { builder.transport = .tcp() }
            builder.payload = random.bytes(payload + random.below(2))
            builder.extensions = []
            builder.options = []
            var offload = VirtioHeader()
            offload.flags = VirtioHeader.needsChecksum
            let transport = 14 + builder.tags.count * 4 + (builder.isIPv4 ? 20 : 40)
            offload.checksumStart = UInt16(transport)
            offload.checksumOffset = 16
            if payload > 1_500 {
                offload.segmentationType = builder.isIPv4 ? 1 : 4
                offload.segmentSize = 1_448
                offload.headerLength = UInt16(transport + 20)
            }
            var frame = memory.frame(builder.frame(isPartial: true), offload: offload)
            var headers = PacketHeaders()
            #expect(PacketHeaders.parse(frame, into: &headers) == nil)
            for _ in 0..<6 { change(&builder, &frame, &headers, &random) }
            #expect(frame.octets == builder.frame(isPartial: true))
            let moved = 14 + builder.tags.count * 4 + (builder.isIPv4 ? 20 : 40)
            offload.checksumStart = UInt16(moved)
            if offload.headerLength > 0 { offload.headerLength = UInt16(moved + 20) }
            #expect(frame.offload == offload)
        }
    }

    /// The first fragment carries the transport checksum of the whole datagram; later ones have
    /// none.
    @Test(arguments: ["10.0.0.", "fd00::"])
    func fragments(prefix: String) throws {
        var builder = PacketBuilder(prefix + "1", prefix + "2", .udp, payload: Array(0..<60))
        let before = builder.fragments(of: 24)
        let address = try #require(IPAddress(prefix + "77"))
        let after = before.map { bytes in
            let frame = memory.frame(bytes)
            var headers = PacketHeaders()
            #expect(PacketHeaders.parse(frame, into: &headers) == nil)
            PacketRewriter.setAddresses(source: address, destination: nil, frame, &headers)
            PacketRewriter.setPorts(source: nil, destination: 7, frame, &headers)
            return frame.octets
        }
        builder.source = address
        builder.destinationPort = 7
        #expect(after == builder.fragments(of: 24))
    }

    /// RFC 768: a checksum that comes out as 0 is sent as all ones.
    @Test func udpChecksumOfZero() throws {
        var found = 0
        var builder = PacketBuilder("10.0.0.1", "10.0.0.2", .udp, payload: [1, 2])
        for port in UInt16(1)...UInt16.max {
            let frame = memory.frame(builder.frame())
            var headers = PacketHeaders()
            _ = PacketHeaders.parse(frame, into: &headers)
            PacketRewriter.setPorts(source: port, destination: nil, frame, &headers)
            let field = frame.octets[40...41]
            if field.elementsEqual([0, 0]) { Issue.record("port \(port): no checksum") }
            guard field.elementsEqual([0xff, 0xff]) else { continue }
            found += 1
            builder.sourcePort = port
            #expect(frame.octets == builder.frame())
        }
        #expect(found == 1)
    }

    /// Addresses of the other family, ports of what has none, and tags of untagged frames change
    /// nothing.
    @Test func nothingToChange() throws {
        let four = try #require(IPAddress("1.2.3.4"))
        let six = try #require(IPAddress("fd00::9"))
        for (name, bytes) in PacketBuilder.samples {
            var frame = memory.frame(bytes)
            var headers = PacketHeaders()
            #expect(PacketHeaders.parse(frame, into: &headers) == nil)
            let other = headers.ipVersion == 4 ? six : four
            PacketRewriter.setAddresses(source: other, destination: other, frame, &headers)
            if headers.transportOffset < 0 || ![6, 17].contains(headers.ipProtocol) {
                PacketRewriter.setPorts(source: 1, destination: 2, frame, &headers)
            }
            if headers.vlanCount == 0 { PacketRewriter.popVLAN(&frame, &headers) }
            if headers.ipVersion == 0 {
                PacketRewriter.setTOS(4, frame, &headers)
                PacketRewriter.setTTL(4, frame, &headers)
                #expect(PacketRewriter.decrementTTL(frame, &headers))
            }
            #expect(frame.octets == bytes, "\(name)")
        }
    }
}
