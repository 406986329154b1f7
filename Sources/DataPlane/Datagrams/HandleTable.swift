import CLinux
import Glibc

/// Which resource a file handle belongs to. Open addressing in raw memory, at most half full: a look-up touches a
/// cell of 16 octets and, when its hash is right, the handle itself, one cache line. Bounded: a full table forgets
/// a handle that was not used for long (one bit each, and a hand that goes round: the clock algorithm). Handles of
/// one resource are removed at once by a new generation number; their cells are used again later.
public struct HandleTable: ~Copyable {
    /// Octets of the longest handle (RFC 1813 section 2.4: NFS3_FHSIZE).
    package static let handleMaximum = 64

    private struct Cell {
        var hash: UInt32
        /// Where the handle's octets lie, from 1; 0: the cell is empty.
        var place: UInt32
        /// Of the resource when the handle was installed; older than the resource's: it was removed.
        var generation: UInt32
        var length: UInt8
        var resource: DatagramResourceID
        /// Looked up, or installed, since the hand came by.
        var isRecent: Bool
    }

    package let capacity: Int
    /// Handles that a look-up finds.
    package private(set) var count = 0
    /// Handles that gave way to others.
    package private(set) var evictions: UInt64 = 0
    /// Cells that are not empty: `count`, and removed handles whose cells were not used again yet.
    private var occupied = 0
    private let mask: Int
    /// Cell that was looked at last for its place.
    private var hand = 0
    private let hasher: SeededHash
    private let cells: UnsafeMutablePointer<Cell>
    private let cellMemory: MappedMemory
    private let octets: UnsafeMutableRawPointer
    private let octetMemory: MappedMemory
    private var placesTaken: UInt32 = 0
    /// List of free places, each with the next one in its first octets; 0: none.
    private var freePlace: UInt32 = 0
    /// By resource.
    private let generations: UnsafeMutablePointer<UInt32>
    private let counts: UnsafeMutablePointer<Int>

    private static let resources = 256
    /// Recent handles that are passed over for one place: so installing takes a bounded time.
    private static let looksMaximum = 64

    /// `capacity` handles at most. Memory is touched only as handles come.
    public init(
        capacity: Int, seed: (UInt64, UInt64) = (0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93)
    ) {
        let capacity = max(1, min(1 << 28, capacity))
        var cellCount = 64
        while cellCount < capacity * 2 { cellCount *= 2 }
        precondition(MemoryLayout<Cell>.stride == 16, "four cells are one cache line")
        let cellMemory = MappedMemory(octets: cellCount * 16, usesHugePages: true)
        let octetMemory = MappedMemory(octets: capacity * Self.handleMaximum, usesHugePages: true)
        self.capacity = capacity
        mask = cellCount - 1
        hasher = SeededHash(seed: seed)
        cells = cellMemory.start.bindMemory(to: Cell.self, capacity: cellCount)
        octets = octetMemory.start
        self.cellMemory = cellMemory
        self.octetMemory = octetMemory
        generations = .allocate(capacity: Self.resources)
        generations.initialize(repeating: 0, count: Self.resources)
        counts = .allocate(capacity: Self.resources)
        counts.initialize(repeating: 0, count: Self.resources)
    }

    deinit {
        generations.deallocate()
        counts.deallocate()
    }

    // MARK: Look-up

    /// Hash of a handle of 1 ... 64 octets.
    @inline(__always)
    package func hash(_ handle: UnsafeRawPointer, length: Int) -> UInt32 {
        hasher.octets(handle, count: length)
    }

    /// Fetches what a look-up will need first.
    @inline(__always)
    package func prefetch(_ hash: UInt32) { dsr_prefetch(cells + (Int(hash) & mask)) }

    /// Cell of a handle, or -1. It is the handle's until something is installed or removed.
    @inline(__always)
    package func find(_ handle: UnsafeRawPointer, length: Int, hash: UInt32) -> Int {
        let index = position(handle, length: length, hash: hash)
        return index >= 0 && isPresent(cells[index]) ? index : -1
    }

    /// The same with its hash; any length.
    public func find(_ handle: UnsafeRawPointer, length: Int) -> Int {
        guard length > 0, length <= Self.handleMaximum else { return -1 }
        return find(handle, length: length, hash: hash(handle, length: length))
    }

    @inline(__always)
    public func resource(_ cell: Int) -> DatagramResourceID { cells[cell].resource }

    /// Notes that a handle was used.
    @inline(__always)
    package func touch(_ cell: Int) {
        if !cells[cell].isRecent { cells[cell].isRecent = true }
    }

    /// Handles of a resource.
    package func count(of resource: DatagramResourceID) -> Int { counts[Int(resource)] }

    /// Cell of a handle, removed with its resource or not; -1: none.
    @inline(__always)
    private func position(_ handle: UnsafeRawPointer, length: Int, hash: UInt32) -> Int {
        var index = Int(hash) & mask
        while true {
            let cell = cells[index]
            if cell.place == 0 { return -1 }
            if cell.hash == hash, Int(cell.length) == length,
                memcmp(address(cell.place), handle, length) == 0
            {
                return index
            }
            index = (index &+ 1) & mask
        }
    }

    @inline(__always)
    private func isPresent(_ cell: Cell) -> Bool {
        cell.generation == generations[Int(cell.resource)]
    }

    @inline(__always)
    private func address(_ place: UInt32) -> UnsafeMutableRawPointer {
        octets + (Int(place) &- 1) &* Self.handleMaximum
    }

    // MARK: Change

    /// Enters a handle, or gives one that is there another resource. Nothing for lengths that no handle has.
    public mutating func install(
        _ handle: UnsafeRawPointer, length: Int, resource: DatagramResourceID
    ) {
        guard length > 0, length <= Self.handleMaximum else { return }
        let hash = hash(handle, length: length)
        var index = position(handle, length: length, hash: hash)
        if index < 0 {
            if occupied == capacity { makeRoom() }
            let place = takePlace()
            address(place).copyMemory(from: handle, byteCount: length)
            index = Int(hash) & mask
            while cells[index].place != 0 { index = (index &+ 1) & mask }
            cells[index] = Cell(
                hash: hash, place: place, generation: 0, length: UInt8(length), resource: resource,
                isRecent: true)
            occupied += 1
        } else if isPresent(cells[index]) {
            counts[Int(cells[index].resource)] -= 1
            count -= 1
        }
        cells[index].resource = resource
        cells[index].generation = generations[Int(resource)]
        cells[index].isRecent = true
        counts[Int(resource)] += 1
        count += 1
    }

    /// False when the handle is not there.
    package mutating func remove(_ handle: UnsafeRawPointer, length: Int) -> Bool {
        let index = find(handle, length: length)
        guard index >= 0 else { return false }
        remove(at: index)
        return true
    }

    /// Removes all handles of a resource; returns how many.
    package mutating func removeAll(of resource: DatagramResourceID) -> Int {
        let removed = counts[Int(resource)]
        generations[Int(resource)] &+= 1
        counts[Int(resource)] = 0
        count -= removed
        return removed
    }

    /// Empties one cell: a removed handle's, or that of a handle that was not used since the hand came by last.
    private mutating func makeRoom() {
        var looks = 0
        while true {
            hand = (hand &+ 1) & mask
            let cell = cells[hand]
            if cell.place == 0 { continue }
            let isGone = !isPresent(cell)
            if isGone || !cell.isRecent || looks == Self.looksMaximum {
                if !isGone { evictions &+= 1 }
                return remove(at: hand)
            }
            cells[hand].isRecent = false
            looks += 1
        }
    }

    private mutating func remove(at found: Int) {
        let cell = cells[found]
        if isPresent(cell) {
            counts[Int(cell.resource)] -= 1
            count -= 1
        }
        address(cell.place).storeBytes(of: freePlace, as: UInt32.self)
        freePlace = cell.place
        occupied -= 1
        // Backward shift: no tombstones, so look-ups stay short however often handles come and go.
        var hole = found
        var index = (hole &+ 1) & mask
        while cells[index].place != 0 {
            let home = Int(cells[index].hash) & mask
            if (index &- home) & mask >= (index &- hole) & mask {
                cells[hole] = cells[index]
                hole = index
            }
            index = (index &+ 1) & mask
        }
        cells[hole].place = 0
    }

    /// There are as many as `capacity`: one is free when fewer cells are occupied.
    private mutating func takePlace() -> UInt32 {
        guard freePlace != 0 else {
            placesTaken += 1
            return placesTaken
        }
        let place = freePlace
        freePlace = address(place).loadUnaligned(as: UInt32.self)
        return place
    }
}
