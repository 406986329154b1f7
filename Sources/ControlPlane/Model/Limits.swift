/// Every bound of the switch. Occupancy of each table is a metric; what happens at the limit is said
/// here with each.
public struct Limits: Hashable, Sendable {
    /// Sessions at the same time, spliced or not. At the limit new connections are refused (reset);
    /// existing ones go on.
    public var sessions = 4096
    /// Masked rules. At the limit a batch that adds one is refused whole.
    public var rules = 4096
    /// Exact flows. At the limit a batch that adds one is refused whole.
    public var flows = 1_048_576
    /// Learned MAC addresses, for each side. At the limit further addresses are not learned until others
    /// have aged; their traffic is flooded.
    public var macs = 4096
    /// Octets of packets held while sessions change state, over all of them. At the limit packets are
    /// dropped and counted; the ends send them again.
    public var heldBytes = 268_435_456
    /// Events kept for `GET /events`. At the limit the oldest is forgotten.
    public var events = 4096
    /// SYNs to the virtual addresses per second, all clients together; 0: no limit. Above it SYNs are
    /// dropped and counted.
    public var synsPerSecond = 0
    /// ICMP errors that the dataplane makes per second. Above it they are not sent and counted.
    public var icmpErrorsPerSecond = 1000
    /// Milliseconds that a client may take from connecting to the end of its login.
    public var loginTimeoutMilliseconds = 15_000
    /// Milliseconds that a change of state may take before it is given up and the session stays
    /// where it was; it is tried again. Packets may be held for as long.
    public var drainTimeoutMilliseconds = 40
    /// Seconds without data after which a spliced session is closed; 0: never.
    public var idleTimeoutSeconds = 0
    /// Seconds of silence after which an end of a session is asked whether it is still there (TCP
    /// keep-alive, RFC 9293 section 3.8.4). One that does not answer for a minute ends the session; 0: no
    /// questions.
    public var keepAliveSeconds = 60

    /// Octets of open requests kept for each session, so that another server can be given them; 0: none, and
    /// the end of a server ends its sessions. A request that finds no room is not protected: should its
    /// server fail, it is answered with BUSY. The session goes on, a metric counts it.
    public var requestLogBytes = 33_554_432
    /// The same over all sessions.
    public var requestLogTotalBytes = 1_073_741_824

    public init() {}

    /// One limit as the configuration names it, with the values that it may have.
    struct Field: Sendable {
        let key: String
        let range: ClosedRange<Int>
        let path: any WritableKeyPath<Limits, Int> & Sendable
    }

    static let fields: [Field] = [
        Field(key: "sessions", range: 1...1_048_576, path: \.sessions),
        Field(key: "rules", range: 1...1_048_576, path: \.rules),
        Field(key: "flows", range: 2...16_777_216, path: \.flows),
        Field(key: "macs", range: 16...1_048_576, path: \.macs),
        Field(key: "held_bytes", range: 65_536...17_179_869_184, path: \.heldBytes),
        Field(key: "events", range: 16...1_048_576, path: \.events),
        Field(key: "syns_per_second", range: 0...100_000_000, path: \.synsPerSecond),
        Field(key: "icmp_errors_per_second", range: 0...1_000_000, path: \.icmpErrorsPerSecond),
        Field(key: "login_timeout_ms", range: 100...600_000, path: \.loginTimeoutMilliseconds),
        Field(key: "drain_timeout_ms", range: 1...60_000, path: \.drainTimeoutMilliseconds),
        Field(key: "idle_timeout_s", range: 0...65_535, path: \.idleTimeoutSeconds),
        Field(key: "keepalive_s", range: 0...65_535, path: \.keepAliveSeconds),
        Field(key: "request_log_bytes", range: 0...1_073_741_824, path: \.requestLogBytes),
        Field(
            key: "request_log_total_bytes", range: 0...1_099_511_627_776,
            path: \.requestLogTotalBytes),
    ]
}
