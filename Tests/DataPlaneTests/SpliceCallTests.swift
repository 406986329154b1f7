import DataPlane
import TestSupport
import Testing

/// NFS over TCP in the spliced state.
@Suite struct SpliceCallTests {
    private struct Session {
        let fixture: SpliceFixture
        let log = SessionLog.rpc()
        let set = NFSCallStream.handleSet

        init() throws {
            var options = SpliceFixture.Options()
            options.heldOctets = 16 << 20
            options.messages = SpliceMessages(
                format: .rpc, requests: .rpc, clientHandles: set)
            options.log = log
            fixture = try SpliceFixture(options)
        }

        /// Sides of which it was told that a message is held.
        var told: [SpliceSide] {
            fixture.network.events.compactMap {
                if case .spliceMessageHeld(SpliceFixture.id, let side) = $0 { side } else { nil }
            }
        }

        /// Octets that reach the other end.
        func forwarded(_ side: SpliceSide, _ segment: ScriptedTCPSegment) throws -> [UInt8] {
            try (fixture.send(side, segment)[side == .client ? 3 : 1] ?? [])
                .flatMap(\.segment.payload)
        }
    }

    private func call(_ xid: UInt32, arguments: Int = 8) -> NFSMessage {
        var message = NFSMessage(handle: NFSCallStream.handles[0])
        message.xid = xid
        message.arguments = SplitMix64.octets(arguments, seed: UInt64(xid))
        return message
    }

    private var foreign: [UInt8] {
        NFSMessage(handle: [UInt8](repeating: 0x99, count: 32)).record
    }

    @Test func `known calls and their replies`() throws {
        let session = try Session()
        let fixture = session.fixture
        let calls = (1...3 as ClosedRange<UInt32>).map { call($0) }
        let up = calls.flatMap(\.record)
        let sent = try fixture.pass(.client, fixture.fromClient(payload: up))
        #expect(sent.payload == up)
        #expect(session.set.calls[0] == 3)
        #expect(session.log.openRequests.map(\.octets) == calls.map(\.record))
        // In another order than the calls.
        let down = calls.reversed().flatMap { NFSMessage.record($0.reply()) }
        let answered = try fixture.pass(
            .server, fixture.fromServer(acknowledges: up.count, payload: down))
        #expect(answered.payload == down)
        #expect(session.log.openCount == 0 && session.log.statistics.answered == 3)
        #expect(session.told.isEmpty)
        #expect(fixture.snapshot.client.headerDistance == 0)
        #expect(fixture.snapshot.client.heldPackets == 0)
    }

    /// A call with another handle waits, with all behind it, until the client has a socket.
    @Test func `a foreign call is held and goes to the CPU port`() throws {
        let session = try Session()
        let fixture = session.fixture
        let options = fixture.options
        let known = call(1).record
        let rest = foreign + call(2).record
        let forwarded = try session.forwarded(
            .client, fixture.fromClient(payload: known + rest))
        #expect(forwarded == known)
        #expect(session.told == [.client])
        #expect(session.log.openRequests.map(\.octets) == [known])
        #expect(session.set.calls[0] == 1)
        // Again: nothing more goes, and nobody is told again.
        let repeated = try session.forwarded(
            .client, fixture.fromClient(known.count, payload: rest))
        #expect(repeated.isEmpty && session.told.isEmpty)
        _ = try fixture.send(.server, fixture.fromServer(acknowledges: known.count))
        try fixture.apply(.beginDrainToSlow(SpliceFixture.id))
        #expect(fixture.snapshot.isQuiet)
        try fixture.apply(.hold(SpliceFixture.id))
        let snapshot = fixture.snapshot
        #expect(snapshot.client.headerDistance == 0 && snapshot.server.headerDistance == 0)
        #expect(snapshot.client.nextHeader.rawValue == options.clientNext + UInt32(known.count))
        #expect(snapshot.client.followed == snapshot.client.nextHeader)
        #expect(snapshot.client.heldPackets == 2)
        _ = fixture.network.drain()
        try fixture.apply(
            .finishToSlow(
                SpliceFixture.id,
                client: SocketPositions(
                    receiveNext: SequenceNumber(options.clientNext + UInt32(known.count)),
                    sendNext: SequenceNumber(options.toClientNext), sendWindow: 128_000,
                    receiveWindow: 128_000),
                server: SocketPositions(
                    receiveNext: SequenceNumber(options.serverNext),
                    sendNext: SequenceNumber(options.toServerNext + UInt32(known.count)),
                    sendWindow: 128_000, receiveWindow: 128_000)))
        let sockets = try fixture.read(fixture.network.drain())
        let handed = sockets[2] ?? []
        #expect(handed.map(\.segment.payload) == [rest, rest])
        let place = options.clientNext + UInt32(known.count)
        #expect(handed.allSatisfy { $0.segment.sequence == place })
        let isServerUntouched = (sockets[3] ?? []).allSatisfy { $0.segment.payload.isEmpty }
        #expect(isServerUntouched)
        // The set and the log are the session's again.
        #expect(session.set.calls[0] == 1)
        #expect(session.log.openRequests.map(\.octets) == [known])
    }

    /// The way out in the middle of a call: the rest of it is the distance to the next.
    @Test func `distances in the middle of messages`() throws {
        let session = try Session()
        let fixture = session.fixture
        let write = call(1, arguments: 5_000).record
        let up = try session.forwarded(
            .client, fixture.fromClient(payload: Array(write[..<1_000])))
        #expect(up == Array(write[..<1_000]))
        let reply = NFSMessage.record(call(1).reply(SplitMix64.octets(6_000, seed: 1)))
        let down = try session.forwarded(
            .server, fixture.fromServer(acknowledges: 1_000, payload: Array(reply[..<700])))
        #expect(down == Array(reply[..<700]))
        _ = try fixture.send(.client, fixture.fromClient(1_000, acknowledges: 700))
        let snapshot = fixture.snapshot
        #expect(snapshot.client.headerDistance == UInt32(write.count - 1_000))
        #expect(snapshot.server.headerDistance == UInt32(reply.count - 700))
        #expect(snapshot.client.followed.rawValue == fixture.options.clientNext + 1_000)
    }

    /// A call up to within its handle, and no more of it: nobody acknowledges that.
    @Test(arguments: [10, 30, 60, 90])
    func `only the begin of a call`(count: Int) throws {
        let session = try Session()
        let fixture = session.fixture
        let record = call(1).record
        #expect(count < 4 + call(1).handleEnd)
        let begin = fixture.fromClient(payload: Array(record[..<count]))
        var forwarded = try session.forwarded(.client, begin)
        #expect(forwarded.isEmpty && session.told.isEmpty)
        forwarded = try session.forwarded(.client, begin)
        #expect(forwarded.isEmpty && session.told == [.client])
        #expect(session.log.openCount == 0)
        #expect(fixture.snapshot.client.headerDistance == 0)
        // The rest, if it comes after all.
        forwarded = try session.forwarded(
            .client, fixture.fromClient(count, payload: Array(record[count...])))
        #expect(forwarded.count >= record.count - count)
        #expect(session.log.openRequests.map(\.octets) == [record])
        #expect(session.set.calls[0] == 1)
    }

    /// A server that sends a reply in fragments: the client gets it from a socket.
    @Test func `a reply in fragments is held`() throws {
        let session = try Session()
        let fixture = session.fixture
        _ = try fixture.pass(.client, fixture.fromClient(payload: call(1).record))
        let fragment = NFSMessage.record(call(1).reply(), isLast: false)
        let forwarded = try session.forwarded(.server, fixture.fromServer(payload: fragment))
        #expect(forwarded.isEmpty && session.told == [.server])
        #expect(session.log.openCount == 1)
    }

    /// Calls that are cut, in any order of arrival.
    @Test(arguments: 1...12 as ClosedRange<UInt64>)
    func `cut and shuffled`(seed: UInt64) throws {
        var random = SplitMix64(seed: seed)
        let calls = NFSCallStream(20, argumentsMaximum: 2_000, &random)
        let session = try Session()
        let fixture = session.fixture
        let stream = calls.stream.bytes
        var cuts: [Range<Int>] = []
        var position = 0
        while position < stream.count {
            let end = min(stream.count, position + 1 + random.below(400))
            cuts.append(position..<end)
            position = end
        }
        cuts.shuffle(using: &random)
        var arrived = [UInt8?](repeating: nil, count: stream.count)
        for cut in cuts {
            let segment = fixture.fromClient(cut.lowerBound, payload: Array(stream[cut]))
            for received in try fixture.send(.client, segment)[3] ?? [] {
                let start = Int(received.segment.sequence &- fixture.options.toServerNext)
                for (offset, octet) in received.segment.payload.enumerated() {
                    arrived[start + offset] = octet
                }
            }
        }
        #expect(arrived.compactMap { $0 } == stream)
        #expect(session.told.isEmpty)
        #expect(session.log.openRequests.map(\.octets) == calls.records)
        #expect(session.set.calls == calls.counts)
        #expect(fixture.snapshot.client.heldPackets == 0)
    }

    @Test func `handles go with calls of RPC alone`() throws {
        let fixture = try SpliceFixture()
        try fixture.apply(.hold(SpliceFixture.id))
        let positions = SocketPositions(
            receiveNext: SequenceNumber(1), sendNext: SequenceNumber(1))
        let set = NFSCallStream.handleSet
        #expect(throws: BatchError.self) {
            try fixture.apply(
                .install(
                    SpliceFixture.id, client: positions, server: positions,
                    messages: SpliceMessages(format: .iscsi, clientHandles: set)))
        }
        #expect(fixture.snapshot.state == .hold)
    }
}
