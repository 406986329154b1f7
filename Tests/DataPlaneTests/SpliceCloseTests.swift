import DataPlane
import TestSupport
import Testing

@Suite struct SpliceCloseTests {
    /// A session in the splice, after a word from each end.
    private func spliced(_ seed: UInt64, faulty: Bool = false) throws -> ScriptedRedirect {
        let redirect = ScriptedRedirect(spliceOptions(seed))
        try #require(redirect.connect(), "\(redirect.problems)")
        redirect.client.write([1, 2, 3])
        redirect.server.write([4, 5, 6])
        redirect.wantsSplice = true
        try #require(redirect.run { redirect.state == .spliced && redirect.splices == 1 })
        redirect.run(seconds: 0.05)
        redirect.isFaulty = faulty
        return redirect
    }

    private func closed(_ redirect: ScriptedRedirect) -> [SpliceCloseReason] {
        redirect.events.compactMap {
            if case .spliceClosed(redirect.id, let reason) = $0 { reason } else { nil }
        }
    }

    /// The record lingers, then number and flows are free.
    private func expectFreed(_ redirect: ScriptedRedirect) {
        #expect(redirect.network.status.flows == 4)
        redirect.apply(.close(redirect.id))
        redirect.network.advance(seconds: 4)
        #expect(redirect.network.status.flows == 4)
        redirect.network.advance(seconds: 2)
        #expect(redirect.network.status.flows == 0)
        #expect(throws: BatchError.self) {
            try redirect.network.apply([.splice(.inspect(redirect.id))])
        }
    }

    @Test(arguments: [SpliceSide.client, .server], 1...6 as ClosedRange<UInt64>)
    func halfClose(first: SpliceSide, seed: UInt64) throws {
        let redirect = try spliced(seed, faulty: true)
        let (closing, talking) =
            first == .client
            ? (redirect.client, redirect.server) : (redirect.server, redirect.client)
        let last = spliceBytes(5_000, seed: seed)
        let text = spliceBytes(40_000, seed: ~seed)
        closing.write(last)
        closing.close()
        #expect(redirect.run(seconds: 10) { talking.hasEnded && closing.isFINAcknowledged })
        #expect(closed(redirect).isEmpty)
        talking.write(text)
        talking.close()
        let isDone = redirect.run(seconds: 20) {
            closing.hasEnded && talking.isFINAcknowledged && !closed(redirect).isEmpty
        }
        #expect(isDone, "seed \(seed)")
        #expect(Array(talking.received.dropFirst(3)) == last)
        #expect(Array(closing.received.dropFirst(3)) == text)
        #expect(closed(redirect) == [.finished])
        expectSound(redirect, "seed \(seed)")
        expectFreed(redirect)
        #expect(redirect.resetsSeen == 0)
    }

    @Test(arguments: 1...12 as ClosedRange<UInt64>) func simultaneousClose(seed: UInt64) throws {
        let redirect = try spliced(seed, faulty: true)
        for end in [redirect.client, redirect.server] {
            end.write(spliceBytes(3_000, seed: seed))
            end.close()
        }
        let isDone = redirect.run(seconds: 20) { !closed(redirect).isEmpty }
        #expect(isDone, "seed \(seed)")
        redirect.run(seconds: 1)
        for end in [redirect.client, redirect.server] {
            #expect(end.hasEnded && end.isFINAcknowledged)
            #expect(end.received.count == 3_003)
        }
        #expect(closed(redirect) == [.finished])
        expectSound(redirect, "seed \(seed)")
        expectFreed(redirect)
    }

    @Test(arguments: [SpliceSide.client, .server], 1...4 as ClosedRange<UInt64>)
    func reset(by side: SpliceSide, seed: UInt64) throws {
        let redirect = try spliced(seed)
        (side == .client ? redirect.client : redirect.server).abort()
        redirect.run(seconds: 0.1)
        #expect((side == .client ? redirect.server : redirect.client).state == .reset)
        #expect(closed(redirect) == [side == .client ? .resetByClient : .resetByServer])
        #expect(redirect.problems.isEmpty)
        expectFreed(redirect)
    }

    /// A reset that lies outside the window is the receiver's to refuse, and it does: the translation
    /// keeps the distance.
    @Test func resetBesideTheWindow() throws {
        let fixture = try SpliceFixture()
        let passed = try fixture.pass(
            .client,
            fixture.fromClient(-100_000, flags: ScriptedTCPSegment.rst | ScriptedTCPSegment.ack))
        #expect(passed.sequence == fixture.options.toServerNext &- 100_000)
    }

    @Test func idle() throws {
        let redirect = try spliced(1)
        redirect.apply(.setTimeouts(redirect.id, idle: 2, keepAlive: 0))
        redirect.run(seconds: 1.5)
        redirect.client.write([7])
        redirect.run(seconds: 1.5)
        #expect(closed(redirect).isEmpty)
        redirect.run(seconds: 1)
        #expect(closed(redirect) == [.idle])
        #expect(redirect.problems.isEmpty)
        expectFreed(redirect)
        // Neither end knew of it: both are told.
        redirect.run(seconds: 0.1)
        #expect(redirect.client.state == .reset)
        #expect(redirect.server.state == .reset)
    }

    /// Silent ends that answer keep their session; data is right afterwards.
    @Test func silentEndsThatLive() throws {
        let redirect = try spliced(3)
        redirect.apply(.setTimeouts(redirect.id, idle: 0, keepAlive: 5))
        let before = redirect.network.status.splicer.probes
        redirect.run(seconds: 200)
        #expect(closed(redirect).isEmpty)
        let probes = redirect.network.status.splicer.probes - before
        #expect(probes > 20 && probes < 100, "\(probes)")
        redirect.client.write([7, 8])
        redirect.server.write([9])
        redirect.run(seconds: 1)
        #expect(redirect.server.received == [1, 2, 3, 7, 8])
        #expect(redirect.client.received == [4, 5, 6, 9])
        #expect(redirect.problems.isEmpty)
    }

    /// An end without a sign of life for the time and six questions.
    @Test(arguments: SpliceSide.allCases) func vanished(side: SpliceSide) throws {
        let fixture = try SpliceFixture()
        try fixture.apply(.setTimeouts(SpliceFixture.id, idle: 0, keepAlive: 30))
        var questions = 0
        for second in 1...95 {
            // The other end talks.
            _ = try fixture.send(
                side.other,
                side == .client
                    ? fixture.fromServer(second - 1, payload: [1])
                    : fixture.fromClient(second - 1, payload: [1]))
            fixture.network.advance(seconds: 1)
            let sent = try fixture.read(fixture.network.drain())
            questions += (sent[side == .client ? 1 : 3] ?? []).count
            let reasons = fixture.network.events.compactMap {
                if case .spliceClosed(SpliceFixture.id, let reason) = $0 { reason } else { nil }
            }
            let isOver = reasons == [side == .client ? .clientVanished : .serverVanished]
            #expect(isOver == (second == 90), "\(second)")
            if isOver { break }
        }
        #expect(questions == 6)
    }

    /// A splice that is closed while both ends live: both get a reset that they take.
    @Test(arguments: 1...4 as ClosedRange<UInt64>) func closedByCommand(seed: UInt64) throws {
        let redirect = try spliced(seed)
        redirect.client.write([7])
        redirect.run(seconds: 0.1)
        redirect.apply(.close(redirect.id))
        redirect.run(seconds: 0.1)
        #expect(redirect.client.state == .reset)
        #expect(redirect.server.state == .reset)
        // What comes late goes nowhere.
        let before = redirect.network.drops(.spliceClosed)
        redirect.inject(ScriptedTCPSegment(), from: .client)
        redirect.run(seconds: 0.1)
        #expect(redirect.network.drops(.spliceClosed) == before + 1)
    }

    /// FIN in the middle of an unsplice: the session ends properly wherever it is.
    @Test(arguments: 1...16 as ClosedRange<UInt64>) func finDuringUnsplice(seed: UInt64) throws {
        let redirect = try spliced(seed, faulty: true)
        let text = spliceBytes(30_000, seed: seed)
        redirect.client.write(text)
        redirect.server.write(text)
        redirect.run(seconds: 0.002 * Double(seed % 5))
        redirect.wantsSplice = false
        redirect.run(seconds: 0.0005 * Double(seed % 7))
        redirect.client.close()
        redirect.server.close()
        let isDone = redirect.run(seconds: 20) {
            redirect.client.hasEnded && redirect.server.hasEnded
                && redirect.client.isFINAcknowledged && redirect.server.isFINAcknowledged
        }
        #expect(isDone, "seed \(seed), \(redirect.state)")
        #expect(Array(redirect.server.received.dropFirst(3)) == text)
        #expect(Array(redirect.client.received.dropFirst(3)) == text)
        expectSound(redirect, "seed \(seed)")
    }

    // MARK: ICMP

    @Test(arguments: [false, true], [SpliceSide.client, .server])
    func errorsAboutSplicedPackets(isIPv6: Bool, side: SpliceSide) throws {
        var options = SpliceFixture.Options()
        options.isIPv6 = isIPv6
        let fixture = try SpliceFixture(options)
        // A packet of the other end, as it went out to `side`, is quoted.
        let segment =
            side == .server
            ? fixture.fromClient(50, payload: [1, 2, 3, 4])
            : fixture.fromServer(50, payload: [1, 2, 3, 4])
        let (origin, near) =
            side == .server
            ? (fixture.client, fixture.virtual) : (fixture.server, fixture.source)
        let (local, far) =
            side == .server
            ? (fixture.source, fixture.server) : (fixture.virtual, fixture.client)
        let original = segment.frame(from: origin, to: near)
        let port: PortNumber = side == .server ? 1 : 3
        let sent = try #require(fixture.network.sendOne(original, on: port))
        let quote = Array(sent.frame.bytes.dropFirst(14))
        var builder = PacketBuilder(
            isIPv6 ? "fd02::99" : "10.2.0.99", isIPv6 ? "fd02::1" : "10.2.0.1",
            isIPv6 ? .icmp(type: 2, rest: 1_400) : .icmp(type: 3, code: 4, rest: 1_400),
            payload: quote)
        builder.destination = local.address
        builder.sourceMAC = far.mac
        builder.destinationMAC = local.mac
        let answer = try #require(
            fixture.network.sendOne(builder.frame(), on: side == .server ? 3 : 1))
        #expect(answer.port == port)
        let bytes = answer.frame.bytes
        let view = try #require(ChecksumView(bytes))
        #expect(view.problem == nil)
        // The quoted packet is the one that the end itself sent.
        let quoted = Array(view.segment.dropFirst(8))
        let addresses = isIPv6 ? 8..<40 : 12..<20
        let ports = isIPv6 ? 40..<48 : 20..<28
        let own = Array(original.dropFirst(14))
        #expect(Array(quoted[addresses]) == Array(own[addresses]))
        #expect(Array(quoted[ports]) == Array(own[ports]), "ports and sequence number")
        #expect(Array(view.segment[4..<8]) == [0, 0, 5, 0x78])
    }
}
