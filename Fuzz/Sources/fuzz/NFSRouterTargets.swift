import FuzzSupport
import StorageProtocols

/// Handles of servers: few, so that they come again.
private func serverHandle(_ version: NFSVersion, _ random: inout SeededGenerator) -> [UInt8] {
    let length = version == .v2 ? 32 : random.pick([28, 28, 28, 60, 64])
    return [0x43] + [UInt8](repeating: UInt8(random.number(0...5)), count: length - 1)
}

/// What a server says to a call, mostly in the form that the call wants.
private func results(
    _ header: RPCCallHeader, _ random: inout SeededGenerator
) -> [UInt8] {
    if header.program == MountProtocol.program {
        guard let version = MountProtocol.Version(rawValue: header.version) else { return [] }
        let handle = serverHandle(version == .one ? .v2 : .v3, &random)
        let result: MountResult =
            random.chance(6) ? .failed(.noEntry) : .mounted(handle: handle, flavors: [1, 6])
        return result.encoded(version: version)
    }
    guard let procedure = NFSProcedure(version: header.version, number: header.procedure),
        !random.chance(5)
    else {
        var writer = XDRWriter()
        writer.uint32(random.pick([0, 0, 2, 17, 66, 70, 10_001, 10_008]))
        for _ in 0..<random.number(0...40) { writer.uint32(UInt32(random.number(0...2))) }
        return writer.bytes
    }
    let handle = serverHandle(procedure.version, &random)
    var writer = XDRWriter()
    /// post_op_attr or fattr.
    func attributes() {
        if procedure.version == .v3 { writer.bool(true) }
        writer.fixedOpaque([UInt8](repeating: 1, count: procedure.version == .v3 ? 84 : 68))
    }
    writer.uint32(0)
    switch procedure {
    case .v3(.getattr): writer.fixedOpaque([UInt8](repeating: 1, count: 84))
    case .v3(.lookup):
        writer.opaque(handle)
        attributes()
        attributes()
    case .v3(.create), .v3(.mkdir), .v3(.symlink), .v3(.mknod):
        writer.bool(true)
        writer.opaque(handle)
        attributes()
        writer.bool(false)
        attributes()
    case .v3(.readdirplus):
        attributes()
        writer.uint64(1)
        for index in 0..<UInt64(random.number(0...4)) {
            writer.bool(true)
            writer.uint64(index)
            writer.string("entry\(index)")
            writer.uint64(index + 1)
            attributes()
            writer.bool(true)
            writer.opaque(handle)
        }
        writer.bool(false)
        writer.bool(true)
    case .v2(.lookup), .v2(.create), .v2(.mkdir):
        writer.fixedOpaque(handle)
        attributes()
    case .v2(.getattr), .v2(.setattr), .v2(.write): attributes()
    default: for _ in 0..<random.number(0...30) { writer.uint32(0) }
    }
    return writer.bytes
}

/// Handles that a reply gives to the client.
private func handles(_ reply: [UInt8], _ procedure: NFSProcedure?, _ mount: UInt32) -> [[UInt8]] {
    reply.withUnsafeBytes { raw -> [[UInt8]] in
        var reader = XDRReader(raw)
        guard let header = try? RPCReplyHeader(&reader), header.refusal == nil else { return [] }
        if let procedure {
            let found = try? NFSResults(procedure, raw, at: header.results)
            return (found?.handles ?? []).map { Array(reply[$0]) }
        }
        guard let version = MountProtocol.Version(rawValue: mount),
            case .mounted(let handle, _)? = try? MountResult(&reader, version: version)
        else { return [] }
        return [handle]
    }
}

/// Calls with the handles that the client was given, to servers that answer, answer nonsense, or die:
/// every reply is to the call, and no call goes on for ever.
func runNFSRouter(_ random: inout SeededGenerator) throws -> String? {
    let router = FuzzedNFSRouter()
    var known: [[UInt8]] = [[0x43] + [UInt8](repeating: 1, count: 27)]
    for xid in 0..<UInt32(random.number(4...30)) {
        let isMount = random.chance(4)
        let mount: UInt32 = random.chance(2) ? 1 : 3
        let procedure = isMount ? nil : anyProcedure(&random)
        let message: [UInt8]
        if let procedure {
            let arguments = nfsArguments(procedure, known: known, &random)
            message = rpcCall(
                NFSProgram.number, procedure.version.rawValue, procedure.number, arguments,
                xid: xid)
        } else {
            let path = random.pick(FuzzedNFSRouter.exports + ["/", "/r1/below", "/none"])
            message = rpcCall(MountProtocol.program, mount, 1, xdr { $0.string(path) }, xid: xid)
        }
        let call = random.chance(3) ? random.mutated(message) : message
        let outcome = router.send(call, overUDP: random.chance(2)) { asked in
            if random.chance(10) { return nil }
            let header = asked.withUnsafeBytes { raw -> RPCCallHeader? in
                var reader = XDRReader(raw)
                return try? RPCCallHeader(&reader)
            }
            guard let header else { return random.octets(40) }
            let reply = RPCMessage.reply(xid: header.xid, results: results(header, &random))
            return random.chance(4) ? random.mutated(reply) : reply
        }
        if outcome.isEndless { return "a call leads to calls without end" }
        guard let reply = outcome.reply else { continue }
        guard reply.count >= 8, reply.prefix(4).elementsEqual(call.prefix(4)) else {
            return "a reply with another XID"
        }
        known += handles(reply, procedure, mount)
        if known.count > 20 { known.removeFirst(known.count - 20) }
    }
    return nil
}
