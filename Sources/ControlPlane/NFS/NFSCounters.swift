package import StorageProtocols

/// What a router has done since its start.
package struct NFSCounters: Equatable, Sendable {
    /// What calls are about.
    package enum Group: String, CaseIterable, Hashable, Sendable {
        case null, attributes, lookup, read, write, directory, change, mount, portmapper
    }

    /// Why the switch itself has answered with an error, or not at all.
    package enum Refusal: String, CaseIterable, Hashable, Sendable {
        /// No RPC call.
        case malformed
        case rpcVersion = "rpc_version"
        /// An authentication flavor that cannot be passed on, or a credential that is none.
        case credential
        case program
        case version
        case procedure
        case arguments
        /// The client may not use the export.
        case access
        case readOnly = "read_only"
        /// A handle that meant something once, or means nothing that servers know.
        case staleHandle = "stale_handle"
        /// A handle that is not ours.
        case badHandle = "bad_handle"
        /// RENAME or LINK from one export to another.
        case crossExport = "cross_export"
        /// MNT of what is not exported.
        case noExport = "no_export"
        /// No server was there.
        case noServer = "no_server"
    }

    package var calls: [Group: UInt64] = [:]
    package var refusals: [Refusal: UInt64] = [:]
    /// By the switch alone.
    package var answered: UInt64 = 0
    package var forwarded: UInt64 = 0
    /// Times that something had to be asked before a call could go on.
    package var resolutions: UInt64 = 0
    /// Replies that clients got.
    package var replies: UInt64 = 0
    /// From servers, that were none to the call.
    package var unusableReplies: UInt64 = 0
    /// Duplicates that got the reply of the call that they repeat.
    package var replayed: UInt64 = 0
    /// Duplicates of calls that were under way.
    package var underWay: UInt64 = 0
    /// Calls that came again after they had been given up, and may have been done.
    package var resumed: UInt64 = 0
    /// Calls sent again whose error was that they had been done: clients were told so.
    package var mended: UInt64 = 0

    package init() {}

    mutating func count(_ group: Group) { calls[group, default: 0] += 1 }
    mutating func count(_ refusal: Refusal) { refusals[refusal, default: 0] += 1 }
}

extension NFSProcedure {
    /// The group that it counts for.
    package var group: NFSCounters.Group {
        switch self {
        case .v2(let procedure):
            switch procedure {
            case .null, .root, .writecache: .null
            case .getattr, .setattr, .statfs: .attributes
            case .lookup, .readlink: .lookup
            case .read: .read
            case .write: .write
            case .readdir: .directory
            case .create, .remove, .rename, .link, .symlink, .mkdir, .rmdir: .change
            }
        case .v3(let procedure):
            switch procedure {
            case .null: .null
            case .getattr, .setattr, .access, .fsstat, .fsinfo, .pathconf: .attributes
            case .lookup, .readlink: .lookup
            case .read: .read
            case .write, .commit: .write
            case .readdir, .readdirplus: .directory
            case .create, .mkdir, .symlink, .mknod, .remove, .rmdir, .rename, .link: .change
            }
        }
    }

    /// Whether it changes a file system. COMMIT does not: what it makes last was written before.
    package var isModifying: Bool {
        switch self {
        case .v2(.setattr), .v2(.write), .v3(.setattr), .v3(.write): true
        default: group == .change
        }
    }
}
