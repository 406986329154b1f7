import DataPlane
import TestSupport
import Testing

/// The packet path allocates nothing. Optimised builds only: without optimisation, the compiler
/// boxes existentials and copies arrays that are never seen again, and the count says nothing about
/// the code.
#if !DEBUG
    @Suite(.serialized) struct AllocationTests {
        /// Allocations for `frames`, sent `rounds` times, after a first round.
        private func measure(
            _ commands: [Command], _ frames: [[UInt8]], offload: VirtioHeader = VirtioHeader()
        ) throws -> (allocations: UInt64, sent: Int) {
            let fixture = TestSwitch([.init(1), .init(2, mtu: 1_500), .init(9, isCPU: true)])
            try fixture.apply(commands)
            var sent = 0
            for (_, port) in fixture.ports { port.onTransmit = { _ in sent += 1 } }
            let now = fixture.now
            func fill() {
                for number in 0..<4_096 {
                    fixture.ports[1]?.inject(frames[number % frames.count], offload: offload)
                }
            }
            var count: UInt64 = 0
            for round in 0..<3 {
                fill()
                _ = fixture.worker.call { pipeline in
                    let used = allocations { while pipeline.step(now: now) > 0 {} }
                    if round > 0 { count += used }
                }
            }
            return (count, sent)
        }

        private var all: [[UInt8]] { PacketBuilder.samples.map(\.bytes) }

        @Test func normal() throws {
            let result = try measure([.addRule(Rule(actions: [.normal]))], all)
            #expect(result.allocations == 0 && result.sent >= 4_096)
        }

        @Test func rules() throws {
            let address = try #require(IPAddress("10.0.0.99"))
            let rules: [Command] = (0..<50).map {
                .addRule(Rule(priority: $0, match: .destinationPort($0), actions: [.output(2)]))
            }
            let result = try measure(
                rules + [
                    .addRule(
                        Rule(
                            priority: 60_000,
                            actions: [
                                .setDestinationAddress(address), .setDestinationPort(7), .setTOS(4),
                                .mirror(9), .decrementTTL, .setVLANID(6), .output(2), .popVLAN,
                                .cpu,
                            ]))
                ], all)
            #expect(result.allocations == 0 && result.sent >= 4_096)
        }

        @Test func flowsAndFragments() throws {
            let builder = PacketBuilder()
            let commands: [Command] = [IPProtocol.tcp, IPProtocol.udp].map { number in
                .addFlow(
                    FlowKey(
                        source: builder.source, sourcePort: 40_000,
                        destination: builder.destination, destinationPort: 3_260,
                        ipProtocol: number, domain: 0, origin: .network),
                    actions: [.setDestinationPort(9), .output(2)], cookie: 0, idleTimeout: 0)
            }
            let result = try measure(commands, all)
            #expect(result.allocations == 0 && result.sent > 100)
        }

        @Test func dropsAndErrors() throws {
            var dying = PacketBuilder()
            dying.ttl = 1
            let big = PacketBuilder(
                "fd00::1", "fd00::2", payload: [UInt8](repeating: 1, count: 1_500))
            var broken = PacketBuilder().frame()
            broken[24] ^= 1
            let result = try measure(
                [
                    .addRule(Rule(actions: [.setTTL(1), .setTTL(2), .decrementTTL, .output(2)])),
                    .addRule(
                        Rule(
                            priority: 60_000, match: .etherType(EtherType.ipv4),
                            actions: [.decrementTTL])),
                ],
                [dying.frame(), big.frame(), broken, [1, 2, 3]])
            #expect(result.allocations == 0 && result.sent > 50)
        }
    }
#endif

/// The counter itself counts; otherwise the tests above would prove nothing.
@Suite struct AllocationCountTests {
    @Test func counts() {
        var kept: [[Int]] = []
        kept.reserveCapacity(10)
        let count = allocations { for number in 0..<10 { kept.append([number]) } }
        #expect(count >= 10 && kept.count == 10)
        #expect(allocations {} == 0)
    }
}
