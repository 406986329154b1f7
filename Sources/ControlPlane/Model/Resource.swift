/// How clients reach a resource.
public enum ResourceProtocol: String, CaseIterable, Codable, Hashable, Sendable {
    case iscsi
    case nfs
}

/// Which servers serve a resource at a time.
public enum ResourceServing: String, CaseIterable, Codable, Hashable, Sendable {
    /// The one that it is assigned to.
    case one
    /// Any that holds it: they all serve the same data at once, each new session gets the one that answers best.
    case any
}

/// Something that clients use through the virtual address: for iSCSI, a target; for NFS, an export.
public struct Resource: Hashable, Sendable {
    /// Unique name, as the configuration gives it.
    public var name: String
    public var `protocol`: ResourceProtocol
    /// iSCSI name of the target (RFC 7143 section 4.2.7), the same at every server; of NFS: empty.
    public var target: String
    /// Names of the servers that hold it, in order of preference.
    public var servers: [String]
    /// The server that serves it now; one of `servers`.
    public var assigned: String
    public var serving: ResourceServing
    /// Its logical unit number at the target that has all resources; nil: it is not there.
    public var unit: Int?
    /// How the switch logs in for this resource, when it differs from the server's credential.
    public var credential: CHAPCredential?
    /// Of NFS: what clients mount; of iSCSI: nil.
    public var export: NFSExport?

    public init(
        name: String, protocol: ResourceProtocol = .iscsi, target: String, servers: [String],
        assigned: String, serving: ResourceServing = .one, unit: Int? = nil,
        credential: CHAPCredential? = nil
    ) {
        self.name = name
        self.protocol = `protocol`
        self.target = target
        self.servers = servers
        self.assigned = assigned
        self.serving = serving
        self.unit = unit
        self.credential = credential
    }

    /// An export, which one server serves at a time.
    public init(name: String, export: NFSExport, servers: [String], assigned: String) {
        self.init(
            name: name, protocol: .nfs, target: "", servers: servers, assigned: assigned)
        self.export = export
    }

    /// What clients know it by: the target's name, or the path that they mount.
    public var clientName: String { export?.directory ?? target }
}
