/// Where the headers of one frame lie and what their fields say: parsed once, with every length checked,
/// so that nothing later needs to check again. Offsets count octets from the Ethernet header; -1: none.
/// Plain values only: it is kept in arrays of raw memory, one for each frame of a burst.
public struct PacketHeaders {
    public var sourceMAC = MACAddress.zero
    public var destinationMAC = MACAddress.zero
    /// Type of the payload behind any VLAN tags.
    public var etherType: UInt16 = 0
    /// Outermost tag as OVS `vlan_tci`: 0 without, else TCI | 0x1000.
    public var vlanTCI: UInt16 = 0
    /// Number of tags skipped, 0 to 2.
    public var vlanCount: UInt8 = 0

    /// IPv4, IPv6 or ARP header.
    public var networkOffset: Int32 = -1
    /// 4, 6, or 0 when the frame is not IP.
    public var ipVersion: UInt8 = 0
    /// Protocol of the last header of the chain (IPv6 extension headers are skipped); ARP: the opcode.
    public var ipProtocol: UInt8 = 0
    public var tos: UInt8 = 0
    public var ttl: UInt8 = 0
    /// IP addresses (ARP: sender and target protocol address).
    public var source = IPAddress(high: 0, low: 0)
    public var destination = IPAddress(high: 0, low: 0)
    /// ARP: sender and target hardware address.
    public var arpSourceMAC = MACAddress.zero
    public var arpTargetMAC = MACAddress.zero
    /// 0 none, 1 first fragment, 3 later fragment.
    public var fragment: UInt8 = 0
    /// Offset of this fragment's payload in the datagram, octets.
    public var fragmentOffset: UInt32 = 0
    public var moreFragments = false
    /// Identification of the datagram: 16 bits in IPv4, 32 in IPv6.
    public var identification: UInt32 = 0
    /// IPv6: where the fragment header lies.
    public var fragmentHeaderOffset: Int32 = -1
    /// IPv6: offset of the Next Header octet that names `ipProtocol`.
    public var protocolOffset: Int32 = -1
    /// First octet behind the IP datagram: frames may carry padding after it.
    public var networkEnd: Int32 = 0

    /// TCP, UDP, ICMP or ICMPv6 header; -1 in later fragments and for other protocols.
    public var transportOffset: Int32 = -1
    /// TCP and UDP ports; ICMP: type and code. Host byte order.
    public var sourcePort: UInt16 = 0
    public var destinationPort: UInt16 = 0
    /// First octet of the transport payload, and its length in this frame.
    public var payloadOffset: Int32 = 0
    public var payloadLength: Int32 = 0

    // TCP (RFC 9293 section 3.1).
    public var tcpFlags: UInt16 = 0
    public var sequence = SequenceNumber(0)
    public var acknowledgement = SequenceNumber(0)
    /// As in the header, not scaled.
    public var window: UInt16 = 0
    public var tcpHeaderLength: Int32 = 0
    /// Offset of the timestamp option's kind octet, and its values (RFC 7323 section 3).
    public var timestampOffset: Int32 = -1
    public var timestampValue: UInt32 = 0
    public var timestampEcho: UInt32 = 0
    /// Offset of the first SACK block, and how many there are (RFC 2018 section 3).
    public var sackOffset: Int32 = -1
    public var sackCount: UInt8 = 0

    @inlinable public init() {}

    /// Sequence space that the segment takes: payload, SYN, FIN.
    @inlinable public var sequenceEnd: SequenceNumber {
        sequence + UInt32(bitPattern: payloadLength)
            + (tcpFlags & TCPFlags.fin != 0 ? 1 : 0) + (tcpFlags & TCPFlags.syn != 0 ? 1 : 0)
    }
}

/// Bits of the TCP control field (RFC 9293 section 3.1).
public enum TCPFlags {
    public static let fin: UInt16 = 0x01
    public static let syn: UInt16 = 0x02
    public static let rst: UInt16 = 0x04
    public static let psh: UInt16 = 0x08
    public static let ack: UInt16 = 0x10
    public static let urg: UInt16 = 0x20
    public static let ece: UInt16 = 0x40
    public static let cwr: UInt16 = 0x80
}

/// IP protocol numbers (IANA).
public enum IPProtocol {
    public static let icmp: UInt8 = 1
    public static let tcp: UInt8 = 6
    public static let udp: UInt8 = 17
    public static let icmpv6: UInt8 = 58
}

/// EtherTypes (IEEE 802).
public enum EtherType {
    public static let ipv4: UInt16 = 0x0800
    public static let arp: UInt16 = 0x0806
    public static let vlan: UInt16 = 0x8100
    public static let serviceVLAN: UInt16 = 0x88a8
    public static let ipv6: UInt16 = 0x86dd
}
