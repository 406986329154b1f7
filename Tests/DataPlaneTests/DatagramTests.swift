import DataPlane
import TestSupport
import Testing

/// NFS calls over UDP go to the server of their file handle, and the replies back to the client.
@Suite struct DatagramTests {
    private let handle = [UInt8](1...32)

    /// A bound client, and the handle's resource 5 at server 0.
    private func fixture(isIPv4: Bool = true, mtu: Int = 0) throws -> DatagramFixture {
        let fixture = try DatagramFixture(isIPv4: isIPv4, mtu: mtu)
        try fixture.bind()
        try fixture.apply(
            .setResource(5, server: fixture.server(0)), .installHandle(handle, resource: 5))
        return fixture
    }

    private func message(_ version: UInt32 = 3, _ procedure: UInt32 = 1) -> NFSMessage {
        NFSMessage(version: version, procedure: procedure, handle: handle)
    }

    private var partial: VirtioHeader {
        var offload = VirtioHeader()
        offload.flags = VirtioHeader.needsChecksum
        offload.checksumStart = 34
        offload.checksumOffset = 6
        return offload
    }

    // MARK: Calls

    @Test(arguments: [true, false], [2, 3] as [UInt32])
    func everyProcedure(isIPv4: Bool, version: UInt32) throws {
        let fixture = try fixture(isIPv4: isIPv4)
        let fast = NFSMessage.fastProcedures(version: version)
        for procedure in 0..<40 as Range<UInt32> {
            let octets = message(version, procedure).call
            let call = fixture.call(octets)
            let sent = fixture.send(call, on: 1)
            if fast.contains(procedure) {
                fixture.check(sent, 3, fixture.forwarded(octets), "\(procedure)")
            } else {
                fixture.checkMiss(sent, 2, call.frame(), "\(procedure)")
            }
        }
        #expect(fixture.status.misses == [.procedure: UInt64(40 - fast.count)])
        #expect(fixture.resource(5)?.calls == UInt64(fast.count))
        #expect(fixture.network.status.drops.isEmpty)
    }

    /// The server's own handle behind eight octets of ours: these are taken out, and all lengths and checksums are
    /// right.
    @Test(arguments: [true, false])
    func prefixedHandles(isIPv4: Bool) throws {
        let fixture = try fixture(isIPv4: isIPv4)
        var random = SplitMix64(seed: 8)
        for length in 1...56 {
            let own = random.bytes(length)
            var message = message(3, 7)
            message.credential = random.bytes(random.below(401))
            message.arguments = random.bytes(random.below(900))
            message.handle = DatagramFixture.prefixed(5, own)
            let call = fixture.call(message.call)
            message.handle = own
            let wanted = fixture.forwarded(message.call)
            fixture.check(fixture.send(call, on: 1), 3, wanted, "\(length)")
            var unsummed = call
            unsummed.transport = .udpWithoutChecksum
            guard isIPv4 else { continue }
            var unsummedWanted = wanted
            unsummedWanted.transport = .udpWithoutChecksum
            fixture.check(fixture.send(unsummed, on: 1), 3, unsummedWanted, "\(length)")
        }
        #expect(fixture.status.misses.isEmpty)
    }

    /// A checksum that is left to the device stays so.
    @Test(arguments: [true, false])
    func partialChecksums(isPrefixed: Bool) throws {
        let fixture = try fixture()
        var message = message()
        if isPrefixed { message.handle = DatagramFixture.prefixed(5, handle) }
        let call = fixture.call(message.call)
        let sent = fixture.network.send(call.frame(isPartial: true), on: 1, offload: partial)
        message.handle = handle
        var wanted = fixture.forwarded(message.call)
        wanted.identification = DatagramFixture.identification(of: sent[3]?.first?.bytes ?? [])
        // A port may send it together with others.
        var mergeable = partial
        mergeable.segmentSize = UInt16(wanted.payload.count)
        let frame = MemoryPort.SentFrame(bytes: wanted.frame(isPartial: true), offload: mergeable)
        #expect(sent == [3: [frame]])
    }

    /// RFC 768: "If the computed checksum is zero, it is transmitted as all ones".
    @Test(arguments: [true, false])
    func computedZero(isIPv4: Bool) throws {
        let fixture = try fixture(isIPv4: isIPv4)
        var message = message()
        message.arguments = [0, 0]
        // The word that is wanting for a sum of all ones is what the checksum is without it.
        message.arguments = Array(fixture.forwarded(message.call).segment()[6..<8])
        let wanted = fixture.forwarded(message.call)
        #expect(Array(wanted.segment()[6..<8]) == [0xff, 0xff])
        fixture.check(fixture.send(fixture.call(message.call), on: 1), 3, wanted)
    }

    /// Padding behind a short datagram stays behind it.
    @Test func padding() throws {
        let fixture = try fixture()
        var message = message()
        message.handle = DatagramFixture.prefixed(5, handle)
        var call = fixture.call(message.call)
        call.padding = 11
        message.handle = handle
        var wanted = fixture.forwarded(message.call)
        wanted.padding = 11
        fixture.check(fixture.send(call, on: 1), 3, wanted)
    }

    /// A handle of 32 octets is the same in both versions; in version 2 none names its resource itself.
    @Test func versionsShareHandles() throws {
        let fixture = try fixture()
        let own = DatagramFixture.prefixed(5, [UInt8](repeating: 3, count: 24))
        var message = message(2)
        message.handle = own
        let call = fixture.call(message.call)
        fixture.checkMiss(fixture.send(call, on: 1), 2, call.frame())
        try fixture.apply(.installHandle(own, resource: 5))
        fixture.check(fixture.send(call, on: 1), 3, fixture.forwarded(message.call))
        #expect(fixture.status.misses == [.handle: 1])
    }

    /// Bodies of credential and verifier of every length.
    @Test func authenticationLengths() throws {
        let fixture = try fixture()
        for length in 0...400 {
            var message = message(3, 6)
            message.credential = [UInt8](repeating: 5, count: length)
            message.verifier = [UInt8](repeating: 6, count: 400 - length)
            message.handle = DatagramFixture.prefixed(5, handle)
            let sent = fixture.send(fixture.call(message.call), on: 1)
            message.handle = handle
            fixture.check(sent, 3, fixture.forwarded(message.call), "\(length)")
        }
    }

    // MARK: Replies

    @Test(arguments: [true, false], [2, 3] as [UInt32])
    func replies(isIPv4: Bool, version: UInt32) throws {
        let fixture = try fixture(isIPv4: isIPv4)
        let message = message(version)
        _ = fixture.send(fixture.call(message.call), on: 1)
        for length in [0, 1, 4, 1_000] {
            let octets = message.reply([UInt8](repeating: 0x5a, count: length))
            let sent = fixture.send(fixture.reply(octets), on: 3)
            fixture.check(sent, 1, fixture.returned(octets), "\(length)")
        }
        // Its call is known for the first one only.
        let resource = try #require(fixture.resource(5))
        #expect(resource.calls == 1 && resource.replies == 1)
        #expect(fixture.status.unknownReplies == 3)
        #expect(fixture.binding()?.replies == 4)
    }

    /// The next hop to a client is that of its last call; before the first one it may be given.
    @Test func wayToTheClient() throws {
        let fixture = try fixture()
        let octets = message().reply()
        let reply = fixture.reply(octets)
        fixture.checkMiss(fixture.send(reply, on: 3), 4, reply.frame())
        #expect(fixture.status.misses == [.route: 1])
        try fixture.apply(
            .unbind(DatagramFixture.service, client: fixture.client(0)),
            .bind(
                DatagramFixture.service, client: fixture.client(0),
                localPort: fixture.localPort(0), resources: [], mac: fixture.clientMAC(0)))
        // Its switch port is not known either.
        fixture.checkMiss(fixture.send(reply, on: 3), 4, reply.frame())
        var hello = PacketBuilder()
        hello.sourceMAC = fixture.clientMAC(0)
        _ = fixture.network.send(hello.arp(), on: 1)
        fixture.check(fixture.send(reply, on: 3), 1, fixture.returned(octets))
        // It comes by another router now.
        try fixture.apply(
            .allow(
                DatagramFixture.service, client: fixture.client(0), resource: 5, isAllowed: true))
        var call = fixture.call(message().call)
        call.sourceMAC = MACAddress(rawValue: 0x0200_0000_7777)
        _ = fixture.send(call, on: 1)
        var wanted = fixture.returned(octets)
        wanted.destinationMAC = call.sourceMAC
        fixture.check(fixture.send(reply, on: 3), 1, wanted)
        let binding = try #require(fixture.binding())
        #expect(binding.mac == call.sourceMAC && binding.port == 1)
    }

    /// Clients have a local port each.
    @Test func manyClients() throws {
        let fixture = try fixture()
        for number in 1..<40 { try fixture.bind(number) }
        let octets = message().call
        let reply = message().reply()
        for number in 0..<40 {
            fixture.check(
                fixture.send(fixture.call(octets, client: number), on: 1), 3,
                fixture.forwarded(octets, client: number), "\(number)")
            fixture.check(
                fixture.send(fixture.reply(reply, client: number), on: 3), 1,
                fixture.returned(reply, client: number), "\(number)")
        }
        #expect(fixture.resource(5)?.replies == 40)
    }

    // MARK: Changes

    @Test func aResourceMoves() throws {
        let fixture = try fixture()
        let message = message()
        fixture.check(
            fixture.send(fixture.call(message.call), on: 1), 3, fixture.forwarded(message.call))
        try fixture.apply(.setResource(5, server: fixture.server(1)))
        fixture.check(
            fixture.send(fixture.call(message.call), on: 1), 3,
            fixture.forwarded(message.call, server: 1))
        // Nothing is served at the old one any more.
        let late = fixture.reply(message.reply())
        fixture.checkMiss(fixture.send(late, on: 3), 4, late.frame())
        let reply = fixture.reply(message.reply(), server: 1)
        fixture.check(fixture.send(reply, on: 3), 1, fixture.returned(message.reply()))
        // While another resource is there, late replies pass.
        try fixture.apply(.setResource(6, server: fixture.server(0)))
        fixture.check(fixture.send(late, on: 3), 1, fixture.returned(message.reply()))
        try fixture.apply(.setResource(5, server: nil))
        let call = fixture.call(message.call)
        fixture.checkMiss(fixture.send(call, on: 1), 2, call.frame())
        #expect(fixture.status.misses == [.unknownServer: 1, .server: 1])
        #expect(fixture.resource(5)?.server == nil)
        #expect(fixture.resource(6)?.server == fixture.server(0))
    }

    @Test func rights() throws {
        let fixture = try DatagramFixture()
        try fixture.bind(resources: [5, 64, 128, 255])
        let message = message()
        for number in 0...255 as ClosedRange<Int> {
            let resource = DatagramResourceID(number)
            try fixture.apply(
                .setResource(resource, server: fixture.server(number % 2)),
                .installHandle(handle, resource: resource))
            let call = fixture.call(message.call)
            let sent = fixture.send(call, on: 1)
            if [5, 64, 128, 255].contains(number) {
                fixture.check(sent, 3, fixture.forwarded(message.call, server: number % 2))
            } else {
                fixture.checkMiss(sent, 2, call.frame())
            }
            try fixture.apply(.setResource(resource, server: nil))
        }
        #expect(fixture.status.misses == [.notAllowed: 252])
        try fixture.apply(
            .setResource(255, server: fixture.server(0)),
            .allow(
                DatagramFixture.service, client: fixture.client(0), resource: 255,
                isAllowed: false))
        let call = fixture.call(message.call)
        fixture.checkMiss(fixture.send(call, on: 1), 2, call.frame())
        #expect(fixture.binding()?.resources.elements == [5, 64, 128])
    }

    @Test func handlesComeAndGo() throws {
        let fixture = try fixture()
        let call = fixture.call(message().call)
        let wanted = fixture.forwarded(message().call)
        let results = try fixture.network.apply([
            .datagram(.removeHandle(handle)), .datagram(.removeHandle(handle)),
            .datagram(.installHandle(handle, resource: 5)),
            .datagram(.installHandle([1], resource: 5)), .datagram(.removeHandles(of: 5)),
            .datagram(.removeHandles(of: 5)),
        ])
        var counts: [Int] = []
        for case .count(let count) in results { counts.append(count) }
        #expect(counts == [1, 0, 2, 0])
        fixture.checkMiss(fixture.send(call, on: 1), 2, call.frame())
        try fixture.apply(.installHandle(handle, resource: 5))
        fixture.check(fixture.send(call, on: 1), 3, wanted)
        #expect(fixture.status.handles == 1 && fixture.resource(5)?.handles == 1)
    }

    @Test func unbinding() throws {
        let fixture = try fixture()
        let message = message()
        let call = fixture.call(message.call)
        let reply = fixture.reply(message.reply())
        fixture.check(fixture.send(call, on: 1), 3, fixture.forwarded(message.call))
        try fixture.apply(.unbind(DatagramFixture.service, client: fixture.client(0)))
        fixture.checkMiss(fixture.send(call, on: 1), 2, call.frame())
        fixture.checkMiss(fixture.send(reply, on: 3), 4, reply.frame())
        // A port that nobody has is none of the service's.
        #expect(fixture.status.misses == [.binding: 1])
        try fixture.bind()
        fixture.check(fixture.send(call, on: 1), 3, fixture.forwarded(message.call))
        fixture.check(fixture.send(reply, on: 3), 1, fixture.returned(message.reply()))
    }

    @Test func theServiceGoes() throws {
        let fixture = try fixture()
        let call = fixture.call(message().call)
        try fixture.apply(.setService(DatagramFixture.service, nil))
        fixture.checkMiss(fixture.send(call, on: 1), 2, call.frame())
        #expect(fixture.status.misses.isEmpty && fixture.status.bindings == 0)
        #expect(fixture.status.services.isEmpty)
        try fixture.apply(.setService(DatagramFixture.service, DatagramFixture.description))
        try fixture.bind()
        fixture.check(fixture.send(call, on: 1), 3, fixture.forwarded(message().call))
    }

    /// Bindings outlive what does not concern them.
    @Test func theServiceChanges() throws {
        let fixture = try fixture()
        var service = DatagramFixture.description
        service.storageMAC = MACAddress(rawValue: 0x0200_0000_0999)
        service.handleMagic = nil
        try fixture.apply(.setService(DatagramFixture.service, service))
        var wanted = fixture.forwarded(message().call)
        wanted.sourceMAC = service.storageMAC
        let call = fixture.call(message().call)
        fixture.check(fixture.send(call, on: 1), 3, wanted)
        var prefixed = message()
        prefixed.handle = DatagramFixture.prefixed(5, handle)
        let other = fixture.call(prefixed.call)
        fixture.checkMiss(fixture.send(other, on: 1), 2, other.frame())
        #expect(fixture.status.misses == [.handle: 1])
        service.port = 2_050
        try fixture.apply(.setService(DatagramFixture.service, service))
        #expect(fixture.status.bindings == 0 && fixture.bindings.isEmpty)
        #expect(fixture.status.services == [DatagramFixture.service: service])
    }

    // MARK: What is none of the service's

    @Test func otherPackets() throws {
        let fixture = try fixture()
        let octets = message().call
        var packets: [(String, PacketBuilder)] = []
        var builder = fixture.call(octets)
        builder.tags = [.init(tci: 7)]
        packets.append(("a tag", builder))
        builder = fixture.call(octets)
        builder.destinationPort = 111
        packets.append(("another port", builder))
        builder = fixture.call(octets)
        builder.destination = DatagramFixture.address(true, 1, 9)
        packets.append(("another address", builder))
        builder = fixture.call(octets)
        builder.transport = .tcp()
        packets.append(("TCP", builder))
        builder = fixture.call(octets)
        builder.transport = .icmp(type: 3, code: 3)
        builder.payload = fixture.returned(octets).datagram()
        packets.append(("an ICMP error", builder))
        for (name, packet) in packets {
            fixture.checkMiss(fixture.send(packet, on: 1), 2, packet.frame(), "\(name)")
        }
        // From the switch's own sockets.
        let own = fixture.forwarded(octets)
        fixture.checkMiss(fixture.send(own, on: 4), 3, own.frame())
        let fromVirtual = fixture.returned(message().reply())
        fixture.checkMiss(fixture.send(fromVirtual, on: 2), 1, fromVirtual.frame())
        // From the clients' domain to the storage side, and the other way round.
        let crossed = fixture.reply(message().reply())
        fixture.checkMiss(fixture.send(crossed, on: 1), 2, crossed.frame())
        let back = fixture.call(octets)
        fixture.checkMiss(fixture.send(back, on: 3), 4, back.frame())
        #expect(fixture.status.misses.isEmpty)
        // An ICMP error about a call, from the server's side to the local port.
        var error = fixture.reply([])
        error.transport = .icmp(type: 3, code: 3)
        error.payload = fixture.forwarded(octets).datagram()
        fixture.checkMiss(fixture.send(error, on: 3), 4, error.frame())
    }

    /// An exact flow comes before the service.
    @Test func exactFlowsComeFirst() throws {
        let fixture = try fixture()
        let call = fixture.call(message().call)
        try fixture.network.apply([
            .addFlow(
                FlowKey(
                    source: call.source, sourcePort: call.sourcePort,
                    destination: call.destination, destinationPort: call.destinationPort,
                    ipProtocol: 17, domain: 0, origin: .network), actions: [.cpu], cookie: 0,
                idleTimeout: 0)
        ])
        fixture.checkMiss(fixture.send(call, on: 1), 2, call.frame())
        let other = message().reply()
        #expect(fixture.status.misses.isEmpty && fixture.resource(5)?.calls == 0)
        try fixture.bind(1)
        let second = fixture.call(message().call, client: 1)
        fixture.check(
            fixture.send(second, on: 1), 3, fixture.forwarded(message().call, client: 1))
        fixture.check(
            fixture.send(fixture.reply(other, client: 1), on: 3), 1,
            fixture.returned(other, client: 1))
    }

    /// What would happen is told, and nothing is counted.
    @Test func dryRun() throws {
        let fixture = try fixture()
        let now = fixture.network.now
        let call = fixture.call(message().call).frame()
        let reply = fixture.reply(message().reply()).frame()
        let trace = fixture.network.worker.call { $0.dryRun(call, port: 1, now: now) }
        #expect(trace?.outputs == [3])
        let step = "datagram: call for resource 5, to 10.2.0.16 port 2049"
        #expect(trace?.steps.contains(step) == true)
        let early = fixture.network.worker.call { $0.dryRun(reply, port: 3, now: now) }
        #expect(early?.outputs == [4])
        #expect(fixture.status.misses.isEmpty && fixture.resource(5)?.calls == 0)
        _ = fixture.network.send(call, on: 1)
        let late = fixture.network.worker.call { $0.dryRun(reply, port: 3, now: now) }
        #expect(late?.outputs == [1])
        #expect(fixture.resource(5)?.replies == 0)
    }

    @Test func trace() throws {
        let fixture = try fixture()
        let now = fixture.network.now
        fixture.network.ports[1]?.inject(fixture.call(message().call).frame())
        fixture.network.ports[1]?.inject(fixture.call(message(3, 0).call).frame())
        let lines = fixture.network.worker.call { $0.tracedStep(now: now) } ?? []
        #expect(lines.contains("datagram: call for resource 5, to 10.2.0.16 port 2049"))
        #expect(lines.contains("datagram: to port 3"))
        #expect(lines.contains("datagram: its ordinary way, procedure"))
    }
}
