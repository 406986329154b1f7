import DataPlane
import StorageProtocols

/// What all iSCSI sessions at the virtual addresses share: the tables, what was learned of servers, counters.
final class ISCSIPortal {
    private(set) var resources: ResourceTable
    private let credentials: CredentialTable
    private let users: [Credential]
    private let servers: [String: Server]
    private let requiresCHAP: Bool
    private let engine: SessionEngine
    private let port: UInt16
    /// Learned by probes, by server and resource.
    private var learned: [String: [String: ISCSIServerParameters]] = [:]
    private var lastTSIH: UInt16 = 0
    let splicesAutomatically: Bool
    /// ns.
    let loginTimeout: UInt64
    let serverTimeout: UInt64 = 5_000_000_000
    static let initiatorName = "iqn.2026-01.net.dsr:redirector"

    init(configuration: Configuration, engine: SessionEngine) {
        resources = ResourceTable(configuration.resources)
        credentials = CredentialTable(
            credentials: configuration.credentials, servers: configuration.servers,
            resources: configuration.resources)
        users = configuration.credentials
        servers = Dictionary(
            configuration.servers.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
        requiresCHAP = configuration.iscsi.requiresCHAP
        splicesAutomatically = configuration.iscsi.splicesAutomatically
        port = configuration.iscsi.port
        loginTimeout = UInt64(configuration.limits.loginTimeoutMilliseconds) * 1_000_000
        self.engine = engine
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

    /// What a target wants of an initiator; nil: no such target.
    func policy(target: String?, initiator: String) -> ISCSILoginPolicy? {
        guard let target else { return ISCSILoginPolicy(server: nil) }
        guard let resource = resources.resource(target: target) else { return nil }
        let allowed = users.filter { $0.allows(resource: resource.name) }
        var mutual: [String: ISCSICredential] = [:]
        for user in allowed {
            guard let own = user.login.mutual else { continue }
            mutual[user.user] = ISCSICredential(user: own.user, secret: own.secret)
        }
        return ISCSILoginPolicy(
            requiresCHAP: requiresCHAP,
            credentials: allowed.map {
                ISCSICredential(user: $0.user, secret: $0.login.secret)
            }, mutual: mutual, server: parameters(of: resource))
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

    func learnedParameters(of server: String) -> ISCSIServerParameters? {
        learned[server]?.values.first
    }

    /// SendTargets answers of a session: every resource, at the address that the client came to.
    func discovery(for leg: Leg, user: String?) -> ISCSIDiscovery {
        let address = SocketAddress(address: leg.local.address, port: leg.local.port).description
        return ISCSIDiscovery(
            targets: resources.all.filter { credentials.mayUse(user: user, resource: $0.name) }.map {
                ISCSIDiscovery.Target(name: $0.target, addresses: [address])
            })
    }

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

    // MARK: Counting

    func loginAccepted() { engine.counters.loginsAccepted += 1 }
    func loginRefused(_ status: ISCSILoginStatus) {
        engine.counters.loginsRefused += 1
        if status == .authenticationFailure { engine.counters.authenticationFailures += 1 }
    }
    func serverLoginFailed() { engine.counters.serverLoginFailures += 1 }
}
