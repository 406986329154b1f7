import StorageProtocols
import Testing

@Suite struct TargetSessionTests {
    private func session(isDiscovery: Bool = false) -> ISCSITargetSession {
        var login = ISCSILoginResult()
        login.isDiscovery = isDiscovery
        login.targetName = isDiscovery ? nil : targetName
        login.expectedCommand = 10
        login.nextStatus = 20
        login.commandWindow = 32
        return ISCSITargetSession(login, discovery: ISCSIDiscovery(targets: DiscoveryTests.targets))
    }

    private func request(
        _ opcode: UInt8, flags: UInt8 = 0x80, command: UInt32 = 10, isImmediate: Bool = false
    ) -> ISCSIPDU {
        var pdu = ISCSIPDU(opcode: opcode, flags: flags, isImmediate: isImmediate)
        pdu.initiatorTaskTag = 0x55
        pdu.targetTransferTag = ISCSIPDU.reservedTag
        pdu.commandSequence = command
        return pdu
    }

    private func sent(_ actions: [ISCSITargetSession.Action]) -> ISCSIPDU? {
        if case .send(let pdu)? = actions.first { pdu } else { nil }
    }

    @Test func `a ping is answered with its data`() throws {
        var session = session()
        var ping = request(ISCSIOpcode.nopOut)
        ping.data = [1, 2, 3]
        let answer = try #require(sent(session.receive(ping)))
        #expect(answer.opcode == ISCSIOpcode.nopIn)
        #expect(answer.data == [1, 2, 3])
        #expect(answer.initiatorTaskTag == 0x55)
        #expect(answer.targetTransferTag == ISCSIPDU.reservedTag)
        #expect(answer.statusSequence == 20)
        #expect(answer.expectedCommand == 11)
        #expect(answer.maximumCommand == 42)
        #expect(session.nextStatus == 21)
        #expect(session.expectedCommand == 11)
    }

    @Test func `ping data is cut to what the initiator can take`() throws {
        var session = session()
        var ping = request(ISCSIOpcode.nopOut)
        ping.data = [UInt8](repeating: 1, count: 8_193)
        #expect(sent(session.receive(ping))?.data.count == 8_192)
    }

    @Test func `an answer to our own ping gets none`() {
        var session = session()
        var pong = request(ISCSIOpcode.nopOut, isImmediate: true)
        pong.initiatorTaskTag = ISCSIPDU.reservedTag
        #expect(session.receive(pong).isEmpty)
        #expect(session.nextStatus == 20)
    }

    @Test func `immediate commands do not advance CmdSN, and neither do repeated ones`() {
        var session = session()
        _ = session.receive(request(ISCSIOpcode.nopOut, isImmediate: true))
        #expect(session.expectedCommand == 10)
        _ = session.receive(request(ISCSIOpcode.nopOut, command: 10))
        _ = session.receive(request(ISCSIOpcode.nopOut, command: 10))
        #expect(session.expectedCommand == 11)
    }

    @Test func `sequence numbers wrap`() {
        var login = ISCSILoginResult()
        login.expectedCommand = .max
        login.nextStatus = .max
        var session = ISCSITargetSession(login, discovery: ISCSIDiscovery(targets: []))
        let answer = sent(session.receive(request(ISCSIOpcode.nopOut, command: .max)))
        #expect(answer?.statusSequence == .max)
        #expect(answer?.expectedCommand == 0)
        #expect(answer?.maximumCommand == 31)
        #expect(session.nextStatus == 0)
    }

    @Test func `commands and task management need a server, and CmdSN waits for it`() {
        for opcode in [ISCSIOpcode.scsiCommand, ISCSIOpcode.taskManagement] {
            var session = session()
            #expect(session.receive(request(opcode)) == [.needServer])
            #expect(session.expectedCommand == 10)
            #expect(session.nextStatus == 20)
        }
    }

    @Test func `a discovery session has no commands`() throws {
        for opcode in [ISCSIOpcode.scsiCommand, ISCSIOpcode.taskManagement, ISCSIOpcode.dataOut] {
            var session = session(isDiscovery: true)
            let pdu = request(opcode)
            let reject = try #require(sent(session.receive(pdu)))
            #expect(reject.opcode == ISCSIOpcode.reject)
            #expect(reject[2] == 0x05)
            #expect(reject.initiatorTaskTag == ISCSIPDU.reservedTag)
            #expect(reject.data == pdu.header)
        }
    }

    @Test func `what an initiator must not send is rejected`() throws {
        for opcode in [ISCSIOpcode.snack, ISCSIOpcode.login, ISCSIOpcode.nopIn, 0x1f, 0x3e] {
            var session = session()
            let reject = try #require(sent(session.receive(request(opcode))))
            #expect(reject.opcode == ISCSIOpcode.reject)
            #expect(reject[2] == 0x04)
            #expect(reject.statusSequence == 20)
        }
        var session = session()
        #expect(session.receive(request(ISCSIOpcode.dataOut)).isEmpty)
    }

    @Test func `discovery, then logout`() throws {
        var session = session(isDiscovery: true)
        var text = request(ISCSIOpcode.text)
        text.data = Array("SendTargets=All\0".utf8)
        let answer = try #require(sent(session.receive(text)))
        #expect(answer.text.pairs.isEmpty)  // keys repeat: no text that a login could take
        #expect(String(decoding: answer.data, as: UTF8.self).contains("iqn.2026-01.test:b\0"))
        #expect(answer.statusSequence == 20)
        let actions = session.receive(request(ISCSIOpcode.logout, command: 11))
        #expect(actions.last == .close)
        let logout = try #require(sent(actions))
        #expect(logout.opcode == ISCSIOpcode.logoutResponse)
        #expect(logout[2] == 0)
        #expect(logout.statusSequence == 21)
        #expect(logout.expectedCommand == 12)
    }

    @Test func `text that is none is rejected`() throws {
        var session = session(isDiscovery: true)
        var text = request(ISCSIOpcode.text)
        text.data = Array("SendTargets\0".utf8)
        let reject = try #require(sent(session.receive(text)))
        #expect(reject.opcode == ISCSIOpcode.reject)
        #expect(reject[2] == 0x04)
        #expect(reject.initiatorTaskTag == ISCSIPDU.reservedTag)
        #expect(reject.data == text.header)
        #expect(reject.statusSequence == 20)
        #expect(reject.expectedCommand == 11)
        text.commandSequence = 11
        text.targetTransferTag = 0x77
        #expect(sent(session.receive(text))?[2] == 0x09)
    }

    @Test func `logout for recovery is not supported`() throws {
        var session = session()
        let logout = try #require(sent(session.receive(request(ISCSIOpcode.logout, flags: 0x82))))
        #expect(logout[2] == 2)
    }

    @Test func `a command that no server can take ends with sense data`() throws {
        var session = session()
        let actions = session.refuse(
            request(ISCSIOpcode.scsiCommand), sense: (key: 2, code: 4, qualifier: 1))
        let answer = try #require(sent(actions))
        #expect(answer.opcode == ISCSIOpcode.scsiResponse)
        #expect(answer[3] == 2)
        #expect(
            answer.data == [0, 18, 0x70, 0, 2, 0, 0, 0, 0, 10, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0])
        #expect(answer.initiatorTaskTag == 0x55)
        #expect(session.expectedCommand == 11)
    }

    @Test func `a task management function that no server can take is rejected`() throws {
        var session = session()
        let answer = try #require(
            sent(
                session.refuse(
                    request(ISCSIOpcode.taskManagement), sense: (key: 2, code: 4, qualifier: 1))))
        #expect(answer.opcode == ISCSIOpcode.taskManagementResponse)
        #expect(answer[2] == 0xff)
    }
}
