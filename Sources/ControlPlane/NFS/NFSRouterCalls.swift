import StorageProtocols

// Calls of NFS: what their handles mean, who may what, and how they look to servers.
extension NFSRouter {
    /// What a handle of a call is.
    enum Place: Equatable {
        /// A node of the root directory.
        case directory(Int)
        case export(UInt32, handle: [UInt8])
    }

    /// Why a call is answered with an error.
    enum Failure {
        case stale, badHandle, readOnly, crossExport, noAccess, noEntry, ioError, later

        var v3: NFSv3Status {
            switch self {
            case .stale: .stale
            case .badHandle: .badHandle
            case .readOnly: .readOnly
            case .crossExport: .crossDevice
            case .noAccess: .accessDenied
            case .noEntry: .noEntry
            case .ioError: .ioError
            case .later: .jukebox
            }
        }

        var v2: NFSv2Status {
            switch self {
            // As knfsd has it: version 2 knows no handles that were never good.
            case .stale, .badHandle: .stale
            case .readOnly: .readOnly
            case .crossExport: .crossDevice
            case .noAccess: .accessDenied
            case .noEntry: .noEntry
            case .ioError, .later: .ioError
            }
        }
    }

    func takeNFS(_ incoming: NFSIncoming, now: UInt64, round: Int) -> NFSDecision {
        let header = incoming.header
        guard settings.nfs.versions.contains(where: { $0.rawValue == header.version }) else {
            let versions = settings.nfs.versions.map(\.rawValue)
            return refuse(
                incoming,
                .programMismatch(low: versions.min() ?? 0, high: versions.max() ?? 0), .version)
        }
        guard let procedure = NFSProcedure(version: header.version, number: header.procedure)
        else { return refuse(incoming, .procedureUnavailable, .procedure) }
        if round == 0 { counters.count(procedure.group) }
        let parsed = incoming.octets.withUnsafeBytes {
            try? NFSCall(procedure, $0, at: header.arguments)
        }
        guard let call = parsed else { return refuse(incoming, .garbageArguments, .arguments) }
        var places: [Place] = []
        for range in call.handles {
            let handle = incoming.octets[range]
            switch scheme.meaning(of: handle, version: procedure.version) {
            case .directory(let number):
                guard let node = root?.node(fileNumber: number) else {
                    return fail(incoming, procedure, .stale, .staleHandle)
                }
                places.append(.directory(node))
            case .export(let index, let handle):
                // As knfsd does: to those who may not use it, an export is not there.
                guard rights(index, incoming.client).mode != .none else {
                    return fail(incoming, procedure, .stale, .access)
                }
                places.append(.export(index, handle: handle))
            case .unknown:
                return resolve(incoming, procedure, Array(handle), now: now, round: round)
            case .stale: return fail(incoming, procedure, .stale, .staleHandle)
            case .foreign: return fail(incoming, procedure, .badHandle, .badHandle)
            }
        }
        return decide(incoming, call, places, now: now, round: round)
    }

    private func decide(
        _ incoming: NFSIncoming, _ call: NFSCall, _ places: [Place], now: UInt64, round: Int
    ) -> NFSDecision {
        // NULL, and ROOT and WRITECACHE of version 2: no arguments, no results.
        guard let first = places.first else { return answer(incoming, []) }
        var node: Int?
        var index: UInt32?
        var handles: [[UInt8]] = []
        for place in places {
            switch place {
            case .directory(let found): node = node ?? found
            case .export(let found, let handle):
                if let index, index != found {
                    return fail(incoming, call.procedure, .crossExport, .crossExport)
                }
                index = found
                handles.append(handle)
            }
        }
        guard let node else {
            guard let index else { return answer(incoming, []) }
            return forward(incoming, call, index, handles, now: now, round: round)
        }
        // A link from a directory of ours into an export; everything else would change one of ours.
        if case .directory = first, places.count == 2, case .export = places[1],
            call.procedure == .v3(.link) || call.procedure == .v2(.link)
        {
            return fail(incoming, call.procedure, .crossExport, .crossExport)
        }
        return answerDirectory(incoming, call, node, now: now, round: round)
    }

    private func answerDirectory(
        _ incoming: NFSIncoming, _ call: NFSCall, _ node: Int, now: UInt64, round: Int
    ) -> NFSDecision {
        guard let root else { return fail(incoming, call.procedure, .stale, .staleHandle) }
        if call.procedure.isModifying { counters.count(.readOnly) }
        let found = root.answer(
            call, incoming.octets, at: node, overUDP: incoming.client.transport == .udp
        ) { rights($0, incoming.client).mode != .none }
        switch found {
        case .results(let results): return answer(incoming, results)
        case .export(let index):
            return lookUpRoot(
                incoming, call.procedure.version, index, in: node, now: now, round: round)
        }
    }

    // MARK: To servers

    private func forward(
        _ incoming: NFSIncoming, _ call: NFSCall, _ index: UInt32, _ handles: [[UInt8]],
        now: UInt64, round: Int
    ) -> NFSDecision {
        let procedure = call.procedure
        let rights = rights(index, incoming.client)
        if rights.mode == .readOnly, procedure.isModifying {
            return fail(incoming, procedure, .readOnly, .readOnly)
        }
        if let parent = parentOfRoot(call, incoming.octets, index, handles) {
            return answerParent(incoming, procedure.version, parent)
        }
        guard let octets = serverCall(incoming, call, index, handles, rights) else {
            return refuse(incoming, .authenticationError(.badCredential), .credential)
        }
        let places = Self.names(of: call, incoming.octets, index, handles)
        let first = NFSFirstSend(
            startedAt: now, names: places.map { names.knowledge(of: $0) },
            serverTime: clocks[index]?.time(at: now))
        // RFC 1813 section 3.3.8: an exclusive CREATE is told from others by its verifier, which the server keeps with the
        // file. One that died after it had made the file and before it kept that leaves a file that the next one takes
        // for somebody else's.
        guard !call.isIdempotent || call.isExclusive else {
            return forward(
                incoming, .nfs(procedure), index, rights, octets, places, first, duplicate: nil)
        }
        let duplicate = NFSDuplicateMemory.Call(
            incoming.octets, incoming.header, from: incoming.client)
        if !incoming.isNameAsked, let place = places.first, first.names.first == .some(nil),
            !duplicates.isKnown(duplicate),
            let question = resolveName(incoming, procedure, octets, place, round: round)
        {
            return question
        }
        switch duplicates.begin(duplicate, first, now: now) {
        case .new:
            return forward(
                incoming, .nfs(procedure), index, rights, octets, places, first,
                duplicate: duplicate)
        case .resumed(let first):
            counters.resumed += 1
            return forward(
                incoming, .nfs(procedure), index, rights, octets, places, first,
                duplicate: duplicate, mayHaveBeenDone: true)
        case .underWay:
            counters.underWay += 1
            return .underWay
        case .done(let reply):
            counters.replayed += 1
            return .answer(reply)
        }
    }

    /// - Parameter octets: the call as the server gets it.
    func forward(
        _ incoming: NFSIncoming, _ kind: NFSCallContext.Kind, _ index: UInt32,
        _ rights: NFSRights, _ octets: [UInt8], _ names: [NFSNameMemory.Place],
        _ first: NFSFirstSend, duplicate: NFSDuplicateMemory.Call?, mayHaveBeenDone: Bool = false
    ) -> NFSDecision {
        counters.forwarded += 1
        let resource = exports[index]?.resource ?? ""
        let context = NFSCallContext(
            client: incoming.client, xid: incoming.header.xid, resource: resource, index: index,
            kind: kind, rights: rights, names: names, first: first, duplicate: duplicate)
        return .forward(
            NFSForward(
                resource: resource, program: incoming.header.program,
                version: incoming.header.version, call: octets, context: context,
                isIdempotent: duplicate == nil, mayHaveBeenDone: mayHaveBeenDone))
    }

    /// With the server's handles and the credential that it is to see; nil: there is none.
    private func serverCall(
        _ incoming: NFSIncoming, _ call: NFSCall, _ index: UInt32, _ handles: [[UInt8]],
        _ rights: NFSRights
    ) -> [UInt8]? {
        var octets = incoming.octets
        if case .v3(.readdirplus) = call.procedure, scheme.isDistinct(index),
            let request = call.directory
        {
            octets.set(Self.serverMaximum(request.maxcount), at: call.end - 4)
        }
        var next = handles.makeIterator()
        let rewritten = try? NFSHandleRewriting.rewrite(
            octets, handles: call.handles, version: call.procedure.version
        ) { _ in next.next() }
        return rewritten.flatMap { rights.squashed($0, incoming.header) }
    }

    // RFC 1813 section 3.3.17: maxcount is "The maximum size of the READDIRPLUS3resok structure, in bytes." An entry
    // with a handle has 40 octets at least: a word in front of it, file number, length of the name, cookie, the words
    // in front of attributes and handle, the handle's length, and one word of name or handle. Eight are added.
    /// What a server may give so that the client's limit holds when every handle has become longer.
    private static func serverMaximum(_ maximum: UInt32) -> UInt32 {
        // nfs-ganesha answers SERVERFAULT when what it lists ends at none of XDR's units.
        (maximum / 6 * 5) & ~7
    }

    /// The names that a call is about, in directories of the server.
    private static func names(
        of call: NFSCall, _ octets: [UInt8], _ index: UInt32, _ handles: [[UInt8]]
    ) -> [NFSNameMemory.Place] {
        let directories = call.procedure.nameAction == .link ? Array(handles.dropFirst()) : handles
        return zip(directories, call.names).map {
            NFSNameMemory.Place(index: index, directory: $0, name: Array(octets[$1]))
        }
    }

    // MARK: Between our directories and exports

    /// LOOKUP of ".." in the root of an export: the directory of ours that it is in; nil: it is another call.
    private func parentOfRoot(
        _ call: NFSCall, _ octets: [UInt8], _ index: UInt32, _ handles: [[UInt8]]
    ) -> Int? {
        guard let root, call.procedure.nameAction == .lookUp, let name = call.names.first,
            octets[name] == [UInt8(ascii: "."), UInt8(ascii: ".")],
            handles.first == roots[RootKey(index: index, version: call.procedure.version)]
        else { return nil }
        return root.parent(of: index)
    }

    private func answerParent(
        _ incoming: NFSIncoming, _ version: NFSVersion, _ node: Int
    ) -> NFSDecision {
        guard let root else { return answer(incoming, []) }
        let handle = root.handle(of: node)
        switch version {
        case .v2:
            return answer(incoming, NFSv2Replies.lookup(handle, root.attributes2(of: node)))
        case .v3:
            return answer(
                incoming,
                NFSv3Replies.lookup(handle, root.attributes3(of: node), directory: nil))
        }
    }

    /// LOOKUP in a directory of ours has found an export. Its handle is known or asked for; its attributes are asked
    /// for in any case, by a GETATTR that stands for the LOOKUP.
    private func lookUpRoot(
        _ incoming: NFSIncoming, _ version: NFSVersion, _ index: UInt32, in node: Int,
        now: UInt64, round: Int
    ) -> NFSDecision {
        guard let handle = roots[RootKey(index: index, version: version)] else {
            return resolveRoot(incoming, version, index, round: round)
        }
        var writer = XDRWriter()
        var octets = Array(incoming.octets[..<incoming.header.arguments])
        switch version {
        case .v2:
            octets.set(NFSv2Procedure.getattr.rawValue, at: 20)
            writer.fixedOpaque(handle)
        case .v3:
            octets.set(NFSv3Procedure.getattr.rawValue, at: 20)
            writer.opaque(handle)
        }
        let rights = rights(index, incoming.client)
        guard let call = rights.squashed(octets + writer.bytes, incoming.header) else {
            return refuse(incoming, .authenticationError(.badCredential), .credential)
        }
        let directory = root?.fileNumber(of: node) ?? 0
        return forward(
            incoming, .exportRoot(version, directory: directory), index, rights, call, [],
            NFSFirstSend(startedAt: now), duplicate: nil)
    }

    // MARK: Errors

    func fail(
        _ incoming: NFSIncoming, _ procedure: NFSProcedure, _ failure: Failure,
        _ reason: NFSCounters.Refusal
    ) -> NFSDecision {
        counters.count(reason)
        return answer(incoming, Self.results(procedure, failure))
    }

    static func results(_ procedure: NFSProcedure, _ failure: Failure) -> [UInt8] {
        switch procedure {
        case .v2(let procedure): NFSv2Replies.failure(procedure, failure.v2)
        case .v3(let procedure): NFSv3Replies.failure(procedure, failure.v3)
        }
    }
}

/// What a call does with the names in it.
enum NFSNameAction { case lookUp, create, remove, rename, link }

extension NFSProcedure {
    /// Nil: it has none.
    var nameAction: NFSNameAction? {
        switch self {
        case .v2(.lookup), .v3(.lookup): .lookUp
        case .v2(.create), .v2(.mkdir), .v2(.symlink): .create
        case .v3(.create), .v3(.mkdir), .v3(.symlink), .v3(.mknod): .create
        case .v2(.remove), .v2(.rmdir), .v3(.remove), .v3(.rmdir): .remove
        case .v2(.rename), .v3(.rename): .rename
        case .v2(.link), .v3(.link): .link
        default: nil
        }
    }
}
