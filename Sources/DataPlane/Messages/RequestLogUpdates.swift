/// What passes: requests from the client, replies from the server, acknowledgements.
extension RequestLog {
    /// The header of a client's message; its data follows by `data`.
    package mutating func clientHeader(
        _ header: UnsafeMutableRawPointer, kind: UInt64, now: UInt64
    ) {
        current = Self.none
        guard kind < 64 else { return }
        let isOpening = rules.opening >> kind & 1 != 0
        guard isOpening || rules.continuing >> kind & 1 != 0 else { return }
        let id = MessageTracker.load(header, idField)
        if isOpening {
            guard isNext(header) else { return }
            (newestHeaders).copyMemory(from: header, byteCount: headerLength)
            hasOpening = true
        }
        guard id != rules.noID else { return }
        var slot = find(id)
        if isOpening {
            // An id that is used anew: whatever it named is over.
            if slot != Self.none { free(slot) }
            slot = takeRequest()
            guard slot != Self.none else {
                statistics.unprotectedTotal &+= 1
                return
            }
            request(slot).pointee = Request(
                id: id, startedAt: now, previous: newest, kind: UInt8(kind), isOpen: true)
            if newest == Self.none { oldest = slot } else { request(newest).pointee.next = slot }
            newest = slot
            enter(id, slot)
            statistics.open &+= 1
            statistics.opened &+= 1
        }
        guard slot != Self.none else { return }
        current = slot
        currentStart = Int(request(slot).pointee.count)
        append(header, headerLength)
    }

    /// Whether a request has a number after those before it, or none that counts.
    private mutating func isNext(_ header: UnsafeMutableRawPointer) -> Bool {
        guard let sequence = rules.sequence,
            header.load8(Int(sequence.flagOffset)) & sequence.flagMask == 0
        else { return true }
        let number = UInt32(truncatingIfNeeded: MessageTracker.load(header, sequence.field))
        if let newestSequence, Int32(bitPattern: number &- newestSequence) <= 0 { return false }
        newestSequence = number
        return true
    }

    /// Takes the message that is on its way out again: it will be told anew. Nil: nothing of it is kept.
    package mutating func takeCurrent() -> [UInt8]? {
        guard current != Self.none, request(current).pointee.isWhole else {
            current = Self.none
            return nil
        }
        let slot = current
        current = Self.none
        let part = Array(octets(slot)[currentStart...])
        guard currentStart > 0 else {
            if let sequence = rules.sequence,
                part[Int(sequence.flagOffset)] & sequence.flagMask == 0
            {
                newestSequence = newestSequence.map { $0 &- 1 }
            }
            free(slot)
            return part
        }
        let kept = Array(octets(slot)[..<currentStart])
        freeBlocks(slot)
        statistics.bytes &-= UInt64(request(slot).pointee.count)
        request(slot).pointee.count = 0
        current = slot
        kept.withUnsafeBytes { if let start = $0.baseAddress { append(start, $0.count) } }
        current = Self.none
        return part
    }

    /// A request that will get no answer: it was aborted.
    package mutating func remove(_ id: UInt64) {
        let slot = find(id)
        if slot != Self.none { free(slot) }
    }

    package func openRequest(_ id: UInt64) -> LoggedRequest? {
        let slot = find(id)
        return slot == Self.none ? nil : logged(slot)
    }

    /// Octets of the present client message, in order, each once.
    package mutating func data(_ bytes: UnsafeRawPointer, _ count: Int) {
        guard current != Self.none else { return }
        append(bytes, count)
    }

    mutating func append(_ bytes: UnsafeRawPointer, _ count: Int) {
        let entry = request(current)
        guard entry.pointee.isWhole else { return }
        var source = bytes
        var remaining = count
        while remaining > 0 {
            let position = Int(entry.pointee.count)
            var room: Int
            var target: UnsafeMutableRawPointer
            if position < Self.inlineSize {
                room = Self.inlineSize - position
                target = inline(current) + position
            } else {
                let offset = (position - Self.inlineSize) % Self.blockRoom
                if offset == 0 {
                    let number = takeBlock()
                    guard number != 0 else { return lose(current) }
                    if entry.pointee.lastBlock == 0 {
                        entry.pointee.firstBlock = number
                    } else {
                        block(entry.pointee.lastBlock).storeBytes(of: number, as: UInt32.self)
                    }
                    entry.pointee.lastBlock = number
                }
                room = Self.blockRoom - offset
                target = block(entry.pointee.lastBlock) + Self.blockHeader + offset
            }
            room = min(room, remaining)
            target.copyMemory(from: source, byteCount: room)
            source += room
            remaining -= room
            entry.pointee.count &+= UInt32(room)
            statistics.bytes &+= UInt64(room)
        }
    }

    // MARK: From the server

    /// Room for one more reply? Without, the server's stream must wait for the client's acknowledgements.
    package var hasReplyRoom: Bool { replyTail &- replyHead < Self.replyMaximum }

    func isWhole(kind: UInt64) -> Bool { kind < 64 && rules.whole >> kind & 1 != 0 }

    /// A message of the server is about to be passed on. `header` as the client gets it; `data`: its whole
    /// data segment, when it was gathered.
    package mutating func serverMessage(
        _ header: UnsafeMutableRawPointer, kind: UInt64, position: SequenceNumber, length: UInt32,
        data: (UnsafeRawPointer, Int)?, now: UInt64
    ) {
        let index = replyTail
        replyTail &+= 1
        var entry = Reply(position: position, length: length)
        replyHeader(index).copyMemory(from: header, byteCount: headerLength)
        if let (bytes, count) = data, count > 0, count <= Self.blockRoom {
            entry.block = takeBlock()
            if entry.block != 0 {
                (block(entry.block) + Self.blockHeader).copyMemory(from: bytes, byteCount: count)
                entry.dataCount = UInt16(count)
            }
        }
        let (slot, closes) = take(header, kind: kind, data: data)
        if closes, slot != Self.none {
            answer(slot, now: now)
            entry.closes = slot
        }
        // The counters of an answer hold whether or not its request is known.
        if closes || kind < 64 && rules.counted >> kind & 1 != 0 {
            (newestHeaders + MessageTracker.headerMaximum).copyMemory(
                from: header, byteCount: headerLength)
            hasCounted = true
        }
        reply(index).pointee = entry
    }

    /// Which request a message belongs to, if it is known, and whether it ends one.
    func take(
        _ header: UnsafeMutableRawPointer, kind: UInt64, data: (UnsafeRawPointer, Int)?
    ) -> (slot: UInt16, closes: Bool) {
        guard kind < 64 else { return (Self.none, false) }
        var closes = false
        var id = MessageTracker.load(header, idField)
        for rule in closing where rule.kinds >> kind & 1 != 0 {
            guard rule.flagMask == 0 || header.load8(Int(rule.flagOffset)) & rule.flagMask != 0
            else { continue }
            closes = true
            guard let field = rule.id else { break }
            var behind = field
            behind.offset -= UInt16(min(Int(field.offset), headerLength))
            guard Int(field.offset) >= headerLength, let (bytes, count) = data,
                Int(behind.offset) + Int(behind.width) <= count
            else { return (Self.none, closes) }
            id = MessageTracker.load(UnsafeMutableRawPointer(mutating: bytes), behind)
            break
        }
        guard id != rules.noID else { return (Self.none, closes) }
        let slot = find(id)
        guard slot != Self.none else { return (Self.none, closes) }
        let index = kind == UInt64(progressKinds.0) ? 0 : kind == UInt64(progressKinds.1) ? 1 : -1
        if index >= 0 {
            progress(slot, index).copyMemory(from: header, byteCount: headerLength)
            request(slot).pointee.progress |= 1 << UInt8(index)
        }
        return (slot, closes)
    }

    mutating func answer(_ slot: UInt16, now: UInt64) {
        let entry = request(slot)
        let latency = now > entry.pointee.startedAt ? now - entry.pointee.startedAt : 0
        statistics.answered &+= 1
        statistics.latencySum &+= latency
        // RFC 6298 section 2.3: RTTVAR <- 3/4 RTTVAR + 1/4 |SRTT - R'|, SRTT <- 7/8 SRTT + 1/8 R'.
        if statistics.answered == 1 {
            statistics.smoothedLatency = latency
            statistics.latencyDeviation = latency / 2
        } else {
            let smoothed = statistics.smoothedLatency
            let distance = smoothed > latency ? smoothed - latency : latency - smoothed
            statistics.latencyDeviation = (3 &* statistics.latencyDeviation &+ distance) / 4
            statistics.smoothedLatency = (7 &* smoothed &+ latency) / 8
        }
        let scaled = latency >> 14
        let index = scaled == 0 ? 0 : min(Self.buckets - 1, 64 - scaled.leadingZeroBitCount)
        histogram[index] &+= 1
        unlink(slot)
        // The header stays: what of its reply is lost on the way to the client may have to be had again.
        freeBlocks(slot)
    }

    /// The client has everything below `position`.
    package mutating func acknowledged(_ position: SequenceNumber) {
        while replyHead != replyTail {
            let entry = reply(replyHead).pointee
            if (entry.position + entry.length).isAfter(position) { return }
            if entry.block != 0 { giveBack(entry.block) }
            if entry.closes != Self.none { free(entry.closes) }
            replyHead &+= 1
        }
    }

    /// Positions of kept replies count from elsewhere now.
    package mutating func shiftReplies(by distance: UInt32) {
        var index = replyHead
        while index != replyTail {
            reply(index).pointee.position += distance
            index &+= 1
        }
    }
}
