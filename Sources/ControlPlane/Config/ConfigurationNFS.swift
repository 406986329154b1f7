import DataPlane
public import StorageProtocols
import Yams

extension Configuration {
    /// What clients find of NFS at the virtual addresses.
    public struct NFS: Hashable, Sendable {
        public var port: UInt16 = NFSProgram.port
        public var mountPort: UInt16 = 20_048
        /// Port 111 is answered.
        public var hasPortmapper = true
        /// There is an export "/", in which all others are directories.
        public var hasRootExport = false
        /// Calls of NLM and NSM are taken at the port of MOUNT.
        public var hasLocks = false
        /// Never empty.
        public var versions = Set(NFSVersion.allCases)
        /// At least one of them.
        public var takesUDP = true
        public var takesTCP = true
        public init() {}
    }
}

extension Configuration.NFS {
    /// What sockets are opened for, each setting as people know it, for comparing.
    var listening: [(key: String, value: String)] {
        [
            ("port", "\(port)"), ("mount_port", "\(mountPort)"),
            ("portmapper", "\(hasPortmapper)"), ("udp", "\(takesUDP)"), ("tcp", "\(takesTCP)"),
            ("locks", "\(hasLocks)"),
        ]
    }

    /// The other settings.
    var settings: [(key: String, value: String)] {
        let versions = versions.map(\.rawValue).sorted().map { "\($0)" }
        return [
            ("root_export", "\(hasRootExport)"), ("versions", versions.joined(separator: ", ")),
        ]
    }
}

extension ConfigurationReader {
    /// The section `nfs`; nil when there is neither it nor an export.
    func nfs(_ node: Node?, resources: [Resource]) -> Configuration.NFS? {
        guard node != nil || resources.contains(where: { $0.export != nil }) else { return nil }
        var result = Configuration.NFS()
        let values = mapping(
            node, "nfs",
            keys: [
                "port", "mount_port", "portmapper", "root_export", "versions", "udp", "tcp",
                "locks",
            ])
        result.port = UInt16(
            integer(values["port"], "nfs.port", in: 1...65_535, default: Int(result.port)))
        result.mountPort = UInt16(
            integer(
                values["mount_port"], "nfs.mount_port", in: 1...65_535,
                default: Int(result.mountPort)))
        result.hasPortmapper = yes(
            values["portmapper"], "nfs.portmapper", default: result.hasPortmapper)
        result.hasRootExport = yes(
            values["root_export"], "nfs.root_export", default: result.hasRootExport)
        result.versions = versions(values["versions"], "nfs.versions", default: result.versions)
        result.takesUDP = yes(values["udp"], "nfs.udp", default: result.takesUDP)
        result.takesTCP = yes(values["tcp"], "nfs.tcp", default: result.takesTCP)
        result.hasLocks = yes(values["locks"], "nfs.locks", default: result.hasLocks)
        if !result.takesUDP, !result.takesTCP {
            fail(node, "nfs", "udp and tcp are both false: no client could come")
        }
        return result
    }

    private func versions(
        _ node: Node?, _ field: String, default fallback: Set<NFSVersion>
    ) -> Set<NFSVersion> {
        guard let node else { return fallback }
        var result: Set<NFSVersion> = []
        for entry in sequence(node, field) {
            guard let number = integer(entry.node, entry.field, in: 2...3),
                let version = NFSVersion(rawValue: UInt32(number))
            else { continue }
            if !result.insert(version).inserted { fail(entry.node, entry.field, "given twice") }
        }
        if node.sequence?.isEmpty == true { fail(node, field, "must name a version: 2, 3") }
        return result.isEmpty ? fallback : result
    }

    /// The ports of NFS are nobody else's.
    func checkPorts(_ node: Node?, _ configuration: Configuration) {
        guard let nfs = configuration.nfs else { return }
        var taken: [(port: UInt16, owner: String)] = []
        if nfs.hasPortmapper { taken.append((Portmapper.port, "the portmapper")) }
        if nfs.takesTCP {
            taken.append((configuration.iscsi.port, "iscsi"))
            taken += configuration.services.map { ($0.listenPort, $0.name) }
        }
        for (key, port) in [("port", nfs.port), ("mount_port", nfs.mountPort)] {
            if let owner = taken.first(where: { $0.port == port })?.owner {
                fail(
                    node?.mapping?[key] ?? node, "nfs.\(key)", "\(port) is taken by \(owner)")
            }
            taken.append((port, "nfs.port"))
        }
        if nfs.hasPortmapper, nfs.takesTCP,
            let service = configuration.services.first(where: { $0.listenPort == Portmapper.port })
        {
            fail(node, "nfs.portmapper", "\(Portmapper.port) is taken by \(service.name)")
        }
    }
}
