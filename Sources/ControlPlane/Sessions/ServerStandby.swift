import DataPlane
import StorageProtocols

/// A connection to the server that is to take a session over, logged in to while the present server finishes what
/// is open there: so that the client does not wait for one after the other.
///
/// A kernel socket like any other; the dataplane follows it from the moment when the redirect takes it.
final class ServerStandby {
    enum Outcome {
        case ready(ISCSIInitiatorResult)
        case failed(String)
    }

    /// What the connection was made for; it is of no use for anything else.
    struct Purpose: Equatable {
        var server: String
        var address: SocketAddress
        var local: IPAddress
    }

    let purpose: Purpose
    /// Nil while it is not decided.
    private(set) var outcome: Outcome?
    /// It is logged in.
    var isReady: Bool { if case .ready? = outcome { true } else { false } }
    private(set) var leg: Leg
    private let engine: SessionEngine
    private var login: ISCSINexusLogin
    private var output = OutboundBuffer()
    private var isConnected = false
    private var timer: EventLoop.Timer?
    private let onDecided: () -> Void

    /// - Parameter timeout: ns from now to the end of the login.
    /// - Parameter onDecided: not called from within `init`.
    init(
        _ purpose: Purpose, login: ISCSINexusLogin, client: Leg, engine: SessionEngine,
        timeout: UInt64, onDecided: @escaping () -> Void
    ) throws {
        self.purpose = purpose
        self.engine = engine
        self.login = login
        self.onDecided = onDecided
        let now = engine.loop.now
        guard let port = engine.ports.allocate(address: purpose.local, now: now) else {
            throw RelayError(message: "no free source port for \(purpose.address)")
        }
        let source = SocketAddress(address: purpose.local, port: port)
        do {
            let descriptor = try Socket.connect(
                to: purpose.address,
                options: client.serverOptions(from: source, device: engine.storageDevice))
            leg = Leg(descriptor: descriptor, local: source, remote: purpose.address)
        } catch {
            engine.ports.release(address: purpose.local, port: port, now: now, quarantine: 0)
            throw error
        }
        engine.loop.register(leg.descriptor, events: [.read, .write, .edgeTriggered]) {
            [weak self] _ in self?.progress()
        }
        timer = engine.loop.schedule(after: timeout) { [weak self] in
            self?.decide(.failed("no answer from \(purpose.server)"))
        }
    }

    private func decide(_ outcome: Outcome) {
        guard self.outcome == nil else { return }
        timer?.cancel()
        timer = nil
        // What comes from now on stays in the socket for whoever takes it.
        engine.loop.unregister(leg.descriptor)
        self.outcome = outcome
        onDecided()
    }

    private func progress() {
        guard outcome == nil else { return }
        do {
            if !isConnected {
                if let failure = Socket.connectFailure(leg.descriptor) {
                    return decide(.failed("connect: \(failure)"))
                }
                let info = try TCPInfo(descriptor: leg.descriptor)
                guard !info.isConnecting else { return }
                isConnected = true
                Socket.setWindowClamp(leg.descriptor, 1 << 30)
                leg.update(from: info)
                output.append(login.start())
            }
            try send()
            try receive()
        } catch {
            decide(.failed("\(error)"))
        }
    }

    private func send() throws(SystemCallError) {
        try output.drain { bytes throws(SystemCallError) in
            try Socket.send(leg.descriptor, bytes)
        }
    }

    private func receive() throws(SystemCallError) {
        while outcome == nil {
            guard case .bytes(let count) = try input() else { return }
            var answer: [UInt8] = []
            let result = login.receive(
                UnsafeRawBufferPointer(rebasing: engine.scratch[..<count]), answer: &answer)
            output.append(answer)
            try send()
            switch result {
            case .established(let session): decide(.ready(session))
            case .failed(_, let reason): decide(.failed("login: \(reason)"))
            case nil: break
            }
        }
    }

    private func input() throws(SystemCallError) -> Socket.Received {
        let input = try Socket.receive(leg.descriptor, into: engine.scratch)
        if case .end = input { decide(.failed("closed by the server")) }
        return input
    }

    /// Octets of the server behind its answers that were taken out of the socket.
    var rest: [UInt8] { login.rest }

    /// Nothing is left to be sent: the socket may be handed on.
    var isSent: Bool { output.isEmpty }

    /// Gives the connection up.
    func cancel() {
        timer?.cancel()
        timer = nil
        engine.loop.unregister(leg.descriptor)
        Socket.setReset(leg.descriptor)
        Socket.close(leg.descriptor)
        engine.ports.release(
            address: leg.local.address, port: leg.local.port, now: engine.loop.now,
            quarantine: Redirect.portRest)
    }
}
