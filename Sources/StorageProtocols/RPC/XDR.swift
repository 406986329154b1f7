/// Why octets are not the item that was asked for (RFC 4506).
public enum XDRError: Error, Equatable, Sendable {
    /// The item, or the padding behind it, goes beyond the end.
    case truncated
    /// A length beyond the maximum.
    case tooLong
    /// A value that the type does not have.
    case badValue
}

/// Reads XDR items (RFC 4506) one behind the other from memory that the caller keeps for as long as the reader is
/// used. Any input gives items or an error. After an error the position is within the item that failed.
public struct XDRReader {
    private let buffer: UnsafeRawBufferPointer
    /// Where the next item begins: octets from the start of the buffer.
    public private(set) var position = 0

    public init(_ buffer: UnsafeRawBufferPointer) { self.buffer = buffer }

    /// Octets behind the position.
    public var remaining: Int { buffer.count - position }

    /// Unsigned integer (RFC 4506 section 4.2); also the bits of an integer and an enumeration (4.1, 4.3).
    public mutating func uint32() throws(XDRError) -> UInt32 {
        guard remaining >= 4 else { throw .truncated }
        defer { position += 4 }
        return UInt32(bigEndian: buffer.loadUnaligned(fromByteOffset: position, as: UInt32.self))
    }

    /// Unsigned hyper integer (RFC 4506 section 4.5).
    public mutating func uint64() throws(XDRError) -> UInt64 {
        guard remaining >= 8 else { throw .truncated }
        defer { position += 8 }
        return UInt64(bigEndian: buffer.loadUnaligned(fromByteOffset: position, as: UInt64.self))
    }

    // RFC 4506 section 4.4: "enum { FALSE = 0, TRUE = 1 }"; section 4.3: "It is an error to encode as an enum any
    // integer other than those that have been given assignments".
    /// - Throws: `badValue` for anything but 0 and 1.
    public mutating func bool() throws(XDRError) -> Bool {
        switch try uint32() {
        case 0: return false
        case 1: return true
        default: throw .badValue
        }
    }

    /// Variable-length opaque data (RFC 4506 section 4.10).
    /// - Returns: where the data is in the buffer, without its length and padding.
    /// - Throws: `tooLong` when there are more than `maximum` octets, whether they are in the buffer or not.
    public mutating func opaque(maximum: Int) throws(XDRError) -> Range<Int> {
        let count = Int(try uint32())
        guard count <= maximum else { throw .tooLong }
        return try fixedOpaque(count)
    }

    // RFC 4506 section 3: when the octets "are not a multiple of four, then the n bytes are followed by enough (0
    // to 3) residual zero bytes, r, to make the total byte count a multiple of 4". What the residual octets hold is
    // not looked at: not all senders clear them.
    /// Fixed-length opaque data (RFC 4506 section 4.9).
    /// - Returns: where the data is in the buffer, without its padding.
    public mutating func fixedOpaque(_ count: Int) throws(XDRError) -> Range<Int> {
        guard count >= 0 else { throw .badValue }
        // In this order: with a count that is not in the buffer the sum could overflow.
        guard count <= remaining, (count + 3) & ~3 <= remaining else { throw .truncated }
        defer { position += (count + 3) & ~3 }
        return position..<position + count
    }

    /// String (RFC 4506 section 4.11). What is not UTF-8 is replaced by U+FFFD: then the text has more octets than
    /// `maximum` and is not what was sent.
    /// - Parameter maximum: octets.
    public mutating func string(maximum: Int) throws(XDRError) -> String {
        let range = try opaque(maximum: maximum)
        return String(decoding: UnsafeRawBufferPointer(rebasing: buffer[range]), as: UTF8.self)
    }

    /// Goes on behind exactly so many octets; padding is to be counted in.
    public mutating func skip(_ octets: Int) throws(XDRError) {
        guard octets >= 0 else { throw .badValue }
        guard octets <= remaining else { throw .truncated }
        position += octets
    }

    /// A copy of octets of the buffer, wherever the position is.
    /// - Throws: `truncated` when not all of them are in the buffer.
    public func bytes(_ range: Range<Int>) throws(XDRError) -> [UInt8] {
        guard range.lowerBound >= 0, range.upperBound <= buffer.count else { throw .truncated }
        return Array(UnsafeRawBufferPointer(rebasing: buffer[range]))
    }
}

/// Writes XDR items (RFC 4506) one behind the other. Lengths are the caller's care: each type has 32 bits for them.
public struct XDRWriter: Sendable {
    /// A multiple of four octets.
    public private(set) var bytes: [UInt8] = []

    public init() {}

    /// RFC 4506 section 4.2.
    public mutating func uint32(_ value: UInt32) {
        withUnsafeBytes(of: value.bigEndian) { bytes.append(contentsOf: $0) }
    }

    /// RFC 4506 section 4.5.
    public mutating func uint64(_ value: UInt64) {
        withUnsafeBytes(of: value.bigEndian) { bytes.append(contentsOf: $0) }
    }

    /// RFC 4506 section 4.4.
    public mutating func bool(_ value: Bool) { uint32(value ? 1 : 0) }

    /// Variable-length opaque data: its length, the octets, padding (RFC 4506 section 4.10).
    public mutating func opaque(_ octets: [UInt8]) {
        uint32(UInt32(truncatingIfNeeded: octets.count))
        fixedOpaque(octets)
    }

    /// Fixed-length opaque data: the octets and padding (RFC 4506 section 4.9).
    public mutating func fixedOpaque(_ octets: [UInt8]) {
        bytes += octets
        bytes.append(contentsOf: repeatElement(0, count: (4 - octets.count & 3) & 3))
    }

    /// RFC 4506 section 4.11.
    public mutating func string(_ text: String) { opaque(Array(text.utf8)) }
}
