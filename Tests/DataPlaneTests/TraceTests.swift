import DataPlane
import TestSupport
import Testing

@Suite struct TraceTests {
    private func trace(_ fixture: TestSwitch, _ bytes: [UInt8], port: PortNumber = 1) -> String {
        let now = fixture.now
        return (fixture.worker.call { $0.dryRun(bytes, port: port, now: now).steps } ?? [])
            .joined(separator: "\n")
    }

    @Test func tellsTheWay() throws {
        let fixture = TestSwitch([.init(1), .init(2)])
        try fixture.addRule([.setTTL(9), .output(2)], priority: 77, cookie: 0xbeef)
        let text = trace(fixture, PacketBuilder().frame())
        for part in [
            "port 1", "10.0.0.1 > 10.0.0.2", "TCP 40000 > 3260", "priority 77", "cookie 0xbeef",
            "setTTL(9)", "output to port 2",
        ] {
            #expect(text.contains(part), "\(part) in \(text)")
        }
        // A dry run: nothing is sent or counted.
        #expect(fixture.drain().values.flatMap { $0 }.isEmpty)
        #expect(fixture.rules[0].packets == 0)
    }

    @Test func tellsDrops() throws {
        let fixture = TestSwitch([.init(1), .init(2)])
        #expect(trace(fixture, PacketBuilder().frame()).contains("drop: noRule"))
        try fixture.addRule([.drop])
        #expect(trace(fixture, PacketBuilder().frame()).contains("drop: ruleAction"))
        #expect(trace(fixture, [1, 2, 3]).contains("drop: frameTooShort"))
        #expect(trace(fixture, PacketBuilder().frame(), port: 9).contains("no port 9"))
        #expect(trace(fixture, [UInt8](repeating: 0, count: 70_000)).contains("too long"))
        #expect(fixture.status.drops.values.reduce(0, +) == 0)
    }

    @Test func tellsSwitching() throws {
        let fixture = TestSwitch([.init(1), .init(2)])
        try fixture.addRule([.normal])
        #expect(trace(fixture, PacketBuilder().frame()).contains("flood"))
        // A dry run learns nothing; a packet does.
        _ = fixture.send(PacketBuilder().frame(), on: 1)
        var answer = PacketBuilder()
        swap(&answer.sourceMAC, &answer.destinationMAC)
        #expect(trace(fixture, answer.frame(), port: 2).contains("is behind port 1"))
    }

    @Test func everySample() {
        let fixture = TestSwitch([.init(1), .init(2)])
        for (name, bytes) in PacketBuilder.samples {
            for length in [bytes.count, bytes.count / 2, 0] {
                #expect(!trace(fixture, Array(bytes.prefix(length))).isEmpty, "\(name)")
            }
        }
    }
}
