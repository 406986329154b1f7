import ControlPlane
import TestSupport
import Testing

@Suite struct VolumeLayoutTests {
    private typealias Part = VolumeLayout.Part

    /// Contents of a volume as its definition says, without any arithmetic on requests.
    private static func contents(_ layout: VolumeLayout, _ members: [[UInt16]]) -> [UInt16] {
        switch layout.kind {
        case .concatenation: return members.flatMap { $0 }
        case .mirror: return Array(members[0].prefix(members.map(\.count).min() ?? 0))
        case .stripe(let chunk):
            var result: [UInt16] = []
            let rows = (members.map(\.count).min() ?? 0) / Int(chunk)
            for row in 0..<rows {
                for member in members {
                    result += member[row * Int(chunk)..<(row + 1) * Int(chunk)]
                }
            }
            return result
        }
    }

    /// What the parts of a request read, put together.
    private static func read(_ parts: [Part], _ members: [[UInt16]], count: Int) -> [UInt16?] {
        var result = [UInt16?](repeating: nil, count: count)
        for part in parts {
            var place = Int(part.start)
            for piece in part.pieces {
                for index in 0..<Int(piece.count) {
                    result[Int(piece.offset) + index] = members[part.member][place]
                    place += 1
                }
            }
        }
        return result
    }

    private static func kind(_ random: inout SplitMix64, smallest: Int) -> VolumeLayout.Kind {
        switch random.below(3) {
        case 0: .concatenation
        case 1: .stripe(chunk: UInt64(1 + random.below(min(smallest, 20))))
        default: .mirror
        }
    }

    /// 10,000 requests: what the parts read is what the volume contains there, and nothing twice.
    @Test func anyRangeOfAnyVolume() throws {
        var random = SplitMix64(seed: 20)
        for round in 0..<500 {
            let sizes = (0..<1 + random.below(5)).map { _ in 1 + random.below(90) }
            let members = sizes.map { size in (0..<size).map { _ in UInt16(random.below(65_536)) } }
            let kind = Self.kind(&random, smallest: sizes.min() ?? 1)
            let layout = try VolumeLayout(kind, members: sizes.map(UInt64.init))
            let expected = Self.contents(layout, members)
            try #require(UInt64(expected.count) == layout.capacity)
            for _ in 0..<20 {
                let start = random.below(expected.count)
                let count = 1 + random.below(expected.count - start)
                let maximum = random.below(3) == 0 ? UInt64(1 + random.below(30)) : .max
                let parts = layout.parts(
                    start: UInt64(start), count: UInt64(count), maximum: maximum)
                let found = Self.read(parts, members, count: count)
                guard found == expected[start..<start + count].map(Optional.some) else {
                    Issue.record("round \(round): \(layout) \(start)+\(count): \(parts)")
                    return
                }
                #expect(parts.reduce(0) { $0 + Int($1.count) } == count)
                #expect(parts.allSatisfy { $0.count <= maximum })
                #expect(
                    parts.allSatisfy { part in
                        part.count == part.pieces.reduce(0) { $0 + $1.count }
                            && part.start + part.count <= layout.members[part.member]
                    })
                // Without a limit each member of a stripe gets one command, however many chunks there are.
                if maximum == .max {
                    #expect(Set(parts.map(\.member)).count == parts.count)
                }
            }
        }
    }

    /// A span is what the parts of a member are together, without a hole; its first piece lies where it says.
    @Test func spansAreThePartsTogether() throws {
        var random = SplitMix64(seed: 21)
        for _ in 0..<2_000 {
            let sizes = (0..<1 + random.below(5)).map { _ in 1 + random.below(90) }
            let kind = Self.kind(&random, smallest: sizes.min() ?? 1)
            let layout = try VolumeLayout(kind, members: sizes.map(UInt64.init))
            let start = random.below(Int(layout.capacity))
            let count = 1 + random.below(Int(layout.capacity) - start)
            var expected: [Int: Set<UInt64>] = [:]
            for extent in layout.extents(start: UInt64(start), count: UInt64(count)) {
                expected[extent.member, default: []].formUnion(
                    extent.start..<extent.start + extent.count)
            }
            let spans = layout.spans(start: UInt64(start), count: UInt64(count))
            try #require(spans.count == expected.count, "\(layout) \(start)+\(count)")
            for span in spans {
                #expect(Set(span.start..<span.start + span.count) == expected[span.member])
                let piece = try #require(span.pieces.first)
                let there = try #require(
                    layout.extents(start: UInt64(start) + piece.offset, count: piece.count).first)
                #expect(there.member == span.member && there.start == span.start)
                #expect(there.count == piece.count)
            }
        }
        // Larger than any list of its chunks could be.
        let large = try VolumeLayout(.stripe(chunk: 8), members: [1 << 50, 1 << 50])
        #expect(large.spans(start: 5, count: 1 << 50).map(\.count).reduce(0, +) == 1 << 50)
    }

    @Test func stripeOfThree() throws {
        let layout = try VolumeLayout(.stripe(chunk: 4), members: [10, 8, 9])
        #expect(layout.capacity == 24 && layout.members == [8, 8, 8])
        #expect(
            layout.parts(start: 3, count: 12) == [
                Part(
                    member: 0, start: 3, count: 4,
                    pieces: [.init(offset: 0, count: 1), .init(offset: 9, count: 3)]),
                Part(member: 1, start: 0, count: 4, pieces: [.init(offset: 1, count: 4)]),
                Part(member: 2, start: 0, count: 4, pieces: [.init(offset: 5, count: 4)]),
            ])
    }

    @Test func rangesOutside() throws {
        let layout = try VolumeLayout(.concatenation, members: [5, 5])
        #expect(layout.extents(start: 0, count: 0).isEmpty)
        #expect(layout.extents(start: 10, count: 1).isEmpty)
        #expect(layout.extents(start: 9, count: 2).isEmpty)
        #expect(layout.extents(start: .max, count: .max).isEmpty)
        #expect(layout.extents(start: 4, count: 2).map(\.member) == [0, 1])
    }

    @Test(arguments: [
        (VolumeLayout.Kind.mirror, [] as [UInt64], VolumeLayout.Mistake.noMembers),
        (.concatenation, [3, 0], .badCapacity),
        (.concatenation, [.max, 1], .badCapacity),
        (.stripe(chunk: 0), [4], .badChunk),
        (.stripe(chunk: 5), [9, 4], .badChunk),
        (.stripe(chunk: 1), [.max, .max], .badCapacity),
    ])
    func mistakes(kind: VolumeLayout.Kind, members: [UInt64], mistake: VolumeLayout.Mistake) {
        #expect(throws: mistake) { try VolumeLayout(kind, members: members) }
    }
}
