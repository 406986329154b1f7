import Glibc

/// What becomes of a datagram: decided once, done to each of its fragments.
package struct DatagramRewrite: Equatable {
    var source: IPAddress
    var destination: IPAddress
    var sourceMAC: MACAddress
    var destinationMAC: MACAddress
    var sourcePort: UInt16
    var destinationPort: UInt16
    /// Of the datagram as it leaves: clients share one source address towards a server, so their own could be
    /// equal.
    var identification: UInt32 = 0
    /// Switch port where it leaves.
    var port: PortNumber
    /// Octets that are taken out of the file handle, 0 or `cutLength`, and where they begin in the frame as it came.
    var cut: Int32 = 0
    var cutOffset: Int32 = 0
    /// Octets of IP payload in the frame that was decided about: the whole datagram, or its first fragment.
    var firstLength: UInt32
    /// Resource that its octets are counted for; `noResource`: none.
    var resource: UInt16 = DatagramRewrite.noResource
    var isReply: Bool

    /// Magic and resource at the begin of a file handle. A multiple of 8: fragments stay on their boundaries.
    static let cutLength: Int32 = 8
    static let noResource = UInt16.max

    /// A first fragment that came twice makes one datagram, not two.
    mutating func keepIdentification(of earlier: DatagramRewrite) {
        guard isReply == earlier.isReply, source == earlier.source,
            destination == earlier.destination, sourcePort == earlier.sourcePort,
            destinationPort == earlier.destinationPort, cut == earlier.cut
        else { return }
        identification = earlier.identification
        if resource == Self.noResource { resource = earlier.resource }
    }
}

extension PacketHeaders {
    /// Octets of IP payload that a fragment carries.
    @inline(__always)
    var fragmentLength: UInt32 {
        let length = transportOffset >= 0 ? networkEnd &- transportOffset : payloadLength
        return UInt32(truncatingIfNeeded: length)
    }

    /// Octets of the IP datagram in this frame.
    @inline(__always)
    var networkLength: Int { Int(networkEnd &- networkOffset) }

    /// Neither IPv4 options nor IPv6 extension headers other than one fragment header.
    @inline(__always)
    var isPlain: Bool {
        let headerLength = transportOffset &- networkOffset
        if ipVersion == 4 { return headerLength == 20 }
        return fragmentHeaderOffset < 0 ? headerLength == 40 : headerLength == 48
    }
}

extension PacketRewriter {
    /// Does to a frame what was decided for its datagram: MAC and IP addresses, UDP ports, identification, the cut.
    /// The frame begins further behind when octets are cut out of it.
    static func apply(
        _ change: DatagramRewrite, _ frame: inout Frame, _ headers: inout PacketHeaders
    ) {
        var pseudo = ChecksumDelta()
        var other = ChecksumDelta()
        if change.cut != 0 {
            if headers.fragment == 3 {
                moveFragment(back: change.cut, frame, &headers)
            } else {
                cut(change, &frame, &headers, pseudo: &pseudo, other: &other)
            }
        }
        setSourceMAC(change.sourceMAC, frame, &headers)
        setDestinationMAC(change.destinationMAC, frame, &headers)
        let isIPv4 = headers.ipVersion == 4
        let network = frame.start + Int(headers.networkOffset)
        pseudo.replace(headers.source, with: change.source)
        pseudo.replace(headers.destination, with: change.destination)
        storeAddresses(
            network, isIPv4: isIPv4, source: change.source, destination: change.destination)
        headers.source = change.source
        headers.destination = change.destination
        headers.identification = change.identification
        if isIPv4 {
            network.store16(UInt16(truncatingIfNeeded: change.identification), 4)
        } else if headers.fragmentHeaderOffset >= 0 {
            frame.start.store32(change.identification, Int(headers.fragmentHeaderOffset) + 4)
        }
        if headers.transportOffset >= 0 {
            let transport = frame.start + Int(headers.transportOffset)
            other.replace(headers.sourcePort, with: change.sourcePort)
            other.replace(headers.destinationPort, with: change.destinationPort)
            transport.store16(change.sourcePort, 0)
            transport.store16(change.destinationPort, 2)
            headers.sourcePort = change.sourcePort
            headers.destinationPort = change.destinationPort
            updateTransportChecksum(frame, headers, pseudo: pseudo, other: other)
        }
        if isIPv4 { setHeaderChecksum(network) }
    }

    /// Takes octets out of the file handle: what is before them moves, which is short, and brings the lengths along.
    private static func cut(
        _ change: DatagramRewrite, _ frame: inout Frame, _ headers: inout PacketHeaders,
        pseudo: inout ChecksumDelta, other: inout ChecksumDelta
    ) {
        let length = Int(change.cut)
        let offset = Int(change.cutOffset)
        let octets = UInt16(truncatingIfNeeded: length)
        // They lie on a boundary of four octets of the datagram: whole words of the checksum.
        other.replace(frame.start.load32(offset), with: UInt32(0))
        other.replace(frame.start.load32(offset + 4), with: UInt32(0))
        let handleLength = frame.start.load32(offset - 4)
        let shorterHandle = handleLength &- UInt32(octets)
        other.replace(handleLength, with: shorterHandle)
        frame.start.store32(shorterHandle, offset - 4)
        let transport = frame.start + Int(headers.transportOffset)
        let datagramLength = transport.load16(4)
        let shorterDatagram = datagramLength &- octets
        // Once in the header, once in the pseudo-header (RFC 768).
        other.replace(datagramLength, with: shorterDatagram)
        pseudo.replace(datagramLength, with: shorterDatagram)
        transport.store16(shorterDatagram, 4)
        let network = frame.start + Int(headers.networkOffset)
        let place = headers.ipVersion == 4 ? 2 : 4
        network.store16(network.load16(place) &- octets, place)
        let front = frame.start - VirtioHeader.size
        memmove(front + length, front, VirtioHeader.size + offset)
        frame.start += length
        frame.length -= length
        headers.networkEnd &-= change.cut
        headers.payloadLength &-= change.cut
    }

    /// The first fragment is shorter: later ones move.
    private static func moveFragment(
        back distance: Int32, _ frame: Frame, _ headers: inout PacketHeaders
    ) {
        headers.fragmentOffset &-= UInt32(truncatingIfNeeded: distance)
        let octets = UInt16(truncatingIfNeeded: distance)
        if headers.ipVersion == 4 {
            // RFC 791 section 3.1: units of 8 octets, in the low bits.
            let network = frame.start + Int(headers.networkOffset)
            network.store16(network.load16(6) &- octets >> 3, 6)
        } else {
            // RFC 8200 section 4.5: units of 8 octets, in the high bits.
            let header = frame.start + Int(headers.fragmentHeaderOffset)
            header.store16(header.load16(2) &- octets, 2)
        }
    }
}
