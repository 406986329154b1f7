public import DataPlane

/// Which network a port belongs to; each is an L2 domain of its own.
public enum PortSide: String, CaseIterable, Codable, Hashable, Sendable {
    case client
    case storage
    case heartbeat

    /// Number of the side's L2 domain.
    public var domain: DomainID {
        switch self {
        case .client: 0
        case .storage: 1
        case .heartbeat: 2
        }
    }
}

/// Faults that a port injects, for tests. Probabilities of each frame, 0 to 1.
public struct PortFaults: Hashable, Sendable {
    public var drop: Double = 0
    public var duplicate: Double = 0
    public var reorder: Double = 0
    public var corrupt: Double = 0
    /// Microseconds by which every frame is late.
    public var delayMicroseconds: UInt32 = 0
    /// The same seed gives the same faults for the same frames.
    public var seed: UInt64 = 1
    public init() {}
}

/// A port to a network.
public struct PortConfiguration: Hashable, Sendable {
    public enum Kind: String, CaseIterable, Codable, Hashable, Sendable {
        /// A packet socket on an existing device.
        case packet
        /// A TAP device that the daemon creates.
        case tap
    }

    /// How a packet socket receives.
    public enum Receive: String, CaseIterable, Codable, Hashable, Sendable {
        /// `recvmmsg`.
        case batched
        /// A TPACKET_V2 ring shared with the kernel.
        case ring
    }

    public var name: String
    /// Network device, at most 15 octets.
    public var device: String
    public var side: PortSide
    public var kind: Kind
    public var receive: Receive
    public var faults: PortFaults?

    public init(
        name: String, device: String, side: PortSide, kind: Kind = .packet,
        receive: Receive = .batched, faults: PortFaults? = nil
    ) {
        self.name = name
        self.device = device
        self.side = side
        self.kind = kind
        self.receive = receive
        self.faults = faults
    }
}

/// An address of an interface with the length of its network's prefix.
public struct InterfaceAddress: Hashable, Sendable {
    public var address: IPAddress
    /// 0...32 for IPv4, 0...128 for IPv6.
    public var prefixLength: UInt8

    public init(address: IPAddress, prefixLength: UInt8) {
        self.address = address
        self.prefixLength = prefixLength
    }

    /// Whether `other` is on the same network.
    public func contains(_ other: IPAddress) -> Bool {
        guard address.isIPv4 == other.isIPv4 else { return false }
        // IPv4 is kept in mapped form: its prefix starts after 96 bits.
        let length = Int(prefixLength) + (address.isIPv4 ? 96 : 0)
        let highMask: UInt64 = length >= 64 ? .max : ~(UInt64.max >> UInt64(length))
        let lowLength = max(0, length - 64)
        let lowMask: UInt64 = lowLength >= 64 ? .max : ~(UInt64.max >> UInt64(lowLength))
        return (address.high ^ other.high) & highMask == 0
            && (address.low ^ other.low) & lowMask == 0
    }
}

/// A TAP device through which the kernel's TCP/IP stack is attached to a side.
public struct CPUPortConfiguration: Hashable, Sendable {
    /// Name of the TAP device, at most 15 octets.
    public var device: String
    public var macAddress: MACAddress
    /// The client side's are the virtual addresses.
    public var addresses: [InterfaceAddress]
    /// Segments that the kernel's TCP sends to ends in these networks before the first acknowledgement. A socket that is
    /// put together in the middle of a session begins with it, like a new one.
    public var initialWindow: Int

    public static let defaultInitialWindow = 400

    public init(
        device: String, macAddress: MACAddress, addresses: [InterfaceAddress],
        initialWindow: Int = defaultInitialWindow
    ) {
        self.device = device
        self.macAddress = macAddress
        self.addresses = addresses
        self.initialWindow = initialWindow
    }
}
