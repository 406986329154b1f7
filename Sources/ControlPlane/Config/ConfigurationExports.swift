import DataPlane
import StorageProtocols
import Yams

// What a resource of NFS has in place of a target.
extension ConfigurationReader {
    /// Keys of a resource that mean something for one protocol only.
    static let targetKeys = ["target", "serve", "unit"]
    static let exportKeys = ["export", "path", "handles", "access", "index"]

    /// What a resource must have and must not have, by its protocol.
    func checkKeys(
        of kind: ResourceProtocol, _ node: Node, _ values: [String: Node], _ field: String
    ) {
        let required = kind == .nfs ? "export" : "target"
        if values[required] == nil { fail(node, "\(field).\(required)", "is missing") }
        for key in kind == .nfs ? Self.targetKeys : Self.exportKeys {
            guard let node = values[key] else { continue }
            fail(
                node, "\(field).\(key)",
                kind == .nfs ? "is for iscsi, not for nfs" : "is for nfs, not for iscsi")
        }
    }

    func export(_ values: [String: Node], _ field: String) -> NFSExport {
        let directory = exportPath(values["export"], "\(field).export")
        if values["access"]?.sequence?.isEmpty == true {
            fail(
                values["access"], "\(field).access",
                "must have a rule; without the key everybody may everything")
        }
        return NFSExport(
            directory: directory,
            path: values["path"].map { exportPath($0, "\(field).path") },
            handles: choice(values["handles"], "\(field).handles", default: .distinct),
            access: sequence(values["access"], "\(field).access").map {
                accessRule($0.node, $0.field)
            },
            index: integer(values["index"], "\(field).index", in: NFSExport.indexes))
    }

    /// Without slashes at its end; empty when it is wrong.
    private func exportPath(_ node: Node?, _ field: String) -> String {
        let text = string(node, field)
        guard let node, !text.isEmpty else { return "" }
        var octets = Array(text.utf8)
        while octets.count > 1, octets.last == UInt8(ascii: "/") { octets.removeLast() }
        let path = String(decoding: octets, as: UTF8.self)
        if let reason = Self.mistake(inPath: path) {
            fail(node, field, reason)
            return ""
        }
        return path
    }

    private static func mistake(inPath path: String) -> String? {
        guard path.utf8.first == UInt8(ascii: "/") else {
            return "must be an absolute path, not \"\(path)\""
        }
        guard path.utf8.count <= NFSExport.pathMaximum else {
            return "has \(path.utf8.count) octets, of which a path has at most "
                + "\(NFSExport.pathMaximum)"
        }
        if path.utf8.contains(0) { return "must not have a NUL" }
        if path == "/" { return nil }
        // By octets, as servers do: what people see as one character may begin with a slash.
        let names = Array(path.utf8).split(
            separator: UInt8(ascii: "/"), omittingEmptySubsequences: false
        ).dropFirst().map { String(decoding: $0, as: UTF8.self) }
        if let name = names.first(where: { ["", ".", ".."].contains($0) }) {
            return "must not have \"\(name)\" as a name"
        }
        if names.contains(where: { $0.utf8.count > MountProtocol.nameMaximum }) {
            return "has a name of more than \(MountProtocol.nameMaximum) octets"
        }
        return nil
    }

    private func accessRule(_ node: Node, _ field: String) -> NFSAccessRule {
        let values = mapping(
            node, field, keys: ["clients", "mode", "squash", "anonymous"], required: ["clients"])
        let clients = sequence(values["clients"], "\(field).clients").compactMap {
            accessClients($0.node, $0.field)
        }
        if values["clients"]?.sequence?.isEmpty == true {
            fail(values["clients"], "\(field).clients", "must name a client, or \"*\" for all")
        }
        let place = "\(field).anonymous"
        let anonymous = mapping(values["anonymous"], place, keys: ["uid", "gid"])
        let standard = Int(NFSAccessRule.nobody)
        let range = 0...Int(UInt32.max)
        return NFSAccessRule(
            clients: clients, mode: choice(values["mode"], "\(field).mode", default: .readWrite),
            squash: choice(values["squash"], "\(field).squash", default: .none),
            anonymousUser: UInt32(
                integer(anonymous["uid"], "\(place).uid", in: range, default: standard)),
            anonymousGroup: UInt32(
                integer(anonymous["gid"], "\(place).gid", in: range, default: standard)))
    }

    private func accessClients(_ node: Node, _ field: String) -> NFSAccessRule.Clients? {
        let text = node.scalar?.string ?? ""
        if text == "*" { return .everybody }
        guard let network = IPPrefix(text) else {
            fail(
                node, field, "\"\(text)\" is not an address, a network as 10.0.0.0/24, or \"*\"")
            return nil
        }
        return .network(network)
    }

    // MARK: Of all together

    func checkExports(_ node: Node?, _ resources: [Resource], hasRootExport: Bool) {
        var earlier: [(resource: Resource, export: NFSExport)] = []
        for (position, resource) in resources.enumerated() {
            guard let export = resource.export else { continue }
            let place = node?.sequence?[position]
            let field = "resources[\(position)]"
            if export.directory == "/", hasRootExport {
                fail(place, "\(field).export", "\"/\" is taken by nfs.root_export")
            }
            if let reason = Self.clash(export, earlier) { fail(place, "\(field).export", reason) }
            checkIndex(resource, earlier.map { $0.resource }, place, "\(field).index")
            earlier.append((resource, export))
        }
        if earlier.count > NFSExport.indexes.count {
            fail(node, "resources", "at most \(NFSExport.indexes.count) exports")
        }
    }

    /// One that lies in another one would be reached by two ways, with two handles.
    private static func clash(
        _ export: NFSExport, _ earlier: [(resource: Resource, export: NFSExport)]
    ) -> String? {
        let path = export.directory
        guard !path.isEmpty else { return nil }
        for (resource, other) in earlier where !other.directory.isEmpty {
            if other.directory == path { return "\"\(path)\" is taken by \(resource.name)" }
            if contains(other.directory, path) {
                return "\"\(path)\" lies in \"\(other.directory)\" of \(resource.name): "
                    + "an export has no other one in it"
            }
            if contains(path, other.directory) {
                return "\"\(path)\" has \"\(other.directory)\" of \(resource.name) in it: "
                    + "an export has no other one in it"
            }
        }
        return nil
    }

    private static func contains(_ outer: String, _ inner: String) -> Bool {
        outer == "/" || inner.utf8.starts(with: (outer + "/").utf8)
    }

    private func checkIndex(
        _ resource: Resource, _ earlier: [Resource], _ node: Node?, _ field: String
    ) {
        guard let index = resource.handleIndex,
            let other = earlier.first(where: { $0.handleIndex == index })
        else { return }
        let taken = Set(earlier.compactMap(\.handleIndex))
        let free = NFSExport.indexes.first { !taken.contains(UInt32($0)) }
        // By their names two can have the same. To give one of them another number by itself would let numbers depend
        // on what else there is, and a handle that a client still has could come to mean a file elsewhere.
        fail(
            node, field,
            "\(index) is that of \(other.name) too: give one of them an index of its own"
                + (free.map { ", as index: \($0)" } ?? ""))
    }
}
