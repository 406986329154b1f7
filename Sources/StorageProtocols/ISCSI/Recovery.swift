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

    var tasks: [UInt32: Task] = [:]
    /// Tasks that are not sent yet, in order.
    var unsent: [UInt32] = []
    var replies: [ISCSIUnfinishedReply]
    /// Data that was read again for unfinished replies, by task, from offset 0 on. It outlives its task: replies
    /// are completed in their order.
    var fetched: [UInt32: [UInt8]] = [:]
    var client: ISCSIClientPosition
    var server: ISCSIInitiatorResult
    var nextCommand: UInt32
    let maximumSegment: Int
    /// New CmdSN by old one, for task management.
    var renumbered: [UInt32: UInt32] = [:]
    /// What the new server says to the client and must wait until the unfinished replies are complete.
    var deferred: [ISCSIPDU] = []
    /// PDUs of the client beyond the new server's window.
    var queued: [ISCSIPDU] = []
    var nextOwnTag: UInt32 = 0x4453_0000
    var pings: Set<UInt32> = []
    /// Those of an old server that the client has not answered yet.
    var stalePings: Set<UInt32>
    /// Task management of the client that is on its way to the new server.
    var management: [UInt32: ISCSIPDU] = [:]
    /// Tasks of the old session that are over: data that still comes for them is nobody's.
    var gone: Set<UInt32> = []
    /// Those of them for which data may still come, until the client has acknowledged this StatSN: it sends
    /// none for a task whose end it knows.
    var late: Set<UInt32> = []
    var lateUntil: UInt32?
    /// Answers of our own to tasks that cannot be sent again, and to Text requests.
    var ownAnswers: [ISCSIPDU] = []
    static let attentionMaximum = 8
    static let queueMaximum = 1_024

    /// CmdSN of the new login, so that the client's next command has the right number there.
    public let firstCommand: UInt32

    /// - Parameter requests: in the order in which the client sent them.
    /// - Parameter answers: finished answers of our own, which only need numbers.
    /// - Parameter pings: transfer tags of NOP-Ins that the client will still answer.
    /// - Parameter aborted: tasks that the old server has ended, for which the client may send data until it has
    ///   acknowledged the StatSN `abortedUntil`.
    /// - Parameter maximumSegment: longest data segment that the server takes.
    public init(
        requests: [ISCSIOpenTask], replies: [ISCSIUnfinishedReply], client: ISCSIClientPosition,
        answers: [ISCSIPDU] = [], pings: Set<UInt32> = [], aborted: Set<UInt32> = [],
        abortedUntil: UInt32 = 0, maximumSegment: Int
    ) {
        self.replies = replies
        stalePings = pings
        gone = aborted
        late = aborted
        lateUntil = aborted.isEmpty ? nil : abortedUntil
        self.client = client
        self.maximumSegment = max(512, maximumSegment)
        server = ISCSIInitiatorResult()
        ownAnswers = answers
        var order: [UInt32] = []
        var made: [UInt32: Task] = [:]
        var refused: [ISCSIPDU] = []
        let unfinished = Set(
            replies.filter { $0.header[0] & 0x3f == ISCSIOpcode.dataIn }
                .map { $0.header.field32(16) })
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

    /// A command with the W bit (RFC 7143 section 11.3.1).
    public static func isWrite(_ header: [UInt8]) -> Bool {
        header.count >= ISCSIPDU.headerLength
            && header[0] & 0x3f == ISCSIOpcode.scsiCommand && header[1] & 0x20 != 0
    }

    // RFC 7143 section 4.2.2.1: "The target MUST silently ignore any non-immediate command outside of this
    // range or non-immediate duplicates within the range." Some end the session instead. Such a command must
    // not get a right number, and be done, because another server takes over.
    /// A request with a CmdSN that was used before. `next`: the one that the client should use.
    public static func isIgnored(_ header: [UInt8], next: UInt32) -> Bool {
        header[0] & 0x40 == 0 && Int32(bitPattern: header.field32(24) &- next) < 0
    }

    static func length(_ header: [UInt8]) -> Int {
        Int(header[5]) << 16 | Int(header[6]) << 8 | Int(header[7])
    }

    static func task(_ request: ISCSIOpenTask) -> Task? {
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
            task.nextTransfer = header.field32(36) &+ 1
            task.asked = max(task.asked, Int(header.field32(40)) + Int(header.field32(44)))
        }
        if let header = request.dataIn {
            // Section 11.7: DataSN at 36, Buffer Offset at 40.
            task.nextData = header.field32(36) &+ 1
            task.passed = Int(header.field32(40)) + length(header)
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
            if let header = request.dataIn { answer.setField32(header.field32(36) &+ 1, 36) }
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
