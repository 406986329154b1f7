import StorageProtocols

/// What one member is asked for.
final class VolumePart {
    var place: Int
    let block: [UInt8]
    let payload: MemberRequest.Payload
    let inputLength: Int
    /// Octets of the member's data, and where in the task's they are; in the order of the member's.
    let pieces: [(length: Int, offset: Int)]
    /// First block on the member and in the volume, and how many, for each piece: to tell what a sense means.
    let blocks: [(member: UInt64, volume: UInt64, count: UInt64)]
    /// Of a mirror's write: one of several that do the same.
    let isCopy: Bool
    var received = 0
    var attempts = 0
    var tried: Set<Int> = []
    var startedAt: UInt64 = 0
    /// Open at the member.
    var request: MemberRequest?
    var result: Result?

    enum Result {
        case answered(status: UInt8, sense: [UInt8])
        case lost
        /// The member has left the mirror.
        case left
    }

    init(
        place: Int, block: [UInt8], payload: MemberRequest.Payload = MemberRequest.Payload(),
        inputLength: Int = 0, pieces: [(length: Int, offset: Int)] = [],
        blocks: [(member: UInt64, volume: UInt64, count: UInt64)] = [], isCopy: Bool = false
    ) {
        self.place = place
        self.block = block
        self.payload = payload
        self.inputLength = inputLength
        self.pieces = pieces
        self.blocks = blocks
        self.isCopy = isCopy
    }

    /// Where in the task's data the first octet is that is not known to be right: not before the status is there.
    var firstMissing: Int { isGood ? .max : pieces.first?.offset ?? .max }
}

/// Commands that are about blocks: split among the members, put together again.
extension VolumeTask {
    /// What goes along with blocks.
    enum BlockData {
        case none
        /// Each block has its own.
        case each
        /// One block that is meant for all.
        case same
    }

    /// False, and answered: the range is not within the volume, or there is nothing to do.
    func isWithin(_ range: SCSICommand.Range) -> Bool {
        let capacity = unit.volume.layout?.capacity ?? 0
        guard range.start <= capacity, range.count <= capacity - range.start else {
            fail(.outOfRange)
            return false
        }
        guard range.count == 0 else { return true }
        // SBC-3 section 5.8: nothing to transfer is no error, but there must be such a block.
        if range.start >= capacity { fail(.outOfRange) } else { succeed() }
        return false
    }

    // MARK: Reads

    func read(_ range: SCSICommand.Range) {
        guard isWithin(range) else { return }
        let length = unit.volume.blockLength
        let whole = Int(clamping: range.count).multipliedReportingOverflow(by: length)
        guard !whole.overflow, whole.partialValue <= Volume.transferMaximum else {
            return fail(.invalidField)
        }
        // What the initiator does not expect is not read.
        let wanted = min(whole.partialValue, isReading ? expected : 0)
        let count = UInt64((wanted + length - 1) / length)
        guard count > 0 else { return succeed(moved: whole.partialValue) }
        let range = SCSICommand.Range(start: range.start, count: count)
        // Memory first: who has blocks must not wait for those who have memory.
        reserve(Int(count) * length) { [self] in
            guard isRunning else { return }
            lock(range, .read) { [weak self] in
                guard let self else { return }
                // Not cleared: what has not come is not passed on.
                input = [UInt8](unsafeUninitializedCapacity: Int(count) * length) {
                    $1 = Int(count) * length
                }
                run(makeParts(range, .none, reads: true)) { [weak self] in
                    self?.conclude { [weak self] in
                        guard let self else { return }
                        succeed(data: input, of: whole.partialValue)
                    }
                }
                unit.flush()
            }
        }
    }

    /// The begin of the data may go before the end is there.
    func passWhatIsThere() {
        guard isRunning, !parts.isEmpty else { return }
        pass(upTo: parts.reduce(Int.max) { min($0, $1.firstMissing) })
    }

    // MARK: Others

    /// - Parameter purpose: `.write` where the blocks change.
    func perform(
        _ range: SCSICommand.Range, _ data: BlockData, for purpose: RangeLocks.Purpose
    ) {
        guard isWithin(range) else { return }
        let length = unit.volume.blockLength
        var range = range
        var moved = 0
        switch data {
        case .none: break
        case .each:
            let whole = Int(clamping: range.count).multipliedReportingOverflow(by: length)
            guard !whole.overflow, whole.partialValue <= Volume.transferMaximum else {
                return fail(.invalidField)
            }
            moved = whole.partialValue
            // As much as the initiator has sent.
            range.count = min(range.count, UInt64(self.data.count / length))
            guard range.count > 0 else { return succeed(moved: moved) }
        case .same:
            moved = length
            guard self.data.count == length else { return fail(.invalidField) }
        }
        lock(range, purpose) { [self] in
            guard purpose == .write else {
                run(makeParts(range, data, reads: false)) { [weak self] in
                    self?.conclude { [weak self] in self?.succeed(moved: moved) }
                }
                return
            }
            beginWrite(range) { [weak self] in
                guard let self else { return }
                run(makeParts(range, data, reads: false)) { [weak self] in
                    self?.conclude { [weak self] in self?.succeed(moved: moved) }
                }
                unit.flush()
            }
        }
    }

    func lock(
        _ range: SCSICommand.Range, _ purpose: RangeLocks.Purpose, _ then: @escaping () -> Void
    ) {
        ticket = unit.volume.locks.acquire(
            range.start..<range.start + range.count, for: purpose
        ) { [weak self] in
            // Not from within whoever has given it back.
            self?.unit.engine.loop.postLocal { [weak self] in
                guard let self, isRunning else { return }
                then()
                unit.flush()
            }
        }
    }

    func beginWrite(_ range: SCSICommand.Range, _ then: @escaping () -> Void) {
        let blocks = range.start..<range.start + range.count
        writing = blocks
        unit.volume.beginWrite(blocks) { [weak self] trouble in
            guard let self, isRunning else { return }
            if trouble != nil { return fail(.internalFailure) }
            then()
        }
    }

    /// The members' parts of a range.
    func makeParts(
        _ range: SCSICommand.Range, _ data: BlockData, reads: Bool, block: [UInt8]? = nil,
        octets: [UInt8]? = nil
    ) -> [VolumePart] {
        let volume = unit.volume
        let length = volume.blockLength
        let octets = octets ?? self.data
        guard let layout = volume.layout else { return [] }
        let isCopied = volume.isMirror && writing != nil
        // What has no data of its own for each block goes to a member as one, however many chunks it has there.
        var isDivided = reads
        if case .each = data { isDivided = true }
        let divided =
            isDivided
            ? layout.parts(
                start: range.start, count: range.count,
                maximum: UInt64(max(1, Self.partMaximum / length)))
            : layout.spans(start: range.start, count: range.count)
        return divided.flatMap { part in
            let pieces = part.pieces.map {
                (length: Int($0.count) * length, offset: Int($0.offset) * length)
            }
            var payload = MemberRequest.Payload()
            switch data {
            case .none: break
            case .each:
                payload = MemberRequest.Payload(
                    octets, pieces: pieces.map { $0.offset..<$0.offset + $0.length })
            case .same: payload = MemberRequest.Payload(octets, pieces: [0..<length])
            }
            var member = part.start
            let blocks = part.pieces.map { piece in
                defer { member += piece.count }
                return (member: member, volume: range.start + piece.offset, count: piece.count)
            }
            // Longer than a command can say: refused by the member, not taken for another command.
            let block =
                SCSICommand.part(of: block ?? self.block, start: part.start, count: part.count)
                ?? Self.impossibleBlock
            let places =
                isCopied ? volume.written : [volume.isMirror ? -1 : part.member]
            return places.map { place in
                VolumePart(
                    place: place, block: block, payload: payload,
                    inputLength: reads ? Int(part.count) * length : 0,
                    pieces: reads ? pieces : [], blocks: blocks, isCopy: isCopied)
            }
        }
    }

    /// Octets of one command to a member: what is read of a long range goes on while the rest is read.
    private static let partMaximum = 256 << 10

    /// READ (16) far beyond any end.
    private static let impossibleBlock = SCSICommand.readBlocks(start: .max, count: 1)

    // MARK: Parts

    /// Sends the parts and calls `then` when all have ended.
    func run(_ parts: [VolumePart], then: @escaping () -> Void) {
        self.parts = parts
        partsOpen = parts.count
        guard !parts.isEmpty else { return then() }
        for part in parts { send(part, then) }
    }

    private func send(_ part: VolumePart, _ then: @escaping () -> Void) {
        let volume = unit.volume
        if part.place < 0
            || (volume.isMirror && !part.isCopy && part.request == nil
                && part.tried.contains(part.place))
        {
            guard let place = volume.reader(except: part.tried) else {
                return ended(part, part.result ?? .lost, then)
            }
            part.place = place
        }
        part.received = 0
        part.startedAt = unit.engine.loop.now
        let request = MemberRequest(
            part.block, payload: part.payload, inputLength: part.inputLength,
            onData: { [weak self, weak part] offset, bytes in
                guard let self, let part else { return }
                receive(bytes, at: offset, of: part)
            }, onAgain: { [weak part] in part?.received = 0 },
            onEnd: { [weak self, weak part] in
                guard let self, let part else { return }
                take($0, of: part, then)
            })
        part.request = request
        unit.members[part.place].send(request)
    }

    private func receive(_ bytes: UnsafeRawBufferPointer, at offset: Int, of part: VolumePart) {
        guard isRunning, offset == part.received, offset + bytes.count <= part.inputLength else {
            return
        }
        part.received += bytes.count
        var (place, taken) = (offset, 0)
        input.withUnsafeMutableBytes { all in
            for piece in part.pieces where taken < bytes.count {
                guard place < piece.length else {
                    place -= piece.length
                    continue
                }
                let count = min(piece.length - place, bytes.count - taken)
                let start = piece.offset + place
                guard start + count <= all.count else { return }
                UnsafeMutableRawBufferPointer(rebasing: all[start..<start + count]).copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: bytes[taken..<taken + count]))
                taken += count
                place = 0
            }
        }
    }

    /// Times that a full queue or a condition is met before it is the answer.
    private static let attemptMaximum = 100
    /// ns.
    private static let busyInterval: UInt64 = 5_000_000

    private func take(
        _ outcome: MemberRequest.Outcome, of part: VolumePart, _ then: @escaping () -> Void
    ) {
        part.request = nil
        guard isRunning else { return }
        // Tried again it may be at another member.
        defer { unit.flush() }
        let volume = unit.volume
        let isRead = volume.isMirror && !part.isCopy
        switch outcome {
        case .lost(let reason):
            if isRead {
                volume.readEnded(part.place, took: nil)
                part.tried.insert(part.place)
                volume.takeOut(part.place, reason)
                part.result = .lost
                return again(part, then)
            }
            let hasLeft = volume.takeOut(part.place, reason)
            ended(part, hasLeft ? .left : .lost, then)
        case .answered(let status, let sense):
            if isRead {
                volume.readEnded(
                    part.place,
                    took: status == 0 ? unit.engine.loop.now - part.startedAt : nil)
            }
            let known = SCSISense(sense)
            if status == 2, known?.key == 6, part.attempts < Self.attemptMaximum {
                // Told with the next command: this one is carried out all the same.
                if part.place == volume.lead { unit.attention = sense }
                return again(part, then)
            }
            if volume.isMirror, status == 0x08 || status == 0x28,
                part.attempts < Self.attemptMaximum
            {
                unit.engine.loop.schedule(after: Self.busyInterval) { [weak self] in
                    self?.again(part, then)
                    self?.unit.flush()
                }
                return
            }
            part.result = .answered(status: status, sense: sense)
            if status == 0, part.received < part.inputLength {
                part.result = .answered(status: 2, sense: SCSISense.abortedByFailure.fixed)
            }
            // A medium that cannot be read here may be read elsewhere: keys MEDIUM and HARDWARE ERROR, ABORTED COMMAND.
            if isRead, status == 2, let key = known?.key, [3, 4, 0x0b].contains(key) {
                part.tried.insert(part.place)
                return again(part, then)
            }
            ended(part, part.result ?? .lost, then)
        }
    }

    private func again(_ part: VolumePart, _ then: @escaping () -> Void) {
        guard isRunning else { return }
        part.attempts += 1
        send(part, then)
    }

    private func ended(_ part: VolumePart, _ result: VolumePart.Result, _ then: () -> Void) {
        part.result = result
        partsOpen -= 1
        if partsOpen == 0 { return then() }
        // Data of a read goes as soon as all before it is there.
        if part.inputLength > 0, case .read = command { unit.passLater(self) }
    }

    // MARK: Putting together

    enum Failure {
        case status(UInt8)
        case sense([UInt8])
    }

    func fail(_ failure: Failure) {
        switch failure {
        case .status(let status): fail(status: status)
        case .sense(let octets): fail(sense: octets)
        }
    }

    /// All parts have ended: the task fails, or goes on with `good`.
    func conclude(_ good: @escaping () -> Void) {
        guard isRunning else { return }
        guard parts.first?.isCopy == true else {
            if let failure = partsOutcome(parts) { return fail(failure) }
            return good()
        }
        let failure = copiesOutcome()
        // Not told before it is on disk who has missed it.
        unit.volume.whenSaved { [weak self] trouble in
            guard let self, isRunning else { return }
            if trouble != nil { return fail(.internalFailure) }
            if let failure { return self.fail(failure) }
            good()
            unit.flush()
        }
    }

    private func partsOutcome(_ parts: [VolumePart]) -> Failure? {
        var worst: (first: UInt64, sense: [UInt8])?
        var status: UInt8 = 0
        for part in parts {
            switch part.result {
            case .answered(status: 0, _), .left: break
            case .answered(status: 2, let sense):
                let known = translated(sense, of: part)
                if worst == nil || known.first < worst?.first ?? 0 { worst = known }
            // RESERVATION CONFLICT before all that passes by itself.
            case .answered(let other, _): if status != 0x18 { status = other }
            case .lost, nil:
                var sense = SCSISense.communicationFailure
                let first = part.blocks.first?.volume
                sense.information = first
                if worst == nil || first ?? 0 < worst?.first ?? 0 {
                    worst = (first ?? 0, sense.fixed)
                }
            }
        }
        if status == 0x18 { return .status(status) }
        if let worst { return .sense(worst.sense) }
        return status == 0 ? nil : .status(status)
    }

    /// Sense data of a member about its blocks, said of the volume's; and the block that it is about.
    private func translated(
        _ sense: [UInt8], of part: VolumePart
    ) -> (first: UInt64, sense: [UInt8]) {
        let first = part.blocks.first?.volume ?? 0
        guard var known = SCSISense(sense), let place = known.information else {
            return (first, sense.isEmpty ? SCSISense.abortedByFailure.fixed : sense)
        }
        let range = part.blocks.first { $0.member <= place && place - $0.member < $0.count }
        guard let range else { return (first, sense) }
        let block = range.volume + (place - range.member)
        known.information = block
        return (block, known.fixed)
    }

    // A mirror's members must say the same; who does not has something else on it.
    private func copiesOutcome() -> Failure? {
        let volume = unit.volume
        let answered = parts.filter {
            if case .answered = $0.result { return true }
            return false
        }
        // The last one that has everything may not leave: without its answer nobody has the write for certain.
        guard answered.contains(where: { volume.states[$0.place] == .inService }),
            parts.allSatisfy({ !$0.isLost })
        else {
            return partsOutcome(parts.filter { !$0.hasLeft && !$0.isGood })
                ?? .sense(SCSISense.communicationFailure.fixed)
        }
        let bad = answered.filter { !$0.isGood }
        if bad.isEmpty { return nil }
        let good = answered.filter(\.isGood)
        let word = answered.first { $0.place == volume.lead } ?? answered[0]
        if good.isEmpty {
            // Refused before anything was written it is the same everywhere; a medium that fails is not.
            for part in bad where part !== word && !part.isRefusal {
                volume.takeOut(part.place, "a write has failed")
            }
            return partsOutcome([word])
        }
        if word.isRefusal {
            for part in good { volume.takeOut(part.place, "it took a write that others refuse") }
            return partsOutcome([word])
        }
        for part in bad {
            guard volume.takeOut(part.place, "a write has failed") else {
                return partsOutcome([part])
            }
        }
        return nil
    }
}

extension VolumePart {
    var isGood: Bool {
        if case .answered(status: 0, _) = result { return true }
        return false
    }
    var isLost: Bool {
        if case .lost = result { return true }
        return false
    }
    var hasLeft: Bool {
        if case .left = result { return true }
        return false
    }
    /// A reservation, a wrong request, a protected medium: nothing was written.
    var isRefusal: Bool {
        guard case .answered(let status, let sense) = result else { return false }
        if status == 0x18 { return true }
        return [5, 7].contains(SCSISense(sense)?.key ?? 0)
    }
}
