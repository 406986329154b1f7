/// Calls whose replies are awaited, so that their latency can be measured. When there are too many, a newer call takes
/// the place of an older one, which then is not measured.
///
/// Entries that are free are used again newest first, so that as much memory is touched as calls are open at a time.
struct PendingCalls: ~Copyable {
    private struct Entry {
        var xid: UInt32
        /// Of the binding.
        var serial: UInt32
        /// ns.
        var start: UInt64
        var resource: DatagramResourceID
        /// Next in its chain, or of those that are free; 0: none.
        var next: UInt32
    }

    private let capacity: Int
    private let mask: Int
    private let hasher: SeededHash
    /// First entry by hash of binding and XID, 0: none. Entries count from 1.
    private let heads: UnsafeMutablePointer<UInt32>
    private let entries: UnsafeMutablePointer<Entry>
    private let state: UnsafeMutablePointer<State>
    private let memory: MappedMemory

    private struct State {
        var free: UInt32 = 0
        var used: UInt32 = 0
        /// Where room is made next.
        var hand = 0
    }

    /// ns: a call with the same XID after so long a time is another call.
    private static let lifetime: UInt64 = 60_000_000_000
    /// Entries with one hash; a further call takes the place of the oldest, whatever clients choose as XIDs.
    private static let chainMaximum = 8

    init(capacity: Int, seed: (UInt64, UInt64)) {
        var size = 16
        while size < min(1 << 24, capacity) { size *= 2 }
        // Few enough to stay in the processor's cache; chains are short all the same.
        let headCount = size / 4
        let headOctets = headCount * MemoryLayout<UInt32>.stride
        let entryOctets = (size + 1) * MemoryLayout<Entry>.stride
        let memory = MappedMemory(octets: headOctets + entryOctets)
        self.capacity = size
        mask = headCount - 1
        hasher = SeededHash(seed: seed)
        heads = memory.start.bindMemory(to: UInt32.self, capacity: headCount)
        entries = (memory.start + headOctets).bindMemory(to: Entry.self, capacity: size + 1)
        state = .allocate(capacity: 1)
        state.initialize(to: State())
        self.memory = memory
    }

    deinit { state.deallocate() }

    @inline(__always)
    private func head(_ serial: UInt32, _ xid: UInt32) -> Int {
        Int(hasher.word(UInt64(serial) << 32 | UInt64(xid))) & mask
    }

    /// A call passed. One that is said again counts from its first time.
    @inline(__always)
    func note(serial: UInt32, xid: UInt32, resource: DatagramResourceID, now: UInt64) {
        let head = head(serial, xid)
        var index = heads[head]
        var length = 0
        while index != 0 {
            let entry = entries + Int(index)
            length &+= 1
            let isSame = entry.pointee.xid == xid && entry.pointee.serial == serial
            if isSame || length == Self.chainMaximum {
                if !isSame || entry.pointee.resource != resource
                    || now &- entry.pointee.start >= Self.lifetime
                {
                    entry.pointee.xid = xid
                    entry.pointee.serial = serial
                    entry.pointee.start = now
                    entry.pointee.resource = resource
                }
                return
            }
            index = entry.pointee.next
        }
        let place = takePlace()
        entries[Int(place)] = Entry(
            xid: xid, serial: serial, start: now, resource: resource, next: heads[head])
        heads[head] = place
    }

    /// A reply passed: what is known of its call, which is forgotten with it.
    @inline(__always)
    func take(serial: UInt32, xid: UInt32) -> (resource: DatagramResourceID, start: UInt64)? {
        let head = head(serial, xid)
        var previous: UInt32 = 0
        var index = heads[head]
        while index != 0 {
            let entry = entries + Int(index)
            if entry.pointee.xid == xid, entry.pointee.serial == serial {
                unlink(entry.pointee.next, behind: previous, head)
                entry.pointee.next = state.pointee.free
                state.pointee.free = index
                return (entry.pointee.resource, entry.pointee.start)
            }
            previous = index
            index = entry.pointee.next
        }
        return nil
    }

    /// What is behind an entry, or begins a chain, is `next` from now on.
    @inline(__always)
    private func unlink(_ next: UInt32, behind previous: UInt32, _ head: Int) {
        if previous == 0 {
            heads[head] = next
        } else {
            entries[Int(previous)].next = next
        }
    }

    @inline(__always)
    private func takePlace() -> UInt32 {
        let free = state.pointee.free
        if free != 0 {
            state.pointee.free = entries[Int(free)].next
            return free
        }
        guard Int(state.pointee.used) < capacity else { return makeRoom() }
        state.pointee.used &+= 1
        return state.pointee.used
    }

    /// The last of some chain, which is its oldest, gives way. All entries are in chains.
    private func makeRoom() -> UInt32 {
        while heads[state.pointee.hand] == 0 {
            state.pointee.hand = (state.pointee.hand &+ 1) & mask
        }
        let head = state.pointee.hand
        state.pointee.hand = (head &+ 1) & mask
        var previous: UInt32 = 0
        var place = heads[head]
        while entries[Int(place)].next != 0 {
            previous = place
            place = entries[Int(place)].next
        }
        unlink(0, behind: previous, head)
        return place
    }
}
