import DataPlane
import StorageProtocols

/// The way to one server's programs for one owner: a connection for NFS, one for MOUNT, made when they are needed and
/// again when they have ended.
///
/// Lives on the session thread.
final class NFSServerLink {
    let server: String
    private let engine: SessionEngine
    private let portal: ISCSIPortal
    private var connections: [UInt32: RPCConnection] = [:]
    /// Calls that wait for the portmapper to tell where a program is.
    private var waiting: [UInt32: [([UInt8], (RPCConnection.Outcome) -> Void)]] = [:]
    /// Told by the portmapper.
    private var ports: [UInt32: UInt16] = [:]
    private var lookups: [UInt32: RPCConnection] = [:]

    init(_ server: String, engine: SessionEngine, portal: ISCSIPortal) {
        self.server = server
        self.engine = engine
        self.portal = portal
    }

    /// ns, when the call that waits longest was sent; nil: none waits.
    var oldest: UInt64? { connections.values.compactMap(\.oldest).min() }
    var openCalls: Int { connections.values.reduce(0) { $0 + $1.openCalls } }
    var unsent: Int { connections.values.reduce(0) { $0 + $1.unsent } }

    /// - Parameters:
    ///   - program: NFS, MOUNT or NLM.
    ///   - message: a call; its XID is replaced.
    ///   - done: not called from within.
    func call(
        program: UInt32, version: UInt32, _ message: [UInt8],
        done: @escaping (RPCConnection.Outcome) -> Void
    ) {
        if let connection = connections[program], connection.ended == nil {
            return connection.call(message, done: done)
        }
        guard let entry = portal.server(server), let address = entry.addresses.first else {
            return fail(done, "there is no server \(server)")
        }
        if program == NFSProgram.number {
            return connect(program, address, entry.nfsPort, message, done)
        }
        if program == MountProtocol.program, let port = entry.mountPort {
            return connect(program, address, port, message, done)
        }
        if let port = ports[program] { return connect(program, address, port, message, done) }
        waiting[program, default: []].append((message, done))
        if lookups[program] == nil { look(program, version, address) }
    }

    private func fail(_ done: @escaping (RPCConnection.Outcome) -> Void, _ reason: String) {
        engine.loop.postLocal { done(.lost(reason, mayBeDone: false)) }
    }

    private func connect(
        _ program: UInt32, _ address: IPAddress, _ port: UInt16, _ message: [UInt8],
        _ done: @escaping (RPCConnection.Outcome) -> Void
    ) {
        guard let local = engine.storageAddress(like: address) else {
            return fail(done, "no storage address of the family of \(address)")
        }
        do {
            let connection = try RPCConnection(
                to: SocketAddress(address: address, port: port), from: local, engine: engine,
                timeout: portal.serverTimeout)
            connection.onEnd = { [weak self, weak connection] _ in
                guard let self, connections[program] === connection else { return }
                connections[program] = nil
                // Where it was it may not be again.
                ports[program] = nil
            }
            connections[program] = connection
            connection.call(message, done: done)
        } catch {
            fail(done, "\(error)")
        }
    }

    // RFC 1833 section 3: PMAPPROC_GETPORT gives the port of a program and version, 0 when it is not registered.
    private func look(_ program: UInt32, _ version: UInt32, _ address: IPAddress) {
        guard let local = engine.storageAddress(like: address) else {
            return answer(program, .failure("no storage address of the family of \(address)"))
        }
        do {
            let connection = try RPCConnection(
                to: SocketAddress(address: address, port: Portmapper.port), from: local,
                engine: engine, maximum: 4_096, timeout: portal.serverTimeout)
            lookups[program] = connection
            var arguments = XDRWriter()
            for word in [program, version, Portmapper.Transport.tcp.rawValue, 0] {
                arguments.uint32(word)
            }
            let call = RPCMessage.call(
                xid: 0, program: Portmapper.program, version: 2, procedure: 3,
                arguments: arguments.bytes)
            connection.call(call) { [weak self] outcome in
                guard let self else { return }
                lookups[program] = nil
                connection.end("done")
                switch outcome {
                case .lost(let reason, _): answer(program, .failure("portmapper: \(reason)"))
                case .reply(let reply): answer(program, Self.port(reply))
                }
            }
        } catch {
            answer(program, .failure("\(error)"))
        }
    }

    private enum Place {
        case port(UInt16)
        case failure(String)
    }

    private static func port(_ reply: [UInt8]) -> Place {
        reply.withUnsafeBytes { raw -> Place in
            var reader = XDRReader(raw)
            guard let header = try? RPCReplyHeader(&reader), header.refusal == nil,
                let port = try? reader.uint32(), port != 0, port < 65_536
            else { return .failure("not registered with the portmapper") }
            return .port(UInt16(port))
        }
    }

    private func answer(_ program: UInt32, _ place: Place) {
        let calls = waiting.removeValue(forKey: program) ?? []
        switch place {
        case .failure(let reason): for (_, done) in calls { fail(done, reason) }
        case .port(let port):
            ports[program] = port
            guard let address = portal.server(server)?.addresses.first else {
                for (_, done) in calls { fail(done, "there is no server \(server)") }
                return
            }
            for (message, done) in calls {
                if let connection = connections[program], connection.ended == nil {
                    connection.call(message, done: done)
                } else {
                    connect(program, address, port, message, done)
                }
            }
        }
    }

    /// The server is gone, or not used any more: what has no reply gets none.
    func end(_ reason: String) {
        let all = Array(connections.values) + Array(lookups.values)
        for connection in all { connection.end(reason) }
    }
}
