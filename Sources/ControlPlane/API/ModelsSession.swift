/// The two ends of a leg, as `address:port` or `[address]:port`.
public struct LegModel: Codable, Hashable, Sendable {
    public var local = ""
    public var remote = ""
    /// Name of the network port behind which the remote end is; empty: not known yet.
    public var port = ""
    public init() {}
}

/// `GET /sessions`, `GET /sessions/ID`
public struct SessionModel: Codable, Hashable, Sendable {
    public var id: UInt64 = 0
    /// `iscsi` or `tcp`.
    public var `protocol` = ""
    public var state = SessionState.login
    public var grain = SessionGrain.message
    /// `address:port` of the client.
    public var client = ""
    /// iSCSI name of the initiator.
    public var initiator: String?
    /// iSCSI name of the target.
    public var target: String?
    /// Names in the tables; nil until known.
    public var resource: String?
    /// Name of the plain TCP service, for protocol `tcp`.
    public var service: String?
    public var server: String?
    /// CHAP name that the client logged in with.
    public var user: String?
    /// Whether it could be spliced now; when not, `notSpliceable` says why.
    public var isSpliceable = false
    public var notSpliceable: String?
    public var clientLeg = LegModel()
    public var serverLeg: LegModel?
    /// Payload from the client and to it, octets and packets, relayed and spliced together.
    public var clientBytes: UInt64 = 0
    public var clientPackets: UInt64 = 0
    public var serverBytes: UInt64 = 0
    public var serverPackets: UInt64 = 0
    /// How often the session went into the spliced state, and out of it.
    public var splices: UInt64 = 0
    public var unsplices: UInt64 = 0
    /// Changes of state that were given up because a drain took too long.
    public var giveUps: UInt64 = 0
    /// Longest time in which a change of state held packets back.
    public var longestStallUs: UInt64 = 0
    /// Requests sent that have no reply yet; nil when messages are not tracked.
    public var outstandingRequests: Int?
    /// Since the client connected.
    public var ageS: Double = 0
    /// Since the last packet or message.
    public var idleS: Double = 0
    public init() {}
}

/// `GET /resources`
public struct ResourceModel: Codable, Hashable, Sendable {
    public var name = ""
    public var `protocol` = ""
    public var target = ""
    /// Server that serves it now.
    public var assigned = ""
    /// Every server that holds it, in order of preference.
    public var servers: [String] = []
    public var sessions = 0
    /// Octets of its sessions, those that have ended included, by the end that sent them; packets of
    /// those in the fast path alone.
    public var clientBytes: UInt64 = 0
    public var serverBytes: UInt64 = 0
    public var clientPackets: UInt64 = 0
    public var serverPackets: UInt64 = 0
    public init() {}
}

/// Health of a server as its checks tell it.
public enum HealthState: String, CaseIterable, Codable, Hashable, Sendable {
    /// Not checked yet.
    case unknown
    case up
    case down
}

/// `GET /servers`
public struct ServerModel: Codable, Hashable, Sendable {
    public var name = ""
    public var addresses: [String] = []
    /// The address in use.
    public var activeAddress: String?
    public var health = HealthState.unknown
    /// Why the last check failed; nil when it did not.
    public var healthReason: String?
    /// Round trip of the last check that succeeded.
    public var latencyUs: UInt64?
    public var checks: UInt64 = 0
    public var checksFailed: UInt64 = 0
    /// Since the health state changed.
    public var stateAgeS: Double = 0
    /// Names of the resources assigned to it.
    public var resources: [String] = []
    public var sessions = 0
    /// What was learned of it, as protocol keys and values (`MaxRecvDataSegmentLength`, ...).
    public var parameters: [String: String] = [:]
    public init() {}
}

/// Body of `POST /sessions/ID/unsplice` and so on is empty; these are the verbs.
public enum SessionVerb: String, CaseIterable, Codable, Hashable, Sendable {
    case splice
    case unsplice
    case close
}
