import DataPlane
import TestSupport
import Testing

/// The log of a spliced session, beside what both ends really sent, across a network that loses, repeats and
/// reorders.
@Suite struct SpliceLogTests {
    /// Messages both ways: requests with data, and their answers as far as the server gets with them.
    private final class Session {
        struct Message {
            var start: Int
            var bytes: [UInt8]
            var kind: UInt8 { bytes[0] & 0x3f }
            var id: UInt32 { bytes[16..<20].reduce(0) { $0 << 8 | UInt32($1) } }
            var end: Int { start + bytes.count }
        }

        let redirect: ScriptedRedirect
        let log = SessionLog.iscsi(maximum: 8 << 20)
        var up: [Message] = []
        var down: [Message] = []
        var upBytes: [UInt8] = []
        var downBytes: [UInt8] = []

        init(_ seed: UInt64) {
            var random = SplitMix64(seed: seed)
            var options = spliceOptions(seed)
            options.client.cutsAtRandom = true
            options.server.cutsAtRandom = true
            redirect = ScriptedRedirect(options)
            redirect.log = log
            redirect.messages = { _ in SpliceMessages(format: .iscsi, requests: .iscsi) }
            var open: [UInt32] = []
            for id in 0..<40 as Range<UInt32> {
                addUp(
                    LogMessage.command, id, random.below(4) == 0 ? random.below(5_000) : 0, &random)
                open.append(id)
                for _ in 0..<random.below(3) {
                    addUp(
                        LogMessage.dataOut, open[random.below(open.count)], random.below(3_000),
                        &random)
                }
            }
            // Answers for three of four, in any order, after their requests are all written.
            open.shuffle(using: &random)
            for id in open.prefix(30) {
                for _ in 0..<random.below(3) {
                    addDown(LogMessage.dataIn, id, random.below(3_000), 0x80, &random)
                }
                if random.below(4) == 0 {
                    addDown(LogMessage.readyToTransfer, id, 0, 0x80, &random)
                }
                addDown(LogMessage.nopIn, .max, random.below(200), 0x80, &random)
                if random.below(2) == 0 {
                    addDown(LogMessage.response, id, random.below(120), 0x80, &random)
                } else {
                    addDown(LogMessage.dataIn, id, random.below(2_000), 0x81, &random)
                }
            }
        }

        private static func octets(
            _ kind: UInt8, _ id: UInt32, _ size: Int, _ flags: UInt8, _ random: inout SplitMix64
        ) -> [UInt8] {
            LogMessage.header(
                kind, id: id, data: size, flags: flags,
                mark: UInt32(truncatingIfNeeded: random.next()))
                + random.bytes((size + 3) / 4 * 4)
        }

        private func addUp(_ kind: UInt8, _ id: UInt32, _ size: Int, _ random: inout SplitMix64) {
            let bytes = Self.octets(kind, id, size, 0, &random)
            up.append(Message(start: upBytes.count, bytes: bytes))
            upBytes += bytes
        }

        private func addDown(
            _ kind: UInt8, _ id: UInt32, _ size: Int, _ flags: UInt8, _ random: inout SplitMix64
        ) {
            let bytes = Self.octets(kind, id, size, flags, &random)
            down.append(Message(start: downBytes.count, bytes: bytes))
            downBytes += bytes
        }

        func start() throws {
            try #require(redirect.connect(), "\(redirect.problems)")
            redirect.inject(redirect.client.probe, from: .client)
            redirect.run(seconds: 0.01)
            redirect.wantsSplice = true
            try #require(redirect.run { redirect.state == .spliced })
        }

        var upBase: UInt32 { redirect.options.client.initialSequence &+ 1 }
        var downBase: UInt32 { redirect.options.server.initialSequence &+ 1 }

        /// Compares the log with the streams as far as the dataplane passed them on.
        func problem() -> String? {
            let snapshot = redirect.snapshot
            let passedUp = Int(snapshot.client.followed.rawValue &- upBase)
            let nextDown = Int(snapshot.server.nextHeader.rawValue &- downBase)
            let passedDown = down.filter { $0.start < nextDown }
            var open: [(id: UInt32, octets: [UInt8])] = []
            for message in up where message.start < passedUp {
                let bytes = Array(message.bytes.prefix(passedUp - message.start))
                guard bytes.count >= 48 else { return "a header is passed in part" }
                if message.kind == LogMessage.command {
                    open.append((message.id, bytes))
                } else if let index = open.firstIndex(where: { $0.id == message.id }) {
                    open[index].octets += bytes
                }
            }
            func ends(_ message: Message) -> Bool {
                message.kind == LogMessage.response || message.bytes[1] & 1 != 0
            }
            let ended = Set(passedDown.filter(ends).map(\.id))
            open.removeAll { ended.contains($0.id) }
            let mine = log.openRequests
            guard mine.map(\.id) == open.map({ UInt64($0.id) }) else { return "open requests" }
            guard mine.map(\.octets) == open.map(\.octets) else { return "octets" }
            for request in mine {
                let newest = passedDown.last { $0.id == request.id && $0.kind == LogMessage.dataIn }
                guard request.progress[0] == newest.map({ Array($0.bytes.prefix(48)) }) else {
                    return "progress"
                }
            }
            // Replies: none that the client has, and all that it may not have. (The log hears of
            // acknowledgements with the next packet that has data.)
            let acknowledged = Int(redirect.client.receiveNext &- redirect.client.remoteBase)
            let kept = log.keptReplies
            let needed = passedDown.filter { $0.end > acknowledged }
            guard
                kept.suffix(needed.count).map(\.header)
                    == needed.map({ Array($0.bytes.prefix(48)) })
            else { return "replies" }
            for (reply, message) in zip(kept.suffix(needed.count), needed) {
                guard Int(reply.position.rawValue &- downBase) == message.start,
                    Int(reply.length) == message.bytes.count,
                    (reply.closed?.id == UInt64(message.id)) == ends(message)
                else { return "a reply's place" }
                if message.kind != LogMessage.dataIn, message.bytes.count > 48,
                    reply.data != Array(message.bytes[48...])
                {
                    return "a reply's data"
                }
            }
            return nil
        }
    }

    @Test(arguments: 1...16 as ClosedRange<UInt64>)
    func logEqualsTheStreams(seed: UInt64) throws {
        let session = Session(seed &+ 3_000)
        try session.start()
        let redirect = session.redirect
        redirect.isFaulty = true
        redirect.client.write(session.upBytes)
        var steps = 0
        var most = 0
        let isUp = redirect.run(seconds: 30) {
            steps += 1
            if steps % 16 == 0, let problem = session.problem() {
                Issue.record("seed \(seed), step \(steps): \(problem)")
                return true
            }
            most = max(most, session.log.openCount)
            return redirect.server.received.count >= session.upBytes.count
        }
        #expect(isUp && most == 40)
        redirect.server.write(session.downBytes)
        let isDown = redirect.run(seconds: 30) {
            steps += 1
            if steps % 16 == 0, let problem = session.problem() {
                Issue.record("seed \(seed), step \(steps): \(problem)")
                return true
            }
            return redirect.client.received.count >= session.downBytes.count
        }
        #expect(isDown)
        #expect(session.problem() == nil)
        #expect(redirect.server.received == session.upBytes)
        #expect(redirect.client.received == session.downBytes)
        #expect(session.log.openCount == 10)
        #expect(session.log.statistics.unprotectedTotal == 0)
        expectSound(redirect, "seed \(seed)")
    }

    /// Both directions at once; the server is given up somewhere in the middle.
    @Test(arguments: 1...16 as ClosedRange<UInt64>)
    func nothingPassesAfterTheLoss(seed: UInt64) throws {
        let session = Session(seed &+ 4_000)
        try session.start()
        let redirect = session.redirect
        redirect.isFaulty = true
        redirect.client.write(session.upBytes)
        redirect.run(seconds: 30) { redirect.server.received.count >= session.upBytes.count }
        redirect.server.write(session.downBytes)
        let goal = Int(seed) * session.downBytes.count / 20
        redirect.run(seconds: 5) { redirect.client.received.count >= goal }
        redirect.apply(.loseServer(redirect.id))
        #expect(redirect.snapshot.state == .serverLost)
        let before = session.log.openRequests
        let passed = redirect.snapshot.client.followed
        // What is on its way to the client still arrives; nothing new does, and nothing reaches the server.
        redirect.run(seconds: 0.05)
        let received = (redirect.client.received.count, redirect.server.received.count)
        redirect.run(seconds: 1)
        #expect(redirect.client.received.count == received.0)
        #expect(redirect.server.received.count == received.1)
        #expect(session.log.openRequests == before)
        #expect(redirect.snapshot.client.followed == passed)
        #expect(session.problem() == nil, "seed \(seed)")
        #expect(redirect.resetsSeen == 0)
    }
}
