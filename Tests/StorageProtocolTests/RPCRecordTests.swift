import StorageProtocols
import TestSupport
import Testing

@Suite struct RPCRecordTests {
    /// Everything that a stream gives when it comes in pieces of `size`.
    private func records(
        _ stream: [UInt8], pieces size: Int, maximum: Int = 1 << 20
    ) throws -> [[UInt8]] {
        var reader = RPCRecordReader(maximum: maximum)
        var result: [[UInt8]] = []
        var start = 0
        while start < stream.count {
            let end = min(stream.count, start + size)
            reader.append(stream[start..<end])
            while let record = try reader.next() { result.append(record) }
            start = end
        }
        #expect(reader.isAtRest)
        return result
    }

    /// RFC 5531 section 11: the highest bit says "last", the others are the length.
    @Test func `headers as RFC 5531 has them`() {
        #expect(RPCRecord.framed([1, 2, 3]) == octets("80000003 010203"))
        #expect(RPCRecord.framed([]) == octets("80000000"))
        #expect(
            RPCRecord.framed([1, 2, 3], fragments: 2) == octets("00000002 0102 80000001 03"))
        #expect(
            RPCRecord.framed([1, 2, 3, 4], fragments: 2) == octets("00000002 0102 80000002 0304"))
        #expect(RPCRecord.framed([1, 2], fragments: 0) == octets("00000001 01 80000001 02"))
        #expect(RPCRecord.framed([1, 2], fragments: .max) == octets("80000002 0102"))
    }

    @Test func `fragments are joined, empty ones too`() throws {
        let stream = octets(
            "00000000 00000001 61 00000000 00000002 6263 80000000 80000000 80000001 64")
        let sent: [[UInt8]] = [[0x61, 0x62, 0x63], [], [0x64]]
        for size in 1...stream.count {
            let read = try records(stream, pieces: size)
            #expect(read == sent)
        }
    }

    @Test func `pieces of every size give the same records`() throws {
        var random = SplitMix64(seed: 41)
        var sent: [[UInt8]] = []
        var stream: [UInt8] = []
        for length in [0, 1, 2, 3, 4, 5, 17, 40, 64, 0, 33] {
            let record = random.bytes(length)
            sent.append(record)
            stream += RPCRecord.framed(record, fragments: 1 + random.below(length + 4))
        }
        for size in 1...stream.count {
            let read = try records(stream, pieces: size)
            #expect(read == sent)
        }
    }

    @Test func `a stream cut at every octet gives the same records`() throws {
        let sent: [[UInt8]] = [[1, 2, 3, 4, 5], [], [6, 7, 8, 9]]
        let stream = sent.flatMap { RPCRecord.framed($0, fragments: 2) }
        for cut in 0...stream.count {
            var reader = RPCRecordReader(maximum: 5)
            var read: [[UInt8]] = []
            reader.append(stream[..<cut])
            while let record = try reader.next() { read.append(record) }
            reader.append(stream[cut...])
            while let record = try reader.next() { read.append(record) }
            #expect(read == sent)
            #expect(reader.isAtRest)
        }
    }

    @Test func `octet by octet, a record comes with its last octet and not before`() throws {
        let stream = RPCRecord.framed([1, 2, 3, 4, 5, 6, 7], fragments: 3)
        var reader = RPCRecordReader(maximum: 7)
        #expect(reader.isAtRest)
        for (index, octet) in stream.enumerated() {
            reader.append([octet])
            let record = try reader.next()
            let isWhole = index == stream.count - 1
            #expect((record != nil) == isWhole)
            #expect(reader.isAtRest == isWhole)
        }
    }

    @Test func `long records in short pieces`() throws {
        var random = SplitMix64(seed: 42)
        let long = random.bytes(300_000)
        let stream = RPCRecord.framed(long, fragments: 70_001) + RPCRecord.framed(long)
        for size in [1_448, 65_536, 262_144, stream.count] {
            let read = try records(stream, pieces: size)
            #expect(read == [long, long])
        }
    }

    @Test func `many records in one piece`() throws {
        let one = RPCRecord.framed([UInt8](repeating: 3, count: 1_000))
        var reader = RPCRecordReader(maximum: 1_000)
        for _ in 0..<200 { reader.append(one) }
        reader.append([0x80, 0])
        var count = 0
        while let record = try reader.next() {
            #expect(record.count == 1_000)
            count += 1
        }
        #expect(count == 200)
        #expect(!reader.isAtRest)
    }

    // MARK: The limit

    @Test func `a record at the limit`() throws {
        let record: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]
        for fragments in 1...8 {
            let stream = RPCRecord.framed(record, fragments: fragments)
            let read = try records(stream, pieces: 3, maximum: 8)
            #expect(read == [record])
        }
    }

    @Test(arguments: [
        ("80000009", 9), ("00000009", 9), ("ffffffff", 0x7fff_ffff), ("7fffffff", 0x7fff_ffff),
        ("00000005 0102030405 80000004", 9), ("00000005 0102030405 7fffffff", 0x8000_0004),
        ("00000008 0102030405060708 00000000 80000001", 9),
    ])
    func `a record beyond the limit is an error with its header`(
        hexadecimal: String, length: Int
    ) throws {
        let stream = octets(hexadecimal)
        var reader = RPCRecordReader(maximum: 8)
        for octet in stream.dropLast() {
            reader.append([octet])
            let record = try reader.next()
            #expect(record == nil)
        }
        reader.append(stream.suffix(1))
        #expect(throws: RPCRecordError.tooLong(length, limit: 8)) { try reader.next() }
        // What comes behind does not heal it.
        reader.append(RPCRecord.framed([1]))
        #expect(throws: RPCRecordError.tooLong(length, limit: 8)) { try reader.next() }
        #expect(!reader.isAtRest)
    }

    @Test func `records before the bad one are handed out`() throws {
        var reader = RPCRecordReader(maximum: 2)
        reader.append(RPCRecord.framed([1]) + RPCRecord.framed([2, 3]) + octets("80000003"))
        let first = try #require(try reader.next())
        let second = try #require(try reader.next())
        #expect(first == [1])
        #expect(second == [2, 3])
        #expect(throws: RPCRecordError.tooLong(3, limit: 2)) { try reader.next() }
    }

    @Test(arguments: [0, -1, Int.min])
    func `a limit that leaves nothing`(maximum: Int) throws {
        var reader = RPCRecordReader(maximum: maximum)
        reader.append(octets("80000000"))
        let record = try reader.next()
        #expect(record?.isEmpty == true)
        reader.append(octets("80000001"))
        #expect(throws: RPCRecordError.tooLong(1, limit: 0)) { try reader.next() }
    }

    @Test func `what was not handed out goes on elsewhere, wherever it is taken`() throws {
        var random = SplitMix64(seed: 47)
        let records = (0..<6).map { random.bytes($0 * 7) }
        var stream: [UInt8] = []
        for record in records { stream += RPCRecord.framed(record, fragments: 5) }
        for cut in 0...stream.count {
            for early in 0...2 {
                var first = RPCRecordReader(maximum: 64)
                var found: [[UInt8]] = []
                first.append(stream[..<cut])
                // Some are handed out before, and a part of the next one may be.
                for _ in 0..<(early * 4) {
                    if let record = try first.next() { found.append(record) }
                }
                var second = RPCRecordReader(maximum: 64)
                second.append(first.takeRest())
                #expect(first.isAtRest)
                second.append(stream[cut...])
                while let record = try second.next() { found.append(record) }
                #expect(found == records, "cut at \(cut), \(early)")
            }
        }
    }

    @Test func `random octets give records, an error, or wait for more`() {
        var random = SplitMix64(seed: 43)
        for _ in 0..<2_000 {
            var reader = RPCRecordReader(maximum: 64)
            var isOver = false
            var given = 0
            var taken = 0
            for _ in 0..<12 where !isOver {
                var part = random.bytes(random.below(24))
                // Mostly short lengths.
                for index in part.indices where random.below(4) > 0 {
                    part[index] = [0, 0, 0x80, 3][random.below(4)]
                }
                given += part.count
                reader.append(part)
                do throws(RPCRecordError) {
                    while let record = try reader.next() {
                        #expect(record.count <= 64)
                        taken += record.count + RPCRecord.headerLength
                    }
                } catch {
                    isOver = true
                    switch error {
                    case .tooLong(let length, limit: let limit):
                        #expect(length > 64)
                        #expect(limit == 64)
                    }
                }
            }
            #expect(taken <= given)
        }
    }
}
