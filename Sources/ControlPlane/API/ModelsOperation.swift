/// Something that happened. `GET /events`; who wants to follow asks again for what is `after` the last one.
public struct EventModel: Codable, Hashable, Sendable {
    /// Grows by one; a gap tells of lost events.
    public var sequence: UInt64 = 0
    /// Seconds since 1970-01-01 UTC.
    public var timeS: Double = 0
    /// Stable name: `port_up`, `port_down`, `rule_expired`, `session_spliced`, ...
    public var kind = ""
    /// The same for people.
    public var message = ""
    /// What it is about, when it is about one.
    public var port: String?
    public var session: UInt64?
    public var server: String?
    public var resource: String?
    /// Further values, by kind.
    public var details: [String: String] = [:]
    public init() {}
}

/// Body of `POST /capture`.
public struct CaptureRequest: Codable, Hashable, Sendable {
    /// Number or name of a port, or `all`.
    public var port: String
    /// Absolute path of the capture file; the daemon writes it.
    public var file: String
    /// Ends by itself after this many packets; nil: when stopped.
    public var count: Int?
    /// A pcap-filter(7) expression; nil: everything.
    public var filter: String?
    public init(port: String, file: String, count: Int? = nil, filter: String? = nil) {
        self.port = port
        self.file = file
        self.count = count
        self.filter = filter
    }
}

/// A capture, running or finished. `GET /capture`, and the answer of `POST` and `DELETE`.
public struct CaptureModel: Codable, Hashable, Sendable {
    public var port = ""
    public var file = ""
    public var filter: String?
    public var isRunning = false
    /// Written to the file.
    public var packets: UInt64 = 0
    public var bytes: UInt64 = 0
    /// Not written because the queue to the writer was full.
    public var drops: UInt64 = 0
    /// Why it ended early.
    public var error: String?
    public init() {}
}

/// Body of `POST /reload`.
public struct ReloadRequest: Codable, Hashable, Sendable {
    /// Only say what would change and what it would disturb.
    public var dryRun: Bool
    public init(dryRun: Bool = false) { self.dryRun = dryRun }
}

/// Answer to `POST /reload`.
public struct ReloadModel: Codable, Hashable, Sendable {
    public var isApplied = false
    /// What differs, one line each.
    public var changes: [String] = []
    /// What that disturbs (sessions, ports), one line each.
    public var disturbs: [String] = []
    public var warnings: [String] = []
    public init() {}
}

/// Body of every answer that is not 2xx.
public struct ErrorModel: Codable, Hashable, Sendable {
    public var message: String
    /// The field of the request or configuration that is wrong.
    public var field: String?
    /// From 1; for rules, the index of the rule in the request.
    public var line: Int?
    /// From 1, in characters.
    public var column: Int?
    /// Characters that are wrong, from `column` on.
    public var length: Int?
    /// What would be right.
    public var suggestion: String?
    /// The wrong line itself, so that it can be shown with a mark below it.
    public var text: String?

    public init(
        message: String, field: String? = nil, line: Int? = nil, column: Int? = nil,
        length: Int? = nil, suggestion: String? = nil, text: String? = nil
    ) {
        self.message = message
        self.field = field
        self.line = line
        self.column = column
        self.length = length
        self.suggestion = suggestion
        self.text = text
    }
}
