import DataPlane

/// Parses the list behind `actions=`.
struct ActionParser {
    private let rule: RuleParser

    init(rule: RuleParser) { self.rule = rule }

    static let names = [
        "output", "in_port", "flood", "all", "normal", "drop", "cpu", "mod_dl_src", "mod_dl_dst",
        "mod_nw_src", "mod_nw_dst", "mod_tp_src", "mod_tp_dst", "mod_nw_tos", "mod_nw_ttl",
        "set_field", "push_vlan", "pop_vlan", "strip_vlan", "mod_vlan_vid", "mod_vlan_pcp",
        "dec_ttl", "mirror", "splice",
    ]
    static let refused = [
        "resubmit", "ct", "learn", "group", "bundle", "multipath", "note", "enqueue", "clone",
        "load", "move", "goto_table", "write_metadata", "meter", "nat", "encap", "decap",
    ]

    mutating func actions(from start: Int) throws(RuleSyntaxError) -> [Action] {
        var result: [Action] = []
        let words = RuleSyntax.words(rule.characters, from: start, to: rule.characters.count)
        for word in words { result.append(try action(split(word))) }
        if result.isEmpty {
            throw RuleSyntaxError(
                column: max(1, start), length: 1, message: "no action",
                suggestion: "write drop to drop the packet", text: rule.text)
        }
        if result.count > 1, let index = result.firstIndex(of: .drop) {
            throw rule.fail(words[index], "drop cannot stand with other actions")
        }
        return result == [.drop] ? [.drop] : result
    }

    /// `name:value`, `name=value` and `name(value)` all give a name and a value.
    private func split(_ word: RuleSyntax.Word) -> RuleSyntax.Word {
        var word = word
        if word.key.lowercased().hasPrefix("set_field:") {
            var value = String(word.key.dropFirst("set_field:".count))
            if let rest = word.value { value += "=" + rest }
            word.key = "set_field"
            word.value = value
            word.valueColumn = word.column + "set_field:".count
            return word
        }
        if let value = word.value, word.key.contains("(") {  // output(port=2)
            word.key += "=" + value
            word.value = nil
        }
        guard word.value == nil else { return word }
        for (open, close) in [(":", ""), ("(", ")")] {
            guard let position = word.key.range(of: open)?.lowerBound else { continue }
            let name = String(word.key[..<position])
            var value = String(word.key[word.key.index(after: position)...])
            if close == ")" {
                guard value.hasSuffix(")") else { continue }
                value.removeLast()
                if value.hasPrefix("port=") { value.removeFirst(5) }
            }
            word.valueColumn = word.column + name.count + 1
            word.key = name
            word.value = value
            return word
        }
        return word
    }

    private func action(_ word: RuleSyntax.Word) throws(RuleSyntaxError) -> Action {
        let name = word.key.lowercased()
        if let simple = Self.simple[name], word.value == nil || word.value == "" {
            return simple
        }
        if let action = try modification(name, word) { return action }
        switch name {
        case "output": return .output(try rule.port(word.value ?? "", word))
        case "mirror": return .mirror(try rule.port(word.value ?? "", word))
        case "splice": return .splice(UInt32(try rule.number(word, 0...0x3fff_ffff)))
        case "set_field": return try setField(word)
        case "push_vlan":
            let type = UInt16(try rule.number(word, 0...65_535))
            guard type == EtherType.vlan || type == EtherType.serviceVLAN else {
                throw rule.fail(
                    word, "\(word.value ?? "") is no VLAN type", suggestion: "0x8100 or 0x88a8",
                    atValue: true)
            }
            return .pushVLAN(type)
        case "controller", "local":
            throw rule.fail(
                word, "\(name) is not here", suggestion: "use cpu for the switch's own TCP/IP stack"
            )
        default: break
        }
        // A bare port.
        if word.value == nil, let port = try? rule.port(word.key, word) { return .output(port) }
        if Self.refused.contains(name) {
            throw rule.fail(word, "\(name) is not supported here")
        }
        let near = ConfigurationReader.nearest(name, Self.names)
        throw rule.fail(
            word, "unknown action \"\(word.key)\"",
            suggestion: near.map { "did you mean \($0)?" }
                ?? "known are \(Self.names.joined(separator: ", "))")
    }

    private static let simple: [String: Action] = [
        "in_port": .inPort, "flood": .flood, "all": .all, "normal": .normal, "drop": .drop,
        "cpu": .cpu, "pop_vlan": .popVLAN, "strip_vlan": .popVLAN, "dec_ttl": .decrementTTL,
    ]

    private func modification(
        _ name: String, _ word: RuleSyntax.Word
    ) throws(RuleSyntaxError) -> Action? {
        switch name {
        case "mod_dl_src": return .setSourceMAC(try mac(word))
        case "mod_dl_dst": return .setDestinationMAC(try mac(word))
        case "mod_nw_src": return .setSourceAddress(try address(word, word.value ?? "", true))
        case "mod_nw_dst": return .setDestinationAddress(try address(word, word.value ?? "", true))
        case "mod_tp_src": return .setSourcePort(UInt16(try rule.number(word, 0...65_535)))
        case "mod_tp_dst": return .setDestinationPort(UInt16(try rule.number(word, 0...65_535)))
        case "mod_nw_tos":
            let tos = try rule.number(word, 0...255)
            guard tos & 3 == 0 else {
                throw rule.fail(word, "the two lowest bits of mod_nw_tos are clear", atValue: true)
            }
            return .setTOS(UInt8(tos))
        case "mod_nw_ttl": return .setTTL(UInt8(try rule.number(word, 0...255)))
        case "mod_vlan_vid": return .setVLANID(UInt16(try rule.number(word, 0...4_095)))
        case "mod_vlan_pcp": return .setVLANPriority(UInt8(try rule.number(word, 0...7)))
        default: return nil
        }
    }

    private func mac(_ word: RuleSyntax.Word) throws(RuleSyntaxError) -> MACAddress {
        guard let mac = MACAddress(word.value ?? "") else {
            throw rule.fail(
                word, "\"\(word.value ?? "")\" is not a MAC address",
                suggestion: "as 02:00:00:00:00:01", atValue: true)
        }
        return mac
    }

    private func address(
        _ word: RuleSyntax.Word, _ text: String, _ isIPv4: Bool
    ) throws(RuleSyntaxError) -> IPAddress {
        guard let address = IPAddress(text), address.isIPv4 == isIPv4 else {
            throw rule.fail(
                word, "\"\(text)\" is not an \(isIPv4 ? "IPv4" : "IPv6") address", atValue: true)
        }
        return address
    }

    /// `set_field:VALUE->FIELD`.
    private func setField(_ word: RuleSyntax.Word) throws(RuleSyntaxError) -> Action {
        let text = word.value ?? ""
        guard let arrow = text.range(of: "->") else {
            throw rule.fail(
                word, "set_field has no target", suggestion: "write set_field:VALUE->FIELD",
                atValue: true)
        }
        let value = String(text[..<arrow.lowerBound])
        let field = String(text[arrow.upperBound...]).lowercased()
        var inner = word
        inner.value = value
        inner.key = field
        switch field {
        case "eth_src", "dl_src": return .setSourceMAC(try mac(inner))
        case "eth_dst", "dl_dst": return .setDestinationMAC(try mac(inner))
        case "ip_src", "nw_src": return .setSourceAddress(try address(inner, value, true))
        case "ip_dst", "nw_dst": return .setDestinationAddress(try address(inner, value, true))
        case "ipv6_src": return .setSourceAddress(try address(inner, value, false))
        case "ipv6_dst": return .setDestinationAddress(try address(inner, value, false))
        case "tcp_src", "udp_src", "tp_src":
            return .setSourcePort(UInt16(try rule.number(inner, 0...65_535)))
        case "tcp_dst", "udp_dst", "tp_dst":
            return .setDestinationPort(UInt16(try rule.number(inner, 0...65_535)))
        case "vlan_vid":
            return .setVLANID(UInt16(try rule.number(inner, 0...0x1fff) & 0xfff))
        case "vlan_pcp": return .setVLANPriority(UInt8(try rule.number(inner, 0...7)))
        case "nw_ttl", "ip_ttl": return .setTTL(UInt8(try rule.number(inner, 0...255)))
        case "ip_dscp": return .setTOS(UInt8(try rule.number(inner, 0...63)) << 2)
        case "nw_tos": return .setTOS(UInt8(try rule.number(inner, 0...255)) & 0xfc)
        default:
            throw rule.fail(word, "set_field cannot set \"\(field)\"", atValue: true)
        }
    }
}

extension StringProtocol {
    /// First place of a short text.
    fileprivate func range(of text: String) -> Range<Index>? {
        var start = startIndex
        while start < endIndex {
            if self[start...].hasPrefix(text) {
                return start..<index(start, offsetBy: text.count)
            }
            start = index(after: start)
        }
        return nil
    }
}
