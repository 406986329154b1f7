/// Sense data: why a command ended with CHECK CONDITION (SPC-4 section 4.5, annex F).
public struct SCSISense: Equatable, Sendable {
    public var key: UInt8
    public var code: UInt8
    public var qualifier: UInt8
    /// For what the code asks for it, as the first block that failed.
    public var information: UInt64?

    public init(_ key: UInt8, _ code: UInt8, _ qualifier: UInt8, information: UInt64? = nil) {
        self.key = key
        self.code = code
        self.qualifier = qualifier
        self.information = information
    }

    // SPC-4 table 36 (keys) and annex F (codes).
    public static let noSense = SCSISense(0x00, 0x00, 0x00)
    public static let communicationFailure = SCSISense(0x02, 0x08, 0x00)
    public static let invalidOperation = SCSISense(0x05, 0x20, 0x00)
    public static let outOfRange = SCSISense(0x05, 0x21, 0x00)
    public static let invalidField = SCSISense(0x05, 0x24, 0x00)
    public static let unitNotSupported = SCSISense(0x05, 0x25, 0x00)
    public static let invalidParameter = SCSISense(0x05, 0x26, 0x00)
    public static let reportedUnitsChanged = SCSISense(0x06, 0x3f, 0x0e)
    public static let internalFailure = SCSISense(0x04, 0x44, 0x00)
    public static let miscompare = SCSISense(0x0e, 0x1d, 0x00)
    public static let abortedByFailure = SCSISense(0x0b, 0x44, 0x00)

    /// Fixed format (SPC-4 section 4.5.3), current error: 18 octets. Information that has no room there is left
    /// out, as the section wants.
    public var fixed: [UInt8] {
        var octets = [UInt8](repeating: 0, count: 18)
        octets[0] = 0x70
        octets[2] = key
        if let information, information <= UInt64(UInt32.max) {
            octets[0] |= 0x80
            for index in 0..<4 {
                octets[3 + index] = UInt8(truncatingIfNeeded: information >> UInt64(24 - index * 8))
            }
        }
        octets[7] = 10
        octets[12] = code
        octets[13] = qualifier
        return octets
    }

    /// Descriptor format (SPC-4 section 4.5.2) with an information descriptor when there is information.
    public var descriptors: [UInt8] {
        var octets: [UInt8] = [0x72, key, code, qualifier, 0, 0, 0, 0]
        if let information {
            octets[7] = 12
            octets += [0x00, 0x0a, 0x80, 0x00]
            octets += (0..<8).map { UInt8(truncatingIfNeeded: information >> UInt64(56 - $0 * 8)) }
        }
        return octets
    }

    /// Key, code and qualifier of sense data in either format; nil when it is none.
    public init?(_ octets: [UInt8]) {
        guard let first = octets.first else { return nil }
        switch first & 0x7f {
        case 0x70, 0x71:
            guard octets.count >= 14 else { return nil }
            self.init(octets[2] & 0x0f, octets[12], octets[13])
            if first & 0x80 != 0 {
                information = octets[3..<7].reduce(0) { $0 << 8 | UInt64($1) }
            }
        case 0x72, 0x73:
            guard octets.count >= 4 else { return nil }
            self.init(octets[1] & 0x0f, octets[2], octets[3])
            var place = 8
            while place + 2 <= octets.count {
                let length = Int(octets[place + 1])
                guard place + 2 + length <= octets.count else { break }
                if octets[place] == 0, length >= 10, octets[place + 2] & 0x80 != 0 {
                    information = octets[place + 4..<place + 12].reduce(0) { $0 << 8 | UInt64($1) }
                }
                place += 2 + length
            }
        default: return nil
        }
    }
}
