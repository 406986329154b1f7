import DataPlane
import TestSupport
import Testing

/// A stream of messages with what one pass over it says.
private struct MessageStream {
    var format: MessageFormat
    var bytes: [UInt8] = []
    /// Offsets of the headers.
    var boundaries: [Int] = []
    var kinds: [UInt8] = []

    /// `count` messages of random sizes; some have no payload.
    static func iscsi(_ count: Int, _ random: inout SplitMix64) -> MessageStream {
        var stream = MessageStream(format: .iscsi)
        for _ in 0..<count {
            let kind = UInt8([0x01, 0x04, 0x05, 0x21, 0x25, 0x31][random.below(6)])
            let additional = random.below(4) == 0 ? random.below(3) : 0
            let data = random.below(3) == 0 ? 0 : random.below(random.below(20) == 0 ? 9_000 : 300)
            var header = random.bytes(48)
            header[0] = kind | (random.below(2) == 0 ? 0x40 : 0)
            header.replaceSubrange(
                4..<8, with: bigEndian32(UInt32(additional) << 24 | UInt32(data)))
            stream.append(header + random.bytes(additional * 4 + (data + 3) / 4 * 4), kind: kind)
        }
        return stream
    }

    static func rpc(_ count: Int, _ random: inout SplitMix64) -> MessageStream {
        var stream = MessageStream(format: .rpcRecord)
        for _ in 0..<count {
            let size = random.below(400)
            stream.append(bigEndian32(0x8000_0000 | UInt32(size)) + random.bytes(size), kind: 0)
        }
        return stream
    }

    static func smb2(_ count: Int, _ random: inout SplitMix64) -> MessageStream {
        var stream = MessageStream(format: .smb2)
        for _ in 0..<count {
            let size = random.below(400)
            stream.append(bigEndian32(UInt32(size)) + random.bytes(size), kind: 0)
        }
        return stream
    }

    private mutating func append(_ message: [UInt8], kind: UInt8) {
        boundaries.append(bytes.count)
        kinds.append(kind)
        bytes += message
    }

    /// The stream after edits, by one pass.
    func edited(_ edits: [MessageEdit]) -> [UInt8] {
        var result = bytes
        for (start, kind) in zip(boundaries, kinds) {
            for edit in edits where edit.kinds >> UInt64(kind) & 1 != 0 {
                let width = Int(edit.field.width)
                let range = start + Int(edit.field.offset)..<start + Int(edit.field.offset) + width
                // Each edit looks at the header as it came.
                var octets = Array(bytes[range])
                if edit.field.isLittleEndian { octets.reverse() }
                var value = octets.reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
                switch edit.operation {
                case .add(let addend): value &+= addend
                case .set(let wanted): value = wanted
                }
                octets = (0..<width).map {
                    UInt8(truncatingIfNeeded: value >> UInt64((width - 1 - $0) * 8))
                }
                if edit.field.isLittleEndian { octets.reverse() }
                result.replaceSubrange(range, with: octets)
            }
        }
        return result
    }
}

/// The network around a tracker: a sender that cuts, repeats and reorders, a place where what must
/// wait waits, and a receiver.
private struct Transfer: ~Copyable {
    var tracker: MessageTracker
    let original: [UInt8]
    let wanted: [UInt8]
    let base: SequenceNumber
    var delivered: [Bool]
    var waiting: [Range<Int>] = []
    var problems: [String] = []
    var holds = 0
    var prefixes = 0

    init(
        _ stream: MessageStream, edits: [MessageEdit], holdKinds: UInt64 = 0, base: UInt32,
        ringCapacity: Int = 4_096
    ) {
        self.base = SequenceNumber(base)
        tracker = MessageTracker(
            stream.format, edits: edits, holdKinds: holdKinds, nextHeader: self.base,
            ringCapacity: ringCapacity)
        original = stream.bytes
        wanted = stream.edited(edits)
        delivered = Array(repeating: false, count: stream.bytes.count)
    }

    /// Octets that have arrived without a gap.
    var contiguous: Int { delivered.firstIndex(of: false) ?? delivered.count }

    /// One packet of the sender; what was not taken is kept.
    mutating func send(_ range: Range<Int>) {
        if let rest = offer(range) { waiting.append(rest) }
        var isMoving = true
        while isMoving {
            isMoving = false
            let held = waiting
            waiting = []
            for range in held {
                let rest = offer(range)
                if rest != range { isMoving = true }
                if let rest { waiting.append(rest) }
            }
        }
    }

    /// Shows the tracker a payload; returns what may not go yet.
    private mutating func offer(_ range: Range<Int>) -> Range<Int>? {
        guard !range.isEmpty else { return nil }
        var payload = Array(original[range])
        let before = payload
        var delta = PayloadDelta()
        let sequence = base + UInt32(range.lowerBound)
        let count = payload.count
        let verdict = payload.withUnsafeMutableBytes { buffer -> MessageTracker.Verdict in
            guard let address = buffer.baseAddress else { return .hold }
            return tracker.inspect(
                payload: address, length: count, sequence: sequence, delta: &delta)
        }
        checkDelta(before, payload, delta)
        let taken: Int
        switch verdict {
        case .forward: taken = count
        case .forwardPrefix(let prefix):
            prefixes += 1
            taken = prefix
        case .hold:
            holds += 1
            taken = 0
        case .malformed:
            problems.append("malformed at \(range)")
            return nil
        }
        guard (0...count).contains(taken) else {
            problems.append("prefix \(taken) of \(range)")
            return nil
        }
        if payload.prefix(taken) != wanted[range.lowerBound..<range.lowerBound + taken] {
            problems.append("octets of \(range)")
        }
        for index in range.lowerBound..<range.lowerBound + taken { delivered[index] = true }
        return taken == count ? nil : range.lowerBound + taken..<range.upperBound
    }

    /// The checksum change is that of the octets.
    private mutating func checkDelta(_ before: [UInt8], _ after: [UInt8], _ delta: PayloadDelta) {
        func nativeSum(_ bytes: [UInt8]) -> UInt64 {
            bytes.enumerated().reduce(0) { $0 + UInt64($1.element) << UInt64($1.offset % 2 * 8) }
        }
        if (nativeSum(before) + delta.sum) % 0xffff != nativeSum(after) % 0xffff {
            problems.append("checksum difference")
        }
    }

    mutating func acknowledge(_ position: Int) {
        tracker.acknowledged(base + UInt32(position))
    }
}

@Suite struct MessageTrackerTests {
    static let edits: [MessageEdit] = [
        MessageEdit(field: .init(offset: 16, width: 4), operation: .add(0x1234_5678)),
        MessageEdit(
            field: .init(offset: 24, width: 4), operation: .add(0xffff_fff0), kinds: 1 << 1 | 1 << 5
        ),
        MessageEdit(
            field: .init(offset: 8, width: 8), operation: .set(0x0102_0304_0506_0708),
            kinds: 1 << 0x21),
        MessageEdit(
            field: .init(offset: 37, width: 2, isLittleEndian: true), operation: .add(0x0101),
            kinds: 1 << 4 | 1 << 0x25),
    ]

    private func run(
        _ stream: MessageStream, _ edits: [MessageEdit], seed: UInt64, base: UInt32,
        isOrdered: Bool, packetMaximum: Int, ringCapacity: Int = 4_096
    ) {
        var random = SplitMix64(seed: seed)
        var transfer = Transfer(stream, edits: edits, base: base, ringCapacity: ringCapacity)
        let total = stream.bytes.count
        var position = 0
        var acknowledged = 0
        var late: [Range<Int>] = []
        while transfer.contiguous < total {
            if position < total, isOrdered || late.count < 4 {
                let end = min(total, position + 1 + random.below(packetMaximum))
                let range = position..<end
                position = end
                if !isOrdered, random.below(4) == 0 {
                    late.append(range)
                } else {
                    transfer.send(range)
                }
            } else if !late.isEmpty {
                transfer.send(late.remove(at: random.below(late.count)))
            }
            if random.below(3) == 0 {
                // A retransmission, cut another way, of what was not acknowledged.
                let start = acknowledged + random.below(max(1, position - acknowledged))
                transfer.send(start..<min(position, start + 1 + random.below(packetMaximum)))
            }
            if random.below(4) == 0 {
                let contiguous = transfer.contiguous
                acknowledged += random.below(contiguous - acknowledged + 1)
                transfer.acknowledge(acknowledged)
                // Nobody sends again what was acknowledged.
                transfer.waiting = transfer.waiting.compactMap {
                    $0.upperBound <= acknowledged
                        ? nil : max($0.lowerBound, acknowledged)..<$0.upperBound
                }
            }
            if position == total, late.isEmpty, transfer.contiguous < total {
                // Whatever a full ring or a gap kept back comes again, once it is acknowledged.
                acknowledged = transfer.contiguous
                transfer.acknowledge(acknowledged)
                let before = acknowledged
                transfer.send(acknowledged..<min(total, acknowledged + 2_000))
                if transfer.contiguous == before {
                    Issue.record("stuck at \(before) of \(total)")
                    return
                }
            }
            if !transfer.problems.isEmpty {
                Issue.record("\(transfer.problems)")
                return
            }
        }
        let messages = transfer.tracker.messages
        let next = transfer.tracker.nextHeader
        #expect(messages == UInt64(stream.boundaries.count))
        #expect(next == SequenceNumber(base) + UInt32(total))
    }

    @Test(arguments: 1...30 as ClosedRange<UInt64>)
    func iscsi(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        let stream = MessageStream.iscsi(60, &random)
        // Positions pass 2^32 on the way.
        let base = seed % 2 == 0 ? UInt32.max - 3_000 : 77
        for packet in [1_460, 200, 60] {
            run(stream, Self.edits, seed: seed, base: base, isOrdered: true, packetMaximum: packet)
            run(stream, Self.edits, seed: seed, base: base, isOrdered: false, packetMaximum: packet)
        }
    }

    /// Octet by octet.
    @Test func singleOctets() {
        var random = SplitMix64(seed: 99)
        let stream = MessageStream.iscsi(6, &random)
        run(stream, Self.edits, seed: 1, base: 5, isOrdered: true, packetMaximum: 1)
    }

    /// A ring too small for the messages in flight holds packets back and loses nothing.
    @Test(arguments: 1...5 as ClosedRange<UInt64>)
    func smallRing(seed: UInt64) {
        var random = SplitMix64(seed: seed + 100)
        let stream = MessageStream.iscsi(120, &random)
        run(
            stream, Self.edits, seed: seed, base: 5, isOrdered: true, packetMaximum: 1_460,
            ringCapacity: 16)
    }

    @Test(arguments: 1...10 as ClosedRange<UInt64>)
    func recordsAndSMB(seed: UInt64) {
        var random = SplitMix64(seed: seed + 1_000)
        for stream in [MessageStream.rpc(80, &random), MessageStream.smb2(80, &random)] {
            for packet in [1_460, 37, 3] {
                run(
                    stream, [], seed: seed, base: .max - 100, isOrdered: true, packetMaximum: packet
                )
                run(stream, [], seed: seed, base: 1, isOrdered: false, packetMaximum: packet)
            }
        }
    }

    /// Everything before a message of a held kind passes, it and what follows waits.
    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func heldKinds(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        let stream = MessageStream.iscsi(60, &random)
        guard let index = stream.kinds.firstIndex(of: 0x31) else {
            Issue.record("no such message")
            return
        }
        let boundary = stream.boundaries[index]
        var transfer = Transfer(stream, edits: Self.edits, holdKinds: 1 << 0x31, base: 1_000)
        var position = 0
        while position < stream.bytes.count {
            let end = min(stream.bytes.count, position + 1 + random.below(500))
            transfer.send(position..<end)
            position = end
        }
        let isHeld = transfer.tracker.isKindHeld
        let next = transfer.tracker.nextHeader
        let problems = transfer.problems
        let contiguous = transfer.contiguous
        let beyond = transfer.delivered[boundary...].contains(true)
        #expect(isHeld && problems.isEmpty && contiguous == boundary && !beyond)
        #expect(next == SequenceNumber(1_000) + UInt32(boundary))
    }

    /// A gap that may hide a header holds what comes behind it; one inside a message does not.
    @Test func gaps() {
        var random = SplitMix64(seed: 4)
        var stream = MessageStream.rpc(0, &random)
        stream.bytes =
            bigEndian32(0x8000_0064) + random.bytes(100) + bigEndian32(0x8000_000a)
            + random.bytes(10)
        stream.boundaries = [0, 104]
        stream.kinds = [0, 0]
        var transfer = Transfer(stream, edits: [], base: 0)
        transfer.send(10..<20)
        var holds = transfer.holds
        #expect(holds > 0)
        transfer.send(0..<10)
        var contiguous = transfer.contiguous
        #expect(contiguous == 20)
        holds = transfer.holds
        transfer.send(50..<90)  // inside the first message: goes
        let isPassed = transfer.delivered[50..<90].allSatisfy { $0 } && transfer.holds == holds
        #expect(isPassed)
        transfer.send(106..<118)  // behind a hidden header
        let isHeld = transfer.holds > holds && !transfer.delivered[106...].contains(true)
        #expect(isHeld)
        transfer.send(20..<106)
        contiguous = transfer.contiguous
        #expect(contiguous == 118)
    }

    @Test func lengthLimits() {
        var payload = bigEndian32(0x01ff_ffff)
        var tracker = MessageTracker(
            .smb2, edits: [], holdKinds: 0, nextHeader: SequenceNumber(0))
        var delta = PayloadDelta()
        var verdict = payload.withUnsafeMutableBytes { buffer in
            buffer.baseAddress.map {
                tracker.inspect(payload: $0, length: 4, sequence: SequenceNumber(0), delta: &delta)
            }
        }
        #expect(verdict == .malformed)
        // The longest message is accepted.
        payload = bigEndian32(UInt32(1 << 24 - 4))
        var other = MessageTracker(.smb2, edits: [], holdKinds: 0, nextHeader: SequenceNumber(0))
        verdict = payload.withUnsafeMutableBytes { buffer in
            buffer.baseAddress.map {
                other.inspect(payload: $0, length: 4, sequence: SequenceNumber(0), delta: &delta)
            }
        }
        let next = other.nextHeader
        #expect(verdict == .forward && next == SequenceNumber(1 << 24))
    }

    /// Any octets, any positions, any lengths.
    @Test(arguments: [MessageFormat.iscsi, .rpcRecord, .smb2])
    func garbage(format: MessageFormat) {
        var random = SplitMix64(seed: 8)
        var verdicts: Set<String> = []
        for _ in 0..<200 {
            let edits = format == .iscsi ? Self.edits : []
            var position = UInt32(truncatingIfNeeded: random.next())
            var tracker = MessageTracker(
                format, edits: edits, holdKinds: 1 << 7, nextHeader: SequenceNumber(position),
                ringCapacity: 32)
            for _ in 0..<60 {
                var payload = random.bytes(1 + random.below(300))
                if random.below(2) == 0 {
                    // Small numbers make lengths that are believed.
                    payload = payload.map { $0 & UInt8([0, 1, 3, 255][random.below(4)]) }
                }
                let before = payload
                let count = payload.count
                var delta = PayloadDelta()
                let sequence =
                    random.below(6) == 0
                    ? SequenceNumber(UInt32(truncatingIfNeeded: random.next()))
                    : SequenceNumber(position &- UInt32(random.below(50)))
                let verdict = payload.withUnsafeMutableBytes { buffer in
                    buffer.baseAddress.map {
                        tracker.inspect(
                            payload: $0, length: count, sequence: sequence, delta: &delta)
                    }
                }
                if payload.count != before.count { Issue.record("length") }
                switch verdict {
                case .forward: verdicts.insert("forward")
                case .forwardPrefix(let prefix):
                    verdicts.insert("prefix")
                    if !(0...count).contains(prefix) {
                        Issue.record("prefix \(prefix) of \(count)")
                    }
                case .hold: verdicts.insert("hold")
                case .malformed: verdicts.insert("malformed")
                case nil: Issue.record("no buffer")
                }
                if random.below(5) == 0 {
                    tracker.acknowledged(SequenceNumber(UInt32(truncatingIfNeeded: random.next())))
                }
                position &+= UInt32(count)
            }
        }
        #expect(verdicts.isSuperset(of: ["forward", "hold"]))
    }
}
