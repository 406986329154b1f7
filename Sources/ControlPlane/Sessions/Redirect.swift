import DataPlane
import Logging

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
        /// A request of the spliced session is open for longer than it should.
        case requestLate
        /// Both ends closed, or one broke off.
        case ended(String)
    }

    /// Times and counts, for people.
    struct Statistics {
        var splices: UInt64 = 0
        var unsplices: UInt64 = 0
        var spliceGiveUps: UInt64 = 0
        var unspliceGiveUps: UInt64 = 0
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
            longestFreeze = max(longestFreeze, other.longestFreeze)
            longestDrain = max(longestDrain, other.longestDrain)
            relayedFromClient += other.relayedFromClient
            relayedFromServer += other.relayedFromServer
        }
    }

    let id: SpliceID
    let engine: SessionEngine
    private(set) var state = State.clientOnly {
        didSet { stateSince = engine.loop.now }
    }
    private(set) var stateSince: UInt64 = 0
    private(set) var client: Leg
    private(set) var server: Leg?
    private(set) var statistics = Statistics()
    let relay: any StreamRelay
    /// Called on the session thread.
    var onOutcome: (Outcome) -> Void = { _ in }
    /// What the session wants: to be spliced when possible.
    private(set) var wantsSplice = false

    private var output = RelayOutput()
    private var isEOF = [false, false]
    private var isShut = [false, false]
    private var drainStarted: UInt64 = 0
    private var nextProbe: UInt64 = 0
    private var freezeRetries = 0
    private var holeSkips = 0
    private var isServerBaseKnown = false
    private var connectedAt: UInt64 = 0
    /// ns from the connection to the server to the first splice: what is over by then costs no splice.
    var settleTime: UInt64 = 0
    /// ns that a request may be open in the spliced state; 0: no limit.
    var requestDeadline: () -> UInt64 = { 0 }
    private var isClosedByPeer = false
    /// The session is to be left by its server in good order: nothing new goes there.
    private(set) var isLeaving = false
    private var lossReason = ""
    /// Another server takes over what a lost or left one had: its login is another matter than the first.
    private var isReplacing = false
    private var timer: EventLoop.Timer?

    init(id: SpliceID, engine: SessionEngine, client: Leg, relay: any StreamRelay) {
        self.id = id
        self.engine = engine
        self.client = client
        self.relay = relay
    }

    private func leg(_ side: SpliceSide) -> Leg? { side == .client ? client : server }

    // MARK: Server leg

    /// Starts the connection to a server; `onOutcome` tells when it is up.
    func connect(to address: SocketAddress, from local: IPAddress, serverMAC: MACAddress) {
        guard let port = engine.ports.allocate(address: local, now: engine.loop.now) else {
            return onOutcome(.connectFailed("no free source port for \(address)"))
        }
        let source = SocketAddress(address: local, port: port)
        do {
            // Before the SYN leaves: the splicer learns positions from it and blanks options.
            try engine.apply([
                .splice(
                    .attachServer(
                        id,
                        SpliceLeg(
                            domain: engine.storageDomain, localAddress: local, localPort: port,
                            localMAC: engine.storageMAC, remoteAddress: address.address,
                            remotePort: address.port, remoteMAC: serverMAC,
                            stripTimestamps: !client.usesTimestamps, stripSACK: !client.usesSACK)))
            ])
            let descriptor = try Socket.connect(
                to: address,
                options: ConnectOptions(
                    bind: source, maximumSegment: client.maximumSegment,
                    windowClamp: 65_535 << Int(client.remoteScale),
                    device: engine.storageDevice))
            server = Leg(descriptor: descriptor, local: source, remote: address)
        } catch {
            engine.ports.release(address: local, port: port, now: engine.loop.now, quarantine: 0)
            return onOutcome(.connectFailed("\(error)"))
        }
        state = .connecting
        watch(.server)
    }

    private func connectProgress() {
        guard let server else { return }
        if let failure = Socket.connectFailure(server.descriptor) {
            dropServer()
            state = .clientOnly
            return onOutcome(.connectFailed(failure))
        }
        guard let info = try? TCPInfo(descriptor: server.descriptor), !info.isConnecting else {
            return
        }
        // A server may have sent all it has, and its FIN, before we look.
        guard info.isEstablished || info.isHalfClosed else {
            dropServer()
            state = .clientOnly
            return onOutcome(.connectFailed("closed by the server"))
        }
        Socket.setWindowClamp(server.descriptor, 1 << 30)
        self.server?.update(from: info)
        engine.post(
            id,
            [
                .updateLeg(
                    id, .server, remoteScale: info.sendScale, localScale: info.receiveScale,
                    received: nil)
            ])
        // The splicer saw the handshake; its base is asked for when a splice begins.
        isServerBaseKnown = false
        connectedAt = engine.loop.now
        state = .relaying
        relay.begin(output: &output)
        onOutcome(.connected)
        if state == .relaying { pump() }
    }

    /// Gives the server leg up; the client leg goes on alone, its socket watched by nobody.
    func detachServer() {
        guard state == .connecting || state == .relaying else { return }
        timer?.cancel()
        timer = nil
        wantsSplice = false
        if let server { Socket.setReset(server.descriptor) }
        dropServer()
        engine.loop.unregister(client.descriptor)
        output.toServer = OutboundBuffer()
        isEOF = [false, false]
        isShut = [false, false]
        state = .clientOnly
    }

    /// Gives a server leg up that did not come to be; the client's socket stays watched.
    func abandonServer() {
        guard state == .connecting || state == .relaying else { return }
        leaveServer()
    }

    // MARK: A lost server

    /// Gives the server up at once: it is dead, or leads to nowhere.
    func loseServer(_ reason: String) {
        switch state {
        case .connecting: onOutcome(.connectFailed(reason))
        case .relaying, .drainingToSplice:
            guard relay.survivesServer else {
                return relay.wantsClientInput
                    ? end(reason, reset: true) : onOutcome(.connectFailed(reason))
            }
            lostWhileRelaying(reason)
        case .spliced, .drainingToRelay:
            guard relay.survivesServer else { return end(reason, reset: true) }
            do { try engine.apply([.splice(.loseServer(id))]) } catch {
                // It lost its server by itself in the meantime, or its client.
                return engine.log.debug("session \(id): \(error)")
            }
            beginRestore(reason)
        case .clientOnly, .restoring, .ended: break
        }
    }

    func serverLostInDataplane(_ loss: SpliceServerLoss) {
        guard state == .spliced || state == .drainingToRelay else { return }
        let reason =
            switch loss {
            case .reset: "reset by the server"
            case .closed: "closed by the server"
            case .vanished: "the server does not answer"
            }
        beginRestore(reason)
    }

    private func lostWhileRelaying(_ reason: String) {
        if state == .drainingToSplice { _ = try? engine.apply([.splice(.abortToSlow(id))]) }
        timer?.cancel()
        timer = nil
        leaveServer()
        onOutcome(.serverLost(reason))
    }

    /// Both legs are kernel sockets: the server's goes, what it had to do stays with the relay.
    private func leaveServer() {
        relay.detach()
        if let server { Socket.setReset(server.descriptor) }
        dropServer()
        output.toServer = OutboundBuffer()
        isEOF = [false, false]
        isShut = [false, false]
        isLeaving = false
        isReplacing = true
        state = .clientOnly
    }

    private func beginRestore(_ reason: String) {
        lossReason = reason
        state = .restoring
        drainStarted = engine.loop.now
        nextProbe = drainStarted + 3_000_000
        continueRestore()
    }

    /// ns that the client may take to say how far it got. Where it has less than was sent to it the rest is
    /// made again.
    private static let restoreMaximum: UInt64 = 12_000_000

    private func continueRestore() {
        guard state == .restoring else { return }
        do {
            guard case .splice(let snapshot) = try engine.apply([.splice(.inspect(id))])[0] else {
                return
            }
            if snapshot.closeReason != nil {
                return end("reset by the client", reset: true)
            }
            let now = engine.loop.now
            if snapshot.client.acknowledged == snapshot.client.sentEnd
                || now - drainStarted > Self.restoreMaximum
            {
                return try restoreClient(snapshot)
            }
            if now > nextProbe {
                nextProbe = now + 3_000_000
                try engine.apply([.splice(.probe(id))])
            }
        } catch {
            return end("the client leg cannot be restored: \(error)", reset: true)
        }
        schedule(after: 500_000) { [weak self] in self?.continueRestore() }
    }

    private func restoreClient(_ snapshot: SpliceSnapshot) throws {
        // What was passed on without a gap is in the log: it need not be sent again by the client.
        let position = position(
            of: .client, snapshot, receiveNext: snapshot.client.followed)
        statistics.inFastPath = ResourceTraffic(snapshot)
        client.descriptor = try restore(.client, snapshot.client, position)
        client.base = position.receiveNext
        try engine.apply([.splice(.restoreClient(id, client: position))])
        relay.detachSpliced(
            position: snapshot.client.acknowledged - snapshot.serverDelta,
            clientRemaining: snapshot.client.nextHeader - snapshot.client.followed)
        if let server {
            engine.ports.release(
                address: server.local.address, port: server.local.port, now: engine.loop.now,
                quarantine: Self.portRest)
        }
        server = nil
        isEOF = [false, false]
        isShut = [false, false]
        isLeaving = false
        needsRelay = false
        isReplacing = true
        statistics.unsplices += 1
        timer?.cancel()
        timer = nil
        state = .clientOnly
        watch(.client)
        onOutcome(.serverLost(lossReason))
    }

    // MARK: A server that is left

    /// Lets what is open end, holds what is new, then leaves the server: `onOutcome` tells.
    func leaveInOrder() {
        guard !isLeaving else { return }
        isLeaving = true
        switch state {
        case .relaying: holdRelay()
        case .drainingToSplice: giveUpSplice(retryAfter: nil)
        case .spliced: beginUnsplice()
        case .drainingToRelay, .clientOnly, .connecting, .restoring, .ended: break
        }
    }

    /// The session stays where it is.
    func stayAfterAll() {
        guard isLeaving else { return }
        isLeaving = false
        if let relay = relay as? ISCSIRelay, relay.isHolding {
            do { try relay.release(output: &output) } catch {
                return end(error.message, reset: true)
            }
        }
        if state == .relaying { pump() }
    }

    private func holdRelay() {
        guard let relay = relay as? ISCSIRelay, !relay.isHolding, relay.isEstablished else {
            return
        }
        relay.onQuiet = { [weak self] in
            // Not from within the relay: it is in the middle of the server's octets.
            self?.engine.loop.postLocal { self?.leaveQuietServer() }
        }
        relay.hold()
    }

    private func leaveQuietServer() {
        guard isLeaving, state == .relaying, (relay as? ISCSIRelay)?.isHolding == true else {
            return
        }
        timer?.cancel()
        timer = nil
        leaveServer()
        onOutcome(.serverLeft)
    }

    /// Octets for the client go out also while there is no server.
    private func flushToClient() {
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

    /// Forgets the server leg: its port is quarantined.
    private func dropServer() {
        guard let server else { return }
        engine.loop.unregister(server.descriptor)
        Socket.close(server.descriptor)
        engine.ports.release(
            address: server.local.address, port: server.local.port, now: engine.loop.now,
            quarantine: Self.portRest)
        self.server = nil
    }

    // MARK: Relaying

    /// Starts to react to the socket of a side.
    func watch(_ side: SpliceSide) {
        guard let leg = leg(side) else { return }
        engine.loop.register(leg.descriptor, events: [.read, .write, .edgeTriggered]) {
            [weak self] _ in self?.socketReady(side)
        }
    }

    private func socketReady(_ side: SpliceSide) {
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
        do {
            try bytes.withBytes { buffer throws(RelayError) in
                try relay.receive(buffer, from: side, output: &output)
            }
        } catch {
            return end(error.message, reset: true)
        }
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
            }
            if rounds == 64 { engine.loop.postLocal { [weak self] in self?.pump() } }
        } catch let error as RelayError {
            return end(error.message, reset: true)
        } catch let failure as LegFailure where failure.side == .server {
            if !relay.wantsClientInput { return onOutcome(.connectFailed("\(failure.error)")) }
            if relay.survivesServer, !isEOF[0] { return lostWhileRelaying("\(failure.error)") }
            return end("\(failure.error)", reset: true)
        } catch {
            return end("\(error)", reset: true)
        }
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
        let isWanted = side == .server || relay.wantsClientInput
        if isWanted, !isEOF[side.index],
            output[side.other].count < engine.relayBufferMaximum
        {
            let input: Socket.Received
            do throws(SystemCallError) {
                input = try Socket.receive(from.descriptor, into: engine.scratch)
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
            case .end:
                isEOF[side.index] = true
                isMoving = true
            case .wouldBlock: break
            }
        }
        let before = output[side.other].count
        if before > 0 {
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

    // MARK: Splice

    /// Says whether the session should be in the dataplane; it gets there, or back, as soon as it can.
    func setWantsSplice(_ wanted: Bool) {
        wantsSplice = wanted
        switch (state, wanted) {
        case (.relaying, true): scheduleFirstSplice()
        case (.drainingToSplice, false): giveUpSplice(retryAfter: nil)
        case (.spliced, false): beginUnsplice()
        case (.drainingToRelay, true): break  // it finishes and comes back
        default: break
        }
    }

    private func schedule(after delay: UInt64, _ body: @escaping () -> Void) {
        timer?.cancel()
        timer = engine.loop.schedule(after: delay) { [weak self] in
            self?.timer = nil
            body()
        }
    }

    private func scheduleSplice(after delay: UInt64) {
        schedule(after: delay) { [weak self] in self?.beginSplice() }
    }

    private func scheduleFirstSplice() {
        let start = connectedAt + settleTime
        let now = engine.loop.now
        scheduleSplice(after: start > now ? start - now : 0)
    }

    private func beginSplice() {
        // Not before the relay is through with the server: until then it may still be given up.
        guard state == .relaying, wantsSplice, !isLeaving, server != nil, !isEOF[0], !isEOF[1],
            relay.wantsClientInput
        else { return }
        do {
            guard case .splice(let snapshot) = try engine.apply([.splice(.inspect(id))])[0] else {
                return
            }
            // The end's timestamps and MAC address are learned from its packets: without one, its
            // next packet or the server's first comes through the relay and brings us here again.
            guard snapshot.client.isKnown, snapshot.server.isKnown else { return }
            if !isServerBaseKnown {
                server?.base = snapshot.server.base
                isServerBaseKnown = true
            }
            // While the kernel waits for a hole to be filled, a drain would last until the sender's
            // retransmission time-out.
            if try hasHole(snapshot), holeSkips < 2_000 {
                holeSkips += 1
                return scheduleSplice(after: 1_000_000)
            }
            holeSkips = 0
            _ = try engine.apply([.splice(.beginDrainToSplice(id))])
        } catch {
            return end("cannot start a splice: \(error)", reset: true)
        }
        state = .drainingToSplice
        drainStarted = engine.loop.now
        nextProbe = drainStarted + 2_000_000
        freezeRetries = 0
        continueSplice()
    }

    /// What a kernel socket has received, in sequence space.
    private func received(_ leg: Leg) throws(SystemCallError) -> SequenceNumber {
        let info = try TCPInfo(descriptor: leg.descriptor)
        return leg.base + UInt32(truncatingIfNeeded: info.bytesReceived)
    }

    private func hasHole(_ snapshot: SpliceSnapshot) throws(SystemCallError) -> Bool {
        for side in SpliceSide.allCases where snapshot[side].isKnown {
            guard let leg = leg(side) else { continue }
            if try received(leg).isBefore(snapshot[side].receivedEnd) { return true }
        }
        return false
    }

    /// One look at a draining splice; comes back by packets (`spliceProgress`) and by a timer.
    func continueSplice() {
        guard state == .drainingToSplice else { return }
        pump()
        guard state == .drainingToSplice else { return }
        if isEOF[0] || isEOF[1] { return giveUpSplice(retryAfter: nil) }
        do {
            if try trySplice() { return }
        } catch {
            // Out of repair mode, in which a close says nothing to the ends.
            for case let descriptor? in [client.descriptor, server?.descriptor]
            where descriptor >= 0 {
                try? TCPRepair.thaw(descriptor)
            }
            return end("splice: \(error)", reset: true)
        }
        guard state == .drainingToSplice else { return }
        let now = engine.loop.now
        if now - drainStarted > engine.drainMaximum {
            return giveUpSplice(retryAfter: engine.drainBackoff())
        }
        if now > nextProbe {
            nextProbe = now + 5_000_000
            _ = try? engine.apply([.splice(.probe(id))])
        }
        schedule(after: 500_000) { [weak self] in self?.continueSplice() }
    }

    private func giveUpSplice(retryAfter delay: UInt64?) {
        statistics.spliceGiveUps += 1
        _ = try? engine.apply([.splice(.abortToSlow(id))])
        state = .relaying
        timer?.cancel()
        timer = nil
        if let delay, wantsSplice { scheduleSplice(after: delay) }
        pump()
    }

    /// Nothing is left in our own hands: buffers, receive and send queues, holes.
    private func isDrained(_ snapshot: SpliceSnapshot) throws(SystemCallError) -> Bool {
        guard relay.isAtRest, output.toClient.isEmpty, output.toServer.isEmpty else {
            return false
        }
        for side in SpliceSide.allCases {
            guard let leg = leg(side) else { return false }
            guard try Socket.receiveQueue(leg.descriptor) == 0,
                try Socket.sendQueue(leg.descriptor) == 0
            else { return false }
            guard freezeRetries < 50, snapshot[side].isCutoffValid else { continue }
            if try received(leg).isBefore(snapshot[side].cutoff) { return false }
        }
        return true
    }

    private func trySplice() throws -> Bool {
        guard let server, case .splice(let snapshot) = try engine.apply([.splice(.inspect(id))])[0],
            try isDrained(snapshot)
        else { return false }
        let started = engine.loop.now
        try engine.apply([.splice(.hold(id))])
        let positions = [
            try TCPRepair.freeze(client.descriptor, timestamps: client.usesTimestamps),
            try TCPRepair.freeze(server.descriptor, timestamps: client.usesTimestamps),
        ]
        // Input may have come between the look and the freeze: the kernel must own nothing that an end
        // may think delivered.
        guard case .splice(let held) = try engine.apply([.splice(.inspect(id))])[0],
            try isStillDrained(held, positions)
        else {
            try TCPRepair.thaw(client.descriptor)
            try TCPRepair.thaw(server.descriptor)
            try engine.apply([.splice(.resumeDrain(id))])
            freezeRetries += 1
            return false
        }
        // The other end has no room for what is held.
        for side in SpliceSide.allCases
        where held[side].heldPackets > 0 && positions[side.other.index].sendWindow < 2_920 {
            try TCPRepair.thaw(client.descriptor)
            try TCPRepair.thaw(server.descriptor)
            giveUpSplice(retryAfter: engine.drainBackoff())
            return true
        }
        // The log is the dataplane's from here on.
        relay.spliced(at: positions[1].receiveNext)
        try engine.apply([
            .splice(
                .install(
                    id, client: positions[0], server: positions[1], messages: relay.messages,
                    log: relay.log)),
            .splice(.setRequestDeadline(id, requestDeadline())),
        ])
        for leg in [client, server] {
            engine.loop.unregister(leg.descriptor)
            TCPRepair.closeSilently(leg.descriptor)
        }
        client.descriptor = -1
        self.server?.descriptor = -1
        timer?.cancel()
        timer = nil
        statistics.splices += 1
        statistics.addFreeze(engine.loop.clock() - started)
        statistics.longestDrain = max(statistics.longestDrain, started - drainStarted)
        state = .spliced
        engine.changed(self)
        if !wantsSplice || isLeaving { beginUnsplice() }
        return true
    }

    private func isStillDrained(
        _ snapshot: SpliceSnapshot, _ positions: [SocketPositions]
    ) throws(SystemCallError) -> Bool {
        for side in SpliceSide.allCases {
            guard let leg = leg(side) else { return false }
            guard try Socket.receiveQueue(leg.descriptor) == 0,
                try Socket.sendQueue(leg.descriptor) == 0,
                try TCPInfo(descriptor: leg.descriptor).isEstablished
            else { return false }
            if snapshot[side].isCutoffValid,
                positions[side.index].receiveNext.isBefore(snapshot[side].cutoff)
            {
                return false
            }
        }
        return true
    }

    // MARK: Unsplice

    private func beginUnsplice() {
        guard state == .spliced, !isClosedByPeer else { return }
        do {
            guard case .splice(let snapshot) = try engine.apply([.splice(.inspect(id))])[0] else {
                return
            }
            // A session that is closing stays where it is.
            if snapshot.closeReason != nil || snapshot.client.hasFIN || snapshot.server.hasFIN {
                return
            }
            guard snapshot.client.isKnown, snapshot.server.isKnown else {
                return schedule(after: 1_000_000) { [weak self] in self?.beginUnsplice() }
            }
            try engine.apply([.splice(.beginDrainToSlow(id))])
        } catch {
            return engine.log.error("session \(id): cannot start to unsplice: \(error)")
        }
        state = .drainingToRelay
        drainStarted = engine.loop.now
        nextProbe = drainStarted + 2_000_000
        continueUnsplice()
    }

    /// One look at a splice that is being emptied.
    func continueUnsplice() {
        guard state == .drainingToRelay else { return }
        do {
            guard case .splice(let snapshot) = try engine.apply([.splice(.inspect(id))])[0] else {
                return
            }
            // The event with its reason is on its way.
            if snapshot.state == .serverLost { return }
            if snapshot.closeReason != nil || snapshot.client.hasFIN || snapshot.server.hasFIN {
                try engine.apply([.splice(.abortToSpliced(id))])
                state = .spliced
                return
            }
            if snapshot.isQuiet { return try finishUnsplice() }
            let now = engine.loop.now
            if now - drainStarted > engine.drainMaximum {
                statistics.unspliceGiveUps += 1
                try engine.apply([.splice(.abortToSpliced(id))])
                state = .spliced
                return schedule(after: engine.drainBackoff()) { [weak self] in
                    guard let self, !wantsSplice || needsRelay || isLeaving else { return }
                    beginUnsplice()
                }
            }
            if now > nextProbe {
                nextProbe = now + 5_000_000
                try engine.apply([.splice(.probe(id))])
            }
        } catch {
            return end("unsplice: \(error)", reset: true)
        }
        schedule(after: 500_000) { [weak self] in self?.continueUnsplice() }
    }

    /// A message is held that only the control plane can answer: back to the relay, then splice again.
    private(set) var needsRelay = false
    func messageHeld() {
        needsRelay = true
        if state == .spliced { beginUnsplice() }
    }

    private func finishUnsplice() throws {
        try engine.apply([.splice(.hold(id))])
        guard case .splice(let snapshot) = try engine.apply([.splice(.inspect(id))])[0] else {
            return
        }
        guard snapshot.isQuiet, !snapshot.client.hasFIN, !snapshot.server.hasFIN,
            snapshot.closeReason == nil
        else {
            try engine.apply([.splice(.abortToSpliced(id))])
            state = .spliced
            return schedule(after: engine.drainBackoff()) { [weak self] in
                guard let self, !wantsSplice || needsRelay || isLeaving else { return }
                beginUnsplice()
            }
        }
        let started = engine.loop.clock()
        let positions = SpliceSide.allCases.map { position(of: $0, snapshot) }
        do {
            for side in SpliceSide.allCases {
                let descriptor = try restore(side, snapshot[side], positions[side.index])
                if side == .client {
                    client.descriptor = descriptor
                    client.base = positions[0].receiveNext
                } else {
                    server?.descriptor = descriptor
                    server?.base = positions[1].receiveNext
                }
            }
        } catch {
            // Without both sockets the session goes on where it is.
            engine.log.error("session \(id): cannot restore a socket: \(error)")
            if client.descriptor >= 0 { TCPRepair.closeSilentlyAgain(client.descriptor) }
            client.descriptor = -1
            try engine.apply([.splice(.abortToSpliced(id))])
            state = .spliced
            return schedule(after: 1_000_000_000) { [weak self] in
                guard let self, !wantsSplice || needsRelay || isLeaving else { return }
                beginUnsplice()
            }
        }
        try engine.apply([
            .splice(.finishToSlow(id, client: positions[0], server: positions[1]))
        ])
        statistics.inFastPath = ResourceTraffic(snapshot)
        relay.resume(
            position: positions[1].receiveNext,
            clientHeaderDistance: snapshot.client.headerDistance,
            serverHeaderDistance: snapshot.server.headerDistance)
        isEOF = [false, false]
        isShut = [false, false]
        needsRelay = false
        statistics.unsplices += 1
        statistics.addFreeze(engine.loop.clock() - started)
        statistics.longestDrain = max(statistics.longestDrain, started - drainStarted)
        state = .relaying
        timer?.cancel()
        timer = nil
        watch(.client)
        watch(.server)
        engine.changed(self)
        pump()
    }

    /// Where a kernel socket for the side must start.
    private func position(
        of side: SpliceSide, _ snapshot: SpliceSnapshot, receiveNext: SequenceNumber? = nil
    ) -> SocketPositions {
        let own = snapshot[side]
        let other = snapshot[side.other]
        let delta = side == .client ? snapshot.clientDelta : snapshot.serverDelta
        // What we have told this end is acknowledged: the other end's newest, translated.
        let receiveNext = receiveNext ?? other.acknowledged - delta
        let room = Int32(bitPattern: own.sentEdge - receiveNext)
        let receiveWindow = room < 0 ? 0 : UInt32(room)
        let sendWindow = UInt32(own.window) << UInt32(own.remoteScale)
        // The kernel refuses a WL1 beyond the receive window.
        let isBeyond = own.windowUpdate.isAfter(receiveNext + receiveWindow)
        return SocketPositions(
            receiveNext: receiveNext, sendNext: own.acknowledged, sendWindow: sendWindow,
            sendWL1: (isBeyond ? receiveNext : own.windowUpdate).rawValue,
            maximumWindow: max(65_535, sendWindow), receiveWindow: receiveWindow,
            receiveWindowUpdate: receiveNext.rawValue, timestamp: own.sentTimestamp)
    }

    private func restore(
        _ side: SpliceSide, _ snapshot: SpliceSideSnapshot, _ positions: SocketPositions
    ) throws(SystemCallError) -> Int32 {
        guard let leg = leg(side) else {
            throw SystemCallError(function: "restore", errno: 107, context: "no leg")
        }
        var positions = positions
        // Bit 0 would switch the socket to microsecond timestamps.
        positions.timestamp = (snapshot.sentTimestamp &+ 2) & ~1
        return try TCPRepair.restore(
            RepairSpecification(
                local: leg.local, remote: leg.remote, positions: positions,
                maximumSegment: client.maximumSegment, remoteScale: snapshot.remoteScale,
                localScale: snapshot.localScale, usesSACK: client.usesSACK,
                usesTimestamps: client.usesTimestamps,
                device: side == .client ? engine.clientDevice : engine.storageDevice))
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
        timer?.cancel()
        timer = nil
        for leg in [client, server].compactMap({ $0 }) where leg.descriptor >= 0 {
            engine.loop.unregister(leg.descriptor)
            if reset { Socket.setReset(leg.descriptor) }
            Socket.close(leg.descriptor)
        }
        client.descriptor = -1
        if isInMotion { engine.postEnd([.abortToSlow(id)]) }
        engine.postEnd([.close(id)])
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
    private static let portRest: UInt64 = 60_000_000_000
}
