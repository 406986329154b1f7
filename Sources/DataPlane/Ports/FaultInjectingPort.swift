import Glibc

/// Faults of a port, for each frame and each direction. Probabilities from 0 to 1.
public struct FaultProfile: Equatable, Sendable {
    public var drop = 0.0
    public var duplicate = 0.0
    /// A frame that is reordered comes late by up to `reorderMaximum`.
    public var reorder = 0.0
    public var corrupt = 0.0
    /// ns by which every frame is late.
    public var delay: UInt64 = 0
    public var reorderMaximum: UInt64 = 3_000_000
    public var seed: UInt64 = 1
    public init() {}

    public var isClean: Bool {
        drop == 0 && duplicate == 0 && reorder == 0 && corrupt == 0 && delay == 0
    }
}

/// A port between the switch and another port that loses, repeats, delays and damages frames; the same seed
/// and the same frames give the same faults.
public final class FaultInjectingPort: Port {
    public struct Counters: Equatable, Sendable {
        public var dropped: UInt64 = 0
        public var duplicated: UInt64 = 0
        public var delayed: UInt64 = 0
        public var corrupted: UInt64 = 0
        /// GSO frames and frames with unfinished checksums: damage would not be noticed by a checksum.
        public var corruptSkipped: UInt64 = 0
        public var poolFull: UInt64 = 0

        public init() {}
    }

    private struct Delayed {
        var due: UInt64
        var order: UInt64
        var queue: FrameQueue
        var isReceive: Bool
    }

    private let inner: any Port
    public var faults: FaultProfile
    public private(set) var counters = Counters()
    private var state: UInt64
    /// Late frames by time; room is reserved at the start.
    private var delayed = Heap<Delayed> { ($0.due, $0.order) < ($1.due, $1.order) }
    private var order: UInt64 = 0
    private var pool: HeldFramePool?
    private var released = FrameQueue()
    private static let delayedMaximum = 16_384

    public init(_ inner: any Port, faults: FaultProfile) {
        self.inner = inner
        self.faults = faults
        state = faults.seed
        if !faults.isClean {
            pool = HeldFramePool(maximum: 64 << 20)
            delayed.reserveCapacity(Self.delayedMaximum)
        }
    }

    public var name: String { inner.name }
    public var pollDescriptor: Int32 { inner.pollDescriptor }
    public var isUp: Bool { inner.isUp }
    public var needsPolling: Bool { inner.needsPolling || !delayed.isEmpty }
    public var deviceCounters: PortDeviceCounters {
        var result = inner.deviceCounters
        result.faultDrops &+= counters.dropped &+ counters.poolFull
        return result
    }

    /// SplitMix64.
    private func random() -> Double {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ value >> 30) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ value >> 27) &* 0x94d0_49bb_1331_11eb
        return Double((value ^ value >> 31) >> 11) / 9_007_199_254_740_992
    }

    private func happens(_ probability: Double) -> Bool {
        probability > 0 && random() < probability
    }

    /// Decides about one frame: true when it goes on at once.
    private func pass(_ frame: Frame, isReceive: Bool, now: UInt64) -> Bool {
        if happens(faults.drop) {
            counters.dropped &+= 1
            return false
        }
        if happens(faults.corrupt) { corrupt(frame) }
        if happens(faults.duplicate) {
            counters.duplicated &+= 1
            delay(frame, until: now &+ faults.delay, isReceive: isReceive)
        }
        var due = now &+ faults.delay
        if happens(faults.reorder) {
            due &+= UInt64(random() * Double(faults.reorderMaximum))
        }
        guard due > now else { return true }
        counters.delayed &+= 1
        delay(frame, until: due, isReceive: isReceive)
        return false
    }

    private func corrupt(_ frame: Frame) {
        guard !frame.offload.isSegmented, !frame.offload.isChecksumPartial, frame.length > 15
        else {
            counters.corruptSkipped &+= 1
            return
        }
        let offset = 14 + Int(random() * Double(frame.length - 14))
        frame.start.store8(frame.start.load8(offset) ^ 1 << UInt8(random() * 8), offset)
        counters.corrupted &+= 1
    }

    private func delay(_ frame: Frame, until due: UInt64, isReceive: Bool) {
        var queue = FrameQueue()
        guard delayed.count < Self.delayedMaximum,
            pool?.append(frame, ingress: 0, to: &queue) == true
        else {
            counters.poolFull &+= 1
            return
        }
        order &+= 1
        delayed.insert(Delayed(due: due, order: order, queue: queue, isReceive: isReceive))
    }

    public func receive(
        into burst: UnsafeMutablePointer<Frame>, limit: Int, now: UInt64
    ) -> Int {
        guard pool != nil else { return inner.receive(into: burst, limit: limit, now: now) }
        // What was handed out at the last call is not used any more.
        pool?.removeAll(of: &released)
        var count = 0
        var isSending = false
        while let next = delayed.first, next.due <= now, count < limit {
            _ = delayed.removeFirst()
            guard let (_, frame, _) = pool?.first(of: next.queue) else { continue }
            if next.isReceive {
                burst[count] = frame
                count += 1
                append(next.queue)
            } else {
                inner.transmit(frame, now: now)
                isSending = true
                append(next.queue)
            }
        }
        if isSending { inner.flush(now: now) }
        let room = limit - count
        guard room > 0 else { return count }
        let received = inner.receive(into: burst + count, limit: room, now: now)
        var kept = count
        for index in count..<count + received
        where pass(burst[index], isReceive: true, now: now) {
            burst[kept] = burst[index]
            kept += 1
        }
        return kept
    }

    /// Keeps a handed-out frame until the next call.
    private func append(_ queue: FrameQueue) {
        pool?.join(queue, to: &released)
    }

    public func transmit(_ frame: Frame, now: UInt64) {
        if pool == nil || pass(frame, isReceive: false, now: now) {
            inner.transmit(frame, now: now)
        }
    }

    public func flush(now: UInt64) { inner.flush(now: now) }
    public func maintain(now: UInt64) -> Bool { inner.maintain(now: now) }
}
