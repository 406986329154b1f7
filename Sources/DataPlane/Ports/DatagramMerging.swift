/// Datagrams of one flow that wait to be sent together leave as one frame, which the kernel, or the device, cuts into
/// datagrams again (UDP segmentation): what each packet costs on its way out is paid once for all of them.
///
/// Only those that the pipeline has marked (`Frame.mayMerge`) and that have one length but for the last, which is what
/// segmentation can make. Nobody waits for others to come: merged is what is there at the flush. Order within a flow
/// stays. Frames are left as they are; merged ones are copies in buffers of this object's.
package final class DatagramMerging {
    private struct Group {
        /// Place of its frame.
        var place: Int
        /// Octets before the payload, and of the first datagram's payload.
        var header: Int
        var segment: Int
        /// Octets of payload, and datagrams.
        var total: Int
        var count: Int
        /// Nothing may follow.
        var isClosed = false
    }

    /// What a merge has come to.
    private struct Progress {
        var groups = 0
        var buffers = 0
    }

    private let groups = UnsafeMutablePointer<Group>.allocate(capacity: DatagramMerging.groupCount)
    private let buffers = FrameBuffers(count: DatagramMerging.bufferCount)
    /// Frames of a flush beyond which none is merged.
    private static let groupCount = 256

    /// Flows of a flush whose datagrams are merged.
    private static let bufferCount = 16
    /// Datagrams that the kernel takes in one frame (UDP_MAX_SEGMENTS), of any version.
    private static let segmentMaximum = 64
    /// Octets of IP in one frame.
    private static let octetMaximum = 65_535

    package init() {}

    deinit { groups.deallocate() }

    /// Merges what can be. Frames stay valid until the next call.
    /// - Returns: how many frames are left.
    package func merge(_ frames: UnsafeMutablePointer<Frame>, count: Int) -> Int {
        var progress = Progress()
        var kept = 0
        for index in 0..<count {
            let frame = frames[index]
            guard frame.mayMerge, progress.groups < Self.groupCount,
                let header = Self.headerLength(frame)
            else {
                frames[kept] = frame
                kept += 1
                continue
            }
            if append(frame, header, frames, &progress) { continue }
            frames[kept] = frame
            groups[progress.groups] = Group(
                place: kept, header: header, segment: frame.mergeableOctets,
                total: frame.mergeableOctets, count: 1)
            progress.groups += 1
            kept += 1
        }
        for index in 0..<progress.groups where groups[index].count > 1 {
            let group = groups[index]
            frames[group.place].length = group.header + group.total
            finish(group, frames[group.place])
        }
        return kept
    }

    /// Octets before the payload; nil: there is something between that is not expected.
    private static func headerLength(_ frame: Frame) -> Int? {
        guard frame.length > 62 else { return nil }
        let length: Int
        switch frame.start.load16(12) {
        // RFC 791 section 3.1: five words, no options; protocol 17.
        case 0x0800 where frame.start.load8(14) == 0x45 && frame.start.load8(23) == 17: length = 42
        // RFC 8200 section 3: the next header is UDP's.
        case 0x86dd where frame.start.load8(20) == 17: length = 62
        default: return nil
        }
        return length + frame.mergeableOctets <= frame.length ? length : nil
    }

    /// False: it begins a group of its own.
    private func append(
        _ frame: Frame, _ header: Int, _ frames: UnsafeMutablePointer<Frame>,
        _ progress: inout Progress
    ) -> Bool {
        let octets = frame.mergeableOctets
        // From the newest on: behind what is of the flow and closed nothing may go.
        var index = progress.groups
        while index > max(0, progress.groups - Self.bufferCount) {
            index -= 1
            let group = groups[index]
            guard group.header == header,
                Self.isSameFlow(frames[group.place].start, frame.start, header)
            else { continue }
            guard !group.isClosed, octets <= group.segment, group.count < Self.segmentMaximum,
                header - 14 + group.total + octets <= Self.octetMaximum
            else { return false }
            if group.count == 1, !copy(group, frames, &progress) { return false }
            (frames[group.place].start + header + group.total).copyMemory(
                from: frame.start + header, byteCount: octets)
            groups[index].total += octets
            groups[index].count += 1
            groups[index].isClosed = octets < group.segment
            return true
        }
        return false
    }

    /// Brings the first frame of a group to where there is room behind it. False: there is none.
    private func copy(
        _ group: Group, _ frames: UnsafeMutablePointer<Frame>, _ progress: inout Progress
    ) -> Bool {
        guard progress.buffers < Self.bufferCount else { return false }
        let copy = Frame(
            start: buffers.start(progress.buffers), length: group.header + group.total)
        progress.buffers += 1
        let size = VirtioHeader.size
        (copy.start - size).copyMemory(
            from: frames[group.place].start - size, byteCount: size + copy.length)
        frames[group.place] = copy
        return true
    }

    /// All but lengths, identification and checksums is alike.
    private static func isSameFlow(
        _ one: UnsafeMutableRawPointer, _ other: UnsafeMutableRawPointer, _ header: Int
    ) -> Bool {
        func isSame(_ range: Range<Int>) -> Bool {
            range.allSatisfy { one.load8($0) == other.load8($0) }
        }
        func word(_ offset: Int) -> Bool { one.load32(offset) == other.load32(offset) }
        // Ports first, which differ most.
        guard word(header - 8), word(0), word(4), word(8), isSame(12..<16) else { return false }
        // IPv4: flags and offset, time to live and protocol, addresses. IPv6: traffic class and flow label, next
        // header and hop limit, addresses.
        if header == 42 {
            return isSame(20..<24) && word(26) && word(30)
        }
        guard isSame(16..<18), isSame(20..<22) else { return false }
        return stride(from: 22, to: 54, by: 4).allSatisfy(word)
    }

    // virtio 1.2 section 5.1.6.2: gso_size is the length of each segment's payload, hdr_len that of the headers; the
    // checksum field has the sum of the pseudo-header, from csum_start on the rest is added.
    private func finish(_ group: Group, _ frame: Frame) {
        let transport = group.header - 8
        let datagram = 8 + group.total
        let source: IPAddress
        let destination: IPAddress
        if group.header == 42 {
            frame.start.store16(UInt16(truncatingIfNeeded: 20 + datagram), 16)
            setHeaderChecksum(frame.start + 14)
            source = IPAddress(v4: frame.start.load32(26))
            destination = IPAddress(v4: frame.start.load32(30))
        } else {
            frame.start.store16(UInt16(truncatingIfNeeded: datagram), 18)
            source = IPAddress(high: frame.start.load64(22), low: frame.start.load64(30))
            destination = IPAddress(high: frame.start.load64(38), low: frame.start.load64(46))
        }
        frame.start.store16(UInt16(truncatingIfNeeded: datagram), transport + 4)
        frame.start.store16(
            InternetChecksum.pseudoHeader(
                source: source, destination: destination, ipProtocol: 17, length: datagram),
            transport + 6)
        var offload = VirtioHeader()
        offload.flags = VirtioHeader.needsChecksum
        offload.segmentationType = VirtioHeader.segmentationUDPv5
        offload.headerLength = UInt16(truncatingIfNeeded: group.header)
        offload.segmentSize = UInt16(truncatingIfNeeded: group.segment)
        offload.checksumStart = UInt16(truncatingIfNeeded: transport)
        offload.checksumOffset = 6
        frame.offload = offload
    }
}

extension Frame {
    /// A whole datagram of UDP, alone in its frame, whose checksum is right or is still to be made: may be sent in one
    /// frame with others of its flow. Kept in a field of the virtio header that says nothing when there is no
    /// segmentation.
    var mayMerge: Bool { !offload.isSegmented && offload.segmentSize != 0 }

    /// Octets of the payload of a frame that may be merged.
    var mergeableOctets: Int { Int(offload.segmentSize) }

    /// - Parameter payload: octets behind the UDP header.
    package func allowMerging(payload: Int32) {
        var offload = offload
        guard !offload.isSegmented, payload > 0, payload <= 1_472,
            offload.flags & (VirtioHeader.needsChecksum | VirtioHeader.dataValid) != 0
        else { return }
        offload.segmentSize = UInt16(truncatingIfNeeded: payload)
        self.offload = offload
    }
}
