import ControlPlane
import DataPlane
import StorageProtocols
import TestSupport
import Testing

/// One NFS connection relayed to one server: what passes, what waits, what is left to others.
@Suite struct NFSStreamRelayTests {
    typealias Bench = NFSStreamBench

    /// GETATTR, WRITE, READ, ACCESS, and their replies: short, short, long, as short as can be.
    private static let calls = [
        Bench.call(1), Bench.call(2, procedure: 7, handle: Bench.otherHandle, arguments: 3_000),
        Bench.call(3, procedure: 6, arguments: 12), Bench.call(4, procedure: 4, arguments: 4),
    ]
    private static let replies = [
        Bench.reply(1), Bench.reply(2, results: 100), Bench.reply(3, results: 6_000),
        RPCRecord.framed(RPCMessage.reply(xid: 4, refusal: .authenticationError(.tooWeak))),
    ]

    /// Octets behind which the log knows a reply.
    private static func isTold(_ record: [UInt8], _ count: Int) -> Bool {
        count >= (record.count > MessageTracker.wholeMaximum ? 24 : record.count)
    }

    private static func open(_ replies: [[UInt8]], at place: Int, of calls: Int) -> Int {
        var start = 0
        var told = 0
        for reply in replies {
            if isTold(reply, place - start) { told += 1 }
            start += reply.count
        }
        return calls - told
    }

    // MARK: Passing

    @Test func callsCutAnywhere() throws {
        let stream = Self.calls.flatMap { $0 }
        var bad: [Int] = []
        for cut in 0...stream.count {
            let bench = Bench()
            try bench.fromClient(stream[..<cut])
            let passed = bench.toServer.count
            let distance = bench.relay.messages.map { Int($0.clientHeaderDistance) }
            let isRight =
                bench.relay.isAtRest
                ? passed == cut && distance == Bench.distance(cut, in: Self.calls)
                : passed == Bench.start(cut, in: Self.calls) && cut - passed < 110
            try bench.fromClient(stream[cut...])
            let isWhole =
                bench.toServer == stream
                && bench.log.openRequests.map(\.octets) == Self.calls
            if !isRight || !isWhole { bad.append(cut) }
        }
        #expect(bad.isEmpty, "\(bad.prefix(5))")
    }

    @Test func repliesCutAnywhere() throws {
        let stream = Self.replies.flatMap { $0 }
        #expect(Self.replies[3].count == 24)
        var bad: [Int] = []
        for cut in 0...stream.count {
            let bench = Bench()
            try bench.fromClient(Self.calls.flatMap { $0 })
            try bench.fromServer(stream[..<cut])
            let passed = bench.toClient.count
            let distance = bench.relay.messages.map { Int($0.serverHeaderDistance) }
            let isRight =
                bench.relay.isAtRest
                ? passed == cut && distance == Bench.distance(cut, in: Self.replies)
                : passed == Bench.start(cut, in: Self.replies)
            let open = bench.log.openCount
            try bench.fromServer(stream[cut...])
            let isWhole =
                bench.toClient == stream && bench.log.openCount == 0
                && bench.log.keptReplies.isEmpty && bench.relay.isAtRest
            if !isRight || !isWhole || open != Self.open(Self.replies, at: cut, of: 4) {
                bad.append(cut)
            }
        }
        #expect(bad.isEmpty, "\(bad.prefix(5))")
    }

    @Test func octetByOctet() throws {
        let bench = Bench()
        try bench.fromClient(Self.calls.flatMap { $0 }, piece: 1)
        #expect(bench.toServer == Self.calls.flatMap { $0 })
        #expect(bench.relay.passedCalls == 4)
        #expect(bench.handles.calls[..<3] == [3, 1, 0])
        #expect(bench.relay.oldest == 1)
        try bench.fromServer(Self.replies.flatMap { $0 }, piece: 1)
        #expect(bench.toClient == Self.replies.flatMap { $0 })
        #expect(bench.relay.statistics.answered == 4)
        #expect(bench.relay.oldest == nil)
    }

    /// The rest of a long reply goes on without a look at it.
    @Test func plainOctets() throws {
        let bench = Bench()
        try bench.fromClient(Self.calls[2])
        try bench.fromServer(Self.replies[2][..<30])
        #expect(bench.relay.plainServerOctets == Self.replies[2].count - 30)
        bench.plain(Array(Self.replies[2][30..<1_000]))
        bench.plain(Array(Self.replies[2][1_000...]))
        #expect(bench.relay.plainServerOctets == 0)
        #expect(bench.relay.isAtRest)
        #expect(bench.log.keptReplies.isEmpty)
        try bench.fromServer(Bench.reply(9))
        #expect(bench.toClient == Self.replies[2] + Bench.reply(9))
    }

    // MARK: Return

    /// A message that no known handle is in, or that is no call of those that may be done twice.
    enum Foreign: CaseIterable {
        case handle, create, readdir, fragments, empty, short, long, reply, credential, program

        var octets: [UInt8] {
            switch self {
            case .handle: Bench.call(7, handle: [UInt8](repeating: 0x43, count: 28))
            case .create: Bench.call(7, procedure: 8)
            case .readdir: Bench.call(7, procedure: 16)
            case .fragments: RPCRecord.framed(Bench.message(Bench.call(7)), fragments: 60)
            case .empty: [0x80, 0, 0, 0]
            case .short: [0x80, 0, 0, 19] + [UInt8](repeating: 0, count: 19)
            case .long: [0x90, 0, 0, 0] + Bench.message(Bench.call(7))
            case .reply: Bench.call(7) { $0.messageType = 1 }
            case .credential: Bench.call(7) { $0.credentialFlavor = 6 }
            case .program: Bench.call(7) { $0.program = 100_005 }
            }
        }
    }

    @Test(arguments: Foreign.allCases, [1, 7, 97, Int.max])
    func foreignWaits(foreign: Foreign, piece: Int) throws {
        let bench = Bench()
        let rest = foreign.octets + Bench.call(8)
        try bench.fromClient(Self.calls[2] + rest, piece: piece)
        #expect(bench.toServer == Self.calls[2])
        #expect(!bench.relay.isSettled)
        #expect(!bench.relay.isForeign)
        try bench.fromServer(Self.replies[2][..<5_000], piece: piece)
        #expect(!bench.relay.isForeign)
        try bench.fromServer(Self.replies[2][5_000...], piece: piece)
        #expect(bench.toClient == Self.replies[2])
        #expect(bench.relay.isForeign)
        try bench.fromClient(Bench.call(9), piece: piece)
        let remains = bench.relay.takeRemains()
        #expect(remains.waiting == rest + Bench.call(9))
        #expect(remains.open.isEmpty && remains.replies.isEmpty)
        #expect(remains.tails.isEmpty && remains.failure == nil)
    }

    /// The session wants to go: the call that is half passed is finished, what follows waits.
    @Test func returnInTheMiddle() throws {
        let write = Self.calls[1]
        // A mark, what is in front of the handle, the handle.
        let judged = 4 + 64 + Bench.otherHandle.count
        var bad: [Int] = []
        for cut in 0...write.count {
            let bench = Bench()
            try bench.fromClient(Self.calls[0] + write[..<cut])
            let isPassing = bench.toServer.count > Self.calls[0].count
            bench.relay.beginReturn()
            try bench.fromClient(write[cut...] + Self.calls[3])
            try bench.fromServer(Self.replies[0])
            let passed = isPassing ? Self.calls[0] + write : Self.calls[0]
            if isPassing {
                if bench.relay.isForeign { bad.append(cut) }
                try bench.fromServer(Self.replies[1])
            }
            let isForeign = bench.relay.isForeign
            let remains = bench.relay.takeRemains()
            let waiting = isPassing ? Self.calls[3] : write + Self.calls[3]
            let isRight = bench.toServer == passed && remains.waiting == waiting
            if !isForeign || !isRight || !remains.open.isEmpty || remains.failure != nil
                || isPassing != (cut >= judged)
            {
                bad.append(cut)
            }
        }
        #expect(bad.isEmpty, "\(bad.prefix(5))")
    }

    @Test func inputIsBounded() throws {
        let bench = Bench()
        try bench.fromClient(Bench.call(1, procedure: 8))
        let chunk = [UInt8](repeating: 0, count: 1 << 20)
        var count = 0
        while bench.relay.wantsClientInput, count < 10 {
            try bench.fromClient(chunk)
            count += 1
        }
        #expect(count == 4)
        #expect(bench.relay.isForeign)
        #expect(bench.relay.takeRemains().waiting.count == Bench.call(1).count + 4 << 20)
        #expect(bench.relay.wantsClientInput)
    }

    // MARK: Loss

    /// What the client gets when the tails' calls are answered with these records.
    private static func finished(
        _ tails: [NFSStreamRemains.Tail], _ replies: [UInt8]?...
    ) -> [UInt8] {
        zip(tails, replies.compactMap { $0 }).flatMap { tail, reply in
            NFSStreamRelay.missing(of: tail, in: Bench.message(reply)) ?? []
        }
    }

    /// The server is lost after any octet that it has sent: what the client has in part is finished, the rest is asked
    /// for again.
    @Test func lossAfterAnyOctet() throws {
        let stream = Self.replies.flatMap { $0 }
        var bad: [Int] = []
        for cut in 0...stream.count {
            let bench = Bench()
            try bench.fromClient(Self.calls.flatMap { $0 })
            try bench.fromServer(stream[..<cut])
            try bench.lose()
            let given = bench.toClient
            let remains = bench.relay.takeRemains()
            let whole = given + Self.finished(remains.tails, Self.replies[2])
            let isBetween = Bench.distance(given.count, in: Self.replies) == 0
            let isFinished =
                stream.starts(with: whole) && Bench.distance(whole.count, in: Self.replies) == 0
            let open = Self.calls.suffix(Self.open(Self.replies, at: cut, of: 4))
            let isOpen = remains.open == open.map { Bench.message($0) }
            if !isFinished || !isOpen || remains.tails.isEmpty != isBetween
                || !remains.replies.isEmpty || !remains.waiting.isEmpty || remains.failure != nil
            {
                bad.append(cut)
            }
        }
        #expect(bad.isEmpty, "\(bad.prefix(5))")
    }

    @Test func tailOfAnotherLength() throws {
        let bench = Bench()
        try bench.fromClient(Self.calls[2])
        try bench.fromServer(Self.replies[2][..<2_000])
        try bench.lose()
        let tail = try #require(bench.relay.takeRemains().tails.first)
        #expect(tail.call == Bench.message(Self.calls[2]))
        #expect(tail.delivered == 2_000)
        #expect(tail.length == Self.replies[2].count)
        #expect(tail.following.isEmpty)
        for results in [0, 5_996, 6_004] {
            let other = Bench.message(Bench.reply(3, results: results))
            #expect(NFSStreamRelay.missing(of: tail, in: other) == nil)
        }
    }

    /// Boundaries and their neighbours, and some places between them.
    private static func places(_ records: [[UInt8]]) -> [Int] {
        var places: Set<Int> = [0]
        var start = 0
        for record in records {
            places.formUnion(start...min(start + 30, start + record.count))
            start += record.count
            places.formUnion([start - 1, start])
        }
        places.formUnion(stride(from: 0, to: start, by: 61))
        return places.sorted()
    }

    /// Of what passed in the fast path the client has any number of octets: short replies are kept, a long one is asked
    /// for again, and the stream goes on with the same octets.
    @Test func lossWhileSpliced() throws {
        let calls = Self.calls.flatMap { $0 }
        let stream = Self.replies.flatMap { $0 }
        var bad: [Int] = []
        for place in Self.places(Self.replies) {
            let bench = Bench()
            bench.splice()
            try bench.fromClient(calls)
            try bench.fromServer(stream)
            #expect(bench.toServer == calls && bench.toClient == stream)
            #expect(bench.problem == nil)
            try bench.lose(delivered: place)
            let remains = bench.relay.takeRemains()
            let rest = remains.replies + Self.finished(remains.tails, Self.replies[2])
            if rest != Array(stream[place...]) || remains.failure != nil
                || !remains.open.isEmpty || !remains.waiting.isEmpty
            {
                bad.append(place)
            }
        }
        #expect(bad.isEmpty, "\(bad.prefix(5))")
    }

    /// Several long replies that the client may have in part are told in the same order.
    @Test func lossBeforeTwoLongReplies() throws {
        let calls = [Self.calls[2], Self.calls[0], Bench.call(5, procedure: 6, arguments: 12)]
        let replies = [Self.replies[2], Self.replies[0], Bench.reply(5, results: 5_000)]
        let stream = replies.flatMap { $0 }
        var bad: [Int] = []
        for place in Self.places(replies) {
            let bench = Bench()
            bench.splice()
            try bench.fromClient(calls.flatMap { $0 })
            try bench.fromServer(stream)
            try bench.lose(delivered: place)
            let remains = bench.relay.takeRemains()
            let isFirst = place < replies[0].count
            let rest =
                remains.replies
                + (isFirst
                    ? Self.finished(remains.tails, replies[0], replies[2])
                    : Self.finished(remains.tails, replies[2]))
            if remains.failure != nil || rest != Array(stream[place...]) { bad.append(place) }
        }
        #expect(bad.isEmpty, "\(bad.prefix(5))")
    }

    /// A call that is cut by the loss waits as a whole, wherever the splice began.
    @Test(arguments: [0, 200, 1_000]) func lossInTheMiddleOfACall(splicedAt: Int) throws {
        let write = Self.calls[1]
        var bad: [Int] = []
        for cut in splicedAt...write.count {
            let bench = Bench()
            try bench.fromClient(Self.calls[0] + write[..<splicedAt])
            bench.splice()
            #expect(bench.isSpliced)
            try bench.fromClient(write[splicedAt..<cut])
            try bench.lose()
            try bench.fromClient(write[cut...] + Self.calls[3])
            let remains = bench.relay.takeRemains()
            let isWhole = cut == write.count
            let open = [Bench.message(Self.calls[0])] + (isWhole ? [Bench.message(write)] : [])
            let waiting = isWhole ? Self.calls[3] : write + Self.calls[3]
            if bench.problem != nil || remains.open != open || remains.waiting != waiting
                || remains.failure != nil
            {
                bad.append(cut)
            }
        }
        #expect(bad.isEmpty, "\(bad.prefix(5))")
    }

    // MARK: What cannot be finished

    /// A call that found no room in the log ends the connection when its server is lost, not when it was answered.
    @Test func callWithoutRoom() throws {
        let write = Bench.call(1, procedure: 7, arguments: 100_000)
        for isAnswered in [false, true] {
            let bench = Bench(logMaximum: 16 << 10)
            try bench.fromClient(write, piece: 1_448)
            #expect(bench.toServer == write)
            if isAnswered {
                try bench.fromServer(Bench.reply(1))
                bench.relay.beginReturn()
                #expect(bench.relay.isForeign)
            } else {
                try bench.lose()
            }
            let remains = bench.relay.takeRemains()
            #expect((remains.failure == nil) == isAnswered)
            #expect(remains.open.isEmpty)
        }
    }

    @Test func moreCallsThanAreKept() throws {
        for count in [1_024, 1_025] as [UInt32] {
            let bench = Bench()
            for xid in 1...count { try bench.fromClient(Bench.call(xid)) }
            try bench.lose()
            let remains = bench.relay.takeRemains()
            #expect((remains.failure == nil) == (count == 1_024))
            #expect(remains.open.count == 1_024)
        }
    }

    /// The server answers before it has the whole call; the rest of that is for nobody.
    @Test func callAnsweredTooSoon() throws {
        let bench = Bench()
        try bench.fromClient(Self.calls[1][..<1_000])
        try bench.fromServer(Self.replies[1])
        bench.relay.beginReturn()
        #expect(bench.log.openCount == 0)
        #expect(!bench.relay.isForeign)
        try bench.lose()
        #expect(bench.relay.takeRemains().failure != nil)
    }

    /// The begin of the call that a long reply answered is not all of it.
    @Test func tailOfALongCall() throws {
        let call = Bench.call(1, procedure: 6) {
            $0.credential = [UInt8](repeating: 1, count: 300)
        }
        let bench = Bench()
        try bench.fromClient(call)
        try bench.fromServer(Bench.reply(1, results: 6_000).prefix(3_000))
        try bench.lose()
        #expect(bench.relay.takeRemains().failure != nil)
    }

    // MARK: Fragments

    /// A reply of several fragments, one of them empty, then an ordinary one.
    @Test func fragmentedReply() throws {
        var fragmented = RPCRecord.framed(
            Bench.message(Bench.reply(1, results: 1_000)), fragments: 100)
        fragmented.insert(contentsOf: [0, 0, 0, 0], at: 208)
        let stream = fragmented + Self.replies[1]
        var bad: [Int] = []
        for cut in 0...stream.count {
            let bench = Bench()
            try bench.fromClient(Self.calls[0] + Self.calls[1])
            try bench.fromServer(stream[..<cut])
            let isInside = cut >= 24 && cut < fragmented.count
            let isBetween = [0, fragmented.count, stream.count].contains(cut)
            let isRight =
                bench.relay.isSettled != isInside && bench.relay.isAtRest == isBetween
                && (cut < 24 || bench.log.openCount <= 1)
            let loser = Bench()
            try loser.fromClient(Self.calls[0] + Self.calls[1])
            try loser.fromServer(stream[..<cut])
            try loser.lose()
            let failure = loser.relay.takeRemains().failure
            try bench.fromServer(stream[cut...])
            if !isRight || bench.toClient != stream || bench.log.openCount != 0
                || !bench.relay.isAtRest || (failure != nil) != isInside
            {
                bad.append(cut)
            }
        }
        #expect(bad.isEmpty, "\(bad.prefix(5))")
    }

    // MARK: Bad servers

    @Test func notReplies() throws {
        let big = UInt32(1 << 20) + UInt32(64 << 10) + 1
        let bad: [[UInt8]] = [
            Bench.call(1), [0x80, 0, 0, 19], [0, 0, 0, 0], bigEndian32(0x8000_0000 | big),
            bigEndian32(0xffff_ffff),
        ]
        for octets in bad {
            let bench = Bench()
            try bench.fromClient(Self.calls[0])
            #expect(throws: RelayError.self) { try bench.fromServer(octets) }
            #expect(bench.toClient.isEmpty)
        }
        // Not with one fragment, with two.
        let bench = Bench()
        try bench.fromClient(Self.calls[0])
        let first = Bench.message(Bench.reply(1, results: 700_000))
        try bench.fromServer(bigEndian32(UInt32(first.count)) + first)
        #expect(throws: RelayError.self) {
            try bench.fromServer(bigEndian32(0x8000_0000 | UInt32(700_000)))
        }
    }

    /// Any octets, in pieces, from both sides; streams with some octets changed.
    @Test(arguments: 1...20 as ClosedRange<UInt64>) func garbage(seed: UInt64) throws {
        var random = SplitMix64(seed: seed)
        for round in 0..<50 {
            let bench = Bench(logMaximum: 64 << 10)
            var streams = [Self.calls.flatMap { $0 }, Self.replies.flatMap { $0 }]
            if round % 5 == 0 { streams = streams.map { random.bytes($0.count) } }
            for index in 0..<2 {
                for _ in 0..<random.below(6) {
                    let place = random.below(random.below(2) == 0 ? 120 : streams[index].count)
                    streams[index][place] = UInt8(truncatingIfNeeded: random.next())
                }
            }
            let sent = streams[0]
            var isBroken = false
            while !isBroken, streams.contains(where: { !$0.isEmpty }) {
                let side = random.below(2)
                let count = min(streams[side].count, 1 + random.below(800))
                let part = Array(streams[side].prefix(count))
                streams[side].removeFirst(count)
                if random.below(40) == 0 { bench.relay.beginReturn() }
                do {
                    if side == 0 { try bench.fromClient(part) } else { try bench.fromServer(part) }
                } catch is RelayError {
                    isBroken = true
                }
            }
            try bench.lose()
            #expect(sent.starts(with: bench.toServer))
            let waiting = bench.relay.takeRemains().waiting
            #expect(bench.log.openCount == 0)
            #expect(waiting.count <= sent.count)
        }
    }

    // MARK: Everything

    /// Calls in random pieces, replies in random order and pieces, in and out of the fast path; then, mostly, the
    /// server is lost.
    @Test(arguments: 1...40 as ClosedRange<UInt64>) func anySequence(seed: UInt64) throws {
        var random = SplitMix64(seed: seed)
        let bench = Bench()
        let count = 40
        let procedures: [UInt32] = [1, 3, 4, 5, 6, 7, 18, 19, 20, 21]
        bench.calls = (0..<count).map { index in
            let isLong = random.below(4) == 0
            return Bench.call(
                UInt32(index), procedure: procedures[random.below(procedures.count)],
                handle: random.below(2) == 0 ? Bench.handle : Bench.otherHandle,
                // A LOOKUP without a name is not passed.
                arguments: 8 + random.below(isLong ? 20_000 : 100))
        }
        let all = bench.calls.flatMap { $0 }
        let end = random.below(4) == 0 ? Int.max : random.below(3_000)
        let piece = [1, 50, 2_000, 20_000][random.below(4)]
        var sent = 0
        var arrived = 0
        var unanswered: [Int] = []
        var answered: [Int] = []
        var said: [UInt8] = []
        var given = 0
        var steps = 0
        while steps < end, given < said.count || sent < all.count || !unanswered.isEmpty {
            steps += 1
            switch random.below(7) {
            case 0, 1:
                let next = min(all.count, sent + 1 + random.below(piece))
                try bench.fromClient(all[sent..<next])
                sent = next
            case 2 where !unanswered.isEmpty:
                let index = unanswered.remove(at: random.below(unanswered.count))
                answered.append(index)
                // Of an answered call the log keeps 256 octets.
                let isLong = bench.calls[index].count <= 256 && random.below(3) == 0
                let reply = Bench.reply(
                    UInt32(index), results: 4 + random.below(isLong ? 20_000 : 200))
                bench.replies.append(reply)
                said += reply
            case 3, 4:
                let next = min(said.count, given + 1 + random.below(piece))
                try bench.fromServer(said[given..<next])
                given = next
            case 5: bench.splice()
            default: if random.below(3) == 0 { try bench.unsplice() }
            }
            while arrived < count,
                Bench.start(bench.toServer.count, in: bench.calls)
                    >= bench.calls[...arrived].reduce(0, { $0 + $1.count })
            {
                unanswered.append(arrived)
                arrived += 1
            }
            if let problem = bench.problem {
                Issue.record("step \(steps): \(problem)")
                return
            }
        }
        #expect(all.starts(with: bench.toServer))
        #expect(said.starts(with: bench.toClient))
        if end == .max {
            #expect(bench.toServer == all && bench.toClient == said)
            #expect(bench.log.openCount == 0)
        }
        try bench.lose()
        try bench.fromClient(all[sent...])
        let remains = bench.relay.takeRemains()
        // The reply that the client has a part of is had again.
        let start = Bench.start(bench.toClient.count, in: bench.replies)
        var place = 0
        let partial = bench.replies.first { reply in
            defer { place += reply.count }
            return place == start
        }
        let rest = remains.replies + Self.finished(remains.tails, partial)
        let told = bench.toClient.count + rest.count
        #expect(remains.failure == nil)
        #expect(bench.toClient + rest == Array(said.prefix(told)))
        #expect(Bench.distance(told, in: bench.replies) == 0)
        var tellable = 0
        var finished: Set<Int> = []
        for (index, reply) in zip(answered, bench.replies) {
            tellable += reply.count
            if tellable <= told { finished.insert(index) }
        }
        let open = (0..<arrived).filter { !finished.contains($0) }
        #expect(remains.open == open.map { Bench.message(bench.calls[$0]) })
        #expect(remains.waiting == bench.calls[arrived...].flatMap { $0 })
    }
}
