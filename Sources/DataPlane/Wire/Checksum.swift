/// A difference of Internet checksums, gathered field by field (RFC 1624 eqn. 3: HC' = ~(~HC + ~m + m')).
public struct ChecksumDelta: Equatable, Sendable {
    /// Sum of ~old + new over 16-bit words, not folded.
    public private(set) var sum: UInt64 = 0
    public init() {}

    @inlinable public var isZero: Bool { sum == 0 }

    @inline(__always)
    public mutating func replace(_ old: UInt16, with new: UInt16) {
        sum &+= UInt64(~old) &+ UInt64(new)
    }
    @inline(__always)
    public mutating func replace(_ old: UInt32, with new: UInt32) {
        replace(UInt16(truncatingIfNeeded: old >> 16), with: UInt16(truncatingIfNeeded: new >> 16))
        replace(UInt16(truncatingIfNeeded: old), with: UInt16(truncatingIfNeeded: new))
    }
    @inline(__always)
    public mutating func replace(_ old: UInt64, with new: UInt64) {
        replace(UInt32(truncatingIfNeeded: old >> 32), with: UInt32(truncatingIfNeeded: new >> 32))
        replace(UInt32(truncatingIfNeeded: old), with: UInt32(truncatingIfNeeded: new))
    }
    @inline(__always)
    public mutating func replace(_ old: IPAddress, with new: IPAddress) {
        if old.isIPv4 && new.isIPv4 { return replace(old.v4, with: new.v4) }
        replace(old.high, with: new.high)
        replace(old.low, with: new.low)
    }

    /// The checksum field after the change.
    @inline(__always)
    public func applied(to checksum: UInt16) -> UInt16 {
        ~InternetChecksum.fold(UInt64(~checksum) &+ sum)
    }
    /// The same for a field that holds a plain sum: the pseudo-header of a partial checksum.
    @inline(__always)
    public func applied(toPartial sum: UInt16) -> UInt16 {
        InternetChecksum.fold(UInt64(sum) &+ self.sum)
    }
}

/// The Internet checksum (RFC 1071).
public enum InternetChecksum {
    @inline(__always)
    public static func fold(_ value: UInt64) -> UInt16 {
        var sum = value
        while sum >> 16 != 0 { sum = (sum & 0xffff) &+ (sum >> 16) }
        return UInt16(truncatingIfNeeded: sum)
    }

    /// Sum of big-endian 16-bit words, folded, not complemented; an odd last octet is the high half.
    public static func sum(_ bytes: UnsafeRawBufferPointer) -> UInt16 {
        guard let base = bytes.baseAddress else { return 0 }
        let native = DataPlane.fold(
            nativeSum(UnsafeMutableRawPointer(mutating: base), octets: bytes.count))
        return UInt16(truncatingIfNeeded: native).byteSwapped
    }

    /// Checksum of a transport segment with its pseudo-header (RFC 9293 section 3.1, RFC 8200
    /// section 8.1), the field itself counted as it is: 0 when it is right.
    public static func transport(
        source: IPAddress, destination: IPAddress, ipProtocol: UInt8,
        segment: UnsafeRawBufferPointer
    ) -> UInt16 {
        ~fold(
            UInt64(
                pseudoHeader(
                    source: source, destination: destination, ipProtocol: ipProtocol,
                    length: segment.count)) &+ UInt64(sum(segment)))
    }

    /// Sum of a pseudo-header, folded, not complemented.
    public static func pseudoHeader(
        source: IPAddress, destination: IPAddress, ipProtocol: UInt8, length: Int
    ) -> UInt16 {
        var total = UInt64(ipProtocol) &+ UInt64(length >> 16) &+ UInt64(length & 0xffff)
        for address in [source, destination] {
            if !address.isIPv4 { total &+= words(address.high) }
            total &+= address.isIPv4 ? words(UInt64(address.v4)) : words(address.low)
        }
        return fold(total)
    }

    private static func words(_ value: UInt64) -> UInt64 {
        (value >> 48) &+ (value >> 32 & 0xffff) &+ (value >> 16 & 0xffff) &+ (value & 0xffff)
    }
}
