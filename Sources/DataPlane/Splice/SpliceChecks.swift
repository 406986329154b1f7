// Whether a step can be taken: asked for a whole batch before anything of it is done.

/// What the earlier commands of a batch will have changed.
struct BatchPlan {
    var flowCount: Int
    /// Keys that were not in the table before the batch, and those that will not be any more.
    var added: Set<FlowKey> = []
    var removed: Set<FlowKey> = []
    var states: [SpliceID: SpliceState] = [:]
}

extension Splicer {
    /// Nil when `apply` will do the command: then the plan holds what it changes.
    func check(
        _ command: SpliceCommand, flows: borrowing FlowTable, plan: inout BatchPlan
    ) -> BatchError.Reason? {
        switch command {
        case .open(let id, let leg, _, _):
            guard id < UInt32(clamping: capacity) else { return .spliceOutOfRange(id) }
            guard plannedState(id, plan) == .free else { return .spliceInUse(id) }
            if let reason = refusal(leg, flows: flows, plan: &plan) { return reason }
            plan.states[id] = .slow
            return nil
        case .attachServer(let id, let leg):
            return need(id, [.slow], &plan) ?? refusal(leg, flows: flows, plan: &plan)
        case .updateLeg(let id, _, _, _, _): return need(id, [.slow], &plan)
        case .beginDrainToSplice(let id): return need(id, [.slow], &plan, next: .drainToSplice)
        case .probe(let id):
            return need(
                id, [.drainToSplice, .drainToSlow, .hold, .spliced, .serverLost], &plan)
        case .hold(let id):
            return need(id, [.drainToSplice, .drainToSlow, .spliced], &plan, next: .hold)
        case .resumeDrain(let id): return need(id, [.hold], &plan, next: .drainToSplice)
        case .abortToSlow(let id): return need(id, [.drainToSplice, .hold], &plan, next: .slow)
        case .install(let id, _, _, let messages, _):
            if let messages, !MessageTracker.accepts(messages) { return .spliceState(id, .hold) }
            return need(id, [.hold], &plan, next: .spliced)
        case .beginDrainToSlow(let id): return need(id, [.spliced], &plan, next: .drainToSlow)
        case .abortToSpliced(let id):
            return need(id, [.drainToSlow, .hold], &plan, next: .spliced)
        case .finishToSlow(let id, _, _): return need(id, [.hold], &plan, next: .slow)
        case .loseServer(let id):
            return need(id, [.spliced, .drainToSlow], &plan, next: .serverLost)
        case .restoreClient(let id, _): return need(id, [.serverLost], &plan, next: .slow)
        case .inspect(let id), .setTimeouts(let id, _, _), .setRequestDeadline(let id, _):
            return need(id, SpliceState.allCases, &plan)
        case .close(let id):
            if let reason = need(id, SpliceState.allCases, &plan) { return reason }
            switch plannedState(id, plan) {
            case .slow, .drainToSplice: plan.states[id] = .free
            case .spliced where records[Int(id)].isEndedByPeers: break
            default: plan.states[id] = .closed
            }
            return nil
        }
    }

    private func plannedState(_ id: SpliceID, _ plan: BatchPlan) -> SpliceState {
        plan.states[id] ?? records[Int(id)].state
    }

    private func need(
        _ id: SpliceID, _ states: [SpliceState], _ plan: inout BatchPlan, next: SpliceState? = nil
    ) -> BatchError.Reason? {
        guard id < UInt32(clamping: capacity) else { return .spliceOutOfRange(id) }
        let state = plannedState(id, plan)
        guard state != .free else { return .spliceNotOpen(id) }
        guard states.contains(state) else { return .spliceState(id, state) }
        if let next { plan.states[id] = next }
        return nil
    }

    /// A leg takes two flows that must not be there yet.
    private func refusal(
        _ leg: SpliceLeg, flows: borrowing FlowTable, plan: inout BatchPlan
    ) -> BatchError.Reason? {
        guard flows.capacity - plan.flowCount >= 2 else {
            return .flowTableFull(limit: flows.capacity)
        }
        var record = SpliceSideRecord()
        setAddresses(&record, leg)
        let keys = withUnsafeMutablePointer(to: &record) { [networkKey($0), cpuKey($0)] }
        for key in keys
        where plan.added.contains(key) || (flows.contains(key) && !plan.removed.contains(key)) {
            return .flowExists
        }
        plan.flowCount += 2
        plan.added.formUnion(keys)
        return nil
    }

    func setAddresses(_ record: inout SpliceSideRecord, _ leg: SpliceLeg) {
        record.localAddress = leg.localAddress
        record.localPort = leg.localPort
        record.localMAC = leg.localMAC
        record.remoteAddress = leg.remoteAddress
        record.remotePort = leg.remotePort
        record.remoteMAC = leg.remoteMAC
        record.domain = leg.domain
    }
}
