package import StorageProtocols
import Synchronization

/// What all servers share: blocks, and persistent reservations by unit.
package final class SimulatedDisk {
    package static let blockSize = 512
    package var bytes: [UInt8]
    /// Registered keys and the holder's type, by unit; RESERVE is the nexus's own.
    package var keys: [UInt64: UInt64] = [:]
    package var types: [UInt64: UInt8] = [:]

    package init(blocks: Int, seed: UInt64) {
        let content = Content(blocks: blocks, seed: seed)
        bytes = Self.contents.withLock { known in
            if let bytes = known[content] { return bytes }
            if known.count > 64 { known = [:] }
            var random = SplitMix64(seed: seed)
            let bytes = random.bytes(blocks * Self.blockSize)
            known[content] = bytes
            return bytes
        }
    }

    private struct Content: Hashable {
        var blocks: Int
        var seed: UInt64
    }

    /// Tests make the same disk thousands of times.
    private static let contents = Mutex<[Content: [UInt8]]>([:])
}

package struct SimulatedISCSIOptions: Sendable {
    package var parameters = ISCSIParameters()
    /// Longest data segment of a Data-In, and the one that the target takes.
    package var segment = 1_024
    package var window = 32
    /// Status in the last Data-In where it may be.
    package var collapsesStatus = true
    /// Unit attentions at each unit when the nexus comes into being, and one more after so many commands.
    package var attentions = 1
    package var laterAttentionAfter: Int?
    /// Reads end with MEDIUM ERROR from so many commands on.
    package var failsReadsAfter: Int?
    /// Asks the initiator whether it is there, after so many commands.
    package var pingsAfter: Int?
    package init() {}
}

/// An iSCSI server in memory, as strict as the standard allows: what an initiator must not do is noted.
package final class SimulatedISCSITarget {
    struct Task {
        var pdu: ISCSIPDU
        var tag: UInt32 { pdu.initiatorTaskTag }
        var unit: UInt64
        var offset = 0
        var length = 0
        var isRead = false
        var isWrite = false
        /// Octets sent, or received.
        var done = 0
        var number: UInt32 = 0
        var dataSequence: UInt32 = 0
        /// Unsolicited data still comes.
        var isUnsolicited = false
        var transferTag: UInt32?
        var transferEnd = 0
    }

    package let options: SimulatedISCSIOptions
    package let disk: SimulatedDisk
    package private(set) var violations: [String] = []
    package private(set) var output: [UInt8] = []
    /// Commands of the initiator, by operation code; in the order of their CmdSN.
    package private(set) var commands: [(tag: UInt32, code: UInt8, number: UInt32)] = []
    package private(set) var management: [(function: UInt8, reference: UInt32, number: UInt32)] = []
    package private(set) var pingsAnswered = 0
    package private(set) var reserved: Set<UInt64> = []

    private var login: ISCSITargetLogin
    private var result: ISCSILoginResult?
    private var reader = ISCSIPDUReader()
    private var tasks: [Task] = []
    /// Ended before all of their unsolicited data had come.
    private var abandoned: Set<UInt32> = []
    private var statusNumber: UInt32 = 0
    private var expected: UInt32 = 0
    private var announced: UInt32?
    private var attentions: [UInt64: Int] = [:]
    /// Other ones at each server: what was meant for one must not reach another.
    private var nextTransferTag: UInt32
    private let pingTag: UInt32
    /// Aborted: their data may be on its way.
    private var dropped: Set<UInt32> = []
    private var openPings: Set<UInt32> = []
    private var random: SplitMix64

    package init(_ options: SimulatedISCSIOptions, disk: SimulatedDisk, seed: UInt64) {
        self.options = options
        self.disk = disk
        random = SplitMix64(seed: seed)
        nextTransferTag = UInt32(truncatingIfNeeded: seed & 0xffff) << 12
        pingTag = 0x7700_0000 | UInt32(truncatingIfNeeded: seed & 0xffff)
        let server = ISCSIServerParameters(
            limits: options.parameters, maxReceiveDataSegmentLength: UInt64(options.segment),
            commandWindow: UInt32(min(32, options.window)))
        // StatSN of a session is the target's to choose; what the login asks for is far from others.
        login = ISCSITargetLogin(tsih: 7, random: { [UInt8](repeating: 1, count: $0) }) { _, _ in
            ISCSILoginPolicy(server: server)
        }
    }

    private func violate(_ what: String) { violations.append(what) }

    package var isLoggedIn: Bool { result != nil }
    package var isIdle: Bool { tasks.allSatisfy(isWaiting) }

    package func takeOutput(_ maximum: Int = .max) -> [UInt8] {
        let part = Array(output.prefix(maximum))
        output.removeFirst(part.count)
        return part
    }

    // MARK: Input

    package func receive(_ bytes: [UInt8]) {
        reader.append(bytes)
        do {
            while let pdu = try reader.next() { take(pdu) }
        } catch {
            violate("\(error)")
        }
    }

    private func take(_ pdu: ISCSIPDU) {
        guard result != nil else { return takeLogin(pdu) }
        if Int32(bitPattern: pdu.expectedStatus &- statusNumber) > 0 {
            violate("ExpStatSN \(pdu.expectedStatus) beyond StatSN \(statusNumber)")
        }
        if pdu.data.count > options.segment { violate("data segment of \(pdu.data.count)") }
        guard pdu.opcode != ISCSIOpcode.dataOut else { return takeData(pdu) }
        countCommand(pdu)
        switch pdu.opcode {
        case ISCSIOpcode.scsiCommand: takeCommand(pdu)
        case ISCSIOpcode.nopOut: takePing(pdu)
        case ISCSIOpcode.taskManagement: manage(pdu)
        case ISCSIOpcode.logout:
            send(ISCSIPDU(opcode: ISCSIOpcode.logoutResponse, flags: 0x80), for: pdu)
        default: violate("PDU of kind \(pdu.opcode)")
        }
    }

    private func takeLogin(_ pdu: ISCSIPDU) {
        for action in login.receive(pdu) {
            switch action {
            case .send(let answer): output += answer.encoded()
            case .established(let result):
                self.result = result
                statusNumber = result.nextStatus
                expected = result.expectedCommand
            case .failed(_, let reason): violate("login: \(reason)")
            }
        }
    }

    private func countCommand(_ pdu: ISCSIPDU) {
        guard pdu.initiatorTaskTag != ISCSIPDU.reservedTag else { return }
        if pdu.isImmediate {
            if Int32(bitPattern: pdu.commandSequence &- expected) > 0 {
                violate("immediate CmdSN \(pdu.commandSequence), expected \(expected)")
            }
            return
        }
        if pdu.commandSequence != expected {
            violate("CmdSN \(pdu.commandSequence), expected \(expected)")
        }
        let maximum = announced ?? maximumCommand
        if Int32(bitPattern: pdu.commandSequence &- maximum) > 0 {
            violate("CmdSN \(pdu.commandSequence) beyond MaxCmdSN \(maximum)")
        }
        expected = pdu.commandSequence &+ 1
    }

    private var maximumCommand: UInt32 {
        let taken = tasks.count { !$0.pdu.isImmediate }
        return expected &+ UInt32(max(0, options.window - taken)) &- 1
    }

    private func takePing(_ pdu: ISCSIPDU) {
        if pdu.initiatorTaskTag == ISCSIPDU.reservedTag {
            if openPings.remove(pdu.targetTransferTag) == nil {
                violate("NOP-Out answers \(pdu.targetTransferTag), which was not asked")
            }
            pingsAnswered += 1
            return
        }
        var answer = ISCSIPDU(opcode: ISCSIOpcode.nopIn, flags: 0x80)
        answer.targetTransferTag = ISCSIPDU.reservedTag
        answer.data = pdu.data
        send(answer, for: pdu)
    }

    private static func unit(_ pdu: ISCSIPDU) -> UInt64 {
        UInt64(pdu.field32(8)) << 32 | UInt64(pdu.field32(12))
    }

    private func takeCommand(_ pdu: ISCSIPDU) {
        let code = pdu[32]
        let unit = Self.unit(pdu)
        if tasks.contains(where: { $0.tag == pdu.initiatorTaskTag }) {
            violate("task tag \(pdu.initiatorTaskTag) is in use")
        }
        abandoned.remove(pdu.initiatorTaskTag)
        commands.append((pdu.initiatorTaskTag, code, pdu.commandSequence))
        if commands.count == options.pingsAfter {
            var ping = ISCSIPDU(opcode: ISCSIOpcode.nopIn, flags: 0x80)
            ping.initiatorTaskTag = ISCSIPDU.reservedTag
            ping.targetTransferTag = pingTag
            openPings.insert(pingTag)
            stamp(&ping, counts: false)
            output += ping.encoded()
        }
        var task = Task(pdu: pdu, unit: unit)
        task.isUnsolicited = pdu.flags & 0xa0 == 0x20
        if code != 0xa0, code != 0x12 {
            let initial =
                options.attentions
                + (options.laterAttentionAfter.map { commands.count > $0 } == true ? 1 : 0)
            let reported = attentions[unit, default: 0]
            if reported < initial {
                attentions[unit] = reported + 1
                return end(task, status: 2, sense: (6, 0x29))
            }
        }
        switch code {
        case 0x00: end(task, status: 0)
        case 0xa0:
            var data = bigEndian32(16) + bigEndian32(0)
            data += [UInt8](repeating: 0, count: 8) + [0, 1] + [UInt8](repeating: 0, count: 6)
            sendWhole(task, data)
        case 0x28, 0x2a:
            task.offset = Int(pdu.field32(34)) * SimulatedDisk.blockSize
            task.length = Int(pdu.field16(39)) * SimulatedDisk.blockSize
            task.isRead = code == 0x28
            task.isWrite = code == 0x2a
            guard task.offset + task.length <= disk.bytes.count else {
                return end(task, status: 2, sense: (5, 0x21))
            }
            if task.isRead, let limit = options.failsReadsAfter, commands.count > limit {
                return end(task, status: 2, sense: (3, 0x11))
            }
            if task.isWrite { store(pdu.data, &task) }
            tasks.append(task)
        case 0x16:
            reserved.insert(unit)
            end(task, status: 0)
        case 0x17:
            reserved.remove(unit)
            end(task, status: 0)
        case 0x5f: end(task, status: reservePersistently(pdu, unit))
        default: end(task, status: 2, sense: (5, 0x20))
        }
    }

    /// One initiator moves between servers: keys are the disk's.
    private func reservePersistently(_ pdu: ISCSIPDU, _ unit: UInt64) -> UInt8 {
        guard pdu.data.count == 24 else { return 2 }
        let key = { (offset: Int) in
            pdu.data[offset..<offset + 8].reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        }
        switch pdu[33] & 0x1f {
        case 0, 6:
            guard pdu[33] & 0x1f == 6 || disk.keys[unit, default: 0] == key(0) else { return 0x18 }
            disk.keys[unit] = key(8)
            return 0
        case 1:
            guard disk.keys[unit] == key(0) else { return 0x18 }
            disk.types[unit] = pdu[34] & 0x0f
            return 0
        case 2:
            guard disk.keys[unit] == key(0) else { return 0x18 }
            disk.types[unit] = nil
            return 0
        default: return 2
        }
    }

    private func store(_ data: [UInt8], _ task: inout Task) {
        let start = task.offset + task.done
        guard task.done + data.count <= task.length else { return violate("too much data") }
        disk.bytes.replaceSubrange(start..<start + data.count, with: data)
        task.done += data.count
    }

    private func takeData(_ pdu: ISCSIPDU) {
        guard let index = tasks.firstIndex(where: { $0.tag == pdu.initiatorTaskTag }) else {
            if !dropped.contains(pdu.initiatorTaskTag),
                pdu.targetTransferTag != ISCSIPDU.reservedTag
                    || !abandoned.contains(pdu.initiatorTaskTag)
            {
                violate("data for task \(pdu.initiatorTaskTag), which is not there")
            }
            return
        }
        var task = tasks[index]
        let isSolicited = pdu.targetTransferTag != ISCSIPDU.reservedTag
        if isSolicited ? pdu.targetTransferTag != task.transferTag : !task.isUnsolicited {
            violate("data with transfer tag \(pdu.targetTransferTag) for task \(task.tag)")
        }
        if pdu.field32(36) != task.dataSequence {
            violate("DataSN \(pdu.field32(36)), expected \(task.dataSequence)")
        }
        if Int(pdu.field32(40)) != task.done {
            violate("data at \(pdu.field32(40)), expected \(task.done)")
        }
        if Self.unit(pdu) != task.unit { violate("data for another unit") }
        task.dataSequence += 1
        store(pdu.data, &task)
        let isLast = pdu.flags & 0x80 != 0
        if isSolicited, isLast != (task.done == task.transferEnd) {
            violate("F bit \(isLast) at \(task.done) of \(task.transferEnd)")
        }
        if isLast {
            task.isUnsolicited = false
            task.transferTag = nil
            task.dataSequence = 0
        }
        tasks[index] = task
    }

    private func manage(_ pdu: ISCSIPDU) {
        let function = pdu.flags & 0x7f
        management.append((function, pdu.field32(32), pdu.commandSequence))
        var answer = ISCSIPDU(opcode: ISCSIOpcode.taskManagementResponse, flags: 0x80)
        switch function {
        case 1:
            let isThere = tasks.contains { $0.tag == pdu.field32(20) }
            if isThere { drop { $0.tag == pdu.field32(20) } } else { answer[2] = 1 }
        case 2, 5:
            drop { $0.unit == Self.unit(pdu) }
            if function == 5 { reserved.remove(Self.unit(pdu)) }
        default: answer[2] = 5
        }
        send(answer, for: pdu)
    }

    private func drop(_ isMeant: (Task) -> Bool) {
        for task in tasks where isMeant(task) { dropped.insert(task.tag) }
        tasks.removeAll(where: isMeant)
    }

    // MARK: Output

    private func stamp(_ pdu: inout ISCSIPDU, counts: Bool) {
        pdu.statusSequence = statusNumber
        if counts { statusNumber &+= 1 }
        pdu.expectedCommand = expected
        // What was promised holds.
        var maximum = maximumCommand
        if let announced, Int32(bitPattern: announced &- maximum) > 0 { maximum = announced }
        announced = maximum
        pdu.maximumCommand = maximum
    }

    private func send(_ answer: ISCSIPDU, for pdu: ISCSIPDU) {
        var answer = answer
        answer.initiatorTaskTag = pdu.initiatorTaskTag
        stamp(&answer, counts: true)
        output += answer.encoded()
    }

    private func end(_ task: Task, status: UInt8, sense: (key: UInt8, code: UInt8)? = nil) {
        if task.isUnsolicited { abandoned.insert(task.tag) }
        tasks.removeAll { $0.tag == task.tag }
        var answer = ISCSIPDU(opcode: ISCSIOpcode.scsiResponse, flags: 0x80)
        answer[3] = status
        if status == 0 { answer.setField32(task.number, 36) }
        if let sense {
            var data = [UInt8](repeating: 0, count: 20)
            data[1] = 18
            data[2] = 0x70
            data[4] = sense.key
            data[9] = 10
            data[14] = sense.code
            answer.data = data
        }
        send(answer, for: task.pdu)
    }

    private func sendWhole(_ task: Task, _ data: [UInt8]) {
        var part = ISCSIPDU(opcode: ISCSIOpcode.dataIn, flags: 0x81)
        part.targetTransferTag = ISCSIPDU.reservedTag
        part.data = data
        send(part, for: task.pdu)
    }

    private func isWaiting(_ task: Task) -> Bool {
        task.isWrite && (task.isUnsolicited || task.transferTag != nil)
    }

    /// One PDU for one of the tasks that can go on; false when all wait.
    package func step() -> Bool {
        let ready = tasks.indices.filter { !isWaiting(tasks[$0]) }
        guard !ready.isEmpty else { return false }
        let index = ready[random.below(ready.count)]
        if tasks[index].isRead { read(index) } else { write(index) }
        return true
    }

    private func read(_ index: Int) {
        var task = tasks[index]
        if task.done == task.length { return end(task, status: 0) }
        let burst = Int(options.parameters.maxBurstLength)
        let rest = task.length - task.done
        let inBurst = burst - task.done % burst
        let count = min(min(rest, inBurst), options.segment - 4 * random.below(options.segment / 8))
        let isLast = count == rest
        var part = ISCSIPDU(
            opcode: ISCSIOpcode.dataIn, flags: isLast || count == inBurst ? 0x80 : 0)
        part.initiatorTaskTag = task.tag
        part.targetTransferTag = ISCSIPDU.reservedTag
        part.setField32(task.number, 36)
        part.setField32(UInt32(task.done), 40)
        let start = task.offset + task.done
        part.data = Array(disk.bytes[start..<start + count])
        task.done += count
        task.number += 1
        tasks[index] = task
        let carriesStatus = isLast && options.collapsesStatus
        if carriesStatus {
            part.flags |= 1
            tasks.remove(at: index)
            stamp(&part, counts: true)
        } else {
            stamp(&part, counts: false)
            part.statusSequence = 0
        }
        output += part.encoded()
    }

    private func write(_ index: Int) {
        var task = tasks[index]
        if task.done == task.length { return end(task, status: 0) }
        let count = min(task.length - task.done, Int(options.parameters.maxBurstLength))
        var ask = ISCSIPDU(opcode: ISCSIOpcode.readyToTransfer, flags: 0x80)
        for offset in 8..<16 { ask[offset] = task.pdu[offset] }
        ask.initiatorTaskTag = task.tag
        ask.targetTransferTag = nextTransferTag
        ask.setField32(task.number, 36)
        ask.setField32(UInt32(task.done), 40)
        ask.setField32(UInt32(count), 44)
        stamp(&ask, counts: false)
        task.transferTag = nextTransferTag
        task.transferEnd = task.done + count
        task.number += 1
        task.dataSequence = 0
        nextTransferTag += 1
        tasks[index] = task
        output += ask.encoded()
    }
}
