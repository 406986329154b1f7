import ControlPlane
import DataPlane
import StorageProtocols
import TestSupport
import Testing

@Suite struct ISCSILegDifferenceTests {
    private static let clientUnit = SCSIUnitNumber.octets(300)
    private static let serverUnit = SCSIUnitNumber.octets(1)
    private static let unit: (client: UInt64, server: UInt64) = (
        0x412c_0000_0000_0000, 0x0001_0000_0000_0000
    )

    /// The leg to a server that expects `next`; the client uses its numbers for other servers too.
    private func assigning(from next: UInt32) -> ISCSILegDifference {
        var difference = ISCSILegDifference()
        difference.assignsCommands = true
        difference.begin(nextCommand: next)
        return difference
    }

    private func pdu(
        _ opcode: UInt8, isImmediate: Bool = false, unit: [UInt8] = [],
        words: [Int: UInt32] = [:]
    ) -> ISCSIPDU {
        var pdu = ISCSIPDU(opcode: opcode, isImmediate: isImmediate)
        for (index, octet) in unit.enumerated() { pdu[8 + index] = octet }
        for (offset, value) in words { pdu.setField32(value, offset) }
        return pdu
    }

    private func command(_ number: UInt32, isImmediate: Bool = false) -> [UInt8] {
        pdu(ISCSIOpcode.scsiCommand, isImmediate: isImmediate, words: [24: number]).header
    }

    /// RFC 7143 section 11.5: RefCmdSN is at octet 32.
    private func abort(_ reference: UInt32, number: UInt32) -> [UInt8] {
        pdu(
            ISCSIOpcode.taskManagement, isImmediate: true, words: [24: number, 32: reference]
        ).header
    }

    /// What the server gets.
    private func pass(_ header: [UInt8], _ difference: inout ISCSILegDifference) -> [UInt8] {
        var octets = header
        difference.assign(header)
        difference.toServer(&octets)
        return octets
    }

    // MARK: Commands

    @Test(arguments: [1_000, UInt32.max - 1])
    func `commands get consecutive numbers although the client's have gaps`(next: UInt32) {
        var difference = assigning(from: next)
        let numbers: [UInt32] = [5, 6, 9, 100, UInt32.max, 3]
        for (index, number) in numbers.enumerated() {
            let octets = pass(command(number), &difference)
            #expect(octets.field32(24) == next &+ UInt32(index))
        }
        #expect(difference.nextCommand == next &+ 6)
    }

    @Test func `an immediate command carries the next number and does not use it up`() {
        var difference = assigning(from: 1_000)
        let sent: [(number: UInt32, isImmediate: Bool, result: UInt32)] = [
            (7, true, 1_000), (7, true, 1_000), (7, false, 1_000), (20, true, 1_001),
            (20, false, 1_001), (21, false, 1_002),
        ]
        for (number, isImmediate, result) in sent {
            let octets = pass(command(number, isImmediate: isImmediate), &difference)
            #expect(octets.field32(24) == result)
            #expect(octets[0] & 0x40 == (isImmediate ? 0x40 : 0))
        }
        #expect(difference.nextCommand == 1_003)
    }

    @Test(arguments: [ISCSIOpcode.dataOut, ISCSIOpcode.snack])
    func `what has no CmdSN gets none`(opcode: UInt8) {
        var difference = assigning(from: 1_000)
        difference.status = 70
        _ = pass(command(5), &difference)
        let octets = pass(pdu(opcode, words: [24: 0xdead_beef, 28: 30]).header, &difference)
        #expect(octets.field32(24) == 0xdead_beef)
        #expect(octets.field32(28) == 100)
        #expect(difference.nextCommand == 1_001)
    }

    @Test func `without other servers the difference is a constant`() {
        var difference = ISCSILegDifference()
        difference.begin(nextCommand: 1_000)
        difference.command = 100
        difference.status = 0 &- 10
        for number in [5, 9, UInt32.max] {
            let request = pdu(ISCSIOpcode.scsiCommand, words: [24: number, 28: number]).header
            let octets = pass(request, &difference)
            #expect(octets.field32(24) == number &+ 100)
            #expect(octets.field32(28) == number &- 10)
        }
        #expect(difference.nextCommand == 1_000)
        let octets = pass(abort(7, number: 10), &difference)
        #expect(octets.field32(24) == 110)
        #expect(octets.field32(32) == 107)
    }

    // MARK: The window

    @Test(arguments: [10, UInt32.max - 5, UInt32.max - 2, UInt32.max])
    func `the window is full behind the last command that the server takes`(next: UInt32) {
        var difference = assigning(from: next)
        difference.maximumCommand = next &+ 3
        for number in 0..<4 as Range<UInt32> {
            #expect(!difference.isWindowFull)
            difference.assign(command(number * 5))
        }
        #expect(difference.isWindowFull)
        // A number that is not used up needs no room.
        difference.assign(command(20, isImmediate: true))
        #expect(difference.isWindowFull)
        difference.noteWindow(pdu(ISCSIOpcode.scsiResponse, words: [32: next &+ 4]).header)
        #expect(!difference.isWindowFull)
        difference.assign(command(21))
        #expect(difference.isWindowFull)
        // The client keeps the server's window itself when the numbers are its own.
        difference.assignsCommands = false
        #expect(!difference.isWindowFull)
    }

    @Test func `the window only grows`() {
        var difference = assigning(from: UInt32.max - 3)
        difference.maximumCommand = UInt32.max - 2
        let told: [(maximum: UInt32, kept: UInt32)] = [
            (UInt32.max - 3, UInt32.max - 2), (UInt32.max, UInt32.max),
            (UInt32.max - 1, UInt32.max), (2, 2), (UInt32.max, 2), (0, 2), (2, 2), (3, 3),
        ]
        for (maximum, kept) in told {
            difference.noteWindow(pdu(ISCSIOpcode.nopIn, words: [32: maximum]).header)
            #expect(difference.maximumCommand == kept)
        }
    }

    // MARK: Task management

    @Test func `RefCmdSN is what the server knows the task by`() {
        var difference = assigning(from: 1_000)
        for number in [10, 15, 20] as [UInt32] { difference.assign(command(number)) }
        for (reference, known) in [(10, 1_000), (15, 1_001), (20, 1_002)] as [(UInt32, UInt32)] {
            let octets = pass(abort(reference, number: 21), &difference)
            #expect(octets.field32(24) == 1_003)
            #expect(octets.field32(32) == known)
        }
        // 1003 - 21 further on.
        let unknown = pass(abort(12, number: 21), &difference)
        #expect(unknown.field32(32) == 994)
    }

    /// RFC 7143 section 11.5.5: of an immediate task RefCmdSN is the CmdSN of the request itself.
    @Test func `RefCmdSN of an immediate task stays the request's own CmdSN`() {
        var difference = assigning(from: 1_000)
        for number in [10, 15] as [UInt32] { difference.assign(command(number)) }
        let octets = pass(abort(33, number: 33), &difference)
        #expect(octets.field32(24) == 1_002)
        #expect(octets.field32(32) == 1_002)
    }

    @Test func `another server has not had the commands`() {
        var difference = assigning(from: 1_000)
        difference.assign(command(15))
        difference.begin(nextCommand: 5_000)
        let octets = pass(abort(15, number: 21), &difference)
        #expect(octets.field32(24) == 5_000)
        #expect(octets.field32(32) == 4_994)
    }

    /// As many as a client may have open (`ISCSIPortal.allUnitsWindow`), with a gap behind each.
    @Test func `the newest commands are known`() {
        var difference = assigning(from: 5_000)
        let count: UInt32 = 300
        for index in 0..<count { difference.assign(command(2 * index + 1)) }
        for index in count - 128..<count {
            let octets = pass(abort(2 * index + 1, number: 2 * count + 1), &difference)
            #expect(octets.field32(32) == 5_000 + index)
        }
    }

    /// The recovery gives out StatSN and units itself, and finds the tasks that it sends again.
    @Test func `in a recovery commands are numbered and nothing else`() {
        var difference = assigning(from: 1_000)
        difference.status = 50
        difference.unit = Self.unit
        let request = pdu(
            ISCSIOpcode.scsiCommand, unit: Self.clientUnit, words: [24: 10, 28: 3, 32: 77])
        let numbered = difference.numbered(request)
        var expected = request
        expected.commandSequence = 1_000
        #expect(numbered == expected)
        let data = pdu(ISCSIOpcode.dataOut, unit: Self.clientUnit, words: [24: 10, 28: 3])
        let same = difference.numbered(data)
        #expect(same == data)
        for (reference, known) in [(10, 1_000), (11, 11)] as [(UInt32, UInt32)] {
            let management = pdu(
                ISCSIOpcode.taskManagement, isImmediate: true, words: [24: 12, 32: reference])
            let result = difference.numbered(management)
            #expect(result.commandSequence == 1_001)
            #expect(result.field32(32) == known)
        }
    }

    // MARK: Towards the client

    @Test(arguments: [(30, 20), (5, 7), (0, 0)] as [(UInt32, UInt32)])
    func `the differences are taken off the server's numbers`(command: UInt32, status: UInt32) {
        var difference = ISCSILegDifference()
        difference.command = command
        difference.status = status
        for opcode in [
            ISCSIOpcode.scsiResponse, ISCSIOpcode.dataIn, ISCSIOpcode.readyToTransfer,
            ISCSIOpcode.nopIn,
        ] {
            let answer = pdu(opcode, words: [20: 1, 24: 10, 28: 11, 32: 12, 36: 13])
            var octets = answer.header
            difference.toClient(&octets)
            var expected = answer
            expected.statusSequence = 10 &- status
            expected.expectedCommand = 11 &- command
            expected.maximumCommand = 12 &- command
            #expect(octets == expected.header)
        }
    }

    // MARK: Units

    @Test(arguments: [
        (ISCSIOpcode.scsiCommand, true), (ISCSIOpcode.taskManagement, true),
        (ISCSIOpcode.dataOut, true), (ISCSIOpcode.nopOut, false), (ISCSIOpcode.text, false),
        (ISCSIOpcode.snack, false),
    ])
    func `LUN towards the server`(opcode: UInt8, isTranslated: Bool) {
        var difference = ISCSILegDifference()
        difference.unit = Self.unit
        for isImmediate in [false, true] {
            let request = pdu(opcode, isImmediate: isImmediate, unit: Self.clientUnit).header
            let expected = pdu(
                opcode, isImmediate: isImmediate,
                unit: isTranslated ? Self.serverUnit : Self.clientUnit
            ).header
            var octets = request
            difference.toServer(&octets)
            #expect(octets == expected)
            octets = request
            difference.unitToServer(&octets)
            #expect(octets == expected)
        }
        // Reserved, or of nobody: as it came.
        for number in [0, 1, 5] {
            let request = pdu(opcode, unit: SCSIUnitNumber.octets(number)).header
            var octets = request
            difference.toServer(&octets)
            #expect(octets == request)
        }
    }

    @Test(arguments: [
        (ISCSIOpcode.readyToTransfer, true), (ISCSIOpcode.asyncMessage, true),
        (ISCSIOpcode.nopIn, false), (ISCSIOpcode.dataIn, false),
        (ISCSIOpcode.scsiResponse, false),
    ])
    func `LUN towards the client`(opcode: UInt8, isTranslated: Bool) {
        var difference = ISCSILegDifference()
        difference.unit = Self.unit
        let answer = pdu(opcode, unit: Self.serverUnit).header
        let expected = pdu(
            opcode, unit: isTranslated ? Self.clientUnit : Self.serverUnit
        ).header
        var octets = answer
        difference.toClient(&octets)
        #expect(octets == expected)
        octets = answer
        difference.unitToClient(&octets)
        #expect(octets == expected)
        let other = pdu(opcode, unit: SCSIUnitNumber.octets(5)).header
        octets = other
        difference.toClient(&octets)
        #expect(octets == other)
    }

    // MARK: In the dataplane

    @Test func `no difference, no edits`() {
        let difference = ISCSILegDifference()
        #expect(difference.clientEdits.isEmpty)
        #expect(difference.serverEdits.isEmpty)
    }

    /// The header as the dataplane sends it on.
    private func splice(_ header: [UInt8], _ edits: [MessageEdit]) -> [UInt8] {
        #expect(edits.count <= MessageTracker.editMaximum)
        var octets = header
        let count = octets.count
        var delta = PayloadDelta()
        var tracker = MessageTracker(
            .iscsi, edits: edits, holdKinds: 0, nextHeader: SequenceNumber(0), ringCapacity: 16)
        let verdict = octets.withUnsafeMutableBytes { buffer in
            buffer.baseAddress.map {
                tracker.inspect(
                    payload: $0, length: count, sequence: SequenceNumber(0), delta: &delta)
            }
        }
        #expect(verdict == .forward)
        return octets
    }

    /// Without additional headers and data. `unit`: of the leg that it comes from.
    private func randomHeader(
        _ opcode: UInt8, unit: UInt64?, _ random: inout SplitMix64
    ) -> [UInt8] {
        var octets = random.bytes(ISCSIPDU.headerLength)
        octets[0] = opcode | (random.below(2) == 0 ? 0x40 : 0)
        octets.replaceSubrange(4..<8, with: bigEndian32(0))
        if let unit {
            octets.replaceSubrange(
                8..<16,
                with: bigEndian32(UInt32(unit >> 32))
                    + bigEndian32(UInt32(truncatingIfNeeded: unit)))
        }
        return octets
    }

    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func `the dataplane gives the same octets`(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        for _ in 0..<50 {
            var difference = ISCSILegDifference()
            if random.below(4) > 0 {
                difference.command = UInt32(truncatingIfNeeded: random.next())
            }
            if random.below(4) > 0 {
                difference.status = UInt32(truncatingIfNeeded: random.next())
            }
            if random.below(2) > 0 {
                difference.unit = (client: random.next(), server: random.next())
            }
            for opcode in [ISCSIOpcode.scsiCommand, ISCSIOpcode.dataOut, ISCSIOpcode.nopOut] {
                let header = randomHeader(opcode, unit: difference.unit?.client, &random)
                var octets = header
                difference.toServer(&octets)
                let spliced = splice(header, difference.clientEdits)
                #expect(spliced == octets, "\(difference)")
            }
            for opcode in [
                ISCSIOpcode.readyToTransfer, ISCSIOpcode.dataIn, ISCSIOpcode.scsiResponse,
                ISCSIOpcode.nopIn,
            ] {
                let header = randomHeader(opcode, unit: difference.unit?.server, &random)
                var octets = header
                difference.toClient(&octets)
                let spliced = splice(header, difference.serverEdits)
                #expect(spliced == octets, "\(difference)")
            }
        }
    }
}
