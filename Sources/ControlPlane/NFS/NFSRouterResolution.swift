import StorageProtocols

// What has to be asked at servers before a call can go on. It is asked in our own name, as root: what is learned of it,
// a handle, is the same for everybody, and who may use it is told by rules.
extension NFSRouter {
    /// Times that one call asks: for the handles of its directories, one after the other, and for roots that a server
    /// has given up meanwhile.
    private static let roundMaximum = 4
    /// ns for which a handle that no server knew is not asked for again.
    private static let strangerTime: UInt64 = 5_000_000_000

    private static let credential = RPCSystemCredential(machineName: "dsr", uid: 0, gid: 0)

    // MARK: Asking

    /// The handle of an export's root, for a LOOKUP.
    func resolveRoot(
        _ incoming: NFSIncoming, _ version: NFSVersion, _ index: UInt32, round: Int
    ) -> NFSDecision {
        guard round < Self.roundMaximum, let export = exports[index] else {
            return later(incoming)
        }
        return resolve(
            incoming, [Self.mount(export, version)], .root(index, version), round: round)
    }

    private static func mount(_ export: Export, _ version: NFSVersion) -> NFSOwnCall {
        let mountVersion = version.mountVersion
        return NFSOwnCall(
            resource: export.resource, program: MountProtocol.program,
            version: mountVersion.rawValue,
            call: MountCall.mount(path: export.export.path).message(
                xid: 0, version: mountVersion, credential: credential))
    }

    /// Which of the shared exports a handle is of.
    func resolve(
        _ incoming: NFSIncoming, _ procedure: NFSProcedure, _ handle: [UInt8], now: UInt64,
        round: Int
    ) -> NFSDecision {
        if let time = strangers.value(handle), now &- time < Self.strangerTime {
            return fail(incoming, procedure, .stale, .staleHandle)
        }
        let version = procedure.version
        let indexes = order.filter { exports[$0]?.export.handles == .shared }
        guard round < Self.roundMaximum, !indexes.isEmpty else { return later(incoming) }
        var writer = XDRWriter()
        if version == .v3 { writer.opaque(handle) } else { writer.fixedOpaque(handle) }
        let number =
            version == .v3
            ? NFSv3Procedure.getattr.rawValue : NFSv2Procedure.getattr.rawValue
        let call = RPCMessage.call(
            xid: 0, program: NFSProgram.number, version: version.rawValue, procedure: number,
            credential: Self.credential, arguments: writer.bytes)
        let calls = indexes.map { index in
            NFSOwnCall(
                resource: exports[index]?.resource ?? "", program: NFSProgram.number,
                version: version.rawValue, call: call)
        }
        return resolve(
            incoming, calls, .shared(handle, indexes: indexes, version), round: round)
    }

    /// Whether a name is there, before a call is sent that makes it or takes it away. Should the server die under that
    /// call, an error of the next one is told from the first one's success by what is answered here. Clients ask for
    /// most names themselves, so this is seldom needed.
    /// - Parameter octets: the call as the server gets it: it is asked in the same caller's name.
    /// - Returns: nil: whatever becomes of the call, it can be sent again as it is.
    func resolveName(
        _ incoming: NFSIncoming, _ procedure: NFSProcedure, _ octets: [UInt8],
        _ place: NFSNameMemory.Place, round: Int
    ) -> NFSDecision? {
        guard let request = NFSRetryRequest(octets, procedure),
            let export = exports[place.index]
        else { return nil }
        let own = NFSOwnCall(
            resource: export.resource, program: NFSProgram.number,
            version: procedure.version.rawValue, call: request.lookUp(0))
        var asked = incoming
        asked.isNameAsked = true
        return resolve(asked, [own], .name(place, request), round: round)
    }

    private func resolve(
        _ incoming: NFSIncoming, _ calls: [NFSOwnCall], _ question: NFSResolution.Question,
        round: Int
    ) -> NFSDecision {
        counters.resolutions += 1
        return .resolve(
            NFSResolution(
                calls: calls, question: question, incoming: incoming, askedAt: now, round: round))
    }

    // MARK: Answers

    /// What becomes of the call now.
    /// - Parameter replies: to the calls of the resolution, in their order; nil: there was none.
    package func take(
        _ replies: [[UInt8]?], for resolution: NFSResolution, now: UInt64
    ) -> NFSDecision {
        let incoming = resolution.incoming
        switch resolution.question {
        case .root(let index, let version):
            switch takeRoot(replies.first ?? nil, index, version) {
            case nil: break
            case .later: return later(incoming)
            case let failure?: return fail(incoming, failure)
            }
        case .shared(let handle, let indexes, let version):
            switch takeShared(replies, handle, indexes, version, now: now) {
            case .settled: break
            case .later: return later(incoming)
            case .several(let owners):
                let mounts = owners.compactMap { exports[$0] }.map { Self.mount($0, version) }
                return resolve(
                    incoming, mounts, .owner(handle, owners: owners, version),
                    round: resolution.round)
            }
        case .owner(let handle, let owners, let version):
            for (index, reply) in zip(owners, replies) { _ = takeRoot(reply, index, version) }
            if let owner = likeliest(owners, handle, version) { scheme.learn(handle, of: owner) }
        case .name(let place, let request):
            // Nothing was sent yet that could have been done.
            guard let reply = replies.first ?? nil else { return later(incoming) }
            switch request.found(reply) {
            case .nothing: names.see(place, isThere: false, askedAt: resolution.askedAt)
            case .object(let object):
                let identity = NFSNameMemory.Identity(
                    handle: object.handle, fileNumber: object.attributes?.fileNumber)
                names.see(
                    place, isThere: true, identity: identity, askedAt: resolution.askedAt)
            case .unclear: break
            }
        }
        return route(incoming, now: now, round: resolution.round + 1)
    }

    /// Nil: the root is known now.
    private func takeRoot(
        _ reply: [UInt8]?, _ index: UInt32, _ version: NFSVersion
    ) -> Failure? {
        guard let reply, let result = Self.mountResult(reply, version.mountVersion) else {
            return .later
        }
        switch result {
        case .mounted(let handle, _):
            roots[RootKey(index: index, version: version)] = handle
            return nil
        case .failed(.accessDenied), .failed(.notOwner): return .noAccess
        case .failed(.noEntry), .failed(.notDirectory): return .noEntry
        case .failed: return .ioError
        }
    }

    private enum Finding {
        /// It is known now, or nobody has it.
        case settled
        /// Not all have answered.
        case later
        /// Their servers all have it.
        case several([UInt32])
    }

    private func takeShared(
        _ replies: [[UInt8]?], _ handle: [UInt8], _ indexes: [UInt32], _ version: NFSVersion,
        now: UInt64
    ) -> Finding {
        var owners: [UInt32] = []
        var fileSystem: FileSystem?
        var isComplete = replies.count >= indexes.count
        for (index, reply) in zip(indexes, replies) {
            guard let reply, let answer = Self.attributes(reply, version) else {
                isComplete = false
                continue
            }
            guard let attributes = answer.attributes else {
                if answer.status == NFSv3Status.jukebox.rawValue { isComplete = false }
                continue
            }
            owners.append(index)
            fileSystem = FileSystem(version: version, number: attributes.fileSystem)
        }
        // Servers in front of the same storage may all know the file: then its file system tells, as far as it is
        // known whose it is, or the handle does.
        if owners.count > 1 {
            let known = fileSystem.flatMap { fileSystems.value($0) ?? nil }
            if let known, owners.contains(known) {
                owners = [known]
            } else if owners.contains(where: {
                roots[RootKey(index: $0, version: version)] == nil
            }) {
                return .several(owners)
            }
        }
        if let owner = likeliest(owners, handle, version) {
            scheme.learn(handle, of: owner)
            return .settled
        }
        if isComplete { strangers.set(now, for: handle) }
        return isComplete ? .settled : .later
    }

    /// Whose root is most like a handle. Servers tell a file's export by octets that all its handles have, and which come
    /// first: nfs-ganesha by the export's number, knfsd by the file system and the directory. So the octets are compared
    /// one after the other; one that tells some of the exports from others decides against those others.
    private func likeliest(
        _ owners: [UInt32], _ handle: [UInt8], _ version: NFSVersion
    ) -> UInt32? {
        var left = owners.compactMap { owner in
            roots[RootKey(index: owner, version: version)].map { (owner: owner, root: $0) }
        }
        for (place, octet) in handle.enumerated() where left.count > 1 {
            let alike = left.filter { place < $0.root.count && $0.root[place] == octet }
            if !alike.isEmpty { left = alike }
        }
        return left.first?.owner ?? owners.first
    }

    /// Nil: no reply to MNT that can be read.
    static func mountResult(
        _ reply: [UInt8], _ version: MountProtocol.Version
    ) -> MountResult? {
        reply.withUnsafeBytes { raw -> MountResult? in
            var reader = XDRReader(raw)
            guard let header = try? RPCReplyHeader(&reader), header.refusal == nil else {
                return nil
            }
            return try? MountResult(&reader, version: version)
        }
    }

    /// What GETATTR says: attributes, or none with an error. Nil: no reply to it that can be read.
    private static func attributes(
        _ reply: [UInt8], _ version: NFSVersion
    ) -> (attributes: NFSFileAttributes?, status: UInt32)? {
        reply.withUnsafeBytes { raw -> (attributes: NFSFileAttributes?, status: UInt32)? in
            var reader = XDRReader(raw)
            guard let header = try? RPCReplyHeader(&reader), header.refusal == nil,
                let status = try? reader.uint32()
            else { return nil }
            guard status == NFSv3Status.ok.rawValue else { return (nil, status) }
            guard let attributes = try? NFSFileAttributes(version, &reader) else { return nil }
            return (attributes, status)
        }
    }

    // MARK: Errors

    /// The client is to come again. Who sends datagrams does so by itself, and version 2 has no word for it.
    private func later(_ incoming: NFSIncoming) -> NFSDecision {
        counters.count(.noServer)
        guard incoming.client.transport == .tcp else { return .underWay }
        return answerFailure(incoming, .later)
    }

    private func fail(_ incoming: NFSIncoming, _ failure: Failure) -> NFSDecision {
        counters.count(failure == .noAccess ? .access : .noExport)
        return answerFailure(incoming, failure)
    }

    private func answerFailure(_ incoming: NFSIncoming, _ failure: Failure) -> NFSDecision {
        let header = incoming.header
        guard let procedure = NFSProcedure(version: header.version, number: header.procedure)
        else { return refuse(incoming, .procedureUnavailable, .procedure) }
        return answer(incoming, Self.results(procedure, failure))
    }
}
