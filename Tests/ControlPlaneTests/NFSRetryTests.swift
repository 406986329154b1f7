import ControlPlane
import DataPlane
import StorageProtocols
import Testing

private let exists = NFSv3Status.exists.rawValue

@Suite struct NFSRetryTests {
    /// ns.
    private static let second: UInt64 = 1_000_000_000

    // MARK: What makes something

    struct Making: Sendable, CustomTestStringConvertible {
        var procedure: NFSProcedure
        var name: String
        var more: [UInt8]
        /// What is asked when it was done.
        var asked: [String]
        var testDescription: String { "\(procedure)" }
    }

    static let making: [Making] = [
        Making(
            procedure: .v3(.create), name: "new",
            more: NFSArguments.words(1) + NFSArguments.nothing,
            asked: ["CREATE", "LOOKUP"]),
        Making(
            procedure: .v3(.create), name: "new",
            more: NFSArguments.words(1, 1, 0o600, 0, 0, 1, 0, 9, 0, 0), asked: ["CREATE", "LOOKUP"]),
        Making(
            procedure: .v3(.mkdir), name: "new", more: NFSArguments.nothing,
            asked: ["MKDIR", "LOOKUP"]),
        Making(
            procedure: .v3(.symlink), name: "new",
            more: NFSArguments.nothing + NFSArguments.opaque(Array("text".utf8)),
            asked: ["SYMLINK", "LOOKUP", "READLINK"]),
        Making(
            procedure: .v3(.mknod), name: "new", more: NFSArguments.words(7) + NFSArguments.nothing,
            asked: ["MKNOD", "LOOKUP"]),
        Making(
            procedure: .v3(.mknod), name: "new",
            more: NFSArguments.words(3) + NFSArguments.nothing + NFSArguments.words(8, 1),
            asked: ["MKNOD", "LOOKUP"]),
        Making(
            procedure: .v2(.create), name: "new", more: NFSArguments.nothing2,
            asked: ["CREATE", "LOOKUP"]),
        Making(
            procedure: .v2(.mkdir), name: "new", more: NFSArguments.nothing2,
            asked: ["MKDIR", "LOOKUP"]),
        Making(
            procedure: .v2(.symlink), name: "new",
            more: NFSArguments.opaque(Array("text".utf8)) + NFSArguments.nothing2,
            asked: ["SYMLINK", "LOOKUP", "READLINK"]),
    ]

    @Test(arguments: making, [true, false])
    func `what was made counts as made`(making: Making, isDone: Bool) throws {
        let pair = NFSPair(making.procedure.version)
        pair.learnClock()
        let arguments = pair.place(making.name) + making.more
        let found = try pair.twice(making.procedure, arguments, isDone: isDone)
        #expect(found.answer.isOK)
        #expect(found.asked == (isDone ? making.asked : [making.asked[0]]))
        #expect(pair.bench.router.counters.mended == (isDone ? 1 : 0))
        // What the client got is what is there.
        let there = try #require(pair.lookUp(making.name))
        #expect(there.isOK)
        if making.procedure != .v2(.symlink) {
            #expect(found.answer.handle == there.handle)
            #expect(found.answer.fileNumbers.first == there.fileNumbers.first)
        }
    }

    @Test(arguments: making)
    func `what was there before is an error, as at any server`(making: Making) throws {
        let pair = NFSPair(making.procedure.version)
        pair.learnClock()
        // Somebody has made the very same long before.
        let call = pair.bench.message(making.procedure, pair.place(making.name) + making.more)
        guard case .forward(let forward) = pair.bench.decision(call, asksInVain: true) else {
            Issue.record("is not forwarded")
            return
        }
        _ = pair.server.reply(to: forward.call)
        _ = pair.bench.router.give(up: forward.context, wasSent: false)
        pair.storage.clock += 10 * Self.second
        pair.bench.now += 10 * Self.second
        pair.learnClock()
        let arguments = pair.place(making.name) + making.more
        let found = try pair.twice(making.procedure, arguments, isDone: true)
        #expect(found.answer.status == exists)
        #expect(pair.bench.router.counters.mended == 0)
    }

    @Test(arguments: making)
    func `a name that was known to be there, made a moment ago`(making: Making) throws {
        let pair = NFSPair(making.procedure.version)
        pair.learnClock()
        let arguments = pair.place(making.name) + making.more
        #expect(pair.bench.call(making.procedure, arguments)?.isOK == true)
        let found = try pair.twice(making.procedure, arguments, isDone: true)
        #expect(found.answer.status == exists)
        #expect(found.asked == [making.asked[0]])
    }

    @Test(arguments: making)
    func `something else of the name is not what was made`(making: Making) throws {
        let pair = NFSPair(making.procedure.version)
        let arguments = pair.place(making.name) + making.more
        let found = try pair.twice(making.procedure, arguments, isDone: false) {
            // Of another type, size or text than any of them.
            let isFile = making.procedure == .v3(.create) || making.procedure == .v2(.create)
            pair.storage.put(
                making.name, isFile ? .directory : .regular, data: isFile ? [] : [1])
        }
        #expect(found.answer.status == exists)
        #expect(pair.bench.router.counters.mended == 0)
    }

    @Test func `a symbolic link of another text, a device of other numbers, a full directory`()
        throws
    {
        for (more, file, procedure) in [
            (
                NFSArguments.nothing + NFSArguments.opaque([0x61]),
                NFSFakeStorage.File(type: .symbolicLink, text: [0x62]), NFSv3Procedure.symlink
            ),
            (
                NFSArguments.words(4) + NFSArguments.nothing + NFSArguments.words(8, 1),
                NFSFakeStorage.File(type: .characterDevice, device: [8, 2]), .mknod
            ),
            (NFSArguments.nothing, NFSFakeStorage.File(type: .directory), .mkdir),
        ] as [([UInt8], NFSFakeStorage.File, NFSv3Procedure)] {
            let pair = NFSPair()
            let found = try pair.twice(.v3(procedure), pair.place("new") + more, isDone: false) {
                pair.storage.make(file, Array("new".utf8), in: pair.storage.root)
                if procedure == .mkdir { pair.storage.put("new/inside", .directory) }
            }
            #expect(found.answer.status == exists, "\(procedure)")
        }
    }

    @Test func `a name that was known to be free is the call's, whatever the clocks say`() throws {
        let pair = NFSPair()
        pair.storage.clock += 100 * Self.second
        pair.learnClock()
        pair.storage.clock -= 100 * Self.second
        pair.lookUp("new")
        let arguments = NFSArguments.place(pair.root, "new") + NFSArguments.nothing
        let again = try pair.twice(.v3(.mkdir), arguments, isDone: true)
        #expect(again.answer.isOK)
        // One of which nothing is known is too old to be the call's.
        let other = NFSArguments.place(pair.root, "other") + NFSArguments.nothing
        let again2 = try pair.twice(.v3(.mkdir), other, isDone: true)
        #expect(again2.answer.status == exists)
    }

    @Test func `of two clients that make the same one has made it`() throws {
        let pair = NFSPair()
        pair.lookUp("lock")
        let arguments = NFSArguments.place(pair.root, "lock") + NFSArguments.nothing
        var forwards: [NFSForward] = []
        var calls: [[UInt8]] = []
        for port in [901, 902] as [UInt16] {
            pair.bench.client.port = port
            let call = pair.bench.message(.v3(.mkdir), arguments)
            guard case .forward(let forward) = pair.bench.decision(call) else { continue }
            calls.append(call)
            forwards.append(forward)
        }
        try #require(forwards.count == 2)
        // The server has done one of them, and died.
        _ = pair.server.reply(to: forwards[1].call)
        // Both are judged side by side.
        var outcomes: [NFSRetry.Outcome] = []
        for forward in forwards {
            var retry = pair.bench.router.retry(forward)
            var step = retry.begin()
            while case .call(let call) = step {
                step = retry.take(try #require(pair.server.reply(to: call)))
            }
            if case .end(let outcome) = step { outcomes.append(outcome) }
        }
        var status: [UInt32?] = []
        for index in 0..<2 {
            pair.bench.now += 1_000
            let reply = try #require(
                pair.bench.router.finish(
                    forwards[index].context, outcomes[index], now: pair.bench.now))
            status.append(NFSAnswer(reply, to: .v3(.mkdir), call: calls[index]).status)
        }
        #expect(status == [0, exists])
    }

    @Test func `a server that tells no attributes is asked for them`() throws {
        let pair = NFSPair()
        pair.server.isSilent = true
        let arguments = NFSArguments.place(pair.root, "new") + NFSArguments.nothing
        let found = try pair.twice(.v3(.mkdir), arguments, isDone: true)
        #expect(found.answer.isOK)
        #expect(found.asked == ["MKDIR", "LOOKUP", "GETATTR"])
        #expect(found.answer.handle == pair.lookUp("new")?.handle)
    }

    // MARK: CREATE of the other kinds

    @Test(arguments: [0, 2] as [UInt32], [true, false])
    func `CREATE UNCHECKED and EXCLUSIVE are right by themselves`(
        mode: UInt32, isDone: Bool
    ) throws {
        let pair = NFSPair()
        let arguments =
            mode == 0
            ? NFSArguments.create(pair.root, "new", mode: 0)
            : NFSArguments.createExclusive(pair.root, "new")
        let call = pair.bench.message(.v3(.create), arguments)
        guard case .forward(let forward) = pair.bench.decision(call) else {
            Issue.record("is not forwarded")
            return
        }
        #expect(!forward.isIdempotent)
        if isDone { _ = pair.server.reply(to: forward.call) }
        _ = pair.server.takeLog()
        let reply = try #require(pair.bench.again(forward))
        #expect(NFSAnswer(reply, to: .v3(.create), call: call).isOK)
        #expect(pair.server.takeLog() == ["CREATE"])
    }

    @Test func `CREATE EXCLUSIVE whose server died before it stored the verifier`() throws {
        for isFree in [true, false] {
            let pair = NFSPair()
            if !isFree { pair.storage.put("new") }
            pair.lookUp("new")
            let arguments = NFSArguments.createExclusive(pair.root, "new")
            let found = try pair.twice(.v3(.create), arguments, isDone: false) {
                if isFree { pair.storage.put("new") }
            }
            #expect(found.answer.status == (isFree ? 0 : exists))
            #expect(found.asked == (isFree ? ["CREATE", "LOOKUP"] : ["CREATE"]))
        }
    }

    @Test func `CREATE EXCLUSIVE of somebody else's file is an error`() throws {
        let pair = NFSPair()
        pair.storage.put("new")
        let arguments = NFSArguments.createExclusive(pair.root, "new")
        let call = pair.bench.message(.v3(.create), arguments)
        let answer1 = NFSAnswer(
            try #require(pair.bench.send(call)), to: .v3(.create), call: call)
        #expect(answer1.status == exists)
    }
}
