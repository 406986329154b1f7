public import DataPlane

/// A storage server behind the switch.
public struct Server: Hashable, Sendable {
    /// Unique name, as the configuration gives it.
    public var name: String
    /// In order of preference; never empty in a validated configuration.
    public var addresses: [IPAddress]
    /// TCP port of its iSCSI target.
    public var iscsiPort: UInt16
    /// What the switch says of itself towards this server; nil: it does not authenticate there.
    public var credential: CHAPCredential?

    public init(
        name: String, addresses: [IPAddress], iscsiPort: UInt16 = 3260,
        credential: CHAPCredential? = nil
    ) {
        self.name = name
        self.addresses = addresses
        self.iscsiPort = iscsiPort
        self.credential = credential
    }
}
