/// Operation codes (RFC 7143 section 11.2.1.2).
public enum ISCSIOpcode {
    public static let nopOut: UInt8 = 0x00
    public static let scsiCommand: UInt8 = 0x01
    public static let taskManagement: UInt8 = 0x02
    public static let login: UInt8 = 0x03
    public static let text: UInt8 = 0x04
    public static let dataOut: UInt8 = 0x05
    public static let logout: UInt8 = 0x06
    public static let snack: UInt8 = 0x10
    public static let nopIn: UInt8 = 0x20
    public static let scsiResponse: UInt8 = 0x21
    public static let taskManagementResponse: UInt8 = 0x22
    public static let loginResponse: UInt8 = 0x23
    public static let textResponse: UInt8 = 0x24
    public static let dataIn: UInt8 = 0x25
    public static let logoutResponse: UInt8 = 0x26
    public static let readyToTransfer: UInt8 = 0x31
    public static let asyncMessage: UInt8 = 0x32
    public static let reject: UInt8 = 0x3f
}

/// One iSCSI PDU without digests: basic header segment (48 octets), additional header segments, data.
public struct ISCSIPDU: Equatable, Sendable {
    public static let headerLength = 48
    /// Reserved value of task tags (RFC 7143 section 11.2.1.8).
    public static let reservedTag: UInt32 = 0xffff_ffff

    public private(set) var header: [UInt8]
    public var additionalHeaders: [UInt8] = []
    /// Data segment without padding.
    public var data: [UInt8] = []

    public init(opcode: UInt8, flags: UInt8 = 0, isImmediate: Bool = false) {
        header = [UInt8](repeating: 0, count: Self.headerLength)
        header[0] = opcode & 0x3f | (isImmediate ? 0x40 : 0)
        header[1] = flags
    }

    /// `header` has 48 octets; lengths in it are replaced when the PDU is encoded.
    init(header: [UInt8], additionalHeaders: [UInt8], data: [UInt8]) {
        self.header = header
        self.additionalHeaders = additionalHeaders
        self.data = data
    }

    // MARK: Fields by offset

    public func field16(_ offset: Int) -> UInt16 {
        UInt16(header[offset]) << 8 | UInt16(header[offset + 1])
    }
    public func field32(_ offset: Int) -> UInt32 {
        UInt32(field16(offset)) << 16 | UInt32(field16(offset + 2))
    }
    public mutating func setField16(_ value: UInt16, _ offset: Int) {
        header[offset] = UInt8(truncatingIfNeeded: value >> 8)
        header[offset + 1] = UInt8(truncatingIfNeeded: value)
    }
    public mutating func setField32(_ value: UInt32, _ offset: Int) {
        setField16(UInt16(truncatingIfNeeded: value >> 16), offset)
        setField16(UInt16(truncatingIfNeeded: value), offset + 2)
    }
    public subscript(_ offset: Int) -> UInt8 {
        get { header[offset] }
        set { header[offset] = newValue }
    }

    public var opcode: UInt8 { header[0] & 0x3f }
    public var isImmediate: Bool { header[0] & 0x40 != 0 }
    public var flags: UInt8 {
        get { header[1] }
        set { header[1] = newValue }
    }
    public var initiatorTaskTag: UInt32 {
        get { field32(16) }
        set { setField32(newValue, 16) }
    }
    public var targetTransferTag: UInt32 {
        get { field32(20) }
        set { setField32(newValue, 20) }
    }
    /// Requests.
    public var commandSequence: UInt32 {
        get { field32(24) }
        set { setField32(newValue, 24) }
    }
    public var expectedStatus: UInt32 {
        get { field32(28) }
        set { setField32(newValue, 28) }
    }
    /// Responses.
    public var statusSequence: UInt32 {
        get { field32(24) }
        set { setField32(newValue, 24) }
    }
    public var expectedCommand: UInt32 {
        get { field32(28) }
        set { setField32(newValue, 28) }
    }
    public var maximumCommand: UInt32 {
        get { field32(32) }
        set { setField32(newValue, 32) }
    }
    /// Login: initiator's part of the session id, 6 octets, and the target's.
    public var isid: [UInt8] {
        get { Array(header[8..<14]) }
        set { for (index, octet) in newValue.prefix(6).enumerated() { header[8 + index] = octet } }
    }
    public var tsih: UInt16 {
        get { field16(14) }
        set { setField16(newValue, 14) }
    }
    public var connectionID: UInt16 {
        get { field16(20) }
        set { setField16(newValue, 20) }
    }

    /// The PDU as it goes over the wire.
    public func encoded() -> [UInt8] {
        var bytes = header
        bytes[4] = UInt8(truncatingIfNeeded: additionalHeaders.count / 4)
        bytes[5] = UInt8(truncatingIfNeeded: data.count >> 16)
        bytes[6] = UInt8(truncatingIfNeeded: data.count >> 8)
        bytes[7] = UInt8(truncatingIfNeeded: data.count)
        bytes += additionalHeaders
        bytes += data
        bytes += [UInt8](repeating: 0, count: (4 - data.count & 3) & 3)
        return bytes
    }
}

/// A stream that is not iSCSI, or beyond what is accepted.
public enum ISCSIError: Error, Equatable, Sendable {
    case dataSegmentTooLong(Int, limit: Int)
    case malformedText(String)
}

/// Cuts a stream into PDUs.
public struct ISCSIPDUReader: Sendable {
    private var buffer: [UInt8] = []
    private var head = 0
    /// Octets of data segment that are accepted.
    public var dataMaximum: Int

    public init(dataMaximum: Int = 1 << 18) { self.dataMaximum = dataMaximum }

    public mutating func append(_ bytes: some Collection<UInt8>) { buffer += bytes }

    /// Octets that are not part of a PDU that was returned.
    public var remaining: [UInt8] { Array(buffer[head...]) }
    public var isEmpty: Bool { head == buffer.count }

    public mutating func clear() {
        buffer.removeAll()
        head = 0
    }

    /// Length of the PDU at the front, padding included; nil when its header is not whole.
    public func nextLength() throws(ISCSIError) -> Int? {
        guard buffer.count - head >= ISCSIPDU.headerLength else { return nil }
        let data = Int(buffer[head + 5]) << 16 | Int(buffer[head + 6]) << 8 | Int(buffer[head + 7])
        guard data <= dataMaximum else {
            throw .dataSegmentTooLong(data, limit: dataMaximum)
        }
        return ISCSIPDU.headerLength + Int(buffer[head + 4]) * 4 + (data + 3) & ~3
    }

    /// The header at the front without taking it; nil when it is not whole.
    public func peekOpcode() -> UInt8? {
        buffer.count - head >= ISCSIPDU.headerLength ? buffer[head] & 0x3f : nil
    }

    /// The next whole PDU; nil when more octets are needed.
    public mutating func next() throws(ISCSIError) -> ISCSIPDU? {
        guard let length = try nextLength(), buffer.count - head >= length else { return nil }
        let header = Array(buffer[head..<head + ISCSIPDU.headerLength])
        let additional = Int(header[4]) * 4
        let data = Int(header[5]) << 16 | Int(header[6]) << 8 | Int(header[7])
        let start = head + ISCSIPDU.headerLength
        let pdu = ISCSIPDU(
            header: header, additionalHeaders: Array(buffer[start..<start + additional]),
            data: Array(buffer[start + additional..<start + additional + data]))
        head += length
        if head == buffer.count {
            clear()
        } else if head > 1 << 16 {
            buffer.removeFirst(head)
            head = 0
        }
        return pdu
    }
}

extension [UInt8] {
    /// Four octets of a header, in network order.
    package func field32(_ offset: Int) -> UInt32 {
        self[offset..<offset + 4].reduce(0) { $0 << 8 | UInt32($1) }
    }
}
