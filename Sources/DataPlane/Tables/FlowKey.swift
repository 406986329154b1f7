/// Key of an exact flow: addresses, ports, protocol, and where the packet came from. 40 octets.
public struct FlowKey: Hashable, Sendable {
    public var sourceHigh: UInt64
    public var sourceLow: UInt64
    public var destinationHigh: UInt64
    public var destinationLow: UInt64
    /// source port(16) | destination port(16) | protocol(8) | domain(8) | origin(8) | 0(8)
    public var ports: UInt64

    /// Where in a domain a packet was received: the two directions of one tuple are different flows.
    public enum Origin: UInt8, Sendable {
        /// From an outside port of the domain.
        case network = 0
        /// From the domain's CPU port.
        case cpu = 1
    }

    @inlinable public init(
        source: IPAddress, sourcePort: UInt16, destination: IPAddress, destinationPort: UInt16,
        ipProtocol: UInt8, domain: DomainID, origin: Origin
    ) {
        sourceHigh = source.high
        sourceLow = source.low
        destinationHigh = destination.high
        destinationLow = destination.low
        ports =
            UInt64(sourcePort) << 48 | UInt64(destinationPort) << 32 | UInt64(ipProtocol) << 24
            | UInt64(domain) << 16 | UInt64(origin.rawValue) << 8
    }
}
