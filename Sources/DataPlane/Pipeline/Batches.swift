// Changes of the switch: checked as a whole, then applied as a whole.

extension Pipeline {
    /// Applies all commands or, when one cannot be, none. Results in the order of the commands.
    public mutating func apply(
        _ commands: [Command], now: UInt64
    ) throws(BatchError) -> [CommandResult] {
        try check(commands)
        // A rule may come before the one leaves whose place it takes.
        rules.reserve(RulePlan(commands, rules: rules).peak)
        var results: [CommandResult] = []
        results.reserveCapacity(commands.count)
        var hasRuleChanges = false
        for command in commands {
            switch command {
            case .addRule(let rule):
                rules.add(rule, now: now)
                hasRuleChanges = true
                results.append(.count(1))
            case .modifyRules(let selector, let actions):
                results.append(.count(rules.modify(selector, actions: actions)))
            case .deleteRules(let selector):
                results.append(.count(rules.delete(selector)))
                hasRuleChanges = true
            case .replaceRules(let wanted):
                results.append(.count(rules.replace(with: wanted, now: now)))
                hasRuleChanges = true
            case .addFlow(let key, let actions, let cookie, let idle):
                addFlow(key, actions, cookie: cookie, idleTimeout: idle, now: now)
                results.append(.done)
            case .deleteFlow(let key):
                deleteFlow(key)
                results.append(.done)
            case .splice(let step):
                results.append(
                    splicer.apply(step, flows: &flows, output: &output, now: now))
            case .datagram(let step): results.append(datagrams.apply(step, now: now))
            case .flushMACs(let domain):
                for index in 0..<PortSet.domainMaximum
                where domain == nil || Int(domain ?? 0) == index {
                    output.macs[index].removeAll()
                }
                results.append(.done)
            }
        }
        if hasRuleChanges { rules.rebuild() }
        output.flush(now: now)
        return results
    }

    /// Looks ahead over the whole batch, counting what earlier commands of it take.
    private func check(_ commands: [Command]) throws(BatchError) {
        let rulePlan = RulePlan(commands, rules: rules)
        var plan = BatchPlan(flowCount: flows.count)
        var datagramPlan = DatagramPlan()
        for (index, command) in commands.enumerated() {
            func refuse(_ reason: BatchError.Reason) throws(BatchError) {
                throw BatchError(index: index, reason: reason)
            }
            switch command {
            case .addRule(let rule):
                if index == rulePlan.overflow {
                    try refuse(.ruleTableFull(limit: rules.capacity))
                }
                if let reason = refusal(rule.actions) { try refuse(reason) }
            case .modifyRules(_, let actions):
                if let reason = refusal(actions) { try refuse(reason) }
            case .deleteRules: break
            case .replaceRules(let wanted):
                if wanted.count > rules.capacity {
                    try refuse(.ruleTableFull(limit: rules.capacity))
                }
                for rule in wanted {
                    if let reason = refusal(rule.actions) { try refuse(reason) }
                }
            case .addFlow(let key, let actions, _, _):
                if plan.added.contains(key)
                    || (flows.contains(key) && !plan.removed.contains(key))
                {
                    try refuse(.flowExists)
                }
                plan.flowCount += 1
                if plan.flowCount > flows.capacity {
                    try refuse(.flowTableFull(limit: flows.capacity))
                }
                if let reason = refusal(actions) { try refuse(reason) }
                plan.added.insert(key)
                plan.removed.remove(key)
            case .deleteFlow(let key):
                if !plan.added.contains(key), !flows.contains(key) || plan.removed.contains(key) {
                    try refuse(.noSuchFlow)
                }
                plan.flowCount -= 1
                plan.removed.insert(key)
                plan.added.remove(key)
            case .splice(let step):
                if let reason = splicer.check(step, flows: flows, plan: &plan) {
                    try refuse(reason)
                }
            case .datagram(let step):
                if let reason = datagrams.check(step, plan: &datagramPlan) { try refuse(reason) }
            case .flushMACs: break
            }
        }
    }

    private func refusal(_ actions: [Action]) -> BatchError.Reason? {
        if actions.count > Self.actionMaximum {
            return .tooManyActions(limit: Self.actionMaximum)
        }
        for case .output(let port) in actions where port == 0 || Int(port) > output.capacity {
            return .noSuchPort(port)
        }
        for case .mirror(let port) in actions where port == 0 || Int(port) > output.capacity {
            return .noSuchPort(port)
        }
        return nil
    }

    // MARK: Exact flows

    private mutating func addFlow(
        _ key: FlowKey, _ actions: [Action], cookie: UInt64, idleTimeout: UInt16, now: UInt64
    ) {
        if idleTimeout != 0 { idleLists += 1 }
        let memory = UnsafeMutableBufferPointer<Action>.allocate(capacity: actions.count)
        _ = memory.initialize(from: actions)
        let list = FlowActions(
            key: key, actions: memory, cookie: cookie, idleTimeout: idleTimeout)
        let index: UInt32
        if let free = freeLists.popLast() {
            index = free
            lists[Int(free)] = list
        } else {
            index = UInt32(lists.count)
            lists.append(list)
        }
        _ = flows.insert(key, .actions(index), now: now)
    }

    private mutating func deleteFlow(_ key: FlowKey) {
        let slot = flows.find(key, hash: flows.hash(key))
        guard slot >= 0 else { return }
        if case .actions(let index) = flows.target(slot) {
            if let list = lists[Int(index)] {
                list.actions.deallocate()
                if list.idleTimeout != 0 { idleLists -= 1 }
            }
            lists[Int(index)] = nil
            freeLists.append(index)
        }
        _ = flows.remove(key)
    }

    /// Idle time-outs of exact flows; looks at a bounded number of lists, and at none when no flow has one.
    mutating func expireFlows(now: UInt64) {
        guard idleLists > 0 else { return }
        let seconds = UInt32(truncatingIfNeeded: now / 1_000_000_000)
        for _ in 0..<min(lists.count, Self.idleListsEachTime) {
            idleCursor = idleCursor + 1 < lists.count ? idleCursor + 1 : 0
            guard let list = lists[idleCursor], list.idleTimeout != 0 else { continue }
            let slot = flows.find(list.key, hash: flows.hash(list.key))
            guard slot >= 0, let entry = flows.slot(slot),
                seconds &- entry.lastUsed >= UInt32(list.idleTimeout)
            else { continue }
            output.emit(.flowExpired(key: list.key, cookie: list.cookie))
            deleteFlow(list.key)
        }
    }

    /// Ten times a second: a million flows are seen in 1.5 s, for less than a millisecond each time.
    private static let idleListsEachTime = 65_536
}
