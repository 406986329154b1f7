public import DataPlane

/// A frame made from a description in rule syntax, as `ovs-appctl ofproto/trace` takes it: what is not
/// said is zero, except the TTL (64). Checksums and lengths are right.
public enum PacketDescription {
    /// - Returns: the frame, and the port of `in_port` (0: not said).
    public static func parse(
        _ text: String, ports: PortNames = PortNames([])
    ) throws(RuleSyntaxError) -> (frame: [UInt8], inPort: PortNumber) {
        let selector = try RuleSyntax.parseSelector(text, isStrict: false, ports: ports)
        return (frame(selector.match), selector.match.value.inPort)
    }

    /// Shortest frame without its checksum (IEEE 802.3 clause 3.2.7).
    private static let minimumLength = 60

    public static func frame(_ match: Match) -> [UInt8] {
        let fields = match.value
        var bytes = octets(fields.destinationMAC, 6) + octets(fields.sourceMAC, 6)
        if fields.vlanTCI & 0x1000 != 0 {
            bytes += octets(UInt64(EtherType.vlan), 2) + octets(UInt64(fields.vlanTCI & 0xefff), 2)
        }
        bytes += octets(UInt64(fields.etherType), 2)
        switch fields.etherType {
        case EtherType.ipv4: bytes += ipv4(match)
        case EtherType.ipv6: bytes += ipv6(match)
        case EtherType.arp, 0x8035: bytes += arp(fields)
        default: break
        }
        return bytes + [UInt8](repeating: 0, count: max(0, minimumLength - bytes.count))
    }

    private static func octets(_ value: UInt64, _ count: Int) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64((count - 1 - $0) * 8)) }
    }

    private static func ttl(_ match: Match) -> UInt8 {
        match.mask.ttl == 0 ? 64 : match.value.ttl
    }

    private static func ipv4(_ match: Match) -> [UInt8] {
        let fields = match.value
        let payload = transport(fields)
        // RFC 791 section 3.1: bit 13 is more fragments, the offset counts 8 octets.
        let fragment: UInt64 = fields.fragment == 1 ? 0x2000 : fields.fragment == 3 ? 0x0008 : 0
        var header: [UInt8] = [0x45, fields.tos]
        header += octets(UInt64(20 + payload.count), 2) + octets(1, 2) + octets(fragment, 2)
        header += [ttl(match), fields.ipProtocol, 0, 0]
        header += octets(fields.sourceLow & 0xffff_ffff, 4)
        header += octets(fields.destinationLow & 0xffff_ffff, 4)
        let sum = header.withUnsafeBytes { ~InternetChecksum.sum($0) }
        header.replaceSubrange(10..<12, with: octets(UInt64(sum), 2))
        return header + payload
    }

    private static func ipv6(_ match: Match) -> [UInt8] {
        let fields = match.value
        var payload = transport(fields)
        var next = fields.ipProtocol
        if fields.fragment != 0 {
            // RFC 8200 section 4.5.
            let offset: UInt64 = fields.fragment == 1 ? 1 : 8
            payload = [next, 0] + octets(offset, 2) + octets(1, 4) + payload
            next = 44
        }
        var header = octets(6 << 28 | UInt64(fields.tos) << 20, 4)
        header += octets(UInt64(payload.count), 2) + [next, ttl(match)]
        header += octets(fields.sourceHigh, 8) + octets(fields.sourceLow, 8)
        header += octets(fields.destinationHigh, 8) + octets(fields.destinationLow, 8)
        return header + payload
    }

    /// The segment; a later fragment carries octets without a header.
    private static func transport(_ fields: PacketFields) -> [UInt8] {
        if fields.fragment == 3 { return (0..<16).map { UInt8($0) } }
        let ports =
            octets(UInt64(fields.transportSource), 2)
            + octets(UInt64(fields.transportDestination), 2)
        var segment: [UInt8]
        let checksum: Int
        switch fields.ipProtocol {
        case IPProtocol.tcp:
            segment = ports + octets(0, 8) + octets(5 << 12 | UInt64(fields.tcpFlags & 0xfff), 2)
            segment += octets(0, 6)
            checksum = 16
        case IPProtocol.udp:
            segment = ports + octets(16, 2) + octets(0, 2) + octets(0, 8)
            checksum = 6
        case IPProtocol.icmp, IPProtocol.icmpv6:
            segment = [
                UInt8(truncatingIfNeeded: fields.transportSource),
                UInt8(truncatingIfNeeded: fields.transportDestination),
            ]
            segment += octets(0, 22)
            checksum = 2
        case 132:
            // SCTP (RFC 9260 section 3.1); its CRC32c is left 0.
            return ports + octets(0, 8)
        default: return octets(0, 8)
        }
        if fields.fragment == 1 { segment += [UInt8](repeating: 0, count: -segment.count & 7) }
        let sum =
            fields.ipProtocol == IPProtocol.icmp
            ? segment.withUnsafeBytes { ~InternetChecksum.sum($0) }
            : segment.withUnsafeBytes {
                InternetChecksum.transport(
                    source: IPAddress(high: fields.sourceHigh, low: fields.sourceLow),
                    destination: IPAddress(
                        high: fields.destinationHigh, low: fields.destinationLow),
                    ipProtocol: fields.ipProtocol, segment: $0)
            }
        segment.replaceSubrange(checksum..<checksum + 2, with: octets(UInt64(sum), 2))
        return segment
    }

    /// RFC 826.
    private static func arp(_ fields: PacketFields) -> [UInt8] {
        let head: [UInt8] = [0, 1, 8, 0, 6, 4] + octets(UInt64(fields.ipProtocol), 2)
        return head + octets(fields.arpSourceMAC, 6) + octets(fields.sourceLow & 0xffff_ffff, 4)
            + octets(fields.arpTargetMAC, 6) + octets(fields.destinationLow & 0xffff_ffff, 4)
    }
}
