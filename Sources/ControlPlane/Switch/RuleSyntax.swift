public import DataPlane

/// Names of ports, for rules that say them instead of numbers; numbers count from 1.
public struct PortNames: Sendable {
    private let names: [String]
    public init(_ names: [String]) { self.names = names }
    public func number(_ name: String) -> PortNumber? {
        names.firstIndex(of: name).map { PortNumber($0 + 1) }
    }
    public func name(_ number: PortNumber) -> String? {
        number > 0 && Int(number) <= names.count ? names[Int(number) - 1] : nil
    }
}

/// What is wrong with a rule's text, and where.
public struct RuleSyntaxError: Error, Hashable, Sendable, CustomStringConvertible {
    /// From 1, in characters of the text.
    public var column: Int
    public var length: Int
    public var message: String
    public var suggestion: String?
    /// The text, and its line in a file (1 for a single rule).
    public var text: String
    public var line = 1

    public var description: String {
        "column \(column): \(message)" + (suggestion.map { "; \($0)" } ?? "")
    }

    /// The text with a mark below the wrong word.
    public var rendering: String {
        let mark =
            String(repeating: " ", count: max(0, column - 1))
            + String(repeating: "^", count: max(1, length))
        return "\(text)\n\(mark)\n\(description)"
    }
}

/// Rules as `ovs-ofctl` writes them: `priority=100,tcp,nw_dst=10.0.0.1 actions=output:2`
/// (ovs-ofctl(8), ovs-fields(7), ovs-actions(7)).
public enum RuleSyntax {
    /// A word of the text with its place.
    struct Word {
        var key: String
        var value: String?
        var column: Int
        var length: Int
        /// Where the value starts.
        var valueColumn: Int
    }

    /// Parses one rule. `actions=` is required.
    public static func parse(
        _ text: String, ports: PortNames = PortNames([])
    ) throws(RuleSyntaxError) -> Rule {
        var parser = RuleParser(text: text, ports: ports)
        return try parser.rule()
    }

    /// Parses what `del-flows` and `dump-flows` take: a match, with `cookie=v/mask` and `out_port`.
    public static func parseSelector(
        _ text: String, isStrict: Bool, ports: PortNames = PortNames([])
    ) throws(RuleSyntaxError) -> RuleSelector {
        var parser = RuleParser(text: text, ports: ports)
        return try parser.selector(isStrict: isStrict)
    }

    /// Parses a file: one rule a line, `#` comments, blank lines.
    public static func parseFile(
        _ text: String, ports: PortNames = PortNames([])
    ) throws(RuleSyntaxError) -> [Rule] {
        try RuleFile.parse(text, ports: ports).map(\.rule)
    }

    /// Splits at commas and white space that are not inside brackets.
    static func words(_ text: [Character], from start: Int, to end: Int) -> [Word] {
        var result: [Word] = []
        var position = start
        while position < end {
            if text[position] == "," || text[position].isWhitespace {
                position += 1
                continue
            }
            let first = position
            var depth = 0
            while position < end {
                let character = text[position]
                if character == "(" { depth += 1 }
                if character == ")" { depth -= 1 }
                if depth <= 0, character == "," || character.isWhitespace { break }
                position += 1
            }
            let word = text[first..<position]
            if let equals = word.firstIndex(of: "=") {
                result.append(
                    Word(
                        key: String(word[..<equals]), value: String(word[(equals + 1)...]),
                        column: first + 1, length: position - first, valueColumn: equals + 2))
            } else {
                result.append(
                    Word(
                        key: String(word), value: nil, column: first + 1,
                        length: position - first, valueColumn: first + 1))
            }
        }
        return result
    }
}

/// One text being parsed.
struct RuleParser {
    let text: String
    let characters: [Character]
    let ports: PortNames
    var result = Rule()
    var cookieMask: UInt64 = 0
    var outPort: PortNumber?
    /// Words that need a protocol, checked when all are known.
    private var needs: [(RuleSyntax.Word, need: Need)] = []

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

    private mutating func match(to end: Int) throws(RuleSyntaxError) {
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

    private mutating func take(_ word: RuleSyntax.Word) throws(RuleSyntaxError) {
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

    private mutating func setType(_ type: UInt16) {
        result.match.value.etherType = type
        result.match.mask.etherType = .max
    }

    private mutating func setProtocol(_ number: UInt8) {
        result.match.value.ipProtocol = number
        result.match.mask.ipProtocol = .max
    }

    private mutating func takeMeta(
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

    private mutating func takeLink(
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

    private mutating func takeNetwork(
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

    private mutating func takeTransport(
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

    // MARK: Values

    static func parseNumber(_ text: String) -> UInt64? {
        if text.hasPrefix("0x") || text.hasPrefix("0X") {
            // Swift takes a sign in front of the digits.
            let digits = text.dropFirst(2)
            return digits.first?.isHexDigit == true ? UInt64(digits, radix: 16) : nil
        }
        return text.first?.isNumber == true ? UInt64(text) : nil
    }

    func number(
        _ word: RuleSyntax.Word, _ range: ClosedRange<UInt64>
    ) throws(RuleSyntaxError) -> UInt64 {
        guard let value = Self.parseNumber(word.value ?? ""), range.contains(value) else {
            throw fail(
                word, "\"\(word.value ?? "")\" is not a number that \(word.key) can have",
                suggestion: "\(range.lowerBound) to \(range.upperBound)", atValue: true)
        }
        return value
    }

    private func masked(
        _ word: RuleSyntax.Word, _ maximum: UInt64
    ) throws(RuleSyntaxError) -> (UInt64, UInt64) {
        let parts = (word.value ?? "").split(
            separator: "/", maxSplits: 1, omittingEmptySubsequences: false
        )
        .map(String.init)
        guard let first = parts.first.flatMap(Self.parseNumber), first <= maximum else {
            throw fail(
                word, "\"\(word.value ?? "")\" is not a number that \(word.key) can have",
                suggestion: "0 to \(maximum), or value/mask", atValue: true)
        }
        guard parts.count == 2 else { return (first, maximum) }
        guard let mask = Self.parseNumber(parts[1]), mask <= maximum else {
            throw fail(word, "\"\(parts[1])\" is not a mask", atValue: true)
        }
        return (first, mask)
    }

    func port(_ value: String, _ word: RuleSyntax.Word) throws(RuleSyntaxError) -> PortNumber {
        if let number = ports.number(value) { return number }
        if let number = Self.parseNumber(value), (1...63).contains(number) {
            return PortNumber(number)
        }
        throw fail(
            word, "\"\(value)\" is no port",
            suggestion: "a port's name, or its number from 1 to 63",
            atValue: word.value != nil)
    }

    private func mac(
        _ value: String, _ word: RuleSyntax.Word
    ) throws(RuleSyntaxError) -> (UInt64, UInt64) {
        let parts = value.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
            .map(String.init)
        guard let address = parts.first.flatMap({ MACAddress($0) }) else {
            throw fail(
                word, "\"\(value)\" is not a MAC address", suggestion: "as 02:00:00:00:00:01",
                atValue: true)
        }
        guard parts.count == 2 else { return (address.rawValue, 0xffff_ffff_ffff) }
        guard let mask = MACAddress(parts[1]) else {
            throw fail(word, "\"\(parts[1])\" is not a mask of a MAC address", atValue: true)
        }
        return (address.rawValue & mask.rawValue, mask.rawValue)
    }

    private func addressMask(
        _ value: String, _ word: RuleSyntax.Word, isIPv4: Bool
    ) throws(RuleSyntaxError) -> (IPAddress, IPAddress) {
        let parts = value.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
            .map(String.init)
        let family = isIPv4 ? "an IPv4" : "an IPv6"
        guard let address = parts.first.flatMap({ IPAddress($0) }), address.isIPv4 == isIPv4 else {
            throw fail(
                word, "\"\(value)\" is not \(family) address",
                suggestion: isIPv4 ? "as 10.0.0.1 or 10.0.0.0/24" : "as fd00::1 or fd00::/64",
                atValue: true)
        }
        var mask = IPAddress(high: .max, low: .max)
        if parts.count == 2 {
            if let prefix = IPPrefix(value) {
                mask = prefix.mask
            } else if let given = IPAddress(parts[1]), given.isIPv4 == isIPv4 {
                mask =
                    isIPv4
                    ? IPAddress(high: .max, low: 0xffff_ffff_0000_0000 | UInt64(given.v4)) : given
            } else {
                throw fail(
                    word, "\"\(parts[1])\" is not a prefix length or a mask", atValue: true)
            }
        }
        return (
            IPAddress(high: address.high & mask.high, low: address.low & mask.low), mask
        )
    }
}
