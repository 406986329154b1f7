public import StorageProtocols

/// What agents have said: for each server its load and its resources. A value; it believes what it is given.
///
/// Resources of a server whose agent is silent stay: whether the server serves is for health checks to say.
public struct AgentTable: Sendable {
    public struct Agent: Sendable {
        public internal(set) var load: AgentLoad?
        /// Of the newest announcement that has come whole.
        public internal(set) var resources: [AnnouncedResource] = []
        /// Nothing was heard for some time, or the agent has said that it ends.
        public internal(set) var isSilent = false
        /// The agent has said that it ends.
        public internal(set) var isLeaving = false
        /// Monotonic ns.
        public internal(set) var lastHeard: UInt64 = 0
        /// Datagrams that were taken.
        public internal(set) var datagrams: UInt64 = 0
        /// Whether `resources` was said, and is not only empty because nothing came yet.
        public internal(set) var isComplete = false

        var bootID: UInt64 = 0
        var newestSequence: UInt64 = 0
        /// First sequence of the announcement that `resources` came with.
        var resourcesSequence: UInt64 = 0
        var loadSequence: UInt64 = 0
        var assembly = Assembly()
    }

    /// Parts of the newest announcement that is not whole yet. At most 64 datagrams.
    struct Assembly: Sendable {
        var firstSequence: UInt64 = 0
        var parts: [UInt8: [AnnouncedResource]] = [:]
        var partCount: UInt8 = 0
    }

    /// What one datagram has changed.
    public struct Change: Hashable, Sendable {
        public var appeared: [AnnouncedResource] = []
        public var gone: [AnnouncedResource] = []
        /// Said otherwise than before, as they are now: state, name or logical units.
        public var changed: [AnnouncedResource] = []
        public var load: AgentLoad?
        /// Heard for the first time, or again after silence.
        public var isReturn = false
        /// The agent ends.
        public var isLeaving = false

        public init() {}

        public var changesResources: Bool {
            !appeared.isEmpty || !gone.isEmpty || !changed.isEmpty
        }
    }

    private var agents: [String: Agent] = [:]

    public init() {}

    public subscript(server: String) -> Agent? { agents[server] }
    /// Servers whose agents were heard, by name.
    public var servers: [String] { agents.keys.sorted() }

    /// Takes what the gate has let through. `now`: monotonic ns. Throws when it contradicts itself.
    public mutating func apply(
        _ announcement: Announcement, now: UInt64
    ) throws(AnnouncementRefusal) -> Change {
        var change = Change()
        var agent = agents[announcement.server] ?? Agent()
        let isFirst = agent.datagrams == 0
        if isFirst || agent.bootID != announcement.bootID {
            agent.bootID = announcement.bootID
            agent.newestSequence = 0
            agent.resourcesSequence = 0
            agent.loadSequence = 0
            agent.assembly = Assembly()
        }
        if !announcement.isLeaving { try take(announcement, &agent, &change) }
        agent.lastHeard = now
        agent.datagrams += 1
        // What is late says nothing of whether the agent is there now.
        if announcement.sequence > agent.newestSequence {
            agent.newestSequence = announcement.sequence
            change.isReturn = (isFirst || agent.isSilent) && !announcement.isLeaving
            change.isLeaving = announcement.isLeaving && !agent.isLeaving
            agent.isSilent = announcement.isLeaving
            agent.isLeaving = announcement.isLeaving
        }
        if let load = announcement.load, announcement.sequence > agent.loadSequence {
            agent.loadSequence = announcement.sequence
            agent.load = load
            change.load = load
        }
        agents[announcement.server] = agent
        return change
    }

    /// Marks those who were not heard for `silence` ns, and names them.
    public mutating func markSilent(now: UInt64, silence: UInt64) -> [String] {
        let servers = agents.filter {
            !$0.value.isSilent && now > $0.value.lastHeard && now - $0.value.lastHeard > silence
        }.keys.sorted()
        for server in servers { agents[server]?.isSilent = true }
        return servers
    }

    /// Forgets servers that are configured no more.
    public mutating func keep(only servers: Set<String>) {
        agents = agents.filter { servers.contains($0.key) }
    }

    // MARK: Parts

    private func take(
        _ announcement: Announcement, _ agent: inout Agent, _ change: inout Change
    ) throws(AnnouncementRefusal) {
        let first = announcement.firstSequence
        // Older state does not replace newer.
        guard first > agent.resourcesSequence, first >= agent.assembly.firstSequence else { return }
        if first > agent.assembly.firstSequence {
            agent.assembly = Assembly(
                firstSequence: first, partCount: announcement.partCount)
        }
        guard agent.assembly.partCount == announcement.partCount else { throw .malformed }
        agent.assembly.parts[announcement.part] = announcement.resources
        guard agent.assembly.parts.count == Int(announcement.partCount) else { return }
        let all = agent.assembly.parts.sorted { $0.key < $1.key }.flatMap(\.value)
        agent.assembly.parts = [:]
        try Self.check(all)
        agent.resourcesSequence = first
        agent.isComplete = true
        compare(agent.resources, all, &change)
        agent.resources = all
    }

    private static func check(_ resources: [AnnouncedResource]) throws(AnnouncementRefusal) {
        guard resources.count <= Announcement.resourceMaximum,
            Set(resources.map(\.name)).count == resources.count,
            Set(resources.map { $0.target.lowercased() }).count == resources.count
        else { throw .malformed }
    }

    private func compare(
        _ old: [AnnouncedResource], _ new: [AnnouncedResource], _ change: inout Change
    ) {
        let before = Dictionary(uniqueKeysWithValues: old.map { ($0.target.lowercased(), $0) })
        let after = Set(new.map { $0.target.lowercased() })
        for resource in new {
            switch before[resource.target.lowercased()] {
            case nil: change.appeared.append(resource)
            case .some(let earlier) where earlier != resource: change.changed.append(resource)
            default: break
            }
        }
        change.gone = old.filter { !after.contains($0.target.lowercased()) }
    }
}
