// The way of a change: confirmations, commit, sessions.

extension ResourceManager {
    /// Starts a change; resources that are in one already are left out. Nil: nothing was left.
    @discardableResult
    mutating func begin(_ reason: ChangeReason, _ moves: [PlannedMove]) -> ChangeID? {
        let until = now + settings.confirmTimeout
        let steps: [Move] = moves.compactMap { move in
            guard let from = table.assignedServer(of: move.resource), from != move.to,
                !isChanging(move.resource)
            else { return nil }
            return Move(
                resource: move.resource, from: from, to: move.to, tried: [move.to],
                step: .confirming(until: until))
        }
        guard !steps.isEmpty else { return nil }
        let id = nextChange()
        changes.append(Change(id: id, reason: reason, started: now, moves: steps))
        emit(.changePlanned(id, reason, steps.map(\.planned)))
        for step in steps { emit(.confirm(id, resource: step.resource, server: step.to)) }
        return id
    }

    mutating func takeConfirmation(
        _ id: ChangeID, _ resource: String, _ server: String, isGood: Bool
    ) {
        guard let (change, move) = find(id, resource), changes[change].moves[move].to == server,
            case .confirming = changes[change].moves[move].step
        else { return }
        if isGood {
            changes[change].moves[move].step = .confirmed
            emit(.confirmed(id, resource: resource, server: server))
        } else {
            refuse(change, move, why: "it does not serve the resource")
        }
    }

    mutating func takeSessionsMoved(
        _ id: ChangeID, _ resource: String, from: String, moved: Int, failed: Int
    ) {
        guard let (change, move) = find(id, resource),
            case .movingSessions(var sources, let until) = changes[change].moves[move].step,
            let source = sources.firstIndex(where: { $0.server == from }),
            sources[source].mode != nil
        else { return }
        emit(.sessionsMoved(id, resource: resource, moved: moved, failed: failed))
        sources.remove(at: source)
        if sources.isEmpty {
            changes[change].moves.remove(at: move)
        } else {
            changes[change].moves[move].step = .movingSessions(sources, until: until)
        }
    }

    private func find(_ id: ChangeID, _ resource: String) -> (Int, Int)? {
        guard let change = changes.firstIndex(where: { $0.id == id }),
            let move = changes[change].moves.firstIndex(where: { $0.resource == resource })
        else { return nil }
        return (change, move)
    }

    /// The planned server does not do: the next one, or the resource leaves the change. True: it has left.
    @discardableResult
    private mutating func refuse(_ change: Int, _ position: Int, why: String) -> Bool {
        let move = changes[change].moves[position]
        let id = changes[change].id
        emit(.refused(id, resource: move.resource, server: move.to, why: why))
        let next =
            changes[change].hasAlternatives
            ? candidates(for: move, isFailover: isDown(move.from)).first {
                !move.tried.contains($0)
            }
            : nil
        guard let next else {
            drop(change, position, why: "no server confirmed")
            delayRetry(move.from, changes[change].reason)
            return true
        }
        changes[change].moves[position].to = next
        changes[change].moves[position].tried.insert(next)
        changes[change].moves[position].step = .confirming(until: now + settings.confirmTimeout)
        emit(.confirm(id, resource: move.resource, server: next))
        return false
    }

    private mutating func drop(_ change: Int, _ position: Int, why: String) {
        // A plan for balance is carried out whole or not at all: half of one may be worse than none.
        if changes[change].reason == .balance { changes[change].isBroken = true }
        let move = changes[change].moves.remove(at: position)
        emit(.dropped(changes[change].id, resource: move.resource, why: why))
    }

    /// The next attempt waits for a while.
    private mutating func delayRetry(_ source: String, _ reason: ChangeReason) {
        var name = source
        if case .giveBack(let to) = reason { name = to }
        guard let index = index(of: name), servers[index].retryAt.map({ $0 <= now }) ?? true
        else { return }
        servers[index].retryAt = now + backoff(servers[index].attempts)
        servers[index].attempts += 1
    }

    /// Time-outs, and what the states of the servers mean for changes under way.
    mutating func reviewMoves() {
        for change in changes.indices {
            var position = 0
            while position < changes[change].moves.count {
                let isGone =
                    changes[change].isCommitted
                    ? reviewSessions(change, position) : reviewPlanned(change, position)
                if !isGone { position += 1 }
            }
            while changes[change].isBroken, !changes[change].moves.isEmpty {
                drop(change, 0, why: "the plan cannot be carried out whole")
            }
        }
    }

    /// True: the move has left its change.
    private mutating func reviewPlanned(_ change: Int, _ position: Int) -> Bool {
        let move = changes[change].moves[position]
        if let why = reasonToDrop(move, changes[change].reason) {
            drop(change, position, why: why)
            return true
        }
        if let why = unusable(move.to, allowsSuspect: true) {
            return refuse(change, position, why: why)
        }
        if case .confirming(let until) = move.step, until <= now {
            return refuse(change, position, why: "no answer")
        }
        return false
    }

    private func reasonToDrop(_ move: Move, _ reason: ChangeReason) -> String? {
        switch reason {
        case .failover:
            return isDown(move.from) ? nil : "server \(move.from) is back"
        case .drain:
            if isDown(move.from) { return "server \(move.from) is down" }
            let isLeaving = index(of: move.from).map { servers[$0].isLeaving } ?? false
            return isLeaving ? nil : "server \(move.from) is not drained any more"
        case .giveBack, .balance:
            return isDown(move.from) ? "server \(move.from) is down" : nil
        case .announcement:
            let isBack = absent[move.resource]?[move.from] == nil && !isDown(move.from)
            return isBack ? "server \(move.from) has it again" : nil
        case .operatorMove, .leftovers: return nil
        }
    }

    /// True: the move has left its change.
    private mutating func reviewSessions(_ change: Int, _ position: Int) -> Bool {
        let move = changes[change].moves[position]
        guard case .movingSessions(var sources, var until) = move.step else { return false }
        if isDown(move.to) {
            leftovers[move.resource, default: []].formUnion(sources.map(\.server))
            return abandon(change, position, why: "server \(move.to) is down")
        }
        if until <= now, sources.allSatisfy({ $0.mode != nil }) {
            return abandon(change, position, why: "not done in time")
        }
        for index in sources.indices where sources[index].mode != .dead {
            let source = sources[index]
            guard isDown(source.server) || source.mode == nil else { continue }
            until = now + settings.moveTimeout
            sources[index].mode = startSessions(changes[change].id, move, from: source.server)
        }
        changes[change].moves[position].step = .movingSessions(sources, until: until)
        return false
    }

    /// Sends the sessions on their way, unless their server has to be fenced before: then nil.
    private mutating func startSessions(
        _ id: ChangeID, _ move: Move, from server: String
    ) -> SessionMoveMode? {
        if needsFence(server) { return nil }
        let isDead = isDown(server) || absent[move.resource]?[server]?.isServing == false
        let mode: SessionMoveMode = isDead ? .dead : .orderly
        emit(
            .moveSessions(id, resource: move.resource, from: server, to: move.to, mode: mode))
        return mode
    }

    private func needsFence(_ server: String) -> Bool {
        index(of: server).map { servers[$0].needsFence } ?? false
    }

    private mutating func abandon(_ change: Int, _ position: Int, why: String) -> Bool {
        let move = changes[change].moves.remove(at: position)
        emit(.sessionsAbandoned(changes[change].id, resource: move.resource, why: why))
        return true
    }

    /// Sessions that an interrupted change has left behind, or that are where their resource was before the
    /// configuration was read again, come to the server of their resource, when no other change takes them along
    /// and that server is known to serve.
    mutating func planLeftovers() {
        for resource in leftovers.keys.sorted() where !isChanging(resource) {
            guard let owner = table.assignedServer(of: resource),
                let state = state(of: owner), state == .up || state == .suspect
            else { continue }
            leftovers[resource]?.remove(owner)
            guard let from = leftovers[resource]?.min() else {
                leftovers[resource] = nil
                continue
            }
            let id = nextChange()
            var move = Move(
                resource: resource, from: from, to: owner, tried: [], step: .confirmed)
            emit(.changePlanned(id, .leftovers, []))
            move.step = sessions(of: move, id)
            changes.append(
                Change(
                    id: id, reason: .leftovers, started: now, moves: [move], isCommitted: true))
        }
    }

    /// The way of all sessions to the new server.
    private mutating func sessions(of move: Move, _ id: ChangeID) -> Move.Step {
        var places = leftovers.removeValue(forKey: move.resource) ?? []
        places.insert(move.from)
        places.remove(move.to)
        let sources = places.sorted().map { server in
            SessionSource(server: server, mode: startSessions(id, move, from: server))
        }
        return .movingSessions(sources, until: now + settings.moveTimeout)
    }

    /// Changes whose moves have all been confirmed, and whose old servers cannot write any more, enter the table.
    mutating func commit() {
        for change in changes.indices where isReady(changes[change]) {
            var next = table
            var committed: [Move] = []
            for move in changes[change].moves {
                // The server held the resource when it was chosen, and holders leave only when idle.
                guard (try? next.assign(move.resource, to: move.to)) != nil else { continue }
                committed.append(move)
            }
            table = next
            changes[change].isCommitted = true
            emit(.committed(changes[change].id, version: table.version, committed.map(\.planned)))
            changes[change].moves = committed.map { entered($0, of: changes[change]) }
        }
    }

    private func isReady(_ change: Change) -> Bool {
        !change.isCommitted && !change.moves.isEmpty
            && change.moves.allSatisfy { move in
                move.step == .confirmed && !needsFence(move.from)
                    && !(leftovers[move.resource] ?? []).contains(where: needsFence)
            }
    }

    /// A resource is on its new server now: its sessions follow.
    private mutating func entered(_ move: Move, of change: Change) -> Move {
        movedAt[move.resource] = now
        if case .failover = change.reason {
            let home = homes[move.resource] ?? move.from
            homes[move.resource] = home == move.to ? nil : home
            if let index = index(of: move.from) { servers[index].failedOver.append(move.resource) }
        } else {
            homes[move.resource] = nil
        }
        var result = move
        result.step = sessions(of: move, change.id)
        return result
    }

    mutating func finishChanges() {
        for change in changes where change.moves.isEmpty {
            emit(.changeFinished(change.id, change.reason, duration: now - change.started))
            if change.isCommitted { steadySince = now }
        }
        changes.removeAll { $0.moves.isEmpty }
    }
}
