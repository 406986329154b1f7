// What people ask for, and balancing.

extension ResourceManager {
    /// Accepts or refuses at once; what follows is told by events.
    package mutating func perform(
        _ operation: ManagementOperation, now time: UInt64
    ) throws(ManagementRefusal) -> [ManagementAction] {
        advance(to: time)
        switch operation {
        case .move(let resource, let server): try move(resource, to: server)
        case .drain(let server): try drain(server)
        case .undrain(let server): try undrain(server)
        case .addServer(let server, let resources): try add(server, resources)
        case .removeServer(let server, let force): try remove(server, force: force)
        case .applyBalance(let moves): try applyBalance(moves)
        case .setAutomaticBalance(let isOn):
            isBalancingAutomatically = isOn
            balanceAt = isOn ? now + settings.balanceInterval : nil
            steadySince = now
        }
        return settle()
    }

    private func checkMove(_ resource: String, to server: String) throws(ManagementRefusal) {
        guard let entry = table[resource] else { throw .unknownResource(resource) }
        guard index(of: server) != nil else { throw .unknownServer(server) }
        guard entry.servers.contains(server), absent[resource]?[server] == nil else {
            throw .notHeld(resource: resource, server: server)
        }
        if isChanging(resource) { throw .changeInProgress(resource: resource) }
        if entry.assigned == server { throw .alreadyThere(resource: resource, server: server) }
        if let why = unusable(server, allowsSuspect: false) {
            throw .serverNotUsable(server, why: why)
        }
    }

    private mutating func move(_ resource: String, to server: String) throws(ManagementRefusal) {
        try checkMove(resource, to: server)
        let from = table.assignedServer(of: resource)
        begin(.operatorMove, [PlannedMove(resource: resource, from: from, to: server)])
    }

    private func position(_ server: String) throws(ManagementRefusal) -> Int {
        guard let index = index(of: server) else { throw .unknownServer(server) }
        return index
    }

    private mutating func drain(_ server: String) throws(ManagementRefusal) {
        let index = try position(server)
        if servers[index].isLeaving { throw .alreadyDraining(server) }
        servers[index].isDraining = true
        servers[index].drainStarted = now
        servers[index].retryAt = nil
        servers[index].attempts = 0
        emit(.drainStarted(server))
    }

    private mutating func undrain(_ server: String) throws(ManagementRefusal) {
        let index = try position(server)
        guard servers[index].isLeaving else { throw .notDraining(server) }
        servers[index].isDraining = false
        servers[index].isRemoving = false
        servers[index].drainStarted = nil
        emit(.drainCancelled(server))
        retryEverything()
    }

    private mutating func add(
        _ server: ManagedServer, _ resources: [String]
    ) throws(ManagementRefusal) {
        if index(of: server.name) != nil { throw .serverExists(server.name) }
        if let unknown = resources.first(where: { table[$0] == nil }) {
            throw .unknownResource(unknown)
        }
        for resource in resources { try? table.addHolder(server.name, of: resource) }
        servers.append(ServerEntry(server, settings.monitor))
        emit(.serverAdded(server.name))
        apply(servers[servers.count - 1].monitor.start(now: now), servers.count - 1)
    }

    private mutating func remove(_ server: String, force: Bool) throws(ManagementRefusal) {
        let index = try position(server)
        let resources = table.assigned(to: server)
        if !force, !isIdle(server) {
            let coming = changes.flatMap(\.moves).filter { $0.from == server || $0.to == server }
            let names = Set(resources.map(\.name) + coming.map(\.resource))
            throw .stillServes(server, resources: names.sorted())
        }
        let stuck = resources.filter { $0.servers.allSatisfy { $0 == server } }
        if !stuck.isEmpty { throw .onlyHolder(server, resources: stuck.map(\.name)) }
        servers[index].isRemoving = true
        servers[index].retryAt = nil
        servers[index].attempts = 0
    }

    // MARK: balancing

    private mutating func applyBalance(_ moves: [PlannedMove]) throws(ManagementRefusal) {
        if let why = reasonNotToBalance { throw .stalePlan(why) }
        for move in moves {
            try checkMove(move.resource, to: move.to)
            if let from = move.from, from != table.assignedServer(of: move.resource) {
                throw .stalePlan("\(move.resource) is not on server \(from) any more")
            }
        }
        begin(.balance, moves)
    }

    /// Nil: everything is quiet.
    var reasonNotToBalance: String? {
        if !changes.isEmpty { return "a change is under way" }
        for entry in servers {
            let name = entry.server.name
            if entry.monitor.state == .suspect { return "server \(name) is suspected" }
            guard entry.isDown || entry.isLeaving, table.isServing(name) else {
                continue
            }
            return "server \(name) still has resources and is \(entry.isDown ? "down" : "drained")"
        }
        return nil
    }

    /// At its interval, and as soon as loads have become uneven; never twice within an interval.
    mutating func balanceIfDue() {
        defer {
            hasNewLoads = false
            foreseen = nil
        }
        guard isBalancingAutomatically, let time = balanceAt else { return }
        let isDue = time <= now
        let isRested = balancedAt.map { $0 + settings.balanceInterval <= now } ?? true
        guard isDue || (hasNewLoads && isRested) || foreseen != nil else { return }
        if isDue { balanceAt = now + settings.balanceInterval }
        if let why = reasonNotToBalance {
            // Looks between the intervals are nobody's business while there is nothing to be gained.
            guard isDue else { return }
            if lastSkip != why { emit(.balanceSkipped(why: why)) }
            lastSkip = why
            return
        }
        // What was measured while resources moved, or just before, says little of what it is like now.
        guard settings.balanceSettle == 0 || now >= steadySince + settings.balanceSettle else {
            return
        }
        let resting = resting
        if let foreseen { return balance(foreseen, resting) }
        let input = placementInput(pinning: resting)
        let isUneven = placement.isUneven(input)
        guard isDue || isUneven else { return }
        lastSkip = nil
        if isUneven {
            balancedAt = now
            balanceAt = now + settings.balanceInterval
        }
        if let proposal = placement.balance(input, now) { balance(proposal, resting) }
    }

    /// Resources that were moved a short time ago.
    package var resting: Set<String> {
        Set(movedAt.filter { $0.value + settings.balanceRest > now }.keys)
    }

    private mutating func balance(_ proposal: BalanceProposal, _ resting: Set<String>) {
        if proposal.moves.isEmpty { return }
        let isPossible = proposal.moves.allSatisfy { move in
            (try? checkMove(move.resource, to: move.to)) != nil && !resting.contains(move.resource)
        }
        guard isPossible else { return emit(.balanceSkipped(why: "a move is not possible")) }
        guard let id = begin(.balance, proposal.moves) else { return }
        balancedAt = now
        emit(.balancePlanned(id, why: proposal.why))
    }
}
