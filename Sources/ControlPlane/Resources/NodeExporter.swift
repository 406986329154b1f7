package import DataPlane
package import Logging
package import StorageProtocols

/// Where a server's node_exporter answers.
public struct NodeExporterEndpoint: Hashable, Sendable, CustomStringConvertible {
    public var address: SocketAddress
    /// With its slash.
    public var path: String

    public init(address: SocketAddress, path: String) {
        self.address = address
        self.path = path
    }

    /// `http://ADDRESS[:PORT][/PATH]`; nil for all else. Names are not looked up.
    public init?(_ text: String) {
        guard text.hasPrefix("http://"), text.utf8.count <= 1_024,
            text.utf8.allSatisfy({ (0x21...0x7e).contains($0) })
        else { return nil }
        let rest = text.dropFirst(7)
        let authority = rest.prefix { $0 != "/" }
        let tail = rest[authority.endIndex...]
        path = tail.isEmpty || tail == "/" ? "/metrics" : String(tail)
        var host = authority
        var port: UInt16 = 9_100
        let colon = authority.lastIndex(of: ":")
        if let colon, colon > (authority.lastIndex(of: "]") ?? authority.startIndex) {
            let digits = authority[authority.index(after: colon)...]
            guard digits.first?.isNumber == true, let number = UInt16(digits), number > 0 else {
                return nil
            }
            port = number
            host = authority[..<colon]
        }
        let isBracketed = host.hasPrefix("[") && host.hasSuffix("]")
        if isBracketed { host = host.dropFirst().dropLast() }
        guard let address = IPAddress(String(host)), address.isIPv4 != isBracketed else {
            return nil
        }
        self.address = SocketAddress(address: address, port: port)
    }

    public var description: String { "http://\(address)\(path)" }
}

/// Asks the node_exporter of each server that has one for its load. On the session thread, or before it runs.
package final class NodeExporterMonitor {
    private struct State {
        var endpoint: NodeExporterEndpoint
        var sample: LoadSample?
        var time: UInt64 = 0
        var request: NodeExporterRequest?
        var failures: UInt64 = 0
        var failure: String?
    }

    private let loop: EventLoop
    private let log: Logger
    private let device: String?
    private let local: (IPAddress) -> IPAddress?
    private let interval: UInt64
    private let timeout: UInt64
    private var states: [String: State] = [:]
    private var timer: EventLoop.Timer?

    package var onLoad: (_ server: String, AgentLoad) -> Void = { _, _ in }

    /// `local`: the address to ask from; `interval` and `timeout`: ns.
    package init(
        loop: EventLoop, log: Logger, device: String?, interval: UInt64, timeout: UInt64,
        local: @escaping (_ like: IPAddress) -> IPAddress?
    ) {
        self.loop = loop
        self.log = log
        self.device = device
        self.interval = max(interval, 10_000_000)
        self.timeout = timeout
        self.local = local
    }

    package func start() {
        askAll()
        timer = loop.schedule(after: interval) { [weak self] in self?.start() }
    }

    package func stop() {
        timer?.cancel()
        for state in states.values { state.request?.cancel() }
        states = [:]
    }

    /// Servers that have one; of those that stay, what is known stays.
    package func update(_ endpoints: [String: NodeExporterEndpoint]) {
        for (server, state) in states where endpoints[server] != state.endpoint {
            state.request?.cancel()
            states[server] = nil
        }
        for (server, endpoint) in endpoints where states[server] == nil {
            states[server] = State(endpoint: endpoint)
        }
    }

    /// Times that a server's did not answer as it should, and why the last time.
    package func failures(of server: String) -> (count: UInt64, last: String?)? {
        states[server].map { ($0.failures, $0.failure) }
    }

    private func askAll() {
        for (server, state) in states where state.request == nil {
            guard let address = local(state.endpoint.address.address) else {
                take(.failure(.init(description: "no address of this family")), server)
                continue
            }
            let request = NodeExporterRequest(loop: loop)
            states[server]?.request = request
            request.run(
                state.endpoint, from: SocketAddress(address: address, port: 0),
                device: device, timeout: timeout
            ) { [weak self] result in
                self?.states[server]?.request = nil
                self?.take(result, server)
            }
        }
    }

    private func take(_ result: Result<[UInt8], HTTPResponseReader.Failure>, _ server: String) {
        guard var state = states[server] else { return }
        defer { states[server] = state }
        let now = loop.clock()
        switch result {
        case .failure(let failure): fail(server, failure.description, &state)
        case .success(let body):
            guard let sample = PrometheusText.load(body) else {
                return fail(server, "tells neither processors nor memory", &state)
            }
            state.failure = nil
            if let earlier = state.sample,
                let load = sample.load(
                    since: earlier, seconds: Double(now &- state.time) / 1_000_000_000)
            {
                // Outside of this access to the state: whoever is told may update.
                loop.postLocal { [weak self] in self?.onLoad(server, load) }
            }
            state.sample = sample
            state.time = now
        }
    }

    private func fail(_ server: String, _ reason: String, _ state: inout State) {
        state.failures += 1
        if state.failure != reason {
            log.warning("node_exporter of \(server): \(reason)")
        }
        state.failure = reason
    }
}

/// One GET. Keeps itself alive until it is done.
private final class NodeExporterRequest {
    private let loop: EventLoop
    private var descriptor: Int32 = -1
    private var reader = HTTPResponseReader(bodyMaximum: PrometheusText.lengthMaximum)
    private var request: [UInt8] = []
    private var timer: EventLoop.Timer?
    private var done: ((Result<[UInt8], HTTPResponseReader.Failure>) -> Void)?

    init(loop: EventLoop) { self.loop = loop }

    func run(
        _ endpoint: NodeExporterEndpoint, from local: SocketAddress, device: String?,
        timeout: UInt64,
        done: @escaping (Result<[UInt8], HTTPResponseReader.Failure>) -> Void
    ) {
        self.done = done
        request = Array(
            ("GET \(endpoint.path) HTTP/1.1\r\nHost: \(endpoint.address)\r\n"
                + "Accept: text/plain\r\nConnection: close\r\n\r\n").utf8)
        timer = loop.schedule(after: timeout) { [self] in
            finish(.failure(.init(description: "no answer")))
        }
        do throws(SystemCallError) {
            descriptor = try Socket.connect(
                to: endpoint.address,
                options: ConnectOptions(
                    bind: local, maximumSegment: 0, windowClamp: 0, device: device ?? ""))
        } catch {
            // Not within the call: who asked has not noted the request yet.
            loop.postLocal { [self] in finish(.failure(.init(description: "\(error)"))) }
            return
        }
        loop.register(descriptor, events: [.read, .write, .edgeTriggered]) { [self] _ in ready() }
    }

    func cancel() {
        done = { _ in }
        finish(.failure(.init(description: "cancelled")))
    }

    private func ready() {
        if let failure = Socket.connectFailure(descriptor) {
            return finish(.failure(.init(description: "connect: \(failure)")))
        }
        do {
            if !request.isEmpty {
                guard !(try TCPInfo(descriptor: descriptor)).isConnecting else { return }
                let sent = try request.withUnsafeBytes { bytes throws(SystemCallError) in
                    try Socket.send(descriptor, bytes)
                }
                request.removeFirst(sent)
            }
            try withUnsafeTemporaryAllocation(byteCount: 1 << 14, alignment: 8) { buffer in
                try read(buffer)
            }
        } catch let failure as HTTPResponseReader.Failure {
            finish(.failure(failure))
        } catch {
            finish(.failure(.init(description: "\(error)")))
        }
    }

    private func read(_ buffer: UnsafeMutableRawBufferPointer) throws {
        while done != nil {
            let body: [UInt8]?
            switch try Socket.receive(descriptor, into: buffer) {
            case .wouldBlock: return
            case .end: body = try reader.receive([], isEnd: true)
            case .bytes(let count): body = try reader.receive(buffer[..<count], isEnd: false)
            }
            if let body { finish(.success(body)) }
        }
    }

    private func finish(_ result: Result<[UInt8], HTTPResponseReader.Failure>) {
        guard let done else { return }
        self.done = nil
        timer?.cancel()
        if descriptor >= 0 {
            loop.unregister(descriptor)
            Socket.close(descriptor)
        }
        done(result)
    }
}
