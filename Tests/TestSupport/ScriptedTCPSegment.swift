package import DataPlane

/// Where a TCP connection ends.
package struct TCPEndpoint: Hashable, Sendable {
    package var mac: MACAddress
    package var address: IPAddress
    package var port: UInt16

    package init(_ address: String, port: UInt16, mac: UInt64) {
        guard let parsed = IPAddress(address) else { preconditionFailure("address \(address)") }
        self.address = parsed
        self.port = port
        self.mac = MACAddress(rawValue: mac)
    }

    package init(mac: MACAddress, address: IPAddress, port: UInt16) {
        self.mac = mac
        self.address = address
        self.port = port
    }
}

/// A TCP segment as plain values; frames are written and read without the product's code.
package struct ScriptedTCPSegment: Equatable, Sendable {
    package static let fin: UInt8 = 1
    package static let syn: UInt8 = 2
    package static let rst: UInt8 = 4
    package static let psh: UInt8 = 8
    package static let ack: UInt8 = 16

    package struct Block: Equatable, Sendable {
        package var left: UInt32
        package var right: UInt32
        package init(_ left: UInt32, _ right: UInt32) {
            self.left = left
            self.right = right
        }
    }

    package struct Timestamps: Equatable, Sendable {
        package var value: UInt32
        package var echo: UInt32
        package init(_ value: UInt32, _ echo: UInt32) {
            self.value = value
            self.echo = echo
        }
    }

    package var flags: UInt8
    package var sequence: UInt32
    package var acknowledgement: UInt32
    package var window: UInt16
    package var timestamps: Timestamps?
    package var sack: [Block] = []
    package var maximumSegment: UInt16?
    package var scale: UInt8?
    package var permitsSACK = false
    package var payload: [UInt8] = []

    package init(
        flags: UInt8 = ack, sequence: UInt32 = 0, acknowledgement: UInt32 = 0,
        window: UInt16 = 1_000, timestamps: Timestamps? = nil, sack: [Block] = [],
        payload: [UInt8] = []
    ) {
        self.flags = flags
        self.sequence = sequence
        self.acknowledgement = acknowledgement
        self.window = window
        self.timestamps = timestamps
        self.sack = sack
        self.payload = payload
    }

    package func has(_ flag: UInt8) -> Bool { flags & flag != 0 }
    /// Octets of sequence space.
    package var length: UInt32 {
        UInt32(payload.count) + (has(Self.syn) ? 1 : 0) + (has(Self.fin) ? 1 : 0)
    }
    package var end: UInt32 { sequence &+ length }
}

// MARK: Octets

/// One's complement sum of big-endian words, folded.
private func sum(_ bytes: ArraySlice<UInt8>, _ start: UInt64 = 0) -> UInt64 {
    var total = start
    bytes.withUnsafeBytes { buffer in
        var index = 0
        while index + 1 < buffer.count {
            total += UInt64(buffer[index]) << 8 | UInt64(buffer[index + 1])
            index += 2
        }
        if index < buffer.count { total += UInt64(buffer[index]) << 8 }
    }
    while total >> 16 != 0 { total = total & 0xffff + total >> 16 }
    return total
}

private func octets(_ value: UInt64, _ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64((count - 1 - $0) * 8)) }
}

extension ScriptedTCPSegment {
    private var options: [UInt8] {
        var bytes: [UInt8] = []
        if let maximumSegment { bytes += [2, 4] + octets(UInt64(maximumSegment), 2) }
        if permitsSACK { bytes += [1, 1, 4, 2] }
        if let timestamps {
            bytes +=
                [1, 1, 8, 10] + octets(UInt64(timestamps.value), 4)
                + octets(UInt64(timestamps.echo), 4)
        }
        if let scale { bytes += [1, 3, 3, scale] }
        if !sack.isEmpty {
            bytes += [1, 1, 5, UInt8(2 + sack.count * 8)]
            for block in sack {
                bytes += octets(UInt64(block.left), 4) + octets(UInt64(block.right), 4)
            }
        }
        return bytes
    }

    private static func addressOctets(_ address: IPAddress) -> [UInt8] {
        address.isIPv4
            ? octets(UInt64(address.v4), 4) : octets(address.high, 8) + octets(address.low, 8)
    }

    /// An Ethernet frame. `isPartial`: the checksum is left to the device.
    package func frame(
        from source: TCPEndpoint, to destination: TCPEndpoint, isPartial: Bool = false
    ) -> [UInt8] {
        let options = options
        let isIPv4 = source.address.isIPv4
        let addresses =
            Self.addressOctets(source.address) + Self.addressOctets(destination.address)
        var tcp = octets(UInt64(source.port), 2) + octets(UInt64(destination.port), 2)
        tcp += octets(UInt64(sequence), 4) + octets(UInt64(acknowledgement), 4)
        tcp += [UInt8((20 + options.count) / 4) << 4, flags] + octets(UInt64(window), 2)
        tcp += [0, 0, 0, 0] + options + payload
        let pseudo = sum(addresses[...], 6 + UInt64(tcp.count))
        let field = isPartial ? pseudo : ~sum(tcp[...], pseudo) & 0xffff
        tcp[16] = UInt8(field >> 8)
        tcp[17] = UInt8(field & 0xff)
        var bytes = octets(destination.mac.rawValue, 6) + octets(source.mac.rawValue, 6)
        if isIPv4 {
            var header: [UInt8] = [0x45, 0] + octets(UInt64(20 + tcp.count), 2)
            header += [0, 1, 0x40, 0, 64, 6, 0, 0] + addresses
            let checksum = ~sum(header[...]) & 0xffff
            header[10] = UInt8(checksum >> 8)
            header[11] = UInt8(checksum & 0xff)
            bytes += [0x08, 0x00] + header
        } else {
            bytes += [0x86, 0xdd, 0x60, 0, 0, 0] + octets(UInt64(tcp.count), 2) + [6, 64]
            bytes += addresses
        }
        return bytes + tcp
    }

    /// The offload header of a partial frame that stands for segments of `size`, or for one.
    package func offload(segmentSize: Int, isIPv4: Bool) -> VirtioHeader {
        var header = VirtioHeader()
        let transport = isIPv4 ? 34 : 54
        header.flags = VirtioHeader.needsChecksum
        header.checksumStart = UInt16(transport)
        header.checksumOffset = 16
        if payload.count > segmentSize {
            header.segmentationType =
                isIPv4 ? VirtioHeader.segmentationTCPv4 : VirtioHeader.segmentationTCPv6
            header.segmentSize = UInt16(segmentSize)
            header.headerLength = UInt16(transport + 20 + options.count)
        }
        return header
    }
}

/// Why a frame is not a right TCP segment.
package struct FrameProblem: Error, Equatable, CustomStringConvertible {
    package var description: String
}

/// A frame that was read.
package struct ReceivedTCPSegment: Equatable, Sendable {
    package var segment: ScriptedTCPSegment
    package var source: TCPEndpoint
    package var destination: TCPEndpoint

    /// Reads a frame and recomputes every checksum in it.
    package init(
        _ frame: [UInt8], offload: VirtioHeader = VirtioHeader()
    ) throws(FrameProblem) {
        func load(_ offset: Int, _ count: Int) -> UInt64 {
            frame[offset..<offset + count].reduce(0) { $0 << 8 | UInt64($1) }
        }
        func address(_ offset: Int, _ isIPv4: Bool) -> IPAddress {
            isIPv4
                ? IPAddress(v4: UInt32(load(offset, 4)))
                : IPAddress(high: load(offset, 8), low: load(offset + 8, 8))
        }
        guard frame.count >= 54 else { throw FrameProblem(description: "short frame") }
        let isIPv4 = load(12, 2) == 0x0800
        guard isIPv4 || load(12, 2) == 0x86dd else { throw FrameProblem(description: "not IP") }
        let tcp = isIPv4 ? 34 : 54
        let end = isIPv4 ? 14 + Int(load(16, 2)) : 54 + Int(load(18, 2))
        guard frame[isIPv4 ? 23 : 20] == 6, end <= frame.count, end >= tcp + 20 else {
            throw FrameProblem(description: "not TCP")
        }
        if isIPv4, sum(frame[14..<34]) != 0xffff {
            throw FrameProblem(description: "IPv4 header checksum")
        }
        let addresses = isIPv4 ? frame[26..<34] : frame[22..<54]
        let pseudo = sum(addresses, 6 + UInt64(end - tcp))
        if offload.isChecksumPartial {
            guard load(tcp + 16, 2) == pseudo, Int(offload.checksumStart) == tcp,
                offload.checksumOffset == 16
            else { throw FrameProblem(description: "pseudo-header sum of a partial checksum") }
        } else if sum(frame[tcp..<end], pseudo) != 0xffff {
            throw FrameProblem(description: "TCP checksum")
        }
        source = TCPEndpoint(
            mac: MACAddress(rawValue: load(6, 6)), address: address(isIPv4 ? 26 : 22, isIPv4),
            port: UInt16(load(tcp, 2)))
        destination = TCPEndpoint(
            mac: MACAddress(rawValue: load(0, 6)), address: address(isIPv4 ? 30 : 38, isIPv4),
            port: UInt16(load(tcp + 2, 2)))
        segment = ScriptedTCPSegment(
            flags: frame[tcp + 13], sequence: UInt32(load(tcp + 4, 4)),
            acknowledgement: UInt32(load(tcp + 8, 4)), window: UInt16(load(tcp + 14, 2)))
        let payload = tcp + Int(frame[tcp + 12] >> 4) * 4
        guard payload >= tcp + 20, payload <= end else {
            throw FrameProblem(description: "TCP header length")
        }
        segment.payload = Array(frame[payload..<end])
        var offset = tcp + 20
        while offset < payload, frame[offset] != 0 {
            let kind = frame[offset]
            if kind == 1 {
                offset += 1
                continue
            }
            let length = offset + 1 < payload ? Int(frame[offset + 1]) : 0
            guard length >= 2, offset + length <= payload else {
                throw FrameProblem(description: "TCP options")
            }
            switch kind {
            case 2: segment.maximumSegment = UInt16(load(offset + 2, 2))
            case 3: segment.scale = frame[offset + 2]
            case 4: segment.permitsSACK = true
            case 5:
                segment.sack = stride(from: offset + 2, to: offset + length, by: 8).map {
                    .init(UInt32(load($0, 4)), UInt32(load($0 + 4, 4)))
                }
            case 8:
                segment.timestamps = .init(
                    UInt32(load(offset + 2, 4)), UInt32(load(offset + 6, 4)))
            default: break
            }
            offset += length
        }
    }
}
