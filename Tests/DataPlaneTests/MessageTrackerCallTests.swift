import DataPlane
import TestSupport
import Testing

/// Calls of NFS with file handles that are known or not, and replies to them.
@Suite struct MessageTrackerCallTests {
    private static func message(xid: UInt32, handle index: Int = 0) -> NFSMessage {
        var message = NFSMessage(handle: NFSCallStream.handles[index])
        message.xid = xid
        return message
    }

    // MARK: Known calls

    /// Nothing of a call goes, and the log hears of nothing, before its handle is there.
    @Test func `every cut`() {
        var random = SplitMix64(seed: 5)
        let calls = NFSCallStream(
            4, authenticationMaximum: 30, argumentsMaximum: 100, &random)
        for cut in 1..<calls.count {
            let set = NFSCallStream.handleSet
            let log = SessionLog.rpc()
            var transfer = Transfer(
                calls.stream, base: .max - 100, log: log, handles: set, ringCapacity: 16)
            for range in [0..<cut, cut..<calls.count] {
                transfer.send(range)
                let passable = calls.passable(range.upperBound)
                let contiguous = transfer.contiguous
                let problems = transfer.problems
                let isHeld = transfer.tracker.isKindHeld
                if isHeld || !problems.isEmpty || contiguous != passable
                    || log.openRequests.map(\.octets) != calls.open(passable)
                {
                    Issue.record("cut at \(cut), \(range): \(contiguous), not \(passable)")
                }
            }
            if set.calls != calls.counts { Issue.record("cut at \(cut): \(set.calls)") }
        }
    }

    @Test func `one octet at a time`() {
        var random = SplitMix64(seed: 6)
        let calls = NFSCallStream(
            6, authenticationMaximum: 100, argumentsMaximum: 300, &random)
        let set = NFSCallStream.handleSet
        let log = SessionLog.rpc()
        var transfer = Transfer(calls.stream, base: 9, log: log, handles: set)
        for octet in 0..<calls.count {
            transfer.send(octet..<octet + 1)
            let contiguous = transfer.contiguous
            if contiguous != calls.passable(octet + 1) {
                Issue.record("octet \(octet): \(contiguous)")
                return
            }
        }
        let problems = transfer.problems
        #expect(problems.isEmpty)
        #expect(log.openRequests.map(\.octets) == calls.records)
        #expect(set.calls == calls.counts)
    }

    /// In and out of order, repeated, cut anywhere; with a log and without.
    @Test(arguments: 1...8 as ClosedRange<UInt64>)
    func `lost, late and repeated`(seed: UInt64) {
        var random = SplitMix64(seed: seed &+ 40)
        let calls = NFSCallStream(30, &random)
        let base = seed % 2 == 0 ? UInt32.max - 3_000 : 77
        for packet in [1_460, 200, 60] {
            for isOrdered in [true, false] {
                for log in [nil, SessionLog.rpc()] {
                    let set = NFSCallStream.handleSet
                    carry(
                        calls.stream, seed: seed, base: base, isOrdered: isOrdered,
                        packetMaximum: packet, log: log, handles: set)
                    #expect(set.calls == calls.counts)
                    guard let log else { continue }
                    let requests = log.openRequests
                    #expect(requests.map(\.octets) == calls.records)
                    #expect(requests.map(\.id) == (0..<30).map { UInt64($0) })
                    #expect(requests.map(\.kind) == [UInt8](repeating: 0, count: 30))
                }
            }
        }
    }

    /// Behind the handle a call is data: it goes as it comes, and without a log also what is behind a gap.
    @Test(arguments: [false, true])
    func `a long write`(hasLog: Bool) {
        var message = Self.message(xid: 3)
        message.procedure = 7
        message.arguments = SplitMix64.octets(100_000, seed: 2)
        var calls = NFSCallStream()
        calls.append(message)
        let log = hasLog ? SessionLog.rpc() : nil
        let set = NFSCallStream.handleSet
        var transfer = Transfer(calls.stream, base: 1, log: log, handles: set)
        let packets = stride(from: 0, to: calls.count, by: 1_448).map {
            $0..<min(calls.count, $0 + 1_448)
        }
        for packet in packets where packet != packets[9] { transfer.send(packet) }
        let holds = transfer.holds
        #expect(hasLog ? holds > 0 : holds == 0)
        transfer.send(packets[9])
        let prefixes = transfer.prefixes
        let contiguous = transfer.contiguous
        let problems = transfer.problems
        #expect(prefixes == 0 && contiguous == calls.count && problems.isEmpty)
        #expect(set.calls == calls.counts)
        if let log { #expect(log.openRequests.map(\.octets) == calls.records) }
    }

    /// What comes again is neither counted nor logged again.
    @Test func retransmissions() {
        var calls = NFSCallStream()
        for xid in 0..<3 as Range<UInt32> { calls.append(Self.message(xid: xid)) }
        let log = SessionLog.rpc()
        let set = NFSCallStream.handleSet
        var transfer = Transfer(calls.stream, base: 50, log: log, handles: set)
        for _ in 0..<3 {
            transfer.send(0..<calls.count)
            transfer.send(calls.gates[0]..<calls.gates[2])
        }
        let messages = transfer.tracker.messages
        #expect(messages == 3)
        #expect(set.calls == calls.counts)
        #expect(log.openRequests.map(\.octets) == calls.records)
    }

    #if !DEBUG
        @Test func `nothing is allocated`() {
            var random = SplitMix64(seed: 12)
            let calls = NFSCallStream(40, &random)
            var octets = calls.stream.bytes
            let count = octets.count
            let log = SessionLog.rpc()
            let set = NFSCallStream.handleSet
            var tracker = MessageTracker(
                .rpc, edits: [], holdKinds: 0, nextHeader: SequenceNumber(0), log: log.log,
                handles: set)
            var delta = PayloadDelta()
            var isForwarded = false
            let used = octets.withUnsafeMutableBytes { buffer -> UInt64 in
                guard let start = buffer.baseAddress else { return .max }
                return allocations {
                    isForwarded =
                        tracker.inspect(
                            payload: start, length: count, sequence: SequenceNumber(0),
                            delta: &delta) == .forward
                }
            }
            #expect(used == 0 && isForwarded)
            #expect(set.calls == calls.counts)
            #expect(log.openCount == 40)
        }
    #endif

    // MARK: Calls that must not pass

    /// A known call, one that must not pass, a known one.
    private func middle(_ refusal: NFSMessage.Refusal) -> NFSCallStream {
        var calls = NFSCallStream()
        calls.append(Self.message(xid: 1))
        var foreign = Self.message(xid: 2)
        refusal.change(&foreign)
        calls.append(foreign)
        calls.append(Self.message(xid: 3))
        return calls
    }

    private func expectHeld(
        _ transfer: borrowing Transfer, _ calls: NFSCallStream, _ log: SessionLog,
        _ set: RPCHandleSet, _ note: Comment
    ) {
        let border = calls.stream.boundaries[1]
        let isHeld = transfer.tracker.isKindHeld
        let contiguous = transfer.contiguous
        let isBeyond = transfer.delivered[border...].contains(true)
        let next = transfer.tracker.nextHeader
        let followed = transfer.tracker.followed
        let messages = transfer.tracker.messages
        let place = transfer.base + UInt32(border)
        #expect(isHeld && contiguous == border && !isBeyond && messages == 1, note)
        #expect(next == place && followed == place, note)
        #expect(log.openRequests.map(\.octets) == [calls.records[0]], note)
        #expect(set.calls.reduce(0, +) == 1, note)
    }

    @Test(arguments: NFSMessage.Refusal.all.indices)
    func `held in the middle of a packet`(index: Int) {
        let refusal = NFSMessage.Refusal.all[index]
        let calls = middle(refusal)
        let log = SessionLog.rpc()
        let set = NFSCallStream.handleSet
        var transfer = Transfer(calls.stream, base: 8, log: log, handles: set)
        transfer.send(0..<calls.count)
        let prefixes = transfer.prefixes
        #expect(prefixes > 0)
        // All of it again, and what follows alone.
        transfer.send(0..<calls.count)
        transfer.send(calls.stream.boundaries[2]..<calls.count)
        expectHeld(transfer, calls, log, set, "\(refusal.name)")
    }

    @Test(arguments: NFSMessage.Refusal.all.indices)
    func `held at every cut`(index: Int) {
        let refusal = NFSMessage.Refusal.all[index]
        let calls = middle(refusal)
        for cut in calls.stream.boundaries[0] + 1...calls.stream.boundaries[2] {
            let log = SessionLog.rpc()
            let set = NFSCallStream.handleSet
            var transfer = Transfer(
                calls.stream, base: 8, log: log, handles: set, ringCapacity: 16)
            transfer.send(0..<cut)
            transfer.send(cut..<calls.count)
            expectHeld(transfer, calls, log, set, "\(refusal.name), cut at \(cut)")
        }
    }

    /// Without handles all calls pass.
    @Test func `no handles`() {
        let calls = middle(NFSMessage.Refusal.all[0])
        let log = SessionLog.rpc()
        var transfer = Transfer(calls.stream, base: 8, log: log)
        transfer.send(0..<calls.count)
        let contiguous = transfer.contiguous
        #expect(contiguous == calls.count)
        #expect(log.openRequests.map(\.octets) == calls.records)
    }

    // RFC 5531 section 11: "A record is composed of one or more record fragments."
    /// A fragment that is not the last one is held, whichever end sends it, however short it is.
    @Test(arguments: [false, true], [false, true])
    func fragments(isServer: Bool, hasLog: Bool) {
        let role = isServer ? MessageTracker.Role.server : .client
        let first = Self.message(xid: 1)
        for length in [0, 4, 20, 60, 5_000] {
            var stream = MessageStream(format: .rpc)
            let message = isServer ? first.reply() : first.call
            stream.append(NFSMessage.record(message), kind: 0)
            stream.append(
                NFSMessage.record(SplitMix64.octets(length, seed: 4), isLast: false), kind: 0)
            stream.append(NFSMessage.record(message), kind: 0)
            let border = stream.boundaries[1]
            for cut in [1, border, border + 1, border + 24, stream.bytes.count - 1] {
                var transfer = Transfer(
                    stream, base: 70, log: hasLog ? SessionLog.rpc() : nil, role: role)
                transfer.send(0..<cut)
                transfer.send(cut..<stream.bytes.count)
                let isHeld = transfer.tracker.isKindHeld
                let contiguous = transfer.contiguous
                let isBeyond = transfer.delivered[border...].contains(true)
                let problems = transfer.problems
                #expect(
                    isHeld && contiguous == border && !isBeyond && problems.isEmpty,
                    "\(length), cut at \(cut)")
            }
        }
    }

    /// A record that is shorter than any message is malformed from a server; as a call it is foreign.
    @Test func `short records`() {
        let octets = NFSMessage.record(SplitMix64.octets(19, seed: 3)) + [UInt8](0..<20)
        for isServer in [false, true] {
            var stream = MessageStream(format: .rpc)
            stream.append(octets, kind: 0)
            var transfer = Transfer(
                stream, base: 0, role: isServer ? .server : .client,
                handles: NFSCallStream.handleSet)
            transfer.send(0..<octets.count)
            let isHeld = transfer.tracker.isKindHeld
            let problems = transfer.problems
            let contiguous = transfer.contiguous
            #expect(isHeld != isServer && problems.isEmpty != isServer && contiguous == 0)
        }
    }

    // MARK: Replies

    /// A reply of up to 4096 octets goes as a whole; each ends its call.
    @Test func replies() {
        var calls = NFSCallStream()
        var stream = MessageStream(format: .rpc)
        // RFC 5531 section 9: MSG_DENIED 1, AUTH_ERROR 1, AUTH_TOOWEAK 5.
        let denial = ([0, 1, 1, 1, 5] as [UInt32]).flatMap { bigEndian32($0) }
        stream.append(NFSMessage.record(denial), kind: 1)
        calls.append(Self.message(xid: 0))
        let whole = MessageTracker.wholeMaximum - 4 - 24
        for (index, size) in [4, 100, whole, whole + 1, 9_000].enumerated() {
            let message = Self.message(xid: UInt32(index + 1))
            calls.append(message)
            let reply = message.reply(SplitMix64.octets(size, seed: UInt64(index)))
            stream.append(NFSMessage.record(reply), kind: 1)
        }
        let ends = Array(stream.boundaries.dropFirst()) + [stream.bytes.count]
        let messages = zip(stream.boundaries, ends).map { Array(stream.bytes[$0..<$1]) }
        let headers = messages.map { Array($0.prefix(24)) }
        let data = messages.map { message -> [UInt8]? in
            let isKept = (25...MessageTracker.wholeMaximum).contains(message.count)
            return isKept ? Array(message[24...]) : nil
        }
        func passable(_ count: Int) -> Int {
            guard let index = stream.boundaries.lastIndex(where: { $0 < count }) else { return 0 }
            let start = stream.boundaries[index]
            let length = messages[index].count
            let needed = length <= MessageTracker.wholeMaximum ? length : 24
            return count - start >= needed ? count : start
        }
        for cut in stride(from: 1, to: stream.bytes.count, by: 17) {
            let log = SessionLog.rpc()
            var up = Transfer(
                calls.stream, base: 8, log: log, handles: NFSCallStream.handleSet,
                ringCapacity: 16)
            up.send(0..<calls.count)
            if log.openCount != 6 { Issue.record("\(log.openCount) calls are open") }
            var down = Transfer(stream, base: 5, log: log, role: .server, ringCapacity: 16)
            down.send(0..<cut)
            var contiguous = down.contiguous
            // A call is open until something of the reply that ends it goes.
            let ended = stream.boundaries.count { $0 < passable(cut) }
            if contiguous != passable(cut) || log.openCount != 6 - ended {
                Issue.record("cut at \(cut): \(contiguous), \(log.openCount) open")
            }
            down.send(cut..<stream.bytes.count)
            contiguous = down.contiguous
            let kept = log.keptReplies
            let closed = kept.compactMap(\.closed).map(\.octets)
            if contiguous != stream.bytes.count || log.openCount != 0 || closed != calls.records
                || kept.map(\.header) != headers || kept.map(\.data) != data
            {
                Issue.record("cut at \(cut)")
            }
        }
    }
}
