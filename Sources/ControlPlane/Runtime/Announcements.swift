import DataPlane
import Logging
import StorageProtocols

/// What servers say of themselves, by agents or by a node_exporter, for the resource management: resources that
/// appear and go, silence, load.
final class Announcements {
    private let receiver: AnnouncementReceiver
    private let exporters: NodeExporterMonitor
    private let management: ResourceManagement
    private let portal: ISCSIPortal
    private var configuration: Configuration
    /// Newest load of each server.
    private var loads: [String: AgentLoad] = [:]

    init(
        _ configuration: Configuration, engine: SessionEngine, portal: ISCSIPortal,
        management: ResourceManagement
    ) {
        self.configuration = configuration
        self.management = management
        self.portal = portal
        receiver = AnnouncementReceiver(configuration, loop: engine.loop, log: engine.log)
        exporters = NodeExporterMonitor(
            loop: engine.loop, log: engine.log, device: engine.storageDevice,
            interval: 5_000_000_000, timeout: 2_000_000_000,
            local: { [weak engine] in engine?.storageAddress(like: $0) })
        receiver.onChange = { [weak self] server, change in self?.resourcesChanged(server, change) }
        receiver.onLoad = { [weak self] server, load in self?.loads[server] = load }
        exporters.onLoad = { [weak self] server, load in self?.loads[server] = load }
        receiver.onSilence = { [weak management] server in
            management?.handle(.evidence(.soft(.agentSilent), server: server))
        }
        receiver.onReturn = { [weak management] server in
            management?.handle(.evidence(.agentHeard, server: server))
        }
        management.balancing.serverMeasurements = { [weak self] in self?.measurements ?? [:] }
    }

    /// Throws when the port of the agents cannot be had.
    func start(device: String) throws(SystemCallError) {
        exporters.update(Self.endpoints(configuration))
        exporters.start()
        guard let agents = configuration.agents else { return }
        try receiver.start(
            at: AnnouncementReceiver.Place(
                addresses: configuration.storageCPU.addresses.map(\.address), device: device,
                port: agents.port))
    }

    func update(_ configuration: Configuration) {
        self.configuration = configuration
        receiver.update(to: configuration)
        exporters.update(Self.endpoints(configuration))
        adopt()
    }

    private static func endpoints(
        _ configuration: Configuration
    ) -> [String: NodeExporterEndpoint] {
        Dictionary(
            configuration.servers.compactMap { server in
                server.nodeExporter.map { (server.name, $0) }
            }, uniquingKeysWith: { first, _ in first })
    }

    /// Datagrams that were taken, and refused by reason.
    var results: [(result: String, count: UInt64)] {
        [("accepted", receiver.accepted)]
            + AnnouncementRefusal.allCases.map { ($0.rawValue, receiver.refused[$0] ?? 0) }
    }

    private var measurements: [String: ServerMeasurement] {
        loads.mapValues {
            ServerMeasurement(
                processor: Double($0.cpuPermille) / 1_000, memory: Double($0.memoryPermille) / 1_000
            )
        }
    }

    // MARK: Resources

    private func resourcesChanged(_ server: String, _ change: AgentTable.Change) {
        adopt()
        func names(_ resources: [AnnouncedResource]) -> [String] {
            resources.compactMap { portal.resources.resource(target: $0.target)?.name }
        }
        let news = ResourceAnnouncement(
            appeared: names(change.appeared), gone: names(change.gone))
        guard !news.appeared.isEmpty || !news.gone.isEmpty else { return }
        management.handle(.announced(server: server, news))
    }

    /// Resources that are announced and allowed become part of the system by themselves.
    private func adopt() {
        let all = AnnouncedResources.merge(
            configured: portal.resources.all, agents: receiver.table,
            policy: configuration.announcedResources, order: configuration.servers.map(\.name))
        for resource in all where portal.resources[resource.name] == nil {
            management.adopt(resource)
        }
    }
}
