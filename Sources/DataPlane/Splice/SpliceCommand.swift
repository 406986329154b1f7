/// The steps of a splice's life that the control plane drives.
public enum SpliceCommand: Sendable {
    /// Starts following the client leg (state `slow`).
    case open(SpliceID, client: SpliceLeg, usesTimestamps: Bool, usesSACK: Bool)
    /// Starts following the server leg; replaces an earlier one.
    case attachServer(SpliceID, SpliceLeg)
    /// Corrects the scales of a leg after its handshake. `received`: first sequence number of data, and
    /// the end of what the socket has received, for a leg whose handshake the splicer did not see.
    case updateLeg(
        SpliceID, SpliceSide, remoteScale: UInt8, localScale: UInt8,
        received: (base: SequenceNumber, end: SequenceNumber)?)
    case beginDrainToSplice(SpliceID)
    /// Asks both ends for an answer with their exact positions.
    case probe(SpliceID)
    case hold(SpliceID)
    /// Back to `drainToSplice` after a freeze that came too early: kept kernel packets are sent.
    case resumeDrain(SpliceID)
    /// Gives up: back to `slow`.
    case abortToSlow(SpliceID)
    /// Positions of both frozen sockets, index by side: computes the translation, enters `spliced`.
    /// `log`: with it requests are followed, and the end of the server is told (`spliceServerLost`), not
    /// passed on. It belongs to the splice until `finishToSlow`, `restoreClient` or the end.
    case install(
        SpliceID, client: SocketPositions, server: SocketPositions, messages: SpliceMessages?,
        log: SessionLog? = nil)
    case beginDrainToSlow(SpliceID)
    /// Back to `spliced` after a drain that took too long.
    case abortToSpliced(SpliceID)
    /// After the kernel sockets were built at these positions: enters `slow`.
    case finishToSlow(SpliceID, client: SocketPositions, server: SocketPositions)
    /// The server is given up: nothing goes to it any more, what the client sends waits.
    case loseServer(SpliceID)
    /// After the server was lost and the kernel socket for the client was built at these positions: enters
    /// `slow`, without a server leg. The server gets a reset.
    case restoreClient(SpliceID, client: SocketPositions)
    /// ns that a request may be open before `spliceRequestLate`; 0: no limit.
    case setRequestDeadline(SpliceID, UInt64)
    /// Reads state and positions.
    case inspect(SpliceID)
    /// Ends the splice in any state and frees the record after a while.
    case close(SpliceID)
    /// Time-outs of the spliced state, seconds; 0: none. `idle`: without data from either end. `keepAlive`:
    /// an end silent for so long is asked whether it lives, and the session ends when it never answers.
    case setTimeouts(SpliceID, idle: UInt32, keepAlive: UInt32)
}

/// Message tracking in the spliced state.
public struct SpliceMessages: Hashable, Sendable {
    public var format: MessageFormat
    /// By side where the messages come from.
    public var clientEdits: [MessageEdit]
    public var serverEdits: [MessageEdit]
    /// Octets from the splice's position (receiveNext of the side) to the next message header.
    public var clientHeaderDistance: UInt32
    public var serverHeaderDistance: UInt32
    /// Bit k: a message of kind k from the client is held and the control plane asked to unsplice.
    public var clientHoldKinds: UInt64
    public var clientHoldRule: MessageHoldRule?
    /// Nil: all messages go to the server, whatever their routing key.
    public var clientRouting: MessageRoutingRule?
    /// For the request log.
    public var requests: RequestRules?
    /// With `MessageFormat.rpc`: calls of the client pass when they may be done twice and begin with one of these
    /// file handles; others are held. Nil: all pass. The set is the dataplane's from `install` to `finishToSlow`,
    /// `restoreClient` or the end.
    public var clientHandles: RPCHandleSet?
    public init(
        format: MessageFormat, clientEdits: [MessageEdit] = [], serverEdits: [MessageEdit] = [],
        clientHeaderDistance: UInt32 = 0, serverHeaderDistance: UInt32 = 0,
        clientHoldKinds: UInt64 = 0, clientHoldRule: MessageHoldRule? = nil,
        clientRouting: MessageRoutingRule? = nil, requests: RequestRules? = nil,
        clientHandles: RPCHandleSet? = nil
    ) {
        self.clientHoldRule = clientHoldRule
        self.clientRouting = clientRouting
        self.requests = requests
        self.clientHandles = clientHandles
        self.format = format
        self.clientEdits = clientEdits
        self.serverEdits = serverEdits
        self.clientHeaderDistance = clientHeaderDistance
        self.serverHeaderDistance = serverHeaderDistance
        self.clientHoldKinds = clientHoldKinds
    }
}

/// Positions of one side, as the packets told them. All in this side's own sequence space.
public struct SpliceSideSnapshot: Hashable, Sendable {
    /// False until a packet of the side was seen.
    public var isKnown = false
    /// First octet of data of the remote end.
    public var base = SequenceNumber(0)
    /// Highest sequence end and newest acknowledgement, window (not scaled) and WL1 received.
    public var receivedEnd = SequenceNumber(0)
    public var acknowledged = SequenceNumber(0)
    public var window: UInt16 = 0
    public var windowUpdate = SequenceNumber(0)
    /// Drain cut-off: data beyond it is held.
    public var cutoff = SequenceNumber(0)
    public var isCutoffValid = false
    public var hasFIN = false
    public var finSequence = SequenceNumber(0)
    /// What we have sent to the end: acknowledgement, right window edge, TSval.
    public var sentEnd = SequenceNumber(0)
    public var sentAcknowledgement = SequenceNumber(0)
    public var sentEdge = SequenceNumber(0)
    public var sentTimestamp: UInt32 = 0
    public var remoteScale: UInt8 = 0
    public var localScale: UInt8 = 0
    public var heldPackets: UInt32 = 0
    public var packets: UInt64 = 0
    public var bytes: UInt64 = 0
    /// ns of the last data from the end; 0: none yet.
    public var lastData: UInt64 = 0
    public var remoteMAC = MACAddress.zero
    public var port: PortNumber = 0
    /// Octets from the unsplice position to the next message header, when messages are tracked.
    public var headerDistance: UInt32 = 0
    /// With messages tracked: where the next message of this side starts, and up to where its stream was
    /// passed on without a gap.
    public var nextHeader = SequenceNumber(0)
    public var followed = SequenceNumber(0)
    public init() {}
}

public struct SpliceSnapshot: Hashable, Sendable {
    public var id: SpliceID = 0
    public var state = SpliceState.free
    public var client = SpliceSideSnapshot()
    public var server = SpliceSideSnapshot()
    /// Everything forwarded up to the cut-offs is acknowledged, both ways.
    public var isQuiet = false
    public var closeReason: SpliceCloseReason?
    /// Added to sequence numbers of packets that come from the side.
    public var clientDelta: UInt32 = 0
    public var serverDelta: UInt32 = 0
    public init() {}

    public subscript(_ side: SpliceSide) -> SpliceSideSnapshot {
        get { side == .client ? client : server }
        set { if side == .client { client = newValue } else { server = newValue } }
    }
}
