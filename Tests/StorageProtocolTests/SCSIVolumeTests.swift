import StorageProtocols
import TestSupport
import Testing

private func zeros(_ count: Int) -> [UInt8] { [UInt8](repeating: 0, count: count) }

@Suite struct SCSIBlockCommandTests {
    /// A command whose unused octets are not 0.
    private static func cdb(_ octets: UInt8...) -> [UInt8] {
        octets + [UInt8](repeating: 0xee, count: 16 - octets.count)
    }
    private static let start: UInt64 = 0x0102_0304_0506_0708
    private static let count: UInt64 = 0x090a_0b0c
    /// Octets 2 to 13 of every part below.
    private static let place: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0x0a, 0x0b, 0x0c]

    /// Commands, each with octets 0, 1, 14 and 15 of its part.
    private static let transfers: [([UInt8], [UInt8])] = [
        (cdb(0x08, 0x1f, 0xff, 0xff, 0x10, 0x44), [0x88, 0, 0, 0x44]),
        (cdb(0x28, 0xfa, 9, 9, 9, 9, 0x15, 9, 9, 0x80), [0x88, 0xfa, 0x15, 0x80]),
        (cdb(0xa8, 0xb8, 9, 9, 9, 9, 9, 9, 9, 9, 0x1f, 0x40), [0x88, 0xb8, 0x1f, 0x40]),
        (cdb(0x88, 0xff, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 0xdf, 1), [0x88, 0xff, 0xdf, 1]),
        (cdb(0x0a, 0x08, 0, 7, 0, 4), [0x8a, 0, 0, 4]),
        (cdb(0x2a, 0x38, 9, 9, 9, 9, 3, 9, 9, 0), [0x8a, 0x38, 3, 0]),
        (cdb(0xaa, 0x10, 9, 9, 9, 9, 9, 9, 9, 9, 0, 2), [0x8a, 0x10, 0, 2]),
        (cdb(0x8a, 8, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 4, 5), [0x8a, 8, 4, 5]),
        (cdb(0x2e, 0x16, 9, 9, 9, 9, 1, 9, 9, 2), [0x8e, 0x16, 1, 2]),
        (cdb(0xae, 2, 9, 9, 9, 9, 9, 9, 9, 9, 1, 2), [0x8e, 2, 1, 2]),
        (cdb(0x8e, 4, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 1, 2), [0x8e, 4, 1, 2]),
        (cdb(0x2f, 0x36, 9, 9, 9, 9, 6, 9, 9, 7), [0x8f, 0x36, 6, 7]),
        (cdb(0xaf, 6, 9, 9, 9, 9, 9, 9, 9, 9, 6, 7), [0x8f, 6, 6, 7]),
        (cdb(0x8f, 2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 6, 7), [0x8f, 2, 6, 7]),
    ]
    private static let others: [([UInt8], [UInt8])] = [
        // ANCHOR and UNMAP stay. Bit 0 of the short form must not become NDOB; that of the long one is it.
        (cdb(0x41, 0x19, 9, 9, 9, 9, 5, 9, 9, 6), [0x93, 0x18, 5, 6]),
        (cdb(0x93, 0x09, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 5, 6), [0x93, 9, 5, 6]),
        (cdb(0x8b, 0xf8, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 5, 6), [0x8b, 0xf8, 5, 6]),
        // IMMED.
        (cdb(0x34, 2, 9, 9, 9, 9, 5, 9, 9, 6), [0x90, 2, 5, 6]),
        (cdb(0x90, 2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 5, 6), [0x90, 2, 5, 6]),
        (cdb(0x35, 2, 9, 9, 9, 9, 5, 9, 9, 6), [0x91, 2, 5, 6]),
        (cdb(0x91, 2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 5, 6), [0x91, 2, 5, 6]),
        // Reserved bits beside the group number.
        (cdb(0x28, 0, 9, 9, 9, 9, 0xc1, 9, 9, 0), [0x88, 0, 1, 0]),
        (cdb(0xa8, 0, 9, 9, 9, 9, 9, 9, 9, 9, 0x81, 0), [0x88, 0, 1, 0]),
    ]

    private static func block(_ ends: [UInt8]) -> [UInt8] {
        Array(ends[..<2]) + place + Array(ends[2...])
    }

    @Test func parts() {
        for (cdb, ends) in Self.transfers + Self.others {
            let part = SCSICommand.part(of: cdb, start: Self.start, count: Self.count)
            #expect(part == Self.block(ends), "\(cdb)")
        }
    }

    @Test func compareAndWrite() {
        let cdb = Self.cdb(0x89, 0xf8, 9, 9, 9, 9, 9, 9, 9, 9, 0, 0, 0, 1, 0x11, 0x22)
        let part = Self.cdb(0x89, 0xf8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0xff, 0x11, 0x22)
        #expect(SCSICommand.part(of: cdb, start: Self.start, count: 255) == part)
        #expect(SCSICommand.part(of: cdb, start: Self.start, count: 256) == nil)
    }

    @Test func bounds() {
        let read = Self.cdb(0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        let last: [UInt8] = [0x88, 0] + [UInt8](repeating: 0xff, count: 12) + [0, 0]
        let empty: [UInt8] = [0x88] + zeros(15)
        #expect(SCSICommand.part(of: read, start: .max, count: 0xffff_ffff) == last)
        #expect(SCSICommand.part(of: read, start: 0, count: 0x1_0000_0000) == nil)
        #expect(SCSICommand.part(of: read, start: 0, count: 0) == empty)
        #expect(SCSICommand.part(of: Array(read.prefix(15)), start: 0, count: 1) == nil)
        #expect(SCSICommand.part(of: [], start: 0, count: 1) == nil)
    }

    /// Only commands of blocks have parts, and a part is the same kind of command.
    @Test func kinds() throws {
        let known: Set<UInt8> = [
            0x08, 0x0a, 0x28, 0x2a, 0x2e, 0x2f, 0x34, 0x35, 0x41, 0x88, 0x89, 0x8a, 0x8b, 0x8e,
            0x8f, 0x90, 0x91, 0x93, 0xa8, 0xaa, 0xae, 0xaf,
        ]
        for code in UInt8.min...UInt8.max {
            let part = SCSICommand.part(of: [code] + zeros(15), start: 3, count: 4)
            #expect((part != nil) == known.contains(code), "\(code)")
        }
        let part = SCSICommand.part(of: [0x2a, 0x08] + zeros(14), start: 3, count: 4)
        let write = try #require(part)
        let range = SCSICommand.Range(start: 3, count: 4)
        #expect(SCSICommand(write) == .write(range, forcesUnitAccess: true))
    }

    @Test func ownCommands() {
        let count: UInt32 = 0x090a_0b0c
        let read = SCSICommand.readBlocks(start: Self.start, count: count)
        #expect(read == Self.block([0x88, 0, 0, 0]))
        for (forces, flags) in [(false, 0x00), (true, 0x08)] as [(Bool, UInt8)] {
            let write = SCSICommand.writeBlocks(
                start: Self.start, count: count, forcesUnitAccess: forces)
            #expect(write == Self.block([0x8a, flags, 0, 0]))
        }
        #expect(SCSICommand.testUnitReadyBlock == zeros(16))
        let capacity: [UInt8] = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]
        #expect(SCSICommand.readCapacityBlock == capacity)
        let orWrite: [UInt8] = [0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0]
        #expect(SCSICommand(orWrite) == .orWrite(SCSICommand.Range(start: 3, count: 4)))
    }
}

@Suite struct SCSIUnmapTests {
    private static func range(_ start: UInt64, _ count: UInt64) -> SCSICommand.Range {
        SCSICommand.Range(start: start, count: count)
    }
    /// Descriptors (SBC-3 section 5.28.2): address, blocks, reserved.
    private static let first: [UInt8] = [
        0, 0, 0, 0, 0x12, 0x34, 0x56, 0x77, 0, 0, 0, 1, 0, 0, 0, 0,
    ]
    private static let second: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8, 0x80, 0, 0, 2, 0, 0, 0, 0]
    private static let both = [range(0x1234_5677, 1), range(0x0102_0304_0506_0708, 0x8000_0002)]

    @Test func lists() {
        let list: [UInt8] = [0, 38, 0, 32, 0, 0, 0, 0] + Self.first + Self.second
        #expect(SCSIUnmap.ranges(list) == Self.both)
        #expect(SCSIUnmap.parameters(Self.both) == list)
        // Octets behind what the list says are not looked at.
        #expect(SCSIUnmap.ranges(list + [1, 2, 3]) == Self.both)
        // The last descriptor is incomplete.
        let cut = Array(Self.second.dropLast())
        let odd: [UInt8] = [0, 37, 0, 31, 0, 0, 0, 0] + Self.first + cut
        #expect(SCSIUnmap.ranges(odd) == [Self.both[0]])
        // A descriptor of no blocks is no error.
        let empty: [UInt8] = [0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9] + zeros(8)
        #expect(SCSIUnmap.ranges(empty) == [Self.range(9, 0)])
    }

    @Test func listsWithoutRanges() {
        let none: [UInt8] = [0, 6, 0, 0, 0, 0, 0, 0]
        let part: [UInt8] = [0, 21, 0, 15, 0, 0, 0, 0] + zeros(15)
        for list in [[], none, zeros(8), part] {
            #expect(SCSIUnmap.ranges(list)?.isEmpty == true, "\(list)")
        }
        #expect(SCSIUnmap.parameters([]) == none)
        #expect(SCSIUnmap.parameters([Self.range(9, 0)]) == none)
    }

    @Test func malformedLists() {
        // Too short for the header.
        for count in 1..<8 { #expect(SCSIUnmap.ranges(zeros(count)) == nil) }
        // UNMAP DATA LENGTH beyond the list.
        #expect(SCSIUnmap.ranges([0, 23, 0, 16, 0, 0, 0, 0] + Self.first) == nil)
        #expect(SCSIUnmap.ranges([0, 7, 0, 0, 0, 0, 0, 0]) == nil)
        // BLOCK DESCRIPTOR DATA LENGTH beyond the list, and beyond UNMAP DATA LENGTH.
        #expect(SCSIUnmap.ranges([0, 22, 0, 17, 0, 0, 0, 0] + Self.first) == nil)
        #expect(SCSIUnmap.ranges([0, 21, 0, 16, 0, 0, 0, 0] + Self.first) == nil)
        #expect(SCSIUnmap.ranges([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0] + Self.first) == nil)
    }

    @Test func longRanges() {
        var list: [UInt8] = [0, 38, 0, 32, 0, 0, 0, 0]
        list += [0, 0, 0, 0, 0, 0, 0, 0x10, 0x80, 0, 0, 0, 0, 0, 0, 0]
        list += [0, 0, 0, 0, 0x80, 0, 0, 0x10, 0x80, 0, 0, 1, 0, 0, 0, 0]
        #expect(SCSIUnmap.parameters([Self.range(0x10, 0x1_0000_0001)]) == list)
        let most: [UInt8] = [0, 22, 0, 16, 0, 0, 0, 0] + zeros(8) + [0xff, 0xff, 0xff, 0xff]
        #expect(SCSIUnmap.parameters([Self.range(0, 0xffff_ffff)]) == most + zeros(4))
        // 4095 descriptors are all that the lengths can say.
        let bounded = SCSIUnmap.parameters([Self.range(.max, .max), Self.range(1, 1)])
        #expect(bounded.count == 65_528)
        #expect(Array(bounded.prefix(8)) == [0xff, 0xf6, 0xff, 0xf0, 0, 0, 0, 0])
        #expect(SCSIUnmap.ranges(bounded)?.count == 4_095)
    }

    @Test func command() {
        let cdb: [UInt8] = [0x42, 0xff, 1, 2, 3, 4, 0x1f, 0, 24, 0x80, 7, 7, 7, 7, 7, 7]
        let command: [UInt8] = [0x42, 1, 0, 0, 0, 0, 0x1f, 1, 8, 0x80, 0, 0, 0, 0, 0, 0]
        #expect(SCSIUnmap.command(length: 264, from: cdb) == command)
        #expect(SCSICommand(command) == .unmap(parameterLength: 264))
        #expect(SCSIUnmap.command(length: 0, from: []) == [0x42] + zeros(15))
        let longest: [UInt8] = [0x42, 0, 0, 0, 0, 0, 0, 0xff, 0xff] + zeros(7)
        #expect(SCSIUnmap.command(length: 1 << 20, from: []) == longest)
        #expect(SCSIUnmap.command(length: -1, from: []) == [0x42] + zeros(15))
    }
}

@Suite struct SCSIVolumePagesTests {
    private static let volume = SCSIVolumeIdentity(
        name: "foobar", capacity: 0x2345_6789, blockLength: 512, optimalGranularity: 128,
        optimalLength: 512, maximumLength: 0xffff)
    /// Vendor, product and revision of a volume: octets 8 to 35 of standard INQUIRY data.
    private static let names: [UInt8] =
        Array("DSR     ".utf8) + Array("VOLUME          ".utf8) + Array("1   ".utf8)

    @Test func standardInquiry() {
        let versions: [UInt8] = [0x00, 0xa0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xc0] + zeros(8)
        var member: [UInt8] = [0x00, 0x00, 0x06, 0x12, 69, 0xff, 0x50, 0x02]
        member += [UInt8](repeating: 0x41, count: 28)
        // Vendor specific, then CLOCKING, QAS and IUS.
        member += [UInt8](repeating: 0x77, count: 20)
        member += [0x0f, 0x00]
        member += versions
        var expected: [UInt8] = [0x00, 0x00, 0x06, 0x12, 69, 0xc6, 0x50, 0x02]
        expected += Self.names
        expected += zeros(20)
        expected += [0x0f, 0x00]
        expected += versions
        #expect(expected.count == 74)
        #expect(Self.volume.standardInquiry(member) == expected)
        // What comes behind the length that it says is none of it.
        #expect(Self.volume.standardInquiry(member + [1, 2, 3]) == expected)
    }

    @Test func standardInquiryOfOtherLengths() {
        let header: [UInt8] = [0, 0, 5, 0, 31, 0, 0, 0]
        #expect(Self.volume.standardInquiry([0, 0, 5]) == header + Self.names)
        #expect(
            Self.volume.standardInquiry([0, 0, 5, 0, 4, 0, 0, 0, 9, 9]) == header + Self.names)
        let long = Self.volume.standardInquiry([UInt8](repeating: 0xff, count: 400))
        #expect(long.count == 260)
        #expect(long[4] == 255 && long[5] == 0xc6)
        #expect(long[36..<56].allSatisfy { $0 == 0 })
        #expect(long[56..<96].allSatisfy { $0 == 0xff })
        #expect(long[96...].allSatisfy { $0 == 0 })
    }

    @Test func pages() {
        let member: [UInt8] = [0, 0, 0, 8, 0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2, 0xc0]
        let all: [UInt8] = [0, 0, 0, 6, 0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2]
        #expect(Self.volume.pages(member) == all)
        #expect(
            Self.volume.pages([0, 0, 0, 2, 0x00, 0xb2, 0xb0])
                == [0, 0, 0, 4, 0x00, 0x80, 0x83, 0xb2])
        let least: [UInt8] = [0, 0, 0, 3, 0x00, 0x80, 0x83]
        #expect(Self.volume.pages([]) == least)
        #expect(Self.volume.pages([0, 0x83, 0, 3, 0xb0, 0xb1, 0xb2]) == least)
    }

    /// FNV-1a's published values: "a" is af63dc4c8601ec8c, "foobar" 85944171f73967e8.
    @Test func serialNumber() {
        var volume = Self.volume
        #expect(volume.serialNumberPage() == [0, 0x80, 0, 16] + Array("85944171f73967e8".utf8))
        volume.name = "a"
        #expect(volume.serialNumberPage() == [0, 0x80, 0, 16] + Array("af63dc4c8601ec8c".utf8))
        volume.name = "v0"
        #expect(volume.serialNumberPage() == [0, 0x80, 0, 16] + Array("08cf0c07b57092db".utf8))
    }

    @Test func designation() {
        var expected: [UInt8] = [0, 0x83, 0, 30, 0x02, 0x01, 0, 14]
        expected += Array("DSR     foobar".utf8)
        expected += [0x01, 0x03, 0, 8, 0x35, 0x94, 0x41, 0x71, 0xf7, 0x39, 0x67, 0xe8]
        #expect(Self.volume.designationPage() == expected)
        // Two octets of UTF-8 which are not ASCII.
        var volume = Self.volume
        volume.name = "\u{dc}"
        expected = [0, 0x83, 0, 26, 0x02, 0x01, 0, 10]
        expected += Array("DSR     __".utf8)
        expected += [0x01, 0x03, 0, 8, 0x3a, 0xc1, 0xea, 0x07, 0xb7, 0x17, 0xd1, 0x8a]
        #expect(volume.designationPage() == expected)
        volume.name = String(repeating: "x", count: 1_000)
        let long = volume.designationPage()
        #expect(long.count == 4 + 4 + 255 + 12)
        #expect(Array(long.prefix(8)) == [0, 0x83, 0x01, 0x0f, 0x02, 0x01, 0, 255])
    }

    /// A short page, as of SBC-2.
    @Test func limitsOfShortPage() {
        let member: [UInt8] = [0, 0xb0, 0, 0x0c, 0, 1, 0, 8, 0, 0, 0x40, 0, 0, 0, 0x10, 0]
        let expected: [UInt8] = [0, 0xb0, 0, 0x3c, 0, 128, 0, 0x80, 0, 0, 0x40, 0, 0, 0, 2, 0]
        #expect(Self.volume.limitsPage(member) == expected + zeros(48))
        let none: [UInt8] = [0, 0xb0, 0, 0x3c, 0, 128, 0, 0x80, 0, 0, 0xff, 0xff, 0, 0, 2, 0]
        #expect(Self.volume.limitsPage([]) == none + zeros(48))
    }

    @Test func limits() {
        // WSNZ, COMPARE AND WRITE, granularity, transfer lengths; prefetch, unmap, WRITE SAME; atomic writes.
        var member: [UInt8] = [0, 0xb0, 0, 0x3c, 1, 16, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0]
        let kept: [UInt8] = [
            0, 0, 0, 7, 0, 0x10, 0, 0, 0, 0, 0, 4, 0, 0, 0, 8, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0,
            0,
        ]
        member += kept
        member += [UInt8](repeating: 0x55, count: 20)
        #expect(member.count == 64)
        var volume = Self.volume
        var expected: [UInt8] = [
            0, 0xb0, 0, 0x3c, 1, 128, 0, 0x80, 0, 0, 0xff, 0xff, 0, 0, 2, 0,
        ]
        expected += kept
        expected += zeros(20)
        #expect(volume.limitsPage(member) == expected)
        // Not a stripe: the member's granularity, no optimal length.
        volume.optimalGranularity = 0
        volume.optimalLength = 0
        expected.replaceSubrange(4..<16, with: [1, 128, 0, 8, 0, 0, 0xff, 0xff, 0, 0, 0, 0])
        #expect(volume.limitsPage(member) == expected)
        // A chunk that has no room, a row that is more than a transfer.
        volume.optimalGranularity = 0x1_0000
        volume.optimalLength = 0x1_0000
        #expect(volume.limitsPage(member) == expected)
        volume.maximumLength = 0
        expected.replaceSubrange(4..<16, with: [1, 128, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0])
        #expect(volume.limitsPage(member) == expected)
    }

    @Test func vitalData() {
        let volume = Self.volume
        let provisioning: [UInt8] = [0, 0xb2, 0, 4, 9, 0xe0, 2, 0]
        #expect(volume.vitalData(page: 0xb2, member: provisioning) == provisioning)
        #expect(volume.vitalData(page: 0xb2, member: provisioning + [1]) == provisioning)
        #expect(volume.vitalData(page: 0xb1, member: provisioning) == nil)
        #expect(volume.vitalData(page: 0xb2, member: []) == nil)
        let rotation: [UInt8] = [0, 0xb1, 0, 0x3c, 0, 1] + zeros(58)
        #expect(volume.vitalData(page: 0xb1, member: rotation) == rotation)
        #expect(volume.vitalData(page: 0xb0, member: []) == nil)
        #expect(volume.vitalData(page: 0xb0, member: [0, 0xb0, 0, 0])?.count == 64)
        #expect(volume.vitalData(page: 0x00, member: []) == volume.pages([]))
        #expect(volume.vitalData(page: 0x80, member: [])?.count == 20)
        #expect(volume.vitalData(page: 0x83, member: [])?.count == 34)
        for page: UInt8 in [0x01, 0x86, 0x88, 0xb3, 0xc0] {
            #expect(volume.vitalData(page: page, member: [0, page, 0, 0]) == nil)
        }
    }

    @Test func capacities() {
        var volume = Self.volume
        let member: [UInt8] = [
            0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0x10, 0, 0x01, 0x03, 0xc0, 0x08, 5, 5,
        ]
        #expect(volume.capacity10() == [0x23, 0x45, 0x67, 0x88, 0, 0, 2, 0])
        var expected: [UInt8] = [0, 0, 0, 0, 0x23, 0x45, 0x67, 0x88, 0, 0, 2, 0]
        #expect(volume.capacity16(member) == expected + [0, 0x03, 0xc0, 0x08] + zeros(16))
        #expect(volume.capacity16([]) == expected + zeros(20))
        volume.capacity = 0x1_0000_0001
        volume.blockLength = 4_096
        #expect(volume.capacity10() == [0xff, 0xff, 0xff, 0xff, 0, 0, 0x10, 0])
        expected = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x10, 0]
        #expect(volume.capacity16([]) == expected + zeros(20))
        volume.capacity = 0xffff_ffff
        #expect(volume.capacity10() == [0xff, 0xff, 0xff, 0xfe, 0, 0, 0x10, 0])
        volume.capacity = 0
        #expect(volume.capacity10() == [0, 0, 0, 0, 0, 0, 0x10, 0])
    }

    @Test func numbers() {
        let data: [UInt8] = [0, 0, 0, 1, 0, 0, 0x0f, 0xff, 0, 0, 2, 0]
        let found = SCSIVolumeIdentity.number(of: data + zeros(20))
        #expect(found?.capacity == 0x1_0000_1000)
        #expect(found?.blockLength == 512)
        #expect(SCSIVolumeIdentity.number(of: data)?.blockLength == 512)
        #expect(SCSIVolumeIdentity.number(of: Array(data.dropLast()))?.capacity == nil)
        #expect(SCSIVolumeIdentity.number(of: [])?.capacity == nil)
        #expect(SCSIVolumeIdentity.number(of: zeros(32))?.capacity == nil)
        let endless: [UInt8] = [UInt8](repeating: 0xff, count: 8) + [0, 0, 2, 0]
        #expect(SCSIVolumeIdentity.number(of: endless)?.capacity == nil)
    }

    @Test func modeSense() {
        var volume = Self.volume
        let page: [UInt8] = [0x08, 0x0a] + [UInt8](repeating: 0x14, count: 10)
        let member: [UInt8] = [23, 0, 0x10, 8, 0, 0, 0x10, 0, 0, 0, 2, 0] + page
        let expected: [UInt8] = [23, 0, 0x10, 8, 0x23, 0x45, 0x67, 0x89, 0, 0, 2, 0] + page
        #expect(volume.modeSense(member, isLong: false) == expected)
        // Cut in the middle of the number.
        for count in 0..<member.count {
            #expect(
                volume.modeSense(Array(member.prefix(count)), isLong: false)
                    == Array(expected.prefix(count)))
        }
        volume.capacity = 1 << 32
        let far: [UInt8] = [23, 0, 0x10, 8, 0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0] + page
        #expect(volume.modeSense(member, isLong: false) == far)
        // DBD: no descriptors.
        let bare: [UInt8] = [15, 0, 0x10, 0] + page
        #expect(volume.modeSense(bare, isLong: false) == bare)
    }

    @Test func longModeSense() {
        var volume = Self.volume
        let page: [UInt8] = [0x08, 0x0a] + [UInt8](repeating: 0x14, count: 10)
        let short: [UInt8] = [0, 26, 0, 0x10, 0, 0, 0, 8, 0, 0, 0x10, 0, 0, 0, 2, 0] + page
        #expect(
            volume.modeSense(short, isLong: true)
                == [0, 26, 0, 0x10, 0, 0, 0, 8, 0x23, 0x45, 0x67, 0x89, 0, 0, 2, 0] + page)
        volume.capacity = 0x0102_0304_0506_0708
        let header: [UInt8] = [0, 34, 0, 0x10, 1, 0, 0, 16]
        let length: [UInt8] = [0, 0, 0, 0, 0, 0, 0x10, 0]
        let member: [UInt8] = header + [0, 0, 0, 0, 0, 0, 0x10, 0] + length + page
        let expected: [UInt8] = header + [1, 2, 3, 4, 5, 6, 7, 8] + length + page
        #expect(volume.modeSense(member, isLong: true) == expected)
        for count in 0..<member.count {
            #expect(
                volume.modeSense(Array(member.prefix(count)), isLong: true)
                    == Array(expected.prefix(count)))
        }
    }

    @Test func logicalBlockStatus() {
        var member: [UInt8] = [0, 0, 0, 36, 0, 0, 0, 0]
        member += [0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 1, 0, 1, 0, 0, 0]
        member += [0, 0, 0, 0, 0, 0, 0x11, 0, 0, 0, 1, 0, 0, 0, 0, 0]
        func status(_ member: [UInt8], volumeStart: UInt64, maximum: UInt64) -> [UInt8] {
            Self.volume.logicalBlockStatus(
                member, memberStart: 0x1000, volumeStart: volumeStart, maximum: maximum)
        }
        let header: [UInt8] = [0, 0, 0, 20, 0, 0, 0, 0]
        let cut: [UInt8] = [0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0x80, 1, 0, 0, 0]
        #expect(status(member, volumeStart: 0x5_0000, maximum: 0x80) == header + cut)
        let whole: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 1, 0, 1, 0, 0, 0]
        #expect(status(member, volumeStart: 0x10, maximum: .max) == header + whole)
        let none: [UInt8] = [0, 0, 0, 4, 0, 0, 0, 0]
        #expect(status(Array(member.prefix(23)), volumeStart: 0, maximum: 1) == none)
        #expect(status([0, 0, 0, 4] + zeros(20), volumeStart: 0, maximum: 1) == none)
        #expect(status([], volumeStart: 0, maximum: 1) == none)
    }
}

@Suite struct SCSIVolumeAnythingTests {
    /// Lengths in the data are often the large ones, which there is not enough data for.
    private func data(_ random: inout SplitMix64) -> [UInt8] {
        let count = random.below(100)
        var octets = random.bytes(count)
        let pages: [UInt8] = [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2]
        if count > 1, random.below(2) == 0 { octets[1] = pages[random.below(pages.count)] }
        if count > 3, random.below(2) == 0 {
            octets[0] = 0
            octets[2] = 0
            octets[3] = UInt8(random.below(100))
        }
        return octets
    }

    @Test func pages() {
        var random = SplitMix64(seed: 11)
        for _ in 0..<20_000 {
            let volume = SCSIVolumeIdentity(
                name: String(random.next()), capacity: random.next(),
                blockLength: UInt32(truncatingIfNeeded: random.next()),
                optimalGranularity: UInt32(truncatingIfNeeded: random.next()),
                optimalLength: UInt32(truncatingIfNeeded: random.next()),
                maximumLength: UInt32(truncatingIfNeeded: random.next()))
            let member = data(&random)
            let inquiry = volume.standardInquiry(member)
            #expect(inquiry.count == Int(inquiry[4]) + 5 && inquiry.count >= 36)
            for page in [volume.pages(member), volume.limitsPage(member)] {
                #expect(page.count == 4 + Int(page[2]) << 8 + Int(page[3]))
            }
            let code = member.count > 1 ? member[1] : 0
            let vital = volume.vitalData(page: code, member: member)
            #expect(vital.map { $0.count >= 4 } ?? true)
            #expect(volume.capacity16(member).count == 32)
            #expect(volume.modeSense(member, isLong: false).count == member.count)
            #expect(volume.modeSense(member, isLong: true).count == member.count)
            let status = volume.logicalBlockStatus(
                member, memberStart: random.next(), volumeStart: random.next(),
                maximum: random.next())
            #expect(status.count == 4 + Int(status[3]))
            let number = SCSIVolumeIdentity.number(of: member)
            #expect(number == nil || member.count >= 12)
        }
    }

    @Test func commands() {
        var random = SplitMix64(seed: 12)
        for _ in 0..<20_000 {
            let cdb = random.bytes(random.below(20))
            let part = SCSICommand.part(
                of: cdb, start: random.next(), count: random.next() >> UInt64(random.below(64)))
            #expect(part.map { $0.count == 16 && cdb.count >= 16 } ?? true)
            #expect(SCSIUnmap.command(length: random.below(1 << 17), from: cdb).count == 16)
            let list = data(&random)
            if let ranges = SCSIUnmap.ranges(list) {
                #expect(ranges.count * 16 <= max(0, list.count - 8))
                let filled = ranges.filter { $0.count > 0 }
                #expect(SCSIUnmap.ranges(SCSIUnmap.parameters(ranges)) == filled)
            }
        }
    }

    /// However many blocks: what the list says is there, and in order.
    @Test func unmapLists() {
        var random = SplitMix64(seed: 13)
        for _ in 0..<500 {
            let ranges = (0..<random.below(5)).map { _ in
                SCSICommand.Range(
                    start: random.next(), count: random.next() >> UInt64(24 + random.below(40)))
            }
            let list = SCSIUnmap.parameters(ranges)
            #expect(list.count <= 65_528 && list.count % 16 == 8)
            #expect(SCSIUnmap.ranges(list)?.count == (list.count - 8) / 16)
        }
    }
}
