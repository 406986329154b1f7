// The configuration was read again: what a manager knows outlives it.

extension ResourceManager {
    /// Takes over what the manager of the configuration before knew. Drains go on; servers keep their state and
    /// their history, resources their homes, rests and loads. Changes that were under way are planned anew if
    /// they are still due (failovers, drains, sessions on their way); what people asked for is forgotten, as is
    /// the removal of a server that the configuration has again.
    ///
    /// - Parameter unchanged: servers that are where they were; another one of the same name has no history.
    package mutating func inherit(from old: ResourceManager, unchanged: Set<String>) {
        now = old.now
        // Answers to what the old one asked must not be taken for answers to others.
        lastChange = old.lastChange
        lastFence = old.lastFence
        for index in servers.indices {
            let name = servers[index].server.name
            guard let before = old.index(of: name) else { continue }
            servers[index].inherit(
                old.servers[before], isSame: unchanged.contains(name), settings.monitor, now: now)
        }
        inheritResources(old, unchanged)
        inheritSessions(old)
        isBalancingAutomatically = old.isBalancingAutomatically
        balanceAt = old.balanceAt.map { min($0, now + settings.balanceInterval) }
        balancedAt = old.balancedAt
        lastSkip = old.lastSkip
        steadySince = now
    }

    private mutating func inheritResources(_ old: ResourceManager, _ unchanged: Set<String>) {
        let table = table
        let isKnown = { (resource: String) in table[resource] != nil }
        homes = old.homes.filter { resource, home in
            // Where the file has put it people want it.
            index(of: home) != nil && table[resource]?.servers.contains(home) == true
                && table.assignedServer(of: resource) == old.table.assignedServer(of: resource)
        }
        pinned = old.pinned.filter(isKnown)
        loads = old.loads.filter { isKnown($0.key) }
        ownLoads = old.ownLoads.filter { index(of: $0.key) != nil }
        movedAt = old.movedAt.filter { isKnown($0.key) }
        absent = old.absent.filter { isKnown($0.key) }.mapValues { places in
            places.filter { unchanged.contains($0.key) }
        }
        announcers = old.announcers.filter { isKnown($0.key) }.mapValues {
            $0.intersection(unchanged)
        }
    }

    /// Sessions that have not come to the new server of their resource yet.
    private mutating func inheritSessions(_ old: ResourceManager) {
        var places = old.leftovers
        for move in old.changes.flatMap(\.moves) {
            guard case .movingSessions(let sources, _) = move.step,
                table.assignedServer(of: move.resource) == move.to
            else { continue }
            places[move.resource, default: []].formUnion(sources.map(\.server))
        }
        // Where the file has put a resource its sessions follow.
        for resource in table.all {
            guard let before = old.table.assignedServer(of: resource.name),
                before != resource.assigned
            else { continue }
            places[resource.name, default: []].insert(before)
        }
        leftovers = places.filter { table[$0.key] != nil }.mapValues { servers in
            servers.filter { index(of: $0) != nil }
        }
    }
}

extension ServerEntry {
    fileprivate mutating func inherit(
        _ old: ServerEntry, isSame: Bool, _ settings: ServerMonitor.Settings, now: UInt64
    ) {
        isDraining = old.isDraining
        drainStarted = old.drainStarted
        guard isSame else { return }
        monitor = old.monitor.resumed(settings, now: now)
        downSince = old.downSince
        failedOver = old.failedOver
        fence = old.fence
    }
}
