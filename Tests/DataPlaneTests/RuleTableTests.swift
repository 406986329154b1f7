import DataPlane
import TestSupport
import Testing

extension Match {
    static func fields(_ set: (inout PacketFields, inout PacketFields) -> Void) -> Match {
        var match = Match()
        set(&match.value, &match.mask)
        return match
    }

    static func inPort(_ port: PortNumber) -> Match {
        fields {
            $0.inPort = port; $1.inPort = .max
        }
    }

    static func destinationPort(_ port: UInt16) -> Match {
        fields {
            $0.transportDestination = port; $1.transportDestination = .max
        }
    }

    static func etherType(_ type: UInt16) -> Match {
        fields {
            $0.etherType = type; $1.etherType = .max
        }
    }
}

/// Rules as a list, searched from end to end.
struct NaiveRules {
    var rules: [Rule] = []

    static func matches(_ match: Match, _ fields: PacketFields) -> Bool {
        PacketFields.masked(fields, match.mask) == PacketFields.masked(match.value, match.mask)
    }

    func lookup(_ fields: PacketFields) -> Rule? {
        var best: Rule?
        for rule in rules where Self.matches(rule.match, fields) {
            if best.map({ rule.priority > $0.priority }) ?? true { best = rule }
        }
        return best
    }

    mutating func add(_ rule: Rule) {
        rules.removeAll { $0.priority == rule.priority && $0.match == rule.match }
        rules.append(rule)
    }
}

@Suite struct RuleTableTests {
    /// Values from a small space, so that rules overlap and packets match many.
    private func fields(_ random: inout SplitMix64) -> PacketFields {
        var fields = PacketFields()
        fields.sourceMAC = random.next() & 3
        fields.sourceLow = 0xffff_0a00_0000 | random.next() & 7
        fields.destinationLow = 0xffff_0a00_0000 | random.next() & 7
        fields.inPort = UInt16(random.below(4))
        fields.etherType = random.below(2) == 0 ? 0x0800 : 0x86dd
        fields.vlanTCI = UInt16(random.below(3))
        fields.transportSource = UInt16(random.below(3))
        fields.transportDestination = UInt16(random.below(3))
        fields.ipProtocol = random.below(2) == 0 ? 6 : 17
        fields.tcpFlags = UInt16(random.below(4))
        fields.ttl = UInt8(random.below(2))
        return fields
    }

    private func match(_ random: inout SplitMix64) -> Match {
        let value = fields(&random)
        var mask = PacketFields()
        if random.below(3) == 0 { mask.sourceMAC = .max }
        if random.below(3) == 0 { mask.sourceLow = .max << UInt64(random.below(4)) }
        if random.below(3) == 0 { mask.destinationLow = .max << UInt64(random.below(4)) }
        if random.below(4) == 0 { mask.inPort = .max }
        if random.below(3) == 0 { mask.etherType = .max }
        if random.below(6) == 0 { mask.vlanTCI = 1 }
        if random.below(4) == 0 { mask.transportSource = 1 }
        if random.below(4) == 0 { mask.transportDestination = .max }
        if random.below(4) == 0 { mask.ipProtocol = .max }
        if random.below(6) == 0 { mask.tcpFlags = 2 }
        if random.below(6) == 0 { mask.ttl = .max }
        return Match.fields {
            $0 = PacketFields.masked(value, mask)
            $1 = mask
        }
    }

    private func compare(
        _ table: borrowing RuleTable, _ model: NaiveRules, _ random: inout SplitMix64, rounds: Int
    ) -> Int {
        var hits = 0
        for _ in 0..<rounds {
            let packet = fields(&random)
            let found = table.lookup(packet)
            let rule = found < 0 ? nil : table.entries[found].rule
            let wanted = model.lookup(packet)
            if wanted != nil { hits += 1 }
            if rule != wanted {
                Issue.record(
                    "\(packet): \(String(describing: rule)), not \(String(describing: wanted))")
            }
        }
        return hits
    }

    @Test(arguments: [(1, 1), (2, 20), (3, 200), (4, 1_000)] as [(UInt64, Int)])
    func againstALinearSearch(seed: UInt64, count: Int) {
        var random = SplitMix64(seed: seed)
        var table = RuleTable(capacity: count)
        var model = NaiveRules()
        for index in 0..<count {
            // Few priorities, so that age decides often.
            let rule = Rule(
                priority: UInt16(random.below(5)), match: match(&random),
                actions: [.output(PortNumber(index % 60 + 1))], cookie: UInt64(index))
            table.add(rule, now: 0)
            model.add(rule)
        }
        table.rebuild()
        #expect(table.count == model.rules.count)
        let hits = compare(table, model, &random, rounds: 3_000)
        #expect(hits > (count > 10 ? 1_000 : 0))
    }

    /// Deletes, changes and whole replacements keep the search right.
    @Test func changes() {
        var random = SplitMix64(seed: 9)
        var table = RuleTable(capacity: 200)
        var model = NaiveRules()
        for round in 0..<150 {
            switch random.below(5) {
            case 0, 1, 2:
                for _ in 0..<10 {
                    let rule = Rule(
                        priority: UInt16(random.below(4)), match: match(&random),
                        actions: [.output(PortNumber(random.below(60) + 1))],
                        cookie: UInt64(random.below(8)))
                    guard model.rules.count < 200 else { continue }
                    table.add(rule, now: 0)
                    model.add(rule)
                }
            case 3:
                let selector = RuleSelector(cookie: UInt64(random.below(8)), cookieMask: 7)
                let before = model.rules.count
                model.rules.removeAll { $0.cookie == selector.cookie }
                #expect(table.delete(selector) == before - model.rules.count)
            default:
                let cookie = UInt64(random.below(8))
                let actions: [Action] = [.output(61), .drop]
                var changed = 0
                for index in model.rules.indices where model.rules[index].cookie == cookie {
                    model.rules[index].actions = actions
                    changed += 1
                }
                let selector = RuleSelector(cookie: cookie, cookieMask: .max)
                #expect(table.modify(selector, actions: actions) == changed)
            }
            table.rebuild()
            if table.count != model.rules.count { Issue.record("count, round \(round)") }
            _ = compare(table, model, &random, rounds: 100)
        }
    }

    @Test func selectors() {
        var table = RuleTable(capacity: 10)
        let narrow = Match.fields {
            $0.etherType = 0x0800
            $1.etherType = .max
            $0.transportDestination = 3_260
            $1.transportDestination = .max
        }
        let rules = [
            Rule(priority: 1, match: Match(), actions: [.normal], cookie: 0x10),
            Rule(priority: 2, match: .etherType(0x0800), actions: [.output(2)], cookie: 0x11),
            Rule(priority: 3, match: narrow, actions: [.output(3)], cookie: 0x21),
            Rule(priority: 4, match: .etherType(0x86dd), actions: [.output(3)], cookie: 0x22),
        ]
        let cases: [(RuleSelector, [UInt64])] = [
            (RuleSelector(), []),
            (RuleSelector(match: .etherType(0x0800)), [0x10, 0x22]),
            (RuleSelector(match: narrow), [0x10, 0x11, 0x22]),
            (
                RuleSelector(match: .etherType(0x0800), isStrict: true, priority: 2),
                [0x10, 0x21, 0x22]
            ),
            (
                RuleSelector(match: .etherType(0x0800), isStrict: true, priority: 3),
                [0x10, 0x11, 0x21, 0x22]
            ),
            (RuleSelector(cookie: 0x20, cookieMask: 0xf0), [0x10, 0x11]),
            (RuleSelector(outPort: 3), [0x10, 0x11]),
            (RuleSelector(match: .etherType(0x0800), outPort: 3), [0x10, 0x11, 0x22]),
        ]
        for (selector, cookies) in cases {
            _ = table.delete(RuleSelector())
            for rule in rules { table.add(rule, now: 0) }
            #expect(table.delete(selector) == 4 - cookies.count)
            let left = (0..<table.count).map { table.entries[$0].rule.cookie }
            #expect(left == cookies)
        }
    }

    @Test func replacingKeepsCounters() {
        var table = RuleTable(capacity: 10)
        let kept = Rule(priority: 1, match: .inPort(1), actions: [.drop], cookie: 1)
        let gone = Rule(priority: 1, match: .inPort(2), actions: [.drop], cookie: 2)
        for rule in [kept, gone] { table.add(rule, now: 5) }
        table.count(0, bytes: 10, now: 6)
        table.count(1, bytes: 10, now: 6)
        var changed = gone
        changed.actions = [.normal]
        #expect(table.replace(with: [changed, kept, kept], now: 7) == 2)
        let entries = (0..<2).map { table.entries[$0] }
        #expect(entries.map(\.rule) == [kept, changed])
        #expect(entries.map(\.packets) == [1, 0])
        #expect(entries.map(\.created) == [5, 7])
        // The same match and priority again: replaced, counters start again.
        table.add(kept, now: 8)
        #expect(table.count == 2 && table.entries[1].packets == 0)
    }

    /// The value is taken only under the mask.
    @Test func valuesOutsideTheMask() {
        var table = RuleTable(capacity: 4)
        table.add(
            Rule(
                match: Match.fields {
                    $0.inPort = 0xffff; $1.inPort = 1
                }, actions: [.drop]), now: 0)
        table.rebuild()
        var packet = PacketFields()
        packet.inPort = 3
        #expect(table.lookup(packet) == 0)
        packet.inPort = 2
        #expect(table.lookup(packet) == -1)
    }
}
