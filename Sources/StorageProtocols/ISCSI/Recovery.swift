/// A request that was open when its server was lost.
public struct ISCSIOpenTask: Sendable {
    public var tag: UInt32
    /// The command and the Data-Outs that followed it, as the client sent them: whole PDUs.
    public var octets: [UInt8]
    /// False: some octets are missing, so that it cannot be sent again.
    public var isWhole: Bool
    /// Newest headers of Data-In and R2T that were passed to the client.
    public var dataIn: [UInt8]?
    public var readyToTransfer: [UInt8]?

    public init(
        tag: UInt32, octets: [UInt8], isWhole: Bool, dataIn: [UInt8]?, readyToTransfer: [UInt8]?
    ) {
        self.tag = tag
        self.octets = octets
        self.isWhole = isWhole
        self.dataIn = dataIn
        self.readyToTransfer = readyToTransfer
    }
}

/// A PDU that was on its way to the client when its server was lost.
public struct ISCSIUnfinishedReply: Sendable {
    /// As the client gets it.
    public var header: [UInt8]
    /// Its data segment when that was kept; that of a Data-In is read again.
    public var data: [UInt8]?
    /// The task that it ends, when it ends one.
    public var ended: ISCSIOpenTask?
    /// Octets of it that the client has.
    public var delivered: Int

    public init(header: [UInt8], data: [UInt8]?, ended: ISCSIOpenTask?, delivered: Int = 0) {
        self.header = header
        self.data = data
        self.ended = ended
        self.delivered = delivered
    }
}

/// Where the client's numbering stands.
public struct ISCSIClientPosition: Sendable {
    /// CmdSN that its next command has.
    public var nextCommand: UInt32
    /// StatSN that it expects next.
    public var nextStatus: UInt32
    /// Newest ExpCmdSN and MaxCmdSN that it was told.
    public var expectedCommand: UInt32
    public var maximumCommand: UInt32
    public init(
        nextCommand: UInt32, nextStatus: UInt32, expectedCommand: UInt32, maximumCommand: UInt32
    ) {
        self.nextCommand = nextCommand
        self.nextStatus = nextStatus
        self.expectedCommand = expectedCommand
        self.maximumCommand = maximumCommand
    }
}

/// Lets a new server finish what an old one began, without the client noticing: open tasks are sent again, in
/// their order; what the client has of their replies is left out; PDUs that it has in part are completed.
///
/// The rules, with their sources, are in DESIGN.md, "Requests in flight". Octets in, actions out.
public struct ISCSIRecovery {
    public enum Action: Equatable {
        /// Octets that complete PDUs which the client has in part.
        case complete([UInt8])
        /// A PDU for the client, numbered.
        case toClient(ISCSIPDU)
        case toServer(ISCSIPDU)
        /// The session cannot be saved.
        case failed(String)
    }

    struct Task {
        var tag: UInt32
        /// The command, as the client sent it.
        var command: ISCSIPDU
        /// Data of a write, from offset 0 on without a gap, and up to where the client was asked for it.
        var data: [UInt8] = []
        var asked = 0
        /// Numbers of R2T and Data-In that the client expects next, and up to where it has data, or will
        /// have when the unfinished replies are complete.
        var nextTransfer: UInt32 = 0
        var nextData: UInt32 = 0
        var passed = 0
        /// The new server's R2T that is being answered.
        var transfer: Transfer?
        var waiting: [Transfer] = []
        /// Its end was told to the client: it is only asked again for its data.
        var isEnded = false
        var isSent = false
        var attentions = 0
        var unsolicited: [ISCSIPDU] = []
        var opcode: UInt8 { command.opcode }
    }

    struct Transfer {
        var tag: UInt32
        var offset: Int
        var end: Int
        var sent: Int
        var dataSequence: UInt32 = 0
    }

    private(set) var tasks: [UInt32: Task] = [:]
    /// Tasks that are not sent yet, in order.
    private var unsent: [UInt32] = []
    private var replies: [ISCSIUnfinishedReply]
    /// Data that was read again for unfinished replies, by task, from offset 0 on. It outlives its task: replies
    /// are completed in their order.
    private var fetched: [UInt32: [UInt8]] = [:]
    private var client: ISCSIClientPosition
    private var server: ISCSIInitiatorResult
    private var nextCommand: UInt32
    private let maximumSegment: Int
    /// New CmdSN by old one, for task management.
    private var renumbered: [UInt32: UInt32] = [:]
    /// What the new server says to the client and must wait until the unfinished replies are complete.
    private var deferred: [ISCSIPDU] = []
    /// PDUs of the client beyond the new server's window.
    private var queued: [ISCSIPDU] = []
    private var nextOwnTag: UInt32 = 0x4453_0000
    private var pings: Set<UInt32> = []
    /// Those of an old server that the client has not answered yet.
    private var stalePings: Set<UInt32>
    /// Task management of the client that is on its way to the new server.
    private var management: [UInt32: ISCSIPDU] = [:]
    /// Tasks of the old session that are over: data that still comes for them is nobody's.
    private var gone: Set<UInt32> = []
    /// Those of them for which data may still come, until the client has acknowledged this StatSN: it sends
    /// none for a task whose end it knows.
    private var late: Set<UInt32> = []
    private var lateUntil: UInt32?
    /// Answers of our own to tasks that cannot be sent again, and to Text requests.
    private var ownAnswers: [ISCSIPDU] = []
    private static let attentionMaximum = 8
    private static let queueMaximum = 1_024

    /// CmdSN of the new login, so that the client's next command has the right number there.
    public let firstCommand: UInt32

    /// - Parameter requests: in the order in which the client sent them.
    /// - Parameter answers: finished answers of our own, which only need numbers.
    /// - Parameter pings: transfer tags of NOP-Ins that the client will still answer.
    /// - Parameter maximumSegment: longest data segment that the server takes.
    public init(
        requests: [ISCSIOpenTask], replies: [ISCSIUnfinishedReply], client: ISCSIClientPosition,
        answers: [ISCSIPDU] = [], pings: Set<UInt32> = [], maximumSegment: Int
    ) {
        self.replies = replies
        stalePings = pings
        self.client = client
        self.maximumSegment = max(512, maximumSegment)
        server = ISCSIInitiatorResult()
        ownAnswers = answers
        var order: [UInt32] = []
        var made: [UInt32: Task] = [:]
        var refused: [ISCSIPDU] = []
        let unfinished = Set(
            replies.filter { $0.header[0] & 0x3f == ISCSIOpcode.dataIn }
                .map { Self.field($0.header, 16) })
        // Ended ones first: they came before those that are open still, or beside them.
        for ended in replies.compactMap(\.ended) where unfinished.contains(ended.tag) {
            guard made[ended.tag] == nil, var task = Self.task(ended) else { continue }
            task.isEnded = true
            made[ended.tag] = task
            order.append(ended.tag)
        }
        for request in requests {
            guard request.isWhole, let task = Self.task(request) else {
                if let answer = Self.refusal(request) { refused.append(answer) }
                gone.insert(request.tag)
                if Self.isWrite(request.octets) { late.insert(request.tag) }
                continue
            }
            if made[request.tag] != nil { order.removeAll { $0 == request.tag } }
            made[request.tag] = task
            order.append(request.tag)
        }
        for tag in unfinished where made[tag] != nil { fetched[tag] = [] }
        // Reads for what the client has in part go first: until they are done it can be asked for nothing, and a
        // write that waits for it may have taken all of the window.
        order = order.filter(unfinished.contains) + order.filter { !unfinished.contains($0) }
        tasks = made
        unsent = order
        ownAnswers += refused
        let count = order.filter { made[$0]?.command.isImmediate == false }.count
        firstCommand = client.nextCommand &- UInt32(count)
        nextCommand = firstCommand
    }

    static func field(_ header: [UInt8], _ offset: Int) -> UInt32 {
        header[offset..<offset + 4].reduce(0) { $0 << 8 | UInt32($1) }
    }

    /// A command with the W bit (RFC 7143 section 11.3.1).
    private static func isWrite(_ header: [UInt8]) -> Bool {
        header.count >= ISCSIPDU.headerLength
            && header[0] & 0x3f == ISCSIOpcode.scsiCommand && header[1] & 0x20 != 0
    }

    private static func length(_ header: [UInt8]) -> Int {
        Int(header[5]) << 16 | Int(header[6]) << 8 | Int(header[7])
    }

    private static func task(_ request: ISCSIOpenTask) -> Task? {
        var reader = ISCSIPDUReader(dataMaximum: 1 << 24)
        reader.append(request.octets)
        guard let command = try? reader.next() else { return nil }
        var task = Task(tag: request.tag, command: command)
        task.data = command.data
        while let pdu = try? reader.next() {
            guard pdu.opcode == ISCSIOpcode.dataOut else { continue }
            task.take(pdu)
            if pdu.targetTransferTag == ISCSIPDU.reservedTag { task.unsolicited.append(pdu) }
        }
        task.asked = task.data.count
        if let header = request.readyToTransfer {
            // RFC 7143 section 11.8: Buffer Offset at 40, Desired Data Transfer Length at 44.
            task.nextTransfer = field(header, 36) &+ 1
            task.asked = max(task.asked, Int(field(header, 40)) + Int(field(header, 44)))
        }
        if let header = request.dataIn {
            // Section 11.7: DataSN at 36, Buffer Offset at 40.
            task.nextData = field(header, 36) &+ 1
            task.passed = Int(field(header, 40)) + length(header)
        }
        return task
    }

    // SAM-5 section 5.3.1, BUSY: "the logical unit is busy [...] the recommended application client
    // recovery action is to issue the command again at a later time".
    /// For a task of which octets are missing.
    private static func refusal(_ request: ISCSIOpenTask) -> ISCSIPDU? {
        let opcode = (request.octets.first ?? ISCSIOpcode.scsiCommand) & 0x3f
        var answer: ISCSIPDU
        switch opcode {
        case ISCSIOpcode.scsiCommand:
            answer = ISCSIPDU(opcode: ISCSIOpcode.scsiResponse, flags: 0x80)
            answer[3] = 0x08
            if let header = request.dataIn { answer.setField32(field(header, 36) &+ 1, 36) }
        case ISCSIOpcode.nopOut:
            answer = ISCSIPDU(opcode: ISCSIOpcode.nopIn, flags: 0x80)
            answer.targetTransferTag = ISCSIPDU.reservedTag
        default: return nil
        }
        answer.initiatorTaskTag = request.tag
        return answer
    }

    // MARK: State

    /// Nothing is left of the old session: what comes now passes with constants.
    public var isFinished: Bool {
        tasks.isEmpty && replies.isEmpty && deferred.isEmpty && queued.isEmpty
            && ownAnswers.isEmpty && late.isEmpty && stalePings.isEmpty
            // A command beyond what a server takes would be lost without a word.
            && Int32(bitPattern: server.maximumCommand &- client.maximumCommand) >= 0
    }
    public var openTasks: Int { tasks.count }
    /// Answers that were given to `init` and not said yet: the next recovery's, when this one is not to be.
    public var unsaidAnswers: [ISCSIPDU] {
        ownAnswers.filter {
            $0.opcode == ISCSIOpcode.textResponse || $0.opcode == ISCSIOpcode.reject
        }
    }
    /// StatSN that the client and the server have next.
    public var nextStatus: (client: UInt32, server: UInt32) {
        (client.nextStatus, server.nextStatus)
    }

    /// The new server is logged in to and its nexus made.
    public mutating func start(_ session: ISCSIInitiatorResult) -> [Action] {
        server = session
        // The login's number is the first command's (RFC 7143 section 11.12.9).
        var actions = completeReplies()
        actions += sendTasks()
        return actions
    }

    // MARK: To the server

    private func isInWindow(_ number: UInt32) -> Bool {
        Int32(bitPattern: server.maximumCommand &- number) >= 0
    }

    private mutating func sendTasks() -> [Action] {
        var actions: [Action] = []
        while let tag = unsent.first, var task = tasks[tag] {
            if !task.command.isImmediate, !isInWindow(nextCommand) { return actions }
            unsent.removeFirst()
            var pdu = numbered(task.command)
            renumbered[pdu.commandSequence] = nextCommand
            pdu.commandSequence = nextCommand
            if !pdu.isImmediate { nextCommand &+= 1 }
            task.isSent = true
            tasks[tag] = task
            actions.append(.toServer(pdu))
            for var data in task.unsolicited {
                data.expectedStatus = server.nextStatus
                actions.append(.toServer(data))
            }
        }
        while unsent.isEmpty, let pdu = queued.first,
            pdu.isImmediate || pdu.opcode == ISCSIOpcode.dataOut || isInWindow(pdu.commandSequence)
        {
            queued.removeFirst()
            actions.append(.toServer(numbered(pdu)))
        }
        return actions
    }

    /// As the server gets it, once all that came before it is sent.
    private func numbered(_ pdu: ISCSIPDU) -> ISCSIPDU {
        var pdu = pdu
        pdu.expectedStatus = server.nextStatus
        if pdu.opcode == ISCSIOpcode.taskManagement {
            // RFC 7143 section 11.5.6: RefCmdSN is the number of the task that is meant.
            let reference = pdu.field32(32)
            pdu.setField32(renumbered[reference] ?? reference, 32)
        }
        return pdu
    }

    // MARK: From the client

    /// A PDU that the client sends while the recovery goes on.
    public mutating func receiveFromClient(_ pdu: ISCSIPDU) -> [Action] {
        if let wanted = lateUntil, Int32(bitPattern: pdu.expectedStatus &- wanted) >= 0,
            ownAnswers.isEmpty, deferred.isEmpty
        {
            late = []
            lateUntil = nil
        }
        switch pdu.opcode {
        case ISCSIOpcode.dataOut: return receiveData(pdu)
        case ISCSIOpcode.nopOut where pdu.initiatorTaskTag == ISCSIPDU.reservedTag:
            // The answer to a question of the old server's says nothing to the new one.
            stalePings.remove(pdu.targetTransferTag)
            guard
                pdu.targetTransferTag == ISCSIPDU.reservedTag
                    || pings.remove(pdu.targetTransferTag) != nil
            else { return [] }
            return [.toServer(numbered(pdu))]
        default: break
        }
        if !pdu.isImmediate { client.nextCommand = pdu.commandSequence &+ 1 }
        // A tag that is used anew names another task.
        gone.remove(pdu.initiatorTaskTag)
        late.remove(pdu.initiatorTaskTag)
        if pdu.opcode == ISCSIOpcode.taskManagement { management[pdu.initiatorTaskTag] = pdu }
        // Behind what came before it, and within what the server takes.
        guard unsent.isEmpty, queued.isEmpty, pdu.isImmediate || isInWindow(pdu.commandSequence)
        else {
            guard queued.count < Self.queueMaximum else {
                return [.failed("the client sends more than the new server takes")]
            }
            queued.append(pdu)
            return []
        }
        return [.toServer(numbered(pdu))]
    }

    private mutating func receiveData(_ pdu: ISCSIPDU) -> [Action] {
        let tag = pdu.initiatorTaskTag
        guard var task = tasks[tag] else {
            if gone.contains(tag) { return [] }
            // Unsolicited data follows its command, which may still wait.
            if let place = queued.lastIndex(where: { $0.initiatorTaskTag == tag }) {
                queued.insert(pdu, at: place + 1)
                return []
            }
            return [.toServer(numbered(pdu))]
        }
        task.take(pdu)
        tasks[tag] = task
        if pdu.targetTransferTag == ISCSIPDU.reservedTag {
            tasks[tag]?.unsolicited.append(pdu)
            return task.isSent ? [.toServer(numbered(pdu))] : []
        }
        return transferMore(tag)
    }

    // MARK: From the server

    public mutating func receiveFromServer(_ pdu: ISCSIPDU) -> [Action] {
        note(pdu)
        var actions: [Action] = []
        switch pdu.opcode {
        case ISCSIOpcode.readyToTransfer where tasks[pdu.initiatorTaskTag] != nil:
            actions += ask(pdu)
        case ISCSIOpcode.dataIn where tasks[pdu.initiatorTaskTag] != nil:
            actions += takeData(pdu)
        case ISCSIOpcode.taskManagementResponse: actions += takeManagement(pdu)
        case ISCSIOpcode.scsiResponse, ISCSIOpcode.nopIn, ISCSIOpcode.logoutResponse:
            actions += takeResponse(pdu)
        default: actions += pass(pdu)
        }
        return actions + sendTasks()
    }

    /// Numbers of the new server.
    private mutating func note(_ pdu: ISCSIPDU) {
        if Int32(bitPattern: pdu.maximumCommand &- server.maximumCommand) > 0 {
            server.maximumCommand = pdu.maximumCommand
        }
        if Int32(bitPattern: pdu.expectedCommand &- server.expectedCommand) > 0 {
            server.expectedCommand = pdu.expectedCommand
        }
        if Self.countsStatus(pdu) { server.nextStatus = pdu.statusSequence &+ 1 }
        if pdu.opcode == ISCSIOpcode.nopIn, pdu.initiatorTaskTag == ISCSIPDU.reservedTag {
            pings.insert(pdu.targetTransferTag)
        }
    }

    // RFC 7143 section 11.7.1: StatSN is set in a Data-In "only if the S bit is set"; section 11.8.2: an
    // R2T "MUST contain the next StatSN. The StatSN for this connection is not advanced"; section 11.19.3:
    // the same for a NOP-In that is not an answer.
    /// Whether a PDU takes a StatSN.
    public static func countsStatus(_ pdu: ISCSIPDU) -> Bool {
        switch pdu.opcode {
        case ISCSIOpcode.dataIn: pdu.flags & 1 != 0
        case ISCSIOpcode.readyToTransfer: false
        case ISCSIOpcode.nopIn: pdu.initiatorTaskTag != ISCSIPDU.reservedTag
        default: true
        }
    }

    /// R2T of a task that was sent again: what is here is sent, what the client was not asked for is asked.
    private mutating func ask(_ pdu: ISCSIPDU) -> [Action] {
        let tag = pdu.initiatorTaskTag
        let offset = Int(pdu.field32(40))
        // Section 11.3.4, Expected Data Transfer Length: there is no more.
        guard let task = tasks[tag], pdu.field32(44) > 0,
            offset + Int(pdu.field32(44)) <= Int(task.command.field32(20))
        else { return [.failed("the new server asks for data that the command has not")] }
        let transfer = Transfer(
            tag: pdu.targetTransferTag, offset: offset, end: offset + Int(pdu.field32(44)),
            sent: offset)
        tasks[tag]?.waiting.append(transfer)
        return transferMore(tag)
    }

    /// Sends what is there for the present R2T, and asks the client for what is not.
    private mutating func transferMore(_ tag: UInt32) -> [Action] {
        guard var task = tasks[tag] else { return [] }
        var actions: [Action] = []
        while true {
            if task.transfer == nil, !task.waiting.isEmpty {
                task.transfer = task.waiting.removeFirst()
            }
            guard var transfer = task.transfer else { break }
            while transfer.sent < min(transfer.end, task.data.count) {
                // Short PDUs only at the end: the server may count them.
                let rest = transfer.end - transfer.sent
                let count = min(maximumSegment, rest)
                guard task.data.count - transfer.sent >= count else { break }
                actions.append(.toServer(dataOut(task, &transfer, count)))
            }
            if transfer.sent >= transfer.end {
                task.transfer = nil
                continue
            }
            task.transfer = transfer
            // One R2T at a time towards the client: it has answered all it was asked for.
            if task.asked < transfer.end, task.data.count >= task.asked {
                actions += say(readyToTransfer(&task, end: transfer.end))
            }
            break
        }
        tasks[tag] = task
        return actions
    }

    private func dataOut(_ task: Task, _ transfer: inout Transfer, _ count: Int) -> ISCSIPDU {
        let isLast = transfer.sent + count == transfer.end
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.dataOut, flags: isLast ? 0x80 : 0)
        for index in 8..<16 { pdu[index] = task.command[index] }
        pdu.initiatorTaskTag = task.tag
        pdu.targetTransferTag = transfer.tag
        pdu.expectedStatus = server.nextStatus
        pdu.setField32(transfer.dataSequence, 36)
        pdu.setField32(UInt32(transfer.sent), 40)
        pdu.data = Array(task.data[transfer.sent..<transfer.sent + count])
        transfer.sent += count
        transfer.dataSequence &+= 1
        return pdu
    }

    private mutating func readyToTransfer(_ task: inout Task, end: Int) -> ISCSIPDU {
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.readyToTransfer, flags: 0x80)
        for index in 8..<16 { pdu[index] = task.command[index] }
        pdu.initiatorTaskTag = task.tag
        pdu.targetTransferTag = nextOwnTag
        nextOwnTag &+= 1
        pdu.setField32(task.nextTransfer, 36)
        pdu.setField32(UInt32(task.asked), 40)
        pdu.setField32(UInt32(end - task.asked), 44)
        task.nextTransfer &+= 1
        task.asked = end
        return pdu
    }

    /// Data of a read that was done again.
    private mutating func takeData(_ pdu: ISCSIPDU) -> [Action] {
        let tag = pdu.initiatorTaskTag
        guard let task = tasks[tag] else { return [] }
        let offset = Int(pdu.field32(40))
        let end = offset + pdu.data.count
        guard end <= Int(UInt32.max) else {
            return [.failed("the new server sends data beyond any length")]
        }
        if let known = fetched[tag]?.count, known < needed(tag), offset <= known, end > known {
            fetched[tag]? += pdu.data[(known - offset)...]
        }
        var actions = completeReplies()
        guard !task.isEnded else {
            if pdu.flags & 1 != 0 { actions += endLender(task, status: pdu[3]) }
            return actions
        }
        var part = pdu
        if end > task.passed {
            let skip = max(0, task.passed - offset)
            part.data = Array(pdu.data[skip...])
            part.setField32(UInt32(offset + skip), 40)
            part.setField32(task.nextData, 36)
            tasks[tag]?.nextData &+= 1
            tasks[tag]?.passed = end
            actions += say(part)
        } else if pdu.flags & 1 != 0 {
            // The client has all of the data: what is left is the status.
            actions += say(response(from: pdu, task))
        }
        if pdu.flags & 1 != 0 { actions += finish(tag) }
        return actions
    }

    /// The status of a Data-In as a SCSI Response (RFC 7143 section 11.4).
    private func response(from pdu: ISCSIPDU, _ task: Task) -> ISCSIPDU {
        var answer = ISCSIPDU(opcode: ISCSIOpcode.scsiResponse, flags: 0x80 | pdu.flags & 0x06)
        answer[3] = pdu[3]
        answer.initiatorTaskTag = pdu.initiatorTaskTag
        answer.setField32(task.nextData, 36)
        answer.setField32(pdu.field32(44), 44)
        return answer
    }

    private mutating func takeResponse(_ pdu: ISCSIPDU) -> [Action] {
        guard let task = tasks[pdu.initiatorTaskTag] else { return pass(pdu) }
        if pdu.opcode == ISCSIOpcode.scsiResponse, Self.isUnitAttention(pdu),
            task.attentions < Self.attentionMaximum
        {
            return repeatTask(task)
        }
        guard !task.isEnded else { return endLender(task, status: pdu[3]) }
        var actions: [Action] = []
        if fill(task.tag) {
            // It failed this time. The client takes no data of a command that failed.
            if pdu[3] == 0 { return [.failed("the new server has less data than the old one")] }
            actions += completeReplies()
        }
        var answer = pdu
        if pdu.opcode == ISCSIOpcode.scsiResponse {
            // Section 11.4.8: ExpDataSN, "the number of Data-In (read) PDUs the target has sent for the
            // command", or of R2T.
            answer.setField32(task.nextData != 0 ? task.nextData : task.nextTransfer, 36)
        }
        noteLate(task)
        actions += say(answer)
        return actions + finish(task.tag)
    }

    /// A task that only lent its data is over.
    private mutating func endLender(_ task: Task, status: UInt8) -> [Action] {
        if isLending(task) {
            return [
                .failed("data that the client has in part cannot be read again: status \(status)")
            ]
        }
        return finish(task.tag)
    }

    /// Unit attentions of the new nexus are ours to take up (SAM-5 section 5.14). The task is given again, for
    /// immediate delivery: its number is used.
    private mutating func repeatTask(_ task: Task) -> [Action] {
        var task = task
        task.attentions += 1
        task.transfer = nil
        task.waiting = []
        tasks[task.tag] = task
        var pdu = task.command
        pdu[0] |= 0x40
        pdu.commandSequence = nextCommand
        pdu.expectedStatus = server.nextStatus
        return [.toServer(pdu)]
            + task.unsolicited.map { .toServer(numbered($0)) }
    }

    /// CHECK CONDITION with sense key UNIT ATTENTION (SPC-4 section 4.5.6), fixed or descriptor format.
    static func isUnitAttention(_ pdu: ISCSIPDU) -> Bool {
        guard pdu[3] == 0x02, pdu.data.count >= 5 else { return false }
        switch pdu.data[2] & 0x7f {
        case 0x70, 0x71: return pdu.data[4] & 0x0f == 6
        case 0x72, 0x73: return pdu.data[3] & 0x0f == 6
        default: return false
        }
    }

    private mutating func finish(_ tag: UInt32) -> [Action] {
        tasks[tag] = nil
        gone.insert(tag)
        return []
    }

    /// A write that ends before the client has sent what it was asked for, or wants to say by itself.
    private mutating func noteLate(_ task: Task) {
        guard Self.isWrite(task.command.encoded()) else { return }
        let announced = task.unsolicited.last ?? task.command
        if task.asked > task.data.count || announced.flags & 0x80 == 0 { late.insert(task.tag) }
    }

    // RFC 7143 section 11.5.1: a task that was aborted gets no response of its own.
    private mutating func takeManagement(_ pdu: ISCSIPDU) -> [Action] {
        let tag = pdu.initiatorTaskTag
        let request = management.removeValue(forKey: tag) ?? tasks[tag]?.command
        guard pdu[2] == 0, let request else { return takeResponse(pdu) }
        let function = request.flags & 0x7f
        for task in tasks.values where task.opcode == ISCSIOpcode.scsiCommand {
            let isSameUnit = (8..<16).allSatisfy { task.command[$0] == request[$0] }
            switch function {
            case 1: guard task.tag == request.field32(20) else { continue }
            case 2, 4, 5: guard isSameUnit else { continue }
            case 6, 7: break
            default: continue
            }
            guard task.isSent else { continue }
            if isLending(task) {
                return [.failed("a task that reads again what the client has in part was aborted")]
            }
            noteLate(task)
            _ = fill(task.tag)
            _ = finish(task.tag)
        }
        return completeReplies() + takeResponse(pdu)
    }

    /// Up to where unfinished replies need a task's data.
    private func needed(_ tag: UInt32) -> Int {
        replies.reduce(0) { most, reply in
            guard reply.header[0] & 0x3f == ISCSIOpcode.dataIn,
                Self.field(reply.header, 16) == tag
            else { return most }
            return max(most, Int(Self.field(reply.header, 40)) + Self.length(reply.header))
        }
    }

    /// An ended task whose data is not all here yet.
    private func isLending(_ task: Task) -> Bool {
        task.isEnded && fetched[task.tag].map { $0.count < needed(task.tag) } == true
    }

    /// Completes what could not be read again, for a client that will be told so; true when that was needed.
    private mutating func fill(_ tag: UInt32) -> Bool {
        let end = needed(tag)
        guard let known = fetched[tag]?.count, known < end else { return false }
        fetched[tag]? += [UInt8](repeating: 0, count: end - known)
        return true
    }

    // MARK: To the client

    /// What is not about tasks of the old session.
    private mutating func pass(_ pdu: ISCSIPDU) -> [Action] { say(pdu) }

    private mutating func say(_ pdu: ISCSIPDU) -> [Action] {
        guard replies.isEmpty, deferred.isEmpty, ownAnswers.isEmpty else {
            deferred.append(pdu)
            return []
        }
        return [.toClient(stamped(pdu))]
    }

    /// The client's numbers: StatSN its own, ExpCmdSN and MaxCmdSN never behind what it was told.
    private mutating func stamped(_ pdu: ISCSIPDU) -> ISCSIPDU {
        var pdu = pdu
        if pdu.opcode != ISCSIOpcode.dataIn || pdu.flags & 1 != 0 {
            pdu.statusSequence = client.nextStatus
        }
        if Self.countsStatus(pdu) {
            client.nextStatus &+= 1
            if late.contains(pdu.initiatorTaskTag)
                || pdu.opcode == ISCSIOpcode.taskManagementResponse && !late.isEmpty
            {
                lateUntil = client.nextStatus
            }
        }
        if Int32(bitPattern: server.expectedCommand &- client.expectedCommand) > 0 {
            client.expectedCommand = server.expectedCommand
        }
        if Int32(bitPattern: server.maximumCommand &- client.maximumCommand) > 0 {
            client.maximumCommand = server.maximumCommand
        }
        pdu.expectedCommand = client.expectedCommand
        pdu.maximumCommand = client.maximumCommand
        return pdu
    }

    /// Goes on with the PDUs that the client has in part, as far as their data is there.
    private mutating func completeReplies() -> [Action] {
        var octets: [UInt8] = []
        while let reply = replies.first {
            guard let whole = wholeOctets(reply) else { break }
            switch whole {
            case .failure(let error): return [.failed(error.reason)]
            case .success(let bytes):
                octets += bytes.dropFirst(reply.delivered)
                replies.removeFirst()
            }
        }
        var actions: [Action] = octets.isEmpty ? [] : [.complete(octets)]
        guard replies.isEmpty else { return actions }
        fetched = [:]
        for answer in ownAnswers { actions.append(.toClient(stamped(answer))) }
        ownAnswers = []
        for pdu in deferred { actions.append(.toClient(stamped(pdu))) }
        deferred = []
        return actions
    }

    private struct Incomplete: Error { var reason: String }

    /// Nil: its data is not there yet.
    private func wholeOctets(_ reply: ISCSIUnfinishedReply) -> Result<[UInt8], Incomplete>? {
        let length = Self.length(reply.header)
        let padding = [UInt8](repeating: 0, count: (4 - length & 3) & 3)
        if length == 0 { return .success(reply.header) }
        if let data = reply.data {
            return .success(reply.header + data)
        }
        // All of it was delivered but the padding, or nothing but the header matters.
        if reply.delivered >= reply.header.count + length + padding.count {
            return .success([UInt8](repeating: 0, count: reply.delivered))
        }
        guard reply.header[0] & 0x3f == ISCSIOpcode.dataIn else {
            return .failure(
                Incomplete(reason: "a PDU of kind \(reply.header[0] & 0x3f) cannot be completed"))
        }
        let tag = Self.field(reply.header, 16)
        guard let known = fetched[tag] else {
            // Its task cannot be sent again: the client will be told, and takes no data of it.
            return .success(reply.header + [UInt8](repeating: 0, count: length) + padding)
        }
        let offset = Int(Self.field(reply.header, 40))
        guard known.count >= offset + length else { return nil }
        return .success(reply.header + known[offset..<offset + length] + padding)
    }
}

extension ISCSIRecovery.Task {
    /// Data of a write, in order; what is known already is left out.
    mutating func take(_ pdu: ISCSIPDU) {
        let offset = Int(pdu.field32(40))
        guard offset <= data.count, offset + pdu.data.count > data.count else { return }
        data += pdu.data[(data.count - offset)...]
        asked = max(asked, data.count)
    }
}
