// The Internet checksum as RFC 1071 tells it, octet by octet, to compare the fast ones with.

/// Sum of big-endian 16-bit words, folded, not complemented.
package func naiveSum(_ bytes: [UInt8]) -> UInt16 {
    var total = 0
    var index = 0
    while index < bytes.count {
        let low = index + 1 < bytes.count ? Int(bytes[index + 1]) : 0
        total += Int(bytes[index]) << 8 + low
        if total > 0xffff { total = total - 0xffff }
        index += 2
    }
    return UInt16(total)
}

package func naiveChecksum(_ bytes: [UInt8]) -> UInt16 { ~naiveSum(bytes) }

package func bigEndian16(_ value: Int) -> [UInt8] {
    [UInt8(truncatingIfNeeded: value >> 8), UInt8(truncatingIfNeeded: value)]
}

package func bigEndian32(_ value: UInt32) -> [UInt8] {
    bigEndian16(Int(value >> 16)) + bigEndian16(Int(value & 0xffff))
}

/// The parts of an IP frame that checksums cover, found without the product's parser.
package struct ChecksumView {
    package var isIPv4: Bool
    package var header: [UInt8]
    package var pseudoHeader: [UInt8]
    package var ipProtocol: UInt8
    package var segment: [UInt8]
    package var isFragment: Bool

    /// Nil when the frame is not IP.
    package init?(_ frame: [UInt8]) {
        func word(_ offset: Int) -> Int { Int(frame[offset]) << 8 | Int(frame[offset + 1]) }
        var offset = 12
        while word(offset) == 0x8100 || word(offset) == 0x88a8 { offset += 4 }
        let type = word(offset)
        let network = offset + 2
        var transport: Int
        let end: Int
        let addresses: [UInt8]
        switch type {
        case 0x0800:
            isIPv4 = true
            transport = network + Int(frame[network] & 15) * 4
            end = network + word(network + 2)
            addresses = Array(frame[network + 12..<network + 20])
            ipProtocol = frame[network + 9]
            isFragment = word(network + 6) & 0x3fff != 0
        case 0x86dd:
            isIPv4 = false
            transport = network + 40
            end = transport + word(network + 4)
            addresses = Array(frame[network + 8..<network + 40])
            ipProtocol = frame[network + 6]
            isFragment = false
            while [0, 43, 60, 44, 51].contains(ipProtocol) {
                let isFragmentHeader = ipProtocol == 44
                let length = Int(frame[transport + 1])
                let size =
                    isFragmentHeader ? 8 : ipProtocol == 51 ? length * 4 + 8 : length * 8 + 8
                if isFragmentHeader, word(transport + 2) & 0xfff9 != 0 { isFragment = true }
                ipProtocol = frame[transport]
                transport += size
            }
        default: return nil
        }
        header = Array(frame[network..<transport])
        segment = Array(frame[transport..<end])
        let length = bigEndian32(UInt32(segment.count))
        pseudoHeader =
            isIPv4
            ? addresses + [0, ipProtocol] + length.suffix(2)
            : addresses + length + [0, 0, 0, ipProtocol]
    }

    /// What is wrong with the frame's checksums; nil when all are right.
    package var problem: String? {
        if isIPv4, naiveSum(header) != 0xffff { return "IPv4 header checksum" }
        guard !isFragment else { return nil }
        switch ipProtocol {
        case 17 where segment[6] == 0 && segment[7] == 0: return nil
        case 6, 17, 58:
            return naiveSum(pseudoHeader + segment) == 0xffff
                ? nil : "transport checksum, protocol \(ipProtocol)"
        case 1: return naiveSum(segment) == 0xffff ? nil : "ICMP checksum"
        default: return nil
        }
    }
}
