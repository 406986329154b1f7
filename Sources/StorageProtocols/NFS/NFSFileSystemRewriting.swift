/// Changes file system numbers, so that file systems of servers that do not know each other are not taken for one.
///
/// RFC 1813 section 2.6, of fattr3: "fsid is the file system identifier for the file system", and the pair of it and
/// the file number tells files apart.
public enum NFSFileSystemRewriting {
    /// In place. Done twice with the same mask it gives the message back; with any mask, file systems that differed
    /// still do.
    /// - Parameters:
    ///   - message: the octets that `NFSResults` has read.
    ///   - fileSystems: where the numbers are, as it says. A range that is none of a number of 64 or 32 bits within
    ///     the message is left alone.
    ///   - mask: its bits are turned over; of numbers of 32 bits by the lower half.
    public static func mask(
        _ message: inout [UInt8], fileSystems: [Range<Int>], with mask: UInt64
    ) {
        for range in fileSystems
        where (range.count == 8 || range.count == 4) && range.lowerBound >= 0
            && range.upperBound <= message.count
        {
            for (index, place) in range.enumerated() {
                let shift = UInt64(8 * (range.count - 1 - index))
                message[place] ^= UInt8(truncatingIfNeeded: mask >> shift)
            }
        }
    }
}
