/// The arguments of a call: where its handles, names and data are in the message.
///
/// All ranges are of octets of the message that was given, without length words and padding.
public struct NFSCall: Equatable, Sendable {
    public let procedure: NFSProcedure
    /// In the order in which they come. RENAME: the directories from and to. LINK: the file, the directory. NULL,
    /// and ROOT and WRITECACHE of v2: none. All others: one.
    public private(set) var handles: [Range<Int>] = []
    /// Names in directories, in the order in which they come; the path of a symbolic link is none.
    public private(set) var names: [Range<Int>] = []
    /// READ, WRITE, COMMIT: octets from the start of the file.
    public private(set) var offset: UInt64?
    /// READ, WRITE, COMMIT: octets. It is what the client says; `data` may have another length.
    public private(set) var count: UInt32?
    /// WRITE: the octets to be written.
    public private(set) var data: Range<Int>?
    /// ACCESS: bits of `NFSAccess` that the client asks for.
    public private(set) var access: UInt32?
    /// READDIR, READDIRPLUS: from where, and how much.
    public private(set) var directory: NFSDirectoryRequest?
    /// SETATTR of v3: done only when the file has not changed since (RFC 1813 section 3.3.2).
    public private(set) var isGuarded = false
    /// CREATE of v3 with a verifier: when it comes again it succeeds again (RFC 1813 section 3.3.8).
    public private(set) var isExclusive = false
    /// Where the arguments end.
    public private(set) var end: Int

    /// Reads the arguments, which begin at `position` of the message.
    ///
    /// Throws `.truncated` when the message ends within the arguments, `.tooLong` for a handle, a name or data
    /// longer than the version allows, `.badValue` for a union's or an enumeration's value that there is not.
    public init(
        _ procedure: NFSProcedure, _ message: UnsafeRawBufferPointer, at position: Int
    ) throws(XDRError) {
        guard position >= 0, position <= message.count else { throw .truncated }
        self.procedure = procedure
        end = position
        var reader = XDRReader(message)
        try reader.skip(position)
        switch procedure {
        case .v2(let procedure): try take(procedure, &reader)
        case .v3(let procedure): try take(procedure, &reader)
        }
        end = reader.position
    }

    /// Whether doing it twice gives what doing it once gives. An answer that was lost may then be asked for again,
    /// of another server too.
    public var isIdempotent: Bool {
        switch procedure {
        case .v3(.setattr): !isGuarded
        case .v3(.create): isExclusive
        default: procedure.isIdempotent
        }
    }

    // MARK: Version 3 (RFC 1813 section 3.3)

    private mutating func take(
        _ procedure: NFSv3Procedure, _ reader: inout XDRReader
    ) throws(XDRError) {
        switch procedure {
        case .null: break
        case .getattr, .readlink, .fsstat, .fsinfo, .pathconf: try handle3(&reader)
        case .setattr:
            try handle3(&reader)
            try reader.skipSettable3()
            isGuarded = try reader.bool()
            if isGuarded { try reader.skip(NFSLayout.time) }
        case .lookup, .remove, .rmdir: try place3(&reader)
        case .access:
            try handle3(&reader)
            access = try reader.uint32()
        case .read, .commit:
            try handle3(&reader)
            offset = try reader.uint64()
            count = try reader.uint32()
        case .write:
            try handle3(&reader)
            offset = try reader.uint64()
            count = try reader.uint32()
            // stable_how: UNSTABLE, DATA_SYNC, FILE_SYNC.
            guard try reader.uint32() <= 2 else { throw .badValue }
            data = try reader.opaque(maximum: NFSLayout.anyLength)
        case .create: try takeCreate(&reader)
        case .mkdir:
            try place3(&reader)
            try reader.skipSettable3()
        case .symlink:
            try place3(&reader)
            try reader.skipSettable3()
            _ = try reader.opaque(maximum: NFSLayout.anyLength)
        case .mknod: try takeMakeNode(&reader)
        case .rename:
            try place3(&reader)
            try place3(&reader)
        case .link:
            try handle3(&reader)
            try place3(&reader)
        case .readdir:
            try handle3(&reader)
            directory = NFSDirectoryRequest(
                cookie: try reader.uint64(), verifier: try reader.uint64(),
                maxcount: try reader.uint32())
        case .readdirplus:
            try handle3(&reader)
            directory = NFSDirectoryRequest(
                cookie: try reader.uint64(), verifier: try reader.uint64(),
                dircount: try reader.uint32(), maxcount: try reader.uint32())
        }
    }

    /// createhow3 (RFC 1813 section 3.3.8): attributes for UNCHECKED and GUARDED, a verifier for EXCLUSIVE.
    private mutating func takeCreate(_ reader: inout XDRReader) throws(XDRError) {
        try place3(&reader)
        switch try reader.uint32() {
        case 0, 1: try reader.skipSettable3()
        case 2:
            isExclusive = true
            try reader.skip(NFSLayout.verifier)
        default: throw .badValue
        }
    }

    /// mknoddata3 (RFC 1813 section 3.3.11). Types of which no node can be made have nothing: the server says
    /// NFS3ERR_BADTYPE.
    private mutating func takeMakeNode(_ reader: inout XDRReader) throws(XDRError) {
        try place3(&reader)
        guard let type = NFSv3FileType(rawValue: try reader.uint32()) else { throw .badValue }
        switch type {
        case .blockDevice, .characterDevice:
            try reader.skipSettable3()
            try reader.skip(8)
        case .socket, .fifo: try reader.skipSettable3()
        case .regular, .directory, .symbolicLink: break
        }
    }

    private mutating func handle3(_ reader: inout XDRReader) throws(XDRError) {
        handles.append(try reader.opaque(maximum: NFSVersion.v3.handleLength))
    }

    /// diropargs3: a directory and a name. RFC 1813 gives names no limit of their own.
    private mutating func place3(_ reader: inout XDRReader) throws(XDRError) {
        try handle3(&reader)
        names.append(try reader.opaque(maximum: NFSLayout.anyLength))
    }

    // MARK: Version 2 (RFC 1094 section 2.2)

    private mutating func take(
        _ procedure: NFSv2Procedure, _ reader: inout XDRReader
    ) throws(XDRError) {
        switch procedure {
        case .null, .root, .writecache: break
        case .getattr, .readlink, .statfs: try handle2(&reader)
        case .setattr:
            try handle2(&reader)
            try reader.skip(NFSLayout.settable2)
        case .lookup, .remove, .rmdir: try place2(&reader)
        case .read:
            try handle2(&reader)
            offset = UInt64(try reader.uint32())
            count = try reader.uint32()
            // totalcount, which is unused.
            try reader.skip(4)
        case .write:
            try handle2(&reader)
            // beginoffset, and behind the offset totalcount: both unused.
            try reader.skip(4)
            offset = UInt64(try reader.uint32())
            try reader.skip(4)
            let octets = try reader.opaque(maximum: NFSLayout.data2)
            count = UInt32(truncatingIfNeeded: octets.count)
            data = octets
        case .create, .mkdir:
            try place2(&reader)
            try reader.skip(NFSLayout.settable2)
        case .rename:
            try place2(&reader)
            try place2(&reader)
        case .link:
            try handle2(&reader)
            try place2(&reader)
        case .symlink:
            try place2(&reader)
            _ = try reader.opaque(maximum: NFSLayout.path2)
            try reader.skip(NFSLayout.settable2)
        case .readdir:
            try handle2(&reader)
            directory = NFSDirectoryRequest(
                cookie: UInt64(try reader.uint32()), maxcount: try reader.uint32())
        }
    }

    private mutating func handle2(_ reader: inout XDRReader) throws(XDRError) {
        handles.append(try reader.fixedOpaque(NFSVersion.v2.handleLength))
    }

    private mutating func place2(_ reader: inout XDRReader) throws(XDRError) {
        try handle2(&reader)
        names.append(try reader.opaque(maximum: NFSLayout.name2))
    }
}

/// What READDIR or READDIRPLUS asks for (RFC 1813 sections 3.3.16 and 3.3.17, RFC 1094 section 2.2.17).
///
/// `maxcount` is the last word of the arguments: a relay that makes handles longer has to lower it there.
public struct NFSDirectoryRequest: Equatable, Sendable {
    /// Of the last entry that the client has; 0: from the start. Of v2: 32 bits.
    public var cookie: UInt64
    /// cookieverf, eight octets; of v2: 0.
    public var verifier: UInt64
    /// READDIRPLUS: octets of names, file numbers and cookies at most.
    public var dircount: UInt32
    /// Octets of the whole answer at most: of READDIR3resok and READDIRPLUS3resok, of v2 the list of entries.
    public var maxcount: UInt32

    public init(
        cookie: UInt64, verifier: UInt64 = 0, dircount: UInt32 = .max, maxcount: UInt32
    ) {
        self.cookie = cookie
        self.verifier = verifier
        self.dircount = dircount
        self.maxcount = maxcount
    }
}

/// The results of a reply: where the handles, the file system numbers and the data in them are.
///
/// All ranges are of octets of the message that was given, without length words and padding.
public struct NFSResults: Equatable, Sendable {
    public let procedure: NFSProcedure
    /// As the server gave it, so it may be one that no RFC knows. 0 is success, and what procedures without
    /// results have.
    public private(set) var status: UInt32 = 0
    /// LOOKUP, CREATE, MKDIR, of v3 also SYMLINK and MKNOD: one, or none where it is optional. READDIRPLUS: those of
    /// the entries that have one, in order. After an error: none.
    public private(set) var handles: [Range<Int>] = []
    /// fsid of all attributes, in the order in which they come: eight octets each in v3, four in v2. The file number
    /// stands behind each; `NFSAttributeLayout` says what else is around it. What is from before a change (wcc_attr)
    /// has none.
    public private(set) var fileSystems: [Range<Int>] = []
    /// READ: the octets that were read.
    public private(set) var data: Range<Int>?
    /// Where the results end.
    public private(set) var end: Int

    /// Reads the results, which begin at `position` of the message, with the status.
    ///
    /// Throws as `NFSCall` does.
    public init(
        _ procedure: NFSProcedure, _ message: UnsafeRawBufferPointer, at position: Int
    ) throws(XDRError) {
        guard position >= 0, position <= message.count else { throw .truncated }
        self.procedure = procedure
        end = position
        var reader = XDRReader(message)
        try reader.skip(position)
        switch procedure {
        case .v2(let procedure): try take(procedure, &reader)
        case .v3(let procedure): try take(procedure, &reader)
        }
        end = reader.position
    }

    public var isSuccess: Bool { status == 0 }

    // MARK: Version 3 (RFC 1813 section 3.3)

    private mutating func take(
        _ procedure: NFSv3Procedure, _ reader: inout XDRReader
    ) throws(XDRError) {
        guard procedure != .null else { return }
        status = try reader.uint32()
        guard status == 0 else {
            let arm = procedure.failureArm
            for _ in 0..<arm.attributes { try optionalAttributes3(&reader) }
            for _ in 0..<arm.changes { try change3(&reader) }
            return
        }
        switch procedure {
        case .null: break
        case .getattr: try attributes3(&reader)
        case .setattr, .remove, .rmdir: try change3(&reader)
        case .lookup:
            handles.append(try reader.opaque(maximum: NFSVersion.v3.handleLength))
            try optionalAttributes3(&reader)
            try optionalAttributes3(&reader)
        case .access:
            try optionalAttributes3(&reader)
            try reader.skip(4)
        case .readlink:
            try optionalAttributes3(&reader)
            _ = try reader.opaque(maximum: NFSLayout.anyLength)
        case .read:
            try optionalAttributes3(&reader)
            // count; EOF.
            try reader.skip(4)
            _ = try reader.bool()
            data = try reader.opaque(maximum: NFSLayout.anyLength)
        case .write:
            try change3(&reader)
            // count and stable_how.
            try reader.skip(8 + NFSLayout.verifier)
        case .create, .mkdir, .symlink, .mknod:
            try optionalHandle3(&reader)
            try optionalAttributes3(&reader)
            try change3(&reader)
        case .rename:
            try change3(&reader)
            try change3(&reader)
        case .link:
            try optionalAttributes3(&reader)
            try change3(&reader)
        case .readdir, .readdirplus:
            try takeEntries3(&reader, isPlus: procedure == .readdirplus)
        // Behind the attributes: six numbers of 64 bits and one of 32; eight of 32 bits and two of 64; six of 32.
        case .fsstat: try optionalAttributes3(&reader, then: 52)
        case .fsinfo: try optionalAttributes3(&reader, then: 48)
        case .pathconf: try optionalAttributes3(&reader, then: 24)
        case .commit:
            try change3(&reader)
            try reader.skip(NFSLayout.verifier)
        }
    }

    /// fattr3.
    private mutating func attributes3(_ reader: inout XDRReader) throws(XDRError) {
        let start = reader.position + NFSAttributeLayout.fileSystem3
        try reader.skip(NFSLayout.attributes3)
        fileSystems.append(start..<start + 8)
    }

    /// post_op_attr, and octets behind it.
    private mutating func optionalAttributes3(
        _ reader: inout XDRReader, then octets: Int = 0
    ) throws(XDRError) {
        if try reader.bool() { try attributes3(&reader) }
        try reader.skip(octets)
    }

    /// wcc_data: pre_op_attr and post_op_attr.
    private mutating func change3(_ reader: inout XDRReader) throws(XDRError) {
        if try reader.bool() { try reader.skip(NFSLayout.change3) }
        try optionalAttributes3(&reader)
    }

    /// post_op_fh3.
    private mutating func optionalHandle3(_ reader: inout XDRReader) throws(XDRError) {
        guard try reader.bool() else { return }
        handles.append(try reader.opaque(maximum: NFSVersion.v3.handleLength))
    }

    // RFC 1813 section 3.3.17: entryplus3 is fileid, name, cookie, post_op_attr, post_op_fh3; "*nextentry" is a
    // boolean before each entry, false behind the last (RFC 4506 section 4.19).
    private mutating func takeEntries3(
        _ reader: inout XDRReader, isPlus: Bool
    ) throws(XDRError) {
        try optionalAttributes3(&reader, then: NFSLayout.verifier)
        while try reader.bool() {
            try reader.skip(8)
            _ = try reader.opaque(maximum: NFSLayout.anyLength)
            try reader.skip(8)
            guard isPlus else { continue }
            try optionalAttributes3(&reader)
            try optionalHandle3(&reader)
        }
        _ = try reader.bool()
    }

    // MARK: Version 2 (RFC 1094 section 2.2)

    private mutating func take(
        _ procedure: NFSv2Procedure, _ reader: inout XDRReader
    ) throws(XDRError) {
        guard procedure.hasResults else { return }
        status = try reader.uint32()
        guard status == 0 else { return }
        switch procedure {
        case .null, .root, .writecache, .remove, .rename, .link, .symlink, .rmdir: break
        case .getattr, .setattr, .write: try attributes2(&reader)
        case .lookup, .create, .mkdir:
            handles.append(try reader.fixedOpaque(NFSVersion.v2.handleLength))
            try attributes2(&reader)
        case .readlink: _ = try reader.opaque(maximum: NFSLayout.path2)
        case .read:
            try attributes2(&reader)
            data = try reader.opaque(maximum: NFSLayout.data2)
        case .readdir:
            while try reader.bool() {
                try reader.skip(4)
                _ = try reader.opaque(maximum: NFSLayout.name2)
                try reader.skip(4)
            }
            _ = try reader.bool()
        // Five numbers of 32 bits.
        case .statfs: try reader.skip(20)
        }
    }

    /// fattr.
    private mutating func attributes2(_ reader: inout XDRReader) throws(XDRError) {
        let start = reader.position + NFSAttributeLayout.fileSystem2
        try reader.skip(NFSLayout.attributes2)
        fileSystems.append(start..<start + 4)
    }
}

/// Octets from the start of attributes to what is in them (RFC 1813 section 2.6, RFC 1094 section 2.3.5).
public enum NFSAttributeLayout {
    /// fsid and ctime of fattr3: eight octets each.
    public static let fileSystem3 = 44
    public static let changeTime3 = 76
    /// fsid of fattr: four octets; its ctime: eight.
    public static let fileSystem2 = 36
    public static let changeTime2 = 60
}

/// Octets of structures (RFC 1813 sections 2.4 to 2.6, RFC 1094 section 2.3).
enum NFSLayout {
    /// nfstime3, timeval.
    static let time = 8
    /// cookieverf3, createverf3, writeverf3.
    static let verifier = 8
    /// fattr3.
    static let attributes3 = 84
    /// wcc_attr: size, mtime, ctime.
    static let change3 = 24
    /// fattr.
    static let attributes2 = 68
    /// sattr.
    static let settable2 = 32
    /// MAXNAMLEN, MAXPATHLEN and MAXDATA of version 2, at most.
    static let name2 = 255
    static let path2 = 1_024
    static let data2 = 8_192
    /// Where version 3 has no limit but the length word.
    static let anyLength = Int(UInt32.max)
}

/// What nobody looks into (RFC 1813 section 2.6).
extension XDRReader {
    /// sattr3: mode, owner and group, size, each when its boolean says so; two times, each of the client when
    /// its time_how is SET_TO_CLIENT_TIME.
    fileprivate mutating func skipSettable3() throws(XDRError) {
        for _ in 0..<3 {
            if try bool() { try skip(4) }
        }
        if try bool() { try skip(8) }
        for _ in 0..<2 {
            switch try uint32() {
            case 0, 1: break
            case 2: try skip(NFSLayout.time)
            default: throw .badValue
            }
        }
    }
}
