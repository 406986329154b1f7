public import DataPlane

/// Text of rules, as `ovs-ofctl` prints and takes it.
public enum RuleFormat {
    /// `priority=100,tcp,nw_dst=10.0.0.1 actions=output:2`; parsing it gives the rule again.
    public static func text(_ rule: Rule) -> String {
        var head: [String] = []
        if rule.cookie != 0 { head.append("cookie=0x" + String(rule.cookie, radix: 16)) }
        if rule.idleTimeout != 0 { head.append("idle_timeout=\(rule.idleTimeout)") }
        if rule.hardTimeout != 0 { head.append("hard_timeout=\(rule.hardTimeout)") }
        head.append("priority=\(rule.priority)")
        return (head + matchWords(rule.match)).joined(separator: ",") + " actions="
            + actions(rule.actions)
    }

    public static func match(_ match: Match) -> String { matchWords(match).joined(separator: ",") }

    // MARK: Match

    private static func matchWords(_ match: Match) -> [String] {
        let value = match.value
        let mask = match.mask
        var words: [String] = []
        var hasProtocol = mask.ipProtocol != 0
        if mask.etherType != 0 {
            let known = RuleParser.protocols.first {
                $0.value.type == value.etherType && hasProtocol
                    && $0.value.number == value.ipProtocol
            }
            let plain = RuleParser.protocols.first {
                $0.value.type == value.etherType && $0.value.number == nil
            }
            if let known {
                words.append(known.key)
                hasProtocol = false
            } else if let plain {
                words.append(plain.key)
            } else {
                words.append("dl_type=0x" + String(value.etherType, radix: 16))
            }
        }
        if mask.inPort != 0 { words.append("in_port=\(value.inPort)") }
        if mask.vlanTCI != 0 { words += vlanWords(value.vlanTCI, mask.vlanTCI) }
        append(&words, "dl_src", mac: value.sourceMAC, mask.sourceMAC)
        append(&words, "dl_dst", mac: value.destinationMAC, mask.destinationMAC)
        let isARP = value.etherType == EtherType.arp || value.etherType == 0x8035
        let isIPv6 = value.etherType == EtherType.ipv6
        append(
            &words, isARP ? "arp_spa" : isIPv6 ? "ipv6_src" : "nw_src",
            IPAddress(high: value.sourceHigh, low: value.sourceLow),
            IPAddress(high: mask.sourceHigh, low: mask.sourceLow), isIPv6: isIPv6)
        append(
            &words, isARP ? "arp_tpa" : isIPv6 ? "ipv6_dst" : "nw_dst",
            IPAddress(high: value.destinationHigh, low: value.destinationLow),
            IPAddress(high: mask.destinationHigh, low: mask.destinationLow), isIPv6: isIPv6)
        if hasProtocol { words.append("\(isARP ? "arp_op" : "nw_proto")=\(value.ipProtocol)") }
        append(&words, "arp_sha", mac: value.arpSourceMAC, mask.arpSourceMAC)
        append(&words, "arp_tha", mac: value.arpTargetMAC, mask.arpTargetMAC)
        if mask.tos & 0xfc != 0 { words.append("nw_tos=\(value.tos & 0xfc)") }
        if mask.tos & 3 != 0 { words.append("nw_ecn=\(value.tos & 3)") }
        if mask.ttl != 0 { words.append("nw_ttl=\(value.ttl)") }
        if mask.fragment != 0 { words.append("nw_frag=\(fragment(value.fragment, mask.fragment))") }
        words += transportWords(match)
        return words
    }

    private static func fragment(_ value: UInt8, _ mask: UInt8) -> String {
        switch (value, mask) {
        case (_, 1): value == 1 ? "yes" : "no"
        case (_, 2): "not_later"
        case (1, _): "first"
        case (3, _): "later"
        default: "no"
        }
    }

    private static func vlanWords(_ value: UInt16, _ mask: UInt16) -> [String] {
        switch mask {
        case 0x1fff where value & 0x1000 != 0: ["dl_vlan=\(value & 0xfff)"]
        case 0xf000 where value & 0x1000 != 0: ["dl_vlan_pcp=\(value >> 13)"]
        case 0xffff where value & 0x1000 != 0:
            ["dl_vlan=\(value & 0xfff)", "dl_vlan_pcp=\(value >> 13)"]
        default:
            [
                "vlan_tci=0x" + hex(value, 4)
                    + (mask == .max ? "" : "/0x" + String(mask, radix: 16))
            ]
        }
    }

    private static func hex(_ value: UInt16, _ width: Int) -> String {
        let text = String(value, radix: 16)
        return String(repeating: "0", count: max(0, width - text.count)) + text
    }

    private static func append(
        _ words: inout [String], _ name: String, mac value: UInt64, _ mask: UInt64
    ) {
        guard mask != 0 else { return }
        let full = mask == 0xffff_ffff_ffff
        words.append(
            "\(name)=\(MACAddress(rawValue: value))"
                + (full ? "" : "/\(MACAddress(rawValue: mask))"))
    }

    private static func append(
        _ words: inout [String], _ name: String, _ value: IPAddress, _ mask: IPAddress,
        isIPv6: Bool
    ) {
        guard mask.high != 0 || mask.low != 0 else { return }
        if isIPv6 {
            let length = prefixLength(mask)
            let text = length == 128 ? "" : length.map { "/\($0)" } ?? "/\(mask)"
            return words.append("\(name)=\(value)\(text)")
        }
        let bits = mask.v4
        guard bits != .max else { return words.append("\(name)=\(IPAddress(v4: value.v4))") }
        let length = (~bits).leadingZeroBitCount
        let isPrefix = length == 0 ? bits == 0 : bits == UInt32.max << UInt32(32 - length)
        words.append(
            "\(name)=\(IPAddress(v4: value.v4))/\(isPrefix ? "\(length)" : "\(IPAddress(v4: bits))")"
        )
    }

    private static func prefixLength(_ mask: IPAddress) -> Int? {
        let length =
            mask.high == .max
            ? 64 + (~mask.low).leadingZeroBitCount : (~mask.high).leadingZeroBitCount
        let prefix = IPPrefix(address: IPAddress(high: 1 << 63, low: 0), length: length)
        return prefix.mask == mask ? length : nil
    }

    private static func transportWords(_ match: Match) -> [String] {
        let value = match.value
        let mask = match.mask
        let isICMP = value.ipProtocol == 1 || value.ipProtocol == 58
        var words: [String] = []
        if mask.transportSource != 0 {
            words.append(
                isICMP
                    ? "icmp_type=\(value.transportSource)"
                    : "tp_src=" + port(value.transportSource, mask.transportSource))
        }
        if mask.transportDestination != 0 {
            words.append(
                isICMP
                    ? "icmp_code=\(value.transportDestination)"
                    : "tp_dst=" + port(value.transportDestination, mask.transportDestination))
        }
        if mask.tcpFlags != 0 {
            let flags = RuleParser.flagNames.filter { mask.tcpFlags & $0.bit != 0 }.map {
                (value.tcpFlags & $0.bit != 0 ? "+" : "-") + $0.name
            }.joined()
            let named = RuleParser.flagNames.reduce(UInt16(0)) { $0 | $1.bit }
            words.append(
                "tcp_flags="
                    + (mask.tcpFlags & ~named == 0
                        ? flags
                        : "0x\(String(value.tcpFlags, radix: 16))/0x\(String(mask.tcpFlags, radix: 16))")
            )
        }
        return words
    }

    private static func port(_ value: UInt16, _ mask: UInt16) -> String {
        mask == .max
            ? "\(value)" : "0x\(String(value, radix: 16))/0x\(String(mask, radix: 16))"
    }

    // MARK: Actions

    public static func actions(_ actions: [Action]) -> String {
        actions.isEmpty ? "drop" : actions.map(text).joined(separator: ",")
    }

    private static func text(_ action: Action) -> String {
        switch action {
        case .output(let port): "output:\(port)"
        case .inPort: "IN_PORT"
        case .flood: "FLOOD"
        case .all: "ALL"
        case .normal: "NORMAL"
        case .cpu: "cpu"
        case .drop: "drop"
        case .setSourceMAC(let mac): "mod_dl_src:\(mac)"
        case .setDestinationMAC(let mac): "mod_dl_dst:\(mac)"
        case .setSourceAddress(let address):
            address.isIPv4 ? "mod_nw_src:\(address)" : "set_field:\(address)->ipv6_src"
        case .setDestinationAddress(let address):
            address.isIPv4 ? "mod_nw_dst:\(address)" : "set_field:\(address)->ipv6_dst"
        case .setSourcePort(let port): "mod_tp_src:\(port)"
        case .setDestinationPort(let port): "mod_tp_dst:\(port)"
        case .setTOS(let tos): "mod_nw_tos:\(tos)"
        case .setTTL(let ttl): "mod_nw_ttl:\(ttl)"
        case .pushVLAN(let type): "push_vlan:0x" + String(type, radix: 16)
        case .popVLAN: "pop_vlan"
        case .setVLANID(let id): "mod_vlan_vid:\(id)"
        case .setVLANPriority(let priority): "mod_vlan_pcp:\(priority)"
        case .decrementTTL: "dec_ttl"
        case .mirror(let port): "mirror:\(port)"
        case .splice(let id): "splice=\(id)"
        }
    }
}
