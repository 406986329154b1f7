/// What a topology file describes.
struct Topology: Codable {
    /// An end of a link.
    struct Interface: Codable {
        var host: String
        var device: String
        /// With prefix length. An end without any is a switch port: it gets no IPv6 of the kernel's own.
        var addresses: [String]?
    }

    /// A cable between two hosts.
    struct Link: Codable {
        var ends: [Interface]
        var mtu: Int?
    }

    /// An Ethernet segment with any number of hosts.
    struct Network: Codable {
        var name: String
        var members: [Interface]
        var mtu: Int?
    }

    struct Route: Codable {
        var to: String
        var via: String
    }

    struct Host: Codable {
        var name: String
        var routes: [Route]?
        /// `net.ipv4.ip_forward: 1`
        var sysctl: [String: String]?
    }

    struct Account: Codable {
        var user: String
        var secret: String
    }

    /// CHAP that a target demands; `mutual` is what it says for itself.
    struct CHAP: Codable {
        var user: String
        var secret: String
        var mutual: Account?

        /// The initiator's, then the target's.
        var accounts: [Account] {
            [Account(user: user, secret: secret)] + (mutual.map { [$0] } ?? [])
        }
    }

    /// An iSCSI target with one logical unit, the same on every host that serves it.
    struct Target: Codable {
        var name: String
        var iqn: String
        var lun: Int
        /// File in the lab's SAN directory, sparse.
        var backing: String
        var sizeMib: Int
        var vendor: String
        var product: String
        var revision: String
        var scsiId: String
        var serial: String
        var chap: CHAP?
        /// tgtd's own, as `MaxRecvDataSegmentLength: 65536`.
        var parameters: [String: String]?

        enum CodingKeys: String, CodingKey {
            case name, iqn, lun, backing, vendor, product, revision, serial, chap, parameters
            case sizeMib = "size_mib"
            case scsiId = "scsi_id"
        }
    }

    /// A directory that NFS servers serve, on one host or on several.
    struct Export: Codable {
        var name: String
        /// Part of every handle.
        var exportId: Int
        /// What clients mount.
        var pseudo: String
        /// Directory in the lab's folder; left out: exports/NAME.
        var backing: String?
        /// Hosts that serve it; left out: all that have a service ganesha or nfs2.
        var servers: [String]?
        /// Whether all servers have the same directory, as in a cluster, or each one of its own. Left out: the
        /// same, but for images.
        var shared: Bool?
        /// Each server has the directory on a file system of its own, a clone of one image: handles of different
        /// servers' files are equal.
        var image: Bool?
        /// Of the image; left out: 64.
        var sizeMib: Int?

        var isShared: Bool { shared ?? (image != true) }

        enum CodingKeys: String, CodingKey {
            case name, pseudo, backing, servers, shared, image
            case exportId = "export_id"
            case sizeMib = "size_mib"
        }
    }

    enum ServiceKind: String, Codable, CaseIterable {
        case tgtd, ganesha, nfs2, dsrd, agent

        /// Whether it serves exports.
        var isNFS: Bool { self == .ganesha || self == .nfs2 }
    }

    struct Service: Codable {
        var host: String
        var kind: ServiceKind
        /// tgtd: names of targets; left out: all.
        var targets: [String]?
        /// tgtd: TCP port; left out: 3260.
        var port: Int?
        /// dsrd: file beside the topology.
        var configuration: String?
        /// agent: address that it announces to, or address:port.
        var dsr: String?
        /// ganesha: locks of NFS version 3 (NLM, with rpc.statd); left out: none.
        var locks: Bool?
        /// ganesha: grace period after a start, s; left out: none.
        var grace: Int?
        /// ganesha: its epoch, which is its write verifier; left out: another one at each start.
        var epoch: Int?
        /// nfs2: the server's program, beside the topology.
        var program: String?
    }

    /// A RAID controller: servers reach its units only through it.
    struct Controller: Codable {
        var name: String
        /// Names of targets that it manages as long as it works.
        var units: [String]
    }

    /// A server that is attached to a controller.
    struct Path: Codable {
        var server: String
        var controller: String
    }

    var name: String
    var hosts: [Host]
    var links: [Link]?
    var networks: [Network]?
    var targets: [Target]?
    var exports: [Export]?
    var controllers: [Controller]?
    var paths: [Path]?
    var services: [Service]?
}

extension Topology {
    /// Every interface of the file.
    var interfaces: [Interface] {
        (links ?? []).flatMap(\.ends) + (networks ?? []).flatMap(\.members)
    }

    /// Names of the namespaces that the lab consists of, without prefix.
    var namespaces: [String] { hosts.map(\.name) + (networks ?? []).map { "net-\($0.name)" } }

    func targets(of service: Service) -> [Target] {
        guard let names = service.targets else { return targets ?? [] }
        return (targets ?? []).filter { names.contains($0.name) }
    }

    func exports(of service: Service) -> [Export] {
        (exports ?? []).filter { $0.servers?.contains(service.host) ?? true }
    }
}
