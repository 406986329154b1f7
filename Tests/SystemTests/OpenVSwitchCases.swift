/// What is compared with Open vSwitch.
enum OpenVSwitchCases {
    typealias Case = OpenVSwitchDifferential.Case
    typealias Group = OpenVSwitchDifferential.Group

    static let all = [
        Group(testDescription: "Link fields", cases: link),
        Group(testDescription: "VLAN", cases: vlan),
        Group(testDescription: "IP fields", cases: network),
        Group(testDescription: "Transport fields", cases: transport),
        Group(testDescription: "Fragments", cases: fragments),
        Group(testDescription: "Changes", cases: changes),
        Group(testDescription: "Outputs", cases: outputs),
        Group(testDescription: "Learning", cases: learning),
        Group(testDescription: "Odd frames", cases: odd),
    ]

    private static let tcp = "tcp,nw_src=10.0.0.1,nw_dst=10.0.0.2,tp_src=40000,tp_dst=3260"
    private static let udp = "udp,nw_src=10.0.0.1,nw_dst=10.0.0.2,tp_src=5000,tp_dst=53"
    private static let tcp6 =
        "tcp6,ipv6_src=fd00::1,ipv6_dst=fd00:1::2,tp_src=40000,tp_dst=3260"
    private static let udp6 = "udp6,ipv6_src=fd00::1,ipv6_dst=fd00:1::2,tp_src=5000,tp_dst=53"
    private static let arp =
        "arp,arp_op=1,arp_spa=10.0.0.1,arp_tpa=10.0.0.2,arp_sha=02:00:00:00:00:01"

    static let link = [
        Case(
            name: "in_port", rules: ["in_port=1,actions=output:2", "in_port=3,actions=output:4"],
            packets: ["in_port=1,\(tcp)", "in_port=3,\(tcp)", "in_port=5,\(tcp)"], outputs: 2),
        Case(
            name: "dl_src", rules: ["dl_src=02:00:00:00:00:01,actions=output:2"],
            packets: [tcp, "dl_src=02:00:00:00:00:03,dl_dst=02:00:00:00:00:02,\(tcp)"],
            outputs: 1),
        Case(
            name: "dl_dst with mask",
            rules: ["dl_dst=01:00:00:00:00:00/01:00:00:00:00:00,actions=output:2"],
            packets: [tcp, "dl_src=02:00:00:00:00:01,dl_dst=ff:ff:ff:ff:ff:ff,\(arp)"],
            outputs: 1),
        Case(
            name: "dl_type",
            rules: ["dl_type=0x88b5,actions=output:2", "dl_type=0x0806,actions=output:3"],
            packets: ["dl_type=0x88b5", arp, udp], outputs: 2),
        Case(
            name: "arp fields",
            rules: [
                "priority=5,arp,arp_op=1,arp_tpa=10.0.0.0/24,actions=output:2",
                "priority=4,arp,arp_op=2,actions=output:3",
                "priority=3,arp,arp_sha=02:00:00:00:00:01,actions=output:4",
                "priority=2,arp,arp_tha=02:00:00:00:00:09,actions=output:5",
            ],
            packets: [
                arp, "arp,arp_op=2,arp_spa=10.0.0.2",
                "arp,arp_op=3,arp_sha=02:00:00:00:00:01",
                "arp,arp_op=3,arp_tha=02:00:00:00:00:09", "arp,arp_op=4", udp,
            ], outputs: 4),
        Case(
            name: "priorities",
            rules: [
                "priority=1,actions=output:2", "priority=300,ip,actions=output:3",
                "priority=65534,tcp,tp_dst=3260,actions=drop",
                "priority=301,udp,tp_dst=53,actions=output:4",
            ], packets: [arp, tcp, udp, "icmp,icmp_type=8", tcp6], outputs: 4),
    ]

    static let vlan = [
        Case(
            name: "dl_vlan",
            rules: ["dl_vlan=10,actions=output:2", "dl_vlan=0,actions=output:3"],
            packets: [
                tcp, "dl_vlan=10,\(tcp)", "dl_vlan=0,dl_vlan_pcp=3,\(tcp)", "dl_vlan=11,\(udp)",
            ],
            outputs: 2),
        Case(
            name: "untagged only", rules: ["dl_vlan=0xffff,actions=output:2"],
            packets: [tcp, "dl_vlan=10,\(tcp)"], outputs: 1),
        Case(
            name: "dl_vlan_pcp", rules: ["dl_vlan_pcp=5,actions=output:2"],
            packets: [tcp, "dl_vlan=10,dl_vlan_pcp=5,\(tcp)", "dl_vlan=10,dl_vlan_pcp=4,\(tcp)"],
            outputs: 1),
        Case(
            name: "vlan_tci masks",
            rules: [
                "priority=3,vlan_tci=0x1000/0x1001,actions=output:2",
                "priority=2,vlan_tci=0x1000/0x1000,actions=output:3",
                "priority=1,vlan_tci=0x0000,actions=output:4",
            ], packets: [tcp, "dl_vlan=10,\(tcp)", "dl_vlan=11,\(tcp)"], outputs: 3),
        Case(
            name: "pop_vlan", rules: ["actions=pop_vlan,output:2"],
            packets: ["dl_vlan=10,dl_vlan_pcp=3,\(udp)", udp], outputs: 2),
        Case(
            name: "push_vlan",
            rules: [
                "in_port=1,actions=push_vlan:0x8100,set_field:4196->vlan_vid,output:2",
                "in_port=2,actions=push_vlan:0x88a8,set_field:4106->vlan_vid,output:3",
            ], packets: [udp, "in_port=2,\(udp6)"], outputs: 2),
        Case(
            name: "mod_vlan_vid and mod_vlan_pcp, with and without a tag",
            rules: [
                "in_port=1,actions=mod_vlan_vid:7,output:2",
                "in_port=2,actions=mod_vlan_pcp:6,output:3",
                "in_port=3,actions=mod_vlan_vid:9,mod_vlan_pcp:1,output:4",
            ],
            packets: [
                udp, "dl_vlan=10,dl_vlan_pcp=3,\(udp)", "in_port=2,\(udp)",
                "in_port=2,dl_vlan=10,dl_vlan_pcp=3,\(udp)", "in_port=3,\(arp)",
            ], outputs: 5),
        Case(
            name: "fields behind a tag",
            rules: ["dl_vlan=10,tcp,nw_dst=10.0.0.2,tp_dst=3260,actions=mod_tp_dst:80,output:2"],
            packets: ["dl_vlan=10,\(tcp)", tcp, "dl_vlan=10,\(udp)"], outputs: 1),
    ]

    static let network = [
        Case(
            name: "IPv4 prefixes",
            rules: [
                "priority=24,ip,nw_dst=10.0.0.0/24,actions=output:2",
                "priority=8,ip,nw_dst=10.0.0.0/8,actions=output:3",
                "priority=1,ip,nw_src=192.168.0.0/255.255.0.255,actions=output:4",
            ],
            packets: [
                udp, "udp,nw_dst=10.1.0.1", "udp,nw_src=192.168.7.0,nw_dst=11.0.0.1",
                "udp,nw_src=192.168.7.1,nw_dst=11.0.0.1",
            ], outputs: 3),
        Case(
            name: "IPv6 prefixes",
            rules: [
                "priority=2,ipv6,ipv6_dst=fd00:1::/32,actions=output:2",
                "priority=1,ipv6,ipv6_src=fd00::/127,actions=output:3",
            ],
            packets: [
                tcp6, "udp6,ipv6_src=fd00::1,ipv6_dst=fe00::1",
                "udp6,ipv6_src=fd00::2,ipv6_dst=fe00::1", tcp,
            ], outputs: 2),
        Case(
            name: "nw_proto",
            rules: ["ip,nw_proto=47,actions=output:2", "ipv6,nw_proto=47,actions=output:3"],
            packets: ["ip,nw_proto=47", "ipv6,nw_proto=47", udp], outputs: 2),
        Case(
            name: "nw_tos, nw_ecn, ip_dscp",
            rules: [
                "priority=3,ip,nw_tos=32,actions=output:2",
                "priority=2,ip,nw_ecn=3,actions=output:3",
                "priority=1,ipv6,ip_dscp=10,actions=output:4",
            ],
            packets: [
                "\(udp),nw_tos=32,nw_ecn=1", "\(udp),nw_ecn=3", "\(udp6),nw_tos=40", udp, udp6,
            ], outputs: 3),
        Case(
            name: "nw_ttl", rules: ["ip,nw_ttl=1,actions=output:2"],
            packets: ["\(udp),nw_ttl=1", udp], outputs: 1),
        Case(
            name: "rarp", rules: ["rarp,actions=output:2", "arp,actions=output:3"],
            packets: ["rarp", arp], outputs: 2),
    ]

    static let transport = [
        Case(
            name: "ports",
            rules: [
                "tcp,tp_src=40000,tp_dst=3260,actions=output:2", "udp,tp_dst=53,actions=output:3",
                "tcp6,tcp_dst=3260,actions=output:4", "udp6,udp_src=5000,actions=output:5",
            ],
            packets: [tcp, udp, tcp6, udp6, "tcp,tp_src=40001,tp_dst=3260", "udp,tp_src=53"],
            outputs: 4),
        Case(
            name: "port masks", rules: ["tcp,tp_dst=0x0c00/0xff00,actions=output:2"],
            packets: [tcp, "tcp,tp_dst=3072", "tcp,tp_dst=3328"], outputs: 2),
        Case(
            name: "tcp_flags",
            rules: [
                "priority=3,tcp,tcp_flags=+syn-ack,actions=output:2",
                "priority=2,tcp,tcp_flags=+syn+ack,actions=output:3",
                "priority=1,tcp6,tcp_flags=0x004/0x004,actions=output:4",
            ],
            packets: [
                "\(tcp),tcp_flags=+syn", "\(tcp),tcp_flags=+syn+ack", "\(tcp),tcp_flags=+ack",
                "\(tcp6),tcp_flags=+rst+ack", "\(tcp),tcp_flags=+syn+ece+cwr",
            ], outputs: 4),
        Case(
            name: "ICMP",
            rules: [
                "priority=2,icmp,icmp_type=8,icmp_code=0,actions=output:2",
                "priority=1,icmp,icmp_type=3,actions=output:3",
                "priority=1,icmp6,icmpv6_type=128,actions=output:4",
            ],
            packets: [
                "icmp,icmp_type=8,icmp_code=0", "icmp,icmp_type=8,icmp_code=1",
                "icmp,icmp_type=3,icmp_code=4", "icmp6,icmpv6_type=128",
                "icmp6,icmpv6_type=129",
            ], outputs: 3),
        Case(
            name: "SCTP", rules: ["sctp,tp_dst=80,actions=output:2", "sctp,actions=output:3"],
            packets: ["sctp,tp_dst=80"], outputs: 1),
    ]

    static let fragments = [
        Case(
            name: "nw_frag",
            rules: [
                "priority=5,ip,nw_frag=first,actions=output:2",
                "priority=4,ip,nw_frag=later,actions=output:3",
                "priority=3,ip,nw_frag=no,actions=output:4",
            ],
            packets: [
                "\(udp),nw_frag=first", "udp,nw_src=10.0.0.1,nw_dst=10.0.0.2,nw_frag=later", udp,
                arp,
            ], outputs: 3),
        Case(
            name: "nw_frag of IPv6",
            rules: [
                "priority=5,ipv6,nw_frag=first,actions=output:2",
                "priority=4,ipv6,nw_frag=later,actions=output:3",
                "priority=3,udp6,nw_frag=no,actions=output:4",
            ],
            packets: [
                "\(udp6),nw_frag=first", "udp6,ipv6_src=fd00::1,ipv6_dst=fd00::2,nw_frag=later",
                udp6,
            ], outputs: 3),
        Case(
            name: "yes and not_later",
            rules: [
                "priority=5,udp,nw_frag=not_later,actions=output:2",
                "priority=4,udp,nw_frag=yes,actions=output:3",
            ], packets: ["\(udp),nw_frag=first", "udp,nw_frag=later", udp], outputs: 3),
        Case(
            name: "fragments have no ports, but a protocol",
            rules: [
                "priority=5,udp,tp_dst=53,actions=output:2",
                "priority=4,udp,tp_dst=0,actions=output:3",
                "priority=3,udp,actions=output:4",
            ], packets: ["\(udp),nw_frag=first", "udp,nw_frag=later", udp], outputs: 3),
        Case(
            name: "changes of fragments",
            rules: ["ip,actions=mod_nw_src:10.9.9.9,mod_nw_dst:10.8.8.8,dec_ttl,output:2"],
            // Of later fragments none with UDP: Open vSwitch 3.1 changes the octets of the payload
            // where a first fragment would have its checksum.
            packets: [
                "\(udp),nw_frag=first", "tcp,nw_src=10.0.0.1,nw_frag=first",
                "icmp,nw_src=10.0.0.1,nw_frag=later",
            ], outputs: 3),
    ]

    static let changes = [
        Case(
            name: "MAC addresses",
            rules: [
                "actions=mod_dl_src:02:00:00:00:00:0a,mod_dl_dst:02:00:00:00:00:0b,output:2"
            ], packets: [tcp, arp, "dl_vlan=3,\(udp6)", "dl_type=0x88b5"], outputs: 4),
        Case(
            name: "IPv4 addresses",
            rules: ["ip,actions=mod_nw_src:192.168.255.254,mod_nw_dst:1.2.3.4,output:2"],
            packets: [
                tcp, udp, "icmp,icmp_type=8,nw_src=10.0.0.1", "ip,nw_proto=47", "dl_vlan=3,\(tcp)",
            ],
            outputs: 5),
        Case(
            name: "IPv6 addresses",
            rules: [
                "ipv6,actions=set_field:fd99::9->ipv6_src,set_field:fd98::8->ipv6_dst,output:2"
            ],
            packets: [tcp6, udp6, "icmp6,icmpv6_type=128,ipv6_src=fd00::1"], outputs: 3),
        Case(
            name: "ports",
            rules: [
                "tcp,actions=mod_tp_src:1,mod_tp_dst:65535,output:2",
                "udp,actions=mod_tp_src:1,mod_tp_dst:65535,output:2",
                "tcp6,actions=set_field:9->tcp_src,set_field:10->tcp_dst,output:3",
                "udp6,actions=set_field:9->udp_src,set_field:10->udp_dst,output:3",
            ], packets: [tcp, udp, tcp6, udp6], outputs: 4),
        Case(
            name: "a UDP packet without checksum keeps none",
            rules: ["udp,actions=mod_nw_src:9.9.9.9,mod_tp_dst:54,output:2"],
            packets: [
                "1:020000000002 020000000001 0800 4500001e000100004011 66cc 0a000001 0a000002"
                    + "1388 0035 000a 0000 abcd 00000000000000000000000000000000"
            ], outputs: 1),
        Case(
            name: "nw_tos and nw_ttl",
            rules: [
                "ip,actions=mod_nw_tos:184,mod_nw_ttl:7,output:2",
                "ipv6,actions=set_field:46->ip_dscp,set_field:7->nw_ttl,output:3",
            ],
            packets: ["\(tcp),nw_tos=32,nw_ecn=1", "\(udp6),nw_tos=32,nw_ecn=3"], outputs: 2),
        Case(
            name: "dec_ttl", rules: ["actions=dec_ttl,output:2"],
            packets: [tcp, tcp6, "\(udp),nw_ttl=2", arp, "dl_vlan=3,\(udp)"], outputs: 5),
        Case(
            name: "changes that the packet has no field for",
            rules: ["actions=mod_nw_src:9.9.9.9,mod_tp_dst:5,mod_nw_tos:4,output:2"],
            // Not ICMP: Open vSwitch keeps its code where others have the destination port, and
            // mod_tp_dst changes it. Ours changes the ports of TCP and UDP only.
            packets: [arp, "dl_type=0x88b5", "ip,nw_proto=47"], outputs: 3),
        Case(
            name: "everything at once",
            rules: [
                "tcp,actions=mod_dl_dst:02:00:00:00:00:0b,mod_nw_src:9.9.9.9,mod_nw_dst:8.8.8.8,"
                    + "mod_tp_src:7,mod_tp_dst:6,mod_nw_tos:8,dec_ttl,mod_vlan_vid:5,output:2"
            ], packets: [tcp, "dl_vlan=9,\(tcp)"], outputs: 2),
    ]

    static let outputs = [
        Case(
            name: "several", rules: ["actions=output:2,output:3,4"], packets: [tcp, arp],
            outputs: 6),
        Case(
            name: "a change between two outputs",
            rules: ["actions=output:2,mod_nw_dst:9.9.9.9,output:3,mod_tp_dst:1,output:4"],
            packets: [tcp], outputs: 3),
        Case(
            name: "a tag between two outputs",
            rules: ["actions=output:2,mod_vlan_vid:8,output:3,strip_vlan,output:4"],
            packets: [tcp, "dl_vlan=4,\(tcp)"], outputs: 6),
        Case(
            name: "not back by output", rules: ["actions=output:1,output:2"], packets: [tcp],
            outputs: 1),
        Case(name: "back by in_port", rules: ["actions=IN_PORT"], packets: [tcp, arp], outputs: 2),
        Case(
            name: "drop", rules: ["priority=2,udp,actions=drop", "priority=1,actions=output:2"],
            packets: [udp, tcp], outputs: 1),
        Case(name: "no rule", rules: ["udp,actions=output:2"], packets: [tcp, udp], outputs: 1),
        Case(name: "all", rules: ["actions=ALL"], packets: [tcp], outputs: 7),
        Case(
            name: "flood after a change", rules: ["actions=mod_nw_src:9.9.9.9,FLOOD"],
            packets: [tcp], outputs: 7),
    ]

    static let learning = [
        Case(
            name: "flood, learn, forward", rules: ["actions=NORMAL"],
            packets: [
                "in_port=1,\(tcp)",
                "in_port=2,dl_src=02:00:00:00:00:02,dl_dst=02:00:00:00:00:01,\(tcp)",
                "in_port=1,\(udp)",
                "in_port=2,dl_src=02:00:00:00:00:03,dl_dst=02:00:00:00:00:02,\(udp)",
                "in_port=3,dl_src=02:00:00:00:00:02,dl_dst=02:00:00:00:00:01,\(udp)",
                "in_port=1,\(udp6)",
            ], outputs: 7 + 1 + 1 + 0 + 1 + 1),
        Case(
            name: "VLANs learn by themselves", rules: ["actions=NORMAL"],
            packets: [
                "in_port=1,dl_vlan=5,\(tcp)",
                "in_port=2,dl_vlan=5,dl_src=02:00:00:00:00:02,dl_dst=02:00:00:00:00:01,\(tcp)",
                "in_port=2,dl_vlan=6,dl_src=02:00:00:00:00:02,dl_dst=02:00:00:00:00:01,\(tcp)",
            ], outputs: 7 + 1 + 7),
        Case(
            name: "broadcast and multicast", rules: ["actions=NORMAL"],
            packets: [
                "in_port=4,dl_src=02:00:00:00:00:04,dl_dst=ff:ff:ff:ff:ff:ff,\(arp)",
                "in_port=4,dl_src=02:00:00:00:00:04,dl_dst=01:00:5e:00:00:05,\(udp)",
                "in_port=4,dl_src=02:00:00:00:00:04,dl_dst=01:80:c2:00:00:00,dl_type=0x88b5",
                "in_port=4,dl_src=02:00:00:00:00:04,dl_dst=01:80:c2:00:00:0e,dl_type=0x88cc",
            ], outputs: 14),
        Case(
            name: "normal after a change", rules: ["actions=mod_dl_dst:02:00:00:00:00:09,NORMAL"],
            packets: [
                "in_port=5,dl_src=02:00:00:00:00:09,dl_dst=02:00:00:00:00:01,\(tcp)",
                "in_port=1,\(tcp)",
            ], outputs: 1),
    ]

    private static let head = "020000000002 020000000001 "

    static let odd = [
        Case(
            name: "IPv4 options",
            rules: ["udp,tp_dst=53,actions=mod_nw_dst:9.9.9.9,mod_tp_dst:54,dec_ttl,output:2"],
            packets: [
                // Header of 24 octets: a router alert.
                "1:" + head + "0800 46000024000100004011d1c1 0a000001 0a000002 94040000"
                    + "13880035000c0000 61626364 0000000000000000000000000000"
            ], outputs: 1),
        Case(
            name: "IPv6 extension headers",
            rules: ["udp6,tp_dst=53,actions=output:2", "priority=1,actions=output:3"],
            packets: [
                "1:" + head + "86dd 60000000 0018 00 40 fd000000000000000000000000000001"
                    + "fd000000000000000000000000000002 1100010400000000 1388003500100000"
                    + "0000000000000000"
            ], outputs: 1),
        Case(
            name: "length instead of a type", rules: ["actions=output:2"],
            packets: [
                "1:0180c2000000 020000000001 0026 424203 " + String(repeating: "00", count: 43)
            ],
            outputs: 1),
        Case(
            name: "padding stays", rules: ["udp,actions=mod_nw_dst:9.9.9.9,output:2"],
            packets: [
                "1:" + head + "0800 4500001c00010000401166ce 0a000001 0a000002 1388003500080000"
                    + "ffffffffffffffffffffffffffffffffffff"
            ], outputs: 1),
        Case(
            name: "two tags", rules: ["dl_vlan=5,actions=pop_vlan,output:2"],
            packets: [
                "1:" + head + "8100 0005 8100 0006 0800 4500001c00010000401166ce 0a000001 0a000002"
                    + "1388003500080000 00000000000000000000"
            ], outputs: 1),
        Case(
            name: "an ARP operation beyond 255",
            rules: ["priority=2,arp,arp_op=1,actions=output:3", "priority=1,actions=output:2"],
            packets: [
                "1:ffffffffffff 020000000001 0806 0001080006040101 020000000001 0a000001"
                    + "000000000000 0a000002 000000000000000000000000000000000000"
            ], outputs: 1),
    ]
}
