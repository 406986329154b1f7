/// What an initiator needs for a login.
public struct ISCSIInitiatorRequest: Sendable {
    public var initiatorName: String
    public var targetName: String
    public var isid: [UInt8]
    public var connectionID: UInt16
    /// CmdSN of the login, and so of the first command.
    public var commandSequence: UInt32
    /// ExpStatSN of the first request: some targets start their StatSN there.
    public var expectedStatus: UInt32
    /// Offered exactly.
    public var parameters: ISCSIParameters
    public var maxReceive: UInt64
    public var credential: ISCSICredential?
    /// What the target must prove itself with.
    public var mutual: ISCSICredential?
    /// Refuse the login when the target does not agree to `parameters` as they are.
    public var isStrict: Bool

    public init(
        initiatorName: String, targetName: String, isid: [UInt8], connectionID: UInt16 = 0,
        commandSequence: UInt32 = 1, expectedStatus: UInt32 = 0,
        parameters: ISCSIParameters = ISCSIParameters(), maxReceive: UInt64 = 262_144,
        credential: ISCSICredential? = nil, mutual: ISCSICredential? = nil, isStrict: Bool = true
    ) {
        self.initiatorName = initiatorName
        self.targetName = targetName
        self.isid = isid
        self.connectionID = connectionID
        self.commandSequence = commandSequence
        self.expectedStatus = expectedStatus
        self.parameters = parameters
        self.maxReceive = maxReceive
        self.credential = credential
        self.mutual = mutual
        self.isStrict = isStrict
    }
}

/// A session with a server.
public struct ISCSIInitiatorResult: Equatable, Sendable {
    public var parameters = ISCSIParameters()
    /// What the target declared it can receive; nil: nothing.
    public var targetMaxReceive: UInt64?
    public var tsih: UInt16 = 0
    /// StatSN that the next response has.
    public var nextStatus: UInt32 = 0
    public var expectedCommand: UInt32 = 0
    public var maximumCommand: UInt32 = 0
    package init() {}
}

/// The initiator side of a login (RFC 7143 section 6).
public struct ISCSIInitiatorLogin {
    public enum Action: Equatable {
        case send(ISCSIPDU)
        case established(ISCSIInitiatorResult)
        case failed(status: UInt16, String)
    }

    private enum Step: Equatable {
        case method, algorithm, response, operational, done
    }

    private let request: ISCSIInitiatorRequest
    private let makeRandom: (Int) -> [UInt8]
    private var result = ISCSIInitiatorResult()
    private var step: Step
    private var expectedStatus: UInt32
    private var exchanges = 0
    private var challenge: [UInt8] = []
    private var challengeIdentifier: UInt8 = 0
    /// The server answered our challenge.
    private var isProved = false
    private var collected: [UInt8] = []
    private static let tag: UInt32 = 0x4453_5200

    public init(_ request: ISCSIInitiatorRequest, random: @escaping (Int) -> [UInt8]) {
        self.request = request
        makeRandom = random
        step = request.credential == nil ? .operational : .method
        expectedStatus = request.expectedStatus
        result.parameters = request.parameters
    }

    /// The first PDU to send.
    public mutating func start() -> ISCSIPDU {
        var text = ISCSIText([
            ("InitiatorName", request.initiatorName), ("TargetName", request.targetName),
            ("SessionType", "Normal"),
        ])
        if step == .method {
            text["AuthMethod"] = "CHAP,None"
            return pdu(text, stage: 0, transit: false)
        }
        addParameters(&text)
        return pdu(text, stage: 1, transit: true)
    }

    private func addParameters(_ text: inout ISCSIText) {
        text["HeaderDigest"] = "None"
        text["DataDigest"] = "None"
        for (key, _) in ISCSIParameters.rules { text[key] = request.parameters.text(key) }
        text["MaxRecvDataSegmentLength"] = String(request.maxReceive)
    }

    private func pdu(_ text: ISCSIText, stage: UInt8, transit: Bool) -> ISCSIPDU {
        var flags = stage << 2
        if transit { flags |= 0x80 | (stage == 0 ? 1 : 3) }
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.login, flags: flags, isImmediate: true)
        pdu.isid = request.isid
        pdu.initiatorTaskTag = Self.tag
        pdu.connectionID = request.connectionID
        pdu.commandSequence = request.commandSequence
        pdu.expectedStatus = expectedStatus
        pdu.data = text.encoded()
        return pdu
    }

    /// Takes the next PDU of the server.
    public mutating func receive(_ answer: ISCSIPDU) -> [Action] {
        guard step != .done else { return [] }
        exchanges += 1
        guard answer.opcode == ISCSIOpcode.loginResponse else {
            return fail(0xffff, "PDU 0x\(String(answer.opcode, radix: 16)) in login")
        }
        guard exchanges <= ISCSITargetLogin.exchangeMaximum else {
            return fail(0xffff, "login of too many exchanges")
        }
        let status = answer.field16(36)
        guard status == 0 else { return fail(status, Self.text(of: status)) }
        expectedStatus = answer.statusSequence &+ 1
        collected += answer.data
        if answer.flags & 0x40 != 0 {
            return [.send(pdu(ISCSIText(), stage: step == .operational ? 1 : 0, transit: false))]
        }
        let text: ISCSIText
        do throws(ISCSIError) {
            text = try ISCSIText(collected)
        } catch {
            return fail(0xffff, "\(error)")
        }
        collected = []
        switch step {
        case .method: return chooseMethod(answer, text)
        case .algorithm: return respond(text)
        case .response: return enterOperational(answer, text)
        case .operational: return finish(answer, text)
        case .done: return []
        }
    }

    private mutating func chooseMethod(_ answer: ISCSIPDU, _ text: ISCSIText) -> [Action] {
        switch text["AuthMethod"] {
        case "CHAP":
            step = .algorithm
            return [.send(pdu(ISCSIText([("CHAP_A", "5")]), stage: 0, transit: false))]
        default:
            // The server wants none: on to the parameters, unless it should have proved itself.
            if request.mutual != nil { return fail(0xffff, "server does not prove itself") }
            step = .response
            if answer.flags & 0x80 != 0 { return enterOperational(answer, text) }
            return [.send(pdu(ISCSIText(), stage: 0, transit: true))]
        }
    }

    private mutating func respond(_ text: ISCSIText) -> [Action] {
        guard let credential = request.credential, text["CHAP_A"] == "5",
            let identifier = text["CHAP_I"].flatMap(ISCSIText.number), identifier <= 255,
            let given = text["CHAP_C"].flatMap(ISCSIText.binary)
        else { return fail(0xffff, "bad CHAP challenge") }
        var answer = ISCSIText([
            ("CHAP_N", credential.user),
            (
                "CHAP_R",
                ISCSIText.hex(
                    CHAP.response(
                        identifier: UInt8(identifier), secret: credential.secret,
                        challenge: given))
            ),
        ])
        if request.mutual != nil {
            let random = makeRandom(17)
            challengeIdentifier = random[0]
            challenge = Array(random.dropFirst())
            answer["CHAP_I"] = String(challengeIdentifier)
            answer["CHAP_C"] = ISCSIText.hex(challenge)
        }
        step = .response
        return [.send(pdu(answer, stage: 0, transit: true))]
    }

    private mutating func enterOperational(_ answer: ISCSIPDU, _ text: ISCSIText) -> [Action] {
        // A server may answer first and change the stage in a later PDU.
        if let mutual = request.mutual, !isProved {
            let expected = CHAP.response(
                identifier: challengeIdentifier, secret: mutual.secret, challenge: challenge)
            guard text["CHAP_N"] == mutual.user,
                let given = text["CHAP_R"].flatMap(ISCSIText.binary),
                CHAP.areEqual(expected, given)
            else { return fail(0xffff, "server failed mutual CHAP") }
            isProved = true
        }
        guard answer.flags & 0x80 != 0 else {
            return [.send(pdu(ISCSIText(), stage: 0, transit: true))]
        }
        step = .operational
        var parameters = ISCSIText()
        addParameters(&parameters)
        return [.send(pdu(parameters, stage: 1, transit: true))]
    }

    private mutating func finish(_ answer: ISCSIPDU, _ text: ISCSIText) -> [Action] {
        for (key, value) in text.pairs {
            if key == "MaxRecvDataSegmentLength" {
                result.targetMaxReceive = ISCSIText.number(value)
            } else if ISCSIParameters.rule(key) != nil, value != "Irrelevant",
                !result.parameters.set(key, value)
            {
                return fail(0xffff, "\(key)=\(value)")
            }
        }
        guard answer.flags & 0x80 != 0, answer.flags & 3 == 3 else {
            return [.send(pdu(ISCSIText(), stage: 1, transit: true))]
        }
        if request.isStrict {
            for key in ISCSIParameters.shared
            where result.parameters.text(key) != request.parameters.text(key) {
                return fail(
                    0xffff,
                    "server agreed to \(key)=\(result.parameters.text(key) ?? "") where the "
                        + "client has \(request.parameters.text(key) ?? "")")
            }
        }
        step = .done
        result.tsih = answer.tsih
        result.nextStatus = expectedStatus
        result.expectedCommand = answer.expectedCommand
        result.maximumCommand = answer.maximumCommand
        return [.established(result)]
    }

    private mutating func fail(_ status: UInt16, _ reason: String) -> [Action] {
        step = .done
        return [.failed(status: status, reason)]
    }

    /// RFC 7143 section 11.13.5.
    public static func text(of status: UInt16) -> String {
        if let known = ISCSILoginStatus(rawValue: status) { return "\(known)" }
        if status >> 8 == 1 { return "redirection 0x\(String(status, radix: 16))" }
        return "status 0x\(String(status, radix: 16))"
    }
}
