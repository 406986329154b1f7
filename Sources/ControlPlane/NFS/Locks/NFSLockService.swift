import DataPlane
import Logging
import StorageProtocols

/// NLM and NSM at the virtual addresses, towards servers, and from them.
///
/// Lives on the session thread.
final class NFSLockService: NLMSurroundings {
    let locks: NLMLocks
    private unowned let service: NFSService
    private let links: NFSLinks
    /// By the virtual address that they send from.
    private var callers: [IPAddress: NFSCallbackCaller] = [:]
    private var listeners: [NFSCallbackListener] = []
    private var listening: Set<SocketAddress> = []
    /// Names of servers that the configuration has.
    private var servers: Set<String> = []
    private var timer: EventLoop.Timer?

    /// ns that a call to a server may be open: then the connection is given up, and all begins anew.
    private static let replyMaximum: UInt64 = 30_000_000_000
    private static let lookInterval: UInt64 = 1_000_000_000

    init(_ service: NFSService, seed: UInt64, versions: Set<NFSVersion>) {
        self.service = service
        links = NFSLinks(engine: service.engine, portal: service.portal)
        locks = NLMLocks(seed: seed, versions: versions)
        locks.surroundings = self
    }

    private var engine: SessionEngine { service.engine }
    private var portal: ISCSIPortal { service.portal }

    // MARK: Life

    /// The configuration was read, or read again. Opens what is not open; returns what failed.
    func update(_ configuration: Configuration) -> [String] {
        servers = Set(configuration.servers.map(\.name))
        if let nfs = configuration.nfs { locks.versions = nfs.versions }
        locks.update(
            Dictionary(
                configuration.resources.compactMap { resource in
                    resource.handleIndex.map { ($0, resource.name) }
                }, uniquingKeysWith: { first, _ in first }))
        if timer == nil { schedule() }
        var failures: [String] = []
        for own in configuration.storageCPU.addresses {
            for port in [Portmapper.port, NFSCallbackListener.port] {
                let address = SocketAddress(address: own.address, port: port)
                guard listening.insert(address).inserted else { continue }
                do {
                    listeners.append(
                        try NFSCallbackListener(address, engine: engine) {
                            [weak self] message, sender, transport in
                            self?.answer(
                                message, from: sender, at: own.address, over: transport)
                        })
                } catch {
                    failures.append("\(address): \(error)")
                }
            }
        }
        return failures
    }

    private func schedule() {
        timer = engine.loop.schedule(after: Self.lookInterval) { [weak self] in
            guard let self else { return }
            let now = engine.loop.now
            for (server, since) in links.oldest where now > since + Self.replyMaximum {
                links.end(server, "no reply for long")
            }
            schedule()
        }
    }

    func take(_ event: ManagementEvent) {
        switch event {
        case .serverDown(let server, let cause, _):
            locks.serverDown(server)
            links.end(server, cause.rawValue)
        case .serverUp, .committed:
            // When what has happened is in the tables.
            engine.loop.postLocal { [weak self] in self?.locks.serversChanged() }
        default: break
        }
    }

    func close(_ reason: String) {
        timer?.cancel()
        for listener in listeners { listener.close() }
        listeners = []
        for caller in callers.values { caller.close() }
        callers = [:]
        links.endAll(reason)
    }

    // MARK: From clients

    /// Takes a client's call of NLM or NSM. Nil: it is of another program. False: too much is open.
    func take(
        _ call: [UInt8], from client: NFSClient, at local: IPAddress,
        done: @escaping ([UInt8]?) -> Void
    ) -> Bool? {
        let programs = [NLMProtocol.program, NSMProtocol.program]
        guard call.count >= 16, programs.contains(call.field32(12)) else { return nil }
        let parsed = call.read { (reader: inout XDRReader) throws(RPCError) in
            try RPCCallHeader(&reader)
        }
        // The router says what is wrong with it.
        guard case .success(let header) = parsed else { return nil }
        guard header.program == NLMProtocol.program else {
            done(
                answer(call, header) { [locks] name in
                    locks.release(name, at: client.address)
                })
            return true
        }
        return locks.take(call, header, from: client.address, at: local, done: done)
    }

    /// The reply to a call of NSM.
    /// - Parameter restarted: gets the name of a host that has restarted.
    private func answer(
        _ call: [UInt8], _ header: RPCCallHeader, _ restarted: ([UInt8]) -> Void
    ) -> [UInt8] {
        let parsed = call.read { (reader: inout XDRReader) throws(RPCRefusal) -> NSMCall in
            do throws(XDRError) {
                try reader.skip(header.arguments)
            } catch {
                throw RPCRefusal.garbageArguments
            }
            return try NSMCall(header, &reader)
        }
        switch parsed {
        case .failure(let refusal): return RPCMessage.reply(xid: header.xid, refusal: refusal)
        case .success(let parsed):
            if case .notify(let name, _) = parsed { restarted(name) }
            return RPCMessage.reply(
                xid: header.xid, results: parsed.results(state: NLMLocks.state))
        }
    }

    // MARK: From servers

    /// What servers find at our address there.
    private static let registrations: [Portmapper.Registration] = {
        var services = NLMVersion.allCases.map {
            (program: NLMProtocol.program, version: $0.rawValue)
        }
        services.append((program: NSMProtocol.program, version: NSMProtocol.version))
        return services.flatMap { service in
            [Portmapper.Transport.tcp, .udp].map {
                Portmapper.Registration(
                    program: service.program, version: service.version, transport: $0,
                    port: NFSCallbackListener.port)
            }
        }
    }()

    /// The reply to a message that came to a storage address; nil: there is none.
    private func answer(
        _ message: [UInt8], from sender: IPAddress, at local: IPAddress,
        over transport: Portmapper.Transport
    ) -> [UInt8]? {
        guard let server = server(at: sender) else { return nil }
        let parsed = message.read { (reader: inout XDRReader) throws(RPCError) in
            try RPCCallHeader(&reader)
        }
        guard case .success(let header) = parsed else { return nil }
        switch header.program {
        case Portmapper.program:
            return Portmapper(Self.registrations).answer(
                message,
                at: Portmapper.Listener(transport: transport, addresses: [local.octets]))
        case NSMProtocol.program:
            return answer(message, header) { [locks] _ in locks.serverRestarted(server) }
        case NLMProtocol.program: return answerLock(message, header, server)
        default: return RPCMessage.reply(xid: header.xid, refusal: .programUnavailable)
        }
    }

    private func server(at address: IPAddress) -> String? {
        servers.union(portal.usedServers).sorted().first {
            portal.server($0)?.addresses.contains(address) == true
        }
    }

    private func answerLock(
        _ message: [UInt8], _ header: RPCCallHeader, _ server: String
    ) -> [UInt8] {
        let parsed = message.read { (reader: inout XDRReader) throws(RPCRefusal) -> NLMCall in
            do throws(XDRError) {
                try reader.skip(header.arguments)
            } catch {
                throw RPCRefusal.garbageArguments
            }
            return try NLMCall(header, &reader)
        }
        switch parsed {
        case .failure(let refusal): return RPCMessage.reply(xid: header.xid, refusal: refusal)
        case .success(.request(let procedure, let request)) where procedure.action == .granted:
            guard let version = NLMVersion(rawValue: header.version) else { break }
            let status = locks.granted(request, version: version, by: server)
            let results = NLMReply(cookie: request.cookie, status: status)
                .encoded(.granted, version: version)
            guard let result = procedure.result else {
                return RPCMessage.reply(xid: header.xid, results: results)
            }
            let answer = RPCMessage.call(
                xid: 0, program: NLMProtocol.program, version: version.rawValue,
                procedure: result.rawValue, credential: Self.credential, arguments: results)
            // Whether it has a reply does not matter.
            call(server: server, version: version, answer) { _ in }
        case .success(.null), .success(.result): break
        case .success:
            return RPCMessage.reply(xid: header.xid, refusal: .procedureUnavailable)
        }
        return RPCMessage.reply(xid: header.xid, results: [])
    }

    private static let credential = RPCSystemCredential(machineName: "dsr", uid: 0, gid: 0)

    // MARK: What locks need

    var now: UInt64 { engine.loop.now }
    func after(_ delay: UInt64, _ body: @escaping () -> Void) {
        engine.loop.schedule(after: delay, body)
    }
    func server(of resource: String) -> String? { service.server(of: resource) }
    func isServing(_ server: String) -> Bool { portal.isServing(server) }
    func trouble(_ server: String, _ reason: String) { service.trouble(server, reason) }
    func report(_ text: String) { engine.log.warning("NFS: \(text)") }

    // Servers' monitors look the name up before they watch it, and call back there. An address needs nobody who knows
    // it.
    func name(towards server: String) -> [UInt8] {
        guard let address = portal.server(server)?.addresses.first,
            let own = engine.storageAddress(like: address)
        else { return [] }
        return Array("\(own)".utf8)
    }

    func call(
        server: String, version: NLMVersion, _ message: [UInt8],
        done: @escaping (NLMOutcome) -> Void
    ) {
        links.link(server).call(
            program: NLMProtocol.program, version: version.rawValue, message
        ) { outcome in
            switch outcome {
            case .reply(let reply): done(.reply(reply))
            case .lost(let reason, _): done(.lost(reason))
            }
        }
    }

    func call(
        client: IPAddress, from local: IPAddress, version: NLMVersion, _ procedure: NLMProcedure,
        _ arguments: [UInt8], done: @escaping ([UInt8]?) -> Void
    ) {
        let caller: NFSCallbackCaller
        do {
            caller = try callers[local] ?? NFSCallbackCaller(local, engine: engine)
        } catch {
            report("callbacks from \(local): \(error)")
            return engine.loop.postLocal { done(nil) }
        }
        callers[local] = caller
        let message = RPCMessage.call(
            xid: 0, program: NLMProtocol.program, version: version.rawValue,
            procedure: procedure.rawValue, credential: Self.credential, arguments: arguments)
        caller.call(
            client, program: NLMProtocol.program, version: version.rawValue, message, done: done)
    }

    func find(_ question: NLMQuestion, done: @escaping (NLMPlace) -> Void) {
        find(question, round: 0, done)
    }

    private func find(
        _ question: NLMQuestion, round: Int, _ done: @escaping (NLMPlace) -> Void
    ) {
        switch service.router.lockPlace(question, now: now, round: round) {
        case .known(let place): done(place)
        case .ask(let resolution):
            learn(resolution) { [weak self] isAnswered in
                guard isAnswered else { return done(.unknown) }
                self?.find(question, round: round + 1, done)
            }
        }
    }

    /// Asks whose a handle is, in as many steps as that takes. `done` gets false when nobody has answered.
    private func learn(_ resolution: NFSResolution, _ done: @escaping (Bool) -> Void) {
        ask(resolution) { [weak self] replies in
            guard let self else { return }
            guard replies.contains(where: { $0 != nil }) else { return done(false) }
            let decision = service.router.take(replies, for: resolution, now: now)
            guard case .resolve(let next) = decision else { return done(true) }
            learn(next, done)
        }
    }

    /// Replies by place; nil: there was none.
    private func ask(_ resolution: NFSResolution, _ done: @escaping ([[UInt8]?]) -> Void) {
        let gathering = Gathering(resolution.calls.count, done)
        for (place, call) in resolution.calls.enumerated() {
            guard let server = service.server(of: call.resource) else {
                gathering.take(nil, place)
                continue
            }
            service.links.link(server).call(
                program: call.program, version: call.version, call.call
            ) { outcome in
                switch outcome {
                case .reply(let reply): gathering.take(reply, place)
                case .lost: gathering.take(nil, place)
                }
            }
        }
    }

    private final class Gathering {
        private var replies: [[UInt8]?]
        private var missing: Int
        private let done: ([[UInt8]?]) -> Void

        init(_ count: Int, _ done: @escaping ([[UInt8]?]) -> Void) {
            replies = Array(repeating: nil, count: count)
            missing = count
            self.done = done
        }

        func take(_ reply: [UInt8]?, _ place: Int) {
            replies[place] = reply
            missing -= 1
            if missing == 0 { done(replies) }
        }
    }
}
