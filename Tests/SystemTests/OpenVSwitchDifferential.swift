import ControlPlane
import DataPlane
import Testing

/// The same rules and packets for Open vSwitch and for our pipeline: what leaves each port must be the
/// same, octet by octet and in the same order, and so must the counters of each rule.
@Suite(.serialized) struct OpenVSwitchDifferential {
    /// Rules, and packets as `PacketDescription` takes them or as `PORT:HEXADECIMAL`.
    struct Case: Sendable {
        var name: String
        var rules: [String]
        var packets: [String]
        /// Frames that leave, over all ports: a case in which nothing happens tests nothing.
        var outputs: Int
    }

    struct Group: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var cases: [Case]
    }

    static let macs = "dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02"

    @Test(
        .enabled(
            if: OpenVSwitch.isInstalled,
            "needs ovs-vswitchd, ovsdb-server and their tools (Debian: openvswitch-switch)"),
        arguments: OpenVSwitchCases.all)
    func sameAsOpenVSwitch(_ group: Group) throws {
        let other = try OpenVSwitch()
        for item in group.cases {
            do { try compare(item, other) } catch { Issue.record("\(item.name): \(error)") }
        }
    }

    private func compare(_ item: Case, _ other: OpenVSwitch) throws {
        let rules = item.rules.enumerated().map { "cookie=0x\(String($0 + 1, radix: 16)),\($1)" }
        let ours = try Replay(
            portNames: (1...OpenVSwitch.portCount).map { "p\($0)" },
            rules: rules.map { try RuleSyntax.parse($0) }, start: 0)
        try other.install(rules)
        var sent: [UInt16: [[UInt8]]] = [:]
        for (index, packet) in item.packets.enumerated() {
            let (frame, port) = try self.packet(packet)
            let time = UInt64(index + 1) * 1_000_000
            for output in try ours.feed(frame, port: port, time: time).outputs {
                sent[output.port, default: []].append(output.bytes)
            }
            try other.receive(frame, port: port)
        }
        let theirs = try other.sent()
        for port in 1...UInt16(OpenVSwitch.portCount) {
            let mine = (sent[port] ?? []).map(OpenVSwitch.hexadecimal)
            let wanted = (theirs[port] ?? []).map(OpenVSwitch.hexadecimal)
            #expect(mine == wanted, "\(item.name): port \(port)")
        }
        let total = theirs.values.reduce(0) { $0 + $1.count }
        #expect(total == item.outputs, "\(item.name): frames out of Open vSwitch")
        let counters = try other.counters()
        #expect(counters.count == rules.count, "\(item.name): rules in Open vSwitch")
        for rule in ours.report().rules {
            let cookie = try #require(UInt64(rule.cookie.dropFirst(2), radix: 16))
            let mine = OpenVSwitch.Counters(packets: rule.nPackets, bytes: rule.nBytes)
            #expect(mine == counters[cookie], "\(item.name): counters of \(rule.text)")
        }
    }

    private func packet(_ text: String) throws -> (frame: [UInt8], port: UInt16) {
        if let colon = text.firstIndex(of: ":"), let port = UInt16(text[..<colon]) {
            let digits = Array(text[text.index(after: colon)...].filter { !$0.isWhitespace })
            let frame = try stride(from: 0, to: digits.count, by: 2).map {
                try #require(UInt8(String(digits[$0...$0 + 1]), radix: 16))
            }
            return (frame, port)
        }
        let (frame, port) = try PacketDescription.parse(
            text.contains("dl_dst") ? text : "\(Self.macs),\(text)")
        return (frame, port == 0 ? 1 : port)
    }
}
