import Foundation

/// What is known about a lab that is up, in a file so that later commands find it.
struct LabState: Codable {
    var prefix: String
    /// Topology file.
    var topology: String
    /// Directory of all that the lab keeps: this file, logs, sockets, the files of the SAN.
    var directory: String
    var dsrd: String
    /// Replaces the configuration that the topology names.
    var redirectorConfiguration: String?
    /// dsr-agent to run; left out: the one beside dsr-lab.
    var agent: String?
    /// RAID controllers that do not work.
    var failedControllers: [String]?
    var namespaces: [String]
    var processes: [ProcessRecord] = []
    /// What services need beside them and what stays when they are killed: portmappers, status monitors.
    var companions: [ProcessRecord]?

    /// Labs by prefix: a directory, or a link to the one that `--state` named.
    static let registry = "/run/dsr-lab"

    static func registered(_ prefix: String) -> String { "\(registry)/\(prefix)" }

    var file: String { "\(directory)/lab.json" }
    var san: String { "\(directory)/san" }
    /// Control socket of the redirector.
    func redirectorSocket(_ host: String, isOnly: Bool) -> String {
        isOnly ? "\(directory)/dsrd.sock" : "\(directory)/\(host).sock"
    }

    /// File-system images of exports.
    var images: String { "\(directory)/images" }
    /// Where a host has an export's files.
    func exportDirectory(_ export: Topology.Export, _ host: String) -> String {
        let path = "\(directory)/\(export.backing ?? "exports/\(export.name)")"
        return export.isShared ? path : "\(path).\(host)"
    }
    func ganeshaConfiguration(_ host: String) -> String { "\(directory)/\(host).ganesha.conf" }
    /// What a host's NFS services keep.
    func nfsFolder(_ host: String) -> String { "\(directory)/\(host).nfs" }

    func namespace(_ host: String) -> String { "\(prefix)-\(host)" }
    func log(_ host: String, _ kind: String) -> String { "\(directory)/\(host).\(kind).log" }
    /// tgtd appends the number of its control port.
    func targetSocket(_ host: String) -> String { "\(directory)/\(host).tgtd" }

    /// What agents and redirector authenticate announcements with.
    var agentSecret: String { "\(directory)/agents.secret" }
    func agentResources(_ host: String) -> String { "\(directory)/\(host).resources.yaml" }

    func save() throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        try encoder.encode(self).write(to: URL(fileURLWithPath: file), options: .atomic)
    }

    static func load(directory: String) -> LabState? {
        guard let data = FileManager.default.contents(atPath: "\(directory)/lab.json") else {
            return nil
        }
        return try? JSONDecoder().decode(LabState.self, from: data)
    }

    /// Files that the lab makes in its directory.
    func removeFiles() {
        let manager = FileManager.default
        for name in (try? manager.contentsOfDirectory(atPath: directory)) ?? []
        where name == "lab.json" || name == "san" || name.hasSuffix(".log")
            || name.hasSuffix(".sock") || name.contains(".tgtd.") || name == "agents.secret"
            || name.hasSuffix(".resources.yaml") || name.hasSuffix(".map")
            || name == "exports" || name == "images" || name.hasSuffix(".ganesha.conf")
            || name.hasSuffix(".nfs")
        {
            try? manager.removeItem(atPath: "\(directory)/\(name)")
        }
        // Only when it is empty: --state may name a directory with things of others.
        rmdir(directory)
        let entry = Self.registered(prefix)
        if (try? manager.destinationOfSymbolicLink(atPath: entry)) != nil {
            try? manager.removeItem(atPath: entry)
        }
    }
}
