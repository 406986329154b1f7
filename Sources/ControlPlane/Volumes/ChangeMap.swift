/// What is wrong with a change map that was read.
package enum ChangeMapError: Error, Equatable, CustomStringConvertible, Sendable {
    /// It ends too early.
    case truncated
    /// It begins with something else.
    case notAChangeMap
    case unknownVersion(UInt32)
    case checksumMismatch
    /// Its checksum is right, but its fields cannot be so.
    case malformed(String)
    /// A file of which no slot can be used: why, for each slot.
    case noValidSlot([ChangeMapError])
    /// The file cannot be read.
    case unreadable(String)

    package var description: String {
        switch self {
        case .truncated: "it ends too early"
        case .notAChangeMap: "it is not a change map"
        case .unknownVersion(let version): "it has version \(version), not \(ChangeMap.version)"
        case .checksumMismatch: "its checksum is wrong"
        case .malformed(let what): what
        case .noValidSlot(let problems):
            problems.isEmpty
                ? "it has not two slots of equal size"
                : "none of its slots is valid: "
                    + problems.map(\.description).joined(separator: "; ")
        case .unreadable(let problem): problem
        }
    }
}

/// Which regions of a mirror's members may differ, and which members are out of service (a write-intent bitmap).
///
/// A region is set on disk before the first write to it goes out, and cleared only when all members have that write.
/// So after a crash it is enough to copy the regions that are set.
package struct ChangeMap: Equatable, Sendable {
    /// Octets of a region, at least (the last one may be shorter).
    package static let minimumRegionLength: UInt64 = 1 << 20
    package static let maximumRegions: UInt64 = 65_536
    fileprivate static let version: UInt32 = 1
    private static let magic = Array("DSRCHMAP".utf8)

    package let members: [String]
    /// Octets of a block; not 0.
    package let blockLength: UInt32
    /// Blocks of the mirror.
    package let capacity: UInt64
    /// Blocks of a region; a power of two.
    package private(set) var regionBlocks: UInt64
    /// Whether a member is out of service; one for each of `members`.
    package var isOut: [Bool] {
        didSet { precondition(isOut.count == members.count, "one for each member") }
    }
    /// Regions that are set.
    package private(set) var changedCount: Int
    /// Region r is bit r % 8 of octet r / 8, the least significant bit being 0. Bits behind the last region are 0.
    private var bits: [UInt8]

    /// A map that knows nothing of its members: every region is set, nobody is out.
    /// - Parameters:
    ///   - blockLength: octets of a block; not 0.
    ///   - capacity: in blocks.
    package init(members: [String], blockLength: UInt32, capacity: UInt64) {
        precondition(blockLength > 0, "a block has octets")
        var regionBlocks: UInt64 = 1
        while regionBlocks * UInt64(blockLength) < Self.minimumRegionLength { regionBlocks *= 2 }
        while Self.count(of: capacity, by: regionBlocks) > Self.maximumRegions { regionBlocks *= 2 }
        self.members = members
        self.blockLength = blockLength
        self.capacity = capacity
        self.regionBlocks = regionBlocks
        isOut = Array(repeating: false, count: members.count)
        let count = Int(Self.count(of: capacity, by: regionBlocks))
        changedCount = count
        bits = Array(repeating: 0xff, count: count / 8)
        if count % 8 > 0 { bits.append(Self.mask(count) - 1) }
    }

    /// Regions of this many blocks that `capacity` blocks have.
    private static func count(of capacity: UInt64, by regionBlocks: UInt64) -> UInt64 {
        capacity == 0 ? 0 : (capacity - 1) / regionBlocks + 1
    }

    private static func mask(_ region: Int) -> UInt8 { UInt8(1) << UInt8(region % 8) }

    // MARK: Regions

    package var regionCount: Int { Int(Self.count(of: capacity, by: regionBlocks)) }

    /// Regions that hold any of `blocks`; blocks behind the end are left out.
    package func regions(of blocks: Range<UInt64>) -> Range<Int> {
        let upper = min(blocks.upperBound, capacity)
        guard blocks.lowerBound < upper else { return 0..<0 }
        return Int(blocks.lowerBound / regionBlocks)..<Int((upper - 1) / regionBlocks) + 1
    }

    /// Blocks of a region below `regionCount`; those of the last one may be fewer.
    package func blocks(of region: Int) -> Range<UInt64> {
        precondition(region >= 0 && region < regionCount, "no such region")
        let first = UInt64(region) * regionBlocks
        return first..<first + min(regionBlocks, capacity - first)
    }

    /// False for a region that there is not.
    package func isSet(_ region: Int) -> Bool {
        guard region >= 0, region < regionCount else { return false }
        return bits[region / 8] & Self.mask(region) != 0
    }

    /// True when any of them was not set. Regions that there are not are left out.
    @discardableResult
    package mutating func set(_ regions: Range<Int>) -> Bool {
        let before = changedCount
        for region in regions.clamped(to: 0..<regionCount) where !isSet(region) {
            bits[region / 8] |= Self.mask(region)
            changedCount += 1
        }
        return changedCount != before
    }

    /// True when it was set.
    @discardableResult
    package mutating func clear(_ region: Int) -> Bool {
        guard isSet(region) else { return false }
        bits[region / 8] &= ~Self.mask(region)
        changedCount -= 1
        return true
    }

    /// Regions that are set, in order.
    package var changed: [Int] {
        var result: [Int] = []
        result.reserveCapacity(changedCount)
        for (index, octet) in bits.enumerated() where octet != 0 {
            for region in index * 8..<index * 8 + 8 where isSet(region) { result.append(region) }
        }
        return result
    }

    // MARK: Encoding

    /// All numbers big-endian: magic, version (4 octets), sequence (8), block length (4), capacity (8), blocks of a
    /// region (8), number of members (4), for each the length of its name (4), its name in UTF-8 and whether it is out
    /// (1); number of regions (4), a bit for each; CRC-32 of all before it (4).
    /// - Parameter sequence: tells newer encodings from older ones.
    package func encoded(sequence: UInt64) -> [UInt8] {
        var octets = Self.magic
        octets.append(bigEndian: Self.version)
        octets.append(bigEndian: sequence)
        octets.append(bigEndian: blockLength)
        octets.append(bigEndian: capacity)
        octets.append(bigEndian: regionBlocks)
        octets.append(bigEndian: UInt32(members.count))
        for (member, out) in zip(members, isOut) {
            octets.append(bigEndian: UInt32(member.utf8.count))
            octets.append(contentsOf: member.utf8)
            octets.append(out ? 1 : 0)
        }
        octets.append(bigEndian: UInt32(regionCount))
        octets.append(contentsOf: bits)
        let checksum = CRC32.checksum(octets[...])
        octets.append(bigEndian: checksum)
        return octets
    }

    /// Takes exactly what `encoded` has made: everything is checked, nothing may follow.
    package static func decode(
        _ octets: [UInt8]
    ) throws(ChangeMapError) -> (map: ChangeMap, sequence: UInt64) {
        let body = octets.dropLast(4)
        var reader = Reader(rest: body)
        let start = try reader.octets(magic.count)
        guard start.elementsEqual(magic) else { throw .notAChangeMap }
        let version = try reader.number(UInt32.self)
        guard version == Self.version else { throw .unknownVersion(version) }
        var end = Reader(rest: octets.suffix(4))
        let checksum = try end.number(UInt32.self)
        guard CRC32.checksum(body) == checksum else { throw .checksumMismatch }

        let sequence = try reader.number(UInt64.self)
        let blockLength = try reader.number(UInt32.self)
        let capacity = try reader.number(UInt64.self)
        let regionBlocks = try reader.number(UInt64.self)
        try checkSizes(blockLength: blockLength, capacity: capacity, regionBlocks: regionBlocks)
        let (members, isOut) = try reader.members()

        var map = ChangeMap(members: members, blockLength: blockLength, capacity: capacity)
        map.regionBlocks = regionBlocks
        map.isOut = isOut
        let count = try reader.number(UInt32.self)
        guard Int(count) == map.regionCount else {
            throw .malformed("it has bits for \(count) regions, not \(map.regionCount)")
        }
        map.bits = Array(try reader.octets((map.regionCount + 7) / 8))
        guard reader.rest.isEmpty else {
            throw .malformed("\(reader.rest.count) octets follow its bits")
        }
        if let last = map.bits.last, map.regionCount % 8 > 0, last >= mask(map.regionCount) {
            throw .malformed("bits behind its last region are set")
        }
        map.changedCount = map.bits.reduce(0) { $0 + $1.nonzeroBitCount }
        return (map, sequence)
    }

    private static func checkSizes(
        blockLength: UInt32, capacity: UInt64, regionBlocks: UInt64
    ) throws(ChangeMapError) {
        guard blockLength > 0 else { throw .malformed("its blocks have no octets") }
        guard regionBlocks.nonzeroBitCount == 1 else {
            throw .malformed("regions of \(regionBlocks) blocks: not a power of two")
        }
        let length = regionBlocks.multipliedReportingOverflow(by: UInt64(blockLength))
        guard length.overflow || length.partialValue >= minimumRegionLength else {
            throw .malformed("regions of \(length.partialValue) octets: too short")
        }
        let regions = count(of: capacity, by: regionBlocks)
        guard regions <= maximumRegions else { throw .malformed("\(regions) regions: too many") }
    }
}

/// Reads big-endian numbers; nothing behind the end.
private struct Reader {
    var rest: ArraySlice<UInt8>

    mutating func octets(_ count: Int) throws(ChangeMapError) -> ArraySlice<UInt8> {
        guard count <= rest.count else { throw .truncated }
        let taken = rest.prefix(count)
        rest = rest.dropFirst(count)
        return taken
    }

    mutating func number<Value: FixedWidthInteger & UnsignedInteger>(
        _ type: Value.Type
    ) throws(ChangeMapError) -> Value {
        let taken = try octets(Value.bitWidth / 8)
        return taken.reduce(0) { $0 << 8 | Value($1) }
    }

    mutating func members() throws(ChangeMapError) -> (names: [String], isOut: [Bool]) {
        var names: [String] = []
        var isOut: [Bool] = []
        // Each takes octets: a wrong number ends soon.
        let count = try number(UInt32.self)
        for _ in 0..<count {
            let length = try number(UInt32.self)
            let text = try octets(Int(length))
            guard let name = String(validating: text, as: UTF8.self) else {
                throw .malformed("a member's name is not UTF-8")
            }
            let flag = try number(UInt8.self)
            guard flag <= 1 else { throw .malformed("member \(name) is neither in nor out") }
            names.append(name)
            isOut.append(flag == 1)
        }
        return (names, isOut)
    }
}

extension [UInt8] {
    fileprivate mutating func append(bigEndian value: some FixedWidthInteger & UnsignedInteger) {
        for shift in stride(from: value.bitWidth - 8, through: 0, by: -8) {
            append(UInt8(truncatingIfNeeded: value >> shift))
        }
    }
}

/// CRC-32 of IEEE 802.3 section 3.2.9, as in zlib: reflected, begins with and is inverted by all ones.
private enum CRC32 {
    private static let table: [UInt32] = (0..<256).map { octet in
        var value = UInt32(octet)
        for _ in 0..<8 {
            let isOdd = value & 1 == 1
            value >>= 1
            if isOdd { value ^= 0xedb8_8320 }
        }
        return value
    }

    static func checksum(_ octets: ArraySlice<UInt8>) -> UInt32 {
        var value = UInt32.max
        for octet in octets {
            let index = Int((value ^ UInt32(octet)) & 0xff)
            value = (value >> 8) ^ table[index]
        }
        return ~value
    }
}
