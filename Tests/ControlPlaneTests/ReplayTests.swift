import ControlPlane
import DataPlane
import Foundation
import Testing

/// The pipeline fed from captures.
@Suite struct ReplayTests {
    static func capture(_ name: String) throws -> String {
        try #require(
            Bundle.module.url(forResource: "Captures", withExtension: nil)
        ).appendingPathComponent(name).path
    }

    static func frames(_ path: String) throws -> [(bytes: [UInt8], time: UInt64)] {
        let reader = try CaptureReader(path: path)
        var result: [(bytes: [UInt8], time: UInt64)] = []
        while let next = try reader.next() { result.append(next) }
        return result
    }

    static func rules(_ text: String, _ ports: [String]) throws -> [Rule] {
        try RuleFile.parse(text, ports: PortNames(ports)).map(\.rule)
    }

    static func frame(_ description: String) throws -> [UInt8] {
        try PacketDescription.parse(description).frame
    }

    private let ports = ["client", "server", "monitor"]
    private let second: UInt64 = 1_000_000_000

    private func replay(_ rules: String, cpu: String? = nil) throws -> Replay {
        try Replay(portNames: ports, cpu: cpu, rules: Self.rules(rules, ports), start: 0)
    }

    @Test("The same frames leave on the same ports at the same times as in the golden file")
    func golden() throws {
        let text = try String(contentsOfFile: Self.capture("Replay.rules"), encoding: .utf8)
        let client = try Self.frames(Self.capture("ReplayClient.pcap")).map { ($0, PortNumber(1)) }
        let server = try Self.frames(Self.capture("ReplayServer.pcap")).map { ($0, PortNumber(2)) }
        let input = (client + server).sorted { $0.0.time < $1.0.time }
        let replay = try Replay(
            portNames: ports, rules: Self.rules(text, ports), start: input[0].0.time)
        var output: [PortNumber: [(bytes: [UInt8], time: UInt64)]] = [:]
        for (frame, port) in input {
            for sent in try replay.feed(frame.bytes, port: port, time: frame.time).outputs {
                output[sent.port, default: []].append((sent.bytes, sent.time))
            }
        }
        for (index, name) in ports.enumerated() {
            let wanted = try Self.frames(Self.capture("ReplayOut-\(name).pcap"))
            let found = output[PortNumber(index + 1)] ?? []
            #expect(found.map(\.bytes) == wanted.map(\.bytes), "port \(name)")
            #expect(found.map(\.time) == wanted.map(\.time), "port \(name)")
        }
        let report = replay.report()
        #expect(
            report.drops == [
                "frameTooShort": 1, "headerChecksum": 1, "reservedMulticast": 1, "ruleAction": 1,
            ])
        #expect(report.rulesExpired == 1)
        #expect(report.rules.map(\.nPackets) == [4, 1, 1, 1, 6])
    }

    @Test("What a rule changes has right checksums")
    func rewrittenChecksums() throws {
        for frame in try Self.frames(Self.capture("ReplayOut-server.pcap")) {
            guard frame.bytes.count > 54, frame.bytes[12] == 8, frame.bytes[13] == 0,
                frame.bytes[23] == 6
            else { continue }
            let length = Int(frame.bytes[16]) << 8 | Int(frame.bytes[17])
            let packet = Array(frame.bytes[14..<14 + length])
            #expect(Self.sum(packet[..<20]) == 0xffff)
            let pseudo = packet[12..<20] + [0, 6, 0, UInt8(length - 20)]
            #expect(Self.sum(pseudo + packet[20...]) == 0xffff)
        }
    }

    /// RFC 1071, on its own.
    private static func sum(_ bytes: ArraySlice<UInt8>) -> Int {
        var total = 0
        for (index, octet) in bytes.enumerated() {
            total += index.isMultiple(of: 2) ? Int(octet) << 8 : Int(octet)
        }
        while total > 0xffff { total = total & 0xffff + total >> 16 }
        return total
    }

    @Test("Rules expire by the captures' time")
    func expiry() throws {
        let replay = try replay("idle_timeout=10,actions=output:server")
        let frame = try Self.frame("dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02,udp")
        for time in [UInt64(0), 9, 18] {
            #expect(try replay.feed(frame, port: 1, time: time * second).outputs.count == 1)
        }
        #expect(try replay.feed(frame, port: 1, time: 29 * second).outputs.isEmpty)
        #expect(replay.report().rulesExpired == 1)
        #expect(replay.report().drops == ["noRule": 1])
    }

    @Test("Time that goes back is counted and stands still")
    func timeGoesBack() throws {
        let replay = try replay("actions=output:server")
        let frame = try Self.frame("udp")
        _ = try replay.feed(frame, port: 1, time: 5 * second)
        let sent = try replay.feed(frame, port: 1, time: 2 * second).outputs
        #expect(sent.map(\.time) == [5 * second])
        #expect(replay.report().timeWentBack == 1)
    }

    @Test("Action cpu goes to the CPU port, and nowhere without one")
    func cpuPort() throws {
        let frame = try Self.frame("udp")
        let sent = try replay("actions=cpu", cpu: "monitor").feed(frame, port: 1, time: 0).outputs
        #expect(sent.map(\.port) == [3])
        let without = try replay("actions=cpu")
        #expect(try without.feed(frame, port: 1, time: 0).outputs.isEmpty)
        #expect(without.report().drops == ["noSuchPort": 1])
    }

    @Test("The trace names the rule, the outcome and the reason of a drop")
    func trace() throws {
        let replay = try replay("cookie=0x77,priority=5,tcp actions=output:monitor")
        let good = try replay.feed(Self.frame("tcp"), port: 1, time: 0, isTraced: true).trace
        #expect(good.contains { $0.contains("cookie 0x77") })
        #expect(good.last == "output: 60 octets to port 3 (monitor)")
        let bad = try replay.feed(Self.frame("udp"), port: 1, time: 0, isTraced: true).trace
        #expect(bad.contains("drop: noRule"))
        let short = try replay.feed([1, 2, 3], port: 1, time: 0, isTraced: true).trace
        #expect(short == ["drop: frameTooShort"])
    }

    @Test("What no switch can be is refused with a reason")
    func refusals() throws {
        #expect(throws: Replay.Failure.self) {
            try Replay(portNames: [], rules: [], start: 0)
        }
        #expect(throws: Replay.Failure(description: "there are two ports \"a\"")) {
            try Replay(portNames: ["a", "a"], rules: [], start: 0)
        }
        #expect(throws: Replay.Failure.self) {
            try Replay(portNames: ["a"], cpu: "b", rules: [], start: 0)
        }
        #expect(throws: Replay.Failure.self) {
            try replay("actions=drop").feed([], port: 4, time: 0)
        }
        let huge = [UInt8](repeating: 0, count: Frame.maximumLength + 1)
        let small = try replay("actions=NORMAL")
        #expect(try small.feed(huge, port: 1, time: 0).outputs.isEmpty)
        #expect(small.report().drops == ["frameTooLong": 1])
    }

    @Test("A rule file's error names the line")
    func ruleFile() throws {
        let text =
            "# first\n\npriority=1,ip actions=drop\r\n  nw_dst=1.2.3.4 actions=drop # needs ip\n"
        #expect(RuleFile.lines(text).map(\.number) == [3, 4])
        let error = try #require(throws: RuleSyntaxError.self) { try RuleFile.parse(text) }
        #expect(error.line == 4)
        #expect(error.column == 3)
    }
}

/// Frames made from descriptions.
@Suite struct PacketDescriptionTests {
    @Test(
        "A description matches the frame that is made from it",
        arguments: [
            "dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02,tcp,nw_src=10.0.0.1,nw_dst=10.0.0.2,"
                + "nw_tos=32,nw_ttl=9,tp_src=1,tp_dst=3260,tcp_flags=+syn-ack",
            "dl_vlan=7,dl_vlan_pcp=3,udp,nw_src=10.0.0.1,tp_dst=53",
            "icmp,icmp_type=8,icmp_code=0,nw_dst=10.1.1.1", "udp,nw_frag=later,nw_src=1.1.1.1",
            "tcp,nw_frag=first,nw_src=1.1.1.1",
            "tcp6,ipv6_src=fd00::1,ipv6_dst=fd00::2,tp_src=5,tcp_flags=+ack",
            "udp6,ipv6_src=fd00::1,nw_frag=first",
            "icmp6,icmpv6_type=128,ipv6_dst=fd00::9", "ip,nw_proto=47,nw_ecn=2",
            "arp,arp_op=2,arp_spa=10.0.0.1,arp_tpa=10.0.0.2,arp_sha=02:00:00:00:00:01",
            "dl_type=0x88cc,vlan_tci=0x0000",
        ])
    func matchesItself(_ description: String) throws {
        let rule = try RuleSyntax.parse(description + " actions=output:2")
        let replay = try Replay(portNames: ["a", "b"], rules: [rule], start: 0)
        let sent = try replay.feed(ReplayTests.frame(description), port: 1, time: 0)
        #expect(sent.outputs.map(\.port) == [2])
        #expect(replay.report().drops.isEmpty)
    }

    @Test("A bad description tells the column")
    func badDescription() throws {
        let error = try #require(throws: RuleSyntaxError.self) {
            try PacketDescription.parse("tcp,nw_src=10.0.0")
        }
        #expect(error.column == 12)
    }
}
