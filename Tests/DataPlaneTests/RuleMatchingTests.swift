import DataPlane
import TestSupport
import Testing

/// Which rule a packet takes in the whole switch, its counters, cookies and time-outs.
@Suite struct RuleMatchingTests {
    private func rule(
        _ output: PortNumber, _ match: Match, priority: UInt16 = 100, cookie: UInt64 = 0,
        idle: UInt16 = 0, hard: UInt16 = 0
    ) -> Rule {
        Rule(
            priority: priority, match: match, actions: [.output(output)], cookie: cookie,
            idleTimeout: idle, hardTimeout: hard)
    }

    /// One field of a packet after the other: a rule on it takes this packet and not another one.
    @Test func everyField() throws {
        var input = PacketBuilder("10.0.0.1", "10.0.0.2", .tcp(flags: TCPFlags.syn))
        input.tags = [.init(tci: 0x6064)]
        input.tos = 0x10
        input.ttl = 9
        var other = PacketBuilder("10.0.0.3", "10.0.0.4", .udp, payload: [1])
        other.sourcePort = 1
        other.destinationPort = 2
        other.sourceMAC = MACAddress(rawValue: 0x0200_0000_0088)
        other.destinationMAC = MACAddress(rawValue: 0x0200_0000_0099)
        let matches: [(String, Match)] = [
            (
                "source MAC",
                .fields {
                    $0.sourceMAC = input.sourceMAC.rawValue; $1.sourceMAC = .max
                }
            ),
            (
                "destination MAC",
                .fields {
                    $0.destinationMAC = input.destinationMAC.rawValue; $1.destinationMAC = .max
                }
            ),
            (
                "source",
                .fields {
                    $0.sourceLow = input.source.low; $1.sourceLow = .max
                }
            ),
            (
                "destination",
                .fields {
                    $0.destinationLow = input.destination.low; $1.destinationLow = .max
                }
            ),
            (
                "VLAN",
                .fields {
                    $0.vlanTCI = 0x1064; $1.vlanTCI = 0x1fff
                }
            ),
            (
                "VLAN priority",
                .fields {
                    $0.vlanTCI = 0x7000; $1.vlanTCI = 0xf000
                }
            ),
            (
                "source port",
                .fields {
                    $0.transportSource = 40_000; $1.transportSource = .max
                }
            ),
            ("destination port", .destinationPort(3_260)),
            (
                "flags",
                .fields {
                    $0.tcpFlags = TCPFlags.syn; $1.tcpFlags = TCPFlags.syn | TCPFlags.ack
                }
            ),
            (
                "protocol",
                .fields {
                    $0.ipProtocol = 6; $1.ipProtocol = .max
                }
            ),
            (
                "TOS",
                .fields {
                    $0.tos = 0x10; $1.tos = .max
                }
            ),
            (
                "TTL",
                .fields {
                    $0.ttl = 9; $1.ttl = .max
                }
            ),
        ]
        for (name, match) in matches {
            let fixture = TestSwitch([.init(1), .init(2)])
            try fixture.apply([.addRule(rule(2, match))])
            #expect(fixture.send(input.frame(), on: 1)[2]?.count == 1, "\(name)")
            #expect(fixture.send(other.frame(), on: 1).isEmpty, "\(name)")
            #expect(fixture.drops(.noRule) == 1, "\(name)")
        }
    }

    @Test func arp() throws {
        let fixture = TestSwitch([.init(1), .init(2), .init(3), .init(4)])
        let builder = PacketBuilder()
        let target = MACAddress(rawValue: 0x0a0b_0c0d_0e0f)
        try fixture.apply([
            .addRule(
                rule(
                    2,
                    .fields {
                        $0.etherType = EtherType.arp; $1.etherType = .max
                        $0.ipProtocol = 1; $1.ipProtocol = .max
                        $0.destinationLow = builder.destination.low; $1.destinationLow = .max
                    }, priority: 1)),
            .addRule(
                rule(
                    3,
                    .fields {
                        $0.etherType = EtherType.arp; $1.etherType = .max
                        $0.arpTargetMAC = target.rawValue; $1.arpTargetMAC = .max
                    }, priority: 2)),
            .addRule(
                rule(
                    4,
                    .fields {
                        $0.arpSourceMAC = 0x0200_0000_0077; $1.arpSourceMAC = .max
                    }, priority: 3)),
        ])
        #expect(Set(fixture.send(builder.arp(), on: 1).keys) == [2])
        #expect(Set(fixture.send(builder.arp(operation: 2, targetMAC: target), on: 1).keys) == [3])
        #expect(fixture.send(builder.arp(operation: 2), on: 1).isEmpty)
        var sender = builder
        sender.sourceMAC = MACAddress(rawValue: 0x0200_0000_0077)
        #expect(Set(fixture.send(sender.arp(), on: 1).keys) == [4])
    }

    @Test func priorities() throws {
        let fixture = TestSwitch([.init(1), .init(2), .init(3), .init(4)])
        let packet = PacketBuilder().frame()
        try fixture.apply([
            .addRule(rule(2, Match(), priority: 0)),
            .addRule(rule(3, .destinationPort(3_260), priority: 5)),
            .addRule(rule(4, .etherType(EtherType.ipv4), priority: 5)),
        ])
        #expect(Set(fixture.send(packet, on: 1).keys) == [3])
        // Of two with one priority, the older.
        try fixture.apply([
            .deleteRules(RuleSelector(match: .destinationPort(3_260))),
            .addRule(rule(3, .destinationPort(3_260), priority: 5)),
        ])
        #expect(Set(fixture.send(packet, on: 1).keys) == [4])
        try fixture.apply([.addRule(rule(3, .inPort(1), priority: 6))])
        #expect(Set(fixture.send(packet, on: 1).keys) == [3])
        try fixture.apply([.deleteRules(RuleSelector(match: .etherType(EtherType.ipv4)))])
        try fixture.apply([.deleteRules(RuleSelector(match: .inPort(1)))])
        #expect(Set(fixture.send(packet, on: 1).keys) == [3])
        // An exact flow comes before every rule.
        let builder = PacketBuilder()
        let key = FlowKey(
            source: builder.source, sourcePort: 40_000, destination: builder.destination,
            destinationPort: 3_260, ipProtocol: 6, domain: 0, origin: .network)
        try fixture.apply([.addFlow(key, actions: [.output(4)], cookie: 0, idleTimeout: 0)])
        #expect(Set(fixture.send(packet, on: 1).keys) == [4])
        try fixture.apply([.deleteFlow(key)])
        #expect(Set(fixture.send(packet, on: 1).keys) == [3])
    }

    @Test func countersAndCookies() throws {
        let fixture = TestSwitch([.init(1), .init(2)])
        let frames = (1...3).map {
            PacketBuilder(payload: [UInt8](repeating: 0, count: $0)).frame()
        }
        try fixture.apply([
            .addRule(rule(2, .inPort(1), cookie: 0xabc)),
            .addRule(rule(2, .inPort(2), cookie: 0xdef)),
        ])
        _ = fixture.send(frames, on: 1)
        fixture.now += 2_000_000_000
        let status = fixture.rules
        #expect(status.map(\.rule.cookie) == [0xabc, 0xdef])
        #expect(status.map(\.packets) == [3, 0])
        #expect(status[0].bytes == UInt64(frames.map(\.count).reduce(0, +)))
        #expect(status[0].duration == 2_000_000_000 && status[0].idle == 2_000_000_000)
        #expect(status[0].ruleID != status[1].ruleID)
        // Other actions, the same counters.
        let results = try fixture.apply([
            .modifyRules(RuleSelector(cookie: 0xabc, cookieMask: .max), actions: [.drop])
        ])
        guard case .count(1) = results[0] else {
            Issue.record("\(results)")
            return
        }
        #expect(fixture.send(frames[0], on: 1).isEmpty)
        #expect(fixture.rules[0].packets == 4)
    }

    @Test func idleTimeout() throws {
        let fixture = TestSwitch([.init(1), .init(2)])
        try fixture.apply([
            .addRule(rule(2, .inPort(1), cookie: 7, idle: 2)),
            .addRule(rule(2, .inPort(2), cookie: 8)),
        ])
        for _ in 0..<4 {
            fixture.advance(seconds: 1.5)
            #expect(fixture.send(PacketBuilder().frame(), on: 1)[2]?.count == 1)
        }
        #expect(fixture.events.isEmpty)
        fixture.advance(seconds: 1.9)
        #expect(fixture.rules.count == 2)
        fixture.advance(seconds: 0.2)
        #expect(fixture.rules.map(\.rule.cookie) == [8])
        guard case .ruleExpired(_, 7, isHard: false)? = fixture.events.first else {
            Issue.record("no event")
            return
        }
        #expect(fixture.send(PacketBuilder().frame(), on: 1).isEmpty)
        #expect(fixture.drops(.noRule) == 1)
    }

    @Test func hardTimeout() throws {
        let fixture = TestSwitch([.init(1), .init(2)])
        try fixture.apply([.addRule(rule(2, .inPort(1), cookie: 7, idle: 9, hard: 3))])
        let id = fixture.rules[0].ruleID
        for _ in 0..<2 {
            fixture.advance(seconds: 1.4)
            #expect(fixture.send(PacketBuilder().frame(), on: 1)[2]?.count == 1)
        }
        fixture.advance(seconds: 0.3)
        #expect(fixture.rules.isEmpty)
        guard case .ruleExpired(id, 7, isHard: true)? = fixture.events.first else {
            Issue.record("no event")
            return
        }
    }

    @Test func flowTimeout() throws {
        let fixture = TestSwitch([.init(1), .init(2)])
        let builder = PacketBuilder()
        let key = FlowKey(
            source: builder.source, sourcePort: 40_000, destination: builder.destination,
            destinationPort: 3_260, ipProtocol: 6, domain: 0, origin: .network)
        try fixture.apply([.addFlow(key, actions: [.output(2)], cookie: 5, idleTimeout: 3)])
        for _ in 0..<3 {
            fixture.advance(seconds: 2)
            #expect(fixture.send(builder.frame(), on: 1)[2]?.count == 1)
        }
        let flows = fixture.worker.call { $0.flowStatus(from: 0, limit: 10) }
        #expect(flows?.flows.map(\.packets) == [3] && flows?.flows.map(\.cookie) == [5])
        #expect(flows?.flows.first?.actions == [.output(2)])
        fixture.advance(seconds: 4)
        #expect(fixture.status.flows == 0)
        guard case .flowExpired(key, 5)? = fixture.events.first else {
            Issue.record("no event")
            return
        }
        #expect(fixture.send(builder.frame(), on: 1).isEmpty)
    }

    /// Only untagged packets take a flow, and only of its own domain and origin.
    @Test func flowsAreExact() throws {
        let fixture = TestSwitch([.init(1), .init(2), .init(3, domain: 1), .init(9, isCPU: true)])
        let builder = PacketBuilder()
        let key = FlowKey(
            source: builder.source, sourcePort: 40_000, destination: builder.destination,
            destinationPort: 3_260, ipProtocol: 6, domain: 0, origin: .network)
        try fixture.apply([.addFlow(key, actions: [.output(2)], cookie: 0, idleTimeout: 0)])
        #expect(fixture.send(builder.frame(), on: 1)[2]?.count == 1)
        #expect(fixture.send(builder.frame(), on: 3).isEmpty)
        #expect(fixture.send(builder.frame(), on: 9).isEmpty)
        var tagged = builder
        tagged.tags = [.init(tci: 1)]
        #expect(fixture.send(tagged.frame(), on: 1).isEmpty)
        #expect(fixture.drops(.noRule) == 3)
    }

    @Test func eventsAreBounded() throws {
        var configuration = TestSwitch.configuration
        configuration.events = 16
        let fixture = TestSwitch([.init(1)], configuration: configuration)
        try fixture.apply(
            (0..<40).map { .addRule(rule(1, .inPort(PortNumber($0)), cookie: UInt64($0), hard: 1)) }
        )
        fixture.advance(seconds: 2)
        #expect(fixture.rules.isEmpty)
        #expect(fixture.status.eventsLost == 24)
        #expect(fixture.events.count == 16)
    }
}
