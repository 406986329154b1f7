import StorageProtocols
import Testing

/// What real initiators and targets said, given to our side.
@Suite struct RecordedLoginTests {
    struct Recording: Sendable, CustomTestStringConvertible {
        let name: String
        let connection: Recorded.Connection
        var challenge: [UInt8] = []
        var isMutual = false
        var testDescription: String { name }
    }

    static let recordings = [
        Recording(name: "discovery", connection: Recorded.discovery),
        Recording(name: "plain", connection: Recorded.plain),
        Recording(
            name: "CHAP", connection: Recorded.chap, challenge: Recorded.chapChallenge),
        Recording(
            name: "mutual CHAP", connection: Recorded.mutual, challenge: Recorded.mutualChallenge,
            isMutual: true),
    ]

    static func target(for recording: Recording) -> ISCSITargetLogin {
        let credential = ISCSICredential(user: Recorded.user, secret: Recorded.secret)
        let own = ISCSICredential(user: Recorded.mutualUser, secret: Recorded.mutualSecret)
        let policy = ISCSILoginPolicy(
            requiresCHAP: !recording.challenge.isEmpty, credentials: [credential],
            mutual: recording.isMutual ? [credential.user: own] : [:],
            server: ISCSIServerParameters())
        let challenge = recording.challenge
        return ISCSITargetLogin(tsih: 9, random: { _ in challenge }) { target, _ in
            target == nil || target == Recorded.target ? policy : nil
        }
    }

    @Test(arguments: recordings) func `libiscsi logs in, as it did at tgtd`(recording: Recording)
        throws
    {
        var login = Self.target(for: recording)
        var result: ISCSILoginResult?
        let theirs = try pdus(recording.connection.target)
        for (index, pdu) in try pdus(recording.connection.client).enumerated() {
            guard pdu.opcode == ISCSIOpcode.login else { break }
            let actions = login.receive(pdu)
            let ours = try #require(actions.first?.sent)
            #expect(ours.status == 0)
            // The same answer for each key that both answer, and the same stages.
            #expect(ours.flags == theirs[index].flags)
            #expect(ours.initiatorTaskTag == theirs[index].initiatorTaskTag)
            #expect(ours.isid == theirs[index].isid)
            for (key, value) in theirs[index].text.pairs
            where !(key == "TargetPortalGroupTag" && recording.name == "discovery") {
                #expect(ours.text[key]?.lowercased() == value.lowercased(), "\(key)")
            }
            result = actions.last?.established ?? result
        }
        let session = try #require(result)
        #expect(session.isDiscovery == (recording.name == "discovery"))
        #expect(session.user == (recording.challenge.isEmpty ? nil : Recorded.user))
        #expect(session.initiatorMaxReceive == 262_144)
        #expect(session.initiatorName.hasPrefix("iqn.2007-10.com.github:sahlberg:libiscsi"))
    }

    @Test func `iscsi-ls, from login to logout`() throws {
        var login = Self.target(for: Self.recordings[0])
        var session: ISCSITargetSession?
        var ended = false
        for pdu in try pdus(Recorded.discovery.client) {
            guard var current = session else {
                let result = try #require(login.receive(pdu).last?.established)
                session = ISCSITargetSession(
                    result,
                    discovery: ISCSIDiscovery(
                        targets: [.init(name: Recorded.target, addresses: ["127.0.0.1:3260"])]))
                continue
            }
            let actions = current.receive(pdu)
            session = current
            guard case .send(let answer)? = actions.first else {
                Issue.record("no answer to PDU \(pdu.opcode)")
                continue
            }
            if answer.opcode == ISCSIOpcode.textResponse {
                let theirs = try #require(
                    pdus(Recorded.discovery.target).first { $0.opcode == ISCSIOpcode.textResponse })
                #expect(answer.data == theirs.data)
            }
            ended = actions.last == .close
        }
        #expect(ended)
    }

    @Test(arguments: recordings.dropFirst())
    func `our initiator logs in at tgtd as recorded`(recording: Recording) throws {
        let hasCHAP = !recording.challenge.isEmpty
        let own = ISCSICredential(user: Recorded.mutualUser, secret: Recorded.mutualSecret)
        let request = ISCSIInitiatorRequest(
            initiatorName: initiatorName, targetName: Recorded.target, isid: isid,
            credential: hasCHAP
                ? ISCSICredential(user: Recorded.user, secret: Recorded.secret) : nil,
            mutual: recording.isMutual ? own : nil)
        var initiator = ISCSIInitiatorLogin(request) { _ in Recorded.mutualOwnChallenge }
        var last = initiator.start()
        var result: ISCSIInitiatorResult?
        for pdu in try pdus(recording.connection.target) {
            guard pdu.opcode == ISCSIOpcode.loginResponse else { break }
            for action in initiator.receive(pdu) {
                switch action {
                case .send(let next): last = next
                case .established(let session): result = session
                case .failed(_, let reason): Issue.record("\(reason)")
                }
            }
        }
        let session = try #require(result)
        #expect(last.flags == 0x87)
        #expect(session.tsih != 0)
        #expect(session.parameters.firstBurstLength == 65_536)
        #expect(session.targetMaxReceive == nil)
    }

    @Test func `tgtd's proof, changed, is refused`() throws {
        let request = ISCSIInitiatorRequest(
            initiatorName: initiatorName, targetName: Recorded.target, isid: isid,
            credential: ISCSICredential(user: Recorded.user, secret: Recorded.secret),
            mutual: ISCSICredential(user: Recorded.mutualUser, secret: "another-secret-1"))
        var initiator = ISCSIInitiatorLogin(request) { _ in Recorded.mutualOwnChallenge }
        _ = initiator.start()
        var actions: [ISCSIInitiatorLogin.Action] = []
        for pdu in try pdus(Recorded.mutual.target).prefix(3) { actions = initiator.receive(pdu) }
        #expect(actions == [.failed(status: 0xffff, "server failed mutual CHAP")])
    }
}
