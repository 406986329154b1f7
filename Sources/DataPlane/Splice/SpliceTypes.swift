/// State of a splice (DESIGN.md, "Splice and unsplice").
public enum SpliceState: UInt8, Sendable, CaseIterable {
    case free
    /// Both ends talk to kernel sockets on the CPU ports; positions are followed.
    case slow
    /// On the way to `spliced`: new data is held, the sockets are being emptied.
    case drainToSplice
    /// Everything is queued while positions change hands.
    case hold
    /// Packets go from port to port, rewritten.
    case spliced
    /// On the way to `slow`: new data is held until everything forwarded is acknowledged.
    case drainToSlow
    /// The server leg is over while requests may be open: the client's packets wait until it has a kernel
    /// socket again.
    case serverLost
    /// Ended; the entry stays for a while so that late packets are dropped, not answered.
    case closed
}

/// Addresses and TCP options of one leg, as the kernel socket of this leg has them.
public struct SpliceLeg: Hashable, Sendable {
    public var domain: DomainID
    public var localAddress: IPAddress
    public var localPort: UInt16
    public var localMAC: MACAddress
    public var remoteAddress: IPAddress
    public var remotePort: UInt16
    /// Known from the neighbour table; zero: learned from the first packet.
    public var remoteMAC: MACAddress
    /// Window scale announced by the remote end, and by us to it.
    public var remoteScale: UInt8
    public var localScale: UInt8
    /// Sequence number of the remote end's first octet of data (its ISN + 1).
    public var remoteBase: SequenceNumber
    /// Option kinds removed from our SYN as it leaves: the client did not offer them.
    public var stripTimestamps: Bool
    public var stripSACK: Bool

    public init(
        domain: DomainID, localAddress: IPAddress, localPort: UInt16, localMAC: MACAddress,
        remoteAddress: IPAddress, remotePort: UInt16, remoteMAC: MACAddress = .zero,
        remoteScale: UInt8 = 0,
        localScale: UInt8 = 0, remoteBase: SequenceNumber = SequenceNumber(0),
        stripTimestamps: Bool = false, stripSACK: Bool = false
    ) {
        self.domain = domain
        self.localAddress = localAddress
        self.localPort = localPort
        self.localMAC = localMAC
        self.remoteAddress = remoteAddress
        self.remotePort = remotePort
        self.remoteMAC = remoteMAC
        self.remoteScale = remoteScale
        self.localScale = localScale
        self.remoteBase = remoteBase
        self.stripTimestamps = stripTimestamps
        self.stripSACK = stripSACK
    }
}

/// What a frozen kernel socket says of its leg: input of `SpliceCommand.install`.
public struct SocketPositions: Hashable, Sendable {
    /// Next octet expected from the remote end, next octet we would send to it.
    public var receiveNext: SequenceNumber
    public var sendNext: SequenceNumber
    /// TCP_REPAIR_WINDOW.
    public var sendWindow: UInt32
    public var sendWL1: UInt32
    public var maximumWindow: UInt32
    public var receiveWindow: UInt32
    public var receiveWindowUpdate: UInt32
    /// TSval that the socket would send next; 0 without timestamps.
    public var timestamp: UInt32
    public init(
        receiveNext: SequenceNumber, sendNext: SequenceNumber, sendWindow: UInt32 = 0,
        sendWL1: UInt32 = 0, maximumWindow: UInt32 = 0, receiveWindow: UInt32 = 0,
        receiveWindowUpdate: UInt32 = 0, timestamp: UInt32 = 0
    ) {
        self.receiveNext = receiveNext
        self.sendNext = sendNext
        self.sendWindow = sendWindow
        self.sendWL1 = sendWL1
        self.maximumWindow = maximumWindow
        self.receiveWindow = receiveWindow
        self.receiveWindowUpdate = receiveWindowUpdate
        self.timestamp = timestamp
    }
}
