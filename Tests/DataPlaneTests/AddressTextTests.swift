import DataPlane
import Testing

@Suite struct AddressTextTests {
    @Test(arguments: [
        "10.0.0.1", "255.255.255.255", "0.0.0.0", "fd00::1", "::", "2001:db8::a:0:0:1",
    ])
    func addressesReadBack(text: String) {
        #expect(IPAddress(text)?.description == text)
    }

    @Test(arguments: ["", "10.0.0", "10.0.0.256", "1.2.3.4.5", "fd00::1::2", "g::", "10.0.0.1 "])
    func badAddresses(text: String) { #expect(IPAddress(text) == nil) }

    @Test(arguments: [
        "", "1:2:3:4:5", "1:2:3:4:5:6:7", "00:11:22:33:44:5g", "+1:2:3:4:5:6", "001:2:3:4:5:6",
    ])
    func badMACs(text: String) { #expect(MACAddress(text) == nil) }

    @Test func macs() {
        #expect(MACAddress("02:00:0a:ff:1:2")?.description == "02:00:0a:ff:01:02")
        #expect(MACAddress("01:00:5e:00:00:01")?.isGroup == true)
        #expect(MACAddress("02:00:5e:00:00:01")?.isGroup == false)
    }

    @Test(arguments: ["10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "fd00::/129", "/8", "x/8"])
    func badPrefixes(text: String) { #expect(IPPrefix(text) == nil) }

    @Test func prefixes() throws {
        let cases: [(String, String, Bool)] = [
            ("10.1.2.3/8", "10.200.0.1", true), ("10.1.2.3/8", "11.0.0.1", false),
            ("0.0.0.0/0", "255.1.1.1", true), ("0.0.0.0/0", "fd00::1", false),
            ("10.0.0.1", "10.0.0.1", true), ("10.0.0.1", "10.0.0.2", false),
            ("fd00::/64", "fd00::ffff:0:0:1", true), ("fd00::/64", "fd00:0:0:1::1", false),
            ("fd00::8000/113", "fd00::8001", true), ("fd00::8000/113", "fd00::7fff", false),
            ("::/0", "fd00::1", true), ("::/0", "10.0.0.1", false),
        ]
        for (prefix, address, isInside) in cases {
            let left = try #require(IPPrefix(prefix))
            let right = try #require(IPAddress(address))
            #expect(left.contains(right) == isInside, "\(prefix) \(address)")
        }
    }

    @Test func sequenceNumbers() {
        let high = SequenceNumber(0xffff_fff0)
        #expect((high + 0x20).rawValue == 0x10)
        #expect(high.isBefore(high + 0x20) && (high + 0x20).isAfter(high))
        #expect((high + 0x20) - high == 0x20)
        #expect(!high.isBefore(high) && !high.isAfter(high))
    }
}
