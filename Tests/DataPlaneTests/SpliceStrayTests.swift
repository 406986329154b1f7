import DataPlane
import TestSupport
import Testing

/// Segments that are not of the session that a splice carries, but have its addresses and ports.
@Suite struct SpliceStrayTests {
    private static let syn = ScriptedTCPSegment.syn
    private static let ack = ScriptedTCPSegment.ack
    private static let rst = ScriptedTCPSegment.rst

    private func closed(_ fixture: SpliceFixture) -> [SpliceCloseReason] {
        fixture.network.events.compactMap {
            if case .spliceClosed(_, let reason) = $0 { reason } else { nil }
        }
    }

    @Test(arguments: [SpliceSide.client, .server], [UInt8(0), ack])
    func synOfALiveSession(side: SpliceSide, flags: UInt8) throws {
        let fixture = try SpliceFixture()
        let before = fixture.snapshot
        let options = fixture.options
        for sequence in [1, 0x7000_0000, 0xa000_0000] as [UInt32] {
            let segment = ScriptedTCPSegment(
                flags: Self.syn | flags, sequence: sequence, acknowledgement: sequence)
            let sent = try fixture.send(side, segment)
            // The end gets an acknowledgement of what we have; the other one nothing.
            let back = try #require(sent[side == .client ? 1 : 3])
            #expect(sent.count == 1 && back.count == 1)
            #expect(back[0].segment.flags == Self.ack)
            #expect(
                back[0].segment.acknowledgement
                    == (side == .client ? options.clientNext : options.serverNext))
            #expect(
                back[0].segment.sequence
                    == (side == .client ? options.toClientNext : options.toServerNext))
        }
        let after = fixture.snapshot
        #expect(after[side].receivedEnd == before[side].receivedEnd)
        #expect(after[side].acknowledged == before[side].acknowledged)
        #expect(after[side].base == before[side].base)
        #expect(after[side.other].sentEnd == before[side.other].sentEnd)
        // The session goes on, its acknowledgements unharmed.
        _ = try fixture.pass(.client, fixture.fromClient(payload: [1, 2, 3]))
        let answer = try fixture.pass(.server, fixture.fromServer(acknowledges: 3))
        #expect(answer.acknowledgement == options.clientNext &+ 3)
        #expect(answer.timestamps?.value == (options.toClientTimestamp | 1) &+ 10)
    }

    /// Both kinds of end: one that translates late packets, one that swallows them.
    @Test(arguments: [false, true]) func portUsedAgainAfterTheEnd(byCommand: Bool) throws {
        let fixture = try SpliceFixture()
        if !byCommand {
            _ = try fixture.pass(.client, fixture.fromClient(flags: Self.rst | Self.ack))
            #expect(closed(fixture) == [.resetByClient])
        }
        try fixture.apply(.close(SpliceFixture.id))
        _ = fixture.network.drain()
        #expect(fixture.network.status.flows == 4)
        let anew = ScriptedTCPSegment(flags: Self.syn, sequence: 77)
        let sent = try fixture.send(.client, anew)
        #expect(sent.keys.sorted() == [2], "to our own sockets, not to the server")
        #expect(fixture.network.status.flows == 0)
        // The next connection can be followed at once, and its SYN-ACK goes out.
        let answer = ScriptedTCPSegment(
            flags: Self.syn | Self.ack, sequence: 1, acknowledgement: 78)
        let out = fixture.network.send(
            answer.frame(from: fixture.virtual, to: fixture.client), on: 2)
        #expect(out[1]?.count == 1)
        try fixture.apply(
            .open(
                SpliceFixture.id + 1, client: SpliceFixture.leg(0, fixture.virtual, fixture.client),
                usesTimestamps: true, usesSACK: true))
    }

    /// A server's SYN, or a SYN-ACK, frees nothing.
    @Test func lateSYNACKAfterTheEnd() throws {
        let fixture = try SpliceFixture()
        try fixture.apply(.close(SpliceFixture.id))
        _ = fixture.network.drain()
        for side in SpliceSide.allCases {
            let late = ScriptedTCPSegment(flags: Self.syn | Self.ack, sequence: 77)
            _ = try fixture.send(side, late)
        }
        #expect(fixture.network.status.flows == 4)
    }

    /// A reset that its receiver ignores is passed on, but ends nothing.
    @Test(arguments: [SpliceSide.client, .server]) func resetBesideWhatIsExpected(
        side: SpliceSide
    ) throws {
        let fixture = try SpliceFixture()
        func segment(_ offset: Int, _ flags: UInt8, _ payload: [UInt8] = []) -> ScriptedTCPSegment {
            side == .client
                ? fixture.fromClient(offset, flags: flags, payload: payload)
                : fixture.fromServer(offset, flags: flags, payload: payload)
        }
        _ = try fixture.pass(side, segment(0, Self.ack, [1, 2, 3, 4]))
        for offset in [-1, 5, 100_000, 1 << 30, -(1 << 30)] {
            _ = try fixture.pass(side, segment(offset, Self.rst))
        }
        #expect(closed(fixture).isEmpty)
        #expect(fixture.snapshot.closeReason == nil)
        // Behind all data, as an end that breaks off sends it.
        _ = try fixture.pass(side, segment(4, Self.rst))
        #expect(closed(fixture) == [side == .client ? .resetByClient : .resetByServer])
    }

    /// The reset of a close may not be where the end expects it: it asks, and is told.
    @Test(arguments: [SpliceSide.client, .server]) func challengeAfterTheClose(
        side: SpliceSide
    ) throws {
        let fixture = try SpliceFixture()
        try fixture.apply(.close(SpliceFixture.id))
        _ = fixture.network.drain()
        let challenge =
            side == .client
            ? fixture.fromClient(acknowledges: 700) : fixture.fromServer(acknowledges: 700)
        let port: PortNumber = side == .client ? 1 : 3
        let sent = try fixture.send(side, challenge)
        let answer = try #require(sent[port]?.first)
        #expect(sent.count == 1 && sent[port]?.count == 1)
        #expect(answer.segment.has(Self.rst))
        #expect(answer.segment.sequence == challenge.acknowledgement)
        // No answer to a reset.
        let reset =
            side == .client
            ? fixture.fromClient(flags: Self.rst | Self.ack)
            : fixture.fromServer(flags: Self.rst | Self.ack)
        #expect(try fixture.send(side, reset).isEmpty)
    }

    /// Nobody read the events for long: the end of a session is told all the same.
    @Test func endWithAFullEventRing() throws {
        let fixture = try SpliceFixture()
        let key = { (port: Int) in
            FlowKey(
                source: IPAddress(v4: 1), sourcePort: UInt16(port), destination: IPAddress(v4: 2),
                destinationPort: 9, ipProtocol: IPProtocol.udp, domain: 0, origin: .network)
        }
        // Flows that expire, each an event, more than the ring holds.
        for _ in 0..<3 {
            _ = try fixture.network.apply(
                (1...50).map { .addFlow(key($0), actions: [], cookie: 0, idleTimeout: 1) })
            fixture.network.advance(seconds: 3)
        }
        #expect(fixture.network.status.eventsLost > 0)
        _ = try fixture.pass(.client, fixture.fromClient(flags: Self.rst | Self.ack))
        #expect(closed(fixture).isEmpty)
        fixture.network.advance(seconds: 0.01)
        #expect(closed(fixture) == [.resetByClient])
        fixture.network.advance(seconds: 0.01)
        #expect(closed(fixture).isEmpty, "said once")
    }
}
