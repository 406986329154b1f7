// What the states of servers lead to: announcements to sessions, fencing, ends of failovers and drains.

extension ResourceManager {
    func isDown(_ server: String) -> Bool { index(of: server).map { servers[$0].isDown } ?? true }

    /// Why a server cannot take resources; nil: it can. A suspect may be asked to go on with what it was chosen for.
    func unusable(_ server: String, allowsSuspect: Bool) -> String? {
        guard let index = index(of: server) else { return "it is not there" }
        let entry = servers[index]
        if entry.isRemoving { return "it is being removed" }
        if entry.isDraining { return "it is being drained" }
        switch entry.monitor.state {
        case .up: return nil
        case .suspect: return allowsSuspect ? nil : "it is suspected"
        case .down: return "it is down"
        case .unknown: return "it has not been probed"
        }
    }

    mutating func apply(_ effects: [ServerMonitor.Effect], _ index: Int) {
        let name = servers[index].server.name
        for effect in effects {
            switch effect {
            case .probe(let timeout): emit(.probeNow(server: name, timeout: timeout))
            case .suspected(let suspicion): emit(.serverSuspected(name, suspicion))
            case .cleared:
                emit(.serverCleared(name))
                emit(.serverAlive(name))
                retryEverything()
            case .down(let cause, let since):
                servers[index].downSince = now
                servers[index].failedOver = []
                servers[index].fence = .none
                servers[index].retryAt = nil
                servers[index].attempts = 0
                emit(.serverDown(name, cause, sinceSuspicion: since))
            case .up:
                emit(.serverUp(name, downFor: servers[index].downSince.map { now - $0 }))
                servers[index].downSince = nil
                servers[index].fence = .none
                emit(.serverAlive(name))
                retryEverything()
            case .stirred: servers[index].fence = .none
            case .flapping(let isFlapping):
                emit(.serverFlapping(name, isFlapping))
                if !isFlapping { retryEverything() }
            }
        }
    }

    /// A server can be used again: whatever waits for one is tried at once.
    mutating func retryEverything() {
        for index in servers.indices {
            servers[index].retryAt = nil
            servers[index].attempts = 0
        }
    }

    /// Something of this server depends on the time of the next attempt.
    func hasRetry(_ entry: ServerEntry) -> Bool {
        guard let retryAt = entry.retryAt, retryAt > now else { return false }
        return true
    }

    /// Starts what is due. A server that holds nothing, and from which no session has to leave, needs no fence.
    mutating func reviewFences() {
        for index in servers.indices {
            var attempts = 0
            switch servers[index].fence {
            case .done: continue
            case .none: break
            case .running(_, let previous, let until):
                if until <= now { failFence(index, previous) }
                continue
            case .failed(let previous, let retryAt):
                if retryAt > now { continue }
                attempts = previous
            }
            guard servers[index].needsFence, !servers[index].monitor.isReturning,
                isHolding(servers[index].server.name)
            else {
                servers[index].fence = .none
                continue
            }
            let id = nextFence()
            let name = servers[index].server.name
            servers[index].fence = .running(
                id, attempts: attempts, until: now + settings.fenceTimeout)
            emit(.fenceStarted(id, server: name))
            emit(.fence(id, server: name))
        }
    }

    /// It serves something, or sessions are still to leave it.
    private func isHolding(_ server: String) -> Bool {
        table.isServing(server) || leftovers.values.contains { $0.contains(server) }
            || changes.contains { $0.moves.contains { $0.isLeaving(server) } }
    }

    mutating func takeFence(_ id: FenceID, _ server: String, isGood: Bool) {
        guard let index = index(of: server),
            case .running(id, let attempts, _) = servers[index].fence
        else { return }
        if isGood {
            servers[index].fence = .done
            emit(.fenced(server: server))
        } else {
            failFence(index, attempts)
        }
    }

    private mutating func failFence(_ index: Int, _ attempts: Int) {
        let pause = backoff(attempts)
        servers[index].fence = .failed(attempts: attempts + 1, retryAt: now + pause)
        emit(.fenceFailed(server: servers[index].server.name, retryIn: pause))
    }

    /// Ends of failovers and drains; servers that leave do so when they are empty.
    mutating func finishServers() {
        for index in servers.indices
        where servers[index].hasToReport && !isHolding(servers[index].server.name) {
            let name = servers[index].server.name
            if let since = servers[index].downSince, !servers[index].failedOver.isEmpty {
                emit(
                    .failoverFinished(
                        server: name, moved: servers[index].failedOver, sinceDetection: now - since)
                )
                servers[index].failedOver = []
            }
            if let since = servers[index].drainStarted {
                emit(.drainFinished(name, duration: now - since))
                servers[index].drainStarted = nil
            }
        }
        for entry in servers where entry.isRemoving { removeIfIdle(entry.server.name) }
    }

    /// Nothing is on it, comes to it or goes from it.
    func isIdle(_ server: String) -> Bool {
        !isHolding(server) && !changes.contains { $0.moves.contains { $0.to == server } }
    }

    mutating func removeIfIdle(_ server: String) {
        guard isIdle(server), table.removeHolder(server) else { return }
        servers.removeAll { $0.server.name == server }
        ownLoads[server] = nil
        for resource in homes.keys where homes[resource] == server { homes[resource] = nil }
        for resource in absent.keys { absent[resource]?[server] = nil }
        for resource in announcers.keys { announcers[resource]?.remove(server) }
        emit(.serverRemoved(server))
    }
}
