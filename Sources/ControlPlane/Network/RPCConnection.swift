import DataPlane
import StorageProtocols

/// A connection to a program of a server (ONC RPC over TCP, RFC 5531): calls go out, replies come back by XID.
///
/// Lives on the session thread. Calls may be given before it is up; when it ends, each that has no reply is told so.
final class RPCConnection {
    enum Outcome {
        /// The whole reply message, without record mark.
        case reply([UInt8])
        /// None came, and none will. Says why. `mayBeDone`: the server may have got the call and done it.
        case lost(String, mayBeDone: Bool)
    }

    private struct Pending {
        let serial: UInt64
        let startedAt: UInt64
        let done: (Outcome) -> Void
    }

    let remote: SocketAddress
    private let engine: SessionEngine
    private let local: SocketAddress
    private var descriptor: Int32 = -1
    private var reader: RPCRecordReader
    private var output = OutboundBuffer()
    private var pending: [UInt32: Pending] = [:]
    private var nextXID = UInt32.random(in: 0 ... .max)
    private var nextSerial: UInt64 = 0
    private var timer: EventLoop.Timer?
    private var shortcut: ConnectionShortcut?
    private(set) var isConnected = false
    /// Why it is over; nil: it is not.
    private(set) var ended: String?
    /// Called once, before the calls without reply are told.
    var onEnd: (String) -> Void = { _ in }

    /// - Parameters:
    ///   - maximum: octets of a reply that are accepted.
    ///   - timeout: ns until it must be up.
    init(
        to remote: SocketAddress, from address: IPAddress, engine: SessionEngine,
        maximum: Int = RPCConnection.replyMaximum, timeout: UInt64
    ) throws {
        self.remote = remote
        self.engine = engine
        reader = RPCRecordReader(maximum: maximum)
        guard let port = engine.ports.allocate(address: address, now: engine.loop.now) else {
            throw RelayError(message: "no free source port for \(remote)")
        }
        local = SocketAddress(address: address, port: port)
        do {
            descriptor = try Socket.connect(
                to: remote,
                options: ConnectOptions(
                    bind: local, maximumSegment: 0, windowClamp: 0, device: engine.storageDevice))
        } catch {
            engine.ports.release(
                address: address, port: port, now: engine.loop.now, quarantine: 0)
            throw error
        }
        engine.loop.register(descriptor, events: [.read, .write, .edgeTriggered]) {
            [weak self] _ in self?.ready()
        }
        timer = engine.loop.schedule(after: timeout) { [weak self] in
            self?.end("no connection to \(remote)")
        }
    }

    deinit { close() }

    /// Octets of a reply: 1 MiB of data, with room for what is around it.
    static let replyMaximum = (1 << 20) + (64 << 10)

    var openCalls: Int { pending.count }
    /// ns, when the call that waits longest was sent; nil: none waits.
    var oldest: UInt64? { pending.values.lazy.map(\.startedAt).min() }
    /// Octets that wait to be sent.
    var unsent: Int { output.count }

    /// Sends a call; its XID, in octets 0..<4, is replaced. `done` is not called from within.
    func call(_ message: [UInt8], done: @escaping (Outcome) -> Void) {
        if let ended {
            return engine.loop.postLocal { done(.lost(ended, mayBeDone: false)) }
        }
        guard message.count >= 4 else {
            return engine.loop.postLocal { done(.lost("not a call", mayBeDone: false)) }
        }
        repeat { nextXID &+= 1 } while pending[nextXID] != nil
        nextSerial += 1
        pending[nextXID] = Pending(
            serial: nextSerial, startedAt: engine.loop.now, done: done)
        var octets = message
        octets.set(nextXID, at: 0)
        output.append(RPCRecord.framed(octets))
        guard isConnected else { return }
        do { try flush() } catch {
            // Not from within the caller.
            engine.loop.postLocal { [weak self] in self?.end("\(error)") }
        }
    }

    private func ready() {
        guard ended == nil else { return }
        if !isConnected {
            if let failure = Socket.connectFailure(descriptor) {
                return end("connect: \(failure)")
            }
            guard let info = try? TCPInfo(descriptor: descriptor), !info.isConnecting else {
                return
            }
            guard info.isEstablished || info.isHalfClosed else { return end("connect: closed") }
            isConnected = true
            shortcut = ConnectionShortcut(
                local: local, remote: remote, side: .server, engine: engine)
            timer?.cancel()
            timer = nil
        }
        do {
            try flush()
            try receive()
        } catch {
            end("\(error)")
        }
    }

    private func flush() throws(SystemCallError) {
        try output.drain { bytes throws(SystemCallError) in try Socket.send(descriptor, bytes) }
    }

    private func receive() throws {
        while ended == nil {
            switch try Socket.receive(descriptor, into: engine.scratch) {
            case .wouldBlock: return
            case .end: return end("closed by the server")
            case .bytes(let count): reader.append(engine.scratch[..<count])
            }
            while ended == nil, let reply = try reader.next() { take(reply) }
        }
    }

    /// A reply to nothing that waits is dropped: its call was given up.
    private func take(_ reply: [UInt8]) {
        guard reply.count >= 8, reply.field32(4) == 1,
            let call = pending.removeValue(forKey: reply.field32(0))
        else { return }
        call.done(.reply(reply))
    }

    /// Gives it up.
    func end(_ reason: String) {
        guard ended == nil else { return }
        ended = reason
        close()
        let lost = pending.values.sorted { $0.serial < $1.serial }
        pending = [:]
        onEnd(reason)
        for call in lost { call.done(.lost(reason, mayBeDone: isConnected)) }
    }

    private func close() {
        timer?.cancel()
        timer = nil
        shortcut = nil
        guard descriptor >= 0 else { return }
        engine.loop.unregister(descriptor)
        Socket.setReset(descriptor)
        Socket.close(descriptor)
        descriptor = -1
        engine.ports.release(
            address: local.address, port: local.port, now: engine.loop.now,
            quarantine: Redirect.portRest)
    }
}
