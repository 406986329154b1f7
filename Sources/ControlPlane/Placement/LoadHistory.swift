/// The load of a resource over time, in slots of the same length; the oldest ones are dropped. A
/// slot in which nothing was measured is nil: the forecast fills it with what it expected there.
public struct LoadHistory: Hashable, Sendable {
    /// ns.
    public let slotLength: UInt64
    /// Closed slots that are kept.
    public let capacity: Int
    private var ring: [Double?] = []
    /// Position of the oldest value once the ring is full.
    private var start = 0
    /// Number of the slot that is open; nil before the first sample.
    private var open: UInt64?
    private var sum = 0.0
    private var samples = 0

    /// By default seven days in slots of five minutes.
    public init(slotLength: Duration = .seconds(300), capacity: Int = 7 * 288) {
        let (seconds, attoseconds) = slotLength.components
        let length = UInt64(clamping: seconds).multipliedReportingOverflow(by: 1_000_000_000)
        let whole = length.overflow ? UInt64.max / 2 : length.partialValue
        self.slotLength = max(1, whole + UInt64(clamping: attoseconds / 1_000_000_000))
        self.capacity = max(1, capacity)
    }

    /// Adds a sample; a slot's value is the mean of its samples. `now` is in ns since any fixed
    /// moment. Samples older than the open slot count to that one. Returns whether a slot was
    /// closed.
    @discardableResult
    public mutating func add(_ load: Double, at now: UInt64) -> Bool {
        guard load.isFinite else { return false }
        let slot = now / slotLength
        let isClosed = open.map { slot > $0 } ?? false
        if isClosed { close(until: slot) }
        open = max(slot, open ?? slot)
        sum += max(0, load)
        samples += 1
        return isClosed
    }

    private mutating func close(until slot: UInt64) {
        append(samples > 0 ? sum / Double(samples) : nil)
        (sum, samples) = (0, 0)
        // A gap longer than the ring leaves nothing in it.
        let missing = min(slot - (open ?? slot) - 1, UInt64(capacity))
        for _ in 0..<missing { append(nil) }
    }

    private mutating func append(_ value: Double?) {
        if ring.count < capacity {
            ring.append(value)
        } else {
            ring[start] = value
            start = (start + 1) % capacity
        }
    }

    /// Goes on from values that were kept elsewhere; `last` is the slot of the newest one.
    public init(slotLength: Duration, capacity: Int, values: [Double?], last: UInt64) {
        self.init(slotLength: slotLength, capacity: capacity)
        ring = values.suffix(self.capacity).map { value in
            value.flatMap { $0.isFinite && $0 >= 0 ? $0 : nil }
        }
        open = last < .max ? last + 1 : last
    }

    /// Slot of the newest closed value; nil: there is none.
    public var last: UInt64? { ring.isEmpty ? nil : open.map { $0 > 0 ? $0 - 1 : 0 } }

    /// Closed slots, the oldest first.
    public var values: [Double?] { Array(ring[start...] + ring[..<start]) }
    public var count: Int { ring.count }
}
