import DataPlane
import Logging
import StorageProtocols

/// One client's transport connection and the one to the server that serves it, whatever carries them now:
/// kernel sockets joined by a relay, or a splice in the dataplane. Moves them from one to the other.
///
/// Lives on the session thread. The rules that the steps keep to, and what breaks without each, are in
/// DESIGN.md, "Splice and unsplice".
final class Redirect {
    enum State: String {
        /// Only the client leg exists.
        case clientOnly
        case connecting
        case relaying
        case drainingToSplice
        case spliced
        case drainingToRelay
        /// The server is lost; the client leg is on its way to a kernel socket.
        case restoring
        case ended
    }

    /// What happens to a redirect, for the session that owns it.
    enum Outcome {
        case connected
        /// The server could not be reached; the client leg is as it was.
        case connectFailed(String)
        /// The server leg broke off, or was left; the client leg is a kernel socket and waits.
        case serverLost(String)
        case serverLeft
        /// New requests wait: whoever knows where they will go may open a standby.
        case serverHeld
        /// The standby's connection has become the server leg; the relay knows nothing of it yet.
        case serverReplaced(ServerStandby.Purpose, ISCSIInitiatorResult, rest: [UInt8])
        /// The server that was left has not finished what was open there: it is to be done again. The present server is
        /// left as well.
        case formerLost(String)
        /// A request of the spliced session is open for longer than it should.
        case requestLate
        /// Both ends closed, or one broke off.
        case ended(String)
        /// The relay has met what is not its server's: `ISCSIRelay.endAlone`.
        case clientForeign
    }

    /// Times and counts, for people.
    struct Statistics {
        var splices: UInt64 = 0
        var unsplices: UInt64 = 0
        var spliceGiveUps: UInt64 = 0
        var unspliceGiveUps: UInt64 = 0
        /// Servers that were logged in to beforehand: that took over, and that did not.
        var standbys: UInt64 = 0
        var standbyGiveUps: UInt64 = 0
        /// ns from the freeze to the release of held packets.
        var longestFreeze: UInt64 = 0
        var lastFreeze: UInt64 = 0
        var longestDrain: UInt64 = 0
        /// Octets that went through the relay, by side where they came from.
        var relayedFromClient: UInt64 = 0
        var relayedFromServer: UInt64 = 0
        /// What had passed in the fast path when the session left it last.
        var inFastPath = ResourceTraffic()

        mutating func addFreeze(_ duration: UInt64) {
            lastFreeze = duration
            longestFreeze = max(longestFreeze, duration)
        }

        mutating func add(_ other: Statistics) {
            splices += other.splices
            unsplices += other.unsplices
            spliceGiveUps += other.spliceGiveUps
            unspliceGiveUps += other.unspliceGiveUps
            standbys += other.standbys
            standbyGiveUps += other.standbyGiveUps
            longestFreeze = max(longestFreeze, other.longestFreeze)
            longestDrain = max(longestDrain, other.longestDrain)
            relayedFromClient += other.relayedFromClient
            relayedFromServer += other.relayedFromServer
        }
    }

    let id: SpliceID
    let engine: SessionEngine
    var state = State.clientOnly {
        didSet { stateSince = engine.loop.now }
    }
    private(set) var stateSince: UInt64 = 0
    var client: Leg
    var server: Leg?
    var statistics = Statistics()
    let relay: any StreamRelay
    /// Called on the session thread.
    var onOutcome: (Outcome) -> Void = { _ in }
    /// What the session wants: to be spliced when possible.
    var wantsSplice = false

    var output = RelayOutput()
    var isEOF = [false, false]
    var isShut = [false, false]
    /// By side: its socket may have octets. Events are edge-triggered: between two of them a socket that was empty
    /// need not be asked.
    private var isReadable = [true, true]
    var drainStarted: UInt64 = 0
    var nextProbe: UInt64 = 0
    var freezeRetries = 0
    var holeSkips = 0
    var isServerBaseKnown = false
    var connectedAt: UInt64 = 0
    /// ns from the connection to the server to the first splice: what is over by then costs no splice.
    var settleTime: UInt64 = 0
    /// ns that a request may be open in the spliced state; 0: no limit.
    var requestDeadline: () -> UInt64 = { 0 }
    var isClosedByPeer = false
    /// The session is to be left by its server in good order: nothing new goes there.
    var isLeaving = false
    var lossReason = ""
    /// The connection to the server that is next, while the present one finishes.
    var standby: ServerStandby?
    /// The connection to the server that was left, while it finishes what is open there.
    var former: FormerServer?
    /// Whether a standby still serves its purpose.
    var isStandbyWanted: (ServerStandby.Purpose) -> Bool = { _ in false }
    /// Another server takes over what a lost or left one had: its login is another matter than the first.
    var isReplacing = false
    /// Only the control plane can answer a message: back to the relay, then splice again.
    var needsRelay = false
    var timer: EventLoop.Timer?

    /// The client's octets come by `inject` and go to whoever takes `output.toClient`, and is told so by this; nil:
    /// the client leg has a socket. Never spliced.
    private(set) var onClientOutput: (() -> Void)?
    /// Octets for the client beyond which the server is not read.
    var clientOutputMaximum: Int

    /// - Parameter client: without a descriptor when there is `onClientOutput`: only what it says of the client's
    ///   connection counts.
    init(
        id: SpliceID, engine: SessionEngine, client: Leg, relay: any StreamRelay,
        onClientOutput: (() -> Void)? = nil
    ) {
        self.id = id
        self.engine = engine
        self.client = client
        self.relay = relay
        self.onClientOutput = onClientOutput
        clientOutputMaximum = engine.relayBufferMaximum
    }

    /// The server's packets pass by the dataplane.
    private var shortcut: RelayShortcut.Flow?

    /// For a server leg that the dataplane does not follow.
    func shorten() {
        guard hasMemoryClient, let server, let owner = engine.shortcut else { return }
        if shortcut == nil {
            shortcut = owner.flow(
                local: server.local, remote: server.remote, domain: engine.storageDomain)
        }
        shortcut?.update(engine.port(of: server.remote.address, side: .server))
    }

    func dropShortcut() { shortcut = nil }

    /// The client leg is a stream in memory.
    var hasMemoryClient: Bool { onClientOutput != nil }
    func setMemoryClient(_ onOutput: (() -> Void)?) { onClientOutput = onOutput }
    var isForeignTold = false

    func leg(_ side: SpliceSide) -> Leg? { side == .client ? client : server }

    // MARK: Relaying

    /// Starts to react to the socket of a side.
    func watch(_ side: SpliceSide) {
        guard let leg = leg(side), side == .server || !hasMemoryClient else { return }
        isReadable[side.index] = true
        engine.loop.register(leg.descriptor, events: [.read, .write, .edgeTriggered]) {
            [weak self] _ in self?.socketReady(side)
        }
    }

    private func socketReady(_ side: SpliceSide) {
        isReadable[side.index] = true
        switch state {
        case .connecting: if side == .server { connectProgress() }
        case .relaying: pump()
        case .drainingToSplice: continueSplice()
        case .clientOnly: if side == .client, isReplacing { flushToClient() }
        default: break
        }
    }

    /// Gives octets of the client, read before the server leg was there, to the relay.
    func inject(_ bytes: [UInt8], from side: SpliceSide) {
        guard !bytes.isEmpty else { return }
        tellRelay { output throws(RelayError) in
            try bytes.withBytes { buffer throws(RelayError) in
                try relay.receive(buffer, from: side, output: &output)
            }
        }
    }

    /// The same without acting upon it yet: `pump` does.
    func feed(_ bytes: UnsafeRawBufferPointer) {
        do throws(RelayError) {
            statistics.relayedFromClient += UInt64(bytes.count)
            try relay.receive(bytes, from: .client, output: &output)
        } catch {
            // Not from within the client's octets.
            engine.loop.postLocal { [weak self] in self?.end(error.message, reset: true) }
        }
    }

    /// The server was not read because the client's octets waited.
    private var isOutputFull = false

    /// Octets were taken out of `output.toClient`.
    func clientOutputTaken() {
        guard isOutputFull else { return }
        isOutputFull = false
        engine.loop.postLocal { [weak self] in self?.pump() }
    }

    /// Lets the session tell its relay something that makes output.
    func tellRelay(_ body: (inout RelayOutput) throws(RelayError) -> Void) {
        do { try body(&output) } catch { return end(error.message, reset: true) }
        pump()
    }

    /// Moves octets between the sockets until neither has more or takes more.
    func pump() {
        guard state == .relaying || state == .drainingToSplice else { return }
        do {
            var isMoving = true
            var rounds = 0
            while isMoving, rounds < 64 {
                isMoving = false
                rounds += 1
                for side in SpliceSide.allCases where try move(side) { isMoving = true }
                if former != nil, try moveFormer() { isMoving = true }
            }
            if rounds == 64 { engine.loop.postLocal { [weak self] in self?.pump() } }
        } catch let error as RelayError {
            return end(error.message, reset: true)
        } catch let failure as FormerServer.Failure {
            return loseFormer(failure.reason)
        } catch let failure as LegFailure where failure.side == .server {
            if !relay.wantsClientInput { return onOutcome(.connectFailed("\(failure.error)")) }
            if relay.survivesServer, !isEOF[0] { return lostWhileRelaying("\(failure.error)") }
            return end("\(failure.error)", reset: true)
        } catch {
            return end("\(error)", reset: true)
        }
        if relay.isForeign { return tellForeign() }
        if isLeaving, state == .relaying { holdRelay() }
        if isShut[0], isShut[1] { return end("closed by both ends", reset: false) }
        if state == .relaying, wantsSplice, !isLeaving, timer == nil { scheduleFirstSplice() }
    }

    /// A socket operation that failed, and whose.
    private struct LegFailure: Error, CustomStringConvertible {
        var side: SpliceSide
        var error: SystemCallError
        var description: String { "\(error)" }
    }

    /// Reads once from `side` and writes once to the other; true when anything moved.
    private func move(_ side: SpliceSide) throws -> Bool {
        guard let from = leg(side), let to = leg(side.other) else { return false }
        var isMoving = false
        let isWanted =
            side == .server
            ? output.toClient.count < clientOutputMaximum
            : !hasMemoryClient && relay.wantsClientInput
                && output.toServer.count < engine.relayBufferMaximum
        if side == .server, !isWanted { isOutputFull = true }
        if isWanted, isReadable[side.index], !isEOF[side.index] {
            let input: Socket.Received
            do throws(SystemCallError) {
                input = try receive(side, from.descriptor)
            } catch {
                throw LegFailure(side: side, error: error)
            }
            switch input {
            case .bytes(let count):
                if side == .client {
                    statistics.relayedFromClient += UInt64(count)
                } else {
                    statistics.relayedFromServer += UInt64(count)
                }
                try relay.receive(
                    UnsafeRawBufferPointer(rebasing: engine.scratch[..<count]), from: side,
                    output: &output)
                isMoving = true
            case .end where side == .server && !relay.wantsClientInput:
                // The end of a server that did not let us in is not the end of the client's session.
                onOutcome(.connectFailed("closed by the server"))
                return false
            case .end where side == .server && relay.survivesServer && !isEOF[0]:
                lostWhileRelaying("closed by the server")
                return false
            case .end where hasMemoryClient:
                end("closed by the server", reset: true)
                return false
            case .end:
                isEOF[side.index] = true
                isMoving = true
            case .wouldBlock: isReadable[side.index] = false
            }
        }
        let before = output[side.other].count
        if before > 0, side == .server, let onClientOutput {
            onClientOutput()
            if output.toClient.count < before { isMoving = true }
        } else if before > 0 {
            do throws(SystemCallError) {
                try output[side.other].drain { bytes throws(SystemCallError) in
                    try Socket.send(to.descriptor, bytes)
                }
            } catch {
                throw LegFailure(side: side.other, error: error)
            }
            if output[side.other].count < before { isMoving = true }
        }
        if isEOF[side.index], output[side.other].isEmpty, !isShut[side.index] {
            isShut[side.index] = true
            Socket.shutdownWrite(to.descriptor)
        }
        return isMoving
    }

    /// The least of octets for the client that is worth receiving without a look at it.
    private static let plainMinimum = 16 << 10

    /// Reads a socket once. What the relay does not want to see is behind `output.toClient` already and does not count;
    /// the rest is in the scratch memory.
    private func receive(_ side: SpliceSide, _ descriptor: Int32) throws(SystemCallError)
        -> Socket.Received
    {
        let plain = side == .server ? relay.plainServerOctets : 0
        guard plain >= Self.plainMinimum else {
            return try Socket.receive(descriptor, into: engine.relayScratch)
        }
        let room = min(plain, engine.relayBufferMaximum)
        let rest = UnsafeMutableRawBufferPointer(
            rebasing: engine.relayScratch[..<(room < plain ? 0 : engine.relayScratch.count)])
        var received = Socket.Received.wouldBlock
        try output.toClient.append(upTo: room) { buffer throws(SystemCallError) in
            received = try Socket.receive(descriptor, into: buffer, then: rest)
            guard case .bytes(let count) = received else { return 0 }
            return min(count, buffer.count)
        }
        guard case .bytes(let count) = received else { return received }
        statistics.relayedFromServer += UInt64(min(count, room))
        relay.passedPlain(min(count, room))
        return .bytes(max(0, count - room))
    }

    /// Octets for the client go out also while there is no server.
    private func flushToClient() {
        guard !hasMemoryClient else { return }
        do {
            try output.toClient.drain { bytes throws(SystemCallError) in
                try Socket.send(client.descriptor, bytes)
            }
            let info = try TCPInfo(descriptor: client.descriptor)
            guard info.isEstablished || info.isHalfClosed else {
                return end("closed by the client", reset: true)
            }
        } catch {
            end("\(error)", reset: true)
        }
    }

    // MARK: Events of the dataplane

    func progressed() {
        switch state {
        case .drainingToSplice: continueSplice()
        case .drainingToRelay: continueUnsplice()
        case .restoring: continueRestore()
        default: break
        }
    }

    func closedInDataplane(_ reason: SpliceCloseReason) {
        wasReset = reason == .resetByClient || reason == .resetByServer
        isClosedByPeer = true
        guard state == .spliced || state == .drainingToRelay || state == .restoring else { return }
        let text =
            switch reason {
            case .finished: "closed by both ends"
            case .resetByClient: "reset by the client"
            case .resetByServer: "reset by the server"
            case .idle: "idle for too long"
            case .clientVanished: "the client does not answer"
            case .serverVanished: "the server does not answer"
            }
        end(text, reset: reason.isOurs)
    }

    // MARK: End

    /// Ends both legs. `reset`: with RST, so that nobody takes it for a proper end of the stream.
    func end(_ reason: String, reset: Bool) {
        guard state != .ended else { return }
        let wasSpliced = state == .spliced || state == .drainingToRelay || state == .restoring
        // Only this may have left the record in another state than `slow`.
        let isInMotion = state == .drainingToSplice
        state = .ended
        stopTimer()
        dropStandby()
        dropFormer()
        dropShortcut()
        for leg in [client, server].compactMap({ $0 }) where leg.descriptor >= 0 {
            engine.loop.unregister(leg.descriptor)
            if reset { Socket.setReset(leg.descriptor) }
            Socket.close(leg.descriptor)
        }
        client.descriptor = -1
        if isInMotion { engine.postEnd([.abortToSlow(id)]) }
        if !hasMemoryClient { engine.postEnd([.close(id)]) }
        lingers = wasSpliced
        if let server {
            // After a reset no end waits for late packets; else the server may be in TIME_WAIT.
            engine.ports.release(
                address: server.local.address, port: server.local.port, now: engine.loop.now,
                quarantine: reset || wasReset ? SessionEngine.lingerTime : Self.portRest)
        }
        server?.descriptor = -1
        onOutcome(.ended(reason))
    }

    private var wasReset = false
    /// After the end: the dataplane keeps the record for a while.
    private(set) var lingers = false

    /// ns that a source port rests: TIME_WAIT of Linux.
    static let portRest: UInt64 = 60_000_000_000
}
