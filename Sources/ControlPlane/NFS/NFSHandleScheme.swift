package import StorageProtocols

/// File handles as clients see them, and what they mean.
///
/// | Handle of ours | Octets |
/// |---|---|
/// | distinct: of version 3 | magic (4), the export's number (4), the server's handle (56 at most) |
/// | distinct: longer ones, and all of version 2 | magic + 1 (4), number (4), hash (16), zeros (8) |
/// | of a directory that the switch shows itself | magic + 2 (4), file number (4), zeros (24) |
/// | shared | the server's |
///
/// All words are big endian; the hash is of the server's handle. The magic is the same for as long as the seed is, and
/// the number of an export is a function of its name or given by the configuration: handles of the first and the third
/// kind mean the same after a restart. One of the second kind has its meaning in a table in memory alone: after a
/// restart, or when the table has forgotten it, it is stale until a server has given the file's handle again. It is the
/// same then, whatever the version, because the hash has no other input than the number and the server's handle. A
/// shared handle that nobody knows is asked for at the servers.
package struct NFSHandleScheme: Sendable {
    package enum Meaning: Equatable, Sendable {
        /// A directory of ours, by its file number.
        case directory(UInt32)
        case export(UInt32, handle: [UInt8])
        /// Of one of the exports with shared handles; of which, servers know.
        case unknown
        /// Of something that was there.
        case stale
        /// None of ours.
        case foreign
    }

    /// Octets of ours in front of a server's handle.
    package static let prefixLength = 8
    /// Octets of handles of the other kinds.
    private static let fixedLength = 32

    /// The four octets that handles with a server's handle in them begin with. The highest is none that servers known
    /// to us begin theirs with, the lowest four bits are zero.
    package let magic: UInt32
    private let key: (UInt64, UInt64)
    /// By number.
    private var exports: [UInt32: NFSExport.Handles] = [:]
    private var hasShared = false
    /// Servers' handles that were hashed.
    private var mappings: NFSRecentTable<Mapping, [UInt8]>
    /// Exports of shared handles.
    private var learned: NFSRecentTable<[UInt8], UInt32>

    private struct Mapping: Hashable, Sendable {
        let index: UInt32
        let hash: SipHash.Value
    }

    private enum Kind: UInt32 {
        case prefixed = 0
        case mapped = 1
        case directory = 2
    }

    /// - Parameters:
    ///   - seed: stays the same as long as handles that clients have are to stay right.
    ///   - mappings: handles of the second kind that are kept, about 150 octets each.
    ///   - learned: shared handles whose export is kept, about 120 octets each.
    package init(seed: UInt64, mappings: Int, learned: Int) {
        let hash = SipHash.hash("DSR NFS".utf8, key: (seed, 0))
        magic = 0xd500_0000 | UInt32(truncatingIfNeeded: hash.first) & 0x00ff_fff0
        // No secret: it keeps apart what has different seeds. What is hashed is chosen by servers, not by clients.
        key = (hash.first, hash.second)
        self.mappings = NFSRecentTable(maximum: mappings)
        self.learned = NFSRecentTable(maximum: learned)
    }

    /// - Parameters:
    ///   - exports: those that there are, by number.
    ///   - forgotten: numbers that do not mean what they meant: what was learned of them is forgotten.
    package mutating func update(
        _ exports: [UInt32: NFSExport.Handles], forgotten: Set<UInt32> = []
    ) {
        self.exports = exports
        hasShared = exports.values.contains(.shared)
        guard !forgotten.isEmpty else { return }
        mappings.removeAll { key, _ in forgotten.contains(key.index) }
        learned.removeAll { _, index in forgotten.contains(index) }
    }

    package func isDistinct(_ index: UInt32) -> Bool { exports[index] == .distinct }

    /// Bits by which numbers of file systems differ between servers and clients, so that two boxes that count alike do
    /// not seem to be one.
    package func fileSystemMask(_ index: UInt32) -> UInt64 {
        isDistinct(index) ? hash(Self.octets(index), "file systems").first : 0
    }

    // MARK: From clients

    /// A handle that the version does not allow at servers is stale.
    package mutating func meaning(of handle: ArraySlice<UInt8>, version: NFSVersion) -> Meaning {
        guard let (kind, number) = parts(handle) else { return sharedMeaning(Array(handle)) }
        switch kind {
        case .directory: return .directory(number)
        case .prefixed:
            return meaning(Array(handle.dropFirst(Self.prefixLength)), of: number, version)
        case .mapped:
            let words = Self.words(handle)
            let hash = SipHash.Value(first: words.0, second: words.1)
            guard let server = mappings.value(Mapping(index: number, hash: hash)) else {
                return .stale
            }
            return meaning(server, of: number, version)
        }
    }

    private func meaning(_ handle: [UInt8], of index: UInt32, _ version: NFSVersion) -> Meaning {
        guard exports[index] != nil, version == .v3 || handle.count == version.handleLength else {
            return .stale
        }
        return .export(index, handle: handle)
    }

    private mutating func sharedMeaning(_ handle: [UInt8]) -> Meaning {
        guard hasShared, !handle.isEmpty else { return .foreign }
        guard let index = learned.value(handle), exports[index] != nil else { return .unknown }
        return .export(index, handle: handle)
    }

    /// What kind of ours a handle is, and the number in it; nil: none.
    private func parts(_ handle: ArraySlice<UInt8>) -> (Kind, UInt32)? {
        guard handle.count >= Self.prefixLength else { return nil }
        let word = Self.word(handle)
        guard word & ~0xf == magic, let kind = Kind(rawValue: word & 0xf) else { return nil }
        if kind != .prefixed, handle.count != Self.fixedLength { return nil }
        return (kind, Self.word(handle.dropFirst(4)))
    }

    // MARK: To clients

    /// A server's handle for clients; remembers what is needed when it comes back.
    package mutating func clientHandle(
        _ handle: ArraySlice<UInt8>, of index: UInt32, version: NFSVersion
    ) -> [UInt8] {
        if exports[index] == .shared {
            learned.set(index, for: Array(handle))
            return Array(handle)
        }
        let isPrefixed =
            version == .v3 && handle.count + Self.prefixLength <= version.handleLength
        if isPrefixed { return Self.octets(magic) + Self.octets(index) + handle }
        let hash = hash(Self.octets(index) + handle, "handles")
        mappings.set(Array(handle), for: Mapping(index: index, hash: hash))
        return Self.octets(magic | Kind.mapped.rawValue) + Self.octets(index) + hash.octets
            + [UInt8](repeating: 0, count: 8)
    }

    /// - Parameter index: the export that a shared handle was found to be of.
    package mutating func learn(_ handle: [UInt8], of index: UInt32) {
        learned.set(index, for: handle)
    }

    package func directoryHandle(_ fileNumber: UInt32) -> [UInt8] {
        Self.octets(magic | Kind.directory.rawValue) + Self.octets(fileNumber)
            + [UInt8](repeating: 0, count: 24)
    }

    // MARK: Octets

    private func hash(_ octets: [UInt8], _ purpose: String) -> SipHash.Value {
        SipHash.hash(Array(purpose.utf8) + octets, key: key)
    }

    private static func octets(_ word: UInt32) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: word >> UInt32(24 - 8 * $0)) }
    }

    /// The first four octets; the caller has looked that there are as many.
    private static func word(_ octets: ArraySlice<UInt8>) -> UInt32 {
        octets.prefix(4).reduce(0) { $0 << 8 | UInt32($1) }
    }

    /// The hash in a handle of 32 octets, as `SipHash.Value.octets` has written it.
    private static func words(_ handle: ArraySlice<UInt8>) -> (UInt64, UInt64) {
        func word(_ start: Int) -> UInt64 {
            handle.dropFirst(start).prefix(8).reversed().reduce(0) { $0 << 8 | UInt64($1) }
        }
        return (word(prefixLength), word(prefixLength + 8))
    }
}
