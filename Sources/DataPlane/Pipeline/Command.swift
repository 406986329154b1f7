/// One change to the switch. Commands come in batches that are applied whole or not at all.
public enum Command: Sendable {
    /// Adds a rule; one with the same match and priority is replaced, its counters start again.
    case addRule(Rule)
    /// Changes the actions of matching rules, counters stay. Adds nothing.
    case modifyRules(RuleSelector, actions: [Action])
    case deleteRules(RuleSelector)
    /// All rules are replaced by these; rules that stay the same keep their counters.
    case replaceRules([Rule])
    /// Exact flow with its own action list.
    case addFlow(FlowKey, actions: [Action], cookie: UInt64, idleTimeout: UInt16)
    case deleteFlow(FlowKey)
    case splice(SpliceCommand)
    case datagram(DatagramCommand)
    /// Forgets learned MAC addresses (all domains when nil).
    case flushMACs(DomainID?)
}

/// Which rules a delete or modify means, as `ovs-ofctl` does it.
public struct RuleSelector: Hashable, Sendable {
    /// Loose: every rule at least as specific as `match`. Strict: exactly this match and `priority`.
    public var match: Match
    public var isStrict: Bool
    public var priority: UInt16
    public var cookie: UInt64
    /// Bits of the cookie that must agree; 0: any cookie.
    public var cookieMask: UInt64
    /// Only rules with an output to this port, when given.
    public var outPort: PortNumber?
    /// Rules with this cookie are not meant, whatever else is said.
    public var exceptCookie: UInt64?
    public init(
        match: Match = Match(), isStrict: Bool = false, priority: UInt16 = 32768,
        cookie: UInt64 = 0, cookieMask: UInt64 = 0, outPort: PortNumber? = nil
    ) {
        self.match = match
        self.isStrict = isStrict
        self.priority = priority
        self.cookie = cookie
        self.cookieMask = cookieMask
        self.outPort = outPort
    }
}

/// What a command of a batch that was applied answers.
public enum CommandResult: Sendable {
    case done
    /// Number of rules added, changed or removed.
    case count(Int)
    case splice(SpliceSnapshot)
}

/// Why a batch was refused: nothing of it was applied.
public struct BatchError: Error, Hashable, Sendable {
    /// Index of the command in the batch.
    public var index: Int
    public var reason: Reason
    public enum Reason: Hashable, Sendable {
        case ruleTableFull(limit: Int)
        case flowTableFull(limit: Int)
        case flowExists
        case noSuchFlow
        case noSuchPort(PortNumber)
        case tooManyActions(limit: Int)
        case spliceOutOfRange(SpliceID)
        case spliceInUse(SpliceID)
        case spliceNotOpen(SpliceID)
        case spliceState(SpliceID, SpliceState)
        case datagramServiceOutOfRange(DatagramServiceID, limit: Int)
        case noSuchDatagramService(DatagramServiceID)
        /// An address of the wrong family, none at all, no storage address where there is a virtual one, port 0,
        /// or a domain that cannot be.
        case datagramServiceInvalid(DatagramServiceID)
        /// Another service has the domain, virtual address and port.
        case datagramServiceInUse(by: DatagramServiceID)
        /// The service has no addresses of the client's family.
        case datagramAddressFamily
        case datagramBindingExists
        case noSuchDatagramBinding
        /// Local port of another binding, or 0.
        case datagramPortInUse(UInt16)
        case datagramBindingTableFull(limit: Int)
        /// A file handle has 1 ... 64 octets.
        case datagramHandleLength(Int)
        case queueFull
        case stopped
    }
    public init(index: Int, reason: Reason) {
        self.index = index
        self.reason = reason
    }
}
