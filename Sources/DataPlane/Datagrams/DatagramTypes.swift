// What the datagram grain is told of: services, servers, clients, resources.

/// Index of a datagram service, chosen by the control plane: below `PipelineConfiguration.datagramServices`.
public typealias DatagramServiceID = UInt8
/// Index of a resource of the datagram grain, chosen by the control plane: any value.
public typealias DatagramResourceID = UInt8

/// At most one address of each family.
public struct DatagramAddresses: Hashable, Sendable {
    public var ipv4: IPAddress?
    public var ipv6: IPAddress?

    public init(ipv4: IPAddress? = nil, ipv6: IPAddress? = nil) {
        self.ipv4 = ipv4
        self.ipv6 = ipv6
    }

    @inline(__always)
    func address(isIPv4: Bool) -> IPAddress? { isIPv4 ? ipv4 : ipv6 }

    /// Each address is of its family, and there is at least one.
    var isValid: Bool {
        (ipv4 != nil || ipv6 != nil) && ipv4?.isIPv4 != false && ipv6?.isIPv4 != true
    }
}

/// A virtual address and UDP port that clients send NFS calls to, and what the switch is towards servers.
public struct DatagramService: Hashable, Sendable {
    /// L2 domain of the clients.
    public var clientDomain: DomainID
    public var virtualAddresses: DatagramAddresses
    /// UDP port at the virtual addresses.
    public var port: UInt16
    /// Our MAC address in the clients' domain: source of what goes to clients.
    public var clientMAC: MACAddress
    /// L2 domain of the servers.
    public var storageDomain: DomainID
    /// Source addresses of calls: one for each family that has a virtual address.
    public var storageAddresses: DatagramAddresses
    /// Our MAC address in the servers' domain: source of what goes to servers.
    public var storageMAC: MACAddress
    /// Four octets, the first highest, with which the handles begin that name their resource themselves:
    /// magic, resource as four octets, the server's own handle. Nil: there are no such handles.
    public var handleMagic: UInt32?

    public init(
        clientDomain: DomainID, virtualAddresses: DatagramAddresses, port: UInt16 = 2049,
        clientMAC: MACAddress, storageDomain: DomainID, storageAddresses: DatagramAddresses,
        storageMAC: MACAddress, handleMagic: UInt32? = nil
    ) {
        self.clientDomain = clientDomain
        self.virtualAddresses = virtualAddresses
        self.port = port
        self.clientMAC = clientMAC
        self.storageDomain = storageDomain
        self.storageAddresses = storageAddresses
        self.storageMAC = storageMAC
        self.handleMagic = handleMagic
    }

    /// Whether bindings of the one are good for the other.
    func hasSameAddresses(as other: DatagramService) -> Bool {
        clientDomain == other.clientDomain && virtualAddresses == other.virtualAddresses
            && port == other.port && storageDomain == other.storageDomain
            && storageAddresses == other.storageAddresses
    }

    /// Whether there is a storage address wherever there is a virtual one.
    var isValid: Bool {
        let hasStorage =
            (virtualAddresses.ipv4 == nil || storageAddresses.ipv4 != nil)
            && (virtualAddresses.ipv6 == nil || storageAddresses.ipv6 != nil)
        return virtualAddresses.isValid && storageAddresses.isValid && hasStorage && port != 0
            && Int(clientDomain) < PortSet.domainMaximum
            && Int(storageDomain) < PortSet.domainMaximum
    }
}

/// Where a resource is served.
public struct DatagramServer: Hashable, Sendable {
    public var address: IPAddress
    /// UDP port.
    public var port: UInt16
    /// Next hop on the way: the server itself, or a router.
    public var mac: MACAddress

    public init(address: IPAddress, port: UInt16 = 2049, mac: MACAddress) {
        self.address = address
        self.port = port
        self.mac = mac
    }
}

/// An address with a UDP port.
public struct DatagramEndpoint: Hashable, Sendable {
    public var address: IPAddress
    public var port: UInt16

    public init(address: IPAddress, port: UInt16) {
        self.address = address
        self.port = port
    }
}

/// A set of resources, as bits.
public struct DatagramResourceSet: Hashable, Sendable, ExpressibleByArrayLiteral {
    private var first: UInt64 = 0
    private var second: UInt64 = 0
    private var third: UInt64 = 0
    private var fourth: UInt64 = 0

    public static let all = DatagramResourceSet(DatagramResourceID.min...DatagramResourceID.max)

    public init() {}

    public init(_ resources: some Sequence<DatagramResourceID>) {
        for resource in resources { insert(resource) }
    }

    public init(arrayLiteral resources: DatagramResourceID...) { self.init(resources) }

    @inline(__always)
    public func contains(_ resource: DatagramResourceID) -> Bool {
        let word: UInt64
        switch resource >> 6 {
        case 0: word = first
        case 1: word = second
        case 2: word = third
        default: word = fourth
        }
        return word >> UInt64(resource & 63) & 1 != 0
    }

    public mutating func insert(_ resource: DatagramResourceID) { set(resource, true) }

    public mutating func remove(_ resource: DatagramResourceID) { set(resource, false) }

    /// In order.
    public var elements: [DatagramResourceID] {
        (DatagramResourceID.min...DatagramResourceID.max).filter { contains($0) }
    }

    mutating func set(_ resource: DatagramResourceID, _ isMember: Bool) {
        let bit: UInt64 = 1 << UInt64(resource & 63)
        switch resource >> 6 {
        case 0: first = isMember ? first | bit : first & ~bit
        case 1: second = isMember ? second | bit : second & ~bit
        case 2: third = isMember ? third | bit : third & ~bit
        default: fourth = isMember ? fourth | bit : fourth & ~bit
        }
    }
}
