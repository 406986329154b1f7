import Glibc

/// Octets on their way to a socket: appended behind, sent from the front.
package struct OutboundBuffer {
    private final class Memory {
        let start: UnsafeMutableRawPointer
        let capacity: Int
        init(_ capacity: Int) {
            self.capacity = capacity
            start = .allocate(byteCount: capacity, alignment: 64)
        }
        deinit { start.deallocate() }
    }

    /// Shared by copies of the buffer until one of them changes.
    private var memory: Memory?
    private var head = 0
    private var tail = 0

    private static let capacityMinimum = 4_096
    /// What a relay at work needs is kept when the buffer is empty: new pages cost more than copying.
    private static let keptMaximum = 4 << 20

    package init() {}

    package var count: Int { tail - head }
    package var isEmpty: Bool { head == tail }

    /// Makes room for that many octets behind the others, in memory that is this buffer's alone.
    private mutating func reserve(_ count: Int) -> UnsafeMutableRawPointer {
        let present = self.count
        // First: a name for it would be a second reference.
        let isOwn = isKnownUniquelyReferenced(&memory)
        if isOwn, let memory {
            if memory.capacity - tail >= count { return memory.start }
            // Not for a few octets in front: each would be moved again and again.
            if head >= present, memory.capacity - present >= count {
                memory.start.copyMemory(from: memory.start + head, byteCount: present)
                head = 0
                tail = present
                return memory.start
            }
        }
        var capacity = max(Self.capacityMinimum, (memory?.capacity ?? 0))
        while capacity < present + count { capacity *= 2 }
        let new = Memory(capacity)
        if let memory { new.start.copyMemory(from: memory.start + head, byteCount: present) }
        memory = new
        head = 0
        tail = present
        return new.start
    }

    package mutating func append(_ bytes: UnsafeRawBufferPointer) {
        guard let source = bytes.baseAddress, bytes.count > 0 else { return }
        (reserve(bytes.count) + tail).copyMemory(from: source, byteCount: bytes.count)
        tail += bytes.count
    }

    package mutating func append(_ bytes: [UInt8]) { bytes.withUnsafeBytes { append($0) } }

    /// Lets `body` write up to `maximum` octets behind the others; it returns how many it wrote.
    package mutating func append<Failure: Error>(
        upTo maximum: Int, _ body: (UnsafeMutableRawBufferPointer) throws(Failure) -> Int
    ) throws(Failure) {
        let start = reserve(maximum)
        tail += try body(UnsafeMutableRawBufferPointer(start: start + tail, count: maximum))
    }

    /// Gives the waiting octets to `send`, which returns how many it took.
    package mutating func drain<Failure: Error>(
        _ send: (UnsafeRawBufferPointer) throws(Failure) -> Int
    ) throws(Failure) {
        guard let memory, !isEmpty else { return }
        skip(try send(UnsafeRawBufferPointer(start: memory.start + head, count: count)))
    }

    /// Leaves the first octets out.
    package mutating func skip(_ count: Int) {
        head += count
        guard head == tail else { return }
        head = 0
        tail = 0
        if let memory, memory.capacity > Self.keptMaximum { self.memory = nil }
    }

    /// Takes the first octets out.
    package mutating func take(_ count: Int) -> [UInt8] {
        guard let memory else { return [] }
        let taken = Array(UnsafeRawBufferPointer(start: memory.start + head, count: count))
        skip(count)
        return taken
    }

    /// Takes octets out of the middle.
    package mutating func remove(_ count: Int, at place: Int) {
        if place == 0 { return skip(count) }
        let start = reserve(0) + head + place
        let rest = self.count - place - count
        memmove(start, start + count, rest)
        tail -= count
    }

    package mutating func withMutableBytes(_ body: (UnsafeMutableRawBufferPointer) -> Void) {
        let start = reserve(0)
        body(UnsafeMutableRawBufferPointer(start: start + head, count: count))
    }
}
