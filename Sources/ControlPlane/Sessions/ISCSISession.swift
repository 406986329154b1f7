import DataPlane
import Logging
import StorageProtocols

/// One iSCSI connection of a client: login and discovery are answered here without asking any server; the
/// first command makes the server leg; then the redirect carries it.
final class ISCSISession: Session, ISCSINexusOwner {
    private enum Phase {
        case login(ISCSITargetLogin)
        case fullFeature
        /// The nexus's redirect has the client's socket.
        case redirected
        /// The target has many units: the router's relay has it.
        case routed(ISCSIUnitRouter)
        case closed
    }

    private let engine: SessionEngine
    private let portal: ISCSIPortal
    private var phase: Phase
    private var nexus: ISCSINexus?
    private let leg: Leg
    let id: SpliceID
    let openedAt: UInt64
    // RFC 7143 section 13.12: nothing was declared yet, so no data segment is longer than 8192 octets.
    private var reader = ISCSIPDUReader(dataMaximum: 8_192)
    private var output = OutboundBuffer()
    private var login: ISCSILoginResult?
    private var target: ISCSITargetSession?
    private var resource: Resource?
    private var closesWhenSent = false
    private var timer: EventLoop.Timer?
    var redirect: Redirect? {
        if case .routed(let router) = phase { return router.redirect }
        return nexus?.redirect
    }
    func setWantsSplice(_ wanted: Bool) {
        if case .routed(let router) = phase { return router.setWantsSplice(wanted) }
        redirect?.setWantsSplice(wanted)
    }

    var requests: [RequestTotals.Source] {
        if case .routed(let router) = phase { return router.nexuses.compactMap(\.requests) }
        return [nexus?.requests].compactMap { $0 }
    }

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
            case .redirected, .routed, .closed: return
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
            case .closed, .redirected, .routed: return
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
            case .redirected, .routed, .closed: return
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

    /// The first command makes the nexus, or tries again.
    private func needServer(_ pdu: ISCSIPDU) {
        guard let login else { return close("no login") }
        let waiting = pdu.encoded() + reader.remaining
        reader.clear()
        flush()
        guard case .fullFeature = phase else { return }
        if portal.isAllUnitsTarget(login.targetName), let target {
            return beginRouting(login, target, waiting)
        }
        guard let resource else { return close("no resource") }
        phase = .redirected
        let nexus = nexus ?? makeNexus(resource, login)
        nexus.redirect.watch(.client)
        nexus.begin(waiting)
    }

    private func beginRouting(
        _ login: ISCSILoginResult, _ target: ISCSITargetSession, _ waiting: [UInt8]
    ) {
        let router = ISCSIUnitRouter(
            id: id, login: login, session: target, client: leg, engine: engine, portal: portal,
            summary: { [weak self] in self?.summary },
            onEnd: { [weak self] in self?.routingEnded($0, lingers: $1) })
        phase = .routed(router)
        portal.join(router, id)
        engine.loop.unregister(leg.descriptor)
        router.begin(leg.descriptor, waiting: waiting, unsent: output.take(output.count))
    }

    private func routingEnded(_ reason: String, lingers: Bool) {
        leave()
        phase = .closed
        engine.remove(id, reason: reason, lingers: lingers)
    }

    private func makeNexus(_ resource: Resource, _ login: ISCSILoginResult) -> ISCSINexus {
        let made = ISCSINexus(
            resource, id: id, login: login, client: leg, owner: self, engine: engine,
            portal: portal)
        nexus = made
        portal.join(made)
        return made
    }

    var position: ISCSIClientPosition {
        let next = target?.expectedCommand ?? 0
        return ISCSIClientPosition(
            nextCommand: next, nextStatus: target?.nextStatus ?? 0, expectedCommand: next,
            maximumCommand: next &+ (login?.commandWindow ?? 1) &- 1)
    }

    func nexus(_ nexus: ISCSINexus, refused waiting: [UInt8], reason: String) {
        guard case .redirected = phase else { return }
        if nexus.redirect.state == .clientOnly { engine.loop.unregister(leg.descriptor) }
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

    func nexusHasForeign(_ nexus: ISCSINexus) {}
    func nexusLostServer(_ nexus: ISCSINexus) {}
    func nexusMayLeave(_ nexus: ISCSINexus) -> Bool { true }

    func nexus(_ nexus: ISCSINexus, ended reason: String) {
        leave()
        phase = .closed
        engine.remove(id, reason: reason, lingers: nexus.redirect.lingers)
    }

    /// What others keep of the session is given back.
    private func leave() {
        timer?.cancel()
        if let nexus { portal.leave(nexus) }
        portal.leave(id)
    }

    func close(_ reason: String) { close(reason, reset: true) }

    private func close(_ reason: String, reset: Bool) {
        switch phase {
        case .closed: return
        case .redirected:
            nexus?.end(reason, reset: reset)
            return
        case .routed(let router): return router.end(reason, reset: reset)
        case .login, .fullFeature: break
        }
        leave()
        phase = .closed
        engine.loop.unregister(leg.descriptor)
        if reset { Socket.setReset(leg.descriptor) }
        Socket.close(leg.descriptor)
        engine.postEnd([.close(id)])
        engine.remove(id, reason: reason, lingers: false)
    }

    var sessionSummary: SessionSummary? { summary }

    var summary: SessionSummary {
        let state: String =
            switch phase {
            case .login: "login"
            case .fullFeature: login?.isDiscovery == true ? "discovery" : "fullFeature"
            case .redirected: nexus?.redirect.state.rawValue ?? "connecting"
            case .routed(let router): router.redirect?.state.rawValue ?? "routing"
            case .closed: "ended"
            }
        var summary = SessionSummary(
            id: id, protocolName: "iscsi", client: leg.remote, clientLocal: leg.local,
            server: nexus?.redirect.server?.remote, serverLocal: nexus?.redirect.server?.local,
            initiator: login?.initiatorName, user: login?.user, target: login?.targetName,
            resource: resource?.name, serverName: nexus?.serverName, state: state,
            wantsSplice: nexus?.redirect.wantsSplice ?? false,
            statistics: nexus?.redirect.statistics ?? Redirect.Statistics(), openedAt: openedAt)
        if case .routed(let router) = phase { router.describe(&summary) }
        return summary
    }
}
