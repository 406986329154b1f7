import StorageProtocols
import TestSupport
import Testing

@Suite struct XDRTests {
    /// One item of every type.
    private struct Items: Equatable {
        var number: UInt32 = 0
        var long: UInt64 = 0
        var flag = false
        var octets: [UInt8] = []
        var fixed: [UInt8] = []
        var text = ""

        init(_ random: inout SplitMix64) {
            number = UInt32(truncatingIfNeeded: random.next())
            long = random.next()
            flag = random.below(2) == 1
            octets = random.bytes(random.below(40))
            fixed = random.bytes(7)
            text = String(repeating: "ä€x", count: random.below(5))
        }

        init(_ reader: inout XDRReader) throws(XDRError) {
            number = try reader.uint32()
            long = try reader.uint64()
            flag = try reader.bool()
            let octetRange = try reader.opaque(maximum: 40)
            octets = try reader.bytes(octetRange)
            let fixedRange = try reader.fixedOpaque(7)
            fixed = try reader.bytes(fixedRange)
            text = try reader.string(maximum: 40)
        }

        func encoded() -> [UInt8] {
            xdr { writer in
                writer.uint32(number)
                writer.uint64(long)
                writer.bool(flag)
                writer.opaque(octets)
                writer.fixedOpaque(fixed)
                writer.string(text)
            }
        }
    }

    @Test func `items are read as they were written`() throws {
        var random = SplitMix64(seed: 21)
        for _ in 0..<500 {
            let items = Items(&random)
            let bytes = items.encoded()
            #expect(bytes.count % 4 == 0)
            let (read, position, remaining) = try bytes.withXDR { reader in
                (try Items(&reader), reader.position, reader.remaining)
            }
            #expect(read == items)
            #expect(position == bytes.count)
            #expect(remaining == 0)
        }
    }

    /// RFC 4506 section 7: the file "sillyprog" of the user "john".
    @Test func `the example of RFC 4506`() throws {
        let file = octets(
            """
            00000009 73696c6c 7970726f 67000000 00000002 00000004 6c697370 00000004 6a6f686e
            00000006 28717569 74290000
            """)
        let written = xdr { writer in
            writer.string("sillyprog")
            writer.uint32(2)
            writer.string("lisp")
            writer.string("john")
            writer.opaque(Array("(quit)".utf8))
        }
        #expect(written == file)
        try file.withXDR { reader in
            let name = try reader.string(maximum: 255)
            let kind = try reader.uint32()
            let interpreter = try reader.string(maximum: 255)
            let owner = try reader.string(maximum: 32)
            let range = try reader.opaque(maximum: 65_535)
            let data = try reader.bytes(range)
            #expect(name == "sillyprog")
            #expect(kind == 2)
            #expect(interpreter == "lisp")
            #expect(owner == "john")
            #expect(range == 40..<46)
            #expect(data == Array("(quit)".utf8))
            #expect(reader.remaining == 0)
        }
    }

    @Test func `integers are big-endian`() throws {
        let bytes = octets("01020304 05060708 090a0b0c 00000001 00000000")
        let written = xdr { writer in
            writer.uint32(0x0102_0304)
            writer.uint64(0x0506_0708_090a_0b0c)
            writer.bool(true)
            writer.bool(false)
        }
        #expect(written == bytes)
        try bytes.withXDR { reader in
            let number = try reader.uint32()
            let long = try reader.uint64()
            let yes = try reader.bool()
            let no = try reader.bool()
            #expect(number == 0x0102_0304)
            #expect(long == 0x0506_0708_090a_0b0c)
            #expect(yes)
            #expect(!no)
        }
    }

    @Test func `padding goes to the next multiple of four`() throws {
        for count in 0..<9 {
            let data = [UInt8](repeating: 0xee, count: count)
            let bytes = xdr { $0.opaque(data) }
            #expect(bytes.count == 4 + (count + 3) / 4 * 4)
            #expect(bytes.dropFirst(4 + count).allSatisfy { $0 == 0 })
            // What the padding holds does not matter, only that it is there.
            var dirty = bytes
            for index in (4 + count)..<bytes.count { dirty[index] = 0xff }
            let (range, position) = try dirty.withXDR { reader in
                (try reader.opaque(maximum: count), reader.position)
            }
            #expect(range == 4..<4 + count)
            #expect(position == bytes.count)
            for end in 4..<bytes.count {
                #expect(throws: XDRError.truncated) {
                    try Array(bytes[..<end]).withXDR { try $0.opaque(maximum: count) }
                }
            }
            if count > 0 {
                #expect(throws: XDRError.tooLong) {
                    try bytes.withXDR { try $0.opaque(maximum: count - 1) }
                }
            }
        }
    }

    @Test func `every truncation is an error`() {
        var random = SplitMix64(seed: 22)
        for _ in 0..<20 {
            let bytes = Items(&random).encoded()
            for end in 0..<bytes.count {
                #expect(throws: XDRError.truncated) {
                    try Array(bytes[..<end]).withXDR { try Items(&$0) }
                }
            }
        }
    }

    @Test(arguments: [0x29, 0x7fff_fffc, 0x7fff_ffff, 0x8000_0000, 0xffff_fffc, .max] as [UInt32])
    func `lengths beyond the end`(length: UInt32) {
        var bytes = xdr { $0.uint32(length) }
        bytes += [UInt8](repeating: 0, count: 40)
        #expect(throws: XDRError.truncated) {
            try bytes.withXDR { try $0.opaque(maximum: .max) }
        }
        #expect(throws: XDRError.truncated) {
            try bytes.withXDR { try $0.string(maximum: Int(UInt32.max)) }
        }
        #expect(throws: XDRError.tooLong) { try bytes.withXDR { try $0.opaque(maximum: 40) } }
        #expect(throws: XDRError.tooLong) { try bytes.withXDR { try $0.string(maximum: 40) } }
        #expect(throws: XDRError.tooLong) { try bytes.withXDR { try $0.opaque(maximum: -1) } }
    }

    @Test func `counts of the caller that cannot be`() {
        let bytes = [UInt8](repeating: 0, count: 8)
        for count in [9, 1 << 40, Int.max - 3, Int.max - 1, Int.max] {
            #expect(throws: XDRError.truncated) { try bytes.withXDR { try $0.skip(count) } }
            #expect(throws: XDRError.truncated) { try bytes.withXDR { try $0.fixedOpaque(count) } }
        }
        for count in [-1, Int.min] {
            #expect(throws: XDRError.badValue) { try bytes.withXDR { try $0.skip(count) } }
            #expect(throws: XDRError.badValue) { try bytes.withXDR { try $0.fixedOpaque(count) } }
        }
        for range in [7..<9, 9..<9, -1..<1, Int.min..<Int.max, 8..<Int.max] {
            #expect(throws: XDRError.truncated) { try bytes.withXDR { try $0.bytes(range) } }
        }
    }

    @Test func `skip takes no padding, and bytes do not move`() throws {
        try ([1, 2, 3, 4, 5, 6, 7, 8] as [UInt8]).withXDR { reader in
            try reader.skip(3)
            #expect(reader.position == 3)
            let number = try reader.uint32()
            #expect(number == 0x0405_0607)
            let all = try reader.bytes(0..<8)
            let none = try reader.bytes(8..<8)
            #expect(all == [1, 2, 3, 4, 5, 6, 7, 8])
            #expect(none.isEmpty)
            #expect(reader.remaining == 1)
            try reader.skip(1)
            try reader.skip(0)
            #expect(reader.remaining == 0)
        }
    }

    @Test(arguments: [2, 0x100, 0x0100_0000, 0xffff_ffff] as [UInt32])
    func `a boolean is 0 or 1`(value: UInt32) {
        let bytes = xdr { $0.uint32(value) }
        #expect(throws: XDRError.badValue) { try bytes.withXDR { try $0.bool() } }
    }

    @Test func `what is not UTF-8 is repaired`() throws {
        let bytes = xdr { $0.opaque([0x61, 0xff, 0x62, 0xc3]) }
        let text = try bytes.withXDR { try $0.string(maximum: 4) }
        #expect(text == "a\u{fffd}b\u{fffd}")
    }

    @Test func `no memory at all`() throws {
        var reader = XDRReader(UnsafeRawBufferPointer(start: nil, count: 0))
        #expect(reader.remaining == 0)
        let empty = try reader.fixedOpaque(0)
        let none = try reader.bytes(empty)
        try reader.skip(0)
        #expect(empty == 0..<0)
        #expect(none.isEmpty)
        do throws(XDRError) {
            _ = try reader.uint32()
            Issue.record("read of nothing")
        } catch {
            #expect(error == .truncated)
        }
    }

    @Test func `random octets never trap`() {
        var random = SplitMix64(seed: 23)
        for _ in 0..<5_000 {
            // Small numbers, so that lengths are often in the buffer.
            var bytes = random.bytes(random.below(80))
            for index in bytes.indices where random.below(3) > 0 {
                bytes[index] = UInt8(random.below(2) * random.below(8))
            }
            let length = bytes.count
            bytes.withXDR { reader in
                var last = 0
                for _ in 0..<30 {
                    Self.readAny(&reader, &random)
                    #expect(reader.position >= last)
                    #expect(reader.position <= length)
                    #expect(reader.remaining == length - reader.position)
                    last = reader.position
                }
            }
        }
    }

    private static func readAny(_ reader: inout XDRReader, _ random: inout SplitMix64) {
        switch random.below(8) {
        case 0: _ = try? reader.uint32()
        case 1: _ = try? reader.uint64()
        case 2: _ = try? reader.bool()
        case 3: _ = try? reader.opaque(maximum: random.below(100))
        case 4: _ = try? reader.fixedOpaque(random.below(20) - 2)
        case 5: _ = try? reader.string(maximum: random.below(100))
        case 6: _ = try? reader.skip(random.below(20) - 2)
        default:
            let start = random.below(100) - 5
            _ = try? reader.bytes(start..<start + random.below(20))
        }
    }
}
