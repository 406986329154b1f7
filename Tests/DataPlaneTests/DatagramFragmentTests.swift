import DataPlane
import TestSupport
import Testing

/// The fragments of a datagram go where its first one goes.
@Suite struct DatagramFragmentTests {
    private static let size = 512

    private func fixture(
        isIPv4: Bool = true, configuration: PipelineConfiguration = TestSwitch.configuration
    ) throws -> DatagramFixture {
        let fixture = try DatagramFixture(isIPv4: isIPv4, configuration: configuration)
        try fixture.bind()
        try fixture.bind(1)
        try fixture.apply(.setResource(5, server: fixture.server(0)))
        return fixture
    }

    private func own(_ length: Int = 28) -> [UInt8] { (0..<length).map { UInt8($0 ^ 0x55) } }

    /// A write of so much data.
    private func write(_ handle: [UInt8], _ count: Int = 3_000) -> [UInt8] {
        var message = NFSMessage(procedure: 7, handle: handle)
        message.arguments = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        return message.call
    }

    private var prefixedWrite: [UInt8] { write(DatagramFixture.prefixed(5, own())) }

    /// Fragments as they come, and as they leave when `cut` octets are taken out of the first one.
    private func fragments(
        _ call: PacketBuilder, _ wanted: PacketBuilder, cut: Int
    ) -> (came: [[UInt8]], left: (_ identification: UInt32) -> [[UInt8]]) {
        let starts = Array(stride(from: 0, to: call.segment().count, by: Self.size))
        let moved = starts.map { $0 == 0 ? 0 : $0 - cut }
        return (
            call.fragments(at: starts),
            { identification in
                var wanted = wanted
                wanted.identification = identification
                return wanted.fragments(at: moved)
            }
        )
    }

    private func calls(
        _ fixture: DatagramFixture, identification: UInt32 = 0x1234, client: Int = 0
    ) -> (came: [[UInt8]], left: (_ identification: UInt32) -> [[UInt8]]) {
        var call = fixture.call(prefixedWrite, client: client)
        call.identification = identification
        return fragments(call, fixture.forwarded(write(own()), client: client), cut: 8)
    }

    /// As they leave when all but the first one wait, the last one longest.
    private func turned(_ frames: [[UInt8]]) -> [[UInt8]] {
        Array(frames.prefix(1)) + Array(frames.dropFirst().reversed())
    }

    /// What came out of a port, and the identification of the first.
    private func octets(
        _ sent: DatagramFixture.Sent, _ port: PortNumber
    ) -> (frames: [[UInt8]], identification: UInt32) {
        let frames = sent[port]?.map(\.bytes) ?? []
        return (frames, DatagramFixture.identification(of: frames.first ?? []))
    }

    // MARK: Order

    @Test(arguments: [true, false], [true, false])
    func inOrder(isIPv4: Bool, isPrefixed: Bool) throws {
        let fixture = try fixture(isIPv4: isIPv4)
        try fixture.apply(.installHandle(own(), resource: 5))
        let handle = isPrefixed ? DatagramFixture.prefixed(5, own()) : own()
        let (came, left) = fragments(
            fixture.call(write(handle)), fixture.forwarded(write(own())), cut: isPrefixed ? 8 : 0)
        #expect(came.count == 7)
        let sent = fixture.network.send(came, on: 1)
        let (frames, identification) = octets(sent, 3)
        #expect(sent.count == 1 && frames == left(identification))
        let status = fixture.status
        #expect(status.fragments == 0 && status.waitingFragments == 0 && status.misses.isEmpty)
        let resource = try #require(fixture.resource(5))
        let network = frames.reduce(0) { $0 + $1.count - 14 }
        #expect(resource.calls == 1 && resource.callOctets == UInt64(network))
        #expect(fixture.network.status.drops.isEmpty)
    }

    @Test(arguments: [true, false])
    func anyOrder(isIPv4: Bool) throws {
        let fixture = try fixture(isIPv4: isIPv4)
        var random = SplitMix64(seed: 5)
        for round in 0..<60 as Range<UInt32> {
            let (came, left) = calls(fixture, identification: 100 + round)
            var order = Array(came.indices)
            if round == 0 { order.reverse() } else { order.shuffle(using: &random) }
            let sent = fixture.network.send(order.map { came[$0] }, on: 1)
            let (frames, identification) = octets(sent, 3)
            // Those that came before the first one follow it, in the order in which they came.
            let first = order.firstIndex(of: 0) ?? 0
            let turns: [Int] = [0] + Array(order[..<first]) + Array(order[(first + 1)...])
            let wanted = left(identification)
            #expect(frames == turns.map { wanted[$0] }, "round \(round)")
        }
        let status = fixture.status
        #expect(status.fragments == 0 && status.waitingFragments == 0)
        #expect(status.waitingOctets == 0)
        #expect(fixture.resource(5)?.calls == 60)
        #expect(fixture.network.status.drops.isEmpty)
    }

    @Test func whatWaits() throws {
        let fixture = try fixture()
        let (came, left) = calls(fixture)
        #expect(fixture.network.send(Array(came[1...]), on: 1).isEmpty)
        var status = fixture.status
        #expect(status.fragments == 1 && status.waitingFragments == 6)
        #expect(status.waitingOctets > 6 * 512)
        let (frames, identification) = octets(fixture.network.send(came[0], on: 1), 3)
        let wanted = left(identification)
        #expect(frames == wanted)
        status = fixture.status
        #expect(status.fragments == 0 && status.waitingFragments == 0)
        #expect(status.waitingOctets == 0)
    }

    // MARK: Loss and repetition

    /// Every fragment twice, in both possible ways: all leave as parts of one datagram.
    @Test(arguments: [true, false], [true, false])
    func repeated(isIPv4: Bool, isEachTwice: Bool) throws {
        let fixture = try fixture(isIPv4: isIPv4)
        let (came, left) = calls(fixture)
        let once = Array(came.indices)
        let order: [Int] = isEachTwice ? once.flatMap { [$0, $0] } : once + once
        let sent = fixture.network.send(order.map { came[$0] }, on: 1)
        let (frames, identification) = octets(sent, 3)
        let wanted = left(identification)
        #expect(frames == order.map { wanted[$0] })
        #expect(fixture.network.status.drops.isEmpty)
        fixture.network.advance(seconds: 3)
        #expect(fixture.status.fragments == 0 && fixture.status.waitingFragments == 0)
        #expect(fixture.network.status.drops.isEmpty)
    }

    /// A datagram that is said again with the same identification, a moment later.
    @Test func saidAgain() throws {
        let fixture = try fixture()
        let (came, left) = calls(fixture)
        var before: UInt32?
        for seconds in [0, 0.2, 5] {
            fixture.network.advance(seconds: seconds)
            let (frames, identification) = octets(fixture.network.send(came, on: 1), 3)
            #expect(frames == left(identification))
            if let before { #expect(identification != before) }
            before = identification
        }
    }

    @Test func lost() throws {
        let fixture = try fixture()
        for missing in 1..<7 {
            let (came, left) = calls(fixture, identification: UInt32(missing))
            var part = came
            part.remove(at: missing)
            let (frames, identification) = octets(fixture.network.send(part, on: 1), 3)
            var wanted = left(identification)
            wanted.remove(at: missing)
            #expect(frames == wanted)
            #expect(fixture.status.fragments == 1)
            fixture.network.advance(seconds: 1.8)
            #expect(fixture.status.fragments == 1)
            fixture.network.advance(seconds: 0.3)
            #expect(fixture.status.fragments == 0)
        }
        #expect(fixture.network.status.drops.isEmpty)
    }

    @Test(arguments: [1.0, 2.0])
    func theFirstIsLost(seconds: Double) throws {
        var configuration = TestSwitch.configuration
        configuration.fragmentLifetime = UInt64(seconds * 1_000_000_000)
        let fixture = try fixture(configuration: configuration)
        let (came, _) = calls(fixture)
        #expect(fixture.network.send(Array(came[1...]), on: 1).isEmpty)
        fixture.network.advance(seconds: seconds - 0.2)
        #expect(fixture.status.waitingFragments == 6)
        fixture.network.advance(seconds: 0.3)
        let status = fixture.status
        #expect(status.waitingFragments == 0 && status.fragments == 0)
        #expect(status.waitingOctets == 0)
        #expect(fixture.network.status.drops == [.fragmentNoFirst: 6])
        #expect(fixture.resource(5)?.calls == 0)
    }

    // MARK: What misses

    /// All fragments of a datagram that misses go the ordinary way, also those that waited.
    @Test(arguments: [true, false], [true, false])
    func misses(isIPv4: Bool, isReversed: Bool) throws {
        let fixture = try fixture(isIPv4: isIPv4)
        let octets = write(DatagramFixture.prefixed(6, own()))
        let came = fixture.call(octets).fragments(of: Self.size)
        let order: [[UInt8]] = isReversed ? came.reversed() : came
        let sent = fixture.network.send(order, on: 1)
        let wanted = isReversed ? turned(came) : came
        #expect(sent.mapValues { $0.map(\.bytes) } == [2: wanted])
        #expect(fixture.status.misses == [.server: 1])
        #expect(fixture.status.fragments == 0)
        #expect(fixture.network.status.drops.isEmpty)
    }

    /// The handle must be in the first fragment as a whole.
    @Test(arguments: [true, false])
    func handlesThatAreCut(isIPv4: Bool) throws {
        let fixture = try fixture(isIPv4: isIPv4)
        let message = NFSMessage(procedure: 7, handle: DatagramFixture.prefixed(5, own()))
        let call = fixture.call(message.call)
        var wanted = NFSMessage(procedure: 7, handle: own())
        wanted.arguments = message.arguments
        var misses: UInt64 = 0
        for first in stride(from: 16, to: call.segment().count, by: 8) {
            var call = call
            call.identification = UInt32(first)
            let came = call.fragments(at: [0, first])
            let sent = fixture.network.send(came, on: 1)
            if first - 8 < message.handleEnd {
                misses += 1
                #expect(sent.mapValues { $0.map(\.bytes) } == [2: came], "\(first)")
            } else {
                let (frames, identification) = octets(sent, 3)
                var left = fixture.forwarded(wanted.call)
                left.identification = identification
                #expect(frames == left.fragments(at: [0, first - 8]), "\(first)")
            }
        }
        #expect(fixture.status.misses == [.truncated: misses])
    }

    /// What lies over the first fragment could change what was decided by.
    @Test(arguments: [true, false])
    func overlaps(isIPv4: Bool) throws {
        let fixture = try fixture(isIPv4: isIPv4)
        let call = fixture.call(prefixedWrite)
        let came = call.fragments(of: Self.size)
        _ = fixture.network.send(came[0], on: 1)
        for start in [8, 64, 256, 504] {
            let over = call.fragments(at: [0, start, 1_024])[1]
            #expect(fixture.network.send(over, on: 1).isEmpty)
        }
        #expect(fixture.network.status.drops == [.fragmentOverlap: 4])
        #expect(fixture.network.send(came[1], on: 1)[3]?.count == 1)
        // Early ones are looked at when they leave.
        var other = call
        other.identification = 9
        let early = other.fragments(at: [0, 64, 1_024])
        #expect(fixture.network.send(Array(early[1...]), on: 1).isEmpty)
        let first = other.fragments(of: Self.size)[0]
        #expect(fixture.network.send(first, on: 1)[3]?.count == 2)
        #expect(fixture.network.status.drops == [.fragmentOverlap: 5])
    }

    // MARK: Many datagrams

    /// Clients share one address towards servers: equal identifications of theirs become different ones.
    @Test func identifications() throws {
        let fixture = try fixture()
        var used: [UInt32] = []
        for round in 0..<10 as Range<UInt32> {
            let one = calls(fixture, identification: 7 + round)
            let other = calls(fixture, identification: 7 + round, client: 1)
            // Fragments of both in turn.
            let came = zip(one.came, other.came).flatMap { [$0, $1] }
            let frames = octets(fixture.network.send(came, on: 1), 3).frames
            try #require(frames.count == 14)
            let evens = stride(from: 0, to: 14, by: 2).map { frames[$0] }
            let odds = stride(from: 1, to: 14, by: 2).map { frames[$0] }
            let first = DatagramFixture.identification(of: evens[0])
            let second = DatagramFixture.identification(of: odds[0])
            #expect(evens == one.left(first) && odds == other.left(second))
            used += [first, second]
        }
        #expect(Set(used).count == 20)
    }

    /// Datagrams that are complete, or lack something, leave room for others; so do early fragments.
    @Test func manyDatagrams() throws {
        let fixture = try fixture()
        for number in 0..<300 as Range<UInt32> {
            let (came, left) = calls(fixture, identification: number)
            let (frames, identification) = octets(fixture.network.send(came, on: 1), 3)
            if frames != left(identification) { Issue.record("complete, \(number)") }
        }
        #expect(fixture.status.fragments == 0)
        for number in 300..<600 as Range<UInt32> {
            let (came, left) = calls(fixture, identification: number)
            let sent = fixture.network.send(Array(came.dropLast()), on: 1)
            let (frames, identification) = octets(sent, 3)
            let wanted = Array(left(identification).dropLast())
            if frames != wanted { Issue.record("lost, \(number)") }
        }
        #expect(fixture.status.fragments <= 16 && fixture.status.fragments > 8)
        #expect(fixture.network.status.drops.isEmpty)
        // Firsts that never come.
        for number in 600..<900 as Range<UInt32> {
            let (came, _) = calls(fixture, identification: number)
            _ = fixture.network.send(came[3], on: 1)
        }
        let waiting = fixture.status.waitingFragments
        let full = fixture.network.drops(.fragmentTableFull)
        #expect(waiting <= 16 && UInt64(waiting) + full == 300)
        for number in 900..<1_000 as Range<UInt32> {
            let (came, left) = calls(fixture, identification: number)
            let (frames, identification) = octets(fixture.network.send(came, on: 1), 3)
            if frames != left(identification) { Issue.record("among early ones, \(number)") }
        }
        fixture.network.advance(seconds: 3)
        let status = fixture.status
        #expect(status.fragments == 0 && status.waitingFragments == 0)
        #expect(status.waitingOctets == 0)
        #expect(
            fixture.network.status.drops
                == [.fragmentTableFull: full, .fragmentNoFirst: UInt64(waiting)])
    }

    /// Memory for early fragments is bounded.
    @Test func earlyFragmentsAreBounded() throws {
        var configuration = TestSwitch.configuration
        configuration.fragments = 64
        configuration.fragmentOctets = 1
        let fixture = try fixture(configuration: configuration)
        var sent: UInt64 = 0
        for number in 0..<20 as Range<UInt32> {
            let (came, _) = calls(fixture, identification: number)
            #expect(fixture.network.send(Array(came[1...]), on: 1).isEmpty)
            sent += UInt64(came.count - 1)
        }
        let waiting = fixture.status.waitingFragments
        let refused = fixture.network.drops(.fragmentQueueFull)
        #expect(waiting <= 32 && waiting >= 16 && UInt64(waiting) + refused == sent)
        fixture.network.advance(seconds: 3)
        #expect(fixture.status.waitingOctets == 0)
        // There is room again.
        let (came, left) = calls(fixture, identification: 99)
        let exchanged = [came[1], came[0]] + Array(came[2...])
        let (frames, identification) = octets(fixture.network.send(exchanged, on: 1), 3)
        #expect(frames == left(identification))
    }

    // MARK: Replies, moves

    @Test(arguments: [true, false], [true, false])
    func replies(isIPv4: Bool, isReversed: Bool) throws {
        let fixture = try fixture(isIPv4: isIPv4)
        let message = NFSMessage(procedure: 6, handle: DatagramFixture.prefixed(5, own()))
        _ = fixture.send(fixture.call(message.call), on: 1)
        let reply = message.reply(write(own()))
        let came = fixture.reply(reply).fragments(of: Self.size)
        let order: [[UInt8]] = isReversed ? came.reversed() : came
        let sent = fixture.network.send(order, on: 3)
        let (frames, identification) = octets(sent, 1)
        var wanted = fixture.returned(reply)
        wanted.identification = identification
        let left = wanted.fragments(of: Self.size)
        let expected = isReversed ? turned(left) : left
        #expect(frames == expected)
        let resource = try #require(fixture.resource(5))
        #expect(resource.replies == 1)
        #expect(resource.replyOctets == UInt64(frames.reduce(0) { $0 + $1.count - 14 }))
        #expect(fixture.status.fragments == 0)
    }

    /// A resource that moves in the middle of a datagram moves for the next one.
    @Test func aMoveInTheMiddle() throws {
        let fixture = try fixture()
        let (came, left) = calls(fixture)
        let (begin, identification) = octets(
            fixture.network.send(Array(came[..<3]), on: 1), 3)
        try fixture.apply(
            .setResource(5, server: fixture.server(1)),
            .unbind(DatagramFixture.service, client: fixture.client(0)))
        let rest = octets(fixture.network.send(Array(came[3...]), on: 1), 3).frames
        #expect(begin + rest == left(identification))
        try fixture.bind()
        let next = calls(fixture, identification: 5)
        let (frames, _) = octets(fixture.network.send(next.came, on: 1), 3)
        let server = fixture.server(1)
        #expect(frames.count == 7)
        #expect(frames.allSatisfy { Array($0[30..<34]) == bigEndian32(server.address.v4) })
    }

    /// Without a service, fragments are as they were: none waits.
    @Test func theServiceGoes() throws {
        let fixture = try fixture()
        let (came, _) = calls(fixture)
        #expect(fixture.network.send(came[1], on: 1).isEmpty)
        try fixture.apply(.setService(DatagramFixture.service, nil))
        let sent = fixture.network.send(came[2], on: 1)
        #expect(sent.mapValues { $0.map(\.bytes) } == [2: [came[2]]])
        fixture.network.advance(seconds: 3)
        #expect(fixture.status.fragments == 0 && fixture.status.waitingFragments == 0)
        #expect(fixture.network.status.drops == [.fragmentNoFirst: 1])
    }

    /// Fragments to others are none of the service's, and none of them waits.
    @Test func otherFragments() throws {
        let fixture = try fixture()
        var call = fixture.call(prefixedWrite)
        call.destination = DatagramFixture.address(true, 1, 9)
        let came = call.fragments(of: Self.size)
        let order: [[UInt8]] = came.reversed()
        let sent = fixture.network.send(order, on: 1)
        #expect(sent.mapValues { $0.map(\.bytes) } == [2: order])
        #expect(fixture.status.fragments == 0)
    }

    /// With exact flows beside the service, each gets its own.
    @Test func besideExactFlows() throws {
        let fixture = try fixture()
        var other = fixture.call(prefixedWrite)
        other.destinationPort = 111
        other.identification = 77
        try fixture.network.apply([
            .addFlow(
                FlowKey(
                    source: other.source, sourcePort: other.sourcePort,
                    destination: other.destination, destinationPort: 111, ipProtocol: 17,
                    domain: 0, origin: .network), actions: [.setDestinationPort(112), .cpu],
                cookie: 0, idleTimeout: 0)
        ])
        let (came, left) = calls(fixture)
        let others = other.fragments(of: Self.size)
        let mixed = zip(came.reversed(), others.reversed()).flatMap { [$0, $1] }
        let sent = fixture.network.send(mixed, on: 1)
        let (frames, identification) = octets(sent, 3)
        #expect(frames == turned(left(identification)))
        other.destinationPort = 112
        let toCPU = octets(sent, 2).frames
        #expect(toCPU == turned(other.fragments(of: Self.size)))
    }

    /// IPv6 knows datagrams of one fragment (RFC 6946).
    @Test func atomicFragments() throws {
        let fixture = try fixture(isIPv4: false)
        let call = fixture.call(prefixedWrite)
        let came = call.fragments(at: [0])
        let (frames, identification) = octets(fixture.network.send(came, on: 1), 3)
        var wanted = fixture.forwarded(write(own()))
        wanted.identification = identification
        #expect(frames == wanted.fragments(at: [0]))
        #expect(ChecksumView(frames.first ?? call.frame())?.problem == nil)
    }

    /// A real one: 32 KiB in 23 fragments of an Ethernet's size, with the checksum over all of them.
    @Test func aLargeWrite() throws {
        let fixture = try fixture()
        let octets = write(DatagramFixture.prefixed(5, own()), 32_768)
        let came = fixture.call(octets).fragments(of: 1_480)
        #expect(came.count == 23)
        let sent = fixture.network.send(turned(came), on: 1)
        let frames = sent[3]?.map(\.bytes) ?? []
        try #require(frames.count == 23)
        // Put together as a server does.
        let whole = frames.sorted { offset($0) < offset($1) }
        var position = 0
        var segment: [UInt8] = []
        for frame in whole {
            #expect(offset(frame) == position)
            segment += frame[34...]
            position = segment.count
        }
        let wanted = fixture.forwarded(write(own(), 32_768))
        #expect(segment == wanted.segment())
    }

    private func offset(_ frame: [UInt8]) -> Int {
        (Int(frame[20] & 0x1f) << 8 | Int(frame[21])) * 8
    }
}
