import DataPlane
import TestSupport
import Testing

/// ICMP errors that the switch sends, and those that it translates.
@Suite struct ICMPErrorTests {
    /// The error as it must be, about `packet`, back to its sender.
    private func expected(
        about packet: PacketBuilder, type: UInt8, code: UInt8 = 0, rest: UInt32 = 0,
        from source: String
    ) -> [UInt8] {
        let room = (packet.isIPv4 ? 576 - 20 : 1_280 - 40) - 8
        var error = PacketBuilder(
            source, packet.source.description, .icmp(type: type, code: code, rest: rest),
            payload: Array(packet.datagram().prefix(room)))
        error.sourceMAC = packet.destinationMAC
        error.destinationMAC = packet.sourceMAC
        error.tags = packet.tags
        error.tos = packet.isIPv4 ? 0xc0 : 0
        error.identification = 0
        return error.frame()
    }

    private func configuration() throws -> PipelineConfiguration {
        var configuration = TestSwitch.configuration
        configuration.icmpSources = [
            0: [try #require(IPAddress("10.0.0.254")), try #require(IPAddress("fd00::254"))]
        ]
        return configuration
    }

    @Test(arguments: ["10.0.0.", "fd00::"])
    func timeExceeded(prefix: String) throws {
        let fixture = TestSwitch([.init(1), .init(2)], configuration: try configuration())
        try fixture.addRule([.decrementTTL, .output(2)])
        for size in [0, 1, 1_400] {
            var packet = PacketBuilder(
                prefix + "1", prefix + "2", payload: [UInt8](repeating: 5, count: size))
            packet.tags = size == 1 ? [.init(tci: 9)] : []
            for ttl in [0, 1] as [UInt8] {
                packet.ttl = ttl
                let sent = fixture.send(packet.frame(), on: 1)
                #expect(
                    sent.mapValues { $0.map(\.bytes) } == [
                        1: [
                            expected(
                                about: packet, type: packet.isIPv4 ? 11 : 3, from: prefix + "254")
                        ]
                    ])
            }
            packet.ttl = 2
            #expect(Set(fixture.send(packet.frame(), on: 1).keys) == [2])
        }
        #expect(fixture.status.drops == [.ttlExpired: 6])
    }

    /// Without an address of its own the switch answers for the destination.
    @Test func sourceOfErrors() throws {
        let fixture = TestSwitch([.init(1), .init(2)])
        try fixture.addRule([.decrementTTL, .output(2)])
        var packet = PacketBuilder()
        packet.ttl = 1
        #expect(
            fixture.sendOne(packet.frame(), on: 1)?.frame.bytes
                == expected(about: packet, type: 11, from: "10.0.0.2"))
    }

    @Test(arguments: ["10.0.0.", "fd00::"])
    func tooBig(prefix: String) throws {
        let fixture = TestSwitch(
            [.init(1), .init(2, mtu: 1_400)], configuration: try configuration())
        try fixture.addRule([.output(2)])
        let header = prefix == "10.0.0." ? 40 : 60
        var packet = PacketBuilder(
            prefix + "1", prefix + "2", payload: [UInt8](repeating: 5, count: 1_400 - header))
        packet.mayNotFragment = true
        #expect(Set(fixture.send(packet.frame(), on: 1).keys) == [2])
        packet.payload.append(5)
        let error = expected(
            about: packet, type: packet.isIPv4 ? 3 : 2, code: packet.isIPv4 ? 4 : 0, rest: 1_400,
            from: prefix + "254")
        #expect(
            fixture.send(packet.frame(), on: 1).mapValues { $0.map(\.bytes) } == [1: [error]])
        #expect(fixture.status.drops == [.tooBig: 1])
        if packet.isIPv4 {
            // It may be fragmented, but the switch does not do that: no error would help.
            packet.mayNotFragment = false
            #expect(fixture.send(packet.frame(), on: 1).isEmpty)
            #expect(fixture.status.drops == [.tooBig: 2])
        }
    }

    /// The error goes to who sent the packet and quotes it as it came, whatever a rule made of it.
    @Test(arguments: ["10.0.0.", "fd00::"])
    func aboutRewrittenPackets(prefix: String) throws {
        let fixture = TestSwitch(
            [.init(1), .init(2, mtu: 600), .init(3)], configuration: try configuration())
        let address = try #require(IPAddress(prefix + "99"))
        let mac = MACAddress(rawValue: 0x0a0b_0c0d_0e0f)
        try fixture.addRule([
            .mirror(3), .setSourceMAC(mac), .setDestinationMAC(mac), .setSourceAddress(address),
            .setDestinationAddress(address), .setSourcePort(1), .setDestinationPort(2),
            .setTOS(0x40), .popVLAN, .decrementTTL, .output(2),
        ])
        for tags in [[], [PacketBuilder.Tag(tci: 77)]] {
            var packet = PacketBuilder(
                prefix + "1", prefix + "2",
                payload: (0..<1_300).map { UInt8(truncatingIfNeeded: $0) })
            packet.mayNotFragment = true
            packet.tags = tags
            let isIPv4 = packet.isIPv4
            var sent = fixture.send(packet.frame(), on: 1)
            #expect(
                sent[1]?.map(\.bytes) == [
                    expected(
                        about: packet, type: isIPv4 ? 3 : 2, code: isIPv4 ? 4 : 0, rest: 600,
                        from: prefix + "254")
                ])
            packet.ttl = 1
            sent = fixture.send(packet.frame(), on: 1)
            #expect(
                sent[1]?.map(\.bytes) == [
                    expected(about: packet, type: isIPv4 ? 11 : 3, from: prefix + "254")
                ])
        }
        #expect(fixture.status.drops == [.tooBig: 2, .ttlExpired: 2])
    }

    // RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e).
    @Test func noErrorAbout() throws {
        let fixture = TestSwitch([.init(1), .init(2)], configuration: try configuration())
        try fixture.addRule([.decrementTTL, .output(2)])
        var cases: [(String, PacketBuilder)] = [
            (
                "ICMP error",
                PacketBuilder(
                    "10.0.0.1", "10.0.0.2", .icmp(type: 3, code: 1),
                    payload: [UInt8](repeating: 0, count: 40))
            ),
            (
                "ICMPv6 error",
                PacketBuilder(
                    "fd00::1", "fd00::2", .icmp(type: 1), payload: [UInt8](repeating: 0, count: 60))
            ),
            ("multicast", PacketBuilder("10.0.0.1", "224.0.0.1", .udp)),
            ("IPv6 multicast", PacketBuilder("fd00::1", "ff02::1", .udp)),
            ("broadcast", PacketBuilder("10.0.0.1", "255.255.255.255", .udp)),
            ("no source", PacketBuilder("0.0.0.0", "10.0.0.2", .udp)),
            ("no IPv6 source", PacketBuilder("::", "fd00::1", .udp)),
            ("multicast source", PacketBuilder("224.0.0.9", "10.0.0.2", .udp)),
        ]
        var group = PacketBuilder()
        group.destinationMAC = .broadcast
        cases.append(("link broadcast", group))
        for (name, packet) in cases {
            var packet = packet
            packet.ttl = 1
            #expect(fixture.send(packet.frame(), on: 1).isEmpty, "\(name)")
        }
        var datagram = PacketBuilder("10.0.0.1", "10.0.0.2", .udp, payload: Array(0..<100))
        datagram.ttl = 1
        let fragments = datagram.fragments(of: 40)
        #expect(fixture.send(fragments[1], on: 1).isEmpty)
        #expect(fixture.send(fragments[0], on: 1)[1]?.count == 1)
        #expect(fixture.status.drops == [.ttlExpired: UInt64(cases.count) + 2])
        // Questions get an answer.
        var echo = PacketBuilder("10.0.0.1", "10.0.0.2", .icmp(type: 8))
        echo.ttl = 1
        #expect(fixture.send(echo.frame(), on: 1)[1]?.count == 1)
    }

    @Test func rate() throws {
        var limited = try configuration()
        limited.icmpRate = 100
        let fixture = TestSwitch([.init(1), .init(2)], configuration: limited)
        try fixture.addRule([.decrementTTL, .output(2)])
        var packet = PacketBuilder()
        packet.ttl = 1
        let burst = Array(repeating: packet.frame(), count: 200)
        var sent = fixture.send(burst, on: 1)[1]?.count ?? 0
        #expect((10...12).contains(sent))
        #expect(fixture.drops(.icmpLimit) == UInt64(200 - sent))
        for _ in 0..<10 {
            fixture.advance(seconds: 0.1)
            sent += fixture.send(burst, on: 1)[1]?.count ?? 0
        }
        #expect((100...115).contains(sent))
    }

    // MARK: Translation

    /// A flow each way: clients see `2`, the server is `99`; a router on the server's side
    /// complains.
    @Test(arguments: ["10.0.0.", "fd00::"], [false, true])
    func translation(prefix: String, isFromTheEnd: Bool) throws {
        let fixture = TestSwitch([.init(1), .init(2), .init(3)])
        let client = try #require(IPAddress(prefix + "1"))
        let shown = try #require(IPAddress(prefix + "2"))
        let server = try #require(IPAddress(prefix + "99"))
        let back = FlowKey(
            source: server, sourcePort: 3_261, destination: client, destinationPort: 40_000,
            ipProtocol: 6, domain: 0, origin: .network)
        let mac = MACAddress(rawValue: 0x0a0b_0c0d_0e0f)
        try fixture.apply([
            .addFlow(
                back,
                actions: [
                    .setSourceAddress(shown), .setSourcePort(3_260), .setDestinationMAC(mac),
                    .mirror(3), .setVLANID(6), .output(1),
                ], cookie: 0, idleTimeout: 0)
        ])
        // The server's side saw this packet.
        var quoted = PacketBuilder(prefix + "1", prefix + "99", .tcp(sequence: 5))
        quoted.destinationPort = 3_261
        quoted.payload = []
        let reporter = isFromTheEnd ? prefix + "99" : prefix + "50"
        let isIPv4 = quoted.isIPv4
        let icmp = PacketBuilder.Transport.icmp(type: isIPv4 ? 3 : 1, code: isIPv4 ? 1 : 0)
        let quote = Array(quoted.datagram().prefix(isIPv4 ? 28 : 48))
        let error = PacketBuilder(reporter, prefix + "1", icmp, payload: quote)
        // The client sent this one.
        var original = quoted
        original.destination = shown
        original.destinationPort = 3_260
        var wanted = PacketBuilder(
            isFromTheEnd ? prefix + "2" : reporter, prefix + "1", icmp,
            payload: Array(original.datagram().prefix(isIPv4 ? 28 : 48)))
        wanted.destinationMAC = mac
        var tagged = wanted
        tagged.tags = [.init(tci: 6)]
        let sent = fixture.send(error.frame(), on: 2)
        #expect(sent.mapValues { $0.map(\.bytes) } == [3: [wanted.frame()], 1: [tagged.frame()]])
        // An error about something else is nobody's.
        var foreign = quoted
        foreign.sourcePort = 1
        let other = PacketBuilder(reporter, prefix + "1", icmp, payload: foreign.datagram())
        #expect(fixture.send(other.frame(), on: 2).isEmpty)
        #expect(fixture.status.drops == [.noRule: 1])
    }

    /// Quotes that are cut or damaged do not trap; what cannot be read is left to rules.
    @Test(arguments: ["10.0.0.", "fd00::"])
    func damagedQuotes(prefix: String) throws {
        let fixture = TestSwitch([.init(1), .init(2), .init(3)])
        let shown = try #require(IPAddress(prefix + "2"))
        let otherFamily = try #require(IPAddress(prefix == "fd00::" ? "10.9.9.9" : "fd00::9"))
        let quoted = PacketBuilder(prefix + "1", prefix + "99", payload: [1, 2, 3])
        let back = FlowKey(
            source: quoted.destination, sourcePort: 3_260, destination: quoted.source,
            destinationPort: 40_000, ipProtocol: 6, domain: 0, origin: .network)
        try fixture.apply([
            .addFlow(
                back,
                actions: [
                    .setSourceAddress(shown), .setSourceAddress(otherFamily),
                    .setDestinationAddress(otherFamily), .output(1),
                ], cookie: 0, idleTimeout: 0),
            .addRule(Rule(actions: [.output(3)])),
        ])
        let isIPv4 = quoted.isIPv4
        let icmp = PacketBuilder.Transport.icmp(type: isIPv4 ? 3 : 1, code: 1)
        let whole = quoted.datagram()
        var total = 0
        var problems: [String] = []
        for length in 0...whole.count {
            var error = PacketBuilder(
                prefix + "50", prefix + "1", icmp, payload: Array(whole.prefix(length)))
            error.source = quoted.destination
            let sent = fixture.send(error.frame(), on: 2)
            let isEnough = length >= (isIPv4 ? 28 : 48)
            #expect(Set(sent.keys) == [isEnough ? 1 : 3], "\(length) octets")
            total += 1
        }
        for offset in whole.indices {
            for value in MalformedInputTests.values {
                var payload = whole
                payload[offset] = value
                let error = PacketBuilder(prefix + "50", prefix + "1", icmp, payload: payload)
                for (_, frames) in fixture.send(error.frame(), on: 2) {
                    for frame in frames {
                        total += 1
                        if let problem = ChecksumView(frame.bytes)?.problem {
                            problems.append("[\(offset)] = \(value): \(problem)")
                        }
                    }
                }
            }
        }
        #expect(total == whole.count + 1 + whole.count * MalformedInputTests.values.count)
        #expect(problems.isEmpty)
    }
}
