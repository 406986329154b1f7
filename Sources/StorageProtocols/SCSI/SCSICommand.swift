/// What a command descriptor block asks for, as far as one must know it to route, split or answer it (SBC-3 and
/// SPC-4; each case names its section).
public enum SCSICommand: Equatable, Sendable {
    /// Blocks of the unit.
    public struct Range: Equatable, Sendable {
        public var start: UInt64
        public var count: UInt64
        public init(start: UInt64, count: UInt64) {
            self.start = start
            self.count = count
        }
    }

    /// READ (SBC-3 5.8 to 5.11).
    case read(Range, forcesUnitAccess: Bool)
    /// WRITE (SBC-3 5.32 to 5.35).
    case write(Range, forcesUnitAccess: Bool)
    /// WRITE AND VERIFY (SBC-3 5.38 to 5.40). `comparesBytes`: BYTCHK is not 0.
    case writeAndVerify(Range, comparesBytes: Bool)
    /// VERIFY (SBC-3 5.25 to 5.27). `check`: BYTCHK; 0: the medium only, 1: each block is sent, 3: one for all.
    case verify(Range, check: UInt8)
    /// WRITE SAME (SBC-3 5.43, 5.44).
    case writeSame(Range, unmaps: Bool, hasData: Bool)
    /// COMPARE AND WRITE (SBC-3 5.2): `count` blocks to compare and as many to write.
    case compareAndWrite(Range)
    /// ORWRITE (16) (SBC-3 5.5): what is written is the OR of the data and of what was there.
    case orWrite(Range)
    /// UNMAP (SBC-3 5.28): its ranges are in its data.
    case unmap(parameterLength: Int)
    /// SYNCHRONIZE CACHE (SBC-3 5.22, 5.23); a count of 0 means to the end.
    case synchronizeCache(Range)
    /// PRE-FETCH (SBC-3 5.6, 5.7); a count of 0 means to the end.
    case prefetch(Range)
    /// GET LBA STATUS (SBC-3 5.3).
    case logicalBlockStatus(start: UInt64, allocation: Int)
    /// READ CAPACITY (10) (SBC-3 5.12) and (16) (5.13).
    case readCapacity10
    case readCapacity16(allocation: Int)
    /// TEST UNIT READY (SPC-4 6.47).
    case testUnitReady
    /// INQUIRY (SPC-4 6.6). `page`: of vital product data; nil: standard data.
    case inquiry(page: UInt8?, allocation: Int)
    /// REPORT LUNS (SPC-4 6.33).
    case reportUnits(select: UInt8, allocation: Int)
    /// REQUEST SENSE (SPC-4 6.39).
    case requestSense(descriptor: Bool, allocation: Int)
    /// MODE SENSE (6) and (10) (SPC-4 6.11, 6.12).
    case modeSense(page: UInt8, subpage: UInt8, allocation: Int, isLong: Bool)
    /// START STOP UNIT (SBC-3 5.20).
    case startStop
    /// PERSISTENT RESERVE IN and OUT (SPC-4 6.15, 6.16), RESERVE and RELEASE (SPC-2 7.21, 7.27).
    case reservation
    /// REPORT SUPPORTED OPERATION CODES (SPC-4 6.35) and the like: everything else, by its first octet.
    case other(UInt8)

    /// - Parameter cdb: 16 octets, as a SCSI Command PDU carries them (RFC 7143 section 11.3). Octets that a short
    ///   command does not have are not looked at.
    public init(_ cdb: [UInt8]) {
        guard cdb.count >= 16 else {
            self = .other(cdb.first ?? 0xff)
            return
        }
        func number(_ offset: Int, _ length: Int) -> UInt64 {
            cdb[offset..<offset + length].reduce(0) { $0 << 8 | UInt64($1) }
        }
        func short() -> Range {
            // SBC-3 5.8: a transfer length of 0 means 256 blocks here, and here only.
            Range(start: number(1, 3) & 0x1f_ffff, count: cdb[4] == 0 ? 256 : UInt64(cdb[4]))
        }
        func ten() -> Range { Range(start: number(2, 4), count: number(7, 2)) }
        func twelve() -> Range { Range(start: number(2, 4), count: number(6, 4)) }
        func sixteen() -> Range { Range(start: number(2, 8), count: number(10, 4)) }
        let forces = cdb[1] & 0x08 != 0
        let check = cdb[1] >> 1 & 3
        switch cdb[0] {
        case 0x00: self = .testUnitReady
        case 0x03: self = .requestSense(descriptor: cdb[1] & 1 != 0, allocation: Int(cdb[4]))
        case 0x08: self = .read(short(), forcesUnitAccess: false)
        case 0x0a: self = .write(short(), forcesUnitAccess: false)
        case 0x12:
            self = .inquiry(
                page: cdb[1] & 1 != 0 ? cdb[2] : nil, allocation: Int(number(3, 2)))
        case 0x16, 0x17, 0x56, 0x57, 0x5e, 0x5f: self = .reservation
        case 0x1a:
            self = .modeSense(
                page: cdb[2] & 0x3f, subpage: cdb[3], allocation: Int(cdb[4]), isLong: false)
        case 0x1b: self = .startStop
        case 0x25: self = .readCapacity10
        case 0x28: self = .read(ten(), forcesUnitAccess: forces)
        case 0x2a: self = .write(ten(), forcesUnitAccess: forces)
        case 0x2e: self = .writeAndVerify(ten(), comparesBytes: check != 0)
        case 0x2f: self = .verify(ten(), check: check)
        case 0x34: self = .prefetch(ten())
        case 0x35: self = .synchronizeCache(ten())
        case 0x41: self = .writeSame(ten(), unmaps: forces, hasData: true)
        case 0x42: self = .unmap(parameterLength: Int(number(7, 2)))
        case 0x5a:
            self = .modeSense(
                page: cdb[2] & 0x3f, subpage: cdb[3], allocation: Int(number(7, 2)), isLong: true)
        case 0x88: self = .read(sixteen(), forcesUnitAccess: forces)
        case 0x89: self = .compareAndWrite(Range(start: number(2, 8), count: UInt64(cdb[13])))
        case 0x8a: self = .write(sixteen(), forcesUnitAccess: forces)
        case 0x8b: self = .orWrite(sixteen())
        case 0x8e: self = .writeAndVerify(sixteen(), comparesBytes: check != 0)
        case 0x8f: self = .verify(sixteen(), check: check)
        case 0x90: self = .prefetch(sixteen())
        case 0x91: self = .synchronizeCache(sixteen())
        // NDOB (SBC-3 table 139): no data goes with it.
        case 0x93: self = .writeSame(sixteen(), unmaps: forces, hasData: cdb[1] & 1 == 0)
        case 0x9e where cdb[1] & 0x1f == 0x10:
            self = .readCapacity16(allocation: Int(number(10, 4)))
        case 0x9e where cdb[1] & 0x1f == 0x12:
            self = .logicalBlockStatus(start: number(2, 8), allocation: Int(number(10, 4)))
        case 0xa0: self = .reportUnits(select: cdb[2], allocation: Int(number(6, 4)))
        case 0xa8: self = .read(twelve(), forcesUnitAccess: forces)
        case 0xaa: self = .write(twelve(), forcesUnitAccess: forces)
        case 0xae: self = .writeAndVerify(twelve(), comparesBytes: check != 0)
        case 0xaf: self = .verify(twelve(), check: check)
        default: self = .other(cdb[0])
        }
    }
}
