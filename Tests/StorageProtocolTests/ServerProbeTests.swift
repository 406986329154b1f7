import StorageProtocols
import Testing

@Suite struct ServerProbeTests {
    private func probe() -> ISCSIServerProbe {
        ISCSIServerProbe(
            initiatorName: initiatorName, targetName: Recorded.target,
            random: { [UInt8](repeating: 1, count: $0) })
    }

    /// A probe that is logged in, and its REPORT LUNS.
    private func loggedIn() throws -> (ISCSIServerProbe, ISCSIPDU) {
        var probe = probe()
        #expect(probe.start().text["MaxBurstLength"] == "16776192")
        let response = try #require(pdus(Recorded.plain.target).first)
        let actions = try probe.receive(response)
        guard case .send(let report)? = actions.last else { throw Missing() }
        return (probe, report)
    }

    /// Data with status: the units, each as 8 octets.
    private func report(_ units: [UInt64], for pdu: ISCSIPDU) -> ISCSIPDU {
        var answer = ISCSIPDU(opcode: ISCSIOpcode.dataIn, flags: 0x81)
        answer.initiatorTaskTag = pdu.initiatorTaskTag
        let list = units.flatMap { unit in
            (0..<8).map { UInt8(truncatingIfNeeded: unit >> (56 - $0 * 8)) }
        }
        answer.data = [0, 0, UInt8(list.count >> 8), UInt8(list.count & 255), 0, 0, 0, 0] + list
        return answer
    }

    /// The one command that the probe sends next.
    private func next(
        _ probe: inout ISCSIServerProbe, _ answer: ISCSIPDU
    ) throws -> ISCSIPDU {
        let actions = try probe.receive(answer)
        guard actions.count == 1, case .send(let pdu) = actions[0] else { throw Missing() }
        return pdu
    }

    private func outcome(_ probe: inout ISCSIServerProbe) throws -> ISCSIServerProbe.Outcome {
        let end = try probe.receive(ISCSIPDU(opcode: ISCSIOpcode.logoutResponse))
        guard case .finished(let outcome)? = end.last else { throw Missing() }
        return outcome
    }

    @Test func `the units of a target are asked for`() throws {
        var (probe, report) = try loggedIn()
        #expect(report.opcode == ISCSIOpcode.scsiCommand)
        #expect(report.flags == 0xc1)
        #expect(Array(report.header[8..<16]) == [UInt8](repeating: 0, count: 8))
        #expect(report[32] == 0xa0)
        #expect(report.field32(20) == report.field32(38))
        // A controller at 0, disks at 3 and 0x4105: only disks are asked, until one is ready.
        var test = try next(
            &probe, self.report([0, 3 << 48, 0x4105 << 48], for: report))
        #expect(Array(test.header[8..<16]) == [0, 3, 0, 0, 0, 0, 0, 0])
        #expect(test[32] == 0)
        #expect(test.flags == 0x81)
        #expect(test.commandSequence == 2)
        test = try next(&probe, status(8, for: test))
        #expect(Array(test.header[8..<16]) == [0x41, 5, 0, 0, 0, 0, 0, 0])
        #expect(test.commandSequence == 3)
        let logout = try next(&probe, status(0, for: test))
        #expect(logout.opcode == ISCSIOpcode.logout)
        #expect(logout.commandSequence == 4)
        #expect(try outcome(&probe).isReady)
    }

    /// Data in two parts with the status behind; lists that are cut, empty or refused.
    @Test func `what a list of units may look like`() throws {
        var (probe, request) = try loggedIn()
        let whole = report([1 << 48], for: request)
        var part = whole
        part.flags = 0
        part.data = Array(whole.data[..<5])
        #expect(try probe.receive(part).isEmpty)
        part.data = Array(whole.data[5...])
        #expect(try probe.receive(part).isEmpty)
        #expect(try next(&probe, status(0, for: request))[9] == 1)
        for units in [[], [0]] as [[UInt64]] {
            (probe, request) = try loggedIn()
            #expect(try next(&probe, report(units, for: request))[9] == 0)
        }
        (probe, request) = try loggedIn()
        var cut = report([2 << 48, 3 << 48], for: request)
        cut.data.removeLast()
        var test = try next(&probe, cut)
        #expect(test[9] == 2)
        #expect(try next(&probe, status(8, for: test)).opcode == ISCSIOpcode.logout)
        // Refused: unit 0.
        (probe, request) = try loggedIn()
        test = try next(&probe, status(5, for: request))
        #expect(test[9] == 0)
        #expect(test[32] == 0)
    }

    @Test func `a bounded number of units is asked`() throws {
        var (probe, request) = try loggedIn()
        var test = try next(
            &probe, report((1...60).map { $0 << 48 }, for: request))
        var asked = 1
        while test.opcode == ISCSIOpcode.scsiCommand {
            test = try next(&probe, status(8, for: test))
            asked += 1
            try #require(asked < 100)
        }
        #expect(asked == 9)
        #expect(try !outcome(&probe).isReady)
    }

    private struct Missing: Error {}

    private func status(_ status: UInt8, for pdu: ISCSIPDU) -> ISCSIPDU {
        var answer = ISCSIPDU(opcode: ISCSIOpcode.scsiResponse, flags: 0x80)
        answer[3] = status
        answer.initiatorTaskTag = pdu.initiatorTaskTag
        return answer
    }

    @Test func `limits of a server, from its answers`() throws {
        var (probe, report) = try loggedIn()
        let test = try next(&probe, self.report([0, 1 << 48], for: report))
        #expect(test.opcode == ISCSIOpcode.scsiCommand)
        #expect(test[9] == 1)
        #expect(try probe.receive(ISCSIPDU(opcode: ISCSIOpcode.nopIn)).isEmpty)
        let actions = try probe.receive(status(0, for: test))
        guard case .send(let logout)? = actions.last else { throw Missing() }
        #expect(logout.opcode == ISCSIOpcode.logout)
        let end = try probe.receive(ISCSIPDU(opcode: ISCSIOpcode.logoutResponse))
        guard case .finished(let outcome)? = end.last else { throw Missing() }
        #expect(outcome.isReady)
        #expect(outcome.parameters.limits.firstBurstLength == 65_536)
        #expect(outcome.parameters.limits.initialR2T)
        #expect(outcome.parameters.maxReceiveDataSegmentLength == nil)
        #expect(outcome.parameters.commandWindow >= 1)
    }

    @Test func `unit attentions are absorbed, then the server is not ready`() throws {
        var (probe, report) = try loggedIn()
        var test = try next(&probe, self.report([0, 1 << 48], for: report))
        for attempt in 1..<4 {
            let actions = try probe.receive(status(2, for: test))
            guard case .send(let next)? = actions.last else { throw Missing() }
            #expect(next.opcode == ISCSIOpcode.scsiCommand)
            #expect(next.commandSequence == UInt32(attempt + 2))
            test = next
        }
        _ = try probe.receive(status(2, for: test))
        let end = try probe.receive(ISCSIPDU(opcode: ISCSIOpcode.logoutResponse))
        guard case .finished(let outcome)? = end.last else { throw Missing() }
        #expect(!outcome.isReady)
    }

    @Test func `a refused login`() throws {
        var probe = probe()
        _ = probe.start()
        var response = ISCSIPDU(opcode: ISCSIOpcode.loginResponse)
        response.setField16(0x0203, 36)
        #expect(
            throws: ISCSIServerProbe.ProbeFailure(
                reason: "login: notFound", isTargetMissing: true)
        ) {
            try probe.receive(response)
        }
    }
}
