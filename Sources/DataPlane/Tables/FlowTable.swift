import CLinux
import Glibc

/// What an exact flow does: hands the packet to a splice, or runs an action list.
package enum FlowTarget: Equatable {
    case splice(SpliceID, SpliceSide)
    /// Index into the pipeline's action lists.
    case actions(UInt32)
}

/// Exact flows: open addressing in raw memory, one cache line for each slot (key, target, counters), at
/// most half full, so that a look-up is one probe whatever the number of flows.
package struct FlowTable: ~Copyable {
    struct Slot {
        var key: FlowKey
        /// 0: empty. Else target + 1: bit 31 splice, bit 0 of the rest the side.
        var target: UInt32
        /// Seconds of the monotonic clock when a packet was last seen.
        var lastUsed: UInt32
        var packets: UInt64
        var bytes: UInt64
    }

    package let capacity: Int
    package private(set) var count = 0
    private let mask: Int
    private let slots: UnsafeMutablePointer<Slot>
    private let memory: UnsafeMutableRawPointer
    private let size: Int
    private let seed: (UInt64, UInt64)

    /// `capacity` flows at most. Memory is touched only as flows come. `seed` makes collisions
    /// impossible to choose from outside.
    package init(
        capacity: Int, seed: (UInt64, UInt64) = (0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93)
    ) {
        self.capacity = max(1, capacity)
        self.seed = (seed.0 | 1, seed.1 | 1)
        var slotCount = 64
        while slotCount < self.capacity * 2 { slotCount *= 2 }
        mask = slotCount - 1
        size = slotCount * 64
        precondition(MemoryLayout<Slot>.stride == 64, "a slot is one cache line")
        guard
            let mapping = mmap(
                nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                0), mapping != MAP_FAILED
        else { fatalError("cannot map the flow table") }
        madvise(mapping, size, MADV_HUGEPAGE)
        memory = mapping
        slots = mapping.bindMemory(to: Slot.self, capacity: slotCount)
    }

    deinit { munmap(memory, size) }

    // MARK: Keys

    /// Never 0 or 1, which mark packets without a key; the table uses the low bits.
    @inline(__always)
    package func hash(_ key: FlowKey) -> UInt64 {
        var value = mix(key.sourceLow ^ seed.0, key.destinationLow ^ seed.1)
        value = mix(value ^ key.ports, seed.0 ^ key.sourceHigh &* 0xff51_afd7_ed55_8ccd)
        return mix(value ^ key.destinationHigh, seed.1) | 1 << 63
    }

    @inline(__always)
    private func mix(_ left: UInt64, _ right: UInt64) -> UInt64 {
        let (high, low) = left.multipliedFullWidth(by: right)
        return high ^ low
    }

    @inline(__always)
    package func prefetch(_ hash: UInt64) {
        dsr_prefetch(slots + (Int(truncatingIfNeeded: hash) & mask))
    }

    @inline(__always)
    private static func encode(_ target: FlowTarget) -> UInt32 {
        switch target {
        case .splice(let id, let side): 0x8000_0000 | (id << 1 | UInt32(side.rawValue)) &+ 1
        case .actions(let index): index &+ 1
        }
    }

    @inline(__always)
    private static func decode(_ value: UInt32) -> FlowTarget {
        if value & 0x8000_0000 == 0 { return .actions(value &- 1) }
        let packed = value & 0x7fff_ffff &- 1
        return .splice(packed >> 1, packed & 1 == 0 ? .client : .server)
    }

    // MARK: Look-up

    /// Slot of a key, or -1.
    @inline(__always)
    package func find(_ key: FlowKey, hash: UInt64) -> Int {
        var index = Int(truncatingIfNeeded: hash) & mask
        while true {
            let slot = slots + index
            if slot.pointee.target == 0 { return -1 }
            if slot.pointee.key == key { return index }
            index = (index &+ 1) & mask
        }
    }

    package func contains(_ key: FlowKey) -> Bool { find(key, hash: hash(key)) >= 0 }

    @inline(__always)
    package func target(_ slot: Int) -> FlowTarget { Self.decode(slots[slot].target) }

    @inline(__always)
    package func count(_ slot: Int, bytes: Int, now: UInt64) {
        slots[slot].packets &+= 1
        slots[slot].bytes &+= UInt64(truncatingIfNeeded: bytes)
        slots[slot].lastUsed = UInt32(truncatingIfNeeded: now / 1_000_000_000)
    }

    // MARK: Change

    /// False when the table is full or the key is there already.
    package mutating func insert(_ key: FlowKey, _ target: FlowTarget, now: UInt64 = 0) -> Bool {
        guard count < capacity else { return false }
        var index = Int(truncatingIfNeeded: hash(key)) & mask
        while slots[index].target != 0 {
            if slots[index].key == key { return false }
            index = (index + 1) & mask
        }
        slots[index] = Slot(
            key: key, target: Self.encode(target),
            lastUsed: UInt32(truncatingIfNeeded: now / 1_000_000_000), packets: 0, bytes: 0)
        count += 1
        return true
    }

    /// False when the key is not there.
    package mutating func remove(_ key: FlowKey) -> Bool {
        let found = find(key, hash: hash(key))
        guard found >= 0 else { return false }
        // Backward shift: no tombstones, so look-ups stay short however often flows come and go.
        var hole = found
        var index = (hole + 1) & mask
        while slots[index].target != 0 {
            let home = Int(truncatingIfNeeded: hash(slots[index].key)) & mask
            if (index &- home) & mask >= (index &- hole) & mask {
                slots[hole] = slots[index]
                hole = index
            }
            index = (index + 1) & mask
        }
        slots[hole].target = 0
        count -= 1
        return true
    }

    // MARK: Reading

    /// Number of slots, for paging.
    package var slotCount: Int { mask + 1 }

    package func slot(_ index: Int) -> (
        key: FlowKey, target: FlowTarget, packets: UInt64, bytes: UInt64, lastUsed: UInt32
    )? {
        guard index >= 0, index <= mask, slots[index].target != 0 else { return nil }
        let slot = slots[index]
        return (slot.key, Self.decode(slot.target), slot.packets, slot.bytes, slot.lastUsed)
    }

    package func counters(of key: FlowKey) -> (packets: UInt64, bytes: UInt64)? {
        let found = find(key, hash: hash(key))
        return found < 0 ? nil : (slots[found].packets, slots[found].bytes)
    }
}
