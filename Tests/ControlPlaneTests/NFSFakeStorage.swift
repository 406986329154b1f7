import StorageProtocols

/// Files that servers in front of one storage have in common.
final class NFSFakeStorage {
    struct File {
        var type: NFSv3FileType
        var mode: UInt32 = 0o644
        var userID: UInt32 = 0
        var groupID: UInt32 = 0
        var data: [UInt8] = []
        /// Of a symbolic link.
        var text: [UInt8] = []
        var device: [UInt32] = [0, 0]
        var entries: [[UInt8]: UInt64] = [:]
        var parent: UInt64 = 0
        var linkCount: UInt32 = 1
        var verifier: UInt64?
        /// ns since 1970.
        var changedAt: UInt64 = 0
    }

    let fileSystem: UInt64
    private(set) var files: [UInt64: File] = [:]
    /// ns since 1970; goes on a millisecond with every change.
    var clock: UInt64 = 1_700_000_000_000_000_000
    private var last: UInt64

    /// - Parameter first: file number of the root.
    init(fileSystem: UInt64 = 7, first: UInt64 = 2) {
        self.fileSystem = fileSystem
        root = first
        last = first
        files[first] = File(type: .directory, mode: 0o755, parent: first, linkCount: 2)
    }

    let root: UInt64

    func tick() -> UInt64 {
        clock += 1_000_000
        return clock
    }

    subscript(_ number: UInt64) -> File? {
        get { files[number] }
        set { files[number] = newValue }
    }

    func child(_ name: [UInt8], of directory: UInt64) -> UInt64? {
        files[directory]?.entries[name]
    }

    /// A path below the root, as "a/b".
    func find(_ path: String) -> UInt64? {
        var number = root
        for name in path.split(separator: "/") {
            guard let next = child(Array(name.utf8), of: number) else { return nil }
            number = next
        }
        return number
    }

    @discardableResult
    func make(_ file: File, _ name: [UInt8], in directory: UInt64) -> UInt64 {
        last += 1
        var file = file
        file.changedAt = tick()
        file.parent = directory
        if file.type == .directory { file.linkCount = 2 }
        files[last] = file
        files[directory]?.entries[name] = last
        files[directory]?.changedAt = file.changedAt
        if file.type == .directory { files[directory]?.linkCount += 1 }
        return last
    }

    /// A file or directory at a path below the root; what is missing on the way is made.
    @discardableResult
    func put(_ path: String, _ type: NFSv3FileType = .regular, data: [UInt8] = []) -> UInt64 {
        var number = root
        let names = path.split(separator: "/").map { Array($0.utf8) }
        for name in names.dropLast() {
            number =
                child(name, of: number)
                ?? make(File(type: .directory, mode: 0o755), name, in: number)
        }
        return make(File(type: type, data: data), names.last ?? [], in: number)
    }

    func remove(_ name: [UInt8], from directory: UInt64) {
        guard let number = child(name, of: directory) else { return }
        let time = tick()
        files[directory]?.entries[name] = nil
        files[directory]?.changedAt = time
        if files[number]?.type == .directory {
            files[directory]?.linkCount -= 1
            files[number] = nil
            return
        }
        files[number]?.linkCount -= 1
        files[number]?.changedAt = time
        if files[number]?.linkCount == 0 { files[number] = nil }
    }

    func rename(_ from: [UInt8], _ source: UInt64, to name: [UInt8], _ target: UInt64) {
        guard let number = child(from, of: source) else { return }
        if child(name, of: target) == number { return }
        remove(name, from: target)
        let time = tick()
        files[source]?.entries[from] = nil
        files[target]?.entries[name] = number
        files[source]?.changedAt = time
        files[target]?.changedAt = time
        files[number]?.changedAt = time
    }

    func link(_ number: UInt64, _ name: [UInt8], in directory: UInt64) {
        let time = tick()
        files[directory]?.entries[name] = number
        files[directory]?.changedAt = time
        files[number]?.linkCount += 1
        files[number]?.changedAt = time
    }

    // MARK: Attributes

    func attributes3(_ number: UInt64) -> NFSv3Attributes? {
        guard let file = files[number] else { return nil }
        let time = NFSv3Time(
            seconds: UInt32(file.changedAt / 1_000_000_000),
            nanoseconds: UInt32(file.changedAt % 1_000_000_000))
        return NFSv3Attributes(
            type: file.type, mode: file.mode, linkCount: file.linkCount, userID: file.userID,
            groupID: file.groupID, size: UInt64(file.data.count), used: UInt64(file.data.count),
            deviceMajor: file.device[0], deviceMinor: file.device[1], fileSystemID: fileSystem,
            fileID: number, accessTime: time, modifyTime: time, changeTime: time)
    }

    func attributes2(_ number: UInt64) -> NFSv2Attributes? {
        guard let file = files[number] else { return nil }
        let types: [NFSv3FileType: NFSv2FileType] = [
            .regular: .regular, .directory: .directory, .symbolicLink: .symbolicLink,
        ]
        let time = NFSv2Time(
            seconds: UInt32(file.changedAt / 1_000_000_000),
            microseconds: UInt32(file.changedAt % 1_000_000_000 / 1_000))
        return NFSv2Attributes(
            type: types[file.type] ?? .nonFile, mode: file.mode, linkCount: file.linkCount,
            userID: file.userID, groupID: file.groupID, size: UInt32(file.data.count),
            fileSystemID: UInt32(truncatingIfNeeded: fileSystem),
            fileID: UInt32(truncatingIfNeeded: number), accessTime: time, modifyTime: time,
            changeTime: time)
    }
}
