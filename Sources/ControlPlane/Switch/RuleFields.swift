import DataPlane

/// Fields of a match, by layer.
extension RuleParser {
    mutating func takeMeta(
        _ key: String, _ value: String, _ word: RuleSyntax.Word
    ) throws(RuleSyntaxError) -> Bool {
        switch key {
        case "priority": result.priority = UInt16(try number(word, 0...65_535))
        case "idle_timeout": result.idleTimeout = UInt16(try number(word, 0...65_535))
        case "hard_timeout": result.hardTimeout = UInt16(try number(word, 0...65_535))
        case "table":
            if try number(word, 0...254) != 0 {
                throw fail(word, "there is only table 0", atValue: true)
            }
        case "cookie":
            let parts = value.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
                .map(String.init)
            guard let cookie = Self.parseNumber(parts[0]) else {
                throw fail(word, "\"\(value)\" is not a cookie", atValue: true)
            }
            result.cookie = cookie
            cookieMask = .max
            if parts.count == 2 {
                guard parts[1] == "-1" || Self.parseNumber(parts[1]) != nil else {
                    throw fail(word, "\"\(parts[1])\" is not a mask", atValue: true)
                }
                cookieMask = parts[1] == "-1" ? .max : Self.parseNumber(parts[1]) ?? .max
            }
        case "out_port": outPort = try port(value, word)
        case "duration", "n_packets", "n_bytes", "idle_age", "hard_age", "send_flow_rem": break
        case "in_port":
            result.match.value.inPort = try port(value, word)
            result.match.mask.inPort = .max
        default: return false
        }
        return true
    }

    mutating func takeLink(
        _ key: String, _ value: String, _ word: RuleSyntax.Word
    ) throws(RuleSyntaxError) -> Bool {
        switch key {
        case "dl_src", "eth_src":
            (result.match.value.sourceMAC, result.match.mask.sourceMAC) = try mac(value, word)
        case "dl_dst", "eth_dst":
            (result.match.value.destinationMAC, result.match.mask.destinationMAC) =
                try mac(value, word)
        case "arp_sha":
            (result.match.value.arpSourceMAC, result.match.mask.arpSourceMAC) = try mac(value, word)
            needs.append((word, .arp))
        case "arp_tha":
            (result.match.value.arpTargetMAC, result.match.mask.arpTargetMAC) = try mac(value, word)
            needs.append((word, .arp))
        case "dl_type", "eth_type": setType(UInt16(try number(word, 0...65_535)))
        case "dl_vlan":
            // 0xffff: no tag at all (ovs-fields(7)).
            if Self.parseNumber(value) == 0xffff {
                result.match.value.vlanTCI = 0
                result.match.mask.vlanTCI = 0xffff
            } else {
                setVLAN(UInt16(try number(word, 0...4_095)) | 0x1000, 0x1fff)
            }
        case "vlan_vid":
            let (bits, mask) = try masked(word, 0x1fff)
            setVLAN(UInt16(bits), UInt16(mask))
        case "dl_vlan_pcp", "vlan_pcp":
            setVLAN(UInt16(try number(word, 0...7)) << 13 | 0x1000, 0xf000)
        case "vlan_tci":
            let (bits, mask) = try masked(word, 0xffff)
            result.match.value.vlanTCI = UInt16(bits & mask)
            result.match.mask.vlanTCI = UInt16(mask)
        default: return false
        }
        return true
    }

    private mutating func setVLAN(_ bits: UInt16, _ mask: UInt16) {
        result.match.value.vlanTCI = result.match.value.vlanTCI & ~mask | bits & mask
        result.match.mask.vlanTCI |= mask
    }

    mutating func takeNetwork(
        _ key: String, _ value: String, _ word: RuleSyntax.Word
    ) throws(RuleSyntaxError) -> Bool {
        switch key {
        case "nw_src", "ip_src", "arp_spa":
            try setSource(value, word, isIPv4: true)
            needs.append((word, key == "arp_spa" ? .arp : .ipv4))
        case "nw_dst", "ip_dst", "arp_tpa":
            try setDestination(value, word, isIPv4: true)
            needs.append((word, key == "arp_tpa" ? .arp : .ipv4))
        case "ipv6_src":
            try setSource(value, word, isIPv4: false)
            needs.append((word, .ipv6))
        case "ipv6_dst":
            try setDestination(value, word, isIPv4: false)
            needs.append((word, .ipv6))
        case "nw_proto", "ip_proto":
            // Without a type ovs-ofctl drops the field, and the rule matches everything.
            setProtocol(UInt8(try number(word, 0...255)))
            needs.append((word, .network))
        case "arp_op":
            setProtocol(UInt8(try number(word, 0...255)))
            needs.append((word, .arp))
        case "nw_tos":
            let tos = UInt8(try number(word, 0...255))
            guard tos & 3 == 0 else {
                throw fail(
                    word, "nw_tos has its two lowest bits clear", suggestion: "use nw_ecn for them",
                    atValue: true)
            }
            setTOS(tos, 0xfc)
            needs.append((word, .ip))
        case "ip_dscp":
            setTOS(UInt8(try number(word, 0...63)) << 2, 0xfc)
            needs.append((word, .ip))
        case "nw_ecn", "ip_ecn":
            setTOS(UInt8(try number(word, 0...3)), 3)
            needs.append((word, .ip))
        case "nw_ttl":
            result.match.value.ttl = UInt8(try number(word, 0...255))
            result.match.mask.ttl = .max
            needs.append((word, .ip))
        case "ip_frag", "nw_frag":
            try setFragment(value, word)
            needs.append((word, .ip))
        default: return false
        }
        return true
    }

    private mutating func setTOS(_ bits: UInt8, _ mask: UInt8) {
        result.match.value.tos = result.match.value.tos & ~mask | bits
        result.match.mask.tos |= mask
    }

    private mutating func setFragment(
        _ value: String, _ word: RuleSyntax.Word
    ) throws(RuleSyntaxError) {
        let known: [String: (UInt8, UInt8)] = [
            "no": (0, 3), "yes": (1, 1), "first": (1, 3), "later": (3, 3), "not_later": (0, 2),
        ]
        guard let (bits, mask) = known[value] else {
            throw fail(
                word, "\"\(value)\" is no kind of fragment",
                suggestion: "one of no, yes, first, later, not_later", atValue: true)
        }
        result.match.value.fragment = bits
        result.match.mask.fragment = mask
    }

    private mutating func setSource(
        _ value: String, _ word: RuleSyntax.Word, isIPv4: Bool
    ) throws(RuleSyntaxError) {
        let (address, mask) = try addressMask(value, word, isIPv4: isIPv4)
        result.match.value.sourceHigh = address.high
        result.match.value.sourceLow = address.low
        result.match.mask.sourceHigh = mask.high
        result.match.mask.sourceLow = mask.low
    }

    private mutating func setDestination(
        _ value: String, _ word: RuleSyntax.Word, isIPv4: Bool
    ) throws(RuleSyntaxError) {
        let (address, mask) = try addressMask(value, word, isIPv4: isIPv4)
        result.match.value.destinationHigh = address.high
        result.match.value.destinationLow = address.low
        result.match.mask.destinationHigh = mask.high
        result.match.mask.destinationLow = mask.low
    }

    mutating func takeTransport(
        _ key: String, _ value: String, _ word: RuleSyntax.Word
    ) throws(RuleSyntaxError) -> Bool {
        switch key {
        case "tp_src", "tcp_src", "udp_src":
            let (bits, mask) = try masked(word, 0xffff)
            result.match.value.transportSource = UInt16(bits & mask)
            result.match.mask.transportSource = UInt16(mask)
            needs.append((word, key == "tp_src" ? .transport : key == "tcp_src" ? .tcp : .udp))
        case "tp_dst", "tcp_dst", "udp_dst":
            let (bits, mask) = try masked(word, 0xffff)
            result.match.value.transportDestination = UInt16(bits & mask)
            result.match.mask.transportDestination = UInt16(mask)
            needs.append((word, key == "tp_dst" ? .transport : key == "tcp_dst" ? .tcp : .udp))
        case "icmp_type", "icmpv6_type":
            result.match.value.transportSource = UInt16(try number(word, 0...255))
            result.match.mask.transportSource = .max
            needs.append((word, key == "icmp_type" ? .icmp : .icmpv6))
        case "icmp_code", "icmpv6_code":
            result.match.value.transportDestination = UInt16(try number(word, 0...255))
            result.match.mask.transportDestination = .max
            needs.append((word, key == "icmp_code" ? .icmp : .icmpv6))
        case "tcp_flags":
            try setFlags(value, word)
            needs.append((word, .tcp))
        default: return false
        }
        return true
    }

    static let flagNames: [(name: String, bit: UInt16)] = [
        ("fin", 1), ("syn", 2), ("rst", 4), ("psh", 8), ("ack", 16), ("urg", 32), ("ece", 64),
        ("cwr", 128), ("ns", 256),
    ]

    /// `+syn-ack`, or value/mask.
    private mutating func setFlags(
        _ value: String, _ word: RuleSyntax.Word
    ) throws(RuleSyntaxError) {
        guard value.hasPrefix("+") || value.hasPrefix("-") else {
            let (bits, mask) = try masked(word, 0xfff)
            result.match.value.tcpFlags = UInt16(bits & mask)
            result.match.mask.tcpFlags = UInt16(mask)
            return
        }
        var sign: Character = "+"
        var name = ""
        var flags: [(Character, String)] = []
        for character in value + "+" {
            if character == "+" || character == "-" {
                if !name.isEmpty { flags.append((sign, name)) }
                sign = character
                name = ""
            } else {
                name.append(character)
            }
        }
        for (sign, name) in flags {
            guard let flag = Self.flagNames.first(where: { $0.name == name }) else {
                throw fail(
                    word, "unknown TCP flag \"\(name)\"",
                    suggestion: "known are \(Self.flagNames.map(\.name).joined(separator: ", "))",
                    atValue: true)
            }
            result.match.mask.tcpFlags |= flag.bit
            if sign == "+" { result.match.value.tcpFlags |= flag.bit }
        }
    }
}
