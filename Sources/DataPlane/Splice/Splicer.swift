import CLinux
import Glibc

/// What became of a packet that a splice took.
enum SpliceDisposition {
    case forwarded(PortNumber)
    case toCPU
    case toNetwork(PortNumber)
    case held
    case dropped(DropReason)
}

/// All splices of a switch: records in raw memory, indexed by `SpliceID`.
///
/// A splice joins two TCP connections, one for each side. In the state `slow` both end in kernel sockets
/// behind the CPU ports and the splicer only follows positions; in `spliced` a packet from one end is
/// rewritten and sent to the other. The way between the two states, and the reasons for every rule here,
/// are in DESIGN.md, "Splice and unsplice".
struct Splicer: ~Copyable {
    let capacity: Int
    let records: UnsafeMutablePointer<SpliceRecord>
    let sides: UnsafeMutablePointer<SpliceSideRecord>
    /// Numbers of the splices that are not free, in no order.
    let active: UnsafeMutablePointer<SpliceID>
    var activeCount = 0
    var tickCursor = 0
    var pool: HeldFramePool
    var counters = SpliceCounters()
    /// An ended splice whose client begins anew: freed at the end of the burst.
    var leaving: SpliceID?

    /// For one side of one splice.
    static let heldFramesMaximum: UInt32 = 20_000
    static let heldBytesMaximum: UInt64 = 32 << 20
    static let keptFramesMaximum: UInt32 = 16
    static let gapFramesMaximum: UInt32 = 4_096
    /// How long floors hold after positions changed hands, ns.
    static let floorTime: UInt64 = 1_000_000_000
    /// After so long a silence, ns, the next timestamp is the newest, whatever its value: no packet lives
    /// so long, and a clock may have passed half its range (RFC 7323 section 5.5).
    static let timestampLife: UInt64 = 600_000_000_000
    /// Between two keep-alives to a silent end, ns, and how many are sent before it counts as gone.
    static let keepAliveInterval: UInt64 = 10_000_000_000
    static let keepAliveProbes: UInt64 = 6
    /// How long an ended splice still translates or swallows late packets, ns.
    static let lingerTime: UInt64 = 5_000_000_000

    init(capacity: Int, heldBytesMaximum: Int = 256 << 20) {
        self.capacity = capacity
        records = .allocate(capacity: max(1, capacity))
        records.initialize(repeating: SpliceRecord(), count: max(1, capacity))
        sides = .allocate(capacity: max(1, capacity) * 2)
        sides.initialize(repeating: SpliceSideRecord(), count: max(1, capacity) * 2)
        active = .allocate(capacity: max(1, capacity))
        active.initialize(repeating: 0, count: max(1, capacity))
        pool = HeldFramePool(maximum: heldBytesMaximum)
    }

    deinit {
        for index in 0..<(capacity * 2) {
            guard let tracker = sides[index].tracker else { continue }
            tracker.deinitialize(count: 1)
            tracker.deallocate()
        }
        for index in 0..<capacity { records[index].log?.release() }
        records.deallocate()
        sides.deallocate()
        active.deallocate()
    }

    @inline(__always)
    func side(_ id: SpliceID, _ side: SpliceSide) -> UnsafeMutablePointer<SpliceSideRecord> {
        sides + (Int(id) &* 2 &+ side.index)
    }

    /// Fetches what a packet of a splice will need.
    @inline(__always)
    func prefetch(_ id: SpliceID) {
        guard Int(id) < capacity else { return }
        dsr_prefetch(records + Int(id))
        // Both sides lie one after the other.
        let sides = UnsafeRawPointer(side(id, .client))
        var offset = 0
        while offset < 2 * MemoryLayout<SpliceSideRecord>.stride {
            dsr_prefetch(sides + offset)
            offset &+= 64
        }
    }

    // MARK: Keys

    func networkKey(_ side: UnsafeMutablePointer<SpliceSideRecord>) -> FlowKey {
        FlowKey(
            source: side.pointee.remoteAddress, sourcePort: side.pointee.remotePort,
            destination: side.pointee.localAddress, destinationPort: side.pointee.localPort,
            ipProtocol: IPProtocol.tcp, domain: side.pointee.domain, origin: .network)
    }

    func cpuKey(_ side: UnsafeMutablePointer<SpliceSideRecord>) -> FlowKey {
        FlowKey(
            source: side.pointee.localAddress, sourcePort: side.pointee.localPort,
            destination: side.pointee.remoteAddress, destinationPort: side.pointee.remotePort,
            ipProtocol: IPProtocol.tcp, domain: side.pointee.domain, origin: .cpu)
    }

    /// Enters both keys of a side. False when the table is full or a key is taken: nothing is entered.
    mutating func bind(_ id: SpliceID, _ side: SpliceSide, flows: inout FlowTable) -> Bool {
        let record = self.side(id, side)
        guard flows.insert(networkKey(record), .splice(id, side)) else { return false }
        guard flows.insert(cpuKey(record), .splice(id, side)) else {
            _ = flows.remove(networkKey(record))
            return false
        }
        record.pointee.isBound = true
        return true
    }

    mutating func unbind(_ id: SpliceID, _ side: SpliceSide, flows: inout FlowTable) {
        let record = self.side(id, side)
        guard record.pointee.isBound else { return }
        _ = flows.remove(networkKey(record))
        _ = flows.remove(cpuKey(record))
        record.pointee.isBound = false
    }

    // MARK: Records

    func isOpen(_ id: SpliceID) -> Bool {
        id < UInt32(clamping: capacity) && records[Int(id)].state != .free
    }

    mutating func activate(_ id: SpliceID) {
        records[Int(id)].activeIndex = UInt32(activeCount)
        active[activeCount] = id
        activeCount += 1
    }

    /// Frees the record: keys, queues, trackers.
    mutating func release(_ id: SpliceID, flows: inout FlowTable) {
        for which in SpliceSide.allCases {
            unbind(id, which, flows: &flows)
            clearSide(id, which)
        }
        dropLog(id)
        let index = Int(records[Int(id)].activeIndex)
        activeCount -= 1
        let moved = active[activeCount]
        active[index] = moved
        records[Int(moved)].activeIndex = UInt32(index)
        records[Int(id)] = SpliceRecord()
    }

    /// Frees the splice whose tuple a new connection wants. Between bursts only.
    @inline(__always)
    mutating func releaseLeaving(flows: inout FlowTable) {
        guard let id = leaving else { return }
        leaving = nil
        if isOpen(id) { release(id, flows: &flows) }
    }

    /// Back to "nothing known"; the side must not be bound any more.
    mutating func clearSide(_ id: SpliceID, _ which: SpliceSide) {
        let record = side(id, which)
        pool.removeAll(of: &record.pointee.held)
        pool.removeAll(of: &record.pointee.kept)
        pool.removeAll(of: &record.pointee.gap)
        dropTracker(record)
        record.pointee = SpliceSideRecord()
    }

    func dropTracker(_ record: UnsafeMutablePointer<SpliceSideRecord>) {
        guard let tracker = record.pointee.tracker else { return }
        tracker.deinitialize(count: 1)
        tracker.deallocate()
        record.pointee.tracker = nil
    }

    /// The log is the session's again. No tracker may use it any more.
    func dropLog(_ id: SpliceID) {
        records[Int(id)].log?.release()
        records[Int(id)].log = nil
    }

    /// With a log, the end of the server is not the end of the session.
    @inline(__always)
    func isGuarded(_ id: SpliceID) -> Bool {
        records[Int(id)].log != nil && records[Int(id)].closingSince == 0
            && !side(id, .client).pointee.hasFIN
    }

    /// Tells the control plane, once until it looks, that a splice it is moving saw a packet.
    mutating func progress<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, output: inout Output
    ) {
        guard !records[Int(id)].isProgressPending else { return }
        records[Int(id)].isProgressPending = true
        output.emit(.spliceProgress(id))
    }

    // MARK: Time

    /// Time-outs; called every few milliseconds by the worker. Looks at a bounded number of splices.
    mutating func tick<Output: FrameOutput & ~Copyable>(
        flows: inout FlowTable, output: inout Output, now: UInt64
    ) {
        for _ in 0..<min(activeCount, 512) {
            if tickCursor >= activeCount { tickCursor = 0 }
            guard tickCursor < activeCount else { return }
            let id = active[tickCursor]
            tickCursor += 1
            let record = records + Int(id)
            if record.pointee.retireAt != 0, now >= record.pointee.retireAt {
                release(id, flows: &flows)
                continue
            }
            if record.pointee.hasUnsaid { sayAgain(id, output: &output) }
            guard record.pointee.state == .spliced, record.pointee.closingSince == 0 else {
                continue
            }
            endIfIdle(id, output: &output, now: now)
            keepAlive(id, output: &output, now: now)
            tellIfLate(id, output: &output, now: now)
        }
    }

    /// A request without an answer may mean a server that is gone: whoever knows more decides.
    private mutating func tellIfLate<Output: FrameOutput & ~Copyable>(
        _ splice: SpliceID, output: inout Output, now: UInt64
    ) {
        let record = records + Int(splice)
        let deadline = record.pointee.requestDeadline
        guard deadline != 0, let log = record.pointee.log,
            record.pointee.state == .spliced
        else { return }
        let (start, id) = log._withUnsafeGuaranteedRef {
            ($0.log.pointee.oldestStart, $0.log.pointee.oldestID)
        }
        // A trickle of answers is a slow server, not a dead one.
        let heard = max(start, side(splice, .server).pointee.lastReceived)
        // Requests of one burst have the same start.
        let isTold = record.pointee.lateTold == start && record.pointee.lateID == id
        guard start != 0, !isTold, now > heard,
            now &- heard >= deadline
        else { return }
        guard output.emit(.spliceRequestLate(splice)) else { return }
        record.pointee.lateTold = start
        record.pointee.lateID = id
    }

    private mutating func endIfIdle<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, output: inout Output, now: UInt64
    ) {
        let record = records + Int(id)
        let last = max(
            record.pointee.splicedAt, side(id, .client).pointee.lastData,
            side(id, .server).pointee.lastData)
        guard record.pointee.idleTimeout != 0, now > last,
            now &- last >= record.pointee.idleTimeout
        else { return }
        endSession(id, .idle, output: &output, now: now)
    }

    // RFC 9293 section 3.8.4: "Keep-alive packets MUST only be sent when no sent data is outstanding,
    // and no data or acknowledgment packets have been received for the connection within an interval".
    // Data that is outstanding is the ends' own business: they retransmit it, and give up.
    /// Asks ends that were silent for long whether they are still there. Without it a session whose ends
    /// both vanished, or that only listens, would stay for ever.
    private mutating func keepAlive<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, output: inout Output, now: UInt64
    ) {
        let time = records[Int(id)].keepAliveTime
        guard time != 0, records[Int(id)].closingSince == 0 else { return }
        for which in SpliceSide.allCases {
            let record = side(id, which)
            let last = max(records[Int(id)].splicedAt, record.pointee.lastReceived)
            guard now > last, now &- last >= time else { continue }
            if now &- last >= time &+ Self.keepAliveInterval &* Self.keepAliveProbes {
                if which == .server, isGuarded(id) {
                    return serverIsLost(id, .vanished, output: &output, now: now)
                }
                let reason: SpliceCloseReason =
                    which == .client ? .clientVanished : .serverVanished
                return endSession(id, reason, output: &output, now: now)
            }
            guard now &- record.pointee.askedAt >= Self.keepAliveInterval else { continue }
            record.pointee.askedAt = now
            probe(id, which, output: &output, now: now)
        }
    }

    /// What found no room in the ring: without it a session would stay for ever, or wait.
    private mutating func sayAgain<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, output: inout Output
    ) {
        let record = records + Int(id)
        if record.pointee.state == .serverLost, let loss = record.pointee.serverLoss {
            record.pointee.hasUnsaid = !output.emit(.spliceServerLost(id, loss))
        } else if let reason = record.pointee.closeReason {
            record.pointee.hasUnsaid = !output.emit(.spliceClosed(id, reason))
        } else if let which = record.pointee.heldMessageSide {
            record.pointee.hasUnsaid = !output.emit(.spliceMessageHeld(id, side: which))
        } else {
            record.pointee.hasUnsaid = false
        }
    }

    /// Notes that the session is over and says so once.
    mutating func endSession<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, _ reason: SpliceCloseReason, output: inout Output, now: UInt64
    ) {
        let record = records + Int(id)
        guard record.pointee.closingSince == 0 else { return }
        record.pointee.closingSince = max(1, now)
        record.pointee.closeReason = reason
        record.pointee.hasUnsaid = !output.emit(.spliceClosed(id, reason))
    }
}
