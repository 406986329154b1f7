import Logging

/// What management does, for those who follow events.
extension EventModel {
    init(_ event: ManagementEvent) {
        self.init()
        switch event {
        case .serverSuspected(let name, let suspicion):
            take(
                "server_suspected", server: name,
                "server \(name) is suspected: \(suspicion.rawValue)")
        case .serverCleared(let name):
            take("server_cleared", server: name, "server \(name) serves: it was suspected wrongly")
        case .serverDown(let name, let cause, let suspected):
            take("server_down", server: name, "server \(name) is down: \(cause.rawValue)")
            details["cause"] = cause.rawValue
            details["since_suspicion_us"] = "\(suspected / 1_000)"
        case .serverUp(let name, let downFor):
            take("server_up", server: name, "server \(name) is up")
            if let downFor { details["down_for_us"] = "\(downFor / 1_000)" }
        case .serverFlapping(let name, let isFlapping):
            take(
                isFlapping ? "server_flapping" : "server_steady", server: name,
                isFlapping
                    ? "server \(name) fails again and again: it gets nothing new for a while"
                    : "server \(name) is steady again")
        case .serverAdded(let name): take("server_added", server: name, "server \(name) is added")
        case .serverRemoved(let name):
            take("server_removed", server: name, "server \(name) is removed")
        case .changePlanned(let id, let reason, let moves):
            take("change_planned", id, "\(reason.text): \(Self.text(moves))")
            server = reason.server
        case .confirmed(let id, let name, let server):
            take("change_confirmed", id, "\(server) has confirmed \(name)")
            resource = name
            self.server = server
        case .refused(let id, let name, let server, let why):
            take("change_refused", id, "\(server) does not take \(name): \(why)")
            resource = name
            self.server = server
        case .dropped(let id, let name, let why):
            take("change_dropped", id, "\(name) stays where it is: \(why)")
            resource = name
        case .committed(let id, let version, let moves):
            take("table_changed", id, "resource table \(version): \(Self.text(moves))")
            details["version"] = "\(version)"
        case .sessionsMoved(let id, let name, let moved, let failed):
            take(
                "sessions_moved", id, "\(name): \(moved) sessions have moved, \(failed) have ended")
            resource = name
            details["moved"] = "\(moved)"
            details["failed"] = "\(failed)"
        case .sessionsAbandoned(let id, let name, let why):
            take("sessions_abandoned", id, "\(name): not all sessions have moved: \(why)")
            resource = name
        case .changeFinished(let id, let reason, let duration):
            take("change_finished", id, "\(reason.text): done")
            server = reason.server
            details["duration_us"] = "\(duration / 1_000)"
        case .failoverFinished(let name, let moved, let duration):
            take(
                "failover_finished", server: name,
                "server \(name): \(moved.count) resources are served elsewhere")
            details["resources"] = moved.joined(separator: ",")
            details["since_detection_us"] = "\(duration / 1_000)"
        case .unplaceable(let name, let resources, let retryIn):
            take(
                "unplaceable", server: name,
                "no server takes \(resources.joined(separator: ", ")) of \(name) now")
            details["retry_in_us"] = "\(retryIn / 1_000)"
        default: takeOther(event)
        }
    }

    private mutating func takeOther(_ event: ManagementEvent) {
        switch event {
        case .fenceStarted(_, let name):
            take("fence_started", server: name, "server \(name) is being fenced")
        case .fenced(let name): take("fenced", server: name, "server \(name) is fenced")
        case .fenceFailed(let name, let retryIn):
            take(
                "fence_failed", server: name, "server \(name) could not be fenced: nothing is moved"
            )
            details["retry_in_us"] = "\(retryIn / 1_000)"
        case .drainStarted(let name):
            take("drain_started", server: name, "server \(name) is being drained")
        case .drainFinished(let name, let duration):
            take("drain_finished", server: name, "server \(name) is drained")
            details["duration_us"] = "\(duration / 1_000)"
        case .drainCancelled(let name):
            take("drain_cancelled", server: name, "server \(name) takes resources again")
        case .balancePlanned(let id, let why): take("balance_planned", id, "balancing: \(why)")
        case .balanceSkipped(let why):
            take("balance_skipped", server: nil, "loads are not balanced now: \(why)")
        case .announcementIgnored(let name, let resource, let why):
            take(
                "announcement_ignored", server: name,
                "server \(name) announces \(resource): \(why)")
            self.resource = resource
        default: take("management", server: nil, "\(event)")
        }
    }

    private mutating func take(_ kind: String, server: String?, _ message: String) {
        self.kind = kind
        self.server = server
        self.message = message
    }

    private mutating func take(_ kind: String, _ id: ChangeID, _ message: String) {
        self.kind = kind
        self.message = message
        details["change"] = "\(id.value)"
    }

    private static func text(_ moves: [PlannedMove]) -> String {
        moves.map { "\($0.resource) \($0.from ?? "nowhere") -> \($0.to)" }.joined(separator: ", ")
    }

    /// How it is logged.
    var level: Logger.Level {
        switch kind {
        case "server_down", "fence_failed", "unplaceable", "change_refused": .warning
        case "change_confirmed", "balance_skipped", "server_suspected", "server_cleared": .info
        default: .notice
        }
    }
}

extension ChangeReason {
    /// The server that it is about, when it is about one.
    var server: String? {
        switch self {
        case .failover(let server), .drain(let server), .giveBack(let server): server
        case .operatorMove, .balance, .announcement, .leftovers: nil
        }
    }

    /// For metrics.
    var label: String {
        switch self {
        case .failover: "failover"
        case .drain: "drain"
        case .giveBack: "give_back"
        case .operatorMove: "command"
        case .balance: "balance"
        case .announcement: "announcement"
        case .leftovers: "leftovers"
        }
    }

    static let labels = [
        "failover", "drain", "give_back", "command", "balance", "announcement",
    ]

    /// For people.
    var text: String {
        switch self {
        case .failover(let server): "failover of \(server)"
        case .drain(let server): "drain of \(server)"
        case .giveBack(let server): "resources go back to \(server)"
        case .operatorMove: "move by command"
        case .balance: "balancing"
        case .announcement: "servers announced a change"
        case .leftovers: "sessions that were left behind"
        }
    }
}
