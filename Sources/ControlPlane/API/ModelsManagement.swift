// What is asked of the resource management over the API, and what it answers.

/// Body of `POST /servers/NAME/drain` and so on is empty; these are the verbs.
public enum ServerVerb: String, CaseIterable, Codable, Hashable, Sendable {
    /// Moves everything away from a server, which gets nothing new.
    case drain
    case undrain
}

/// Body of `POST /resources/NAME/move`.
public struct MoveRequest: Codable, Hashable, Sendable {
    /// Name of a server that holds the resource.
    public var to: String
    public init(to: String) { self.to = to }
}

/// Body of `POST /servers`.
public struct ServerRequest: Codable, Hashable, Sendable {
    public var name: String
    public var addresses: [String]
    /// TCP port of its iSCSI target; nil: 3260.
    public var port: Int?
    /// Names of resources that it holds.
    public var resources: [String]
    /// Used only while another server fails.
    public var isSpare: Bool?
    /// Relative power; nil: 1.
    public var weight: Double?
    /// What the switch says of itself at its login there; nil: it does not authenticate.
    public var credentials: CHAPRequest?

    public init(
        name: String, addresses: [String], port: Int? = nil, resources: [String],
        isSpare: Bool? = nil, weight: Double? = nil, credentials: CHAPRequest? = nil
    ) {
        self.name = name
        self.addresses = addresses
        self.port = port
        self.resources = resources
        self.isSpare = isSpare
        self.weight = weight
        self.credentials = credentials
    }
}

/// A CHAP name and secret, as the configuration has them; it is only ever sent to the daemon.
public struct CHAPRequest: Codable, Hashable, Sendable, CustomStringConvertible {
    public struct Mutual: Codable, Hashable, Sendable, CustomStringConvertible {
        public var user: String
        public var secret: String

        public init(user: String, secret: String) {
            self.user = user
            self.secret = secret
        }

        /// Without the secret.
        public var description: String { "CHAP \(user)" }
    }

    public var user: String
    public var secret: String
    /// What the server must answer with; nil: it need not prove itself.
    public var mutual: Mutual?

    public init(user: String, secret: String, mutual: Mutual? = nil) {
        self.user = user
        self.secret = secret
        self.mutual = mutual
    }

    /// Without the secret.
    public var description: String { "CHAP \(user)" + (mutual == nil ? "" : ", mutual") }
}

/// Answer to an operation that was accepted: it goes on, and events tell of it.
public struct OperationModel: Codable, Hashable, Sendable {
    /// For people.
    public var message = ""
    /// As the `change` of events that tell of it; nil when it has not led to a change (yet).
    public var change: UInt64?
    /// Events behind this sequence number tell of it: `GET /events?after=`.
    public var eventsAfter: UInt64 = 0
    /// What people should know beside.
    public var notes: [String] = []
    public init() {}
}

/// A resource that changes its server.
public struct MoveModel: Codable, Hashable, Sendable {
    public var resource: String
    public var from: String
    public var to: String
    public init(resource: String, from: String, to: String) {
        self.resource = resource
        self.from = from
        self.to = to
    }
}

/// Load of a server, in the unit of the load formula and divided by its weight.
public struct ServerLoadModel: Codable, Hashable, Sendable {
    public var server: String
    public var before: Double
    public var after: Double
    public init(server: String, before: Double, after: Double) {
        self.server = server
        self.before = before
        self.after = after
    }
}

/// `GET /balance/plan`
public struct BalancePlanModel: Codable, Hashable, Sendable {
    /// Empty: nothing is worth its moves.
    public var moves: [MoveModel] = []
    /// In the order of the configuration.
    public var loads: [ServerLoadModel] = []
    /// Why these moves, or why none.
    public var reason = ""
    /// Why the moves cannot be made now; nil: they can.
    public var obstacle: String?
    public init() {}
}

/// Body of `POST /balance/apply`.
public struct BalanceRequest: Codable, Hashable, Sendable {
    /// Those of a plan.
    public var moves: [MoveModel]
    public init(moves: [MoveModel]) { self.moves = moves }
}

/// Body of `PUT /balance/auto`.
public struct AutomaticBalanceRequest: Codable, Hashable, Sendable {
    public var isOn: Bool
    public init(isOn: Bool) { self.isOn = isOn }
}

/// `GET /balance`
public struct BalanceModel: Codable, Hashable, Sendable {
    public var isAutomatic = false
    /// Until loads are looked at next; nil: not by themselves.
    public var nextCheckS: Double?
    /// `before` and `after` are the same.
    public var loads: [ServerLoadModel] = []
    /// Whether loads are uneven enough to move something.
    public var isUneven = false
    /// The same for people.
    public var reason = ""
    public init() {}
}
