import StorageProtocols

// MOUNT. MNT goes to the server that has the export, which knows what is there and who may have it; everything else is
// answered here.
extension NFSRouter {
    func takeMount(_ incoming: NFSIncoming) -> NFSDecision {
        let header = incoming.header
        let versions = settings.nfs.mountVersions
        guard let version = versions.first(where: { $0.rawValue == header.version }) else {
            let numbers = versions.map(\.rawValue)
            return refuse(
                incoming,
                .programMismatch(low: numbers.min() ?? 0, high: numbers.max() ?? 0), .version)
        }
        counters.count(.mount)
        let parsed = incoming.octets.read {
            (reader: inout XDRReader) throws(RPCRefusal) -> MountCall in
            do throws(XDRError) {
                try reader.skip(header.arguments)
            } catch {
                throw RPCRefusal.garbageArguments
            }
            return try MountCall(header, &reader)
        }
        let address = incoming.client.address
        switch parsed {
        case .failure(let refusal):
            return refuse(
                incoming, refusal,
                refusal == .procedureUnavailable ? .procedure : .arguments)
        case .success(.null): return answer(incoming, [])
        case .success(.dump): return answer(incoming, MountEntry.encoded(mounts.entries))
        case .success(.export): return answer(incoming, MountExport.encoded(exportList))
        case .success(.unmountAll):
            mounts.removeAll(of: address)
            return answer(incoming, [])
        case .success(.unmount):
            if let path = Self.path(incoming) { mounts.remove(path, of: address) }
            return answer(incoming, [])
        case .success(.mount): return mount(incoming, version)
        }
    }

    /// Everything there is, whoever asks, as servers have it. Those that a client may not mount are told too.
    private var exportList: [MountExport] {
        let all = order.compactMap { exports[$0]?.export }.map {
            MountExport(directory: $0.directory, groups: $0.groups)
        }
        return root == nil ? all : [MountExport(directory: "/")] + all
    }

    /// Name of the resource that a path is in; nil: it is a directory of ours, or not exported any more.
    package func resource(at path: NFSPath) -> String? {
        order.lazy.compactMap { self.exports[$0] }
            .first { path.names(behind: $0.directory) != nil }?.resource
    }

    /// The path of MNT or UMNT, as octets.
    private static func path(_ incoming: NFSIncoming) -> NFSPath? {
        let start = incoming.header.arguments
        let octets = incoming.octets.read {
            (reader: inout XDRReader) throws(XDRError) -> [UInt8] in
            try reader.skip(start)
            let range = try reader.opaque(maximum: MountProtocol.pathMaximum)
            return try reader.bytes(range)
        }
        guard case .success(let found) = octets else { return nil }
        return NFSPath(found)
    }

    private func mount(
        _ incoming: NFSIncoming, _ version: MountProtocol.Version
    ) -> NFSDecision {
        guard let path = Self.path(incoming) else {
            return fail(incoming, version, .accessDenied, .noExport)
        }
        for index in order {
            guard let export = exports[index], let rest = path.names(behind: export.directory)
            else { continue }
            let rights = rights(index, incoming.client)
            guard rights.mode != .none else {
                return fail(incoming, version, .accessDenied, .access)
            }
            return mount(incoming, version, path, index, export.path.appending(rest), rights)
        }
        guard let root, let node = root.node(path: path) else {
            return fail(incoming, version, .noEntry, .noExport)
        }
        mounts.add(path, of: incoming.client.address, at: now)
        let result = MountResult.mounted(
            handle: root.handle(of: node), flavors: [RPCFlavor.system, RPCFlavor.none])
        return answer(incoming, result.encoded(version: version))
    }

    /// - Parameter serverPath: of the same directory at the servers.
    private func mount(
        _ incoming: NFSIncoming, _ version: MountProtocol.Version, _ path: NFSPath,
        _ index: UInt32, _ serverPath: NFSPath, _ rights: NFSRights
    ) -> NFSDecision {
        let octets = serverPath.octets
        guard octets.count <= MountProtocol.pathMaximum else {
            return fail(incoming, version, .nameTooLong, .noExport)
        }
        var writer = XDRWriter()
        writer.opaque(octets)
        // In the client's own name, whatever becomes of it later: servers look at the caller of MNT, and what it gets
        // is a handle.
        let call = Array(incoming.octets[..<incoming.header.arguments]) + writer.bytes
        let isRoot = exports[index]?.path == serverPath
        return forward(
            incoming, .mount(version, path: path, isRoot: isRoot), index, rights, call, [],
            NFSFirstSend(startedAt: 0), duplicate: nil)
    }

    func mountReply(
        _ context: NFSCallContext, _ version: MountProtocol.Version, _ path: NFSPath,
        isRoot: Bool, _ reply: [UInt8]
    ) -> [UInt8]? {
        guard let result = Self.mountResult(reply, version) else { return nil }
        guard case .mounted(let handle, let flavors) = result else {
            return RPCMessage.reply(xid: context.xid, results: result.encoded(version: version))
        }
        if isRoot {
            roots[RootKey(index: context.index, version: version.nfsVersion)] = handle
        }
        mounts.add(path, of: context.client.address, at: now)
        let own = scheme.clientHandle(
            handle[...], of: context.index, version: version.nfsVersion)
        // What cannot be passed on is not promised.
        let passed = flavors.filter { [RPCFlavor.none, RPCFlavor.system].contains($0) }
        let changed = MountResult.mounted(
            handle: own, flavors: passed.isEmpty ? flavors : passed)
        return RPCMessage.reply(xid: context.xid, results: changed.encoded(version: version))
    }

    private func fail(
        _ incoming: NFSIncoming, _ version: MountProtocol.Version, _ status: MountStatus,
        _ reason: NFSCounters.Refusal
    ) -> NFSDecision {
        counters.count(reason)
        return answer(incoming, MountResult.failed(status).encoded(version: version))
    }
}
