import Glibc

extension IPAddress: CustomStringConvertible {
    /// Dotted IPv4, or IPv6 as in RFC 4291 section 2.2; nil when the text is anything else.
    public init?(_ text: String) {
        // What stands behind a NUL is not seen by the C library.
        guard !text.utf8.contains(0) else { return nil }
        var v4 = in_addr()
        if inet_pton(AF_INET, text, &v4) == 1 {
            self.init(v4: UInt32(bigEndian: v4.s_addr))
            return
        }
        var v6 = in6_addr()
        guard inet_pton(AF_INET6, text, &v6) == 1 else { return nil }
        let (high, low) = withUnsafeBytes(of: v6) { bytes in
            (
                UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self)),
                UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
            )
        }
        self.init(high: high, low: low)
    }

    /// RFC 5952 text.
    public var description: String {
        if isIPv4 {
            return [24, 16, 8, 0].map { String(v4 >> UInt32($0) & 255) }.joined(separator: ".")
        }
        var address = in6_addr()
        withUnsafeMutableBytes(of: &address) { bytes in
            bytes.storeBytes(of: high.bigEndian, toByteOffset: 0, as: UInt64.self)
            bytes.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
        }
        var buffer = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        guard inet_ntop(AF_INET6, &address, &buffer, socklen_t(buffer.count)) != nil else {
            return "?"
        }
        return String(
            decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

/// An address with the length of its network part.
public struct IPPrefix: Hashable, Sendable, CustomStringConvertible {
    public var address: IPAddress
    /// Bits: 0 ... 32 for IPv4, 0 ... 128 for IPv6.
    public var length: Int

    public init(address: IPAddress, length: Int) {
        self.address = address
        self.length = length
    }

    /// `10.0.0.1/24` or `fd00::1/64`; without a length, the whole address.
    public init?(_ text: String) {
        let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard let address = IPAddress(String(parts[0])) else { return nil }
        let maximum = address.isIPv4 ? 32 : 128
        var length = maximum
        if parts.count == 2 {
            guard parts[1].first?.isNumber == true, let given = Int(parts[1]),
                (0...maximum).contains(given)
            else { return nil }
            length = given
        }
        self.init(address: address, length: length)
    }

    /// Ones where the network part is, in the 128-bit form.
    public var mask: IPAddress {
        let bits = length + (address.isIPv4 ? 96 : 0)
        let high: UInt64 = bits >= 64 ? .max : bits == 0 ? 0 : .max << UInt64(64 - bits)
        let low: UInt64 = bits <= 64 ? 0 : bits >= 128 ? .max : .max << UInt64(128 - bits)
        return IPAddress(high: high, low: low)
    }

    /// The address with its host part cleared.
    public var network: IPAddress {
        IPAddress(high: address.high & mask.high, low: address.low & mask.low)
    }

    public func contains(_ other: IPAddress) -> Bool {
        other.isIPv4 == address.isIPv4 && other.high & mask.high == network.high
            && other.low & mask.low == network.low
    }

    public var description: String { "\(address)/\(length)" }
}

extension PacketHeaders {
    /// One line as tcpdump would say it.
    public var summary: String {
        var text = "\(sourceMAC) > \(destinationMAC)"
        if vlanCount > 0 { text += " vlan \(vlanTCI & 0xfff)" }
        switch (etherType, ipVersion) {
        case (EtherType.arp, _):
            return text + " ARP op \(ipProtocol) \(source) > \(destination)"
        case (_, 0): return text + " type 0x" + String(etherType, radix: 16)
        default: break
        }
        text += " \(source) > \(destination) ttl \(ttl)"
        if fragment != 0 { text += " fragment id \(identification) offset \(fragmentOffset)" }
        guard transportOffset >= 0 else { return text + " protocol \(ipProtocol)" }
        switch ipProtocol {
        case IPProtocol.tcp:
            let names: [(UInt16, String)] = [
                (TCPFlags.syn, "S"), (TCPFlags.fin, "F"), (TCPFlags.rst, "R"),
                (TCPFlags.psh, "P"), (TCPFlags.ack, "."),
            ]
            let flags = names.filter { tcpFlags & $0.0 != 0 }.map(\.1).joined()
            return text + " TCP \(sourcePort) > \(destinationPort) [\(flags)] seq "
                + "\(sequence.rawValue) ack \(acknowledgement.rawValue) win \(window) length "
                + "\(payloadLength)"
        case IPProtocol.udp:
            return text + " UDP \(sourcePort) > \(destinationPort) length \(payloadLength)"
        default: return text + " ICMP type \(sourcePort) code \(destinationPort)"
        }
    }
}
