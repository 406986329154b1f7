public import DataPlane
public import StorageProtocols

/// A storage server behind the switch.
public struct Server: Hashable, Sendable {
    /// Unique name, as the configuration gives it.
    public var name: String
    /// In order of preference; never empty in a validated configuration.
    public var addresses: [IPAddress]
    /// TCP port of its iSCSI target.
    public var iscsiPort: UInt16
    /// TCP and UDP port of its NFS service.
    public var nfsPort: UInt16
    /// Port of its MOUNT service; nil: its portmapper tells.
    public var mountPort: UInt16?
    /// What the switch says of itself towards this server; nil: it does not authenticate there.
    public var credential: CHAPCredential?
    /// Used only while another server fails.
    public var isSpare: Bool
    /// Relative power: loads are compared divided by it. Positive.
    public var weight: Double
    /// Program and arguments that cut the server off from the storage for certain, and end with 0 when it is;
    /// empty: there is none.
    public var fence: [String]
    /// What its agent's announcements are checked with; nil: as those of all servers.
    public var agentKey: AnnouncementKey?
    /// Where its load can be asked for; nil: nowhere.
    public var nodeExporter: NodeExporterEndpoint?

    public init(
        name: String, addresses: [IPAddress], iscsiPort: UInt16 = 3260,
        nfsPort: UInt16 = NFSProgram.port, mountPort: UInt16? = nil,
        credential: CHAPCredential? = nil, isSpare: Bool = false, weight: Double = 1,
        fence: [String] = [], agentKey: AnnouncementKey? = nil,
        nodeExporter: NodeExporterEndpoint? = nil
    ) {
        self.name = name
        self.addresses = addresses
        self.iscsiPort = iscsiPort
        self.nfsPort = nfsPort
        self.mountPort = mountPort
        self.credential = credential
        self.isSpare = isSpare
        self.weight = weight
        self.fence = fence
        self.agentKey = agentKey
        self.nodeExporter = nodeExporter
    }

    /// Under this name something is reached that may be the same.
    func isSamePlace(as other: Server) -> Bool {
        name == other.name && addresses == other.addresses && iscsiPort == other.iscsiPort
            && nfsPort == other.nfsPort && mountPort == other.mountPort
    }
}
