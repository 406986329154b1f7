import ControlPlane

/// One manager with the answers of its surroundings under the test's control.
struct ManagerBench {
    var manager: ResourceManager
    var now: UInt64 = 0
    /// All that came out since the last `clear`.
    var actions: [ManagementAction] = []

    static let second: UInt64 = 1_000_000_000

    /// Three servers with two resources each, every resource held by all: the example of the specification.
    static func figure7(
        servers: [ManagedServer]? = nil, placement: PlacementFunctions = .standard(),
        settings: ManagementSettings = .init()
    ) -> ManagerBench {
        let servers = servers ?? (1...3).map { ManagedServer(name: "server\($0)") }
        let names = servers.map(\.name)
        let resources = (1...6).map { number in
            Resource(
                name: "r\(number)", target: "iqn.2026-01.test:r\(number)", servers: names,
                assigned: "server\((number + 1) / 2)")
        }
        return ManagerBench(servers, resources, placement, settings)
    }

    init(
        _ servers: [ManagedServer], _ resources: [Resource],
        _ placement: PlacementFunctions = .standard(), _ settings: ManagementSettings = .init()
    ) {
        manager = ResourceManager(
            servers: servers, table: ResourceTable(resources), settings: settings,
            placement: placement)
        input(.start)
        for server in servers { probe(server.name, .good) }
        clear()
    }

    @discardableResult mutating func input(_ input: ManagementInput) -> [ManagementAction] {
        let new = manager.handle(input, now: now)
        actions += new
        return new
    }

    mutating func perform(_ operation: ManagementOperation) throws(ManagementRefusal) {
        actions += try manager.perform(operation, now: now)
    }

    /// Lets time pass; all deadlines on the way are met.
    mutating func wait(_ time: UInt64) {
        let end = now + time
        while let next = manager.nextDeadline, next <= end {
            now = next
            input(.tick)
        }
        now = end
        input(.tick)
    }

    mutating func clear() { actions = [] }

    mutating func probe(_ server: String, _ result: ProbeResult) {
        input(.evidence(.probe(result), server: server))
    }

    /// Back to service.
    mutating func revive(_ server: String) {
        probe(server, .good)
        probe(server, .good)
    }

    /// Answers every confirmation that is open; `refusing`: servers that do not confirm.
    mutating func confirmAll(refusing: Set<String> = []) {
        var done = 0
        while done < actions.count {
            if case .confirm(let id, let resource, let server) = actions[done] {
                input(
                    .confirmed(
                        id, resource: resource, server: server, isGood: !refusing.contains(server)))
            }
            done += 1
        }
    }

    mutating func moveAllSessions() {
        for case .moveSessions(let id, let resource, let from, _, _) in actions {
            input(.sessionsMoved(id, resource: resource, from: from, moved: 1, failed: 0))
        }
    }

    /// Everything that is asked for succeeds.
    mutating func complete() {
        confirmAll()
        moveAllSessions()
    }

    func server(of resource: String) -> String? { manager.table.assignedServer(of: resource) }

    var confirmations: [(id: ChangeID, resource: String, server: String)] {
        actions.compactMap {
            guard case .confirm(let id, let resource, let server) = $0 else { return nil }
            return (id, resource, server)
        }
    }

    var sessionMoves: [String] {
        actions.compactMap {
            guard case .moveSessions(_, let resource, let from, let to, let mode) = $0 else {
                return nil
            }
            return "\(resource) \(from) \(to) \(mode)"
        }
    }

    var fences: [(id: FenceID, server: String)] {
        actions.compactMap {
            guard case .fence(let id, let server) = $0 else { return nil }
            return (id, server)
        }
    }

    var events: [ManagementEvent] {
        actions.compactMap {
            guard case .event(let event) = $0 else { return nil }
            return event
        }
    }

    var commits: [[String]] {
        events.compactMap {
            guard case .committed(_, _, let moves) = $0 else { return nil }
            return moves.map { "\($0.resource) \($0.to)" }
        }
    }
}
