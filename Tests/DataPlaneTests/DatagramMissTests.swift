import DataPlane
import TestSupport
import Testing

/// What the fast path does not take goes its ordinary way, unchanged, and is counted with its reason.
@Suite struct DatagramMissTests {
    private let handle = [UInt8](1...32)

    private func fixture(isIPv4: Bool = true, mtu: Int = 0) throws -> DatagramFixture {
        let fixture = try DatagramFixture(isIPv4: isIPv4, mtu: mtu)
        try fixture.bind()
        try fixture.apply(
            .setResource(5, server: fixture.server(0)), .installHandle(handle, resource: 5))
        return fixture
    }

    private func message(_ change: (inout NFSMessage) -> Void = { _ in }) -> [UInt8] {
        var message = NFSMessage(handle: handle)
        change(&message)
        return message.call
    }

    private func prefixed(_ resource: UInt32, _ handle: [UInt8]) -> [UInt8] {
        message { $0.handle = DatagramFixture.prefixed(resource, handle) }
    }

    /// Calls that are missed, by their reason.
    private func calls(_ reason: DatagramMiss) -> [[UInt8]] {
        switch reason {
        case .malformed:
            [
                message { $0.messageType = 1 }, message { $0.rpcVersion = 1 },
                message { $0.credential = [UInt8](repeating: 1, count: 401) },
                message { $0.verifier = [UInt8](repeating: 1, count: 404) },
                message { $0.handle = [] },
                message { $0.handle = [UInt8](repeating: 1, count: 65) },
            ]
        case .truncated:
            [[], Array(message().prefix(31)), Array(message().prefix(60 + 4 + 31))]
        case .program:
            [message { $0.program = 100_227 }, message { $0.version = 4 }]
        case .procedure: [message { $0.procedure = 0 }, message { $0.procedure = 17 }]
        case .credential: [message { $0.credentialFlavor = 6 }]
        case .handle:
            [
                message { $0.handle = [7] }, prefixed(5, []), prefixed(256, [1]),
                prefixed(.max, [1, 2, 3]),
            ]
        case .notAllowed: [prefixed(9, [1])]
        case .server: [prefixed(6, [1]), prefixed(7, [1])]
        default: []
        }
    }

    @Test(arguments: [true, false]) func calls(isIPv4: Bool) throws {
        for reason in DatagramMiss.allCases {
            let calls = calls(reason)
            guard !calls.isEmpty else { continue }
            let fixture = try fixture(isIPv4: isIPv4)
            // Of the other family.
            let foreign = DatagramServer(
                address: DatagramFixture.address(!isIPv4, 2, 16), mac: fixture.server(0).mac)
            try fixture.apply(
                .setResource(7, server: foreign),
                .allow(
                    DatagramFixture.service, client: fixture.client(0), resource: 9,
                    isAllowed: false))
            for (index, octets) in calls.enumerated() {
                let call = fixture.call(octets)
                fixture.checkMiss(
                    fixture.send(call, on: 1), 2, call.frame(), "\(reason) \(index)")
                #expect(fixture.status.misses == [reason: UInt64(index + 1)], "\(index)")
            }
            #expect(fixture.resource(5)?.calls == 0)
        }
    }

    @Test func unknownClients() throws {
        let fixture = try fixture()
        // Another port, another address.
        var call = fixture.call(message())
        call.sourcePort += 1
        fixture.checkMiss(fixture.send(call, on: 1), 2, call.frame())
        call = fixture.call(message(), client: 1)
        call.sourcePort = fixture.client(0).port
        fixture.checkMiss(fixture.send(call, on: 1), 2, call.frame())
        #expect(fixture.status.misses == [.binding: 2])
    }

    @Test(arguments: [true, false]) func headers(isIPv4: Bool) throws {
        let fixture = try fixture(isIPv4: isIPv4)
        _ = fixture.send(fixture.call(message()), on: 1)
        for (port, cpu, packet) in [
            (1, 2, fixture.call(message())),
            (3, 4, fixture.reply(NFSMessage(handle: handle).reply())),
        ] as [(PortNumber, PortNumber, PacketBuilder)] {
            var packet = packet
            packet.options = [1, 1, 1, 1]
            packet.extensions = [(60, [1, 4, 0, 0, 0, 0])]
            fixture.checkMiss(fixture.send(packet, on: port), cpu, packet.frame())
        }
        #expect(fixture.status.misses == [.options: 2])
    }

    /// A frame that stands for several datagrams, or for the fragments of one.
    @Test func segmented() throws {
        let fixture = try fixture()
        let call = fixture.call(message()).frame()
        _ = fixture.network.send(call, on: 1)
        let reply = fixture.reply(NFSMessage(handle: handle).reply()).frame()
        for type in [VirtioHeader.segmentationUDP, VirtioHeader.segmentationUDPv5] {
            var offload = VirtioHeader()
            offload.segmentationType = type
            offload.segmentSize = 1_000
            fixture.checkMiss(fixture.network.send(call, on: 1, offload: offload), 2, call)
            fixture.checkMiss(fixture.network.send(reply, on: 3, offload: offload), 4, reply)
        }
        #expect(fixture.status.misses == [.segmented: 4])
    }

    @Test func mtu() throws {
        let fixture = try fixture(mtu: 500)
        func padded(_ handle: [UInt8], to length: Int) -> [UInt8] {
            message {
                $0.handle = handle
                $0.arguments = []
                $0.arguments = [UInt8](repeating: 1, count: length - 28 - $0.call.count)
            }
        }
        let fits = padded(handle, to: 500)
        fixture.check(
            fixture.send(fixture.call(fits), on: 1), 3, fixture.forwarded(fits))
        let long = fixture.call(padded(handle, to: 501))
        fixture.checkMiss(fixture.send(long, on: 1), 2, long.frame())
        // The cut makes it fit.
        let prefixed = padded(DatagramFixture.prefixed(5, handle), to: 508)
        let sent = fixture.send(fixture.call(prefixed), on: 1)
        #expect(sent[3]?.first?.bytes.count == 514)
        let longer = fixture.call(padded(DatagramFixture.prefixed(5, handle), to: 509))
        fixture.checkMiss(fixture.send(longer, on: 1), 2, longer.frame())
        let results = [UInt8](repeating: 0, count: 500 - 28 - 24)
        let reply = NFSMessage(handle: handle).reply(results)
        fixture.check(fixture.send(fixture.reply(reply), on: 3), 1, fixture.returned(reply))
        let longReply = fixture.reply(reply + [0])
        fixture.checkMiss(fixture.send(longReply, on: 3), 4, longReply.frame())
        #expect(fixture.status.misses == [.tooBig: 3])
    }

    @Test func noWayToTheServer() throws {
        let fixture = try fixture()
        try fixture.apply(.setResource(5, server: fixture.server(3)))
        let call = fixture.call(message())
        fixture.checkMiss(fixture.send(call, on: 1), 2, call.frame())
        #expect(fixture.status.misses == [.route: 1])
        fixture.meet(3)
        fixture.check(fixture.send(call, on: 1), 3, fixture.forwarded(message(), server: 3))
    }

    @Test(arguments: [true, false]) func replies(isIPv4: Bool) throws {
        let fixture = try fixture(isIPv4: isIPv4)
        _ = fixture.send(fixture.call(message()), on: 1)
        let octets = NFSMessage(handle: handle).reply()
        var stranger = fixture.reply(octets, server: 1)
        fixture.checkMiss(fixture.send(stranger, on: 3), 4, stranger.frame())
        stranger = fixture.reply(octets)
        stranger.sourcePort = 2_050
        fixture.checkMiss(fixture.send(stranger, on: 3), 4, stranger.frame())
        #expect(fixture.status.misses == [.unknownServer: 2])
        for length in 0..<8 {
            let short = fixture.reply(Array(octets.prefix(length)))
            fixture.checkMiss(fixture.send(short, on: 3), 4, short.frame())
        }
        #expect(fixture.status.misses == [.unknownServer: 2, .truncated: 8])
        let call = fixture.reply(message())
        fixture.checkMiss(fixture.send(call, on: 3), 4, call.frame())
        #expect(fixture.status.misses == [.unknownServer: 2, .truncated: 8, .notReply: 1])
        // The shortest that is one.
        let shortest = Array(octets.prefix(8))
        fixture.check(
            fixture.send(fixture.reply(shortest), on: 3), 1, fixture.returned(shortest))
    }

    /// Calls that end anywhere: each comes out once, and goes to the server when its handle is whole.
    @Test(arguments: [2, 3] as [UInt32], [true, false])
    func everyTruncation(version: UInt32, isPrefixed: Bool) throws {
        let fixture = try fixture()
        var message = NFSMessage(version: version, handle: handle)
        let hasPrefix = version == 3 && isPrefixed
        if hasPrefix { message.handle = DatagramFixture.prefixed(5, handle) }
        let octets = message.call
        for length in 0...octets.count {
            let call = fixture.call(Array(octets.prefix(length)))
            let sent = fixture.send(call, on: 1)
            if length < message.handleEnd {
                fixture.checkMiss(sent, 2, call.frame(), "\(length)")
                continue
            }
            guard sent.count == 1, let frame = sent[3]?.first else {
                Issue.record("\(length): \(sent)")
                continue
            }
            #expect(ChecksumView(frame.bytes)?.problem == nil, "\(length)")
        }
        #expect(fixture.status.misses == [.truncated: UInt64(message.handleEnd)])
    }

    /// Random damage to messages: each datagram comes out once; what goes to a server has right checksums.
    @Test(arguments: [true, false]) func damagedMessages(isIPv4: Bool) throws {
        let fixture = try fixture(isIPv4: isIPv4)
        _ = fixture.send(fixture.call(message()), on: 1)
        var random = SplitMix64(seed: 17)
        var redirected = 0
        for round in 0..<6_000 {
            let isReply = round % 3 == 0
            let call = round % 2 == 0 ? message() : prefixed(5, handle)
            var octets = isReply ? NFSMessage(handle: handle).reply() : call
            for _ in 0..<random.below(3) {
                octets[random.below(octets.count)] = UInt8(truncatingIfNeeded: random.next())
            }
            if random.below(4) == 0 { octets = Array(octets.prefix(random.below(octets.count))) }
            let packet = isReply ? fixture.reply(octets) : fixture.call(octets)
            let (port, cpu, out): (PortNumber, PortNumber, PortNumber) =
                isReply ? (3, 4, 1) : (1, 2, 3)
            let sent = fixture.send(packet, on: port)
            guard sent.count == 1, let frame = sent[out]?.first else {
                fixture.checkMiss(sent, cpu, packet.frame(), "round \(round)")
                continue
            }
            redirected += 1
            #expect(ChecksumView(frame.bytes)?.problem == nil, "round \(round)")
        }
        #expect(redirected > 2_000)
    }

    /// Random damage to whole frames and fragments: each is sent, waits, or is counted as dropped.
    @Test func damagedFrames() throws {
        let fixture = try fixture()
        var samples: [(PortNumber, [UInt8])] = []
        for isIPv4 in [true, false] {
            // For its packets only.
            let other = try DatagramFixture(isIPv4: isIPv4)
            let resource: DatagramResourceID = isIPv4 ? 5 : 6
            try fixture.apply(.setResource(resource, server: other.server(0)))
            if !isIPv4 {
                try fixture.apply(
                    .bind(
                        DatagramFixture.service, client: other.client(0),
                        localPort: other.localPort(0), resources: .all))
            }
            let filling = [UInt8](repeating: 1, count: 900)
            let call = other.call(prefixed(UInt32(resource), handle) + filling)
            let reply = other.reply(NFSMessage(handle: handle).reply(filling))
            for frame in [call.frame()] + call.fragments(of: 256) { samples.append((1, frame)) }
            for frame in [reply.frame()] + reply.fragments(of: 256) { samples.append((3, frame)) }
        }
        var random = SplitMix64(seed: 23)
        var injected: UInt64 = 0
        var offload = VirtioHeader()
        let before = sums(fixture)
        for round in 0..<30_000 {
            let (port, sample) = samples[random.below(samples.count)]
            var frame = sample
            for _ in 0..<random.below(3) {
                frame[random.below(frame.count)] = UInt8(truncatingIfNeeded: random.next())
            }
            repair(&frame)
            offload.flags = random.below(5) == 0 ? VirtioHeader.needsChecksum : 0
            offload.segmentationType =
                random.below(20) == 0 ? UInt8(truncatingIfNeeded: random.next()) : 0
            fixture.network.ports[port]?.inject(frame, offload: offload)
            injected += 1
            if round % 50 == 0 {
                _ = fixture.network.send([[UInt8]](), on: 1)
                fixture.network.advance(50_000_000)
            }
        }
        _ = fixture.network.send([[UInt8]](), on: 1)
        fixture.network.advance(seconds: 3)
        fixture.network.advance(seconds: 3)
        let after = sums(fixture)
        #expect(after.sent - before.sent + after.dropped - before.dropped == injected)
        let status = fixture.status
        #expect(status.fragments == 0 && status.waitingFragments == 0)
        #expect(status.waitingOctets == 0)
        #expect((fixture.resource(5)?.calls ?? 0) > 1_000)
    }

    private func sums(_ fixture: DatagramFixture) -> (sent: UInt64, dropped: UInt64) {
        let ports = fixture.network.worker.call { $0.portStatus() } ?? []
        return (
            ports.reduce(0) { $0 + $1.counters.sentPackets },
            fixture.network.status.drops.values.reduce(0, +)
        )
    }

    /// Makes the IPv4 header checksum of an untagged frame right.
    private func repair(_ bytes: inout [UInt8]) {
        guard bytes.count >= 34, bytes[12] == 8, bytes[13] == 0 else { return }
        let length = Int(bytes[14] & 15) * 4
        guard length >= 20, bytes.count >= 14 + length else { return }
        bytes[24] = 0
        bytes[25] = 0
        let sum = naiveChecksum(Array(bytes[14..<14 + length]))
        bytes.replaceSubrange(24..<26, with: bigEndian16(Int(sum)))
    }
}
