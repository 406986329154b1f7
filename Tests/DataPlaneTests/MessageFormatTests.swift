import DataPlane
import TestSupport
import Testing

@Suite struct MessageFormatTests {
    private func length(_ format: MessageFormat, _ header: [UInt8]) -> Int? {
        header.withUnsafeBytes { buffer in
            buffer.baseAddress.flatMap { format.length(of: $0) }
        }
    }

    /// A basic header segment with TotalAHSLength in words and DataSegmentLength; the rest is full.
    private func segment(_ additional: UInt32, _ data: UInt32) -> [UInt8] {
        let end = [UInt8](repeating: 0xff, count: 40)
        return bigEndian32(0xffff_ffff) + bigEndian32(additional << 24 | data) + end
    }

    @Test(
        arguments: [
            (0, 0, 48), (0, 1, 52), (0, 3, 52), (0, 4, 52), (0, 5, 56), (0, 8_192, 8_240),
            (1, 0, 52),
            (1, 1, 56), (2, 6, 64), (255, 0, 1_068), (255, 7, 1_076), (0, 0xff_ffd0, 16_777_216),
            (0, 0xff_ffd1, nil), (0, 0xff_ffff, nil), (1, 0xff_ffcc, 16_777_216),
            (1, 0xff_ffcd, nil),
        ] as [(UInt32, UInt32, Int?)])
    func iscsi(additional: UInt32, data: UInt32, expected: Int?) {
        #expect(length(.iscsi, segment(additional, data)) == expected)
    }

    @Test func `iSCSI digests`() {
        var format = MessageFormat.iscsi
        format.fixedExtra = 4
        format.payloadExtra = 4
        #expect(length(format, segment(0, 0)) == 52)
        #expect(length(format, segment(0, 1)) == 60)
        #expect(length(format, segment(0, 0xff_ffc8)) == 16_777_216)
        #expect(length(format, segment(0, 0xff_ffc9)) == nil)
    }

    /// The top bit says that it is the last fragment; there are 20 octets at least behind the mark.
    @Test(
        arguments: [
            (0, nil), (19, nil), (20, 24), (21, 25), (0x8000_0000, nil), (0x8000_0013, nil),
            (0x8000_0014, 24), (0x8000_0064, 104), (0x64, 104),
            (0x80ff_fffc, 16_777_216), (0x80ff_fffd, nil), (0x00ff_fffd, nil), (0x7fff_ffff, nil),
            (0xffff_ffff, nil),
        ] as [(UInt32, Int?)])
    func `RPC records`(mark: UInt32, expected: Int?) {
        let header = bigEndian32(mark) + [UInt8](repeating: 0xff, count: 20)
        #expect(length(.rpc, header) == expected)
    }

    /// The first octet is no part of the length.
    @Test(
        arguments: [
            (0, 4), (64, 68), (0x01_0203, 0x01_0207), (0xff00_0040, 68),
            (0x00ff_fffc, 16_777_216), (0x00ff_fffd, nil), (0x00ff_ffff, nil),
        ] as [(UInt32, Int?)])
    func `SMB2 over TCP`(header: UInt32, expected: Int?) {
        #expect(length(.smb2, bigEndian32(header)) == expected)
    }

    /// Never fewer octets than the header has, and no trap, whatever is taken off.
    @Test func `octets taken off`() {
        var format = MessageFormat.smb2
        format.fixedExtra = -4
        #expect(length(format, bigEndian32(3)) == nil)
        #expect(length(format, bigEndian32(4)) == 4)
        format.fixedExtra = .min
        #expect(length(format, bigEndian32(0)) == nil)
        #expect(length(format, bigEndian32(32_768)) == 4)
        format.payloadExtra = .max
        #expect(length(format, bigEndian32(1)) == 4 - 32_768 + 65_535 + 1)
    }

    @Test func `fields and file handles that do not fit`() {
        let handles = RPCHandleSet([[1]: 0])
        #expect(MessageTracker.accepts(SpliceMessages(format: .rpc)))
        #expect(
            MessageTracker.accepts(
                SpliceMessages(format: .rpc, requests: .rpc, clientHandles: handles)))
        #expect(!MessageTracker.accepts(SpliceMessages(format: .iscsi, clientHandles: handles)))
        for (offset, width, fits) in [(23, 1, true), (24, 1, false), (20, 8, false), (0, 3, false)]
            as [(UInt16, UInt8, Bool)]
        {
            let field = MessageFormat.Field(offset: offset, width: width)
            var format = MessageFormat.rpc
            format.completeness = field
            #expect(MessageTracker.accepts(SpliceMessages(format: format)) == fits)
            format = .rpc
            format.id = field
            #expect(MessageTracker.accepts(SpliceMessages(format: format)) == fits)
        }
    }

    @Test func `a lower maximum`() {
        var format = MessageFormat.smb2
        format.maximumLength = 100
        #expect(length(format, bigEndian32(96)) == 100)
        #expect(length(format, bigEndian32(97)) == nil)
    }

    @Test(arguments: [MessageFormat.iscsi, .rpc, .smb2])
    func `a tracker finds the next message there`(format: MessageFormat) {
        var random = SplitMix64(seed: 3)
        var (accepted, refused) = (0, 0)
        for _ in 0..<2_000 {
            var limited = format
            limited.maximumLength = UInt32(1) << UInt32(6 + random.below(26))
            var header = random.bytes(Int(format.headerLength))
            // Fragments are held, whatever their length.
            if format.completeness != nil { header[0] |= 0x80 }
            let expected = length(limited, header)
            let count = header.count
            var delta = PayloadDelta()
            var tracker = MessageTracker(
                limited, edits: [], holdKinds: 0, nextHeader: SequenceNumber(0), ringCapacity: 16)
            let verdict = header.withUnsafeMutableBytes { buffer in
                buffer.baseAddress.map {
                    tracker.inspect(
                        payload: $0, length: count, sequence: SequenceNumber(0), delta: &delta)
                }
            }
            let next = tracker.nextHeader
            if let expected {
                accepted += 1
                #expect(verdict == .forward)
                #expect(next == SequenceNumber(UInt32(expected)))
            } else {
                refused += 1
                #expect(verdict == .malformed)
            }
        }
        #expect(accepted > 0)
        #expect(refused > 0)
    }
}
