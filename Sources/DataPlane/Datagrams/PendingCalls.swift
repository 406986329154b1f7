/// Calls whose replies are awaited, so that their latency can be measured. One place for each hash of binding and
/// XID: a newer call takes the place of an older one, which then is not measured.
struct PendingCalls: ~Copyable {
    private struct Entry {
        var xid: UInt32
        /// Of the binding; 0: free.
        var serial: UInt32
        /// ns.
        var start: UInt64
        var resource: DatagramResourceID
    }

    private let mask: Int
    private let hasher: SeededHash
    private let entries: UnsafeMutablePointer<Entry>
    private let memory: MappedMemory
    /// ns: a call with the same XID after so long a time is another call.
    private static let lifetime: UInt64 = 60_000_000_000

    init(capacity: Int, seed: (UInt64, UInt64)) {
        var size = 16
        while size < min(1 << 24, capacity) { size *= 2 }
        let memory = MappedMemory(octets: size * MemoryLayout<Entry>.stride)
        mask = size - 1
        hasher = SeededHash(seed: seed)
        entries = memory.start.bindMemory(to: Entry.self, capacity: size)
        self.memory = memory
    }

    @inline(__always)
    private func entry(_ serial: UInt32, _ xid: UInt32) -> UnsafeMutablePointer<Entry> {
        entries + (Int(hasher.word(UInt64(serial) << 32 | UInt64(xid))) & mask)
    }

    /// A call passed. One that is said again counts from its first time.
    @inline(__always)
    func note(serial: UInt32, xid: UInt32, resource: DatagramResourceID, now: UInt64) {
        let entry = entry(serial, xid)
        if entry.pointee.serial == serial, entry.pointee.xid == xid,
            entry.pointee.resource == resource, now &- entry.pointee.start < Self.lifetime
        {
            return
        }
        entry.pointee = Entry(xid: xid, serial: serial, start: now, resource: resource)
    }

    /// A reply passed: what is known of its call, which is forgotten with it.
    @inline(__always)
    func take(serial: UInt32, xid: UInt32) -> (resource: DatagramResourceID, start: UInt64)? {
        let entry = entry(serial, xid)
        guard entry.pointee.serial == serial, entry.pointee.xid == xid else { return nil }
        entry.pointee.serial = 0
        return (entry.pointee.resource, entry.pointee.start)
    }
}
