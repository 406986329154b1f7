import DataPlane
import TestSupport
import Testing

/// A stream of iSCSI messages, and the same stream as it must arrive.
private struct Stream {
    var bytes: [UInt8] = []
    var edited: [UInt8] = []
    var boundaries: [Int] = []
    let edit: MessageEdit

    init(_ edit: MessageEdit) { self.edit = edit }

    mutating func add(_ kind: UInt8, _ random: inout SplitMix64) {
        let data = random.below(3) == 0 ? 0 : random.below(1_800)
        var header = random.bytes(48)
        header[0] = kind
        header.replaceSubrange(4..<8, with: bigEndian32(UInt32(data)))
        boundaries.append(bytes.count)
        let body = random.bytes((data + 3) / 4 * 4)
        bytes += header + body
        if case .add(let addend) = edit.operation, edit.kinds >> UInt64(kind & 63) & 1 != 0 {
            let at = Int(edit.field.offset)
            let old = header[at..<at + 4].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
            header.replaceSubrange(
                at..<at + 4, with: bigEndian32(old &+ UInt32(truncatingIfNeeded: addend)))
        }
        edited += header + body
    }

    /// Octets from an offset to the next header.
    func distance(_ offset: Int) -> UInt32 {
        UInt32((boundaries.first { $0 >= offset } ?? bytes.count) - offset)
    }

    func isInHeader(_ offset: Int) -> Bool {
        boundaries.contains { offset > $0 && offset < $0 + 48 }
    }
}

@Suite struct SpliceMessageTests {
    private static let text: UInt8 = 0x04

    private final class Session {
        var redirect: ScriptedRedirect
        var up: Stream
        var down: Stream
        var isSpoiled = false
        var mismatches = 0
        var repeats = 0

        init(_ seed: UInt64, messages count: Int = 60, heldMessageAt: Int? = nil) {
            var random = SplitMix64(seed: seed)
            var options = spliceOptions(seed)
            options.client.cutsAtRandom = true
            options.server.cutsAtRandom = true
            redirect = ScriptedRedirect(options)
            let clientKinds = UInt64(1) << 1 | 1 << 5
            up = Stream(
                MessageEdit(
                    field: .init(offset: 28, width: 4), operation: .add(UInt64.max - 99),
                    kinds: clientKinds))
            down = Stream(
                MessageEdit(
                    field: .init(offset: 24, width: 4), operation: .add(0x1_0000_0007),
                    kinds: 1 << 0x21 | 1 << 0x25))
            for index in 0..<count {
                let kind = index == heldMessageAt ? text : [0x01, 0x05, 0x00][random.below(3)]
                up.add(kind, &random)
                down.add([0x21, 0x25, 0x31][random.below(3)], &random)
            }
            prepare()
        }

        private func prepare() {
            redirect.messages = { [unowned self] positions in
                var messages = SpliceMessages(
                    format: .iscsi, clientEdits: [up.edit], serverEdits: [down.edit],
                    clientHeaderDistance: up.distance(offset(.client, positions)),
                    serverHeaderDistance: down.distance(offset(.server, positions)),
                    clientHoldKinds: 1 << UInt64(text))
                if isSpoiled { messages.serverHeaderDistance += 4 }
                return messages
            }
            redirect.isAtRest = { [unowned self] positions in
                !up.isInHeader(offset(.client, positions))
                    && !down.isInHeader(offset(.server, positions))
            }
            redirect.transform = { [unowned self] side, sequence, bytes in
                let start = Int(sequence &- base(side))
                let stream = side == .client ? up : down
                return Array(stream.edited[start..<start + bytes.count])
            }
            // Every octet that the end may still need says what the edited stream says, however often
            // it comes. (Of what the end has acknowledged the switch forgets its edits.)
            redirect.filter = { [unowned self] place, received in
                let segment = received.segment
                guard !place.isSocket, !segment.payload.isEmpty, let end = redirect[place] else {
                    return true
                }
                let stream = place == .server ? up.edited : down.edited
                let old = min(
                    segment.payload.count, max(0, distance(end.receiveNext, segment.sequence)))
                if old > 0 { repeats += 1 }
                let start = distance(segment.sequence, end.remoteBase) + old
                let fresh = segment.payload.dropFirst(old)
                if !fresh.isEmpty,
                    start < 0 || start + fresh.count > stream.count
                        || !stream[start..<start + fresh.count].elementsEqual(fresh)
                {
                    mismatches += 1
                }
                return true
            }
        }

        private func distance(_ left: UInt32, _ right: UInt32) -> Int {
            TestSupport.distance(left, right)
        }

        func base(_ side: SpliceSide) -> UInt32 {
            (side == .client ? redirect.options.client : redirect.options.server)
                .initialSequence &+ 1
        }

        func offset(_ side: SpliceSide, _ positions: [SocketPositions]) -> Int {
            Int(positions[side.index].receiveNext.rawValue &- base(side))
        }

        /// Connects, and splices at the very start of both streams or a little later.
        func start() throws {
            try #require(redirect.connect(), "\(redirect.problems)")
            redirect.inject(redirect.client.probe, from: .client)
            redirect.run(seconds: 0.01)
            redirect.wantsSplice = true
            try #require(redirect.run { redirect.state == .spliced })
        }

        var isDone: Bool {
            redirect.server.received.count >= up.bytes.count
                && redirect.client.received.count >= down.bytes.count
        }
    }

    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func editsAcrossLossAndReordering(seed: UInt64) throws {
        let session = Session(seed)
        try session.start()
        let redirect = session.redirect
        redirect.isFaulty = true
        redirect.client.write(session.up.bytes)
        redirect.server.write(session.down.bytes)
        #expect(redirect.run(seconds: 20) { session.isDone }, "seed \(seed)")
        #expect(redirect.server.received == session.up.edited, "seed \(seed)")
        #expect(redirect.client.received == session.down.edited, "seed \(seed)")
        #expect(session.mismatches == 0, "seed \(seed)")
        #expect(session.repeats > 0)
        #expect(session.up.edited != session.up.bytes)
        expectSound(redirect, "seed \(seed)")
        #expect(redirect.network.drops(.messageMalformed) == 0)
    }

    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func editsAcrossMoves(seed: UInt64) throws {
        let session = Session(seed &+ 500, messages: 100)
        try session.start()
        let redirect = session.redirect
        redirect.isFaulty = true
        redirect.client.write(session.up.bytes)
        redirect.server.write(session.down.bytes)
        var moves = 1
        redirect.wantsSplice = false
        let isDone = redirect.run(seconds: 20) {
            if redirect.splices + redirect.unsplices > moves {
                moves = redirect.splices + redirect.unsplices
                redirect.wantsSplice.toggle()
                if let held = redirect.held, redirect.state == .relaying {
                    // The dataplane says the same about boundaries as the stream does.
                    let up = Int(
                        held.server.acknowledged.rawValue &- held.clientDelta
                            &- session.base(.client))
                    #expect(held.client.headerDistance == session.up.distance(up))
                }
            }
            return session.isDone
        }
        #expect(isDone, "seed \(seed)")
        #expect(redirect.server.received == session.up.edited, "seed \(seed)")
        #expect(redirect.client.received == session.down.edited, "seed \(seed)")
        #expect(session.mismatches == 0, "seed \(seed)")
        #expect(moves >= 2)
        expectSound(redirect, "seed \(seed)")
    }

    @Test(arguments: 1...12 as ClosedRange<UInt64>)
    func messagesOfAHeldKindWaitForTheRelay(seed: UInt64) throws {
        let session = Session(seed &+ 900, messages: 30, heldMessageAt: 17)
        try session.start()
        let redirect = session.redirect
        redirect.isFaulty = true
        redirect.client.write(session.up.bytes)
        redirect.server.write(session.down.bytes)
        let border = session.up.boundaries[17]
        // All before it arrives, nothing of it.
        let isHeld = redirect.run(seconds: 20) {
            redirect.server.received.count >= border
                && redirect.events.contains {
                    if case .spliceMessageHeld(redirect.id, side: .client) = $0 {
                        true
                    } else {
                        false
                    }
                }
        }
        #expect(isHeld, "seed \(seed)")
        redirect.run(seconds: 0.5)
        #expect(redirect.server.received.count == border)
        let reports = redirect.events.filter {
            if case .spliceMessageHeld = $0 { true } else { false }
        }
        #expect(reports.count == 1)
        redirect.wantsSplice = false
        let isUnspliced = redirect.run(seconds: 3) { redirect.unsplices == 1 }
        try #require(isUnspliced, "seed \(seed)")
        #expect(redirect.held?.client.headerDistance == 0)
        #expect(redirect.run(seconds: 5) { session.isDone }, "seed \(seed)")
        #expect(redirect.server.received == session.up.edited, "seed \(seed)")
        #expect(redirect.client.received == session.down.edited, "seed \(seed)")
        expectSound(redirect, "seed \(seed)")
    }

    /// The tests above can fail: with a wrong boundary the octets are not right.
    @Test func wrongBoundariesAreNoticed() throws {
        let session = Session(3)
        session.isSpoiled = true
        try session.start()
        session.redirect.server.write(session.down.bytes)
        session.redirect.run(seconds: 2)
        #expect(
            session.mismatches > 0
                || session.redirect.network.drops(.messageMalformed) > 0)
        #expect(session.redirect.client.received != session.down.edited)
    }
}
