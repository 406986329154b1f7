/// Looks whether a server serves a target, and how it negotiates: login with generous offers, REPORT LUNS,
/// TEST UNIT READY, logout. The login proves that the target is there; that a unit is ready, the rest.
public struct ISCSIServerProbe {
    public enum Action: Equatable {
        case send(ISCSIPDU)
        case finished(Outcome)
    }
    public struct Outcome: Equatable, Sendable {
        public var parameters: ISCSIServerParameters
        /// TEST UNIT READY of a logical unit ended with GOOD. Unit 0 counts only where there is no other:
        /// where there are others it may be a controller, which is ready always.
        public var isReady: Bool
        /// When it was asked for: what tells the units apart, each by its 8 octets of LUN.
        public var identity: [[UInt8]: UnitIdentity] = [:]
    }

    /// What stays the same when the same unit is reached through another server.
    public struct UnitIdentity: Equatable, Sendable {
        /// READ CAPACITY(10): last block and block length (SPC/SBC-3 section 5.15).
        public var capacity: [UInt8] = []
        /// Designators of the unit, not those of the port or target, of VPD page 83h (SPC-4 section 7.8.6).
        public var designators: [[UInt8]] = []
    }

    private enum Step {
        case login, report(UInt32), test(UInt32)
        case capacity(UInt32), designators(UInt32)
        case logout, done
    }
    private var login: ISCSIInitiatorLogin
    private var step = Step.login
    private var result = ISCSIInitiatorResult()
    /// Commands sent, and of those the ones to the unit that is asked now.
    private var commands: UInt32 = 0
    private var attempts = 0
    private var isReady = false
    private var report: [UInt8] = []
    /// Logical units to ask, each as its 8 octets.
    private var units: [[UInt8]] = []
    private let wantsIdentity: Bool
    private var identity: [[UInt8]: UnitIdentity] = [:]
    private var unnamed: [[UInt8]] = []
    private var answer: [UInt8] = []

    /// Units that are asked at most, and octets of their list that are read.
    private static let unitMaximum = 8
    private static let reportLength = 8 + 8 * 64

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
        initiatorName: String, targetName: String,
        credential: ISCSICredential? = nil, mutual: ISCSICredential? = nil,
        wantsIdentity: Bool = false, random: @escaping (Int) -> [UInt8]
    ) {
        self.wantsIdentity = wantsIdentity
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
        case .report(let tag):
            guard pdu.initiatorTaskTag == tag else { return [] }
            return reported(pdu)
        case .test(let tag):
            guard pdu.opcode == ISCSIOpcode.scsiResponse, pdu.initiatorTaskTag == tag else {
                return []  // a NOP-In or an asynchronous message
            }
            result.nextStatus = pdu.statusSequence &+ 1
            return tested(status: pdu[3])
        case .capacity(let tag), .designators(let tag):
            guard pdu.initiatorTaskTag == tag else { return [] }
            return identified(pdu)
        case .logout, .done:
            guard pdu.opcode == ISCSIOpcode.logoutResponse else { return [] }
            step = .done
            return [.finished(outcome)]
        }
    }

    public struct ProbeFailure: Error, Equatable, Sendable {
        public var reason: String
        /// The server serves, but has no such target.
        public var isTargetMissing: Bool
        public init(reason: String, isTargetMissing: Bool = false) {
            self.reason = reason
            self.isTargetMissing = isTargetMissing
        }
    }

    private var outcome: Outcome {
        let window = result.maximumCommand &- result.expectedCommand &+ 1
        return Outcome(
            parameters: ISCSIServerParameters(
                limits: result.parameters, maxReceiveDataSegmentLength: result.targetMaxReceive,
                commandWindow: window > 0 && window < 65_536 ? window : 1), isReady: isReady,
            identity: identity)
    }

    private mutating func continueLogin(
        _ pdu: ISCSIPDU
    ) throws(ProbeFailure) -> [Action] {
        var actions: [Action] = []
        for action in login.receive(pdu) {
            switch action {
            case .send(let next): actions.append(.send(next))
            case .failed(let status, let reason):
                throw ProbeFailure(
                    reason: "login: \(reason)",
                    isTargetMissing: status == ISCSILoginStatus.notFound.rawValue)
            case .established(let session):
                result = session
                actions.append(.send(reportUnits()))
            }
        }
        return actions
    }

    private mutating func command(unit: [UInt8], flags: UInt8) -> ISCSIPDU {
        commands += 1
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.scsiCommand, flags: flags)
        for (index, octet) in unit.prefix(8).enumerated() { pdu[8 + index] = octet }
        pdu.initiatorTaskTag = commands
        pdu.commandSequence = commands
        pdu.expectedStatus = result.nextStatus
        return pdu
    }

    /// SPC-4 section 6.33: every target answers it at unit 0.
    private mutating func reportUnits() -> ISCSIPDU {
        var pdu = command(unit: [], flags: 0xc1)
        pdu.setField32(UInt32(Self.reportLength), 20)
        pdu[32] = 0xa0
        pdu.setField32(UInt32(Self.reportLength), 38)
        step = .report(commands)
        return pdu
    }

    /// Takes data, and the status that comes with the last of it or behind.
    private mutating func reported(_ pdu: ISCSIPDU) -> [Action] {
        switch pdu.opcode {
        case ISCSIOpcode.dataIn:
            report += pdu.data.prefix(Self.reportLength - report.count)
            guard pdu.flags & 1 != 0 else { return [] }
        case ISCSIOpcode.scsiResponse: break
        default: return []
        }
        result.nextStatus = pdu.statusSequence &+ 1
        units = pdu[3] == 0 ? Self.units(in: report) : []
        unnamed = wantsIdentity ? units : []
        // What does not tell its units has unit 0.
        if units.isEmpty { units = [[UInt8](repeating: 0, count: 8)] }
        return [.send(testUnitReady())]
    }

    /// Units of a list (SPC-4 table 284) that tell whether there is storage.
    static func units(in report: [UInt8]) -> [[UInt8]] {
        guard report.count >= 8 else { return [] }
        let length = report[..<4].reduce(0) { $0 << 8 | Int($1) }
        let count = min(length, report.count - 8) / 8
        let all = (0..<count).map { Array(report[(8 + $0 * 8)..<(16 + $0 * 8)]) }
        let others = all.filter { $0.contains { $0 != 0 } }
        return Array((others.isEmpty ? all : others).prefix(unitMaximum))
    }

    /// SPC-4 section 6.45; a CDB of zeros.
    private mutating func testUnitReady() -> ISCSIPDU {
        attempts += 1
        let pdu = command(unit: units[0], flags: 0x81)
        step = .test(commands)
        return pdu
    }

    private mutating func tested(status: UInt8) -> [Action] {
        // A new nexus reports a unit attention (SAM-5 section 5.14): asked again it is ready.
        if status == 2, attempts < 4 { return [.send(testUnitReady())] }
        isReady = status == 0
        units.removeFirst()
        if !isReady, !units.isEmpty {
            attempts = 0
            return [.send(testUnitReady())]
        }
        return [.send(nextIdentityOrLogout())]
    }

    // MARK: Identity

    private mutating func nextIdentityOrLogout() -> ISCSIPDU {
        guard isReady, let unit = unnamed.first else { return logout() }
        // READ CAPACITY(10), SBC-3 section 5.15.
        var pdu = command(unit: unit, flags: 0xc1)
        pdu.setField32(8, 20)
        pdu[32] = 0x25
        answer = []
        step = .capacity(commands)
        return pdu
    }

    private mutating func askDesignators(_ unit: [UInt8]) -> ISCSIPDU {
        // INQUIRY with EVPD, page 83h, SPC-4 section 6.6.
        var pdu = command(unit: unit, flags: 0xc1)
        pdu.setField32(1_024, 20)
        pdu[32] = 0x12
        pdu[33] = 1
        pdu[34] = 0x83
        pdu[35] = 4
        answer = []
        step = .designators(commands)
        return pdu
    }

    private mutating func identified(_ pdu: ISCSIPDU) -> [Action] {
        switch pdu.opcode {
        case ISCSIOpcode.dataIn:
            answer += pdu.data.prefix(1_024 - min(1_024, answer.count))
            guard pdu.flags & 1 != 0 else { return [] }
        case ISCSIOpcode.scsiResponse: break
        default: return []
        }
        result.nextStatus = pdu.statusSequence &+ 1
        guard let unit = unnamed.first else { return [.send(logout())] }
        // A unit attention of this nexus: asked again it answers.
        if pdu[3] == 2, attempts < 8 {
            attempts += 1
            if case .capacity = step { return [.send(nextIdentityOrLogout())] }
            return [.send(askDesignators(unit))]
        }
        if case .capacity = step {
            identity[unit, default: UnitIdentity()].capacity = pdu[3] == 0 ? answer : []
            return [.send(askDesignators(unit))]
        }
        identity[unit, default: UnitIdentity()].designators =
            pdu[3] == 0 ? Self.designators(in: answer) : []
        unnamed.removeFirst()
        return [.send(nextIdentityOrLogout())]
    }

    /// Designators whose association is the logical unit (SPC-4 table 589: association 00b), sorted.
    static func designators(in page: [UInt8]) -> [[UInt8]] {
        var result: [[UInt8]] = []
        var offset = 4
        while offset + 4 <= page.count {
            let end = offset + 4 + Int(page[offset + 3])
            guard end <= page.count else { break }
            if page[offset + 1] >> 4 & 3 == 0 { result.append(Array(page[offset..<end])) }
            offset = end
        }
        return result.sorted { $0.lexicographicallyPrecedes($1) }
    }

    private mutating func logout() -> ISCSIPDU {
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.logout, flags: 0x80, isImmediate: true)
        pdu.initiatorTaskTag = 0x8000_0000
        pdu.commandSequence = commands &+ 1
        pdu.expectedStatus = result.nextStatus
        step = .logout
        return pdu
    }
}
