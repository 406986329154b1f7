/// The eight octets that address a logical unit (SAM-5 section 4.7).
public enum SCSIUnitNumber {
    /// Largest number that flat space addressing holds.
    public static let maximum = 0x3fff

    /// Peripheral device addressing up to 255 (SAM-5 section 4.7.5), flat space addressing beyond (4.7.6): what
    /// initiators expect.
    public static func octets(_ number: Int) -> [UInt8] {
        let field = number < 256 ? UInt16(number) : 0x4000 | UInt16(number & maximum)
        return [UInt8(field >> 8), UInt8(field & 0xff), 0, 0, 0, 0, 0, 0]
    }

    /// Nil: an address of a kind that no unit here has.
    public static func number(_ octets: some Collection<UInt8>) -> Int? {
        let all = Array(octets)
        guard all.count == 8, all[2...].allSatisfy({ $0 == 0 }) else { return nil }
        switch all[0] >> 6 {
        // A bus other than 0 is another level's.
        case 0: return all[0] == 0 ? Int(all[1]) : nil
        case 1: return Int(all[0] & 0x3f) << 8 | Int(all[1])
        default: return nil
        }
    }
}
