import DataPlane
import TestSupport
import Testing

/// Any octets may come from a wire: nothing traps, nothing is read outside the frame (it lies at
/// the end of a page), and every frame is sent or counted as dropped.
@Suite struct MalformedInputTests {
    let memory = FrameMemory()
    static let values: [UInt8] = [0, 1, 2, 4, 5, 6, 7, 0x0f, 0x45, 0x7f, 0x80, 0xf0, 0xfe, 0xff]

    /// Offsets lie inside the frame, in order.
    private func areConsistent(_ headers: PacketHeaders, length: Int) -> Bool {
        let end = Int(headers.networkEnd)
        guard end <= length, Int(headers.networkOffset) <= end else { return false }
        guard headers.payloadLength >= 0,
            Int(headers.payloadOffset) + Int(headers.payloadLength) <= end
        else { return false }
        guard headers.transportOffset >= 0 else { return true }
        let minimum = headers.ipProtocol == 6 ? 20 : headers.ipProtocol == 17 ? 8 : 4
        return Int(headers.transportOffset) + minimum <= end
            && Int(headers.tcpHeaderLength) <= end - Int(headers.transportOffset)
            && (headers.sackOffset < 0
                || Int(headers.sackOffset) + Int(headers.sackCount) * 8
                    <= Int(headers.payloadOffset))
            && (headers.timestampOffset < 0
                || headers.timestampOffset + 10 <= headers.payloadOffset)
    }

    private func check(_ name: String, _ bytes: [UInt8]) -> DropReason? {
        var headers = PacketHeaders()
        let reason = PacketHeaders.parse(memory.frame(bytes), into: &headers)
        if reason == nil, !areConsistent(headers, length: bytes.count) {
            Issue.record("\(name): \(headers)")
        }
        return reason
    }

    @Test func everyTruncation() {
        var refused = 0
        for (name, bytes) in PacketBuilder.samples {
            #expect(check(name, bytes) == nil, "\(name)")
            for length in 0..<bytes.count {
                let reason = check("\(name) cut to \(length)", Array(bytes.prefix(length)))
                if reason != nil { refused += 1 }
                if length < 14 { #expect(reason == .frameTooShort) }
                if name.hasPrefix("IPv"), !name.contains("padding") {
                    if reason == nil { Issue.record("\(name) cut to \(length) was accepted") }
                }
            }
        }
        #expect(refused > 1_000)
    }

    @Test func everyOctetChanged() {
        var reasons: Set<DropReason> = []
        for (name, bytes) in PacketBuilder.samples {
            for offset in bytes.indices {
                for value in Self.values + [bytes[offset] ^ 1, bytes[offset] ^ 0x20] {
                    var changed = bytes
                    changed[offset] = value
                    // Damage behind the checksum too.
                    for isRepaired in [false, true] {
                        if isRepaired { repair(&changed) }
                        let reason = check("\(name) [\(offset)] = \(value)", changed)
                        if let reason { reasons.insert(reason) }
                    }
                }
            }
        }
        let wanted: Set<DropReason> = [
            .malformedARP, .malformedIPv4, .malformedIPv6, .malformedTCP,
            .malformedUDP, .headerChecksum, .fragmentTooSmall,
        ]
        #expect(wanted.isSubset(of: reasons), "\(wanted.subtracting(reasons))")
    }

    /// Makes the IPv4 header checksum of an untagged frame right.
    private func repair(_ bytes: inout [UInt8]) {
        guard bytes.count >= 34, bytes[12] == 8, bytes[13] == 0 else { return }
        let length = Int(bytes[14] & 15) * 4
        guard length >= 20, bytes.count >= 14 + length else { return }
        bytes[24] = 0
        bytes[25] = 0
        let sum = naiveChecksum(Array(bytes[14..<14 + length]))
        bytes.replaceSubrange(24..<26, with: bigEndian16(Int(sum)))
    }

    @Test func randomOctets() {
        var random = SplitMix64(seed: 11)
        for round in 0..<20_000 {
            var bytes = random.bytes(random.below(120))
            if bytes.count >= 14, round % 4 != 0 {
                let types: [[UInt8]] = [[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]]
                bytes.replaceSubrange(12..<14, with: types[random.below(4)])
                if round % 2 == 0, bytes.count > 14 {
                    bytes[14] = bytes[12] == 8 ? 0x45 : 0x60
                    repair(&bytes)
                }
            }
            _ = check("random \(round)", bytes)
        }
    }

    /// The same damage through the whole switch, with flows, and actions that write to the packet.
    @Test func throughTheSwitch() throws {
        let fixture = TestSwitch([.init(1), .init(2, mtu: 1_500), .init(3, isCPU: true)])
        try fixture.addRule([
            .setSourceAddress(try #require(IPAddress("10.9.9.9"))),
            .setDestinationAddress(try #require(IPAddress("fd00::99"))), .setSourcePort(1),
            .setDestinationPort(2), .setTOS(0xfc), .output(2), .pushVLAN(EtherType.vlan),
            .setVLANID(5), .setVLANPriority(3), .decrementTTL, .output(2), .popVLAN, .popVLAN,
            .output(2),
        ])
        for prefix in ["10.0.0.", "fd00::"] {
            let source = try #require(IPAddress(prefix + "1"))
            let destination = try #require(IPAddress(prefix + "2"))
            for (from, to) in [(source, destination), (destination, source)] {
                for ipProtocol in [IPProtocol.tcp, IPProtocol.udp] {
                    let key = FlowKey(
                        source: from, sourcePort: 40_000, destination: to,
                        destinationPort: 3_260, ipProtocol: ipProtocol, domain: 0,
                        origin: .network)
                    try fixture.apply([
                        .addFlow(
                            key,
                            actions: [
                                .setSourceAddress(destination), .setDestinationPort(9),
                                .decrementTTL, .output(2),
                            ], cookie: 0, idleTimeout: 0)
                    ])
                }
            }
        }
        var random = SplitMix64(seed: 5)
        var injected: UInt64 = 0
        for (_, bytes) in PacketBuilder.samples {
            for length in 0...bytes.count {
                var changed = Array(bytes.prefix(length))
                if length > 0, length == bytes.count || random.below(2) == 0 {
                    changed[random.below(length)] = UInt8(truncatingIfNeeded: random.next())
                    repair(&changed)
                }
                injected += 1
                fixture.ports[1]?.inject(changed)
            }
            for offset in bytes.indices {
                for value in Self.values {
                    var changed = bytes
                    changed[offset] = value
                    repair(&changed)
                    injected += 1
                    fixture.ports[1]?.inject(changed)
                }
            }
            _ = fixture.send([[UInt8]](), on: 1)
            fixture.advance(seconds: 3)
        }
        let status = fixture.worker.call { $0.portStatus() } ?? []
        let port = try #require(status.first { $0.number == 1 })
        #expect(port.counters.receivedPackets == injected)
        #expect(fixture.status.fragments == 0)
        #expect(status.contains { $0.counters.sentPackets > 1_000 })
        #expect(fixture.status.drops.values.reduce(0, +) > 1_000)
    }
}
