package import DataPlane

/// A client and a server with a switch between them, a kernel socket on each CPU port, and what moves
/// the session between sockets and splice: everything in memory, on a simulated clock, from one seed.
package final class ScriptedRedirect {
    package enum State: Sendable {
        case relaying, drainingToSplice, spliced, drainingToRelay, ended
    }

    package struct Options: Sendable {
        package var isIPv6 = false
        package var client = ScriptedTCP.Options()
        package var server = ScriptedTCP.Options()
        package var clientSocket = ScriptedTCP.Options()
        package var serverSocket = ScriptedTCP.Options()
        package var faults = LinkFaults()
        package var seed: UInt64 = 1
        package var heldOctets = 32 << 20
        package init() {}
    }

    package let id: SpliceID = 3
    package let network: TestSwitch
    package let options: Options
    package let client: ScriptedTCP
    package let server: ScriptedTCP
    package internal(set) var clientSocket: ScriptedTCP?
    package internal(set) var serverSocket: ScriptedTCP?
    package internal(set) var state = State.relaying
    package var wantsSplice = false
    /// Off: links lose nothing.
    package var isFaulty = false
    /// What the splice will follow, and whether these positions allow it: as a relay that knows messages
    /// says it.
    package var messages: ([SocketPositions]) -> SpliceMessages? = { _ in nil }
    /// Where open requests are noted while spliced.
    package var log: SessionLog?
    package var isAtRest: ([SocketPositions]) -> Bool = { _ in true }
    /// What the relay makes of octets at a sequence number of the side that sent them.
    package var transform: (SpliceSide, UInt32, [UInt8]) -> [UInt8] = { _, _, bytes in bytes }

    package internal(set) var splices = 0
    package internal(set) var unsplices = 0
    package internal(set) var giveUps = 0
    package internal(set) var freezeRetries = 0
    package internal(set) var events: [Event] = []
    package internal(set) var positionsAtInstall: [SocketPositions] = []
    /// What must never be: wrong checksums, refused commands.
    package internal(set) var problems: [String] = []
    /// RSTs that reached an end.
    package internal(set) var resetsSeen = 0
    package internal(set) var strayFrames = 0
    /// Frames lost, repeated or delayed by the links.
    package internal(set) var faultsMade = 0
    /// Sees each frame that reaches an end; false: it is lost.
    package var filter: (SplicePlace, ReceivedTCPSegment) -> Bool = { _, _ in true }
    /// Changes the positions that a freeze read: for showing that wrong ones are noticed.
    package var spoil: (inout SocketPositions, SpliceSide) -> Void = { _, _ in }

    var deliveries = Deliveries()
    var random: SplitMix64
    var nextPoll: UInt64 = 0
    var drainStarted: UInt64 = 0
    var nextProbe: UInt64 = 0
    var retryAt: UInt64 = 0
    /// Positions at the last move.
    package internal(set) var held: SpliceSnapshot?

    package let clientEnd: TCPEndpoint
    package let virtualEnd: TCPEndpoint
    package let sourceEnd: TCPEndpoint
    package let serverEnd: TCPEndpoint

    package init(_ options: Options = Options()) {
        self.options = options
        random = SplitMix64(seed: options.seed)
        let v6 = options.isIPv6
        clientEnd = TCPEndpoint(v6 ? "fd01::2" : "10.1.0.2", port: 40_000, mac: 0x0200_0000_0102)
        virtualEnd = TCPEndpoint(v6 ? "fd01::1" : "10.1.0.1", port: 3_260, mac: 0x0200_0000_0101)
        sourceEnd = TCPEndpoint(v6 ? "fd02::1" : "10.2.0.1", port: 50_000, mac: 0x0200_0000_0201)
        serverEnd = TCPEndpoint(v6 ? "fd02::2" : "10.2.0.2", port: 3_260, mac: 0x0200_0000_0202)
        network = .twoSides(heldOctets: options.heldOctets)
        client = ScriptedTCP(local: clientEnd, remote: virtualEnd, options: options.client)
        server = ScriptedTCP(local: serverEnd, remote: sourceEnd, options: options.server)
        adopt(client, .client)
        adopt(server, .server)
    }

    package var now: UInt64 { network.now }

    package subscript(_ place: SplicePlace) -> ScriptedTCP? {
        switch place {
        case .client: client
        case .clientSocket: clientSocket
        case .server: server
        case .serverSocket: serverSocket
        }
    }

    package func socket(_ side: SpliceSide) -> ScriptedTCP? {
        side == .client ? clientSocket : serverSocket
    }

    func adopt(_ end: ScriptedTCP, _ place: SplicePlace) {
        end.now = now
        end.onSend = { [unowned self, unowned end] segment in
            let size = end.options.maximumSegment
            let isPartial = end.options.segmentsPerFrame > 1 && !segment.payload.isEmpty
            let bytes = segment.frame(from: end.local, to: end.remote, isPartial: isPartial)
            let offload =
                isPartial
                ? segment.offload(segmentSize: size, isIPv4: end.local.address.isIPv4)
                : VirtioHeader()
            travel(
                place, isToSwitch: true, MemoryPort.SentFrame(bytes: bytes, offload: offload))
        }
    }

    // MARK: Frames

    private func travel(_ place: SplicePlace, isToSwitch: Bool, _ frame: MemoryPort.SentFrame) {
        if place.isSocket {
            return deliveries.add(at: now + 5_000, place, isToSwitch: isToSwitch, frame)
        }
        let faults = options.faults
        var copies = 1
        if isFaulty {
            if random.below(1_000) < faults.loss { copies = 0 }
            if random.below(1_000) < faults.duplication { copies += 1 }
            if copies != 1 { faultsMade += 1 }
        }
        for _ in 0..<copies {
            var delay = faults.delay
            if isFaulty, random.below(1_000) < faults.reordering {
                delay += random.next() % faults.extraDelay
                faultsMade += 1
            }
            deliveries.add(at: now + delay, place, isToSwitch: isToSwitch, frame)
        }
    }

    private func route(_ sent: [PortNumber: [MemoryPort.SentFrame]]) {
        for place in SplicePlace.allCases {
            for frame in sent[place.rawValue] ?? [] { travel(place, isToSwitch: false, frame) }
        }
    }

    private func deliver(_ entry: Deliveries.Entry) {
        if entry.isToSwitch {
            route(
                network.send(
                    entry.frame.bytes, on: entry.place.rawValue, offload: entry.frame.offload))
            return
        }
        let received: ReceivedTCPSegment
        do {
            received = try ReceivedTCPSegment(entry.frame.bytes, offload: entry.frame.offload)
        } catch {
            return problems.append("to \(entry.place): \(error)")
        }
        guard let end = self[entry.place], received.destination == end.local,
            received.source == end.remote
        else {
            if entry.place.isSocket {
                strayFrames += 1
            } else {
                problems.append(
                    "to \(entry.place): from \(received.source) to "
                        + "\(received.destination)")
            }
            return
        }
        guard filter(entry.place, received) else { return }
        if received.segment.has(ScriptedTCPSegment.rst), !entry.place.isSocket { resetsSeen += 1 }
        end.receive(received.segment)
    }

    /// Puts a frame on the way to the switch, without faults.
    package func inject(
        _ segment: ScriptedTCPSegment, from place: SplicePlace, isPartial: Bool = false
    ) {
        guard let end = self[place] else { return }
        deliveries.add(
            at: now, place, isToSwitch: true,
            MemoryPort.SentFrame(
                bytes: segment.frame(from: end.local, to: end.remote, isPartial: isPartial)))
    }

    // MARK: Commands

    @discardableResult
    package func apply(_ commands: SpliceCommand...) -> SpliceSnapshot? {
        do {
            let results = try network.apply(commands.map { .splice($0) })
            route(network.drain())
            if case .splice(let snapshot)? = results.last { return snapshot }
        } catch {
            problems.append("\(commands): \(error)")
        }
        return nil
    }

    package var snapshot: SpliceSnapshot { apply(.inspect(id)) ?? SpliceSnapshot() }

    // MARK: Time

    /// Goes on until `condition`, for `seconds` at most; true when the condition came.
    @discardableResult
    package func run(seconds: Double = 1, until condition: () -> Bool = { false }) -> Bool {
        let end = now + UInt64(seconds * 1_000_000_000)
        while now < end, problems.count < 20 {
            if condition() { return true }
            if !step(limit: end) { break }
        }
        return condition()
    }

    /// Like `run`, out of the fast path or into it again whenever the last move is done.
    package func runMoving(seconds: Double, until condition: () -> Bool) -> Bool {
        var moves = splices + unsplices
        return run(seconds: seconds) {
            if splices + unsplices > moves {
                moves = splices + unsplices
                wantsSplice.toggle()
            }
            return condition()
        }
    }

    private func step(limit: UInt64) -> Bool {
        if nextPoll <= now { nextPoll = now + 500_000 }
        var next = min(nextPoll, limit)
        if let time = deliveries.next { next = min(next, time) }
        for place in SplicePlace.allCases {
            if let deadline = self[place]?.deadline { next = min(next, deadline) }
        }
        network.advance(max(next, now) - now)
        route(network.drain())
        for place in SplicePlace.allCases { self[place]?.now = now }
        for place in SplicePlace.allCases {
            if let end = self[place], let deadline = end.deadline, deadline <= now {
                end.timeOut()
            }
        }
        while let time = deliveries.next, time <= now, let entry = deliveries.takeFirst() {
            deliver(entry)
        }
        for end in [client, server] { end.received += end.read() }
        let fresh = network.events
        events += fresh
        pump()
        if now >= nextPoll || !fresh.isEmpty { poll() }
        return true
    }
}
