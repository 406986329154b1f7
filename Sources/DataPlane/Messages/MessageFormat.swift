/// Where, in a stream of messages, length, kind, id and routing key lie: a table, not code.
///
/// Covers the iSCSI basic header segment (RFC 7143 section 11.2), records of ONC RPC (RFC 5531
/// section 11) and SMB2 over direct TCP (MS-SMB2 section 2.1). Offsets count octets from the first octet of
/// the message; numbers are big endian unless said.
public struct MessageFormat: Hashable, Sendable {
    /// A field of a message header.
    public struct Field: Hashable, Sendable {
        public var offset: UInt16
        /// 1, 2, 4 or 8 octets.
        public var width: UInt8
        public var isLittleEndian: Bool
        /// Applied after loading.
        public var mask: UInt64
        public init(offset: UInt16, width: UInt8, isLittleEndian: Bool = false, mask: UInt64 = .max)
        {
            self.offset = offset
            self.width = width
            self.isLittleEndian = isLittleEndian
            self.mask = mask
        }
    }

    /// One addend of the message's length: `(field & mask) * scale`, rounded up to `alignment` octets.
    public struct LengthTerm: Hashable, Sendable {
        public var field: Field
        public var scale: UInt32
        public var alignment: UInt32
        public init(field: Field, scale: UInt32 = 1, alignment: UInt32 = 1) {
            self.field = field
            self.scale = scale
            self.alignment = alignment
        }
    }

    /// Octets that are always there, and that must be seen before the message's length is known.
    public var headerLength: UInt16
    /// Message length = headerLength + sum of the terms (+ trailing digest octets, see `fixedExtra`).
    public var lengthTerms: [LengthTerm]
    /// Octets added to every message (header digest; below zero where the length counts octets of the header
    /// too), and those added when there is payload (data digest). A message that would be shorter than its
    /// header is malformed.
    public var fixedExtra: Int16
    public var payloadExtra: UInt16
    /// Longest message that is accepted; beyond it the stream is malformed.
    public var maximumLength: UInt32
    /// What the message is (iSCSI: opcode, 6 bits).
    public var kind: Field
    /// Which request it is or answers (iSCSI: initiator task tag).
    public var id: Field?
    /// To which resource it goes (iSCSI: LUN).
    public var routingKey: Field?
    /// Not zero in a message that is whole in itself (RPC: "last fragment"). Others are held, whichever end they
    /// come from. Nil: each message is whole.
    public var completeness: Field?

    public init(
        headerLength: UInt16, lengthTerms: [LengthTerm], fixedExtra: Int16 = 0,
        payloadExtra: UInt16 = 0, maximumLength: UInt32 = 1 << 24, kind: Field, id: Field? = nil,
        routingKey: Field? = nil, completeness: Field? = nil
    ) {
        self.headerLength = headerLength
        self.lengthTerms = lengthTerms
        self.fixedExtra = fixedExtra
        self.payloadExtra = payloadExtra
        self.maximumLength = maximumLength
        self.kind = kind
        self.id = id
        self.routingKey = routingKey
        self.completeness = completeness
    }
}

/// A change made to a field of every message of the given kinds that passes in one direction.
public struct MessageEdit: Hashable, Sendable {
    public enum Operation: Hashable, Sendable {
        /// Adds modulo 2^(8 * width).
        case add(UInt64)
        case set(UInt64)
    }
    public var field: MessageFormat.Field
    public var operation: Operation
    /// Bit k set: applies to kind k (0 ..< 64).
    public var kinds: UInt64
    public init(field: MessageFormat.Field, operation: Operation, kinds: UInt64 = .max) {
        self.field = field
        self.operation = operation
        self.kinds = kinds
    }
}

/// Messages that belong to one resource: those of the given kinds with another routing key are held.
public struct MessageRoutingRule: Hashable, Sendable {
    /// Bit k: kind k.
    public var kinds: UInt64
    public var value: UInt64
    public init(kinds: UInt64, value: UInt64) {
        self.kinds = kinds
        self.value = value
    }
}

/// Messages of one kind that are held by an octet of their header (iSCSI: SCSI commands by operation code).
public struct MessageHoldRule: Hashable, Sendable {
    public let kind: UInt8
    /// One octet.
    public let field: MessageFormat.Field
    /// Bit v & 63 of word v >> 6: value v is held.
    private var first: UInt64 = 0
    private var second: UInt64 = 0
    private var third: UInt64 = 0
    private var fourth: UInt64 = 0

    public init(kind: UInt8, field: MessageFormat.Field, values: [UInt8]) {
        self.kind = kind
        self.field = field
        for value in values {
            let bit = UInt64(1) << UInt64(value & 63)
            switch value >> 6 {
            case 0: first |= bit
            case 1: second |= bit
            case 2: third |= bit
            default: fourth |= bit
            }
        }
    }

    @inline(__always)
    func holds(_ header: UnsafeMutableRawPointer, kind present: UInt64) -> Bool {
        guard present == UInt64(kind) else { return false }
        let value = MessageTracker.load(header, field) & 0xff
        let word =
            switch value >> 6 {
            case 0: first
            case 1: second
            case 2: third
            default: fourth
            }
        return word >> (value & 63) & 1 != 0
    }
}
