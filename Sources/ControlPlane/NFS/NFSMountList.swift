package import DataPlane
package import StorageProtocols

/// Who has mounted what, as MOUNT's DUMP tells. Nothing depends on it: clients forget to say that they are gone (RFC
/// 1813 section 5.2.2 calls it a list for information only).
package struct NFSMountList: Sendable {
    private struct Mount: Hashable, Sendable {
        let address: IPAddress
        let path: [UInt8]
    }

    /// In the order in which they came; no two are the same.
    private var mounts: [Mount] = []
    private var known: Set<Mount> = []
    private let maximum: Int

    /// - Parameter maximum: mounts; beyond it the oldest is forgotten.
    package init(maximum: Int) { self.maximum = max(1, maximum) }

    package mutating func add(_ path: NFSPath, of address: IPAddress) {
        let mount = Mount(address: address, path: path.octets)
        guard known.insert(mount).inserted else { return }
        if mounts.count == maximum { known.remove(mounts.removeFirst()) }
        mounts.append(mount)
    }

    package mutating func remove(_ path: NFSPath, of address: IPAddress) {
        let mount = Mount(address: address, path: path.octets)
        guard known.remove(mount) != nil else { return }
        mounts.removeAll { $0 == mount }
    }

    package mutating func removeAll(of address: IPAddress) {
        mounts.removeAll { $0.address == address }
        known = known.filter { $0.address != address }
    }

    package var entries: [MountEntry] {
        mounts.map {
            MountEntry(
                hostName: "\($0.address)", directory: String(decoding: $0.path, as: UTF8.self))
        }
    }
}
