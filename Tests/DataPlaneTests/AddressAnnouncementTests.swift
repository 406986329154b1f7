import DataPlane
import Testing

@Suite struct `Address announcements` {
    private let mac = MACAddress(rawValue: 0x0264_7372_0001)

    /// Field by field as RFC 5227 section 2.3 and RFC 826 have it.
    @Test func `IPv4 is an ARP announcement`() {
        let frame = AddressAnnouncement.frame(of: IPAddress(v4: 0x0a0a_0064), at: mac)
        let own: [UInt8] = [0x02, 0x64, 0x73, 0x72, 0x00, 0x01]
        let address: [UInt8] = [10, 10, 0, 100]
        let expected: [UInt8] =
            [UInt8](repeating: 0xff, count: 6) + own + [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]
            + own + address + [UInt8](repeating: 0, count: 6) + address
        #expect(frame == expected + [UInt8](repeating: 0, count: 60 - expected.count))
    }

    /// RFC 4861 section 4.4 and 7.2.6.
    @Test func `IPv6 is an unsolicited neighbour advertisement`() throws {
        let address = try #require(IPAddress("fd10::100"))
        let frame = AddressAnnouncement.frame(of: address, at: mac)
        #expect(Array(frame[0..<6]) == [0x33, 0x33, 0, 0, 0, 1])
        #expect(Array(frame[12..<14]) == [0x86, 0xdd])
        #expect(frame.count == 86)
        #expect(frame[21] == 255, "hop limit")
        #expect(Array(frame[38..<54]) == [0xff, 2] + [UInt8](repeating: 0, count: 13) + [1])
        #expect(frame[54] == 136)
        #expect(frame[58] == 0x20, "override, neither router nor solicited")
        #expect(Array(frame[62..<78]) == Array(frame[22..<38]), "target is the source")
        #expect(Array(frame[78..<86]) == [2, 1, 0x02, 0x64, 0x73, 0x72, 0, 1])
        let sum = Array(frame[54...]).withUnsafeBytes {
            InternetChecksum.transport(
                source: address, destination: IPAddress(high: 0xff02 << 48, low: 1),
                ipProtocol: IPProtocol.icmpv6, segment: $0)
        }
        #expect(sum == 0)
    }

    @Test func `they leave by the network ports of their side that are up`() {
        var pipeline = Pipeline()
        let ports = (1...5).map { MemoryPort(name: "p\($0)") }
        for (index, port) in ports.enumerated() {
            pipeline.addPort(
                port, number: PortNumber(index + 1), domain: index == 3 ? 1 : 0, isCPU: index == 4)
        }
        ports[2].isUp = false
        let frame = AddressAnnouncement.frame(of: IPAddress(v4: 0x0a0a_0064), at: mac)
        let all = pipeline.announce(frame, domain: 0, now: 0)
        #expect(all == 2)
        #expect(ports.map { $0.drain().map(\.bytes) } == [[frame], [frame], [], [], []])
        let one = pipeline.announce(frame, domain: 0, only: 2, now: 0)
        #expect(one == 1)
        #expect(ports.map { $0.drain().count } == [0, 1, 0, 0, 0])
        let other = pipeline.announce(frame, domain: 0, only: 4, now: 0)
        #expect(other == 0, "port 4 is on the other side")
    }
}
