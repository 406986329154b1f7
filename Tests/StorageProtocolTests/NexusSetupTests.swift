import StorageProtocols
import TestSupport
import Testing

@Suite struct NexusSetupTests {
    private static func session() -> ISCSIInitiatorResult {
        var result = ISCSIInitiatorResult()
        result.nextStatus = 10
        result.expectedCommand = 100
        result.maximumCommand = 131
        return result
    }

    private static func answer(
        _ pdu: ISCSIPDU, status: UInt8, number: UInt32, data: [UInt8] = []
    ) -> ISCSIPDU {
        var answer = ISCSIPDU(
            opcode: data.isEmpty ? ISCSIOpcode.scsiResponse : ISCSIOpcode.dataIn,
            flags: data.isEmpty ? 0x80 : 0x81)
        answer[3] = status
        answer.initiatorTaskTag = pdu.initiatorTaskTag
        answer.statusSequence = number
        answer.expectedCommand = 100
        answer.maximumCommand = 140
        answer.data = data
        return answer
    }

    private static func report(_ units: [UInt8]) -> [UInt8] {
        bigEndian32(UInt32(units.count * 8)) + [0, 0, 0, 0]
            + units.flatMap { [0, $0, 0, 0, 0, 0, 0, 0] }
    }

    private func sent(_ actions: [ISCSINexusSetup.Action]) -> [ISCSIPDU] {
        actions.compactMap { if case .send(let pdu) = $0 { pdu } else { nil } }
    }

    @Test func attentionsAreTakenUpAtEachUnit() {
        var setup = ISCSINexusSetup(Self.session())
        let first = setup.start()
        #expect(first[32] == 0xa0 && first.isImmediate && first.commandSequence == 100)
        var tests = sent(
            setup.receive(Self.answer(first, status: 0, number: 10, data: Self.report([0, 5]))))
        #expect(tests.map { $0[32] } == [0, 0] && tests.map { $0[9] } == [0, 5])
        #expect(tests.allSatisfy { $0.isImmediate && $0.commandSequence == 100 })
        // One has two attentions.
        var number: UInt32 = 11
        let retried = sent(setup.receive(Self.answer(tests[0], status: 2, number: number)))
        #expect(retried.count == 1 && retried[0][9] == 0)
        number += 1
        #expect(setup.receive(Self.answer(tests[1], status: 0, number: number)).isEmpty)
        tests = retried
        number += 1
        tests = sent(setup.receive(Self.answer(tests[0], status: 2, number: number)))
        number += 1
        #expect(setup.receive(Self.answer(tests[0], status: 0, number: number)) == [.ready])
        #expect(setup.session.nextStatus == number + 1)
        #expect(setup.session.maximumCommand == 140)
        #expect(setup.session.expectedCommand == 100)
    }

    /// A unit that never becomes ready does not hold the session up for ever.
    @Test func attentionsWithoutEnd() {
        var setup = ISCSINexusSetup(Self.session())
        var actions = setup.receive(
            Self.answer(setup.start(), status: 0, number: 10, data: Self.report([0])))
        var tries = 0
        while let pdu = sent(actions).first, tries < 100 {
            tries += 1
            actions = setup.receive(Self.answer(pdu, status: 2, number: 10 + UInt32(tries)))
        }
        #expect(tries == 8 && actions == [.ready])
    }

    @Test func reservationsOfAUnitThatIsNotReported() throws {
        var wanted = ISCSIReservation()
        wanted.key = 0x0102_0304_0506_0708
        wanted.type = 3
        var setup = ISCSINexusSetup(Self.session(), reservations: [1 << 48: wanted])
        let tests = sent(
            setup.receive(
                Self.answer(setup.start(), status: 0, number: 10, data: Self.report([0]))))
        #expect(tests.map { $0[9] } == [0, 1])
        #expect(setup.receive(Self.answer(tests[0], status: 0, number: 11)).isEmpty)
        let register = try #require(
            sent(setup.receive(Self.answer(tests[1], status: 0, number: 12))).first)
        #expect(register[32] == 0x5f && register[33] == 6 && register[9] == 1)
        let key: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]
        let none = [UInt8](repeating: 0, count: 8)
        #expect(register.data == none + key + none && register.field32(20) == 24)
        let reserve = try #require(
            sent(setup.receive(Self.answer(register, status: 0, number: 13))).first)
        #expect(reserve[33] == 1 && reserve[34] == 3 && reserve.data == key + none + none)
        #expect(setup.receive(Self.answer(reserve, status: 0, number: 14)) == [.ready])
        #expect(setup.receive(Self.answer(reserve, status: 0, number: 15)).isEmpty)
    }

    @Test(arguments: [false, true])
    func reservationsThatCannotBeHad(isReserve: Bool) throws {
        var wanted = ISCSIReservation()
        wanted.isReserved = isReserve
        wanted.key = isReserve ? nil : 5
        var setup = ISCSINexusSetup(Self.session(), reservations: [0: wanted])
        let test = try #require(
            sent(
                setup.receive(
                    Self.answer(setup.start(), status: 0, number: 10, data: Self.report([0])))
            ).first)
        let next = try #require(
            sent(setup.receive(Self.answer(test, status: 0, number: 11))).first)
        #expect(next[32] == (isReserve ? 0x16 : 0x5f))
        let actions = setup.receive(Self.answer(next, status: 0x18, number: 12))
        guard case .failed(let reason)? = actions.first else {
            Issue.record("\(actions)")
            return
        }
        #expect(actions.count == 1 && reason.contains("status 24"))
    }

    @Test func serverThatRejects() {
        var setup = ISCSINexusSetup(Self.session())
        _ = setup.start()
        var reject = ISCSIPDU(opcode: ISCSIOpcode.reject, flags: 0x80)
        reject[2] = 6
        #expect(
            setup.receive(reject) == [.failed("the server rejects a command, reason 6")])
    }

    /// A report that fails, or is short or wrong, leaves unit 0.
    @Test(
        arguments: [[], [1, 2, 3], [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 9, 0, 0]] as [[UInt8]])
    func badReports(data: [UInt8]) {
        var setup = ISCSINexusSetup(Self.session())
        let tests = sent(
            setup.receive(
                Self.answer(setup.start(), status: data.isEmpty ? 2 : 0, number: 10, data: data)))
        #expect(tests.map { $0[32] } == [0] && tests.map { $0[9] } == [0])
    }
}
