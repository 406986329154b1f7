import StorageProtocols
import TestSupport
import Testing

@Suite struct SCSICommandTests {
    private static func cdb(_ octets: UInt8...) -> [UInt8] {
        octets + [UInt8](repeating: 0, count: 16 - octets.count)
    }
    private static func range(_ start: UInt64, _ count: UInt64) -> SCSICommand.Range {
        SCSICommand.Range(start: start, count: count)
    }

    /// Examples by the tables of SBC-3 section 5 and SPC-4 section 6.
    @Test(arguments: [
        (cdb(0x00), SCSICommand.testUnitReady),
        (cdb(0x08, 0xff, 0xff, 0xff, 0), .read(range(0x1f_ffff, 256), forcesUnitAccess: false)),
        (cdb(0x0a, 0, 0, 7, 9), .write(range(7, 9), forcesUnitAccess: false)),
        (
            cdb(0x28, 0x08, 1, 2, 3, 4, 0, 5, 6),
            .read(range(0x0102_0304, 0x0506), forcesUnitAccess: true)
        ),
        (cdb(0x28, 0, 0, 0, 0, 9), .read(range(9, 0), forcesUnitAccess: false)),
        (cdb(0x2a, 0, 0, 0, 0, 9, 0, 1, 0), .write(range(9, 256), forcesUnitAccess: false)),
        (cdb(0xa8, 0, 0, 0, 0, 1, 0, 0, 1, 0), .read(range(1, 256), forcesUnitAccess: false)),
        (cdb(0xaa, 8, 0, 0, 0, 1, 0, 0, 0, 2), .write(range(1, 2), forcesUnitAccess: true)),
        (
            cdb(0x88, 0, 1, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 0),
            .read(range(1 << 56 | 2, 65_536), forcesUnitAccess: false)
        ),
        (
            cdb(0x8a, 8, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1),
            .write(range(2, 1), forcesUnitAccess: true)
        ),
        (cdb(0x2e, 2, 0, 0, 0, 3, 0, 0, 4), .writeAndVerify(range(3, 4), comparesBytes: true)),
        (cdb(0x2f, 6, 0, 0, 0, 3, 0, 0, 4), .verify(range(3, 4), check: 3)),
        (cdb(0x35), .synchronizeCache(range(0, 0))),
        (cdb(0x41, 8, 0, 0, 0, 3, 0, 0, 4), .writeSame(range(3, 4), unmaps: true, hasData: true)),
        (
            cdb(0x93, 1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4),
            .writeSame(range(3, 4), unmaps: false, hasData: false)
        ),
        (cdb(0x89, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1), .compareAndWrite(range(3, 1))),
        (cdb(0x42, 0, 0, 0, 0, 0, 0, 0, 24), .unmap(parameterLength: 24)),
        (cdb(0x12, 1, 0x83, 1, 0), .inquiry(page: 0x83, allocation: 256)),
        (cdb(0x12, 0, 0, 0, 36), .inquiry(page: nil, allocation: 36)),
        (cdb(0xa0, 0, 2, 0, 0, 0, 0, 0, 1, 0), .reportUnits(select: 2, allocation: 256)),
        (cdb(0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32), .readCapacity16(allocation: 32)),
        (cdb(0x9e, 0x11), .other(0x9e)),
        (
            cdb(0x1a, 0, 0x08, 0, 192),
            .modeSense(page: 8, subpage: 0, allocation: 192, isLong: false)
        ),
        (cdb(0x5f, 1), .reservation), (cdb(0xc1), .other(0xc1)),
    ])
    func commands(cdb: [UInt8], command: SCSICommand) {
        #expect(SCSICommand(cdb) == command)
    }

    @Test func anything() {
        var random = SplitMix64(seed: 1)
        for _ in 0..<20_000 { _ = SCSICommand(random.bytes(random.below(20))) }
        #expect(SCSICommand([]) == .other(0xff))
    }

    @Test func unitNumbers() {
        for number in [0, 1, 255, 256, 1_000, SCSIUnitNumber.maximum] {
            #expect(SCSIUnitNumber.number(SCSIUnitNumber.octets(number)) == number)
        }
        #expect(SCSIUnitNumber.octets(6) == [0, 6, 0, 0, 0, 0, 0, 0])
        #expect(SCSIUnitNumber.octets(256) == [0x41, 0, 0, 0, 0, 0, 0, 0])
        // Flat space addressing of a small number names the same unit.
        #expect(SCSIUnitNumber.number([0x40, 6, 0, 0, 0, 0, 0, 0]) == 6)
        for octets in [
            [1, 6, 0, 0, 0, 0, 0, 0], [0, 6, 0, 1, 0, 0, 0, 0], [0xc1, 1, 0, 0, 0, 0, 0, 0], [0],
        ] as [[UInt8]] {
            #expect(SCSIUnitNumber.number(octets) == nil)
        }
    }

    @Test func senseBothWays() throws {
        for sense in [SCSISense.miscompare, .outOfRange, SCSISense(3, 0x11, 0, information: 77)] {
            #expect(SCSISense(sense.fixed) == sense)
            #expect(SCSISense(sense.descriptors) == sense)
            #expect(sense.fixed.count == 18)
        }
        let far = SCSISense(3, 0x11, 0, information: 1 << 40)
        #expect(SCSISense(far.fixed)?.information == nil)
        #expect(SCSISense(far.descriptors) == far)
        var random = SplitMix64(seed: 2)
        for _ in 0..<20_000 {
            var octets = random.bytes(random.below(40))
            if !octets.isEmpty { octets[0] = 0x70 + UInt8(random.below(4)) }
            _ = SCSISense(octets)
        }
    }
}

@Suite struct SCSITargetUnitsTests {
    private static let inquiry = SCSICommand.inquiry(page: nil, allocation: 36)
    private static let report = SCSICommand.reportUnits(select: 0, allocation: 512)

    @Test func inventory() {
        var units = SCSITargetUnits(units: [1, 2, 300])
        for place in [0, 1, 300] {
            #expect(
                units.answer(Self.report, unit: place)
                    == .good(
                        [0, 0, 0, 24, 0, 0, 0, 0] + [0, 1, 0, 0, 0, 0, 0, 0]
                            + [0, 2, 0, 0, 0, 0, 0, 0] + [0x41, 0x2c, 0, 0, 0, 0, 0, 0]))
        }
        #expect(units.answer(Self.report, unit: 3) == .check(.unitNotSupported))
        #expect(units.answer(Self.report, unit: nil) == .check(.unitNotSupported))
        #expect(
            units.answer(.reportUnits(select: 0, allocation: 16), unit: 0)
                == .good([0, 0, 0, 24, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]))
        #expect(
            units.answer(.reportUnits(select: 1, allocation: 16), unit: 0)
                == .good([UInt8](repeating: 0, count: 8)))
        #expect(
            units.answer(.reportUnits(select: 0, allocation: 15), unit: 0)
                == .check(.invalidField))
        #expect(
            units.answer(.reportUnits(select: 9, allocation: 16), unit: 0)
                == .check(.invalidField))
    }

    @Test func unitsThatAreNotThere() {
        var units = SCSITargetUnits(units: [1])
        #expect(units.answer(.testUnitReady, unit: 1) == .unit(1))
        #expect(units.answer(.testUnitReady, unit: 0) == .check(.unitNotSupported))
        guard case .good(let first) = units.answer(Self.inquiry, unit: 0),
            case .good(let none) = units.answer(Self.inquiry, unit: 9)
        else {
            Issue.record("no inquiry data")
            return
        }
        #expect(first[0] == 0x3f && none[0] == 0x7f && first.count == 36)
        #expect(
            units.answer(.inquiry(page: 0x83, allocation: 255), unit: 9)
                == .check(.unitNotSupported))
        guard
            case .good(let sense) = units.answer(
                .requestSense(descriptor: false, allocation: 18), unit: 9)
        else {
            Issue.record("no sense data")
            return
        }
        #expect(SCSISense(sense) == .unitNotSupported)
    }

    /// Each unit says once that the inventory has changed; REPORT LUNS makes them all silent.
    @Test func changes() {
        var units = SCSITargetUnits(units: [1, 2])
        units.change(to: [1, 2])
        #expect(units.answer(.testUnitReady, unit: 1) == .unit(1))
        units.change(to: [1, 2, 3])
        #expect(units.answer(Self.inquiry, unit: 1) == .unit(1))
        #expect(units.answer(.testUnitReady, unit: 1) == .check(.reportedUnitsChanged))
        #expect(units.answer(.testUnitReady, unit: 1) == .unit(1))
        guard
            case .good(let sense) = units.answer(
                .requestSense(descriptor: true, allocation: 252), unit: 2)
        else {
            Issue.record("no sense data")
            return
        }
        #expect(SCSISense(sense) == .reportedUnitsChanged)
        #expect(units.answer(.testUnitReady, unit: 2) == .unit(2))
        _ = units.answer(Self.report, unit: 0)
        #expect(units.answer(.testUnitReady, unit: 3) == .unit(3))
        units.change(to: [2])
        #expect(units.answer(.testUnitReady, unit: 1) == .check(.unitNotSupported))
        #expect(units.answer(.testUnitReady, unit: 2) == .check(.reportedUnitsChanged))
    }
}
