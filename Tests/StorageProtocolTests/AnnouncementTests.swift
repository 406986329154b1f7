import StorageProtocols
import TestSupport
import Testing

/// One agent and a gate that knows it.
struct AnnouncementPair {
    static let secret = "a secret of sixteen"
    static let start: UInt64 = 1_790_000_000_000
    var sender: AnnouncementSender
    var gate: AnnouncementGate

    init(secret: String = Self.secret) throws {
        sender = try Self.sender(secret: secret)
        gate = AnnouncementGate(skew: 30_000)
        gate.setKeys(["server1": AnnouncementKey(secret: Self.secret)])
    }

    static func sender(
        server: String = "server1", secret: String = Self.secret, bootID: UInt64 = 77,
        bootTime: UInt64 = Self.start
    ) throws -> AnnouncementSender {
        try AnnouncementSender(
            server: server, key: AnnouncementKey(secret: secret), bootID: bootID,
            bootTime: bootTime)
    }

    mutating func datagram(
        _ resources: [AnnouncedResource] = [], at time: UInt64 = Self.start
    ) throws -> [UInt8] {
        try #require(try sender.announce(resources, load: nil, timestamp: time).first)
    }

    mutating func refusal(
        _ datagram: [UInt8], now: UInt64 = Self.start, isAddress: Bool = true
    ) -> AnnouncementRefusal? {
        do {
            _ = try gate.take(datagram, now: now) { _ in isAddress }
            return nil
        } catch {
            return error
        }
    }
}

private func resources(_ count: Int) -> [AnnouncedResource] {
    (0..<count).map {
        AnnouncedResource(
            name: "r\($0)", target: "iqn.2026-01.lab.dsr:r\($0)",
            state: $0 % 2 == 0 ? .serving : .standby, lunCount: UInt16($0))
    }
}

@Suite struct AnnouncementCodecTests {
    private let load = AgentLoad(
        cpuPermille: 437, memoryPermille: 1_000, runQueueHundredths: 1_234, cores: 64,
        networkOctetsPerSecond: 1 << 40)

    @Test func `what is announced is read again`() throws {
        var pair = try AnnouncementPair()
        let sent = try pair.sender.announce(
            resources(3), load: load, timestamp: AnnouncementPair.start)
        #expect(sent.count == 1)
        let read = try pair.gate.take(sent[0], now: AnnouncementPair.start) { $0 == "server1" }
        #expect(read.server == "server1")
        #expect(read.bootID == 77)
        #expect(read.bootTime == AnnouncementPair.start)
        #expect(read.timestamp == AnnouncementPair.start)
        #expect(read.sequence == 1)
        #expect(read.load == load)
        #expect(read.resources == resources(3))
        #expect(!read.isLeaving)
        #expect((read.part, read.partCount) == (0, 1))
    }

    @Test func `many resources need several datagrams, none above 1400 octets`() throws {
        var pair = try AnnouncementPair()
        let all = resources(1_000)
        let sent = try pair.sender.announce(all, load: load, timestamp: AnnouncementPair.start)
        #expect(sent.count > 1)
        #expect(sent.allSatisfy { $0.count <= 1_400 })
        var read: [AnnouncedResource] = []
        for (index, datagram) in sent.enumerated() {
            let part = try pair.gate.take(datagram, now: AnnouncementPair.start) { _ in true }
            #expect((Int(part.part), Int(part.partCount)) == (index, sent.count))
            #expect(part.firstSequence == 1)
            #expect((part.load == nil) == (index > 0))
            read += part.resources
        }
        #expect(read == all)
    }

    @Test func `the last words of an agent`() throws {
        var pair = try AnnouncementPair()
        let datagram = pair.sender.leave(timestamp: AnnouncementPair.start)
        #expect(try pair.gate.take(datagram, now: AnnouncementPair.start) { _ in true }.isLeaving)
    }

    @Test func `the format of version 1 stays`() throws {
        var pair = try AnnouncementPair()
        let sent = try pair.sender.announce(
            [
                AnnouncedResource(
                    name: "r1", target: "iqn.2026-01.lab.dsr:r1", state: .standby, lunCount: 2)
            ],
            load: load, timestamp: AnnouncementPair.start + 1)
        #expect(
            sent[0].map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined() == goldenDatagram)
    }

    @Test func `every truncation and every flipped bit is refused`() throws {
        var pair = try AnnouncementPair()
        let datagram = try #require(
            try pair.sender.announce(resources(2), load: load, timestamp: AnnouncementPair.start)
                .first)
        for count in 0..<datagram.count {
            #expect(pair.refusal(Array(datagram[..<count])) == .malformed)
        }
        #expect(pair.refusal(datagram + [0]) == .malformed)
        var reasons: Set<AnnouncementRefusal> = []
        for bit in 0..<datagram.count * 8 {
            var changed = datagram
            // Flags that have no meaning yet are covered by the code too.
            changed[bit / 8] ^= 1 << UInt8(bit % 8)
            let refusal = pair.refusal(changed)
            #expect(refusal != nil, "bit \(bit)")
            if let refusal { reasons.insert(refusal) }
        }
        #expect(reasons == [.malformed, .unknownServer, .unknownKey, .badMAC])
        #expect(pair.refusal(datagram) == nil)
    }

    @Test func `octets at random never trap`() throws {
        var random = SplitMix64(seed: 3)
        var pair = try AnnouncementPair()
        let original = try pair.datagram(resources(4))
        for _ in 0..<20_000 {
            var bytes = random.below(2) == 0 ? original : random.bytes(random.below(1_500))
            for _ in 0...random.below(4) { random.mutate(&bytes, inserting: "DSRA\0\u{1}\u{2}") }
            if bytes != original { #expect(pair.refusal(bytes) != nil) }
        }
    }

    @Test func `what cannot be announced is refused with a reason`() throws {
        var sender = try AnnouncementPair.sender()
        func reason(_ resources: [AnnouncedResource]) -> String {
            do {
                _ = try sender.announce(resources, load: nil, timestamp: 1)
                return ""
            } catch {
                return error.description
            }
        }
        let target = "iqn.2026-01.lab.dsr:a"
        #expect(reason([AnnouncedResource(name: "a b", target: target)]).contains("no name"))
        #expect(reason([AnnouncedResource(name: "", target: target)]).contains("no name"))
        #expect(reason([AnnouncedResource(name: "a", target: "disk")]).contains("no iSCSI name"))
        #expect(reason([AnnouncedResource(name: "a", target: "iqn.x y")]).contains("no iSCSI name"))
        #expect(reason(resources(1_025)).contains("at most 1024"))
        let twice = AnnouncedResource(name: "a", target: target)
        #expect(reason([twice, twice]).contains("name a is given twice"))
        let upper = AnnouncedResource(name: "b", target: target.uppercased())
        #expect(reason([twice, upper]).contains("is given twice"))
        let long = (0..<400).map {
            AnnouncedResource(
                name: "n\($0)" + String(repeating: "x", count: 59),
                target: "iqn.\($0)." + String(repeating: "y", count: 200))
        }
        #expect(reason(long).contains("datagrams; at most 64"))
        #expect(throws: AnnouncementSender.Invalid.self) {
            _ = try AnnouncementPair.sender(server: String(repeating: "s", count: 64))
        }
    }

    @Test func `a key shows nothing`() {
        let key = AnnouncementKey(secret: AnnouncementPair.secret)
        #expect("\(key)" == "announcement key")
        #expect(String(reflecting: key) == "announcement key")
        #expect(key != AnnouncementKey(secret: AnnouncementPair.secret + "!"))
    }
}

@Suite struct AnnouncementGateTests {
    private let start = AnnouncementPair.start

    @Test func `each datagram is taken once`() throws {
        var pair = try AnnouncementPair()
        let first = try pair.datagram()
        #expect(pair.refusal(first) == nil)
        #expect(pair.refusal(first) == .replayed)
        #expect(pair.refusal(try pair.datagram()) == nil)
        #expect(pair.refusal(first) == .replayed)
    }

    @Test func `the window is 64 wide`() throws {
        var pair = try AnnouncementPair()
        let sent = try (1...66).map { _ in try pair.datagram() }
        #expect(pair.refusal(sent[0]) == nil)
        #expect(pair.refusal(sent[65]) == nil)
        #expect(pair.refusal(sent[1]) == .tooOld)
        #expect(pair.refusal(sent[2]) == nil)
        #expect(pair.refusal(sent[2]) == .replayed)
        // Within the window any order will do.
        for index in (3..<65).reversed() { #expect(pair.refusal(sent[index]) == nil) }
        for index in 2..<66 { #expect(pair.refusal(sent[index]) == .replayed) }
    }

    @Test func `the window agrees with a list of all that was taken`() throws {
        var random = SplitMix64(seed: 9)
        for _ in 0..<50 {
            var window = ReplayWindow()
            var taken: Set<UInt64> = []
            var newest: UInt64 = 0
            for _ in 0..<400 {
                let low = newest > 80 ? newest - 80 : 1
                let sequence = low + UInt64(random.below(Int(newest + 70 - low)))
                let expected: AnnouncementRefusal? =
                    sequence + 64 <= newest
                    ? .tooOld : taken.contains(sequence) ? .replayed : nil
                var refusal: AnnouncementRefusal?
                do { try window.check(sequence) } catch { refusal = error }
                #expect(refusal == expected)
                guard refusal == nil else { continue }
                window.insert(sequence)
                taken.insert(sequence)
                newest = max(newest, sequence)
            }
        }
    }

    @Test func `sequences up to the last one`() throws {
        var window = ReplayWindow()
        for sequence in [UInt64.max - 1, 3, UInt64.max] {
            do { try window.check(sequence) } catch { continue }
            window.insert(sequence)
        }
        #expect(window.newest == .max)
        #expect(throws: AnnouncementRefusal.replayed) { try window.check(.max - 1) }
        #expect(throws: AnnouncementRefusal.tooOld) { try window.check(3) }
    }

    @Test func `a new run replaces an old one and not the other way round`() throws {
        var pair = try AnnouncementPair()
        let old = try pair.datagram()
        let oldLater = try pair.datagram()
        #expect(pair.refusal(old) == nil)
        pair.sender = try AnnouncementPair.sender(bootID: 78, bootTime: start + 5_000)
        #expect(pair.refusal(try pair.datagram(at: start + 5_000), now: start + 5_000) == nil)
        #expect(pair.refusal(oldLater, now: start + 5_000) == .stale)
        // The same start with another identifier, and the same identifier with another start.
        pair.sender = try AnnouncementPair.sender(bootID: 79, bootTime: start + 5_000)
        #expect(pair.refusal(try pair.datagram(at: start + 5_000), now: start + 5_000) == .stale)
        pair.sender = try AnnouncementPair.sender(bootID: 78, bootTime: start + 6_000)
        #expect(pair.refusal(try pair.datagram(at: start + 6_000), now: start + 6_000) == .stale)
    }

    @Test func `a run that is not known must speak now`() throws {
        for (sent, now, expected) in [
            (start, start + 30_000, nil), (start, start + 30_001, AnnouncementRefusal.stale),
            (start + 30_000, start, nil), (start + 30_001, start, .stale),
        ] {
            var pair = try AnnouncementPair()
            #expect(pair.refusal(try pair.datagram(at: sent), now: now) == expected)
        }
        // A known run may have a clock that went wrong.
        var pair = try AnnouncementPair()
        #expect(pair.refusal(try pair.datagram()) == nil)
        #expect(pair.refusal(try pair.datagram(at: 5)) == nil)
        #expect(pair.refusal(try pair.datagram(at: .max)) == nil)
    }

    @Test func `a start in the far future does not shut out later runs`() throws {
        var pair = try AnnouncementPair()
        pair.sender = try AnnouncementPair.sender(bootTime: start + 30_001)
        #expect(pair.refusal(try pair.datagram()) == .stale)
        pair.sender = try AnnouncementPair.sender(bootTime: start + 30_000)
        #expect(pair.refusal(try pair.datagram()) == nil)
    }

    @Test func `after a start of the switch nothing older than the skew is believed`() throws {
        var pair = try AnnouncementPair()
        let recorded = try pair.datagram()
        #expect(pair.refusal(recorded) == nil)
        var fresh = try AnnouncementPair()
        #expect(fresh.refusal(recorded, now: start + 31_000) == .stale)
        #expect(fresh.refusal(try pair.datagram(at: start + 31_000), now: start + 31_000) == nil)
        #expect(fresh.refusal(recorded, now: start + 31_000) == .replayed)
    }

    @Test func `server, address, key and code`() throws {
        var pair = try AnnouncementPair()
        let datagram = try pair.datagram()
        #expect(pair.refusal(datagram, isAddress: false) == .wrongAddress)
        var other = try AnnouncementPair.sender(server: "server2")
        let foreign = try other.announce([], load: nil, timestamp: start)[0]
        #expect(pair.refusal(foreign) == .unknownServer)
        other = try AnnouncementPair.sender(secret: "another secret, long")
        let wrong = try other.announce([], load: nil, timestamp: start)[0]
        #expect(pair.refusal(wrong) == .unknownKey)
        var forged = wrong
        forged.replaceSubrange(8..<12, with: datagram[8..<12])
        #expect(pair.refusal(forged) == .badMAC)
        // None of them has taken the true one's place.
        #expect(pair.refusal(datagram) == nil)
    }

    @Test func `a reload keeps what is known`() throws {
        var pair = try AnnouncementPair()
        let datagram = try pair.datagram()
        #expect(pair.refusal(datagram) == nil)
        let key = AnnouncementKey(secret: AnnouncementPair.secret)
        pair.gate.setKeys(["server1": key, "server2": key])
        #expect(pair.refusal(datagram) == .replayed)
        pair.gate.setKeys([:])
        #expect(pair.refusal(try pair.datagram()) == .unknownServer)
    }
}

/// By Python's hmac and struct, from the description of the format.
private let goldenDatagram =
    "445352410100008bb4ece45e000000000000004d000001a0c4506c000000000000000001000001a0"
    + "c4506c010001077365727665723101001201b503e8000004d20040000001000000000002001d0200"
    + "020272311669716e2e323032362d30312e6c61622e6473723a7231f42eff6aa84f83e25c5217b362"
    + "3133112165e79bee196351e62532542398d090"
