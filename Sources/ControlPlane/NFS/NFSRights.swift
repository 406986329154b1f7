package import DataPlane
package import StorageProtocols

/// What a client may do with an export.
package struct NFSRights: Hashable, Sendable {
    package var mode: NFSAccessRule.Mode
    package var squash: NFSAccessRule.Squash
    package var anonymousUser: UInt32
    package var anonymousGroup: UInt32

    package init(
        mode: NFSAccessRule.Mode, squash: NFSAccessRule.Squash = .none,
        anonymousUser: UInt32 = NFSAccessRule.nobody, anonymousGroup: UInt32 = NFSAccessRule.nobody
    ) {
        self.mode = mode
        self.squash = squash
        self.anonymousUser = anonymousUser
        self.anonymousGroup = anonymousGroup
    }

    /// Calls go to servers as they are: nothing is forbidden, and no credential changed.
    var changeNothing: Bool { mode == .readWrite && squash == .none }

    // RFC 5531 section 9: a call is six words, credential, verifier, arguments; appendix A: a body of AUTH_SYS is
    // stamp, machine name, uid, gid, further gids.
    /// A call with the credential that the server is to see. What is behind the verifier stays, at another place when
    /// the credential's length changes. Of AUTH_SYS the stamp and the name stay. AUTH_NONE becomes AUTH_SYS where
    /// everybody is the anonymous user; servers know better who nobody is where not.
    /// - Returns: nil when the body is none of AUTH_SYS.
    package func squashed(_ call: [UInt8], _ header: RPCCallHeader) -> [UInt8]? {
        switch (squash, header.credential.flavor) {
        case (.none, _), (.root, RPCFlavor.none): return call
        case (.all, RPCFlavor.none):
            let nobody = RPCSystemCredential(
                machineName: "", uid: anonymousUser, gid: anonymousGroup)
            return Self.call(call, header, body: nobody.encoded())
        default:
            guard let identity = NFSCallerIdentity(call, header) else { return nil }
            var body = Array(call[header.credential.body])
            if squash == .all {
                body.replaceSubrange(
                    identity.start..., with: Self.octets([anonymousUser, anonymousGroup, 0]))
                return Self.call(call, header, body: body)
            }
            guard identity.isPrivileged else { return call }
            let gids = [identity.gid] + identity.gids
            let changed =
                [identity.uid == 0 ? anonymousUser : identity.uid]
                + gids.prefix(1).map { $0 == 0 ? anonymousGroup : $0 } + [UInt32(gids.count - 1)]
                + gids.dropFirst().map { $0 == 0 ? anonymousGroup : $0 }
            body.replaceSubrange(identity.start..., with: Self.octets(changed))
            return Self.call(call, header, body: body)
        }
    }

    private static func call(
        _ call: [UInt8], _ header: RPCCallHeader, body: [UInt8]
    ) -> [UInt8] {
        var writer = XDRWriter()
        writer.uint32(RPCFlavor.system)
        writer.opaque(body)
        let old = header.credential.body
        // Flavor and length stand in front of the body, its padding behind.
        let end = old.lowerBound + (old.count + 3) & ~3
        return call[..<(old.lowerBound - 8)] + writer.bytes + call[end...]
    }

    private static func octets(_ words: [UInt32]) -> [UInt8] {
        var writer = XDRWriter()
        for word in words { writer.uint32(word) }
        return writer.bytes
    }
}

/// User and groups of an AUTH_SYS credential, and where they are in it.
private struct NFSCallerIdentity {
    /// Octets of the body in front of the uid.
    let start: Int
    let uid: UInt32
    let gid: UInt32
    let gids: [UInt32]

    var isPrivileged: Bool { uid == 0 || gid == 0 || gids.contains(0) }

    init?(_ call: [UInt8], _ header: RPCCallHeader) {
        let body = Array(call[header.credential.body])
        let found = body.read {
            (reader: inout XDRReader) throws(XDRError) -> (Int, [UInt32]) in
            try reader.skip(4)
            _ = try reader.opaque(maximum: RPCSystemCredential.machineNameMaximum)
            let start = reader.position
            var words = [try reader.uint32(), try reader.uint32()]
            let count = Int(try reader.uint32())
            guard count <= RPCSystemCredential.groupMaximum else { throw .tooLong }
            for _ in 0..<count { words.append(try reader.uint32()) }
            return (start, words)
        }
        guard case .success(let (start, words)) = found else { return nil }
        self.start = start
        uid = words[0]
        gid = words[1]
        gids = Array(words.dropFirst(2))
    }
}

extension NFSExport {
    /// By the first rule that has the address.
    package func rights(of client: IPAddress) -> NFSRights {
        if access.isEmpty { return NFSRights(mode: .readWrite) }
        guard let rule = access.first(where: { $0.applies(to: client) }) else {
            return NFSRights(mode: .none)
        }
        return NFSRights(
            mode: rule.mode, squash: rule.squash, anonymousUser: rule.anonymousUser,
            anonymousGroup: rule.anonymousGroup)
    }

    /// Whom EXPORT names, as showmount prints them: addresses, networks, or "*"; none: everybody.
    package var groups: [String] {
        access.filter { $0.mode != .none }.flatMap(\.clients).map { clients in
            switch clients {
            case .everybody: "*"
            case .network(let network):
                network.length == (network.address.isIPv4 ? 32 : 128)
                    ? "\(network.address)" : "\(network)"
            }
        }
    }
}

extension [UInt8] {
    /// Reads XDR items from the first octet on.
    func read<Value, Failure: Error>(
        _ body: (inout XDRReader) throws(Failure) -> Value
    ) -> Result<Value, Failure> {
        withUnsafeBytes { raw -> Result<Value, Failure> in
            var reader = XDRReader(raw)
            do throws(Failure) {
                return .success(try body(&reader))
            } catch {
                return .failure(error)
            }
        }
    }
}
