public import DataPlane

/// Files of rules, as `ovs-ofctl` takes them: one rule a line, `#` starts a comment, blank lines.
public enum RuleFile {
    /// A rule with its place.
    public struct Line: Hashable, Sendable {
        /// From 1.
        public var number: Int
        public var text: String

        public init(number: Int, text: String) {
            self.number = number
            self.text = text
        }
    }

    /// The lines that hold a rule.
    public static func lines(_ text: String) -> [Line] {
        text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline)
            .enumerated()
            .compactMap { index, line in
                let content = line.prefix { $0 != "#" }
                guard content.contains(where: { !$0.isWhitespace }) else { return nil }
                return Line(number: index + 1, text: String(content))
            }
    }

    /// Rules of a file; an error tells its line.
    public static func parse(
        _ text: String, ports: PortNames = PortNames([])
    ) throws(RuleSyntaxError) -> [(line: Line, rule: Rule)] {
        var rules: [(line: Line, rule: Rule)] = []
        for line in lines(text) {
            do throws(RuleSyntaxError) {
                rules.append((line, try RuleSyntax.parse(line.text, ports: ports)))
            } catch {
                var error = error
                error.line = line.number
                throw error
            }
        }
        return rules
    }
}
