import DataPlane

/// One transport connection of a session, as its kernel socket has it, or had it before the splice.
struct Leg {
    /// -1 while spliced.
    var descriptor: Int32
    let local: SocketAddress
    let remote: SocketAddress
    /// MSS that the remote end offered.
    var maximumSegment = 1_460
    var remoteScale: UInt8 = 0
    var localScale: UInt8 = 0
    var usesTimestamps = false
    var usesSACK = false
    /// Sequence number from which the socket counts received octets.
    var base = SequenceNumber(0)

    init(descriptor: Int32, local: SocketAddress, remote: SocketAddress) {
        self.descriptor = descriptor
        self.local = local
        self.remote = remote
    }

    mutating func update(from info: TCPInfo) {
        usesTimestamps = info.usesTimestamps
        usesSACK = info.usesSACK
        remoteScale = info.usesWindowScale ? info.sendScale : 0
        localScale = info.usesWindowScale ? info.receiveScale : 0
    }

    /// For the dataplane, which is to follow it from somewhere in the middle on.
    func spliceLeg(domain: DomainID, localMAC: MACAddress) -> SpliceLeg {
        SpliceLeg(
            domain: domain, localAddress: local.address, localPort: local.port,
            localMAC: localMAC, remoteAddress: remote.address, remotePort: remote.port,
            remoteScale: remoteScale, localScale: localScale, remoteBase: base)
    }

    /// For the connection to a server, when this is the client's.
    func serverOptions(from source: SocketAddress, device: String) -> ConnectOptions {
        ConnectOptions(
            bind: source, maximumSegment: maximumSegment, windowClamp: 65_535 << Int(remoteScale),
            device: device)
    }
}
