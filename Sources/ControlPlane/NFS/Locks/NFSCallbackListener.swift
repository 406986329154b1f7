import DataPlane
import StorageProtocols

/// Where servers call us back: a port of one of our addresses on the storage side, over UDP and TCP. Each message is
/// answered at once.
///
/// Lives on the session thread.
final class NFSCallbackListener {
    /// Of NLM and NSM. It is none of those that connections to servers come from.
    static let port: UInt16 = 4_045

    typealias Answer = (
        _ message: [UInt8], _ sender: IPAddress, _ transport: Portmapper.Transport
    ) -> [UInt8]?

    private let engine: SessionEngine
    private let datagrams: DatagramSocket
    private let listener: Int32
    private let answer: Answer
    private var streams: [Int32: Stream] = [:]
    private var isClosed = false

    /// Connections at a time; the next one is closed at once.
    private static let streamMaximum = 64
    /// Octets of a message, and of replies that a server does not take.
    private static let messageMaximum = 16_384
    private static let outputMaximum = 262_144

    /// - Parameter answer: the reply; nil: whoever it is has none, and a connection of it is closed.
    init(
        _ address: SocketAddress, engine: SessionEngine, answer: @escaping Answer
    ) throws(SystemCallError) {
        self.engine = engine
        self.answer = answer
        datagrams = try DatagramSocket(bind: address, device: engine.storageDevice)
        do throws(SystemCallError) {
            listener = try Socket.listen(
                address, options: ListenOptions(device: engine.storageDevice, backlog: 64))
        } catch {
            datagrams.close()
            throw error
        }
        engine.loop.register(datagrams.descriptor, events: [.read]) { [weak self] _ in
            self?.receive()
        }
        watch()
    }

    private func watch() {
        engine.loop.register(listener, events: [.read]) { [weak self] _ in self?.accept() }
    }

    private func receive() {
        for _ in 0..<64 {
            let scratch = engine.scratch
            guard case .datagram(let count, let sender)? = try? datagrams.receive(into: scratch)
            else { return }
            guard count <= Self.messageMaximum else { continue }
            let message = [UInt8](scratch[..<count])
            guard let reply = answer(message, sender.address, .udp) else { continue }
            // Who has no reply asks again.
            _ = datagrams.send(reply, to: sender)
        }
    }

    private func accept() {
        for _ in 0..<16 {
            let accepted: AcceptedSocket
            do {
                guard let next = try Socket.accept(listener) else { return }
                accepted = next
            } catch {
                // Out of descriptors: it would be reported again at once.
                engine.loop.unregister(listener)
                engine.loop.schedule(after: 100_000_000) { [weak self] in
                    guard let self, !isClosed else { return }
                    watch()
                }
                return
            }
            guard streams.count < Self.streamMaximum else {
                Socket.close(accepted.descriptor)
                continue
            }
            let descriptor = accepted.descriptor
            streams[descriptor] = Stream(accepted.remote.address)
            engine.loop.register(descriptor, events: [.read, .write, .edgeTriggered]) {
                [weak self] _ in self?.serve(descriptor)
            }
        }
    }

    /// A server's connection.
    private struct Stream {
        let remote: IPAddress
        var reader = RPCRecordReader(maximum: NFSCallbackListener.messageMaximum)
        var output = OutboundBuffer()

        init(_ remote: IPAddress) { self.remote = remote }
    }

    private func serve(_ descriptor: Int32) {
        do {
            while true {
                try flush(descriptor)
                switch try Socket.receive(descriptor, into: engine.relayScratch) {
                case .wouldBlock: return
                case .end: return end(descriptor)
                case .bytes(let count):
                    streams[descriptor]?.reader.append(engine.relayScratch[..<count])
                }
                while let message = try streams[descriptor]?.reader.next() {
                    guard let stream = streams[descriptor],
                        stream.output.count < Self.outputMaximum,
                        let reply = answer(message, stream.remote, .tcp)
                    else { return end(descriptor) }
                    streams[descriptor]?.output.append(RPCRecord.framed(reply))
                }
            }
        } catch {
            end(descriptor)
        }
    }

    private func flush(_ descriptor: Int32) throws(SystemCallError) {
        try streams[descriptor]?.output.drain { bytes throws(SystemCallError) in
            try Socket.send(descriptor, bytes)
        }
    }

    private func end(_ descriptor: Int32) {
        guard streams.removeValue(forKey: descriptor) != nil else { return }
        engine.loop.unregister(descriptor)
        Socket.close(descriptor)
    }

    func close() {
        isClosed = true
        for descriptor in Array(streams.keys) { end(descriptor) }
        engine.loop.unregister(datagrams.descriptor)
        datagrams.close()
        engine.loop.unregister(listener)
        Socket.close(listener)
    }
}
