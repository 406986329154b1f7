import DataPlane
import TestSupport
import Testing

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

    @Test(arguments: 1...10 as ClosedRange<UInt64>)
    func iscsi(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        let stream = MessageStream.iscsi(40, &random)
        // Positions pass 2^32 on the way.
        let base = seed % 2 == 0 ? UInt32.max - 3_000 : 77
        for packet in [1_460, 200, 60] {
            for isOrdered in [true, false] {
                carry(
                    stream, Self.edits, seed: seed, base: base, isOrdered: isOrdered,
                    packetMaximum: packet)
            }
        }
    }

    /// Octet by octet.
    @Test func singleOctets() {
        var random = SplitMix64(seed: 99)
        let stream = MessageStream.iscsi(6, &random)
        carry(stream, Self.edits, seed: 1, base: 5, isOrdered: true, packetMaximum: 1)
    }

    /// A ring too small for the messages in flight holds packets back and loses nothing.
    @Test(arguments: 1...5 as ClosedRange<UInt64>)
    func smallRing(seed: UInt64) {
        var random = SplitMix64(seed: seed + 100)
        let stream = MessageStream.iscsi(120, &random)
        carry(
            stream, Self.edits, seed: seed, base: 5, isOrdered: true, packetMaximum: 1_460,
            ringCapacity: 16)
    }

    @Test(arguments: 1...4 as ClosedRange<UInt64>)
    func recordsAndSMB(seed: UInt64) {
        var random = SplitMix64(seed: seed + 1_000)
        for stream in [MessageStream.rpc(40, &random), MessageStream.smb2(40, &random)] {
            for packet in [1_460, 37, 5] {
                carry(
                    stream, [], seed: seed, base: .max - 100, isOrdered: true, packetMaximum: packet
                )
                carry(stream, [], seed: seed, base: 1, isOrdered: false, packetMaximum: packet)
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
        var stream = MessageStream.smb2(0, &random)
        stream.bytes =
            bigEndian32(0x64) + random.bytes(100) + bigEndian32(0x0a) + random.bytes(10)
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
    @Test(arguments: [MessageFormat.iscsi, .rpc, .smb2])
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
