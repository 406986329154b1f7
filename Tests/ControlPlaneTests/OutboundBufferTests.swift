import ControlPlane
import TestSupport
import Testing

@Suite struct OutboundBufferTests {
    /// All that can be done with it, in any order, against an array.
    @Test(arguments: 1...20 as ClosedRange<UInt64>) func asAnArray(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        var buffer = OutboundBuffer()
        var model: [UInt8] = []
        for _ in 0..<2_000 {
            let size = random.below(4) == 0 ? random.below(20_000) : random.below(200)
            switch random.below(7) {
            case 0:
                let bytes = random.bytes(size)
                buffer.append(bytes)
                model += bytes
            case 1:
                let bytes = random.bytes(size)
                buffer.append(upTo: size + random.below(5_000)) { room in
                    room.copyBytes(from: bytes)
                    return bytes.count
                }
                model += bytes
            case 2:
                buffer.drain { bytes in
                    #expect(Array(bytes) == model)
                    return min(bytes.count, size)
                }
                model.removeFirst(min(model.count, size))
            case 3 where !model.isEmpty:
                let count = min(model.count, size)
                #expect(buffer.take(count) == Array(model[..<count]))
                model.removeFirst(count)
            case 4 where !model.isEmpty:
                let place = random.below(model.count)
                let count = random.below(min(200, model.count - place))
                buffer.remove(count, at: place)
                model.removeSubrange(place..<place + count)
            case 5 where !model.isEmpty:
                // A copy keeps what it had.
                let copy = buffer
                buffer.withMutableBytes { $0[$0.count - 1] ^= 0xff }
                expect(copy, model)
                model[model.count - 1] ^= 0xff
            default:
                #expect(buffer.count == model.count && buffer.isEmpty == model.isEmpty)
            }
        }
        expect(buffer, model)
    }

    private func expect(_ buffer: OutboundBuffer, _ model: [UInt8]) {
        var copy = buffer
        #expect((model.isEmpty ? [] : copy.take(model.count)) == model)
    }

    /// Octets that are appended and sent by turns stay in the memory that there is.
    @Test func memoryIsUsedAgain() {
        var buffer = OutboundBuffer()
        var places: Set<UInt> = []
        for round in 0..<1_000 {
            buffer.append([UInt8](repeating: UInt8(truncatingIfNeeded: round), count: 3_000))
            if round < 2 { continue }
            buffer.drain { bytes in
                places.insert(bytes.baseAddress.map { UInt(bitPattern: $0) >> 16 } ?? 0)
                return 3_000
            }
        }
        #expect(places.count <= 4, "\(places.count)")
        #expect(buffer.count == 6_000)
    }
}
