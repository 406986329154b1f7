import DataPlane
import TestSupport
import Testing

@Suite struct ChecksumTests {
    let memory = FrameMemory()

    // RFC 1071 section 3.
    @Test func exampleOfTheRFC() {
        let bytes: [UInt8] = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]
        #expect(bytes.withUnsafeBytes { InternetChecksum.sum($0) } == 0xddf2)
        #expect(naiveSum(bytes) == 0xddf2)
    }

    @Test func sumsOfAnyLength() {
        var random = SplitMix64(seed: 1)
        for length in Array(0..<200) + [1_499, 1_500, 65_535, 65_536] {
            let bytes = random.bytes(length)
            #expect(bytes.withUnsafeBytes { InternetChecksum.sum($0) } == naiveSum(bytes))
        }
        let ones = [UInt8](repeating: 0xff, count: 70_000)
        #expect(ones.withUnsafeBytes { InternetChecksum.sum($0) } == 0xffff)
        #expect(InternetChecksum.sum(UnsafeRawBufferPointer(start: nil, count: 0)) == 0)
    }

    @Test func transportOverPseudoHeader() {
        for (name, bytes) in PacketBuilder.samples {
            guard let view = ChecksumView(bytes), !view.isFragment,
                [6, 17, 58].contains(view.ipProtocol)
            else { continue }
            var headers = PacketHeaders()
            #expect(PacketHeaders.parse(memory.frame(bytes), into: &headers) == nil)
            let result = view.segment.withUnsafeBytes {
                InternetChecksum.transport(
                    source: headers.source, destination: headers.destination,
                    ipProtocol: view.ipProtocol, segment: $0)
            }
            #expect(result == 0, "\(name)")
        }
    }

    /// RFC 1624: the difference gives the checksum that a full sum over the changed words gives.
    @Test func deltas() {
        var random = SplitMix64(seed: 2)
        for _ in 0..<5_000 {
            var bytes = random.bytes(40)
            if random.below(4) == 0 { bytes = [UInt8](repeating: 0xff, count: 40) }
            bytes[39] = 1  // not all zero: then the two zeros of one's complement differ
            let before = naiveChecksum(bytes)
            var delta = ChecksumDelta()
            for _ in 0..<random.below(5) + 1 {
                let width = [2, 4, 8][random.below(3)]
                let offset = random.below((38 - width) / 2) * 2
                var new = random.bytes(width)
                if random.below(3) == 0 {
                    new = [UInt8](repeating: UInt8(random.below(2)) &* 255, count: width)
                }
                let old = Array(bytes[offset..<offset + width])
                func number(_ octets: [UInt8]) -> UInt64 {
                    octets.reduce(0) { $0 << 8 | UInt64($1) }
                }
                switch width {
                case 2: delta.replace(UInt16(number(old)), with: UInt16(number(new)))
                case 4: delta.replace(UInt32(number(old)), with: UInt32(number(new)))
                default: delta.replace(number(old), with: number(new))
                }
                bytes.replaceSubrange(offset..<offset + width, with: new)
            }
            let expected = naiveChecksum(bytes)
            if delta.applied(to: before) != expected {
                Issue.record("\(before) -> \(delta.applied(to: before)), not \(expected)")
            }
            if delta.applied(toPartial: ~before) != ~expected { Issue.record("partial") }
        }
    }

    @Test func deltaOfNothing() {
        var delta = ChecksumDelta()
        #expect(delta.isZero)
        delta.replace(UInt16(0x1234), with: 0x1234)
        #expect(delta.applied(to: 0x5678) == 0x5678)
    }
}
