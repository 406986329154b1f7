/// Everything known of one end of a splice. Plain values in raw memory; all zero is "nothing known".
/// Sequence numbers are in this side's own space: the one the remote end itself uses.
struct SpliceSideRecord {
    // The leg.
    var localAddress = IPAddress(high: 0, low: 0)
    var remoteAddress = IPAddress(high: 0, low: 0)
    var localMAC = MACAddress.zero
    /// Learned from what the remote end sends.
    var remoteMAC = MACAddress.zero
    var localPort: UInt16 = 0
    var remotePort: UInt16 = 0
    var domain: DomainID = 0
    var isBound = false
    /// Port where the remote end was last seen; 0: ask the MAC table.
    var port: PortNumber = 0
    /// Window scale announced by the remote end, and the one we announced to it.
    var remoteScale: UInt8 = 0
    var localScale: UInt8 = 0
    var stripTimestamps = false
    var stripSACK = false
    /// First octet of data of the remote end (ISN + 1).
    var remoteBase = SequenceNumber(0)

    // From packets received from the remote end.
    var isSeen = false
    /// `receivedEnd` was set without a packet, from the socket.
    var isEndValid = false
    var receivedEnd = SequenceNumber(0)
    var acknowledged = SequenceNumber(0)
    var windowUpdate = SequenceNumber(0)
    var window: UInt16 = 0
    var isTimestampSeen = false
    var timestamp: UInt32 = 0
    var hasFIN = false
    var finSequence = SequenceNumber(0)

    // From packets sent to the remote end.
    var isSent = false
    var sentEnd = SequenceNumber(0)
    var sentAcknowledgement = SequenceNumber(0)
    /// Right window edge announced to the remote end.
    var sentEdge = SequenceNumber(0)
    var isEdgeKnown = false
    /// That edge is beyond what the other end has room for.
    var isRoomPromised = false
    /// Window field of the last packet sent, not scaled.
    var sentWindow: UInt16 = 0
    var isTimestampSent = false
    var sentTimestamp: UInt32 = 0

    // Drain and floors.
    var cutoff = SequenceNumber(0)
    var isCutoffValid = false
    /// A repaired socket drops segments with an acknowledgement outside [floor, sentEnd]: clamp them.
    var clampsAcknowledgement = false
    var acknowledgementFloor = SequenceNumber(0)
    /// Nothing below may be announced to the remote end: our socket had acknowledged it.
    var announcedFloor = SequenceNumber(0)

    // Translation of packets that come from this side.
    var sequenceDelta: UInt32 = 0
    var timestampDelta: UInt32 = 0

    // Queues: data held by a drain or freeze, kernel packets kept in a freeze, packets behind a gap that
    // hides a message header.
    var held = FrameQueue()
    var kept = FrameQueue()
    var gap = FrameQueue()
    var tracker: UnsafeMutablePointer<MessageTracker>?

    // First fragment seen last: its identification and the sequence number of its first payload octet.
    var fragmentIdentification: UInt32 = 0
    var fragmentSequence = SequenceNumber(0)
    var fragmentHeaderLength: UInt32 = 0
    var isFragmentValid = false

    var lastReceived: UInt64 = 0
    var lastData: UInt64 = 0
    /// When a silent end was asked last whether it lives.
    var askedAt: UInt64 = 0
    var lastSent: UInt64 = 0
    var packets: UInt64 = 0
    var bytes: UInt64 = 0

    init() {}

    /// Right edge of the window that the remote end told last, in the space of what is sent to it.
    @inline(__always)
    var windowEdge: SequenceNumber { acknowledged + UInt32(window) << UInt32(remoteScale) }
}

struct SpliceRecord {
    var state = SpliceState.free
    var usesTimestamps = false
    var usesSACK = false
    /// A progress event is on its way: no second one until the control plane has looked.
    var isProgressPending = false
    /// Where a message waits for the control plane, which was told.
    var heldMessageSide: SpliceSide?
    /// The end, or a held message, could not be told: the event ring was full.
    var hasUnsaid = false
    var closeReason: SpliceCloseReason?
    /// Until then acknowledgements below the floors are raised; 0: no floors.
    var floorUntil: UInt64 = 0
    /// When the end of the session was seen; 0: still going on.
    var closingSince: UInt64 = 0
    /// When the record is freed; 0: not asked for.
    var retireAt: UInt64 = 0
    /// When the splice was installed last, ns.
    var splicedAt: UInt64 = 0
    /// Retained while the log is the splice's.
    var log: Unmanaged<SessionLog>?
    var serverLoss: SpliceServerLoss?
    /// ns that a request may be open; 0: no limit. And the start of the one that was told last.
    var requestDeadline: UInt64 = 0
    var lateTold: UInt64 = 0
    var lateID: UInt64 = 0
    /// ns; 0: none.
    var idleTimeout: UInt64 = 0
    var keepAliveTime: UInt64 = 0
    /// Index in the list of open splices.
    var activeIndex: UInt32 = 0

    /// The ends closed or reset the session themselves, and know that it is over.
    var isEndedByPeers: Bool { closingSince != 0 && closeReason?.isOurs != true }

    init() {}
}

/// What the splicer did, summed over all splices.
public struct SpliceCounters: Equatable, Sendable {
    /// Acknowledgements raised to a floor, or limited to what the other end has sent.
    public var acknowledgementsRaised: UInt64 = 0
    public var acknowledgementsLimited: UInt64 = 0
    /// Windows whose right edge was kept from moving left.
    public var edgesKept: UInt64 = 0
    /// Pure acknowledgements whose sequence number was moved into the receiver's window.
    public var sequencesMoved: UInt64 = 0
    public var timestampsRaised: UInt64 = 0
    public var held: UInt64 = 0
    public var released: UInt64 = 0
    public var gapHolds: UInt64 = 0
    /// Packets that waited for room at the other end.
    public var roomWaits: UInt64 = 0
    public var gapAcknowledgements: UInt64 = 0
    public var probes: UInt64 = 0
    public var kernelPacketsDropped: UInt64 = 0
    public var icmpTranslated: UInt64 = 0
    public init() {}
}

/// A bounded first-in first-out list of frames in a `HeldFramePool`.
struct FrameQueue {
    var head: UInt32 = 0
    var tail: UInt32 = 0
    var count: UInt32 = 0
    var bytes: UInt64 = 0
    var isEmpty: Bool { count == 0 }
    init() {}
}
