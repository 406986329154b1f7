import ControlPlane
import StorageProtocols
import Testing

private let exists = NFSv3Status.exists.rawValue
private let noEntry = NFSv3Status.noEntry.rawValue

/// Calls that are sent again and take names away, move them, or change something else than names.
@Suite struct NFSRetryNameTests {
    /// ns.
    private static let second: UInt64 = 1_000_000_000

    // MARK: What takes something away

    static let removing: [NFSProcedure] = [
        .v3(.remove), .v3(.rmdir), .v2(.remove), .v2(.rmdir),
    ]

    private func kind(_ procedure: NFSProcedure) -> NFSv3FileType {
        procedure == .v3(.rmdir) || procedure == .v2(.rmdir) ? .directory : .regular
    }

    @Test(arguments: removing, [true, false])
    func `what was removed counts as removed`(procedure: NFSProcedure, isDone: Bool) throws {
        // Nothing known of the name, or its handle.
        for isKnown in [false, true] {
            let pair = NFSPair(procedure.version)
            pair.storage.put("old", kind(procedure))
            if isKnown { pair.lookUp("old") }
            let found = try pair.twice(procedure, pair.place("old"), isDone: isDone)
            #expect(found.answer.isOK)
            #expect(pair.storage.find("old") == nil)
            let expected =
                isKnown
                ? isDone ? ["LOOKUP"] : ["LOOKUP", procedure.name] : [procedure.name]
            #expect(found.asked == expected)
        }
    }

    @Test(arguments: removing)
    func `a name that was not there before`(procedure: NFSProcedure) throws {
        let pair = NFSPair(procedure.version)
        pair.lookUp("old")
        let found = try pair.twice(procedure, pair.place("old"), isDone: true)
        #expect(found.answer.status == noEntry)
        #expect(found.asked == [procedure.name])
    }

    @Test(arguments: removing, [true, false])
    func `a name that nobody has asked for is asked for first`(
        procedure: NFSProcedure, isThere: Bool
    ) throws {
        let pair = NFSPair(procedure.version)
        if isThere { pair.storage.put("old", kind(procedure)) }
        let found = try pair.twice(
            procedure, pair.place("old"), isDone: true, isNameAsked: true)
        #expect(found.answer.status == (isThere ? 0 : noEntry))
        #expect(found.asked == [isThere ? "LOOKUP" : procedure.name])
    }

    @Test func `a name that was asked for is not asked for again`() throws {
        let pair = NFSPair()
        let arguments = NFSArguments.place(pair.root, "old")
        #expect(pair.bench.call3(.remove, arguments)?.status == noEntry)
        #expect(pair.bench.asked.count == 1)
        #expect(pair.bench.call3(.remove, arguments)?.status == noEntry)
        #expect(pair.bench.asked.isEmpty)
        // CREATE UNCHECKED can be done twice.
        let free = NFSArguments.create(pair.root, "free", mode: 0)
        #expect(pair.bench.call3(.create, free)?.isOK == true)
        #expect(pair.bench.asked.isEmpty)
    }

    @Test func `no server could say whether a name is there`() throws {
        let pair = NFSPair()
        let call = pair.bench.message(.v3(.remove), NFSArguments.place(pair.root, "old"))
        guard
            case .resolve(let resolution) = pair.bench.router.take(
                call, from: pair.bench.client, now: pair.bench.now)
        else {
            Issue.record("is not asked for")
            return
        }
        let decision = pair.bench.router.take([nil], for: resolution, now: pair.bench.now)
        guard case .answer(let reply) = decision else {
            Issue.record("is not answered")
            return
        }
        let answer = NFSAnswer(reply, to: .v3(.remove), call: call)
        #expect(answer.status == NFSv3Status.jukebox.rawValue)
    }

    @Test func `a LOOKUP that was sent before a name was made says nothing of it`() throws {
        let pair = NFSPair()
        let lookUp = pair.bench.message(.v3(.lookup), NFSArguments.place(pair.root, "new"))
        guard case .forward(let forward) = pair.bench.decision(lookUp) else {
            Issue.record("is not forwarded")
            return
        }
        let early = try #require(pair.server.reply(to: forward.call))
        let made = pair.bench.call3(
            .mkdir, NFSArguments.place(pair.root, "new") + NFSArguments.nothing)
        #expect(made?.isOK == true)
        pair.bench.now += 1_000_000
        _ = pair.bench.router.finish(forward.context, reply: early, now: pair.bench.now)
        let found = try pair.twice(
            .v3(.rmdir), NFSArguments.place(pair.root, "new"), isDone: true)
        #expect(found.answer.isOK)
        #expect(found.asked == ["LOOKUP"])
    }

    @Test(arguments: removing)
    func `what others have made anew in its place stays`(procedure: NFSProcedure) throws {
        let pair = NFSPair(procedure.version)
        pair.storage.put("old", kind(procedure))
        pair.lookUp("old")
        var made: UInt64 = 0
        let found = try pair.twice(procedure, pair.place("old"), isDone: true) {
            made = pair.storage.put("old", kind(procedure))
        }
        #expect(found.answer.isOK)
        #expect(pair.storage.find("old") == made)
        #expect(found.asked == ["LOOKUP"])
    }

    @Test func `somebody else was told to have removed it`() throws {
        for isKnown in [false, true] {
            let pair = NFSPair()
            pair.storage.put("old")
            if isKnown { pair.lookUp("old") }
            let found = try pair.twice(
                .v3(.remove), NFSArguments.place(pair.root, "old"), isDone: false
            ) {
                pair.bench.client.port += 1
                #expect(
                    pair.bench.call3(.remove, NFSArguments.place(pair.root, "old"))?.isOK == true)
                pair.bench.client.port -= 1
            }
            #expect(found.answer.status == noEntry)
        }
    }

    @Test func `a directory that is not empty is not removed`() throws {
        let pair = NFSPair()
        pair.storage.put("old/inside")
        let found = try pair.twice(
            .v3(.rmdir), NFSArguments.place(pair.root, "old"), isDone: false)
        #expect(found.answer.status == NFSv3Status.notEmpty.rawValue)
    }

    // MARK: RENAME

    @Test(arguments: NFSVersion.allCases, [true, false])
    func `what was renamed counts as renamed`(version: NFSVersion, isDone: Bool) throws {
        for isKnown in [false, true] {
            let pair = NFSPair(version)
            pair.learnClock()
            let number = pair.storage.put("a")
            if isKnown { pair.lookUp("a") }
            let procedure: NFSProcedure = version == .v3 ? .v3(.rename) : .v2(.rename)
            let found = try pair.twice(
                procedure, pair.place("a") + pair.place("b"), isDone: isDone)
            #expect(found.answer.isOK)
            #expect(pair.storage.find("a") == nil)
            #expect(pair.storage.find("b") == number)
            let expected: [String] =
                switch (isKnown, isDone) {
                case (true, true): ["LOOKUP", "LOOKUP"]
                case (true, false): ["LOOKUP", "RENAME"]
                case (false, true): ["RENAME", "LOOKUP"]
                case (false, false): ["RENAME"]
                }
            #expect(found.asked == expected)
        }
    }

    @Test func `RENAME of what was not there`() throws {
        let pair = NFSPair()
        pair.learnClock()
        pair.lookUp("a")
        let arguments = NFSArguments.place(pair.root, "a") + NFSArguments.place(pair.root, "b")
        let known = try pair.twice(.v3(.rename), arguments, isDone: true)
        #expect(known.answer.status == noEntry)
        #expect(known.asked == ["RENAME"])
        // Nothing known, and nothing at the new name.
        let other = NFSArguments.place(pair.root, "c") + NFSArguments.place(pair.root, "d")
        let unknown = try pair.twice(.v3(.rename), other, isDone: true)
        #expect(unknown.answer.status == noEntry)
        #expect(unknown.asked == ["RENAME", "LOOKUP"])
        // Something that was there long before.
        pair.storage.put("f")
        pair.storage.clock += 10 * Self.second
        pair.bench.now += 10 * Self.second
        pair.learnClock()
        let old = NFSArguments.place(pair.root, "e") + NFSArguments.place(pair.root, "f")
        let again = try pair.twice(.v3(.rename), old, isDone: true)
        #expect(again.answer.status == noEntry)
    }

    @Test func `what others have made anew under the old name is not renamed again`() throws {
        let pair = NFSPair()
        let number = pair.storage.put("a")
        pair.lookUp("a")
        var made: UInt64 = 0
        let arguments = NFSArguments.place(pair.root, "a") + NFSArguments.place(pair.root, "b")
        let found = try pair.twice(.v3(.rename), arguments, isDone: true) {
            made = pair.storage.put("a")
        }
        #expect(found.answer.isOK)
        #expect(pair.storage.find("a") == made)
        #expect(pair.storage.find("b") == number)
        #expect(found.asked == ["LOOKUP", "LOOKUP"])
    }

    @Test func `what others have put in its place before it is renamed`() throws {
        let pair = NFSPair()
        pair.storage.put("a")
        pair.lookUp("a")
        var made: UInt64 = 0
        let arguments = NFSArguments.place(pair.root, "a") + NFSArguments.place(pair.root, "b")
        let found = try pair.twice(.v3(.rename), arguments, isDone: false) {
            pair.storage.remove(Array("a".utf8), from: pair.storage.root)
            made = pair.storage.put("a")
        }
        #expect(found.answer.isOK)
        #expect(pair.storage.find("b") == made)
        #expect(found.asked == ["LOOKUP", "LOOKUP", "RENAME"])
    }

    // MARK: LINK

    @Test(arguments: NFSVersion.allCases, [true, false])
    func `what was linked counts as linked`(version: NFSVersion, isDone: Bool) throws {
        let pair = NFSPair(version)
        let number = pair.storage.put("file")
        let file = try #require(pair.lookUp("file")).handle
        let procedure: NFSProcedure = version == .v3 ? .v3(.link) : .v2(.link)
        let handle = version == .v3 ? NFSArguments.handle(file) : file
        let found = try pair.twice(procedure, handle + pair.place("hard"), isDone: isDone)
        #expect(found.answer.isOK)
        #expect(pair.storage.find("hard") == number)
        #expect(pair.storage[number]?.linkCount == 2)
        #expect(found.asked == (isDone ? ["LINK", "LOOKUP"] : ["LINK"]))
    }

    @Test func `LINK to a name of another file`() throws {
        let pair = NFSPair()
        pair.storage.put("file")
        pair.storage.put("hard")
        let file = try #require(pair.lookUp("file")).handle
        let arguments = NFSArguments.handle(file) + NFSArguments.place(pair.root, "hard")
        let found = try pair.twice(.v3(.link), arguments, isDone: true)
        #expect(found.answer.status == exists)
        #expect(found.asked == ["LINK", "LOOKUP", "GETATTR"])
        // Known before: nobody is asked.
        pair.lookUp("hard")
        let known = try pair.twice(.v3(.link), arguments, isDone: true)
        #expect(known.answer.status == exists)
        #expect(known.asked == ["LINK"])
    }

    // MARK: SETATTR

    private func guarded(_ pair: NFSPair, _ file: [UInt8], mode: UInt32) throws -> [UInt8] {
        let number = try #require(pair.storage.find("file"))
        let time = try #require(pair.storage.attributes3(number)).changeTime
        return NFSArguments.handle(file) + NFSArguments.words(1, mode, 0, 0, 0, 0, 0)
            + NFSArguments.words(1, time.seconds, time.nanoseconds)
    }

    @Test(arguments: [true, false])
    func `a guarded SETATTR that was done counts as done`(isDone: Bool) throws {
        let pair = NFSPair()
        pair.storage.put("file")
        let file = try #require(pair.lookUp("file")).handle
        let arguments = try guarded(pair, file, mode: 0o600)
        let found = try pair.twice(.v3(.setattr), arguments, isDone: isDone)
        #expect(found.answer.isOK)
        #expect(found.asked == (isDone ? ["SETATTR", "GETATTR"] : ["SETATTR"]))
        let number = try #require(pair.storage.find("file"))
        #expect(pair.storage[number]?.mode == 0o600)
        #expect(found.answer.fileNumbers == [number])
    }

    @Test func `a guarded SETATTR of a file that others have changed`() throws {
        let pair = NFSPair()
        let number = pair.storage.put("file")
        let file = try #require(pair.lookUp("file")).handle
        let arguments = try guarded(pair, file, mode: 0o600)
        let found = try pair.twice(.v3(.setattr), arguments, isDone: false) {
            let time = pair.storage.tick()
            pair.storage[number]?.changedAt = time
        }
        #expect(found.answer.status == NFSv3Status.notSynchronized.rawValue)
        #expect(pair.storage[number]?.mode == 0o644)
    }

    // MARK: Servers that say something else

    @Test func `refusals and answers that cannot be read`() throws {
        for procedure in [NFSProcedure.v3(.mkdir), .v3(.remove), .v3(.rename)] {
            let pair = NFSPair()
            pair.storage.put("a")
            pair.lookUp("a")
            let arguments =
                procedure == .v3(.mkdir)
                ? NFSArguments.place(pair.root, "new") + NFSArguments.nothing
                : procedure == .v3(.remove)
                    ? NFSArguments.place(pair.root, "a")
                    : NFSArguments.place(pair.root, "a") + NFSArguments.place(pair.root, "b")
            let call = pair.bench.message(procedure, arguments)
            guard case .forward(let forward) = pair.bench.decision(call) else {
                Issue.record("is not forwarded")
                continue
            }
            for bad in [[], [1, 2, 3], RPCMessage.reply(xid: 1, refusal: .systemError)] as [[UInt8]]
            {
                var retry = pair.bench.router.retry(forward)
                var step = retry.begin()
                var rounds = 0
                while case .call = step, rounds < 10 {
                    rounds += 1
                    step = retry.take(bad)
                }
                guard case .end(let outcome) = step else {
                    Issue.record("does not end")
                    continue
                }
                #expect(outcome == NFSRetry.Outcome(reply: bad, otherwise: nil))
            }
        }
    }

    @Test func `calls that may be done twice are sent as they are`() throws {
        let pair = NFSPair()
        for call in [
            pair.bench.message(.v3(.getattr), NFSArguments.handle(pair.root)),
            pair.bench.message(
                MountProtocol.program, 3, 1, NFSArguments.opaque(Array("/r1".utf8))),
        ] {
            guard case .forward(let forward) = pair.bench.decision(call) else {
                Issue.record("is not forwarded")
                continue
            }
            var retry = pair.bench.router.retry(forward)
            #expect(retry.begin() == .call(forward.call))
            let reply = try #require(pair.server.reply(to: forward.call))
            #expect(
                retry.take(reply) == .end(NFSRetry.Outcome(reply: reply, otherwise: nil)))
        }
    }

    @Test func `what is asked beside a call is asked in its caller's name`() throws {
        let pair = NFSPair()
        pair.bench.credential = RPCSystemCredential(
            machineName: "somebody", uid: 4_711, gid: 1, gids: [2])
        let arguments = NFSArguments.place(pair.root, "new") + NFSArguments.nothing
        let call = pair.bench.message(.v3(.mkdir), arguments)
        guard case .forward(let forward) = pair.bench.decision(call) else {
            Issue.record("is not forwarded")
            return
        }
        _ = pair.server.reply(to: forward.call)
        _ = pair.bench.again(forward)
        #expect(pair.server.log.suffix(3).allSatisfy { $0.caller == pair.bench.credential })
    }
}

@Suite struct NFSServerClockTests {
    private static let second: UInt64 = 1_000_000_000

    @Test func `a lower bound of a server's clock`() {
        var clock = NFSServerClock()
        #expect(clock.time(at: 5) == nil)
        clock.note(change: 1_000 * Self.second, now: 10 * Self.second)
        #expect(clock.time(at: 10 * Self.second) == 1_000 * Self.second)
        #expect(clock.time(at: 12 * Self.second) == 1_002 * Self.second)
        // A change that was told later than it was made says less.
        clock.note(change: 1_000 * Self.second, now: 11 * Self.second)
        #expect(clock.time(at: 12 * Self.second) == 1_002 * Self.second)
        // A better bound.
        clock.note(change: 1_003 * Self.second, now: 12 * Self.second)
        #expect(clock.time(at: 12 * Self.second) == 1_003 * Self.second)
        // Nothing has confirmed it for long: the clock was set back.
        clock.note(change: 900 * Self.second, now: 23 * Self.second)
        #expect(clock.time(at: 23 * Self.second) == 900 * Self.second)
        // One that is behind ours.
        clock.note(change: 5 * Self.second, now: 50 * Self.second)
        #expect(clock.time(at: 51 * Self.second) == 6 * Self.second)
    }
}
