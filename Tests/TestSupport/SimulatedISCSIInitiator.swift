package import StorageProtocols

/// An iSCSI initiator in memory that checks every number and every octet it gets.
package final class SimulatedISCSIInitiator {
    package enum Request: Equatable, Sendable {
        case read(block: Int, count: Int)
        case write(block: Int, count: Int)
        case ping
        case text
        /// ABORT TASK of the task with this place in the list of requests.
        case abort(Int)
        case resetUnit
        /// PERSISTENT RESERVE OUT: service action, type, reservation key, service action key.
        case persistentReserve(action: UInt8, type: UInt8, key: UInt64, newKey: UInt64)
        case reserve
    }

    package struct Outcome: Equatable, Sendable {
        package var status: UInt8
        package var sense: UInt8 = 0
    }

    struct Task {
        var request: Request
        var place: Int
        var number: UInt32
        var length = 0
        var data: [UInt8] = []
        /// Expected DataSN or R2TSN.
        var next: UInt32 = 0
        /// Octets of a write that were sent or are queued, and asked for.
        var sent = 0
        var isUnsolicitedDone = true
    }

    package let parameters: ISCSIParameters
    /// Longest data segment that the target takes.
    package let segment: Int
    package let requests: [Request]
    package let depth: Int
    package private(set) var violations: [String] = []
    /// By place in the list of requests.
    package private(set) var outcomes: [Int: Outcome] = [:]
    package private(set) var aborted: Set<Int> = []
    /// What is sent next.
    package private(set) var output: [UInt8] = []
    package private(set) var received = 0
    /// What the disk must have in the end, and what reads must find.
    package private(set) var image: [UInt8]
    package private(set) var textAnswers = 0
    package private(set) var logicalUnit: UInt8 = 0

    private var reader = ISCSIPDUReader()
    private var tasks: [UInt32: Task] = [:]
    private var nextPlace = 0
    private var nextTag: UInt32 = 1
    private var nextCommand: UInt32
    private var nextStatus: UInt32
    private var expectedCommand: UInt32
    private var maximumCommand: UInt32
    private var random: SplitMix64

    package init(
        _ requests: [Request], depth: Int, parameters: ISCSIParameters, segment: Int,
        disk: SimulatedDisk, command: UInt32, status: UInt32, window: UInt32, seed: UInt64
    ) {
        self.requests = requests
        self.depth = depth
        self.parameters = parameters
        self.segment = segment
        image = disk.bytes
        nextCommand = command
        nextStatus = status
        expectedCommand = command
        maximumCommand = command &+ window &- 1
        random = SplitMix64(seed: seed)
    }

    package var isDone: Bool {
        nextPlace == requests.count && tasks.isEmpty && output.isEmpty && reader.isEmpty
    }
    package var openCount: Int { tasks.count }
    package var state: String {
        "place \(nextPlace)/\(requests.count), open "
            + tasks.values.map { "\($0.request) \($0.data.count)/\($0.sent)/\($0.length)" }.sorted()
            .joined(separator: ", ") + ", unread \(reader.remaining.count), CmdSN \(nextCommand), "
            + "MaxCmdSN \(maximumCommand)"
    }

    package func takeOutput(_ maximum: Int = .max) -> [UInt8] {
        let part = Array(output.prefix(maximum))
        output.removeFirst(part.count)
        return part
    }

    private func violate(_ what: String) { violations.append(what) }

    // MARK: Requests

    private var mayIssue: Bool {
        guard nextPlace < requests.count, tasks.count < depth,
            Int32(bitPattern: maximumCommand &- nextCommand) >= 0
        else { return false }
        // What depends on another waits for it; tasks never touch the same blocks at once.
        switch requests[nextPlace] {
        case .read(let block, let count), .write(let block, let count):
            return !tasks.values.contains { task in
                switch task.request {
                case .read(let other, let size), .write(let other, let size):
                    block < other + size && other < block + count
                case .resetUnit, .abort: true
                default: false
                }
            }
        default: return true
        }
    }

    /// Issues one request when it may; true when it did.
    package func step() -> Bool {
        guard mayIssue else { return false }
        let place = nextPlace
        nextPlace += 1
        issue(requests[place], place)
        return true
    }

    private func issue(_ request: Request, _ place: Int) {
        let tag = nextTag
        nextTag += 1
        var task = Task(request: request, place: place, number: nextCommand)
        var pdu: ISCSIPDU
        switch request {
        case .read(let block, let count):
            pdu = command(0x28, flags: 0xc1, block, count)
            task.length = count * SimulatedDisk.blockSize
        case .write(let block, let count):
            pdu = command(0x2a, flags: 0xa1, block, count)
            task.length = count * SimulatedDisk.blockSize
            task.data = random.bytes(task.length)
            start(&task, &pdu)
        case .ping:
            pdu = ISCSIPDU(opcode: ISCSIOpcode.nopOut, flags: 0x80)
            pdu.targetTransferTag = ISCSIPDU.reservedTag
            task.data = random.bytes(random.below(60))
            pdu.data = task.data
        case .text:
            pdu = ISCSIPDU(opcode: ISCSIOpcode.text, flags: 0x80)
            pdu.targetTransferTag = ISCSIPDU.reservedTag
            pdu.data = ISCSIText([("SendTargets", "")]).encoded()
        case .abort(let other): pdu = abort(other)
        case .resetUnit: pdu = ISCSIPDU(opcode: ISCSIOpcode.taskManagement, flags: 0x85)
        case .persistentReserve(let action, let type, let key, let newKey):
            pdu = ISCSIPDU(opcode: ISCSIOpcode.scsiCommand, flags: 0xa1)
            pdu[32] = 0x5f
            pdu[33] = action
            pdu[34] = type
            pdu[40] = 24
            pdu.setField32(24, 20)
            pdu.data = octets(key) + octets(newKey) + [UInt8](repeating: 0, count: 8)
        case .reserve:
            pdu = ISCSIPDU(opcode: ISCSIOpcode.scsiCommand, flags: 0x81)
            pdu[32] = 0x16
        }
        pdu.initiatorTaskTag = tag
        pdu.commandSequence = nextCommand
        pdu.expectedStatus = nextStatus
        if !pdu.isImmediate { nextCommand &+= 1 }
        output += pdu.encoded()
        tasks[tag] = task
        if !task.isUnsolicitedDone { sendUnsolicited(tag) }
    }

    private func octets(_ value: UInt64) -> [UInt8] {
        bigEndian32(UInt32(truncatingIfNeeded: value >> 32))
            + bigEndian32(UInt32(truncatingIfNeeded: value))
    }

    private func command(_ code: UInt8, flags: UInt8, _ block: Int, _ count: Int) -> ISCSIPDU {
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.scsiCommand, flags: flags)
        pdu[32] = code
        pdu.setField32(UInt32(count * SimulatedDisk.blockSize), 20)
        pdu.setField32(UInt32(block), 34)
        pdu.setField16(UInt16(count), 39)
        return pdu
    }

    /// Immediate and unsolicited data (RFC 7143 sections 13.10 and 13.11).
    private func start(_ task: inout Task, _ pdu: inout ISCSIPDU) {
        let first = min(task.length, Int(parameters.firstBurstLength))
        if parameters.immediateData {
            task.sent = min(first, segment)
            pdu.data = Array(task.data[..<task.sent])
        }
        task.isUnsolicitedDone = parameters.initialR2T || task.sent == first
        if !task.isUnsolicitedDone { pdu.flags &= 0x7f }
    }

    private func sendUnsolicited(_ tag: UInt32) {
        guard let task = tasks[tag] else { return }
        let end = min(task.length, Int(parameters.firstBurstLength))
        sendData(tag, to: end, transferTag: ISCSIPDU.reservedTag)
        tasks[tag]?.isUnsolicitedDone = true
    }

    private func sendData(_ tag: UInt32, to end: Int, transferTag: UInt32) {
        guard var task = tasks[tag] else { return }
        var sequence: UInt32 = 0
        while task.sent < end {
            let count = min(segment, end - task.sent)
            var pdu = ISCSIPDU(
                opcode: ISCSIOpcode.dataOut, flags: task.sent + count == end ? 0x80 : 0)
            pdu.initiatorTaskTag = tag
            pdu.targetTransferTag = transferTag
            pdu.expectedStatus = nextStatus
            pdu.setField32(sequence, 36)
            pdu.setField32(UInt32(task.sent), 40)
            pdu.data = Array(task.data[task.sent..<task.sent + count])
            output += pdu.encoded()
            sequence += 1
            task.sent += count
        }
        tasks[tag] = task
    }

    private func abort(_ place: Int) -> ISCSIPDU {
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.taskManagement, flags: 0x81, isImmediate: true)
        if let (tag, task) = tasks.first(where: { $0.value.place == place }) {
            pdu.setField32(tag, 20)
            pdu.setField32(task.number, 32)
        } else {
            pdu.setField32(0xfff, 20)
            pdu.setField32(nextCommand &- 1, 32)
        }
        return pdu
    }

    // MARK: Replies

    package func receive(_ bytes: [UInt8]) {
        received += bytes.count
        reader.append(bytes)
        do {
            while let pdu = try reader.next() { take(pdu) }
        } catch {
            violate("\(error)")
        }
    }

    private func take(_ pdu: ISCSIPDU) {
        let hasStatus = pdu.opcode != ISCSIOpcode.dataIn || pdu.flags & 1 != 0
        if hasStatus, pdu.statusSequence != nextStatus {
            violate("kind \(pdu.opcode): StatSN \(pdu.statusSequence), expected \(nextStatus)")
        }
        if ISCSIRecovery.countsStatus(pdu) { nextStatus &+= 1 }
        if Int32(bitPattern: pdu.expectedCommand &- expectedCommand) < 0
            || Int32(bitPattern: pdu.expectedCommand &- nextCommand) > 0
        {
            violate("ExpCmdSN \(pdu.expectedCommand), before \(expectedCommand)")
        }
        expectedCommand = pdu.expectedCommand
        if Int32(bitPattern: pdu.maximumCommand &- maximumCommand) < 0 {
            // RFC 7143 section 4.2.2.1 lets it be ignored; it is not what a good target does.
            violate("MaxCmdSN goes back from \(maximumCommand) to \(pdu.maximumCommand)")
        } else {
            maximumCommand = pdu.maximumCommand
        }
        if pdu.opcode == ISCSIOpcode.nopIn, pdu.initiatorTaskTag == ISCSIPDU.reservedTag {
            return answer(pdu)
        }
        guard let task = tasks[pdu.initiatorTaskTag] else {
            return violate("kind \(pdu.opcode) for task \(pdu.initiatorTaskTag): not there")
        }
        switch pdu.opcode {
        case ISCSIOpcode.dataIn: takeData(pdu, task)
        case ISCSIOpcode.readyToTransfer: takeTransfer(pdu, task)
        case ISCSIOpcode.scsiResponse: takeResponse(pdu, task)
        case ISCSIOpcode.nopIn:
            if pdu.data != task.data { violate("NOP-In with other data") }
            finish(pdu, task, Outcome(status: 0))
        case ISCSIOpcode.textResponse:
            if !pdu.data.starts(with: Array("TargetName=".utf8)) { violate("Text response") }
            textAnswers += 1
            finish(pdu, task, Outcome(status: 0))
        case ISCSIOpcode.taskManagementResponse: takeManagement(pdu, task)
        default: violate("kind \(pdu.opcode)")
        }
    }

    private func answer(_ ping: ISCSIPDU) {
        guard ping.targetTransferTag != ISCSIPDU.reservedTag else { return }
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.nopOut, flags: 0x80, isImmediate: true)
        pdu.initiatorTaskTag = ISCSIPDU.reservedTag
        pdu.targetTransferTag = ping.targetTransferTag
        pdu.commandSequence = nextCommand
        pdu.expectedStatus = nextStatus
        output += pdu.encoded()
    }

    private func takeData(_ pdu: ISCSIPDU, _ task: Task) {
        var task = task
        if pdu.field32(36) != task.next {
            violate("DataSN \(pdu.field32(36)), expected \(task.next)")
        }
        if Int(pdu.field32(40)) != task.data.count {
            violate("Data-In at \(pdu.field32(40)), expected \(task.data.count)")
        }
        task.next += 1
        task.data += pdu.data
        if task.data.count > task.length { violate("more data than was asked for") }
        tasks[pdu.initiatorTaskTag] = task
        if pdu.flags & 1 != 0 { takeStatus(pdu, task, isLong: false) }
    }

    private func takeTransfer(_ pdu: ISCSIPDU, _ task: Task) {
        if pdu.field32(36) != task.next {
            violate("R2TSN \(pdu.field32(36)), expected \(task.next)")
        }
        let offset = Int(pdu.field32(40))
        let count = Int(pdu.field32(44))
        if offset != task.sent { violate("R2T at \(offset), sent \(task.sent)") }
        if count == 0 || count > Int(parameters.maxBurstLength) || offset + count > task.length {
            violate("R2T for \(count) at \(offset) of \(task.length)")
            return
        }
        tasks[pdu.initiatorTaskTag]?.next += 1
        sendData(pdu.initiatorTaskTag, to: offset + count, transferTag: pdu.targetTransferTag)
    }

    private func takeResponse(_ pdu: ISCSIPDU, _ task: Task) {
        if pdu[3] == 0, pdu.field32(36) != task.next {
            violate("ExpDataSN \(pdu.field32(36)), expected \(task.next)")
        }
        takeStatus(pdu, task, isLong: true)
    }

    private func takeStatus(_ pdu: ISCSIPDU, _ task: Task, isLong: Bool) {
        var outcome = Outcome(status: pdu[3])
        if isLong, pdu[3] == 2, pdu.data.count > 4 { outcome.sense = pdu.data[4] & 0x0f }
        if outcome.sense == 6 { violate("a unit attention is shown") }
        guard outcome.status == 0 else { return finish(pdu, task, outcome) }
        switch task.request {
        case .read(let block, _):
            let start = block * SimulatedDisk.blockSize
            if task.data.count != task.length {
                violate("read of \(task.length) ends at \(task.data.count)")
            } else if !image[start..<start + task.length].elementsEqual(task.data) {
                violate("wrong data in a read")
            }
        case .write(let block, _):
            if task.sent != task.length {
                violate("write of \(task.length) ends at \(task.sent)")
            }
            let start = block * SimulatedDisk.blockSize
            image.replaceSubrange(start..<start + task.length, with: task.data)
        default: break
        }
        finish(pdu, task, outcome)
    }

    private func takeManagement(_ pdu: ISCSIPDU, _ task: Task) {
        finish(pdu, task, Outcome(status: pdu[2]))
        guard pdu[2] == 0 else { return }
        for (tag, other) in tasks {
            let isMeant =
                switch task.request {
                case .abort(let place): other.place == place
                default: other.number != task.number && isSCSI(other.request)
                }
            // What an aborted write left on the disk is not known.
            guard isMeant else { continue }
            aborted.insert(other.place)
            tasks[tag] = nil
        }
    }

    private func isSCSI(_ request: Request) -> Bool {
        switch request {
        case .read, .write, .reserve, .persistentReserve: true
        default: false
        }
    }

    private func finish(_ pdu: ISCSIPDU, _ task: Task, _ outcome: Outcome) {
        if outcomes[task.place] != nil { violate("request \(task.place) is answered twice") }
        outcomes[task.place] = outcome
        tasks[pdu.initiatorTaskTag] = nil
    }
}
