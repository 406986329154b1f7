import DataPlane
import Logging
import StorageProtocols

/// What all iSCSI sessions at the virtual addresses share: the tables, what was learned of servers, counters.
final class ISCSIPortal {
    /// Changed by the resource management only.
    private(set) var resources: ResourceTable
    private var credentials: CredentialTable
    private var servers: [String: Server]
    private var settings: Settings
    private let engine: SessionEngine
    private let port: UInt16
    /// Learned by probes, by server and resource.
    private var learned: [String: [String: ISCSIServerParameters]] = [:]
    private var identities: [String: [[UInt8]: ISCSIServerProbe.UnitIdentity]] = [:]
    private var lastTSIH: UInt16 = 0
    var splicesAutomatically: Bool { settings.splicesAutomatically }
    var loginTimeout: UInt64 { settings.loginTimeout }
    var serverTimeout: UInt64 { settings.serverTimeout }
    var serverWait: UInt64 { settings.serverWait }
    var requestDeadline: RequestDeadline { settings.requestDeadline }
    /// Octets of one session's request log; 0: none is kept.
    private let logMaximum: Int
    let logBudget: RequestLogBudget
    static let initiatorName = "iqn.2026-01.net.dsr:redirector"

    init(configuration: Configuration, engine: SessionEngine) {
        resources = ResourceTable(configuration.resources)
        credentials = CredentialTable(
            credentials: configuration.credentials, servers: configuration.servers,
            resources: configuration.resources)
        servers = Self.byName(configuration.servers)
        settings = Settings(configuration)
        port = configuration.iscsi.port
        definitions = configuration.volumes
        logMaximum = configuration.limits.requestLogBytes
        logBudget = RequestLogBudget(maximum: configuration.limits.requestLogTotalBytes)
        self.engine = engine
        volumes = definitions.map { definition in
            Volume(
                definition, resources: definition.members.compactMap { resources[$0] },
                engine: engine, portal: self)
        }
    }

    /// Units that are made of several resources.
    private(set) var volumes: [Volume] = []
    private let definitions: [VolumeDefinition]

    /// What a reload may change, as the configuration has it.
    private struct Settings {
        let users: [Credential]
        let requiresCHAP: Bool
        let splicesAutomatically: Bool
        let allUnitsTarget: String?
        /// ns that a client's login may take.
        let loginTimeout: UInt64
        /// ns from a session's first command to the end of the login at its server, as for a health check.
        let serverTimeout: UInt64
        /// ns that a session waits for a server before it is given up.
        let serverWait: UInt64
        /// For how long requests may be open before somebody looks.
        let requestDeadline: RequestDeadline

        init(_ configuration: Configuration) {
            users = configuration.credentials
            requiresCHAP = configuration.iscsi.requiresCHAP
            splicesAutomatically = configuration.iscsi.splicesAutomatically
            allUnitsTarget = configuration.iscsi.allUnitsTarget
            loginTimeout = UInt64(configuration.limits.loginTimeoutMilliseconds) * 1_000_000
            serverTimeout = UInt64(configuration.health.timeoutMilliseconds) * 1_000_000
            serverWait = UInt64(configuration.health.serverWaitMilliseconds) * 1_000_000
            requestDeadline = RequestDeadline(configuration.health)
        }
    }

    private static func byName(_ servers: [Server]) -> [String: Server] {
        Dictionary(servers.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
    }

    /// New sessions follow `new`; those that are there go on as they are. A resource stays where it is now
    /// unless the file assigns it elsewhere than it did before.
    func update(from old: Configuration, to new: Configuration) {
        let before = Dictionary(
            old.resources.map { ($0.name, $0.assigned) }, uniquingKeysWith: { first, _ in first })
        var table = ResourceTable(new.resources)
        for resource in new.resources where before[resource.name] == resource.assigned {
            guard let present = resources.assignedServer(of: resource.name),
                resource.servers.contains(present)
            else { continue }
            try? table.assign(resource.name, to: present)
        }
        let unitsBefore = unitResources
        resources = table
        credentials = CredentialTable(
            credentials: new.credentials, servers: new.servers, resources: new.resources)
        servers = Self.byName(new.servers)
        settings = Settings(new)
        tellRouters(unitsBefore)
        // What was learned of a server that is another one now is learned again.
        for server in old.servers where !new.servers.contains(server) {
            learned[server.name] = nil
        }
    }

    /// A server that was added or, with nil, has left; the configuration tells who logs in there, and how.
    func take(_ server: Server?, name: String, of configuration: Configuration) {
        servers[name] = server
        learned[name] = nil
        credentials = CredentialTable(
            credentials: configuration.credentials, servers: configuration.servers,
            resources: configuration.resources)
    }

    func random(_ count: Int) -> [UInt8] {
        var generator = SystemRandomNumberGenerator()
        return (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
    }

    func nextTSIH() -> UInt16 {
        lastTSIH = lastTSIH == .max ? 1 : lastTSIH + 1
        return lastTSIH
    }

    // MARK: Tables

    /// What a target wants of an initiator; nil: no such target. Discovery (`target` is nil) is for any user:
    /// what each of them finds is another matter.
    func policy(target: String?, initiator: String) -> ISCSILoginPolicy? {
        guard let target else { return policy(settings.users, server: nil) }
        if isAllUnitsTarget(target) {
            var policy = policy(
                settings.users.filter { user in
                    unitNames.contains { user.allows(resource: $0.name) }
                }, server: sharedParameters)
            policy.commandWindow = Self.allUnitsWindow
            return policy
        }
        guard let resource = resources.resource(target: target), !isMember(resource.name) else {
            return nil
        }
        return policy(
            settings.users.filter { $0.allows(resource: resource.name) },
            server: parameters(of: resource))
    }

    // MARK: One target with many units

    /// Commands that a session to it may have open.
    static let allUnitsWindow: UInt32 = 128

    func isAllUnitsTarget(_ target: String?) -> Bool {
        target != nil && settings.allUnitsTarget?.lowercased() == target?.lowercased()
    }

    private var unitResources: [Resource] { resources.all.filter { $0.unit != nil } }

    /// What has a unit number: resources, and volumes.
    private var unitNames: [(name: String, number: Int)] {
        unitResources.map { ($0.name, $0.unit ?? 0) } + definitions.map { ($0.name, $0.unit) }
    }

    /// It is reached through its volume only.
    private func isMember(_ resource: String) -> Bool {
        definitions.contains { $0.members.contains(resource) }
    }

    /// What serves a unit.
    enum UnitSource {
        case resource(Resource)
        case volume(Volume)
    }

    /// Units that a user may use, by number.
    func units(for user: String?) -> [Int: UnitSource] {
        guard settings.allUnitsTarget != nil else { return [:] }
        var result: [Int: UnitSource] = [:]
        for resource in unitResources
        where credentials.mayUse(user: user, resource: resource.name) {
            result[resource.unit ?? 0] = .resource(resource)
        }
        for volume in volumes
        where credentials.mayUse(user: user, resource: volume.definition.name) {
            result[volume.definition.unit] = .volume(volume)
        }
        return result
    }

    /// How the switch logs in on its own account, to look after a volume.
    func ownLogin(_ resource: Resource) -> ISCSILoginResult {
        var login = ISCSILoginResult()
        login.targetName = resource.target
        login.initiatorMaxReceive = 262_144
        if let known = parameters(of: resource)?.limits {
            var wanted = ISCSIParameters()
            wanted.immediateData = known.immediateData
            wanted.maxBurstLength = min(wanted.maxBurstLength, known.maxBurstLength)
            wanted.firstBurstLength = min(wanted.firstBurstLength, known.firstBurstLength)
            wanted.defaultTime2Wait = known.defaultTime2Wait
            wanted.defaultTime2Retain = known.defaultTime2Retain
            login.parameters = wanted
        }
        return login
    }

    /// What connections of the switch's own are like; there is no client.
    var ownLeg: Leg {
        let address =
            servers.values.lazy.compactMap(\.addresses.first).first ?? IPAddress(v4: 0)
        let socket = SocketAddress(address: address, port: 0)
        var leg = Leg(descriptor: -1, local: socket, remote: socket)
        leg.remoteScale = 7
        return leg
    }

    /// The eight octets that address a resource's unit at its servers: its first one. Nil: nobody has asked a
    /// server yet.
    func serverUnit(of resource: String) -> [UInt8]? {
        identities[resource]?.keys.min { $0.lexicographicallyPrecedes($1) }
    }

    /// What every server of every unit takes, as far as they are known; nil: none is.
    private var sharedParameters: ISCSIServerParameters? {
        let all = resources.all.filter { $0.unit != nil || isMember($0.name) }
            .compactMap(parameters(of:))
        return all.dropFirst().reduce(all.first) { $0?.common(with: $1) }
    }

    private func policy(
        _ allowed: [Credential], server: ISCSIServerParameters?
    ) -> ISCSILoginPolicy {
        var mutual: [String: ISCSICredential] = [:]
        for user in allowed {
            guard let own = user.login.mutual else { continue }
            mutual[user.user] = ISCSICredential(user: own.user, secret: own.secret)
        }
        return ISCSILoginPolicy(
            requiresCHAP: settings.requiresCHAP,
            credentials: allowed.map {
                ISCSICredential(user: $0.user, secret: $0.login.secret)
            }, mutual: mutual, server: server)
    }

    /// What the assigned server was found to negotiate, or another one that has the resource.
    private func parameters(of resource: Resource) -> ISCSIServerParameters? {
        let assigned = resources.assignedServer(of: resource.name) ?? resource.assigned
        for server in [assigned] + resources.candidates(for: resource.name) {
            if let known = learned[server]?[resource.name] { return known }
        }
        return nil
    }

    func learn(_ parameters: ISCSIServerParameters, server: String, resource: String) {
        learned[server, default: [:]][resource] = parameters
    }

    /// Which units a resource has: what was seen first counts, wherever it was.
    func learn(
        _ identity: [[UInt8]: ISCSIServerProbe.UnitIdentity], resource: String, server: String
    ) {
        guard let known = identities[resource] else {
            identities[resource] = identity
            return
        }
        if known != identity {
            engine.log.error(
                "\(resource) at \(server) is not what it is elsewhere: other units, capacities or names"
            )
        }
    }

    /// Nil: it is the same resource, as far as anybody knows.
    func difference(
        _ identity: [[UInt8]: ISCSIServerProbe.UnitIdentity], from resource: String
    ) -> String? {
        guard let known = identities[resource] else { return nil }
        if Set(known.keys) != Set(identity.keys) { return "it has other logical units" }
        for (unit, expected) in known where identity[unit] != expected {
            return identity[unit]?.capacity != expected.capacity
                ? "a unit has another capacity" : "a unit has another identity (VPD page 83h)"
        }
        return nil
    }

    func learnedParameters(of server: String) -> ISCSIServerParameters? {
        learned[server]?.values.first
    }

    /// SendTargets answers of a session: every resource, at the address that the client came to.
    func discovery(for leg: Leg, user: String?) -> ISCSIDiscovery {
        let address = SocketAddress(address: leg.local.address, port: leg.local.port).description
        var names = resources.all.filter {
            $0.protocol == .iscsi && credentials.mayUse(user: user, resource: $0.name)
                && !isMember($0.name)
        }.map(\.target)
        if let target = settings.allUnitsTarget, !units(for: user).isEmpty { names.append(target) }
        return ISCSIDiscovery(
            targets: names.map { ISCSIDiscovery.Target(name: $0, addresses: [address]) })
    }

    func server(_ name: String) -> Server? { servers[name] }

    /// Address of a server in the client's family: a splice cannot change between families.
    func address(of name: String, like client: IPAddress) -> SocketAddress? {
        guard let server = servers[name],
            let address = server.addresses.first(where: { $0.isIPv4 == client.isIPv4 })
        else { return nil }
        return SocketAddress(address: address, port: server.iscsiPort)
    }

    func serverRequest(
        _ login: ISCSILoginResult, resource: Resource, server: String, commandSequence: UInt32,
        expectedStatus: UInt32
    ) -> ISCSIInitiatorRequest {
        let credential = credentials.towards(server: server, resource: resource.name)
        return ISCSIInitiatorRequest(
            // Servers see one initiator for each session, so that they keep sessions apart.
            initiatorName: Self.initiatorName, targetName: resource.target,
            isid: [0x80] + random(5), commandSequence: commandSequence,
            expectedStatus: expectedStatus, parameters: login.parameters,
            maxReceive: login.initiatorMaxReceive,
            credential: credential.map { ISCSICredential(user: $0.user, secret: $0.secret) },
            mutual: credential?.mutual.map { ISCSICredential(user: $0.user, secret: $0.secret) })
    }

    func serverCredential(
        server: String, resource: String
    ) -> (own: ISCSICredential?, mutual: ISCSICredential?) {
        let credential = credentials.towards(server: server, resource: resource)
        return (
            credential.map { ISCSICredential(user: $0.user, secret: $0.secret) },
            credential?.mutual.map { ISCSICredential(user: $0.user, secret: $0.secret) }
        )
    }

    // MARK: Servers that fail or change

    /// What a session saw of its server.
    enum Trouble {
        case sessionLost(String)
        case attachFailed(String)
        case requestLate
        /// It is down, and somebody needs it.
        case wanted
    }

    /// Set by the resource management.
    var onTrouble: (String, Trouble) -> Void = { _, _ in }
    /// False: nothing is to be tried there now.
    var isServing: (String) -> Bool = { _ in true }
    /// A resource may go elsewhere by itself: a session waits for that.
    var mayChange: (_ resource: String, _ server: String) -> Bool = { _, _ in false }
    var onMoved: (ISCSINexus, _ duration: UInt64, _ isOrderly: Bool) -> Void = { _, _, _ in }
    /// By serial number.
    private var nexuses: [UInt64: ISCSINexus] = [:]
    private var lastNexusSerial: UInt64 = 0
    func nextNexusSerial() -> UInt64 {
        lastNexusSerial += 1
        return lastNexusSerial
    }

    /// Servers that sessions were logged in to, so that something of theirs may be on its way there.
    private(set) var usedServers: Set<String> = []
    func used(_ server: String) { usedServers.insert(server) }
    func unused(_ server: String) { usedServers.remove(server) }

    func trouble(_ server: String, _ trouble: Trouble) { onTrouble(server, trouble) }
    func moved(_ nexus: ISCSINexus, duration: UInt64, isOrderly: Bool) {
        onMoved(nexus, duration, isOrderly)
    }

    func join(_ nexus: ISCSINexus) {
        nexuses[nexus.serial] = nexus
        if deadlineTimer == nil { scheduleDeadlines() }
    }

    private var deadlineTimer: EventLoop.Timer?
    /// ns.
    private static let deadlineInterval: UInt64 = 50_000_000

    private func scheduleDeadlines() {
        deadlineTimer = engine.loop.schedule(after: Self.deadlineInterval) { [weak self] in
            guard let self else { return }
            deadlineTimer = nil
            for nexus in nexuses.values { nexus.checkDeadline() }
            if !nexuses.isEmpty { scheduleDeadlines() }
        }
    }

    func leave(_ nexus: ISCSINexus) {
        if nexuses.removeValue(forKey: nexus.serial) != nil { onLeave(nexus) }
    }
    var onLeave: (ISCSINexus) -> Void = { _ in }
    func take(_ table: ResourceTable) {
        let before = unitResources
        resources = table
        tellRouters(before)
    }

    /// Sessions to the target with many units.
    private var routers: [SpliceID: ISCSIUnitRouter] = [:]
    func join(_ router: ISCSIUnitRouter, _ id: SpliceID) { routers[id] = router }
    func leave(_ id: SpliceID) { routers[id] = nil }

    /// - Parameter before: what had a unit number.
    private func tellRouters(_ before: [Resource]) {
        guard
            before.map(\.name) != unitResources.map(\.name)
                || before.map(\.unit) != unitResources.map(\.unit)
        else { return }
        for router in routers.values { router.unitsChanged() }
    }

    /// In any order.
    var allNexuses: [ISCSINexus] { Array(nexuses.values) }

    /// The server that a new nexus gets where several serve a resource at once; nil: the assigned one.
    var serverFor: (ISCSINexus) -> String? = { _ in nil }

    /// A client that was told what the resource's server negotiates can be served there too.
    func negotiatesTheSame(_ server: String, _ resource: Resource) -> Bool {
        guard let known = learned[server]?[resource.name] else { return false }
        return known == parameters(of: resource)
    }

    /// In the order in which they came.
    func nexuses(of resource: String) -> [ISCSINexus] {
        nexuses.values.filter { $0.resource.name == resource }.sorted { $0.serial < $1.serial }
    }
    func nexuses(at server: String) -> [ISCSINexus] {
        nexuses.values.filter { $0.uses(server) }.sorted { $0.serial < $1.serial }
    }

    /// Nil: the configuration wants none.
    func makeLog(format: MessageFormat = .iscsi, rules: RequestRules = .iscsi) -> SessionLog? {
        guard logMaximum > 0 else { return nil }
        return SessionLog(format: format, rules: rules, maximum: logMaximum, budget: logBudget)
    }

    /// What a server takes in one data segment (RFC 7143 section 13.12).
    func maximumSegment(of server: String) -> Int {
        Int(learnedParameters(of: server)?.maxReceiveDataSegmentLength ?? 8_192)
    }

    /// What the client was told that it may send in one.
    func toldMaximumSegment(_ login: ISCSILoginResult?) -> UInt64 {
        if isAllUnitsTarget(login?.targetName) {
            return sharedParameters?.maxReceiveDataSegmentLength ?? 8_192
        }
        guard let login, let resource = login.targetName.flatMap({ resources.resource(target: $0) })
        else { return 8_192 }
        return parameters(of: resource)?.maxReceiveDataSegmentLength ?? 8_192
    }

    // MARK: Counting

    func loginAccepted() { engine.counters.loginsAccepted += 1 }
    func loginRefused(_ status: ISCSILoginStatus) {
        engine.counters.loginsRefused += 1
        if status == .authenticationFailure { engine.counters.authenticationFailures += 1 }
    }
    func serverLoginFailed() { engine.counters.serverLoginFailures += 1 }
}

extension RequestDeadline {
    init(_ health: Configuration.Health) {
        self.init(minimum: UInt64(health.requestDeadlineMilliseconds) * 1_000_000)
    }
}
