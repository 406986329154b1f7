import Synchronization

/// A bounded ring of events with one writer (the worker) and one reader (the control plane).
final class EventRing: @unchecked Sendable {
    private let storage: UnsafeMutablePointer<Event>
    private let mask: Int
    private let head = Atomic<Int>(0)  // next to read
    private let tail = Atomic<Int>(0)  // next to write
    private let lostCount = Atomic<UInt64>(0)

    init(capacity: Int) {
        var size = 16
        while size < capacity { size *= 2 }
        mask = size - 1
        storage = .allocate(capacity: size)
    }

    deinit { storage.deallocate() }

    var lost: UInt64 { lostCount.load(ordering: .relaxed) }

    /// Worker only. False when the ring is full: the event is lost and counted.
    @discardableResult
    func push(_ event: Event) -> Bool {
        let position = tail.load(ordering: .relaxed)
        guard position &- head.load(ordering: .acquiring) <= mask else {
            lostCount.add(1, ordering: .relaxed)
            return false
        }
        (storage + (position & mask)).initialize(to: event)
        tail.store(position &+ 1, ordering: .releasing)
        return true
    }

    /// Control plane only.
    func pop() -> Event? {
        let position = head.load(ordering: .relaxed)
        guard position != tail.load(ordering: .acquiring) else { return nil }
        let event = storage[position & mask]
        head.store(position &+ 1, ordering: .releasing)
        return event
    }
}
