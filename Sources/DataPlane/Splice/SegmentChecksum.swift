// Checksums of TCP segments that the splicer changes. Sums are taken over native words, which gives the
// same result as network order (RFC 1071 section 2 (B)), and are stored natively.

/// Sums of the parts of a segment that may change, taken before and after: the difference is what the
/// checksum must change by (RFC 1624).
struct SegmentSums {
    /// Addresses and the TCP header without its checksum field.
    var all: UInt32
    /// Addresses alone: what a partial checksum (pseudo-header only) covers.
    var addresses: UInt32

    @inline(__always)
    init(_ frame: Frame, _ headers: PacketHeaders) {
        let network = frame.start + Int(headers.networkOffset)
        let addressSum =
            headers.ipVersion == 4
            ? nativeSum(network + 12, words: 2) : nativeSum(network + 8, words: 8)
        let tcp = frame.start + Int(headers.transportOffset)
        var sum = addressSum &+ nativeSum(tcp, words: 4)
        sum &+= UInt64(tcp.loadUnaligned(fromByteOffset: 18, as: UInt16.self))
        sum &+= nativeSum(tcp + 20, words: (Int(headers.tcpHeaderLength) - 20) >> 2)
        all = fold(sum)
        addresses = fold(addressSum)
    }
}

/// Sum of `words` 32-bit words; at most 2^32 words fit.
@inline(__always)
func nativeSum(_ address: UnsafeMutableRawPointer, words: Int) -> UInt64 {
    var sum: UInt64 = 0
    var offset = 0
    for _ in 0..<max(0, words) {
        sum &+= UInt64(address.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
        offset &+= 4
    }
    return sum
}

/// Sum over any number of octets; an odd last octet is padded with zero behind it.
func nativeSum(_ address: UnsafeMutableRawPointer, octets: Int) -> UInt64 {
    var sum = nativeSum(address, words: octets >> 2)
    var offset = octets & ~3
    if octets & 2 != 0 {
        sum &+= UInt64(address.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
        offset &+= 2
    }
    if octets & 1 != 0 {
        let last = address.loadUnaligned(fromByteOffset: offset, as: UInt8.self)
        sum &+= UInt64(UInt16(littleEndian: UInt16(last)))
    }
    return sum
}

@inline(__always)
func fold(_ value: UInt64) -> UInt32 {
    var sum = (value & 0xffff_ffff) &+ (value >> 32)
    sum = (sum & 0xffff_ffff) &+ (sum >> 32)
    sum = (sum & 0xffff) &+ (sum >> 16)
    sum = (sum & 0xffff) &+ (sum >> 16)
    return UInt32(truncatingIfNeeded: sum)
}

/// Brings the transport checksum up to date after changes, and the IPv4 header checksum.
/// `payload` is a further difference (new - old, native, folded) made by edits of the payload.
@inline(__always)
func updateChecksums(
    _ frame: Frame, _ headers: PacketHeaders, before: SegmentSums, payload: UInt32 = 0
) {
    let after = SegmentSums(frame, headers)
    let field = frame.start + Int(headers.transportOffset) + 16
    let old = UInt32(field.loadUnaligned(as: UInt16.self))
    if frame.offload.isChecksumPartial {
        // The field holds the folded pseudo-header sum, not complemented; the rest is summed when the
        // frame leaves the machine.
        let sum = fold(UInt64(old) &+ UInt64(~before.addresses & 0xffff) &+ UInt64(after.addresses))
        field.storeBytes(of: UInt16(truncatingIfNeeded: sum), as: UInt16.self)
    } else {
        let sum = fold(
            UInt64(~old & 0xffff) &+ UInt64(~before.all & 0xffff) &+ UInt64(after.all)
                &+ UInt64(payload))
        field.storeBytes(of: UInt16(truncatingIfNeeded: ~sum), as: UInt16.self)
    }
    if headers.ipVersion == 4 { setHeaderChecksum(frame.start + Int(headers.networkOffset)) }
}

/// Computes the IPv4 header checksum anew (RFC 791).
@inline(__always)
func setHeaderChecksum(_ header: UnsafeMutableRawPointer) {
    header.storeBytes(of: 0, toByteOffset: 10, as: UInt16.self)
    let sum = fold(nativeSum(header, words: Int(header.load8(0) & 15)))
    header.storeBytes(of: UInt16(truncatingIfNeeded: ~sum), toByteOffset: 10, as: UInt16.self)
}

/// Sets the checksum of a TCP segment whose IP and TCP headers are complete. `length`: TCP header and
/// payload. Partial: only the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1) is put in.
func setSegmentChecksum(
    network: UnsafeMutableRawPointer, isIPv4: Bool, tcp: UnsafeMutableRawPointer, length: Int,
    isPartial: Bool
) {
    tcp.storeBytes(of: 0, toByteOffset: 16, as: UInt16.self)
    var sum = isIPv4 ? nativeSum(network + 12, words: 2) : nativeSum(network + 8, words: 8)
    sum &+= UInt64(UInt16(IPProtocol.tcp).bigEndian)
    sum &+= UInt64(UInt32(truncatingIfNeeded: length).bigEndian)
    if isPartial {
        tcp.storeBytes(
            of: UInt16(truncatingIfNeeded: fold(sum)), toByteOffset: 16, as: UInt16.self)
    } else {
        sum &+= nativeSum(tcp, octets: length)
        tcp.storeBytes(
            of: UInt16(truncatingIfNeeded: ~fold(sum)), toByteOffset: 16, as: UInt16.self)
    }
}
