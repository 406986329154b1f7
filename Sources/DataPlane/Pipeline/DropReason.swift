/// Why a packet was not forwarded. Every drop has one; each is a counter.
public enum DropReason: UInt8, CaseIterable, Sendable {
    // Parsing
    case frameTooShort
    case malformedVLAN
    case malformedARP
    case malformedIPv4
    case malformedIPv6
    case malformedTCP
    case malformedUDP
    case malformedICMP
    case headerChecksum
    // Rules and switching
    case noRule
    case ruleAction
    case noSuchPort
    case portDown
    case sourceIsDestinationPort
    case reservedMulticast
    case ttlExpired
    case tooBig
    case actionLimit
    // Fragments
    case fragmentTooSmall
    case fragmentNoFirst
    case fragmentTableFull
    case fragmentQueueFull
    /// Of a datagram that was decided about by its first fragment: lies over that one.
    case fragmentOverlap
    // Splices
    case spliceUnknown
    case spliceHoldFull
    case spliceKernelPacket
    case spliceClosed
    /// A SYN on the tuple of a session that goes on, answered by an acknowledgement.
    case spliceSYN
    case spliceNoRoute
    /// From a server that was given up.
    case spliceServerLost
    // Messages
    case messageHoldFull
    case messageMalformed
    // Devices: counted by the ports, see `PortDeviceCounters`
    case transmitRefused
    case receiveTruncated
    case receiveQueueFull
    case faultInjected
    // Limits
    case synLimit
    case icmpLimit
}
