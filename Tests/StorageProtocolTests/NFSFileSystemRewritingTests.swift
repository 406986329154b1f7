import StorageProtocols
import TestSupport
import Testing

@Suite struct NFSFileSystemRewritingTests {
    private static let mask: UInt64 = 0x0102_0304_a5b6_c7d8

    private func masked(_ message: [UInt8], _ fileSystems: [Range<Int>]) -> [UInt8] {
        var result = message
        NFSFileSystemRewriting.mask(&result, fileSystems: fileSystems, with: Self.mask)
        return result
    }

    @Test(arguments: NFSSample.procedures, [true, false])
    func `there and back`(procedure: NFSProcedure, isFull: Bool) throws {
        for sample in [
            NFSSample.results(procedure, isFull: isFull),
            NFSSample.failure(procedure, status: 13, isFull: isFull),
        ] {
            let results = try nfsResults(procedure, sample.octets, at: NFSSample.start)
            let there = masked(sample.octets, results.fileSystems)
            #expect((there == sample.octets) == results.fileSystems.isEmpty)
            #expect(masked(there, results.fileSystems) == sample.octets)
            // Nothing else has changed, and the results read as they did.
            let differing = there.indices.filter { there[$0] != sample.octets[$0] }
            #expect(differing == results.fileSystems.flatMap { Array($0) })
            #expect(try nfsResults(procedure, there, at: NFSSample.start) == results)
        }
    }

    @Test func `attributes of version 3, and nothing else of them`() throws {
        var attributes = NFSv3Attributes(
            type: .regular, mode: 0o644, size: 1, used: 2, deviceMajor: 3, deviceMinor: 4,
            fileSystemID: 0x1122_3344_5566_7788, fileID: 0x99aa_bbcc_ddee_ff00,
            changeTime: NFSv3Time(seconds: 5, nanoseconds: 6))
        let octets = NFSv3Replies.getattr(attributes)
        let results = try nfsResults(.v3(.getattr), octets)
        let there = masked(octets, results.fileSystems)
        attributes.fileSystemID ^= Self.mask
        #expect(there == NFSv3Replies.getattr(attributes))
        let place = try #require(results.fileSystems.first)
        let start = place.lowerBound - NFSAttributeLayout.fileSystem3
        #expect(octets.field32(place.upperBound) == 0x99aa_bbcc)
        #expect(octets.field32(start + NFSAttributeLayout.changeTime3) == 5)
        #expect(octets.field32(start + NFSAttributeLayout.changeTime3 + 4) == 6)
    }

    @Test func `attributes of version 2, and nothing else of them`() throws {
        var attributes = NFSv2Attributes(
            type: .regular, mode: 0o100_644, size: 1, fileSystemID: 0x1122_3344,
            fileID: 0x5566_7788, changeTime: NFSv2Time(seconds: 5, microseconds: 6))
        let octets = NFSv2Replies.getattr(attributes)
        let results = try nfsResults(.v2(.getattr), octets)
        let there = masked(octets, results.fileSystems)
        attributes.fileSystemID ^= UInt32(truncatingIfNeeded: Self.mask)
        #expect(there == NFSv2Replies.getattr(attributes))
        let place = try #require(results.fileSystems.first)
        let start = place.lowerBound - NFSAttributeLayout.fileSystem2
        #expect(octets.field32(place.upperBound) == 0x5566_7788)
        #expect(octets.field32(start + NFSAttributeLayout.changeTime2) == 5)
    }

    @Test func `LOOKUP has two, READDIRPLUS one for each entry and its own`() throws {
        let lookUp = NFSSample.results(.v3(.lookup), isFull: true)
        #expect(
            try nfsResults(.v3(.lookup), lookUp.octets, at: NFSSample.start).fileSystems.count
                == 2)
        let list = NFSSample.results(.v3(.readdirplus), isFull: true, entries: 50)
        #expect(
            try nfsResults(.v3(.readdirplus), list.octets, at: NFSSample.start).fileSystems.count
                == 51)
    }

    @Test func `ranges that are none of file systems`() {
        let message = [UInt8](repeating: 7, count: 16)
        for range in [-4..<4, -8..<0, 12..<20, 0..<3, 0..<16, 4..<4, Int.max - 4..<Int.max] {
            #expect(masked(message, [range]) == message)
        }
        var random = SplitMix64(seed: 5)
        for _ in 0..<2_000 {
            let octets = random.bytes(random.below(60))
            let start = random.below(80) - 10
            let ranges = [start..<start + 8, start..<start + 4]
            #expect(masked(masked(octets, ranges), ranges) == octets)
        }
    }
}
