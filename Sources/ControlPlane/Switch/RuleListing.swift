package import DataPlane

extension RuleModel {
    package init(_ status: RuleStatus) {
        text = RuleFormat.text(status.rule)
        match = RuleFormat.match(status.rule.match)
        actions = RuleFormat.actions(status.rule.actions)
        priority = status.rule.priority
        cookie = "0x" + String(status.rule.cookie, radix: 16)
        nPackets = status.packets
        nBytes = status.bytes
        durationS = Double(status.duration) / 1e9
        idleS = Double(status.idle) / 1e9
        idleTimeoutS = status.rule.idleTimeout
        hardTimeoutS = status.rule.hardTimeout
    }

    /// A line of `ovs-ofctl dump-flows`.
    public var listing: String {
        var words = [
            "cookie=\(cookie)", "duration=\(DecimalText.seconds(durationS))s", "table=0",
            "n_packets=\(nPackets)", "n_bytes=\(nBytes)",
        ]
        if idleTimeoutS != 0 { words.append("idle_timeout=\(idleTimeoutS)") }
        if hardTimeoutS != 0 { words.append("hard_timeout=\(hardTimeoutS)") }
        words.append("idle_age=\(UInt64(max(0, idleS)))")
        let head = match.isEmpty ? "priority=\(priority)" : "priority=\(priority),\(match)"
        return " " + words.joined(separator: ", ") + ", " + head + " actions=" + actions
    }
}

extension FlowModel {
    /// As `RuleModel.listing`. An exact flow has no priority: it is looked up before the rules.
    public var listing: String {
        let isIPv6 = source.contains(":")
        let name =
            (isIPv6 && ["tcp", "udp"].contains(self.protocol)) ? "\(self.protocol)6" : self.protocol
        let address = isIPv6 ? "ipv6" : "nw"
        let match = [
            Int(name) == nil ? name : "\(isIPv6 ? "ipv6" : "ip"),nw_proto=\(name)",
            "\(address)_src=\(source)", "\(address)_dst=\(destination)", "tp_src=\(sourcePort)",
            "tp_dst=\(destinationPort)",
        ].joined(separator: ",")
        return " cookie=\(cookie), n_packets=\(nPackets), n_bytes=\(nBytes), exact, "
            + "domain=\(domain), origin=\(origin), \(match) actions=\(actions)"
    }
}

/// Numbers with a fixed count of decimals, without a locale.
public enum DecimalText {
    /// Milliseconds as the last digit.
    public static func seconds(_ value: Double) -> String {
        guard value.isFinite, value >= 0, value < 1e15 else { return "\(value)" }
        let ms = UInt64((value * 1_000).rounded())
        let fraction = String(ms % 1_000)
        return "\(ms / 1_000)." + String(repeating: "0", count: 3 - fraction.count) + fraction
    }
}
