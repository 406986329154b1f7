import StorageProtocols
import TestSupport
import Testing

/// Both sides of a login, with a byte stream between them that is cut at random.
@Suite struct LoginPairTests {
    struct Setting: Sendable, CustomTestStringConvertible {
        var targetWantsCHAP = false
        var targetIsMutual = false
        var hasCredential = false
        var wantsMutual = false
        var isWrong = false
        var isMutualWrong = false
        var testDescription: String {
            "target \(targetWantsCHAP ? "CHAP" : "none")\(targetIsMutual ? ", mutual" : ""); initiator "
                + "\(hasCredential ? "CHAP" : "none")\(wantsMutual ? ", mutual" : "")"
                + "\(isWrong ? ", wrong secret" : "")\(isMutualWrong ? ", wrong target secret" : "")"
        }
        /// How it must end.
        var succeeds: Bool {
            if wantsMutual {
                return targetWantsCHAP && targetIsMutual && !isWrong && !isMutualWrong
            }
            if targetWantsCHAP { return hasCredential && !isWrong }
            return true
        }
    }

    static var settings: [Setting] {
        (0..<64).map { bits in
            func bit(_ place: Int) -> Bool { bits >> place & 1 == 1 }
            return Setting(
                targetWantsCHAP: bit(0), targetIsMutual: bit(1), hasCredential: bit(2),
                wantsMutual: bit(3), isWrong: bit(4), isMutualWrong: bit(5))
        }.filter {
            ($0.hasCredential || !$0.wantsMutual && !$0.isWrong)
                && ($0.wantsMutual || !$0.isMutualWrong)
                && ($0.targetWantsCHAP || !$0.targetIsMutual)
        }
    }

    enum Outcome {
        case established(ISCSILoginResult, ISCSIInitiatorResult)
        case failed
    }

    /// Runs both sides to their end, passing octets in random pieces.
    static func run(
        _ target: inout ISCSITargetLogin, _ initiator: inout ISCSIInitiatorLogin, seed: UInt64
    ) throws -> Outcome {
        var random = SplitMix64(seed: seed)
        var toTarget = initiator.start().encoded()
        var toInitiator: [UInt8] = []
        var targetReader = ISCSIPDUReader()
        var initiatorReader = ISCSIPDUReader()
        var served: ISCSILoginResult?
        var session: ISCSIInitiatorResult?
        while !toTarget.isEmpty || !toInitiator.isEmpty {
            let up = min(toTarget.count, Int.random(in: 0...64, using: &random))
            targetReader.append(toTarget.prefix(up))
            toTarget.removeFirst(up)
            while let pdu = try targetReader.next() {
                for action in target.receive(pdu) {
                    if let response = action.sent { toInitiator += response.encoded() }
                    if let result = action.established { served = result }
                }
            }
            let down = min(toInitiator.count, Int.random(in: 0...64, using: &random))
            initiatorReader.append(toInitiator.prefix(down))
            toInitiator.removeFirst(down)
            while let pdu = try initiatorReader.next() {
                for action in initiator.receive(pdu) {
                    switch action {
                    case .send(let request): toTarget += request.encoded()
                    case .established(let result): session = result
                    case .failed: return .failed
                    }
                }
            }
        }
        guard let served, let session else { return .failed }
        return .established(served, session)
    }

    static func initiator(
        _ setting: Setting, parameters: ISCSIParameters = ISCSIParameters(), isStrict: Bool = true
    ) -> ISCSIInitiatorLogin {
        var credential = setting.hasCredential ? alice : nil
        if setting.isWrong { credential?.secret = "not-alice's-secret" }
        var mutual = setting.wantsMutual ? switchUser : nil
        if setting.isMutualWrong { mutual?.secret = "not-the-switch's" }
        let request = ISCSIInitiatorRequest(
            initiatorName: initiatorName, targetName: targetName, isid: isid, connectionID: 1,
            commandSequence: 500, expectedStatus: 900, parameters: parameters, maxReceive: 65_536,
            credential: credential, mutual: mutual, isStrict: isStrict)
        return ISCSIInitiatorLogin(request) { (0..<$0).map { UInt8(100 + $0) } }
    }

    @Test(arguments: settings) func `every combination of authentication`(setting: Setting) throws {
        for seed: UInt64 in 0..<8 {
            var target = targetLogin(
                chap: setting.targetWantsCHAP, isMutual: setting.targetIsMutual,
                server: ISCSIServerParameters(
                    maxReceiveDataSegmentLength: 32_768, commandWindow: 8))
            var initiator = Self.initiator(setting)
            switch try Self.run(&target, &initiator, seed: seed) {
            case .failed: #expect(!setting.succeeds)
            case .established(let served, let session):
                #expect(setting.succeeds)
                #expect(served.user == (setting.targetWantsCHAP ? alice.user : nil))
                #expect(served.parameters == session.parameters)
                #expect(served.initiatorMaxReceive == 65_536)
                #expect(session.targetMaxReceive == 32_768)
                #expect(session.tsih == 0x1234)
                #expect(session.nextStatus == served.nextStatus)
                #expect(session.expectedCommand == 500)
                #expect(served.expectedCommand == 500)
                #expect(session.maximumCommand == 507)
            }
        }
    }

    @Test func `settings cover success and failure`() {
        let settings = Self.settings
        #expect(settings.count { $0.succeeds } >= 5)
        #expect(settings.count { !$0.succeeds } >= 10)
    }

    @Test func `a strict initiator refuses what it did not offer`() throws {
        var offer = ISCSIParameters()
        offer.initialR2T = false
        offer.maxBurstLength = 1 << 20
        for isStrict in [true, false] {
            var target = targetLogin()
            var initiator = Self.initiator(Setting(), parameters: offer, isStrict: isStrict)
            switch try Self.run(&target, &initiator, seed: 5) {
            case .failed: #expect(isStrict)
            case .established(let served, let session):
                #expect(!isStrict)
                #expect(session.parameters.initialR2T)
                #expect(session.parameters.maxBurstLength == 262_144)
                #expect(session.parameters == served.parameters)
            }
        }
    }

    @Test func `random offers and limits agree on both sides`() throws {
        var random = SplitMix64(seed: 6)
        for seed: UInt64 in 0..<300 {
            func parameters() -> ISCSIParameters {
                var result = ISCSIParameters()
                result.initialR2T = .random(using: &random)
                result.immediateData = .random(using: &random)
                result.dataPDUInOrder = .random(using: &random)
                result.maxBurstLength = .random(in: 512...16_777_215, using: &random)
                result.firstBurstLength = .random(in: 512...65_536, using: &random)
                result.maxOutstandingR2T = .random(in: 1...65_535, using: &random)
                result.defaultTime2Wait = .random(in: 0...3_600, using: &random)
                result.defaultTime2Retain = .random(in: 0...3_600, using: &random)
                return result
            }
            let (own, offer) = (parameters(), parameters())
            var target = targetLogin(server: ISCSIServerParameters(limits: own))
            var initiator = Self.initiator(Setting(), parameters: offer, isStrict: false)
            guard
                case .established(let served, let session) = try Self.run(
                    &target, &initiator, seed: seed)
            else {
                Issue.record("login \(seed) failed")
                continue
            }
            #expect(served.parameters == session.parameters)
            #expect(served.parameters.initialR2T == (own.initialR2T || offer.initialR2T))
            #expect(served.parameters.immediateData == (own.immediateData && offer.immediateData))
            #expect(
                served.parameters.maxBurstLength == min(own.maxBurstLength, offer.maxBurstLength))
            #expect(
                served.parameters.defaultTime2Wait
                    == max(own.defaultTime2Wait, offer.defaultTime2Wait))
        }
    }

    // MARK: Initiator alone

    private func response(_ pairs: [(String, String)], flags: UInt8, status: UInt16 = 0) -> ISCSIPDU
    {
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.loginResponse, flags: flags)
        pdu.setField16(status, 36)
        pdu.data = ISCSIText(pairs).encoded()
        return pdu
    }

    @Test(
        arguments: [
            (0x0201, "authenticationFailure"), (0x0203, "notFound"), (0x0301, "serviceUnavailable"),
            (0x0101, "redirection 0x101"), (0x0404, "status 0x404"),
        ] as [(UInt16, String)])
    func `a refusal is told with its status`(status: UInt16, reason: String) {
        var initiator = Self.initiator(Setting())
        _ = initiator.start()
        #expect(
            initiator.receive(response([], flags: 0, status: status))
                == [.failed(status: status, reason)])
        #expect(initiator.receive(response([], flags: 0x87)).isEmpty)
    }

    @Test func `what is no login response, and bad values`() {
        var initiator = Self.initiator(Setting())
        _ = initiator.start()
        guard case .failed? = initiator.receive(ISCSIPDU(opcode: ISCSIOpcode.nopIn)).first else {
            Issue.record("a NOP-In was taken")
            return
        }
        for pairs in [[("MaxBurstLength", "1")], [("InitialR2T", "Maybe")], [("A=", "")]] {
            initiator = Self.initiator(Setting())
            _ = initiator.start()
            let actions = initiator.receive(response(pairs, flags: 0x87))
            if pairs[0].0 == "A=" {
                // A key that nobody asked for is ignored.
                guard case .established? = actions.first else {
                    Issue.record("\(actions)")
                    continue
                }
            } else {
                #expect(actions == [.failed(status: 0xffff, "\(pairs[0].0)=\(pairs[0].1)")])
            }
        }
    }

    @Test func `a server that proves itself first and changes the stage later`() throws {
        var setting = Setting()
        setting.hasCredential = true
        setting.wantsMutual = true
        var initiator = Self.initiator(setting)
        _ = initiator.start()
        _ = initiator.receive(response([("AuthMethod", "CHAP")], flags: 0))
        let sent = initiator.receive(
            response([("CHAP_A", "5"), ("CHAP_I", "1"), ("CHAP_C", "0x01020304")], flags: 0))
        guard case .send(let proof)? = sent.first else {
            Issue.record("\(sent)")
            return
        }
        let identifier = try #require(proof.text["CHAP_I"].flatMap { UInt8($0) })
        let challenge = try #require(proof.text["CHAP_C"].flatMap { ISCSIText.binary($0) })
        let own = CHAP.response(
            identifier: identifier, secret: switchUser.secret, challenge: challenge)
        let next = initiator.receive(
            response([("CHAP_N", switchUser.user), ("CHAP_R", ISCSIText.hex(own))], flags: 0))
        guard case .send(let transit)? = next.first else {
            Issue.record("\(next)")
            return
        }
        #expect(transit.flags == 0x81)
        guard case .send(let operational)? = initiator.receive(response([], flags: 0x81)).first
        else {
            Issue.record("the proof was forgotten")
            return
        }
        #expect(operational.flags == 0x87)
        #expect(operational.text["MaxBurstLength"] == "262144")
    }

    @Test func `a server that never ends the login`() {
        var initiator = Self.initiator(Setting())
        _ = initiator.start()
        var count = 0
        while case .send? = initiator.receive(response([], flags: 0x04)).first { count += 1 }
        #expect(count == ISCSITargetLogin.exchangeMaximum)
    }
}
