import StorageProtocols
import TestSupport
import Testing

/// The recovery by itself: one PDU in, actions out.
@Suite struct RecoveryTests {
    private static func read(_ tag: UInt32, number: UInt32) -> ISCSIPDU {
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.scsiCommand, flags: 0xc1)
        pdu.initiatorTaskTag = tag
        pdu.commandSequence = number
        pdu[32] = 0x28
        return pdu
    }

    private static func write(
        _ tag: UInt32, number: UInt32, flags: UInt8 = 0xa1, data: [UInt8] = []
    ) -> ISCSIPDU {
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.scsiCommand, flags: flags)
        pdu.initiatorTaskTag = tag
        pdu.commandSequence = number
        pdu[32] = 0x2a
        pdu.data = data
        return pdu
    }

    private static func dataOut(
        _ tag: UInt32, transfer: UInt32 = ISCSIPDU.reservedTag, at offset: UInt32 = 0,
        status: UInt32 = 50, data: [UInt8]
    ) -> ISCSIPDU {
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.dataOut, flags: 0x80)
        pdu.initiatorTaskTag = tag
        pdu.targetTransferTag = transfer
        pdu.expectedStatus = status
        pdu.setField32(offset, 40)
        pdu.data = data
        return pdu
    }

    private static func dataIn(
        _ tag: UInt32, flags: UInt8 = 0x80, at offset: UInt32 = 0, status: UInt32 = 0,
        data: [UInt8]
    ) -> ISCSIPDU {
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.dataIn, flags: flags)
        pdu.initiatorTaskTag = tag
        pdu.targetTransferTag = ISCSIPDU.reservedTag
        pdu.statusSequence = status
        pdu.setField32(offset, 40)
        pdu.data = data
        return pdu
    }

    private static func response(
        _ tag: UInt32, _ opcode: UInt8 = ISCSIOpcode.scsiResponse, status: UInt32 = 1
    ) -> ISCSIPDU {
        var pdu = ISCSIPDU(opcode: opcode, flags: 0x80)
        pdu.initiatorTaskTag = tag
        pdu.statusSequence = status
        pdu.expectedCommand = 100
        pdu.maximumCommand = 131
        return pdu
    }

    private static func open(_ pdu: ISCSIPDU, isWhole: Bool = true, dataIn: ISCSIPDU? = nil)
        -> ISCSIOpenTask
    {
        ISCSIOpenTask(
            tag: pdu.initiatorTaskTag, octets: pdu.encoded(), isWhole: isWhole,
            dataIn: dataIn.map { Array($0.encoded().prefix(48)) }, readyToTransfer: nil)
    }

    private static func recovery(
        _ requests: [ISCSIOpenTask], replies: [ISCSIUnfinishedReply] = [],
        answers: [ISCSIPDU] = [], next: UInt32 = 100
    ) -> ISCSIRecovery {
        ISCSIRecovery(
            requests: requests, replies: replies,
            client: ISCSIClientPosition(
                nextCommand: next, nextStatus: 50, expectedCommand: next,
                maximumCommand: next + 31),
            answers: answers, maximumSegment: 8_192)
    }

    private static func session(_ first: UInt32, window: UInt32 = 32) -> ISCSIInitiatorResult {
        var result = ISCSIInitiatorResult()
        result.nextStatus = 1
        result.expectedCommand = first
        result.maximumCommand = first &+ window &- 1
        return result
    }

    private func toServer(_ actions: [ISCSIRecovery.Action]) -> [ISCSIPDU] {
        actions.compactMap { if case .toServer(let pdu) = $0 { pdu } else { nil } }
    }
    private func toClient(_ actions: [ISCSIRecovery.Action]) -> [ISCSIPDU] {
        actions.compactMap { if case .toClient(let pdu) = $0 { pdu } else { nil } }
    }

    @Test func usedNumbersAreIgnored() {
        var machine = Self.recovery([Self.open(Self.read(1, number: 99))])
        _ = machine.start(Self.session(99))
        #expect(machine.receiveFromClient(Self.read(2, number: 99)).isEmpty)
        #expect(
            machine.receiveFromClient(Self.write(3, number: 90, data: [1, 2, 3, 4])).isEmpty)
        #expect(machine.receiveFromClient(Self.dataOut(3, data: [1, 2, 3, 4])).isEmpty)
        var immediate = Self.read(4, number: 99)
        immediate[0] |= 0x40
        #expect(toServer(machine.receiveFromClient(immediate)).map(\.initiatorTaskTag) == [4])
        let next = toServer(machine.receiveFromClient(Self.read(5, number: 100)))
        #expect(next.map(\.commandSequence) == [100])
    }

    @Test func numbersEndAtTheClientsNext() {
        var immediate = Self.read(3, number: 95)
        immediate[0] |= 0x40
        var machine = Self.recovery([
            Self.open(Self.read(1, number: 90)), Self.open(immediate),
            Self.open(Self.read(2, number: 95)),
        ])
        #expect(machine.firstCommand == 98)
        let sent = toServer(machine.start(Self.session(98)))
        #expect(sent.map(\.initiatorTaskTag) == [1, 3, 2])
        #expect(sent.map(\.commandSequence) == [98, 99, 99])
    }

    /// Two reads of which the client has a part of a PDU each; the second is read again first.
    @Test(arguments: [false, true])
    func repliesInAnotherOrder(isEnded: Bool) {
        let parts = [UInt8(1), 2].map { Self.dataIn(UInt32($0), data: [$0, $0, $0, $0]) }
        let commands = [Self.read(1, number: 98), Self.read(2, number: 99)]
        let replies = parts.enumerated().map { index, part in
            ISCSIUnfinishedReply(
                header: Array(part.encoded().prefix(48)), data: nil,
                ended: isEnded ? Self.open(commands[index], dataIn: part) : nil,
                delivered: index == 0 ? 50 : 0)
        }
        var machine = Self.recovery(
            isEnded ? [] : zip(commands, parts).map { Self.open($0, dataIn: $1) },
            replies: replies)
        _ = machine.start(Self.session(98))
        var actions = machine.receiveFromServer(
            Self.dataIn(2, flags: 0x81, status: 1, data: [2, 2, 2, 2]))
        #expect(actions.isEmpty)
        actions = machine.receiveFromServer(
            Self.dataIn(1, flags: 0x81, status: 2, data: [1, 1, 1, 1]))
        let expected = Array(parts[0].encoded().dropFirst(50)) + parts[1].encoded()
        #expect(actions.first == .complete(expected))
        // Ended ones say no status again; the others say it now, with the client's numbers.
        #expect(toClient(actions).map(\.statusSequence) == (isEnded ? [] : [50, 51]))
        #expect(machine.openTasks == 0)
    }

    /// What still comes for a task that is over is nobody's, and nothing passes with constants before the
    /// client knows of the end.
    @Test func dataForAnUnprotectedWrite() {
        var machine = Self.recovery([Self.open(Self.write(1, number: 99), isWhole: false)])
        #expect(machine.firstCommand == 100)
        let answers = toClient(machine.start(Self.session(100)))
        #expect(answers.map { $0[3] } == [0x08])
        #expect(answers.map(\.statusSequence) == [50])
        #expect(!machine.isFinished)
        for transfer in [7, ISCSIPDU.reservedTag] {
            #expect(
                machine.receiveFromClient(
                    Self.dataOut(1, transfer: transfer, data: [1, 2, 3, 4])
                ).isEmpty)
        }
        // The tag names another task, and the client has the answer.
        var again = Self.write(1, number: 100, data: [9])
        again.expectedStatus = 51
        #expect(toServer(machine.receiveFromClient(again)).map(\.data) == [[9]])
        #expect(machine.isFinished)
        let data = Self.dataOut(1, transfer: 3, status: 51, data: [5])
        #expect(toServer(machine.receiveFromClient(data)).map(\.data) == [[5]])
    }

    @Test func unsolicitedDataWaitsBehindItsCommand() {
        var machine = Self.recovery([
            Self.open(Self.read(1, number: 98)), Self.open(Self.read(2, number: 99)),
        ])
        // Room for one at a time.
        let sent = toServer(machine.start(Self.session(98, window: 1)))
        #expect(sent.map(\.initiatorTaskTag) == [1])
        let other = Self.read(4, number: 101)
        #expect(machine.receiveFromClient(Self.write(3, number: 100, flags: 0x21)).isEmpty)
        #expect(machine.receiveFromClient(other).isEmpty)
        #expect(machine.receiveFromClient(Self.dataOut(3, data: [1])).isEmpty)
        #expect(machine.receiveFromClient(Self.dataOut(3, at: 1, data: [2])).isEmpty)
        var answer = Self.response(1)
        answer.expectedCommand = 99
        answer.maximumCommand = 99
        #expect(toServer(machine.receiveFromServer(answer)).map(\.initiatorTaskTag) == [2])
        answer = Self.response(2, status: 2)
        answer.maximumCommand = 100
        let rest = toServer(machine.receiveFromServer(answer))
        #expect(rest.map(\.initiatorTaskTag) == [3, 3, 3])
        #expect(rest.map(\.opcode) == [1, 5, 5])
        #expect(rest.dropFirst().map(\.data) == [[1], [2]])
    }

    @Test func referencesAreRenumberedWhenTheyAreSent() {
        var machine = Self.recovery([
            Self.open(Self.read(1, number: 90)), Self.open(Self.read(2, number: 95)),
        ])
        _ = machine.start(Self.session(98, window: 1))
        var abort = ISCSIPDU(opcode: ISCSIOpcode.taskManagement, flags: 0x81, isImmediate: true)
        abort.initiatorTaskTag = 9
        abort.commandSequence = 100
        abort.setField32(2, 20)
        abort.setField32(95, 32)
        // The task that is meant is not sent yet.
        #expect(machine.receiveFromClient(abort).isEmpty)
        var answer = Self.response(1)
        answer.maximumCommand = 99
        let sent = toServer(machine.receiveFromServer(answer))
        #expect(sent.map(\.initiatorTaskTag) == [2, 9])
        #expect(sent.last?.field32(32) == 99)
        // It is aborted: nothing is left to wait for.
        let told = machine.receiveFromServer(
            Self.response(9, ISCSIOpcode.taskManagementResponse, status: 2))
        #expect(toClient(told).map(\.opcode) == [ISCSIOpcode.taskManagementResponse])
        #expect(machine.openTasks == 0 && machine.isFinished)
    }

    @Test(arguments: [2, 4, 5, 6, 7] as [UInt8])
    func resetsEndTasks(function: UInt8) {
        var other = Self.read(2, number: 98)
        other[9] = 1
        var reset = ISCSIPDU(opcode: ISCSIOpcode.taskManagement, flags: 0x80 | function)
        reset.initiatorTaskTag = 3
        reset.commandSequence = 99
        var machine = Self.recovery([
            Self.open(Self.read(1, number: 97)), Self.open(other), Self.open(reset),
        ])
        _ = machine.start(Self.session(97))
        _ = machine.receiveFromServer(Self.response(3, ISCSIOpcode.taskManagementResponse))
        // Of another unit's tasks only a target reset speaks.
        #expect(machine.openTasks == (function >= 6 ? 0 : 1))
    }

    /// What is owed outlives a recovery that does not come to its end.
    @Test func answersThatWereNotSaid() {
        var text = ISCSIPDU(opcode: ISCSIOpcode.textResponse, flags: 0x80)
        text.initiatorTaskTag = 8
        let part = Self.dataIn(1, data: [1, 1, 1, 1])
        var machine = Self.recovery(
            [Self.open(Self.read(1, number: 99), dataIn: part)],
            replies: [
                ISCSIUnfinishedReply(
                    header: Array(part.encoded().prefix(48)), data: nil, ended: nil, delivered: 49)
            ], answers: [text])
        #expect(machine.unsaidAnswers == [text])
        #expect(toClient(machine.start(Self.session(99, window: 33))).isEmpty)
        #expect(machine.unsaidAnswers == [text])
        let actions = machine.receiveFromServer(
            Self.dataIn(1, flags: 0x81, status: 1, data: [1, 1, 1, 1]))
        #expect(toClient(actions).map(\.initiatorTaskTag) == [8, 1])
        #expect(machine.unsaidAnswers.isEmpty && machine.isFinished)
    }

    /// A server that asks for, or sends, what is beyond the command, or beyond 32 bits.
    @Test(arguments: [(0, 5), (4, 1), (UInt32.max, 2), (0, 0)] as [(UInt32, UInt32)])
    func transfersBeyondTheCommand(offset: UInt32, count: UInt32) {
        var command = Self.write(1, number: 99)
        command.setField32(4, 20)
        var machine = Self.recovery([Self.open(command)])
        _ = machine.start(Self.session(99))
        var ask = Self.response(1, ISCSIOpcode.readyToTransfer)
        ask.setField32(offset, 40)
        ask.setField32(count, 44)
        guard case .failed? = machine.receiveFromServer(ask).first else {
            Issue.record("\(offset), \(count) is taken")
            return
        }
    }

    @Test func garbageIsNoTask() {
        var random = SplitMix64(seed: 5)
        for _ in 0..<500 {
            var machine = Self.recovery([
                ISCSIOpenTask(
                    tag: 1, octets: random.bytes(random.below(100)), isWhole: true, dataIn: nil,
                    readyToTransfer: nil), Self.open(Self.write(2, number: 99, data: [1])),
            ])
            _ = machine.start(Self.session(machine.firstCommand))
            for _ in 0..<30 {
                var pdu = ISCSIPDU(
                    opcode: [0x20, 0x21, 0x22, 0x25, 0x26, 0x31, 0x32, 0x3f][random.below(8)],
                    flags: UInt8(random.below(256)))
                for offset in 2..<48 where random.below(2) == 0 {
                    pdu[offset] = UInt8(random.below(256))
                }
                pdu.initiatorTaskTag = UInt32(random.below(4))
                pdu.data = random.bytes(random.below(40))
                _ = machine.receiveFromServer(pdu)
                pdu[0] = [0x00, 0x01, 0x02, 0x05, 0x06][random.below(5)]
                _ = machine.receiveFromClient(pdu)
            }
        }
    }
}
