import DataPlane
import Logging
import StorageProtocols

/// A SCSI command to a member of a volume.
final class MemberRequest {
    enum Outcome {
        /// The member's server has answered. `sense`: as it came, empty when there was none.
        case answered(status: UInt8, sense: [UInt8])
        /// There is nobody to answer it.
        case lost(String)
    }

    /// Octets that go with a command: pieces of what a client has sent, one behind the other.
    struct Payload {
        var octets: [UInt8] = []
        var pieces: [Range<Int>] = []
        var count = 0

        init() {}

        init(_ octets: [UInt8]) { self.init(octets, pieces: [0..<octets.count]) }

        init(_ octets: [UInt8], pieces: [Range<Int>]) {
            self.octets = octets
            self.pieces = pieces
            count = pieces.reduce(0) { $0 + $1.count }
        }

        /// Gives `length` octets from `offset` on to `body`, in as many parts as they lie in.
        func forEach(
            from offset: Int, length: Int, _ body: (UnsafeRawBufferPointer) -> Void
        ) {
            var (skipped, left) = (offset, length)
            octets.withUnsafeBytes { bytes in
                for piece in pieces where left > 0 {
                    guard skipped < piece.count else {
                        skipped -= piece.count
                        continue
                    }
                    let start = piece.lowerBound + skipped
                    let count = min(left, piece.upperBound - start)
                    body(UnsafeRawBufferPointer(rebasing: bytes[start..<start + count]))
                    left -= count
                    skipped = 0
                }
            }
        }
    }

    /// 16 octets.
    let block: [UInt8]
    let payload: Payload
    /// Octets that it may bring.
    let inputLength: Int
    /// Some of them, at an offset: to be copied, nothing else.
    let onData: (Int, UnsafeRawBufferPointer) -> Void
    let onEnd: (Outcome) -> Void
    /// What has come is void: servers send data, of any contents, also with a condition.
    let onAgain: () -> Void
    fileprivate(set) var tag: UInt32 = 0
    fileprivate(set) var startedAt: UInt64 = 0

    init(
        _ block: [UInt8], payload: Payload = Payload(), inputLength: Int = 0,
        onData: @escaping (Int, UnsafeRawBufferPointer) -> Void = { _, _ in },
        onAgain: @escaping () -> Void = {}, onEnd: @escaping (Outcome) -> Void
    ) {
        self.block = block
        self.payload = payload
        self.inputLength = inputLength
        self.onData = onData
        self.onAgain = onAgain
        self.onEnd = onEnd
    }
}

/// One resource that a volume is made of, as one session uses it: the initiator's side of a nexus, which finds
/// another server by itself when the resource has one.
///
/// Lives on the session thread. Callbacks come in a round of the loop of their own, never from within `send`.
final class VolumeMember: ISCSINexusOwner {
    let resource: Resource
    let login: ISCSILoginResult
    private let id: SpliceID
    private let client: Leg
    private let engine: SessionEngine
    private let portal: ISCSIPortal
    private let summary: () -> SessionSummary?
    private(set) var nexus: ISCSINexus?
    private var requests: [UInt32: MemberRequest] = [:]
    /// Task management that is open: its function's outcome.
    private var functions: [UInt32: (UInt8?) -> Void] = [:]
    private var nextTag: UInt32 = 1
    private var nextCommand = VolumeMember.firstCommand
    private var expectedStatus: UInt32 = 1
    private var isFed = false
    /// Nothing was answered yet.
    private var isNew = false
    /// What is to happen in a round of its own.
    private var later: [() -> Void] = []
    private var isDrainPosted = false
    /// The nexus has lost its server, and looks for another.
    var onServerLost: (_ reason: String) -> Void = { _ in }

    private static let firstCommand: UInt32 = 1

    /// - Parameter client: what the connection to a server is to be like; its socket is not touched.
    init(
        _ resource: Resource, id: SpliceID, login: ISCSILoginResult, client: Leg,
        engine: SessionEngine, portal: ISCSIPortal, summary: @escaping () -> SessionSummary?
    ) {
        self.resource = resource
        self.id = id
        self.login = login
        self.client = client
        self.engine = engine
        self.portal = portal
        self.summary = summary
    }

    var openRequests: Int { requests.count }

    // MARK: Requests

    /// `flush` sends it.
    func send(_ request: MemberRequest) {
        guard let nexus = reach(), let unit = portal.serverUnit(of: resource.name) else {
            return after { request.onEnd(.lost("nobody has seen \(self.resource.name) yet")) }
        }
        request.tag = takeTag()
        request.startedAt = engine.loop.now
        requests[request.tag] = request
        let length = request.payload.count
        // RFC 7143 section 11.3.1: F, for no data comes unasked behind this PDU; the task is a simple one.
        var flags: UInt8 = 0x81
        if length > 0 { flags |= 0x20 }
        if request.inputLength > 0 { flags |= 0x40 }
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.scsiCommand, flags: flags)
        for (index, octet) in unit.prefix(8).enumerated() { pdu[8 + index] = octet }
        pdu.initiatorTaskTag = request.tag
        pdu.setField32(UInt32(clamping: length > 0 ? length : request.inputLength), 20)
        pdu.commandSequence = nextCommand
        nextCommand &+= 1
        pdu.expectedStatus = expectedStatus
        for (index, octet) in request.block.prefix(16).enumerated() { pdu[32 + index] = octet }
        let immediate = login.parameters.immediateData ? min(length, immediateMaximum) : 0
        feed(pdu, request.payload, from: 0, count: immediate, to: nexus)
    }

    /// RFC 7143 sections 13.12 and 13.14: immediate data is within FirstBurstLength and one data segment.
    private var immediateMaximum: Int {
        min(Int(login.parameters.firstBurstLength), segmentMaximum)
    }

    private var segmentMaximum: Int { Int(portal.toldMaximumSegment(login)) & ~3 }

    private func feed(
        _ pdu: ISCSIPDU, _ payload: MemberRequest.Payload, from offset: Int, count: Int,
        to nexus: ISCSINexus
    ) {
        var header = pdu.header
        header[5] = UInt8(truncatingIfNeeded: count >> 16)
        header[6] = UInt8(truncatingIfNeeded: count >> 8)
        header[7] = UInt8(truncatingIfNeeded: count)
        header.withUnsafeBytes { nexus.feed($0) }
        payload.forEach(from: offset, length: count) { nexus.feed($0) }
        let padding: [UInt8] = [0, 0, 0]
        let rest = (4 - count & 3) & 3
        if rest > 0 { padding[..<rest].withUnsafeBytes { nexus.feed($0) } }
        isFed = true
    }

    private func takeTag() -> UInt32 {
        while requests[nextTag] != nil || functions[nextTag] != nil
            || nextTag == ISCSIPDU.reservedTag
        { nextTag &+= 1 }
        defer { nextTag &+= 1 }
        return nextTag
    }

    /// What was given goes out.
    func flush() {
        guard isFed else { return }
        isFed = false
        nexus?.flush()
    }

    /// Carries out a task management function (RFC 7143 section 11.5.1). `then` gets the response; nil: there is no
    /// server, so that nothing of the session's is open there.
    /// - Parameter request: the task that it is about.
    func manage(
        _ function: UInt8, _ request: MemberRequest? = nil, then: @escaping (UInt8?) -> Void
    ) {
        guard let nexus, let unit = portal.serverUnit(of: resource.name) else {
            return after { then(nil) }
        }
        let tag = takeTag()
        functions[tag] = then
        var pdu = ISCSIPDU(
            opcode: ISCSIOpcode.taskManagement, flags: 0x80 | function, isImmediate: true)
        for (index, octet) in unit.prefix(8).enumerated() { pdu[8 + index] = octet }
        pdu.initiatorTaskTag = tag
        pdu.setField32(request?.tag ?? ISCSIPDU.reservedTag, 20)
        pdu.commandSequence = nextCommand
        pdu.expectedStatus = expectedStatus
        // RefCmdSN: of one of the commands before; the tag says which.
        pdu.setField32(nextCommand &- 1, 32)
        feed(pdu, MemberRequest.Payload(), from: 0, count: 0, to: nexus)
    }

    /// What comes of these is of no interest any more.
    func forget(_ request: MemberRequest) { requests[request.tag] = nil }
    func forgetAll() { requests = [:] }

    /// Ends everything that is open, and the nexus; the next request makes another.
    func leave(_ reason: String) {
        guard let nexus else { return }
        self.nexus = nil
        engine.traffic.add(nexus)
        portal.leave(nexus)
        nexus.end(reason, reset: true)
        let open = requests.values.sorted { $0.tag < $1.tag }
        let answers = Array(functions.values)
        requests = [:]
        functions = [:]
        stream.reset()
        gathered = []
        isFed = false
        after {
            for request in open { request.onEnd(.lost(reason)) }
            for answer in answers { answer(nil) }
        }
    }

    private func reach() -> ISCSINexus? {
        if let nexus { return nexus }
        var leg = client
        leg.descriptor = -1
        nextCommand = Self.firstCommand
        expectedStatus = 1
        isNew = true
        let made = ISCSINexus(
            resource, id: id, login: login, client: leg, owner: self, engine: engine,
            portal: portal, onClientOutput: { [weak self] in self?.read() })
        made.relay.difference.assignsCommands = true
        nexus = made
        portal.join(made)
        return made
    }

    private func after(_ body: @escaping () -> Void) {
        later.append(body)
        guard !isDrainPosted else { return }
        isDrainPosted = true
        engine.loop.postLocal { [weak self] in
            guard let self else { return }
            isDrainPosted = false
            let due = later
            later = []
            for body in due { body() }
            flush()
        }
    }

    // MARK: Answers

    private let stream = PDUStream()
    /// Data of the present PDU that belongs to no command's.
    private var gathered: [UInt8] = []

    /// Octets of the server wait in the nexus. All are taken; nothing is sent from here.
    private func read() {
        guard let nexus else { return }
        nexus.redirect.output.toClient.drain { bytes in
            stream.take(
                bytes, begin: { _ in },
                part: { header, offset, part in
                    if header[0] & 0x3f == ISCSIOpcode.dataIn {
                        let place = Int(header.field32(40)) + offset
                        requests[header.field32(16)]?.onData(place, part)
                    } else {
                        gathered += part
                    }
                },
                end: { header in
                    let data = gathered
                    gathered = []
                    take(header, data)
                })
            return bytes.count
        }
    }

    private func take(_ header: [UInt8], _ data: [UInt8]) {
        let tag = header.field32(16)
        let opcode = header[0] & 0x3f
        let isNumbered =
            switch opcode {
            case ISCSIOpcode.dataIn: header[1] & 1 != 0
            case ISCSIOpcode.readyToTransfer: false
            case ISCSIOpcode.nopIn: tag != ISCSIPDU.reservedTag
            default: true
            }
        if isNumbered { expectedStatus = header.field32(24) &+ 1 }
        switch opcode {
        case ISCSIOpcode.dataIn where header[1] & 1 != 0:
            finish(tag, .answered(status: header[3], sense: []))
        case ISCSIOpcode.scsiResponse:
            // RFC 7143 section 11.4.3: 00h, the command was completed at the target.
            guard header[2] == 0 else {
                return finish(
                    tag, .answered(status: 2, sense: SCSISense.abortedByFailure.fixed))
            }
            // Section 11.4.7.2: the sense data is behind its length.
            let length = data.count >= 2 ? Int(data[0]) << 8 | Int(data[1]) : 0
            finish(
                tag,
                .answered(status: header[3], sense: Array(data.dropFirst(2).prefix(length))))
        case ISCSIOpcode.readyToTransfer: after { [weak self] in self?.transfer(header) }
        case ISCSIOpcode.taskManagementResponse:
            guard let then = functions.removeValue(forKey: tag) else { return }
            after { then(header[2]) }
        case ISCSIOpcode.reject:
            // The header of what is rejected is the data (section 11.17).
            guard data.count >= ISCSIPDU.headerLength else { return }
            finish(
                data.field32(16), .answered(status: 2, sense: SCSISense.abortedByFailure.fixed))
        case ISCSIOpcode.nopIn where tag == ISCSIPDU.reservedTag:
            after { [weak self] in self?.answerPing(header) }
        default: break
        }
    }

    private func finish(_ tag: UInt32, _ outcome: MemberRequest.Outcome) {
        guard let request = requests.removeValue(forKey: tag) else { return }
        if isNew, case .answered(let status, let sense) = outcome {
            // SAM-5 section 5.14.1: a nexus that comes into being has a condition. It is ours and not the client's,
            // which has done nothing.
            isNew = false
            if status == 2, let known = SCSISense(sense), known.key == 6, known.code == 0x29 {
                return after { [weak self] in
                    request.onAgain()
                    self?.send(request)
                }
            }
        }
        after { request.onEnd(outcome) }
    }

    /// RFC 7143 section 11.8: the octets that the server asks for, in data segments that it takes.
    private func transfer(_ ready: [UInt8]) {
        guard let nexus, let request = requests[ready.field32(16)] else { return }
        var offset = Int(ready.field32(40))
        let end = offset + Int(ready.field32(44))
        guard end <= request.payload.count, segmentMaximum > 0 else {
            return finish(
                request.tag, .answered(status: 2, sense: SCSISense.abortedByFailure.fixed))
        }
        var number: UInt32 = 0
        while offset < end {
            let count = min(segmentMaximum, end - offset)
            var pdu = ISCSIPDU(
                opcode: ISCSIOpcode.dataOut, flags: offset + count == end ? 0x80 : 0)
            for index in 8..<16 { pdu[index] = ready[index] }
            pdu.initiatorTaskTag = request.tag
            pdu.targetTransferTag = ready.field32(20)
            pdu.expectedStatus = expectedStatus
            pdu.setField32(number, 36)
            pdu.setField32(UInt32(offset), 40)
            feed(pdu, request.payload, from: offset, count: count, to: nexus)
            offset += count
            number += 1
        }
    }

    /// RFC 7143 section 11.18: with the tag and the LUN of the question.
    private func answerPing(_ question: [UInt8]) {
        guard let nexus, question.field32(20) != ISCSIPDU.reservedTag else { return }
        var answer = ISCSIPDU(opcode: ISCSIOpcode.nopOut, flags: 0x80, isImmediate: true)
        for index in 8..<16 { answer[index] = question[index] }
        answer.initiatorTaskTag = ISCSIPDU.reservedTag
        answer.targetTransferTag = question.field32(20)
        answer.commandSequence = nextCommand
        answer.expectedStatus = expectedStatus
        feed(answer, MemberRequest.Payload(), from: 0, count: 0, to: nexus)
    }

    // MARK: The nexus

    var sessionSummary: SessionSummary? { summary() }

    var position: ISCSIClientPosition {
        ISCSIClientPosition(
            nextCommand: Self.firstCommand, nextStatus: 1, expectedCommand: Self.firstCommand,
            maximumCommand: Self.firstCommand &- 1)
    }

    func nexus(_ nexus: ISCSINexus, refused waiting: [UInt8], reason: String) {
        guard nexus === self.nexus else { return }
        leave(reason)
    }

    func nexus(_ nexus: ISCSINexus, ended reason: String) {
        guard nexus === self.nexus else { return }
        leave(reason)
    }

    func nexusLostServer(_ nexus: ISCSINexus) {
        guard nexus === self.nexus else { return }
        after { [weak self] in
            guard let self, self.nexus === nexus else { return }
            onServerLost("\(nexus.serverName ?? "its server") is lost")
        }
    }

    func nexusHasForeign(_ nexus: ISCSINexus) {}
    func nexusMayLeave(_ nexus: ISCSINexus) -> Bool { true }
}
