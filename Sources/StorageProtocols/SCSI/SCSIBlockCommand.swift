/// Command descriptor blocks for the members of a volume: always 16 octets, as a SCSI Command PDU carries them.
extension SCSICommand {
    /// TEST UNIT READY (SPC-4 section 6.47).
    public static let testUnitReadyBlock = [UInt8](repeating: 0, count: 16)
    /// READ CAPACITY (16) (SBC-3 section 5.16) with room for its 32 octets.
    public static let readCapacityBlock: [UInt8] = [
        0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0,
    ]

    /// READ (16) (SBC-3 section 5.13).
    public static func readBlocks(start: UInt64, count: UInt32) -> [UInt8] {
        block(0x88, flags: 0, start: start, count: UInt64(count))
    }

    /// WRITE (16) (SBC-3 section 5).
    public static func writeBlocks(
        start: UInt64, count: UInt32, forcesUnitAccess: Bool
    ) -> [UInt8] {
        block(0x8a, flags: forcesUnitAccess ? 0x08 : 0, start: start, count: UInt64(count))
    }

    // SBC-3 section 5: the forms of a command have the same flags in octet 1, except for bit 0. That is obsolete
    // (RELADR) in those of 10 and 12 octets, but NDOB in WRITE SAME (16): "no data". It must not get there. So it
    // is with the bits beside the group number, which have a meaning in later 16-octet forms only.
    /// The 16-octet form of a command of blocks, for other blocks: what a member does of it.
    /// - Parameters:
    ///   - cdb: 16 octets: READ, WRITE, WRITE AND VERIFY, VERIFY, WRITE SAME, ORWRITE, PRE-FETCH, SYNCHRONIZE CACHE
    ///     or COMPARE AND WRITE, in any of their forms up to 16 octets. Flags, group number and CONTROL are kept.
    ///   - count: blocks; 0 means what it does in the 16-octet form, which for some is "to the end".
    /// - Returns: nil for other commands, and when the form has no room for the count.
    public static func part(of cdb: [UInt8], start: UInt64, count: UInt64) -> [UInt8]? {
        guard cdb.count >= 16, let code = longForm(cdb[0]) else { return nil }
        guard count <= (code == 0x89 ? 0xff : 0xffff_ffff) else { return nil }
        // SPC-4 section 4.2.5.1: the first three bits are the group, which says the length.
        switch cdb[0] >> 5 {
        case 0:
            // The flags' place is the address's.
            return block(code, flags: 0, start: start, count: count, control: cdb[5])
        case 1, 2:
            return block(
                code, flags: cdb[1] & 0xfe, start: start, count: count, group: cdb[6] & 0x3f,
                control: cdb[9])
        case 4:
            return block(
                code, flags: cdb[1], start: start, count: count, group: cdb[14],
                control: cdb[15])
        case 5:
            return block(
                code, flags: cdb[1] & 0xfe, start: start, count: count, group: cdb[10] & 0x3f,
                control: cdb[11])
        default: return nil
        }
    }

    /// Operation code of the same command with 16 octets.
    private static func longForm(_ code: UInt8) -> UInt8? {
        switch code {
        case 0x08, 0x28, 0xa8, 0x88: return 0x88
        case 0x0a, 0x2a, 0xaa, 0x8a: return 0x8a
        case 0x2e, 0xae, 0x8e: return 0x8e
        case 0x2f, 0xaf, 0x8f: return 0x8f
        case 0x41, 0x93: return 0x93
        case 0x34, 0x90: return 0x90
        case 0x35, 0x91: return 0x91
        case 0x89, 0x8b: return code
        default: return nil
        }
    }

    /// `count` has room: four octets, of which COMPARE AND WRITE uses the last only.
    private static func block(
        _ code: UInt8, flags: UInt8, start: UInt64, count: UInt64, group: UInt8 = 0,
        control: UInt8 = 0
    ) -> [UInt8] {
        var octets = [UInt8](repeating: 0, count: 16)
        octets[0] = code
        octets[1] = flags
        octets.put(start, 8, at: 2)
        octets.put(count, 4, at: 10)
        octets[14] = group
        octets[15] = control
        return octets
    }
}

extension [UInt8] {
    /// A number of `length` octets, up to 8, in network order. Octets that are not there are 0.
    func number(at offset: Int, _ length: Int) -> UInt64 {
        var value: UInt64 = 0
        for place in offset..<offset + length {
            value = value << 8 | (place < count ? UInt64(self[place]) : 0)
        }
        return value
    }

    /// Puts a number's last `length` octets, up to 8, in network order. Those that have no place are left out.
    mutating func put(_ value: UInt64, _ length: Int, at offset: Int) {
        for index in 0..<length where offset + index < count {
            let shift = UInt64(8 * (length - 1 - index))
            self[offset + index] = UInt8(truncatingIfNeeded: value >> shift)
        }
    }
}
