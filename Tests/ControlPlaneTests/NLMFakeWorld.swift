import ControlPlane
import DataPlane
import StorageProtocols

/// A server of NLM, as octets in and octets out: locks of POSIX, and waiting.
final class NLMFakeServer {
    struct Held: Hashable {
        let handle: [UInt8]
        let caller: [UInt8]
        let svid: UInt32
        let owner: [UInt8]
        let place: UInt64
        let isExclusive: Bool
    }

    /// Files end here: each octet is one entry.
    static let size: UInt64 = 64

    private(set) var held: Set<Held> = []
    private(set) var blocked: [NLMRequest] = []
    private(set) var shares: [[UInt8]] = []
    /// Granted, and to be told.
    private(set) var grants: [NLMRequest] = []
    /// It takes reclaims, and nothing else that locks.
    var isInGrace = false
    /// Names of what was called.
    private(set) var log: [String] = []

    func takeLog() -> [String] {
        defer { log = [] }
        return log
    }

    func takeGrants() -> [NLMRequest] {
        defer { grants = [] }
        return grants
    }

    /// As when its process ends.
    func forget() {
        held = []
        blocked = []
        shares = []
    }

    /// Octets that are locked, by place.
    func places(_ handle: [UInt8]) -> [UInt64] {
        Set(held.filter { $0.handle == handle }.map(\.place)).sorted()
    }

    /// Somebody who is not our client.
    func lock(_ handle: [UInt8], place: UInt64) {
        held.insert(
            Held(
                handle: handle, caller: [], svid: 77, owner: [7], place: place, isExclusive: true))
    }

    func reply(to message: [UInt8]) -> [UInt8]? {
        message.withUnsafeBytes { raw -> [UInt8]? in
            var reader = XDRReader(raw)
            guard let header = try? RPCCallHeader(&reader),
                let version = NLMVersion(rawValue: header.version),
                let call = try? NLMCall(header, &reader)
            else { return nil }
            return RPCMessage.reply(xid: header.xid, results: results(call, version))
        }
    }

    private func results(_ call: NLMCall, _ version: NLMVersion) -> [UInt8] {
        switch call {
        case .null, .result: return []
        case .freeAll(let name):
            log.append("free_all")
            held = held.filter { $0.caller != name }
            blocked.removeAll { $0.lock.callerName == name }
            shares = []
            return []
        case .share(let procedure, let request):
            log.append("\(procedure)")
            if procedure == .share, isInGrace != request.isReclaim {
                return NLMReply(cookie: request.cookie, status: .deniedGracePeriod)
                    .encoded(procedure, version: version)
            }
            shares.removeAll { $0 == request.owner }
            if procedure == .share { shares.append(request.owner) }
            return NLMReply(cookie: request.cookie, status: .granted)
                .encoded(procedure, version: version)
        case .request(let procedure, let request):
            log.append(request.isReclaim ? "\(procedure) reclaim" : "\(procedure)")
            return answer(procedure, request).encoded(procedure, version: version)
        }
    }

    private func answer(_ procedure: NLMProcedure, _ request: NLMRequest) -> NLMReply {
        var reply = NLMReply(cookie: request.cookie, status: .granted)
        switch procedure {
        case .test:
            guard let other = obstacle(request) else { break }
            reply.status = .denied
            reply.holder = NLMHolder(
                isExclusive: other.isExclusive, svid: other.svid, owner: other.owner,
                offset: other.place, length: 1)
        case .lock:
            if isInGrace != request.isReclaim {
                reply.status = .deniedGracePeriod
            } else if obstacle(request) == nil {
                set(request)
            } else if request.isBlocking {
                if !blocked.contains(where: { $0.lock == request.lock }) {
                    blocked.append(request)
                }
                reply.status = .blocked
            } else {
                reply.status = .denied
            }
        case .unlock:
            clear(request.lock)
            grantNext()
        case .cancel: blocked.removeAll { $0.lock == request.lock }
        default: reply.status = .failed
        }
        return reply
    }

    private func places(of lock: NLMLock) -> Range<UInt64> {
        let end = lock.length == 0 ? Self.size : min(Self.size, lock.offset + lock.length)
        return min(lock.offset, end)..<end
    }

    private func isOwn(_ entry: Held, _ lock: NLMLock) -> Bool {
        entry.caller == lock.callerName && entry.svid == lock.svid && entry.owner == lock.owner
    }

    private func obstacle(_ request: NLMRequest) -> Held? {
        held.first { entry in
            entry.handle == request.lock.handle && places(of: request.lock).contains(entry.place)
                && !isOwn(entry, request.lock) && (entry.isExclusive || request.isExclusive)
        }
    }

    private func clear(_ lock: NLMLock) {
        held = held.filter { entry in
            !(entry.handle == lock.handle && isOwn(entry, lock)
                && places(of: lock).contains(entry.place))
        }
    }

    private func set(_ request: NLMRequest) {
        clear(request.lock)
        for place in places(of: request.lock) {
            held.insert(
                Held(
                    handle: request.lock.handle, caller: request.lock.callerName,
                    svid: request.lock.svid, owner: request.lock.owner, place: place,
                    isExclusive: request.isExclusive))
        }
    }

    private func grantNext() {
        for request in blocked where obstacle(request) == nil {
            blocked.removeAll { $0.lock == request.lock }
            set(request)
            grants.append(request)
        }
    }
}

/// What locks need, with servers of one process, time that is told, and clients that answer as they are told.
final class NLMFakeWorld: NLMSurroundings {
    struct Callback {
        let client: IPAddress
        let local: IPAddress
        let procedure: NLMProcedure
        let arguments: [UInt8]
    }

    let locks: NLMLocks
    var servers = ["a": NLMFakeServer(), "b": NLMFakeServer()]
    /// Where the one resource is.
    var assigned = "a"
    var down: Set<String> = []
    private(set) var callbacks: [Callback] = []
    /// What clients say of GRANTED; nil: nothing.
    var clientStatus: NLMStatus? = .granted
    private(set) var troubles: [String] = []
    private(set) var reports: [String] = []
    /// Replies of servers are on their way for long, GRANTED is not.
    var holdsReplies = false
    private var heldReplies: [() -> Void] = []
    /// Calls to servers that will be lost with their connection.
    var losses = 0
    private(set) var now: UInt64 = 1_000_000_000_000
    private var ready: [() -> Void] = []
    private var timers: [(due: UInt64, body: () -> Void)] = []
    private var xid: UInt32 = 0

    static let client = NFSBench.address("10.0.0.9")
    static let other = NFSBench.address("10.0.0.10")
    static let virtual = NFSBench.address("10.0.0.1")
    /// As the client knows it; the server's has one octet less.
    static let handle: [UInt8] = [0xd5, 1, 2, 3, 4, 5, 6, 7, 8]
    static let serverHandle = Array(handle.dropFirst())

    init(bounds: NLMLocks.Bounds = NLMLocks.Bounds()) {
        locks = NLMLocks(seed: 42, versions: [.v2, .v3], bounds: bounds)
        locks.surroundings = self
    }

    func server(_ name: String) -> NLMFakeServer { servers[name]! }

    // MARK: Time

    /// Does what is to be done now.
    func pump() {
        while !ready.isEmpty {
            let bodies = ready
            ready = []
            for body in bodies { body() }
        }
    }

    func pass(_ milliseconds: UInt64) {
        let end = now + milliseconds * 1_000_000
        pump()
        while let place = timers.indices.min(by: { timers[$0].due < timers[$1].due }),
            timers[place].due <= end
        {
            let timer = timers.remove(at: place)
            now = max(now, timer.due)
            timer.body()
            pump()
        }
        now = end
    }

    // MARK: Surroundings

    func after(_ delay: UInt64, _ body: @escaping () -> Void) {
        timers.append((now + delay, body))
    }
    func server(of resource: String) -> String? { down.contains(assigned) ? nil : assigned }
    func isServing(_ server: String) -> Bool { !down.contains(server) }
    func name(towards server: String) -> [UInt8] { Array("10.1.0.1".utf8) }
    func trouble(_ server: String, _ reason: String) { troubles.append("\(server): \(reason)") }
    func report(_ text: String) { reports.append(text) }

    func find(_ question: NLMQuestion, done: @escaping (NLMPlace) -> Void) {
        guard question.handle.first == 0xd5 else { return done(.stale) }
        let file = NLMFile(
            index: 3, version: question.version, handle: Array(question.handle.dropFirst()))
        done(
            .file(
                file, resource: "r1",
                head: Array(question.call[..<question.header.arguments])))
    }

    func call(
        server name: String, version: NLMVersion, _ message: [UInt8],
        done: @escaping (NLMOutcome) -> Void
    ) {
        ready.append { [self] in
            guard !down.contains(name), let reply = server(name).reply(to: message) else {
                return done(.lost("connect: refused"))
            }
            if losses > 0 {
                losses -= 1
                return done(.lost("closed by the server"))
            }
            if holdsReplies {
                heldReplies.append { done(.reply(reply)) }
            } else {
                done(.reply(reply))
            }
            deliver(name, version)
        }
    }

    func releaseReplies() {
        holdsReplies = false
        ready += heldReplies
        heldReplies = []
        pump()
    }

    private func deliver(_ name: String, _ version: NLMVersion) {
        for request in server(name).takeGrants() {
            _ = locks.granted(request, version: version, by: name)
        }
    }

    func call(
        client: IPAddress, from local: IPAddress, version: NLMVersion, _ procedure: NLMProcedure,
        _ arguments: [UInt8], done: @escaping ([UInt8]?) -> Void
    ) {
        callbacks.append(
            Callback(client: client, local: local, procedure: procedure, arguments: arguments))
        let reply = clientStatus.map { status in
            RPCMessage.reply(
                xid: 0,
                results: NLMReply(cookie: [], status: status).encoded(.granted, version: version))
        }
        ready.append { done(reply) }
    }

    // MARK: Clients

    /// A client's call.
    struct Ask {
        var procedure: NLMProcedure = .lock
        var client = NLMFakeWorld.client
        var name = "client"
        var svid: UInt32 = 5
        var owner: [UInt8] = [1, 2]
        var offset: UInt64 = 0
        var length: UInt64 = 10
        var isExclusive = true
        var isBlocking = false
        var version = NLMVersion.four
        var handle = NLMFakeWorld.handle
    }

    /// Where the answer will be.
    final class Answer {
        fileprivate(set) var octets: [UInt8]?
        fileprivate let action: NLMProcedure
        fileprivate let version: NLMVersion
        fileprivate init(_ action: NLMProcedure, _ version: NLMVersion) {
            self.action = action
            self.version = version
        }

        var reply: NLMReply? {
            octets.flatMap { NLMReply(reply: $0, to: action, version: version) }
        }
        var status: NLMStatus? { reply?.status }
    }

    func arguments(_ ask: Ask) -> [UInt8] {
        let action = ask.procedure.action
        guard action != .share, action != .unshare else {
            return NLMShareRequest(
                cookie: [9], callerName: Array(ask.name.utf8), handle: ask.handle,
                owner: ask.owner, mode: 1, access: 1
            ).encoded()
        }
        return NLMRequest(
            cookie: [9], isBlocking: ask.isBlocking, isExclusive: ask.isExclusive,
            lock: NLMLock(
                callerName: Array(ask.name.utf8), handle: ask.handle, owner: ask.owner,
                svid: ask.svid, offset: ask.offset, length: ask.length)
        ).encoded(action, version: ask.version)
    }

    /// - Parameter arguments: nil: those of `ask`.
    @discardableResult
    func send(_ ask: Ask, arguments: [UInt8]? = nil) -> Answer {
        xid += 1
        let answer = Answer(ask.procedure.action, ask.version)
        let call = RPCMessage.call(
            xid: xid, program: NLMProtocol.program, version: ask.version.rawValue,
            procedure: ask.procedure.rawValue,
            credential: RPCSystemCredential(machineName: "m", uid: 7, gid: 8),
            arguments: arguments ?? self.arguments(ask))
        let header = call.withUnsafeBytes { raw -> RPCCallHeader? in
            var reader = XDRReader(raw)
            return try? RPCCallHeader(&reader)
        }
        guard let header else { return answer }
        let isTaken = locks.take(call, header, from: ask.client, at: Self.virtual) {
            answer.octets = $0
        }
        if !isTaken { answer.octets = [] }
        pump()
        return answer
    }

    func status(_ ask: Ask) -> NLMStatus? { send(ask).status }
}
