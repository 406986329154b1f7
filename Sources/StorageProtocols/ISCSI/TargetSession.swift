/// The target side of a logged-in session that no server serves yet: answers what the DSR can answer itself,
/// says when a server is needed.
public struct ISCSITargetSession {
    public enum Action: Equatable {
        case send(ISCSIPDU)
        /// Only a server can answer this PDU.
        case needServer
        /// Logged out: close when what was sent is out.
        case close
    }

    public private(set) var nextStatus: UInt32
    public private(set) var expectedCommand: UInt32
    public let login: ISCSILoginResult
    private var discovery: ISCSIDiscovery

    /// `targets`: what SendTargets tells.
    public init(_ login: ISCSILoginResult, discovery: ISCSIDiscovery) {
        self.login = login
        self.discovery = discovery
        nextStatus = login.nextStatus
        expectedCommand = login.expectedCommand
    }

    private var maximumCommand: UInt32 { expectedCommand &+ login.commandWindow &- 1 }

    /// Takes the next PDU of the client.
    public mutating func receive(_ pdu: ISCSIPDU) -> [Action] {
        switch pdu.opcode {
        case ISCSIOpcode.nopOut:
            advance(pdu)
            // RFC 7143 section 11.18: an Initiator Task Tag of 0xffffffff asks for no response.
            guard pdu.initiatorTaskTag != ISCSIPDU.reservedTag else { return [] }
            var answer = ISCSIPDU(opcode: ISCSIOpcode.nopIn, flags: 0x80)
            answer.targetTransferTag = ISCSIPDU.reservedTag
            answer.data = Array(pdu.data.prefix(Int(login.initiatorMaxReceive)))
            return [.send(stamp(answer, for: pdu))]
        case ISCSIOpcode.text:
            advance(pdu)
            do throws(ISCSIRejectReason) {
                return [.send(stamp(try discovery.answer(pdu, login: login), for: pdu))]
            } catch {
                return [reject(pdu, error)]
            }
        case ISCSIOpcode.logout:
            advance(pdu)
            var answer = ISCSIPDU(opcode: ISCSIOpcode.logoutResponse, flags: 0x80)
            // Reason 2 asks for recovery, which needs ErrorRecoveryLevel 2 (section 11.15.1).
            answer[2] = pdu.flags & 0x7f == 2 ? 2 : 0
            return [.send(stamp(answer, for: pdu)), .close]
        case ISCSIOpcode.scsiCommand, ISCSIOpcode.taskManagement:
            return login.isDiscovery ? [reject(pdu)] : [.needServer]
        case ISCSIOpcode.dataOut where !login.isDiscovery:
            return []  // data of a command that was answered with an error
        default: return [reject(pdu)]
        }
    }

    // RFC 7143 section 4.2.2.1: commands for immediate delivery do not advance CmdSN.
    private mutating func advance(_ pdu: ISCSIPDU) {
        if !pdu.isImmediate, pdu.commandSequence == expectedCommand { expectedCommand &+= 1 }
    }

    private mutating func stamp(_ answer: ISCSIPDU, for pdu: ISCSIPDU) -> ISCSIPDU {
        var answer = answer
        answer.initiatorTaskTag = pdu.initiatorTaskTag
        answer.statusSequence = nextStatus
        answer.expectedCommand = expectedCommand
        answer.maximumCommand = maximumCommand
        nextStatus &+= 1
        return answer
    }

    /// The answer to a PDU that needed a server when none could be had: the command ends with CHECK
    /// CONDITION, a task management function is rejected.
    public mutating func refuse(_ pdu: ISCSIPDU, sense: (key: UInt8, code: UInt8, qualifier: UInt8))
        -> [Action]
    {
        advance(pdu)
        switch pdu.opcode {
        case ISCSIOpcode.scsiCommand:
            var answer = ISCSIPDU(opcode: ISCSIOpcode.scsiResponse, flags: 0x80)
            answer[3] = 0x02  // CHECK CONDITION
            // Fixed format (SPC-4 section 4.5.3), behind its length (RFC 7143 section 11.4.7.2).
            var data = [UInt8](repeating: 0, count: 18)
            data[0] = 0x70
            data[2] = sense.key
            data[7] = 10
            data[12] = sense.code
            data[13] = sense.qualifier
            answer.data = [0, 18] + data
            return [.send(stamp(answer, for: pdu))]
        case ISCSIOpcode.taskManagement:
            var answer = ISCSIPDU(opcode: ISCSIOpcode.taskManagementResponse, flags: 0x80)
            answer[2] = 0xff  // function rejected (RFC 7143 section 11.6.1)
            return [.send(stamp(answer, for: pdu))]
        default: return receive(pdu)
        }
    }

    private mutating func reject(_ pdu: ISCSIPDU) -> Action {
        reject(pdu, login.isDiscovery ? .commandNotSupported : .protocolError)
    }

    private mutating func reject(_ pdu: ISCSIPDU, _ reason: ISCSIRejectReason) -> Action {
        let answer = ISCSIPDU(rejecting: pdu, reason)
        var stamped = stamp(answer, for: pdu)
        stamped.initiatorTaskTag = ISCSIPDU.reservedTag
        return .send(stamped)
    }
}

extension ISCSIPDU {
    /// A Reject with the header of what is rejected (RFC 7143 section 11.17); sequence numbers are the
    /// caller's.
    public init(rejecting pdu: ISCSIPDU, _ reason: ISCSIRejectReason) {
        self.init(rejecting: pdu.header, reason)
    }

    public init(rejecting header: [UInt8], _ reason: ISCSIRejectReason) {
        self.init(opcode: ISCSIOpcode.reject, flags: 0x80)
        self[2] = reason.rawValue
        initiatorTaskTag = Self.reservedTag
        data = header
    }
}

/// Why a PDU is rejected (RFC 7143 section 11.17.1).
public enum ISCSIRejectReason: UInt8, Error, Equatable, Sendable {
    case protocolError = 0x04
    case commandNotSupported = 0x05
    case taskInProgress = 0x07
    case invalidField = 0x09
}

/// Answers Text requests: SendTargets (RFC 7143 appendix C).
public struct ISCSIDiscovery: Sendable {
    public struct Target: Sendable {
        public var name: String
        /// `address:port`, IPv6 in brackets; without the portal group.
        public var addresses: [String]
        public init(name: String, addresses: [String]) {
            self.name = name
            self.addresses = addresses
        }
    }

    private let targets: [Target]
    /// Parts of a request whose rest is still to come.
    private var gathered: [UInt8] = []
    /// Rest of an answer that did not fit.
    private var rest: [UInt8] = []
    /// The tag that the next request of the exchange must have; nil: none goes on.
    private var expectedTag: UInt32?
    private var tag: UInt32 = 0

    public init(targets: [Target]) { self.targets = targets }

    /// A Text response; sequence numbers and task tag are the caller's. After a throw the exchange is over.
    public mutating func answer(
        _ pdu: ISCSIPDU, login: ISCSILoginResult
    ) throws(ISCSIRejectReason) -> ISCSIPDU {
        let isContinued = pdu.flags & 0x40 != 0
        let isFinal = pdu.flags & 0x80 != 0
        do throws(ISCSIRejectReason) {
            try enter(pdu)
            // RFC 7143 section 11.10.2: "A Text Request with the C bit set to 1 MUST have the F bit set
            // to 0".
            if isContinued, isFinal { throw ISCSIRejectReason.protocolError }
            gathered += pdu.data
            guard gathered.count <= ISCSIText.maximumLength else {
                throw ISCSIRejectReason.protocolError
            }
            // The same section: it is answered "with no data segment", until the rest is there.
            guard !isContinued else { return response([], flags: 0) }
            if rest.isEmpty {
                guard let text = try? ISCSIText(gathered) else {
                    throw ISCSIRejectReason.protocolError
                }
                rest = reply(to: text, login: login).encoded()
            } else if !gathered.isEmpty {
                // Between the parts of our answer there is nothing to be said.
                throw ISCSIRejectReason.protocolError
            }
        } catch {
            reset()
            throw error
        }
        gathered = []
        let limit = max(512, Int(login.initiatorMaxReceive))
        let part = Array(rest.prefix(limit))
        rest.removeFirst(part.count)
        if !rest.isEmpty { return response(part, flags: 0x40) }
        // Section 11.11.1: F=1 in answer to F=0 is a protocol error.
        return response(part, flags: isFinal ? 0x80 : 0)
    }

    /// A request that goes on has the tag of the last answer; one without a tag begins anew.
    private mutating func enter(_ pdu: ISCSIPDU) throws(ISCSIRejectReason) {
        guard pdu.targetTransferTag != ISCSIPDU.reservedTag else { return reset() }
        guard pdu.targetTransferTag == expectedTag else { throw .invalidField }
    }

    private mutating func reset() {
        gathered = []
        rest = []
        expectedTag = nil
    }

    /// A tag other than 0xffffffff says that the exchange goes on (RFC 7143 section 11.11.4).
    private mutating func response(_ data: [UInt8], flags: UInt8) -> ISCSIPDU {
        var answer = ISCSIPDU(opcode: ISCSIOpcode.textResponse, flags: flags)
        answer.data = data
        if flags & 0x80 != 0 {
            expectedTag = nil
        } else {
            tag = tag == ISCSIPDU.reservedTag &- 1 ? 1 : tag &+ 1
            expectedTag = tag
        }
        answer.targetTransferTag = expectedTag ?? ISCSIPDU.reservedTag
        return answer
    }

    private func reply(to text: ISCSIText, login: ISCSILoginResult) -> ISCSIText {
        var result = ISCSIText()
        for (key, value) in text.pairs {
            guard key == "SendTargets" else {
                result.pairs.append((key, "NotUnderstood"))
                continue
            }
            // All in discovery sessions only; an empty value means the session's own target.
            if value == "All", !login.isDiscovery {
                result.pairs.append((key, "Reject"))
                continue
            }
            let wanted = value.isEmpty ? login.targetName : value
            for target in targets where value == "All" || target.name == wanted {
                result.pairs.append(("TargetName", target.name))
                for address in target.addresses {
                    result.pairs.append(("TargetAddress", "\(address),1"))
                }
            }
        }
        return result
    }
}
