import DataPlane
import Testing

/// A trace tells what would happen and leaves everything as it was.
@Suite struct `Dry run` {
    private static let now: UInt64 = 5_000_000_000

    /// Three ports, the third one the CPU's; port 2 has a small MTU.
    private func addPorts(_ pipeline: inout Pipeline, _ rules: [Rule]) throws -> [MemoryPort] {
        let ports = ["one", "two", "cpu"].map { MemoryPort(name: $0) }
        for (index, port) in ports.enumerated() {
            let isAdded = pipeline.addPort(
                port, number: PortNumber(index + 1), domain: 0, isCPU: index == 2,
                mtu: index == 1 ? 1_000 : 0)
            try #require(isAdded)
        }
        _ = try pipeline.apply(rules.map { .addRule($0) }, now: 0)
        return ports
    }

    /// UDP over IPv4 with this much payload.
    private func datagram(payload: Int = 20, mayFragment: Bool = true) -> [UInt8] {
        var ip: [UInt8] = [
            0x45, 0, UInt8((28 + payload) >> 8), UInt8((28 + payload) & 0xff), 0, 1,
            mayFragment ? 0 : 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]
        let sum = ip.withUnsafeBytes { ~InternetChecksum.sum($0) }
        ip[10] = UInt8(sum >> 8)
        ip[11] = UInt8(sum & 0xff)
        let udp: [UInt8] = [
            0x10, 0, 0x20, 0, UInt8((8 + payload) >> 8), UInt8((8 + payload) & 0xff), 0, 0,
        ]
        return [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0] + ip + udp
            + [UInt8](repeating: 7, count: payload)
    }

    private struct Traces: Equatable {
        var sent: [Int]
        var packets: [UInt64]
        var drops: [DropReason: UInt64]
        var rules: [UInt64]
        var macs: Int
    }

    private func traces(_ pipeline: borrowing Pipeline, _ ports: [MemoryPort]) -> Traces {
        Traces(
            sent: ports.map { $0.drain().count },
            packets: pipeline.portStatus().map(\.counters.sentPackets)
                + pipeline.portStatus().map(\.counters.receivedPackets),
            drops: pipeline.status().drops,
            rules: pipeline.ruleStatus(now: Self.now).map(\.packets),
            macs: pipeline.macStatus(now: Self.now).count)
    }

    private func dryRun(
        _ actions: [Action], _ bytes: [UInt8], prepare: (inout Pipeline) throws -> Void = { _ in }
    ) throws -> PacketTrace {
        var pipeline = Pipeline()
        let ports = try addPorts(&pipeline, [Rule(actions: actions)])
        try prepare(&pipeline)
        let before = traces(pipeline, ports)
        let result = pipeline.dryRun(bytes, port: 1, now: Self.now)
        let after = traces(pipeline, ports)
        #expect(after == before)
        // The switch works as before.
        ports[1].inject(bytes)
        pipeline.step(now: Self.now)
        let rules = pipeline.ruleStatus(now: Self.now).map(\.packets)
        #expect(rules == [1])
        return result
    }

    @Test func `outputs are named, in their order`() throws {
        let result = try dryRun([.output(2), .setTTL(9), .output(3)], datagram())
        #expect(result.outputs == [2, 3])
        #expect(result.drops == [])
        #expect(result.steps.contains { $0.hasPrefix("rule 1, priority 32768") })
        #expect(result.steps.suffix(2) == ["output to port 2", "output to port 3"])
    }

    @Test func `a flood reaches the other ports`() throws {
        let result = try dryRun([.normal], datagram())
        #expect(result.outputs == [2, 3])
    }

    @Test func `learned addresses are used`() throws {
        let result = try dryRun([.normal], datagram()) { pipeline in
            // A frame from the destination, which is behind port 3.
            let cpu = MemoryPort(name: "late")
            pipeline.addPort(cpu, number: 4)
            cpu.inject(
                [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 2, 0x88, 0xb5] + [UInt8](repeating: 0, count: 46))
            _ = try pipeline.apply([.deleteRules(RuleSelector())], now: 0)
            pipeline.step(now: 1)
            _ = try pipeline.apply([.addRule(Rule(actions: [.normal]))], now: 0)
        }
        #expect(result.outputs == [4])
    }

    @Test func `a drop has its reason`() throws {
        let dropped = try dryRun([.drop], datagram())
        #expect(dropped.outputs == [])
        #expect(dropped.drops == [.ruleAction])
        #expect(dropped.steps.last == "drop: ruleAction")
    }

    @Test func `a packet too long is answered in the dry run only`() throws {
        let result = try dryRun([.output(2)], datagram(payload: 1_200, mayFragment: false))
        #expect(result.drops == [.tooBig])
        // The ICMP error would go back.
        #expect(result.outputs == [1])
    }

    @Test func `no rule, a bad frame, and no such port`() throws {
        var pipeline = Pipeline()
        _ = try addPorts(&pipeline, [])
        let unmatched = pipeline.dryRun(datagram(), port: 1, now: Self.now)
        #expect(unmatched.drops == [.noRule])
        let short = pipeline.dryRun([1, 2, 3], port: 1, now: Self.now)
        #expect(short.drops == [.frameTooShort])
        let nowhere = pipeline.dryRun(datagram(), port: 40, now: Self.now)
        #expect(nowhere.steps == ["there is no port 40"])
        let long = pipeline.dryRun(
            [UInt8](repeating: 0, count: Frame.maximumLength + 1), port: 1, now: Self.now)
        #expect(long.steps == ["frame too long"])
        #expect(pipeline.status().drops.isEmpty)
    }

    @Test func `an exact flow is found and not counted`() throws {
        var pipeline = Pipeline()
        let ports = try addPorts(&pipeline, [])
        let key = FlowKey(
            source: IPAddress(v4: 0x0a00_0001), sourcePort: 0x1000,
            destination: IPAddress(v4: 0x0a00_0002), destinationPort: 0x2000,
            ipProtocol: IPProtocol.udp, domain: 0, origin: .network)
        _ = try pipeline.apply(
            [.addFlow(key, actions: [.output(2)], cookie: 1, idleTimeout: 0)], now: 0)
        let result = pipeline.dryRun(datagram(), port: 1, now: Self.now)
        #expect(result.outputs == [2])
        #expect(pipeline.actionFlowStatus().map(\.packets) == [0])
        #expect(ports[1].drain().isEmpty)
    }

    /// Its positions would move: a splice tells what it would do.
    @Test func `a splice is described and does not move`() throws {
        var pipeline = Pipeline()
        let ports = try addPorts(&pipeline, [])
        let leg = SpliceLeg(
            domain: 0, localAddress: IPAddress(v4: 0x0a00_0002), localPort: 0x2000,
            localMAC: MACAddress(rawValue: 0x0200_0000_0002),
            remoteAddress: IPAddress(v4: 0x0a00_0001), remotePort: 0x1000)
        _ = try pipeline.apply(
            [.splice(.open(7, client: leg, usesTimestamps: false, usesSACK: false))], now: 0)
        var frame = datagram()
        frame[23] = IPProtocol.tcp
        frame[24...25] = [0, 0]
        let sum = frame[14..<34].withUnsafeBytes { ~InternetChecksum.sum($0) }
        frame[24...25] = [UInt8(sum >> 8), UInt8(sum & 0xff)]
        // Data offset 5, PSH and ACK.
        frame[46...47] = [0x50, 0x18]
        let before = pipeline.spliceSnapshot(7)
        let result = pipeline.dryRun(frame, port: 1, now: Self.now)
        #expect(result.outputs == [3])
        #expect(result.steps.contains("splice 7, client side, state slow"))
        #expect(pipeline.spliceSnapshot(7) == before)
        #expect(ports[2].drain().isEmpty)
        #expect(pipeline.status().drops.isEmpty)
    }
}
