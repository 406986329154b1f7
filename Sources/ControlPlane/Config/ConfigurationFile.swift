import DataPlane
import Foundation
import StorageProtocols
import Yams

extension Configuration {
    /// Reads and validates a file; says everything that is wrong with it.
    public static func load(path: String) throws(ConfigurationErrors) -> Configuration {
        guard let data = FileManager.default.contents(atPath: path) else {
            throw ConfigurationErrors(
                file: path,
                errors: [
                    ConfigurationError(line: 1, column: 1, field: "file", message: "cannot be read")
                ])
        }
        return try parse(text: String(decoding: data, as: UTF8.self), file: path)
    }

    /// Validates the text of a file.
    public static func parse(
        text: String, file: String
    ) throws(ConfigurationErrors) -> Configuration {
        let reader = ConfigurationReader()
        let root: Node?
        do {
            root = try Yams.compose(yaml: text)
        } catch {
            throw ConfigurationErrors(file: file, errors: [yamlError(error)])
        }
        let configuration = ConfigurationBuilder(reader).build(root)
        guard reader.errors.isEmpty, let configuration else {
            let sorted = reader.errors.sorted { ($0.line, $0.column) < ($1.line, $1.column) }
            throw ConfigurationErrors(file: file, errors: sorted)
        }
        return configuration
    }

    private static func yamlError(_ error: any Error) -> ConfigurationError {
        switch error as? YamlError {
        case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
            .composer(_, let problem, let mark, _):
            ConfigurationError(
                line: mark.line, column: mark.column, field: "YAML", message: problem)
        case .duplicatedKeysInMapping(let duplicates, let context):
            ConfigurationError(
                line: context.mark.line, column: context.mark.column,
                field: duplicates.sorted().joined(separator: ", "),
                message: "given twice in the mapping that starts here")
        default:
            ConfigurationError(line: 1, column: 1, field: "YAML", message: "\(error)")
        }
    }
}

/// Makes a configuration from nodes.
private struct ConfigurationBuilder {
    let reader: ConfigurationReader
    init(_ reader: ConfigurationReader) { self.reader = reader }

    func build(_ root: Node?) -> Configuration? {
        guard let root else {
            reader.fail(nil, "file", "is empty")
            return nil
        }
        let top = reader.mapping(
            root, "",
            keys: [
                "ports", "cpu", "servers", "resources", "iscsi", "nfs", "credentials",
                "services", "rules", "limits", "control", "log", "health", "balance", "agents",
                "announced_resources", "volumes",
            ], required: ["ports", "cpu"])
        let cpu = reader.mapping(
            top["cpu"], "cpu", keys: ["client", "storage", "shortcut"],
            required: ["client", "storage"])
        var result = Configuration(
            clientCPU: cpuPort(cpu["client"], "cpu.client"),
            storageCPU: cpuPort(cpu["storage"], "cpu.storage"))
        let shortcut: Shortcut = reader.choice(cpu["shortcut"], "cpu.shortcut", default: .auto)
        result.usesShortcut = shortcut == .auto
        result.ports = reader.sequence(top["ports"], "ports").map { port($0.node, $0.field) }
        result.servers = reader.sequence(top["servers"], "servers").map {
            server($0.node, $0.field)
        }
        result.resources = reader.sequence(top["resources"], "resources").map {
            resource($0.node, $0.field, servers: result.servers.map(\.name))
        }
        result.iscsi = iscsi(top["iscsi"])
        result.nfs = reader.nfs(top["nfs"], resources: result.resources)
        result.volumes = reader.volumes(
            top["volumes"], resources: result.resources,
            hasAllUnitsTarget: result.iscsi.allUnitsTarget != nil)
        let usable =
            result.resources.filter { $0.export == nil }.map(\.name) + result.volumes.map(\.name)
        result.credentials = reader.sequence(top["credentials"], "credentials").map {
            credential($0.node, $0.field, usable: usable)
        }
        result.services = reader.sequence(top["services"], "services").map {
            service($0.node, $0.field, servers: result.servers.map(\.name))
        }
        result.rules = reader.sequence(top["rules"], "rules").map {
            reader.string($0.node, $0.field)
        }
        // CPU ports are numbered after the network ports.
        let names = PortNames(
            result.ports.map(\.name) + [result.clientCPU.device, result.storageCPU.device])
        for index in result.rules.indices {
            let node = top["rules"]?.sequence?[index]
            do {
                _ = try RuleSyntax.parse(result.rules[index], ports: names)
            } catch {
                reader.fail(node, "rules[\(index)]", error.description)
            }
        }
        settings(top, &result)
        result.agents = reader.agents(
            top["agents"], servers: result.servers, serverNodes: top["servers"])
        result.announcedResources = reader.announcedResources(
            top["announced_resources"], servers: result.servers.map(\.name),
            hasAgents: top["agents"] != nil)
        checkNames(top, result)
        return result
    }

    private func settings(_ top: [String: Node], _ result: inout Configuration) {
        let limits = reader.mapping(
            top["limits"], "limits", keys: Limits.fields.map(\.key))
        for field in Limits.fields {
            result.limits[keyPath: field.path] = reader.integer(
                limits[field.key], "limits.\(field.key)", in: field.range,
                default: result.limits[keyPath: field.path])
        }
        let health = reader.mapping(
            top["health"], "health",
            keys: [
                "interval_ms", "timeout_ms", "rise", "fall", "request_deadline_ms",
                "suspect_timeout_ms", "server_wait_ms",
            ])
        result.health.intervalMilliseconds = reader.integer(
            health["interval_ms"], "health.interval_ms", in: 50...3_600_000,
            default: result.health.intervalMilliseconds)
        result.health.timeoutMilliseconds = reader.integer(
            health["timeout_ms"], "health.timeout_ms", in: 10...600_000,
            default: result.health.timeoutMilliseconds)
        result.health.rise = reader.integer(
            health["rise"], "health.rise", in: 1...100, default: result.health.rise)
        result.health.fall = reader.integer(
            health["fall"], "health.fall", in: 1...100, default: result.health.fall)
        result.health.requestDeadlineMilliseconds = reader.integer(
            health["request_deadline_ms"], "health.request_deadline_ms", in: 10...600_000,
            default: result.health.requestDeadlineMilliseconds)
        result.health.suspectTimeoutMilliseconds = reader.integer(
            health["suspect_timeout_ms"], "health.suspect_timeout_ms", in: 10...600_000,
            default: result.health.suspectTimeoutMilliseconds)
        result.health.serverWaitMilliseconds = reader.integer(
            health["server_wait_ms"], "health.server_wait_ms", in: 0...3_600_000,
            default: result.health.serverWaitMilliseconds)
        result.balance = reader.balance(top["balance"])
        let control = reader.mapping(top["control"], "control", keys: ["socket"])
        result.socketPath = reader.string(
            control["socket"], "control.socket", default: result.socketPath)
        let log = reader.mapping(top["log"], "log", keys: ["level"])
        result.logLevel = reader.string(log["level"], "log.level", default: "info")
        let levels = ["trace", "debug", "info", "notice", "warning", "error", "critical"]
        if !levels.contains(result.logLevel) {
            reader.fail(log["level"], "log.level", "is none of \(levels.joined(separator: ", "))")
        }
    }

    private func cpuPort(_ node: Node?, _ field: String) -> CPUPortConfiguration {
        let values = reader.mapping(
            node, field, keys: ["device", "mac", "addresses", "initcwnd"],
            required: ["device", "mac", "addresses"])
        let addresses = reader.sequence(values["addresses"], "\(field).addresses").compactMap {
            reader.interfaceAddress($0.node, $0.field)
        }
        if values["addresses"]?.sequence?.isEmpty == true {
            reader.fail(values["addresses"], "\(field).addresses", "must name an address")
        }
        return CPUPortConfiguration(
            device: reader.device(values["device"], "\(field).device"),
            macAddress: reader.mac(values["mac"], "\(field).mac"), addresses: addresses,
            initialWindow: reader.integer(
                values["initcwnd"], "\(field).initcwnd", in: 1...10_000,
                default: CPUPortConfiguration.defaultInitialWindow))
    }

    private func port(_ node: Node, _ field: String) -> PortConfiguration {
        let values = reader.mapping(
            node, field, keys: ["name", "device", "side", "kind", "receive", "faults"],
            required: ["name", "device", "side"])
        var result = PortConfiguration(
            name: reader.string(values["name"], "\(field).name"),
            device: reader.device(values["device"], "\(field).device"),
            side: reader.choice(values["side"], "\(field).side", default: .client),
            kind: reader.choice(values["kind"], "\(field).kind", default: .packet),
            receive: reader.choice(values["receive"], "\(field).receive", default: .batched))
        if let node = values["faults"] {
            let path = "\(field).faults"
            let faults = reader.mapping(
                node, path,
                keys: ["drop", "duplicate", "reorder", "corrupt", "delay_us", "seed"])
            var parsed = PortFaults()
            parsed.drop = reader.real(faults["drop"], "\(path).drop", in: 0...1)
            parsed.duplicate = reader.real(faults["duplicate"], "\(path).duplicate", in: 0...1)
            parsed.reorder = reader.real(faults["reorder"], "\(path).reorder", in: 0...1)
            parsed.corrupt = reader.real(faults["corrupt"], "\(path).corrupt", in: 0...1)
            parsed.delayMicroseconds = UInt32(
                reader.integer(
                    faults["delay_us"], "\(path).delay_us", in: 0...10_000_000, default: 0))
            parsed.seed = UInt64(
                reader.integer(faults["seed"], "\(path).seed", in: 0...Int.max, default: 1))
            result.faults = parsed
        }
        return result
    }

    private func server(_ node: Node, _ field: String) -> Server {
        let values = reader.mapping(
            node, field,
            keys: [
                "name", "addresses", "iscsi", "nfs", "credentials", "spare", "weight", "fence",
                "agent_secret", "agent_secret_file", "node_exporter",
            ],
            required: ["name", "addresses"])
        let iscsi = reader.mapping(values["iscsi"], "\(field).iscsi", keys: ["port"])
        let nfs = reader.mapping(values["nfs"], "\(field).nfs", keys: ["port", "mount_port"])
        let addresses = reader.sequence(values["addresses"], "\(field).addresses").compactMap {
            reader.address($0.node, $0.field)
        }
        if values["addresses"]?.sequence?.isEmpty == true {
            reader.fail(values["addresses"], "\(field).addresses", "must name an address")
        }
        return Server(
            name: reader.string(values["name"], "\(field).name"), addresses: addresses,
            iscsiPort: portNumber(iscsi["port"], "\(field).iscsi.port", default: 3260),
            nfsPort: portNumber(
                nfs["port"], "\(field).nfs.port", default: Int(NFSProgram.port)),
            mountPort: nfs["mount_port"].map {
                portNumber($0, "\(field).nfs.mount_port", default: 1)
            },
            credential: values["credentials"].map {
                chap($0, "\(field).credentials", keys: ["user", "secret", "mutual"])
            },
            isSpare: values["spare"].map {
                reader.choice($0, "\(field).spare", default: YesNo.no) == .yes
            } ?? false,
            weight: values["weight"].map { reader.real($0, "\(field).weight", in: 0.001...1_000) }
                ?? 1,
            fence: reader.sequence(values["fence"], "\(field).fence").map {
                reader.string($0.node, $0.field)
            }, agentKey: reader.key(values, field, "agent_secret"),
            nodeExporter: reader.nodeExporter(values["node_exporter"], "\(field).node_exporter"))
    }

    private enum YesNo: String, CaseIterable {
        case yes = "true"
        case no = "false"
    }

    private func portNumber(_ node: Node?, _ field: String, default fallback: Int) -> UInt16 {
        UInt16(reader.integer(node, field, in: 1...65_535, default: fallback))
    }

    /// A CHAP name and secret.
    private func chap(_ node: Node, _ field: String, keys: [String]) -> CHAPCredential {
        let values = reader.mapping(node, field, keys: keys, required: ["user", "secret"])
        var mutual: CHAPCredential.Mutual?
        if let node = values["mutual"] {
            let path = "\(field).mutual"
            let inner = reader.mapping(
                node, path, keys: ["user", "secret"], required: ["user", "secret"])
            mutual = CHAPCredential.Mutual(
                user: reader.string(inner["user"], "\(path).user"),
                secret: secret(inner["secret"], "\(path).secret"))
        }
        return CHAPCredential(
            user: reader.string(values["user"], "\(field).user"),
            secret: secret(values["secret"], "\(field).secret"), mutual: mutual)
    }

    private func secret(_ node: Node?, _ field: String) -> String {
        let text = reader.string(node, field)
        if let node, !CHAPCredential.secretLengths.contains(text.utf8.count) {
            reader.fail(node, field, CHAPCredential.secretRule)
        }
        return text
    }

    private func resource(_ node: Node, _ field: String, servers: [String]) -> Resource {
        let values = reader.mapping(
            node, field,
            keys: ["name", "protocol", "servers", "assigned"] + ConfigurationReader.targetKeys
                + ConfigurationReader.exportKeys,
            required: ["name", "servers", "assigned"])
        let name = reader.string(values["name"], "\(field).name")
        let names = holders(values["servers"], "\(field).servers", servers: servers)
        let assigned = reader.string(values["assigned"], "\(field).assigned")
        if values["assigned"] != nil, !names.contains(assigned) {
            reader.fail(
                values["assigned"], "\(field).assigned",
                "\(assigned) is none of its servers: \(names.joined(separator: ", "))")
        }
        let kind: ResourceProtocol = reader.choice(
            values["protocol"], "\(field).protocol",
            default: values["export"] == nil ? .iscsi : .nfs)
        reader.checkKeys(of: kind, node, values, field)
        if kind == .nfs {
            return Resource(
                name: name, export: reader.export(values, field), servers: names,
                assigned: assigned)
        }
        return Resource(
            name: name, target: reader.string(values["target"], "\(field).target"),
            servers: names, assigned: assigned,
            serving: reader.choice(values["serve"], "\(field).serve", default: .one),
            unit: reader.integer(
                values["unit"], "\(field).unit", in: 0...SCSIUnitNumber.maximum))
    }

    private func holders(_ node: Node?, _ field: String, servers: [String]) -> [String] {
        let names = reader.sequence(node, field).map { reader.string($0.node, $0.field) }
        for (index, name) in names.enumerated() where !servers.contains(name) {
            reader.fail(
                node?.sequence?[index], "\(field)[\(index)]", "there is no server \(name)")
        }
        return names
    }

    private enum Shortcut: String, CaseIterable { case auto, off }
    private enum Authentication: String, CaseIterable { case none, chap }
    private enum Splice: String, CaseIterable { case auto, manual }

    private func iscsi(_ node: Node?) -> Configuration.ISCSI {
        var result = Configuration.ISCSI()
        let values = reader.mapping(
            node, "iscsi", keys: ["listen", "authentication", "splice", "all_units_target"])
        let listen = reader.mapping(values["listen"], "iscsi.listen", keys: ["port"])
        result.port = portNumber(listen["port"], "iscsi.listen.port", default: 3260)
        let authentication: Authentication = reader.choice(
            values["authentication"], "iscsi.authentication", default: .none)
        result.requiresCHAP = authentication == .chap
        let splice: Splice = reader.choice(values["splice"], "iscsi.splice", default: .auto)
        result.splicesAutomatically = splice == .auto
        result.allUnitsTarget = values["all_units_target"].map {
            reader.string($0, "iscsi.all_units_target")
        }
        return result
    }

    /// - Parameter usable: names of resources and volumes.
    private func credential(_ node: Node, _ field: String, usable: [String]) -> Credential {
        let values = reader.mapping(
            node, field, keys: ["user", "secret", "mutual", "resources"])
        let names = values["resources"].map { list in
            reader.sequence(list, "\(field).resources").map { reader.string($0.node, $0.field) }
        }
        for (index, name) in (names ?? []).enumerated() where !usable.contains(name) {
            reader.fail(
                values["resources"]?.sequence?[index], "\(field).resources[\(index)]",
                "there is no resource or volume \(name) of iSCSI")
        }
        return Credential(
            login: chap(node, field, keys: ["user", "secret", "mutual", "resources"]),
            resources: names.map(Set.init))
    }

    private enum ServiceSplice: String, CaseIterable {
        case atOnce = "at_once"
        case manual
    }

    private func service(
        _ node: Node, _ field: String, servers: [String]
    ) -> Configuration.Service {
        let values = reader.mapping(
            node, field, keys: ["name", "listen", "server", "port", "splice"],
            required: ["name", "listen", "server", "port"])
        let listen = reader.mapping(
            values["listen"], "\(field).listen", keys: ["port"], required: ["port"])
        let server = reader.string(values["server"], "\(field).server")
        if values["server"] != nil, !servers.contains(server) {
            reader.fail(values["server"], "\(field).server", "there is no server \(server)")
        }
        let splice: ServiceSplice = reader.choice(
            values["splice"], "\(field).splice", default: .atOnce)
        return Configuration.Service(
            name: reader.string(values["name"], "\(field).name"),
            listenPort: portNumber(listen["port"], "\(field).listen.port", default: 1),
            server: server, port: portNumber(values["port"], "\(field).port", default: 1),
            splicesAtOnce: splice == .atOnce)
    }

    /// Names that must be unique, and limits of the whole.
    private func checkNames(_ top: [String: Node], _ result: Configuration) {
        unique(top["ports"], "ports", result.ports.map(\.name))
        unique(top["ports"], "ports", result.ports.map(\.device), key: "device")
        unique(top["servers"], "servers", result.servers.map(\.name))
        unique(top["resources"], "resources", result.resources.map(\.name))
        unique(
            top["resources"], "resources", result.resources.map { $0.target.lowercased() },
            key: "target")
        checkUnits(top, result)
        reader.checkExports(
            top["resources"], result.resources,
            hasRootExport: result.nfs?.hasRootExport ?? false)
        unique(top["credentials"], "credentials", result.credentials.map(\.user), key: "user")
        unique(top["services"], "services", result.services.map(\.name))
        checkListenPorts(top, result)
        reader.checkPorts(top["nfs"], result)
        if result.ports.count > 60 {
            reader.fail(top["ports"], "ports", "at most 60 ports")
        }
        for side in [PortSide.client, .storage]
        where top["ports"] != nil && !result.ports.contains(where: { $0.side == side }) {
            reader.fail(top["ports"], "ports", "no port has side \(side.rawValue)")
        }
        if result.iscsi.requiresCHAP, result.credentials.isEmpty {
            reader.fail(
                top["iscsi"], "iscsi.authentication", "chap needs an entry in credentials")
        }
    }

    private func checkUnits(_ top: [String: Node], _ result: Configuration) {
        let target = result.iscsi.allUnitsTarget
        // A number that is wrong counts too: that was told already.
        var hasUnits = !result.volumes.isEmpty
        for (index, resource) in result.resources.enumerated() {
            let node = top["resources"]?.sequence?[index]
            if node?.mapping?["unit"] != nil { hasUnits = true }
            if target?.lowercased() == resource.target.lowercased() {
                reader.fail(
                    node, "resources[\(index)].target",
                    "\"\(resource.target)\" is taken by iscsi.all_units_target")
            }
            guard let unit = resource.unit else { continue }
            if target == nil {
                reader.fail(
                    node, "resources[\(index)].unit", "needs iscsi.all_units_target")
            }
            if let earlier = result.resources[..<index].first(where: { $0.unit == unit }) {
                reader.fail(
                    node, "resources[\(index)].unit", "\(unit) is taken by \(earlier.name)")
            }
        }
        if target != nil, !hasUnits {
            reader.fail(
                top["iscsi"], "iscsi.all_units_target", "no resource has a unit number")
        }
    }

    private func checkListenPorts(_ top: [String: Node], _ result: Configuration) {
        for (index, service) in result.services.enumerated() {
            let earlier = result.services[..<index].first { $0.listenPort == service.listenPort }
            let taken = service.listenPort == result.iscsi.port ? "iscsi" : earlier?.name
            guard let taken else { continue }
            reader.fail(
                top["services"]?.sequence?[index], "services[\(index)].listen.port",
                "\(service.listenPort) is taken by \(taken)")
        }
    }

    private func unique(_ node: Node?, _ field: String, _ names: [String], key: String = "name") {
        for (index, name) in names.enumerated()
        where !name.isEmpty && names[..<index].contains(name) {
            reader.fail(
                node?.sequence?[index], "\(field)[\(index)].\(key)", "\"\(name)\" is taken")
        }
    }
}
