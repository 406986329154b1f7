import ControlPlane
import DataPlane
import StorageProtocols
import Testing

/// Locks of clients at servers that see one host.
@Suite struct NLMLocksTests {
    private typealias Ask = NLMFakeWorld.Ask

    private let world = NLMFakeWorld()
    private var handle: [UInt8] { NLMFakeWorld.serverHandle }

    private func ask(_ change: (inout Ask) -> Void) -> Ask {
        var ask = Ask()
        change(&ask)
        return ask
    }

    /// Of another host, with the same numbers.
    private func others(_ change: (inout Ask) -> Void = { _ in }) -> Ask {
        ask {
            $0.client = NLMFakeWorld.other
            change(&$0)
        }
    }

    // MARK: Who has what

    @Test func `hosts that call themselves alike do not share locks`() throws {
        #expect(world.status(Ask()) == .granted)
        #expect(world.status(Ask()) == .granted)
        #expect(world.status(others()) == .denied)
        let test = world.send(others { $0.procedure = .test }).reply
        let holder = try #require(test?.holder)
        #expect(test?.status == .denied)
        #expect(test?.cookie == [9])
        #expect(holder.svid == 5)
        #expect(holder.owner == [1, 2])
        #expect(holder.isExclusive)
        let owners = Set(world.server("a").held.map(\.owner))
        #expect(owners.count == 1)
        #expect(owners != [[1, 2]])
    }

    @Test(arguments: ["svid", "owner", "name"])
    func `owners differ in process, owner or name`(part: String) {
        #expect(world.status(Ask()) == .granted)
        let other = ask {
            switch part {
            case "svid": $0.svid = 6
            case "owner": $0.owner = [1, 3]
            default: $0.name = "client2"
            }
        }
        #expect(world.status(other) == .denied)
    }

    @Test func `owners have the same numbers after a restart`() {
        #expect(world.status(Ask()) == .granted)
        let again = NLMFakeWorld()
        again.servers = world.servers
        #expect(again.status(ask { $0.procedure = .unlock }) == .granted)
        #expect(world.server("a").held.isEmpty)
    }

    @Test func `shared locks are shared, parts can be unlocked`() {
        #expect(world.status(ask { $0.isExclusive = false }) == .granted)
        #expect(world.status(others { $0.isExclusive = false }) == .granted)
        #expect(world.status(others()) == .denied)
        #expect(world.status(others { $0.procedure = .unlock }) == .granted)
        let middle = ask {
            $0.procedure = .unlock
            $0.offset = 4
            $0.length = 2
        }
        #expect(world.status(middle) == .granted)
        #expect(world.server("a").places(handle) == [0, 1, 2, 3, 6, 7, 8, 9])
        #expect(world.locks.heldCount == 2)
        let own = others {
            $0.offset = 4
            $0.length = 2
        }
        #expect(world.status(own) == .granted)
        #expect(world.locks.heldCount == 3)
    }

    @Test func `the credential is the client's, the name is ours`() throws {
        #expect(world.status(Ask()) == .granted)
        let held = try #require(world.server("a").held.first)
        #expect(held.caller == Array("10.1.0.1".utf8))
        #expect(held.svid < 0x8000_0000)
        #expect(held.owner.count == 8)
    }

    // MARK: Waiting

    private var waiting: Ask { others { $0.isBlocking = true } }

    @Test func `a lock that is waited for is granted with the client's own words`() throws {
        #expect(world.status(Ask()) == .granted)
        #expect(world.status(waiting) == .blocked)
        #expect(world.status(waiting) == .blocked)
        #expect(world.locks.waitingCount == 1)
        #expect(world.status(ask { $0.procedure = .unlock }) == .granted)
        let callback = try #require(world.callbacks.first)
        #expect(world.callbacks.count == 1)
        #expect(callback.procedure == .granted)
        #expect(callback.client == NLMFakeWorld.other)
        #expect(callback.local == NLMFakeWorld.virtual)
        let found = callback.arguments.withUnsafeBytes { raw -> NLMRequest? in
            var reader = XDRReader(raw)
            return try? NLMRequest(.granted, &reader, version: .four)
        }
        let request = try #require(found)
        #expect(request.lock.handle == NLMFakeWorld.handle)
        #expect(request.lock.svid == 5)
        #expect(request.lock.owner == [1, 2])
        #expect(request.lock.callerName == Array("client".utf8))
        #expect(request.lock.length == 10)
        #expect(request.isExclusive)
        #expect(world.locks.waitingCount == 0)
        #expect(world.locks.heldCount == 1)
        #expect(world.status(Ask()) == .denied)
    }

    @Test(arguments: [NLMStatus.denied, nil])
    func `what a client does not want is unlocked`(status: NLMStatus?) {
        #expect(world.status(Ask()) == .granted)
        #expect(world.status(waiting) == .blocked)
        world.clientStatus = status
        #expect(world.status(ask { $0.procedure = .unlock }) == .granted)
        #expect(world.locks.heldCount == 0)
        #expect(world.server("a").held.isEmpty)
        #expect(world.locks.counters.unwanted == 1)
    }

    @Test func `a grant before the answer is the answer`() {
        #expect(world.status(Ask()) == .granted)
        world.holdsReplies = true
        let answer = world.send(waiting)
        world.send(ask { $0.procedure = .unlock })
        #expect(answer.octets == nil)
        #expect(world.locks.waitingCount == 0)
        world.releaseReplies()
        #expect(answer.status == .granted)
        #expect(world.callbacks.isEmpty)
        #expect(world.locks.heldCount == 1)
        #expect(world.status(Ask()) == .denied)
    }

    @Test func `a server that grants again hears the same`() throws {
        #expect(world.status(Ask()) == .granted)
        #expect(world.status(waiting) == .blocked)
        let request = try #require(world.server("a").blocked.first)
        let wrong = world.locks.granted(request, version: .four, by: "b")
        #expect(wrong == .denied)
        let first = world.locks.granted(request, version: .four, by: "a")
        let second = world.locks.granted(request, version: .four, by: "a")
        #expect(first == .granted && second == .granted)
        world.pump()
        #expect(world.callbacks.count == 1)
        var stranger = request
        stranger.lock.owner[0] &+= 1
        let third = world.locks.granted(stranger, version: .four, by: "a")
        #expect(third == .denied)
    }

    @Test func `a lock that is not waited for any more is not granted`() {
        #expect(world.status(Ask()) == .granted)
        #expect(world.status(waiting) == .blocked)
        #expect(world.status(others { $0.procedure = .cancel }) == .granted)
        #expect(world.locks.waitingCount == 0)
        #expect(world.server("a").blocked.isEmpty)
        #expect(world.status(ask { $0.procedure = .unlock }) == .granted)
        #expect(world.callbacks.isEmpty)
    }

    // MARK: Moves

    @Test func `locks go where the export goes`() {
        #expect(world.status(Ask()) == .granted)
        #expect(world.status(ask { $0.procedure = .share }) == .granted)
        #expect(world.status(waiting) == .blocked)
        _ = world.server("a").takeLog()
        world.assigned = "b"
        world.locks.serversChanged()
        world.pump()
        #expect(world.server("a").held.isEmpty)
        #expect(world.server("a").blocked.isEmpty)
        #expect(world.server("a").shares.isEmpty)
        #expect(world.server("a").takeLog().sorted() == ["cancel", "unlock", "unshare"])
        #expect(world.server("b").places(handle) == Array(0..<10))
        #expect(world.server("b").shares.count == 1)
        #expect(world.server("b").blocked.count == 1)
        #expect(world.locks.counters.reclaimed == 2)
        #expect(world.locks.counters.lost == 0)
        #expect(world.status(others()) == .denied)
        #expect(world.status(ask { $0.procedure = .unlock }) == .granted)
        #expect(world.callbacks.count == 1)
    }

    @Test(arguments: [false, true])
    func `a server's death takes no lock`(isInGrace: Bool) {
        #expect(world.status(Ask()) == .granted)
        let far = ask {
            $0.offset = 20
            $0.length = 0
            $0.isExclusive = false
        }
        #expect(world.status(far) == .granted)
        world.down = ["a"]
        world.server("a").forget()
        world.locks.serverDown("a")
        world.pump()
        // It comes while nobody is there, and waits.
        let answer = world.send(others())
        #expect(answer.octets == nil)
        world.server("b").isInGrace = isInGrace
        world.assigned = "b"
        world.locks.serversChanged()
        world.pass(300)
        #expect(world.server("b").places(handle) == Array(0..<10) + Array(20..<64))
        #expect(world.server("b").takeLog().first == "lock reclaim")
        #expect(world.locks.counters.reclaimed == 2)
        #expect(answer.status == (isInGrace ? .deniedGracePeriod : .denied))
    }

    @Test func `who waits does not get what another has, at the next server either`() {
        #expect(world.status(Ask()) == .granted)
        #expect(world.status(waiting) == .blocked)
        world.down = ["a"]
        world.locks.serverDown("a")
        world.assigned = "b"
        world.locks.serversChanged()
        world.pass(300)
        #expect(world.callbacks.isEmpty)
        #expect(world.server("b").blocked.count == 1)
        #expect(world.locks.heldCount == 1)
        #expect(world.status(ask { $0.procedure = .unlock }) == .granted)
        #expect(world.callbacks.count == 1)
    }

    @Test func `what another has at the new server is lost`() {
        #expect(world.status(Ask()) == .granted)
        world.server("b").lock(handle, place: 3)
        world.assigned = "b"
        world.locks.serversChanged()
        world.pass(5_000)
        #expect(world.locks.counters.lost == 1)
        #expect(world.locks.heldCount == 0)
        #expect(world.reports.count == 1)
    }

    @Test func `with no server for long clients are told to come again`() {
        #expect(world.status(Ask()) == .granted)
        world.down = ["a"]
        let answer = world.send(waiting)
        world.pass(1_500)
        #expect(answer.octets == nil)
        world.pass(1_000)
        #expect(answer.status == .deniedGracePeriod)
        #expect(world.locks.waitingCount == 0)
        #expect(world.locks.openOperations == 0)
        world.down = []
        world.pass(300)
        #expect(world.status(waiting) == .blocked)
    }

    @Test func `a call that is lost is made again`() {
        #expect(world.status(Ask()) == .granted)
        let far = ask {
            $0.offset = 30
            $0.length = 1
        }
        // With the connection all that it had may be gone.
        world.losses = 1
        let answer = world.send(far)
        #expect(answer.octets == nil)
        #expect(world.troubles == ["a: closed by the server"])
        world.server("a").forget()
        world.pass(300)
        #expect(answer.status == .granted)
        #expect(world.server("a").places(handle) == Array(0..<10) + [30])
    }

    @Test func `a server that has restarted gets its locks again`() {
        #expect(world.status(Ask()) == .granted)
        world.server("a").forget()
        world.locks.serverRestarted("a")
        world.pass(300)
        #expect(world.server("a").places(handle) == Array(0..<10))
    }

    @Test func `a server that was away starts anew`() {
        #expect(world.status(Ask()) == .granted)
        world.down = ["a"]
        world.locks.serverDown("a")
        world.assigned = "b"
        world.locks.serversChanged()
        world.pass(300)
        #expect(world.status(ask { $0.procedure = .unlock }) == .granted)
        // It was cut off, and has the lock still.
        #expect(!world.server("a").held.isEmpty)
        world.down = []
        world.assigned = "a"
        world.locks.serversChanged()
        #expect(world.status(others()) == .granted)
        #expect(world.server("a").takeLog().contains("free_all"))
        #expect(world.locks.heldCount == 1)
    }

    // MARK: Hosts that restart

    @Test(arguments: ["client", "client.example.org"])
    func `a host that has restarted has nothing`(name: String) {
        #expect(world.status(Ask()) == .granted)
        #expect(world.status(ask { $0.procedure = .share }) == .granted)
        let far = others {
            $0.offset = 20
            $0.length = 5
        }
        #expect(world.status(far) == .granted)
        #expect(world.status(waiting) == .blocked)
        world.locks.release(Array(name.utf8), at: NLMFakeWorld.client)
        world.pump()
        #expect(world.server("a").shares.isEmpty)
        // The one who waited has it now.
        #expect(world.callbacks.count == 1)
        #expect(world.server("a").places(handle) == Array(0..<10) + Array(20..<25))
        #expect(world.locks.heldCount == 2)
        world.locks.release(Array("else".utf8), at: NLMFakeWorld.other)
        world.pump()
        #expect(world.locks.heldCount == 2)
    }

    @Test func `FREE_ALL is for the caller's own`() {
        #expect(world.status(Ask()) == .granted)
        let all = NLMCall.freeAll(Array("client".utf8), state: 3)
        world.send(others { $0.procedure = .freeAll }, arguments: all)
        #expect(world.locks.heldCount == 1)
        world.send(ask { $0.procedure = .freeAll }, arguments: all)
        #expect(world.locks.heldCount == 0)
        #expect(world.server("a").held.isEmpty)
    }

    // MARK: Forms and bounds

    @Test func `messages are answered by calls`() throws {
        let answer = world.send(ask { $0.procedure = .lockMessage })
        let empty = try #require(answer.octets)
        #expect(empty.count == 24)
        let callback = try #require(world.callbacks.first)
        #expect(callback.procedure == .lockResult)
        let status = callback.arguments.withUnsafeBytes { raw -> NLMReply? in
            var reader = XDRReader(raw)
            return try? NLMReply(.lock, &reader, version: .four)
        }
        #expect(status == NLMReply(cookie: [9], status: .granted))
        #expect(world.locks.counters.calls[.lockMessage] == 1)
    }

    @Test func `version 3 has handles of NFS 2`() {
        let old = ask {
            $0.version = .three
            $0.handle = [0xd5] + [UInt8](repeating: 1, count: 31)
            $0.length = 0
        }
        #expect(world.status(old) == .granted)
        var short = old
        short.handle = NLMFakeWorld.handle
        // A status that version 3 has.
        #expect(world.status(short) == .deniedNoLocks)
        world.assigned = "b"
        world.locks.serversChanged()
        world.pump()
        #expect(world.server("b").held.count == Int(NLMFakeServer.size))
    }

    @Test func `locks are bounded`() {
        var bounds = NLMLocks.Bounds()
        bounds.locks = 2
        let world = NLMFakeWorld(bounds: bounds)
        func status(_ place: UInt64) -> NLMStatus? {
            let answer = world.send(
                ask {
                    $0.offset = place * 2
                    $0.length = 1
                })
            world.pass(1)
            return answer.status
        }
        #expect(status(0) == .granted)
        #expect(status(1) == .granted)
        #expect(status(2) == .deniedNoLocks)
        #expect(world.locks.counters.refused == 1)
        let unlock = ask {
            $0.procedure = .unlock
            $0.length = 0
        }
        #expect(world.status(unlock) == .granted)
        #expect(status(2) == .granted)
    }

    @Test func `strange ranges and handles have their errors`() {
        let beyond = ask {
            $0.offset = .max
            $0.length = 2
        }
        #expect(world.status(beyond) == .tooBig)
        #expect(world.status(ask { $0.handle = [] }) == .staleHandle)
        #expect(world.status(ask { $0.handle = [1, 2, 3] }) == .staleHandle)
        let last = ask {
            $0.offset = .max
            $0.length = 1
        }
        #expect(world.status(last) == .granted)
    }

    @Test func `nothing that is sent does harm`() {
        for procedure in NLMProcedure.allCases {
            let ask = ask { $0.procedure = procedure }
            let whole = world.arguments(ask)
            for count in whole.indices {
                world.send(ask, arguments: Array(whole[..<count]))
                for bit in [0x01, 0x80, 0xff] as [UInt8] {
                    var changed = whole
                    changed[count] ^= bit
                    world.send(ask, arguments: changed)
                }
            }
        }
        world.pass(10_000)
        #expect(world.locks.openOperations == 0)
    }
}

/// Locked ranges of one owner against a file of 40 octets.
@Suite struct NLMHeldRangesTests {
    private func range(_ first: UInt64, _ length: UInt64) throws -> NLMRange {
        try #require(NLMRange(offset: first, length: length))
    }

    @Test func `they are those of POSIX`() throws {
        var random = SystemRandomNumberGenerator()
        for _ in 0..<200 {
            var held = NLMHeldRanges()
            var model = [Bool?](repeating: nil, count: 41)
            for _ in 0..<40 {
                let first = Int.random(in: 0..<40, using: &random)
                let length = Int.random(in: 0..<12, using: &random)
                let end = length == 0 ? 41 : min(40, first + length)
                let place = try range(UInt64(first), length == 0 ? 0 : UInt64(end - first))
                switch Int.random(in: 0..<3, using: &random) {
                case 0:
                    held.unlock(place)
                    for octet in first..<end { model[octet] = nil }
                case let kind:
                    held.lock(place, isExclusive: kind == 1)
                    for octet in first..<end { model[octet] = kind == 1 }
                }
                // The last one stands for all that come behind.
                let isRight = try (0...40).allSatisfy { octet in
                    let one = try range(octet == 40 ? 1_000 : UInt64(octet), 1)
                    let found = held.all.filter { $0.range.contains(one) }.map(\.isExclusive)
                    return found == [model[octet]].compactMap { $0 }
                }
                #expect(isRight)
                let joined = zip(held.all, held.all.dropFirst()).allSatisfy { one, next in
                    one.range.last < next.range.first
                        && (one.range.last + 1 != next.range.first
                            || one.isExclusive != next.isExclusive)
                }
                #expect(joined)
            }
        }
    }

    @Test func `the end of the file has no number`() throws {
        let tail = try range(5, 0)
        #expect(tail.length == 0)
        #expect(NLMRange.whole.contains(tail))
        #expect(NLMRange(offset: .max, length: 2) == nil)
        let last = try range(.max, 1)
        #expect(tail.contains(last))
        var held = NLMHeldRanges()
        held.lock(.whole, isExclusive: true)
        held.unlock(last)
        #expect(held.all.map(\.range.length) == [.max])
    }
}

/// `nfs: {locks: true}`.
@Suite struct NLMConfigurationTests {
    private let text = """
        ports: [{ name: c, device: c0, side: client }, { name: s, device: s0, side: storage }]
        cpu:
          client: { device: k0, mac: "02:00:00:00:01:01", addresses: [10.0.0.1/24] }
          storage: { device: k1, mac: "02:00:00:00:02:01", addresses: [10.1.0.1/24] }
        servers: [{ name: a, addresses: [10.1.0.11] }]
        resources: [{ name: r1, export: /r1, servers: [a], assigned: a }]
        nfs: { versions: [3], locks: false }

        """

    @Test func `locks are registered, and need a restart`() throws {
        let without = try Configuration.parse(text: text, file: "x")
        let with = try Configuration.parse(
            text: text.replacing("locks: false", with: "locks: true"), file: "x")
        #expect(without.nfs?.hasLocks == false)
        #expect(with.nfs?.hasLocks == true)
        #expect(
            ReloadPlan(from: without, to: with).needsRestart == ["nfs.locks: false to true"])
        func programs(_ configuration: Configuration) throws -> [UInt32] {
            let settings = try #require(NFSRouter.Settings(configuration))
            let lock = [NLMProtocol.program, NSMProtocol.program]
            return settings.registrations.filter { lock.contains($0.program) }.map(\.version)
        }
        let none = try programs(without)
        let some = try programs(with)
        #expect(none == [])
        #expect(some == [4, 4, 1, 1])
    }
}
