/// Looks whether a server serves a target, and how it negotiates: login with generous offers, TEST UNIT READY,
/// logout.
public struct ISCSIServerProbe {
    public enum Action: Equatable {
        case send(ISCSIPDU)
        case finished(Outcome)
    }
    public struct Outcome: Equatable, Sendable {
        public var parameters: ISCSIServerParameters
        /// TEST UNIT READY ended with GOOD, or a unit attention that was absorbed.
        public var isReady: Bool
    }

    private enum Step { case login, test(UInt32), logout, done }
    private var login: ISCSIInitiatorLogin
    private var step = Step.login
    private var result = ISCSIInitiatorResult()
    private var attempts = 0
    private var isReady = false
    private let unit: UInt8

    /// Offers beyond what any server takes: its answers are its limits.
    public static var generous: ISCSIParameters {
        var offer = ISCSIParameters()
        offer.initialR2T = false
        offer.maxBurstLength = 16_776_192
        offer.firstBurstLength = 16_776_192
        offer.maxOutstandingR2T = 16
        offer.defaultTime2Wait = 0
        offer.defaultTime2Retain = 20
        return offer
    }

    public init(
        initiatorName: String, targetName: String, unit: UInt8 = 1,
        credential: ISCSICredential? = nil, mutual: ISCSICredential? = nil,
        random: @escaping (Int) -> [UInt8]
    ) {
        self.unit = unit
        login = ISCSIInitiatorLogin(
            ISCSIInitiatorRequest(
                initiatorName: initiatorName, targetName: targetName,
                isid: [0x80] + random(5), parameters: Self.generous, credential: credential,
                mutual: mutual, isStrict: false), random: random)
    }

    public mutating func start() -> ISCSIPDU { login.start() }

    /// Takes the next PDU; throws nothing: a failure is `.failed`.
    public mutating func receive(_ pdu: ISCSIPDU) throws(ProbeFailure) -> [Action] {
        switch step {
        case .login: return try continueLogin(pdu)
        case .test(let tag):
            guard pdu.opcode == ISCSIOpcode.scsiResponse, pdu.initiatorTaskTag == tag else {
                return []  // a NOP-In or an asynchronous message
            }
            result.nextStatus = pdu.statusSequence &+ 1
            return tested(status: pdu[3])
        case .logout, .done:
            guard pdu.opcode == ISCSIOpcode.logoutResponse else { return [] }
            step = .done
            return [.finished(outcome)]
        }
    }

    public struct ProbeFailure: Error, Equatable, Sendable {
        public var reason: String
        public init(reason: String) { self.reason = reason }
    }

    private var outcome: Outcome {
        let window = result.maximumCommand &- result.expectedCommand &+ 1
        return Outcome(
            parameters: ISCSIServerParameters(
                limits: result.parameters, maxReceiveDataSegmentLength: result.targetMaxReceive,
                commandWindow: window > 0 && window < 65_536 ? window : 1), isReady: isReady)
    }

    private mutating func continueLogin(
        _ pdu: ISCSIPDU
    ) throws(ProbeFailure) -> [Action] {
        var actions: [Action] = []
        for action in login.receive(pdu) {
            switch action {
            case .send(let next): actions.append(.send(next))
            case .failed(_, let reason): throw ProbeFailure(reason: "login: \(reason)")
            case .established(let session):
                result = session
                actions.append(.send(testUnitReady()))
            }
        }
        return actions
    }

    /// SPC-4 section 6.45; a CDB of zeros.
    private mutating func testUnitReady() -> ISCSIPDU {
        attempts += 1
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.scsiCommand, flags: 0x81)
        pdu[9] = unit
        pdu.initiatorTaskTag = UInt32(attempts)
        pdu.commandSequence = 1 &+ UInt32(attempts) &- 1
        pdu.expectedStatus = result.nextStatus
        step = .test(UInt32(attempts))
        return pdu
    }

    private mutating func tested(status: UInt8) -> [Action] {
        // A new nexus reports a unit attention (SAM-5 section 5.14): asked again it is ready.
        if status == 2, attempts < 4 { return [.send(testUnitReady())] }
        isReady = status == 0
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.logout, flags: 0x80, isImmediate: true)
        pdu.initiatorTaskTag = 0x100
        pdu.commandSequence = UInt32(attempts) &+ 1
        pdu.expectedStatus = result.nextStatus
        step = .logout
        return [.send(pdu)]
    }
}
