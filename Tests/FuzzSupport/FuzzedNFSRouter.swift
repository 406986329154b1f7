import ControlPlane
import DataPlane
import StorageProtocols

/// The router of NFS between one client and servers that say whatever the caller wants.
public final class FuzzedNFSRouter {
    /// A server's reply to a call; nil: it dies.
    public typealias Server = (_ call: [UInt8]) -> [UInt8]?

    /// Paths of the exports: of independent servers, and of servers with shared handles.
    public static let exports = ["/r1", "/r2", "/s1", "/s2"]
    /// Calls to servers that one call of a client may lead to.
    private static let most = 64

    private let router: NFSRouter
    private var now: UInt64 = 1_000_000_000
    private var asked = 0

    /// With an export "/" in which the others are.
    public init() {
        var nfs = Configuration.NFS()
        nfs.hasRootExport = true
        let resources = Self.exports.enumerated().map { index, path in
            Resource(
                name: String(path.dropFirst()),
                export: NFSExport(
                    directory: path, path: "/srv",
                    handles: path.hasPrefix("/s") ? .shared : .distinct, index: index),
                servers: ["server"], assigned: "server")
        }
        var bounds = NFSRouter.Bounds()
        bounds.mappings = 64
        bounds.sharedHandles = 64
        bounds.names = 64
        bounds.mounts = 16
        bounds.duplicateOctets = 65_536
        bounds.fileSystems = 16
        router = NFSRouter(
            NFSRouter.Settings(
                nfs: nfs, exports: resources, addresses: [IPAddress(v4: 0x0a00_0001)], seed: 42),
            wallTime: NFSv3Time(seconds: 1_000), bounds: bounds)
    }

    public struct Outcome: Sendable {
        /// For the client; nil: nothing.
        public var reply: [UInt8]?
        /// It led to more calls than any client's call should.
        public var isEndless = false
    }

    /// A call of the client, to its end.
    public func send(_ call: [UInt8], overUDP: Bool, server: Server) -> Outcome {
        let client = NFSClient(
            address: IPAddress(v4: 0x0a00_0009), port: 900, transport: overUDP ? .udp : .tcp)
        asked = 0
        var decision = router.take(call, from: client, now: tick())
        while asked < Self.most {
            switch decision {
            case .answer(let reply): return Outcome(reply: reply)
            case .underWay, .malformed: return Outcome()
            case .resolve(let resolution):
                let replies = resolution.calls.map { ask($0.call, server) }
                decision = router.take(replies, for: resolution, now: tick())
            case .forward(let forward): return finish(forward, server)
            }
        }
        return Outcome(isEndless: true)
    }

    private func finish(_ forward: NFSForward, _ server: Server) -> Outcome {
        if !forward.mayHaveBeenDone, let reply = ask(forward.call, server) {
            let found = router.finish(forward.context, reply: reply, now: tick())
            return Outcome(reply: found ?? router.give(up: forward.context))
        }
        // The server has died under the call; another one has the export now.
        if forward.isIdempotent, let reply = ask(forward.call, server) {
            return Outcome(reply: router.finish(forward.context, reply: reply, now: tick()))
        }
        guard !forward.isIdempotent else {
            return Outcome(reply: router.give(up: forward.context))
        }
        var retry = router.retry(forward)
        var step = retry.begin()
        while asked < Self.most {
            switch step {
            case .call(let call):
                guard let reply = ask(call, server) else {
                    return Outcome(reply: router.give(up: forward.context))
                }
                step = retry.take(reply)
            case .end(let outcome):
                return Outcome(reply: router.finish(forward.context, outcome, now: tick()))
            }
        }
        return Outcome(isEndless: true)
    }

    private func ask(_ call: [UInt8], _ server: Server) -> [UInt8]? {
        asked += 1
        return server(call)
    }

    private func tick() -> UInt64 {
        now += 1_000_000
        return now
    }
}
