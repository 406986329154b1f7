/// The resource management process: decides which server serves which resource, and is the only one that changes
/// the table. A machine without threads, sockets and clocks: inputs and the time go in, actions come out.
///
/// **Servers.** Each has a `ServerMonitor` (unknown, up, suspect, down). Out of use for new resources while
/// not up, drained, about to be removed, or flapping; a flapping server is taken as the last resort.
///
/// **Changes.** Every change goes plan -> confirm -> commit -> sessions -> finished:
///
///     planned --confirm each--> confirming --all answered--> committed --sessions moved--> finished
///                                  | refused, late: next candidate      | target fails: finished,
///                                  | none left: dropped, retry later    |   the failover starts anew
///
/// * A resource is in at most one change. All confirmed moves of one change enter the table at once, after the
///   last answer. Nothing enters it that its new server has not confirmed for this very change.
/// * A server that fails gets one change of its own for all its resources; several failures go on side by side.
///   Resources that nobody takes stay and are tried again, with a growing pause, and as soon as a server can be
///   used again. With all servers down nothing moves.
/// * A server that is back before the commit keeps its resources: the failover is *dropped*. After the commit it
///   gets resources back only by balancing, by people, or from a spare that stood in for it (`giveBack`).
/// * A target that fails before the commit counts as having refused, even when it has confirmed.
/// * An orderly change (drain, balance, give back) whose source fails is dropped; the failover takes over. What
///   people asked for goes on, in mode `dead`. An orderly move of sessions whose source fails is told again with
///   mode `dead`.
/// * A target that fails while sessions come to it leaves some behind. The next change takes them along, each
///   server's in its own mode and after its own fence; if the target is back first, they are sent to it again.
/// * A server that died silently and can be fenced: the fence runs while targets confirm, the commit waits for it. A
///   fence that fails is repeated with a growing pause; until then nothing is moved. The outcome counts for
///   this failure only: after any sign of life a fence is due again, but not before the next bad probe.
/// * Balancing waits for a quiet moment: no change, nothing drained, no failed server that still has resources.
package struct ResourceManager: Sendable {
    package internal(set) var table: ResourceTable
    private(set) var settings: ManagementSettings
    private(set) var placement: PlacementFunctions
    /// In the order of the configuration.
    var servers: [ServerEntry]
    var changes: [Change] = []
    /// Where resources belong that a failover has moved.
    var homes: [String: String] = [:]
    /// Resources that stay where they are unless their server fails.
    package var pinned: Set<String> = []
    var loads: [String: Double] = [:]
    var ownLoads: [String: Double] = [:]
    /// Servers where sessions of a resource may be that an interrupted change has left behind.
    var leftovers: [String: Set<String>] = [:]
    /// When a resource was moved last.
    var movedAt: [String: UInt64] = [:]
    /// Resources that servers have announced to be gone from them.
    var absent: [String: [String: Absence]] = [:]
    /// Servers that have announced a resource.
    var announcers: [String: Set<String>] = [:]
    package internal(set) var isBalancingAutomatically = false
    var balanceAt: UInt64?
    /// When a better distribution was looked for last.
    var balancedAt: UInt64?
    /// Loads have come that nobody has looked at.
    var hasNewLoads = false
    /// Since when nothing has changed its place.
    var steadySince: UInt64 = 0
    var lastSkip: String?
    var foreseen: BalanceProposal?
    var now: UInt64 = 0
    var output: [ManagementAction] = []
    var lastChange: UInt64 = 0
    var lastFence: UInt64 = 0

    package init(
        servers: [ManagedServer], table: ResourceTable, settings: ManagementSettings = .init(),
        placement: PlacementFunctions = .standard()
    ) {
        self.servers = servers.map { ServerEntry($0, settings.monitor) }
        self.table = table
        self.settings = settings
        self.placement = placement
    }

    package mutating func handle(
        _ input: ManagementInput, now time: UInt64
    ) -> [ManagementAction] {
        advance(to: time)
        switch input {
        case .start:
            for index in servers.indices { apply(servers[index].monitor.start(now: now), index) }
        case .evidence(let evidence, let server):
            guard let index = index(of: server) else { break }
            apply(servers[index].monitor.handle(evidence, now: now), index)
        case .confirmed(let id, let resource, let server, let isGood):
            takeConfirmation(id, resource, server, isGood: isGood)
        case .sessionsMoved(let id, let resource, let from, let moved, let failed):
            takeSessionsMoved(id, resource, from: from, moved: moved, failed: failed)
        case .fenced(let id, let server, let isGood):
            takeFence(id, server, isGood: isGood)
        case .loads(let resources, let own):
            loads.merge(resources) { _, new in new }
            ownLoads.merge(own) { _, new in new }
            hasNewLoads = true
        case .foreseen(let proposal): foreseen = proposal
        case .announced(let server, let announcement): take(announcement, of: server)
        case .checked(let resource, let server, let isThere):
            takeCheck(of: resource, at: server, isThere: isThere)
        case .tick: break
        }
        return settle()
    }

    /// A resource that servers have announced and that may appear by itself. False: it is known already.
    package mutating func adopt(_ resource: Resource) -> Bool { table.add(resource) }

    mutating func advance(to time: UInt64) { now = max(now, time) }

    /// Everything that follows from what is known now. Each step does only what is not done yet.
    mutating func settle() -> [ManagementAction] {
        for index in servers.indices { apply(servers[index].monitor.tick(now: now), index) }
        reviewMoves()
        commit()
        finishChanges()
        plan()
        reviewFences()
        finishServers()
        balanceIfDue()
        defer { output.removeAll() }
        return output
    }

    /// When `tick` is wanted, at the latest.
    package var nextDeadline: UInt64? {
        var times: [UInt64?] = [isBalancingAutomatically ? balanceAt : nil]
        for entry in servers {
            times += [entry.monitor.nextDeadline, entry.fence.deadline]
            if hasRetry(entry) { times.append(entry.retryAt) }
        }
        for change in changes { times += change.moves.map(\.deadline) }
        for places in absent.values {
            times += places.values.map { $0.searchAt.map { $0 > now ? $0 : nil } ?? nil }
        }
        return times.compactMap { $0 }.min()
    }

    /// Another policy for balancing, while everything else goes on.
    package mutating func setBalance(_ functions: PlacementFunctions, like new: ManagementSettings)
    {
        placement.balance = functions.balance
        placement.isUneven = functions.isUneven
        settings.balanceInterval = new.balanceInterval
        settings.balanceRest = new.balanceRest
        settings.balanceSettle = new.balanceSettle
        if let time = balanceAt { balanceAt = min(time, now + settings.balanceInterval) }
    }

    /// State of a server, for people; nil: there is none of this name.
    package func state(of server: String) -> ServerMonitor.State? {
        index(of: server).map { servers[$0].monitor.state }
    }

    package func isDraining(_ server: String) -> Bool {
        index(of: server).map { servers[$0].isLeaving } ?? false
    }

    package var serverNames: [String] { servers.map(\.server.name) }

    /// True: a change holds the resource.
    package func isChanging(_ resource: String) -> Bool {
        changes.contains { $0.moves.contains { $0.resource == resource } }
    }

    func index(of server: String) -> Int? { servers.firstIndex { $0.server.name == server } }

    mutating func emit(_ action: ManagementAction) { output.append(action) }

    mutating func emit(_ event: ManagementEvent) { output.append(.event(event)) }

    mutating func nextChange() -> ChangeID {
        lastChange += 1
        return ChangeID(lastChange)
    }

    mutating func nextFence() -> FenceID {
        lastFence += 1
        return FenceID(lastFence)
    }

    func backoff(_ attempts: Int) -> UInt64 {
        min(settings.retryMaximum, settings.retryInitial << UInt64(min(max(0, attempts), 16)))
    }
}

/// What is known of one server.
struct ServerEntry: Sendable {
    let server: ManagedServer
    var monitor: ServerMonitor
    var isDraining = false
    var isRemoving = false
    /// Nil: nothing is left to report.
    var drainStarted: UInt64?
    var downSince: UInt64?
    /// Resources that have left it since it is down.
    var failedOver: [String] = []
    var fence = FenceState.none
    /// The next attempt to move resources away from it or back to it.
    var retryAt: UInt64?
    var attempts = 0

    init(_ server: ManagedServer, _ settings: ServerMonitor.Settings) {
        self.server = server
        monitor = ServerMonitor(settings)
    }

    /// Its end of a failover or of a drain is still to be told.
    var hasToReport: Bool { drainStarted != nil || (downSince != nil && !failedOver.isEmpty) }
    var isDown: Bool { monitor.state == .down }
    var isLeaving: Bool { isDraining || isRemoving }
    /// Takes resources when no better server does.
    var isUsable: Bool { monitor.state == .up && !isLeaving }
    var isAvailable: Bool { isUsable && !monitor.isFlapping }
    /// It may still write, and there is a way to prevent that which has not been taken yet.
    var needsFence: Bool {
        isDown && server.canBeFenced && fence != .done && monitor.cause?.isSilent != false
    }
}

enum FenceState: Hashable, Sendable {
    case none
    case running(FenceID, attempts: Int, until: UInt64)
    case failed(attempts: Int, retryAt: UInt64)
    case done

    var deadline: UInt64? {
        switch self {
        case .running(_, _, let until): until
        case .failed(_, let retryAt): retryAt
        case .none, .done: nil
        }
    }
}

struct Change: Sendable {
    let id: ChangeID
    let reason: ChangeReason
    let started: UInt64
    var moves: [Move]
    var isCommitted = false
    /// A move of a plan that is only good as a whole has failed.
    var isBroken = false

    /// Another server may be taken instead of the planned one.
    var hasAlternatives: Bool {
        switch reason {
        case .failover, .drain, .announcement: true
        case .giveBack, .operatorMove, .balance, .leftovers: false
        }
    }
}

struct Move: Sendable {
    enum Step: Hashable, Sendable {
        case confirming(until: UInt64)
        case confirmed
        /// In the table; sessions come from these servers.
        case movingSessions([SessionSource], until: UInt64)
    }

    let resource: String
    let from: String
    var to: String
    var tried: Set<String>
    var step: Step

    var deadline: UInt64? {
        switch step {
        case .confirming(let until), .movingSessions(_, let until): until
        case .confirmed: nil
        }
    }

    /// Something still has to leave this server.
    func isLeaving(_ server: String) -> Bool {
        if case .movingSessions(let sources, _) = step {
            return sources.contains { $0.server == server }
        }
        return from == server
    }

    var planned: PlannedMove { PlannedMove(resource: resource, from: from, to: to) }
}

/// A server from which sessions are moved away.
struct SessionSource: Hashable, Sendable {
    let server: String
    /// Nil: they wait until the server is fenced.
    var mode: SessionMoveMode?
}

/// A server says that a resource has left it.
struct Absence: Hashable, Sendable {
    /// It still serves the resource until that has moved.
    let isServing: Bool
    /// When other servers are asked, if none has announced it; nil: never.
    let searchAt: UInt64?
    /// Nobody has said so, a check has found it: another check can find the opposite.
    var isFound = false
}
