import StorageProtocols
import TestSupport
import Testing

@Suite struct PDUTests {
    /// PDUs of all lengths of data and additional headers around the padding.
    private func samples() -> [ISCSIPDU] {
        var random = SplitMix64(seed: 1)
        var result: [ISCSIPDU] = []
        for length in [0, 1, 2, 3, 4, 5, 48, 511, 512, 8_191, 8_192] {
            for additional in [0, 4, 8, 1_020] {
                var pdu = ISCSIPDU(
                    opcode: UInt8.random(in: 0..<0x40, using: &random),
                    flags: UInt8.random(in: 0...255, using: &random), isImmediate: length % 2 == 1)
                for offset in 8..<48 { pdu[offset] = UInt8.random(in: 0...255, using: &random) }
                pdu.additionalHeaders = random.bytes(additional)
                pdu.data = random.bytes(length)
                result.append(pdu)
            }
        }
        return result
    }

    @Test func `encoded form is read back, and padded to four octets`() throws {
        for pdu in samples() {
            let bytes = pdu.encoded()
            #expect(bytes.count % 4 == 0)
            #expect(bytes.count >= 48 + pdu.additionalHeaders.count + pdu.data.count)
            #expect(bytes.count < 48 + pdu.additionalHeaders.count + pdu.data.count + 4)
            let read = try pdus(bytes)
            try #require(read.count == 1)
            #expect(read[0].data == pdu.data)
            #expect(read[0].additionalHeaders == pdu.additionalHeaders)
            #expect(read[0].encoded() == bytes)
        }
    }

    @Test func `header layout is that of RFC 7143 section 11`() {
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.login, flags: 0x87, isImmediate: true)
        pdu.isid = [1, 2, 3, 4, 5, 6]
        pdu.tsih = 0x0708
        pdu.initiatorTaskTag = 0x090a_0b0c
        pdu.connectionID = 0x0d0e
        pdu.commandSequence = 0x1112_1314
        pdu.expectedStatus = 0x1516_1718
        pdu.data = [0xaa]
        #expect(
            pdu.encoded()
                == octets(
                    """
                    43870000 00000001 01020304 05060708 090a0b0c 0d0e0000 11121314 15161718
                    00000000 00000000 00000000 00000000 aa000000
                    """))
        #expect(pdu.opcode == ISCSIOpcode.login)
        #expect(pdu.isImmediate)
        var response = ISCSIPDU(opcode: ISCSIOpcode.textResponse, flags: 0x80)
        response.targetTransferTag = 1
        response.statusSequence = 2
        response.expectedCommand = 3
        response.maximumCommand = 4
        #expect(
            Array(response.encoded()[20..<36]) == [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4])
    }

    @Test func `a stream cut at every octet gives the same PDUs`() throws {
        var stream: [UInt8] = []
        for pdu in samples().filter({ $0.data.count < 64 && $0.additionalHeaders.count < 9 }) {
            stream += pdu.encoded()
        }
        let whole = try pdus(stream)
        #expect(whole.count == 21)
        for cut in 0...stream.count {
            var reader = ISCSIPDUReader()
            var read: [ISCSIPDU] = []
            reader.append(stream[..<cut])
            while let pdu = try reader.next() { read.append(pdu) }
            reader.append(stream[cut...])
            while let pdu = try reader.next() { read.append(pdu) }
            #expect(read == whole)
            #expect(reader.isEmpty)
        }
    }

    @Test func `octet by octet, a PDU comes with its last octet and not before`() throws {
        for pdu in samples().prefix(24) {
            var reader = ISCSIPDUReader()
            let bytes = pdu.encoded()
            for (index, octet) in bytes.enumerated() {
                #expect(reader.peekOpcode() == (index >= 48 ? pdu.opcode : nil))
                reader.append([octet])
                let next = try reader.next()
                #expect((next != nil) == (index == bytes.count - 1))
            }
        }
    }

    @Test func `many PDUs in one buffer, and what is left of the next`() throws {
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.dataOut)
        pdu.data = [UInt8](repeating: 5, count: 8_192)
        var reader = ISCSIPDUReader()
        for _ in 0..<64 { reader.append(pdu.encoded()) }
        reader.append([1, 2, 3])
        var count = 0
        while let next = try reader.next() {
            #expect(next.data == pdu.data)
            count += 1
        }
        #expect(count == 64)
        #expect(reader.remaining == [1, 2, 3])
        #expect(!reader.isEmpty)
        reader.clear()
        #expect(reader.isEmpty)
    }

    @Test(arguments: [(0, 1), (8_192, 8_193), (262_144, 262_145), (0xff_fffe, 0xff_ffff)])
    func `a data segment beyond the limit is an error, at the limit it is not`(
        limit: Int, beyond: Int
    ) {
        var header = [UInt8](repeating: 0, count: 48)
        func set(_ length: Int) {
            header[5] = UInt8(length >> 16)
            header[6] = UInt8(length >> 8 & 255)
            header[7] = UInt8(length & 255)
        }
        set(limit)
        var reader = ISCSIPDUReader(dataMaximum: limit)
        reader.append(header)
        #expect((try? reader.nextLength()) == 48 + (limit + 3) / 4 * 4)
        set(beyond)
        reader = ISCSIPDUReader(dataMaximum: limit)
        reader.append(header)
        #expect(throws: ISCSIError.dataSegmentTooLong(beyond, limit: limit)) {
            try reader.nextLength()
        }
        #expect(throws: ISCSIError.dataSegmentTooLong(beyond, limit: limit)) { try reader.next() }
    }

    @Test func `longest additional header segment`() throws {
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.scsiCommand)
        pdu.additionalHeaders = [UInt8](repeating: 9, count: 255 * 4)
        pdu.data = [1]
        let bytes = pdu.encoded()
        #expect(bytes.count == 48 + 1_020 + 4)
        #expect(bytes[4] == 255)
        #expect(try pdus(bytes).first?.additionalHeaders.count == 1_020)
    }

    @Test func `random octets give PDUs, an error, or wait for more`() {
        var random = SplitMix64(seed: 2)
        for _ in 0..<2_000 {
            var reader = ISCSIPDUReader(dataMaximum: 4_096)
            var length = 0
            for _ in 0..<8 {
                let part = random.bytes(Int.random(in: 0..<200, using: &random))
                length += part.count
                reader.append(part)
            }
            var taken = 0
            do {
                while let pdu = try reader.next() { taken += pdu.encoded().count }
                #expect(taken + reader.remaining.count == length)
            } catch {
                guard case .dataSegmentTooLong(let given, 4_096) = error else {
                    Issue.record("\(error)")
                    continue
                }
                #expect(given > 4_096)
            }
        }
    }
}
