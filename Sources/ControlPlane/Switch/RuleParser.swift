import DataPlane

/// One text being parsed.
struct RuleParser {
    let text: String
    let characters: [Character]
    let ports: PortNames
    var result = Rule()
    var cookieMask: UInt64 = 0
    var outPort: PortNumber?
    /// Words that need a protocol, checked when all are known.
    var needs: [(RuleSyntax.Word, need: Need)] = []

    enum Need { case network, ip, ipv4, ipv6, arp, transport, tcp, udp, icmp, icmpv6, vlan }

    init(text: String, ports: PortNames) {
        self.text = text
        characters = Array(text)
        self.ports = ports
    }

    func fail(
        _ word: RuleSyntax.Word, _ message: String, suggestion: String? = nil,
        atValue: Bool = false
    ) -> RuleSyntaxError {
        RuleSyntaxError(
            column: atValue ? word.valueColumn : word.column,
            length: atValue ? max(1, word.value?.count ?? 1) : word.length, message: message,
            suggestion: suggestion, text: text)
    }

    // MARK: Whole texts

    mutating func rule() throws(RuleSyntaxError) -> Rule {
        guard let actions = actionsStart() else {
            throw RuleSyntaxError(
                column: max(1, characters.count), length: 1, message: "no actions",
                suggestion: "end the rule with actions=..., as actions=output:2", text: text)
        }
        try match(to: actions.word)
        var parser = ActionParser(rule: self)
        result.actions = try parser.actions(from: actions.first)
        return result
    }

    mutating func selector(isStrict: Bool) throws(RuleSyntaxError) -> RuleSelector {
        try match(to: characters.count)
        return RuleSelector(
            match: result.match, isStrict: isStrict, priority: result.priority,
            cookie: result.cookie, cookieMask: cookieMask, outPort: outPort)
    }

    /// Where `actions=` starts, and the first character behind it.
    private func actionsStart() -> (word: Int, first: Int)? {
        for name in ["actions=", "action="] {
            let wanted = Array(name)
            guard characters.count >= wanted.count else { continue }
            for start in 0...(characters.count - wanted.count)
            where Array(characters[start..<start + wanted.count]) == wanted
                && (start == 0 || characters[start - 1] == ","
                    || characters[start - 1].isWhitespace)
            {
                return (start, start + wanted.count)
            }
        }
        return nil
    }

    mutating func match(to end: Int) throws(RuleSyntaxError) {
        for word in RuleSyntax.words(characters, from: 0, to: end) { try take(word) }
        for (word, need) in needs where !isMet(need) {
            throw fail(
                word, "\(word.key) needs a protocol that has it",
                suggestion: "write \(Self.prerequisite(need)) before it")
        }
    }

    private static func prerequisite(_ need: Need) -> String {
        switch need {
        case .network: "ip, ipv6 or arp"
        case .ip: "ip or ipv6"
        case .ipv4: "ip, or arp"
        case .ipv6: "ipv6"
        case .arp: "arp"
        case .transport: "tcp or udp (tcp6 or udp6)"
        case .tcp: "tcp or tcp6"
        case .udp: "udp or udp6"
        case .icmp: "icmp or icmp6"
        case .icmpv6: "icmp6"
        case .vlan: "dl_vlan"
        }
    }

    private func isMet(_ need: Need) -> Bool {
        let fields = result.match.value
        let isTyped = result.match.mask.etherType == .max
        let isIPv4 = isTyped && fields.etherType == EtherType.ipv4
        let isIPv6 = isTyped && fields.etherType == EtherType.ipv6
        let isARP = isTyped && (fields.etherType == EtherType.arp || fields.etherType == 0x8035)
        let hasProtocol = result.match.mask.ipProtocol == .max
        func isProtocol(_ number: UInt8) -> Bool { hasProtocol && fields.ipProtocol == number }
        switch need {
        case .network: return isIPv4 || isIPv6 || isARP
        case .ip: return isIPv4 || isIPv6
        case .ipv4: return isIPv4 || isARP
        case .ipv6: return isIPv6
        case .arp: return isARP
        case .transport:
            return (isIPv4 || isIPv6) && (isProtocol(6) || isProtocol(17) || isProtocol(132))
        case .tcp: return (isIPv4 || isIPv6) && isProtocol(6)
        case .udp: return (isIPv4 || isIPv6) && isProtocol(17)
        case .icmp: return isIPv4 && isProtocol(1) || isIPv6 && isProtocol(58)
        case .icmpv6: return isIPv6 && isProtocol(58)
        case .vlan: return true
        }
    }

    // MARK: Words

    static let protocols: [String: (type: UInt16, number: UInt8?)] = [
        "ip": (EtherType.ipv4, nil), "ipv6": (EtherType.ipv6, nil), "arp": (EtherType.arp, nil),
        "rarp": (0x8035, nil), "icmp": (EtherType.ipv4, 1), "icmp6": (EtherType.ipv6, 58),
        "tcp": (EtherType.ipv4, 6), "tcp6": (EtherType.ipv6, 6), "udp": (EtherType.ipv4, 17),
        "udp6": (EtherType.ipv6, 17), "sctp": (EtherType.ipv4, 132),
        "sctp6": (EtherType.ipv6, 132),
    ]

    static let fields = [
        "priority", "cookie", "idle_timeout", "hard_timeout", "table", "in_port", "dl_vlan",
        "dl_vlan_pcp", "vlan_vid", "vlan_pcp", "vlan_tci", "dl_src", "dl_dst", "eth_src", "eth_dst",
        "dl_type", "eth_type", "nw_src", "nw_dst", "ip_src", "ip_dst", "ipv6_src", "ipv6_dst",
        "nw_proto", "ip_proto", "nw_tos", "ip_dscp", "nw_ecn", "ip_ecn", "nw_ttl", "ip_frag",
        "nw_frag",
        "tp_src", "tp_dst", "tcp_src", "tcp_dst", "udp_src", "udp_dst", "tcp_flags", "icmp_type",
        "icmp_code", "icmpv6_type", "icmpv6_code", "arp_op", "arp_spa", "arp_tpa", "arp_sha",
        "arp_tha", "out_port", "duration", "n_packets", "n_bytes", "idle_age", "hard_age",
    ]

    mutating func take(_ word: RuleSyntax.Word) throws(RuleSyntaxError) {
        let key = word.key.lowercased()
        guard let value = word.value else {
            if let known = Self.protocols[key] {
                setType(known.type)
                if let number = known.number { setProtocol(number) }
                return
            }
            if key == "reset_counts" || key == "no_packet_counts" { return }
            let near = ConfigurationReader.nearest(key, Array(Self.protocols.keys) + Self.fields)
            throw fail(
                word, "unknown word \"\(word.key)\"",
                suggestion: near.map { "did you mean \($0)?" }
                    ?? "a match is written field=value")
        }
        guard !value.isEmpty else {
            throw fail(word, "\(word.key) has no value", suggestion: "write \(word.key)=VALUE")
        }
        if try takeMeta(key, value, word) { return }
        if try takeLink(key, value, word) { return }
        if try takeNetwork(key, value, word) { return }
        if try takeTransport(key, value, word) { return }
        let near = ConfigurationReader.nearest(key, Self.fields)
        throw fail(
            word, "unknown field \"\(word.key)\"",
            suggestion: near.map { "did you mean \($0)?" }
                ?? "known are \(Self.fields.prefix(24).joined(separator: ", ")), ...")
    }

    mutating func setType(_ type: UInt16) {
        result.match.value.etherType = type
        result.match.mask.etherType = .max
    }

    mutating func setProtocol(_ number: UInt8) {
        result.match.value.ipProtocol = number
        result.match.mask.ipProtocol = .max
    }

}
