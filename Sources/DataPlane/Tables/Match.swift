/// The fields of one packet that rules can match, and, with the same layout, a mask over them.
///
/// No padding (80 octets), so that it can be compared and hashed as ten 64-bit words. The meaning is
/// that of ovs-fields(7): for ARP, addresses are in `source`/`destination` and the opcode is in
/// `ipProtocol`; for ICMP, type and code are in `transportSource`/`transportDestination`.
public struct PacketFields: Hashable, Sendable {
    public var sourceMAC: UInt64 = 0
    public var destinationMAC: UInt64 = 0
    public var sourceHigh: UInt64 = 0
    public var sourceLow: UInt64 = 0
    public var destinationHigh: UInt64 = 0
    public var destinationLow: UInt64 = 0
    public var arpSourceMAC: UInt64 = 0
    public var arpTargetMAC: UInt64 = 0
    public var inPort: UInt16 = 0
    public var etherType: UInt16 = 0
    /// OVS `vlan_tci`: 0 without a tag, else priority(3) | 1 | VLAN id(12).
    public var vlanTCI: UInt16 = 0
    public var transportSource: UInt16 = 0
    public var transportDestination: UInt16 = 0
    public var tcpFlags: UInt16 = 0
    public var ipProtocol: UInt8 = 0
    /// DSCP and ECN, the whole octet.
    public var tos: UInt8 = 0
    public var ttl: UInt8 = 0
    /// 0 no fragment, 1 first fragment, 3 later fragment (OVS `ip_frag`).
    public var fragment: UInt8 = 0

    public init() {}
}

/// A masked match: a packet matches when `fields & mask == value`.
public struct Match: Hashable, Sendable {
    /// Zero wherever the mask is zero.
    public var value: PacketFields
    public var mask: PacketFields

    /// Matches every packet.
    public init() {
        value = PacketFields()
        mask = PacketFields()
    }
}
