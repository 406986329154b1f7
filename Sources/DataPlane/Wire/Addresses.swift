/// A 48-bit IEEE 802 address. `rawValue` holds the six octets as a number, the first octet highest.
public struct MACAddress: Hashable, Sendable {
    public var rawValue: UInt64

    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue & 0xffff_ffff_ffff }

    public static let broadcast = MACAddress(rawValue: 0xffff_ffff_ffff)
    public static let zero = MACAddress(rawValue: 0)

    /// Group bit of the first octet: multicast or broadcast.
    @inlinable public var isGroup: Bool { rawValue & 0x0100_0000_0000 != 0 }

    /// Parses `aa:bb:cc:dd:ee:ff`; nil when the text is anything else.
    public init?(_ text: some StringProtocol) {
        var value: UInt64 = 0
        var octets = 0
        for part in text.split(separator: ":", omittingEmptySubsequences: false) {
            // Swift takes a sign in front of the digits.
            guard (1...2).contains(part.utf8.count), part.first?.isHexDigit == true,
                let octet = UInt8(part, radix: 16)
            else { return nil }
            value = value << 8 | UInt64(octet)
            octets += 1
        }
        guard octets == 6 else { return nil }
        rawValue = value
    }
}

extension MACAddress: CustomStringConvertible {
    public var description: String {
        (0..<6).map { index in
            let octet = UInt8(truncatingIfNeeded: rawValue >> UInt64(40 - index * 8))
            return (octet < 16 ? "0" : "") + String(octet, radix: 16)
        }.joined(separator: ":")
    }
}

/// An IPv4 or IPv6 address as 128 bits; IPv4 is kept in its mapped form `::ffff:a.b.c.d` (RFC 4291
/// section 2.5.5.2), so that one table serves both families.
public struct IPAddress: Hashable, Sendable {
    public var high: UInt64
    public var low: UInt64

    @inlinable public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// `value` is the address as a number, first octet highest.
    @inlinable public init(v4 value: UInt32) {
        high = 0
        low = 0xffff_0000_0000 | UInt64(value)
    }

    @inlinable public var isIPv4: Bool { high == 0 && low >> 32 == 0xffff }
    /// The 32-bit address as a number; meaningful only when `isIPv4`.
    @inlinable public var v4: UInt32 { UInt32(truncatingIfNeeded: low) }
}
