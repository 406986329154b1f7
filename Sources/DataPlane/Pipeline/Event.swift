/// What the dataplane tells the control plane, through a bounded ring. Plain values: emitting one
/// allocates nothing. When the ring is full the event is lost and counted; all state that events tell
/// of can also be asked for.
public enum Event: Sendable {
    /// A rule or an exact flow was removed by a time-out.
    case ruleExpired(ruleID: UInt32, cookie: UInt64, isHard: Bool)
    case flowExpired(key: FlowKey, cookie: UInt64)
    /// Port state: device vanished, came back, link up or down.
    case portChanged(port: PortNumber, isUp: Bool)
    /// A packet went to the CPU port because no flow took it (rate limited).
    case punt(port: PortNumber, key: FlowKey)
    /// A draining or held splice saw a packet: time to look at its positions again.
    case spliceProgress(SpliceID)
    /// Both FINs were acknowledged, a reset passed, or the idle time-out came.
    case spliceClosed(SpliceID, SpliceCloseReason)
    /// A message that the splice cannot carry is being held: one of a held kind, or one whose begin is all that its
    /// sender sends until it is acknowledged. Unsplice.
    case spliceMessageHeld(SpliceID, side: SpliceSide)
    /// A splice with a request log has lost its server; the client knows nothing of it.
    case spliceServerLost(SpliceID, SpliceServerLoss)
    /// A request has been open for longer than the deadline; told once for each oldest request.
    case spliceRequestLate(SpliceID)
}

/// How a server was lost.
public enum SpliceServerLoss: UInt8, Sendable {
    /// RST.
    case reset
    /// FIN before the client's.
    case closed
    /// It does not answer keep-alives.
    case vanished
}

public enum SpliceCloseReason: UInt8, Sendable {
    case finished
    case resetByClient
    case resetByServer
    /// No data for the idle time-out.
    case idle
    /// An end did not answer keep-alives.
    case clientVanished
    case serverVanished

    /// The switch ends the session by itself; the ends do not know of it yet.
    public var isOurs: Bool {
        switch self {
        case .finished, .resetByClient, .resetByServer: false
        case .idle, .clientVanished, .serverVanished: true
        }
    }
}

/// The two ends of a splice.
public enum SpliceSide: UInt8, Sendable, CaseIterable {
    case client = 0
    case server = 1
    @inlinable public var other: SpliceSide { self == .client ? .server : .client }
    @inlinable public var index: Int { Int(rawValue) }
}
