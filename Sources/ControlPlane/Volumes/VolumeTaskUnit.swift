import StorageProtocols

/// What a command to a volume asks of which members.
extension VolumeTask {
    func run() {
        switch command {
        case .read(let range, _): read(range)
        case .write(let range, _), .writeAndVerify(let range, _), .orWrite(let range):
            perform(range, .each, for: .write)
        case .verify(let range, let check):
            perform(range, check == 0 ? .none : check == 1 ? .each : .same, for: .read)
        case .writeSame(let range, _, let hasData):
            perform(toEnd(range), hasData ? .same : .none, for: .write)
        case .prefetch(let range): perform(toEnd(range), .none, for: .read)
        case .synchronizeCache(let range):
            // Each member has a part of any range, or may have: all of them write back all that they keep.
            guard range.count == 0 || isInside(range) else { return fail(.outOfRange) }
            askAll(SCSICommand.part(of: block, start: 0, count: 0) ?? block)
        case .compareAndWrite(let range): compareAndWrite(range)
        case .unmap(let length): unmap(length)
        case .logicalBlockStatus(let start, let allocation):
            logicalBlockStatus(start, allocation)
        case .readCapacity10: tell(unit.volume.identity?.capacity10(), 8)
        case .readCapacity16(let allocation):
            tell(
                unit.volume.identity?.capacity16(unit.volume.memberCapacity), allocation)
        case .inquiry(let page, let allocation): inquiry(page, allocation)
        case .modeSense(_, _, let allocation, let isLong): modeSense(allocation, isLong)
        case .testUnitReady, .startStop: askAll(block)
        case .requestSense(let isDescriptor, let allocation):
            requestSense(isDescriptor, allocation)
        case .reservation:
            // PERSISTENT RESERVE IN asks; all others change something.
            if block[0] == 0x5e { askLead() } else { askAll(block) }
        case .reportUnits: fail(.invalidOperation)
        case .other(let code): other(code)
        }
    }

    private func other(_ code: UInt8) {
        switch code {
        // MODE SELECT (6) and (10), PREVENT ALLOW MEDIUM REMOVAL.
        case 0x15, 0x55, 0x1e: askAll(block)
        // READ DEFECT DATA (10) and (12), LOG SENSE.
        case 0x37, 0xb7, 0x4d: askLead()
        // MAINTENANCE IN: REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS (SPC-4 sections 6.35, 6.36).
        case 0xa3 where block[1] & 0x1f == 0x0c || block[1] & 0x1f == 0x0d: askLead()
        default: fail(.invalidOperation)
        }
    }

    /// SBC-3 sections 5.43 and 5.6: without a number of blocks, all to the end.
    private func toEnd(_ range: SCSICommand.Range) -> SCSICommand.Range {
        let capacity = unit.volume.layout?.capacity ?? 0
        guard range.count == 0, range.start < capacity else { return range }
        return SCSICommand.Range(start: range.start, count: capacity - range.start)
    }

    private func isInside(_ range: SCSICommand.Range) -> Bool {
        let capacity = unit.volume.layout?.capacity ?? 0
        return range.start <= capacity && range.count <= capacity - range.start
    }

    /// Data of the volume's own.
    private func tell(_ octets: [UInt8]?, _ allocation: Int) {
        guard let octets else { return fail(.communicationFailure) }
        succeed(data: Array(octets.prefix(allocation)))
    }

    // MARK: The first member, and all

    /// Octets of data that a command which is not about blocks may bring.
    private static let answerMaximum = 64 << 10

    /// Asks the first member and gives on what it says.
    private func askLead() {
        let wanted = min(isReading ? expected : 0, Self.answerMaximum)
        ask(block, payload: data, wanted: wanted) { [weak self] octets in
            self?.succeed(data: octets)
        }
    }

    /// Asks one member; `then` gets the data, and the task fails when it does.
    /// - Parameter member: nil: the first one, and when that leaves a mirror, the one that is first then.
    private func ask(
        _ block: [UInt8], payload: [UInt8] = [], at member: Int? = nil, wanted: Int,
        then: @escaping ([UInt8]) -> Void
    ) {
        let place = member ?? unit.volume.lead
        var answer: [UInt8] = []
        send(
            block, payload, to: place, wanted: wanted, onData: { answer += $0 },
            onAgain: { answer = [] },
            then: { [weak self] outcome in
                guard let self, isRunning else { return }
                switch outcome {
                case .answered(status: 0, _): then(answer)
                case .answered(status: 2, let sense) where !sense.isEmpty: fail(sense: sense)
                case .answered(let status, _): fail(status: status)
                case .lost(let reason):
                    if unit.volume.takeOut(place, reason), unit.volume.lead != place {
                        return ask(block, payload: payload, at: member, wanted: wanted, then: then)
                    }
                    fail(.communicationFailure)
                }
                unit.flush()
            })
    }

    private func send(
        _ block: [UInt8], _ payload: [UInt8], to place: Int, wanted: Int,
        onData: @escaping (UnsafeRawBufferPointer) -> Void, onAgain: @escaping () -> Void = {},
        then: @escaping (MemberRequest.Outcome) -> Void
    ) {
        let part = VolumePart(place: place, block: block)
        parts = [part]
        partsOpen = 1
        let request = MemberRequest(
            block, payload: MemberRequest.Payload(payload), inputLength: wanted,
            onData: { _, bytes in onData(bytes) }, onAgain: onAgain,
            onEnd: { [weak self, weak part] outcome in
                part?.request = nil
                self?.partsOpen = 0
                then(outcome)
            })
        part.request = request
        unit.members[place].send(request)
        unit.flush()
    }

    /// The first member, and when it has done it, each of the others: what it refuses nobody does. Conditions of the
    /// others are those that the first one tells.
    private func askAll(_ block: [UInt8]) {
        let payload = data
        ask(block, payload: payload, wanted: 0) { [weak self] _ in
            guard let self else { return }
            let lead = unit.volume.lead
            let others =
                unit.volume.isMirror
                ? unit.volume.written.filter { $0 != lead }
                : unit.members.indices.filter { $0 != lead }
            askOthers(block, payload, others[...], attempts: 0)
        }
    }

    private func askOthers(
        _ block: [UInt8], _ payload: [UInt8], _ places: ArraySlice<Int>, attempts: Int
    ) {
        guard let place = places.first else { return succeed(moved: payload.count) }
        send(block, payload, to: place, wanted: 0, onData: { _ in }) { [weak self] outcome in
            guard let self, isRunning else { return }
            let rest = places.dropFirst()
            switch outcome {
            case .answered(status: 0, _): askOthers(block, payload, rest, attempts: 0)
            case .answered(status: 2, let sense)
            where SCSISense(sense)?.key == 6 && attempts < 20:
                askOthers(block, payload, places, attempts: attempts + 1)
            case .answered(let status, let sense):
                if unit.volume.takeOut(place, "it refuses what others have done") {
                    return askOthers(block, payload, rest, attempts: 0)
                }
                if sense.isEmpty { fail(status: status) } else { fail(sense: sense) }
            case .lost(let reason):
                if unit.volume.takeOut(place, reason) {
                    return askOthers(block, payload, rest, attempts: 0)
                }
                fail(.communicationFailure)
            }
            unit.flush()
        }
    }

    // MARK: About the unit

    private func inquiry(_ page: UInt8?, _ allocation: Int) {
        guard let identity = unit.volume.identity else { return fail(.communicationFailure) }
        // All of it, however much the initiator wants: SPC-4 section 6.6.
        var whole = block
        whole[3] = 2
        whole[4] = 0
        // The serial number and the designators are the volume's alone.
        if let page, page == 0x80 || page == 0x83 {
            return tell(identity.vitalData(page: page, member: []), allocation)
        }
        ask(whole, wanted: 512) { [weak self] octets in
            guard let self else { return }
            guard let page else {
                return tell(identity.standardInquiry(octets), allocation)
            }
            guard let data = identity.vitalData(page: page, member: octets) else {
                return fail(.invalidField)
            }
            tell(data, allocation)
        }
    }

    private func modeSense(_ allocation: Int, _ isLong: Bool) {
        guard let identity = unit.volume.identity else { return fail(.communicationFailure) }
        var whole = block
        if isLong {
            (whole[7], whole[8]) = (0x10, 0)
        } else {
            whole[4] = 0xff
        }
        ask(whole, wanted: isLong ? 4_096 : 255) { [weak self] octets in
            self?.tell(identity.modeSense(octets, isLong: isLong), allocation)
        }
    }

    private func requestSense(_ isDescriptor: Bool, _ allocation: Int) {
        guard let attention = unit.attention, let sense = SCSISense(attention) else {
            return askLead()
        }
        // SPC-4 section 6.39: what it says is taken away.
        unit.attention = nil
        tell(isDescriptor ? sense.descriptors : sense.fixed, allocation)
    }

    private func logicalBlockStatus(_ start: UInt64, _ allocation: Int) {
        let volume = unit.volume
        guard let layout = volume.layout, let identity = volume.identity,
            let extent = layout.extent(at: start)
        else { return fail(.outOfRange) }
        var there = block
        for index in 0..<8 {
            there[2 + index] = UInt8(truncatingIfNeeded: extent.start >> UInt64(56 - index * 8))
        }
        // One descriptor: what follows in the volume is another member's, or is asked for next.
        (there[10], there[11], there[12], there[13]) = (0, 0, 0, 24)
        ask(there, at: volume.isMirror ? nil : extent.member, wanted: 24) { [weak self] octets in
            self?.tell(
                identity.logicalBlockStatus(
                    octets, memberStart: extent.start, volumeStart: start, maximum: extent.count),
                allocation)
        }
    }

    // MARK: UNMAP

    private func unmap(_ length: Int) {
        let volume = unit.volume
        guard let layout = volume.layout else { return fail(.communicationFailure) }
        // SBC-3 section 5.28.1: a list of no length is no error.
        guard length > 0 else { return succeed() }
        guard let ranges = SCSIUnmap.ranges(Array(data.prefix(length))) else {
            return fail(.invalidParameter)
        }
        guard ranges.allSatisfy(isInside) else { return fail(.outOfRange) }
        let wanted = ranges.filter { $0.count > 0 }
        guard let first = wanted.map(\.start).min(),
            let end = wanted.map({ $0.start + $0.count }).max()
        else { return succeed(moved: length) }
        let hull = SCSICommand.Range(start: first, count: end - first)
        lock(hull, .write) { [self] in
            beginWrite(hull) { [weak self] in
                guard let self else { return }
                var byMember: [Int: [SCSICommand.Range]] = [:]
                for range in wanted {
                    for part in layout.spans(start: range.start, count: range.count) {
                        byMember[part.member, default: []].append(
                            SCSICommand.Range(start: part.start, count: part.count))
                    }
                }
                let parts = byMember.sorted { $0.key < $1.key }.flatMap { place, ranges in
                    let octets = SCSIUnmap.parameters(ranges)
                    return (volume.isMirror ? volume.written : [place]).map {
                        VolumePart(
                            place: $0,
                            block: SCSIUnmap.command(length: octets.count, from: self.block),
                            payload: MemberRequest.Payload(octets), isCopy: volume.isMirror)
                    }
                }
                run(parts) { [weak self] in
                    self?.conclude { [weak self] in self?.succeed(moved: length) }
                }
                unit.flush()
            }
        }
    }

    // MARK: COMPARE AND WRITE

    // SBC-3 section 5.2: reading, comparing and writing are one action. Nobody else is at these blocks meanwhile, for
    // all that reach the volume come here.
    private func compareAndWrite(_ range: SCSICommand.Range) {
        guard range.count <= UInt64(SCSIVolumeIdentity.compareAndWriteMaximum) else {
            return fail(.invalidField)
        }
        let size = Int(range.count) * unit.volume.blockLength
        guard data.count == 2 * size else { return fail(.invalidField) }
        guard isWithin(range) else { return }
        reserve(size) { [self] in
            guard isRunning else { return }
            lock(range, .atomic) { [weak self] in
                guard let self else { return }
                input = [UInt8](repeating: 0, count: size)
                // Protection and DPO are as in the command.
                var read = SCSICommand.readBlocks(start: 0, count: 0)
                read[1] = block[1]
                run(makeParts(range, .none, reads: true, block: read)) { [weak self] in
                    self?.conclude { [weak self] in self?.compare(range, size) }
                }
                unit.flush()
            }
        }
    }

    private func compare(_ range: SCSICommand.Range, _ size: Int) {
        if let difference = (0..<size).first(where: { input[$0] != data[$0] }) {
            var sense = SCSISense.miscompare
            sense.information = UInt64(difference)
            return fail(sense)
        }
        beginWrite(range) { [weak self] in
            guard let self else { return }
            var write = SCSICommand.writeBlocks(start: 0, count: 0, forcesUnitAccess: false)
            write[1] = block[1]
            run(
                makeParts(
                    range, .each, reads: false, block: write, octets: Array(data[size..<2 * size]))
            ) { [weak self] in
                self?.conclude { [weak self] in self?.succeed(moved: 2 * size) }
            }
            unit.flush()
        }
    }
}
