import DataPlane
import TestSupport
import Testing

@Suite struct SpliceTranslationTests {
    private static let kinds: [(Bool, Bool, Bool)] = [false, true].flatMap { v6 in
        [false, true].flatMap { timestamps in
            [false, true].map { sack in (v6, timestamps, sack) }
        }
    }

    /// Families, timestamps, SACK; positions from a seed, some next to the wrap-around.
    private func options(_ kind: Int, _ seed: UInt64) -> SpliceFixture.Options {
        var random = SplitMix64(seed: seed)
        func position() -> UInt32 {
            random.below(2) == 0
                ? UInt32.max &- UInt32(random.below(200))
                : UInt32(truncatingIfNeeded: random.next())
        }
        var options = SpliceFixture.Options()
        (options.isIPv6, options.usesTimestamps, options.usesSACK) = Self.kinds[kind]
        options.clientNext = position()
        options.toClientNext = position()
        options.serverNext = position()
        options.toServerNext = position()
        options.clientTimestamp = position()
        options.toClientTimestamp = position() | 1
        options.serverTimestamp = position()
        options.toServerTimestamp = position() | 1
        return options
    }

    @Test(arguments: 0..<8) func positionsInBothDirections(kind: Int) throws {
        for seed in 1...8 as ClosedRange<UInt64> {
            let options = options(kind, seed)
            let fixture = try SpliceFixture(options)
            let text = spliceBytes(333, seed: seed)
            let up = try fixture.pass(.client, fixture.fromClient(payload: text))
            #expect(up.sequence == options.toServerNext)
            #expect(up.acknowledgement == options.serverNext)
            #expect(up.payload == text)
            #expect(up.flags == ScriptedTCPSegment.ack)
            #expect((up.timestamps != nil) == options.usesTimestamps)
            if let timestamps = up.timestamps {
                // Ten ticks after what the end sent before, and the echo of the newest of the other end.
                #expect(timestamps.value == options.toServerTimestamp &+ 10)
                #expect(timestamps.echo == options.serverTimestamp)
            }
            let down = try fixture.pass(
                .server, fixture.fromServer(acknowledges: 333, payload: text))
            #expect(down.sequence == options.toClientNext)
            #expect(down.acknowledgement == options.clientNext &+ 333)
            #expect(down.payload == text)
            if let timestamps = down.timestamps {
                #expect(timestamps.value == options.toClientTimestamp &+ 10)
                #expect(timestamps.echo == options.clientTimestamp)
            }
            let snapshot = fixture.snapshot
            #expect(snapshot.client.receivedEnd.rawValue == options.clientNext &+ 333)
            #expect(snapshot.server.acknowledged.rawValue == options.toServerNext &+ 333)
            #expect(snapshot.client.packets == 1)
        }
    }

    @Test(arguments: 0..<8) func selectiveAcknowledgements(kind: Int) throws {
        for seed in 1...8 as ClosedRange<UInt64> {
            var options = options(kind, seed)
            options.usesSACK = true
            let fixture = try SpliceFixture(options)
            for offset in [0, 100, 200, 300, 400] {
                _ = try fixture.pass(
                    .client, fixture.fromClient(offset, payload: spliceBytes(100, seed: 1)))
            }
            var segment = fixture.fromServer(acknowledges: 100)
            let start = options.toServerNext
            segment.sack = [.init(start &+ 400, start &+ 500), .init(start &+ 200, start &+ 300)]
            let passed = try fixture.pass(.server, segment)
            let own = options.clientNext
            #expect(passed.acknowledgement == own &+ 100)
            #expect(passed.sack == [.init(own &+ 400, own &+ 500), .init(own &+ 200, own &+ 300)])
        }
    }

    @Test(arguments: [(0, 0), (7, 7), (14, 0), (0, 14), (3, 9), (9, 3)] as [(UInt8, UInt8)])
    func windows(serverScale: UInt8, clientLocalScale: UInt8) throws {
        var options = SpliceFixture.Options()
        options.serverScale = serverScale
        options.clientLocalScale = clientLocalScale
        let fixture = try SpliceFixture(options)
        for field in [0, 1, 1_000, 30_000, 65_535] as [UInt16] {
            let passed = try fixture.pass(.server, fixture.fromServer(window: field))
            let told = Int(passed.window) << Int(clientLocalScale)
            let meant = Int(field) << Int(serverScale)
            // Never more than the other end offered; less only by one unit, or by the field's width.
            #expect(told <= meant)
            let most = 65_535 << Int(clientLocalScale)
            #expect(told > min(meant, most) - (1 << Int(clientLocalScale)))
        }
    }

    @Test func edgeStaysRightOfWhatWasSent() throws {
        let fixture = try SpliceFixture()
        _ = try fixture.pass(
            .client, fixture.fromClient(payload: spliceBytes(1_000, seed: 1)))
        // A window from before the data: 2 units of 128 from the old acknowledgement.
        let passed = try fixture.pass(.server, fixture.fromServer(window: 2))
        #expect(Int(passed.window) << 7 >= 1_000)
    }

    @Test func acknowledgementsAreLimited() throws {
        let fixture = try SpliceFixture()
        let ahead = try fixture.pass(.server, fixture.fromServer(acknowledges: 500))
        #expect(ahead.acknowledgement == fixture.options.clientNext)
        let behind = try fixture.pass(.server, fixture.fromServer(acknowledges: -300))
        #expect(behind.acknowledgement == fixture.options.clientNext)
        // After a while nothing is raised any more: retransmissions from long ago have died out.
        fixture.network.advance(seconds: 2)
        let later = try fixture.pass(.server, fixture.fromServer(acknowledges: -300))
        #expect(later.acknowledgement == fixture.options.clientNext &- 300)
    }

    /// The first packet after the installation decides, whatever the value is.
    @Test(arguments: [SpliceSide.client, .server], [5, 0x7fff_ffff, 0x9000_0000, 0xffff_fff0])
    func timestampsOfASilentEnd(side: SpliceSide, timestamp: UInt32) throws {
        var options = SpliceFixture.Options()
        options.clientIsSilent = side == .client
        options.serverIsSilent = side == .server
        options.clientTimestamp = timestamp
        options.serverTimestamp = timestamp
        let fixture = try SpliceFixture(options)
        let sent = side == .client ? options.toServerTimestamp : options.toClientTimestamp
        let first = try fixture.pass(
            side, side == .client ? fixture.fromClient() : fixture.fromServer())
        let timestamps = try #require(first.timestamps)
        let step = distance(timestamps.value, sent)
        #expect((0..<1_000).contains(step), "\(timestamps.value) after \(sent)")
        #expect(
            fixture.snapshot[side == .client ? .server : .client].sentTimestamp
                == timestamps.value)
        // What comes back is the value that the end sent.
        var answer = side == .client ? fixture.fromServer() : fixture.fromClient()
        answer.timestamps?.echo = timestamps.value
        let back = try fixture.pass(side.other, answer)
        #expect(back.timestamps?.echo == timestamp &+ 10)
    }

    /// Values beyond 2^31 are followed from the first packet on: nothing counts as newer only because
    /// nothing was seen.
    @Test(arguments: [5, 0x7fff_ffff, 0x8000_0001, 0xffff_fff0] as [UInt32])
    func largeTimestamps(value: UInt32) throws {
        var options = SpliceFixture.Options()
        options.clientTimestamp = value
        options.toClientTimestamp = value ^ 0x4000_0001 | 1
        options.serverTimestamp = ~value
        options.toServerTimestamp = value &+ 0x7000_0000 | 1
        let fixture = try SpliceFixture(options)
        let up = try fixture.pass(.client, fixture.fromClient())
        #expect(up.timestamps?.value == options.toServerTimestamp &+ 10)
        let down = try fixture.pass(.server, fixture.fromServer())
        #expect(down.timestamps?.value == options.toClientTimestamp &+ 10)
    }

    @Test(arguments: [false, true]) func offloadedFrames(isIPv6: Bool) throws {
        var options = SpliceFixture.Options()
        options.isIPv6 = isIPv6
        let fixture = try SpliceFixture(options)
        let small = try fixture.pass(
            .client, fixture.fromClient(payload: spliceBytes(100, seed: 1)), isPartial: true)
        #expect(small.sequence == options.toServerNext)
        let segment = fixture.fromClient(100, payload: spliceBytes(20_001, seed: 2))
        let frame = segment.frame(from: fixture.client, to: fixture.virtual, isPartial: true)
        let offload = segment.offload(segmentSize: 1_448, isIPv4: !isIPv6)
        let sent = try #require(fixture.network.sendOne(frame, on: 1, offload: offload))
        #expect(sent.port == 3)
        #expect(sent.frame.offload == offload)
        let read = try ReceivedTCPSegment(sent.frame.bytes, offload: sent.frame.offload)
        #expect(read.segment.sequence == options.toServerNext &+ 100)
        #expect(read.segment.payload == segment.payload)
        #expect(fixture.snapshot.client.receivedEnd.rawValue == options.clientNext &+ 20_101)
    }

    /// The reader of frames finds a wrong checksum: else the tests above could not fail.
    @Test(arguments: [false, true]) func wrongChecksumsAreNoticed(isIPv6: Bool) throws {
        var options = SpliceFixture.Options()
        options.isIPv6 = isIPv6
        let fixture = try SpliceFixture(options)
        var frame = fixture.fromClient(payload: [1, 2, 3]).frame(
            from: fixture.client, to: fixture.virtual)
        _ = try ReceivedTCPSegment(frame)
        frame[frame.count - 1] ^= 4
        #expect(throws: FrameProblem.self) { try ReceivedTCPSegment(frame) }
        // And a wrong one stays wrong on its way: no packet is repaired that came broken.
        let sent = try #require(fixture.network.sendOne(frame, on: 1))
        #expect(throws: FrameProblem.self) { try ReceivedTCPSegment(sent.frame.bytes) }
    }

    /// 5 GiB within the second in which floors hold: a floor 2 GiB back must not look like one ahead.
    @Test(arguments: [false, true]) func fasterThanTheFloors(downwards: Bool) throws {
        let fixture = try SpliceFixture()
        let options = fixture.options
        let step = 100 << 20
        for count in 0..<50 {
            let (before, after) = (count * step, (count + 1) * step)
            let acknowledgement: ScriptedTCPSegment
            if downwards {
                _ = try fixture.pass(.server, fixture.fromServer(after - 100, payload: [1]))
                _ = try fixture.pass(.server, fixture.fromServer(after - 1, payload: [1]))
                acknowledgement = try fixture.pass(
                    .client, fixture.fromClient(acknowledges: after))
                #expect(
                    acknowledgement.acknowledgement
                        == options.serverNext &+ UInt32(truncatingIfNeeded: after))
            } else {
                _ = try fixture.pass(.client, fixture.fromClient(before, payload: [1]))
                _ = try fixture.pass(.client, fixture.fromClient(after - 1, payload: [1]))
                acknowledgement = try fixture.pass(
                    .server, fixture.fromServer(acknowledges: after))
                #expect(
                    acknowledgement.acknowledgement
                        == options.clientNext &+ UInt32(truncatingIfNeeded: after))
            }
            #expect(acknowledgement.window == 1_000)
        }
        let counters = fixture.network.status.splicer
        #expect(counters.acknowledgementsRaised == 0)
        #expect(counters.acknowledgementsLimited == 0)
    }

    /// After weeks without a packet a timestamp is more than 2^31 further: it must not look like an old
    /// one, or the next probe or move would take the session back in time (PAWS).
    @Test(arguments: [UInt32(0x7fff_ff00), 0x8000_0010, 0xc000_0000])
    func timestampsAfterALongSilence(silence: UInt32) throws {
        let fixture = try SpliceFixture()
        _ = try fixture.pass(.client, fixture.fromClient())
        _ = try fixture.pass(.server, fixture.fromServer())
        fixture.network.advance(seconds: 2_500_000)
        var up = fixture.fromClient(payload: [1])
        up.timestamps?.value &+= silence
        let passed = try fixture.pass(.client, up)
        let value = try #require(passed.timestamps?.value)
        #expect(fixture.snapshot.server.sentTimestamp == value)
        // What we say ourselves to the two ends has the newest value of each.
        try fixture.apply(.probe(SpliceFixture.id))
        let probes = try fixture.read(fixture.network.drain())
        #expect(probes[3]?.first?.segment.timestamps?.value == value)
        #expect(probes[1]?.first?.segment.timestamps?.echo == up.timestamps?.value)
        // A packet that was overtaken is not the newest.
        up.timestamps?.value &-= 5
        _ = try fixture.pass(.client, up)
        #expect(fixture.snapshot.server.sentTimestamp == value)
    }
}
