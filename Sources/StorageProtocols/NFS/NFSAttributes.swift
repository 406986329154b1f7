/// ftype3 (RFC 1813 section 2.6).
public enum NFSv3FileType: UInt32, CaseIterable, Sendable {
    case regular = 1
    case directory = 2
    case blockDevice = 3
    case characterDevice = 4
    case symbolicLink = 5
    case socket = 6
    case fifo = 7
}

/// ftype (RFC 1094 section 2.3.2).
public enum NFSv2FileType: UInt32, CaseIterable, Sendable {
    /// NFNON: not a file.
    case nonFile = 0
    case regular = 1
    case directory = 2
    case blockDevice = 3
    case characterDevice = 4
    case symbolicLink = 5
    /// This and `fifo` are not in the RFC; nfs_prot.x of SunRPC has them, and servers send them.
    case socket = 6
    case fifo = 8
}

/// nfstime3 (RFC 1813 section 2.6): since 1970-01-01 00:00 UTC.
public struct NFSv3Time: Equatable, Sendable {
    public var seconds: UInt32
    public var nanoseconds: UInt32

    public init(seconds: UInt32 = 0, nanoseconds: UInt32 = 0) {
        self.seconds = seconds
        self.nanoseconds = nanoseconds
    }

    init(_ reader: inout XDRReader) throws(XDRError) {
        seconds = try reader.uint32()
        nanoseconds = try reader.uint32()
    }

    func encode(into writer: inout XDRWriter) {
        writer.uint32(seconds)
        writer.uint32(nanoseconds)
    }
}

/// timeval of version 2 (RFC 1094 section 2.3.4): since 1970-01-01 00:00 UTC.
public struct NFSv2Time: Equatable, Sendable {
    public var seconds: UInt32
    public var microseconds: UInt32

    public init(seconds: UInt32 = 0, microseconds: UInt32 = 0) {
        self.seconds = seconds
        self.microseconds = microseconds
    }

    init(_ reader: inout XDRReader) throws(XDRError) {
        seconds = try reader.uint32()
        microseconds = try reader.uint32()
    }

    func encode(into writer: inout XDRWriter) {
        writer.uint32(seconds)
        writer.uint32(microseconds)
    }
}

/// fattr3, the attributes of a file (RFC 1813 section 2.6): 84 octets.
public struct NFSv3Attributes: Equatable, Sendable {
    public var type: NFSv3FileType
    /// Permission bits only: 0o7777.
    public var mode: UInt32
    /// nlink.
    public var linkCount: UInt32
    public var userID: UInt32
    public var groupID: UInt32
    /// Octets.
    public var size: UInt64
    /// Octets on disk.
    public var used: UInt64
    /// rdev: specdata1 and specdata2, which mean something for devices only.
    public var deviceMajor: UInt32
    public var deviceMinor: UInt32
    /// fsid.
    public var fileSystemID: UInt64
    public var fileID: UInt64
    /// atime, mtime, ctime.
    public var accessTime: NFSv3Time
    public var modifyTime: NFSv3Time
    public var changeTime: NFSv3Time

    public init(
        type: NFSv3FileType, mode: UInt32, linkCount: UInt32 = 1, userID: UInt32 = 0,
        groupID: UInt32 = 0, size: UInt64 = 0, used: UInt64 = 0,
        deviceMajor: UInt32 = 0, deviceMinor: UInt32 = 0, fileSystemID: UInt64, fileID: UInt64,
        accessTime: NFSv3Time = NFSv3Time(), modifyTime: NFSv3Time = NFSv3Time(),
        changeTime: NFSv3Time = NFSv3Time()
    ) {
        self.type = type
        self.mode = mode
        self.linkCount = linkCount
        self.userID = userID
        self.groupID = groupID
        self.size = size
        self.used = used
        self.deviceMajor = deviceMajor
        self.deviceMinor = deviceMinor
        self.fileSystemID = fileSystemID
        self.fileID = fileID
        self.accessTime = accessTime
        self.modifyTime = modifyTime
        self.changeTime = changeTime
    }

    /// Reads them. Throws `.truncated`, and `.badValue` for a type that there is not.
    public init(_ reader: inout XDRReader) throws(XDRError) {
        guard let type = NFSv3FileType(rawValue: try reader.uint32()) else { throw .badValue }
        self.type = type
        mode = try reader.uint32()
        linkCount = try reader.uint32()
        userID = try reader.uint32()
        groupID = try reader.uint32()
        size = try reader.uint64()
        used = try reader.uint64()
        deviceMajor = try reader.uint32()
        deviceMinor = try reader.uint32()
        fileSystemID = try reader.uint64()
        fileID = try reader.uint64()
        accessTime = try NFSv3Time(&reader)
        modifyTime = try NFSv3Time(&reader)
        changeTime = try NFSv3Time(&reader)
    }

    /// Writes 84 octets.
    public func encode(into writer: inout XDRWriter) {
        writer.uint32(type.rawValue)
        writer.uint32(mode)
        writer.uint32(linkCount)
        writer.uint32(userID)
        writer.uint32(groupID)
        writer.uint64(size)
        writer.uint64(used)
        writer.uint32(deviceMajor)
        writer.uint32(deviceMinor)
        writer.uint64(fileSystemID)
        writer.uint64(fileID)
        accessTime.encode(into: &writer)
        modifyTime.encode(into: &writer)
        changeTime.encode(into: &writer)
    }
}

/// fattr, the attributes of a file in version 2 (RFC 1094 section 2.3.5): 68 octets.
public struct NFSv2Attributes: Equatable, Sendable {
    public var type: NFSv2FileType
    /// Permission bits and, unlike version 3, the type: 0o040755 of a directory.
    public var mode: UInt32
    /// nlink.
    public var linkCount: UInt32
    public var userID: UInt32
    public var groupID: UInt32
    /// Octets.
    public var size: UInt32
    /// Octets of a block.
    public var blockSize: UInt32
    /// rdev.
    public var device: UInt32
    /// Blocks on disk.
    public var blocks: UInt32
    /// fsid.
    public var fileSystemID: UInt32
    public var fileID: UInt32
    /// atime, mtime, ctime.
    public var accessTime: NFSv2Time
    public var modifyTime: NFSv2Time
    public var changeTime: NFSv2Time

    public init(
        type: NFSv2FileType, mode: UInt32, linkCount: UInt32 = 1, userID: UInt32 = 0,
        groupID: UInt32 = 0, size: UInt32 = 0, blockSize: UInt32 = 4_096, device: UInt32 = 0,
        blocks: UInt32 = 0, fileSystemID: UInt32, fileID: UInt32,
        accessTime: NFSv2Time = NFSv2Time(), modifyTime: NFSv2Time = NFSv2Time(),
        changeTime: NFSv2Time = NFSv2Time()
    ) {
        self.type = type
        self.mode = mode
        self.linkCount = linkCount
        self.userID = userID
        self.groupID = groupID
        self.size = size
        self.blockSize = blockSize
        self.device = device
        self.blocks = blocks
        self.fileSystemID = fileSystemID
        self.fileID = fileID
        self.accessTime = accessTime
        self.modifyTime = modifyTime
        self.changeTime = changeTime
    }

    /// Reads them. Throws `.truncated`, and `.badValue` for a type that there is not.
    public init(_ reader: inout XDRReader) throws(XDRError) {
        guard let type = NFSv2FileType(rawValue: try reader.uint32()) else { throw .badValue }
        self.type = type
        mode = try reader.uint32()
        linkCount = try reader.uint32()
        userID = try reader.uint32()
        groupID = try reader.uint32()
        size = try reader.uint32()
        blockSize = try reader.uint32()
        device = try reader.uint32()
        blocks = try reader.uint32()
        fileSystemID = try reader.uint32()
        fileID = try reader.uint32()
        accessTime = try NFSv2Time(&reader)
        modifyTime = try NFSv2Time(&reader)
        changeTime = try NFSv2Time(&reader)
    }

    /// Writes 68 octets.
    public func encode(into writer: inout XDRWriter) {
        for word in [
            type.rawValue, mode, linkCount, userID, groupID, size, blockSize, device, blocks,
            fileSystemID, fileID,
        ] {
            writer.uint32(word)
        }
        accessTime.encode(into: &writer)
        modifyTime.encode(into: &writer)
        changeTime.encode(into: &writer)
    }
}

/// Bits of ACCESS (RFC 1813 section 3.3.4).
public enum NFSAccess {
    public static let read: UInt32 = 0x01
    /// Names in a directory may be looked up.
    public static let lookup: UInt32 = 0x02
    /// Data or entries that are there may be changed.
    public static let modify: UInt32 = 0x04
    /// Data or entries may be added.
    public static let extend: UInt32 = 0x08
    public static let delete: UInt32 = 0x10
    public static let execute: UInt32 = 0x20
}
