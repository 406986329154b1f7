/// What the rules of a batch come to, looked at before anything is changed.
struct RulePlan {
    private struct Identity: Hashable {
        var priority: UInt16
        var match: Match
    }

    /// Most rules at any moment, and at the end.
    private(set) var peak: Int
    private(set) var count: Int
    /// The command that went beyond the table's room, when the batch stays beyond it.
    private(set) var overflow: Int?

    /// Plays the changes of rules through. A table with room for all additions needs no look at its rules.
    init(_ commands: [Command], rules: borrowing RuleTable) {
        count = rules.count
        peak = count
        let additions = commands.count { if case .addRule = $0 { true } else { false } }
        let isReplacing = commands.contains { if case .replaceRules = $0 { true } else { false } }
        guard additions > 0, isReplacing || count + additions > rules.capacity else { return }
        var present: [Identity: Rule] = [:]
        for index in 0..<rules.count { Self.enter(rules.entries[index].rule, in: &present) }
        for (index, command) in commands.enumerated() {
            switch command {
            case .addRule(let rule): Self.enter(rule, in: &present)
            case .deleteRules(let selector):
                present = present.filter { !selector.selects($0.value) }
            case .replaceRules(let wanted):
                present = [:]
                for rule in wanted { Self.enter(rule, in: &present) }
            case .modifyRules(let selector, let actions):
                for (identity, rule) in present where selector.selects(rule) {
                    present[identity]?.actions = actions
                }
            default: continue
            }
            count = present.count
            peak = max(peak, count)
            if count <= rules.capacity {
                overflow = nil
            } else if overflow == nil {
                overflow = index
            }
        }
    }

    private static func enter(_ rule: Rule, in present: inout [Identity: Rule]) {
        var rule = rule
        rule.match = rule.match.canonical
        present[Identity(priority: rule.priority, match: rule.match)] = rule
    }
}
