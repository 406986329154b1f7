// MOUNT: how a client gets the file handle of a directory's root. Version 1 is that of NFS version 2 (RFC 1094
// appendix A), version 3 that of NFS version 3 (RFC 1813 appendix I). Both have the same procedures and lists; what
// MNT gives differs.

/// Numbers of the program.
public enum MountProtocol {
    public static let program: UInt32 = 100_005
    /// Octets of a path: MNTPATHLEN (RFC 1094 appendix A.3, RFC 1813 section 5.1.4).
    public static let pathMaximum = 1_024
    /// Octets of a host's or a group's name: MNTNAMLEN.
    public static let nameMaximum = 255
    /// Octets of every handle of version 1: FHSIZE.
    public static let handleLength = 32
    /// Octets of a handle of version 3: FHSIZE3.
    public static let handleMaximum = 64
    /// Authentication flavors of one MNT reply that are accepted. RFC 1813 has no bound; IANA knows less than 20.
    public static let flavorMaximum = 64

    public enum Version: UInt32, CaseIterable, Sendable {
        case one = 1
        case three = 3
    }
}

/// mountstat3 (RFC 1813 section 5.1.5). The status of version 1 is "a UNIX error number" (RFC 1094 appendix A.4): those
/// below 10000 mean the same there.
public enum MountStatus: Hashable, Sendable {
    /// MNT3_OK.
    case ok
    /// MNT3ERR_PERM.
    case notOwner
    /// MNT3ERR_NOENT: there is no such file or directory.
    case noEntry
    /// MNT3ERR_IO.
    case inputOutput
    /// MNT3ERR_ACCES.
    case accessDenied
    /// MNT3ERR_NOTDIR.
    case notDirectory
    /// MNT3ERR_INVAL.
    case invalidArgument
    /// MNT3ERR_NAMETOOLONG.
    case nameTooLong
    /// MNT3ERR_NOTSUPP.
    case notSupported
    /// MNT3ERR_SERVERFAULT.
    case serverFault
    /// Any other number: servers send them, and version 1 allows them.
    case other(UInt32)

    public init(_ code: UInt32) {
        switch code {
        case 0: self = .ok
        case 1: self = .notOwner
        case 2: self = .noEntry
        case 5: self = .inputOutput
        case 13: self = .accessDenied
        case 20: self = .notDirectory
        case 22: self = .invalidArgument
        case 63: self = .nameTooLong
        case 10_004: self = .notSupported
        case 10_006: self = .serverFault
        default: self = .other(code)
        }
    }

    public var code: UInt32 {
        switch self {
        case .ok: 0
        case .notOwner: 1
        case .noEntry: 2
        case .inputOutput: 5
        case .accessDenied: 13
        case .notDirectory: 20
        case .invalidArgument: 22
        case .nameTooLong: 63
        case .notSupported: 10_004
        case .serverFault: 10_006
        case .other(let code): code
        }
    }
}

/// A call of MOUNT (RFC 1094 appendix A.5, RFC 1813 section 5.2); paths have up to 1024 octets.
public enum MountCall: Equatable, Sendable {
    /// NULL.
    case null
    /// MNT. Where a path is not UTF-8 it is not what was sent: pass the call itself on, not this.
    case mount(path: String)
    /// DUMP: who has mounted what.
    case dump
    /// UMNT.
    case unmount(path: String)
    /// UMNTALL: everything of the caller.
    case unmountAll
    /// EXPORT.
    case export

    /// - Parameter reader: where the arguments begin; leaves it behind them.
    /// - Throws: what the call is to be answered with.
    public init(_ header: RPCCallHeader, _ reader: inout XDRReader) throws(RPCRefusal) {
        guard header.program == MountProtocol.program else { throw .programUnavailable }
        guard MountProtocol.Version(rawValue: header.version) != nil else {
            throw .programMismatch(
                low: MountProtocol.Version.one.rawValue, high: MountProtocol.Version.three.rawValue)
        }
        switch header.procedure {
        case 0: self = .null
        case 1: self = .mount(path: try Self.path(&reader))
        case 2: self = .dump
        case 3: self = .unmount(path: try Self.path(&reader))
        case 4: self = .unmountAll
        case 5: self = .export
        default: throw .procedureUnavailable
        }
    }

    private static func path(_ reader: inout XDRReader) throws(RPCRefusal) -> String {
        do throws(XDRError) {
            return try reader.string(maximum: MountProtocol.pathMaximum)
        } catch {
            throw .garbageArguments
        }
    }

    public var procedure: UInt32 {
        switch self {
        case .null: 0
        case .mount: 1
        case .dump: 2
        case .unmount: 3
        case .unmountAll: 4
        case .export: 5
        }
    }

    /// XDR.
    public var arguments: [UInt8] {
        switch self {
        case .mount(let path), .unmount(let path):
            var writer = XDRWriter()
            writer.string(path)
            return writer.bytes
        case .null, .dump, .unmountAll, .export: return []
        }
    }

    /// The whole call.
    /// - Parameter credential: nil is AUTH_NONE. RFC 1813 section 5.2.1 wants AUTH_UNIX (AUTH_SYS) or better for MNT.
    public func message(
        xid: UInt32, version: MountProtocol.Version, credential: RPCSystemCredential? = nil
    ) -> [UInt8] {
        RPCMessage.call(
            xid: xid, program: MountProtocol.program, version: version.rawValue,
            procedure: procedure, credential: credential, arguments: arguments)
    }
}

/// Results of MNT: fhstatus (RFC 1094 appendix A.4) or mountres3 (RFC 1813 section 5.2.1). NULL, UMNT and UMNTALL have
/// no results.
public enum MountResult: Equatable, Sendable {
    /// `handle`: 32 octets in version 1, up to 64 in version 3. `flavors`: those that the server takes for this
    /// directory, the preferred first; version 1 has none.
    case mounted(handle: [UInt8], flavors: [UInt32])
    case failed(MountStatus)

    /// - Parameter reader: where the results begin; leaves it behind them.
    public init(_ reader: inout XDRReader, version: MountProtocol.Version) throws(XDRError) {
        let status = MountStatus(try reader.uint32())
        guard status == .ok else {
            self = .failed(status)
            return
        }
        let range: Range<Int>
        var flavors: [UInt32] = []
        switch version {
        case .one: range = try reader.fixedOpaque(MountProtocol.handleLength)
        case .three:
            range = try reader.opaque(maximum: MountProtocol.handleMaximum)
            let count = Int(try reader.uint32())
            guard count <= MountProtocol.flavorMaximum else { throw .tooLong }
            for _ in 0..<count { flavors.append(try reader.uint32()) }
        }
        self = .mounted(handle: try reader.bytes(range), flavors: flavors)
    }

    /// XDR. A handle that the version cannot carry, and a failure that is none, become MNT3ERR_IO: both versions have
    /// it.
    public func encoded(version: MountProtocol.Version) -> [UInt8] {
        var writer = XDRWriter()
        switch (self, version) {
        case (.mounted(let handle, _), .one) where handle.count == MountProtocol.handleLength:
            writer.uint32(MountStatus.ok.code)
            writer.fixedOpaque(handle)
        case (.mounted(let handle, let flavors), .three)
        where handle.count <= MountProtocol.handleMaximum:
            writer.uint32(MountStatus.ok.code)
            writer.opaque(handle)
            writer.uint32(UInt32(truncatingIfNeeded: flavors.count))
            for flavor in flavors { writer.uint32(flavor) }
        case (.failed(let status), _) where status.code != MountStatus.ok.code:
            writer.uint32(status.code)
        default: writer.uint32(MountStatus.inputOutput.code)
        }
        return writer.bytes
    }
}

// Lists go on as long as TRUE stands before the next entry. Each entry has eight octets at least: how long a list can
// become is bounded by the message.

/// A directory that clients may mount: results of EXPORT (RFC 1094 appendix A.5, RFC 1813 section 5.2.5).
public struct MountExport: Equatable, Sendable {
    /// Up to 1024 octets.
    public var directory: String
    /// Who may, each up to 255 octets; what they mean is the server's. None: everybody.
    public var groups: [String]

    public init(directory: String, groups: [String] = []) {
        self.directory = directory
        self.groups = groups
    }

    /// - Parameter reader: where the results begin; leaves it behind them.
    public static func list(_ reader: inout XDRReader) throws(XDRError) -> [MountExport] {
        var result: [MountExport] = []
        while try reader.bool() {
            let directory = try reader.string(maximum: MountProtocol.pathMaximum)
            var groups: [String] = []
            while try reader.bool() {
                groups.append(try reader.string(maximum: MountProtocol.nameMaximum))
            }
            result.append(MountExport(directory: directory, groups: groups))
        }
        return result
    }

    /// XDR.
    public static func encoded(_ list: [MountExport]) -> [UInt8] {
        var writer = XDRWriter()
        for export in list {
            writer.bool(true)
            writer.string(export.directory)
            for group in export.groups {
                writer.bool(true)
                writer.string(group)
            }
            writer.bool(false)
        }
        writer.bool(false)
        return writer.bytes
    }
}

/// Who has mounted a directory: results of DUMP (RFC 1094 appendix A.5, RFC 1813 section 5.2.2).
public struct MountEntry: Equatable, Sendable {
    /// Up to 255 octets.
    public var hostName: String
    /// Up to 1024 octets.
    public var directory: String

    public init(hostName: String, directory: String) {
        self.hostName = hostName
        self.directory = directory
    }

    /// - Parameter reader: where the results begin; leaves it behind them.
    public static func list(_ reader: inout XDRReader) throws(XDRError) -> [MountEntry] {
        var result: [MountEntry] = []
        while try reader.bool() {
            let hostName = try reader.string(maximum: MountProtocol.nameMaximum)
            let directory = try reader.string(maximum: MountProtocol.pathMaximum)
            result.append(MountEntry(hostName: hostName, directory: directory))
        }
        return result
    }

    /// XDR.
    public static func encoded(_ list: [MountEntry]) -> [UInt8] {
        var writer = XDRWriter()
        for entry in list {
            writer.bool(true)
            writer.string(entry.hostName)
            writer.string(entry.directory)
        }
        writer.bool(false)
        return writer.bytes
    }
}
