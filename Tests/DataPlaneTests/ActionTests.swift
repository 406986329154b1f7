import DataPlane
import TestSupport
import Testing

/// Action lists: what comes out, octet for octet.
@Suite struct ActionTests {
    /// What is sent, by port, as descriptions of packets.
    struct Expected {
        var frames: [PortNumber: [PacketBuilder]]
        var drops: [DropReason: UInt64] = [:]
    }

    private func packet(_ prefix: String = "10.0.0.") -> PacketBuilder {
        PacketBuilder(prefix + "1", prefix + "2", payload: Array("payload".utf8))
    }

    private func check(
        _ name: String, _ input: PacketBuilder, _ actions: [Action], _ expected: Expected
    ) throws {
        let fixture = TestSwitch([
            .init(1), .init(2), .init(3), .init(4, domain: 1), .init(9, isCPU: true),
        ])
        try fixture.addRule(actions)
        let sent = fixture.send(input.frame(), on: 1)
        #expect(
            sent.mapValues { $0.map(\.bytes) }
                == expected.frames.mapValues { $0.map { $0.frame() } }, "\(name)")
        #expect(fixture.status.drops == expected.drops, "\(name)")
    }

    private func changed(
        _ builder: PacketBuilder, _ change: (inout PacketBuilder) -> Void
    ) -> PacketBuilder {
        var result = builder
        change(&result)
        return result
    }

    @Test func outputs() throws {
        let input = packet()
        let cases: [(String, [Action], Expected)] = [
            ("output", [.output(2)], Expected(frames: [2: [input]])),
            ("two outputs", [.output(2), .output(3)], Expected(frames: [2: [input], 3: [input]])),
            ("twice", [.output(2), .output(2)], Expected(frames: [2: [input, input]])),
            ("other domain", [.output(4)], Expected(frames: [4: [input]])),
            ("in_port", [.inPort], Expected(frames: [1: [input]])),
            ("flood", [.flood], Expected(frames: [2: [input], 3: [input], 9: [input]])),
            ("all", [.all], Expected(frames: [2: [input], 3: [input], 9: [input]])),
            ("cpu", [.cpu], Expected(frames: [9: [input]])),
            ("mirror", [.mirror(3), .output(2)], Expected(frames: [2: [input], 3: [input]])),
            ("drop", [.drop], Expected(frames: [:], drops: [.ruleAction: 1])),
            ("nothing", [], Expected(frames: [:], drops: [.ruleAction: 1])),
            ("drop after output", [.output(2), .drop, .output(3)], Expected(frames: [2: [input]])),
            (
                "back without in_port", [.output(1)],
                Expected(frames: [:], drops: [.sourceIsDestinationPort: 1])
            ),
            ("back among others", [.output(1), .output(2)], Expected(frames: [2: [input]])),
            ("no such port", [.output(33)], Expected(frames: [:], drops: [.noSuchPort: 1])),
            ("no splice", [.splice(3)], Expected(frames: [:], drops: [.spliceUnknown: 1])),
            (
                "splice out of range", [.splice(1_000_000)],
                Expected(frames: [:], drops: [.spliceUnknown: 1])
            ),
        ]
        for (name, actions, expected) in cases { try check(name, input, actions, expected) }
    }

    @Test func cpuWithoutACPUPort() throws {
        let fixture = TestSwitch([.init(1), .init(2)])
        try fixture.addRule([.cpu])
        #expect(fixture.send(packet().frame(), on: 1).isEmpty)
        #expect(fixture.drops(.noSuchPort) == 1)
    }

    @Test(arguments: ["10.0.0.", "fd00::"])
    func fields(prefix: String) throws {
        let input = packet(prefix)
        let mac = MACAddress(rawValue: 0x0a0b_0c0d_0e0f)
        let address = try #require(IPAddress(prefix + "99"))
        let other = try #require(IPAddress(input.isIPv4 ? "fd00::99" : "10.0.0.99"))
        let cases: [(String, Action, (inout PacketBuilder) -> Void)] = [
            ("source MAC", .setSourceMAC(mac), { $0.sourceMAC = mac }),
            ("destination MAC", .setDestinationMAC(mac), { $0.destinationMAC = mac }),
            ("source", .setSourceAddress(address), { $0.source = address }),
            ("destination", .setDestinationAddress(address), { $0.destination = address }),
            ("other family", .setDestinationAddress(other), { _ in }),
            ("source port", .setSourcePort(7), { $0.sourcePort = 7 }),
            ("destination port", .setDestinationPort(0xffff), { $0.destinationPort = 0xffff }),
            ("TOS", .setTOS(0xb8), { $0.tos = 0xb8 | 1 }),
            ("TTL", .setTTL(7), { $0.ttl = 7 }),
            ("decrement", .decrementTTL, { $0.ttl = 63 }),
            (
                "push", .pushVLAN(EtherType.serviceVLAN),
                { $0.tags = [.init(type: EtherType.serviceVLAN, tci: 0)] }
            ),
            ("pop nothing", .popVLAN, { _ in }),
            ("VLAN id", .setVLANID(5), { $0.tags = [.init(tci: 5)] }),
            ("VLAN priority", .setVLANPriority(3), { $0.tags = [.init(tci: 0x6000)] }),
        ]
        for (name, action, change) in cases {
            let marked = changed(input) { $0.tos = 1 }
            try check(
                name, marked, [action, .output(2)],
                Expected(frames: [2: [changed(marked, change)]]))
        }
    }

    @Test func tags() throws {
        let input = changed(packet()) { $0.tags = [.init(tci: 0x6064)] }
        let cases: [(String, [Action], [PacketBuilder.Tag])] = [
            ("pop", [.popVLAN], []),
            ("pop twice", [.popVLAN, .popVLAN], []),
            ("VLAN id keeps the priority", [.setVLANID(5)], [.init(tci: 0x6005)]),
            ("priority keeps the id", [.setVLANPriority(7)], [.init(tci: 0xe064)]),
            (
                "push and set",
                [.pushVLAN(EtherType.serviceVLAN), .setVLANID(9), .setVLANPriority(1)],
                [.init(type: EtherType.serviceVLAN, tci: 0x2009), .init(tci: 0x6064)]
            ),
            ("push and pop", [.pushVLAN(EtherType.vlan), .popVLAN], [.init(tci: 0x6064)]),
            (
                "three more", [.pushVLAN(0x8100), .pushVLAN(0x8100), .pushVLAN(0x8100)],
                [.init(tci: 0), .init(tci: 0), .init(tci: 0), .init(tci: 0x6064)]
            ),
        ]
        for (name, actions, tags) in cases {
            try check(
                name, input, actions + [.output(2)],
                Expected(frames: [2: [changed(input) { $0.tags = tags }]]))
        }
    }

    /// A rule cannot push a frame out of its buffer.
    @Test func manyTags() throws {
        let pushes = [Action](repeating: .pushVLAN(EtherType.vlan), count: 63)
        try check(
            "63 tags", packet(), pushes + [.output(2)],
            Expected(frames: [:], drops: [.actionLimit: 1]))
        let pairs = (0..<31).flatMap { _ in [Action.pushVLAN(EtherType.vlan), .popVLAN] }
        try check("31 times", packet(), pairs + [.output(2)], Expected(frames: [2: [packet()]]))
    }

    /// An output sends the packet as it is then: later changes do not reach it.
    @Test func changesBetweenOutputs() throws {
        let input = packet()
        let address = try #require(IPAddress("10.0.0.99"))
        let first = changed(input) { $0.ttl = 9 }
        let second = changed(first) { $0.destination = address }
        let third = changed(second) { $0.tags = [.init(tci: 7)] }
        try check(
            "changes", input,
            [
                .mirror(3), .setTTL(9), .output(2), .setDestinationAddress(address), .mirror(3),
                .setVLANID(7), .output(2), .flood,
            ],
            Expected(frames: [2: [first, third, third], 3: [input, second, third], 9: [third]]))
    }

    /// Bursts that need more copies than the arena has.
    @Test func manyCopies() throws {
        let fixture = TestSwitch([.init(1), .init(2)])
        let actions = (1...20).flatMap { [Action.setTTL(UInt8($0)), .output(2)] }
        try fixture.addRule(actions)
        let inputs = (0..<100).map { number in
            changed(packet()) { $0.payload = [UInt8](repeating: UInt8(number), count: number) }
        }
        let sent = fixture.send(inputs.map { $0.frame() }, on: 1)[2] ?? []
        let expected = inputs.flatMap { input in
            (1...20).map { ttl in changed(input) { $0.ttl = UInt8(ttl) }.frame() }
        }
        #expect(sent.map(\.bytes) == expected)
    }

    /// What the device has still to do goes along, through copies and tags.
    @Test func offloads() throws {
        let fixture = TestSwitch([.init(1), .init(2, mtu: 1_500), .init(3)])
        try fixture.addRule([.output(3), .setSourcePort(99), .setVLANID(5), .output(2)])
        let input = changed(packet()) { $0.payload = [UInt8](repeating: 3, count: 30_000) }
        var offload = VirtioHeader()
        offload.flags = VirtioHeader.needsChecksum
        offload.segmentationType = VirtioHeader.segmentationTCPv4
        offload.segmentSize = 1_448
        offload.headerLength = 54
        offload.checksumStart = 34
        offload.checksumOffset = 16
        let sent = fixture.send(input.frame(isPartial: true), on: 1, offload: offload)
        #expect(sent[3] == [.init(bytes: input.frame(isPartial: true), offload: offload)])
        offload.checksumStart = 38
        offload.headerLength = 58
        let tagged = changed(input) {
            $0.sourcePort = 99
            $0.tags = [.init(tci: 5)]
        }
        // Longer than the port's MTU, but the device cuts it into segments that fit.
        #expect(sent[2] == [.init(bytes: tagged.frame(isPartial: true), offload: offload)])
        #expect(fixture.status.drops.isEmpty)
    }

    @Test func nonIPPackets() throws {
        let fixture = TestSwitch([.init(1), .init(2)])
        try fixture.addRule([
            .setSourceAddress(IPAddress(v4: 1)), .setTTL(3), .setTOS(4), .decrementTTL,
            .setSourcePort(9), .output(2),
        ])
        for bytes in [PacketBuilder().arp(), packet().ethernet(type: 0x88cc)] {
            #expect(fixture.send(bytes, on: 1)[2]?.map(\.bytes) == [bytes])
        }
    }
}
