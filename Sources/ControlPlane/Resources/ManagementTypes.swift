// What goes into the resource management process and what comes out of it. Times are ns.

/// Result of a probe: login, then TEST UNIT READY.
package enum ProbeResult: Hashable, Sendable {
    case good
    /// Answered, but does not serve.
    case bad
    case timedOut
    /// Connection refused.
    case refused
}

/// Evidence that is no proof.
package enum ServerSuspicion: String, Hashable, Sendable {
    case sessionReset = "a session was reset by the server"
    case unexpectedEnd = "a session was ended by the server"
    case lateRequest = "a request was not answered in time"
    case agentSilent = "its agent is silent"
}

package enum ServerEvidence: Hashable, Sendable {
    case probe(ProbeResult)
    /// Of the storage port that leads to it.
    case linkDown
    case linkUp
    case portRemoved
    case soft(ServerSuspicion)
    case agentHeard
}

package enum ServerDownCause: String, Hashable, Sendable {
    case refused = "connection refused"
    case timedOut = "no answer"
    case badAnswer = "it does not serve"
    case linkDown = "link down"
    case portRemoved = "port removed"

    /// It may still write what it has received: only a refusal proves that its process is gone.
    package var isSilent: Bool { self != .refused }
}

/// A server as management knows it.
package struct ManagedServer: Hashable, Sendable {
    package var name: String
    package var isSpare: Bool
    package var weight: Double
    /// A command is configured that cuts the server off for certain.
    package var canBeFenced: Bool

    package init(
        name: String, isSpare: Bool = false, weight: Double = 1, canBeFenced: Bool = false
    ) {
        self.name = name
        self.isSpare = isSpare
        self.weight = weight
        self.canBeFenced = canBeFenced
    }
}

/// Tells changes apart; grows.
package struct ChangeID: Hashable, Comparable, Sendable {
    package let value: UInt64
    package init(_ value: UInt64) { self.value = value }
    package static func < (left: Self, right: Self) -> Bool { left.value < right.value }
}

/// One run of a fence command; grows.
package struct FenceID: Hashable, Sendable {
    package let value: UInt64
    package init(_ value: UInt64) { self.value = value }
}

package enum ChangeReason: Hashable, Sendable {
    case failover(of: String)
    case drain(of: String)
    /// From a spare to the server that is back.
    case giveBack(to: String)
    case operatorMove
    case balance
    /// Servers said that a resource has changed its place.
    case announcement
    /// Sessions that an interrupted change has left on other servers; the table is as it should be.
    case leftovers
}

package enum SessionMoveMode: Hashable, Sendable {
    /// The old server serves no more: at once.
    case dead
    /// The old server is alive: outstanding requests first.
    case orderly
}

package enum ManagementInput: Sendable {
    /// Monitoring begins.
    case start
    case evidence(ServerEvidence, server: String)
    case confirmed(ChangeID, resource: String, server: String, isGood: Bool)
    /// Answers `moveSessions` of the same change, resource and `from`.
    case sessionsMoved(ChangeID, resource: String, from: String, moved: Int, failed: Int)
    case fenced(FenceID, server: String, isGood: Bool)
    /// By resource, and each server's own; both replace what was known of those named.
    case loads([String: Double], own: [String: Double])
    /// Moves that a forecast asks for; done only while balancing is automatic and everything is quiet.
    case foreseen(BalanceProposal)
    case announced(server: String, ResourceAnnouncement)
    /// A check has found the resource's target at a server, or that a server which lives does not have it.
    case checked(resource: String, server: String, isThere: Bool)
    case tick
}

/// What a server says of the resources on it.
package struct ResourceAnnouncement: Hashable, Sendable {
    package var appeared: [String]
    /// It still serves them until they have moved.
    package var leaving: [String]
    /// It does not serve them any more.
    package var gone: [String]

    package init(appeared: [String] = [], leaving: [String] = [], gone: [String] = []) {
        self.appeared = appeared
        self.leaving = leaving
        self.gone = gone
    }
}

/// What people ask for.
package enum ManagementOperation: Sendable {
    case move(resource: String, to: String)
    case drain(server: String)
    case undrain(server: String)
    case addServer(ManagedServer, resources: [String])
    /// With force the server is emptied first, then it leaves.
    case removeServer(String, force: Bool)
    case applyBalance([PlannedMove])
    case setAutomaticBalance(Bool)
}

/// Why an operation was refused.
package enum ManagementRefusal: Error, Hashable, Sendable, CustomStringConvertible {
    case unknownServer(String)
    case unknownResource(String)
    case serverExists(String)
    case notHeld(resource: String, server: String)
    case alreadyThere(resource: String, server: String)
    case changeInProgress(resource: String)
    case serverNotUsable(String, why: String)
    case alreadyDraining(String)
    case notDraining(String)
    case stillServes(String, resources: [String])
    case onlyHolder(String, resources: [String])
    case stalePlan(String)

    package var description: String {
        switch self {
        case .unknownServer(let name): "there is no server \(name)"
        case .unknownResource(let name): "there is no resource \(name)"
        case .serverExists(let name): "there is a server \(name) already"
        case .notHeld(let resource, let server): "server \(server) does not hold \(resource)"
        case .alreadyThere(let resource, let server): "\(resource) is on server \(server) already"
        case .changeInProgress(let resource): "\(resource) is being moved now"
        case .serverNotUsable(let name, let why): "server \(name) takes no resources: \(why)"
        case .alreadyDraining(let name): "server \(name) is being drained already"
        case .notDraining(let name): "server \(name) is not being drained"
        case .stillServes(let name, let resources):
            "server \(name) still serves \(resources.joined(separator: ", ")): drain it first"
        case .onlyHolder(let name, let resources):
            "only server \(name) holds \(resources.joined(separator: ", "))"
        case .stalePlan(let why): "the plan does not fit any more: \(why)"
        }
    }
}

package enum ManagementAction: Hashable, Sendable {
    /// Find out whether the server can serve the resource.
    case confirm(ChangeID, resource: String, server: String)
    /// Bring every session of the resource that is on `from` to `to`. Comes again with mode `dead` when the
    /// old server fails during an orderly move. Ends without an answer when `sessionsAbandoned` is told.
    case moveSessions(
        ChangeID, resource: String, from: String, to: String, mode: SessionMoveMode)
    case probeNow(server: String, timeout: UInt64)
    /// Sessions that lost it may connect to it again.
    case serverAlive(String)
    case fence(FenceID, server: String)
    case event(ManagementEvent)
}

package enum ManagementEvent: Hashable, Sendable {
    case serverSuspected(String, ServerSuspicion)
    case serverCleared(String)
    case serverDown(String, ServerDownCause, sinceSuspicion: UInt64)
    case serverUp(String, downFor: UInt64?)
    case serverFlapping(String, Bool)
    case serverAdded(String)
    case serverRemoved(String)
    case changePlanned(ChangeID, ChangeReason, [PlannedMove])
    case confirmed(ChangeID, resource: String, server: String)
    case refused(ChangeID, resource: String, server: String, why: String)
    /// The resource is not part of the change any more.
    case dropped(ChangeID, resource: String, why: String)
    case committed(ChangeID, version: UInt64, [PlannedMove])
    case sessionsMoved(ChangeID, resource: String, moved: Int, failed: Int)
    /// Not all sessions were reported to have moved in time, or their new server failed. The move ends: what
    /// has not moved yet stays where it is, and nothing more may come of it.
    case sessionsAbandoned(ChangeID, resource: String, why: String)
    /// Nothing is left to do; ns since it was planned.
    case changeFinished(ChangeID, ChangeReason, duration: UInt64)
    /// All that could be moved has been; ns since the server was found down.
    case failoverFinished(server: String, moved: [String], sinceDetection: UInt64)
    /// No server can take them now.
    case unplaceable(server: String, resources: [String], retryIn: UInt64)
    case fenceStarted(FenceID, server: String)
    case fenced(server: String)
    case fenceFailed(server: String, retryIn: UInt64)
    case drainStarted(String)
    case drainFinished(String, duration: UInt64)
    case drainCancelled(String)
    /// Automatic balancing has planned the change.
    case balancePlanned(ChangeID, why: String)
    case balanceSkipped(why: String)
    case announcementIgnored(server: String, resource: String, why: String)
}

/// Moves that balance the load, and why they are worth it.
package struct BalanceProposal: Hashable, Sendable {
    package var moves: [PlannedMove]
    package var why: String

    package init(moves: [PlannedMove], why: String) {
        self.moves = moves
        self.why = why
    }
}

/// Placement as the manager uses it.
package struct PlacementFunctions: Sendable {
    package var failover: @Sendable (Set<String>, PlacementInput) -> [PlannedMove]
    package var drain: @Sendable (String, PlacementInput) -> [PlannedMove]
    package var giveBack: @Sendable (String, PlacementInput) -> [PlannedMove]
    package var candidates: @Sendable (String, PlacementInput) -> [String]
    /// Nil: leave it as it is. Called at each check with the time; resources that rest are not movable.
    package var balance: @Sendable (PlacementInput, UInt64) -> BalanceProposal?
    /// Loads are so uneven that `balance` should be asked before its time. Cheap: asked with every new load.
    package var isUneven: @Sendable (PlacementInput) -> Bool

    package init(
        failover: @escaping @Sendable (Set<String>, PlacementInput) -> [PlannedMove],
        drain: @escaping @Sendable (String, PlacementInput) -> [PlannedMove],
        giveBack: @escaping @Sendable (String, PlacementInput) -> [PlannedMove],
        candidates: @escaping @Sendable (String, PlacementInput) -> [String],
        balance: @escaping @Sendable (PlacementInput, UInt64) -> BalanceProposal?,
        isUneven: @escaping @Sendable (PlacementInput) -> Bool = { _ in false }
    ) {
        self.failover = failover
        self.drain = drain
        self.giveBack = giveBack
        self.candidates = candidates
        self.balance = balance
        self.isUneven = isUneven
    }

    /// The functions of `Placement`. The manager keeps the rest times of resources itself
    /// (`ManagementSettings.balanceRest`); that of the policy is not used.
    package static func standard(policy: BalancePolicy = BalancePolicy()) -> PlacementFunctions {
        PlacementFunctions(
            failover: { Placement.failover(of: $0, in: $1) },
            drain: { Placement.drain(of: $0, in: $1) },
            giveBack: { Placement.giveBack(to: $0, in: $1) },
            candidates: { Placement.candidates(for: $0, in: $1) },
            balance: { input, now in
                Placement.balance(input, policy: policy, now: now).map {
                    BalanceProposal(moves: $0.moves, why: $0.reason)
                }
            })
    }
}

package struct ManagementSettings: Hashable, Sendable {
    package var monitor = ServerMonitor.Settings()
    /// A confirmation without an answer has failed.
    package var confirmTimeout: UInt64 = 5_000_000_000
    /// Sessions that have not moved by then are given up.
    package var moveTimeout: UInt64 = 60_000_000_000
    package var fenceTimeout: UInt64 = 30_000_000_000
    /// Pause after the first failed attempt; doubles with each one.
    package var retryInitial: UInt64 = 1_000_000_000
    package var retryMaximum: UInt64 = 30_000_000_000
    /// A resource that has left a server is looked for at the others after this time, if none announces it.
    package var announcementWait: UInt64 = 2_000_000_000
    package var balanceInterval: UInt64 = 10_000_000_000
    /// A resource is not balanced again within this time after it has moved.
    package var balanceRest: UInt64 = 60_000_000_000
    /// Loads are looked at again only when they were measured for this long after the last change; 0: at once.
    package var balanceSettle: UInt64 = 0

    package init() {}
}
