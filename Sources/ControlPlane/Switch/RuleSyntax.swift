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
