package import DataPlane
package import StorageProtocols

/// Who has mounted what, as MOUNT's DUMP tells. Nothing depends on it: clients forget to say that they are gone (RFC
/// 1813 section 5.2.2 calls it a list for information only).
package struct NFSMountList: Sendable {
    package struct Mount: Hashable, Sendable {
        package let address: IPAddress
        package let path: NFSPath
    }

    /// In the order in which they came, with the time, ns; no two are the same.
    package private(set) var all: [(mount: Mount, since: UInt64)] = []
    private var known: Set<Mount> = []
    private let maximum: Int

    /// - Parameter maximum: mounts; beyond it the oldest is forgotten.
    package init(maximum: Int) { self.maximum = max(1, maximum) }

    /// - Parameter now: ns.
    package mutating func add(_ path: NFSPath, of address: IPAddress, at now: UInt64) {
        let mount = Mount(address: address, path: path)
        guard known.insert(mount).inserted else { return }
        if all.count == maximum { known.remove(all.removeFirst().mount) }
        all.append((mount, now))
    }

    package mutating func remove(_ path: NFSPath, of address: IPAddress) {
        let mount = Mount(address: address, path: path)
        guard known.remove(mount) != nil else { return }
        all.removeAll { $0.mount == mount }
    }

    package mutating func removeAll(of address: IPAddress) {
        all.removeAll { $0.mount.address == address }
        known = known.filter { $0.address != address }
    }

    package var entries: [MountEntry] {
        all.map { mount, _ in
            MountEntry(
                hostName: "\(mount.address)",
                directory: String(decoding: mount.path.octets, as: UTF8.self))
        }
    }
}
