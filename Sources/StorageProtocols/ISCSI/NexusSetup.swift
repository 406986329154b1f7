/// What a client's session had at its server beyond open tasks, by logical unit: made anew at another one.
public struct ISCSIReservation: Equatable, Sendable {
    /// Registered key (SPC-4 section 5.13.5); nil: not registered.
    public var key: UInt64?
    /// Type of the persistent reservation that is held; nil: none is.
    public var type: UInt8?
    /// RESERVE(6) of SPC-2 section 7.21.
    public var isReserved = false
    public init() {}
    public var isEmpty: Bool { key == nil && type == nil && !isReserved }
}

/// Makes a new I_T nexus take the place of an old one, before anything of the client goes to it: unit attentions
/// are taken up here, reservations made again.
///
/// SAM-5 section 5.14.1: a nexus that comes into being has a unit attention condition at each logical unit; it is
/// reported once, with the first command. To the client nothing has happened, so it must not see it.
///
/// All commands are marked for immediate delivery (RFC 7143 section 4.2.2.1): they take no CmdSN.
public struct ISCSINexusSetup {
    public enum Action: Equatable {
        case send(ISCSIPDU)
        /// Nothing is left to be done.
        case ready
        /// The client would find less than it had.
        case failed(String)
    }

    private enum Step { case report, attention, register, reserve }
    private struct Pending {
        var unit: [UInt8]
        var step: Step
        var tries: Int
    }

    private var result: ISCSIInitiatorResult
    private let reservations: [UInt64: ISCSIReservation]
    private var pending: [UInt32: Pending] = [:]
    private var nextTag = Self.firstTag
    private var report: [UInt8] = []
    private var isDone = false

    /// Task tags of our own. The client's tasks of the old session are not sent before the last is over.
    private static let firstTag: UInt32 = 0xd5a0_0000
    private static let unitMaximum = 64
    private static let reportLength = 8 + 8 * unitMaximum
    private static let tryMaximum = 8

    /// - Parameter result: of the login; its StatSN is followed and handed back.
    public init(_ result: ISCSIInitiatorResult, reservations: [UInt64: ISCSIReservation] = [:]) {
        self.result = result
        self.reservations = reservations
    }

    /// As it is after the commands so far.
    public var session: ISCSIInitiatorResult { result }

    /// SPC-4 section 6.33: every target answers REPORT LUNS at unit 0, unit attention or not.
    public mutating func start() -> ISCSIPDU {
        var pdu = command(unit: [], flags: 0xc1, Pending(unit: [], step: .report, tries: 0))
        pdu.setField32(UInt32(Self.reportLength), 20)
        pdu[32] = 0xa0
        pdu.setField32(UInt32(Self.reportLength), 38)
        return pdu
    }

    private mutating func command(unit: [UInt8], flags: UInt8, _ entry: Pending) -> ISCSIPDU {
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.scsiCommand, flags: flags, isImmediate: true)
        for (index, octet) in unit.prefix(8).enumerated() { pdu[8 + index] = octet }
        pdu.initiatorTaskTag = nextTag
        pdu.commandSequence = result.expectedCommand
        pdu.expectedStatus = result.nextStatus
        pending[nextTag] = entry
        nextTag &+= 1
        return pdu
    }

    public mutating func receive(_ pdu: ISCSIPDU) -> [Action] {
        guard !isDone else { return [] }
        if pdu.opcode == ISCSIOpcode.dataIn,
            let entry = pending[pdu.initiatorTaskTag], entry.step == .report
        {
            report += pdu.data.prefix(Self.reportLength - report.count)
            guard pdu.flags & 1 != 0 else { return [] }
        } else if pdu.opcode == ISCSIOpcode.readyToTransfer {
            return [.failed("the server wants data for a command that carried it")]
        } else if pdu.opcode == ISCSIOpcode.reject {
            return [.failed("the server rejects a command, reason \(pdu[2])")]
        } else if pdu.opcode != ISCSIOpcode.scsiResponse {
            return []
        }
        result.nextStatus = pdu.statusSequence &+ 1
        result.maximumCommand = pdu.maximumCommand
        guard let entry = pending.removeValue(forKey: pdu.initiatorTaskTag) else { return [] }
        var actions = answered(entry, status: pdu[3]).map { Action.send($0) }
        if case .failed(let reason)? = failure(entry, status: pdu[3]) {
            isDone = true
            return [.failed(reason)]
        }
        if pending.isEmpty {
            isDone = true
            actions.append(.ready)
        }
        return actions
    }

    private mutating func answered(_ entry: Pending, status: UInt8) -> [ISCSIPDU] {
        switch entry.step {
        case .report:
            var units = status == 0 ? Self.units(in: report) : []
            for unit in reservations.keys.sorted() where !units.contains(Self.octets(unit)) {
                units.append(Self.octets(unit))
            }
            if units.isEmpty { units = [[UInt8](repeating: 0, count: 8)] }
            return units.map { testUnitReady($0, tries: 0) }
        case .attention:
            // Each attention takes one command; a unit may have several (SAM-5 section 5.14.3).
            if status == 2, entry.tries + 1 < Self.tryMaximum {
                return [testUnitReady(entry.unit, tries: entry.tries + 1)]
            }
            return reserveAgain(entry.unit)
        case .register:
            guard status == 0, let type = reservation(entry.unit)?.type else { return [] }
            return [persistentReserve(entry.unit, action: 1, type: type, step: .reserve)]
        case .reserve: return []
        }
    }

    private func failure(_ entry: Pending, status: UInt8) -> Action? {
        guard status != 0 else { return nil }
        switch entry.step {
        case .register: return .failed("the reservation key cannot be registered, status \(status)")
        case .reserve: return .failed("the reservation cannot be had again, status \(status)")
        case .report, .attention: return nil
        }
    }

    private static func units(in report: [UInt8]) -> [[UInt8]] {
        guard report.count >= 8 else { return [] }
        let length = report[..<4].reduce(0) { $0 << 8 | Int($1) }
        let count = min(min(length, report.count - 8) / 8, unitMaximum)
        return (0..<count).map { Array(report[(8 + $0 * 8)..<(16 + $0 * 8)]) }
    }

    private static func octets(_ unit: UInt64) -> [UInt8] {
        (0..<8).map { UInt8(truncatingIfNeeded: unit >> UInt64(56 - $0 * 8)) }
    }

    private func reservation(_ unit: [UInt8]) -> ISCSIReservation? {
        reservations[unit.reduce(0) { $0 << 8 | UInt64($1) }]
    }

    private mutating func testUnitReady(_ unit: [UInt8], tries: Int) -> ISCSIPDU {
        command(unit: unit, flags: 0x81, Pending(unit: unit, step: .attention, tries: tries))
    }

    /// Registered first: a reservation is held by a registered nexus only (SPC-4 section 5.13.6).
    private mutating func reserveAgain(_ unit: [UInt8]) -> [ISCSIPDU] {
        guard let wanted = reservation(unit), !wanted.isEmpty else { return [] }
        if wanted.isReserved {
            var pdu = command(
                unit: unit, flags: 0x81, Pending(unit: unit, step: .reserve, tries: 0))
            pdu[32] = 0x16
            return [pdu]
        }
        // REGISTER AND IGNORE EXISTING KEY (SPC-4 table 209, service action 06h).
        return [persistentReserve(unit, action: 6, type: 0, step: .register)]
    }

    private mutating func persistentReserve(
        _ unit: [UInt8], action: UInt8, type: UInt8, step: Step
    ) -> ISCSIPDU {
        var pdu = command(unit: unit, flags: 0xa1, Pending(unit: unit, step: step, tries: 0))
        pdu.setField32(24, 20)
        pdu[32] = 0x5f
        pdu[33] = action
        pdu[34] = type
        pdu[40] = 24
        let key = Self.octets(reservation(unit)?.key ?? 0)
        let none = [UInt8](repeating: 0, count: 8)
        // The key goes into the second field when it is registered, into the first when it is used.
        pdu.data = (action == 6 ? none + key : key + none) + none
        return pdu
    }
}
