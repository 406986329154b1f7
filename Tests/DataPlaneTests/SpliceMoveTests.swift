import DataPlane
import TestSupport
import Testing

@Suite struct SpliceMoveTests {
    private func connected(
        _ seed: UInt64, heldOctets: Int = 32 << 20
    ) throws -> ScriptedRedirect {
        var options = spliceOptions(seed)
        options.heldOctets = heldOctets
        if heldOctets == 1 {
            // More frames than the pool has blocks.
            options.client.maximumSegment = 300
            options.client.segmentsPerFrame = 1
        }
        let redirect = ScriptedRedirect(options)
        try #require(redirect.connect(), "\(redirect.problems)")
        return redirect
    }

    private func expectDelivered(
        _ redirect: ScriptedRedirect, _ up: [UInt8], _ down: [UInt8], _ note: Comment
    ) {
        let isDone = redirect.run(seconds: 60) {
            redirect.server.received.count >= up.count
                && redirect.client.received.count >= down.count
        }
        #expect(isDone, note)
        #expect(redirect.server.received == up, note)
        #expect(redirect.client.received == down, note)
        expectSound(redirect, note)
    }

    /// A freeze that comes too early is undone, with traffic on both legs.
    @Test(arguments: 1...10 as ClosedRange<UInt64>) func undoneFreezes(seed: UInt64) throws {
        let redirect = try connected(seed)
        redirect.isFaulty = true
        let up = spliceBytes(60_000, seed: seed)
        let down = spliceBytes(60_000, seed: ~seed)
        redirect.client.write(up)
        redirect.server.write(down)
        for _ in 0..<5 {
            redirect.run(seconds: 0.003)
            redirect.apply(.beginDrainToSplice(redirect.id))
            redirect.run(seconds: 0.001)
            redirect.apply(.hold(redirect.id))
            redirect.run(seconds: 0.002)
            redirect.apply(.resumeDrain(redirect.id))
            redirect.run(seconds: 0.001)
            redirect.apply(.probe(redirect.id))
            redirect.apply(.abortToSlow(redirect.id))
        }
        expectDelivered(redirect, up, down, "seed \(seed)")
    }

    /// A drain back to the sockets that is given up.
    @Test(arguments: 1...10 as ClosedRange<UInt64>) func undoneUnsplices(seed: UInt64) throws {
        let redirect = try connected(seed)
        redirect.client.write([1])
        redirect.wantsSplice = true
        try #require(redirect.run { redirect.state == .spliced })
        redirect.isFaulty = true
        let up = spliceBytes(60_000, seed: seed)
        let down = spliceBytes(60_000, seed: ~seed)
        redirect.client.write(up)
        redirect.server.write(down)
        for _ in 0..<5 {
            redirect.run(seconds: 0.003)
            redirect.apply(.beginDrainToSlow(redirect.id))
            redirect.run(seconds: 0.002)
            redirect.apply(.hold(redirect.id))
            redirect.run(seconds: 0.002)
            redirect.apply(.abortToSpliced(redirect.id))
        }
        expectDelivered(redirect, [1] + up, down, "seed \(seed)")
    }

    /// The pool for held frames is bounded: what it does not take is dropped, counted and sent again.
    @Test(arguments: 1...6 as ClosedRange<UInt64>) func exhaustedPool(seed: UInt64) throws {
        let redirect = try connected(seed, heldOctets: 1)
        let up = spliceBytes(120_000, seed: seed)
        let down = spliceBytes(120_000, seed: ~seed)
        redirect.apply(.beginDrainToSplice(redirect.id))
        redirect.apply(.hold(redirect.id))
        redirect.client.write(up)
        redirect.server.write(down)
        redirect.run(seconds: 0.3)
        #expect(redirect.network.drops(.spliceHoldFull) > 0)
        redirect.apply(.abortToSlow(redirect.id))
        expectDelivered(redirect, up, down, "seed \(seed)")
        // All blocks came back: the same again.
        let before = redirect.network.drops(.spliceHoldFull)
        redirect.wantsSplice = true
        #expect(redirect.run { redirect.state == .spliced })
        #expect(redirect.network.drops(.spliceHoldFull) == before)
    }

    /// Both directions stop at a full receiver and go on when it reads.
    @Test(arguments: 1...6 as ClosedRange<UInt64>) func spliceAtZeroWindow(seed: UInt64) throws {
        var options = spliceOptions(seed)
        options.server.receiveBuffer = 4_000
        options.clientSocket.receiveBuffer = 4_000
        let redirect = ScriptedRedirect(options)
        try #require(redirect.connect(), "\(redirect.problems)")
        let up = spliceBytes(60_000, seed: seed)
        redirect.client.write(up)
        redirect.wantsSplice = true
        let isDone = redirect.runMoving(seconds: 60) {
            redirect.server.received.count >= up.count
        }
        let moves = redirect.splices + redirect.unsplices
        #expect(isDone, "seed \(seed), \(redirect.state), \(moves) moves")
        #expect(redirect.server.received == up)
        #expect(moves > 0)
        expectSound(redirect, "seed \(seed)")
    }

    /// The socket of the kernel must not answer for a spliced session.
    @Test func socketsAreSilencedWhileSpliced() throws {
        let redirect = try connected(1)
        redirect.client.write([1])
        redirect.wantsSplice = true
        try #require(redirect.run { redirect.state == .spliced })
        let reset = ScriptedTCPSegment(
            flags: ScriptedTCPSegment.rst | ScriptedTCPSegment.ack,
            sequence: redirect.client.receiveNext,
            acknowledgement: redirect.client.sendNext)
        let frame = reset.frame(from: redirect.virtualEnd, to: redirect.clientEnd)
        #expect(redirect.network.send(frame, on: 2).isEmpty)
        #expect(redirect.network.drops(.spliceKernelPacket) == 1)
        redirect.run(seconds: 0.1)
        expectSound(redirect, "a reset of the kernel")
    }
}
