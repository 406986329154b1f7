import DataPlane

/// Values of fields.
extension RuleParser {
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

    func masked(
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

    func mac(
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

    func addressMask(
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
