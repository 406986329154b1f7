import DataPlane
import Logging
import StorageProtocols

/// A client's TCP connection to NFS, MOUNT or the portmapper: its calls go where their resources are, to several servers
/// at once, and replies come back as they are there (RFC 5531 section 9: the XID tells which is which). While one server
/// serves all of them a redirect has it: `NFSStreamAlone`.
///
/// Lives on the session thread.
final class NFSStreamSession: Session {
    let id: SpliceID
    /// Its own: what one client lets wait does not hold up others.
    let links: NFSLinks
    unowned let service: NFSService
    let engine: SessionEngine
    var leg: Leg
    let client: NFSClient
    private let openedAt: UInt64
    var reader = RPCRecordReader(maximum: RPCConnection.replyMaximum)
    var output = OutboundBuffer()
    private(set) var openCalls = 0
    var isOver = false
    /// The client has said all: it goes when it has its replies.
    var isEOF = false
    /// The socket may have octets that were not read.
    private var isReadable = true
    private var isReading = false
    var statistics = Redirect.Statistics()
    var shortcut: ConnectionShortcut?
    var uses: NFSStreamUses
    var grain = GrainChange()
    /// Who has the connection; nil: it is here.
    var alone: NFSStreamAlone?
    /// The client has the begin of a reply: others wait until it has the rest.
    var isMidReply = false
    var heldReplies: [[UInt8]] = []

    /// Beyond these the client is not read.
    private static let callMaximum = 512
    private static let outputMaximum = 4 << 20

    var redirect: Redirect? { alone?.redirect }
    var requests: [RequestTotals.Source] { [] }

    init(id: SpliceID, leg: Leg, service: NFSService) {
        self.id = id
        self.leg = leg
        self.service = service
        engine = service.engine
        links = NFSLinks(engine: service.engine, portal: service.portal)
        client = NFSClient(
            address: leg.remote.address, port: leg.remote.port, transport: .tcp)
        openedAt = service.engine.loop.now
        uses = NFSStreamUses(at: openedAt)
    }

    func start() { watch() }

    private func watch() {
        engine.loop.register(leg.descriptor, events: [.read, .write, .edgeTriggered]) {
            [weak self] events in
            guard let self else { return }
            isReadable = true
            flush()
            read()
        }
        shortcut = ConnectionShortcut(
            local: leg.local, remote: leg.remote, side: .client, engine: engine)
    }

    /// The connection is here again.
    func resume() {
        // What was done anew may have closed it.
        guard !isOver else { return }
        isReadable = true
        watch()
        flush()
        engine.loop.postLocal { [weak self] in self?.read() }
    }

    private var hasRoom: Bool {
        openCalls < Self.callMaximum && output.count < Self.outputMaximum
            && links.unsent < Self.outputMaximum && !grain.isWanted && alone == nil
    }

    /// Reads as long as there is room for what is said.
    func read() {
        guard !isReading, !isOver, alone == nil else { return }
        isReading = true
        defer { isReading = false }
        do {
            while !isOver {
                while !isOver, hasRoom, let call = try reader.next() { take(call) }
                guard !isOver, hasRoom, isReadable, !isEOF else { break }
                switch try Socket.receive(leg.descriptor, into: engine.scratch) {
                case .wouldBlock: isReadable = false
                case .end: isEOF = true
                case .bytes(let count):
                    statistics.relayedFromClient += UInt64(count)
                    reader.append(engine.scratch[..<count])
                }
            }
        } catch let error as RPCRecordError {
            return close("not a stream of RPC: \(error)")
        } catch {
            return close("\(error)")
        }
        closeIfDone()
    }

    private func closeIfDone() {
        guard isEOF, openCalls == 0, output.isEmpty, !isOver, alone == nil else { return }
        end("closed by the client", reset: false)
    }

    func take(_ call: [UInt8]) {
        submit(call) { [weak self] reply in
            guard let self, let reply else { return }
            if isMidReply { heldReplies.append(reply) } else { say(reply) }
        }
    }

    func say(_ reply: [UInt8]) {
        statistics.relayedFromServer += UInt64(reply.count)
        output.append(RPCRecord.framed(reply))
    }

    /// `done` is not called when the session has ended.
    func submit(_ call: [UInt8], done: @escaping ([UInt8]?) -> Void) {
        openCalls += 1
        let isTaken = service.take(
            call, from: client, at: leg.local.address, links: links, stream: self
        ) { [weak self] reply in
            guard let self, !isOver else { return }
            openCalls -= 1
            done(reply)
            flush()
            if grain.isWanted { return engine.loop.postLocal { [weak self] in self?.goAlone() } }
            if !isReading, !isOver {
                // Not from within the server's octets.
                engine.loop.postLocal { [weak self] in self?.read() }
            }
        }
        if !isTaken { close("too many calls are open") }
    }

    func flush() {
        guard !isOver, alone == nil else { return }
        do throws(SystemCallError) {
            try output.drain { bytes throws(SystemCallError) in
                try Socket.send(leg.descriptor, bytes)
            }
        } catch {
            return close("\(error)")
        }
        if grain.isWanted, output.isEmpty { goAlone() }
    }

    /// A server is not to be waited for.
    func lost(_ server: String, _ reason: String) {
        guard let alone, alone.server == server else { return }
        alone.redirect.loseServer(reason)
    }

    func close(_ reason: String) {
        if let alone { return alone.redirect.end(reason, reset: true) }
        end(reason, reset: true)
    }

    private func end(_ reason: String, reset: Bool) {
        guard !isOver else { return }
        isOver = true
        engine.loop.unregister(leg.descriptor)
        if reset { Socket.setReset(leg.descriptor) }
        Socket.close(leg.descriptor)
        engine.postEnd([.close(id)])
        over(reason, lingers: false)
    }

    /// The connection is closed.
    func over(_ reason: String, lingers: Bool) {
        shortcut = nil
        grain.timer?.cancel()
        links.endAll(reason)
        service.ended(self)
        engine.remove(id, reason: reason, lingers: lingers)
    }

    /// By command: as soon as one server serves all that is used.
    func setWantsSplice(_ wanted: Bool) {
        if let redirect { return redirect.setWantsSplice(wanted) }
        if wanted { beginAlone() } else if grain.isWanted { usedOther() }
    }

    var summary: SessionSummary {
        var sums = statistics
        if let redirect { sums.add(redirect.statistics) }
        return SessionSummary(
            id: id, protocolName: "nfs", client: leg.remote, clientLocal: leg.local,
            server: redirect?.server?.remote, serverLocal: redirect?.server?.local,
            serverName: alone?.server ?? links.used.first,
            state: isOver ? "ended" : redirect?.state.rawValue ?? "routing",
            wantsSplice: redirect?.wantsSplice ?? grain.isWanted, statistics: sums,
            openedAt: openedAt, grainReason: grain.reason)
    }
}
