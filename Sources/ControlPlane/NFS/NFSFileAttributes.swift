import StorageProtocols

/// Attributes of a file in either version.
enum NFSFileAttributes: Equatable, Sendable {
    case v2(NFSv2Attributes)
    case v3(NFSv3Attributes)

    init(_ version: NFSVersion, _ reader: inout XDRReader) throws(XDRError) {
        switch version {
        case .v2: self = .v2(try NFSv2Attributes(&reader))
        case .v3: self = .v3(try NFSv3Attributes(&reader))
        }
    }

    /// Nil: of a kind that version 3 does not have.
    var type: NFSv3FileType? {
        switch self {
        case .v3(let attributes): attributes.type
        case .v2(let attributes):
            switch attributes.type {
            case .nonFile: nil
            case .regular: .regular
            case .directory: .directory
            case .blockDevice: .blockDevice
            case .characterDevice: .characterDevice
            case .symbolicLink: .symbolicLink
            case .socket: .socket
            case .fifo: .fifo
            }
        }
    }

    /// Octets.
    var size: UInt64 {
        switch self {
        case .v2(let attributes): UInt64(attributes.size)
        case .v3(let attributes): attributes.size
        }
    }

    var linkCount: UInt32 {
        switch self {
        case .v2(let attributes): attributes.linkCount
        case .v3(let attributes): attributes.linkCount
        }
    }

    var fileSystem: UInt64 {
        switch self {
        case .v2(let attributes): UInt64(attributes.fileSystemID)
        case .v3(let attributes): attributes.fileSystemID
        }
    }

    var fileNumber: UInt64 {
        switch self {
        case .v2(let attributes): UInt64(attributes.fileID)
        case .v3(let attributes): attributes.fileID
        }
    }

    /// ns since 1970.
    var changedAt: UInt64 {
        switch self {
        case .v2(let attributes):
            UInt64(attributes.changeTime.seconds) * 1_000_000_000
                + UInt64(attributes.changeTime.microseconds) * 1_000
        case .v3(let attributes): attributes.changeTime.nanosecondsSince1970
        }
    }

    func encode(into writer: inout XDRWriter) {
        switch self {
        case .v2(let attributes): attributes.encode(into: &writer)
        case .v3(let attributes): attributes.encode(into: &writer)
        }
    }
}

extension NFSv3Time {
    var nanosecondsSince1970: UInt64 {
        UInt64(seconds) * 1_000_000_000 + UInt64(nanoseconds)
    }
}

/// What a call sets of a file's attributes: sattr3 (RFC 1813 section 2.6). Times that are to be the server's are left
/// out.
struct NFSSettableAttributes: Equatable, Sendable {
    var mode: UInt32?
    var userID: UInt32?
    var groupID: UInt32?
    var size: UInt64?
    var accessTime: NFSv3Time?
    var modifyTime: NFSv3Time?

    init(_ reader: inout XDRReader) throws(XDRError) {
        if try reader.bool() { mode = try reader.uint32() }
        if try reader.bool() { userID = try reader.uint32() }
        if try reader.bool() { groupID = try reader.uint32() }
        if try reader.bool() { size = try reader.uint64() }
        accessTime = try Self.time(&reader)
        modifyTime = try Self.time(&reader)
    }

    // time_how: DONT_CHANGE, SET_TO_SERVER_TIME, SET_TO_CLIENT_TIME.
    private static func time(_ reader: inout XDRReader) throws(XDRError) -> NFSv3Time? {
        guard try reader.uint32() == 2 else { return nil }
        let seconds = try reader.uint32()
        return NFSv3Time(seconds: seconds, nanoseconds: try reader.uint32())
    }

    /// The file is as the call wants it.
    func agrees(with attributes: NFSv3Attributes) -> Bool {
        (mode.map { $0 & 0o7777 == attributes.mode & 0o7777 } ?? true)
            && (userID.map { $0 == attributes.userID } ?? true)
            && (groupID.map { $0 == attributes.groupID } ?? true)
            && (size.map { $0 == attributes.size } ?? true)
            && (accessTime.map { $0 == attributes.accessTime } ?? true)
            && (modifyTime.map { $0 == attributes.modifyTime } ?? true)
    }
}
