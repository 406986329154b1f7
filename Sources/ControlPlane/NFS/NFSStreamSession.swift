import DataPlane
import Logging
import StorageProtocols

/// A client's TCP connection to NFS, MOUNT or the portmapper: its calls go where their resources are, to several servers
/// at once, and replies come back as they are there (RFC 5531 section 9: the XID tells which is which).
///
/// Lives on the session thread.
final class NFSStreamSession: Session {
    let id: SpliceID
    /// Its own: what one client lets wait does not hold up others.
    let links: NFSLinks
    private unowned let service: NFSService
    private let engine: SessionEngine
    private let leg: Leg
    let client: NFSClient
    private let openedAt: UInt64
    private var reader = RPCRecordReader(maximum: RPCConnection.replyMaximum)
    private var output = OutboundBuffer()
    private var openCalls = 0
    private var isOver = false
    /// The client has said all: it goes when it has its replies.
    private var isEOF = false
    /// The socket may have octets that were not read.
    private var isReadable = true
    private var isReading = false
    private var statistics = Redirect.Statistics()
    private var shortcut: ConnectionShortcut?

    /// Beyond these the client is not read.
    private static let callMaximum = 512
    private static let outputMaximum = 4 << 20

    var redirect: Redirect? { nil }
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
    }

    func start() {
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

    private var hasRoom: Bool {
        openCalls < Self.callMaximum && output.count < Self.outputMaximum
            && links.unsent < Self.outputMaximum
    }

    /// Reads as long as there is room for what is said.
    private func read() {
        guard !isReading else { return }
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
        guard isEOF, openCalls == 0, output.isEmpty, !isOver else { return }
        end("closed by the client", reset: false)
    }

    private func take(_ call: [UInt8]) {
        openCalls += 1
        let isTaken = service.take(call, from: client, at: leg.local.address, links: links) {
            [weak self] reply in
            guard let self, !isOver else { return }
            openCalls -= 1
            if let reply {
                statistics.relayedFromServer += UInt64(reply.count)
                output.append(RPCRecord.framed(reply))
                flush()
            }
            if !isReading, !isOver {
                // Not from within the server's octets.
                engine.loop.postLocal { [weak self] in self?.read() }
            }
        }
        if !isTaken { close("too many calls are open") }
    }

    private func flush() {
        guard !isOver else { return }
        do throws(SystemCallError) {
            try output.drain { bytes throws(SystemCallError) in
                try Socket.send(leg.descriptor, bytes)
            }
        } catch {
            close("\(error)")
        }
    }

    func close(_ reason: String) { end(reason, reset: true) }

    private func end(_ reason: String, reset: Bool) {
        guard !isOver else { return }
        isOver = true
        engine.loop.unregister(leg.descriptor)
        if reset { Socket.setReset(leg.descriptor) }
        Socket.close(leg.descriptor)
        shortcut = nil
        links.endAll(reason)
        service.ended(self)
        engine.postEnd([.close(id)])
        engine.remove(id, reason: reason, lingers: false)
    }

    func setWantsSplice(_ wanted: Bool) {}

    var summary: SessionSummary {
        SessionSummary(
            id: id, protocolName: "nfs", client: leg.remote, clientLocal: leg.local,
            serverName: links.used.first, state: isOver ? "ended" : "routing",
            wantsSplice: false, statistics: statistics, openedAt: openedAt)
    }
}
