/// What the control plane tells the datagram grain.
public enum DatagramCommand: Sendable {
    /// Makes or replaces a service; nil removes it. Bindings stay while its domains, addresses and port do, else
    /// they go with it. Resources and handles are everybody's and stay.
    case setService(DatagramServiceID, DatagramService?)
    /// Where a resource is served from now on; nil: nowhere, and its calls go to the CPU port. A move is this
    /// one command: calls that come after it go to the new server. Counters go on.
    case setResource(DatagramResourceID, server: DatagramServer?)
    /// A client may use the fast path for `resources`; servers see it as `localPort` at the service's storage
    /// address of the client's family. `mac`: next hop to the client; zero: learned from its first call.
    case bind(
        DatagramServiceID, client: DatagramEndpoint, localPort: UInt16,
        resources: DatagramResourceSet, mac: MACAddress = .zero)
    case unbind(DatagramServiceID, client: DatagramEndpoint)
    /// Lets a bound client use the fast path for one more resource, or forbids it.
    case allow(
        DatagramServiceID, client: DatagramEndpoint, resource: DatagramResourceID, isAllowed: Bool)
    /// Enters a file handle of 1 ... 64 octets, as it is on the wire; one that is there gets this resource. Never
    /// refused: a full table forgets a handle that was not used for long.
    case installHandle([UInt8], resource: DatagramResourceID)
    /// Answers `.count`: 1, or 0 when the handle was not there (any more).
    case removeHandle([UInt8])
    /// Answers `.count`: handles removed.
    case removeHandles(of: DatagramResourceID)
}
