package import DataPlane

/// Signed distance in sequence space.
package func distance(_ left: UInt32, _ right: UInt32) -> Int {
    Int(Int32(bitPattern: left &- right))
}

/// One end of a TCP connection, in memory, with a clock that the test moves. As strict as Linux in what
/// it takes: PAWS, the receive window, and acknowledgements outside [SND.UNA - tolerance, SND.NXT] drop
/// the whole segment.
package final class ScriptedTCP {
    package struct Options: Sendable {
        package var initialSequence: UInt32 = 1
        package var scale: UInt8 = 7
        package var maximumSegment = 536
        /// Nil: no timestamps.
        package var timestampBase: UInt32? = 1_000
        package var usesSACK = true
        package var receiveBuffer = 65_536
        /// Octets in flight at most.
        package var maximumFlight = 24_000
        /// Segments that go in one frame, with the checksum left to the device.
        package var segmentsPerFrame = 1
        /// Cuts the stream anywhere, in retransmissions elsewhere.
        package var cutsAtRandom = false
        package var seed: UInt64 = 1
        package init() {}
    }

    package enum State: Sendable {
        case closed, listening, sentSYN, receivedSYN, established, reset
    }

    package struct Range { package var left: UInt32, right: UInt32 }

    package let local: TCPEndpoint
    package let remote: TCPEndpoint
    package let options: Options
    package internal(set) var state = State.closed
    /// ns.
    package var now: UInt64 = 0
    package var deadline: UInt64?
    /// Gets each segment that is sent.
    package var onSend: (ScriptedTCPSegment) -> Void = { _ in }

    // What was agreed on.
    package var usesTimestamps = false
    package var usesSACK = false
    package var remoteScale: UInt8 = 0
    package var localScale: UInt8 = 0

    // Sending.
    package var unacknowledged: UInt32 = 0
    package var sendNext: UInt32 = 0
    package var sendWindow = 0
    package var windowSequence: UInt32 = 0
    package var windowAcknowledgement: UInt32 = 0
    package var maximumWindow = 0
    package var acknowledgedOctets = 0
    /// From `unacknowledged` on.
    package var sendBuffer: [UInt8] = []
    package var wantsFIN = false
    package var hasSentFIN = false
    package var sacked: [Range] = []
    var duplicates = 0
    var recover: UInt32 = 0
    var isRecovering = false
    var retransmitted: [UInt32: UInt64] = [:]
    var backoff: UInt64 = 1

    // Receiving.
    package var receiveNext: UInt32 = 0
    package var remoteBase: UInt32 = 0
    package var edge: UInt32 = 0
    package var readable: [UInt8] = []
    package var hasFIN = false
    var outOfOrder: [(sequence: UInt32, bytes: [UInt8])] = []
    var pendingFIN: UInt32?
    var lastArrival: UInt32 = 0
    var recentTimestamp: UInt32?
    var timestampOffset: UInt32 = 0
    var random: SplitMix64

    // What tests look at.
    package var received: [UInt8] = []
    package var resets = 0
    package var retransmissions = 0
    package var refusedByPAWS = 0
    package var refusedAcknowledgements = 0
    /// Echoes of timestamps that were never sent.
    package var futureEchoes = 0
    package var duplicateData = 0

    package init(local: TCPEndpoint, remote: TCPEndpoint, options: Options = Options()) {
        self.local = local
        self.remote = remote
        self.options = options
        random = SplitMix64(seed: options.seed)
        timestampOffset = options.timestampBase ?? 0
    }

    // MARK: Opening

    package func listen() { state = .listening }

    package func connect() {
        state = .sentSYN
        unacknowledged = options.initialSequence
        sendNext = unacknowledged &+ 1
        sendSYN()
    }

    func sendSYN() {
        var segment = ScriptedTCPSegment(
            flags: ScriptedTCPSegment.syn, sequence: options.initialSequence, window: 65_535)
        segment.maximumSegment = UInt16(options.maximumSegment)
        let isAnswer = state == .receivedSYN
        segment.scale = options.scale
        segment.permitsSACK = isAnswer ? usesSACK : options.usesSACK
        if isAnswer {
            segment.flags |= ScriptedTCPSegment.ack
            segment.acknowledgement = receiveNext
        }
        if isAnswer ? usesTimestamps : options.timestampBase != nil {
            segment.timestamps = .init(timestamp, recentTimestamp ?? 0)
        }
        deadline = now + 50_000_000
        onSend(segment)
    }

    func acceptSYN(_ segment: ScriptedTCPSegment) {
        remoteBase = segment.sequence &+ 1
        receiveNext = remoteBase
        edge = receiveNext &+ 65_535
        usesTimestamps = options.timestampBase != nil && segment.timestamps != nil
        usesSACK = options.usesSACK && segment.permitsSACK
        remoteScale = segment.scale ?? 0
        localScale = segment.scale == nil ? 0 : options.scale
        sendWindow = Int(segment.window)
        maximumWindow = sendWindow
        windowSequence = segment.sequence
        windowAcknowledgement = segment.acknowledgement
        recentTimestamp = segment.timestamps?.value
        unacknowledged = options.initialSequence &+ 1
        sendNext = unacknowledged
        recover = sendNext
    }

    // MARK: Timestamps

    /// Milliseconds.
    package var timestamp: UInt32 {
        timestampOffset &+ UInt32(truncatingIfNeeded: now / 1_000_000)
    }

    // MARK: Freeze and restore, as TCP_REPAIR does it

    package var positions: SocketPositions {
        SocketPositions(
            receiveNext: SequenceNumber(receiveNext), sendNext: SequenceNumber(sendNext),
            sendWindow: UInt32(sendWindow), sendWL1: windowSequence,
            maximumWindow: UInt32(maximumWindow), receiveWindow: edge &- receiveNext,
            receiveWindowUpdate: receiveNext, timestamp: usesTimestamps ? timestamp & ~1 : 0)
    }

    /// A new socket at positions.
    package func restore(
        _ positions: SocketPositions, remoteScale: UInt8, localScale: UInt8, timestamps: Bool,
        sack: Bool
    ) {
        state = .established
        usesTimestamps = timestamps
        usesSACK = sack
        self.remoteScale = remoteScale
        self.localScale = localScale
        unacknowledged = positions.sendNext.rawValue
        sendNext = unacknowledged
        recover = unacknowledged
        sendWindow = Int(positions.sendWindow)
        windowSequence = positions.sendWL1
        windowAcknowledgement = unacknowledged
        maximumWindow = Int(positions.maximumWindow)
        receiveNext = positions.receiveNext.rawValue
        remoteBase = receiveNext
        edge = receiveNext &+ positions.receiveWindow
        timestampOffset =
            positions.timestamp &- UInt32(truncatingIfNeeded: now / 1_000_000)
    }

    // MARK: Use

    package func write(_ bytes: [UInt8]) {
        sendBuffer += bytes
        if state == .established { transmit() }
    }

    /// Ends our direction behind what was written.
    package func close() {
        guard !wantsFIN else { return }
        wantsFIN = true
        if state == .established { transmit() }
    }

    package func abort() {
        state = .reset
        deadline = nil
        onSend(make(ScriptedTCPSegment.rst | ScriptedTCPSegment.ack, sequence: sendNext))
    }

    /// Takes what came; opens the window again.
    package func read(maximum: Int = .max) -> [UInt8] {
        let count = min(maximum, readable.count)
        guard count > 0 else { return [] }
        let bytes = Array(readable[..<count])
        readable.removeFirst(count)
        let before = distance(edge, receiveNext)
        if before < 2 * options.maximumSegment, window > before + options.maximumSegment,
            state == .established
        {
            acknowledge()
        }
        return bytes
    }

    package var hasEnded: Bool { hasFIN && readable.isEmpty }
    package var isFINAcknowledged: Bool { hasSentFIN && unacknowledged == sendNext }
    package var hasHole: Bool { !outOfOrder.isEmpty }
}
