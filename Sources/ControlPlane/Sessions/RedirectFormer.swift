import DataPlane

/// The connection to a server that was left: it finishes what is open there. A kernel socket that the dataplane does not
/// follow.
final class FormerServer {
    /// What makes an end of it before its time.
    struct Failure: Error {
        var reason: String
    }

    let leg: Leg
    private let engine: SessionEngine
    /// Events are edge-triggered: between two of them a socket that was empty need not be asked.
    var isReadable = true

    init(_ leg: Leg, engine: SessionEngine, onReady: @escaping () -> Void) {
        self.leg = leg
        self.engine = engine
        engine.loop.register(leg.descriptor, events: [.read, .write, .edgeTriggered]) {
            [weak self] _ in
            self?.isReadable = true
            onReady()
        }
    }

    func close() {
        engine.loop.unregister(leg.descriptor)
        Socket.setReset(leg.descriptor)
        Socket.close(leg.descriptor)
        engine.ports.release(
            address: leg.local.address, port: leg.local.port, now: engine.loop.now,
            quarantine: Redirect.portRest)
    }
}

/// A server that was left with requests: see `ISCSIRelayFormer`.
extension Redirect {
    /// The server leg goes on by itself; the redirect has none then.
    func keepFormer() {
        guard let server else { return }
        dropShortcut()
        engine.loop.unregister(server.descriptor)
        output.toFormer = output.toServer
        output.toServer = OutboundBuffer()
        former = FormerServer(server, engine: engine) { [weak self] in self?.pump() }
        self.server = nil
    }

    /// Moves octets between the relay and the former server; true when it has said something.
    func moveFormer() throws -> Bool {
        guard let former else { return false }
        let before = output.toClient.count
        do {
            try output.toFormer.drain { bytes throws(SystemCallError) in
                try Socket.send(former.leg.descriptor, bytes)
            }
            while former.isReadable, output.toClient.count < clientOutputMaximum {
                switch try Socket.receive(former.leg.descriptor, into: engine.relayScratch) {
                case .bytes(let count):
                    statistics.relayedFromServer += UInt64(count)
                    try relay.receiveFromFormer(
                        UnsafeRawBufferPointer(rebasing: engine.relayScratch[..<count]),
                        output: &output)
                case .end: throw FormerServer.Failure(reason: "closed by the server")
                case .wouldBlock: former.isReadable = false
                }
            }
        } catch let error as SystemCallError {
            throw FormerServer.Failure(reason: "\(error)")
        }
        try relay.flushFormer(output: &output)
        guard relay.isFormerDone else { return output.toClient.count > before }
        dropFormer()
        try relay.formerEnded(output: &output)
        return true
    }

    /// It will not finish: what is open is done again, with what is open at the present server.
    func loseFormer(_ reason: String) {
        guard former != nil, state == .relaying else { return dropFormer() }
        stopTimer()
        leaveServer()
        onOutcome(.formerLost(reason))
    }

    func dropFormer() {
        former?.close()
        former = nil
        output.toFormer = OutboundBuffer()
    }
}
