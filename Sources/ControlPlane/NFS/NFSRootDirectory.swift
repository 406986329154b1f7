package import StorageProtocols

/// The directories between "/" and the exports, which no server has: the switch answers for them. Read only; their
/// owner is root.
///
/// The file number of a directory, and of an export in the listing of its directory, is a hash of its path of 31 bits:
/// the same in both versions, and whatever else there is. (Should two be the same, the one that comes later in the
/// configuration gets the next one that is free.) The cookie of an entry is its file number. So a listing that was
/// begun goes on where it stood when exports have come and gone, and the cookie verifier is always 0: RFC 1813 section
/// 3.3.16 leaves that to servers whose cookies are always valid.
package struct NFSRootDirectory: Sendable {
    /// What a name in one of the directories stands for.
    package enum Content: Equatable, Sendable {
        /// An index of `nodes`.
        case directory(Int)
        /// The number of an export.
        case export(UInt32)
    }

    struct Entry: Sendable {
        var name: [UInt8]
        var fileNumber: UInt32
        var content: Content
    }

    struct Node: Sendable {
        var fileNumber: UInt32
        /// Its parent's index; the root is its own.
        var parent: Int
        /// In ascending order of their file numbers.
        var entries: [Entry] = []
        /// Numbers of all exports below it.
        var exports: Set<UInt32> = []
    }

    package enum Answer: Equatable, Sendable {
        /// Results of the procedure.
        case results([UInt8])
        /// LOOKUP has found the root of an export, which its server has.
        case export(UInt32)
    }

    private(set) var nodes: [Node] = []
    private var places: [UInt32: Int] = [:]
    private let scheme: NFSHandleScheme
    /// When its contents have changed last.
    private let changeTime: NFSv3Time
    private let fileSystem: UInt64

    /// - Parameters:
    ///   - exports: numbers, and absolute paths of which none lies in another.
    ///   - scheme: makes the directories' handles.
    ///   - changeTime: when what clients see has changed last.
    package init(
        _ exports: [(index: UInt32, directory: String)], scheme: NFSHandleScheme,
        changeTime: NFSv3Time
    ) {
        self.scheme = scheme
        self.changeTime = changeTime
        fileSystem = Self.hash("file system", scheme.magic)
        var used: Set<UInt32> = []
        nodes = [Node(fileNumber: Self.fileNumber("/", scheme.magic, &used), parent: 0)]
        for export in exports { add(export.index, export.directory, &used) }
        for index in nodes.indices {
            nodes[index].entries.sort { $0.fileNumber < $1.fileNumber }
            places[nodes[index].fileNumber] = index
        }
    }

    private mutating func add(_ index: UInt32, _ directory: String, _ used: inout Set<UInt32>) {
        guard let path = NFSPath(Array(directory.utf8)), let last = path.names.last else { return }
        var node = 0
        nodes[0].exports.insert(index)
        for (depth, name) in path.names.dropLast().enumerated() {
            node = child(name, of: node, path.names[...depth], &used)
            nodes[node].exports.insert(index)
        }
        nodes[node].entries.append(
            Entry(
                name: last, fileNumber: fileNumber(path.names[...], &used),
                content: .export(index)))
    }

    /// Makes the directory when it is not there.
    private mutating func child(
        _ name: [UInt8], of node: Int, _ path: ArraySlice<[UInt8]>, _ used: inout Set<UInt32>
    ) -> Int {
        for entry in nodes[node].entries where entry.name == name {
            if case .directory(let index) = entry.content { return index }
        }
        let number = fileNumber(path, &used)
        nodes.append(Node(fileNumber: number, parent: node))
        let index = nodes.count - 1
        nodes[node].entries.append(
            Entry(name: name, fileNumber: number, content: .directory(index)))
        return index
    }

    // MARK: Numbers

    private func fileNumber(_ path: ArraySlice<[UInt8]>, _ used: inout Set<UInt32>) -> UInt32 {
        let text = path.map { "/" + String(decoding: $0, as: UTF8.self) }.joined()
        return Self.fileNumber(text, scheme.magic, &used)
    }

    /// From 16 on, since "." and ".." need cookies as well; below 2^31, since clients put cookies into signed numbers.
    private static func fileNumber(
        _ path: String, _ seed: UInt32, _ used: inout Set<UInt32>
    ) -> UInt32 {
        let (first, last): (UInt32, UInt32) = (16, 0x7fff_fff0)
        var number = first + UInt32(hash(path, seed) % UInt64(last - first + 1))
        while !used.insert(number).inserted { number = number == last ? first : number + 1 }
        return number
    }

    private static func hash(_ text: String, _ seed: UInt32) -> UInt64 {
        SipHash.hash(text.utf8, key: (UInt64(seed), 0)).first
    }

    // MARK: Finding

    /// Nil: there is none (any more).
    package func node(fileNumber: UInt32) -> Int? { places[fileNumber] }

    package func fileNumber(of node: Int) -> UInt32 { nodes[node].fileNumber }

    /// The directory that has an export; nil: there is no such export.
    package func parent(of export: UInt32) -> Int? {
        nodes.firstIndex { $0.entries.contains { $0.content == .export(export) } }
    }

    /// Nil: no directory of ours.
    package func node(path: NFSPath) -> Int? {
        var node = 0
        for name in path.names {
            guard case .directory(let next) = content(name, of: node) else { return nil }
            node = next
        }
        return node
    }

    private func content(_ name: [UInt8], of node: Int) -> Content? {
        nodes[node].entries.first { $0.name == name }?.content
    }

    package func handle(of node: Int) -> [UInt8] {
        scheme.directoryHandle(nodes[node].fileNumber)
    }

    // MARK: Answers

    /// - Parameters:
    ///   - call: to one of our directories, whose octets are in `message`.
    ///   - node: the directory of its first handle.
    ///   - overUDP: transfers have to fit into datagrams.
    ///   - isSeen: whether the client may know of an export. A directory without one that it may know of is not
    ///     there.
    package func answer(
        _ call: NFSCall, _ message: [UInt8], at node: Int, overUDP: Bool,
        isSeen: (UInt32) -> Bool
    ) -> Answer {
        switch call.procedure {
        case .v3(let procedure): answer(procedure, call, message, node, overUDP, isSeen)
        case .v2(let procedure): answer(procedure, call, message, node, isSeen)
        }
    }

    private func answer(
        _ procedure: NFSv3Procedure, _ call: NFSCall, _ message: [UInt8], _ node: Int,
        _ overUDP: Bool, _ isSeen: (UInt32) -> Bool
    ) -> Answer {
        let own = attributes3(of: node)
        switch procedure {
        case .null: return .results([])
        case .getattr: return .results(NFSv3Replies.getattr(own))
        case .lookup:
            switch lookUp(call, message, node, isSeen) {
            case .directory(let found):
                return .results(
                    NFSv3Replies.lookup(
                        handle(of: found), attributes3(of: found), directory: own))
            case .export(let index): return .export(index)
            case nil: return .results(NFSv3Replies.failure(.lookup, .noEntry))
            }
        case .access:
            let granted = NFSAccess.read | NFSAccess.lookup | NFSAccess.execute
            return .results(NFSv3Replies.access((call.access ?? 0) & granted, own))
        case .readdir, .readdirplus:
            let request = call.directory ?? NFSDirectoryRequest(cookie: 0, maxcount: 0)
            let entries = entries(of: node, isSeen)
            return .results(
                procedure == .readdir
                    ? NFSv3Replies.readdir(request, entries, own, verifier: 0)
                    : NFSv3Replies.readdirplus(request, entries, own, verifier: 0))
        case .fsstat: return .results(NFSv3Replies.fsstat(NFSv3FileSystemStatistics(), own))
        case .fsinfo: return .results(NFSv3Replies.fsinfo(Self.information(overUDP), own))
        case .pathconf:
            return .results(NFSv3Replies.pathconf(NFSv3PathConfiguration(), own))
        case .readlink: return .results(NFSv3Replies.failure(procedure, .invalidArgument))
        case .read, .commit: return .results(NFSv3Replies.failure(procedure, .isDirectory))
        case .setattr, .write, .create, .mkdir, .symlink, .mknod, .remove, .rmdir, .rename, .link:
            return .results(NFSv3Replies.failure(procedure, .readOnly))
        }
    }

    private func answer(
        _ procedure: NFSv2Procedure, _ call: NFSCall, _ message: [UInt8], _ node: Int,
        _ isSeen: (UInt32) -> Bool
    ) -> Answer {
        switch procedure {
        case .null, .root, .writecache: return .results([])
        case .getattr: return .results(NFSv2Replies.getattr(attributes2(of: node)))
        case .lookup:
            switch lookUp(call, message, node, isSeen) {
            case .directory(let found):
                return .results(NFSv2Replies.lookup(handle(of: found), attributes2(of: found)))
            case .export(let index): return .export(index)
            case nil: return .results(NFSv2Replies.failure(.lookup, .noEntry))
            }
        case .readdir:
            let request = call.directory ?? NFSDirectoryRequest(cookie: 0, maxcount: 0)
            return .results(NFSv2Replies.readdir(request, entries(of: node, isSeen)))
        case .statfs: return .results(NFSv2Replies.statfs(NFSv2FileSystemStatistics()))
        case .readlink, .read: return .results(NFSv2Replies.failure(procedure, .isDirectory))
        case .setattr, .write, .create, .remove, .rename, .link, .symlink, .mkdir, .rmdir:
            return .results(NFSv2Replies.failure(procedure, .readOnly))
        }
    }

    private func lookUp(
        _ call: NFSCall, _ message: [UInt8], _ node: Int, _ isSeen: (UInt32) -> Bool
    ) -> Content? {
        guard let range = call.names.first else { return nil }
        switch message[range] {
        case [UInt8(ascii: ".")]: return .directory(node)
        case [UInt8(ascii: "."), UInt8(ascii: ".")]: return .directory(nodes[node].parent)
        default:
            guard let found = content(Array(message[range]), of: node), sees(found, isSeen) else {
                return nil
            }
            return found
        }
    }

    private func sees(_ content: Content, _ isSeen: (UInt32) -> Bool) -> Bool {
        switch content {
        case .directory(let index): nodes[index].exports.contains(where: isSeen)
        case .export(let index): isSeen(index)
        }
    }

    private func entries(of node: Int, _ isSeen: (UInt32) -> Bool) -> [NFSDirectoryEntry] {
        let parent = nodes[nodes[node].parent]
        let own = [
            NFSDirectoryEntry(
                fileID: UInt64(nodes[node].fileNumber), name: [UInt8(ascii: ".")], cookie: 1),
            NFSDirectoryEntry(
                fileID: UInt64(parent.fileNumber), name: [UInt8](repeating: 0x2e, count: 2),
                cookie: 2),
        ]
        return own
            + nodes[node].entries.filter { sees($0.content, isSeen) }.map { entry in
                var result = NFSDirectoryEntry(
                    fileID: UInt64(entry.fileNumber), name: entry.name,
                    cookie: UInt64(entry.fileNumber))
                // What an export's root has, its server knows: the client looks it up.
                if case .directory(let index) = entry.content {
                    result.attributes = attributes3(of: index)
                    result.handle = handle(of: index)
                }
                return result
            }
    }

    /// - Parameter overUDP: reads and writes of 32 KiB, which clients and servers over UDP are used to.
    private static func information(_ overUDP: Bool) -> NFSv3FileSystemInformation {
        guard overUDP else { return NFSv3FileSystemInformation() }
        let length: UInt32 = 32_768
        return NFSv3FileSystemInformation(
            readMaximum: length, readPreferred: length, writeMaximum: length,
            writePreferred: length, directoryPreferred: 8_192)
    }

    // MARK: Attributes

    private static let mode: UInt32 = 0o555
    /// Octets.
    private static let size: UInt32 = 4_096

    package func attributes3(of node: Int) -> NFSv3Attributes {
        NFSv3Attributes(
            type: .directory, mode: Self.mode, linkCount: linkCount(of: node),
            size: UInt64(Self.size), used: UInt64(Self.size), fileSystemID: fileSystem,
            fileID: UInt64(nodes[node].fileNumber), accessTime: changeTime,
            modifyTime: changeTime, changeTime: changeTime)
    }

    package func attributes2(of node: Int) -> NFSv2Attributes {
        let time = NFSv2Time(
            seconds: changeTime.seconds, microseconds: changeTime.nanoseconds / 1_000)
        return NFSv2Attributes(
            type: .directory, mode: 0o040_000 | Self.mode, linkCount: linkCount(of: node),
            size: Self.size, blocks: 8, fileSystemID: UInt32(truncatingIfNeeded: fileSystem),
            fileID: nodes[node].fileNumber, accessTime: time, modifyTime: time, changeTime: time)
    }

    /// As of any directory: its name, its own ".", and ".." of each one in it.
    private func linkCount(of node: Int) -> UInt32 { 2 + UInt32(nodes[node].entries.count) }
}
