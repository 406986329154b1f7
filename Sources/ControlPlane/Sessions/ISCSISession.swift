import DataPlane
import Logging
import StorageProtocols

/// One iSCSI connection of a client: login and discovery are answered here without asking any server; the
/// first command makes the server leg; then the redirect carries it.
final class ISCSISession: Session {
    private enum Phase {
        case login(ISCSITargetLogin)
        case fullFeature
        /// The redirect has the client's socket.
        case redirected
        case closed
    }

    private let engine: SessionEngine
    private let portal: ISCSIPortal
    private var phase: Phase
    private var core: Redirect?
    private let leg: Leg
    let id: SpliceID
    let openedAt: UInt64
    // RFC 7143 section 13.12: nothing was declared yet, so no data segment is longer than 8192 octets.
    private var reader = ISCSIPDUReader(dataMaximum: 8_192)
    private var output = OutboundBuffer()
    private var login: ISCSILoginResult?
    private var target: ISCSITargetSession?
    private var relay: ISCSIRelay?
    private(set) var resource: Resource?
    private(set) var serverName: String?
    private var closesWhenSent = false
    private var timer: EventLoop.Timer?
    var redirect: Redirect? { core }
    /// The dataplane's while the session is spliced.
    var log: SessionLog? { relay?.log }

    init(id: SpliceID, leg: Leg, engine: SessionEngine, portal: ISCSIPortal) {
        self.id = id
        self.leg = leg
        self.engine = engine
        self.portal = portal
        openedAt = engine.loop.now
        phase = .login(
            ISCSITargetLogin(
                tsih: portal.nextTSIH(), random: portal.random,
                lookup: { [portal] in portal.policy(target: $0, initiator: $1) }))
    }

    func start() {
        watchClient()
        timer = engine.loop.schedule(after: portal.loginTimeout) { [weak self] in
            self?.close("login took too long")
        }
        readClient()
    }

    private func watchClient() {
        engine.loop.register(leg.descriptor, events: [.read, .write, .edgeTriggered]) {
            [weak self] _ in
            guard let self else { return }
            flush()
            do { try takePDUs() } catch { return close("\(error)") }
            readClient()
        }
    }

    // MARK: Client

    private func readClient() {
        while true {
            switch phase {
            case .login, .fullFeature: break
            case .redirected, .closed: return
            }
            // A client that does not take its answers is not read: the socket's event comes back here.
            guard output.count < engine.relayBufferMaximum else { return }
            do {
                switch try Socket.receive(leg.descriptor, into: engine.scratch) {
                case .wouldBlock: return
                case .end: return close("closed by the client")
                // Of a connection that is about to be closed only the end matters.
                case .bytes where closesWhenSent: continue
                case .bytes(let count): reader.append(engine.scratch[..<count])
                }
                try takePDUs()
            } catch {
                return close("\(error)")
            }
        }
    }

    private func takePDUs() throws {
        while !closesWhenSent {
            switch phase {
            case .closed, .redirected: return
            case .login, .fullFeature: break
            }
            if output.count >= engine.relayBufferMaximum {
                flush()
                guard output.count < engine.relayBufferMaximum else { return }
                continue
            }
            guard let pdu = try reader.next() else { break }
            switch phase {
            case .login(var machine):
                let actions = machine.receive(pdu)
                phase = .login(machine)
                take(actions)
            case .fullFeature: take(target?.receive(pdu) ?? [], of: pdu)
            case .redirected, .closed: return
            }
        }
        flush()
    }

    private func take(_ actions: [ISCSITargetLogin.Action]) {
        for action in actions {
            switch action {
            case .send(let pdu): output.append(pdu.encoded())
            case .established(let result): establish(result)
            case .failed(let status, let reason):
                portal.loginRefused(status)
                engine.log.notice(
                    "login from \(leg.remote) refused (\(status)): \(reason)")
                engine.onEvent(.login(summary, accepted: false, detail: "\(status): \(reason)"))
                closesWhenSent = true
            }
        }
    }

    private func establish(_ result: ISCSILoginResult) {
        timer?.cancel()
        login = result
        reader.dataMaximum = max(1 << 18, Int(result.parameters.firstBurstLength))
        resource = result.targetName.flatMap { portal.resources.resource(target: $0) }
        target = ISCSITargetSession(
            result, discovery: portal.discovery(for: leg, user: result.user))
        phase = .fullFeature
        portal.join(self)
        portal.loginAccepted()
        engine.onEvent(.login(summary, accepted: true, detail: result.initiatorName))
    }

    private func take(_ actions: [ISCSITargetSession.Action], of pdu: ISCSIPDU) {
        for action in actions {
            switch action {
            case .send(let answer): output.append(answer.encoded())
            case .close: closesWhenSent = true
            case .needServer: needServer(pdu)
            }
        }
    }

    private func flush() {
        do {
            try output.drain { bytes throws(SystemCallError) in
                try Socket.send(leg.descriptor, bytes)
            }
        } catch {
            return close("\(error)")
        }
        if closesWhenSent, output.isEmpty { close("logged out or refused", reset: false) }
    }

    // MARK: Server

    /// The first command: the server that has the resource now is logged in to with the stored credentials.
    private func needServer(_ pdu: ISCSIPDU) {
        guard let login, resource != nil else { return close("no resource") }
        pending = pdu.encoded() + reader.remaining
        reader.clear()
        flush()
        guard case .fullFeature = phase else { return }
        phase = .redirected
        let redirect = core ?? makeRedirect(login)
        core = redirect
        redirect.watch(.client)
        waitingSince = engine.loop.now
        attach()
    }

    /// Connects to the server that has the resource now: the first one, or one that takes another's place.
    private func attach() {
        guard let login, let resource, let relay, let target, let redirect = core,
            case .redirected = phase, redirect.state == .clientOnly
        else { return }
        isWaiting = false
        let chosen = hasBegun ? nil : portal.serverFor(self, resource.name)
        let assigned =
            chosen ?? portal.resources.assignedServer(of: resource.name) ?? resource.assigned
        serverName = assigned
        guard portal.isServing(assigned) else {
            portal.trouble(assigned, .wanted)
            return wait("server \(assigned) is down")
        }
        guard let address = portal.address(of: assigned, like: leg.remote.address),
            let local = engine.storageAddress(like: address.address)
        else { return wait("server \(assigned) has no address of the client's family") }
        if hasBegun {
            let recovery = relay.prepareRecovery(
                maximumSegment: portal.maximumSegment(of: assigned))
            relay.prepare(
                ISCSIInitiatorLogin(
                    portal.serverRequest(
                        login, resource: resource, server: assigned,
                        commandSequence: recovery.firstCommand, expectedStatus: 1),
                    random: portal.random), recovery: recovery)
        } else {
            relay.prepare(
                ISCSIInitiatorLogin(
                    portal.serverRequest(
                        login, resource: resource, server: assigned,
                        commandSequence: target.expectedCommand,
                        expectedStatus: target.nextStatus), random: portal.random))
        }
        timer?.cancel()
        timer = engine.loop.schedule(after: portal.serverTimeout) { [weak self] in
            self?.serverFailed("no answer from \(assigned)")
        }
        redirect.connect(to: address, from: local, serverMAC: .zero)
    }

    /// Octets that wait for the first connection.
    private var pending: [UInt8] = []
    /// A server was logged in to: what the client has is more than this process knows.
    private var hasBegun = false
    private var isWaiting = false
    /// A server that failed is about to be given up.
    private var isFailing = false
    /// ns, since when there is no server; 0: there is one.
    private var waitingSince: UInt64 = 0
    private var lossReason = ""
    /// Where the session was before, for the event that tells of its move.
    private var formerServer: String?

    private func makeRedirect(_ login: ISCSILoginResult) -> Redirect {
        let next = target?.expectedCommand ?? login.expectedCommand
        let relay = ISCSIRelay(
            loginResult: login, discovery: portal.discovery(for: leg, user: login.user),
            log: portal.makeLog(),
            numbers: ISCSIClientPosition(
                nextCommand: next, nextStatus: target?.nextStatus ?? login.nextStatus,
                expectedCommand: next, maximumCommand: next &+ login.commandWindow &- 1),
            clock: { [engine] in engine.loop.now })
        self.relay = relay
        let redirect = Redirect(id: id, engine: engine, client: leg, relay: relay)
        redirect.isStandbyWanted = { [weak self] in
            $0 == self?.standbyPurpose && self?.relay?.reservations.isEmpty == true
        }
        redirect.requestDeadline = { [weak self] in self?.requestDeadline ?? 0 }
        relay.onLogin = { [weak self] in self?.serverLogin($0) }
        // Weak: the redirect holds this closure.
        redirect.onOutcome = { [weak self, weak redirect] outcome in
            guard let self, let redirect else { return }
            switch outcome {
            case .connected:
                let waiting = pending
                pending = []
                redirect.inject(waiting, from: .client)
            case .connectFailed(let reason): serverFailed("connect: \(reason)")
            case .serverLost(let reason): serverLost(reason)
            case .serverLeft: serverLeft()
            case .serverHeld: prepareStandby()
            case .serverReplaced(let purpose, let session, let rest):
                serverReplaced(purpose, session, rest: rest)
            case .requestLate: portal.trouble(serverName ?? "", .requestLate)
            case .ended(let reason): finished(reason)
            }
        }
        return redirect
    }

    /// ns that a request may be open, from what requests take; asked for with every splice.
    private var requestDeadline: UInt64 {
        guard let statistics = relay?.log?.statistics else { return 0 }
        return portal.requestDeadline.value(
            latency: statistics.smoothedLatency, deviation: statistics.latencyDeviation)
    }

    private func serverLogin(_ outcome: ISCSIRelay.LoginOutcome) {
        switch outcome {
        case .established(let result):
            let told = portal.toldMaximumSegment(login)
            if hasBegun, (result.targetMaxReceive ?? 8_192) < told {
                return serverFailed("it takes shorter data segments than the client was told")
            }
            timer?.cancel()
            guard let target else { return }
            if hasBegun {
                let now = engine.loop.now
                let duration = now - min(now, waitingSince)
                engine.onEvent(
                    .moved(
                        summary, from: formerServer ?? "", reason: lossReason, duration: duration))
                portal.sessionMoved(self, duration: duration, isOrderly: lossReason.isEmpty)
            } else {
                relay?.setStatus(clientNext: target.nextStatus, serverNext: result.nextStatus)
                core?.setWantsSplice(portal.splicesAutomatically)
            }
            hasBegun = true
            waitingSince = 0
            portal.used(serverName ?? "")
        case .failed(_, let reason): serverFailed("login: \(reason)")
        }
    }

    // MARK: Change of server

    /// The client does not know of it and need not.
    private func serverLost(_ reason: String) {
        timer?.cancel()
        formerServer = serverName
        lossReason = reason
        waitingSince = engine.loop.now
        engine.log.notice("session \(id): server \(serverName ?? "") is lost: \(reason)")
        engine.onEvent(.serverLost(summary, detail: reason))
        portal.trouble(serverName ?? "", .sessionLost(reason))
        attach()
    }

    private func serverLeft() {
        formerServer = serverName
        lossReason = ""
        waitingSince = engine.loop.now
        attach()
    }

    /// What a connection to the next server is to be good for, now that new requests wait; nil: nothing.
    private var standbyPurpose: ServerStandby.Purpose? {
        guard hasBegun, let resource, let relay,
            let assigned = portal.resources.assignedServer(of: resource.name),
            assigned != serverName, portal.isServing(assigned),
            let address = portal.address(of: assigned, like: leg.remote.address),
            let local = engine.storageAddress(like: address.address)
        else { return nil }
        return ServerStandby.Purpose(
            server: assigned, address: address, local: local,
            commandSequence: relay.numbers.nextCommand)
    }

    /// Not when reservations have to be made again: the present nexus may still hold them.
    private func prepareStandby() {
        guard let login, let resource, let relay, relay.reservations.isEmpty,
            let purpose = standbyPurpose
        else { return }
        let request = portal.serverRequest(
            login, resource: resource, server: purpose.server,
            commandSequence: purpose.commandSequence, expectedStatus: 1)
        core?.openStandby(
            purpose,
            login: ISCSINexusLogin(
                ISCSIInitiatorLogin(request, random: portal.random), replacing: [:]),
            timeout: portal.serverTimeout)
    }

    private func serverReplaced(
        _ purpose: ServerStandby.Purpose, _ session: ISCSIInitiatorResult, rest: [UInt8]
    ) {
        guard let relay, let core else { return }
        formerServer = serverName
        serverName = purpose.server
        lossReason = ""
        waitingSince = engine.loop.now
        let recovery = relay.prepareRecovery(
            maximumSegment: portal.maximumSegment(of: purpose.server))
        guard recovery.firstCommand == purpose.commandSequence else {
            core.abandonServer()
            return attach()
        }
        core.tellRelay { output throws(RelayError) in
            try relay.take(session, recovery: recovery, rest: rest, output: &output)
        }
    }

    /// Moves to the server that has the resource now. `isOrderly`: the present one is alive and finishes what
    /// is open first.
    func move(isOrderly: Bool, reason: String) {
        guard case .redirected = phase, let core else { return }
        let assigned = resource.flatMap { portal.resources.assignedServer(of: $0.name) }
        guard assigned != serverName || core.state == .clientOnly else { return }
        guard hasBegun, core.state != .clientOnly else {
            if core.state == .clientOnly { resume() } else { core.loseServer(reason) }
            return
        }
        if isOrderly { core.leaveInOrder() } else { core.loseServer(reason) }
    }

    func stayAfterAll() { core?.stayAfterAll() }

    /// It is logged in there.
    func isServed(by server: String) -> Bool {
        serverName == server && relay?.isEstablished == true && core?.state != .clientOnly
    }

    /// The server is known to be gone: what is on its way to it is not waited for.
    func loseServer(_ reason: String) {
        guard case .redirected = phase else { return }
        core?.loseServer(reason)
    }

    /// A server may be there again.
    func resume() {
        guard isWaiting else { return }
        timer?.cancel()
        attach()
    }

    /// Without a server that could be tried now.
    private func wait(_ reason: String) {
        isWaiting = true
        let waited = engine.loop.now - min(engine.loop.now, waitingSince)
        // A session that never had a server is told at once when none can be hoped for.
        let isHopeful = hasBegun || portal.mayChange(resource?.name ?? "", serverName ?? "")
        guard isHopeful, waited < portal.serverWait else { return giveUp(reason) }
        timer?.cancel()
        timer = engine.loop.schedule(after: 250_000_000) { [weak self] in self?.resume() }
    }

    /// A new session is told so and stays; one that lost its server cannot be told in part.
    private func giveUp(_ reason: String) {
        isWaiting = false
        timer?.cancel()
        if hasBegun {
            core?.end("no server for \(resource?.name ?? ""): \(reason)", reset: true)
            return
        }
        let waiting = pending + (relay?.takeBacklog() ?? [])
        pending = []
        core?.detachServer()
        if core?.state == .clientOnly { engine.loop.unregister(leg.descriptor) }
        refuse(waiting, reason)
    }

    /// The server did not take the session in; another one may, or the same a little later.
    private func serverFailed(_ reason: String) {
        timer?.cancel()
        guard case .redirected = phase, relay?.isEstablished != true || hasBegun, !isFailing else {
            return
        }
        isFailing = true
        let server = serverName ?? ""
        engine.log.warning("session \(id): server \(server): \(reason)")
        if hasBegun { portal.serverLoginFailed() }
        // Not from within the relay: it is in the middle of the server's octets.
        engine.loop.postLocal { [weak self] in
            guard let self, case .redirected = phase else { return }
            isFailing = false
            pending += relay?.takeBacklog() ?? []
            core?.abandonServer()
            portal.trouble(server, .attachFailed(reason))
            wait(reason)
        }
    }

    private func refuse(_ waiting: [UInt8], _ reason: String) {
        portal.serverLoginFailed()
        engine.log.warning("session \(id): server \(serverName ?? ""): \(reason)")
        phase = .fullFeature
        reader.append(waiting)
        do {
            while let pdu = try reader.next() {
                // LOGICAL UNIT COMMUNICATION FAILURE, NOT READY (SPC-4 annex F).
                take(target?.refuse(pdu, sense: (0x02, 0x08, 0x00)) ?? [], of: pdu)
            }
        } catch {
            return close("\(error)")
        }
        watchClient()
        flush()
    }

    // MARK: End

    private func finished(_ reason: String) {
        timer?.cancel()
        portal.leave(self)
        phase = .closed
        engine.remove(id, reason: reason, lingers: core?.lingers ?? false)
    }

    func close(_ reason: String) { close(reason, reset: true) }

    private func close(_ reason: String, reset: Bool) {
        switch phase {
        case .closed: return
        case .redirected:
            core?.end(reason, reset: reset)
            return
        case .login, .fullFeature: break
        }
        timer?.cancel()
        portal.leave(self)
        phase = .closed
        engine.loop.unregister(leg.descriptor)
        if reset { Socket.setReset(leg.descriptor) }
        Socket.close(leg.descriptor)
        engine.postEnd([.close(id)])
        engine.remove(id, reason: reason, lingers: false)
    }

    var summary: SessionSummary {
        let state: String =
            switch phase {
            case .login: "login"
            case .fullFeature: login?.isDiscovery == true ? "discovery" : "fullFeature"
            case .redirected: core?.state.rawValue ?? "connecting"
            case .closed: "ended"
            }
        return SessionSummary(
            id: id, protocolName: "iscsi", client: leg.remote, clientLocal: leg.local,
            server: core?.server?.remote, serverLocal: core?.server?.local,
            initiator: login?.initiatorName, user: login?.user, target: login?.targetName,
            resource: resource?.name, serverName: serverName, state: state,
            wantsSplice: core?.wantsSplice ?? false,
            statistics: core?.statistics ?? Redirect.Statistics(), openedAt: openedAt)
    }
}
