public import DataPlane

/// A directory that clients mount through the virtual address: what a resource of NFS has in place of a target.
public struct NFSExport: Hashable, Sendable {
    /// What the file handles that servers give are worth.
    public enum Handles: String, CaseIterable, Hashable, Sendable {
        /// Servers in front of the same storage: of all resources with shared handles, a handle means one file. They
        /// pass as they are.
        case shared
        /// A server of another resource may give the same handle for another file: clients get other ones.
        case distinct
    }

    /// Its path for clients: absolute, without a slash at its end; up to `pathMaximum` octets.
    public var directory: String
    /// Its path at the servers, of the same form.
    public var path: String
    public var handles: Handles
    /// The first rule that has the client's address counts; with none that has it, the client may nothing. Empty:
    /// everybody may everything.
    public var access: [NFSAccessRule]
    /// One of `indexes`, which no other export has; nil: by the resource's name.
    public var index: Int?

    /// - Parameter path: nil: as `directory`.
    public init(
        directory: String, path: String? = nil, handles: Handles = .distinct,
        access: [NFSAccessRule] = [], index: Int? = nil
    ) {
        self.directory = directory
        self.path = path ?? directory
        self.handles = handles
        self.access = access
        self.index = index
    }

    /// Octets of a path: MNTPATHLEN (RFC 1813 section 5.1.4).
    public static let pathMaximum = 1_024
    /// Numbers that stand for an export in file handles.
    public static let indexes = 0...255

    // FNV-1a (draft-eastlake-fnv section 2), of which the lowest octet depends on no other. Each step turns octets
    // one to one, so names that differ in one character only never have the same number.
    /// The number of an export whose configuration names none: a function of the resource's name alone. It stays
    /// what it is whatever comes and goes beside it, so that handles which clients have stay right.
    public static func index(ofName name: String) -> Int {
        Int(name.utf8.reduce(0xc5) { ($0 ^ $1) &* 0x93 } as UInt8)
    }
}

/// What some clients may do with an export.
public struct NFSAccessRule: Hashable, Sendable {
    public enum Clients: Hashable, Sendable {
        case everybody
        /// One address is a network too.
        case network(IPPrefix)
    }

    public enum Mode: String, CaseIterable, Hashable, Sendable {
        case readWrite = "rw"
        case readOnly = "ro"
        /// Nothing at all.
        case none
    }

    /// Whose calls reach servers as those of the anonymous user.
    public enum Squash: String, CaseIterable, Hashable, Sendable {
        case none
        /// User 0, and group 0.
        case root
        case all
    }

    public var clients: [Clients]
    public var mode: Mode
    public var squash: Squash
    public var anonymousUser: UInt32
    public var anonymousGroup: UInt32

    public init(
        clients: [Clients], mode: Mode = .readWrite, squash: Squash = .none,
        anonymousUser: UInt32 = NFSAccessRule.nobody, anonymousGroup: UInt32 = NFSAccessRule.nobody
    ) {
        self.clients = clients
        self.mode = mode
        self.squash = squash
        self.anonymousUser = anonymousUser
        self.anonymousGroup = anonymousGroup
    }

    /// User and group of nobody on Linux.
    public static let nobody: UInt32 = 65_534

    public func applies(to client: IPAddress) -> Bool {
        clients.contains { entry in
            switch entry {
            case .everybody: true
            case .network(let network): network.contains(client)
            }
        }
    }
}

extension Resource {
    /// What stands for it in file handles; nil: it is none of NFS.
    package var handleIndex: UInt32? {
        export.map { UInt32($0.index ?? NFSExport.index(ofName: name)) }
    }
}
