/// Who may use which resource, and how the switch logs in to servers on their behalf, so that moving
/// a session never asks the client again.
public struct CredentialTable: Sendable, Hashable {
    private var users: [String: Credential] = [:]
    private var servers: [String: CHAPCredential] = [:]
    private var resources: [String: CHAPCredential] = [:]

    public init() {}

    public init(credentials: [Credential], servers: [Server], resources: [Resource]) {
        for credential in credentials { users[credential.user] = credential }
        for server in servers { self.servers[server.name] = server.credential }
        for resource in resources { self.resources[resource.name] = resource.credential }
    }

    /// The user with this CHAP name.
    public subscript(user name: String) -> Credential? { users[name] }

    /// In order of their names.
    public var userNames: [String] { users.keys.sorted() }

    /// - Parameter user: nil for a client that did not authenticate: it may use everything, since
    ///   such a login is only accepted when no authentication is configured.
    public func mayUse(user: String?, resource: String) -> Bool {
        guard let user else { return true }
        return users[user]?.allows(resource: resource) ?? false
    }

    /// How the switch logs in to `server` for `resource`: the resource's own credential first, then
    /// the server's; nil: without authentication.
    public func towards(server: String, resource: String) -> CHAPCredential? {
        resources[resource] ?? servers[server]
    }
}
