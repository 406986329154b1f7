import StorageProtocols
import TestSupport
import Testing

@Suite struct TextTests {
    @Test func `pairs keep their order, and their encoding is read back`() throws {
        let text = ISCSIText([("B", "1"), ("A", "x=y"), ("C", "")])
        #expect(text.encoded() == Array("B=1\0A=x=y\0C=\0".utf8))
        let read = try ISCSIText(text.encoded())
        #expect(read == text)
        #expect(read["A"] == "x=y")
        #expect(read["C"] == "")
        #expect(read["D"] == nil)
        #expect(!read.isEmpty)
        #expect(ISCSIText().isEmpty)
    }

    @Test func `a value is replaced and removed`() {
        var text = ISCSIText([("A", "1"), ("B", "2")])
        text["A"] = "3"
        #expect(text.pairs.map(\.key) == ["B", "A"])
        text["A"] = nil
        #expect(text == ISCSIText([("B", "2")]))
    }

    @Test func `no octets, and NULs alone, are no pairs`() throws {
        #expect(try ISCSIText([UInt8]()).isEmpty)
        #expect(try ISCSIText([0, 0, 0]).isEmpty)
        // The last pair may lack its NUL.
        #expect(try ISCSIText(Array("A=1".utf8))["A"] == "1")
    }

    @Test(arguments: [
        ("A", "no '=' in \"A\""), ("A=1\0B\0", "no '=' in \"B\""), ("=1\0", "key of 0 octets"),
        (String(repeating: "k", count: 64) + "=1\0", "key of 64 octets"),
        ("A=1\0B=2\0A=1\0", "key A twice"),
    ])
    func `malformed text says what is wrong`(text: String, message: String) {
        #expect(throws: ISCSIError.malformedText(message)) { try ISCSIText(Array(text.utf8)) }
    }

    @Test func `a key of 63 octets is the longest`() throws {
        let key = String(repeating: "k", count: 63)
        #expect(try ISCSIText(Array("\(key)=1".utf8))[key] == "1")
    }

    @Test func `a text is bounded in octets and in pairs`() throws {
        let long = Array("A=".utf8) + [UInt8](repeating: 0x61, count: ISCSIText.maximumLength - 2)
        #expect(try ISCSIText(long)["A"]?.count == ISCSIText.maximumLength - 2)
        #expect(throws: ISCSIError.malformedText("too long")) { try ISCSIText(long + [0x61]) }
        let many = (0..<ISCSIText.maximumPairs).flatMap { Array("k\($0)=\0".utf8) }
        #expect(try ISCSIText(many).pairs.count == ISCSIText.maximumPairs)
        #expect(throws: ISCSIError.malformedText("more than \(ISCSIText.maximumPairs) keys")) {
            try ISCSIText(many + Array("one=more\0".utf8))
        }
    }

    @Test(arguments: [
        ("0", 0), ("8192", 8_192), ("0x2000", 8_192), ("0X1f", 31), ("0xfF", 255),
        ("18446744073709551615", UInt64.max),
    ])
    func `numbers are decimal or hexadecimal`(text: String, value: UInt64) {
        #expect(ISCSIText.number(text) == value)
    }

    @Test(arguments: [
        "", "x", "-1", "+1", "0x", "0xg", "0x+5", "0x-0", "1.5", " 1", "1 ", "18446744073709551616",
        "1_000", "٣", "0b01",
    ])
    func `what is no number`(text: String) {
        #expect(ISCSIText.number(text) == nil)
    }

    @Test(
        arguments: [
            ("0x", []), ("0x00ff", [0, 255]), ("0XaB", [0xab]), ("0xabc", [0x0a, 0xbc]), ("0b", []),
            ("0bAAEC", [0, 1, 2]), ("0bAAE=", [0, 1]), ("0BAA==", [0]),
            ("0b+/+/", [0xfb, 0xff, 0xbf]),
        ] as [(String, [UInt8])])
    func `binary values are hexadecimal or base64`(text: String, value: [UInt8]) {
        #expect(ISCSIText.binary(text) == value)
    }

    @Test(arguments: ["", "0", "00ff", "0xg0", "0x+5", "0x-0", "0b!", "0bAA A", "1x00"])
    func `what is no binary value`(text: String) {
        #expect(ISCSIText.binary(text) == nil)
    }

    @Test func `hexadecimal form of all octets is read back`() {
        let all = (0...255).map { UInt8($0) }
        #expect(ISCSIText.hex([0, 0x0f, 0xa0]) == "0x000fa0")
        #expect(ISCSIText.binary(ISCSIText.hex(all)) == all)
    }

    @Test func `random octets are pairs that encode to themselves, or an error`() {
        var random = SplitMix64(seed: 3)
        let alphabet = Array("ab=0x\0\0\u{7f}é".utf8)
        for _ in 0..<20_000 {
            let bytes = (0..<Int.random(in: 0..<24, using: &random)).map { _ in
                alphabet.randomElement(using: &random) ?? 0
            }
            guard let text = try? ISCSIText(bytes) else { continue }
            let again = try? ISCSIText(text.encoded())
            #expect(again == text)
        }
    }
}
