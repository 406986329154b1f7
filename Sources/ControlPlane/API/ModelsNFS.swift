/// `GET /nfs/mounts`: what a client has mounted, as MOUNT knows it. Clients forget to say that they
/// are gone.
public struct NFSMountModel: Codable, Hashable, Sendable {
    /// Address.
    public var client = ""
    /// What it has mounted: an export, a directory in one, or `/`.
    public var path = ""
    /// Name of the resource that this is in; nil: it is above all exports.
    public var resource: String?
    public var ageS: Double = 0
    public init() {}
}

/// `GET /nfs/exports`
public struct NFSExportModel: Codable, Hashable, Sendable {
    /// Of the resource.
    public var name = ""
    /// What clients mount.
    public var directory = ""
    /// The same at the servers.
    public var path = ""
    /// `shared` or `distinct`.
    public var handles = ""
    /// The export's number in file handles.
    public var index = 0
    /// Server that serves it now.
    public var assigned = ""
    public var state = ResourceState.served
    /// Calls that went to servers, and their replies.
    public var calls: UInt64 = 0
    public var replies: UInt64 = 0
    /// Of these, those that the dataplane has forwarded by itself.
    public var fastCalls: UInt64 = 0
    public var fastReplies: UInt64 = 0
    /// Calls for which no server was there in time.
    public var givenUp: UInt64 = 0
    /// Octets of calls and of replies.
    public var clientBytes: UInt64 = 0
    public var serverBytes: UInt64 = 0
    /// Replies by second in the last second that was measured.
    public var repliesPerS: Double = 0
    /// Mean time from a call to its reply in that second; nil: there was none.
    public var latencyUs: UInt64?
    public init() {}
}

/// `GET /nfs/clients`: an address that has mounted something, is connected, or uses the fast path.
public struct NFSClientModel: Codable, Hashable, Sendable {
    /// Address.
    public var client = ""
    /// Of `tcp` and `udp` those that it uses now; empty: it has only mounted something.
    public var transports: [String] = []
    public var mounts = 0
    /// Over TCP, to NFS, MOUNT and the portmapper.
    public var connections = 0
    /// Calls in the control plane.
    public var openCalls = 0
    /// Its UDP ports that are in the fast path, and what they have brought there.
    public var fastPorts = 0
    public var fastCalls: UInt64 = 0
    public var fastReplies: UInt64 = 0
    /// Since the last packet in the fast path; nil: it is not there.
    public var fastIdleS: Double?
    public init() {}
}
