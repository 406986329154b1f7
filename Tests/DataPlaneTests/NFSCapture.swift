import DataPlane
import Foundation
import StorageProtocols
import Testing

/// A committed capture of an NFS client (tools/record-nfs-captures.sh): its frames, and the messages
/// of RPC in them, read without the product's code for packets.
struct NFSCapture {
    struct Message {
        /// Without record mark.
        var octets: [UInt8]
        var isCall: Bool
        /// Of the call that it is, or that it answers.
        var program: UInt32
        var version: UInt32
        var number: UInt32

        /// Nil: another program than NFS.
        var procedure: NFSProcedure? {
            program == NFSProgram.number ? NFSProcedure(version: version, number: number) : nil
        }
    }

    /// Portmapper, NFS and MOUNT of the switch.
    private static let ports: Set<Int> = [111, 2_049, 20_048]

    /// Frames of UDP to port 2049 or from there, fragments among them.
    private(set) var datagramFrames: [[UInt8]] = []
    /// Datagrams that came in several fragments.
    private(set) var fragmented = 0
    /// Calls first, then replies; each in the order in which it came over its transport.
    private(set) var messages: [Message] = []

    /// Throws when there is no such file, or when something is missing in it.
    init(_ name: String) throws {
        let folder = try #require(Bundle.module.url(forResource: "Captures", withExtension: nil))
        let reader = try CaptureReader(path: folder.appendingPathComponent("\(name).pcap").path)
        var parts: [Datagram: [CapturedPacket]] = [:]
        var streams: [Flow: Stream] = [:]
        var octets: [[UInt8]] = []
        while let next = try reader.next() {
            guard let packet = CapturedPacket(next.bytes) else { continue }
            if packet.ipProtocol == IPProtocol.tcp {
                if let flow = packet.flow { streams[flow, default: Stream()].take(packet) }
                continue
            }
            guard packet.ipProtocol == IPProtocol.udp else { continue }
            datagramFrames.append(next.bytes)
            let key = Datagram(
                source: packet.source, destination: packet.destination,
                identification: packet.isFragment ? packet.identification : -1)
            parts[key, default: []].append(packet)
            guard let whole = CapturedPacket.joined(parts[key] ?? []) else { continue }
            if (parts[key] ?? []).count > 1 { fragmented += 1 }
            parts[key] = nil
            let flow = try #require(whole.flow)
            if Self.isOurs(flow) { octets.append(Array(whole.payload.dropFirst(8))) }
        }
        try #require(parts.isEmpty, "fragments are missing")
        for (flow, stream) in streams where Self.isOurs(flow) { octets += try stream.records() }
        try classify(octets)
    }

    private static func isOurs(_ flow: Flow) -> Bool {
        ports.contains(flow.sourcePort) || ports.contains(flow.destinationPort)
    }

    private mutating func classify(_ all: [[UInt8]]) throws {
        var calls: [UInt32: Message] = [:]
        var rest: [[UInt8]] = []
        for octets in all {
            let found = octets.withUnsafeBytes { raw -> RPCCallHeader? in
                var reader = XDRReader(raw)
                return try? RPCCallHeader(&reader)
            }
            guard let header = found else {
                rest.append(octets)
                continue
            }
            let message = Message(
                octets: octets, isCall: true, program: header.program, version: header.version,
                number: header.procedure)
            calls[header.xid] = message
            messages.append(message)
        }
        for octets in rest {
            let found = octets.withUnsafeBytes { raw -> UInt32? in
                var reader = XDRReader(raw)
                return (try? RPCReplyHeader(&reader))?.xid
            }
            let xid = try #require(found, "neither a call nor a reply")
            var message = try #require(calls[xid], "a reply to no call")
            message.octets = octets
            message.isCall = false
            messages.append(message)
        }
    }

    // MARK: Parts

    private struct Datagram: Hashable {
        var source: UInt32
        var destination: UInt32
        /// -1: it is whole.
        var identification: Int
    }

    struct Flow: Hashable {
        var source: UInt32
        var sourcePort: Int
        var destination: UInt32
        var destinationPort: Int
    }

    /// One direction of a TCP connection.
    private struct Stream {
        private var first: UInt32?
        private var parts: [(sequence: UInt32, octets: ArraySlice<UInt8>)] = []

        mutating func take(_ packet: CapturedPacket) {
            let segment = packet.payload
            guard segment.count >= 20 else { return }
            let sequence = UInt32(truncatingIfNeeded: number(segment[4..<8]))
            // SYN stands before the first octet.
            if segment[13] & 2 != 0 { first = sequence &+ 1 }
            let data = segment.dropFirst(Int(segment[12] >> 4) * 4)
            if !data.isEmpty { parts.append((sequence, data)) }
        }

        /// The records; throws when the stream has a hole, or ends within a record.
        func records() throws -> [[UInt8]] {
            guard !parts.isEmpty else { return [] }
            let first = try #require(first, "the connection was there before")
            var octets: [UInt8] = []
            let sorted = parts.map { (place: Int($0.sequence &- first), octets: $0.octets) }
                .sorted { $0.place < $1.place }
            for part in sorted {
                try #require(part.place <= octets.count, "the stream has a hole")
                octets += part.octets.dropFirst(octets.count - part.place)
            }
            var reader = RPCRecordReader(maximum: 1 << 21)
            reader.append(octets)
            var result: [[UInt8]] = []
            while let record = try reader.next() { result.append(record) }
            try #require(reader.isAtRest, "the stream ends within a record")
            return result
        }
    }
}

/// What is behind the header of an IPv4 packet, and what the header says.
struct CapturedPacket {
    var source: UInt32
    var destination: UInt32
    var identification: Int
    var ipProtocol: UInt8
    /// Octets.
    var offset: Int
    var hasMore: Bool
    var payload: [UInt8]

    /// Nil: none of IPv4.
    init?(_ frame: [UInt8]) {
        guard frame.count >= 34, frame[12] == 8, frame[13] == 0, frame[14] >> 4 == 4 else {
            return nil
        }
        let start = 14 + Int(frame[14] & 15) * 4
        let end = 14 + number(frame[16..<18])
        guard start >= 34, start <= end, end <= frame.count else { return nil }
        source = UInt32(truncatingIfNeeded: number(frame[26..<30]))
        destination = UInt32(truncatingIfNeeded: number(frame[30..<34]))
        identification = number(frame[18..<20])
        ipProtocol = frame[23]
        offset = (number(frame[20..<22]) & 0x1fff) * 8
        hasMore = frame[20] & 0x20 != 0
        payload = Array(frame[start..<end])
    }

    var isFragment: Bool { hasMore || offset > 0 }

    /// Of UDP and TCP; nil: the ports are not in this fragment.
    var flow: NFSCapture.Flow? {
        guard offset == 0, payload.count >= 8 else { return nil }
        return NFSCapture.Flow(
            source: source, sourcePort: number(payload[0..<2]), destination: destination,
            destinationPort: number(payload[2..<4]))
    }

    /// The packet that these are the fragments of; nil: some are missing.
    static func joined(_ parts: [CapturedPacket]) -> CapturedPacket? {
        let sorted = parts.sorted { $0.offset < $1.offset }
        guard var whole = sorted.first, whole.offset == 0, sorted.last?.hasMore == false else {
            return nil
        }
        for part in sorted.dropFirst() {
            guard part.offset == whole.payload.count else { return nil }
            whole.payload += part.payload
        }
        whole.hasMore = false
        return whole
    }
}

/// Big endian.
private func number(_ octets: ArraySlice<UInt8>) -> Int { octets.reduce(0) { $0 << 8 | Int($1) } }
