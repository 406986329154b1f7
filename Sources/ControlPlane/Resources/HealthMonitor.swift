import CLinux
import DataPlane
import Logging
import StorageProtocols

/// Probes every server: at the start each of its resources, then one of them in turn at each interval, the
/// servers one after the other and not all at once. Learns what the server negotiates and whether it serves.
final class HealthMonitor {
    /// What is known of one server.
    struct State {
        var isUp: Bool?
        var reason: String?
        /// ns of the last probe that succeeded.
        var latency: UInt64?
        var checks: UInt64 = 0
        var failures: UInt64 = 0
        var since: UInt64 = 0
        var next = 0
        var consecutive = 0
        var isRunning = false
    }

    private let engine: SessionEngine
    private let portal: ISCSIPortal
    private var servers: [Server] = []
    /// Server that is next.
    private var turn = 0
    private var interval: UInt64 = 0
    private var timeout: UInt64 = 0
    private var timer: EventLoop.Timer?
    private(set) var states: [String: State] = [:]
    /// Results of the same kind in a row before a server changes its state.
    private let threshold = 2

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
        let names = Set(servers.map(\.name))
        for name in states.keys where !names.contains(name) { states[name] = nil }
        for name in names where states[name] == nil { states[name] = State() }
    }

    /// Looks at everything again: servers, resources or credentials may be others now. Then calls `done`.
    func update(to configuration: Configuration, done: @escaping () -> Void) {
        take(configuration)
        start(ready: done)
    }

    /// Probes everything once, then calls `ready`, then goes on for ever.
    func start(ready: @escaping () -> Void) {
        probe(servers, done: ready)
        scheduleNext()
    }

    private func probe(_ servers: [Server], done: @escaping () -> Void) {
        var outstanding = servers.count
        for server in servers {
            probeAll(server, resources(of: server)) {
                outstanding -= 1
                if outstanding == 0 { done() }
            }
        }
        if servers.isEmpty { done() }
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
        probe(server, first) { [weak self] isReached in
            // A server that is not there need not be asked again for each resource.
            self?.probeAll(server, isReached ? Array(rest.dropFirst()) : [], done: done)
        }
    }

    private func checkNext() {
        defer { scheduleNext() }
        guard !servers.isEmpty else { return }
        turn = (turn + 1) % servers.count
        let server = servers[turn]
        let resources = resources(of: server)
        guard var state = states[server.name], !state.isRunning, !resources.isEmpty else { return }
        let resource = resources[state.next % resources.count]
        state.next += 1
        states[server.name] = state
        probe(server, resource) { _ in }
    }

    private func probe(
        _ server: Server, _ resource: Resource, done: @escaping (Bool) -> Void
    ) {
        guard let address = server.addresses.first,
            let local = engine.storageAddress(like: address),
            let port = engine.ports.allocate(address: local, now: engine.loop.now)
        else { return done(false) }
        states[server.name]?.isRunning = true
        let credential = portal.serverCredential(server: server.name, resource: resource.name)
        let connection = ProbeConnection(
            engine: engine,
            probe: ISCSIServerProbe(
                initiatorName: ISCSIPortal.initiatorName, targetName: resource.target,
                credential: credential.own, mutual: credential.mutual, random: portal.random))
        connection.run(
            to: SocketAddress(address: address, port: server.iscsiPort),
            from: SocketAddress(address: local, port: port), timeout: timeout
        ) { [weak self] result, latency in
            guard let self else { return }
            engine.ports.release(
                address: local, port: port, now: engine.loop.now, quarantine: 60_000_000_000)
            take(result, latency, server, resource)
            done(connection.isConnected)
        }
    }

    private func take(
        _ result: Result<ISCSIServerProbe.Outcome, ISCSIServerProbe.ProbeFailure>,
        _ latency: UInt64, _ server: Server, _ resource: Resource
    ) {
        guard var state = states[server.name] else { return }
        state.isRunning = false
        state.checks += 1
        var isGood = false
        switch result {
        case .success(let outcome):
            portal.learn(outcome.parameters, server: server.name, resource: resource.name)
            isGood = outcome.isReady
            state.latency = latency
            state.reason = isGood ? nil : "\(resource.name) is not ready"
        case .failure(let failure): state.reason = "\(resource.name): \(failure.reason)"
        }
        if !isGood { state.failures += 1 }
        state.consecutive = isGood == state.isUp ? 0 : state.consecutive + 1
        if state.isUp == nil || state.consecutive >= threshold {
            state.isUp = isGood
            state.since = engine.loop.now
            state.consecutive = 0
            engine.log.notice(
                "server \(server.name) is \(isGood ? "up" : "down")\(state.reason.map { ": \($0)" } ?? "")"
            )
            engine.onEvent(
                .server(server.name, isUp: isGood, detail: state.reason ?? "\(resource.name)"))
        }
        states[server.name] = state
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
            finish(.failure(.init(reason: isConnected ? "no answer" : "no connection")))
        }
        engine.loop.register(descriptor, events: [.read, .write, .edgeTriggered]) { [self] _ in
            ready()
        }
    }

    private func ready() {
        if !isConnected {
            if let failure = Socket.connectFailure(descriptor) {
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
