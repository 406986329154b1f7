import DataPlane
import TestSupport
import Testing

@Suite struct SpliceGapTests {
    /// Thousands of messages that come last first: each waits, and all go on in order as soon as the
    /// first is there, in a time that does not grow with the square of their number.
    @Test func backwards() throws {
        let count = 3_000
        var options = SpliceFixture.Options()
        options.heldOctets = 64 << 20
        options.messages = SpliceMessages(format: .iscsi)
        let fixture = try SpliceFixture(options)
        let header = [UInt8](repeating: 0, count: 48)
        for index in (1..<count).reversed() {
            _ = try fixture.send(.client, fixture.fromClient(index * 48, payload: header))
        }
        #expect(fixture.snapshot.client.heldPackets == count - 1)
        let clock = ContinuousClock()
        var sent: [ReceivedTCPSegment] = []
        let time = try clock.measure {
            sent = try fixture.send(.client, fixture.fromClient(payload: header))[3] ?? []
        }
        #expect(sent.count == count)
        for (index, segment) in sent.enumerated() {
            #expect(
                segment.segment.sequence == options.toServerNext &+ UInt32(index * 48))
        }
        #expect(fixture.snapshot.client.heldPackets == 0)
        #expect(time < .seconds(1), "\(time)")
    }

    /// Headers that are cut, in any order of arrival.
    @Test(arguments: 1...20 as ClosedRange<UInt64>) func cutAndShuffled(seed: UInt64) throws {
        var random = SplitMix64(seed: seed)
        var options = SpliceFixture.Options()
        options.heldOctets = 16 << 20
        options.messages = SpliceMessages(
            format: .iscsi,
            clientEdits: [
                MessageEdit(field: .init(offset: 28, width: 4), operation: .add(5))
            ])
        let fixture = try SpliceFixture(options)
        var stream: [UInt8] = []
        var wanted: [UInt8] = []
        for _ in 0..<40 {
            var header = random.bytes(48)
            let data = random.below(200) * 4
            header.replaceSubrange(4..<8, with: [0, 0, UInt8(data >> 8), UInt8(data & 255)])
            let body = random.bytes(data)
            stream += header + body
            let value = header[28..<32].reduce(UInt32(0)) { $0 << 8 | UInt32($1) } &+ 5
            for octet in 0..<4 {
                header[28 + octet] = UInt8(truncatingIfNeeded: value >> UInt32(24 - octet * 8))
            }
            wanted += header + body
        }
        var cuts: [Range<Int>] = []
        var position = 0
        while position < stream.count {
            let end = min(stream.count, position + 1 + random.below(150))
            cuts.append(position..<end)
            position = end
        }
        for index in stride(from: cuts.count - 1, to: 0, by: -1) {
            cuts.swapAt(index, random.below(index + 1))
        }
        var arrived = [UInt8?](repeating: nil, count: stream.count)
        for cut in cuts {
            let segment = fixture.fromClient(cut.lowerBound, payload: Array(stream[cut]))
            for received in try fixture.send(.client, segment)[3] ?? [] {
                let start = Int(received.segment.sequence &- options.toServerNext)
                for (offset, octet) in received.segment.payload.enumerated() {
                    arrived[start + offset] = octet
                }
            }
        }
        #expect(arrived.compactMap { $0 } == wanted)
        #expect(fixture.snapshot.client.heldPackets == 0)
    }

    /// A header of which the sender repeats the begin, and sends no more: nobody acknowledges that, so that its
    /// retransmission time-out brings nothing else. The control plane is told, once.
    @Test(arguments: SpliceSide.allCases) func onlyTheBeginOfAHeader(side: SpliceSide) throws {
        var options = SpliceFixture.Options()
        options.messages = SpliceMessages(format: .iscsi)
        let fixture = try SpliceFixture(options)
        func segment(_ position: Int, _ count: Int) -> ScriptedTCPSegment {
            let payload = [UInt8](repeating: 0, count: count)
            return side == .client
                ? fixture.fromClient(position, payload: payload)
                : fixture.fromServer(position, payload: payload)
        }
        func isTold() -> Bool {
            fixture.network.events.contains {
                if case .spliceMessageHeld(SpliceFixture.id, let told) = $0 {
                    told == side
                } else {
                    false
                }
            }
        }
        func forwarded(_ segment: ScriptedTCPSegment) throws -> Int {
            try (fixture.send(side, segment)[side == .client ? 3 : 1] ?? [])
                .reduce(0) { $0 + $1.segment.payload.count }
        }
        // Cut headers as they come mostly: the rest follows, in pieces, some of them twice.
        #expect(try forwarded(segment(0, 48 + 20)) == 48)
        #expect(try forwarded(segment(68, 10)) == 0)
        #expect(try forwarded(segment(78, 18)) == 48)
        #expect(!isTold())
        // Data that is repeated is no reason; nor is what comes behind the gap.
        #expect(try forwarded(segment(0, 96)) == 96)
        #expect(try forwarded(segment(96, 20)) == 0)
        #expect(try forwarded(segment(200, 20)) == 0)
        #expect(!isTold())
        #expect(try forwarded(segment(96, 20)) == 0)
        #expect(isTold())
        #expect(try forwarded(segment(96, 20)) == 0)
        #expect(!isTold())
        let snapshot = fixture.snapshot
        let own = side == .client ? snapshot.client : snapshot.server
        #expect(own.headerDistance == 96)
    }
}
