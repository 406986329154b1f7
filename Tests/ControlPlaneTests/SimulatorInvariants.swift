import ControlPlane

/// What the simulator remembers to judge by.
struct Invariants {
    private struct Confirmation: Hashable {
        let change: ChangeID
        let resource: String
        let server: String
    }

    var table = ResourceTable()
    private var confirmations: Set<Confirmation> = []
    /// Resources of each change that have neither been dropped nor committed.
    var open: [ChangeID: Set<String>] = [:]
    var committed: Set<ChangeID> = []
    private var abandoned: [ChangeID: Set<String>] = [:]
    /// Servers on which a fence has succeeded at some time.
    var fenced: Set<String> = []
    /// Since when the server of a resource does not serve it.
    var badSince: [String: UInt64] = [:]
    var longestOutage: UInt64 = 0
    /// Commits of each resource after the last fault.
    var quietMoves: [String: Int] = [:]
    /// Nothing may happen any more.
    var isStill = false
    var commits = 0
    var deadMoves = 0
    var orderlyMoves = 0

    mutating func confirm(_ change: ChangeID, _ resource: String, _ server: String) {
        confirmations.insert(Confirmation(change: change, resource: resource, server: server))
    }

    mutating func abandon(_ change: ChangeID, _ resource: String) {
        abandoned[change, default: []].insert(resource)
    }

    func isAbandoned(_ change: ChangeID, _ resource: String) -> Bool {
        abandoned[change]?.contains(resource) ?? false
    }

    func isConfirmed(_ change: ChangeID, _ resource: String, _ server: String) -> Bool {
        confirmations.contains(Confirmation(change: change, resource: resource, server: server))
    }
}

extension Simulator {
    /// ns that a resource may be without service while a server could serve it: two rounds of unlucky
    /// confirmations, fences that fail, and the pauses between them.
    static var outageBound: UInt64 { 90 * second }

    /// The table changes by commits only, and only grows.
    func checkTable(_ actions: [ManagementAction]) {
        // What changes without an action is found with the next one.
        if actions.isEmpty { return }
        let old = invariants.table
        let new = manager.table
        invariants.table = new
        if new.version < old.version { violation("the table's version shrinks") }
        var moved: Set<String> = []
        for case .event(.committed(_, let version, let moves)) in actions {
            moved.formUnion(moves.map(\.resource))
            if version <= old.version { violation("a commit without a new version") }
        }
        for resource in new.all where resource.assigned != old[resource.name]?.assigned {
            if !moved.contains(resource.name) { violation("\(resource.name) without a commit") }
        }
        for resource in new.all where world[resource.assigned] == nil {
            violation("\(resource.name) is on \(resource.assigned), which is not there")
        }
    }

    func check(_ action: ManagementAction) {
        switch action {
        case .confirm(_, _, let server), .serverAlive(let server), .fence(_, let server),
            .probeNow(let server, _):
            checkKnown(server)
        case .moveSessions(_, let resource, let from, let to, let mode):
            checkKnown(from)
            checkKnown(to)
            checkOwners(resource, from, mode)
        case .event(let event): check(event)
        }
        if invariants.isStill { checkStill(action) }
    }

    private func checkKnown(_ server: String) {
        if world[server] == nil { violation("an action names \(server), which is not there") }
    }

    private func checkStill(_ action: ManagementAction) {
        switch action {
        case .event(.balanceSkipped), .event(.announcementIgnored): break
        default: violation("no rest: \(action)")
        }
    }

    private func check(_ event: ManagementEvent) {
        switch event {
        case .changePlanned(let id, _, let moves):
            invariants.open[id] = Set(moves.map(\.resource))
            for move in moves
            where invariants.open.contains(where: {
                $0.key != id && $0.value.contains(move.resource)
            }) {
                violation("\(move.resource) is in two changes")
            }
        case .dropped(let id, let resource, _): invariants.open[id]?.remove(resource)
        case .sessionsAbandoned(let id, let resource, _): invariants.abandon(id, resource)
        case .changeFinished(let id, _, _): invariants.open[id] = nil
        case .committed(let id, _, let moves):
            if !invariants.committed.insert(id).inserted { violation("\(id) committed twice") }
            if invariants.open.removeValue(forKey: id) != Set(moves.map(\.resource)) {
                violation("\(id) committed before all of it was answered")
            }
            for move in moves {
                checkWriters(move)
                invariants.commits += 1
                if isQuiet { invariants.quietMoves[move.resource, default: 0] += 1 }
                if !invariants.isConfirmed(id, move.resource, move.to) {
                    violation("\(move.resource) on \(move.to) was not confirmed for \(id)")
                }
            }
        default: break
        }
    }

    /// At the commit no server that is cut off and may still write has sessions of the resource, wherever earlier
    /// changes have left them.
    private func checkWriters(_ move: PlannedMove) {
        for (server, incarnation) in legs[move.resource] ?? [:] where server != move.to {
            guard let state = world[server], state.canBeFenced, state.incarnation == incarnation,
                manager.state(of: server) == .down
            else { continue }
            violation("\(move.resource) enters \(move.to), \(server) may still write")
        }
    }

    /// The old server must have given up the resource before the new one serves it.
    private func checkOwners(_ resource: String, _ from: String, _ mode: SessionMoveMode) {
        guard let state = world[from] else { return }
        let isGone = gone[resource]?.contains(from) ?? false
        if mode == .orderly {
            invariants.orderlyMoves += 1
            if manager.state(of: from) == .down { violation("orderly from \(from), which is down") }
            return
        }
        invariants.deadMoves += 1
        if isGone { return }
        if manager.state(of: from) != .down {
            violation("\(resource) cut from \(from), which is up")
        }
        // It still has the process that holds requests of these sessions.
        if state.canBeFenced, legs[resource]?[from] == state.incarnation {
            violation("\(resource) leaves \(from), which may still write and was not fenced")
        }
    }

    /// After each step: nobody is without service for long while a server could serve.
    func checkServers() {
        for (name, state) in world {
            let isGood = state.canServe && !manager.isDraining(name)
            if !isGood {
                world[name]?.goodSince = nil
            } else if state.goodSince == nil {
                world[name]?.goodSince = now
            }
        }
        for resource in manager.table.all {
            let name = resource.name
            if isServing(resource.assigned, name) {
                invariants.badSince[name] = nil
                continue
            }
            let since = invariants.badSince[name] ?? now
            invariants.badSince[name] = since
            for holder in resource.servers where holder != resource.assigned {
                guard isServing(holder, name), let good = world[holder]?.goodSince else { continue }
                let outage = now - max(since, good)
                invariants.longestOutage = max(invariants.longestOutage, outage)
                if outage > Self.outageBound {
                    violation("\(name) is down on \(resource.assigned), \(holder) could serve it")
                }
            }
        }
    }

    func checkEnd() {
        guard violations.isEmpty else { return }
        for resource in manager.table.all {
            if !isServing(resource.assigned, resource.name) {
                violation("\(resource.name) ends on \(resource.assigned), which does not serve")
            }
            if manager.isChanging(resource.name) { violation("\(resource.name) still moves") }
        }
        for (resource, count) in invariants.quietMoves where count > 6 {
            violation("\(resource) moved \(count) times without a reason")
        }
    }
}
