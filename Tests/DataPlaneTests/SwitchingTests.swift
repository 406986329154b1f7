import DataPlane
import TestSupport
import Testing

/// Action `normal`: learning, flooding, domains, CPU ports.
@Suite struct SwitchingTests {
    let a = MACAddress(rawValue: 0x0200_0000_000a)
    let b = MACAddress(rawValue: 0x0200_0000_000b)

    private func frame(
        from source: MACAddress, to destination: MACAddress, vlan: UInt16? = nil
    ) -> [UInt8] {
        var builder = PacketBuilder(payload: [1, 2, 3])
        builder.sourceMAC = source
        builder.destinationMAC = destination
        if let vlan { builder.tags = [.init(tci: vlan)] }
        return builder.frame()
    }

    private func bridge(_ ports: [TestSwitch.PortDescription]) throws -> TestSwitch {
        let fixture = TestSwitch(ports)
        try fixture.addRule([.normal])
        return fixture
    }

    @Test func floodsThenLearns() throws {
        let fixture = try bridge([.init(1), .init(2), .init(3), .init(4, domain: 1)])
        let first = frame(from: a, to: b)
        var sent = fixture.send(first, on: 1)
        #expect(Set(sent.keys) == [2, 3])
        #expect(sent.values.allSatisfy { $0.map(\.bytes) == [first] })
        sent = fixture.send(frame(from: b, to: a), on: 2)
        #expect(Set(sent.keys) == [1])
        sent = fixture.send(first, on: 1)
        #expect(Set(sent.keys) == [2])
        // It moves.
        _ = fixture.send(frame(from: b, to: a), on: 3)
        #expect(Set(fixture.send(first, on: 1).keys) == [3])
        #expect(
            Set(fixture.macs.map { "\($0.mac) \($0.port)" }) == ["\(a) 1", "\(b) 3"])
    }

    @Test func groupAddresses() throws {
        let fixture = try bridge([.init(1), .init(2), .init(3)])
        #expect(Set(fixture.send(frame(from: a, to: .broadcast), on: 1).keys) == [2, 3])
        let multicast = MACAddress(rawValue: 0x0100_5e00_0001)
        #expect(Set(fixture.send(frame(from: a, to: multicast), on: 1).keys) == [2, 3])
        // A group address as source is not learned.
        _ = fixture.send(frame(from: multicast, to: a), on: 2)
        #expect(fixture.macs.map(\.mac) == [a])
        for last in [0, 0xe, 0xf] as [UInt64] {
            let reserved = MACAddress(rawValue: 0x0180_c200_0000 | last)
            #expect(fixture.send(frame(from: a, to: reserved), on: 1).isEmpty)
        }
        #expect(fixture.drops(.reservedMulticast) == 3)
        let next = MACAddress(rawValue: 0x0180_c200_0010)
        #expect(Set(fixture.send(frame(from: a, to: next), on: 1).keys) == [2, 3])
    }

    @Test func vlansLearnApart() throws {
        let fixture = try bridge([.init(1), .init(2), .init(3)])
        _ = fixture.send(frame(from: b, to: .broadcast, vlan: 5), on: 2)
        #expect(Set(fixture.send(frame(from: a, to: b, vlan: 5), on: 1).keys) == [2])
        #expect(Set(fixture.send(frame(from: a, to: b, vlan: 6), on: 1).keys) == [2, 3])
        #expect(Set(fixture.send(frame(from: a, to: b), on: 1).keys) == [2, 3])
    }

    @Test func domainsAreApart() throws {
        let fixture = try bridge([
            .init(1), .init(2), .init(3, domain: 1), .init(4, domain: 1), .init(5, domain: 15),
        ])
        #expect(Set(fixture.send(frame(from: a, to: b), on: 1).keys) == [2])
        // The same address in two domains.
        _ = fixture.send(frame(from: b, to: .broadcast), on: 2)
        _ = fixture.send(frame(from: b, to: .broadcast), on: 4)
        #expect(Set(fixture.send(frame(from: a, to: b), on: 1).keys) == [2])
        #expect(Set(fixture.send(frame(from: a, to: b), on: 3).keys) == [4])
        #expect(fixture.send(frame(from: a, to: .broadcast), on: 5).isEmpty)
        // A rule may still cross: it says so.
        try fixture.addRule([.output(4)], match: .inPort(1), priority: 200)
        #expect(Set(fixture.send(frame(from: a, to: b), on: 1).keys) == [4])
    }

    @Test func notBackWhereItCameFrom() throws {
        let fixture = try bridge([.init(1), .init(2)])
        _ = fixture.send(frame(from: b, to: .broadcast), on: 1)
        #expect(fixture.send(frame(from: a, to: b), on: 1).isEmpty)
        #expect(fixture.drops(.sourceIsDestinationPort) == 1)
    }

    @Test func ageing() throws {
        let fixture = try bridge([.init(1), .init(2), .init(3)])
        _ = fixture.send(frame(from: b, to: .broadcast), on: 2)
        fixture.advance(seconds: 299)
        #expect(Set(fixture.send(frame(from: a, to: b), on: 1).keys) == [2])
        fixture.advance(seconds: 2)
        #expect(Set(fixture.send(frame(from: a, to: b), on: 1).keys) == [2, 3])
        #expect(fixture.macs.map(\.mac) == [a])
    }

    @Test func tableFull() throws {
        let fixture = try bridge([.init(1), .init(2), .init(3)])
        for number in 0..<20 as Range<UInt64> {
            let mac = MACAddress(rawValue: 0x0200_0000_0100 + number)
            _ = fixture.send(frame(from: mac, to: .broadcast), on: 2)
        }
        #expect(fixture.macs.count == 16)
        // What found no place is flooded, not lost.
        let last = MACAddress(rawValue: 0x0200_0000_0113)
        #expect(Set(fixture.send(frame(from: a, to: last), on: 1).keys) == [2, 3])
    }

    @Test func removedAndDownPorts() throws {
        let fixture = try bridge([.init(1), .init(2), .init(3)])
        _ = fixture.send(frame(from: b, to: .broadcast), on: 2)
        fixture.ports[2]?.isUp = false
        #expect(fixture.send(frame(from: a, to: b), on: 1).isEmpty)
        #expect(fixture.drops(.portDown) == 1)
        #expect(Set(fixture.send(frame(from: a, to: .broadcast), on: 1).keys) == [3])
        #expect(fixture.worker.call { $0.removePort(2) } == true)
        #expect(fixture.worker.call { $0.removePort(2) } == false)
        #expect(fixture.macs.map(\.mac) == [a])
        #expect(Set(fixture.send(frame(from: a, to: b), on: 1).keys) == [3])
    }

    @Test func flush() throws {
        let fixture = try bridge([.init(1), .init(2), .init(3, domain: 1)])
        _ = fixture.send(frame(from: a, to: b), on: 1)
        _ = fixture.send(frame(from: a, to: b), on: 3)
        try fixture.apply([.flushMACs(1)])
        #expect(fixture.macs.map(\.domain) == [0])
        try fixture.apply([.flushMACs(nil)])
        #expect(fixture.macs.isEmpty)
    }

    @Test func cpuPort() throws {
        var configuration = TestSwitch.configuration
        configuration.synRate = 10
        let fixture = TestSwitch(
            [.init(1), .init(2), .init(9, isCPU: true)], configuration: configuration)
        try fixture.addRule([.normal])
        _ = fixture.send(frame(from: b, to: .broadcast), on: 9)
        #expect(Set(fixture.send(frame(from: a, to: b), on: 1).keys) == [9])
        // Ten SYNs a second, after a burst of a tenth of a second's worth; other packets are free.
        var builder = PacketBuilder("10.0.0.1", "10.0.0.2", .tcp(flags: TCPFlags.syn))
        builder.sourceMAC = a
        builder.destinationMAC = b
        let syns = Array(repeating: builder.frame(), count: 50)
        let passed = fixture.send(syns, on: 1)[9]?.count ?? 0
        #expect(passed >= 1 && passed <= 3)
        #expect(fixture.drops(.synLimit) == UInt64(50 - passed))
        #expect(fixture.send(frame(from: a, to: b), on: 1)[9]?.count == 1)
        fixture.advance(seconds: 1)
        #expect((fixture.send(syns, on: 1)[9]?.count ?? 0) >= 1)
    }

    @Test func portNumbers() {
        let fixture = TestSwitch([.init(1)])
        let refused: [(PortNumber, DomainID)] = [(0, 0), (1, 0), (64, 0), (.max, 0), (2, 16)]
        for (number, domain) in refused {
            let isAdded = fixture.worker.call {
                $0.addPort(MemoryPort(name: "x"), number: number, domain: domain)
            }
            #expect(isAdded == false, "\(number) \(domain)")
        }
        #expect(
            fixture.worker.call { $0.addPort(MemoryPort(name: "x"), number: 63, domain: 15) }
                == true)
        #expect(fixture.worker.call { $0.portStatus().map(\.number) } == [1, 63])
    }

    @Test func portCounters() throws {
        let fixture = try bridge([.init(1), .init(2)])
        let bytes = frame(from: a, to: b)
        _ = fixture.send([bytes, bytes, bytes], on: 1)
        let status = fixture.worker.call { $0.portStatus() } ?? []
        let total = UInt64(bytes.count * 3)
        #expect(status.first?.counters.receivedPackets == 3)
        #expect(status.first?.counters.receivedBytes == total)
        #expect(status.last?.counters.sentPackets == 3)
        #expect(status.last?.counters.sentBytes == total)
    }
}
