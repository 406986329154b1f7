import ControlPlane
import DataPlane
import StorageProtocols

/// A router with servers behind it, and what a client does: calls as octets, replies as octets.
final class NFSBench {
    let router: NFSRouter
    /// By resource; one that is not there does not answer.
    var servers: [String: NFSFakeServer]
    var client = NFSClient(
        address: NFSBench.address("10.0.0.9"), port: 900, transport: .tcp)
    var credential: RPCSystemCredential? = RPCSystemCredential(
        machineName: "client", uid: 1_000, gid: 100, gids: [100, 4])
    /// ns.
    var now: UInt64 = 1_000_000_000_000
    private var lastXID: UInt32 = 0x5000_0000
    /// What the last call led to.
    private(set) var forwards: [NFSForward] = []
    private(set) var asked: [NFSOwnCall] = []

    init(_ settings: NFSRouter.Settings, _ servers: [String: NFSFakeServer]) {
        router = NFSRouter(
            settings, wallTime: NFSv3Time(seconds: 1_000), bounds: NFSRouter.Bounds())
        self.servers = servers
    }

    static func address(_ text: String) -> IPAddress { IPAddress(text) ?? IPAddress(v4: 0) }

    static func settings(
        _ exports: [(name: String, export: NFSExport)], hasRoot: Bool = false
    ) -> NFSRouter.Settings {
        var nfs = Configuration.NFS()
        nfs.hasRootExport = hasRoot
        return NFSRouter.Settings(
            nfs: nfs,
            exports: exports.map {
                Resource(name: $0.name, export: $0.export, servers: ["s"], assigned: "s")
            }, addresses: [address("10.0.0.1"), address("fd00::1")], seed: 42)
    }

    /// Two boxes that do not know each other: equal file numbers, equal handles, equal file systems.
    static func boxes(hasRoot: Bool = false, handleLength: Int = 28) -> NFSBench {
        let servers = ["r1", "r2"].map { name in
            NFSFakeServer(NFSFakeStorage(), path: "/srv/\(name)", handleLength: handleLength)
        }
        return NFSBench(
            settings(
                [
                    ("r1", NFSExport(directory: "/r1", path: "/srv/r1")),
                    ("r2", NFSExport(directory: "/r2", path: "/srv/r2")),
                ], hasRoot: hasRoot), ["r1": servers[0], "r2": servers[1]])
    }

    func server(_ name: String) -> NFSFakeServer { servers[name]! }

    // MARK: Calls

    func message(
        _ program: UInt32, _ version: UInt32, _ procedure: UInt32, _ arguments: [UInt8]
    ) -> [UInt8] {
        lastXID += 1
        return RPCMessage.call(
            xid: lastXID, program: program, version: version, procedure: procedure,
            credential: credential, arguments: arguments)
    }

    func message(_ procedure: NFSProcedure, _ arguments: [UInt8]) -> [UInt8] {
        message(
            NFSProgram.number, procedure.version.rawValue, procedure.number, arguments)
    }

    /// What the client gets; nil: nothing.
    func send(_ call: [UInt8]) -> [UInt8]? {
        forwards = []
        asked = []
        now += 1_000_000
        var decision = router.take(call, from: client, now: now)
        while true {
            switch decision {
            case .answer(let reply): return reply
            case .underWay, .malformed: return nil
            case .resolve(let resolution):
                asked += resolution.calls
                let replies = resolution.calls.map { own in
                    servers[own.resource]?.reply(to: own.call)
                }
                now += 1_000_000
                decision = router.take(replies, for: resolution, now: now)
            case .forward(let forward):
                forwards.append(forward)
                now += 1_000_000
                guard let reply = servers[forward.resource]?.reply(to: forward.call) else {
                    return router.give(up: forward.context)
                }
                return router.finish(forward.context, reply: reply, now: now)
            }
        }
    }

    /// What becomes of a call, without its being done.
    /// - Parameter asksInVain: servers cannot say what is to be known first.
    func decision(_ call: [UInt8], asksInVain: Bool = false) -> NFSDecision {
        now += 1_000_000
        var decision = router.take(call, from: client, now: now)
        while case .resolve(let resolution) = decision {
            let replies = resolution.calls.map { own -> [UInt8]? in
                asksInVain
                    ? RPCMessage.reply(xid: 0, refusal: .systemError)
                    : servers[own.resource]?.reply(to: own.call)
            }
            now += 1_000_000
            decision = router.take(replies, for: resolution, now: now)
        }
        return decision
    }

    func call(_ procedure: NFSProcedure, _ arguments: [UInt8]) -> NFSAnswer? {
        let call = message(procedure, arguments)
        return send(call).map { NFSAnswer($0, to: procedure, call: call) }
    }

    func call3(_ procedure: NFSv3Procedure, _ arguments: [UInt8]) -> NFSAnswer? {
        call(.v3(procedure), arguments)
    }

    func call2(_ procedure: NFSv2Procedure, _ arguments: [UInt8]) -> NFSAnswer? {
        call(.v2(procedure), arguments)
    }

    func mount(_ path: String, _ version: MountProtocol.Version = .three) -> MountResult? {
        var writer = XDRWriter()
        writer.string(path)
        let call = message(MountProtocol.program, version.rawValue, 1, writer.bytes)
        guard let reply = send(call) else { return nil }
        return nfsResults(of: reply) { try MountResult(&$0, version: version) }
    }

    /// Handle of a directory that is mounted; empty: it cannot be.
    func root(_ path: String, _ version: MountProtocol.Version = .three) -> [UInt8] {
        guard case .mounted(let handle, _) = mount(path, version) else { return [] }
        return handle
    }

    func lookUp(_ name: String, in directory: [UInt8]) -> NFSAnswer? {
        call3(.lookup, NFSArguments.place(directory, name))
    }

    // MARK: Again

    /// Does a call at a server that dies without an answer; then another server of the same storage gets what the
    /// router says.
    /// - Parameters:
    ///   - isDone: the first server has done it.
    ///   - isNameAsked: the server tells first whether the name is there, when nobody has asked for it.
    ///   - between: what happens before it is sent again.
    /// - Returns: what the client gets, and what the second server was asked.
    func sendTwice(
        _ call: [UInt8], isDone: Bool, isNameAsked: Bool = false, between: () -> Void = {}
    ) -> (answer: [UInt8]?, asked: [String])? {
        guard case .forward(let forward) = decision(call, asksInVain: !isNameAsked),
            let server = servers[forward.resource]
        else { return nil }
        if isDone { _ = server.reply(to: forward.call) }
        now += 300_000_000
        between()
        _ = server.takeLog()
        let answer = again(forward)
        return (answer, server.takeLog())
    }

    func again(_ forward: NFSForward) -> [UInt8]? {
        guard let server = servers[forward.resource] else { return nil }
        var retry = router.retry(forward)
        var step = retry.begin()
        for _ in 0..<10 {
            now += 1_000_000
            switch step {
            case .call(let call):
                guard let reply = server.reply(to: call) else { return nil }
                step = retry.take(reply)
            case .end(let outcome): return router.finish(forward.context, outcome, now: now)
            }
        }
        return nil
    }
}

/// A reply of NFS, read.
struct NFSAnswer {
    let octets: [UInt8]
    let procedure: NFSProcedure
    /// Nil: the call was refused.
    let results: NFSResults?
    let refusal: RPCRefusal?
    /// The reply has the call's XID, an empty verifier, and nothing behind its results.
    let isWhole: Bool

    init(_ octets: [UInt8], to procedure: NFSProcedure, call: [UInt8]) {
        self.octets = octets
        self.procedure = procedure
        let header = octets.withUnsafeBytes { raw -> RPCReplyHeader? in
            var reader = XDRReader(raw)
            return try? RPCReplyHeader(&reader)
        }
        refusal = header?.refusal
        let start = header?.results ?? 0
        let found = octets.withUnsafeBytes { try? NFSResults(procedure, $0, at: start) }
        results = header?.refusal == nil ? found : nil
        isWhole =
            header?.xid == call.field32(0) && header?.verifier?.flavor == RPCFlavor.none
            && header?.verifier?.body.isEmpty == true
            && (results == nil || results?.end == octets.count)
    }

    var status: UInt32? { results?.status }
    var isOK: Bool { results?.isSuccess == true && isWhole }

    /// Of the first handle.
    var handle: [UInt8] { handles.first ?? [] }
    var handles: [[UInt8]] { (results?.handles ?? []).map { Array(octets[$0]) } }

    /// In the order in which they come.
    var fileSystems: [UInt64] {
        (results?.fileSystems ?? []).map { octets[$0].reduce(0) { $0 << 8 | UInt64($1) } }
    }

    var fileNumbers: [UInt64] {
        (results?.fileSystems ?? []).map { place in
            octets[place.upperBound...].prefix(place.count).reduce(0) { $0 << 8 | UInt64($1) }
        }
    }

    var data: [UInt8] { results?.data.map { Array(octets[$0]) } ?? [] }

    /// Octets behind the status.
    var body: [UInt8] { results == nil ? [] : Array(octets.dropFirst(28)) }
}

/// Arguments of calls.
enum NFSArguments {
    static func words(_ words: UInt32...) -> [UInt8] {
        var writer = XDRWriter()
        for word in words { writer.uint32(word) }
        return writer.bytes
    }

    static func opaque(_ octets: [UInt8]) -> [UInt8] {
        var writer = XDRWriter()
        writer.opaque(octets)
        return writer.bytes
    }

    static func handle(_ handle: [UInt8]) -> [UInt8] { opaque(handle) }

    static func place(_ directory: [UInt8], _ name: String) -> [UInt8] {
        opaque(directory) + opaque(Array(name.utf8))
    }

    static func place2(_ directory: [UInt8], _ name: String) -> [UInt8] {
        directory + opaque(Array(name.utf8))
    }

    /// sattr3 without anything.
    static let nothing = words(0, 0, 0, 0, 0, 0)
    /// sattr of version 2: all ones.
    static let nothing2 = [UInt8](repeating: 0xff, count: 32)

    static func read(_ handle: [UInt8], _ count: UInt32 = 100) -> [UInt8] {
        opaque(handle) + words(0, 0, count)
    }

    static func write(_ handle: [UInt8], _ data: [UInt8]) -> [UInt8] {
        opaque(handle) + words(0, 0, UInt32(data.count), 2) + opaque(data)
    }

    /// UNCHECKED, GUARDED.
    static func create(_ directory: [UInt8], _ name: String, mode: UInt32) -> [UInt8] {
        place(directory, name) + words(mode) + nothing
    }

    static func createExclusive(_ directory: [UInt8], _ name: String) -> [UInt8] {
        place(directory, name) + words(2, 77, 78)
    }

    static func symlink(_ directory: [UInt8], _ name: String, _ text: String) -> [UInt8] {
        place(directory, name) + nothing + opaque(Array(text.utf8))
    }

    static func readdir(_ handle: [UInt8], cookie: UInt64 = 0, count: UInt32) -> [UInt8] {
        var writer = XDRWriter()
        writer.opaque(handle)
        writer.uint64(cookie)
        writer.uint64(0)
        writer.uint32(count)
        return writer.bytes
    }

    static func readdirplus(
        _ handle: [UInt8], cookie: UInt64 = 0, verifier: UInt64 = 0, count: UInt32
    ) -> [UInt8] {
        var writer = XDRWriter()
        writer.opaque(handle)
        writer.uint64(cookie)
        writer.uint64(verifier)
        writer.uint32(count)
        writer.uint32(count)
        return writer.bytes
    }
}

/// Results of a call that was served; nil: it was not, or they cannot be read.
func nfsResults<Value>(
    of reply: [UInt8], _ body: (inout XDRReader) throws -> Value
) -> Value? {
    reply.withUnsafeBytes { raw -> Value? in
        var reader = XDRReader(raw)
        guard let header = try? RPCReplyHeader(&reader), header.refusal == nil else { return nil }
        return try? body(&reader)
    }
}

/// An entry of a listing.
struct NFSListed: Equatable {
    var name: String
    var fileNumber: UInt64
    var cookie: UInt64
}

/// What READDIR or READDIRPLUS of version 3, or READDIR of version 2, has listed; nil: an error.
func nfsListing(_ answer: NFSAnswer) -> (entries: [NFSListed], isAtEnd: Bool)? {
    nfsResults(of: answer.octets) { reader in
        let isVersion3 = answer.procedure.version == .v3
        guard try reader.uint32() == 0 else { throw XDRError.badValue }
        if isVersion3 {
            if try reader.bool() { try reader.skip(84) }
            try reader.skip(8)
        }
        var entries: [NFSListed] = []
        while try reader.bool() {
            let number = isVersion3 ? try reader.uint64() : UInt64(try reader.uint32())
            let name = try reader.string(maximum: 1_024)
            let cookie = isVersion3 ? try reader.uint64() : UInt64(try reader.uint32())
            entries.append(NFSListed(name: name, fileNumber: number, cookie: cookie))
            guard answer.procedure == .v3(.readdirplus) else { continue }
            if try reader.bool() { try reader.skip(84) }
            if try reader.bool() { _ = try reader.opaque(maximum: 64) }
        }
        return (entries, try reader.bool())
    }
}
