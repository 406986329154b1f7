/// UNMAP and its parameter list (SBC-3 section 5.28).
public enum SCSIUnmap {
    /// Block descriptors of 16 octets that 16 bits of UNMAP DATA LENGTH can count.
    static let maximumDescriptors = (0xffff - 6) / 16

    // SBC-3 section 5.28.2: a block descriptor data length which is not a multiple of 16 means that "the last
    // UNMAP block descriptor is incomplete and shall be ignored"; 0, and descriptors of 0 blocks, are no error.
    /// The blocks in a parameter list; ranges may be empty, overlap, and lie anywhere.
    /// - Parameter parameters: all of the list. None is no ranges.
    /// - Returns: nil when its lengths say more than there is: then nothing may be unmapped.
    public static func ranges(_ parameters: [UInt8]) -> [SCSICommand.Range]? {
        guard !parameters.isEmpty else { return [] }
        guard parameters.count >= 8 else { return nil }
        let length = Int(parameters.number(at: 0, 2))
        let descriptors = Int(parameters.number(at: 2, 2))
        guard length + 2 <= parameters.count else { return nil }
        guard descriptors > 0 else { return [] }
        guard descriptors + 6 <= length else { return nil }
        return (0..<descriptors / 16).map { index in
            SCSICommand.Range(
                start: parameters.number(at: 8 + index * 16, 8),
                count: parameters.number(at: 16 + index * 16, 4))
        }
    }

    // SBC-3 section 5.28.2: a mapped block "should be unmapped" or "may remain mapped".
    /// A parameter list. Empty ranges are left out; those of more than 32 bits become several descriptors, cut at
    /// multiples of 2^31 blocks from their start. What goes beyond `maximumDescriptors` is left out: the blocks
    /// stay mapped, as they may.
    public static func parameters(_ ranges: [SCSICommand.Range]) -> [UInt8] {
        var descriptors: [UInt8] = []
        for var rest in ranges {
            while rest.count > 0, descriptors.count < maximumDescriptors * 16 {
                let count: UInt64 = rest.count > 0xffff_ffff ? 0x8000_0000 : rest.count
                var descriptor = [UInt8](repeating: 0, count: 16)
                descriptor.put(rest.start, 8, at: 0)
                descriptor.put(count, 4, at: 8)
                descriptors += descriptor
                rest.start &+= count
                rest.count -= count
            }
        }
        var header = [UInt8](repeating: 0, count: 8)
        header.put(UInt64(descriptors.count + 6), 2, at: 0)
        header.put(UInt64(descriptors.count), 2, at: 2)
        return header + descriptors
    }

    /// The command (SBC-3 section 5.28.1), 16 octets, with ANCHOR, group number and CONTROL of another.
    /// - Parameter length: octets of the parameter list, up to 65535.
    public static func command(length: Int, from cdb: [UInt8]) -> [UInt8] {
        var octets = [UInt8](repeating: 0, count: 16)
        octets[0] = 0x42
        octets.put(cdb.number(at: 1, 1) & 0x01, 1, at: 1)
        octets.put(cdb.number(at: 6, 1), 1, at: 6)
        octets.put(UInt64(UInt16(clamping: length)), 2, at: 7)
        octets.put(cdb.number(at: 9, 1), 1, at: 9)
        return octets
    }
}
