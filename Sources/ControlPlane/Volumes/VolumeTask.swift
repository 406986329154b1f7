import StorageProtocols

/// A SCSI command to a volume: its data from the client, its turn, its answer. What it does to the members is in
/// `VolumeTaskBlocks` and `VolumeTaskUnit`.
final class VolumeTask {
    enum Phase {
        /// Data of the client is missing.
        case gathering
        /// For older tasks.
        case waiting
        case running
        case ended
    }

    /// Basic header segment of its command.
    let header: [UInt8]
    let tag: UInt32
    let block: [UInt8]
    let command: SCSICommand
    /// Which has it until it ends.
    let unit: VolumeUnit
    private(set) var phase = Phase.gathering
    /// Octets that the initiator expects to be moved (RFC 7143 section 11.3.4).
    let expected: Int
    private let isWrite: Bool
    /// The initiator takes data.
    let isReading: Bool

    /// From the client.
    private(set) var data: [UInt8] = []
    private var requested = 0
    private var requests: UInt32 = 0
    private var hasMemory = 0
    private var isGranted = false
    private var refusal: SCSISense?

    /// For the client.
    var input: [UInt8] = []
    private(set) var sent = 0
    private var dataNumber: UInt32 = 0

    var ticket: RangeLocks.Ticket?
    var parts: [VolumePart] = []
    var partsOpen = 0
    /// Blocks that a mirror's change map knows to be in the middle of a write.
    var writing: Range<UInt64>?
    /// Nobody waits for its answer, but what it does is to be finished.
    private var onAbort: (() -> Void)?

    init(_ header: [UInt8], unit: VolumeUnit) {
        self.header = header
        self.unit = unit
        tag = header.field32(16)
        block = Array(header[32..<48])
        command = SCSICommand(block)
        isWrite = header[1] & 0x20 != 0
        isReading = header[1] & 0x40 != 0 && !isWrite
        expected = isWrite || isReading ? Int(header.field32(20)) : 0
        if isWrite, expected > Volume.transferMaximum { refusal = .invalidField }
    }

    /// Task attributes (RFC 7143 section 11.3.1).
    var isOrdered: Bool { header[1] & 7 == 2 }
    var isHead: Bool { header[1] & 7 == 3 }
    var isWaiting: Bool { phase == .waiting }
    var isRunning: Bool { phase == .running }
    var isEnded: Bool { phase == .ended }
    /// Members are in the middle of it.
    var isWriting: Bool { phase == .running && writing != nil }

    // MARK: Data of the client

    /// Octets that come unasked, or as asked for; in order, as DataPDUInOrder and DataSequenceInOrder have it.
    func append(_ bytes: UnsafeRawBufferPointer) {
        guard phase == .gathering, refusal == nil else { return }
        data.append(contentsOf: bytes.prefix(max(0, expected - data.count)))
    }

    /// Nothing more comes unasked.
    func sequenceEnded() {
        guard phase == .gathering else { return }
        if let refusal { return fail(refusal) }
        guard isWrite, data.count < expected else {
            phase = .waiting
            return unit.isComplete(self)
        }
        guard !isGranted else { return ask() }
        let missing = expected - data.count
        reserve(missing) { [weak self] in
            guard let self, phase == .gathering else { return }
            isGranted = true
            data.reserveCapacity(expected)
            requested = data.count
            ask()
        }
    }

    /// Room for so many octets, then `body`: now or later.
    func reserve(_ count: Int, _ body: @escaping () -> Void) {
        unit.reserve(self, count) { [weak self] in
            self?.hasMemory += count
            body()
        }
    }

    private func ask() {
        guard data.count >= requested else { return }
        let count = min(unit.burstMaximum, expected - data.count)
        unit.askFor(self, number: requests, offset: data.count, count: count)
        requests += 1
        requested = data.count + count
    }

    // MARK: Turn

    func start() {
        guard phase == .waiting else { return }
        phase = .running
        unit.volume.whenReady { [weak self] trouble in
            guard let self, phase == .running else { return }
            if trouble != nil { return fail(.communicationFailure) }
            if let attention = unit.attention, meetsAttention {
                unit.attention = nil
                return fail(sense: attention)
            }
            run()
            unit.flush()
        }
    }

    /// SAM-5 section 5.14.1.
    private var meetsAttention: Bool {
        switch command {
        case .inquiry, .requestSense, .reportUnits: false
        default: true
        }
    }

    // MARK: Answers

    /// GOOD, with `count` octets moved, or that would have been if the initiator had expected them.
    func succeed(moved count: Int = 0) {
        guard phase == .running else { return }
        answer(status: 0, moved: count)
    }

    /// GOOD, with data. `length`: of all that there is.
    func succeed(data: [UInt8], of length: Int? = nil) {
        guard phase == .running else { return }
        let total = length ?? data.count
        let moved = isReading ? min(expected, data.count) : 0
        guard moved > sent else { return succeed(moved: total) }
        var flags: UInt8 = 0
        if total > expected { flags = 4 } else if total < expected { flags = 2 }
        if onAbort == nil {
            data.withUnsafeBytes {
                unit.send(
                    self, UnsafeRawBufferPointer(rebasing: $0[sent..<moved]), at: sent,
                    last: (flags, abs(total - expected)))
            }
        }
        sent = moved
        end()
    }

    /// What of `input` is there from the begin on, up to `count`, may go; less than all of it.
    func pass(upTo count: Int) {
        let end = min(count, min(expected, input.count) - 1) & ~511
        guard phase == .running, isReading, end > sent, onAbort == nil else { return }
        input.withUnsafeBytes {
            unit.send(
                self, UnsafeRawBufferPointer(rebasing: $0[sent..<end]), at: sent, last: nil)
        }
        sent = end
    }

    func takeDataNumber() -> UInt32 {
        defer { dataNumber += 1 }
        return dataNumber
    }

    func fail(_ sense: SCSISense) { fail(sense: sense.fixed) }

    func fail(sense: [UInt8]) {
        // RFC 7143 section 11.4.7.2: the sense data is behind its length.
        let length = [UInt8(sense.count >> 8 & 0xff), UInt8(sense.count & 0xff)]
        answer(status: 2, moved: sent, data: length + sense)
    }

    func fail(status: UInt8) { answer(status: status, moved: sent) }

    private func answer(status: UInt8, moved count: Int, data: [UInt8] = []) {
        guard phase != .ended else { return }
        var pdu = ISCSIPDU(status: status, to: header)
        pdu.setResidual(moved: count, expected: expected)
        pdu.data = data
        unit.say(self, pdu)
        end()
    }

    var isSilent: Bool { onAbort != nil }

    private func end() {
        guard phase != .ended else { return }
        giveBack()
        unit.remove(self)
        let onAbort = onAbort
        self.onAbort = nil
        onAbort?()
    }

    private func giveBack() {
        phase = .ended
        if let writing { unit.volume.endWrite(writing) }
        writing = nil
        if let ticket { unit.volume.locks.release(ticket) }
        ticket = nil
        data = []
        input = []
        parts = []
        if hasMemory > 0 { unit.giveMemory(hasMemory) }
        hasMemory = 0
    }

    /// Its members will answer nothing any more, and nobody waits for it.
    func discard() {
        guard phase != .ended else { return }
        giveBack()
    }

    /// ABORT TASK. A mirror's write is not cut off, since its members would differ: it ends first.
    func abort(_ then: @escaping () -> Void) {
        guard phase == .running, partsOpen > 0 else {
            if phase != .ended { giveBack() }
            return then()
        }
        if unit.volume.isMirror {
            let earlier = onAbort
            onAbort = {
                earlier?()
                then()
            }
            return
        }
        let open = parts.filter { $0.request != nil }
        var missing = open.count
        guard missing > 0 else {
            discard()
            return then()
        }
        for part in open {
            guard let request = part.request else { continue }
            let member = unit.members[part.place]
            member.manage(1, request) { [weak self] _ in
                member.forget(request)
                missing -= 1
                guard missing == 0 else { return }
                self?.discard()
                then()
            }
        }
    }
}
