/// A TCP sequence number: arithmetic modulo 2^32, comparison by signed distance (RFC 9293 section 3.4).
public struct SequenceNumber: Hashable, Sendable {
    public var rawValue: UInt32
    @inlinable public init(_ rawValue: UInt32) { self.rawValue = rawValue }

    @inlinable public static func + (left: SequenceNumber, right: UInt32) -> SequenceNumber {
        SequenceNumber(left.rawValue &+ right)
    }
    @inlinable public static func - (left: SequenceNumber, right: UInt32) -> SequenceNumber {
        SequenceNumber(left.rawValue &- right)
    }
    /// Distance from `right` to `left`, modulo 2^32.
    @inlinable public static func - (left: SequenceNumber, right: SequenceNumber) -> UInt32 {
        left.rawValue &- right.rawValue
    }
    @inlinable public static func += (left: inout SequenceNumber, right: UInt32) {
        left = left + right
    }
    /// Not `Comparable`: the order is circular and so not transitive.
    @inlinable public func isBefore(_ other: SequenceNumber) -> Bool {
        Int32(bitPattern: rawValue &- other.rawValue) < 0
    }
    @inlinable public func isAfter(_ other: SequenceNumber) -> Bool { other.isBefore(self) }

    /// Keeps a bound that positions have left behind within 2^30 of `position`. From 2^31 on it would look
    /// like one that lies ahead, and a fast flow goes that far in half a second.
    @inline(__always) mutating func follow(_ position: SequenceNumber) {
        if Int32(bitPattern: position.rawValue &- rawValue) > 1 << 30 {
            rawValue = position.rawValue &- (1 << 30)
        }
    }
}
