package import DataPlane
package import StorageProtocols

/// Decides for every call of a client of NFS what becomes of it: which server it goes to and as what, or what it is
/// answered. Octets in, decisions out; no sockets and no clock. Lives on the session thread.
///
/// A forwarded call goes through these hands:
///
///     take -> forward -> (a server) -> finish -> the client
///               |
///               | the server died: an idempotent call is sent again as it is, for another one `retry` says what
///               | is sent, and `finish` takes the outcome
///               |
///               | no server for long: give(up:)
package final class NFSRouter {
    /// What it serves.
    package struct Settings: Sendable {
        package var nfs: Configuration.NFS
        /// Resources that are exports.
        package var exports: [Resource]
        /// Where clients reach the services: for the portmapper.
        package var addresses: [IPAddress]
        /// Handles that clients have are right for as long as it is the same.
        package var seed: UInt64
        /// Numbers of file systems are made distinct in datagrams too. The dataplane changes nothing in the replies
        /// that it passes by itself: where it passes calls with distinct handles, no reply may differ from those.
        package var masksDatagrams = false

        package init(
            nfs: Configuration.NFS, exports: [Resource], addresses: [IPAddress], seed: UInt64
        ) {
            self.nfs = nfs
            self.exports = exports
            self.addresses = addresses
            self.seed = seed
        }

        // The MAC address of the clients' CPU port is what a switch keeps when it gets other addresses, ports and
        // exports, and what one that replaces it has too.
        /// Nil: the configuration has no NFS.
        package init?(_ configuration: Configuration) {
            guard let nfs = configuration.nfs else { return nil }
            self.init(
                nfs: nfs, exports: configuration.resources.filter { $0.export != nil },
                addresses: configuration.clientCPU.addresses.map(\.address),
                seed: configuration.clientCPU.macAddress.rawValue)
            // Below "/" a client has several exports in one tree, and takes equal numbers for one file system. The
            // dataplane passes no calls with distinct handles then.
            masksDatagrams = nfs.hasRootExport
        }
    }

    /// What it remembers, and what happens at the bound.
    package struct Bounds: Sendable {
        /// Handles of version 2 and long ones; what was not used for long is stale.
        package var mappings = 262_144
        /// Shared handles; what was not used for long is asked for again.
        package var sharedHandles = 262_144
        /// Names that replies have told of; others are unknown when a call has to be sent again.
        package var names = 65_536
        /// Mounts; the oldest is not told any more.
        package var mounts = 4_096
        /// Octets of calls that must not be done twice, and of their replies; the oldest can be.
        package var duplicateOctets = 16_777_216
        /// The same by age, ns.
        package var duplicateAge: UInt64 = 120_000_000_000
        /// File systems of shared exports.
        package var fileSystems = 4_096
        package init() {}
    }

    struct Export {
        let resource: String
        let export: NFSExport
        let directory: NFSPath
        let path: NFSPath
    }

    struct RootKey: Hashable {
        let index: UInt32
        let version: NFSVersion
    }

    struct FileSystem: Hashable, Sendable {
        let version: NFSVersion
        let number: UInt64
    }

    package internal(set) var settings: Settings
    /// By number.
    var exports: [UInt32: Export] = [:]
    /// Numbers in the order of the configuration.
    var order: [UInt32] = []
    var scheme: NFSHandleScheme
    /// Nil: there is no export "/".
    var root: NFSRootDirectory?
    /// Servers' handles of exports' roots.
    var roots: [RootKey: [UInt8]] = [:]
    /// Shared handles that no server knew a moment ago, and when that was.
    var strangers = NFSRecentTable<[UInt8], UInt64>(maximum: 4_096)
    /// Which shared export a file system is of; nil: of several.
    var fileSystems: NFSRecentTable<FileSystem, UInt32?>
    var names: NFSNameMemory
    var clocks: [UInt32: NFSServerClock] = [:]
    package internal(set) var mounts: NFSMountList
    var duplicates: NFSDuplicateMemory
    private var portmapper = Portmapper([])
    package internal(set) var counters = NFSCounters()
    /// ns, of the last call or reply.
    var now: UInt64 = 0

    /// - Parameter wallTime: now. Directories of ours seem to have changed then.
    package init(_ settings: Settings, wallTime: NFSv3Time, bounds: Bounds = Bounds()) {
        self.settings = settings
        scheme = NFSHandleScheme(
            seed: settings.seed, mappings: bounds.mappings, learned: bounds.sharedHandles)
        fileSystems = NFSRecentTable(maximum: bounds.fileSystems)
        names = NFSNameMemory(maximum: bounds.names)
        mounts = NFSMountList(maximum: bounds.mounts)
        duplicates = NFSDuplicateMemory(
            octets: bounds.duplicateOctets, age: bounds.duplicateAge)
        adopt(settings, wallTime)
    }

    /// The configuration was read again. Handles of exports that are still there mean what they meant. The seed stays
    /// what it was.
    package func update(_ settings: Settings, wallTime: NFSv3Time) {
        let before = exports
        self.settings = settings
        adopt(settings, wallTime)
        let gone = Set(before.keys.filter { before[$0]?.resource != exports[$0]?.resource })
        let moved = before.keys.filter { before[$0]?.path != exports[$0]?.path }
        scheme.update(handleKinds, forgotten: gone)
        names.forget(gone)
        for index in gone.union(moved) {
            clocks[index] = nil
            for version in NFSVersion.allCases {
                roots[RootKey(index: index, version: version)] = nil
            }
        }
    }

    private var handleKinds: [UInt32: NFSExport.Handles] { exports.mapValues(\.export.handles) }

    private func adopt(_ settings: Settings, _ wallTime: NFSv3Time) {
        exports = [:]
        order = []
        for resource in settings.exports {
            guard let export = resource.export, let index = resource.handleIndex,
                exports[index] == nil, let directory = NFSPath(Array(export.directory.utf8)),
                let path = NFSPath(Array(export.path.utf8))
            else { continue }
            exports[index] = Export(
                resource: resource.name, export: export, directory: directory, path: path)
            order.append(index)
        }
        scheme.update(handleKinds)
        portmapper = Portmapper(settings.registrations)
        root = nil
        guard settings.nfs.hasRootExport else { return }
        let directories = order.compactMap { index in
            exports[index].map { (index: index, directory: $0.export.directory) }
        }
        root = NFSRootDirectory(directories, scheme: scheme, changeTime: wallTime)
    }

    // MARK: For the dataplane

    /// The first four octets of handles that have the export's number, as four octets, and the server's handle behind
    /// them.
    package var handleMagic: UInt32 { scheme.magic }

    /// Exports whose calls a client may send to servers as they are: nothing is forbidden, and no credential changed.
    package func passableExports(for client: IPAddress) -> [UInt32] {
        order.filter { exports[$0]?.export.rights(of: client).changeNothing == true }
    }

    // MARK: Calls

    /// What becomes of a call.
    /// - Parameters:
    ///   - call: without record mark.
    ///   - local: the address that it came to; nil: any of ours.
    ///   - now: ns.
    package func take(
        _ call: [UInt8], from client: NFSClient, at local: IPAddress? = nil, now: UInt64
    ) -> NFSDecision {
        self.now = now
        let parsed = call.read { (reader: inout XDRReader) throws(RPCError) in
            try RPCCallHeader(&reader)
        }
        switch parsed {
        case .success(let header):
            let incoming = NFSIncoming(
                octets: call, header: header, client: client, local: local)
            return route(incoming, now: now)
        case .failure(.unsupportedVersion(_, xid: let xid)):
            counters.count(.rpcVersion)
            let version = RPCMessage.rpcVersion
            return .answer(
                RPCMessage.reply(
                    xid: xid, refusal: .versionMismatch(low: version, high: version)))
        case .failure(.notACall), .failure(.notAReply):
            counters.count(.malformed)
            return .malformed("not a call of RPC")
        case .failure(.malformed(let error)):
            counters.count(.malformed)
            return .malformed("no header of RPC: \(error)")
        }
    }

    /// - Parameter round: how many answers it has waited for.
    func route(_ incoming: NFSIncoming, now: UInt64, round: Int = 0) -> NFSDecision {
        // Others sign what is changed on its way, as RPCSEC_GSS does (RFC 2203 section 5.3.1), or stand for what a
        // server has given (AUTH_SHORT).
        guard [RPCFlavor.none, RPCFlavor.system].contains(incoming.header.credential.flavor) else {
            return refuse(incoming, .authenticationError(.rejectedCredential), .credential)
        }
        switch incoming.header.program {
        case NFSProgram.number: return takeNFS(incoming, now: now, round: round)
        case MountProtocol.program: return takeMount(incoming)
        case Portmapper.program where settings.nfs.hasPortmapper: return takePortmapper(incoming)
        default: return refuse(incoming, .programUnavailable, .program)
        }
    }

    private func takePortmapper(_ incoming: NFSIncoming) -> NFSDecision {
        counters.count(.portmapper)
        let isIPv4 = incoming.client.address.isIPv4
        // First what the client can reach: the address that it came to, then those of its family.
        let addresses =
            [incoming.local].compactMap { $0 }
            + settings.addresses.filter { $0.isIPv4 == isIPv4 }
            + settings.addresses.filter { $0.isIPv4 != isIPv4 }
        let listener = Portmapper.Listener(
            transport: incoming.client.transport == .udp ? .udp : .tcp,
            addresses: addresses.map(\.octets))
        guard let reply = portmapper.answer(incoming.octets, at: listener) else {
            counters.count(.malformed)
            return .malformed("no call of the portmapper")
        }
        counters.answered += 1
        return .answer(reply)
    }

    // MARK: Answers of our own

    func refuse(
        _ incoming: NFSIncoming, _ refusal: RPCRefusal, _ reason: NFSCounters.Refusal
    ) -> NFSDecision {
        counters.count(reason)
        counters.answered += 1
        return .answer(RPCMessage.reply(xid: incoming.header.xid, refusal: refusal))
    }

    /// - Parameter results: XDR.
    func answer(_ incoming: NFSIncoming, _ results: [UInt8]) -> NFSDecision {
        counters.answered += 1
        return .answer(RPCMessage.reply(xid: incoming.header.xid, results: results))
    }

    /// What a client may do with an export that there is.
    func rights(_ index: UInt32, _ client: NFSClient) -> NFSRights {
        exports[index]?.export.rights(of: client.address) ?? NFSRights(mode: .none)
    }
}

extension NFSRouter.Settings {
    /// What the portmapper tells, itself included.
    package var registrations: [Portmapper.Registration] {
        guard nfs.hasPortmapper else { return [] }
        let transports: [Portmapper.Transport] =
            (nfs.takesTCP ? [.tcp] : []) + (nfs.takesUDP ? [.udp] : [])
        var services = Portmapper.versions.map { (Portmapper.program, $0, Portmapper.port) }
        for version in nfs.versions.map(\.rawValue).sorted() {
            services.append((NFSProgram.number, version, nfs.port))
        }
        for version in nfs.mountVersions.map(\.rawValue) {
            services.append((MountProtocol.program, version, nfs.mountPort))
        }
        if nfs.hasLocks {
            for version in NLMVersion.allCases where nfs.versions.contains(version.nfsVersion) {
                services.append((NLMProtocol.program, version.rawValue, nfs.mountPort))
            }
            services.append((NSMProtocol.program, NSMProtocol.version, nfs.mountPort))
        }
        return services.flatMap { program, version, port in
            transports.map {
                Portmapper.Registration(
                    program: program, version: version, transport: $0, port: port)
            }
        }
    }
}

extension Configuration.NFS {
    /// Version 1 of MOUNT is that of NFS 2, version 3 that of NFS 3.
    var mountVersions: [MountProtocol.Version] {
        MountProtocol.Version.allCases.filter { versions.contains($0.nfsVersion) }
    }
}

extension MountProtocol.Version {
    /// Whose handles it gives.
    var nfsVersion: NFSVersion { self == .one ? .v2 : .v3 }
}

extension NFSVersion {
    /// The version of MOUNT that gives its handles.
    var mountVersion: MountProtocol.Version { self == .v2 ? .one : .three }
}

extension IPAddress {
    /// 4 of IPv4, 16 of IPv6.
    var octets: [UInt8] {
        func parts(_ word: UInt64) -> [UInt8] {
            (0..<8).map { UInt8(truncatingIfNeeded: word >> UInt64(56 - 8 * $0)) }
        }
        return isIPv4 ? Array(parts(low).suffix(4)) : parts(high) + parts(low)
    }
}
