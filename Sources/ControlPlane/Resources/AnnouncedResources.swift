import StorageProtocols

/// Which announced resources may appear by themselves.
public struct AnnouncedResourcePolicy: Hashable, Sendable {
    /// Patterns of target names; `*` stands for any text, `?` for one character. Letter case does not count.
    public var allow: [String]
    /// Servers whose announcements count; nil: all of them.
    public var servers: Set<String>?

    /// Nothing is allowed.
    public init(allow: [String] = [], servers: Set<String>? = nil) {
        self.allow = allow
        self.servers = servers
    }

    public func allows(target: String, at server: String) -> Bool {
        guard servers?.contains(server) ?? true else { return false }
        let target = Array(target.lowercased().utf8)
        return allow.contains { Self.matches(Array($0.lowercased().utf8), target) }
    }

    /// Only the last star is ever gone back to: no pattern makes this slow.
    private static func matches(_ pattern: [UInt8], _ text: [UInt8]) -> Bool {
        var (place, position) = (0, 0)
        var star: (place: Int, position: Int)?
        while position < text.count {
            if place < pattern.count, pattern[place] == UInt8(ascii: "*") {
                star = (place, position)
                place += 1
            } else if place < pattern.count,
                pattern[place] == UInt8(ascii: "?") || pattern[place] == text[position]
            {
                place += 1
                position += 1
            } else if let last = star {
                star = (last.place, last.position + 1)
                place = last.place + 1
                position = last.position + 1
            } else {
                return false
            }
        }
        return pattern[place...].allSatisfy { $0 == UInt8(ascii: "*") }
    }
}

/// Makes resources of what agents announce.
public enum AnnouncedResources {
    /// Why an announced resource does not appear.
    public struct Refused: Hashable, Sendable {
        public var server: String
        public var name: String
        public var reason: String
    }

    /// The configured resources as they are, then those that are announced, allowed and not configured, in the
    /// order of their names.
    ///
    /// A resource is where it was (`assigned`, by name) as long as no other server has the better word: an agent
    /// that is heard and says "serving", then one that is silent and said so, then "standby". Of equals the
    /// first in `order` counts, which is the order of the configuration's servers.
    public static func merge(
        configured: [Resource], agents: AgentTable, policy: AnnouncedResourcePolicy,
        order: [String] = [], assigned: [String: String] = [:]
    ) -> [Resource] {
        evaluate(
            configured: configured, agents: agents, policy: policy, order: order,
            assigned: assigned
        ).resources
    }

    /// The same, and which were refused although they are allowed.
    public static func evaluate(
        configured: [Resource], agents: AgentTable, policy: AnnouncedResourcePolicy,
        order: [String] = [], assigned: [String: String] = [:]
    ) -> (resources: [Resource], refused: [Refused]) {
        let known = Set(configured.filter { $0.export == nil }.map { $0.target.lowercased() })
        var targetByName = Dictionary(
            configured.map { ($0.name, $0.clientName.lowercased()) }, uniquingKeysWith: { $1 })
        var found: [String: Resource] = [:]
        var refused: [Refused] = []
        for server in sorted(agents.servers, order) {
            for announced in agents[server]?.resources ?? [] {
                let target = announced.target.lowercased()
                guard !known.contains(target), policy.allows(target: target, at: server) else {
                    continue
                }
                if found[target] != nil {
                    found[target]?.servers.append(server)
                    continue
                }
                if let other = targetByName[announced.name] {
                    refused.append(
                        Refused(
                            server: server, name: announced.name,
                            reason: "the name belongs to \(other) already"))
                    continue
                }
                targetByName[announced.name] = target
                found[target] = Resource(
                    name: announced.name, target: announced.target, servers: [server],
                    assigned: server)
            }
        }
        let resources = found.values.map { resource in
            var resource = resource
            resource.assigned = best(resource, agents, assigned[resource.name])
            return resource
        }.sorted { $0.name < $1.name }
        return (configured + resources, refused)
    }

    /// Servers that say they serve a target and whose agents are heard, in `order`: where a resource has gone
    /// when a storage controller has taken over for another.
    public static func serving(
        target: String, agents: AgentTable, order: [String] = []
    ) -> [String] {
        sorted(agents.servers, order).filter { rank(target, $0, agents) == 0 }
    }

    private static func best(
        _ resource: Resource, _ agents: AgentTable, _ present: String?
    ) -> String {
        let ranks = resource.servers.map { rank(resource.target, $0, agents) }
        let best = ranks.min() ?? 0
        let equals = zip(resource.servers, ranks).filter { $0.1 == best }.map(\.0)
        if let present, equals.contains(present) { return present }
        return equals.first ?? resource.assigned
    }

    /// 0 is best.
    private static func rank(_ target: String, _ server: String, _ agents: AgentTable) -> Int {
        let target = target.lowercased()
        guard let agent = agents[server],
            let resource = agent.resources.first(where: { $0.target.lowercased() == target })
        else { return 4 }
        return (resource.state == .serving ? 0 : 2) + (agent.isSilent ? 1 : 0)
    }

    /// Those that `order` does not name come last, by name.
    private static func sorted(_ servers: [String], _ order: [String]) -> [String] {
        let named = order.filter(servers.contains)
        return named + servers.filter { !named.contains($0) }.sorted()
    }
}
