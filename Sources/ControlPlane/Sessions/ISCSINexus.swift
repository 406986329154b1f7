import DataPlane
import Logging
import StorageProtocols

/// Whose nexus it is: the session that the client has.
protocol ISCSINexusOwner: AnyObject {
    /// Nil: it is over.
    var sessionSummary: SessionSummary? { get }
    /// What the client was told last, for the first login to a server.
    var position: ISCSIClientPosition { get }
    /// No server could be had for the first request. `waiting`: what the client has sent for it.
    func nexus(_ nexus: ISCSINexus, refused waiting: [UInt8], reason: String)
    /// It is over, and its redirect with it.
    func nexus(_ nexus: ISCSINexus, ended reason: String)
    /// It has the client's connection, and met what is not its server's, or has lost its server: the owner takes the
    /// connection back.
    func nexusHasForeign(_ nexus: ISCSINexus)
    func nexusLostServer(_ nexus: ISCSINexus)
    /// It is about to change its server in good order; false: it has the client's connection back first, and is asked
    /// again then.
    func nexusMayLeave(_ nexus: ISCSINexus) -> Bool
}

/// What a session has at the server of one resource (in SCSI words, an I_T nexus): logs in there with the first
/// request; when the server is lost, or left, another one takes over.
///
/// Lives on the session thread.
final class ISCSINexus {
    let resource: Resource
    /// Unlike any other's, as long as the process runs.
    let serial: UInt64
    /// The session's.
    let id: SpliceID
    private(set) var serverName: String?
    private let engine: SessionEngine
    private let portal: ISCSIPortal
    private let login: ISCSILoginResult
    private weak var owner: (any ISCSINexusOwner)?
    let relay: ISCSIRelay
    let redirect: Redirect
    private var timer: EventLoop.Timer?
    /// Octets that wait for a connection.
    private var pending: [UInt8] = []
    /// A server was logged in to: what the client has is more than this process knows.
    private var hasBegun = false
    private var isWaiting = false
    /// A server that failed is about to be given up.
    private var isFailing = false
    /// ns, since when there is no server; 0: there is one.
    private var waitingSince: UInt64 = 0
    private var lossReason = ""
    /// ns, of the login to the present server.
    private var establishedAt: UInt64 = 0
    /// The request of which was told that it takes too long.
    private var toldLate: UInt64?
    /// Where the session was before, for the event that tells of its move.
    private var formerServer: String?

    /// The dataplane's while the session is spliced.
    var log: SessionLog? { relay.log }

    /// - Parameter client: the client's connection, or what it is like; see `Redirect.init`.
    init(
        _ resource: Resource, id: SpliceID, login: ISCSILoginResult, client: Leg,
        owner: any ISCSINexusOwner, engine: SessionEngine, portal: ISCSIPortal,
        onClientOutput: (() -> Void)? = nil
    ) {
        self.resource = resource
        self.id = id
        self.login = login
        self.owner = owner
        self.engine = engine
        self.portal = portal
        serial = portal.nextNexusSerial()
        relay = ISCSIRelay(
            loginResult: login, discovery: portal.discovery(for: client, user: login.user),
            log: portal.makeLog(), numbers: owner.position,
            clock: { [engine] in engine.loop.now })
        redirect = Redirect(
            id: id, engine: engine, client: client, relay: relay, onClientOutput: onClientOutput)
        redirect.isStandbyWanted = { [weak self] in
            $0 == self?.standbyPurpose && self?.relay.reservations.isEmpty == true
        }
        redirect.requestDeadline = { [weak self] in self?.requestDeadline ?? 0 }
        relay.onLogin = { [weak self] in self?.serverLogin($0) }
        redirect.onOutcome = { [weak self] in self?.take($0) }
    }

    private func take(_ outcome: Redirect.Outcome) {
        switch outcome {
        case .connected:
            let waiting = pending
            pending = []
            redirect.inject(waiting, from: .client)
        case .connectFailed(let reason): serverFailed("connect: \(reason)")
        case .serverLost(let reason): serverLost(reason)
        case .serverLeft: serverLeft()
        case .serverHeld: _ = prepareStandby()
        case .serverReplaced(let purpose, let session, let rest):
            serverReplaced(purpose, session, rest: rest)
        case .formerLost(let reason): formerLost(reason)
        case .requestLate: portal.trouble(serverName ?? "", .requestLate)
        case .clientForeign: owner?.nexusHasForeign(self)
        case .ended(let reason):
            timer?.cancel()
            isOver = true
            owner?.nexus(self, ended: reason)
        }
    }
    private var isOver = false

    /// As the session's, with what is this nexus's own; nil: the session is over.
    var summary: SessionSummary? {
        guard var summary = owner?.sessionSummary else { return nil }
        summary.resource = resource.name
        summary.serverName = serverName
        summary.server = redirect.server?.remote
        summary.serverLocal = redirect.server?.local
        summary.statistics = redirect.statistics
        return summary
    }

    /// The dataplane's record of the session is about this nexus.
    var hasRecord: Bool { !redirect.hasMemoryClient }

    /// Where its requests are counted; nil: nowhere.
    var requests: RequestTotals.Source? {
        log.map {
            RequestTotals.Source(
                id: id, resource: resource.name, log: $0, mayBeInDataplane: hasRecord)
        }
    }

    // MARK: Server

    /// The first request: the server that has the resource now is logged in to with the stored credentials.
    /// - Parameter octets: of the client, from that request on.
    func begin(_ octets: [UInt8]) {
        pending += octets
        waitingSince = engine.loop.now
        attach()
    }

    /// Octets of a client that is a stream in memory; the first ones begin. `flush` sends them on.
    func feed(_ bytes: UnsafeRawBufferPointer) {
        guard !isOver else { return }
        if redirect.state == .clientOnly || redirect.state == .connecting {
            pending += bytes
        } else {
            redirect.feed(bytes)
        }
    }

    func flush() {
        if isOver { return }
        if !hasBegun, waitingSince == 0 { return begin([]) }
        redirect.pump()
    }

    /// Connects to the server that has the resource now: the first one, or one that takes another's place.
    private func attach() {
        guard !isOver, redirect.state == .clientOnly else { return }
        isWaiting = false
        let chosen = hasBegun ? nil : portal.serverFor(self)
        let assigned =
            chosen ?? portal.resources.assignedServer(of: resource.name) ?? resource.assigned
        serverName = assigned
        guard portal.isServing(assigned) else {
            portal.trouble(assigned, .wanted)
            return wait("server \(assigned) is down")
        }
        guard let address = address(of: assigned),
            let local = engine.storageAddress(like: address.address)
        else { return wait("server \(assigned) has no address of the client's family") }
        if hasBegun {
            let recovery = relay.prepareRecovery(
                maximumSegment: portal.maximumSegment(of: assigned))
            relay.prepare(
                initiatorLogin(
                    assigned, commandSequence: recovery.firstCommand, expectedStatus: 1),
                recovery: recovery)
        } else {
            guard let position = owner?.position else { return }
            relay.prepare(
                initiatorLogin(
                    assigned, commandSequence: position.nextCommand,
                    expectedStatus: position.nextStatus), firstCommand: position.nextCommand)
        }
        timer?.cancel()
        timer = engine.loop.schedule(after: portal.serverTimeout) { [weak self] in
            self?.serverFailed("no answer from \(assigned)")
        }
        redirect.connect(to: address, from: local, serverMAC: .zero)
    }

    private func address(of server: String) -> SocketAddress? {
        portal.address(of: server, like: redirect.client.remote.address)
    }

    private func initiatorLogin(
        _ server: String, commandSequence: UInt32, expectedStatus: UInt32
    ) -> ISCSIInitiatorLogin {
        ISCSIInitiatorLogin(
            portal.serverRequest(
                login, resource: resource, server: server, commandSequence: commandSequence,
                expectedStatus: expectedStatus), random: portal.random)
    }

    /// ns that a request may be open, from what requests take; asked for with every splice.
    private var requestDeadline: UInt64 {
        guard let statistics = relay.log?.statistics else { return 0 }
        return portal.requestDeadline.value(
            latency: statistics.smoothedLatency, deviation: statistics.latencyDeviation)
    }

    /// For a session that is relayed: in a splice the dataplane looks after this.
    func checkDeadline() {
        guard hasBegun, waitingSince == 0, redirect.state == .relaying, let oldest = log?.oldest,
            oldest.id != toldLate
        else { return }
        let since = max(oldest.startedAt, establishedAt)
        guard engine.loop.now > since + requestDeadline else { return }
        toldLate = oldest.id
        let isFormer = relay.former?.tags.contains(UInt32(truncatingIfNeeded: oldest.id)) == true
        portal.trouble((isFormer ? formerServer : serverName) ?? "", .requestLate)
    }

    private func serverLogin(_ outcome: ISCSIRelay.LoginOutcome) {
        switch outcome {
        case .established(let result):
            let told = portal.toldMaximumSegment(login)
            if hasBegun, (result.targetMaxReceive ?? 8_192) < told {
                return serverFailed("it takes shorter data segments than the client was told")
            }
            timer?.cancel()
            if hasBegun {
                let now = engine.loop.now
                let duration = now - min(now, waitingSince)
                if let summary {
                    engine.onEvent(
                        .moved(
                            summary, from: formerServer ?? "", reason: lossReason,
                            duration: duration))
                }
                portal.moved(self, duration: duration, isOrderly: lossReason.isEmpty)
            } else {
                guard let position = owner?.position else { return }
                relay.setStatus(clientNext: position.nextStatus, serverNext: result.nextStatus)
                if !redirect.hasMemoryClient {
                    redirect.setWantsSplice(portal.splicesAutomatically)
                }
            }
            hasBegun = true
            waitingSince = 0
            establishedAt = engine.loop.now
            redirect.shorten()
            toldLate = nil
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
        if let summary { engine.onEvent(.serverLost(summary, detail: reason)) }
        owner?.nexusLostServer(self)
        portal.trouble(serverName ?? "", .sessionLost(reason))
        attach()
    }

    /// What was open at the server that was left is done again with all the rest.
    private func formerLost(_ reason: String) {
        let former = formerServer ?? ""
        engine.log.notice("session \(id): server \(former) is lost with requests: \(reason)")
        timer?.cancel()
        lossReason = reason
        waitingSince = engine.loop.now
        portal.trouble(former, .sessionLost(reason))
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
        guard hasBegun, let assigned = portal.resources.assignedServer(of: resource.name),
            assigned != serverName, portal.isServing(assigned),
            let address = address(of: assigned),
            let local = engine.storageAddress(like: address.address)
        else { return nil }
        return ServerStandby.Purpose(server: assigned, address: address, local: local)
    }

    /// Not when reservations have to be made again: the present nexus may still hold them. CmdSN begins anew: what the
    /// client will be at when the server is left is not known yet. False: none is on its way.
    private func prepareStandby() -> Bool {
        guard relay.reservations.isEmpty, let purpose = standbyPurpose else { return false }
        return redirect.openStandby(
            purpose,
            login: ISCSINexusLogin(
                initiatorLogin(purpose.server, commandSequence: 1, expectedStatus: 1),
                replacing: [:]),
            timeout: portal.serverTimeout)
    }

    private func serverReplaced(
        _ purpose: ServerStandby.Purpose, _ session: ISCSIInitiatorResult, rest: [UInt8]
    ) {
        formerServer = serverName
        serverName = purpose.server
        lossReason = ""
        waitingSince = engine.loop.now
        var isTaken = false
        redirect.tellRelay { output throws(RelayError) in
            isTaken = try relay.takeOver(session, rest: rest, output: &output)
            // Nothing is pumped for a server that does not take over.
            if !isTaken { redirect.abandonServer() }
        }
        if !isTaken { attach() }
    }

    /// Moves to the server that has the resource now. `isOrderly`: the present one is alive and finishes what
    /// is open first.
    func move(isOrderly: Bool, reason: String) {
        guard !isOver else { return }
        let assigned = portal.resources.assignedServer(of: resource.name)
        guard assigned != serverName || redirect.state == .clientOnly else { return }
        guard hasBegun, redirect.state != .clientOnly else {
            if redirect.state == .clientOnly { resume() } else { redirect.loseServer(reason) }
            return
        }
        guard isOrderly else { return redirect.loseServer(reason) }
        guard owner?.nexusMayLeave(self) ?? true else { return }
        // With a standby the server is left when that is decided.
        if redirect.isLeaving || !prepareStandby() { redirect.leaveInOrder() }
    }

    func stayAfterAll() { redirect.stayAfterAll() }

    /// It is logged in there.
    func isServed(by server: String) -> Bool {
        serverName == server && relay.isEstablished && redirect.state != .clientOnly
    }

    /// It has requests there: it is served by it, or was, and some are not finished.
    func uses(_ server: String) -> Bool {
        serverName == server || redirect.former != nil && formerServer == server
    }

    /// A server is known to be gone: what is on its way to it is not waited for.
    func lose(_ server: String, _ reason: String) {
        guard !isOver else { return }
        if serverName == server {
            redirect.loseServer(reason)
        } else if uses(server) {
            redirect.loseFormer(reason)
        }
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
        let isHopeful = hasBegun || portal.mayChange(resource.name, serverName ?? "")
        guard isHopeful, waited < portal.serverWait else { return giveUp(reason) }
        timer?.cancel()
        timer = engine.loop.schedule(after: 250_000_000) { [weak self] in self?.resume() }
    }

    /// A new session is told so and stays; one that lost its server cannot be told in part.
    private func giveUp(_ reason: String) {
        isWaiting = false
        timer?.cancel()
        if hasBegun {
            redirect.end("no server for \(resource.name): \(reason)", reset: true)
            return
        }
        let waiting = pending + relay.takeBacklog()
        pending = []
        redirect.detachServer()
        portal.serverLoginFailed()
        engine.log.warning("session \(id): server \(serverName ?? ""): \(reason)")
        owner?.nexus(self, refused: waiting, reason: reason)
    }

    /// The server did not take the session in; another one may, or the same a little later.
    private func serverFailed(_ reason: String) {
        timer?.cancel()
        guard !isOver, !relay.isEstablished || hasBegun, !isFailing else { return }
        isFailing = true
        let server = serverName ?? ""
        engine.log.warning("session \(id): server \(server): \(reason)")
        if hasBegun { portal.serverLoginFailed() }
        // Not from within the relay: it is in the middle of the server's octets.
        engine.loop.postLocal { [weak self] in
            guard let self, !isOver else { return }
            isFailing = false
            pending += relay.takeBacklog()
            redirect.abandonServer()
            portal.trouble(server, .attachFailed(reason))
            wait(reason)
        }
    }

    /// Ends it; the owner is told.
    func end(_ reason: String, reset: Bool) { redirect.end(reason, reset: reset) }
}
