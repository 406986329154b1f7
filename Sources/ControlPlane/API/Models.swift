// What the API says, as JSON. Names become snake_case on the wire (`rxPackets` is `rx_packets`); a
// unit is the last word of a name: S seconds, Ms milliseconds, Us microseconds. Every value is
// measured: counters come from the dataplane.

/// `GET /status`
public struct StatusModel: Codable, Hashable, Sendable {
    /// Version of the daemon.
    public var version = ""
    public var pid: Int32 = 0
    public var uptimeS: Double = 0
    /// Path of the configuration file.
    public var configuration = ""
    /// Client-side addresses, with prefix length.
    public var virtualAddresses: [String] = []
    public var ports = 0
    public var portsUp = 0
    public var rules = 0
    public var flows = 0
    public var macs = 0
    public var sessions = 0
    /// True when clients are listened to.
    public var isReady = false
    /// Number of sessions in each state; states without a session are left out.
    public var sessionsByState: [String: Int] = [:]
    /// Sessions with open requests that could not be given to another server.
    public var sessionsUnprotected = 0
    /// Since the start, requests that could not have been given to another server.
    public var requestsUnprotected: UInt64 = 0
    public var resources = 0
    public var servers = 0
    public var serversHealthy = 0
    /// Since the start, over all ports.
    public var rxPackets: UInt64 = 0
    public var txPackets: UInt64 = 0
    /// Packets not forwarded, by reason; reasons that never occurred are left out.
    public var drops: [String: UInt64] = [:]
    /// Events that were lost because a queue was full.
    public var eventsLost: UInt64 = 0
    /// Warnings of the configuration in use.
    public var warnings: [String] = []
    public init() {}
}

/// `GET /ports`
public struct PortModel: Codable, Hashable, Sendable {
    /// As rules name it (`in_port`, `output`).
    public var number: UInt16 = 0
    public var name = ""
    /// Network device.
    public var device = ""
    /// `packet`, `tap` or `cpu`.
    public var kind = ""
    /// `client`, `storage` or `heartbeat`.
    public var side = ""
    /// L2 domain; ports of different domains are never bridged.
    public var domain: UInt8 = 0
    public var isUp = false
    public var rxPackets: UInt64 = 0
    public var rxBytes: UInt64 = 0
    public var txPackets: UInt64 = 0
    public var txBytes: UInt64 = 0
    /// Frames that the kernel dropped before we read them.
    public var rxDrops: UInt64 = 0
    /// Frames longer than the receive buffer.
    public var rxTruncated: UInt64 = 0
    /// Frames that the device did not take.
    public var txDrops: UInt64 = 0
    /// How often the device was joined again after it had vanished.
    public var rejoins: UInt64 = 0
    public init() {}
}

/// `GET /macs`
public struct MACModel: Codable, Hashable, Sendable {
    /// `aa:bb:cc:dd:ee:ff`
    public var mac = ""
    public var domain: UInt8 = 0
    /// Number and name of the port behind which the address is.
    public var port: UInt16 = 0
    public var portName = ""
    /// Since a frame from the address was last seen.
    public var ageS: Double = 0
    public init() {}
}

/// `GET /rules`
public struct RuleModel: Codable, Hashable, Sendable {
    /// Match and actions in ovs-ofctl syntax; can be given back to `POST /rules`.
    public var text = ""
    /// The match alone, without priority; empty: every packet.
    public var match = ""
    /// The actions alone, without `actions=`.
    public var actions = ""
    public var priority: UInt16 = 0
    /// Hexadecimal with `0x`: 64 bits do not fit into a JSON number.
    public var cookie = "0x0"
    public var nPackets: UInt64 = 0
    public var nBytes: UInt64 = 0
    /// Since the rule was added.
    public var durationS: Double = 0
    /// Since the rule was last used.
    public var idleS: Double = 0
    /// 0: never.
    public var idleTimeoutS: UInt16 = 0
    /// 0: never.
    public var hardTimeoutS: UInt16 = 0
    public init() {}
}

/// Body of `POST /rules` (add) and `PUT /rules` (replace all): applied whole or not at all.
public struct RulesRequest: Codable, Hashable, Sendable {
    /// One rule each, in ovs-ofctl syntax.
    public var rules: [String]
    public init(rules: [String]) { self.rules = rules }
}

/// Answer to every change.
public struct ChangeModel: Codable, Hashable, Sendable {
    /// How many things were added, changed or removed.
    public var count: Int
    public init(count: Int) { self.count = count }
}

/// `GET /flows`: one page of the exact flows.
public struct FlowPage: Codable, Hashable, Sendable {
    /// Flows in the table.
    public var total = 0
    /// Position of the first one of this page.
    public var offset = 0
    public var flows: [FlowModel] = []
    public init() {}
}

/// An exact flow.
public struct FlowModel: Codable, Hashable, Sendable {
    /// `tcp`, `udp`, or the number of the IP protocol.
    public var `protocol` = ""
    /// Addresses without ports.
    public var source = ""
    public var sourcePort: UInt16 = 0
    public var destination = ""
    public var destinationPort: UInt16 = 0
    public var domain: UInt8 = 0
    /// `network` or `cpu`: where in the domain the packets come from.
    public var origin = ""
    /// In ovs-ofctl syntax.
    public var actions = ""
    public var cookie = "0x0"
    public var nPackets: UInt64 = 0
    public var nBytes: UInt64 = 0
    public var idleS: Double = 0
    public init() {}
}

/// Body of `POST /trace`: exactly one of `packet` and `flow`.
public struct TraceRequest: Codable, Hashable, Sendable {
    /// A whole Ethernet frame in hexadecimal.
    public var packet: String?
    /// A packet described in rule syntax, as `ovs-appctl ofproto/trace` takes it.
    public var flow: String?
    /// Number or name of the port where it comes in; may also stand in `flow`.
    public var inPort: String?
    public init(packet: String? = nil, flow: String? = nil, inPort: String? = nil) {
        self.packet = packet
        self.flow = flow
        self.inPort = inPort
    }
}

/// What would happen to a packet; nothing is sent and no counter changes.
public struct TraceModel: Codable, Hashable, Sendable {
    /// One step of the pipeline a line.
    public var steps: [String] = []
    /// Ports where it would go out.
    public var outputs: [UInt16] = []
    /// Why it would be dropped, when it would.
    public var drop: String?
    public init() {}
}
