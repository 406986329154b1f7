import Yams

/// A misspelt key would be passed over in silence by the decoder.
enum TopologyKeys {
    private static let known: [String: [String]] = [
        "": [
            "name", "hosts", "links", "networks", "targets", "exports", "controllers", "paths",
            "services",
        ],
        "hosts": ["name", "routes", "sysctl"],
        "hosts.routes": ["to", "via"],
        "links": ["ends", "mtu"],
        "links.ends": ["host", "device", "addresses"],
        "networks": ["name", "members", "mtu"],
        "networks.members": ["host", "device", "addresses"],
        "targets": [
            "name", "iqn", "lun", "backing", "size_mib", "vendor", "product", "revision",
            "scsi_id", "serial", "chap", "parameters",
        ],
        "targets.chap": ["user", "secret", "mutual"],
        "targets.chap.mutual": ["user", "secret"],
        "exports": [
            "name", "export_id", "pseudo", "backing", "servers", "shared", "image", "size_mib",
        ],
        "services": [
            "host", "kind", "targets", "port", "configuration", "dsr", "locks", "grace", "epoch",
            "program",
        ],
        "controllers": ["name", "units"],
        "paths": ["server", "controller"],
    ]

    static func check(_ node: Node, _ file: String, at place: String = "") throws {
        if let sequence = node.sequence {
            for element in sequence { try check(element, file, at: place) }
        }
        guard let mapping = node.mapping, let keys = known[place] else { return }
        for (key, value) in mapping {
            let name = key.string ?? "?"
            guard keys.contains(name) else {
                let line = key.mark.map { "line \($0.line): " } ?? ""
                throw LabError(
                    "\(file): \(line)\(place.isEmpty ? "" : place + ".")\(name): unknown; known are "
                        + keys.joined(separator: ", "))
            }
            try check(value, file, at: place.isEmpty ? name : "\(place).\(name)")
        }
    }
}

/// What the parts of a topology say about each other.
struct TopologyCheck {
    let topology: Topology
    let path: String

    func check() throws {
        try unique(topology.hosts.map(\.name), "hosts")
        try unique((topology.networks ?? []).map(\.name), "networks")
        try unique((topology.targets ?? []).map(\.name), "targets")
        try unique(topology.interfaces.map { "\($0.host) \($0.device)" }, "devices")
        for name in [topology.name] + topology.namespaces {
            guard !name.isEmpty, name.allSatisfy({ $0.isLetter || $0.isNumber || $0 == "-" }) else {
                throw fail("\"\(name)\": names consist of letters, digits and -")
            }
        }
        for link in topology.links ?? [] where link.ends.count != 2 {
            throw fail("links: a link has two ends, not \(link.ends.count)")
        }
        for interface in topology.interfaces {
            try host(interface.host, "a link")
            guard (1...15).contains(interface.device.utf8.count) else {
                throw fail("device \"\(interface.device)\" does not have 1 to 15 characters")
            }
            for address in interface.addresses ?? [] where !address.contains("/") {
                throw fail("address \(address) of \(interface.host) has no prefix length")
            }
        }
        try services()
        try exports()
        try controllers()
    }

    private func exports() throws {
        let servers = (topology.services ?? []).filter { $0.kind.isNFS }
        try unique(servers.map(\.host), "services ganesha or nfs2")
        try unique((topology.exports ?? []).map(\.name), "exports")
        for export in topology.exports ?? [] {
            let backing = export.backing ?? "exports/\(export.name)"
            let parts = backing.split(separator: "/", omittingEmptySubsequences: false)
            guard parts.count > 1, parts[0] == "exports",
                !parts.contains(where: { $0.isEmpty || $0 == "." || $0 == ".." })
            else { throw fail("export \(export.name): backing is a path below exports/") }
            guard (1...65535).contains(export.exportId) else {
                throw fail("export \(export.name): export_id is 1 to 65535")
            }
            guard export.pseudo.hasPrefix("/"), export.pseudo.count > 1 else {
                throw fail("export \(export.name): pseudo is a path below /")
            }
            guard export.image != true || export.shared != true else {
                throw fail(
                    "export \(export.name): an image belongs to one server, it is not shared")
            }
            guard (16...4096).contains(export.sizeMib ?? 64) else {
                throw fail("export \(export.name): size_mib is 16 to 4096")
            }
            for server in servers
            where server.kind == .nfs2 && export.image == true
                && export.servers?.contains(server.host) ?? true
            {
                throw fail("export \(export.name): nfs2 of \(server.host) serves no images")
            }
            for name in export.servers ?? [] where !servers.contains(where: { $0.host == name }) {
                throw fail("export \(export.name): \(name) has no service ganesha or nfs2")
            }
        }
        for server in servers {
            let own = topology.exports(of: server)
            try unique(own.map { String($0.exportId) }, "export_id of \(server.host)")
            try unique(own.map(\.pseudo), "pseudo of \(server.host)")
        }
    }

    private func controllers() throws {
        let controllers = topology.controllers ?? []
        try unique(controllers.map(\.name), "controllers")
        try unique(controllers.flatMap(\.units), "units")
        let known = (topology.targets ?? []).map(\.name)
        for controller in controllers {
            for unit in controller.units where !known.contains(unit) {
                throw fail("controller \(controller.name): there is no target \(unit)")
            }
        }
        for path in topology.paths ?? [] {
            try host(path.server, "a path")
            guard controllers.contains(where: { $0.name == path.controller }) else {
                throw fail("path of \(path.server): there is no controller \(path.controller)")
            }
        }
    }

    private func services() throws {
        let known = (topology.targets ?? []).map(\.name)
        for service in topology.services ?? [] {
            try host(service.host, "service \(service.kind.rawValue)")
            for name in service.targets ?? [] where !known.contains(name) {
                throw fail("service of \(service.host): there is no target \(name)")
            }
            if service.kind == .agent, service.dsr == nil {
                throw fail("service agent of \(service.host): dsr is missing")
            }
            if service.kind == .nfs2, service.program == nil {
                throw fail("service nfs2 of \(service.host): program is missing")
            }
            if service.kind == .dsrd, service.configuration == nil {
                throw fail("service dsrd of \(service.host): configuration is missing")
            }
        }
        for target in topology.targets ?? [] where target.backing.contains("/") {
            throw fail("target \(target.name): backing is the name of a file, without /")
        }
    }

    private func host(_ name: String, _ user: String) throws {
        guard topology.hosts.contains(where: { $0.name == name }) else {
            throw fail("\(user) names host \(name), which is not among the hosts")
        }
    }

    private func unique(_ names: [String], _ kind: String) throws {
        var seen: Set<String> = []
        for name in names where !seen.insert(name).inserted {
            throw fail("\(kind): \(name) is given twice")
        }
    }

    private func fail(_ message: String) -> LabError { LabError("\(path): \(message)") }
}
