/// Change of a checksum by edits of payload octets: sum of ~old + new over native 16-bit words.
package struct PayloadDelta {
    package var sum: UInt64 = 0
    package init() {}

    /// `parity`: 0 when the octet is the first of its 16-bit word, counted from the TCP header.
    @inline(__always)
    package mutating func replace(_ old: UInt8, with new: UInt8, parity: Int) {
        let shift = UInt16(parity & 1) &* 8
        let before = UInt16(littleEndian: UInt16(old) << shift)
        let after = UInt16(littleEndian: UInt16(new) << shift)
        sum &+= UInt64(~before) &+ UInt64(after)
    }
}

/// Follows message boundaries in one direction of a TCP stream that is seen as packets: out of order, repeated,
/// cut anywhere. Edits header fields in place, the same way in every retransmission, and says what must wait
/// because a gap, or the end of a packet, hides a header. With file handles it judges each call of NFS before any of
/// the call goes.
///
/// Sequence numbers are in the sender's space. Allocates nothing after `init`; bounded; takes any input.
package struct MessageTracker: ~Copyable {
    package enum Verdict: Equatable {
        /// All of the payload may go.
        case forward
        /// Only the first octets may go now: a header, or a held message, starts behind them.
        case forwardPrefix(Int)
        /// Nothing may go: a gap hides where the next header is.
        case hold
        case malformed
    }

    package static let editMaximum = 4
    package static let termMaximum = 4
    package static let headerMaximum = 64
    /// Octets of a message that is gathered whole, or of a call as far as it is judged by them; header included.
    package static let wholeMaximum = 4_096

    /// What a tracker does with a request log.
    package enum Role { case client, server }

    /// A header that was passed and may still be retransmitted.
    private struct Passed {
        var position: SequenceNumber
        /// Edited fields as they went out, most significant octet first.
        var values: (UInt64, UInt64, UInt64, UInt64)
        /// Bit n: edit n applies.
        var applied: UInt8
    }

    private let headerLength: Int
    private let terms: UnsafeMutableBufferPointer<MessageFormat.LengthTerm>
    private let edits: UnsafeMutableBufferPointer<MessageEdit>
    private let kind: MessageFormat.Field
    private let completeness: MessageFormat.Field?
    private let fixedExtra: Int64
    private let payloadExtra: UInt32
    private let maximumLength: UInt32
    private let holdKinds: UInt64
    private let holdRule: MessageHoldRule?
    private let routing: MessageRoutingRule?
    private let routingKey: MessageFormat.Field
    /// Calls of the client with other file handles are held.
    private let handles: RPCHandleSet?
    private let accumulator: UnsafeMutableRawPointer
    private var accumulated = 0
    /// Octets to gather before more can be said of the message at `nextHeader`: its header, that and what follows as
    /// far as a call is judged by it, or all of it.
    private var unit: Int
    /// Requests and replies are kept there; the log is owned by whoever made the tracker.
    private let log: UnsafeMutablePointer<RequestLog>?
    private let role: Role
    /// With a log of requests: where the next octet for it is in the stream. It takes each once, in order.
    package private(set) var followed: SequenceNumber
    private let passed: UnsafeMutablePointer<Passed>
    private let passedMask: Int
    private var passedHead = 0
    private var passedTail = 0

    /// Where the next message header starts.
    package private(set) var nextHeader: SequenceNumber
    /// A message of a held kind, one that is not whole in itself, or a call that must not pass starts at
    /// `nextHeader`.
    package private(set) var isKindHeld = false
    /// What was inspected last had nothing new of the message at `nextHeader`, which is not whole: its sender repeats
    /// what it has sent of it, and may send no more before that is acknowledged.
    package private(set) var isRepeated = false
    package private(set) var messages: UInt64 = 0

    /// `followed`: position of the stream; before `nextHeader` when a message is on its way.
    package init(
        _ format: MessageFormat, edits wanted: [MessageEdit], holdKinds: UInt64,
        holdRule: MessageHoldRule? = nil, routing: MessageRoutingRule? = nil,
        nextHeader: SequenceNumber,
        followed: SequenceNumber? = nil, log: UnsafeMutablePointer<RequestLog>? = nil,
        role: Role = .client, handles: RPCHandleSet? = nil, ringCapacity: Int = 4_096
    ) {
        headerLength = Int(format.headerLength)
        unit = headerLength
        self.holdRule = holdRule
        self.routing = routing
        routingKey = format.routingKey ?? MessageFormat.Field(offset: 0, width: 1)
        self.followed = followed ?? nextHeader
        self.log = log
        self.role = role
        self.handles = role == .client ? handles : nil
        completeness = format.completeness
        terms = .allocate(capacity: format.lengthTerms.count)
        _ = terms.initialize(from: format.lengthTerms)
        edits = .allocate(capacity: wanted.count)
        _ = edits.initialize(from: wanted)
        kind = format.kind
        fixedExtra = Int64(format.fixedExtra)
        payloadExtra = UInt32(format.payloadExtra)
        maximumLength = format.maximumLength
        self.holdKinds = holdKinds
        let gathersMore = role == .server ? log != nil : handles != nil
        accumulator = .allocate(
            byteCount: gathersMore ? Self.wholeMaximum : Self.headerMaximum, alignment: 8)
        var size = 16
        while size < ringCapacity { size *= 2 }
        passed = .allocate(capacity: size)
        passedMask = size - 1
        self.nextHeader = nextHeader
    }

    deinit {
        terms.deallocate()
        edits.deallocate()
        accumulator.deallocate()
        passed.deallocate()
    }

    /// Whether a format and its edits fit the limits: fields inside the header, widths 1, 2, 4 or 8; file handles
    /// only in calls of RPC.
    package static func accepts(_ messages: SpliceMessages) -> Bool {
        let format = messages.format
        let length = Int(format.headerLength)
        func fits(_ field: MessageFormat.Field) -> Bool {
            [1, 2, 4, 8].contains(field.width) && Int(field.offset) + Int(field.width) <= length
        }
        let edits = messages.clientEdits + messages.serverEdits
        let isRouted = messages.clientRouting != nil
        let optional = [format.id, format.completeness, isRouted ? format.routingKey : nil]
        guard optional.allSatisfy({ $0.map(fits) ?? true }),
            !isRouted || format.routingKey != nil,
            messages.clientHandles == nil || format == .rpc
        else { return false }
        return length > 0 && length <= headerMaximum && format.lengthTerms.count <= termMaximum
            && messages.clientEdits.count <= editMaximum
            && messages.serverEdits.count <= editMaximum && fits(format.kind)
            && format.lengthTerms.allSatisfy { fits($0.field) && $0.alignment > 0 }
            && edits.allSatisfy { fits($0.field) }
            && (messages.clientHoldRule.map { fits($0.field) && $0.field.width == 1 } ?? true)
            && (messages.requests?.fits(format) ?? true)
    }

    // MARK: One payload

    /// Looks at a payload that starts at `sequence` and edits it in place.
    package mutating func inspect(
        payload: UnsafeMutableRawPointer, length: Int, sequence: SequenceNumber,
        delta: inout PayloadDelta, now: UInt64 = 0
    ) -> Verdict {
        reapply(payload, length, sequence, &delta)
        isRepeated = false
        let end = sequence + UInt32(truncatingIfNeeded: length)
        if let log, role == .client {
            // The log wants the stream in order: a packet behind any gap waits.
            if sequence.isAfter(expected) { return .hold }
            followData(log, payload, sequence, end: end)
        }
        guard end.isAfter(nextHeader) else { return .forward }
        let needed = nextHeader + UInt32(truncatingIfNeeded: accumulated)
        if sequence.isAfter(needed) { return .hold }
        isRepeated = accumulated > 0 && accumulated < unit && !end.isAfter(needed)
        while end.isAfter(nextHeader) {
            let ahead = Int(Int32(bitPattern: nextHeader - sequence))
            if isKindHeld { return ahead > 0 ? .forwardPrefix(ahead) : .hold }
            guard collect(payload, length, sequence) else {
                return .forwardPrefix(max(0, ahead))
            }
            switch pass(payload, length, sequence, &delta, now: now) {
            case .passed:
                if let log, role == .client { followData(log, payload, sequence, end: end) }
                continue
            case .unfinished: continue
            case .held: return ahead > 0 ? .forwardPrefix(ahead) : .hold
            case .full: return .forwardPrefix(max(0, ahead))
            case .malformed: return .malformed
            }
        }
        return .forward
    }

    /// Where the stream goes on for the log: inside a message, or in a header that is gathered.
    private var expected: SequenceNumber {
        followed == nextHeader
            ? nextHeader + UInt32(truncatingIfNeeded: accumulated) : followed
    }

    /// Gives the log the octets of the present message that it has not seen.
    private mutating func followData(
        _ log: UnsafeMutablePointer<RequestLog>, _ payload: UnsafeMutableRawPointer,
        _ sequence: SequenceNumber, end: SequenceNumber
    ) {
        guard followed.isBefore(nextHeader), end.isAfter(followed) else { return }
        let stop = end.isAfter(nextHeader) ? nextHeader : end
        log.pointee.data(payload + Int(followed - sequence), Int(stop - followed))
        followed = stop
    }

    /// Gathers octets of the message at `nextHeader`; true when there are `unit` of them.
    private mutating func collect(
        _ payload: UnsafeMutableRawPointer, _ length: Int, _ sequence: SequenceNumber
    ) -> Bool {
        guard accumulated < unit else { return true }
        let needed = nextHeader + UInt32(truncatingIfNeeded: accumulated)
        let offset = Int(Int32(bitPattern: needed - sequence))
        guard offset >= 0, offset < length else { return false }
        let count = min(unit - accumulated, length - offset)
        (accumulator + accumulated).copyMemory(from: payload + offset, byteCount: count)
        accumulated += count
        return accumulated == unit
    }

    private enum Passing { case passed, unfinished, held, full, malformed }

    /// What was to be gathered is in the accumulator: on to the next message, or to more of this one.
    private mutating func pass(
        _ payload: UnsafeMutableRawPointer, _ length: Int, _ sequence: SequenceNumber,
        _ delta: inout PayloadDelta, now: UInt64
    ) -> Passing {
        let kindValue = Self.load(accumulator, kind)
        if kindValue < 64,
            holdKinds >> kindValue & 1 != 0
                || holdRule?.holds(accumulator, kind: kindValue) == true
                || isElsewhere(kindValue)
        {
            isKindHeld = true
            return .held
        }
        if let completeness, Self.load(accumulator, completeness) == 0 {
            isKindHeld = true
            return .held
        }
        var resource = 0
        if let handles {
            switch handles.judge(accumulator, length: accumulated) {
            case .needs(let octets) where octets <= Self.wholeMaximum:
                unit = octets
                return .unfinished
            case .needs, .foreign:
                isKindHeld = true
                return .held
            case .passes(let place): resource = place
            }
        }
        guard let messageLength = messageLength() else { return .malformed }
        if let log, role == .server, unit == headerLength, messageLength > UInt32(headerLength),
            messageLength <= UInt32(Self.wholeMaximum), log.pointee.isWhole(kind: kindValue)
        {
            unit = Int(messageLength)
            return .unfinished
        }
        if edits.count > 0 {
            guard passedTail &- passedHead <= passedMask else { return .full }
        }
        if let log, role == .server, !log.pointee.hasReplyRoom { return .full }
        if let log, role == .client {
            log.pointee.clientHeader(accumulator, kind: kindValue, now: now)
            if accumulated > headerLength {
                log.pointee.data(accumulator + headerLength, accumulated - headerLength)
            }
        }
        if edits.count > 0 {
            let header = edited(kindValue)
            passed[passedTail & passedMask] = header
            passedTail &+= 1
            apply(header, payload, length, sequence, &delta)
            if log != nil { applyToGathered(header) }
        }
        if let log, role == .server {
            let dataCount = accumulated - headerLength
            log.pointee.serverMessage(
                accumulator, kind: kindValue, position: nextHeader, length: messageLength,
                data: dataCount > 0
                    ? (UnsafeRawPointer(accumulator + headerLength), dataCount) : nil, now: now)
        }
        if let handles { handles.count(resource: resource) }
        messages &+= 1
        followed = nextHeader + UInt32(truncatingIfNeeded: accumulated)
        nextHeader += messageLength
        accumulated = 0
        unit = headerLength
        return .passed
    }

    private func isElsewhere(_ kind: UInt64) -> Bool {
        guard let routing, routing.kinds >> kind & 1 != 0 else { return false }
        return Self.load(accumulator, routingKey) != routing.value
    }

    /// The gathered header as it goes out.
    private func applyToGathered(_ header: Passed) {
        var unused = PayloadDelta()
        apply(header, accumulator, headerLength, header.position, &unused)
    }

    /// Octets of the message whose header is in the accumulator; nil beyond the limit, and below the header's.
    private func messageLength() -> UInt32? {
        var payload: UInt64 = 0
        for term in terms {
            let value = Self.load(accumulator, term.field) &* UInt64(term.scale)
            let alignment = UInt64(term.alignment)
            guard value <= UInt64(maximumLength) else { return nil }
            payload += (value + alignment - 1) / alignment * alignment
        }
        let extra = payload > 0 ? Int64(payloadExtra) : 0
        let total = Int64(headerLength) + fixedExtra + Int64(payload) + extra
        guard total >= Int64(headerLength), total <= Int64(maximumLength) else { return nil }
        return UInt32(total)
    }

    // MARK: Edits

    private func edited(_ kindValue: UInt64) -> Passed {
        var header = Passed(position: nextHeader, values: (0, 0, 0, 0), applied: 0)
        for index in 0..<edits.count {
            let edit = edits[index]
            guard kindValue < 64, edit.kinds >> kindValue & 1 != 0 else { continue }
            var field = edit.field
            field.mask = .max
            let old = Self.load(accumulator, field)
            let new: UInt64 =
                switch edit.operation {
                case .add(let addend): old &+ addend
                case .set(let value): value
                }
            let value = field.isLittleEndian ? Self.swapped(new, width: field.width) : new
            switch index {
            case 0: header.values.0 = value
            case 1: header.values.1 = value
            case 2: header.values.2 = value
            default: header.values.3 = value
            }
            header.applied |= 1 << UInt8(index)
        }
        return header
    }

    /// Octets of passed headers that this payload repeats get the same values.
    private func reapply(
        _ payload: UnsafeMutableRawPointer, _ length: Int, _ sequence: SequenceNumber,
        _ delta: inout PayloadDelta
    ) {
        guard passedHead != passedTail, sequence.isBefore(nextHeader) else { return }
        // From the newest on: what comes in order meets none of them.
        var index = passedTail
        while index != passedHead {
            index &-= 1
            let header = passed[index & passedMask]
            let end = header.position + UInt32(truncatingIfNeeded: headerLength)
            guard end.isAfter(sequence) else { return }
            apply(header, payload, length, sequence, &delta)
        }
    }

    @inline(__always)
    private func apply(
        _ header: Passed, _ payload: UnsafeMutableRawPointer, _ length: Int,
        _ sequence: SequenceNumber, _ delta: inout PayloadDelta
    ) {
        let start = Int(Int32(bitPattern: header.position - sequence))
        guard start < length, start + headerLength > 0 else { return }
        for index in 0..<edits.count where header.applied >> UInt8(index) & 1 != 0 {
            let field = edits[index].field
            let value =
                switch index {
                case 0: header.values.0
                case 1: header.values.1
                case 2: header.values.2
                default: header.values.3
                }
            let width = Int(field.width)
            for octet in 0..<width {
                let offset = start + Int(field.offset) + octet
                guard offset >= 0, offset < length else { continue }
                let new = UInt8(truncatingIfNeeded: value >> UInt64((width - 1 - octet) * 8))
                delta.replace(payload.load8(offset), with: new, parity: offset)
                payload.store8(new, offset)
            }
        }
    }

    /// The receiver has everything below `position`: headers there are not sent again.
    package mutating func acknowledged(_ position: SequenceNumber) {
        while passedHead != passedTail {
            let end =
                passed[passedHead & passedMask].position
                + UInt32(truncatingIfNeeded: headerLength)
            if end.isAfter(position) { return }
            passedHead &+= 1
        }
    }

    // MARK: Fields

    @inline(__always)
    package static func load(_ header: UnsafeMutableRawPointer, _ field: MessageFormat.Field)
        -> UInt64
    {
        let offset = Int(field.offset)
        let value: UInt64 =
            switch field.width {
            case 1: UInt64(header.load8(offset))
            case 2: UInt64(header.load16(offset))
            case 4: UInt64(header.load32(offset))
            default: header.load64(offset)
            }
        return (field.isLittleEndian ? swapped(value, width: field.width) : value) & field.mask
    }

    @inline(__always)
    private static func swapped(_ value: UInt64, width: UInt8) -> UInt64 {
        value.byteSwapped >> UInt64(64 - Int(width) * 8)
    }
}

extension MessageFormat {
    /// Octets of the message that begins with `header`, which has `headerLength` of them; nil: fewer than those, or
    /// more than `maximumLength`.
    package func length(of header: UnsafeRawPointer) -> Int? {
        let header = UnsafeMutableRawPointer(mutating: header)
        var payload: UInt64 = 0
        for term in lengthTerms {
            let value = MessageTracker.load(header, term.field) &* UInt64(term.scale)
            guard value <= UInt64(maximumLength) else { return nil }
            let alignment = UInt64(term.alignment)
            payload += (value + alignment - 1) / alignment * alignment
        }
        let extra = payload > 0 ? Int(payloadExtra) : 0
        let total = Int(headerLength) + Int(fixedExtra) + Int(payload) + extra
        return total >= Int(headerLength) && total <= Int(maximumLength) ? total : nil
    }

    /// iSCSI without digests (RFC 7143 section 11.2.1): a basic header segment of 48 octets, then
    /// TotalAHSLength in words of 4 and DataSegmentLength padded to 4. A header digest would cover edited
    /// fields, so edits need digests off.
    public static let iscsi = MessageFormat(
        headerLength: 48,
        lengthTerms: [
            LengthTerm(field: Field(offset: 4, width: 1), scale: 4),
            LengthTerm(field: Field(offset: 4, width: 4, mask: 0xff_ffff), alignment: 4),
        ],
        kind: Field(offset: 0, width: 1, mask: 0x3f), id: Field(offset: 16, width: 4),
        routingKey: Field(offset: 8, width: 8))

    /// ONC RPC over TCP: a record mark whose top bit says "last fragment" and whose other bits are the octets
    /// behind it (RFC 5531 section 11), then xid and message type. The shortest message is a reply with 20 octets
    /// behind the mark: MSG_DENIED, AUTH_ERROR and why (section 9); a call has more.
    public static let rpc = MessageFormat(
        headerLength: 24,
        lengthTerms: [LengthTerm(field: Field(offset: 0, width: 4, mask: 0x7fff_ffff))],
        fixedExtra: -20, kind: Field(offset: 11, width: 1), id: Field(offset: 4, width: 4),
        completeness: Field(offset: 0, width: 1, mask: 0x80))

    /// SMB2 over direct TCP: a zero octet and a length of 24 bits (MS-SMB2 section 2.1).
    public static let smb2 = MessageFormat(
        headerLength: 4,
        lengthTerms: [LengthTerm(field: Field(offset: 0, width: 4, mask: 0xff_ffff))],
        kind: Field(offset: 0, width: 1))
}
