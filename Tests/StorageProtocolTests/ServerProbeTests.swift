import StorageProtocols
import Testing

@Suite struct ServerProbeTests {
    private func probe() -> ISCSIServerProbe {
        ISCSIServerProbe(
            initiatorName: initiatorName, targetName: Recorded.target,
            random: { [UInt8](repeating: 1, count: $0) })
    }

    /// A probe that is logged in, and its TEST UNIT READY.
    private func loggedIn() throws -> (ISCSIServerProbe, ISCSIPDU) {
        var probe = probe()
        #expect(probe.start().text["MaxBurstLength"] == "16776192")
        let response = try #require(pdus(Recorded.plain.target).first)
        let actions = try probe.receive(response)
        guard case .send(let test)? = actions.last else { throw Missing() }
        return (probe, test)
    }
    private struct Missing: Error {}

    private func status(_ status: UInt8, for pdu: ISCSIPDU) -> ISCSIPDU {
        var answer = ISCSIPDU(opcode: ISCSIOpcode.scsiResponse, flags: 0x80)
        answer[3] = status
        answer.initiatorTaskTag = pdu.initiatorTaskTag
        return answer
    }

    @Test func `limits of a server, from its answers`() throws {
        var (probe, test) = try loggedIn()
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
        var (probe, test) = try loggedIn()
        for attempt in 1..<4 {
            let actions = try probe.receive(status(2, for: test))
            guard case .send(let next)? = actions.last else { throw Missing() }
            #expect(next.opcode == ISCSIOpcode.scsiCommand)
            #expect(next.commandSequence == UInt32(attempt + 1))
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
        #expect(throws: ISCSIServerProbe.ProbeFailure(reason: "login: notFound")) {
            try probe.receive(response)
        }
    }
}
