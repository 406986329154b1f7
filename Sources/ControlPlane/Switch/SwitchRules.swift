package import DataPlane

/// The rules that the switch itself needs. They are marked by their cookie, and commands neither change nor
/// delete them.
package enum SwitchRules {
    /// Mark of the switch's own rules.
    package static let cookie: UInt64 = 0xd5

    /// Switching for what nothing else takes; and, since the kernel would accept a packet for any of its
    /// addresses on any of its devices, each side reaches only its own CPU port's addresses.
    package static func rules(
        _ configuration: Configuration, ports: PortNames
    ) throws(RuleSyntaxError) -> [Rule] {
        var texts = ["priority=0 actions=NORMAL"]
        for (index, port) in configuration.ports.enumerated() where port.side != .heartbeat {
            let own = port.side == .client ? configuration.clientCPU : configuration.storageCPU
            let other = port.side == .client ? configuration.storageCPU : configuration.clientCPU
            let head = "in_port=\(index + 1)"
            for address in own.addresses {
                let field = address.address.isIPv4 ? "ip,nw_dst" : "ipv6,ipv6_dst"
                texts.append(
                    "priority=60001,\(head),dl_dst=\(own.macAddress),"
                        + "\(field)=\(address.address) actions=NORMAL")
            }
            for address in other.addresses {
                let prefix = IPPrefix(address: address.address, length: Int(address.prefixLength))
                let field = address.address.isIPv4 ? "ip,nw_dst" : "ipv6,ipv6_dst"
                texts.append(
                    "priority=60002,\(head),\(field)=\(prefix.network)/\(prefix.length) "
                        + "actions=drop")
            }
            texts.append(
                "priority=60001,\(head),icmp6,dl_dst=\(own.macAddress),ipv6_dst=fe80::/10 "
                    + "actions=NORMAL")
            for family in ["ip", "ipv6"] {
                texts.append(
                    "priority=60000,\(head),\(family),dl_dst=\(own.macAddress) actions=drop")
            }
        }
        return try texts.map { text throws(RuleSyntaxError) in
            var rule = try RuleSyntax.parse(text, ports: ports)
            rule.cookie = cookie
            rule.match = rule.match.canonical
            return rule
        }
    }

    /// Why a rule cannot be added beside `own`; nil: it can.
    package static func refusal(_ rule: Rule, own: [Rule]) -> (message: String, suggestion: String)?
    {
        if rule.cookie == cookie {
            return ("cookie 0xd5 marks the switch's own rules", "use another cookie")
        }
        let match = rule.match.canonical
        guard own.contains(where: { $0.priority == rule.priority && $0.match == match }) else {
            return nil
        }
        return (
            "the switch itself has a rule with this match and priority",
            "use a higher priority; flow list --all shows the switch's own rules"
        )
    }
}

extension RuleModel {
    /// Whether it is a rule of the switch itself.
    public var isOfSwitch: Bool { cookie == "0x" + String(SwitchRules.cookie, radix: 16) }
}
