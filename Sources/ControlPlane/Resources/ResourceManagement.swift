import DataPlane
import Foundation
import Glibc
import Logging

/// Carries out what the `ResourceManager` decides, and tells it what happens: probes, links, sessions, fences. The
/// manager is the only one that changes the table; here it meets sockets, clocks and people.
///
/// Lives on the session thread.
final class ResourceManagement {
    private(set) var manager: ResourceManager
    private let engine: SessionEngine
    private let portal: ISCSIPortal
    private let health: HealthMonitor
    let balancing: Balancing
    private var servers: [String: Server]
    private var suspectTimeout: UInt64
    private var timer: EventLoop.Timer?
    /// ns, when a server that is down was probed last because a session needs it.
    private var wantedAt: [String: UInt64] = [:]
    private static let wantedInterval: UInt64 = 200_000_000
    /// Sessions that a change moves and that have not arrived, by change and resource.
    private var arriving: [Arrival] = []
    /// Storage port that leads to a server, as far as it is known.
    private var ports: [String: PortNumber] = [:]
    /// ns, when a server was found up or down last.
    private(set) var since: [String: UInt64] = [:]
    private(set) var statistics = ManagementStatistics()
    let requests: RequestTotals
    /// Of sessions that there are.
    private(set) var moves: [SpliceID: SessionMoves] = [:]
    /// ns, when a resource was assigned to its server; nothing for those that have not moved.
    private(set) var assignedAt: [String: UInt64] = [:]
    var onEvent: (ManagementEvent) -> Void = { _ in }

    private struct Arrival {
        var change: ChangeID
        var resource: String
        var from: String
        var to: String
        /// Serial numbers.
        var waiting: Set<UInt64>
        var moved = 0
        var failed = 0
    }

    init(
        _ configuration: Configuration, engine: SessionEngine, portal: ISCSIPortal,
        health: HealthMonitor
    ) {
        self.engine = engine
        self.portal = portal
        self.health = health
        requests = RequestTotals(engine: engine)
        balancing = Balancing(configuration, engine: engine, portal: portal)
        servers = Dictionary(
            configuration.servers.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
        suspectTimeout = UInt64(configuration.health.suspectTimeoutMilliseconds) * 1_000_000
        manager = Self.makeManager(configuration, portal.resources)
        wire()
        balancing.start(self)
    }

    private static func makeManager(
        _ configuration: Configuration, _ table: ResourceTable
    ) -> ResourceManager {
        var settings = ManagementSettings()
        settings.monitor.rise = configuration.health.rise
        settings.monitor.fall = configuration.health.fall
        settings.monitor.urgentTimeout =
            UInt64(configuration.health.suspectTimeoutMilliseconds) * 1_000_000
        settings.monitor.firstTimeout =
            UInt64(configuration.health.timeoutMilliseconds) * 1_000_000
        settings.setBalance(configuration.balance)
        settings.confirmTimeout = UInt64(configuration.health.timeoutMilliseconds) * 1_000_000
        let used = Set(configuration.resources.flatMap(\.servers))
        return ResourceManager(
            servers: configuration.servers.filter { used.contains($0.name) || $0.isSpare }.map {
                ManagedServer(
                    name: $0.name, isSpare: $0.isSpare, weight: $0.weight,
                    canBeFenced: !$0.fence.isEmpty)
            }, table: table, settings: settings,
            placement: .balancing(configuration.balance.policy))
    }

    private func wire() {
        health.onReport = { [weak self] server, report in self?.take(report, of: server) }
        health.isMissing = { [weak self] resource, server in
            self?.manager.isMissing(resource, at: server) ?? false
        }
        portal.onTrouble = { [weak self] server, trouble in self?.take(trouble, at: server) }
        portal.isServing = { [weak self] in self?.manager.state(of: $0) != .down }
        portal.mayChange = { [weak self] in self?.mayChange($0, $1) ?? false }
        portal.onMoved = { [weak self] nexus, duration, isOrderly in
            self?.statistics.add(stall: duration, isOrderly: isOrderly)
            self?.moves[nexus.id, default: SessionMoves()].add(duration)
            self?.balancing.moved(nexus)
            self?.arrived(nexus)
        }
        portal.onLeave = { [weak self] nexus in
            self?.balancing.ended(nexus)
            self?.left(nexus)
            self?.moves[nexus.id] = nil
            self?.requests.ended(nexus)
        }
        portal.serverFor = { [weak self] in self?.balancing.server(for: $0) }
    }

    /// The configuration was read again; what is known of servers and resources stays.
    func update(from old: Configuration, to new: Configuration) {
        servers = Dictionary(
            new.servers.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
        suspectTimeout = UInt64(new.health.suspectTimeoutMilliseconds) * 1_000_000
        let unchanged = new.servers.filter { server in
            old.servers.contains { $0.isSamePlace(as: server) }
        }
        let previous = manager
        manager = Self.makeManager(new, portal.resources)
        manager.inherit(from: previous, unchanged: Set(unchanged.map(\.name)))
        arriving = []
        balancing.update(new)
        // When everybody else has read it too.
        engine.loop.postLocal { [weak self] in self?.handle(.tick) }
    }

    /// Only how loads are balanced is another.
    func updateBalance(_ configuration: Configuration) {
        var settings = manager.settings
        settings.setBalance(configuration.balance)
        manager.setBalance(.balancing(configuration.balance.policy), like: settings)
        balancing.update(configuration)
    }

    /// Resources that are on their way, or whose server may not serve: what is measured of them is not their load.
    var unsteadyResources: [String] {
        manager.table.all.filter {
            manager.isChanging($0.name) || manager.state(of: $0.assigned) != .up
        }.map(\.name)
    }

    func health(of server: String) -> HealthState {
        switch manager.state(of: server) {
        case .up, .suspect: .up
        case .down: .down
        case .unknown, nil: .unknown
        }
    }

    // MARK: Inputs

    /// Asks the manager, does what it says.
    func handle(_ input: ManagementInput) {
        carryOut(manager.handle(input, now: engine.loop.clock()))
    }

    /// What it has led to so far.
    @discardableResult
    func perform(
        _ operation: ManagementOperation
    ) throws(ManagementRefusal) -> [ManagementEvent] {
        let actions = try manager.perform(operation, now: engine.loop.clock())
        carryOut(actions)
        return actions.compactMap { action in
            if case .event(let event) = action { return event }
            return nil
        }
    }

    /// Another server may be chosen from now on; `perform` tells the manager of it.
    func learn(_ server: Server) { servers[server.name] = server }

    func forget(server: String) { servers[server] = nil }

    private func take(_ report: HealthMonitor.Report, of server: String) {
        if report.result == .good {
            learnPort(of: server)
            handle(.checked(resource: report.resource, server: server, isThere: true))
        }
        if report.isMissing {
            // The server lives. What it should serve and does not have has left it.
            let isServing = portal.resources[report.resource]?.assigned == server
            if isServing {
                handle(.checked(resource: report.resource, server: server, isThere: false))
            }
            return handle(.evidence(.probe(.good), server: server))
        }
        handle(.evidence(.probe(report.result), server: server))
    }

    private func take(_ trouble: ISCSIPortal.Trouble, at server: String) {
        switch trouble {
        case .sessionLost(let reason):
            let isReset = reason.contains("reset")
            handle(.evidence(.soft(isReset ? .sessionReset : .unexpectedEnd), server: server))
        case .attachFailed: handle(.evidence(.soft(.sessionReset), server: server))
        case .wanted:
            let now = engine.loop.clock()
            guard now - (wantedAt[server] ?? 0) > Self.wantedInterval else { return }
            wantedAt[server] = now
            health.check(server, timeout: suspectTimeout)
        case .requestLate: handle(.evidence(.soft(.lateRequest), server: server))
        }
    }

    private func mayChange(_ resource: String, _ server: String) -> Bool {
        if manager.isChanging(resource) { return true }
        if let entry = portal.resources[resource], entry.serving == .any,
            balancing.usable(entry).contains(where: { $0 != server })
        {
            return true
        }
        if manager.state(of: server) == .suspect { return true }
        guard manager.state(of: server) == .down else { return false }
        return portal.resources.candidates(for: resource).contains {
            manager.state(of: $0) == .up
        }
    }

    /// A resource that is announced appears in the single system image.
    func adopt(_ resource: Resource) {
        guard manager.adopt(resource) else { return }
        portal.take(manager.table)
        engine.log.notice(
            "resource \(resource.name) (\(resource.target)) appears at \(resource.assigned)")
        // What the server negotiates there must be known before a client logs in.
        health.learn(resource.name)
    }

    // MARK: Links

    /// A storage port went up or down: servers behind it share its fate.
    func portChanged(_ port: PortNumber, isUp: Bool, deviceExists: Bool) {
        for server in servers.keys.sorted() where ports[server] == port {
            let evidence: ServerEvidence = isUp ? .linkUp : deviceExists ? .linkDown : .portRemoved
            handle(.evidence(evidence, server: server))
        }
    }

    /// The port that the server's packets come from: by its MAC address, which the kernel knows, or by a session.
    private func learnPort(of name: String) {
        guard let server = servers[name] else { return }
        for nexus in portal.nexuses(at: name)
        where nexus.hasRecord && nexus.serverName == name {
            let snapshot = engine.dataplane.call { $0.spliceSnapshot(nexus.id) } ?? nil
            if let port = snapshot?.server.port, port != 0 {
                ports[name] = port
                return
            }
        }
        guard let address = server.addresses.first(where: \.isIPv4),
            let mac = NeighbourTable.macAddress(of: address, device: engine.storageDevice)
        else { return }
        let domain = engine.storageDomain
        let now = engine.loop.clock()
        let entries = engine.dataplane.call { $0.macStatus(now: now) } ?? []
        if let entry = entries.first(where: { $0.mac == mac && $0.domain == domain }) {
            ports[name] = entry.port
        }
    }

    // MARK: Actions

    private func carryOut(_ actions: [ManagementAction]) {
        // Whoever asks for the table while actions are carried out finds what was decided.
        portal.take(manager.table)
        for action in actions { carryOut(action) }
        scheduleTick()
    }

    private func scheduleTick() {
        timer?.cancel()
        guard let deadline = manager.nextDeadline else { return }
        let now = engine.loop.clock()
        timer = engine.loop.schedule(after: deadline > now ? deadline - now : 1_000_000) {
            [weak self] in self?.handle(.tick)
        }
    }

    private func carryOut(_ action: ManagementAction) {
        switch action {
        case .confirm(let id, let resource, let server): confirm(id, resource, server)
        case .moveSessions(let id, let resource, let from, let to, let mode):
            moveSessions(id, resource, from: from, to: to, isOrderly: mode == .orderly)
        case .probeNow(let server, let timeout): health.check(server, timeout: timeout)
        case .serverAlive(let server):
            for nexus in portal.nexuses(at: server) { nexus.resume() }
        case .fence(let id, let server): fence(id, server)
        case .event(let event):
            statistics.count(event)
            noteLoads(event)
            switch event {
            case .sessionsAbandoned(let id, let resource, _): abandon(id, resource)
            case .serverDown(let name, _, _), .serverUp(let name, _):
                since[name] = engine.loop.clock()
            case .committed(_, _, let planned):
                for move in planned { assignedAt[move.resource] = engine.loop.clock() }
            default: break
            }
            if case .serverDown(let server, let cause, _) = event {
                // Nothing that goes to it is of use: clients are held here from now on.
                for nexus in portal.nexuses(at: server) { nexus.lose(server, cause.rawValue) }
            }
            onEvent(event)
        }
    }

    /// Loads that are measured now say nothing of resources that have just moved.
    private func noteLoads(_ event: ManagementEvent) {
        switch event {
        case .committed(_, _, let moves): for move in moves { balancing.disturb(move.resource) }
        case .sessionsMoved(_, let resource, _, _), .sessionsAbandoned(_, let resource, _):
            balancing.disturb(resource)
        case .drainStarted(let server): leaveShared(server)
        default: break
        }
    }

    /// Sessions that a server has besides the resources assigned to it leave it too.
    private func leaveShared(_ server: String) {
        for nexus in portal.nexuses(at: server) where nexus.serverName == server {
            guard let resource = manager.table[nexus.resource.name],
                resource.serving == .any, resource.assigned != server
            else { continue }
            nexus.move(isOrderly: true, reason: "server \(server) is being drained")
        }
    }

    private func confirm(_ id: ChangeID, _ resource: String, _ server: String) {
        health.confirm(server, resource: resource, timeout: manager.settings.confirmTimeout) {
            [weak self] report in
            guard let self else { return }
            var isGood = report.result == .good
            if isGood, let difference = portal.difference(report.identity, from: resource) {
                isGood = false
                engine.log.error("\(resource) at \(server) is refused: \(difference)")
            }
            handle(.confirmed(id, resource: resource, server: server, isGood: isGood))
        }
    }

    // MARK: Sessions

    private func moveSessions(
        _ id: ChangeID, _ resource: String, from: String, to: String, isOrderly: Bool
    ) {
        let nexuses = portal.nexuses(of: resource).filter {
            $0.serverName == from && !$0.isServed(by: to)
        }
        arriving.removeAll { $0.change == id && $0.resource == resource && $0.from == from }
        arriving.append(
            Arrival(
                change: id, resource: resource, from: from, to: to,
                waiting: Set(nexuses.map(\.serial))))
        for nexus in nexuses {
            nexus.move(isOrderly: isOrderly, reason: "\(resource) has moved to \(to)")
        }
        reportArrivals()
    }

    private func arrived(_ nexus: ISCSINexus) {
        for index in arriving.indices where arriving[index].to == nexus.serverName {
            if arriving[index].waiting.remove(nexus.serial) != nil { arriving[index].moved += 1 }
        }
        reportArrivals()
    }

    private func left(_ nexus: ISCSINexus) {
        for index in arriving.indices {
            if arriving[index].waiting.remove(nexus.serial) != nil { arriving[index].failed += 1 }
        }
        reportArrivals()
    }

    /// Sessions that have not moved stay where they are.
    private func abandon(_ id: ChangeID, _ resource: String) {
        let left = arriving.filter { $0.change == id && $0.resource == resource }
        arriving.removeAll { $0.change == id && $0.resource == resource }
        let waiting = left.reduce(into: Set<UInt64>()) { $0.formUnion($1.waiting) }
        for nexus in portal.nexuses(of: resource) where waiting.contains(nexus.serial) {
            nexus.stayAfterAll()
        }
    }

    private func reportArrivals() {
        let done = arriving.filter(\.waiting.isEmpty)
        guard !done.isEmpty else { return }
        arriving.removeAll(where: \.waiting.isEmpty)
        // Not from within an action: the manager is told of one thing after the other.
        engine.loop.postLocal { [weak self] in
            for arrival in done {
                self?.handle(
                    .sessionsMoved(
                        arrival.change, resource: arrival.resource, from: arrival.from,
                        moved: arrival.moved, failed: arrival.failed))
            }
        }
    }

    // MARK: Fences

    private func fence(_ id: FenceID, _ name: String) {
        guard let command = servers[name]?.fence, let program = command.first else { return }
        // No session was ever there: it has nothing of ours that it could write.
        guard portal.usedServers.contains(name) else {
            return engine.loop.postLocal { [weak self] in
                self?.handle(.fenced(id, server: name, isGood: true))
            }
        }
        let arguments = Array(command.dropFirst()).map {
            $0.replacing("{server}", with: name)
        }
        let answer = FenceAnswer(loop: engine.loop, management: self)
        let log = engine.log
        Thread.detachNewThread {
            let process = Process()
            // As a shell would find it.
            process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
            process.arguments = [program] + arguments
            process.standardInput = FileHandle.nullDevice
            process.standardOutput = FileHandle.nullDevice
            var isGood = false
            do {
                try process.run()
                process.waitUntilExit()
                isGood = process.terminationReason == .exit && process.terminationStatus == 0
            } catch {
                log.error("fence of \(name): \(error)")
            }
            answer.give(id, name, isGood: isGood)
        }
    }

    /// The way back from the thread that waits for the command.
    private struct FenceAnswer: @unchecked Sendable {
        let loop: EventLoop
        weak var management: ResourceManagement?

        func give(_ id: FenceID, _ server: String, isGood: Bool) {
            loop.post {
                if isGood { management?.portal.unused(server) }
                management?.handle(.fenced(id, server: server, isGood: isGood))
            }
        }
    }
}
