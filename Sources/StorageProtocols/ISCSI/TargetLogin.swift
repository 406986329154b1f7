/// Status class and detail of a login response (RFC 7143 section 11.13.5).
public enum ISCSILoginStatus: UInt16, Sendable {
    case success = 0x0000
    case initiatorError = 0x0200
    case authenticationFailure = 0x0201
    case authorizationFailure = 0x0202
    case notFound = 0x0203
    case targetRemoved = 0x0204
    case unsupportedVersion = 0x0205
    case tooManyConnections = 0x0206
    case missingParameter = 0x0207
    case cannotIncludeInSession = 0x0208
    case sessionTypeNotSupported = 0x0209
    case sessionDoesNotExist = 0x020a
    case invalidDuringLogin = 0x020b
    case targetError = 0x0300
    case serviceUnavailable = 0x0301
    case outOfResources = 0x0302
}

/// What the target side wants of an initiator.
public struct ISCSILoginPolicy: Sendable {
    public var requiresCHAP: Bool
    /// Secret by user name; empty when nobody may log in.
    public var credentials: [ISCSICredential]
    /// Name and secret that we prove ourselves with to a given user, when the initiator asks for it.
    public var mutual: [String: ISCSICredential]
    /// What the server that has the resource negotiates; nil: it was never reached.
    public var server: ISCSIServerParameters?
    /// Commands that a session may have open; nil: what the server takes, 32 at most.
    public var commandWindow: UInt32?
    public init(
        requiresCHAP: Bool = false, credentials: [ISCSICredential] = [],
        mutual: [String: ISCSICredential] = [:], server: ISCSIServerParameters?
    ) {
        self.requiresCHAP = requiresCHAP
        self.credentials = credentials
        self.mutual = mutual
        self.server = server
    }
}

/// A session as the login made it.
public struct ISCSILoginResult: Equatable, Sendable {
    public var isDiscovery = false
    public var initiatorName = ""
    public var initiatorAlias: String?
    public var targetName: String?
    public var user: String?
    public var isid: [UInt8] = []
    public var tsih: UInt16 = 0
    public var connectionID: UInt16 = 0
    public var parameters = ISCSIParameters()
    /// What the initiator can receive (default 8192, RFC 7143 section 13.12).
    public var initiatorMaxReceive: UInt64 = 8_192
    /// CmdSN that the next command must have, StatSN that the next response has.
    public var expectedCommand: UInt32 = 0
    public var nextStatus: UInt32 = 0
    public var commandWindow: UInt32 = 32
    package init() {}
}

/// The target side of a login (RFC 7143 section 6): PDUs in, PDUs and a verdict out.
public struct ISCSITargetLogin {
    public enum Action: Equatable {
        case send(ISCSIPDU)
        case established(ISCSILoginResult)
        /// The response that says so was sent; the connection is to be closed.
        case failed(ISCSILoginStatus, String)
    }

    /// Says what a target wants; `target` is nil for a discovery session. Nil: no such target.
    public typealias Lookup = (_ target: String?, _ initiator: String) -> ISCSILoginPolicy?

    private enum CHAPState: Equatable {
        case none
        case chosen
        case challenged(identifier: UInt8, challenge: [UInt8])
        case done
    }

    private let lookup: Lookup
    private let newTSIH: UInt16
    private let makeRandom: (Int) -> [UInt8]
    private var result = ISCSILoginResult()
    private var policy: ISCSILoginPolicy?
    private var chap = CHAPState.none
    private var isFirst = true
    private var isEnded = false
    private var exchanges = 0
    private var collected: [UInt8] = []
    private var hasSentGroup = false
    /// FirstBurstLength was answered.
    private var hasFirstBurst = false
    private var hasDeclared = false
    private var stage: UInt8 = 0
    /// PDUs of one login: more is an attack or a loop.
    package static let exchangeMaximum = 32

    /// `tsih`: the session handle to give, not 0. `random` returns that many random octets.
    public init(
        tsih: UInt16, random: @escaping (Int) -> [UInt8], lookup: @escaping Lookup
    ) {
        newTSIH = tsih
        makeRandom = random
        self.lookup = lookup
    }

    /// Takes the next PDU of the connection.
    public mutating func receive(_ pdu: ISCSIPDU) -> [Action] {
        guard !isEnded else { return [] }
        exchanges += 1
        // RFC 7143 section 6.3.1: "any other PDU during login [...] the target MUST terminate"; the
        // status for it is "Invalid request during login".
        guard pdu.opcode == ISCSIOpcode.login else {
            return fail(pdu, .invalidDuringLogin, "PDU 0x\(String(pdu.opcode, radix: 16)) in login")
        }
        guard exchanges <= Self.exchangeMaximum else {
            return fail(pdu, .outOfResources, "login of too many exchanges")
        }
        let current = pdu.flags >> 2 & 3
        if isFirst {
            // RFC 7143 section 11.12.4: versions; only 0x00 exists.
            guard pdu[3] == 0 else { return fail(pdu, .unsupportedVersion, "version \(pdu[3])") }
            result.isid = pdu.isid
            result.connectionID = pdu.connectionID
            result.expectedCommand = pdu.commandSequence
            result.nextStatus = pdu.expectedStatus
            stage = current
        }
        guard current <= 1, current >= stage, pdu.isid == result.isid else {
            return fail(pdu, .initiatorError, "stage \(current) after \(stage)")
        }
        stage = current
        // RFC 7143 section 11.12.2: text that goes on (C) does not ask for the next stage (T).
        guard pdu.flags & 0xc0 != 0xc0 else {
            return fail(pdu, .initiatorError, "text that goes on asks for the next stage")
        }
        collected += pdu.data
        guard collected.count <= ISCSIText.maximumLength else {
            return fail(pdu, .outOfResources, "text too long")
        }
        if pdu.flags & 0x40 != 0 {  // C: the text goes on
            return [.send(response(to: pdu, text: ISCSIText(), flags: current << 2))]
        }
        let text: ISCSIText
        do throws(ISCSIError) {
            text = try ISCSIText(collected)
        } catch {
            return fail(pdu, .initiatorError, "\(error)")
        }
        collected = []
        if isFirst, let failure = takeNames(pdu, text) { return failure }
        isFirst = false
        return current == 0 ? security(pdu, text) : operational(pdu, text)
    }

    // MARK: First PDU

    // RFC 7143 section 6.1: "The initiator [...] MUST provide [...] InitiatorName"; TargetName unless the
    // session is a discovery session.
    private mutating func takeNames(_ pdu: ISCSIPDU, _ text: ISCSIText) -> [Action]? {
        guard let initiator = text["InitiatorName"], !initiator.isEmpty else {
            return fail(pdu, .missingParameter, "no InitiatorName")
        }
        result.initiatorName = initiator
        result.initiatorAlias = text["InitiatorAlias"]
        switch text["SessionType"] ?? "Normal" {
        case "Discovery": result.isDiscovery = true
        case "Normal": break
        case let other: return fail(pdu, .sessionTypeNotSupported, "SessionType \(other)")
        }
        guard pdu.tsih == 0 else {
            // Sessions have one connection each.
            return fail(pdu, .sessionDoesNotExist, "TSIH \(pdu.tsih)")
        }
        result.tsih = newTSIH
        if !result.isDiscovery {
            guard let target = text["TargetName"] else {
                return fail(pdu, .missingParameter, "no TargetName")
            }
            result.targetName = target
        }
        guard let policy = lookup(result.targetName, initiator) else {
            return fail(pdu, .notFound, "no target \(result.targetName ?? "")")
        }
        if !result.isDiscovery, policy.server == nil {
            return fail(pdu, .serviceUnavailable, "no server was reached yet")
        }
        self.policy = policy
        result.commandWindow =
            policy.commandWindow ?? max(1, min(32, policy.server?.commandWindow ?? 32))
        return nil
    }

    // MARK: Security

    private mutating func security(_ pdu: ISCSIPDU, _ text: ISCSIText) -> [Action] {
        var answer = ISCSIText()
        addGroup(&answer)
        let wantsTransit = pdu.flags & 0x80 != 0
        let next = pdu.flags & 3
        guard let policy else { return fail(pdu, .targetError, "no policy") }
        if let methods = text["AuthMethod"] {
            let offered = methods.split(separator: ",").map(String.init)
            if policy.requiresCHAP {
                guard offered.contains("CHAP") else {
                    return fail(pdu, .authenticationFailure, "CHAP is required")
                }
                answer["AuthMethod"] = "CHAP"
                chap = .chosen
                return [.send(response(to: pdu, text: answer, flags: 0))]
            }
            guard offered.contains("None") else {
                return fail(pdu, .authenticationFailure, "no common AuthMethod in \(methods)")
            }
            answer["AuthMethod"] = "None"
            chap = .done
        } else if chap == .chosen {
            return challenge(pdu, text, answer)
        } else if case .challenged(let identifier, let challenge) = chap {
            if let failure = verify(pdu, text, identifier, challenge, &answer) { return failure }
        }
        guard wantsTransit else { return [.send(response(to: pdu, text: answer, flags: 0))] }
        if policy.requiresCHAP, chap != .done {
            return fail(pdu, .authenticationFailure, "CHAP is required")
        }
        guard next == 1 || next == 3 else {
            return fail(pdu, .initiatorError, "next stage \(next)")
        }
        stage = next
        if next == 3 { return establish(pdu, answer, from: 0) }
        return [.send(response(to: pdu, text: answer, flags: 0x80 | next))]
    }

    private mutating func challenge(
        _ pdu: ISCSIPDU, _ text: ISCSIText, _ answer: ISCSIText
    ) -> [Action] {
        // RFC 7143 section 12.1.3: CHAP_A=<A1,A2...>; 5 is MD5.
        let algorithms = (text["CHAP_A"] ?? "").split(separator: ",")
        guard algorithms.contains("5") else {
            return fail(pdu, .authenticationFailure, "CHAP algorithm \(text["CHAP_A"] ?? "none")")
        }
        let random = makeRandom(17)
        let challenge = Array(random.dropFirst())
        var answer = answer
        answer["CHAP_A"] = "5"
        answer["CHAP_I"] = String(random[0])
        answer["CHAP_C"] = ISCSIText.hex(challenge)
        chap = .challenged(identifier: random[0], challenge: challenge)
        return [.send(response(to: pdu, text: answer, flags: 0))]
    }

    private mutating func verify(
        _ pdu: ISCSIPDU, _ text: ISCSIText, _ identifier: UInt8, _ challenge: [UInt8],
        _ answer: inout ISCSIText
    ) -> [Action]? {
        guard let policy, let name = text["CHAP_N"],
            let given = text["CHAP_R"].flatMap(ISCSIText.binary)
        else { return fail(pdu, .authenticationFailure, "CHAP_N or CHAP_R missing") }
        let credential = policy.credentials.first { $0.user == name }
        // Computed for unknown names too, so that names cannot be told from the time.
        let expected = CHAP.response(
            identifier: identifier, secret: credential?.secret ?? "", challenge: challenge)
        guard credential != nil, CHAP.areEqual(expected, given) else {
            return fail(pdu, .authenticationFailure, "CHAP of user \(name)")
        }
        result.user = name
        chap = .done
        guard let identifierText = text["CHAP_I"] else { return nil }
        // RFC 7143 section 12.1.3: "the originator [...] MUST NOT [use] a challenge that [...] is the
        // same": a reflected challenge would let an attacker answer with our own response.
        guard let mutual = policy.mutual[name], let number = ISCSIText.number(identifierText),
            number <= 255, let own = text["CHAP_C"].flatMap(ISCSIText.binary), own != challenge,
            !own.isEmpty
        else { return fail(pdu, .authenticationFailure, "mutual CHAP of user \(name)") }
        answer["CHAP_N"] = mutual.user
        answer["CHAP_R"] = ISCSIText.hex(
            CHAP.response(
                identifier: UInt8(number), secret: mutual.secret, challenge: own))
        return nil
    }

    // MARK: Operational parameters

    private mutating func operational(_ pdu: ISCSIPDU, _ text: ISCSIText) -> [Action] {
        guard let policy else { return fail(pdu, .targetError, "no policy") }
        if policy.requiresCHAP, chap != .done {
            return fail(pdu, .authenticationFailure, "CHAP is required")
        }
        var answer = ISCSIText()
        addGroup(&answer)
        for (key, value) in text.pairs {
            if let failure = negotiate(pdu, key, value, &answer) { return failure }
        }
        if let failure = boundFirstBurst(pdu, &answer) { return failure }
        declare(&answer)
        // An initiator takes 8192 octets until the login is over (RFC 7143 section 13.12).
        guard answer.encoded().count <= 8_192 else {
            return fail(pdu, .outOfResources, "\(text.pairs.count) keys")
        }
        let wantsTransit = pdu.flags & 0x80 != 0
        guard wantsTransit else { return [.send(response(to: pdu, text: answer, flags: 1 << 2))] }
        guard pdu.flags & 3 == 3 else {
            return fail(pdu, .initiatorError, "next stage \(pdu.flags & 3)")
        }
        return establish(pdu, answer, from: 1)
    }

    private mutating func negotiate(
        _ pdu: ISCSIPDU, _ key: String, _ value: String, _ answer: inout ISCSIText
    ) -> [Action]? {
        let limits = policy?.server?.limits ?? ISCSIParameters()
        switch key {
        case "InitiatorName", "InitiatorAlias", "TargetName", "SessionType", "AuthMethod": break
        case "MaxRecvDataSegmentLength":
            guard let number = ISCSIText.number(value), (512...16_777_215).contains(number) else {
                return fail(pdu, .initiatorError, "\(key)=\(value)")
            }
            result.initiatorMaxReceive = number
        case "HeaderDigest", "DataDigest":
            // Edits of the header would break a header digest; servers are asked for none too.
            answer[key] = value.split(separator: ",").contains("None") ? "None" : "Reject"
        case "IFMarker", "OFMarker": answer[key] = "No"
        case "IFMarkInt", "OFMarkInt": answer[key] = "Irrelevant"
        case "iSCSIProtocolLevel", "TaskReporting": answer[key] = "NotUnderstood"
        default:
            guard ISCSIParameters.rule(key) != nil else {
                answer[key] = "NotUnderstood"
                return nil
            }
            guard let agreed = limits.result(key, offer: value) else {
                return fail(pdu, .initiatorError, "\(key)=\(value)")
            }
            // RFC 7143 section 13: irrelevant keys of a discovery session are answered all the same.
            _ = result.parameters.set(key, agreed)
            answer[key] = agreed
        }
        return nil
    }

    // RFC 7143 section 13.14: "FirstBurstLength MUST NOT exceed MaxBurstLength".
    /// Lowers an answer to FirstBurstLength that is beyond the agreed MaxBurstLength, wherever the two stand
    /// in the text. What was agreed before cannot be lowered any more.
    private mutating func boundFirstBurst(
        _ pdu: ISCSIPDU, _ answer: inout ISCSIText
    ) -> [Action]? {
        let maximum = result.parameters.maxBurstLength
        if answer["FirstBurstLength"] != nil { hasFirstBurst = true }
        guard result.parameters.firstBurstLength > maximum else { return nil }
        if let index = answer.pairs.firstIndex(where: { $0.key == "FirstBurstLength" }) {
            answer.pairs[index].value = String(maximum)
        } else if hasFirstBurst {
            return fail(
                pdu, .initiatorError,
                "MaxBurstLength=\(maximum) below the agreed FirstBurstLength")
        }
        // The default that nobody named is bounded by the other key as well.
        result.parameters.firstBurstLength = maximum
        return nil
    }

    /// Tells once what the server behind can receive.
    private mutating func declare(_ answer: inout ISCSIText) {
        guard !hasDeclared else { return }
        hasDeclared = true
        if result.isDiscovery {
            answer["MaxRecvDataSegmentLength"] = "8192"
        } else if let own = policy?.server?.maxReceiveDataSegmentLength {
            answer["MaxRecvDataSegmentLength"] = String(own)
        }
    }

    // RFC 7143 section 13.9: "[the target] MUST return the TargetPortalGroupTag [...] in the first Login
    // Response PDU with the C bit set to 0".
    private mutating func addGroup(_ answer: inout ISCSIText) {
        guard !hasSentGroup, !result.isDiscovery else { return }
        hasSentGroup = true
        answer["TargetPortalGroupTag"] = "1"
    }

    // MARK: Responses

    private mutating func establish(
        _ pdu: ISCSIPDU, _ answer: ISCSIText, from stage: UInt8
    ) -> [Action] {
        isEnded = true
        var final = response(to: pdu, text: answer, flags: 0x80 | stage << 2 | 3)
        final.tsih = result.tsih
        return [.send(final), .established(result)]
    }

    private mutating func response(
        to pdu: ISCSIPDU, text: ISCSIText, flags: UInt8, status: ISCSILoginStatus = .success
    ) -> ISCSIPDU {
        var answer = ISCSIPDU(opcode: ISCSIOpcode.loginResponse, flags: flags)
        answer.isid = pdu.isid
        answer.tsih = pdu.tsih
        answer.initiatorTaskTag = pdu.initiatorTaskTag
        answer.statusSequence = result.nextStatus
        answer.expectedCommand = result.expectedCommand
        answer.maximumCommand = result.expectedCommand &+ result.commandWindow &- 1
        answer.setField16(status.rawValue, 36)
        answer.data = text.encoded()
        result.nextStatus &+= 1
        return answer
    }

    private mutating func fail(
        _ pdu: ISCSIPDU, _ status: ISCSILoginStatus, _ reason: String
    ) -> [Action] {
        isEnded = true
        return [
            .send(response(to: pdu, text: ISCSIText(), flags: pdu.flags & 0x0c, status: status)),
            .failed(status, reason),
        ]
    }
}
