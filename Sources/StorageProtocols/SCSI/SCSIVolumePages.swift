/// What a volume says of itself, made from what its first member says: data for INQUIRY, READ CAPACITY, MODE SENSE
/// and GET LBA STATUS.
///
/// `member` is always the member's whole answer. It may be short or wrong: what is not there counts as 0. Nothing
/// is cut to an allocation length here.
public struct SCSIVolumeIdentity: Equatable, Sendable {
    /// Unique; what the serial number and the designators are made of. It must not change.
    public var name: String
    /// Blocks.
    public var capacity: UInt64
    /// Octets.
    public var blockLength: UInt32
    /// Blocks: a stripe's chunk; 0: none.
    public var optimalGranularity: UInt32
    /// Blocks: a stripe's row; 0: none.
    public var optimalLength: UInt32
    /// Blocks of one transfer; 0: no limit.
    public var maximumLength: UInt32

    /// Octets of a name in a designator, of which 255 with the vendor is the most (SPC-4 section 7.8).
    static let nameMaximum = 247

    public init(
        name: String, capacity: UInt64, blockLength: UInt32, optimalGranularity: UInt32 = 0,
        optimalLength: UInt32 = 0, maximumLength: UInt32 = 0
    ) {
        self.name = name
        self.capacity = capacity
        self.blockLength = blockLength
        self.optimalGranularity = optimalGranularity
        self.optimalLength = optimalLength
        self.maximumLength = maximumLength
    }

    // MARK: INQUIRY

    /// Standard INQUIRY data (SPC-4 section 6.6.2), 36 to 260 octets: the member's flags and version descriptors,
    /// without target port groups, third party copy and protection, which a volume does not have.
    public func standardInquiry(_ member: [UInt8]) -> [UInt8] {
        var octets = Array(member.prefix(5 + Int(member.number(at: 4, 1))))
        if octets.count < 36 { octets += [UInt8](repeating: 0, count: 36 - octets.count) }
        octets[4] = UInt8(truncatingIfNeeded: octets.count - 5)
        // TPGS (bits 5 and 4), 3PC (3), PROTECT (0).
        octets[5] &= 0xc6
        SCSITargetUnits.put("DSR", 8, into: &octets, at: 8)
        SCSITargetUnits.put("VOLUME", 16, into: &octets, at: 16)
        SCSITargetUnits.put("1", 4, into: &octets, at: 32)
        // Vendor specific octets: another vendor's.
        for place in 36..<octets.count where place < 56 || place >= 96 { octets[place] = 0 }
        return octets
    }

    /// Vital product data; nil: the volume has no such page (INVALID FIELD IN CDB).
    /// - Parameter member: the same page of the member; empty when it has none.
    public func vitalData(page: UInt8, member: [UInt8]) -> [UInt8]? {
        switch page {
        case 0x00: return pages(member)
        case 0x80: return serialNumberPage()
        case 0x83: return designationPage()
        case 0xb0: return Self.page(page, of: member) == nil ? nil : limitsPage(member)
        case 0xb1, 0xb2: return Self.page(page, of: member)
        default: return nil
        }
    }

    /// Supported VPD Pages (00h; SPC-4 section 7.8): those that a volume makes itself, and of Block Limits, Block
    /// Device Characteristics and Logical Block Provisioning those that the member has.
    public func pages(_ member: [UInt8]) -> [UInt8] {
        let listed = (Self.page(0x00, of: member) ?? []).dropFirst(4)
        let codes: [UInt8] = [0xb0, 0xb1, 0xb2]
        return Self.page(0x00, [0x00, 0x80, 0x83] + codes.filter { listed.contains($0) })
    }

    /// Unit Serial Number (80h; SPC-4 section 7.8): 16 digits.
    public func serialNumberPage() -> [UInt8] {
        let digits = Array(String(hash, radix: 16).utf8)
        return Self.page(0x80, [UInt8](repeating: 0x30, count: 16 - digits.count) + digits)
    }

    /// Device Identification (83h; SPC-4 section 7.8): the name behind the vendor, and a locally assigned number.
    /// Octets of the name that are not printable ASCII become "_"; the number tells such names apart.
    public func designationPage() -> [UInt8] {
        var text = Array("DSR     ".utf8)
        for octet in name.utf8.prefix(Self.nameMaximum) {
            text.append(octet >= 0x20 && octet <= 0x7e ? octet : 0x5f)
        }
        // NAA 3h: locally assigned.
        var number = [UInt8](repeating: 0, count: 8)
        number.put(hash & 0x0fff_ffff_ffff_ffff | 0x3000_0000_0000_0000, 8, at: 0)
        // Of the logical unit (association 0): code set ASCII, type 1 (T10 vendor); binary, type 3 (NAA).
        var octets: [UInt8] = [0x02, 0x01, 0x00, UInt8(truncatingIfNeeded: text.count)]
        octets += text
        octets += [0x01, 0x03, 0x00, 0x08]
        octets += number
        return Self.page(0x83, octets)
    }

    // SBC-3 section 6.6.3. Octets 44 to 63 became limits of atomic writes (SBC-4): a volume cannot promise any
    // when a write goes to several members.
    /// Block Limits (B0h), 64 octets or more: the member's, with the volume's limits of a transfer.
    public func limitsPage(_ member: [UInt8]) -> [UInt8] {
        var octets = Self.page(0xb0, of: member) ?? [0x00, 0xb0, 0x00, 0x00]
        if octets.count < 64 { octets += [UInt8](repeating: 0, count: 64 - octets.count) }
        octets.put(UInt64(octets.count - 4), 2, at: 2)
        // MAXIMUM COMPARE AND WRITE LENGTH: the volume does it itself, whether or not its members can.
        octets[5] = Self.compareAndWriteMaximum
        // OPTIMAL TRANSFER LENGTH GRANULARITY has two octets only.
        if optimalGranularity > 0, optimalGranularity <= 0xffff {
            octets.put(UInt64(optimalGranularity), 2, at: 6)
        }
        let limits = [UInt64(maximumLength), octets.number(at: 8, 4)]
        let maximum = limits.filter { $0 > 0 }.min() ?? 0
        octets.put(maximum, 4, at: 8)
        // A row that cannot be transferred at once is nothing to aim for.
        let optimal = UInt64(optimalLength)
        octets.put(maximum > 0 && optimal > maximum ? 0 : optimal, 4, at: 12)
        for place in 44..<64 { octets[place] = 0 }
        return octets
    }

    /// Blocks of one COMPARE AND WRITE.
    public static let compareAndWriteMaximum: UInt8 = 128

    /// A stable number of the name: FNV-1a (Fowler, Noll, Vo) with 64 bits.
    private var hash: UInt64 {
        var value: UInt64 = 0xcbf2_9ce4_8422_2325
        for octet in name.utf8 {
            value ^= UInt64(octet)
            value &*= 0x0000_0100_0000_01b3
        }
        return value
    }

    /// A page of direct-access peripheral device type.
    private static func page(_ code: UInt8, _ data: [UInt8]) -> [UInt8] {
        var octets: [UInt8] = [0x00, code, 0x00, 0x00]
        octets.put(UInt64(data.count), 2, at: 2)
        return octets + data
    }

    /// A member's page as far as its PAGE LENGTH says; nil: it is none, or another one.
    private static func page(_ code: UInt8, of member: [UInt8]) -> [UInt8]? {
        guard member.count >= 4, member[1] == code else { return nil }
        return Array(member.prefix(4 + Int(member.number(at: 2, 2))))
    }

    // MARK: READ CAPACITY, MODE SENSE, GET LBA STATUS

    /// READ CAPACITY (10) data (SBC-3 section 5.15), 8 octets.
    public func capacity10() -> [UInt8] {
        var octets = [UInt8](repeating: 0, count: 8)
        octets.put(min(lastBlock, 0xffff_ffff), 4, at: 0)
        octets.put(UInt64(blockLength), 4, at: 4)
        return octets
    }

    /// READ CAPACITY (16) data (SBC-3 section 5.16), 32 octets: physical blocks, provisioning and alignment are
    /// the member's; no protection.
    public func capacity16(_ member: [UInt8]) -> [UInt8] {
        var octets = [UInt8](repeating: 0, count: 32)
        octets.put(lastBlock, 8, at: 0)
        octets.put(UInt64(blockLength), 4, at: 8)
        octets.put(member.number(at: 13, 3), 3, at: 13)
        return octets
    }

    private var lastBlock: UInt64 { capacity == 0 ? 0 : capacity - 1 }

    /// What READ CAPACITY (16) data (SBC-3 section 5.16) say: blocks, and octets of one. Nil: they are too short,
    /// or no unit can have that.
    public static func number(of capacity: [UInt8]) -> (capacity: UInt64, blockLength: UInt32)? {
        guard capacity.count >= 12 else { return nil }
        let last = capacity.number(at: 0, 8)
        let length = UInt32(truncatingIfNeeded: capacity.number(at: 8, 4))
        guard last != .max, length != 0 else { return nil }
        return (capacity: last + 1, blockLength: length)
    }

    // SBC-3 section 6, mode parameter block descriptors: the short one has FFFF_FFFFh when the number of blocks has
    // no room there.
    /// MODE SENSE data (header: SPC-4 section 7.5) with the volume's number of blocks in the block descriptors.
    /// - Parameter isLong: of MODE SENSE (10).
    public func modeSense(_ member: [UInt8], isLong: Bool) -> [UInt8] {
        var octets = member
        let header = isLong ? 8 : 4
        let length = Int(isLong ? member.number(at: 6, 2) : member.number(at: 3, 1))
        // LONGLBA.
        let isWide = isLong && member.number(at: 4, 1) & 0x01 != 0
        let size = isWide ? 16 : 8
        for index in 0..<length / size {
            octets.put(
                isWide ? capacity : min(capacity, 0xffff_ffff), isWide ? 8 : 4,
                at: header + index * size)
        }
        return octets
    }

    /// GET LBA STATUS data (SBC-3 section 5.4), 24 octets: the first descriptor of the member's, as of the volume.
    /// Eight octets, no descriptor, when the member has none.
    /// - Parameters:
    ///   - memberStart: block of the member that the command to it asked for.
    ///   - volumeStart: block of the volume that lies there.
    ///   - maximum: blocks from there on that the member has in a run.
    public func logicalBlockStatus(
        _ member: [UInt8], memberStart: UInt64, volumeStart: UInt64, maximum: UInt64
    ) -> [UInt8] {
        guard member.count >= 24, member.number(at: 0, 4) >= 20 else {
            return [0, 0, 0, 4, 0, 0, 0, 0]
        }
        var octets: [UInt8] = [0, 0, 0, 20, 0, 0, 0, 0]
        octets += member[8..<24]
        octets.put(member.number(at: 8, 8) &+ (volumeStart &- memberStart), 8, at: 8)
        octets.put(min(member.number(at: 16, 4), maximum), 4, at: 16)
        return octets
    }
}
