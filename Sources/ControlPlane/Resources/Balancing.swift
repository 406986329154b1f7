import CLinux
import DataPlane
import Glibc
import Logging

/// Brings measured loads to the resource management: once a second all sessions and exports are looked
/// at; what comes out decides, with the policy of the configuration, where resources go and which server
/// a new session gets.
///
/// Lives on the session thread.
final class Balancing {
    private weak var management: ResourceManagement?
    private let engine: SessionEngine
    private let portal: ISCSIPortal
    private let source: SessionLoadSource
    private let collector: LoadCollector
    private var settings: Configuration.Balance
    private var selection = ServerSelection()
    private var predictor: PredictiveTrigger
    private var random = SystemRandomNumberGenerator()
    private var ownLoads: [String: Double] = [:]
    /// What agents report of the servers themselves.
    var serverMeasurements: () -> [String: ServerMeasurement] = { [:] }
    /// What went to servers, by resource of NFS.
    var exportTraffic: (DatagramStatus) -> [String: NFSResourceStatistics] {
        get { source.exportTraffic }
        set { source.exportTraffic = newValue }
    }

    /// What the last round said, for people.
    var report: LoadReport { collector.report }
    var histories: [String: LoadHistory] { collector.histories }
    /// Between two rounds, ns.
    private static let period: UInt64 = 1_000_000_000

    init(_ configuration: Configuration, engine: SessionEngine, portal: ISCSIPortal) {
        self.engine = engine
        self.portal = portal
        settings = configuration.balance
        source = SessionLoadSource(engine: engine, portal: portal)
        collector = LoadCollector(source: source, settings: settings, log: engine.log)
        predictor = Self.predictor(settings.prediction)
        collector.onReport = { [weak self] in self?.take($0) }
        collector.onSlot = { [weak self] in self?.foresee($0) }
    }

    private static func predictor(_ prediction: Configuration.Prediction) -> PredictiveTrigger {
        PredictiveTrigger(
            settings: prediction.settings, confirmations: prediction.confirmations,
            caution: prediction.caution)
    }

    func start(_ management: ResourceManagement) {
        self.management = management
        setAutomatic(settings.isAutomatic)
        scheduleRound()
    }

    /// The configuration was read again.
    func update(_ configuration: Configuration) {
        let old = settings
        settings = configuration.balance
        collector.update(settings)
        if old.prediction != settings.prediction {
            predictor = Self.predictor(settings.prediction)
        }
        selection.keep(
            resources: Set(configuration.resources.map(\.name)),
            servers: Set(configuration.servers.map(\.name)))
        // What people have switched by command stays, unless the file says something else than it did.
        if old.isAutomatic != settings.isAutomatic { setAutomatic(settings.isAutomatic) }
    }

    private func setAutomatic(_ isOn: Bool) {
        guard let management, management.manager.isBalancingAutomatically != isOn else { return }
        // It is never refused.
        _ = try? management.perform(.setAutomaticBalance(isOn))
    }

    // MARK: Rounds

    private func scheduleRound() {
        engine.loop.schedule(after: Self.period) { [weak self] in
            guard let self else { return }
            scheduleRound()
            for resource in management?.unsteadyResources ?? [] { collector.disturb(resource) }
            if collector.begin(at: engine.loop.clock()) { step() }
        }
    }

    /// One slice in each round of the loop, so that sessions do not wait for all.
    private func step() {
        let now = engine.loop.clock()
        guard collector.step(at: now, wall: Self.wallClock()) else { return }
        engine.loop.postLocal { [weak self] in self?.step() }
    }

    /// ns since 1970.
    private static func wallClock() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return UInt64(max(0, time.tv_sec)) &* 1_000_000_000 &+ UInt64(max(0, time.tv_nsec))
    }

    private func take(_ report: LoadReport) {
        let now = engine.loop.clock()
        for (resource, servers) in report.latencies {
            for (server, time) in servers {
                selection.observe(resource, server, taking: time, at: now)
            }
        }
        // All that were told before are told again: a part that is gone is zero.
        var own = ownLoads.mapValues { _ in 0.0 }
        own.merge(report.shared) { _, new in new }
        for (server, measurement) in serverMeasurements() {
            own[server, default: 0] += settings.weights.ownLoad(of: measurement)
        }
        ownLoads = own
        management?.handle(.loads(report.loads, own: own))
    }

    private func foresee(_ histories: [String: LoadHistory]) {
        guard settings.prediction.isEnabled, let management,
            management.manager.isBalancingAutomatically
        else { return }
        let manager = management.manager
        let plan = predictor.plan(
            manager.placementInput(pinning: manager.resting), histories: histories,
            policy: settings.policy)
        guard let plan else { return }
        management.handle(.foreseen(BalanceProposal(moves: plan.moves, why: plan.reason)))
    }

    // MARK: What happens to sessions and resources

    func disturb(_ resource: String) { collector.disturb(resource) }

    func ended(_ nexus: ISCSINexus) {
        source.ended(nexus)
        selection.settled(nexus.serial, at: nil)
    }

    func moved(_ nexus: ISCSINexus) { selection.settled(nexus.serial, at: nexus.serverName) }

    /// The server that a new nexus gets; nil: the one that has the resource.
    func server(for nexus: ISCSINexus) -> String? {
        let name = nexus.resource.name
        guard let resource = portal.resources[name], resource.serving == .any else { return nil }
        return selection.choose(
            for: nexus.serial, of: name, among: usable(resource), at: engine.loop.clock(),
            using: &random)
    }

    /// Servers that can take in new sessions of a resource that several serve: those that negotiate what its
    /// clients were told.
    func usable(_ resource: Resource) -> [String] {
        guard let manager = management?.manager else { return [] }
        return resource.servers.filter { server in
            manager.state(of: server) == .up && !manager.isDraining(server)
                && portal.negotiatesTheSame(server, resource)
        }
    }
}

extension PlacementFunctions {
    /// With balancing by a policy; how long a resource rests is the manager's matter.
    package static func balancing(_ policy: BalancePolicy) -> PlacementFunctions {
        var functions = PlacementFunctions.standard(policy: policy)
        functions.isUneven = { Placement.Trigger($0, policy: policy) != nil }
        return functions
    }
}

extension ManagementSettings {
    package mutating func setBalance(_ balance: Configuration.Balance) {
        balanceInterval = UInt64(balance.intervalMilliseconds) * 1_000_000
        balanceRest =
            UInt64(clamping: balance.policy.resourceRestTime.components.seconds) * 1_000_000_000
        // Two half-lives, of which three quarters of a load are new, and two rounds.
        balanceSettle = (2 * UInt64(balance.halfLifeMilliseconds) + 2_000) * 1_000_000
    }
}
