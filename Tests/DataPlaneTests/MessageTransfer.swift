import DataPlane
import TestSupport
import Testing

/// A stream of messages with what one pass over it says.
struct MessageStream {
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
        var stream = MessageStream(format: .rpc)
        for _ in 0..<count {
            let body = random.bytes(20 + random.below(400))
            stream.append(bigEndian32(0x8000_0000 | UInt32(body.count)) + body, kind: body[7])
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

    mutating func append(_ message: [UInt8], kind: UInt8) {
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
struct Transfer: ~Copyable {
    var tracker: MessageTracker
    let original: [UInt8]
    let wanted: [UInt8]
    let base: SequenceNumber
    var delivered: [Bool]
    var waiting: [Range<Int>] = []
    var problems: [String] = []
    var holds = 0
    var prefixes = 0

    /// Kept as long as the tracker, which does not do so.
    private let log: SessionLog?

    init(
        _ stream: MessageStream, edits: [MessageEdit] = [], holdKinds: UInt64 = 0, base: UInt32,
        log: SessionLog? = nil, role: MessageTracker.Role = .client, handles: RPCHandleSet? = nil,
        ringCapacity: Int = 4_096
    ) {
        self.base = SequenceNumber(base)
        self.log = log
        tracker = MessageTracker(
            stream.format, edits: edits, holdKinds: holdKinds, nextHeader: self.base,
            log: log?.log, role: role, handles: handles, ringCapacity: ringCapacity)
        original = stream.bytes
        wanted = stream.edited(edits)
        delivered = Array(repeating: false, count: stream.bytes.count)
    }

    /// Octets that have arrived without a gap.
    private(set) var contiguous = 0
    /// Octets that the sender knows to have arrived: the receiver throws away what repeats them, so
    /// it does not matter what is in them then.
    private var acknowledged = 0

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
        let end = range.lowerBound + taken
        let start = min(end, max(range.lowerBound, acknowledged))
        if payload[start - range.lowerBound..<taken] != wanted[start..<end] {
            problems.append("octets of \(start..<end)")
        }
        for index in range.lowerBound..<end { delivered[index] = true }
        while contiguous < delivered.count, delivered[contiguous] { contiguous += 1 }
        return taken == count ? nil : range.lowerBound + taken..<range.upperBound
    }

    /// The checksum change is that of the octets.
    private mutating func checkDelta(_ before: [UInt8], _ after: [UInt8], _ delta: PayloadDelta) {
        func nativeSum(_ bytes: [UInt8]) -> UInt64 {
            var sum: UInt64 = 0
            for index in bytes.indices { sum += UInt64(bytes[index]) << UInt64((index & 1) * 8) }
            return sum
        }
        if (nativeSum(before) + delta.sum) % 0xffff != nativeSum(after) % 0xffff {
            problems.append("checksum difference")
        }
    }

    mutating func acknowledge(_ position: Int) {
        acknowledged = position
        tracker.acknowledged(base + UInt32(position))
    }
}

/// Carries a stream to its end, in packets cut at random; some come late, some twice.
func carry(
    _ stream: MessageStream, _ edits: [MessageEdit] = [], seed: UInt64, base: UInt32,
    isOrdered: Bool, packetMaximum: Int, log: SessionLog? = nil, handles: RPCHandleSet? = nil,
    ringCapacity: Int = 4_096
) {
    var random = SplitMix64(seed: seed)
    var transfer = Transfer(
        stream, edits: edits, base: base, log: log, handles: handles, ringCapacity: ringCapacity)
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
