import Glibc

/// Changes of single fields. Each brings frame, parsed headers and checksums along in one operation, so that
/// none can be forgotten.
package enum PacketRewriter {
    // MARK: Ethernet

    @inline(__always)
    package static func setSourceMAC(
        _ mac: MACAddress, _ frame: Frame, _ headers: inout PacketHeaders
    ) {
        frame.start.storeMAC(mac, 6)
        headers.sourceMAC = mac
    }

    @inline(__always)
    package static func setDestinationMAC(
        _ mac: MACAddress, _ frame: Frame, _ headers: inout PacketHeaders
    ) {
        frame.start.storeMAC(mac, 0)
        headers.destinationMAC = mac
    }

    // MARK: Transport checksum

    /// Offset of the checksum field in the frame; nil where there is none to keep.
    @inline(__always)
    private static func checksumOffset(_ headers: PacketHeaders) -> Int? {
        guard headers.transportOffset >= 0 else { return nil }
        switch headers.ipProtocol {
        case IPProtocol.tcp: return Int(headers.transportOffset) + 16
        case IPProtocol.udp: return Int(headers.transportOffset) + 6
        case IPProtocol.icmpv6 where headers.ipVersion == 6:
            return Int(headers.transportOffset) + 2
        default: return nil
        }
    }

    /// Brings the transport checksum along. `pseudo`: changes of the addresses; `other`: of the rest.
    @inline(__always)
    package static func updateTransportChecksum(
        _ frame: Frame, _ headers: PacketHeaders, pseudo: ChecksumDelta, other: ChecksumDelta
    ) {
        guard let offset = checksumOffset(headers) else { return }
        let field = frame.start.load16(offset)
        if frame.offload.isChecksumPartial {
            frame.start.store16(pseudo.applied(toPartial: field), offset)
            return
        }
        let isUDP = headers.ipProtocol == IPProtocol.udp
        // RFC 768: "An all zero transmitted checksum value means that the transmitter generated no
        // checksum"; "If the computed checksum is zero, it is transmitted as all ones".
        if isUDP, field == 0 { return }
        var result = field
        if !pseudo.isZero { result = pseudo.applied(to: result) }
        if !other.isZero { result = other.applied(to: result) }
        frame.start.store16(isUDP && result == 0 ? 0xffff : result, offset)
    }

    @inline(__always)
    private static func updateHeaderChecksum(_ frame: Frame, _ headers: PacketHeaders) {
        guard headers.ipVersion == 4 else { return }
        setHeaderChecksum(frame.start + Int(headers.networkOffset))
    }

    // MARK: IP

    @inline(__always)
    package static func setAddresses(
        source: IPAddress?, destination: IPAddress?, _ frame: Frame,
        _ headers: inout PacketHeaders
    ) {
        guard headers.ipVersion != 0 else { return }
        let isIPv4 = headers.ipVersion == 4
        var delta = ChecksumDelta()
        if let source, source.isIPv4 == isIPv4 {
            delta.replace(headers.source, with: source)
            headers.source = source
        }
        if let destination, destination.isIPv4 == isIPv4 {
            delta.replace(headers.destination, with: destination)
            headers.destination = destination
        }
        storeAddresses(
            frame.start + Int(headers.networkOffset), isIPv4: isIPv4, source: headers.source,
            destination: headers.destination)
        updateHeaderChecksum(frame, headers)
        updateTransportChecksum(frame, headers, pseudo: delta, other: ChecksumDelta())
    }

    /// TCP, UDP and SCTP ports; nothing for other protocols.
    @inline(__always)
    package static func setPorts(
        source: UInt16?, destination: UInt16?, _ frame: Frame, _ headers: inout PacketHeaders
    ) {
        guard headers.transportOffset >= 0,
            headers.ipProtocol == IPProtocol.tcp || headers.ipProtocol == IPProtocol.udp
        else { return }
        var delta = ChecksumDelta()
        if let source {
            delta.replace(headers.sourcePort, with: source)
            headers.sourcePort = source
            frame.start.store16(source, Int(headers.transportOffset))
        }
        if let destination {
            delta.replace(headers.destinationPort, with: destination)
            headers.destinationPort = destination
            frame.start.store16(destination, Int(headers.transportOffset) + 2)
        }
        updateTransportChecksum(frame, headers, pseudo: ChecksumDelta(), other: delta)
    }

    /// The six DSCP bits of `tos`; ECN stays (RFC 2474 section 3, RFC 3168 section 5).
    package static func setTOS(_ tos: UInt8, _ frame: Frame, _ headers: inout PacketHeaders) {
        guard headers.ipVersion != 0 else { return }
        let network = frame.start + Int(headers.networkOffset)
        headers.tos = tos & 0xfc | headers.tos & 3
        if headers.ipVersion == 4 {
            network.store8(headers.tos, 1)
            updateHeaderChecksum(frame, headers)
        } else {
            network.store16(network.load16(0) & 0xf00f | UInt16(headers.tos) << 4, 0)
        }
    }

    package static func setTTL(_ ttl: UInt8, _ frame: Frame, _ headers: inout PacketHeaders) {
        guard headers.ipVersion != 0 else { return }
        headers.ttl = ttl
        let network = frame.start + Int(headers.networkOffset)
        network.store8(ttl, headers.ipVersion == 4 ? 8 : 7)
        updateHeaderChecksum(frame, headers)
    }

    /// False when the packet must not be forwarded: TTL would reach 0 (RFC 1812 section 5.3.1).
    package static func decrementTTL(_ frame: Frame, _ headers: inout PacketHeaders) -> Bool {
        guard headers.ipVersion != 0 else { return true }
        guard headers.ttl > 1 else { return false }
        setTTL(headers.ttl - 1, frame, &headers)
        return true
    }

    // MARK: VLAN (IEEE 802.1Q clause 9.6)

    /// Most tags of a frame that gets another one: so many octets of headroom every owner provides.
    package static let tagMaximum: UInt8 = 4

    package static func pushVLAN(
        _ type: UInt16, tci: UInt16, _ frame: inout Frame, _ headers: inout PacketHeaders
    ) {
        frame.restoreVLAN(UInt32(type) << 16 | UInt32(tci & 0xefff))
        shift(&headers, by: 4)
        headers.vlanTCI = tci | 0x1000
        headers.vlanCount += 1
    }

    package static func popVLAN(_ frame: inout Frame, _ headers: inout PacketHeaders) {
        guard headers.vlanCount > 0 else { return }
        var offload = frame.offload
        if offload.isChecksumPartial { offload.checksumStart &-= 4 }
        if offload.headerLength >= 4 { offload.headerLength &-= 4 }
        memmove(frame.start + 4, frame.start, 12)
        frame.start += 4
        frame.length -= 4
        frame.offload = offload
        shift(&headers, by: -4)
        headers.vlanCount -= 1
        headers.vlanTCI = headers.vlanCount > 0 ? frame.start.load16(14) | 0x1000 : 0
    }

    /// Changes bits of the outer tag; a frame without one gets one.
    package static func setVLAN(
        _ tci: UInt16, mask: UInt16, _ frame: inout Frame, _ headers: inout PacketHeaders
    ) {
        if headers.vlanCount == 0 {
            return pushVLAN(EtherType.vlan, tci: tci & mask, &frame, &headers)
        }
        let changed = frame.start.load16(14) & ~mask | tci & mask
        frame.start.store16(changed, 14)
        headers.vlanTCI = changed | 0x1000
    }

    private static func shift(_ headers: inout PacketHeaders, by distance: Int32) {
        if headers.networkOffset >= 0 { headers.networkOffset += distance }
        if headers.fragmentHeaderOffset >= 0 { headers.fragmentHeaderOffset += distance }
        if headers.protocolOffset >= 0 { headers.protocolOffset += distance }
        if headers.transportOffset >= 0 { headers.transportOffset += distance }
        if headers.timestampOffset >= 0 { headers.timestampOffset += distance }
        if headers.sackOffset >= 0 { headers.sackOffset += distance }
        headers.networkEnd += distance
        headers.payloadOffset += distance
    }
}
