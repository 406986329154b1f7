import DataPlane
import Logging
import StorageProtocols

/// One call of a client on its way: asks the router what becomes of it, brings it to the server that has the resource
/// now and, should that die, to the one that has it then.
///
/// Lives on the session thread; kept by `NFSService` until it is over.
final class NFSExchange {
    let serial: UInt64
    let client: NFSClient
    /// ns.
    let startedAt: UInt64
    private unowned let service: NFSService
    /// Connections for what is about files: the client's own, or all clients'.
    private let links: NFSLinks
    /// The connection that it came by, if it is one.
    private weak var stream: NFSStreamSession?
    /// The reply for the client; nil: there is none.
    private let done: ([UInt8]?) -> Void
    private var isOver = false
    /// As the client said it.
    private var message: [UInt8] = []
    /// It goes to a server.
    private var forward: NFSForward?
    /// A server may have done it.
    private var mayBeDone = false
    /// What is done again in place of the call.
    private var retry: NFSRetry?
    /// Replies to what was asked first, by place.
    private var answers: [[UInt8]?] = []
    private var missing = 0

    init(
        _ serial: UInt64, from client: NFSClient, service: NFSService, links: NFSLinks,
        stream: NFSStreamSession?, done: @escaping ([UInt8]?) -> Void
    ) {
        self.serial = serial
        self.stream = stream
        self.client = client
        self.service = service
        self.links = links
        self.done = done
        startedAt = service.engine.loop.now
    }

    private var now: UInt64 { service.engine.loop.now }

    func begin(_ call: [UInt8], at local: IPAddress) {
        message = call
        act(service.router.take(call, from: client, at: local, now: now))
    }

    private func end(_ reply: [UInt8]?) {
        guard !isOver else { return }
        isOver = true
        service.ended(self)
        done(reply)
    }

    private func act(_ decision: NFSDecision) {
        switch decision {
        case .answer(let reply):
            stream?.usedOther()
            end(reply)
        case .underWay: end(nil)
        case .malformed(let reason):
            service.engine.log.debug("NFS: \(client.address): \(reason)")
            end(nil)
        case .resolve(let resolution): resolve(resolution)
        case .forward(let forward):
            self.forward = forward
            mayBeDone = forward.mayHaveBeenDone
            service.forwarded(message, from: client, forward)
            stream?.forwarded(forward)
            message = []
            send()
        }
    }

    // MARK: What must be known first

    private func resolve(_ resolution: NFSResolution) {
        answers = Array(repeating: nil, count: resolution.calls.count)
        missing = resolution.calls.count
        for (index, call) in resolution.calls.enumerated() {
            guard let server = service.server(of: call.resource) else {
                missing -= 1
                continue
            }
            service.links.link(server).call(
                program: call.program, version: call.version, call.call
            ) { [weak self] outcome in
                guard let self, !isOver else { return }
                if case .reply(let reply) = outcome { answers[index] = reply }
                if case .lost(let reason, _) = outcome { service.trouble(server, reason) }
                missing -= 1
                if missing == 0 { learned(resolution) }
            }
        }
        if missing == 0 { learned(resolution) }
    }

    private func learned(_ resolution: NFSResolution) {
        // Nobody was there to be asked: the same again, as long as the client may wait.
        if answers.allSatisfy({ $0 == nil }), !answers.isEmpty, !isLate {
            return service.wait(self, for: resolution.calls.map(\.resource)) { [weak self] in
                self?.resolve(resolution)
            }
        }
        act(service.router.take(answers, for: resolution, now: now))
    }

    private var isLate: Bool { now - startedAt > service.waitMaximum }

    // MARK: To a server

    private func send() {
        guard let forward, !isOver else { return }
        guard let server = service.server(of: forward.resource) else { return park() }
        if mayBeDone, !forward.isIdempotent { return sendAgain(forward, server) }
        call(server, forward.call) { [weak self] reply in self?.finish(reply) }
    }

    private func call(
        _ server: String, _ message: [UInt8], then: @escaping ([UInt8]) -> Void
    ) {
        guard let forward else { return }
        let links = forward.program == NFSProgram.number ? links : service.links
        service.sent(to: server, resource: forward.resource, octets: message.count)
        let sentAt = now
        links.link(server).call(
            program: forward.program, version: forward.version, message
        ) { [weak self] outcome in
            guard let self, !isOver else { return }
            switch outcome {
            case .reply(let reply):
                service.answered(
                    by: server, resource: forward.resource, octets: reply.count,
                    after: now - sentAt)
                then(reply)
            case .lost(let reason, let wasSent):
                if wasSent { mayBeDone = true }
                retry = nil
                service.trouble(server, reason)
                park()
            }
        }
    }

    /// The first server may have done it before it died.
    private func sendAgain(_ forward: NFSForward, _ server: String) {
        var machine = service.router.retry(forward)
        let step = machine.begin()
        retry = machine
        take(step, server)
    }

    private func take(_ step: NFSRetry.Step, _ server: String) {
        switch step {
        case .call(let message):
            call(server, message) { [weak self] reply in
                guard let self, let next = retry?.take(reply) else { return }
                take(next, server)
            }
        case .end(let outcome):
            guard let forward else { return }
            retry = nil
            reply(service.router.finish(forward.context, outcome, now: now))
        }
    }

    private func finish(_ reply: [UInt8]) {
        guard let forward else { return }
        self.reply(service.router.finish(forward.context, reply: reply, now: now))
    }

    /// Nil: what the server has said is no reply to the call.
    private func reply(_ reply: [UInt8]?) {
        guard reply == nil, let forward else { return end(reply) }
        end(service.router.give(up: forward.context, wasSent: mayBeDone))
    }

    /// No server has it now.
    private func park() {
        guard let forward else { return }
        guard !isLate else {
            service.gaveUp(forward.resource)
            return end(service.router.give(up: forward.context, wasSent: mayBeDone))
        }
        service.wait(self, for: [forward.resource]) { [weak self] in self?.send() }
    }
}

/// Connections to servers, one owner's.
final class NFSLinks {
    private var links: [String: NFSServerLink] = [:]
    private let engine: SessionEngine
    private let portal: ISCSIPortal

    init(engine: SessionEngine, portal: ISCSIPortal) {
        self.engine = engine
        self.portal = portal
    }

    func link(_ server: String) -> NFSServerLink {
        if let link = links[server] { return link }
        let link = NFSServerLink(server, engine: engine, portal: portal)
        links[server] = link
        return link
    }

    /// Octets that wait to be sent.
    var unsent: Int { links.values.reduce(0) { $0 + $1.unsent } }
    /// When the oldest call without a reply was sent, ns, by server.
    var oldest: [(server: String, since: UInt64)] {
        links.values.compactMap { link in link.oldest.map { (link.server, $0) } }
    }
    /// Those that have something open, in the order of their names.
    var used: [String] { links.values.filter { $0.openCalls > 0 }.map(\.server).sorted() }

    func end(_ server: String, _ reason: String) { links.removeValue(forKey: server)?.end(reason) }
    func endAll(_ reason: String) {
        let all = links.values
        links = [:]
        for link in all { link.end(reason) }
    }
}
