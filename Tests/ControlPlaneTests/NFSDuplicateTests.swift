import ControlPlane
import DataPlane
import StorageProtocols
import TestSupport
import Testing

/// ns.
private let second: UInt64 = 1_000_000_000

private func client(_ port: UInt16 = 900, _ address: String = "10.0.0.9") -> NFSClient {
    NFSClient(address: NFSBench.address(address), port: port, transport: .udp)
}

private func makeCall(
    _ xid: UInt32, _ arguments: [UInt8] = [1, 2, 3, 4], stamp: UInt32 = 0,
    from client: NFSClient = client()
) throws -> NFSDuplicateMemory.Call {
    let octets = RPCMessage.call(
        xid: xid, program: 1, version: 2, procedure: 3,
        credential: RPCSystemCredential(stamp: stamp, machineName: "a", uid: 1, gid: 2),
        arguments: arguments)
    let header = octets.withUnsafeBytes { raw -> RPCCallHeader? in
        var reader = XDRReader(raw)
        return try? RPCCallHeader(&reader)
    }
    return NFSDuplicateMemory.Call(octets, try #require(header), from: client)
}

@Suite struct NFSDuplicateMemoryTests {
    private let first = NFSFirstSend(startedAt: 5)
    private let later = NFSFirstSend(startedAt: 9)

    @Test func `a call is new, under way, done`() throws {
        var memory = NFSDuplicateMemory(octets: 100_000, age: 120 * second)
        let call = try makeCall(1)
        #expect(memory.begin(call, first, now: 0) == .new)
        #expect(memory.begin(call, first, now: 1) == .underWay)
        memory.finish(call, reply: [1, 2], now: 2)
        #expect(memory.begin(call, first, now: 3) == .done([1, 2]))
        #expect(memory.count == 1)
    }

    @Test func `what makes calls the same`() throws {
        var memory = NFSDuplicateMemory(octets: 100_000, age: 120 * second)
        let call = try makeCall(1)
        _ = memory.begin(call, first, now: 0)
        for other in [
            try makeCall(2), try makeCall(1, [1, 2, 3, 5]), try makeCall(1, stamp: 1),
            try makeCall(1, from: client(901)), try makeCall(1, from: client(900, "10.0.0.8")),
        ] {
            #expect(memory.begin(other, first, now: 1) == .new)
        }
        #expect(memory.begin(call, first, now: 1) == .underWay)
    }

    @Test func `it is forgotten with time`() throws {
        var memory = NFSDuplicateMemory(octets: 100_000, age: 120 * second)
        let call = try makeCall(1)
        _ = memory.begin(call, first, now: 0)
        memory.finish(call, reply: [1], now: 50 * second)
        #expect(memory.begin(call, first, now: 169 * second) == .done([1]))
        #expect(memory.begin(call, first, now: 170 * second) == .new)
    }

    @Test func `it is bounded by octets, the oldest goes first`() throws {
        var memory = NFSDuplicateMemory(octets: 10_000, age: 120 * second)
        let calls = try (0..<50).map { try makeCall(UInt32($0)) }
        for call in calls {
            _ = memory.begin(call, first, now: 1)
            memory.finish(call, reply: [UInt8](repeating: 1, count: 600), now: 2)
        }
        #expect(memory.count == 10)
        #expect(memory.begin(calls[49], first, now: 3) != .new)
        #expect(memory.begin(calls[41], first, now: 3) != .new)
        #expect(memory.begin(calls[30], first, now: 3) == .new)
    }

    @Test func `a call that was given up comes back as one that may have been done`() throws {
        var memory = NFSDuplicateMemory(octets: 100_000, age: 120 * second)
        let call = try makeCall(1)
        _ = memory.begin(call, first, now: 0)
        memory.giveUp(call, wasSent: true, now: 1)
        #expect(memory.begin(call, later, now: 2) == .resumed(first))
        #expect(memory.begin(call, later, now: 3) == .underWay)
        // With another XID, over another connection, at another second.
        memory.giveUp(call, wasSent: true, now: 4)
        let again = try makeCall(77, stamp: 8, from: client(1_000))
        #expect(memory.begin(again, later, now: 5) == .resumed(first))
        memory.giveUp(again, wasSent: false, now: 6)
        #expect(memory.begin(again, later, now: 7) == .new)
        // Somebody else, something else, too late.
        memory.giveUp(again, wasSent: true, now: 8)
        let other = try makeCall(77, from: client(900, "10.0.0.8"))
        #expect(memory.begin(other, first, now: 9) == .new)
        let different = try makeCall(77, [9, 9, 9, 9])
        #expect(memory.begin(different, first, now: 9) == .new)
        // One that has ended is not given up.
        memory.finish(other, reply: [1], now: 10)
        memory.giveUp(other, wasSent: true, now: 11)
        #expect(memory.begin(other, first, now: 12) == .done([1]))
        let late = try makeCall(78)
        #expect(memory.begin(late, first, now: 8 + 120 * second) == .new)
    }

    @Test func `many calls in any order`() throws {
        var random = SplitMix64(seed: 9)
        var memory = NFSDuplicateMemory(octets: 20_000, age: 10 * second)
        let calls = try (0..<60).map { try makeCall(UInt32($0)) }
        var now: UInt64 = 0
        for _ in 0..<20_000 {
            now += UInt64(random.below(100_000_000))
            let call = calls[random.below(calls.count)]
            switch random.below(4) {
            case 0: memory.finish(call, reply: random.bytes(random.below(900)), now: now)
            case 1: memory.giveUp(call, wasSent: random.below(2) == 0, now: now)
            default: _ = memory.begin(call, first, now: now)
            }
            #expect(memory.count <= 51)
        }
    }
}

@Suite struct NFSDuplicateTests {
    @Test func `a call that came twice is done once`() throws {
        let bench = NFSBench.boxes()
        let root = bench.root("/r1")
        let call = bench.message(.v3(.mkdir), NFSArguments.place(root, "d") + NFSArguments.nothing)
        _ = bench.server("r1").takeLog()
        let first = try #require(bench.send(call))
        #expect(bench.send(call) == first)
        #expect(bench.server("r1").takeLog() == ["LOOKUP", "MKDIR"])
        #expect(bench.router.counters.replayed == 1)
        // Another client's call is another one.
        bench.client.port += 1
        let answer = NFSAnswer(try #require(bench.send(call)), to: .v3(.mkdir), call: call)
        #expect(answer.status == NFSv3Status.exists.rawValue)
    }

    @Test func `a call that is under way is not done beside it`() throws {
        let bench = NFSBench.boxes()
        let root = bench.root("/r1")
        let call = bench.message(.v3(.remove), NFSArguments.place(root, "x"))
        guard case .forward(let forward) = bench.decision(call) else {
            Issue.record("is not forwarded")
            return
        }
        #expect(!forward.isIdempotent && !forward.mayHaveBeenDone)
        guard case .underWay = bench.decision(call) else {
            Issue.record("is not under way")
            return
        }
        // What may be done twice is sent twice: its first may be lost.
        let read = bench.message(.v3(.getattr), NFSArguments.handle(root))
        for _ in 0..<2 {
            guard case .forward(let forward) = bench.decision(read) else {
                Issue.record("is not forwarded")
                return
            }
            #expect(forward.isIdempotent)
        }
        let reply = try #require(bench.server("r1").reply(to: forward.call))
        let answer = try #require(
            bench.router.finish(forward.context, reply: reply, now: bench.now))
        guard case .answer(answer) = bench.decision(call) else {
            Issue.record("is not answered")
            return
        }
    }

    @Test func `a call that was given up`() throws {
        let bench = NFSBench.boxes()
        let root = bench.root("/r1")
        let arguments = NFSArguments.place(root, "d") + NFSArguments.nothing
        let call = bench.message(.v3(.mkdir), arguments)
        guard case .forward(let forward) = bench.decision(call) else {
            Issue.record("is not forwarded")
            return
        }
        // The server has done it and died.
        _ = bench.server("r1").reply(to: forward.call)
        let told = try #require(bench.router.give(up: forward.context))
        #expect(
            NFSAnswer(told, to: .v3(.mkdir), call: call).status == NFSv3Status.jukebox.rawValue)
        // RFC 1813 section 2.6 on JUKEBOX: "try the request with a new RPC transaction ID".
        let again = bench.message(.v3(.mkdir), arguments)
        guard case .forward(let second) = bench.decision(again) else {
            Issue.record("is not forwarded")
            return
        }
        #expect(second.mayHaveBeenDone)
        let answer = NFSAnswer(
            try #require(bench.again(second)), to: .v3(.mkdir), call: again)
        #expect(answer.isOK)
        #expect(bench.router.counters.resumed == 1)
        #expect(bench.router.counters.mended == 1)
    }

    @Test func `a datagram that was given up`() throws {
        let bench = NFSBench.boxes()
        bench.client.transport = .udp
        let root = bench.root("/r1")
        let call = bench.message(.v3(.remove), NFSArguments.place(root, "x"))
        guard case .forward(let forward) = bench.decision(call) else {
            Issue.record("is not forwarded")
            return
        }
        #expect(bench.router.give(up: forward.context, wasSent: false) == nil)
        guard case .forward(let second) = bench.decision(call) else {
            Issue.record("is not forwarded")
            return
        }
        #expect(!second.mayHaveBeenDone)
        #expect(bench.router.give(up: second.context) == nil)
        guard case .forward(let third) = bench.decision(call) else {
            Issue.record("is not forwarded")
            return
        }
        #expect(third.mayHaveBeenDone)
    }
}
