/// Why a packet to one of the datagram grain's ports was not redirected but went its ordinary way, which leads to
/// the CPU port. Each is a counter; of a datagram in fragments the first one is counted.
public enum DatagramMiss: UInt8, CaseIterable, Sendable {
    // Calls
    /// Not an RPC call, or one with lengths that cannot be.
    case malformed
    /// The octets up to the end of the file handle are not all there, or not in the first fragment.
    case truncated
    /// Not NFS version 2 or 3.
    case program
    /// A procedure that the control plane carries out.
    case procedure
    /// Neither AUTH_NONE nor AUTH_SYS.
    case credential
    /// The client is not bound.
    case binding
    /// Nobody knows the file handle.
    case handle
    /// The client may not use the resource.
    case notAllowed
    /// The resource has no server, or one of the other address family.
    case server
    // Replies, to a port that is bound
    /// Not from where a resource is served.
    case unknownServer
    /// Not an RPC reply.
    case notReply
    // Both ways
    /// A frame that stands for several.
    case segmented
    /// IPv4 options, or IPv6 extension headers other than a fragment header.
    case options
    /// Longer than the port can send.
    case tooBig
    /// Nobody knows behind which port the next hop is.
    case route
}
