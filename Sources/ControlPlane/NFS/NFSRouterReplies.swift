import StorageProtocols

// Replies of servers on their way to clients, and what is learned of them.
extension NFSRouter {
    /// The client's reply to a forwarded call: its XID, handles and file systems as clients see them. Notes what is
    /// learned.
    /// - Parameter reply: the server's; its XID does not count.
    /// - Returns: nil when it is no reply to the call that can be read. The call is still open then.
    package func finish(_ context: NFSCallContext, reply: [UInt8], now: UInt64) -> [UInt8]? {
        self.now = now
        guard let answer = clientReply(context, reply, now) else {
            counters.unusableReplies += 1
            return nil
        }
        if let duplicate = context.duplicate {
            duplicates.finish(duplicate, reply: answer, now: now)
        }
        counters.replies += 1
        return answer
    }

    /// The call cannot be done: no server for long.
    /// - Parameter wasSent: it may have reached a server. When the client says it again, `NFSForward.mayHaveBeenDone`
    ///   is true, even if it comes with another XID.
    /// - Returns: what the client is told: to come again later (NFS3ERR_JUKEBOX), in version 2 NFSERR_IO, of MOUNT
    ///   MNT3ERR_SERVERFAULT or EIO. Nil to stay silent: who sends datagrams comes again by itself.
    package func give(up context: NFSCallContext, wasSent: Bool = true) -> [UInt8]? {
        counters.count(.noServer)
        if let duplicate = context.duplicate {
            duplicates.giveUp(duplicate, wasSent: wasSent, now: now)
        }
        guard context.client.transport == .tcp else { return nil }
        let results: [UInt8]
        switch context.kind {
        case .nfs(let procedure): results = Self.results(procedure, .later)
        case .exportRoot(.v2, _): results = Self.results(.v2(.lookup), .later)
        case .exportRoot(.v3, _): results = Self.results(.v3(.lookup), .later)
        case .mount(let version, _, _):
            let status: MountStatus = version == .one ? .inputOutput : .serverFault
            results = MountResult.failed(status).encoded(version: version)
        }
        return RPCMessage.reply(xid: context.xid, results: results)
    }

    // MARK: Calls that are sent again

    /// What is to be sent in place of a call that is not idempotent and may have been done by a server that has died.
    package func retry(_ forward: NFSForward) -> NFSRetry { NFSRetry(forward) }

    /// The client's reply to a call that was sent again.
    package func finish(
        _ context: NFSCallContext, _ outcome: NFSRetry.Outcome, now: UInt64
    ) -> [UInt8]? {
        guard let otherwise = outcome.otherwise else {
            return finish(context, reply: outcome.reply, now: now)
        }
        if wasDoneByOthers(context) { return finish(context, reply: otherwise, now: now) }
        counters.mended += 1
        return finish(context, reply: outcome.reply, now: now)
    }

    /// Somebody was told since the first send that another call has done this to the name.
    private func wasDoneByOthers(_ context: NFSCallContext) -> Bool {
        guard case .nfs(let procedure) = context.kind, let place = context.names.first,
            let action = procedure.nameAction
        else { return false }
        let isMade = action == .create || action == .link
        return names.wasChanged(place, isThere: isMade, since: context.first.startedAt)
    }

    // MARK: By kind

    private func clientReply(
        _ context: NFSCallContext, _ reply: [UInt8], _ now: UInt64
    ) -> [UInt8]? {
        let parsed = reply.read { (reader: inout XDRReader) throws(RPCError) in
            try RPCReplyHeader(&reader)
        }
        guard case .success(let header) = parsed else { return nil }
        if let refusal = header.refusal {
            return RPCMessage.reply(xid: context.xid, refusal: refusal)
        }
        switch context.kind {
        case .nfs(let procedure): return nfsReply(context, procedure, header, reply, now)
        case .exportRoot(let version, let directory):
            return rootReply(context, version, directory, header, reply)
        case .mount(let version, let path, let isRoot):
            return mountReply(context, version, path, isRoot: isRoot, reply)
        }
    }

    private func nfsReply(
        _ context: NFSCallContext, _ procedure: NFSProcedure, _ header: RPCReplyHeader,
        _ reply: [UInt8], _ now: UInt64
    ) -> [UInt8]? {
        let parsed = reply.withUnsafeBytes {
            try? NFSResults(procedure, $0, at: header.results)
        }
        guard let results = parsed else { return nil }
        note(context, procedure, results, reply, now)
        var octets = reply
        if case .v3(.access) = procedure, results.isSuccess, context.rights.mode == .readOnly {
            let changing = NFSAccess.modify | NFSAccess.extend | NFSAccess.delete
            let place = results.end - 4
            octets.set(octets.field32(place) & ~changing, at: place)
        }
        let mask = fileSystemMask(context)
        if mask != 0 {
            NFSFileSystemRewriting.mask(&octets, fileSystems: results.fileSystems, with: mask)
        }
        if !results.handles.isEmpty {
            let rewritten = try? NFSHandleRewriting.rewrite(
                octets, handles: results.handles, version: procedure.version
            ) { scheme.clientHandle($0, of: context.index, version: procedure.version) }
            guard let rewritten else { return nil }
            octets = rewritten
        }
        return own(octets, header, context)
    }

    /// With the client's XID. A verifier of the server's is not for the client: it could be a short form of the
    /// credential (RFC 5531 section 8.2, AUTH_SHORT), which stands for something only there.
    private func own(
        _ reply: [UInt8], _ header: RPCReplyHeader, _ context: NFSCallContext
    ) -> [UInt8] {
        guard let verifier = header.verifier, verifier.flavor == RPCFlavor.none,
            verifier.body.isEmpty
        else {
            return RPCMessage.reply(xid: context.xid, results: Array(reply[header.results...]))
        }
        var result = reply
        result.set(context.xid, at: 0)
        return result
    }

    private func fileSystemMask(_ context: NFSCallContext) -> UInt64 {
        let isMasked = context.client.transport == .tcp || settings.masksDatagrams
        return isMasked ? scheme.fileSystemMask(context.index) : 0
    }

    /// LOOKUP's reply, from that to the GETATTR that stood for it.
    private func rootReply(
        _ context: NFSCallContext, _ version: NFSVersion, _ directory: UInt32,
        _ header: RPCReplyHeader, _ reply: [UInt8]
    ) -> [UInt8]? {
        let procedure: NFSProcedure = version == .v2 ? .v2(.lookup) : .v3(.lookup)
        let asked: NFSProcedure = version == .v2 ? .v2(.getattr) : .v3(.getattr)
        let parsed = reply.withUnsafeBytes { try? NFSResults(asked, $0, at: header.results) }
        guard let results = parsed else { return nil }
        let key = RootKey(index: context.index, version: version)
        guard results.isSuccess, let root = roots[key] else {
            return RPCMessage.reply(
                xid: context.xid, results: rootFailure(procedure, results.status, key))
        }
        var octets = reply
        NFSFileSystemRewriting.mask(
            &octets, fileSystems: results.fileSystems, with: fileSystemMask(context))
        let found = octets.read { (reader: inout XDRReader) throws(XDRError) in
            try reader.skip(header.results + 4)
            return try NFSFileAttributes(version, &reader)
        }
        guard case .success(let attributes) = found else { return nil }
        let handle = scheme.clientHandle(root[...], of: context.index, version: version)
        let encoded: [UInt8]
        switch attributes {
        case .v2(let attributes): encoded = NFSv2Replies.lookup(handle, attributes)
        case .v3(let attributes):
            let node = self.root?.node(fileNumber: directory)
            encoded = NFSv3Replies.lookup(
                handle, attributes,
                directory: node.flatMap { self.root?.attributes3(of: $0) })
        }
        return RPCMessage.reply(xid: context.xid, results: encoded)
    }

    /// The root may be another one by now: it is asked for again.
    private func rootFailure(
        _ procedure: NFSProcedure, _ status: UInt32, _ key: RootKey
    ) -> [UInt8] {
        let isLost = [0, NFSv3Status.stale.rawValue, NFSv3Status.badHandle.rawValue]
            .contains(status)
        if isLost { roots[key] = nil }
        switch procedure {
        case .v2(let procedure):
            let error = NFSv2Status(rawValue: status) ?? .ioError
            return NFSv2Replies.failure(procedure, isLost ? .ioError : error)
        case .v3(let procedure):
            let error = NFSv3Status(rawValue: status) ?? .ioError
            return NFSv3Replies.failure(procedure, isLost ? .jukebox : error)
        }
    }

    // MARK: What is learned

    private func note(
        _ context: NFSCallContext, _ procedure: NFSProcedure, _ results: NFSResults,
        _ reply: [UInt8], _ now: UInt64
    ) {
        if let place = results.fileSystems.last {
            noteFileSystem(context.index, procedure.version, place, reply)
            if results.isSuccess, procedure.isModifying {
                let isVersion3 = procedure.version == .v3
                let start =
                    isVersion3
                    ? place.lowerBound - NFSAttributeLayout.fileSystem3
                        + NFSAttributeLayout.changeTime3
                    : place.lowerBound - NFSAttributeLayout.fileSystem2
                        + NFSAttributeLayout.changeTime2
                // Nanoseconds, or microseconds.
                let part = UInt64(reply.field32(start + 4)) * (isVersion3 ? 1 : 1_000)
                clocks[context.index, default: NFSServerClock()].note(
                    change: UInt64(reply.field32(start)) * 1_000_000_000 + part, now: now)
            }
        }
        guard let action = procedure.nameAction, let place = context.names.first else { return }
        let identity = Self.identity(results, reply)
        let askedAt = context.first.startedAt
        switch (action, results.status) {
        case (.lookUp, 0):
            names.see(place, isThere: true, identity: identity, askedAt: askedAt)
        case (.create, 0):
            names.change(place, isThere: true, identity: identity, now: now)
        case (.link, 0): names.change(place, isThere: true, now: now)
        case (.remove, 0): names.change(place, isThere: false, now: now)
        case (.rename, 0):
            let moved = names.knowledge(of: place)?.identity
            names.change(place, isThere: false, now: now)
            if let target = context.names.last {
                names.change(target, isThere: true, identity: moved, now: now)
            }
        case (.create, NFSv3Status.exists.rawValue), (.link, NFSv3Status.exists.rawValue):
            names.see(place, isThere: true, askedAt: askedAt)
        case (.lookUp, NFSv3Status.noEntry.rawValue), (.remove, NFSv3Status.noEntry.rawValue):
            names.see(place, isThere: false, askedAt: askedAt)
        default: break
        }
    }

    /// Of the object that a LOOKUP has found or a call has made; nil: nothing is said of it.
    private static func identity(
        _ results: NFSResults, _ reply: [UInt8]
    ) -> NFSNameMemory.Identity? {
        guard let handle = results.handles.first else { return nil }
        var identity = NFSNameMemory.Identity(handle: Array(reply[handle]))
        let isVersion3 = results.procedure.version == .v3
        // Its attributes come at once behind it, if they come: other ones are the directory's.
        let attributes =
            isVersion3
            ? handle.paddedEnd + 4 + NFSAttributeLayout.fileSystem3
            : handle.paddedEnd + NFSAttributeLayout.fileSystem2
        guard let place = results.fileSystems.first, place.lowerBound == attributes else {
            return identity
        }
        let number = UInt64(reply.field32(place.upperBound))
        identity.fileNumber =
            isVersion3 ? number << 32 | UInt64(reply.field32(place.upperBound + 4)) : number
        return identity
    }

    /// Which file systems the shared exports have.
    private func noteFileSystem(
        _ index: UInt32, _ version: NFSVersion, _ place: Range<Int>, _ reply: [UInt8]
    ) {
        guard exports[index]?.export.handles == .shared else { return }
        let number = reply[place].reduce(0) { $0 << 8 | UInt64($1) }
        let key = FileSystem(version: version, number: number)
        switch fileSystems.peek(key) {
        case nil: fileSystems.set(index, for: key)
        case .some(let owner?) where owner != index: fileSystems.set(nil, for: key)
        default: break
        }
    }
}
