import StorageProtocols

/// Arguments or results of a procedure behind a header, and where in them is what.
struct NFSSample {
    /// Octets of the header.
    static let start = 40
    static let procedures =
        NFSv3Procedure.allCases.map(NFSProcedure.v3) + NFSv2Procedure.allCases.map(NFSProcedure.v2)

    private var writer = XDRWriter()
    private(set) var handles: [Range<Int>] = []
    private(set) var names: [Range<Int>] = []
    private(set) var fileSystems: [Range<Int>] = []
    private(set) var data: Range<Int>?

    private init() {
        for word: UInt32 in 0..<10 { writer.uint32(0xfeed_0000 | word) }
    }

    var octets: [UInt8] { writer.bytes }

    // MARK: Parts

    @discardableResult
    private mutating func opaque(_ octets: [UInt8]) -> Range<Int> {
        let start = writer.bytes.count + 4
        writer.opaque(octets)
        return start..<start + octets.count
    }

    private mutating func words(_ words: UInt32...) { for word in words { writer.uint32(word) } }

    private mutating func zeros(_ octets: Int) {
        writer.fixedOpaque([UInt8](repeating: 0, count: octets))
    }

    /// All handles differ, and most need padding.
    private mutating func handle3() {
        let count = handles.count
        var octets = [UInt8](repeating: 0xa0, count: 5 + count % 47)
        octets[0] = UInt8(count & 0xff)
        octets[1] = UInt8(count >> 8 & 0xff)
        let range = opaque(octets)
        handles.append(range)
    }

    private mutating func handle2() {
        let start = writer.bytes.count
        let first = handles.count
        let octets = (0..<32).map { UInt8($0 + first) }
        writer.fixedOpaque(octets)
        handles.append(start..<start + 32)
    }

    private mutating func name() {
        let range = opaque(Array("name\(names.count)".utf8))
        names.append(range)
    }

    private mutating func place3() {
        handle3()
        name()
    }

    private mutating func place2() {
        handle2()
        name()
    }

    private mutating func attributes3(_ isThere: Bool) {
        words(isThere ? 1 : 0)
        if isThere { fileAttributes3() }
    }

    /// fattr3: five words, three numbers of 64 bits (size, used, rdev), fsid.
    private mutating func fileAttributes3() {
        let start = writer.bytes.count + 5 * 4 + 3 * 8
        fileSystems.append(start..<start + 8)
        zeros(84)
    }

    /// fattr: nine words, fsid.
    private mutating func fileAttributes2() {
        let start = writer.bytes.count + 9 * 4
        fileSystems.append(start..<start + 4)
        zeros(68)
    }

    private mutating func change3(_ isThere: Bool) {
        words(isThere ? 1 : 0)
        if isThere { zeros(24) }
        attributes3(isThere)
    }

    private mutating func settable3(_ isThere: Bool) {
        if isThere {
            words(1, 0o644, 1, 10, 1, 20, 1, 0, 4_096, 2, 11, 12, 2, 21, 22)
        } else {
            words(0, 0, 0, 0, 0, 1)
        }
    }

    // MARK: Calls

    /// - Parameter isFull: with all that is optional.
    static func call(_ procedure: NFSProcedure, isFull: Bool) -> NFSSample {
        var sample = NFSSample()
        switch procedure {
        case .v2(let procedure): sample.call2(procedure)
        case .v3(let procedure): sample.call3(procedure, isFull)
        }
        return sample
    }

    private mutating func call3(_ procedure: NFSv3Procedure, _ isFull: Bool) {
        switch procedure {
        case .null: break
        case .getattr, .readlink, .fsstat, .fsinfo, .pathconf: handle3()
        case .setattr:
            handle3()
            settable3(isFull)
            if isFull { words(1, 5, 6) } else { words(0) }
        case .lookup, .remove, .rmdir: place3()
        case .access:
            handle3()
            words(0x3f)
        case .read, .commit:
            handle3()
            words(1, 4_096, 8_192)
        case .write:
            handle3()
            words(1, 4_096, 7, 2)
            data = opaque([1, 2, 3, 4, 5, 6, 7])
        case .create:
            place3()
            if isFull {
                words(1)
                settable3(true)
            } else {
                words(2)
                zeros(8)
            }
        case .mkdir:
            place3()
            settable3(isFull)
        case .symlink:
            place3()
            settable3(isFull)
            opaque(Array("/some/where".utf8))
        case .mknod:
            place3()
            words(isFull ? 3 : 6)
            settable3(isFull)
            if isFull { words(8, 1) }
        case .rename:
            place3()
            place3()
        case .link:
            handle3()
            place3()
        case .readdir:
            handle3()
            words(0, 1, 0, 2, 4_096)
        case .readdirplus:
            handle3()
            words(0, 1, 0, 2, 512, 4_096)
        }
    }

    private mutating func call2(_ procedure: NFSv2Procedure) {
        switch procedure {
        case .null, .root, .writecache: break
        case .getattr, .readlink, .statfs: handle2()
        case .setattr:
            handle2()
            zeros(32)
        case .lookup, .remove, .rmdir: place2()
        case .read:
            handle2()
            words(4_096, 8_192, 0)
        case .write:
            handle2()
            words(0, 4_096, 0)
            data = opaque([1, 2, 3, 4, 5, 6, 7])
        case .create, .mkdir:
            place2()
            zeros(32)
        case .rename:
            place2()
            place2()
        case .link:
            handle2()
            place2()
        case .symlink:
            place2()
            opaque(Array("/some/where".utf8))
            zeros(32)
        case .readdir:
            handle2()
            words(1, 4_096)
        }
    }

    // MARK: Results

    /// - Parameters:
    ///   - isFull: with all that is optional.
    ///   - entries: of a directory.
    static func results(
        _ procedure: NFSProcedure, isFull: Bool, entries: Int = 3
    ) -> NFSSample {
        var sample = NFSSample()
        switch procedure {
        case .v2(let procedure): sample.results2(procedure, entries)
        case .v3(let procedure): sample.results3(procedure, isFull, entries)
        }
        return sample
    }

    private mutating func results3(_ procedure: NFSv3Procedure, _ isFull: Bool, _ entries: Int) {
        guard procedure != .null else { return }
        words(0)
        switch procedure {
        case .null: break
        case .getattr: fileAttributes3()
        case .setattr, .remove, .rmdir: change3(isFull)
        case .lookup:
            handle3()
            attributes3(isFull)
            attributes3(isFull)
        case .access:
            attributes3(isFull)
            words(3)
        case .readlink:
            attributes3(isFull)
            opaque(Array("/some/where".utf8))
        case .read:
            attributes3(isFull)
            words(6, 1)
            data = opaque([1, 2, 3, 4, 5, 6])
        case .write:
            change3(isFull)
            words(7, 2)
            zeros(8)
        case .create, .mkdir, .symlink, .mknod:
            words(isFull ? 1 : 0)
            if isFull { handle3() }
            attributes3(isFull)
            change3(isFull)
        case .rename:
            change3(isFull)
            change3(isFull)
        case .link:
            attributes3(isFull)
            change3(isFull)
        case .readdir, .readdirplus:
            attributes3(isFull)
            zeros(8)
            for index in 0..<entries {
                entry3(index, isPlus: procedure == .readdirplus, isFull: isFull)
            }
            words(0, 1)
        case .fsstat:
            attributes3(isFull)
            zeros(52)
        case .fsinfo:
            attributes3(isFull)
            zeros(48)
        case .pathconf:
            attributes3(isFull)
            zeros(24)
        case .commit:
            change3(isFull)
            zeros(8)
        }
    }

    /// Every second entry of READDIRPLUS has no handle when not everything is there.
    private mutating func entry3(_ index: Int, isPlus: Bool, isFull: Bool) {
        words(1, 0, UInt32(index))
        opaque(Array("entry\(index)".utf8))
        words(0, UInt32(index + 1))
        guard isPlus else { return }
        attributes3(isFull)
        let hasHandle = isFull || index % 2 == 0
        words(hasHandle ? 1 : 0)
        if hasHandle { handle3() }
    }

    private mutating func results2(_ procedure: NFSv2Procedure, _ entries: Int) {
        switch procedure {
        case .null, .root, .writecache: break
        case .getattr, .setattr, .write:
            words(0)
            fileAttributes2()
        case .lookup, .create, .mkdir:
            words(0)
            handle2()
            fileAttributes2()
        case .readlink:
            words(0)
            opaque(Array("/some/where".utf8))
        case .read:
            words(0)
            fileAttributes2()
            data = opaque([1, 2, 3, 4, 5, 6])
        case .remove, .rename, .link, .symlink, .rmdir: words(0)
        case .readdir:
            words(0)
            for index in 0..<entries {
                words(1, UInt32(index))
                opaque(Array("entry\(index)".utf8))
                words(UInt32(index + 1))
            }
            words(0, 1)
        case .statfs:
            words(0)
            zeros(20)
        }
    }

    // MARK: Errors

    /// Results with an error status, as RFC 1813 section 3.3 and RFC 1094 section 2.2 write them.
    static func failure(_ procedure: NFSProcedure, status: UInt32, isFull: Bool) -> NFSSample {
        var sample = NFSSample()
        switch procedure {
        case .v3(.null), .v2(.null), .v2(.root), .v2(.writecache): break
        case .v2, .v3(.getattr): sample.words(status)
        case .v3(let procedure):
            sample.words(status)
            sample.failureArm(procedure, isFull)
        }
        return sample
    }

    private mutating func failureArm(_ procedure: NFSv3Procedure, _ isFull: Bool) {
        switch procedure {
        case .null, .getattr: break
        case .lookup, .access, .readlink, .read: attributes3(isFull)
        case .setattr, .write, .create, .mkdir, .symlink, .mknod, .remove, .rmdir: change3(isFull)
        case .rename:
            change3(isFull)
            change3(isFull)
        case .link:
            attributes3(isFull)
            change3(isFull)
        case .readdir, .readdirplus, .fsstat, .fsinfo, .pathconf: attributes3(isFull)
        case .commit: change3(isFull)
        }
    }
}

func nfsCall(_ procedure: NFSProcedure, _ octets: [UInt8], at start: Int = 0) throws -> NFSCall {
    try octets.withUnsafeBytes { try NFSCall(procedure, $0, at: start) }
}

func nfsResults(
    _ procedure: NFSProcedure, _ octets: [UInt8], at start: Int = 0
) throws -> NFSResults {
    try octets.withUnsafeBytes { try NFSResults(procedure, $0, at: start) }
}

/// The error of reading; nil when there is none.
func xdrError<Value>(_ body: () throws -> Value) -> XDRError? {
    do {
        _ = try body()
        return nil
    } catch {
        return error as? XDRError
    }
}
