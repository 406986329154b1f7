import DataPlane
import TestSupport
import Testing

/// Fragments of datagrams of exact flows follow their first fragment.
@Suite struct FragmentTests {
    private func builder(_ prefix: String) -> PacketBuilder {
        PacketBuilder(prefix + "1", prefix + "2", .udp, payload: Array(0..<100))
    }

    private func key(_ builder: PacketBuilder) -> FlowKey {
        FlowKey(
            source: builder.source, sourcePort: builder.sourcePort,
            destination: builder.destination, destinationPort: builder.destinationPort,
            ipProtocol: 17, domain: 0, origin: .network)
    }

    /// A flow that translates, and rules that send all else to port 3.
    private func fixture(_ prefix: String) throws -> (TestSwitch, PacketBuilder) {
        let fixture = TestSwitch([.init(1), .init(2), .init(3)])
        var translated = builder(prefix)
        translated.destination = try #require(IPAddress(prefix + "99"))
        translated.destinationPort = 7
        try fixture.apply([
            .addFlow(
                key(builder(prefix)),
                actions: [
                    .setDestinationAddress(translated.destination), .setDestinationPort(7),
                    .output(2),
                ], cookie: 0, idleTimeout: 0),
            .addRule(Rule(actions: [.output(3)])),
        ])
        return (fixture, translated)
    }

    @Test(arguments: ["10.0.0.", "fd00::"])
    func inOrder(prefix: String) throws {
        let (fixture, translated) = try fixture(prefix)
        let sent = fixture.send(builder(prefix).fragments(of: 40), on: 1)
        #expect(sent.mapValues { $0.map(\.bytes) } == [2: translated.fragments(of: 40)])
        #expect(fixture.status.drops.isEmpty)
        fixture.advance(seconds: 3)
        #expect(fixture.status.fragments == 0 && fixture.status.drops.isEmpty)
    }

    /// Later fragments that come early wait for the first one.
    @Test(arguments: ["10.0.0.", "fd00::"])
    func outOfOrder(prefix: String) throws {
        let (fixture, translated) = try fixture(prefix)
        let frames = builder(prefix).fragments(of: 40)
        let wanted = translated.fragments(of: 40)
        #expect(frames.count == 3)
        #expect(fixture.send([frames[2], frames[1]], on: 1).isEmpty)
        #expect(fixture.status.fragments == 1)
        let sent = fixture.send(frames[0], on: 1)
        #expect(sent[2]?.map(\.bytes) == [wanted[0], wanted[2], wanted[1]])
        // A repeated one goes at once.
        #expect(fixture.send(frames[1], on: 1)[2]?.map(\.bytes) == [wanted[1]])
    }

    @Test func noFlowMeansRules() throws {
        let (fixture, _) = try fixture("10.0.0.")
        var other = builder("10.0.0.")
        other.sourcePort = 1
        let frames = other.fragments(of: 40)
        #expect(
            fixture.send([frames[1], frames[0], frames[2]], on: 1)[3]?.map(\.bytes) == [
                frames[0], frames[1], frames[2],
            ])
        // Rules see no ports in any fragment.
        try fixture.addRule([.output(2)], match: .destinationPort(3_260), priority: 60_000)
        try fixture.addRule(
            [.output(2)],
            match: .fields {
                $0.fragment = 3; $1.fragment = .max
            }, priority: 50_000)
        other.identification = 77
        let more = other.fragments(of: 40)
        let sent = fixture.send(more, on: 1)
        #expect(sent.mapValues { $0.map(\.bytes) } == [3: [more[0]], 2: [more[1], more[2]]])
        #expect(Set(fixture.send(other.frame(), on: 1).keys) == [2])
    }

    /// Without any flow, nothing waits.
    @Test func withoutFlows() throws {
        let fixture = TestSwitch([.init(1), .init(2)])
        try fixture.addRule([.output(2)])
        let frames = builder("10.0.0.").fragments(of: 40)
        #expect(fixture.send(frames[2], on: 1)[2]?.map(\.bytes) == [frames[2]])
        #expect(fixture.status.fragments == 0)
    }

    @Test func firstNeverComes() throws {
        let (fixture, _) = try fixture("10.0.0.")
        let frames = builder("10.0.0.").fragments(of: 40)
        #expect(fixture.send([frames[1], frames[2]], on: 1).isEmpty)
        fixture.advance(seconds: 1.9)
        #expect(fixture.status.fragments == 1)
        fixture.advance(seconds: 0.2)
        #expect(fixture.status.fragments == 0)
        #expect(fixture.status.drops == [.fragmentNoFirst: 2])
        // Too late: its followers are gone, itself goes.
        #expect(fixture.send(frames[0], on: 1)[2]?.count == 1)
    }

    @Test func limits() throws {
        let (fixture, _) = try fixture("10.0.0.")
        let later = builder("10.0.0.").fragments(of: 40)[1]
        #expect(fixture.send(Array(repeating: later, count: 70), on: 1).isEmpty)
        #expect(fixture.status.drops == [.fragmentQueueFull: 6])
        let others = (0..<200).map { number in
            var builder = builder("10.0.0.")
            builder.identification = UInt32(number) + 0x5000
            return builder.fragments(of: 40)[1]
        }
        #expect(fixture.send(others, on: 1).isEmpty)
        let status = fixture.status
        #expect(status.fragments <= 16)
        #expect(status.drops[.fragmentTableFull] == UInt64(201 - status.fragments))
    }

    /// Damage in the first fragment drops it and leaves the waiting ones to time.
    @Test func badFirst() throws {
        let (fixture, _) = try fixture("10.0.0.")
        var frames = builder("10.0.0.").fragments(of: 40)
        frames[0][24] ^= 0x40
        #expect(fixture.send([frames[1], frames[0]], on: 1).isEmpty)
        #expect(fixture.status.drops == [.headerChecksum: 1])
        fixture.advance(seconds: 3)
        #expect(fixture.status.drops == [.headerChecksum: 1, .fragmentNoFirst: 1])
    }
}
