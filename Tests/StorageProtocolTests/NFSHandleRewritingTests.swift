import StorageProtocols
import TestSupport
import Testing

@Suite struct NFSHandleRewritingTests {
    private static let prefix: [UInt8] = [0xd5, 0x07, 0x01]

    /// With the prefix in every handle, as the switch gives them to clients.
    private func prefixed(_ message: [UInt8], _ handles: [Range<Int>]) throws -> [UInt8] {
        try NFSHandleRewriting.rewrite(message, handles: handles, version: .v3) {
            Self.prefix + $0
        }
    }

    /// Without it, as servers get them.
    private func stripped(_ message: [UInt8], _ handles: [Range<Int>]) throws -> [UInt8] {
        try NFSHandleRewriting.rewrite(message, handles: handles, version: .v3) {
            $0.starts(with: Self.prefix) ? Array($0.dropFirst(Self.prefix.count)) : nil
        }
    }

    private func refusal(_ body: () throws -> [UInt8]) -> NFSHandleRewritingError? {
        do {
            _ = try body()
            return nil
        } catch {
            return error as? NFSHandleRewritingError
        }
    }

    @Test(arguments: NFSv3Procedure.allCases, [true, false])
    func `a prefix there and back`(procedure: NFSv3Procedure, isFull: Bool) throws {
        for isCall in [true, false] {
            let sample =
                isCall
                ? NFSSample.call(.v3(procedure), isFull: isFull)
                : NFSSample.results(.v3(procedure), isFull: isFull)
            let there = try prefixed(sample.octets, sample.handles)
            #expect(there.count % 4 == 0)
            let handles =
                try isCall
                ? nfsCall(.v3(procedure), there, at: NFSSample.start).handles
                : nfsResults(.v3(procedure), there, at: NFSSample.start).handles
            #expect(handles.count == sample.handles.count)
            for (old, new) in zip(sample.handles, handles) {
                let expected = Self.prefix + Array(sample.octets[old])
                #expect(Array(there[new]) == expected)
            }
            #expect(try stripped(there, handles) == sample.octets)
        }
    }

    @Test(arguments: NFSv2Procedure.allCases)
    func `handles of version 2 are exchanged`(procedure: NFSv2Procedure) throws {
        for sample in [
            NFSSample.call(.v2(procedure), isFull: true),
            NFSSample.results(.v2(procedure), isFull: true),
        ] {
            let there = try NFSHandleRewriting.rewrite(
                sample.octets, handles: sample.handles, version: .v2
            ) { Array($0.reversed()) }
            #expect(there.count == sample.octets.count)
            #expect((there == sample.octets) == sample.handles.isEmpty)
            let back = try NFSHandleRewriting.rewrite(
                there, handles: sample.handles, version: .v2
            ) { Array($0.reversed()) }
            #expect(back == sample.octets)
        }
    }

    @Test func `length words and padding`() throws {
        let message = octets("00000004 01020304 00000001 61000000")
        let longer = try NFSHandleRewriting.rewrite(message, handles: [4..<8], version: .v3) {
            [0xff] + $0
        }
        #expect(longer == octets("00000005 ff010203 04000000 00000001 61000000"))
        let shorter = try NFSHandleRewriting.rewrite(message, handles: [4..<8], version: .v3) {
            Array($0.dropFirst())
        }
        #expect(shorter == octets("00000003 02030400 00000001 61000000"))
        let none = try NFSHandleRewriting.rewrite(message, handles: [4..<8], version: .v3) { _ in
            []
        }
        #expect(none == octets("00000000 00000001 61000000"))
    }

    @Test func `both handles of RENAME, or the second alone`() throws {
        let message = octets(
            "00000002 a1a20000 00000003 6f6c6400 00000001 b1000000 00000003 6e657700")
        let both = try NFSHandleRewriting.rewrite(
            message, handles: [4..<6, 20..<21], version: .v3
        ) { [0xee, 0xee, 0xee] + $0 }
        #expect(
            both
                == octets(
                    """
                    00000005 eeeeeea1 a2000000 00000003 6f6c6400
                    00000004 eeeeeeb1 00000003 6e657700
                    """))
        let second = try NFSHandleRewriting.rewrite(
            message, handles: [20..<21], version: .v3
        ) { _ in [] }
        #expect(
            second
                == octets("00000002 a1a20000 00000003 6f6c6400 00000000 00000003 6e657700"))
    }

    @Test func `a message without handles stays as it is`() throws {
        let message = octets("00000046 00000000")
        #expect(try prefixed(message, []) == message)
        #expect(try prefixed([], []) == [])
    }

    @Test func `what does not fit`() throws {
        let message = octets("00000004 01020304 00000002 0a0b0000")
        let handles = [4..<8, 12..<14]
        func rewrite(_ replacement: (ArraySlice<UInt8>) -> [UInt8]?) throws -> [UInt8] {
            try NFSHandleRewriting.rewrite(
                message, handles: handles, version: .v3, replacement)
        }
        #expect(try rewrite { _ in [UInt8](repeating: 1, count: 64) }.count == 136)
        #expect(
            refusal { try rewrite { [UInt8](repeating: 1, count: $0.count == 2 ? 65 : 1) } }
                == .badLength(1))
        #expect(refusal { try rewrite { $0.count == 4 ? nil : [] } } == .refused(0))

        let fixed = [UInt8](repeating: 5, count: 64)
        for length in [0, 31, 33] {
            #expect(
                refusal {
                    try NFSHandleRewriting.rewrite(fixed, handles: [0..<32], version: .v2) { _ in
                        [UInt8](repeating: 1, count: length)
                    }
                } == .badLength(0))
        }
        #expect(
            refusal {
                try NFSHandleRewriting.rewrite(fixed, handles: [32..<64], version: .v2) { _ in
                    nil
                }
            } == .refused(0))
    }

    @Test func `ranges that are none of handles`() {
        let message = octets("00000004 01020304 00000002 0a0b0000")
        // Out of order, the same twice, another length than the word says, no word in front, beyond the end.
        let cases: [[Range<Int>]] = [
            [12..<14, 4..<8], [4..<8, 4..<8], [4..<7], [0..<4], [12..<18], [-4..<0],
            [Int.min..<Int.max], [Int.max..<Int.max], [Int.min..<Int.min],
        ]
        for handles in cases {
            for version in NFSVersion.allCases {
                let found = refusal {
                    try NFSHandleRewriting.rewrite(message, handles: handles, version: version) {
                        Array($0)
                    }
                }
                #expect(found == .badRange(version == .v3 ? handles.count - 1 : 0))
            }
        }
    }

    @Test func `padding that is not there`() {
        let message = octets("00000002 0a0b")
        #expect(refusal { try prefixed(message, [4..<6]) } == .badRange(0))
    }

    @Test func `any ranges of any message`() {
        var random = SplitMix64(seed: 13)
        for _ in 0..<5_000 {
            let message = random.bytes(random.below(120))
            let handles = (0..<random.below(4)).map { _ in
                let start = random.below(140) - 10
                return start..<start + random.below(70)
            }
            for version in NFSVersion.allCases {
                _ = try? NFSHandleRewriting.rewrite(message, handles: handles, version: version) {
                    Array($0.reversed())
                }
            }
        }
    }

    @Test func `READDIRPLUS with 10000 entries`() throws {
        let sample = NFSSample.results(.v3(.readdirplus), isFull: true, entries: 10_000)
        let clock = ContinuousClock()
        let start = clock.now
        let there = try prefixed(sample.octets, sample.handles)
        #expect(start.duration(to: clock.now) < .seconds(1))
        let results = try nfsResults(.v3(.readdirplus), there, at: NFSSample.start)
        #expect(results.handles.count == 10_000)
        #expect(try stripped(there, results.handles) == sample.octets)
    }
}
