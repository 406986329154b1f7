import Foundation
public import StorageProtocols
import Yams

extension Configuration {
    /// How agents beside the servers are heard.
    public struct Agents: Hashable, Sendable {
        /// UDP, at the addresses of the storage side.
        public var port: UInt16 = Announcement.defaultPort
        /// For servers that have no key of their own; nil: only those that have one are heard.
        public var key: AnnouncementKey?
        public var silenceMilliseconds = 3_000
        /// Seconds by which clocks of agents may differ from ours.
        public var skewSeconds = 30
        public init() {}
    }
}

extension ConfigurationReader {
    /// The section `agents`; nil when there is none.
    func agents(_ node: Node?, servers: [Server], serverNodes: Node?) -> Configuration.Agents? {
        guard let node else {
            for (index, server) in servers.enumerated() where server.agentKey != nil {
                fail(
                    serverNodes?.sequence?[index], "servers[\(index)].agent_secret",
                    "needs the section agents")
            }
            return nil
        }
        var result = Configuration.Agents()
        let values = mapping(
            node, "agents", keys: ["port", "secret", "secret_file", "silence_ms", "skew_s"])
        result.port = UInt16(
            integer(
                values["port"], "agents.port", in: 1...65_535, default: Int(result.port)))
        result.key = key(values, "agents", "secret")
        result.silenceMilliseconds = integer(
            values["silence_ms"], "agents.silence_ms", in: 100...3_600_000,
            default: result.silenceMilliseconds)
        result.skewSeconds = integer(
            values["skew_s"], "agents.skew_s", in: 1...3_600, default: result.skewSeconds)
        let hasSecret = values["secret"] != nil || values["secret_file"] != nil
        if !hasSecret, servers.allSatisfy({ $0.agentKey == nil }) {
            fail(
                node, "agents",
                "needs secret or secret_file, or a server with agent_secret or agent_secret_file")
        }
        for (index, server) in servers.enumerated()
        where hasSecret && server.name.utf8.count > Announcement.nameMaximum {
            fail(
                serverNodes?.sequence?[index], "servers[\(index)].name",
                "at most \(Announcement.nameMaximum) octets where there are agents")
        }
        return result
    }

    /// `prefix` or `prefix_file`, of which at most one is there.
    func key(_ values: [String: Node], _ field: String, _ prefix: String) -> AnnouncementKey? {
        let file = prefix + "_file"
        if let node = values[file] {
            if values[prefix] != nil {
                fail(node, "\(field).\(file)", "stands beside \(prefix): only one may be given")
            }
            let path = string(node, "\(field).\(file)")
            guard !path.isEmpty else { return nil }
            do {
                return AnnouncementKey(secret: try AnnouncementKey.secret(file: path))
            } catch {
                fail(node, "\(field).\(file)", "\(path): \(error)")
                return nil
            }
        }
        guard let node = values[prefix] else { return nil }
        let secret = string(node, "\(field).\(prefix)")
        guard AnnouncementKey.secretLength.contains(secret.utf8.count) else {
            if !secret.isEmpty {
                fail(node, "\(field).\(prefix)", "\(AnnouncementKey.InvalidSecret.length)")
            }
            return nil
        }
        return AnnouncementKey(secret: secret)
    }

    /// The section `announced_resources`.
    func announcedResources(
        _ node: Node?, servers: [String], hasAgents: Bool
    ) -> AnnouncedResourcePolicy {
        guard let node else { return AnnouncedResourcePolicy() }
        let field = "announced_resources"
        let values = mapping(node, field, keys: ["allow", "servers"], required: ["allow"])
        if !hasAgents { fail(node, field, "needs the section agents") }
        let names = values["servers"].map { list in
            sequence(list, "\(field).servers").map { string($0.node, $0.field) }
        }
        for (index, name) in (names ?? []).enumerated() where !servers.contains(name) {
            fail(
                values["servers"]?.sequence?[index], "\(field).servers[\(index)]",
                "there is no server \(name)")
        }
        return AnnouncedResourcePolicy(
            allow: sequence(values["allow"], "\(field).allow").map { string($0.node, $0.field) },
            servers: names.map(Set.init))
    }

    func nodeExporter(_ node: Node?, _ field: String) -> NodeExporterEndpoint? {
        guard let node else { return nil }
        let text = string(node, field)
        if text.isEmpty { return nil }
        guard let endpoint = NodeExporterEndpoint(text) else {
            fail(
                node, field, "\"\(text)\" is not as http://10.20.0.11:9100/metrics, with an address"
            )
            return nil
        }
        return endpoint
    }
}
