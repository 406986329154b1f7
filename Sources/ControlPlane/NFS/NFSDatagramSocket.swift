import DataPlane
import StorageProtocols

/// NFS, MOUNT and the portmapper over UDP at one virtual address: what the dataplane does not forward by itself.
///
/// Lives on the session thread.
final class NFSDatagramSocket {
    private let socket: DatagramSocket
    private unowned let service: NFSService
    /// Calls that are open: a client that says one again waits for the same reply.
    private var open: Set<Call> = []
    /// Datagrams that were dropped, because too much was open, or could not be sent.
    private(set) var dropped: UInt64 = 0

    private struct Call: Hashable {
        let client: SocketAddress
        let xid: UInt32
    }

    /// Octets of bursts, which the kernel would drop.
    private static let bufferSize: Int32 = 4 << 20

    init(_ address: SocketAddress, service: NFSService) throws(SystemCallError) {
        self.service = service
        socket = try DatagramSocket(bind: address, device: service.engine.clientDevice)
        socket.setBuffers(Self.bufferSize)
        service.engine.loop.register(socket.descriptor, events: [.read]) { [weak self] _ in
            self?.receive()
        }
    }

    /// A bounded number at a time, so that nobody else starves.
    private func receive() {
        for _ in 0..<64 {
            let scratch = service.engine.scratch
            guard case .datagram(let count, let sender)? = try? socket.receive(into: scratch) else {
                return
            }
            guard count <= scratch.count else {
                dropped += 1
                continue
            }
            take([UInt8](scratch[..<count]), sender)
        }
    }

    private func take(_ call: [UInt8], _ sender: SocketAddress) {
        guard call.count >= 4 else { return }
        let key = Call(client: sender, xid: call.field32(0))
        guard open.insert(key).inserted else { return }
        let isTaken = service.take(
            call,
            from: NFSClient(address: sender.address, port: sender.port, transport: .udp),
            at: socket.address.address, links: service.links
        ) { [weak self] reply in
            guard let self else { return }
            open.remove(key)
            if let reply, !socket.send(reply, to: sender) { dropped += 1 }
        }
        if !isTaken {
            open.remove(key)
            dropped += 1
        }
    }

    func close() {
        service.engine.loop.unregister(socket.descriptor)
        socket.close()
    }
}
