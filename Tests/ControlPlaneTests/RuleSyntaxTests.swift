import ControlPlane
import DataPlane
import TestSupport
import Testing

@Suite struct RuleSyntaxTests {
    static let ports = PortNames(["client0", "storage0"])

    struct Valid: Sendable, CustomTestStringConvertible {
        let text: String
        let rule: Rule
        var testDescription: String { text }
        /// `fields` sets value and mask of the match.
        init(
            _ text: String, _ actions: [Action], priority: UInt16 = 32_768,
            _ fields: (inout PacketFields, inout PacketFields) -> Void = { _, _ in },
            more: (inout Rule) -> Void = { _ in }
        ) {
            self.text = text
            var rule = Rule(priority: priority, actions: actions)
            fields(&rule.match.value, &rule.match.mask)
            more(&rule)
            self.rule = rule
        }
    }

    private static func type(
        _ value: inout PacketFields, _ mask: inout PacketFields, _ type: UInt16, _ number: UInt8?
    ) {
        value.etherType = type
        mask.etherType = .max
        if let number {
            value.ipProtocol = number
            mask.ipProtocol = .max
        }
    }

    static let matches: [Valid] = [
        Valid("actions=drop", [.drop]),
        Valid("priority=100 actions=output:2", [.output(2)], priority: 100),
        Valid("priority=0,actions=1", [.output(1)], priority: 0),
        Valid("in_port=storage0 actions=client0", [.output(1)]) {
            $0.inPort = 2; $1.inPort = .max
        },
        Valid("in_port=63 actions=NORMAL", [.normal]) {
            $0.inPort = 63; $1.inPort = .max
        },
        Valid("arp actions=flood", [.flood]) { type(&$0, &$1, 0x0806, nil) },
        Valid("rarp actions=flood", [.flood]) { type(&$0, &$1, 0x8035, nil) },
        Valid("dl_type=0x88cc actions=all", [.all]) { type(&$0, &$1, 0x88cc, nil) },
        Valid("dl_type=0 actions=all", [.all]) { type(&$0, &$1, 0, nil) },
        Valid("tcp actions=cpu", [.cpu]) { type(&$0, &$1, 0x0800, 6) },
        Valid("tcp6 actions=cpu", [.cpu]) { type(&$0, &$1, 0x86dd, 6) },
        Valid("udp actions=cpu", [.cpu]) { type(&$0, &$1, 0x0800, 17) },
        Valid("udp6 actions=cpu", [.cpu]) { type(&$0, &$1, 0x86dd, 17) },
        Valid("sctp actions=cpu", [.cpu]) { type(&$0, &$1, 0x0800, 132) },
        Valid("sctp6 actions=cpu", [.cpu]) { type(&$0, &$1, 0x86dd, 132) },
        Valid("icmp,icmp_type=8,icmp_code=0 actions=in_port", [.inPort]) {
            type(&$0, &$1, 0x0800, 1)
            $0.transportSource = 8
            $1.transportSource = .max
            $1.transportDestination = .max
        },
        Valid("icmp6,icmpv6_type=135 actions=in_port", [.inPort]) {
            type(&$0, &$1, 0x86dd, 58)
            $0.transportSource = 135
            $1.transportSource = .max
        },
        Valid("nw_proto=47,ip actions=drop", [.drop]) { type(&$0, &$1, 0x0800, 47) },
        Valid("dl_type=0x86dd,nw_proto=6 actions=drop", [.drop]) { type(&$0, &$1, 0x86dd, 6) },
        Valid("arp,nw_proto=1 actions=drop", [.drop]) { type(&$0, &$1, 0x0806, 1) },
        Valid("ip,nw_proto=47 actions=drop", [.drop]) { type(&$0, &$1, 0x0800, 47) },
        Valid("ip,nw_src=10.0.0.0/24 actions=drop", [.drop]) {
            type(&$0, &$1, 0x0800, nil)
            $0.sourceLow = 0xffff_0a00_0000
            $1.sourceHigh = .max
            $1.sourceLow = 0xffff_ffff_ffff_ff00
        },
        Valid("ip,nw_dst=10.1.2.3/255.0.255.0 actions=drop", [.drop]) {
            type(&$0, &$1, 0x0800, nil)
            $0.destinationLow = 0xffff_0a00_0200
            $1.destinationHigh = .max
            $1.destinationLow = 0xffff_ffff_ff00_ff00
        },
        Valid("ip,nw_dst=10.1.2.3 actions=drop", [.drop]) {
            type(&$0, &$1, 0x0800, nil)
            $0.destinationLow = 0xffff_0a01_0203
            $1.destinationHigh = .max
            $1.destinationLow = .max
        },
        Valid("ipv6,ipv6_src=fd00::/64 actions=drop", [.drop]) {
            type(&$0, &$1, 0x86dd, nil)
            $0.sourceHigh = 0xfd00_0000_0000_0000
            $1.sourceHigh = .max
        },
        Valid("ipv6,ipv6_dst=fd00::1 actions=drop", [.drop]) {
            type(&$0, &$1, 0x86dd, nil)
            $0.destinationHigh = 0xfd00_0000_0000_0000
            $0.destinationLow = 1
            $1.destinationHigh = .max
            $1.destinationLow = .max
        },
        Valid("ipv6,ipv6_dst=::1/::ffff actions=drop", [.drop]) {
            type(&$0, &$1, 0x86dd, nil)
            $0.destinationLow = 1
            $1.destinationLow = 0xffff
        },
        Valid("arp,arp_op=1,arp_spa=10.0.0.1,arp_tpa=10.0.0.2 actions=drop", [.drop]) {
            type(&$0, &$1, 0x0806, 1)
            $0.sourceLow = 0xffff_0a00_0001
            $0.destinationLow = 0xffff_0a00_0002
            $1.sourceHigh = .max
            $1.sourceLow = .max
            $1.destinationHigh = .max
            $1.destinationLow = .max
        },
        Valid("arp,arp_sha=02:00:00:00:00:01,arp_tha=00:00:00:00:00:00 actions=drop", [.drop]) {
            type(&$0, &$1, 0x0806, nil)
            $0.arpSourceMAC = 0x0200_0000_0001
            $1.arpSourceMAC = 0xffff_ffff_ffff
            $1.arpTargetMAC = 0xffff_ffff_ffff
        },
        Valid("dl_src=02:00:00:00:00:01 actions=drop", [.drop]) {
            $0.sourceMAC = 0x0200_0000_0001
            $1.sourceMAC = 0xffff_ffff_ffff
        },
        Valid("dl_dst=01:80:c2:00:00:00/ff:ff:ff:ff:ff:f0 actions=drop", [.drop]) {
            $0.destinationMAC = 0x0180_c200_0000
            $1.destinationMAC = 0xffff_ffff_fff0
        },
        Valid("dl_vlan=5 actions=drop", [.drop]) {
            $0.vlanTCI = 0x1005; $1.vlanTCI = 0x1fff
        },
        Valid("dl_vlan=5,dl_vlan_pcp=3 actions=drop", [.drop]) {
            $0.vlanTCI = 0x7005
            $1.vlanTCI = 0xffff
        },
        Valid("dl_vlan_pcp=3 actions=drop", [.drop]) {
            $0.vlanTCI = 0x7000; $1.vlanTCI = 0xf000
        },
        Valid("dl_vlan=0xffff actions=drop", [.drop]) { $1.vlanTCI = 0xffff },
        Valid("vlan_tci=0x1123/0x1fff actions=drop", [.drop]) {
            $0.vlanTCI = 0x1123
            $1.vlanTCI = 0x1fff
        },
        Valid("vlan_vid=0x1000/0x1000 actions=drop", [.drop]) {
            $0.vlanTCI = 0x1000
            $1.vlanTCI = 0x1000
        },
        Valid("tcp,tp_dst=3260,tp_src=0x8000/0x8000 actions=drop", [.drop]) {
            type(&$0, &$1, 0x0800, 6)
            $0.transportDestination = 3_260
            $1.transportDestination = .max
            $0.transportSource = 0x8000
            $1.transportSource = 0x8000
        },
        Valid("udp6,udp_dst=53 actions=drop", [.drop]) {
            type(&$0, &$1, 0x86dd, 17)
            $0.transportDestination = 53
            $1.transportDestination = .max
        },
        Valid("tcp,tcp_flags=+syn-ack actions=drop", [.drop]) {
            type(&$0, &$1, 0x0800, 6)
            $0.tcpFlags = 2
            $1.tcpFlags = 0x12
        },
        Valid("tcp,tcp_flags=0x2/0xe00 actions=drop", [.drop]) {
            type(&$0, &$1, 0x0800, 6)
            $1.tcpFlags = 0xe00
        },
        Valid("ip,nw_tos=184 actions=drop", [.drop]) {
            type(&$0, &$1, 0x0800, nil)
            $0.tos = 184
            $1.tos = 0xfc
        },
        Valid("ipv6,ip_dscp=46,nw_ecn=1 actions=drop", [.drop]) {
            type(&$0, &$1, 0x86dd, nil)
            $0.tos = 185
            $1.tos = 0xff
        },
        Valid("ip,nw_ttl=1 actions=drop", [.drop]) {
            type(&$0, &$1, 0x0800, nil)
            $0.ttl = 1
            $1.ttl = .max
        },
        Valid("ip,ip_frag=no actions=drop", [.drop]) {
            type(&$0, &$1, 0x0800, nil)
            $1.fragment = 3
        },
        Valid("ip,nw_frag=yes actions=drop", [.drop]) {
            type(&$0, &$1, 0x0800, nil)
            $0.fragment = 1
            $1.fragment = 1
        },
        Valid("ip,nw_frag=later actions=drop", [.drop]) {
            type(&$0, &$1, 0x0800, nil)
            $0.fragment = 3
            $1.fragment = 3
        },
        Valid("ip,nw_frag=not_later actions=drop", [.drop]) {
            type(&$0, &$1, 0x0800, nil)
            $1.fragment = 2
        },
        Valid("ip,nw_frag=first actions=drop", [.drop]) {
            type(&$0, &$1, 0x0800, nil)
            $0.fragment = 1
            $1.fragment = 3
        },
        Valid("cookie=0x1f,idle_timeout=10,hard_timeout=20 actions=drop", [.drop]) { _, _ in
        } more: {
            $0.cookie = 0x1f
            $0.idleTimeout = 10
            $0.hardTimeout = 20
        },
        // Order, white space and case do not count; table 0 is the only one.
        Valid("  tp_dst=80 ,\ttcp  table=0 , actions=drop ", [.drop]) {
            type(&$0, &$1, 0x0800, 6)
            $0.transportDestination = 80
            $1.transportDestination = .max
        },
        Valid("TCP,TP_DST=80 actions=DROP", [.drop]) {
            type(&$0, &$1, 0x0800, 6)
            $0.transportDestination = 80
            $1.transportDestination = .max
        },
    ]

    static let mac = MACAddress(rawValue: 0x0200_0000_0009)

    static let actions: [Valid] = [
        Valid("actions=output:1,output:storage0,3", [.output(1), .output(2), .output(3)]),
        Valid("actions=output(port=2)", [.output(2)]), Valid("actions=IN_PORT", [.inPort]),
        Valid("actions=FLOOD", [.flood]), Valid("actions=ALL", [.all]),
        Valid("actions=normal", [.normal]), Valid("actions=CPU", [.cpu]),
        Valid("action=drop", [.drop]),
        Valid(
            "actions=mod_dl_src:02:00:00:00:00:09,mod_dl_dst:02:00:00:00:00:09,1",
            [.setSourceMAC(mac), .setDestinationMAC(mac), .output(1)]),
        Valid(
            "actions=mod_nw_src:10.0.0.1,mod_nw_dst=10.0.0.2,1",
            [
                .setSourceAddress(IPAddress(v4: 0x0a00_0001)),
                .setDestinationAddress(IPAddress(v4: 0x0a00_0002)), .output(1),
            ]),
        Valid(
            "actions=set_field:fd00::1->ipv6_src,set_field:fd00::2->ipv6_dst,1",
            [
                .setSourceAddress(IPAddress(high: 0xfd00 << 48, low: 1)),
                .setDestinationAddress(IPAddress(high: 0xfd00 << 48, low: 2)), .output(1),
            ]),
        Valid(
            "actions=mod_tp_src:1,mod_tp_dst:65535,1",
            [.setSourcePort(1), .setDestinationPort(65_535), .output(1)]),
        Valid(
            "actions=set_field:80->tcp_dst,set_field:02:00:00:00:00:09->eth_dst,1",
            [.setDestinationPort(80), .setDestinationMAC(mac), .output(1)]),
        Valid(
            "actions=mod_nw_tos:184,mod_nw_ttl:64,dec_ttl,1",
            [.setTOS(184), .setTTL(64), .decrementTTL, .output(1)]),
        Valid(
            "actions=push_vlan:0x8100,mod_vlan_vid:5,mod_vlan_pcp:7,1",
            [.pushVLAN(0x8100), .setVLANID(5), .setVLANPriority(7), .output(1)]),
        Valid(
            "actions=push_vlan:0x88a8,set_field:0x1005->vlan_vid,strip_vlan,pop_vlan,1",
            [.pushVLAN(0x88a8), .setVLANID(5), .popVLAN, .popVLAN, .output(1)]),
        Valid("actions=mirror:2,1", [.mirror(2), .output(1)]),
        Valid("actions=splice=7", [.splice(7)]), Valid("actions=splice:7", [.splice(7)]),
    ]

    @Test(arguments: matches + actions) func `a rule, and its text again`(valid: Valid) throws {
        let rule = try RuleSyntax.parse(valid.text, ports: Self.ports)
        #expect(rule == valid.rule)
        let text = RuleFormat.text(rule)
        #expect(try RuleSyntax.parse(text) == valid.rule, "\(text)")
        // The text is its own normal form.
        #expect(RuleFormat.text(try RuleSyntax.parse(text)) == text)
    }

    struct Invalid: Sendable, CustomTestStringConvertible {
        let text: String
        let column: Int
        let message: String
        var testDescription: String { text }
        init(_ text: String, _ column: Int, _ message: String) {
            self.text = text
            self.column = column
            self.message = message
        }
    }

    static let invalid = [
        Invalid("", 1, "no actions"), Invalid("tcp", 3, "no actions"),
        Invalid("tcp actions=", 12, "no action"), Invalid("tcp actions= ,", 12, "no action"),
        Invalid("xactions=drop", 13, "no actions"),
        Invalid("tcpp actions=drop", 1, "did you mean tcp"),
        Invalid("arp,prioriti=5 actions=drop", 5, "did you mean priority?"),
        Invalid("arp,zzzzzzzzzz=5 actions=drop", 5, "known are priority"),
        Invalid("priority= actions=drop", 1, "has no value"),
        Invalid("priority=65536 actions=drop", 10, "0 to 65535"),
        Invalid("priority=-1 actions=drop", 10, "0 to 65535"),
        Invalid("priority=0x+1 actions=drop", 10, "0 to 65535"),
        Invalid("table=1 actions=drop", 7, "only table 0"),
        Invalid("in_port=nowhere actions=drop", 9, "is no port"),
        Invalid("in_port=0 actions=drop", 9, "is no port"),
        Invalid("in_port=64 actions=drop", 9, "is no port"),
        Invalid("cookie=x actions=drop", 8, "is not a cookie"),
        Invalid("cookie=/ actions=drop", 8, "is not a cookie"),
        Invalid("cookie=/1 actions=drop", 8, "is not a cookie"),
        Invalid("cookie=1/x actions=drop", 8, "is not a mask"),
        Invalid("dl_src=02:00:00:00:00 actions=drop", 8, "as 02:00:00:00:00:01"),
        Invalid("dl_src=02:00:00:00:00:0g actions=drop", 8, "is not a MAC address"),
        Invalid("dl_src=02:00:00:00:00:-1 actions=drop", 8, "is not a MAC address"),
        Invalid("dl_src=02:00:00:00:00:01/x actions=drop", 8, "is not a mask"),
        Invalid("dl_vlan=4096 actions=drop", 9, "0 to 4095"),
        Invalid("dl_vlan_pcp=8 actions=drop", 13, "0 to 7"),
        Invalid("vlan_tci=1/x actions=drop", 10, "is not a mask"),
        Invalid("ip,nw_src=10.0.0 actions=drop", 11, "as 10.0.0.1 or 10.0.0.0/24"),
        Invalid("ip,nw_src=10.0.0.1/33 actions=drop", 11, "not a prefix length or a mask"),
        Invalid("ip,nw_src=10.0.0.1/ actions=drop", 11, "not a prefix length or a mask"),
        Invalid("ip,nw_src=/8 actions=drop", 11, "is not an IPv4 address"),
        Invalid("ip,nw_src=10.0.0.1/+8 actions=drop", 11, "not a prefix length or a mask"),
        Invalid("ip,nw_src=fd00::1 actions=drop", 11, "is not an IPv4 address"),
        Invalid("ipv6,ipv6_src=10.0.0.1 actions=drop", 15, "as fd00::1 or fd00::/64"),
        // ovs-ofctl leaves the field out and says so: the rule would match everything.
        Invalid("nw_proto=6 actions=drop", 1, "write ip, ipv6 or arp before it"),
        Invalid("in_port=1,nw_proto=6,dl_vlan=5 actions=drop", 11, "nw_proto needs a protocol"),
        Invalid("dl_type=0x88b5,nw_proto=6 actions=drop", 16, "write ip, ipv6 or arp"),
        Invalid("nw_src=10.0.0.1 actions=drop", 1, "write ip, or arp before it"),
        Invalid("ip,ipv6_src=fd00::1 actions=drop", 4, "write ipv6 before it"),
        Invalid("ip,tp_dst=80 actions=drop", 4, "write tcp or udp"),
        Invalid("udp,tcp_dst=80 actions=drop", 5, "write tcp or tcp6"),
        Invalid("tcp,icmp_type=8 actions=drop", 5, "write icmp or icmp6"),
        Invalid("ip,arp_op=1 actions=drop", 4, "write arp before it"),
        Invalid("arp,nw_ttl=1 actions=drop", 5, "write ip or ipv6"),
        Invalid("ip,nw_tos=3 actions=drop", 11, "two lowest bits clear"),
        Invalid("ip,nw_ecn=4 actions=drop", 11, "0 to 3"),
        Invalid("ip,nw_frag=maybe actions=drop", 12, "one of no, yes, first"),
        Invalid("tcp,tp_dst=65536 actions=drop", 12, "0 to 65535, or value/mask"),
        Invalid("tcp,tp_dst=80/ actions=drop", 12, "is not a mask"),
        Invalid("tcp,tp_dst=/80 actions=drop", 12, "0 to 65535, or value/mask"),
        Invalid("tcp,tcp_flags=+sin actions=drop", 15, "known are fin, syn"),
        Invalid("icmp,icmp_type=256 actions=drop", 16, "0 to 255"),
        // Actions.
        Invalid("actions=outptu:1", 9, "did you mean output?"),
        Invalid("actions=output:", 16, "is no port"),
        Invalid("arp actions=output:1,output:nowhere", 29, "is no port"),
        Invalid("actions=drop,output:1", 9, "drop cannot stand with other actions"),
        Invalid("actions=output:1,drop", 18, "drop cannot stand with other actions"),
        Invalid("actions=resubmit(,0)", 9, "resubmit is not supported here"),
        Invalid("actions=controller", 9, "use cpu"),
        Invalid("actions=mod_dl_src:x", 20, "is not a MAC address"),
        Invalid("actions=mod_nw_src:fd00::1", 20, "is not an IPv4 address"),
        Invalid("actions=mod_tp_src:65536", 20, "0 to 65535"),
        Invalid("actions=mod_nw_tos:1", 20, "two lowest bits"),
        Invalid("actions=mod_vlan_vid:4096", 22, "0 to 4095"),
        Invalid("actions=push_vlan:0x9100", 19, "0x8100 or 0x88a8"),
        Invalid("actions=set_field:1", 19, "write set_field:VALUE->FIELD"),
        Invalid("actions=set_field:1->tun_id", 19, "cannot set \"tun_id\""),
        Invalid("actions=splice=x", 16, "0 to 1073741823"),
        Invalid("actions=zzzzzzzzzzzz", 9, "known are output"),
    ]

    @Test(arguments: invalid) func `an error shows its place and what is right`(invalid: Invalid)
        throws
    {
        do {
            _ = try RuleSyntax.parse(invalid.text, ports: Self.ports)
            Issue.record("parsed")
        } catch {
            #expect(error.column == invalid.column, "\(error)")
            #expect(error.description.contains(invalid.message), "\(error)")
            #expect(error.text == invalid.text)
            #expect(error.length >= 1)
            let lines = error.rendering.split(separator: "\n", omittingEmptySubsequences: false)
            #expect(lines.count == 3)
            #expect(
                lines.dropFirst().first?.firstIndex(of: "^").map {
                    lines[1].distance(from: lines[1].startIndex, to: $0)
                } == invalid.column - 1)
        }
    }

    @Test func `a file of rules`() throws {
        let text = "# comment\n\n  priority=1 actions=drop # behind\r\n\t\narp actions=NORMAL"
        #expect(try RuleSyntax.parseFile(text).map(\.actions) == [[.drop], [.normal]])
        do {
            _ = try RuleSyntax.parseFile("actions=drop\n\nactions=nothing\n")
            Issue.record("parsed")
        } catch {
            #expect(error.line == 3)
            #expect(error.column == 9)
        }
    }

    @Test func `selectors`() throws {
        let all = try RuleSyntax.parseSelector("", isStrict: false)
        #expect(all.match == Match())
        #expect(all.cookieMask == 0)
        let some = try RuleSyntax.parseSelector(
            "tcp,cookie=0x10/0xf0,out_port=storage0,priority=7", isStrict: true, ports: Self.ports)
        #expect(some.isStrict)
        #expect(some.priority == 7)
        #expect(some.cookie == 0x10)
        #expect(some.cookieMask == 0xf0)
        #expect(some.outPort == 2)
        #expect(some.match.value.ipProtocol == 6)
        #expect(try RuleSyntax.parseSelector("cookie=1/-1", isStrict: false).cookieMask == .max)
        #expect(try RuleSyntax.parseSelector("cookie=1", isStrict: false).cookieMask == .max)
        #expect(throws: RuleSyntaxError.self) {
            try RuleSyntax.parseSelector("tcp actions=drop", isStrict: false)
        }
    }

    @Test(arguments: matches + actions) func `a listing is a rule again`(valid: Valid) throws {
        let status = RuleStatus(
            ruleID: 1, rule: valid.rule, packets: 5, bytes: 700, duration: 1_234_000_000,
            idle: 2_000_000_000)
        let line = RuleModel(status).listing
        #expect(line.contains("duration=1.234s, table=0, n_packets=5, n_bytes=700"))
        #expect(line.contains("idle_age=2"))
        #expect(try RuleSyntax.parse(line) == valid.rule)
    }

    // MARK: Anything at all

    @Test func `random text is a rule that prints to itself, or an error in the text`() {
        var random = SplitMix64(seed: 1)
        let pieces =
            (Self.matches + Self.actions).map(\.text).flatMap {
                $0.split { ", ".contains($0) }.map(String.init)
            } + [
                "/", "=", ":", "(", ")", "->", ",", " ", "0x", "-1", "\0", "é", "\u{301}", "\r\n",
                "actions=",
            ]
        var (valid, invalid) = (0, 0)
        for _ in 0..<15_000 {
            var text = ""
            for _ in 0..<Int.random(in: 0..<7, using: &random) {
                text += pieces.randomElement(using: &random) ?? ""
                if Int.random(in: 0..<4, using: &random) > 0 { text += "," }
            }
            do {
                let rule = try RuleSyntax.parse(text, ports: Self.ports)
                valid += 1
                #expect(try RuleSyntax.parse(RuleFormat.text(rule)) == rule, "\(text)")
            } catch {
                invalid += 1
                #expect((1...max(1, text.count + 1)).contains(error.column), "\(text)")
                #expect(!error.rendering.isEmpty)
            }
            _ = try? RuleSyntax.parseSelector(text, isStrict: false)
        }
        #expect(valid > 100)
        #expect(invalid > 100)
    }

    @Test func `changed rules do no harm`() {
        var random = SplitMix64(seed: 2)
        for valid in Self.matches + Self.actions {
            for _ in 0..<60 {
                var text = Array(valid.text.utf8)
                random.mutate(&text, inserting: "/=:,()0x-+>")
                let string = String(decoding: text, as: UTF8.self)
                guard let rule = try? RuleSyntax.parse(string, ports: Self.ports) else { continue }
                let again = try? RuleSyntax.parse(RuleFormat.text(rule))
                #expect(again == rule, "\(string)")
            }
        }
    }
}
