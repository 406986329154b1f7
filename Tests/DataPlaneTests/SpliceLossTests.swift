import DataPlane
import TestSupport
import Testing

/// The server of a spliced session goes away while requests may be open.
@Suite struct SpliceLossTests {
    private typealias Segment = ScriptedTCPSegment
    private static let id = SpliceFixture.id

    private static func guarded(
        _ change: (inout SpliceFixture.Options) -> Void = { _ in }
    ) throws -> (fixture: SpliceFixture, log: SessionLog) {
        let log = SessionLog.iscsi()
        var options = SpliceFixture.Options()
        options.messages = SpliceMessages(format: .iscsi, requests: .iscsi)
        options.log = log
        change(&options)
        return (try SpliceFixture(options), log)
    }

    /// A session with one request open, of which the server has everything.
    private static func withRequest() throws -> (
        fixture: SpliceFixture, log: SessionLog, request: [UInt8]
    ) {
        let (fixture, log) = try guarded()
        let data = SplitMix64.octets(100, seed: 1)
        let request = LogMessage.header(LogMessage.command, id: 5, data: 100) + data
        _ = try fixture.pass(.client, fixture.fromClient(payload: request))
        _ = try fixture.send(.server, fixture.fromServer(acknowledges: request.count))
        _ = fixture.network.events
        return (fixture, log, request)
    }

    private func losses(_ events: [Event]) -> [SpliceServerLoss] {
        events.compactMap {
            if case .spliceServerLost(Self.id, let loss) = $0 { loss } else { nil }
        }
    }

    private func closes(_ events: [Event]) -> [SpliceCloseReason] {
        events.compactMap {
            if case .spliceClosed(Self.id, let reason) = $0 { reason } else { nil }
        }
    }

    /// The client must see neither of these.
    private func expectNoEnd(
        _ sent: [PortNumber: [ReceivedTCPSegment]],
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        for frame in sent[1] ?? [] {
            #expect(
                frame.segment.flags & (Segment.rst | Segment.fin) == 0,
                sourceLocation: sourceLocation)
        }
    }

    // MARK: What the server does

    @Test func resetIsCaught() throws {
        let (fixture, log, request) = try Self.withRequest()
        let sent = try fixture.send(
            .server,
            fixture.fromServer(acknowledges: request.count, flags: Segment.rst | Segment.ack))
        expectNoEnd(sent)
        #expect(sent[3] == nil)
        // The client is asked where it is.
        #expect(sent[1]?.count == 1)
        #expect(fixture.snapshot.state == .serverLost)
        #expect(losses(fixture.network.events) == [.reset])
        #expect(log.openRequests.map(\.octets) == [request])
        #expect(fixture.snapshot.closeReason == nil)
    }

    /// RFC 5961 section 3.2: only one that is where the stream is.
    @Test(arguments: [-1, -70_000, 49, 100_000])
    func resetBesideTheStreamIsIgnored(place: Int) throws {
        let (fixture, _) = try Self.guarded()
        let nop = LogMessage.header(LogMessage.nopIn, id: .max)
        _ = try fixture.pass(.server, fixture.fromServer(payload: nop))
        if place < 0 {
            _ = try fixture.send(.client, fixture.fromClient(acknowledges: 0))
        }
        let sent = try fixture.send(.server, fixture.fromServer(place, flags: Segment.rst))
        #expect(sent.isEmpty)
        #expect(fixture.network.events.isEmpty)
        #expect(fixture.snapshot.state == .spliced)
        // It goes on.
        _ = try fixture.pass(.server, fixture.fromServer(48, payload: nop))
    }

    @Test(arguments: [true, false])
    func closeIsCaughtAndItsDataGoesOn(hasData: Bool) throws {
        let (fixture, log, request) = try Self.withRequest()
        let answer = LogMessage.header(LogMessage.response, id: 5)
        let sent = try fixture.send(
            .server,
            fixture.fromServer(
                acknowledges: request.count, flags: Segment.fin | Segment.ack,
                payload: hasData ? answer : []))
        expectNoEnd(sent)
        #expect(
            sent[1]?.filter { $0.segment.payload.count > 1 }.map(\.segment.payload)
                == (hasData ? [answer] : []))
        #expect(losses(fixture.network.events) == [.closed])
        #expect(fixture.snapshot.state == .serverLost)
        #expect(log.openCount == (hasData ? 0 : 1))
        // The FIN again: nothing more is said.
        let again = try fixture.send(
            .server,
            fixture.fromServer(
                acknowledges: request.count, flags: Segment.fin | Segment.ack))
        #expect(again.isEmpty && fixture.network.events.isEmpty)
        #expect(fixture.network.drops(.spliceServerLost) == 1)
    }

    /// A FIN far from the stream is as little worth as a RST there.
    @Test func closeBesideTheStreamIsIgnored() throws {
        let (fixture, _, request) = try Self.withRequest()
        for place in [-5_000_000, 50_000_000] {
            let sent = try fixture.send(
                .server,
                fixture.fromServer(
                    place, acknowledges: request.count, flags: Segment.fin | Segment.ack))
            expectNoEnd(sent)
        }
        #expect(losses(fixture.network.events).isEmpty)
        #expect(fixture.snapshot.state == .spliced)
    }

    @Test func afterTheClientsOwnCloseTheServersPasses() throws {
        let (fixture, _, request) = try Self.withRequest()
        let fin = Segment.fin | Segment.ack
        _ = try fixture.pass(.client, fixture.fromClient(request.count, flags: fin))
        let passed = try fixture.pass(
            .server, fixture.fromServer(acknowledges: request.count + 1, flags: fin))
        #expect(passed.has(Segment.fin))
        _ = try fixture.pass(
            .client, fixture.fromClient(request.count + 1, acknowledges: 1))
        #expect(closes(fixture.network.events) == [.finished])
    }

    @Test func afterTheClientsOwnCloseTheServersResetPasses() throws {
        let (fixture, _, request) = try Self.withRequest()
        _ = try fixture.pass(
            .client, fixture.fromClient(request.count, flags: Segment.fin | Segment.ack))
        let passed = try fixture.pass(
            .server, fixture.fromServer(acknowledges: request.count, flags: Segment.rst))
        #expect(passed.has(Segment.rst))
        #expect(closes(fixture.network.events) == [.resetByServer])
    }

    /// Without a log the server's end is the session's.
    @Test func withoutALogNothingIsCaught() throws {
        let (fixture, _) = try Self.guarded { $0.log = nil }
        let passed = try fixture.pass(.server, fixture.fromServer(flags: Segment.rst))
        #expect(passed.has(Segment.rst))
        #expect(closes(fixture.network.events) == [.resetByServer])
    }

    // MARK: While it is lost

    private static func lost() throws -> (
        fixture: SpliceFixture, log: SessionLog, request: [UInt8]
    ) {
        let result = try withRequest()
        try result.fixture.apply(.loseServer(id))
        _ = result.fixture.network.drain()
        _ = result.fixture.network.events
        return result
    }

    private func positions(
        _ fixture: SpliceFixture, received: Int, sent: Int = 0
    ) -> SocketPositions {
        SocketPositions(
            receiveNext: SequenceNumber(fixture.options.clientNext &+ UInt32(received)),
            sendNext: SequenceNumber(fixture.options.toClientNext &+ UInt32(sent)),
            sendWindow: 100_000, receiveWindow: 100_000)
    }

    @Test func theClientsDataWaitsForASocket() throws {
        let (fixture, log, request) = try Self.lost()
        let next = LogMessage.header(LogMessage.command, id: 6)
        #expect(
            try fixture.send(.client, fixture.fromClient(request.count, payload: next)).isEmpty)
        // Acknowledgements are taken in, window updates too; nothing is answered.
        #expect(
            try fixture.send(
                .client, fixture.fromClient(request.count + 48, acknowledges: 0, window: 77)
            ).isEmpty)
        // What the server still says is no good.
        #expect(
            try fixture.send(
                .server,
                fixture.fromServer(payload: LogMessage.header(LogMessage.response, id: 5))
            ).isEmpty)
        #expect(fixture.network.drops(.spliceServerLost) == 1)
        var snapshot = fixture.snapshot
        #expect(snapshot.client.window == 77 && snapshot.client.heldPackets == 1)
        #expect(snapshot.client.followed.rawValue == 1_000 + UInt32(request.count))
        #expect(log.openRequests.map(\.id) == [5], "what waits is not in the log")

        try fixture.apply(
            .restoreClient(Self.id, client: positions(fixture, received: request.count)))
        let sent = try fixture.read(fixture.network.drain())
        #expect(sent[2]?.map(\.segment.payload).filter { !$0.isEmpty } == [next])
        // The server must not go on with what it has.
        #expect(sent[3]?.map { $0.segment.has(Segment.rst) } == [true])
        #expect(sent[3]?.first?.segment.sequence == 7_000 + UInt32(request.count))
        snapshot = fixture.snapshot
        #expect(snapshot.state == .slow && snapshot.client.heldPackets == 0)
        #expect(!snapshot.server.isKnown)
        // Its flows are gone: a new server can have a leg, even the same tuple.
        try fixture.apply(
            .attachServer(Self.id, SpliceFixture.leg(1, fixture.source, fixture.server)))
    }

    @Test func aServerThatSaidResetGetsNone() throws {
        let (fixture, _, request) = try Self.withRequest()
        _ = try fixture.send(
            .server, fixture.fromServer(acknowledges: request.count, flags: Segment.rst))
        try fixture.apply(
            .restoreClient(Self.id, client: positions(fixture, received: request.count)))
        #expect(try fixture.read(fixture.network.drain())[3] == nil)
    }

    @Test func acknowledgementsAreTakenIn() throws {
        let (fixture, log, request) = try Self.withRequest()
        let data = SplitMix64.octets(200, seed: 2)
        let dataIn = LogMessage.header(LogMessage.dataIn, id: 5, data: 200)
        _ = try fixture.pass(
            .server, fixture.fromServer(acknowledges: request.count, payload: dataIn + data))
        #expect(log.keptReplies.map(\.length) == [248])
        try fixture.apply(.loseServer(Self.id))
        _ = try fixture.send(.client, fixture.fromClient(request.count, acknowledges: 120))
        let position = fixture.snapshot.client.acknowledged - fixture.snapshot.serverDelta
        #expect(position.rawValue == fixture.options.serverNext &+ 120)
        log.delivered(position)
        #expect(log.keptReplies.map(\.header) == [dataIn])
        _ = try fixture.send(.client, fixture.fromClient(request.count, acknowledges: 248))
        log.delivered(fixture.snapshot.client.acknowledged - fixture.snapshot.serverDelta)
        #expect(log.keptReplies.isEmpty)
        #expect(log.openRequest(5)?.progress[0] == dataIn)
    }

    @Test func theClientsResetEndsIt() throws {
        let (fixture, _, request) = try Self.lost()
        // RFC 5961 section 3.2 holds here as well.
        for place in [-1, 1_000_000] {
            #expect(
                try fixture.send(
                    .client, fixture.fromClient(request.count + place, flags: Segment.rst)
                ).isEmpty)
        }
        #expect(closes(fixture.network.events).isEmpty)
        #expect(
            try fixture.send(.client, fixture.fromClient(request.count, flags: Segment.rst))
                .isEmpty)
        #expect(closes(fixture.network.events) == [.resetByClient])
    }

    @Test func theClientsCloseIsPlayedToTheSocket() throws {
        let (fixture, _, request) = try Self.lost()
        let last = LogMessage.header(LogMessage.nopOut, id: 9)
        #expect(
            try fixture.send(
                .client,
                fixture.fromClient(
                    request.count, flags: Segment.fin | Segment.ack, payload: last)
            ).isEmpty)
        #expect(closes(fixture.network.events).isEmpty)
        try fixture.apply(
            .restoreClient(Self.id, client: positions(fixture, received: request.count)))
        let toSocket = try fixture.read(fixture.network.drain())[2] ?? []
        #expect(toSocket.map(\.segment.payload).first { !$0.isEmpty } == last)
        let fin = try #require(toSocket.last?.segment)
        #expect(fin.has(Segment.fin))
        #expect(fin.end == 1_000 + UInt32(request.count) + 48 + 1)
    }

    @Test func closedWhileLost() throws {
        let (fixture, _, request) = try Self.lost()
        _ = try fixture.send(
            .client, fixture.fromClient(request.count, payload: [1, 2, 3]))
        try fixture.apply(.close(Self.id))
        let sent = try fixture.read(fixture.network.drain())
        #expect(sent[1]?.map { $0.segment.has(Segment.rst) } == [true])
        #expect(sent[1]?.first?.segment.sequence == fixture.options.toClientNext)
        #expect(sent[3]?.map { $0.segment.has(Segment.rst) } == [true])
        #expect(fixture.snapshot.state == .closed)
        fixture.network.advance(seconds: 6)
        #expect(fixture.network.status.flows == 0)
        #expect(throws: BatchError.self) { try fixture.apply(.inspect(Self.id)) }
    }

    @Test func stepsThatAreRefused() throws {
        let (fixture, _, request) = try Self.lost()
        let client = positions(fixture, received: request.count)
        for command in [
            SpliceCommand.loseServer(Self.id), .beginDrainToSlow(Self.id),
            .finishToSlow(Self.id, client: client, server: client),
            .abortToSpliced(Self.id), .hold(Self.id),
        ] {
            #expect(throws: BatchError.self) { try fixture.apply(command) }
        }
        try fixture.apply(.restoreClient(Self.id, client: client))
        #expect(throws: BatchError.self) {
            try fixture.apply(.restoreClient(Self.id, client: client))
        }
    }

    /// A server that is silent for good, found by keep-alives.
    @Test func vanishedServer() throws {
        let (fixture, _, _) = try Self.withRequest()
        try fixture.apply(.setTimeouts(Self.id, idle: 0, keepAlive: 10))
        for _ in 0..<100 {
            fixture.network.advance(seconds: 1)
            _ = try fixture.send(.client, fixture.fromClient(148))
        }
        #expect(losses(fixture.network.events) == [.vanished])
        #expect(fixture.snapshot.state == .serverLost)
    }

    // MARK: Late requests

    @Test func lateIsToldOnceForEachRequest() throws {
        let (fixture, log, request) = try Self.withRequest()
        try fixture.apply(.setRequestDeadline(Self.id, 2_000_000_000))
        func late() -> Int {
            fixture.network.events.count {
                if case .spliceRequestLate(Self.id) = $0 { true } else { false }
            }
        }
        fixture.network.advance(seconds: 1.9)
        #expect(late() == 0)
        fixture.network.advance(seconds: 0.2)
        #expect(late() == 1)
        for _ in 0..<10 { fixture.network.advance(seconds: 1) }
        #expect(late() == 0)
        // A trickle from the server is a sign of life.
        let second = LogMessage.header(LogMessage.command, id: 6)
        _ = try fixture.pass(.client, fixture.fromClient(request.count, payload: second))
        var place = 0
        for (id, length) in [(5, 48), (6, 0)] as [(UInt32, Int)] {
            fixture.network.advance(seconds: 1.5)
            #expect(late() == 0)
            guard length > 0 else { break }
            _ = try fixture.pass(
                .server,
                fixture.fromServer(
                    place, acknowledges: 196, payload: LogMessage.header(0x21, id: id)))
            place += length
        }
        #expect(log.openRequests.map(\.id) == [6])
        fixture.network.advance(seconds: 0.6)
        #expect(late() == 1)
        // No deadline, nothing to tell.
        try fixture.apply(.setRequestDeadline(Self.id, 0))
        _ = try fixture.pass(
            .client,
            fixture.fromClient(196, payload: LogMessage.header(LogMessage.command, id: 7)))
        for _ in 0..<10 { fixture.network.advance(seconds: 1) }
        #expect(late() == 0)
    }

    /// Two requests of one burst have the same start: both are told.
    @Test func lateIsToldForEachOfABurst() throws {
        let (fixture, log) = try Self.guarded()
        try fixture.apply(.setRequestDeadline(Self.id, 2_000_000_000))
        let both =
            LogMessage.header(LogMessage.command, id: 1)
            + LogMessage.header(LogMessage.command, id: 2)
        _ = try fixture.pass(.client, fixture.fromClient(payload: both))
        #expect(Set(log.openRequests.map(\.startedAt)).count == 1)
        _ = fixture.network.events
        fixture.network.advance(seconds: 3)
        #expect(fixture.network.events.count == 1)
        _ = try fixture.pass(
            .server, fixture.fromServer(payload: LogMessage.header(LogMessage.response, id: 1)))
        fixture.network.advance(seconds: 3)
        #expect(fixture.network.events.count == 1)
        fixture.network.advance(seconds: 3)
        #expect(fixture.network.events.isEmpty)
    }

    // MARK: The log and the stream

    @Test func segmentsBehindAGapWait() throws {
        let (fixture, log) = try Self.guarded()
        let data = SplitMix64.octets(900, seed: 3)
        let request = LogMessage.header(LogMessage.command, id: 1, data: 900) + data
        _ = try fixture.pass(.client, fixture.fromClient(payload: Array(request[..<300])))
        // Data of the same message: it could go, but the log takes octets in order.
        #expect(
            try fixture.send(
                .client, fixture.fromClient(600, payload: Array(request[600...])))[3]?
                .contains { !$0.segment.payload.isEmpty } != true)
        #expect(log.openRequest(1)?.octets.count == 300)
        let sent = try fixture.send(
            .client, fixture.fromClient(300, payload: Array(request[300..<600])))
        #expect(sent[3]?.map { Int($0.segment.sequence) - 7_000 } == [300, 600])
        #expect(log.openRequest(1)?.octets == request)
        // Again, differently cut: nothing twice.
        _ = try fixture.send(
            .client, fixture.fromClient(100, payload: Array(request[100..<700])))
        #expect(log.openRequest(1)?.octets == request)
    }

    /// A kind that goes on as a whole goes when its last octet is there, whatever the cuts.
    @Test(arguments: [0, 1, 4, 96, 400])
    func wholeKindsAtEveryCut(size: Int) throws {
        let message =
            LogMessage.header(LogMessage.response, id: 5, data: size)
            + SplitMix64.octets((size + 3) / 4 * 4, seed: 9)
        let behind = LogMessage.header(LogMessage.dataIn, id: 6, data: 0)
        let stream = message + behind
        for cut in stride(from: 1, to: stream.count, by: size > 100 ? 7 : 1) {
            let (fixture, log) = try Self.guarded()
            _ = try fixture.pass(
                .client,
                fixture.fromClient(payload: LogMessage.header(LogMessage.command, id: 5)))
            var passed: [UInt8] = []
            for part in [0..<cut, cut..<stream.count] {
                let sent = try fixture.send(
                    .server,
                    fixture.fromServer(part.lowerBound, payload: Array(stream[part])))
                // In which order segments go is TCP's business.
                passed += (sent[1] ?? []).map(\.segment).sorted { $0.sequence < $1.sequence }
                    .flatMap(\.payload)
                if part.lowerBound == 0 {
                    #expect(passed.count == (cut < message.count ? 0 : message.count))
                    #expect(log.openCount == (cut < message.count ? 1 : 0))
                }
            }
            #expect(passed == stream, "cut at \(cut)")
            let kept = log.keptReplies
            #expect(kept.map(\.length) == [UInt32(message.count), 48])
            #expect(kept[0].data == (size == 0 ? nil : Array(message[48...])))
            #expect(kept[0].closed?.id == 5)
        }
    }

    @Test func heldByOperationCode() throws {
        let (fixture, log) = try Self.guarded {
            $0.messages?.clientHoldRule = MessageHoldRule(
                kind: LogMessage.command, field: MessageFormat.Field(offset: 32, width: 1),
                values: [0x16, 0x5f])
        }
        func command(_ id: UInt32, _ code: UInt8, kind: UInt8 = LogMessage.command) -> [UInt8] {
            var header = LogMessage.header(kind, id: id)
            header[32] = code
            return header
        }
        // Other codes, and other kinds with such an octet, pass.
        _ = try fixture.pass(.client, fixture.fromClient(payload: command(1, 0x28)))
        _ = try fixture.pass(
            .client, fixture.fromClient(48, payload: command(2, 0x5f, kind: LogMessage.nopOut)))
        #expect(fixture.network.events.isEmpty)
        let both = command(3, 0x2a) + command(4, 0x5f) + command(5, 0x28)
        let sent = try fixture.send(.client, fixture.fromClient(96, payload: both))
        #expect(sent[3]?.map(\.segment.payload) == [Array(both[..<48])])
        #expect(
            fixture.network.events.contains {
                if case .spliceMessageHeld(Self.id, side: .client) = $0 { true } else { false }
            })
        // What was not passed is not in the log: it will be told anew.
        #expect(log.openRequests.map(\.id) == [1, 2, 3])
        #expect(fixture.snapshot.client.followed.rawValue == 1_000 + 144)
        #expect(fixture.snapshot.client.nextHeader == fixture.snapshot.client.followed)
        #expect(
            MessageHoldRule(
                kind: 1, field: MessageFormat.Field(offset: 32, width: 1),
                values: Array(0...255)
            ).kind == 1)
    }
}
