/// The NFS program of ONC RPC (RFC 1813 sections 2.2 and 2.3; RFC 1094 the same).
public enum NFSProgram {
    public static let number: UInt32 = 100_003
    public static let port: UInt16 = 2_049
}

/// Versions of the NFS program that are known here.
public enum NFSVersion: UInt32, CaseIterable, Sendable {
    /// RFC 1094.
    case v2 = 2
    /// RFC 1813.
    case v3 = 3

    // RFC 1813 section 2.4: "NFS3_FHSIZE 64 The maximum size in bytes of the opaque file handle." RFC 1094
    // section 2.3.3: "typedef opaque fhandle[FHSIZE]", with FHSIZE 32.
    /// Octets of a file handle: at most as many in v3, exactly as many in v2.
    public var handleLength: Int { self == .v3 ? 64 : 32 }
}

/// Procedures of NFS version 3, by their numbers (RFC 1813 section 3).
public enum NFSv3Procedure: UInt32, CaseIterable, Hashable, Sendable {
    case null = 0
    case getattr = 1
    case setattr = 2
    case lookup = 3
    case access = 4
    case readlink = 5
    case read = 6
    case write = 7
    case create = 8
    case mkdir = 9
    case symlink = 10
    case mknod = 11
    case remove = 12
    case rmdir = 13
    case rename = 14
    case link = 15
    case readdir = 16
    case readdirplus = 17
    case fsstat = 18
    case fsinfo = 19
    case pathconf = 20
    case commit = 21

    /// As the RFC writes it: "READDIRPLUS".
    public var name: String { "\(self)".uppercased() }

    // RFC 1813 section 4.5 (duplicate request cache) has REMOVE as its example: done again, it fails with
    // NFS3ERR_NOENT though the first one succeeded.
    /// Whether doing it twice gives what doing it once gives, whatever the arguments. SETATTR and CREATE depend
    /// on them and count as not; `NFSCall.isIdempotent` looks at them.
    public var isIdempotent: Bool {
        switch self {
        case .setattr, .create, .mkdir, .symlink, .mknod, .remove, .rmdir, .rename, .link: false
        case .null, .getattr, .lookup, .access, .readlink, .read, .write, .readdir, .readdirplus,
            .fsstat, .fsinfo, .pathconf, .commit:
            true
        }
    }

    /// How many post_op_attr, and how many wcc_data behind them, follow an error status: the "resfail" of each
    /// procedure in RFC 1813 section 3.3.
    var failureArm: (attributes: Int, changes: Int) {
        switch self {
        case .null, .getattr: (0, 0)
        case .lookup, .access, .readlink, .read, .readdir, .readdirplus, .fsstat, .fsinfo,
            .pathconf:
            (1, 0)
        case .setattr, .write, .create, .mkdir, .symlink, .mknod, .remove, .rmdir, .commit: (0, 1)
        case .rename: (0, 2)
        case .link: (1, 1)
        }
    }
}

/// Procedures of NFS version 2, by their numbers (RFC 1094 section 2.2).
public enum NFSv2Procedure: UInt32, CaseIterable, Hashable, Sendable {
    case null = 0
    case getattr = 1
    case setattr = 2
    /// Obsolete: no arguments, no results.
    case root = 3
    case lookup = 4
    case readlink = 5
    case read = 6
    /// Never used: no arguments, no results.
    case writecache = 7
    case write = 8
    case create = 9
    case remove = 10
    case rename = 11
    case link = 12
    case symlink = 13
    case mkdir = 14
    case rmdir = 15
    case readdir = 16
    case statfs = 17

    /// As the RFC writes it: "STATFS".
    public var name: String { "\(self)".uppercased() }

    /// Whether it has results: those that have begin with a status.
    var hasResults: Bool { self != .null && self != .root && self != .writecache }

    // RFC 1094 section 2.2 says "Possibly non-idempotent operation" of CREATE, REMOVE, RENAME, LINK, MKDIR and
    // RMDIR. SYMLINK made again fails with NFSERR_EXIST.
    /// Whether doing it twice gives what doing it once gives.
    public var isIdempotent: Bool {
        switch self {
        case .create, .remove, .rename, .link, .symlink, .mkdir, .rmdir: false
        case .null, .getattr, .setattr, .root, .lookup, .readlink, .read, .writecache, .write,
            .readdir, .statfs:
            true
        }
    }
}

/// A procedure of any version.
public enum NFSProcedure: Hashable, Sendable {
    case v2(NFSv2Procedure)
    case v3(NFSv3Procedure)

    /// Nil: not a version of `NFSVersion`, or not a procedure of it.
    public init?(version: UInt32, number: UInt32) {
        switch NFSVersion(rawValue: version) {
        case .v2:
            guard let procedure = NFSv2Procedure(rawValue: number) else { return nil }
            self = .v2(procedure)
        case .v3:
            guard let procedure = NFSv3Procedure(rawValue: number) else { return nil }
            self = .v3(procedure)
        case nil: return nil
        }
    }

    public var version: NFSVersion {
        switch self {
        case .v2: .v2
        case .v3: .v3
        }
    }
    public var number: UInt32 {
        switch self {
        case .v2(let procedure): procedure.rawValue
        case .v3(let procedure): procedure.rawValue
        }
    }
    /// As the RFCs write it: "LOOKUP".
    public var name: String {
        switch self {
        case .v2(let procedure): procedure.name
        case .v3(let procedure): procedure.name
        }
    }
    /// Whether doing it twice gives what doing it once gives, whatever the arguments.
    public var isIdempotent: Bool {
        switch self {
        case .v2(let procedure): procedure.isIdempotent
        case .v3(let procedure): procedure.isIdempotent
        }
    }
}

/// nfsstat3 (RFC 1813 section 2.6).
public enum NFSv3Status: UInt32, CaseIterable, Sendable {
    case ok = 0
    /// NFS3ERR_PERM: the caller is neither privileged nor the owner.
    case notOwner = 1
    /// NFS3ERR_NOENT.
    case noEntry = 2
    /// NFS3ERR_IO.
    case ioError = 5
    /// NFS3ERR_NXIO: no such device or address.
    case noAddress = 6
    /// NFS3ERR_ACCES: permission denied.
    case accessDenied = 13
    /// NFS3ERR_EXIST.
    case exists = 17
    /// NFS3ERR_XDEV: a hard link to another file system.
    case crossDevice = 18
    /// NFS3ERR_NODEV.
    case noDevice = 19
    /// NFS3ERR_NOTDIR.
    case notDirectory = 20
    /// NFS3ERR_ISDIR.
    case isDirectory = 21
    /// NFS3ERR_INVAL.
    case invalidArgument = 22
    /// NFS3ERR_FBIG.
    case fileTooBig = 27
    /// NFS3ERR_NOSPC.
    case noSpace = 28
    /// NFS3ERR_ROFS.
    case readOnly = 30
    /// NFS3ERR_MLINK.
    case tooManyLinks = 31
    /// NFS3ERR_NAMETOOLONG.
    case nameTooLong = 63
    /// NFS3ERR_NOTEMPTY.
    case notEmpty = 66
    /// NFS3ERR_DQUOT.
    case quotaExceeded = 69
    /// NFS3ERR_STALE: the file of the handle is no longer there.
    case stale = 70
    /// NFS3ERR_REMOTE: the file is not local to the server.
    case remote = 71
    /// NFS3ERR_BADHANDLE: the handle is none of this server.
    case badHandle = 10_001
    /// NFS3ERR_NOT_SYNC: the guard of a SETATTR did not match.
    case notSynchronized = 10_002
    /// NFS3ERR_BAD_COOKIE.
    case badCookie = 10_003
    /// NFS3ERR_NOTSUPP.
    case notSupported = 10_004
    /// NFS3ERR_TOOSMALL.
    case tooSmall = 10_005
    /// NFS3ERR_SERVERFAULT.
    case serverFault = 10_006
    /// NFS3ERR_BADTYPE.
    case badType = 10_007
    /// NFS3ERR_JUKEBOX: to be tried again later, with a new transaction ID.
    case jukebox = 10_008
}

/// stat, the status of version 2 (RFC 1094 section 2.3.1).
public enum NFSv2Status: UInt32, CaseIterable, Sendable {
    case ok = 0
    /// NFSERR_PERM.
    case notOwner = 1
    /// NFSERR_NOENT.
    case noEntry = 2
    /// NFSERR_IO.
    case ioError = 5
    /// NFSERR_NXIO.
    case noAddress = 6
    /// NFSERR_ACCES.
    case accessDenied = 13
    /// NFSERR_EXIST.
    case exists = 17
    /// RFC 1094 has no name for it, but its numbers are those of UNIX, and clients know this one as EXDEV.
    case crossDevice = 18
    /// NFSERR_NODEV.
    case noDevice = 19
    /// NFSERR_NOTDIR.
    case notDirectory = 20
    /// NFSERR_ISDIR.
    case isDirectory = 21
    /// NFSERR_FBIG.
    case fileTooBig = 27
    /// NFSERR_NOSPC.
    case noSpace = 28
    /// NFSERR_ROFS.
    case readOnly = 30
    /// NFSERR_NAMETOOLONG.
    case nameTooLong = 63
    /// NFSERR_NOTEMPTY.
    case notEmpty = 66
    /// NFSERR_DQUOT.
    case quotaExceeded = 69
    /// NFSERR_STALE.
    case stale = 70
    /// NFSERR_WFLUSH: the write cache was flushed to disk.
    case writeFlushed = 99
}
