/// Number of a port in the switch, from 1; as OpenFlow uses it.
public typealias PortNumber = UInt16
/// An L2 domain: ports in different domains are never bridged.
public typealias DomainID = UInt8
/// Index of a splice record, chosen by the control plane, 0 ..< capacity.
public typealias SpliceID = UInt32

/// What is done to a packet that matches. Names are those of ovs-actions(7) where it has one.
public enum Action: Hashable, Sendable {
    case output(PortNumber)
    /// Back out of the port where the packet came in.
    case inPort
    /// To every port of the domain but the one where it came in; `all` is the same here.
    case flood
    case all
    /// L2 switching in the domain, with MAC learning.
    case normal
    /// To the CPU port of the domain where the packet came in.
    case cpu
    case drop
    case setSourceMAC(MACAddress)
    case setDestinationMAC(MACAddress)
    /// Address of the packet's own family; for the other family the action does nothing.
    case setSourceAddress(IPAddress)
    case setDestinationAddress(IPAddress)
    /// TCP or UDP port; nothing for other protocols.
    case setSourcePort(UInt16)
    case setDestinationPort(UInt16)
    /// The six DSCP bits, given as the value of the whole octet (`mod_nw_tos`); ECN stays.
    case setTOS(UInt8)
    case setTTL(UInt8)
    /// Adds a tag of this EtherType (0x8100 or 0x88a8) with VLAN id 0 and priority 0.
    case pushVLAN(UInt16)
    case popVLAN
    /// Changes the VLAN id; adds a tag when there is none.
    case setVLANID(UInt16)
    case setVLANPriority(UInt8)
    /// At 0 the packet is dropped and an ICMP time exceeded is sent (`dec_ttl`).
    case decrementTTL
    /// A copy, as it is now, to a port; the packet goes on.
    case mirror(PortNumber)
    /// Hands the packet to a splice.
    case splice(SpliceID)
}

/// A rule as it is installed.
public struct Rule: Hashable, Sendable {
    public var priority: UInt16
    public var match: Match
    public var actions: [Action]
    public var cookie: UInt64
    /// Seconds without a packet after which the rule goes; 0: never.
    public var idleTimeout: UInt16
    /// Seconds after which the rule goes; 0: never.
    public var hardTimeout: UInt16

    public init(
        priority: UInt16 = 32768, match: Match = Match(), actions: [Action] = [],
        cookie: UInt64 = 0, idleTimeout: UInt16 = 0, hardTimeout: UInt16 = 0
    ) {
        self.priority = priority
        self.match = match
        self.actions = actions
        self.cookie = cookie
        self.idleTimeout = idleTimeout
        self.hardTimeout = hardTimeout
    }
}
