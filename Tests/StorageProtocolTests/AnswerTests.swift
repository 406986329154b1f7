import StorageProtocols
import TestSupport
import Testing

@Suite struct AnswerTests {
    private enum CommandFlags {
        static let none: UInt8 = 0x81
        static let read: UInt8 = 0xc1
        static let write: UInt8 = 0xa1
    }

    /// The header of a SCSI command.
    private func command(expected: UInt32, flags: UInt8 = CommandFlags.read) -> [UInt8] {
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.scsiCommand, flags: flags)
        pdu.initiatorTaskTag = 0x1234_5678
        pdu.setField32(expected, 20)
        pdu.commandSequence = 99
        pdu.expectedStatus = 98
        return pdu.header
    }

    private func residual(_ pdu: ISCSIPDU) -> UInt32 { pdu.field32(44) }

    // MARK: SCSI Response

    @Test func `sense data is behind its length`() {
        let pdu = ISCSIPDU(sense: .unitNotSupported, to: command(expected: 36))
        #expect(
            pdu.encoded()
                == octets(
                    """
                    21820002 00000014 00000000 00000000 12345678 00000000 00000000 00000000
                    00000000 00000000 00000000 00000024
                    00127000 05000000 000a0000 00002500 00000000
                    """))
        #expect(SCSISense(Array(pdu.data.dropFirst(2))) == .unitNotSupported)
    }

    @Test(
        arguments: [
            (0, CommandFlags.none, 0x80), (0, CommandFlags.read, 0x80),
            (512, CommandFlags.read, 0x82), (512, CommandFlags.write, 0x82),
            (UInt32.max, CommandFlags.read, 0x82),
        ] as [(UInt32, UInt8, UInt8)])
    func status(expected: UInt32, flags: UInt8, result: UInt8) {
        for status in [0x08, 0x18, 0x28] as [UInt8] {
            let pdu = ISCSIPDU(status: status, to: command(expected: expected, flags: flags))
            #expect(pdu.opcode == ISCSIOpcode.scsiResponse)
            #expect(pdu.flags == result)
            // Command completed at target.
            #expect(pdu[2] == 0)
            #expect(pdu[3] == status)
            #expect(pdu.initiatorTaskTag == 0x1234_5678)
            #expect(residual(pdu) == expected)
            #expect(pdu.data.isEmpty)
        }
    }

    // MARK: Data-In

    @Test func `all of the data in one PDU, with its status`() throws {
        let answers = ISCSIPDU.data([1, 2, 3, 4, 5], to: command(expected: 5), maximum: 8_192)
        try #require(answers.count == 1)
        #expect(
            answers[0].encoded()
                == octets(
                    """
                    25810000 00000005 00000000 00000000 12345678 ffffffff 00000000 00000000
                    00000000 00000000 00000000 00000000 01020304 05000000
                    """))
    }

    /// Of 36 octets: O when the initiator has less room, U when it expects more.
    @Test(
        arguments: [
            (36, 0x81, 0), (37, 0x83, 1), (255, 0x83, 219), (UInt32.max, 0x83, UInt32.max - 36),
            (35, 0x85, 1), (5, 0x85, 31), (1, 0x85, 35),
        ] as [(UInt32, UInt8, UInt32)])
    func `residual count of data`(expected: UInt32, flags: UInt8, count: UInt32) throws {
        let data = (0..<36).map { UInt8($0) }
        let answers = ISCSIPDU.data(data, to: command(expected: expected), maximum: 512)
        try #require(answers.count == 1)
        #expect(answers[0].opcode == ISCSIOpcode.dataIn)
        #expect(answers[0].flags == flags)
        #expect(answers[0][3] == 0)
        #expect(residual(answers[0]) == count)
        #expect(answers[0].data == Array(data.prefix(Int(expected))))
    }

    @Test(arguments: [
        (1_024, [512, 512]), (1_025, [512, 512, 1]), (1_023, [512, 511]), (512, [512]),
    ])
    func `data that is longer than a data segment`(length: Int, parts: [Int]) throws {
        var random = SplitMix64(seed: 1)
        let data = random.bytes(length)
        // As much as is expected, and less.
        for (expected, flags) in [(length, 0x81), (length + 7, 0x83)] as [(Int, UInt8)] {
            let answers = ISCSIPDU.data(
                data, to: command(expected: UInt32(expected)), maximum: 512)
            #expect(answers.map(\.data.count) == parts)
            let joined: [UInt8] = answers.flatMap { $0.data }
            #expect(joined == data)
            var offset = 0
            for (number, pdu) in answers.enumerated() {
                let isLast = number == parts.count - 1
                #expect(pdu.opcode == ISCSIOpcode.dataIn)
                #expect(pdu.flags == (isLast ? flags : 0))
                #expect(pdu.initiatorTaskTag == 0x1234_5678)
                #expect(pdu.targetTransferTag == ISCSIPDU.reservedTag)
                #expect(pdu.field32(36) == UInt32(number))
                #expect(pdu.field32(40) == UInt32(offset))
                #expect(residual(pdu) == (isLast ? UInt32(expected - length) : 0))
                offset += pdu.data.count
            }
        }
    }

    @Test func `data beyond what is expected is cut before it is divided`() {
        let data = [UInt8](repeating: 7, count: 2_000)
        let answers = ISCSIPDU.data(data, to: command(expected: 1_200), maximum: 1_000)
        #expect(answers.map(\.data.count) == [1_000, 200])
        #expect(answers.map(\.flags) == [0, 0x85])
        #expect(answers.map { residual($0) } == [0, 800])
    }

    /// RFC 7143 section 13.12: every initiator takes 512 octets.
    @Test(arguments: [-1, 0, 1, 511]) func `the least data segment`(maximum: Int) {
        let data = [UInt8](repeating: 7, count: 600)
        let answers = ISCSIPDU.data(data, to: command(expected: 600), maximum: maximum)
        #expect(answers.map(\.data.count) == [512, 88])
    }

    @Test(arguments: [(0, 0x80, 0), (96, 0x82, 96)] as [(UInt32, UInt8, UInt32)])
    func `no data at all`(expected: UInt32, flags: UInt8, count: UInt32) throws {
        let answers = ISCSIPDU.data([], to: command(expected: expected), maximum: 512)
        try #require(answers.count == 1)
        #expect(answers[0].opcode == ISCSIOpcode.scsiResponse)
        #expect(answers[0].flags == flags)
        #expect(residual(answers[0]) == count)
    }

    @Test func `no room for data`() throws {
        let answers = ISCSIPDU.data([1, 2, 3], to: command(expected: 0), maximum: 512)
        try #require(answers.count == 1)
        #expect(answers[0].opcode == ISCSIOpcode.scsiResponse)
        #expect(answers[0].flags == 0x84)
        #expect(residual(answers[0]) == 3)
        #expect(answers[0].data.isEmpty)
    }

    @Test(arguments: [CommandFlags.none, CommandFlags.write])
    func `a command that reads nothing gets no data`(flags: UInt8) throws {
        for expected in [0, 36] as [UInt32] {
            let answers = ISCSIPDU.data(
                [1, 2, 3], to: command(expected: expected, flags: flags), maximum: 512)
            try #require(answers.count == 1)
            #expect(answers[0].opcode == ISCSIOpcode.scsiResponse)
            #expect(answers[0][3] == 0)
            #expect(answers[0].initiatorTaskTag == 0x1234_5678)
            #expect(answers[0].data.isEmpty)
        }
    }
}
