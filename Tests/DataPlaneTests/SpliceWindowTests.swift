import DataPlane
import TestSupport
import Testing

/// A client that our socket has promised more room than its new server has.
@Suite struct SpliceWindowTests {
    /// The server's window in octets: field 1000, scale 7.
    private static let window = 128_000

    private func fixture(promised: UInt16 = 4_000) throws -> SpliceFixture {
        var options = SpliceFixture.Options()
        options.promisedWindow = promised
        let fixture = try SpliceFixture(options)
        _ = try fixture.pass(.server, fixture.fromServer(window: 1_000))
        _ = try fixture.pass(.client, fixture.fromClient(payload: spliceBytes(1_000, seed: 1)))
        return fixture
    }

    private func payloads(_ sent: [PortNumber: [ReceivedTCPSegment]]) -> [[UInt8]] {
        (sent[3] ?? []).map(\.segment.payload).filter { !$0.isEmpty }
    }

    @Test func dataBeyondTheRoomWaitsForIt() throws {
        let fixture = try fixture()
        let text = spliceBytes(1_000, seed: 2)
        let place = Self.window - 500
        // Its acknowledgement goes on at once.
        let early = try fixture.send(.client, fixture.fromClient(place, payload: text))
        #expect(payloads(early).isEmpty && early[3]?.count == 1)
        // Behind it, in order.
        let second = try fixture.send(.client, fixture.fromClient(place + 1_000, payload: text))
        #expect(payloads(second).isEmpty)
        // Room for the first only.
        let some = try fixture.send(.server, fixture.fromServer(acknowledges: 500, window: 1_000))
        #expect(payloads(some) == [text])
        #expect(
            some[3]?.last?.segment.sequence
                == fixture.options.toServerNext &+ UInt32(place))
        let rest = try fixture.send(.server, fixture.fromServer(acknowledges: 1_000, window: 2_000))
        #expect(payloads(rest) == [text])
        #expect(
            fixture.snapshot.client.receivedEnd.rawValue
                == fixture.options.clientNext &+ UInt32(place + 2_000))
    }

    @Test func aRetransmissionAsksForRoom() throws {
        let fixture = try fixture()
        let segment = fixture.fromClient(
            Self.window - 500, payload: spliceBytes(1_000, seed: 2))
        #expect(payloads(try fixture.send(.client, segment)).isEmpty)
        #expect(payloads(try fixture.send(.client, segment)).count == 1)
    }

    /// Nothing of it is at the server: no word of the server can be hoped for.
    @Test func aServerThatHasTakenAllIsNotWaitedFor() throws {
        let fixture = try fixture()
        _ = try fixture.send(.server, fixture.fromServer(acknowledges: 1_000, window: 4))
        let sent = try fixture.send(
            .client, fixture.fromClient(1_000, payload: spliceBytes(1_000, seed: 2)))
        #expect(payloads(sent).count == 1)
    }

    @Test func withoutAPromiseNothingWaits() throws {
        let fixture = try fixture(promised: 900)
        let sent = try fixture.send(
            .client, fixture.fromClient(Self.window - 500, payload: spliceBytes(1_000, seed: 2)))
        #expect(payloads(sent).count == 1)
    }

    /// A session that leaves the splice takes what waits to its socket, which has room for all that was promised.
    @Test func whatWaitsGoesToTheSocket() throws {
        let fixture = try fixture()
        _ = try fixture.send(
            .client, fixture.fromClient(Self.window - 500, payload: spliceBytes(1_000, seed: 2)))
        let promised = fixture.snapshot.client.sentEdge
        #expect(promised.rawValue == fixture.options.clientNext &+ 4_000 << 7)
        try fixture.apply(.loseServer(SpliceFixture.id))
        let result = fixture.network.drain()
        _ = result
        try fixture.apply(
            .restoreClient(
                SpliceFixture.id,
                client: SocketPositions(
                    receiveNext: SequenceNumber(fixture.options.clientNext &+ 1_000),
                    sendNext: SequenceNumber(fixture.options.toClientNext), sendWindow: 128_000)))
        let sent = try fixture.read(fixture.network.drain())
        #expect((sent[2] ?? []).contains { $0.segment.payload == spliceBytes(1_000, seed: 2) })
    }
}
