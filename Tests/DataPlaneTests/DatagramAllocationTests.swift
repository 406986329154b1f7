import DataPlane
import TestSupport
import Testing

/// Calls, replies, fragments and misses of the datagram grain allocate nothing. Optimised builds only, see
/// `AllocationTests`.
#if !DEBUG
    @Suite(.serialized) struct DatagramAllocationTests {
        private let own = [UInt8](1...28)

        /// Allocations for 4096 frames, sent twice after a first round, and how many came out.
        private func measure(
            isIPv4: Bool, _ frames: (DatagramFixture) -> [(PortNumber, [UInt8])]
        ) throws -> (allocations: UInt64, sent: Int) {
            let fixture = try DatagramFixture(isIPv4: isIPv4)
            try fixture.bind()
            try fixture.apply(
                .setResource(5, server: fixture.server(0)), .installHandle(own, resource: 5))
            let network = fixture.network
            let samples = frames(fixture)
            var sent = 0
            for (_, port) in network.ports { port.onTransmit = { _ in sent += 1 } }
            let now = network.now
            var count: UInt64 = 0
            for round in 0..<3 {
                for number in 0..<4_096 {
                    let (port, frame) = samples[number % samples.count]
                    network.ports[port]?.inject(frame)
                }
                _ = network.worker.call { pipeline in
                    let used = allocations { while pipeline.step(now: now) > 0 {} }
                    if round > 0 { count += used }
                }
            }
            return (count, sent)
        }

        private func message(
            _ handle: [UInt8], _ change: (inout NFSMessage) -> Void = { _ in }
        ) -> NFSMessage {
            var message = NFSMessage(handle: handle)
            change(&message)
            return message
        }

        @Test(arguments: [true, false]) func callsAndReplies(isIPv4: Bool) throws {
            let result = try measure(isIPv4: isIPv4) { fixture -> [(PortNumber, [UInt8])] in
                [
                    (1, fixture.call(message(own).call).frame()),
                    (1, fixture.call(message(DatagramFixture.prefixed(5, own)).call).frame()),
                    (3, fixture.reply(message(own).reply()).frame()),
                ]
            }
            #expect(result.allocations == 0)
            #expect(result.sent == 3 * 4_096)
        }

        @Test(arguments: [true, false]) func fragments(isIPv4: Bool) throws {
            let filling = [UInt8](repeating: 3, count: 3_000)
            let result = try measure(isIPv4: isIPv4) { fixture -> [(PortNumber, [UInt8])] in
                let call = fixture.call(message(DatagramFixture.prefixed(5, own)).call + filling)
                let calls = call.fragments(of: 1_480)
                let replies = fixture.reply(message(own).reply() + filling).fragments(of: 1_480)
                var lost = call
                lost.identification = 99
                // Also in the wrong order, and parts of what is never whole.
                var result: [(PortNumber, [UInt8])] = []
                for frame in calls { result.append((1, frame)) }
                for frame in calls.reversed() { result.append((1, frame)) }
                for frame in replies { result.append((3, frame)) }
                for frame in replies.reversed() { result.append((3, frame)) }
                for frame in lost.fragments(of: 1_480)[1...] { result.append((1, frame)) }
                return result
            }
            #expect(result.allocations == 0)
            #expect(result.sent > 3_000)
        }

        @Test func misses() throws {
            let result = try measure(isIPv4: true) { fixture -> [(PortNumber, [UInt8])] in
                [
                    (1, fixture.call(message(own) { $0.procedure = 0 }.call).frame()),
                    (1, fixture.call(message([9]).call).frame()),
                    (1, fixture.call(message(own).call, client: 1).frame()),
                    (1, fixture.call([1, 2, 3]).frame()),
                    (3, fixture.reply(message(own).call).frame()),
                ]
            }
            #expect(result.allocations == 0)
            #expect(result.sent == 3 * 4_096)
        }
    }
#endif
