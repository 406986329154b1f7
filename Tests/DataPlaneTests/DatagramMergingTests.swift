import DataPlane
import TestSupport
import Testing

/// Datagrams that wait to be sent together: what leaves is what came, cut by segmentation.
@Suite struct DatagramMergingTests {
    /// A datagram as a receiver sees it.
    private struct Datagram: Equatable {
        var flow: [UInt8]
        var payload: [UInt8]
    }

    private var memories: [FrameMemory] = []
    private let merging = DatagramMerging()

    private static func builder(_ port: UInt16, _ payload: [UInt8], isIPv6: Bool) -> PacketBuilder {
        var builder =
            isIPv6
            ? PacketBuilder("fd00::1", "fd00::2", .udp, payload: payload)
            : PacketBuilder("10.0.0.1", "10.0.0.2", .udp, payload: payload)
        builder.sourcePort = port
        builder.destinationPort = 2_049
        return builder
    }

    private mutating func frame(
        _ builder: PacketBuilder, flags: UInt8 = VirtioHeader.dataValid
    ) -> Frame {
        let memory = FrameMemory()
        memories.append(memory)
        var offload = VirtioHeader()
        offload.flags = flags
        let frame = memory.frame(builder.frame(), offload: offload)
        frame.allowMerging(payload: Int32(builder.payload.count))
        return frame
    }

    private func merge(_ frames: [Frame]) -> [Frame] {
        var frames = frames
        return frames.withUnsafeMutableBufferPointer { buffer in
            guard let base = buffer.baseAddress else { return [] }
            let count = merging.merge(base, count: buffer.count)
            return Array(buffer[..<count])
        }
    }

    /// What segmentation makes of a frame. Says what is wrong with it.
    private func cut(_ frame: Frame) throws -> [Datagram] {
        var headers = PacketHeaders()
        let refusal = PacketHeaders.parse(frame, into: &headers)
        try #require(refusal == nil)
        let network = Int(headers.networkOffset)
        let transport = Int(headers.transportOffset)
        let octets = frame.octets
        let flow =
            Array(octets[..<14]) + [headers.tos, headers.ttl]
            + octets[transport..<transport + 4] + "\(headers.source) \(headers.destination)".utf8
        let payload = Array(octets[(transport + 8)...].prefix(Int(headers.payloadLength)))
        let length = Int(octets[transport + 4]) << 8 | Int(octets[transport + 5])
        #expect(length == 8 + payload.count)
        guard frame.offload.isSegmented else { return [Datagram(flow: flow, payload: payload)] }
        let offload = frame.offload
        #expect(offload.segmentationType == VirtioHeader.segmentationUDPv5)
        #expect(offload.isChecksumPartial)
        #expect(Int(offload.checksumStart) == transport)
        #expect(offload.checksumOffset == 6)
        #expect(Int(offload.headerLength) == transport + 8)
        #expect(frame.length == transport + 8 + payload.count)
        let sum = InternetChecksum.pseudoHeader(
            source: headers.source, destination: headers.destination, ipProtocol: 17,
            length: length)
        #expect(Int(octets[transport + 6]) << 8 | Int(octets[transport + 7]) == Int(sum))
        if headers.ipVersion == 4 {
            let header = Array(octets[network..<network + 20])
            #expect(header.withUnsafeBytes { InternetChecksum.sum($0) } == 0xffff)
        }
        let size = Int(offload.segmentSize)
        #expect(size > 0 && payload.count > size)
        return stride(from: 0, to: payload.count, by: max(1, size)).map {
            Datagram(flow: flow, payload: Array(payload[$0..<min($0 + size, payload.count)]))
        }
    }

    @Test(arguments: [false, true])
    mutating func datagramsOfOneFlowLeaveTogether(isIPv6: Bool) throws {
        let payloads = (0..<10).map { [UInt8](repeating: UInt8($0), count: 100) }
        let frames = payloads.map { frame(Self.builder(700, $0, isIPv6: isIPv6)) }
        let before = frames.map(\.octets)
        let merged = merge(frames)
        #expect(merged.count == 1)
        let datagrams = try cut(try #require(merged.first))
        #expect(datagrams.map(\.payload) == payloads)
        // Others may have the same memory.
        #expect(frames.map(\.octets) == before)
        #expect(frames.allSatisfy { !$0.offload.isSegmented })
    }

    @Test mutating func aShorterOneIsTheLast() throws {
        let lengths = [100, 100, 60, 100, 60, 60, 61]
        let payloads = lengths.enumerated().map { [UInt8](repeating: UInt8($0), count: $1) }
        let merged = merge(payloads.map { frame(Self.builder(700, $0, isIPv6: false)) })
        let datagrams = try merged.map { try cut($0).map(\.payload) }
        #expect(datagrams.map { $0.map(\.count) } == [[100, 100, 60], [100, 60], [60], [61]])
        #expect(datagrams.flatMap { $0 } == payloads)
    }

    @Test mutating func whatIsNotAlikeStaysAlone() throws {
        let payload = [UInt8](repeating: 7, count: 100)
        let base = Self.builder(700, payload, isIPv6: false)
        var others = [PacketBuilder](repeating: base, count: 8)
        others[0].sourcePort = 701
        others[1].destinationPort = 111
        others[2].tos = 8
        others[3].ttl = 3
        others[4].destinationMAC = MACAddress(rawValue: 0x0200_0000_0009)
        others[5].mayNotFragment = true
        others[6].sourceMAC = MACAddress(rawValue: 0x0200_0000_0009)
        others[7] = Self.builder(700, payload, isIPv6: true)
        let merged = merge([frame(base)] + others.map { frame($0) })
        #expect(merged.count == 9)
        #expect(merged.allSatisfy { !$0.offload.isSegmented })
        // Not marked: a checksum that nobody has looked at.
        let unknown = merge([frame(base, flags: 0), frame(base, flags: 0)])
        #expect(unknown.count == 2)
        #expect(merge([]).isEmpty)
    }

    @Test mutating func noFrameIsLongerThanTheKernelTakes() throws {
        let little = [UInt8](repeating: 5, count: 21)
        let small = (0..<200).map { _ in frame(Self.builder(700, little, isIPv6: false)) }
        let counts = try merge(small).map { try cut($0).count }
        #expect(counts == [64, 64, 64, 8])
        let large = (0..<60).map {
            frame(Self.builder(700, [UInt8](repeating: UInt8($0), count: 1_472), isIPv6: true))
        }
        let merged = merge(large)
        #expect(merged.allSatisfy { $0.length <= 14 + 65_535 })
        let sizes = try merged.map { try cut($0).count }
        #expect(sizes == [44, 16])
    }

    /// Flows in any order, of any lengths: each flow's datagrams arrive as they were sent.
    @Test mutating func orderWithinAFlowStays() throws {
        var random = SystemRandomNumberGenerator()
        for _ in 0..<50 {
            var sent: [UInt16: [[UInt8]]] = [:]
            var frames: [Frame] = []
            for index in 0..<Int.random(in: 1...120, using: &random) {
                let port = UInt16.random(in: 700...730, using: &random)
                let length = [40, 40, 40, 90, 200].randomElement(using: &random) ?? 40
                let payload = [UInt8](repeating: UInt8(index), count: length)
                sent[port, default: []].append(payload)
                frames.append(frame(Self.builder(port, payload, isIPv6: false)))
            }
            var received: [UInt16: [[UInt8]]] = [:]
            for merged in merge(frames) {
                var headers = PacketHeaders()
                _ = PacketHeaders.parse(merged, into: &headers)
                received[headers.sourcePort, default: []] += try cut(merged).map(\.payload)
            }
            #expect(received == sent)
            memories = []
        }
    }
}
