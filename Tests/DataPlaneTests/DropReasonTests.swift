import DataPlane
import TestSupport
import Testing

/// A device whose counters the test sets, for what only a kernel's queue does.
private final class CountingPort: Port {
    let name = "counting"
    let pollDescriptor: Int32 = -1
    let isUp = true
    let needsPolling = true
    var deviceCounters = PortDeviceCounters()
    func receive(into burst: UnsafeMutablePointer<Frame>, limit: Int, now: UInt64) -> Int { 0 }
    func transmit(_ frame: Frame, now: UInt64) {}
    func flush(now: UInt64) {}
    func maintain(now: UInt64) -> Bool { false }
}

/// Every reason is counted somewhere: each is provoked here.
@Suite struct DropReasonTests {
    @Test(arguments: DropReason.allCases) func `every reason is counted`(reason: DropReason) throws
    {
        let drops = try provoke(reason)
        #expect((drops[reason] ?? 0) > 0, "\(drops)")
    }

    /// A drop at a port that has gone is not forgotten.
    @Test func `drops of a removed port stay counted`() throws {
        let port = CountingPort()
        port.deviceCounters.transmitDrops = 3
        port.deviceCounters.faultDrops = 2
        let fixture = TestSwitch([])
        fixture.worker.call { _ = $0.addPort(port, number: 1) }
        #expect(fixture.status.drops == [.transmitRefused: 3, .faultInjected: 2])
        fixture.worker.call { _ = $0.removePort(1) }
        #expect(fixture.status.drops == [.transmitRefused: 3, .faultInjected: 2])
        port.deviceCounters.transmitDrops = 9
        #expect(fixture.status.drops == [.transmitRefused: 3, .faultInjected: 2])
    }

    /// What was dropped when the reason was provoked.
    private func provoke(_ reason: DropReason) throws -> [DropReason: UInt64] {
        switch reason {
        case .frameTooShort, .malformedVLAN, .malformedARP, .malformedIPv4, .malformedIPv6,
            .malformedTCP, .malformedUDP, .malformedICMP, .headerChecksum, .fragmentTooSmall:
            return try sent([malformed(reason)])
        case .noRule: return try sent([PacketBuilder().frame()], rule: nil)
        case .ruleAction: return try sent([PacketBuilder().frame()], rule: [.drop])
        case .noSuchPort: return try sent([PacketBuilder().frame()], rule: [.output(9)])
        case .portDown:
            return try sent([PacketBuilder().frame()]) { $0.ports[2]?.isUp = false }
        case .sourceIsDestinationPort:
            return try sent([PacketBuilder().frame()], rule: [.output(1)])
        case .reservedMulticast:
            var builder = PacketBuilder()
            builder.destinationMAC = MACAddress(rawValue: 0x0180_c200_0000)
            return try sent([builder.frame()], rule: [.normal])
        case .ttlExpired: return try sent([expiring.frame()], rule: [.decrementTTL, .output(2)])
        case .icmpLimit:
            let frames = Array(repeating: expiring.frame(), count: 50)
            return try sent(frames, rule: [.decrementTTL, .output(2)])
        case .tooBig:
            var builder = PacketBuilder(payload: [UInt8](repeating: 0, count: 1_400))
            builder.mayNotFragment = true
            return try sent([builder.frame()])
        case .actionLimit:
            let pushes = [Action](repeating: .pushVLAN(EtherType.vlan), count: 63)
            return try sent([PacketBuilder().frame()], rule: pushes + [.output(2)])
        case .synLimit:
            let syn = PacketBuilder("10.0.0.1", "10.0.0.2", .tcp(flags: TCPFlags.syn))
            return try sent(Array(repeating: syn.frame(), count: 50), rule: [.cpu])
        case .fragmentNoFirst, .fragmentTableFull, .fragmentQueueFull:
            return try fragments(reason)
        case .fragmentOverlap: return try overlap()
        case .spliceUnknown: return try sent([PacketBuilder().frame()], rule: [.splice(3)])
        case .spliceHoldFull, .spliceKernelPacket, .spliceClosed, .spliceNoRoute, .spliceSYN,
            .spliceServerLost:
            return try splice(reason)
        case .messageHoldFull, .messageMalformed: return try messages(reason)
        case .transmitRefused:
            return try sent(Array(repeating: PacketBuilder().frame(), count: 65)) { fixture in
                _ = fixture.worker.call { pipeline in
                    pipeline.removePort(2)
                    return pipeline.addPort(MemoryPort(name: "small", capacity: 10), number: 2)
                }
            }
        case .faultInjected:
            var faults = FaultProfile()
            faults.drop = 1
            let port = FaultInjectingPort(MemoryPort(name: "lossy"), faults: faults)
            return try sent([PacketBuilder().frame()]) { fixture in
                _ = fixture.worker.call { pipeline in
                    pipeline.removePort(2)
                    return pipeline.addPort(RecordingPort(port), number: 2)
                }
            }
        case .receiveTruncated, .receiveQueueFull:
            // Only a kernel does this: what a port tells of it is counted.
            let port = CountingPort()
            port.deviceCounters.receiveTruncated = reason == .receiveTruncated ? 1 : 0
            port.deviceCounters.receiveDrops = reason == .receiveQueueFull ? 1 : 0
            return try sent([]) { fixture in
                _ = fixture.worker.call { $0.addPort(port, number: 8) }
            }
        }
    }

    private var expiring: PacketBuilder {
        var builder = PacketBuilder()
        builder.ttl = 1
        return builder
    }

    private func sent(
        _ frames: [[UInt8]], rule: [Action]? = [.output(2)],
        prepare: (TestSwitch) throws -> Void = { _ in }
    ) throws -> [DropReason: UInt64] {
        var configuration = TestSwitch.configuration
        configuration.icmpRate = 10
        configuration.synRate = 10
        let fixture = TestSwitch(
            [.init(1), .init(2, mtu: 1_400), .init(5, isCPU: true)], configuration: configuration)
        if let rule { try fixture.addRule(rule) }
        try prepare(fixture)
        _ = fixture.send(frames, on: 1)
        return fixture.status.drops
    }

    private func malformed(_ reason: DropReason) -> [UInt8] {
        let four = PacketBuilder(payload: [1, 2, 3])
        let six = PacketBuilder("fd00::1", "fd00::2", .udp, payload: [1, 2, 3])
        var bytes: [UInt8]
        switch reason {
        case .frameTooShort: return Array(four.frame().prefix(13))
        case .malformedVLAN: return Array(four.ethernet(type: EtherType.vlan).prefix(16))
        case .malformedARP: return Array(four.arp().dropLast())
        case .malformedIPv4: return Array(four.frame().dropLast(1))
        case .malformedIPv6: return Array(six.frame().dropLast(1))
        case .malformedTCP:
            bytes = four.frame()
            bytes[46] = 0x40
        case .malformedUDP:
            bytes = six.frame()
            bytes[14 + 40 + 5] = 7
        case .malformedICMP:
            bytes = PacketBuilder("10.0.0.1", "10.0.0.2", .other(1), payload: [8, 0, 0]).frame()
        case .headerChecksum:
            bytes = four.frame()
            bytes[24] ^= 1
        default: bytes = PacketBuilder(payload: [1]).fragments(of: 8)[0]
        }
        return bytes
    }

    private func fragments(_ reason: DropReason) throws -> [DropReason: UInt64] {
        var builder = PacketBuilder("10.0.0.1", "10.0.0.2", .udp, payload: Array(0..<100))
        let fixture = TestSwitch([.init(1), .init(2)])
        // Fragments wait for their first only where there are flows.
        try fixture.apply([
            .addFlow(
                FlowKey(
                    source: builder.source, sourcePort: 1, destination: builder.destination,
                    destinationPort: 2, ipProtocol: 17, domain: 0, origin: .network),
                actions: [.output(2)], cookie: 0, idleTimeout: 0)
        ])
        var frames: [[UInt8]] = []
        for number in 0..<(reason == .fragmentTableFull ? 200 : 70) as Range<UInt32> {
            if reason == .fragmentTableFull { builder.identification = number }
            frames.append(builder.fragments(of: 40)[1])
        }
        if reason == .fragmentNoFirst { frames = [frames[0]] }
        _ = fixture.send(frames, on: 1)
        if reason == .fragmentNoFirst { fixture.advance(seconds: 3) }
        return fixture.status.drops
    }

    /// A fragment that lies over the first one of a datagram that was redirected.
    private func overlap() throws -> [DropReason: UInt64] {
        let fixture = try DatagramFixture()
        try fixture.bind()
        try fixture.apply(.setResource(1, server: fixture.server(0)))
        let message = NFSMessage(handle: DatagramFixture.prefixed(1, [1, 2, 3, 4]))
        let call = fixture.call(message.call + [UInt8](repeating: 0, count: 400))
        _ = fixture.network.send(call.fragments(at: [0, 200])[0], on: 1)
        _ = fixture.network.send(call.fragments(at: [0, 96, 200])[1], on: 1)
        return fixture.network.status.drops
    }

    private func splice(_ reason: DropReason) throws -> [DropReason: UInt64] {
        var options = SpliceFixture.Options()
        options.heldOctets = 1
        options.serverIsSilent = reason == .spliceNoRoute
        let fixture = try SpliceFixture(options)
        switch reason {
        case .spliceHoldFull: try fixture.apply(.hold(SpliceFixture.id))
        case .spliceSYN:
            _ = try fixture.send(.client, fixture.fromClient(flags: ScriptedTCPSegment.syn))
            return fixture.network.status.drops
        case .spliceClosed: try fixture.apply(.close(SpliceFixture.id))
        case .spliceServerLost:
            try fixture.apply(.loseServer(SpliceFixture.id))
            _ = try fixture.send(.server, fixture.fromServer())
            return fixture.network.status.drops
        // Not a word of the server, and its address forgotten: nobody knows where it is.
        case .spliceNoRoute: try fixture.network.apply([.flushMACs(nil)])
        default:
            let reset = ScriptedTCPSegment(flags: ScriptedTCPSegment.rst | ScriptedTCPSegment.ack)
            let frame = reset.frame(from: fixture.virtual, to: fixture.client)
            _ = fixture.network.send(frame, on: 2)
            return fixture.network.status.drops
        }
        try fill(fixture, from: 0)
        return fixture.network.status.drops
    }

    /// More of the client than a pool without room beyond its first block takes.
    private func fill(_ fixture: SpliceFixture, from start: Int) throws {
        let payload = [UInt8](repeating: 0, count: 1_400)
        for number in 0..<200 {
            let segment = fixture.fromClient(start + number * payload.count, payload: payload)
            _ = try fixture.send(.client, segment)
        }
    }

    private func messages(_ reason: DropReason) throws -> [DropReason: UInt64] {
        var options = SpliceFixture.Options()
        options.heldOctets = 1
        var format = MessageFormat.iscsi
        format.maximumLength = 1_000
        options.messages = SpliceMessages(format: format, clientHoldKinds: 1 << 4)
        let fixture = try SpliceFixture(options)
        var message = [UInt8](repeating: 0, count: 48)
        if reason == .messageHoldFull {
            message[0] = 4
        } else {
            message[6] = 8  // a data segment of 2048 octets
        }
        _ = try fixture.send(.client, fixture.fromClient(payload: message))
        // What follows a message that is held waits behind it.
        try fill(fixture, from: message.count)
        return fixture.network.status.drops
    }
}
