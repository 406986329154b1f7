import StorageProtocols

private let credential = RPCSystemCredential(
    machineName: "client", uid: 1_000, gid: 100, gids: [4, 24, 27])

func rpcCall(
    _ program: UInt32, _ version: UInt32, _ procedure: UInt32, _ arguments: [UInt8], xid: UInt32 = 7
) -> [UInt8] {
    RPCMessage.call(
        xid: xid, program: program, version: version, procedure: procedure,
        credential: credential, arguments: arguments)
}

func xdr(_ body: (inout XDRWriter) -> Void) -> [UInt8] {
    var writer = XDRWriter()
    body(&writer)
    return writer.bytes
}

/// A stream in records: what is joined is never longer than its bound, and framing a record gives it
/// back.
func runRecords(_ random: inout SeededGenerator) throws -> String? {
    let records = (0..<random.number(1...4)).map { _ in random.octets(random.number(0...300)) }
    let framed = records.flatMap {
        RPCRecord.framed($0, fragments: random.number(1...200))
    }
    let isWhole = random.chance(3)
    var stream = isWhole ? framed : random.mutated(framed)
    var reader = RPCRecordReader(maximum: 400)
    var found: [[UInt8]] = []
    while !stream.isEmpty {
        let count = random.number(1...min(100, stream.count))
        reader.append(stream.prefix(count))
        stream.removeFirst(count)
        do {
            while let record = try reader.next() {
                if record.count > 400 { return "a record of \(record.count) octets" }
                found.append(record)
            }
        } catch {
            return isWhole ? "\(error)" : nil
        }
    }
    return isWhole && found != records ? "other records" : nil
}

/// Calls of the portmapper and of MOUNT, and answers of MOUNT.
func runMount(_ random: inout SeededGenerator) throws -> String? {
    let path = xdr { $0.string("/export/some/directory") }
    let netaddress = xdr {
        $0.uint32(NFSProgram.number)
        $0.uint32(3)
        for text in ["udp", "10.0.0.1.8.1", "owner"] { $0.string(text) }
    }
    let mapping = xdr { for word in [NFSProgram.number, 3, 17, 0] { $0.uint32(word) } }
    let calls = [
        rpcCall(MountProtocol.program, 3, 1, path), rpcCall(MountProtocol.program, 1, 3, path),
        rpcCall(MountProtocol.program, 3, 5, []), rpcCall(Portmapper.program, 2, 4, []),
        rpcCall(Portmapper.program, 2, 3, mapping), rpcCall(Portmapper.program, 4, 3, netaddress),
        rpcCall(Portmapper.program, 3, 9, netaddress),
    ]
    let message = random.mutated(random.pick(calls))
    let portmapper = Portmapper([
        .init(program: NFSProgram.number, version: 3, transport: .udp, port: 2_049),
        .init(program: Portmapper.program, version: 4, transport: .udp, port: 111),
    ])
    let listener = Portmapper.Listener(transport: .udp, addresses: [[10, 0, 0, 1]])
    if let reply = portmapper.answer(message, at: listener, time: 5) {
        guard reply.count >= 8, reply[..<4].elementsEqual(message.prefix(4)) else {
            return "an answer with another XID"
        }
    }
    message.withUnsafeBytes { raw in
        var reader = XDRReader(raw)
        guard let header = try? RPCCallHeader(&reader) else { return }
        _ = try? MountCall(header, &reader)
        _ = try? RPCSystemCredential(header.credential, in: raw)
    }
    let result = MountResult.mounted(handle: [UInt8](repeating: 3, count: 28), flavors: [1, 0])
    let answer = random.mutated(result.encoded(version: .three))
    answer.withUnsafeBytes { raw in
        for version in MountProtocol.Version.allCases {
            var reader = XDRReader(raw)
            _ = try? MountResult(&reader, version: version)
        }
        var reader = XDRReader(raw)
        _ = try? MountExport.list(&reader)
        reader = XDRReader(raw)
        _ = try? MountEntry.list(&reader)
    }
    return nil
}

/// Handles and names as a procedure has them, then some words.
/// - Parameter known: handles that are taken now and then.
func nfsArguments(
    _ procedure: NFSProcedure, known: [[UInt8]] = [], _ random: inout SeededGenerator
) -> [UInt8] {
    var writer = XDRWriter()
    func handle(_ random: inout SeededGenerator) {
        let isKnown = !known.isEmpty && !random.chance(6)
        switch procedure.version {
        case .v3:
            writer.opaque(
                isKnown ? random.pick(known) : random.octets(random.number(0...64)))
        case .v2:
            let octets = isKnown ? random.pick(known) : random.octets(32)
            writer.fixedOpaque(octets.count == 32 ? octets : random.octets(32))
        }
    }
    func name(_ random: inout SeededGenerator) {
        writer.string(random.pick(["a", "b", ".", "..", "r1", "s2", "a/b", ""]))
    }
    switch procedure.name {
    case "NULL", "ROOT", "WRITECACHE": break
    case "LOOKUP", "CREATE", "MKDIR", "SYMLINK", "MKNOD", "REMOVE", "RMDIR":
        handle(&random)
        name(&random)
    case "RENAME":
        for _ in 0..<2 {
            handle(&random)
            name(&random)
        }
    case "LINK":
        handle(&random)
        handle(&random)
        name(&random)
    default: handle(&random)
    }
    for _ in 0..<random.number(0...16) { writer.uint32(UInt32(random.number(0...3))) }
    return writer.bytes
}

func anyProcedure(_ random: inout SeededGenerator) -> NFSProcedure {
    random.chance(3)
        ? .v2(random.pick(Array(NFSv2Procedure.allCases)))
        : .v3(random.pick(Array(NFSv3Procedure.allCases)))
}

/// Arguments and results of NFS: what is found of handles lies within the message, and replacing it by
/// itself changes no length.
func runNFS(_ random: inout SeededGenerator) throws -> String? {
    let procedure = anyProcedure(&random)
    let version = procedure.version
    let arguments = nfsArguments(procedure, &random)
    let message = random.mutated(
        rpcCall(NFSProgram.number, version.rawValue, procedure.number, arguments))
    let finding = message.withUnsafeBytes { raw -> String? in
        var reader = XDRReader(raw)
        guard let header = try? RPCCallHeader(&reader),
            let call = try? NFSCall(procedure, raw, at: header.arguments)
        else { return nil }
        return check(call.handles + call.names, message, call.end)
            ?? same(call.handles, message, version)
    }
    if let finding { return finding }
    var writer = XDRWriter()
    writer.uint32(random.chance(3) ? 2 : 0)
    for _ in 0..<random.number(0...60) { writer.uint32(UInt32(random.number(0...2))) }
    let reply = random.mutated(RPCMessage.reply(xid: 9, results: writer.bytes))
    return reply.withUnsafeBytes { raw -> String? in
        var reader = XDRReader(raw)
        guard let header = try? RPCReplyHeader(&reader), header.refusal == nil,
            let results = try? NFSResults(procedure, raw, at: header.results)
        else { return nil }
        return check(results.handles + results.fileSystems, reply, results.end)
            ?? same(results.handles, reply, version)
    }
}

private func check(_ ranges: [Range<Int>], _ message: [UInt8], _ end: Int) -> String? {
    guard end <= message.count else { return "the end is behind the message" }
    return ranges.contains { $0.upperBound > end } ? "a range is behind the end" : nil
}

private func same(_ handles: [Range<Int>], _ message: [UInt8], _ version: NFSVersion) -> String? {
    guard
        let copy = try? NFSHandleRewriting.rewrite(
            message, handles: handles, version: version, { Array($0) })
    else { return "handles that were found cannot be replaced" }
    // Padding becomes zero.
    return copy.count == message.count ? nil : "another length"
}
