import CLinux
import DataPlane
import Glibc
import Logging
import StorageProtocols

/// Probes servers: at the start each of their resources, then one of them in turn at each interval, the servers one
/// after the other and not all at once; and when it is asked to. Learns what a server negotiates, and which
/// units it has. What a result means is decided elsewhere.
final class HealthMonitor {
    /// What is known of one server.
    struct State {
        var reason: String?
        /// ns of the last probe that succeeded.
        var latency: UInt64?
        var checks: UInt64 = 0
        var failures: UInt64 = 0
        var next = 0
        var running = 0
    }

    /// One probe's outcome.
    struct Report {
        var resource: String
        var result: ProbeResult
        var detail: String?
        var identity: [[UInt8]: ISCSIServerProbe.UnitIdentity] = [:]
        /// The server took the connection.
        var isReached = false
        /// The server serves, but not this resource.
        var isMissing = false
    }

    private let engine: SessionEngine
    private let portal: ISCSIPortal
    private var servers: [Server] = []
    /// Server that is next.
    private var turn = 0
    private var interval: UInt64 = 0
    private var timeout: UInt64 = 0
    /// In which exports are asked for: the highest that clients may use.
    private var nfsVersion = NFSVersion.v3
    private var timer: EventLoop.Timer?
    private(set) var states: [String: State] = [:]
    /// Every probe of a server's health.
    var onReport: (_ server: String, _ report: Report) -> Void = { _, _ in }
    /// Whether a check has found that a server does not have a resource: it is asked for again.
    var isMissing: (_ resource: String, _ server: String) -> Bool = { _, _ in false }

    init(_ configuration: Configuration, engine: SessionEngine, portal: ISCSIPortal) {
        self.engine = engine
        self.portal = portal
        take(configuration)
    }

    /// Servers that have resources are probed.
    private func take(_ configuration: Configuration) {
        let used = Set(configuration.resources.flatMap(\.servers))
        servers = configuration.servers.filter { used.contains($0.name) }
        interval = UInt64(configuration.health.intervalMilliseconds) * 1_000_000
        timeout = UInt64(configuration.health.timeoutMilliseconds) * 1_000_000
        nfsVersion = configuration.nfs?.versions.contains(.v3) == false ? .v2 : .v3
        let names = Set(servers.map(\.name))
        for name in states.keys where !names.contains(name) { states[name] = nil }
        for name in names where states[name] == nil { states[name] = State() }
    }

    /// One more server is probed in turn.
    func add(_ server: Server) {
        servers.append(server)
        states[server.name] = State()
        scheduleNext()
    }

    func remove(server: String) {
        servers.removeAll { $0.name == server }
        states[server] = nil
        scheduleNext()
    }

    /// Looks at everything again: servers, resources or credentials may be others now. Then calls `done`.
    func update(to configuration: Configuration, done: @escaping () -> Void) {
        take(configuration)
        start(ready: done)
    }

    /// Probes everything once, then calls `ready`, then goes on for ever.
    func start(ready: @escaping () -> Void) {
        var outstanding = servers.count
        for server in servers {
            probeAll(server, resources(of: server)) {
                outstanding -= 1
                if outstanding == 0 { ready() }
            }
        }
        if servers.isEmpty { ready() }
        scheduleNext()
    }

    private func scheduleNext() {
        timer?.cancel()
        let pause = interval / UInt64(max(1, servers.count))
        timer = engine.loop.schedule(after: pause) { [weak self] in self?.checkNext() }
    }

    private func resources(of server: Server) -> [Resource] {
        portal.resources.all.filter { $0.servers.contains(server.name) }
    }

    private func probeAll(
        _ server: Server, _ rest: [Resource], done: @escaping () -> Void
    ) {
        guard let first = rest.first else { return done() }
        probe(server, first, timeout: timeout, wantsIdentity: true) { [weak self] report in
            if !report.identity.isEmpty {
                self?.portal.learn(report.identity, resource: first.name, server: server.name)
            }
            self?.onReport(server.name, report)
            // A server that is not there need not be asked again for each resource.
            self?.probeAll(server, report.isReached ? Array(rest.dropFirst()) : [], done: done)
        }
    }

    private func checkNext() {
        defer { scheduleNext() }
        guard !servers.isEmpty else { return }
        turn = (turn + 1) % servers.count
        check(servers[turn], timeout: timeout)
    }

    /// Probes a server now, whatever its turn.
    func check(_ name: String, timeout: UInt64) {
        guard let server = servers.first(where: { $0.name == name }) else { return }
        check(server, timeout: timeout, isUrgent: true)
    }

    private func check(_ server: Server, timeout: UInt64, isUrgent: Bool = false) {
        let resources = resources(of: server)
        guard var state = states[server.name], isUrgent || state.running == 0, !resources.isEmpty
        else { return }
        // What it serves now says more than what it could serve.
        let serving = resources.filter { $0.assigned == server.name }
        let missing = isUrgent ? [] : resources.filter { isMissing($0.name, server.name) }
        let wanted = serving.isEmpty ? resources : serving + missing
        // A server that was not there at the start may be the only one that knows its resources' units.
        let unknown =
            isUrgent
            ? nil
            : wanted.first { $0.export == nil && portal.serverUnit(of: $0.name) == nil }
        let resource = unknown ?? wanted[state.next % wanted.count]
        state.next += 1
        states[server.name] = state
        probe(server, resource, timeout: timeout, wantsIdentity: unknown != nil) {
            [weak self] report in
            if !report.identity.isEmpty {
                self?.portal.learn(
                    report.identity, resource: resource.name, server: server.name)
            }
            self?.onReport(server.name, report)
        }
    }

    /// Learns a resource that has appeared, at each server that holds it.
    func learn(_ name: String) {
        guard let resource = portal.resources[name] else { return }
        for server in servers where resource.servers.contains(server.name) {
            probe(server, resource, timeout: timeout, wantsIdentity: true) { [weak self] report in
                guard !report.identity.isEmpty else { return }
                self?.portal.learn(report.identity, resource: name, server: server.name)
            }
        }
    }

    /// Asks whether a server serves this very resource, and which units it has there.
    func confirm(
        _ name: String, resource: String, timeout: UInt64, done: @escaping (Report) -> Void
    ) {
        guard let server = servers.first(where: { $0.name == name }),
            let resource = portal.resources[resource]
        else {
            return done(
                Report(
                    resource: resource, result: .bad, detail: "there is no such server or resource")
            )
        }
        probe(server, resource, timeout: timeout, wantsIdentity: true, done: done)
    }

    private func probe(
        _ server: Server, _ resource: Resource, timeout: UInt64, wantsIdentity: Bool,
        done: @escaping (Report) -> Void
    ) {
        if let export = resource.export {
            return probe(server, resource, export, timeout: timeout, done: done)
        }
        guard let address = server.addresses.first,
            let local = engine.storageAddress(like: address),
            let port = engine.ports.allocate(address: local, now: engine.loop.now)
        else {
            return done(
                Report(
                    resource: resource.name, result: .bad,
                    detail: "no address or source port to reach it from"))
        }
        states[server.name]?.running += 1
        let credential = portal.serverCredential(server: server.name, resource: resource.name)
        let connection = ProbeConnection(
            engine: engine,
            probe: ISCSIServerProbe(
                initiatorName: ISCSIPortal.initiatorName, targetName: resource.target,
                credential: credential.own, mutual: credential.mutual,
                wantsIdentity: wantsIdentity, random: portal.random))
        connection.run(
            to: SocketAddress(address: address, port: server.iscsiPort),
            from: SocketAddress(address: local, port: port), timeout: timeout
        ) { [weak self] result, latency in
            guard let self else { return }
            engine.ports.release(
                address: local, port: port, now: engine.loop.now, quarantine: 60_000_000_000)
            done(take(result, latency, server, resource, connection))
        }
    }

    private func probe(
        _ server: Server, _ resource: Resource, _ export: NFSExport, timeout: UInt64,
        done: @escaping (Report) -> Void
    ) {
        states[server.name]?.running += 1
        let probe = NFSProbe(
            server.name, version: nfsVersion, engine: engine, portal: portal)
        probe.run(export.path, timeout: timeout) { [weak self] result, latency in
            guard let self else { return }
            var report = Report(
                resource: resource.name, result: .bad, isReached: probe.isReached)
            switch result {
            case .good:
                report.result = .good
                states[server.name]?.latency = latency
            case .missing(let detail):
                report.isMissing = true
                report.detail = detail
            case .bad(let detail): report.detail = detail
            case .refused(let detail):
                report.result = .refused
                report.detail = detail
            case .timedOut(let detail):
                report.result = .timedOut
                report.detail = detail
            }
            report.detail = report.detail.map { "\(resource.name): \($0)" }
            done(count(report, server))
        }
    }

    private func count(_ report: Report, _ server: Server) -> Report {
        states[server.name]?.running -= 1
        states[server.name]?.checks += 1
        states[server.name]?.reason = report.detail
        if report.result != .good { states[server.name]?.failures += 1 }
        return report
    }

    private func take(
        _ result: Result<ISCSIServerProbe.Outcome, ISCSIServerProbe.ProbeFailure>,
        _ latency: UInt64, _ server: Server, _ resource: Resource, _ connection: ProbeConnection
    ) -> Report {
        var report = Report(
            resource: resource.name, result: .bad, isReached: connection.isConnected)
        switch result {
        case .success(let outcome):
            portal.learn(outcome.parameters, server: server.name, resource: resource.name)
            report.result = outcome.isReady ? .good : .bad
            report.identity = outcome.identity
            report.detail = outcome.isReady ? nil : "\(resource.name) is not ready"
            states[server.name]?.latency = latency
        case .failure(let failure):
            report.detail = "\(resource.name): \(failure.reason)"
            // "The requested iSCSI Target Name (ITN) cannot be found at this address" (RFC 7143 section
            // 11.13.5): that is about the resource.
            report.isMissing = failure.isTargetMissing
            report.result =
                connection.isRefused ? .refused : connection.isTimedOut ? .timedOut : .bad
        }
        return count(report, server)
    }
}

/// One connection of a probe. Keeps itself alive until it is done.
private final class ProbeConnection {
    private let engine: SessionEngine
    private var probe: ISCSIServerProbe
    private var descriptor: Int32 = -1
    private var reader = ISCSIPDUReader()
    private var output = OutboundBuffer()
    private(set) var isConnected = false
    /// Nobody listens there.
    private(set) var isRefused = false
    private(set) var isTimedOut = false
    private var started: UInt64 = 0
    private var timer: EventLoop.Timer?
    private var done:
        ((Result<ISCSIServerProbe.Outcome, ISCSIServerProbe.ProbeFailure>, UInt64) -> Void)?

    init(engine: SessionEngine, probe: ISCSIServerProbe) {
        self.engine = engine
        self.probe = probe
    }

    func run(
        to address: SocketAddress, from local: SocketAddress, timeout: UInt64,
        done:
            @escaping (Result<ISCSIServerProbe.Outcome, ISCSIServerProbe.ProbeFailure>, UInt64) ->
            Void
    ) {
        self.done = done
        started = engine.loop.clock()
        do {
            descriptor = try Socket.connect(
                to: address,
                options: ConnectOptions(
                    bind: local, maximumSegment: 0, windowClamp: 0, device: engine.storageDevice))
        } catch {
            return finish(.failure(.init(reason: "\(error)")))
        }
        timer = engine.loop.schedule(after: timeout) { [self] in
            isTimedOut = true
            finish(.failure(.init(reason: isConnected ? "no answer" : "no connection")))
        }
        engine.loop.register(descriptor, events: [.read, .write, .edgeTriggered]) { [self] _ in
            ready()
        }
    }

    private static let refusal = String(cString: strerror(ECONNREFUSED))

    private func ready() {
        if !isConnected {
            if let failure = Socket.connectFailure(descriptor) {
                isRefused = failure == Self.refusal
                return finish(.failure(.init(reason: "connect: \(failure)")))
            }
            guard (try? TCPInfo(descriptor: descriptor))?.isEstablished == true else { return }
            isConnected = true
            output.append(probe.start().encoded())
        }
        do {
            try flush()
            while true {
                switch try Socket.receive(descriptor, into: engine.scratch) {
                case .wouldBlock: return
                case .end: return finish(.failure(.init(reason: "closed by the server")))
                case .bytes(let count): reader.append(engine.scratch[..<count])
                }
                while let pdu = try reader.next() {
                    for action in try probe.receive(pdu) {
                        switch action {
                        case .send(let next): output.append(next.encoded())
                        case .finished(let outcome): return finish(.success(outcome))
                        }
                    }
                }
                try flush()
            }
        } catch let failure as ISCSIServerProbe.ProbeFailure {
            finish(.failure(failure))
        } catch {
            finish(.failure(.init(reason: "\(error)")))
        }
    }

    private func flush() throws {
        try output.drain { bytes throws(SystemCallError) in try Socket.send(descriptor, bytes) }
    }

    private func finish(
        _ result: Result<ISCSIServerProbe.Outcome, ISCSIServerProbe.ProbeFailure>
    ) {
        guard let done else { return }
        self.done = nil
        timer?.cancel()
        if descriptor >= 0 {
            engine.loop.unregister(descriptor)
            // A probe leaves nothing in TIME_WAIT.
            Socket.setReset(descriptor)
            Socket.close(descriptor)
        }
        done(result, engine.loop.clock() - started)
    }
}
