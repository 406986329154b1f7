import StorageProtocols

/// A server of NFS 2 and 3 and of MOUNT, as octets in and octets out. Its handles are those of any other one whose
/// storage has the same file numbers.
final class NFSFakeServer {
    let storage: NFSFakeStorage
    /// What MNT takes.
    let path: String
    /// Octets of handles of version 3.
    let handleLength: Int
    /// Flavors that MNT tells.
    var flavors: [UInt32] = [RPCFlavor.system, RPCFlavor.none]
    /// Put into replies, which clients must not see.
    var verifier: [UInt8]?
    /// What was called, by whom: nil is AUTH_NONE.
    private(set) var log: [(name: String, caller: RPCSystemCredential?)] = []
    /// Last octet of its handles, which it does not look at.
    var mark: UInt8 = 0
    /// Attributes are left out where the RFC allows it.
    var isSilent = false

    init(_ storage: NFSFakeStorage, path: String, handleLength: Int = 28) {
        self.storage = storage
        self.path = path
        self.handleLength = handleLength
    }

    /// Names of what was called since the last time.
    func takeLog() -> [String] {
        defer { log = [] }
        return log.map { $0.name }
    }

    // MARK: Handles

    func handle(_ number: UInt64, _ version: NFSVersion = .v3) -> [UInt8] {
        let octets: [UInt8] =
            [0x43] + (0..<8).map { UInt8(truncatingIfNeeded: number >> UInt64(56 - 8 * $0)) }
        let length = version == .v3 ? handleLength : version.handleLength
        return octets + [UInt8](repeating: 0, count: length - octets.count - 1) + [mark]
    }

    private func number(_ handle: ArraySlice<UInt8>) -> UInt64? {
        guard handle.first == 0x43, handle.count > 8 else { return nil }
        let number = handle.dropFirst().prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
        return storage[number] == nil ? nil : number
    }

    // MARK: Calls

    /// Nil: no call.
    func reply(to call: [UInt8]) -> [UInt8]? {
        call.withUnsafeBytes { raw -> [UInt8]? in
            var reader = XDRReader(raw)
            guard let header = try? RPCCallHeader(&reader) else { return nil }
            let caller = try? RPCSystemCredential(header.credential, in: raw)
            let results: [UInt8]
            if header.program == MountProtocol.program {
                log.append(("MNT", caller))
                guard let found = mount(header, &reader) else { return nil }
                results = found
            } else {
                guard header.program == NFSProgram.number,
                    let procedure = NFSProcedure(
                        version: header.version, number: header.procedure),
                    let parsed = try? NFSCall(procedure, raw, at: header.arguments)
                else {
                    return RPCMessage.reply(xid: header.xid, refusal: .programUnavailable)
                }
                log.append((procedure.name, caller))
                var request = NFSFakeRequest(call: parsed, message: call, server: self)
                results = request.results(caller) ?? []
            }
            guard let verifier else {
                return RPCMessage.reply(xid: header.xid, results: results)
            }
            var writer = XDRWriter()
            for word in [header.xid, 1, 0, RPCFlavor.short] { writer.uint32(word) }
            writer.opaque(verifier)
            writer.uint32(0)
            return writer.bytes + results
        }
    }

    private func mount(_ header: RPCCallHeader, _ reader: inout XDRReader) -> [UInt8]? {
        guard let version = MountProtocol.Version(rawValue: header.version),
            case .mount(let wanted)? = try? MountCall(header, &reader)
        else { return nil }
        guard wanted == path || wanted.hasPrefix(path + "/") else {
            return MountResult.failed(.accessDenied).encoded(version: version)
        }
        guard let number = storage.find(String(wanted.dropFirst(path.count))) else {
            return MountResult.failed(.noEntry).encoded(version: version)
        }
        return MountResult.mounted(
            handle: handle(number, version == .one ? .v2 : .v3), flavors: flavors
        ).encoded(version: version)
    }

    fileprivate func find(_ handle: ArraySlice<UInt8>) -> UInt64? { number(handle) }
}

/// One call of NFS and its results.
private struct NFSFakeRequest {
    let call: NFSCall
    let message: [UInt8]
    let server: NFSFakeServer
    private var storage: NFSFakeStorage { server.storage }
    private var writer = XDRWriter()

    init(call: NFSCall, message: [UInt8], server: NFSFakeServer) {
        self.call = call
        self.message = message
        self.server = server
    }

    private func name(_ index: Int) -> [UInt8] { Array(message[call.names[index]]) }
    private func file(_ index: Int) -> UInt64? { server.find(message[call.handles[index]]) }

    mutating func results(_ caller: RPCSystemCredential?) -> [UInt8]? {
        guard !call.handles.isEmpty else { return [] }
        guard let first = file(0), call.handles.count == 1 || file(1) != nil else {
            return failure(.stale)
        }
        switch call.procedure {
        case .v2(let procedure): return results2(procedure, first)
        case .v3(let procedure): return results3(procedure, first)
        }
    }

    private func failure(_ status: NFSv3Status) -> [UInt8] {
        switch call.procedure {
        case .v3(let procedure): NFSv3Replies.failure(procedure, status)
        case .v2(let procedure):
            NFSv2Replies.failure(procedure, NFSv2Status(rawValue: status.rawValue) ?? .ioError)
        }
    }

    // MARK: Parts

    private mutating func attributes(_ number: UInt64) {
        let found = server.isSilent ? nil : storage.attributes3(number)
        writer.bool(found != nil)
        found?.encode(into: &writer)
    }

    /// wcc_data, with what was before.
    private mutating func change(_ number: UInt64) {
        writer.bool(true)
        writer.uint64(1)
        for word: UInt32 in [1, 2, 3, 4] { writer.uint32(word) }
        attributes(number)
    }

    /// Arguments behind the first name, or behind the first handle where there is none.
    private func arguments<Value>(_ body: (inout XDRReader) throws -> Value) -> Value? {
        let before = call.names.first ?? call.handles[0]
        return message.withUnsafeBytes { raw -> Value? in
            var reader = XDRReader(raw)
            guard (try? reader.skip(before.lowerBound + (before.count + 3) & ~3)) != nil else {
                return nil
            }
            return try? body(&reader)
        }
    }

    /// sattr3.
    private func settable(_ reader: inout XDRReader, _ file: inout NFSFakeStorage.File) throws {
        if try reader.bool() { file.mode = try reader.uint32() }
        if try reader.bool() { file.userID = try reader.uint32() }
        if try reader.bool() { file.groupID = try reader.uint32() }
        if try reader.bool() {
            let size = Int(try reader.uint64())
            file.data =
                Array(file.data.prefix(size))
                + [UInt8](repeating: 0, count: max(0, size - file.data.count))
        }
        for _ in 0..<2 {
            if try reader.uint32() == 2 { try reader.skip(8) }
        }
    }

    private func text(_ reader: inout XDRReader) throws -> [UInt8] {
        let range = try reader.opaque(maximum: 1_024)
        return try reader.bytes(range)
    }

    /// The file of a name in the first directory, "." and ".." among them.
    private func child(_ directory: UInt64) -> UInt64? {
        switch name(0) {
        case Array(".".utf8): directory
        case Array("..".utf8): storage[directory]?.parent
        default: storage.child(name(0), of: directory)
        }
    }

    // MARK: Version 3

    private mutating func results3(_ procedure: NFSv3Procedure, _ first: UInt64) -> [UInt8]? {
        guard let own = storage.attributes3(first) else { return nil }
        switch procedure {
        case .null: return []
        case .getattr: return NFSv3Replies.getattr(own)
        case .setattr: return setAttributes(first)
        case .lookup:
            guard let found = child(first) else { return failure(.noEntry) }
            return NFSv3Replies.lookup(
                server.handle(found), server.isSilent ? nil : storage.attributes3(found),
                directory: own)
        case .access: return NFSv3Replies.access(call.access ?? 0, own)
        case .readlink:
            success()
            attributes(first)
            writer.opaque(storage[first]?.text ?? [])
            return writer.bytes
        case .read:
            let data = (storage[first]?.data ?? []).dropFirst(Int(call.offset ?? 0))
                .prefix(Int(call.count ?? 0))
            success()
            attributes(first)
            writer.uint32(UInt32(data.count))
            writer.bool(true)
            writer.opaque(Array(data))
            return writer.bytes
        case .write:
            write(first)
            success()
            change(first)
            writer.uint32(call.count ?? 0)
            writer.uint32(2)
            writer.uint64(9)
            return writer.bytes
        case .create, .mkdir, .symlink, .mknod: return make(procedure, first)
        case .remove, .rmdir, .rename, .link: return changeNames(first)
        case .readdir, .readdirplus:
            let request = call.directory ?? NFSDirectoryRequest(cookie: 0, maxcount: 0)
            let entries = entries(first, isPlus: procedure == .readdirplus)
            return procedure == .readdir
                ? NFSv3Replies.readdir(request, entries, own, verifier: 3)
                : NFSv3Replies.readdirplus(request, entries, own, verifier: 3)
        case .fsstat: return NFSv3Replies.fsstat(NFSv3FileSystemStatistics(), own)
        case .fsinfo: return NFSv3Replies.fsinfo(NFSv3FileSystemInformation(), own)
        case .pathconf: return NFSv3Replies.pathconf(NFSv3PathConfiguration(), own)
        case .commit:
            success()
            change(first)
            writer.uint64(9)
            return writer.bytes
        }
    }

    private mutating func success() { writer.uint32(0) }

    private func write(_ number: UInt64) {
        guard let range = call.data, var file = storage[number] else { return }
        let offset = Int(call.offset ?? 0)
        let end = offset + range.count
        if file.data.count < end {
            file.data += [UInt8](repeating: 0, count: end - file.data.count)
        }
        file.data.replaceSubrange(offset..<end, with: message[range])
        file.changedAt = storage.tick()
        storage[number] = file
    }

    private mutating func setAttributes(_ number: UInt64) -> [UInt8] {
        guard var file = storage[number], let time = storage.attributes3(number)?.changeTime else {
            return failure(.stale)
        }
        let isAllowed = arguments { reader -> Bool in
            try settable(&reader, &file)
            guard try reader.bool() else { return true }
            let seconds = try reader.uint32()
            return NFSv3Time(seconds: seconds, nanoseconds: try reader.uint32()) == time
        }
        guard isAllowed == true else { return failure(.notSynchronized) }
        file.changedAt = storage.tick()
        storage[number] = file
        success()
        change(number)
        return writer.bytes
    }

    private mutating func make(_ procedure: NFSv3Procedure, _ directory: UInt64) -> [UInt8] {
        var file = NFSFakeStorage.File(type: .regular)
        var mode: UInt32 = 1
        _ = arguments { reader in
            switch procedure {
            case .create:
                mode = try reader.uint32()
                if mode == 2 {
                    file.verifier = try reader.uint64()
                } else {
                    try settable(&reader, &file)
                }
            case .mkdir:
                file.type = .directory
                try settable(&reader, &file)
            case .symlink:
                file.type = .symbolicLink
                try settable(&reader, &file)
                file.text = try text(&reader)
            default:
                file.type = NFSv3FileType(rawValue: try reader.uint32()) ?? .fifo
                try settable(&reader, &file)
                if file.type == .blockDevice || file.type == .characterDevice {
                    file.device = [try reader.uint32(), try reader.uint32()]
                }
            }
        }
        let there = storage.child(name(0), of: directory)
        if let there {
            let isSame = mode == 2 && storage[there]?.verifier == file.verifier
            guard mode == 0 || isSame else { return failure(.exists) }
        }
        let made = there ?? storage.make(file, name(0), in: directory)
        success()
        writer.bool(!server.isSilent)
        if !server.isSilent { writer.opaque(server.handle(made)) }
        attributes(made)
        change(directory)
        return writer.bytes
    }

    /// REMOVE, RMDIR, RENAME, LINK of either version.
    private mutating func changeNames(_ first: UInt64) -> [UInt8] {
        let second = call.handles.count > 1 ? file(1) ?? 0 : 0
        let isVersion3 = call.procedure.version == .v3
        switch call.procedure {
        case .v3(.remove), .v3(.rmdir), .v2(.remove), .v2(.rmdir):
            guard let number = storage.child(name(0), of: first) else { return failure(.noEntry) }
            if storage[number]?.entries.isEmpty == false { return failure(.notEmpty) }
            storage.remove(name(0), from: first)
            success()
            if isVersion3 { change(first) }
        case .v3(.rename), .v2(.rename):
            guard storage.child(name(0), of: first) != nil else { return failure(.noEntry) }
            storage.rename(name(0), first, to: name(1), second)
            success()
            if isVersion3 {
                change(first)
                change(second)
            }
        default:
            guard storage.child(name(0), of: second) == nil else { return failure(.exists) }
            storage.link(first, name(0), in: second)
            success()
            if isVersion3 {
                attributes(first)
                change(second)
            }
        }
        return writer.bytes
    }

    private func entries(_ directory: UInt64, isPlus: Bool) -> [NFSDirectoryEntry] {
        let all = (storage[directory]?.entries ?? [:]).sorted { $0.value < $1.value }
        return all.map { name, number in
            var entry = NFSDirectoryEntry(fileID: number, name: name, cookie: number)
            if isPlus {
                entry.attributes = server.isSilent ? nil : storage.attributes3(number)
                entry.handle = server.handle(number)
            }
            return entry
        }
    }

    // MARK: Version 2

    private mutating func results2(_ procedure: NFSv2Procedure, _ first: UInt64) -> [UInt8]? {
        guard let own = storage.attributes2(first) else { return nil }
        switch procedure {
        case .null, .root, .writecache: return []
        case .getattr, .setattr: return NFSv2Replies.getattr(own)
        case .lookup:
            guard let found = child(first), let attributes = storage.attributes2(found) else {
                return failure(.noEntry)
            }
            return NFSv2Replies.lookup(server.handle(found, .v2), attributes)
        case .readlink:
            success()
            writer.opaque(storage[first]?.text ?? [])
            return writer.bytes
        case .read:
            success()
            own.encode(into: &writer)
            writer.opaque(
                Array(
                    (storage[first]?.data ?? []).dropFirst(Int(call.offset ?? 0))
                        .prefix(Int(call.count ?? 0))))
            return writer.bytes
        case .write:
            write(first)
            return storage.attributes2(first).map { NFSv2Replies.getattr($0) }
        case .create, .mkdir, .symlink: return make2(procedure, first)
        case .remove, .rmdir, .rename, .link: return changeNames(first)
        case .readdir:
            let request = call.directory ?? NFSDirectoryRequest(cookie: 0, maxcount: 0)
            return NFSv2Replies.readdir(request, entries(first, isPlus: false))
        case .statfs: return NFSv2Replies.statfs(NFSv2FileSystemStatistics())
        }
    }

    private mutating func make2(_ procedure: NFSv2Procedure, _ directory: UInt64) -> [UInt8] {
        guard storage.child(name(0), of: directory) == nil else { return failure(.exists) }
        var file = NFSFakeStorage.File(type: .regular)
        switch procedure {
        case .mkdir: file.type = .directory
        case .symlink:
            file.type = .symbolicLink
            file.text = arguments { try text(&$0) } ?? []
        default: break
        }
        let number = storage.make(file, name(0), in: directory)
        guard procedure != .symlink, let attributes = storage.attributes2(number) else {
            success()
            return writer.bytes
        }
        return NFSv2Replies.lookup(server.handle(number, .v2), attributes)
    }
}
