import DataPlane
import Logging
import StorageProtocols

/// A connection that one server serves, while a redirect has it: the way into the dataplane and out of it.
final class NFSStreamAlone {
    let redirect: Redirect
    let relay: NFSStreamRelay
    let handles: RPCHandleSet
    let server: String
    /// By place in `handles`; at least one.
    let resources: [String]
    /// Octets of the client that were read before.
    var rest: [UInt8]
    var timer: EventLoop.Timer?
    /// It goes back by our own wish.
    var isReturning = false
    /// What was counted for the resources already.
    private var counted = RequestStatistics()
    private var countedCalls: [UInt64]
    private var countedPassed: UInt64 = 0
    private var countedOctets: (client: UInt64, server: UInt64) = (0, 0)
    private var newestUsed = 0

    init(
        _ redirect: Redirect, _ relay: NFSStreamRelay, _ handles: RPCHandleSet, server: String,
        resources: [String], rest: [UInt8]
    ) {
        self.redirect = redirect
        self.relay = relay
        self.handles = handles
        self.server = server
        self.resources = resources
        self.rest = rest
        countedCalls = Array(repeating: 0, count: RPCHandleSet.resourceMaximum)
    }

    deinit { timer?.cancel() }

    /// What the dataplane knows, and the log, whosever it is now.
    struct Reading {
        var requests: RequestStatistics
        var calls: [UInt64]
        var snapshot: SpliceSnapshot?
    }

    /// On the dataplane's thread, or where nothing is in the dataplane.
    func read(_ pipeline: inout Pipeline) -> Reading {
        let id = redirect.id
        return Reading(
            requests: pipeline.requestStatistics([id][...])[id] ?? relay.statistics,
            calls: handles.calls, snapshot: pipeline.spliceSnapshot(id))
    }

    /// What is new since the last time, by resource. Calls are counted for each; what was answered, and octets, have the
    /// proportions of the calls.
    func takeTraffic(_ reading: Reading) -> [(resource: String, NFSResourceStatistics)] {
        var traffic = ResourceTraffic()
        let isInDataplane = redirect.state == .spliced || redirect.lingers
        traffic.add(redirect.statistics, isInDataplane ? reading.snapshot : nil)
        let passed = relay.passedCalls
        let news = zip(reading.calls, countedCalls).map { $0 &- $1 }
        let total = news.reduce(0, +)
        var left = NFSResourceStatistics()
        left.calls = total
        left.fastCalls = total - min(total, passed - countedPassed)
        left.replies = reading.requests.answered - counted.answered
        left.fastReplies = min(left.replies, left.fastCalls)
        left.latencySum = reading.requests.latencySum &- counted.latencySum
        left.callOctets = traffic.clientBytes - min(traffic.clientBytes, countedOctets.client)
        left.replyOctets = traffic.serverBytes - min(traffic.serverBytes, countedOctets.server)
        counted = reading.requests
        countedCalls = reading.calls
        countedPassed = passed
        countedOctets = (
            max(countedOctets.client, traffic.clientBytes),
            max(countedOctets.server, traffic.serverBytes)
        )
        // Answers to calls that were counted before are most likely of the same resource.
        let used = resources.indices.filter { news[$0] > 0 }
        newestUsed = used.last ?? newestUsed
        var rest = total
        var result: [(resource: String, NFSResourceStatistics)] = []
        for place in used.dropLast() {
            let part = left.part(news[place], of: rest)
            left.subtract(part)
            rest -= news[place]
            result.append((resources[place], part))
        }
        return result + [(resources[newestUsed], left)]
    }
}

/// Between the message grain and the connection grain: a connection whose calls have all been for one server for a
/// while goes to that server by a redirect, which can be spliced. The first call for something else brings it back.
extension NFSStreamSession {
    /// ns that open calls may take to end before the change, while the client is not read.
    private static let quietMaximum: UInt64 = 100_000_000
    /// ns that the connection to the server may take.
    private static let connectMaximum: UInt64 = 1_000_000_000

    /// A call goes to a server. Not from within the client's octets only: it may have waited.
    func forwarded(_ forward: NFSForward) {
        let now = engine.loop.now
        guard service.canSplice(forward, client) else { return usedOther() }
        if let newest = uses.newest, newest != forward.resource,
            assignedServer(newest) != assignedServer(forward.resource)
        {
            usedOther()
        }
        uses.use(forward.call, resource: forward.resource, at: now)
        guard alone == nil, !grain.isWanted, service.portal.splicesAutomatically,
            now - uses.otherAt >= grain.settle
        else { return }
        beginAlone()
    }

    private func assignedServer(_ resource: String) -> String? {
        service.portal.resources.assignedServer(of: resource)
    }

    /// A call that only the control plane can take.
    func usedOther() {
        uses.useOther(at: engine.loop.now)
        grain.reason = "calls are for several servers, or of kinds that are not spliced"
        if grain.isWanted { giveUpAlone() }
    }

    /// The client is not read until nothing is open.
    func beginAlone() {
        guard alone == nil, !grain.isWanted, !isOver, uses.newest != nil else { return }
        grain.isWanted = true
        grain.timer = engine.loop.schedule(after: Self.quietMaximum) { [weak self] in
            guard let self, grain.isWanted else { return }
            grain.reason = "calls take too long for a change"
            grain.changedAt = engine.loop.now
            grain.cameBack(at: engine.loop.now)
            uses.useOther(at: engine.loop.now)
            giveUpAlone()
        }
        // Not from within a call.
        engine.loop.postLocal { [weak self] in self?.goAlone() }
    }

    private func giveUpAlone() {
        grain.isWanted = false
        grain.timer?.cancel()
        engine.loop.postLocal { [weak self] in self?.read() }
    }

    /// The client's connection becomes the server's, at a moment when nothing is open here.
    func goAlone() {
        guard grain.isWanted, alone == nil, !isOver, !isEOF, openCalls == 0, output.isEmpty else {
            return
        }
        guard let newest = uses.newest, let server = service.server(of: newest),
            let entry = service.portal.server(server), let address = entry.addresses.first,
            let local = engine.storageAddress(like: address),
            let log = service.portal.makeLog(format: .rpc, rules: .rpc)
        else {
            uses.useOther(at: engine.loop.now)
            return giveUpAlone()
        }
        grain.isWanted = false
        grain.timer?.cancel()
        grain.changedAt = engine.loop.now
        shortcut = nil
        engine.loop.unregister(leg.descriptor)
        do {
            // What the dataplane knows of the connection may be old: it begins anew, in the middle.
            try engine.apply([.splice(.close(id))])
            try engine.followClient(id, leg)
        } catch {
            grain.reason = "\(error)"
            uses.useOther(at: engine.loop.now)
            return resume()
        }
        let (known, resources) = uses.handles { assignedServer($0) == server }
        guard !resources.isEmpty else {
            usedOther()
            return resume()
        }
        let handles = RPCHandleSet(known)
        let relay = NFSStreamRelay(log: log, handles: handles) { [loop = engine.loop] in loop.now }
        let redirect = Redirect(id: id, engine: engine, client: leg, relay: relay)
        redirect.requestDeadline = { [weak service] in service?.requestDeadline ?? 0 }
        let alone = NFSStreamAlone(
            redirect, relay, handles, server: server, resources: resources,
            rest: reader.takeRest())
        self.alone = alone
        grain.reason = "\(server) serves all that is used"
        redirect.onOutcome = { [weak self, weak alone] outcome in
            guard let self, let alone, self.alone === alone else { return }
            take(outcome, alone)
        }
        alone.timer = engine.loop.schedule(after: Self.connectMaximum) { [weak self, weak alone] in
            guard let self, let alone, self.alone === alone, redirect.state == .connecting
            else { return }
            redirect.loseServer("no connection in time")
        }
        redirect.watch(.client)
        redirect.connect(
            to: SocketAddress(address: address, port: entry.nfsPort), from: local, serverMAC: .zero)
    }

    private func take(_ outcome: Redirect.Outcome, _ alone: NFSStreamAlone) {
        switch outcome {
        case .connected:
            alone.timer?.cancel()
            let rest = alone.rest
            alone.rest = []
            alone.redirect.inject(rest, from: .client)
            guard self.alone === alone, alone.redirect.state == .relaying else { return }
            guard let server = alone.redirect.server,
                server.usesTimestamps == leg.usesTimestamps, server.usesSACK == leg.usesSACK
            else {
                grain.settle = GrainChange.settleMaximum
                return takeBackInOrder()
            }
            alone.redirect.setWantsSplice(true)
        case .connectFailed(let reason):
            alone.redirect.abandonServer()
            if !alone.isReturning { service.trouble(alone.server, "connect: \(reason)") }
            takeBack(alone, "\(alone.server): \(reason)")
        case .serverLost(let reason):
            service.trouble(alone.server, reason)
            takeBack(alone, "\(alone.server): \(reason)")
        case .clientForeign:
            if !alone.isReturning { grain.cameBack(at: engine.loop.now) }
            takeBack(alone, "calls are for several servers, or of kinds that are not spliced")
        case .requestLate: service.portal.trouble(alone.server, .requestLate)
        case .ended(let reason): ended(alone, reason)
        case .serverLeft, .serverHeld, .serverReplaced, .formerLost: break
        }
    }

    /// Nothing that was used says what may be used now.
    func forgetUses() {
        uses = NFSStreamUses(at: engine.loop.now)
        takeBackInOrder()
    }

    /// In good order: what is open ends there.
    func takeBackInOrder() {
        guard let alone, !alone.isReturning else { return }
        alone.isReturning = true
        alone.relay.beginReturn()
        switch alone.redirect.state {
        case .connecting: alone.redirect.loseServer("its resource has moved")
        case .relaying: alone.redirect.pump()
        case .spliced, .drainingToSplice: alone.redirect.setWantsSplice(false)
        case .drainingToRelay, .restoring, .clientOnly, .ended: break
        }
    }

    /// The client's connection is this session's again: what its server has not done others will.
    private func takeBack(_ alone: NFSStreamAlone, _ reason: String) {
        let redirect = alone.redirect
        var unsent = redirect.output.toClient
        let isHalfClosed = redirect.isEOF[SpliceSide.client.index]
        leg = redirect.releaseClient {}
        self.alone = nil
        service.count(alone)
        redirect.onOutcome = { _ in }
        redirect.end("the client's connection is elsewhere", reset: redirect.state != .relaying)
        statistics.add(redirect.statistics)
        let remains = alone.relay.takeRemains()
        grain.reason = reason
        uses.useOther(at: engine.loop.now)
        engine.log.debug(
            "session \(id): back from \(alone.server): \(reason); \(remains.open.count) calls open, \(remains.waiting.count) octets wait"
        )
        if let failure = remains.failure { return close("\(alone.server) is lost: \(failure)") }
        isEOF = isHalfClosed
        output.append(unsent.take(unsent.count))
        output.append(remains.replies)
        reader.append(alone.rest)
        reader.append(remains.waiting)
        finish(remains.tails)
        for call in remains.open { take(call) }
        resume()
    }

    /// Replies that the client has parts of, or may have: asked for again, and said in the order in which they were.
    private func finish(_ tails: [NFSStreamRemains.Tail]) {
        guard !tails.isEmpty else { return }
        isMidReply = true
        var missing: [[UInt8]?] = Array(repeating: nil, count: tails.count)
        var next = 0
        for (place, tail) in tails.enumerated() {
            submit(tail.call) { [weak self] reply in
                guard let self else { return }
                guard let octets = reply.flatMap({ NFSStreamRelay.missing(of: tail, in: $0) })
                else { return close("a server is lost in the middle of a reply") }
                missing[place] = octets
                while next < tails.count, let octets = missing[next] {
                    output.append(octets)
                    next += 1
                }
                guard next == tails.count else { return }
                isMidReply = false
                for reply in heldReplies { say(reply) }
                heldReplies = []
            }
        }
    }

    private func ended(_ alone: NFSStreamAlone, _ reason: String) {
        self.alone = nil
        statistics.add(alone.redirect.statistics)
        service.count(alone)
        isOver = true
        over(reason, lingers: alone.redirect.lingers)
    }
}
