// Record marking (RFC 5531 section 11): how messages are told apart in a stream. "A record fragment is a four-byte
// header followed by 0 to (2**31) - 1 bytes of fragment data." The header's highest bit says that the fragment is
// the record's last, the others are its length. One message is one record.

/// A stream that is not of records, or beyond what is accepted.
public enum RPCRecordError: Error, Equatable, Sendable {
    /// Octets that the record would have with the fragment whose header has come.
    case tooLong(Int, limit: Int)
}

/// The sending side of record marking.
public enum RPCRecord {
    public static let headerLength = 4
    /// Octets of data in one fragment.
    public static let fragmentMaximum = 0x7fff_ffff
    fileprivate static let lastFragment: UInt32 = 0x8000_0000

    /// A record as it goes into a stream. An empty one is a header alone.
    /// - Parameter fragments: octets of data in each fragment but the last, 1 to `fragmentMaximum`.
    public static func framed(
        _ record: [UInt8], fragments: Int = RPCRecord.fragmentMaximum
    ) -> [UInt8] {
        let length = min(max(fragments, 1), fragmentMaximum)
        var result: [UInt8] = []
        result.reserveCapacity(record.count + headerLength)
        var start = 0
        repeat {
            let end = start + min(length, record.count - start)
            var header = XDRWriter()
            header.uint32(
                UInt32(truncatingIfNeeded: end - start) | (end == record.count ? lastFragment : 0))
            result += header.bytes
            result += record[start..<end]
            start = end
        } while start < record.count
        return result
    }
}

/// Joins the fragments of a stream to records, whatever pieces it comes in.
public struct RPCRecordReader: Sendable {
    /// Octets that have come and were not looked at.
    private var buffer: [UInt8] = []
    private var head = 0
    /// What has come of the next record.
    private var record: [UInt8] = []
    /// Octets of the current fragment that are still to come.
    private var missing = 0
    private var isLast = false
    /// A header of the next record has come.
    private var isInside = false
    /// Octets of a record that are accepted, over all its fragments.
    public let maximum: Int

    /// - Parameter maximum: octets of a record that are accepted, over all its fragments.
    public init(maximum: Int) { self.maximum = max(0, maximum) }

    /// Keeps octets until `next` takes them.
    public mutating func append(_ bytes: some Collection<UInt8>) { buffer += bytes }

    /// Nothing has come of a record that was not handed out.
    public var isAtRest: Bool { !isInside && head == buffer.count }

    // Memory follows what has come, not what a header says: a header costs its sender four octets. An empty fragment
    // that is not the last is allowed and takes no memory.
    /// The next whole record; nil when more octets are needed.
    /// - Throws: `tooLong` as soon as a header says it. From then on it is thrown always: the place where the next
    ///   record begins is not known.
    public mutating func next() throws(RPCRecordError) -> [UInt8]? {
        defer { compact() }
        while true {
            let count = min(missing, buffer.count - head)
            record += buffer[head..<head + count]
            head += count
            missing -= count
            guard missing == 0 else { return nil }
            if isLast {
                let whole = record
                record = []
                isLast = false
                isInside = false
                return whole
            }
            guard buffer.count - head >= RPCRecord.headerLength else { return nil }
            let header = buffer.field32(head)
            let length = Int(header & ~RPCRecord.lastFragment)
            guard length <= maximum - record.count else {
                throw .tooLong(record.count + length, limit: maximum)
            }
            head += RPCRecord.headerLength
            missing = length
            isLast = header & RPCRecord.lastFragment != 0
            isInside = true
        }
    }

    /// Takes out all that was not handed out: a stream that another reader can go on with. Fragments of a record that has
    /// begun are one fragment there.
    public mutating func takeRest() -> [UInt8] {
        var rest: [UInt8] = []
        if isInside {
            var header = XDRWriter()
            header.uint32(
                UInt32(truncatingIfNeeded: record.count + missing)
                    | (isLast ? RPCRecord.lastFragment : 0))
            rest = header.bytes + record
        }
        rest += buffer[head...]
        self = RPCRecordReader(maximum: maximum)
        return rest
    }

    private mutating func compact() {
        if head == buffer.count {
            buffer.removeAll()
            head = 0
        } else if head > 1 << 16 {
            buffer.removeFirst(head)
            head = 0
        }
    }
}
