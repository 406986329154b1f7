import ControlPlane
import TestSupport
import Testing

@Suite struct PDUStreamTests {
    private struct Message: Equatable {
        var header: [UInt8]
        var data: [UInt8]
    }

    private static func message(_ random: inout SplitMix64) -> (Message, octets: [UInt8]) {
        let count = random.below(4) == 0 ? 0 : random.below(600)
        let additional = random.below(5) == 0 ? 4 * (1 + random.below(3)) : 0
        var header = (0..<48).map { _ in UInt8(random.below(256)) }
        header[4] = UInt8(additional / 4)
        header[5] = 0
        header[6] = UInt8(count >> 8)
        header[7] = UInt8(count & 0xff)
        let data = (0..<count).map { _ in UInt8(random.below(256)) }
        let more = [UInt8](repeating: 0xaa, count: additional)
        let padding = [UInt8](repeating: 0xbb, count: (4 - count % 4) % 4)
        return (Message(header: header, data: data), header + more + data + padding)
    }

    /// However the stream is cut: each header once at the begin and once at the end, its data in order and no more.
    @Test(arguments: 0..<40) func cutAnywhere(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        var expected: [Message] = []
        var octets: [UInt8] = []
        for _ in 0..<50 {
            let (message, bytes) = Self.message(&random)
            expected.append(message)
            octets += bytes
        }
        var found: [Message] = []
        var begun: [UInt8] = []
        var data: [UInt8] = []
        let stream = PDUStream()
        var place = 0
        while place < octets.count {
            let count = min(octets.count - place, 1 + random.below(seed % 2 == 0 ? 7 : 900))
            Array(octets[place..<place + count]).withUnsafeBytes { bytes in
                stream.take(
                    bytes, begin: { begun = $0 },
                    part: { header, offset, part in
                        #expect(header == begun && offset == data.count)
                        data += part
                    },
                    end: { header in
                        #expect(header == begun)
                        found.append(Message(header: header, data: data))
                        data = []
                    })
            }
            place += count
        }
        #expect(found == expected)
    }

    /// What came before of another stream counts no more.
    @Test func beginsAnew() {
        let stream = PDUStream()
        var ends = 0
        let part: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 200]
        let whole = [UInt8](repeating: 0, count: 48)
        for octets in [part, whole] {
            if octets.count == 48 { stream.reset() }
            octets.withUnsafeBytes {
                stream.take($0, begin: { _ in }, part: { _, _, _ in }, end: { _ in ends += 1 })
            }
        }
        #expect(ends == 1)
    }
}
