import DataPlane
import TestSupport
import Testing

/// Options by seed: every combination of families, options and scales turns up.
func spliceOptions(_ seed: UInt64) -> ScriptedRedirect.Options {
    var random = SplitMix64(seed: seed)
    var options = ScriptedRedirect.Options()
    options.seed = seed
    options.isIPv6 = random.below(2) == 0
    let hasTimestamps = random.below(3) > 0
    let hasSACK = random.below(3) > 0
    func end() -> ScriptedTCP.Options {
        var end = ScriptedTCP.Options()
        // Near the wrap-around, so that it is met in the middle of the bulk.
        end.initialSequence = UInt32.max &- UInt32(random.below(60_000))
        end.scale = UInt8(random.below(9))
        end.maximumSegment = [536, 1_000, 1_448][random.below(3)]
        end.timestampBase = UInt32(truncatingIfNeeded: random.next())
        end.receiveBuffer = 30_000 + random.below(35_000)
        end.segmentsPerFrame = 1 + random.below(2) * 3
        end.seed = random.next()
        return end
    }
    options.client = end()
    options.server = end()
    options.clientSocket = end()
    options.serverSocket = end()
    if !hasTimestamps { options.client.timestampBase = nil }
    options.client.usesSACK = hasSACK
    // As the kernel does it with one system-wide setting; the server's own offer does not matter.
    options.faults = .bad
    return options
}

/// Random octets of a stream.
func spliceBytes(_ count: Int, seed: UInt64) -> [UInt8] {
    var random = SplitMix64(seed: seed)
    return random.bytes(count)
}

/// What must be true whatever the network does.
func expectSound(_ redirect: ScriptedRedirect, _ note: Comment) {
    #expect(redirect.problems.isEmpty, note)
    #expect(redirect.resetsSeen == 0, note)
    #expect(redirect.client.futureEchoes == 0, note)
    #expect(redirect.server.futureEchoes == 0, note)
    #expect(redirect.client.state == .established, note)
    #expect(redirect.server.state == .established, note)
}

@Suite struct SpliceNetworkTests {
    @Test(arguments: 1...24 as ClosedRange<UInt64>)
    func bulkBothWaysThroughASplice(seed: UInt64) throws {
        let redirect = ScriptedRedirect(spliceOptions(seed))
        try #require(redirect.connect(), "\(redirect.problems)")
        redirect.client.write(Array("hello".utf8))
        redirect.wantsSplice = true
        #expect(redirect.run { redirect.state == .spliced }, "seed \(seed)")
        redirect.isFaulty = true
        let up = spliceBytes(90_000, seed: seed)
        let down = spliceBytes(90_000, seed: ~seed)
        redirect.client.write(up)
        redirect.server.write(down)
        let isDone = redirect.run(seconds: 60) {
            redirect.server.received.count >= up.count + 5
                && redirect.client.received.count >= down.count
        }
        #expect(isDone, "seed \(seed)")
        #expect(redirect.server.received == Array("hello".utf8) + up, "seed \(seed)")
        #expect(redirect.client.received == down, "seed \(seed)")
        #expect(redirect.state == .spliced)
        #expect(redirect.faultsMade > 10)
        expectSound(redirect, "seed \(seed)")
    }

    @Test(arguments: 1...24 as ClosedRange<UInt64>)
    func spliceAndUnspliceUnderLoad(seed: UInt64) throws {
        let redirect = ScriptedRedirect(spliceOptions(seed &+ 1_000))
        try #require(redirect.connect(), "\(redirect.problems)")
        redirect.isFaulty = true
        let up = spliceBytes(160_000, seed: seed)
        let down = spliceBytes(160_000, seed: ~seed)
        redirect.client.write(up)
        redirect.server.write(down)
        redirect.wantsSplice = true
        let isDone = redirect.runMoving(seconds: 120) {
            redirect.server.received.count >= up.count
                && redirect.client.received.count >= down.count
        }
        let moves = redirect.splices + redirect.unsplices
        #expect(isDone, "seed \(seed)")
        #expect(redirect.server.received == up, "seed \(seed)")
        #expect(redirect.client.received == down, "seed \(seed)")
        #expect(moves >= 2, "seed \(seed): \(redirect.giveUps) times given up")
        expectSound(redirect, "seed \(seed)")
    }

    /// The tests above can fail: a translation that is off by one is noticed.
    @Test(arguments: [SpliceSide.client, .server], [true, false])
    func wrongPositionsAreNoticed(side: SpliceSide, isSend: Bool) throws {
        let redirect = ScriptedRedirect(spliceOptions(7))
        try #require(redirect.connect(), "\(redirect.problems)")
        redirect.client.write(Array("hello".utf8))
        redirect.spoil = { positions, which in
            guard which == side else { return }
            if isSend { positions.sendNext += 1 } else { positions.receiveNext += 1 }
        }
        redirect.wantsSplice = true
        #expect(redirect.run { redirect.state == .spliced })
        let up = spliceBytes(5_000, seed: 1)
        let down = spliceBytes(5_000, seed: 2)
        redirect.client.write(up)
        redirect.server.write(down)
        redirect.run(seconds: 2)
        let isRight =
            redirect.server.received == Array("hello".utf8) + up
            && redirect.client.received == down
            && redirect.client.refusedAcknowledgements == 0
            && redirect.server.refusedAcknowledgements == 0
        #expect(!isRight)
    }
}
