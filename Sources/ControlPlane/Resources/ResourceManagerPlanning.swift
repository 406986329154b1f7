// What should move: placement is asked with the state of this moment.

extension ResourceManager {
    /// The state as it will be when the changes under way are done. With `lastResort` servers that flap count
    /// as available.
    package func placementInput(lastResort: Bool = false, pinning: Set<String> = [])
        -> PlacementInput
    {
        var targets: [String: String] = [:]
        for change in changes { for move in change.moves { targets[move.resource] = move.to } }
        let servers = servers.map { entry in
            let server = entry.server
            return PlacementServer(
                name: server.name, isAvailable: lastResort ? entry.isUsable : entry.isAvailable,
                isSpare: server.isSpare, ownLoad: ownLoads[server.name] ?? 0, weight: server.weight)
        }
        let resources = table.all.map { resource in
            let name = resource.name
            return PlacementResource(
                name: name, servers: resource.servers.filter { absent[name]?[$0] == nil },
                assigned: targets[name] ?? resource.assigned, home: homes[name],
                load: loads[name] ?? 0,
                isMovable: !pinned.contains(name) && !pinning.contains(name))
        }
        return PlacementInput(servers: servers, resources: resources)
    }

    /// Servers for a resource that is in a change, the best first; those that flap are last.
    func candidates(for move: Move, isFailover: Bool) -> [String] {
        candidates(for: move.resource, on: move.from, isFailover: isFailover)
    }

    private func candidates(
        for resource: String, on owner: String, isFailover: Bool
    ) -> [String] {
        var result: [String] = []
        for lastResort in isFailover ? [false, true] : [false] {
            var input = placementInput(lastResort: lastResort)
            if let index = input.resources.firstIndex(where: { $0.name == resource }) {
                input.resources[index].assigned = owner
            }
            for name in placement.candidates(resource, input) where !result.contains(name) {
                let isSpare = index(of: name).map { servers[$0].server.isSpare } ?? true
                if isFailover || !isSpare { result.append(name) }
            }
        }
        return result
    }

    mutating func plan() {
        planAnnounced()
        defer { planLeftovers() }
        for index in servers.indices where !hasRetry(servers[index]) {
            let entry = servers[index]
            if entry.isDown {
                planFailover(index)
            } else if entry.isLeaving, entry.monitor.state == .up {
                planDrain(index)
            } else if entry.isAvailable {
                planGiveBack(entry.server.name)
            }
        }
    }

    /// Resources on a server that no change has yet.
    private func waiting(on server: String) -> [String] {
        table.assigned(to: server).map(\.name).filter { !isChanging($0) }
    }

    private mutating func planFailover(_ index: Int) {
        let name = servers[index].server.name
        guard table.isServing(name) else { return }
        let lost = waiting(on: name)
        if lost.isEmpty { return }
        var moves = placement.failover([name], placementInput()).filter {
            lost.contains($0.resource)
        }
        var left = Set(lost).subtracting(moves.map(\.resource))
        if !left.isEmpty, servers.contains(where: { $0.isUsable && $0.monitor.isFlapping }) {
            var input = placementInput(lastResort: true)
            for move in moves {
                guard let place = input.resources.firstIndex(where: { $0.name == move.resource })
                else { continue }
                input.resources[place].assigned = move.to
            }
            moves += placement.failover([name], input).filter { left.contains($0.resource) }
            left.subtract(moves.map(\.resource))
        }
        begin(.failover(of: name), moves)
        reportUnplaceable(index, lost.filter(left.contains))
    }

    private mutating func planDrain(_ index: Int) {
        let name = servers[index].server.name
        let waiting = waiting(on: name)
        if waiting.isEmpty { return }
        let moves = placement.drain(name, placementInput()).filter {
            waiting.contains($0.resource)
        }
        begin(.drain(of: name), moves)
        let planned = Set(moves.map(\.resource))
        reportUnplaceable(index, waiting.filter { !planned.contains($0) })
    }

    /// They are tried again later. Said once, until something has changed.
    private mutating func reportUnplaceable(_ index: Int, _ resources: [String]) {
        if resources.isEmpty { return }
        let pause = backoff(servers[index].attempts)
        servers[index].retryAt = now + pause
        servers[index].attempts += 1
        guard servers[index].attempts == 1 else { return }
        emit(
            .unplaceable(
                server: servers[index].server.name, resources: resources, retryIn: pause))
    }

    private mutating func planGiveBack(_ name: String) {
        let isWanted = homes.contains { resource, home in
            home == name && !isChanging(resource) && isOnSpare(resource)
        }
        guard isWanted else { return }
        // What a spare has that is down itself is a matter of failover.
        let moves = placement.giveBack(name, placementInput()).filter { isOnSpare($0.resource) }
        begin(.giveBack(to: name), moves)
    }

    /// It is on a spare that is alive.
    private func isOnSpare(_ resource: String) -> Bool {
        guard let place = table.assignedServer(of: resource), let index = index(of: place) else {
            return false
        }
        return servers[index].server.isSpare && !servers[index].isDown
    }

    // MARK: announcements

    mutating func take(_ announcement: ResourceAnnouncement, of server: String) {
        for resource in announcement.appeared where isKnown(resource, server) {
            absent[resource]?[server] = nil
            announcers[resource, default: []].insert(server)
            // A resource that is known; its identity is checked before it moves.
            try? table.addHolder(server, of: resource)
            let owner = table.assignedServer(of: resource) ?? server
            if owner != server, absent[resource]?[owner] == nil, !isDown(owner) {
                emit(
                    .announcementIgnored(
                        server: server, resource: resource, why: "it stays on server \(owner)"))
            }
        }
        for resource in announcement.leaving where isKnown(resource, server) {
            announcers[resource]?.remove(server)
            absent[resource, default: [:]][server] = Absence(isServing: true, searchAt: nil)
        }
        for resource in announcement.gone where isKnown(resource, server) {
            announcers[resource]?.remove(server)
            let searchAt = absent[resource]?[server]?.searchAt ?? now + settings.announcementWait
            absent[resource, default: [:]][server] = Absence(isServing: false, searchAt: searchAt)
        }
    }

    /// Health checks see a target come back where no agent tells of it: a daemon that listens before it has its
    /// targets, say. What an agent has said is for the agent to take back.
    mutating func takeCheck(of resource: String, at server: String, isThere: Bool) {
        let known = absent[resource]?[server]
        if isThere {
            if known?.isFound == true { absent[resource]?[server] = nil }
        } else if isKnown(resource, server) {
            announcers[resource]?.remove(server)
            absent[resource, default: [:]][server] = Absence(
                isServing: false, searchAt: known?.searchAt ?? now + settings.announcementWait,
                isFound: known?.isFound ?? true)
        }
    }

    /// Whether a check has found that a server does not have a resource which it should have.
    package func isMissing(_ resource: String, at server: String) -> Bool {
        absent[resource]?[server]?.isFound == true
    }

    private mutating func isKnown(_ resource: String, _ server: String) -> Bool {
        let why: String
        if index(of: server) == nil {
            why = "the server is not configured"
        } else if table[resource] == nil {
            why = "the resource is not configured"
        } else {
            return true
        }
        emit(.announcementIgnored(server: server, resource: resource, why: why))
        return false
    }

    /// Resources that have left their server go to the one that has announced them, or, after a while, to any.
    private mutating func planAnnounced() {
        if absent.isEmpty { return }
        var moves: [PlannedMove] = []
        for resource in table.all {
            let name = resource.name
            guard let absence = absent[name]?[resource.assigned], !isChanging(name),
                let owner = index(of: resource.assigned), !servers[owner].isDown,
                !hasRetry(servers[owner])
            else { continue }
            let announced = announcers[name] ?? []
            let usable = candidates(for: name, on: resource.assigned, isFailover: true)
            let mayChoose = absence.searchAt.map { $0 <= now } ?? false
            guard
                let target = usable.first(where: announced.contains)
                    ?? (mayChoose ? usable.first : nil)
            else { continue }
            moves.append(PlannedMove(resource: name, from: resource.assigned, to: target))
        }
        if !moves.isEmpty { begin(.announcement, moves) }
    }
}
