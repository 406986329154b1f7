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
}
