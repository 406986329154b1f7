/// Learned MAC addresses of one L2 domain: open addressing, bounded, aged (IEEE 802.1Q clause 8.8).
package struct MACTable: ~Copyable {
    package struct Entry {
        /// VLAN id(12) << 48 | MAC; bit 63 marks a used slot.
        var key: UInt64
        var lastSeen: UInt64
        var port: PortNumber
    }

    package let capacity: Int
    package private(set) var count = 0
    /// Addresses that found no room.
    package private(set) var notLearned: UInt64 = 0
    private let mask: Int
    private let slots: UnsafeMutablePointer<Entry>
    private static let used: UInt64 = 1 << 63

    package init(capacity: Int) {
        self.capacity = max(8, capacity)
        var slotCount = 16
        while slotCount < self.capacity * 2 { slotCount *= 2 }
        mask = slotCount - 1
        slots = .allocate(capacity: slotCount)
        slots.initialize(repeating: Entry(key: 0, lastSeen: 0, port: 0), count: slotCount)
    }

    deinit { slots.deallocate() }

    @inline(__always)
    private func home(_ key: UInt64) -> Int {
        let (high, low) = key.multipliedFullWidth(by: 0x9e37_79b9_7f4a_7c15)
        return Int(truncatingIfNeeded: high ^ low) & mask
    }

    @inline(__always)
    private func find(_ key: UInt64) -> Int {
        var index = home(key)
        while slots[index].key != 0 {
            if slots[index].key == key { return index }
            index = (index &+ 1) & mask
        }
        return -1
    }

    @inline(__always)
    private static func key(_ mac: MACAddress, _ vlan: UInt16) -> UInt64 {
        used | UInt64(vlan & 0xfff) << 48 | mac.rawValue
    }

    /// Notes where an address was seen.
    @inline(__always)
    package mutating func learn(_ mac: MACAddress, vlan: UInt16, port: PortNumber, now: UInt64) {
        let key = Self.key(mac, vlan)
        var index = home(key)
        while slots[index].key != 0 {
            if slots[index].key == key {
                slots[index].port = port
                slots[index].lastSeen = now
                return
            }
            index = (index &+ 1) & mask
        }
        guard count < capacity else {
            notLearned &+= 1
            return
        }
        slots[index] = Entry(key: key, lastSeen: now, port: port)
        count += 1
    }

    /// Port where an address was last seen, or 0.
    @inline(__always)
    package func port(of mac: MACAddress, vlan: UInt16) -> PortNumber {
        let index = find(Self.key(mac, vlan))
        return index < 0 ? 0 : slots[index].port
    }

    private mutating func remove(at found: Int) {
        var hole = found
        var index = (hole + 1) & mask
        while slots[index].key != 0 {
            if (index &- home(slots[index].key)) & mask >= (index &- hole) & mask {
                slots[hole] = slots[index]
                hole = index
            }
            index = (index + 1) & mask
        }
        slots[hole].key = 0
        count -= 1
    }

    /// Removes what was not seen for `age` ns, and everything behind `port` when one is given.
    package mutating func expire(age: UInt64, now: UInt64, port: PortNumber? = nil) {
        var index = 0
        while index <= mask {
            let entry = slots[index]
            let isOld = now > entry.lastSeen && now - entry.lastSeen > age
            if entry.key != 0, isOld || entry.port == port {
                remove(at: index)  // another entry may have moved here: look again
            } else {
                index += 1
            }
        }
    }

    package mutating func removeAll() {
        for index in 0...mask { slots[index].key = 0 }
        count = 0
    }

    package func entries(now: UInt64) -> [(
        mac: MACAddress, vlan: UInt16, port: PortNumber, age: UInt64
    )] {
        (0...mask).compactMap { index in
            let entry = slots[index]
            guard entry.key != 0 else { return nil }
            return (
                MACAddress(rawValue: entry.key),
                UInt16(truncatingIfNeeded: entry.key >> 48 & 0xfff),
                entry.port, now > entry.lastSeen ? now - entry.lastSeen : 0
            )
        }
    }
}
