/// Frames that tell a network which MAC address an IP address has now, so that hosts with an older answer
/// learn the new one.
package enum AddressAnnouncement {
    private static let protocolTypeIPv4: UInt16 = 0x0800
    private static let neighbourAdvertisement: UInt32 = 136 << 24
    /// RFC 4861 section 4.4: the Override flag; an existing entry is to be replaced.
    private static let override: UInt32 = 0x2000_0000

    /// An ARP announcement (RFC 5227 section 2.3) or an unsolicited neighbour advertisement (RFC 4861
    /// section 7.2.6).
    package static func frame(of address: IPAddress, at mac: MACAddress) -> [UInt8] {
        address.isIPv4 ? arp(address, mac) : advertisement(address, mac)
    }

    /// "ARP Announcement [...] identical to the ARP Probe described above, except that now the sender and
    /// target IP addresses are both set to the host's newly selected IPv4 address."
    private static func arp(_ address: IPAddress, _ mac: MACAddress) -> [UInt8] {
        make(octets: 60) { start in
            start.storeMAC(.broadcast, 0)
            start.storeMAC(mac, 6)
            start.store16(EtherType.arp, 12)
            start.store16(1, 14)
            start.store16(protocolTypeIPv4, 16)
            start.store16(0x0604, 18)
            start.store16(1, 20)
            start.storeMAC(mac, 22)
            start.store32(address.v4, 28)
            start.store32(address.v4, 38)
        }
    }

    private static func advertisement(_ address: IPAddress, _ mac: MACAddress) -> [UInt8] {
        // All nodes, ff02::1, and its MAC address (RFC 2464 section 7).
        let allNodes = IPAddress(high: 0xff02 << 48, low: 1)
        let length = 32
        return make(octets: 54 + length) { start in
            start.storeMAC(MACAddress(rawValue: 0x3333_0000_0001), 0)
            start.storeMAC(mac, 6)
            start.store16(EtherType.ipv6, 12)
            start.store32(0x6000_0000, 14)
            start.store16(UInt16(length), 18)
            start.store8(IPProtocol.icmpv6, 20)
            // RFC 4861 section 7.1.2: what has passed a router is not believed.
            start.store8(255, 21)
            start.store64(address.high, 22)
            start.store64(address.low, 30)
            start.store64(allNodes.high, 38)
            start.store64(allNodes.low, 46)
            let message = start + 54
            message.store32(neighbourAdvertisement, 0)
            message.store32(override, 4)
            message.store64(address.high, 8)
            message.store64(address.low, 16)
            // Target link-layer address.
            message.store16(0x0201, 24)
            message.storeMAC(mac, 26)
            let checksum = InternetChecksum.transport(
                source: address, destination: allNodes, ipProtocol: IPProtocol.icmpv6,
                segment: UnsafeRawBufferPointer(start: message, count: length))
            message.store16(checksum, 2)
        }
    }

    private static func make(
        octets count: Int, _ fill: (UnsafeMutableRawPointer) -> Void
    ) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        bytes.withUnsafeMutableBytes { buffer in
            if let base = buffer.baseAddress { fill(base) }
        }
        return bytes
    }
}

extension Pipeline {
    /// Sends a frame of the switch itself out of the network ports of a domain that are up; of one port
    /// alone when it is given. Returns how many took it.
    package mutating func announce(
        _ bytes: [UInt8], domain: DomainID, only port: PortNumber? = nil, now: UInt64
    ) -> Int {
        guard bytes.count <= Frame.maximumLength else { return 0 }
        var frame = output.scratch(now: now)
        bytes.withUnsafeBytes { source in
            if let base = source.baseAddress {
                frame.start.copyMemory(from: base, byteCount: source.count)
            }
        }
        frame.length = bytes.count
        var sent = 0
        for number in output.numbers where port == nil || number == port {
            guard let slot = output.slots[Int(number)], slot.domain == domain, !slot.isCPU,
                slot.port.isUp
            else { continue }
            output.transmit(frame, to: number, now: now)
            sent += 1
        }
        output.flush(now: now)
        return sent
    }
}
