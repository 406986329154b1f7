/// An entry of a directory that we answer for.
public struct NFSDirectoryEntry: Equatable, Sendable {
    /// Of v2: the lower 32 bits, here and of `cookie`.
    public var fileID: UInt64
    /// Octets without "/" and NUL, 255 at most.
    public var name: [UInt8]
    /// Tells where to go on behind this entry; from 1, and larger than those of the entries in front.
    public var cookie: UInt64
    /// READDIRPLUS: of the file; nil: the client asks for them.
    public var attributes: NFSv3Attributes?
    /// READDIRPLUS: up to 64 octets; nil, or longer: the client looks the name up.
    public var handle: [UInt8]?

    public init(
        fileID: UInt64, name: [UInt8], cookie: UInt64, attributes: NFSv3Attributes? = nil,
        handle: [UInt8]? = nil
    ) {
        self.fileID = fileID
        self.name = name
        self.cookie = cookie
        self.attributes = attributes
        self.handle = handle
    }
}

/// What FSSTAT says (RFC 1813 section 3.3.18).
public struct NFSv3FileSystemStatistics: Equatable, Sendable {
    /// Octets: all, free, and free for this user.
    public var totalOctets: UInt64
    public var freeOctets: UInt64
    public var availableOctets: UInt64
    /// Files: the same.
    public var totalFiles: UInt64
    public var freeFiles: UInt64
    public var availableFiles: UInt64
    /// invarsec: seconds in which this is not expected to change.
    public var stableSeconds: UInt32

    public init(
        totalOctets: UInt64 = 0, freeOctets: UInt64 = 0, availableOctets: UInt64 = 0,
        totalFiles: UInt64 = 0, freeFiles: UInt64 = 0, availableFiles: UInt64 = 0,
        stableSeconds: UInt32 = 0
    ) {
        self.totalOctets = totalOctets
        self.freeOctets = freeOctets
        self.availableOctets = availableOctets
        self.totalFiles = totalFiles
        self.freeFiles = freeFiles
        self.availableFiles = availableFiles
        self.stableSeconds = stableSeconds
    }
}

/// What FSINFO says (RFC 1813 section 3.3.19). Lengths are octets.
public struct NFSv3FileSystemInformation: Equatable, Sendable {
    /// rtmax, rtpref, rtmult.
    public var readMaximum: UInt32
    public var readPreferred: UInt32
    public var readMultiple: UInt32
    /// wtmax, wtpref, wtmult.
    public var writeMaximum: UInt32
    public var writePreferred: UInt32
    public var writeMultiple: UInt32
    /// dtpref, of READDIR.
    public var directoryPreferred: UInt32
    public var fileSizeMaximum: UInt64
    /// time_delta: how exact times of files are.
    public var timeDelta: NFSv3Time
    public var properties: UInt32

    /// FSF3_LINK: there are hard links.
    public static let hardLinks: UInt32 = 0x01
    /// FSF3_SYMLINK.
    public static let symbolicLinks: UInt32 = 0x02
    /// FSF3_HOMOGENEOUS: PATHCONF says the same of every file.
    public static let homogeneous: UInt32 = 0x08
    /// FSF3_CANSETTIME: SETATTR can set times.
    public static let settableTimes: UInt32 = 0x10

    public init(
        readMaximum: UInt32 = 1 << 20, readPreferred: UInt32 = 1 << 20,
        readMultiple: UInt32 = 4_096, writeMaximum: UInt32 = 1 << 20,
        writePreferred: UInt32 = 1 << 20, writeMultiple: UInt32 = 4_096,
        directoryPreferred: UInt32 = 1 << 15, fileSizeMaximum: UInt64 = 1 << 63 - 1,
        timeDelta: NFSv3Time = NFSv3Time(nanoseconds: 1),
        properties: UInt32 = NFSv3FileSystemInformation.homogeneous
    ) {
        self.readMaximum = readMaximum
        self.readPreferred = readPreferred
        self.readMultiple = readMultiple
        self.writeMaximum = writeMaximum
        self.writePreferred = writePreferred
        self.writeMultiple = writeMultiple
        self.directoryPreferred = directoryPreferred
        self.fileSizeMaximum = fileSizeMaximum
        self.timeDelta = timeDelta
        self.properties = properties
    }
}

/// What PATHCONF says (RFC 1813 section 3.3.20).
public struct NFSv3PathConfiguration: Equatable, Sendable {
    /// Hard links to a file.
    public var linkMaximum: UInt32
    /// Octets of a name.
    public var nameMaximum: UInt32
    /// no_trunc: a longer name is an error and is not cut.
    public var refusesLongNames: Bool
    /// chown_restricted: only the privileged may give a file away.
    public var restrictsOwnerChange: Bool
    public var ignoresCase: Bool
    public var preservesCase: Bool

    public init(
        linkMaximum: UInt32 = 1, nameMaximum: UInt32 = 255, refusesLongNames: Bool = true,
        restrictsOwnerChange: Bool = true, ignoresCase: Bool = false, preservesCase: Bool = true
    ) {
        self.linkMaximum = linkMaximum
        self.nameMaximum = nameMaximum
        self.refusesLongNames = refusesLongNames
        self.restrictsOwnerChange = restrictsOwnerChange
        self.ignoresCase = ignoresCase
        self.preservesCase = preservesCase
    }
}

/// Results of version 3 procedures, made by ourselves: what comes behind the header of an accepted RPC reply. All
/// have a multiple of four octets.
public enum NFSv3Replies {
    // RFC 1813 section 3.3, the "resfail" of each procedure. Section 2.6: attributes are optional in post_op_attr,
    // and in pre_op_attr of wcc_data.
    /// An error in the form that `procedure` has for it, without attributes. NULL has no results: nothing.
    /// `.ok` is no error and becomes `.serverFault`.
    public static func failure(_ procedure: NFSv3Procedure, _ status: NFSv3Status) -> [UInt8] {
        guard procedure != .null else { return [] }
        let error: NFSv3Status = status == .ok ? .serverFault : status
        var writer = XDRWriter()
        writer.uint32(error.rawValue)
        let arm = procedure.failureArm
        // wcc_data is two unions: what was before, what is after.
        for _ in 0..<arm.attributes + 2 * arm.changes { writer.bool(false) }
        return writer.bytes
    }

    /// GETATTR (section 3.3.1).
    public static func getattr(_ attributes: NFSv3Attributes) -> [UInt8] {
        var writer = success()
        attributes.encode(into: &writer)
        return writer.bytes
    }

    /// LOOKUP (section 3.3.3).
    /// - Parameters:
    ///   - handle: of what was found, up to 64 octets. A longer one gives an error, `.serverFault`.
    ///   - attributes: of what was found.
    ///   - directory: of the directory in which it was found.
    public static func lookup(
        _ handle: [UInt8], _ attributes: NFSv3Attributes?, directory: NFSv3Attributes?
    ) -> [UInt8] {
        guard handle.count <= NFSVersion.v3.handleLength else {
            return failure(.lookup, .serverFault)
        }
        var writer = success()
        writer.opaque(handle)
        put(attributes, into: &writer)
        put(directory, into: &writer)
        return writer.bytes
    }

    // RFC 1813 section 3.3.4: "The results of the procedure are necessarily advisory in nature."
    /// ACCESS.
    /// - Parameter granted: bits of `NFSAccess`, of those that were asked for.
    public static func access(_ granted: UInt32, _ attributes: NFSv3Attributes?) -> [UInt8] {
        var writer = success()
        put(attributes, into: &writer)
        writer.uint32(granted)
        return writer.bytes
    }

    /// READDIR (section 3.3.16): the entries behind the cookie, as many as fit.
    /// - Parameters:
    ///   - entries: the whole directory; their cookies ascend.
    ///   - attributes: of the directory.
    ///   - verifier: changes when cookies that were given mean something else.
    /// - Returns: an error `.badCookie` when the request has another verifier, `.tooSmall` when not one entry fits.
    public static func readdir(
        _ request: NFSDirectoryRequest, _ entries: [NFSDirectoryEntry],
        _ attributes: NFSv3Attributes?, verifier: UInt64
    ) -> [UInt8] {
        list(.readdir, request, entries, attributes, verifier: verifier)
    }

    /// READDIRPLUS (section 3.3.17): as READDIR, with the entries' attributes and handles.
    ///
    /// One entry is given even when `dircount` is too small for it: some clients send 0.
    public static func readdirplus(
        _ request: NFSDirectoryRequest, _ entries: [NFSDirectoryEntry],
        _ attributes: NFSv3Attributes?, verifier: UInt64
    ) -> [UInt8] {
        list(.readdirplus, request, entries, attributes, verifier: verifier)
    }

    /// FSSTAT (section 3.3.18).
    public static func fsstat(
        _ statistics: NFSv3FileSystemStatistics, _ attributes: NFSv3Attributes?
    ) -> [UInt8] {
        var writer = success()
        put(attributes, into: &writer)
        writer.uint64(statistics.totalOctets)
        writer.uint64(statistics.freeOctets)
        writer.uint64(statistics.availableOctets)
        writer.uint64(statistics.totalFiles)
        writer.uint64(statistics.freeFiles)
        writer.uint64(statistics.availableFiles)
        writer.uint32(statistics.stableSeconds)
        return writer.bytes
    }

    /// FSINFO (section 3.3.19).
    public static func fsinfo(
        _ information: NFSv3FileSystemInformation, _ attributes: NFSv3Attributes?
    ) -> [UInt8] {
        var writer = success()
        put(attributes, into: &writer)
        writer.uint32(information.readMaximum)
        writer.uint32(information.readPreferred)
        writer.uint32(information.readMultiple)
        writer.uint32(information.writeMaximum)
        writer.uint32(information.writePreferred)
        writer.uint32(information.writeMultiple)
        writer.uint32(information.directoryPreferred)
        writer.uint64(information.fileSizeMaximum)
        information.timeDelta.encode(into: &writer)
        writer.uint32(information.properties)
        return writer.bytes
    }

    /// PATHCONF (section 3.3.20).
    public static func pathconf(
        _ configuration: NFSv3PathConfiguration, _ attributes: NFSv3Attributes?
    ) -> [UInt8] {
        var writer = success()
        put(attributes, into: &writer)
        writer.uint32(configuration.linkMaximum)
        writer.uint32(configuration.nameMaximum)
        writer.bool(configuration.refusesLongNames)
        writer.bool(configuration.restrictsOwnerChange)
        writer.bool(configuration.ignoresCase)
        writer.bool(configuration.preservesCase)
        return writer.bytes
    }

    // RFC 1813 section 3.3.17: dircount is "The maximum number of bytes of directory information returned. This
    // number should not include the size of the attributes and file handle portions of the result"; maxcount, as
    // count of READDIR, "The maximum size of the READDIRPLUS3resok structure, in bytes. The size must include all
    // XDR overhead." The status is not part of that structure.
    private static func list(
        _ procedure: NFSv3Procedure, _ request: NFSDirectoryRequest,
        _ entries: [NFSDirectoryEntry], _ attributes: NFSv3Attributes?, verifier: UInt64
    ) -> [UInt8] {
        if request.cookie != 0, request.verifier != verifier {
            return failure(procedure, .badCookie)
        }
        var writer = success()
        put(attributes, into: &writer)
        writer.uint64(verifier)
        // The end of the list and EOF come on top.
        var size = writer.bytes.count - 4 + 8
        guard size <= Int(request.maxcount) else { return failure(procedure, .tooSmall) }
        let isPlus = procedure == .readdirplus
        var names = 0
        var count = 0
        var isAtEnd = true
        for entry in entries where entry.cookie > request.cookie {
            let information = NFSDirectoryList.length(entry.name, number: 8)
            let length = information + (isPlus ? plusLength(entry) : 0)
            guard size + length <= Int(request.maxcount),
                !isPlus || count == 0 || names + information <= Int(request.dircount)
            else {
                isAtEnd = false
                break
            }
            size += length
            names += information
            count += 1
            writer.bool(true)
            writer.uint64(entry.fileID)
            writer.opaque(entry.name)
            writer.uint64(entry.cookie)
            guard isPlus else { continue }
            put(entry.attributes, into: &writer)
            putHandle(entry.handle, into: &writer)
        }
        guard isAtEnd || count > 0 else { return failure(procedure, .tooSmall) }
        writer.bool(false)
        writer.bool(isAtEnd)
        return writer.bytes
    }

    /// Octets of an entry's post_op_attr and post_op_fh3.
    private static func plusLength(_ entry: NFSDirectoryEntry) -> Int {
        var length = entry.attributes == nil ? 4 : 4 + NFSLayout.attributes3
        length += 4
        if let handle = entry.handle, handle.count <= NFSVersion.v3.handleLength {
            length += NFSDirectoryList.length(opaque: handle)
        }
        return length
    }

    private static func success() -> XDRWriter {
        var writer = XDRWriter()
        writer.uint32(NFSv3Status.ok.rawValue)
        return writer
    }

    /// post_op_attr (RFC 1813 section 2.6).
    private static func put(_ attributes: NFSv3Attributes?, into writer: inout XDRWriter) {
        writer.bool(attributes != nil)
        attributes?.encode(into: &writer)
    }

    /// post_op_fh3 (RFC 1813 section 2.6).
    private static func putHandle(_ handle: [UInt8]?, into writer: inout XDRWriter) {
        guard let handle, handle.count <= NFSVersion.v3.handleLength else {
            writer.bool(false)
            return
        }
        writer.bool(true)
        writer.opaque(handle)
    }
}

/// What STATFS says (RFC 1094 section 2.2.18).
public struct NFSv2FileSystemStatistics: Equatable, Sendable {
    /// tsize: octets of one transfer.
    public var transferSize: UInt32
    /// bsize: octets of a block.
    public var blockSize: UInt32
    /// Blocks: all, free, and free for users without privileges.
    public var totalBlocks: UInt32
    public var freeBlocks: UInt32
    public var availableBlocks: UInt32

    public init(
        transferSize: UInt32 = 8_192, blockSize: UInt32 = 4_096, totalBlocks: UInt32 = 0,
        freeBlocks: UInt32 = 0, availableBlocks: UInt32 = 0
    ) {
        self.transferSize = transferSize
        self.blockSize = blockSize
        self.totalBlocks = totalBlocks
        self.freeBlocks = freeBlocks
        self.availableBlocks = availableBlocks
    }
}

/// Results of version 2 procedures, made by ourselves.
public enum NFSv2Replies {
    // RFC 1094 section 2.2: behind an error status all unions are void.
    /// An error. NULL, ROOT and WRITECACHE have no results: nothing. `.ok` is no error and becomes `.ioError`.
    public static func failure(_ procedure: NFSv2Procedure, _ status: NFSv2Status) -> [UInt8] {
        guard procedure.hasResults else { return [] }
        let error: NFSv2Status = status == .ok ? .ioError : status
        var writer = XDRWriter()
        writer.uint32(error.rawValue)
        return writer.bytes
    }

    /// GETATTR (section 2.2.2): attrstat.
    public static func getattr(_ attributes: NFSv2Attributes) -> [UInt8] {
        var writer = success()
        attributes.encode(into: &writer)
        return writer.bytes
    }

    /// LOOKUP (section 2.2.5): diropres.
    /// - Parameter handle: 32 octets; else an error, `.ioError`.
    public static func lookup(_ handle: [UInt8], _ attributes: NFSv2Attributes) -> [UInt8] {
        guard handle.count == NFSVersion.v2.handleLength else { return failure(.lookup, .ioError) }
        var writer = success()
        writer.fixedOpaque(handle)
        attributes.encode(into: &writer)
        return writer.bytes
    }

    // RFC 1094 section 2.2.17: "Returns a variable number of directory entries, with a total size of up to "count"
    // bytes". What counts is not said: here all but the status.
    /// READDIR: the entries behind the cookie, as many as fit.
    /// - Parameter entries: the whole directory; their cookies ascend.
    /// - Returns: an error `.ioError` when not one entry fits: version 2 has no status for that, and an answer
    ///   without entries would be asked for again and again.
    public static func readdir(
        _ request: NFSDirectoryRequest, _ entries: [NFSDirectoryEntry]
    ) -> [UInt8] {
        var writer = success()
        var size = 8
        var count = 0
        var isAtEnd = true
        for entry in entries where entry.cookie > request.cookie {
            let length = NFSDirectoryList.length(entry.name, number: 4)
            guard size + length <= Int(request.maxcount) else {
                isAtEnd = false
                break
            }
            size += length
            count += 1
            writer.bool(true)
            writer.uint32(UInt32(truncatingIfNeeded: entry.fileID))
            writer.opaque(entry.name)
            writer.uint32(UInt32(truncatingIfNeeded: entry.cookie))
        }
        guard isAtEnd || count > 0 else { return failure(.readdir, .ioError) }
        writer.bool(false)
        writer.bool(isAtEnd)
        return writer.bytes
    }

    /// STATFS (section 2.2.18).
    public static func statfs(_ statistics: NFSv2FileSystemStatistics) -> [UInt8] {
        var writer = success()
        writer.uint32(statistics.transferSize)
        writer.uint32(statistics.blockSize)
        writer.uint32(statistics.totalBlocks)
        writer.uint32(statistics.freeBlocks)
        writer.uint32(statistics.availableBlocks)
        return writer.bytes
    }

    private static func success() -> XDRWriter {
        var writer = XDRWriter()
        writer.uint32(NFSv2Status.ok.rawValue)
        return writer
    }
}

/// Lengths of entries in lists of directories.
private enum NFSDirectoryList {
    /// Octets of an entry: the boolean in front of it, file number, name, cookie.
    /// - Parameter number: octets of the file number, and of the cookie.
    static func length(_ name: [UInt8], number: Int) -> Int {
        4 + number + length(opaque: name) + number
    }

    /// Octets with length word and padding.
    static func length(opaque octets: [UInt8]) -> Int { 4 + (octets.count + 3) & ~3 }
}
