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
    /// Why, for a session that may change it by itself.
    public var grainReason: String?
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
    /// Every request that is open now could be given to another server; nil: there is nothing to protect.
    public var isProtected: Bool?
    /// Of the requests that are open, those that could not be given to another server.
    public var unprotectedRequests: Int?
    /// Octets of open requests that are kept.
    public var logBytes: UInt64?
    /// How often the session went on at another server, or again at the same.
    public var moves: UInt64 = 0
    /// Time without a server at the last of them; nil: there was none.
    public var lastMoveStallUs: UInt64?
    /// Since the client connected.
    public var ageS: Double = 0
    /// Since the last packet or message.
    public var idleS: Double = 0
    /// Units that it has used, when it may use several.
    public var units: [SessionUnitModel] = []
    public init() {}
}

/// A unit of a session to the target that has all resources.
public struct SessionUnitModel: Codable, Hashable, Sendable {
    /// Its logical unit number.
    public var unit = 0
    public var resource = ""
    public var server: String?
    public var state = SessionState.connecting
    public var outstandingRequests = 0
    /// Payload from the client and to it, relayed.
    public var clientBytes: UInt64 = 0
    public var serverBytes: UInt64 = 0
    public init() {}
}

/// `GET /resources`
public struct ResourceModel: Codable, Hashable, Sendable {
    public var name = ""
    public var `protocol` = ""
    /// Of iSCSI: name of the target. Of NFS: path of the export.
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
    public var state = ResourceState.served
    /// Since it was assigned to the server; since the start when it has not moved.
    public var stateAgeS: Double = 0
    /// In the unit of the load formula.
    public var load: Double = 0
    /// Where it belongs while a spare stands in.
    public var home: String?
    public init() {}
}

public enum ResourceState: String, CaseIterable, Codable, Hashable, Sendable {
    case served
    /// A change of its server is under way.
    case moving
    /// Its server is down, and no other one has taken it yet.
    case waiting
    /// Nobody has found its server up yet.
    case unknown
}

/// What a server is used for.
public enum ServerState: String, CaseIterable, Codable, Hashable, Sendable {
    /// Not probed yet.
    case unknown
    case up
    /// There is evidence against it; a probe decides.
    case suspect
    case down
    /// Resources leave it.
    case draining
    /// Nothing is on it, and it gets nothing.
    case drained
    /// Drained, then it leaves.
    case removing
    /// It is up, but fails so often that it gets nothing new for a while.
    case flapping
    /// It is up, and stands in for servers that fail.
    case spare
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
    public var state = ServerState.unknown
    public var isSpare = false
    /// Relative power.
    public var weight: Double = 1
    /// In the unit of the load formula, divided by the weight.
    public var load: Double = 0
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
