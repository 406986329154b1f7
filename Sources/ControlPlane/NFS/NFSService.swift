import DataPlane
import Foundation
import Logging
import StorageProtocols

/// The NFS service at the virtual addresses: sockets, and what all calls share. What is decided about calls is the
/// router's.
///
/// Lives on the session thread, but for `init`.
final class NFSService {
    let engine: SessionEngine
    let portal: ISCSIPortal
    let router: NFSRouter
    /// For datagrams, for MOUNT and for what is asked beside calls.
    let links: NFSLinks
    private var settings: Configuration.NFS
    private var deadline: RequestDeadline
    private(set) var waitMaximum: UInt64
    private var exchanges: [UInt64: NFSExchange] = [:]
    private var nextSerial: UInt64 = 0
    /// Calls that wait for a server, by serial number.
    private var waiting: [UInt64: (resources: [String], body: () -> Void)] = [:]
    private var retryTimer: EventLoop.Timer?
    private var deadlineTimer: EventLoop.Timer?
    private var datagrams: [NFSDatagramSocket] = []
    private var streams: [ObjectIdentifier: NFSStreamSession] = [:]
    private var listening: Set<SocketAddress> = []
    /// Servers of which was told that they are late, and for which call: since when, ns.
    private var toldLate: [String: UInt64] = [:]
    private let fastPath: NFSFastPath
    /// Nil: calls of NLM are refused.
    private(set) var locks: NFSLockService?
    private(set) var statistics: [String: NFSResourceStatistics] = [:]

    /// Calls of all clients that are open at a time.
    static let exchangeMaximum = 65_536
    /// ns between looks whether a server is there for what waits.
    private static let retryInterval: UInt64 = 50_000_000
    private static let deadlineInterval: UInt64 = 50_000_000

    /// Nil: the configuration has no NFS.
    init?(_ configuration: Configuration, engine: SessionEngine, portal: ISCSIPortal) {
        guard let settings = NFSRouter.Settings(configuration) else { return nil }
        self.engine = engine
        self.portal = portal
        self.settings = settings.nfs
        router = NFSRouter(settings, wallTime: Self.wallTime)
        links = NFSLinks(engine: engine, portal: portal)
        fastPath = NFSFastPath(engine: engine, portal: portal)
        deadline = RequestDeadline(configuration.health)
        waitMaximum = UInt64(configuration.health.serverWaitMilliseconds) * 1_000_000
        guard settings.nfs.hasLocks else { return }
        locks = NFSLockService(self, seed: settings.seed, versions: settings.nfs.versions)
    }

    private static var wallTime: NFSv3Time {
        let now = Date().timeIntervalSince1970
        return NFSv3Time(
            seconds: UInt32(truncatingIfNeeded: Int64(now)),
            nanoseconds: UInt32((now - now.rounded(.down)) * 1e9))
    }

    /// The configuration was read, or read again. Opens what is not open; returns what failed.
    func update(_ configuration: Configuration) -> [String] {
        guard let wanted = NFSRouter.Settings(configuration) else { return [] }
        router.update(wanted, wallTime: Self.wallTime)
        settings = wanted.nfs
        deadline = RequestDeadline(configuration.health)
        waitMaximum = UInt64(configuration.health.serverWaitMilliseconds) * 1_000_000
        updateFastPath(configuration)
        // Rights and exports may be others now.
        for session in Array(streams.values) { session.forgetUses() }
        return open(configuration) + (locks?.update(configuration) ?? [])
    }

    private func updateFastPath(_ configuration: Configuration) {
        guard settings.takesUDP else { return }
        fastPath.deadline = requestDeadline
        fastPath.update(
            addresses: configuration.clientCPU.addresses.map(\.address), port: settings.port,
            // With an export "/" numbers of file systems are changed, which the dataplane does not do.
            magic: settings.hasRootExport ? nil : router.handleMagic,
            resources: configuration.resources.filter { $0.export != nil })
    }

    // MARK: Sockets

    /// Opens the service at every virtual address; returns what failed.
    private func open(_ configuration: Configuration) -> [String] {
        var failures: [String] = []
        var ports = [settings.port, settings.mountPort]
        if settings.hasPortmapper { ports.append(Portmapper.port) }
        for virtual in configuration.clientCPU.addresses {
            for port in ports {
                let address = SocketAddress(address: virtual.address, port: port)
                guard listening.insert(address).inserted else { continue }
                do {
                    if settings.takesTCP { try listen(address) }
                    if settings.takesUDP {
                        datagrams.append(try NFSDatagramSocket(address, service: self))
                    }
                } catch {
                    failures.append("\(address): \(error)")
                }
            }
        }
        if deadlineTimer == nil { scheduleDeadlines() }
        return failures
    }

    private func listen(_ address: SocketAddress) throws(SystemCallError) {
        try engine.listen(address) { [unowned self] id, leg in
            let session = NFSStreamSession(id: id, leg: leg, service: self)
            streams[ObjectIdentifier(session)] = session
            return session
        }
    }

    func ended(_ session: NFSStreamSession) { streams[ObjectIdentifier(session)] = nil }

    // MARK: Calls

    /// Takes a client's call; `done` gets the reply, or nil when there is none. False: too much is open.
    /// - Parameter stream: the connection that it came by; told where it goes.
    func take(
        _ call: [UInt8], from client: NFSClient, at local: IPAddress, links: NFSLinks,
        stream: NFSStreamSession? = nil, done: @escaping ([UInt8]?) -> Void
    ) -> Bool {
        if let isTaken = locks?.take(call, from: client, at: local, done: done) {
            stream?.usedOther()
            return isTaken
        }
        guard exchanges.count < Self.exchangeMaximum else { return false }
        nextSerial += 1
        let exchange = NFSExchange(
            nextSerial, from: client, service: self, links: links, stream: stream, done: done)
        exchanges[nextSerial] = exchange
        exchange.begin(call, at: local)
        return true
    }

    func ended(_ exchange: NFSExchange) {
        exchanges[exchange.serial] = nil
        waiting[exchange.serial] = nil
    }

    var droppedDatagrams: UInt64 { datagrams.reduce(0) { $0 + $1.dropped } }
    var openCalls: Int { exchanges.count }
    /// Who has calls open here, once for each call.
    var openClients: [NFSClient] { exchanges.values.map(\.client) }
    /// Whose connections over TCP there are, once for each.
    var connectedClients: [NFSClient] { streams.values.map(\.client) }
    var waitingCalls: Int { waiting.count }

    /// The server that has a resource now and may be asked; nil: none.
    func server(of resource: String) -> String? {
        guard let assigned = portal.resources.assignedServer(of: resource) else { return nil }
        guard portal.isServing(assigned) else {
            portal.trouble(assigned, .wanted)
            return nil
        }
        return assigned
    }

    /// The call is taken up again when there may be a server.
    func wait(_ exchange: NFSExchange, for resources: [String], _ body: @escaping () -> Void) {
        waiting[exchange.serial] = (resources, body)
        guard retryTimer == nil else { return }
        retryTimer = engine.loop.schedule(after: Self.retryInterval) { [weak self] in
            self?.retryTimer = nil
            self?.resume()
        }
    }

    /// A resource has another server, or a server is there again.
    func resume() {
        // In the order in which they came.
        let calls = waiting.sorted { $0.key < $1.key }
        waiting = [:]
        for (_, call) in calls { call.body() }
    }

    // MARK: Servers

    /// A call of a client goes to a server from here.
    func forwarded(_ call: [UInt8], from client: NFSClient, _ forward: NFSForward) {
        guard client.transport == .udp, forward.program == NFSProgram.number else { return }
        let index = forward.context.index
        fastPath.missed(
            call, from: client, index: index, isDistinct: router.scheme.isDistinct(index),
            rights: router.rights(index, client))
    }

    /// Whether calls like this one may pass by the dataplane alone, which looks at neither credentials nor procedures'
    /// effects and changes neither handles nor replies.
    func canSplice(_ forward: NFSForward, _ client: NFSClient) -> Bool {
        forward.program == NFSProgram.number && !router.scheme.isDistinct(forward.index)
            && router.rights(forward.index, client).changeNothing
    }

    /// ns that a call may be open before its server is looked at.
    var requestDeadline: UInt64 { deadline.value(latency: 0, deviation: 0) }

    func sent(to server: String, resource: String, octets: Int) {
        portal.used(server)
        statistics[resource, default: NFSResourceStatistics()].sent(octets)
    }

    func answered(by server: String, resource: String, octets: Int, after latency: UInt64) {
        toldLate[server] = nil
        statistics[resource, default: NFSResourceStatistics()].answered(octets, after: latency)
    }

    /// What a connection that one server serves has done since the last time.
    func count(_ alone: NFSStreamAlone) {
        guard let reading = engine.dataplane.call({ alone.read(&$0) }) else { return }
        count(alone, reading)
    }

    private func count(_ alone: NFSStreamAlone, _ reading: NFSStreamAlone.Reading) {
        for (resource, part) in alone.takeTraffic(reading) {
            statistics[resource, default: NFSResourceStatistics()].add(part)
        }
    }

    /// Connections that the dataplane is asked for at once: packets go on in between.
    private static let countedAtOnce = 256

    private func countStreams() {
        let all = streams.values.compactMap(\.alone)
        for start in stride(from: 0, to: all.count, by: Self.countedAtOnce) {
            let part = all[start..<min(start + Self.countedAtOnce, all.count)]
            let readings = engine.dataplane.call { pipeline in
                var readings: [NFSStreamAlone.Reading] = []
                for alone in part { readings.append(alone.read(&pipeline)) }
                return readings
            }
            for (alone, reading) in zip(part, readings ?? []) { count(alone, reading) }
        }
    }

    /// All that went to servers, here and in the fast path, by resource.
    func traffic(_ datagrams: DatagramStatus?) -> [String: NFSResourceStatistics] {
        countStreams()
        var sums = statistics
        for status in datagrams?.resources ?? [] {
            guard let name = fastPath.name(of: status.id) else { continue }
            sums[name, default: NFSResourceStatistics()].add(status)
        }
        return sums
    }

    func gaveUp(_ resource: String) {
        statistics[resource, default: NFSResourceStatistics()].givenUp += 1
    }

    /// A call has no reply.
    func trouble(_ server: String, _ reason: String) {
        portal.trouble(
            server,
            reason.hasPrefix("connect") || reason.hasPrefix("no connection")
                ? .attachFailed(reason) : .sessionLost(reason))
    }

    func take(_ event: ManagementEvent) {
        locks?.take(event)
        switch event {
        case .serverDown(let server, let cause, _):
            serverDown(server, cause.rawValue)
            fastPath.updateServers()
        case .serverUp, .committed:
            fastPath.updateServers()
            returnMoved()
            engine.loop.postLocal { [weak self] in self?.resume() }
        default: break
        }
    }

    /// Nothing is to be waited for there.
    private func serverDown(_ server: String, _ reason: String) {
        links.end(server, reason)
        for session in Array(streams.values) {
            session.links.end(server, reason)
            session.lost(server, reason)
        }
    }

    /// Connections that were one server's, and are not now.
    private func returnMoved() {
        for session in Array(streams.values) {
            guard let alone = session.alone,
                !alone.resources.allSatisfy({
                    portal.resources.assignedServer(of: $0) == alone.server
                })
            else { continue }
            session.takeBackInOrder()
        }
    }

    private func scheduleDeadlines() {
        deadlineTimer = engine.loop.schedule(after: Self.deadlineInterval) { [weak self] in
            guard let self else { return }
            checkDeadlines()
            scheduleDeadlines()
        }
    }

    /// A server that lets calls wait for longer than it should is looked at.
    private func checkDeadlines() {
        var oldest: [String: UInt64] = [:]
        for link in [links] + streams.values.map(\.links) {
            for (server, since) in link.oldest {
                oldest[server] = min(oldest[server] ?? .max, since)
            }
        }
        for alone in streams.values.compactMap(\.alone) where alone.redirect.state == .relaying {
            guard let since = alone.relay.oldest else { continue }
            oldest[alone.server] = min(oldest[alone.server] ?? .max, since)
        }
        let limit = requestDeadline
        for (server, since) in oldest
        where engine.loop.now > since + limit && toldLate[server] != since {
            toldLate[server] = since
            portal.trouble(server, .requestLate)
        }
    }

    func close(_ reason: String) {
        retryTimer?.cancel()
        deadlineTimer?.cancel()
        for socket in datagrams { socket.close() }
        datagrams = []
        fastPath.close()
        locks?.close(reason)
        links.endAll(reason)
    }
}
