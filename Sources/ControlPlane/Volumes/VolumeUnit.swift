import DataPlane
import Logging
import StorageProtocols

/// A volume as one session uses it: to the session's relay a destination like a server's, which takes iSCSI PDUs and
/// answers them; to the volume's members an initiator.
///
/// Numbers are the relay's router's to give: StatSN only counts here. Lives on the session thread.
final class VolumeUnit: MessageDestination {
    let volume: Volume
    let members: [VolumeMember]
    let engine: SessionEngine
    private let login: ISCSILoginResult
    private let onOutput: () -> Void
    var output = OutboundBuffer()

    /// By initiator task tag, and in the order in which they came.
    private var tasks: [UInt32: VolumeTask] = [:]
    private var order: [VolumeTask] = []
    /// ORDERED tasks among them (SAM-5 section 8.9.4).
    private var orderedOpen = 0
    private var nextStatus: UInt32 = 1
    private var nextTransfer: UInt32 = 1
    /// A condition that a member has reported to a command which was carried out all the same: the next one is told.
    var attention: [UInt8]?
    private var isEnded = false

    /// Octets of data that open tasks may keep; what has no room waits before anything of it is asked for.
    private static let memoryMaximum = Volume.transferMaximum
    private var memory = 0
    private var hungry: [(task: VolumeTask, count: Int, body: () -> Void)] = []

    init(
        _ volume: Volume, id: SpliceID, login: ISCSILoginResult, client: Leg,
        engine: SessionEngine, portal: ISCSIPortal, summary: @escaping () -> SessionSummary?,
        onOutput: @escaping () -> Void
    ) {
        self.volume = volume
        self.engine = engine
        self.login = login
        self.onOutput = onOutput
        members = volume.resources.map {
            VolumeMember(
                $0, id: id, login: login, client: client, engine: engine, portal: portal,
                summary: summary)
        }
        for (place, member) in members.enumerated() {
            member.onServerLost = { [weak volume] reason in volume?.takeOut(place, reason) }
        }
        volume.join(self)
    }

    var nexuses: [ISCSINexus] { members.compactMap(\.nexus) }

    /// A member knows that this session holds something.
    var hasReservation: Bool { nexuses.contains { !$0.relay.reservations.isEmpty } }

    func openRequests(at nexus: ISCSINexus) -> Int {
        members.first { $0.nexus === nexus }?.openRequests ?? 0
    }

    /// The session is over. Writes to a mirror that have begun end first: cut off they would be on some members only.
    func end(_ reason: String) {
        guard !isEnded else { return }
        isEnded = true
        hungry = []
        for task in order where !(volume.isMirror && task.isWriting) {
            task.discard()
            tasks[task.tag] = nil
        }
        order.removeAll { $0.isEnded }
        endReason = reason
        leaveWhenDone()
    }
    private var endReason = ""

    private func leaveWhenDone() {
        guard isEnded, order.isEmpty else { return }
        volume.leave(self)
        for member in members { member.leave(endReason) }
    }

    /// It is out of the mirror: what is open there comes back as lost.
    func memberLeft(_ place: Int, _ reason: String) { members[place].leave(reason) }

    // MARK: From the client

    private let stream = PDUStream()

    func feed(_ bytes: UnsafeRawBufferPointer) {
        stream.take(
            bytes, begin: begin,
            part: { header, _, part in tasks[header.field32(16)]?.append(part) }, end: complete)
    }

    private func begin(_ header: [UInt8]) {
        guard header[0] & 0x3f == ISCSIOpcode.scsiCommand else { return }
        let task = VolumeTask(header, unit: self)
        tasks[task.tag] = task
        order.append(task)
        if task.isOrdered { orderedOpen += 1 }
    }

    private func complete(_ header: [UInt8]) {
        switch header[0] & 0x3f {
        case ISCSIOpcode.scsiCommand, ISCSIOpcode.dataOut:
            guard let task = tasks[header.field32(16)] else { return }
            // RFC 7143 section 11.7.1: F ends a sequence.
            if header[1] & 0x80 != 0 { task.sequenceEnded() }
        case ISCSIOpcode.taskManagement: manage(header)
        default: break
        }
    }

    func flush() { for member in members { member.flush() } }

    // MARK: Tasks

    /// All data of it is here: it may begin when nothing that came before stands in the way.
    func isComplete(_ task: VolumeTask) { startTasks() }

    // SAM-5 section 8.9: an ORDERED task begins when all older ones have ended, and those that are younger begin after
    // it; a HEAD OF QUEUE task does not wait.
    private func startTasks() {
        if orderedOpen == 0 {
            for task in order where task.isWaiting { task.start() }
            return
        }
        for (index, task) in order.enumerated() {
            if task.isWaiting {
                if task.isHead || !task.isOrdered || index == 0 { task.start() }
            }
            if task.isOrdered { break }
        }
        for task in order where task.isHead && task.isWaiting { task.start() }
    }

    /// Room for data; `body` is called when there is some: now or later.
    func reserve(_ task: VolumeTask, _ count: Int, _ body: @escaping () -> Void) {
        hungry.append((task, count, body))
        feedHungry()
    }

    private var isFeeding = false

    private func feedHungry() {
        guard !isFeeding else { return }
        isFeeding = true
        defer { isFeeding = false }
        while let (task, count, body) = hungry.first {
            guard memory == 0 || memory + output.count + count <= Self.memoryMaximum else {
                return
            }
            hungry.removeFirst()
            guard !task.isEnded else { continue }
            memory += count
            body()
        }
    }

    func giveMemory(_ count: Int) {
        memory -= count
        feedHungry()
    }

    func outputTaken() { feedHungry() }

    /// Of reads that bring much, what is there goes on in a round of its own.
    func passLater(_ task: VolumeTask) {
        passing.append(task)
        guard passing.count == 1 else { return }
        engine.loop.postLocal { [weak self] in
            guard let self else { return }
            let due = passing
            passing = []
            for task in due { task.passWhatIsThere() }
        }
    }
    private var passing: [VolumeTask] = []

    /// Whole messages stay below: nothing is held up for want of room.
    func makeRoom(_ count: Int) {}

    /// It has been answered, or is of no interest any more.
    func remove(_ task: VolumeTask) {
        guard tasks[task.tag] === task else { return }
        tasks[task.tag] = nil
        order.removeAll { $0 === task }
        hungry.removeAll { $0.task === task }
        if task.isOrdered { orderedOpen -= 1 }
        if isEnded { leaveWhenDone() } else { startTasks() }
    }

    // MARK: To the client

    /// An answer to a task.
    func say(_ task: VolumeTask, _ pdu: ISCSIPDU) {
        if !task.isSilent { say(pdu) }
    }

    private func say(_ pdu: ISCSIPDU) {
        guard !isEnded else { return }
        var pdu = pdu
        pdu.statusSequence = nextStatus
        nextStatus &+= 1
        output.append(pdu.encoded())
        onOutput()
    }

    /// Asks for data (RFC 7143 section 11.8).
    func askFor(_ task: VolumeTask, number: UInt32, offset: Int, count: Int) {
        guard !isEnded else { return }
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.readyToTransfer, flags: 0x80)
        for index in 8..<16 { pdu[index] = task.header[index] }
        pdu.initiatorTaskTag = task.tag
        pdu.targetTransferTag = nextTransfer
        nextTransfer = nextTransfer == ISCSIPDU.reservedTag - 1 ? 1 : nextTransfer + 1
        pdu.statusSequence = nextStatus
        pdu.setField32(number, 36)
        pdu.setField32(UInt32(offset), 40)
        pdu.setField32(UInt32(count), 44)
        output.append(pdu.encoded())
        onOutput()
    }

    var burstMaximum: Int { Int(login.parameters.maxBurstLength) }
    var firstBurstMaximum: Int { Int(login.parameters.firstBurstLength) }

    /// Data-In PDUs for a part of a task's data (RFC 7143 section 11.7).
    /// - Parameter last: the end of the task's data: GOOD goes with it, and the residual count.
    func send(
        _ task: VolumeTask, _ data: UnsafeRawBufferPointer, at start: Int,
        last: (flags: UInt8, residual: Int)?
    ) {
        guard !isEnded else { return }
        let segment = max(512, min(Int(login.initiatorMaxReceive), burstMaximum)) & ~3
        var offset = 0
        while offset < data.count {
            let place = start + offset
            // Section 13.13: a sequence is not longer than MaxBurstLength; F ends it.
            let burstLeft = burstMaximum - place % burstMaximum
            let count = min(segment, burstLeft, data.count - offset)
            let isEnd = offset + count == data.count
            var flags: UInt8 = count == burstLeft ? 0x80 : 0
            var pdu = ISCSIPDU(opcode: ISCSIOpcode.dataIn)
            if isEnd, let last {
                flags |= 0x81 | last.flags
                pdu.setField32(UInt32(clamping: last.residual), 44)
                pdu.statusSequence = nextStatus
                nextStatus &+= 1
            }
            pdu.flags = flags
            pdu.initiatorTaskTag = task.tag
            pdu.targetTransferTag = ISCSIPDU.reservedTag
            pdu.setField32(task.takeDataNumber(), 36)
            pdu.setField32(UInt32(place), 40)
            var header = pdu.header
            header[5] = UInt8(truncatingIfNeeded: count >> 16)
            header[6] = UInt8(truncatingIfNeeded: count >> 8)
            header[7] = UInt8(truncatingIfNeeded: count)
            output.append(header)
            output.append(UnsafeRawBufferPointer(rebasing: data[offset..<offset + count]))
            let rest = (4 - count & 3) & 3
            if rest > 0 { output.append([UInt8](repeating: 0, count: rest)) }
            offset += count
        }
        onOutput()
    }

    // MARK: Task management

    // RFC 7143 section 11.5.1.
    private func manage(_ header: [UInt8]) {
        let function = header[1] & 0x7f
        let tag = header.field32(16)
        switch function {
        case 1:
            // RFC 7143 section 11.5.5: the task that is meant.
            guard let task = tasks[header.field32(20)] else { return answer(tag, 1) }
            task.abort { [weak self] in
                self?.remove(task)
                self?.answer(tag, 0)
            }
        case 2, 4, 5:
            guard volume.isMirror, let capacity = volume.layout?.capacity else {
                return manageMembers(function, tag) {}
            }
            // What is cut off in the middle would leave the members different: it ends first.
            let locks = volume.locks
            let ticket = TicketBox()
            ticket.value = locks.acquire(0..<capacity, for: .atomic) { [engine, weak self] in
                // Not before the ticket is known.
                engine.loop.postLocal { [weak self] in
                    guard let value = ticket.value else { return }
                    guard let self, !isEnded else { return locks.release(value) }
                    manageMembers(function, tag) { locks.release(value) }
                    flush()
                }
            }
        // Resets of the target are not a unit's.
        default: answer(tag, 5)
        }
        flush()
    }

    private final class TicketBox { var value: RangeLocks.Ticket? }

    private func manageMembers(_ function: UInt8, _ tag: UInt32, _ then: @escaping () -> Void) {
        let present = volume.written
        var missing = present.count
        var worst: UInt8 = 0
        guard missing > 0 else {
            answer(tag, 0xff)
            return then()
        }
        for place in present {
            members[place].manage(function) { [weak self] response in
                worst = max(worst, response ?? 0)
                missing -= 1
                guard missing == 0 else { return }
                if worst == 0 { self?.functionDone(function) }
                self?.answer(tag, worst)
                then()
            }
        }
    }

    /// What it has ended gets no response; of other sessions' tasks their initiators are told (SAM-5 section 5.3.1,
    /// TASK ABORTED).
    private func functionDone(_ function: UInt8) {
        dropAll(tells: false)
        if function >= 4 { for other in volume.others(than: self) { other.dropAll(tells: true) } }
    }

    private func dropAll(tells: Bool) {
        for member in members { member.forgetAll() }
        // Nothing begins with the memory that others give back.
        hungry = []
        for task in order {
            task.discard()
            if tells { say(ISCSIPDU(status: 0x40, to: task.header)) }
        }
        let dropped = order
        order = []
        orderedOpen = 0
        for task in dropped { tasks[task.tag] = nil }
    }

    private func answer(_ tag: UInt32, _ response: UInt8) {
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.taskManagementResponse, flags: 0x80)
        pdu.initiatorTaskTag = tag
        pdu[2] = response
        say(pdu)
    }
}
