import DataPlane
import TestSupport
import Testing

@Suite struct SpliceBatchTests {
    private func refusal(_ fixture: SpliceFixture, _ commands: SpliceCommand...) -> BatchError? {
        do throws(BatchError) {
            try fixture.network.apply(commands.map { .splice($0) })
            return nil
        } catch {
            return error
        }
    }

    private func leg(_ port: UInt16, domain: DomainID = 0) -> SpliceLeg {
        SpliceFixture.leg(
            domain, TCPEndpoint("10.9.0.1", port: 3_260, mac: 0x0200_0000_0901),
            TCPEndpoint("10.9.0.2", port: port, mac: 0x0200_0000_0902))
    }

    private func open(_ id: SpliceID, _ port: UInt16) -> SpliceCommand {
        .open(id, client: leg(port), usesTimestamps: true, usesSACK: true)
    }

    private let positions = SocketPositions(
        receiveNext: SequenceNumber(1), sendNext: SequenceNumber(2))

    @Test func everyCommandNeedsItsState() throws {
        let fixture = try SpliceFixture()
        let id = SpliceFixture.id
        let wrong: [SpliceCommand] = [
            .attachServer(id, leg(1)),
            .updateLeg(id, .client, remoteScale: 1, localScale: 1, received: nil),
            .beginDrainToSplice(id), .resumeDrain(id), .abortToSlow(id), .abortToSpliced(id),
            .install(id, client: positions, server: positions, messages: nil),
            .finishToSlow(id, client: positions, server: positions),
        ]
        for command in wrong {
            #expect(refusal(fixture, command)?.reason == .spliceState(id, .spliced), "\(command)")
        }
        #expect(refusal(fixture, open(id, 1))?.reason == .spliceInUse(id))
        #expect(fixture.snapshot.state == .spliced)
    }

    @Test func unknownSplices() throws {
        let fixture = try SpliceFixture()
        for command in [.inspect(5), .close(5), .hold(5), .probe(5)] as [SpliceCommand] {
            #expect(refusal(fixture, command)?.reason == .spliceNotOpen(5))
        }
        for id in [8, 9_999, UInt32.max] {
            let commands = [.inspect(id), .close(id), .hold(id), open(id, 1)] as [SpliceCommand]
            for command in commands {
                #expect(refusal(fixture, command)?.reason == .spliceOutOfRange(id))
            }
        }
    }

    @Test func nothingOfARefusedBatchHappens() throws {
        let fixture = try SpliceFixture()
        let error = refusal(fixture, open(4, 1), .close(SpliceFixture.id), .hold(7))
        #expect(error == BatchError(index: 2, reason: .spliceNotOpen(7)))
        #expect(refusal(fixture, .inspect(4))?.reason == .spliceNotOpen(4))
        #expect(fixture.snapshot.state == .spliced)
    }

    /// What an earlier command of the batch takes, a later one cannot take too.
    @Test func batchesThatCollideWithThemselves() throws {
        let fixture = try SpliceFixture()
        #expect(
            refusal(fixture, open(4, 1), open(4, 2))
                == BatchError(index: 1, reason: .spliceInUse(4)))
        #expect(
            refusal(fixture, open(4, 1), open(5, 1)) == BatchError(index: 1, reason: .flowExists))
        #expect(refusal(fixture, open(4, 1), open(5, 2)) == nil)
        #expect(refusal(fixture, .attachServer(4, leg(2))) != nil)
    }

    @Test func tableOfFlowsIsFull() throws {
        let fixture = try SpliceFixture()
        // 64 flows, four of them taken by the splice: room for one leg is left.
        for port in 1...58 as ClosedRange<UInt16> {
            let key = FlowKey(
                source: fixture.client.address, sourcePort: port,
                destination: fixture.virtual.address, destinationPort: 1, ipProtocol: 17,
                domain: 0, origin: .network)
            try fixture.network.apply([
                .addFlow(key, actions: [.drop], cookie: 0, idleTimeout: 0)
            ])
        }
        #expect(
            refusal(fixture, open(4, 1), open(5, 2))
                == BatchError(index: 1, reason: .flowTableFull(limit: 64)))
        #expect(refusal(fixture, open(4, 1)) == nil)
        #expect(refusal(fixture, open(5, 2))?.reason == .flowTableFull(limit: 64))
    }

    /// A splice's number and flows come free after a close, as often as one likes.
    @Test func numbersComeBack() throws {
        let fixture = try SpliceFixture()
        for round in 0..<50 {
            for id in 3..<8 as Range<SpliceID> {
                #expect(refusal(fixture, open(id, UInt16(id))) == nil, "round \(round)")
            }
            for id in (3..<8 as Range<SpliceID>).reversed() {
                #expect(refusal(fixture, .close(id)) == nil)
            }
        }
        #expect(fixture.snapshot.state == .spliced)
        #expect(try fixture.pass(.client, fixture.fromClient()).flags == ScriptedTCPSegment.ack)
    }

    @Test func messageFormatsThatDoNotFit() throws {
        let redirect = ScriptedRedirect()
        try #require(redirect.connect())
        redirect.client.write([1])
        redirect.run(seconds: 0.01)
        let id = redirect.id
        redirect.apply(.beginDrainToSplice(id))
        redirect.apply(.hold(id))
        var format = MessageFormat.iscsi
        format.headerLength = 65
        let before = redirect.problems.count
        redirect.apply(
            .install(
                id, client: positions, server: positions,
                messages: SpliceMessages(format: format)))
        #expect(redirect.problems.count == before + 1)
        #expect(redirect.snapshot.state == .hold)
    }
}
