/// Which messages of a format make a request and its reply: a table beside `MessageFormat`, so that what is
/// open can be followed without knowing the protocol.
public struct RequestRules: Hashable, Sendable {
    /// A message from the server that ends a request.
    public struct Closing: Hashable, Sendable {
        /// Bit k: kind k.
        public var kinds: UInt64
        /// Ends it only when one of these bits is set in the octet at `flagOffset`; mask 0: always.
        public var flagOffset: UInt16
        public var flagMask: UInt8
        /// Where the id of the request is, when it is not where the format says. May lie behind the header,
        /// in a message that is gathered whole.
        public var id: MessageFormat.Field?

        public init(
            kinds: UInt64, flagOffset: UInt16 = 0, flagMask: UInt8 = 0,
            id: MessageFormat.Field? = nil
        ) {
            self.kinds = kinds
            self.flagOffset = flagOffset
            self.flagMask = flagMask
            self.id = id
        }
    }

    /// A number that grows with each request of the client.
    public struct Sequence: Hashable, Sendable {
        /// 4 octets.
        public var field: MessageFormat.Field
        /// Requests with one of these bits set in the octet at `flagOffset` are not counted by it.
        public var flagOffset: UInt16
        public var flagMask: UInt8

        public init(field: MessageFormat.Field, flagOffset: UInt16, flagMask: UInt8) {
            self.field = field
            self.flagOffset = flagOffset
            self.flagMask = flagMask
        }
    }

    /// Kinds from the client that open a request, and those that add octets to an open one. Bit k: kind k.
    public var opening: UInt64
    public var continuing: UInt64
    /// An id that names no request.
    public var noID: UInt64
    /// Kinds from the server that belong to a request and do not end it: of each the newest header is kept.
    /// At most two.
    public var progress: [UInt8]
    /// At most four.
    public var closing: [Closing]
    /// Kinds from the server, beside those that close, whose newest header is kept: it carries counters.
    public var counted: UInt64
    /// Kinds from the server whose data is passed on, and remembered, only as a whole: so that an end of the
    /// server in the middle leaves nothing half said that nobody could complete.
    public var whole: UInt64
    /// Servers ignore a request whose number is not after those before it, so it opens nothing.
    public var sequence: Sequence?

    public init(
        opening: UInt64, continuing: UInt64, noID: UInt64, progress: [UInt8], closing: [Closing],
        counted: UInt64, whole: UInt64, sequence: Sequence? = nil
    ) {
        self.opening = opening
        self.continuing = continuing
        self.noID = noID
        self.progress = progress
        self.closing = closing
        self.counted = counted
        self.whole = whole
        self.sequence = sequence
    }

    static let progressMaximum = 2
    static let closingMaximum = 4

    func fits(_ format: MessageFormat) -> Bool {
        progress.count <= Self.progressMaximum && closing.count <= Self.closingMaximum
            && format.id != nil
            && (sequence.map {
                $0.field.width == 4 && Int($0.field.offset) + 4 <= Int(format.headerLength)
                    && $0.flagOffset < format.headerLength
            } ?? true)
            && closing.allSatisfy { rule in
                Int(rule.flagOffset) < Int(format.headerLength)
                    && (rule.id.map {
                        [1, 2, 4, 8].contains($0.width)
                            && Int($0.offset) + Int($0.width) <= MessageTracker.wholeMaximum
                    } ?? true)
            }
    }

    /// iSCSI (RFC 7143 section 11.1). A SCSI Response, a Data-In with the S bit ("the Command Status field
    /// is valid", section 11.7.1), a NOP-In with a task tag and a Reject of a command end a task. R2T
    /// (section 11.8) and Data-In are its progress. NOP-In, R2T, Async and Reject carry StatSN. CmdSN counts
    /// requests without the I bit; "the target MUST silently ignore any non-immediate command outside of this
    /// range or non-immediate duplicates within the range" (section 4.2.2.1).
    public static let iscsi = RequestRules(
        opening: 1 << 0x00 | 1 << 0x01 | 1 << 0x02 | 1 << 0x06, continuing: 1 << 0x05,
        noID: 0xffff_ffff, progress: [0x25, 0x31],
        closing: [
            Closing(kinds: 1 << 0x20 | 1 << 0x21 | 1 << 0x22 | 1 << 0x26),
            Closing(kinds: 1 << 0x25, flagOffset: 1, flagMask: 0x01),
            // The header of the rejected PDU is the data segment (section 11.17).
            Closing(kinds: 1 << 0x3f, id: MessageFormat.Field(offset: 48 + 16, width: 4)),
        ],
        counted: 1 << 0x20 | 1 << 0x31 | 1 << 0x32 | 1 << 0x3f,
        whole: 1 << 0x20 | 1 << 0x21 | 1 << 0x22 | 1 << 0x26 | 1 << 0x32 | 1 << 0x3f,
        sequence: Sequence(
            field: MessageFormat.Field(offset: 24, width: 4), flagOffset: 0, flagMask: 0x40))

    /// ONC RPC (RFC 5531 section 9): a CALL, 0, opens a request and the REPLY, 1, with its xid ends it. Each xid,
    /// of 32 bits, names one.
    public static let rpc = RequestRules(
        opening: 1 << 0, continuing: 0, noID: .max, progress: [], closing: [Closing(kinds: 1 << 1)],
        counted: 0, whole: 1 << 1)
}
