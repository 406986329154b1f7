import DataPlane
import StorageProtocols

/// Calls of ours to programs of clients, over UDP, from one of the addresses that clients use: to them it is the server.
///
/// Lives on the session thread.
final class NFSCallbackCaller {
    private struct Call {
        let destination: SocketAddress
        let message: [UInt8]
        var sent = 0
        let done: ([UInt8]?) -> Void
    }

    private let socket: DatagramSocket
    private let engine: SessionEngine
    private var calls: [UInt32: Call] = [:]
    private var nextXID = UInt32.random(in: 0 ... .max)

    /// Calls that are open at a time; further ones have no reply.
    private static let callMaximum = 16_384
    /// Times that one is sent; ns until the second time, doubled each time.
    private static let sendMaximum = 5
    private static let interval: UInt64 = 300_000_000

    /// - Parameter address: of ours.
    init(_ address: IPAddress, engine: SessionEngine) throws(SystemCallError) {
        self.engine = engine
        socket = try DatagramSocket(
            bind: SocketAddress(address: address, port: 0), device: engine.clientDevice)
        engine.loop.register(socket.descriptor, events: [.read]) { [weak self] _ in
            self?.receive()
        }
    }

    /// Asks a client's portmapper where a program is, and calls it there.
    /// - Parameters:
    ///   - message: its XID is replaced.
    ///   - done: gets the reply, or nil when there is none. Not called from within.
    func call(
        _ client: IPAddress, program: UInt32, version: UInt32, _ message: [UInt8],
        done: @escaping ([UInt8]?) -> Void
    ) {
        let question = Self.question(program, version, isIPv4: client.isIPv4)
        let portmapper = SocketAddress(address: client, port: Portmapper.port)
        call(portmapper, question) { [weak self] reply in
            guard let self, let reply, let port = Self.port(reply, isIPv4: client.isIPv4) else {
                return done(nil)
            }
            call(SocketAddress(address: client, port: port), message, done: done)
        }
    }

    private func call(
        _ destination: SocketAddress, _ message: [UInt8], done: @escaping ([UInt8]?) -> Void
    ) {
        guard calls.count < Self.callMaximum, message.count >= 4 else {
            return engine.loop.postLocal { done(nil) }
        }
        repeat { nextXID &+= 1 } while calls[nextXID] != nil
        var octets = message
        octets.set(nextXID, at: 0)
        calls[nextXID] = Call(destination: destination, message: octets, done: done)
        send(nextXID)
    }

    private func send(_ xid: UInt32) {
        guard let call = calls[xid] else { return }
        guard call.sent < Self.sendMaximum else {
            calls[xid] = nil
            return call.done(nil)
        }
        // What the network does not take now it may take the next time.
        _ = socket.send(call.message, to: call.destination)
        calls[xid]?.sent += 1
        engine.loop.schedule(after: Self.interval << UInt64(call.sent)) { [weak self] in
            self?.send(xid)
        }
    }

    private func receive() {
        for _ in 0..<64 {
            let scratch = engine.scratch
            guard case .datagram(let count, let sender)? = try? socket.receive(into: scratch) else {
                return
            }
            guard count <= scratch.count else { continue }
            take([UInt8](scratch[..<count]), sender)
        }
    }

    private func take(_ reply: [UInt8], _ sender: SocketAddress) {
        guard reply.count >= 8, reply.field32(4) == 1 else { return }
        let xid = reply.field32(0)
        guard let call = calls[xid], call.destination == sender else { return }
        calls[xid] = nil
        call.done(reply)
    }

    // MARK: The portmapper

    // RFC 1833: version 2 knows IPv4 only, GETPORT is its procedure 3; GETADDR of version 4 has the same number.
    private static func question(
        _ program: UInt32, _ version: UInt32, isIPv4: Bool
    ) -> [UInt8] {
        var writer = XDRWriter()
        writer.uint32(program)
        writer.uint32(version)
        if isIPv4 {
            writer.uint32(Portmapper.Transport.udp.rawValue)
            writer.uint32(0)
        } else {
            for text in ["udp6", "", ""] { writer.string(text) }
        }
        return RPCMessage.call(
            xid: 0, program: Portmapper.program, version: isIPv4 ? 2 : 4, procedure: 3,
            arguments: writer.bytes)
    }

    /// Nil: it is not there.
    private static func port(_ reply: [UInt8], isIPv4: Bool) -> UInt16? {
        reply.withUnsafeBytes { raw -> UInt16? in
            var reader = XDRReader(raw)
            guard let header = try? RPCReplyHeader(&reader), header.refusal == nil else {
                return nil
            }
            guard !isIPv4 else {
                guard let port = try? reader.uint32(), port > 0 else { return nil }
                return UInt16(exactly: port)
            }
            // RFC 5665 section 5.2.3.4: the port's octets are the last two numbers of the text.
            guard let text = try? reader.string(maximum: 128) else { return nil }
            let octets = text.split(separator: ".").suffix(2).compactMap { UInt8($0) }
            guard octets.count == 2 else { return nil }
            let port = UInt16(octets[0]) << 8 | UInt16(octets[1])
            return port > 0 ? port : nil
        }
    }

    func close() {
        engine.loop.unregister(socket.descriptor)
        socket.close()
        calls = [:]
    }
}
