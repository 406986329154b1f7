import CLinux
import DataPlane
import Foundation
import Glibc
public import Logging
import Synchronization

/// A switch with its control plane, as `dsrd` runs it: ports, CPU ports, sessions, health checks, the API's
/// service.
///
/// `start` must be called on the thread whose network namespace the switch is to live in.
public final class Daemon: @unchecked Sendable {
    public struct StartError: Error, CustomStringConvertible {
        public var description: String
    }

    private let current: Mutex<Configuration>
    let configurationPath: String
    let log: Logger
    let dataplane: DataPlaneWorker
    private let links: LinkWatch
    private var shortcut: RelayShortcut?
    let loop = EventLoop()
    let startedAt = dsr_monotonic_ns()
    let portNames: PortNames
    let events: EventLog
    private var thread = pthread_t()
    private var isRunning = false
    private(set) var engine: SessionEngine!
    private(set) var portal: ISCSIPortal!
    private(set) var health: HealthMonitor!
    private(set) var management: ResourceManagement!
    private(set) var announcements: Announcements!
    let captures = CaptureTable()
    private(set) var listeners: Listeners!
    /// Nil: the configuration has no NFS.
    private(set) var nfs: NFSService?
    private var announcer: AddressAnnouncer?
    /// Rules of the switch itself.
    private(set) var ownRules: [Rule] = []

    /// What is in use now; changes with a reload.
    var configuration: Configuration { current.withLock { $0 } }
    func setConfiguration(_ configuration: Configuration) {
        current.withLock { $0 = configuration }
    }

    public init(configuration: Configuration, path: String, log: Logger) {
        current = Mutex(configuration)
        configurationPath = path
        self.log = log
        portNames = PortNames(
            configuration.ports.map(\.name)
                + [configuration.clientCPU.device, configuration.storageCPU.device])
        var pipeline = PipelineConfiguration()
        let limits = configuration.limits
        pipeline.rules = limits.rules
        pipeline.flows = limits.flows
        pipeline.macsPerDomain = limits.macs
        pipeline.heldOctets = limits.heldBytes
        pipeline.splices = limits.sessions * 2
        pipeline.icmpRate = limits.icmpErrorsPerSecond
        pipeline.synRate = limits.synsPerSecond
        pipeline.icmpSources = [
            PortSide.client.domain: configuration.clientCPU.addresses.map(\.address),
            PortSide.storage.domain: configuration.storageCPU.addresses.map(\.address),
        ]
        pipeline.flowSeed = (UInt64.random(in: 1 ... .max), UInt64.random(in: 1 ... .max))
        let dataplane = DataPlaneWorker(configuration: pipeline)
        self.dataplane = dataplane
        links = LinkWatch { dataplane.lookAtPorts() }
        events = EventLog(capacity: limits.events)
    }

    // MARK: Start

    /// Makes everything and starts all threads. Throws before anything runs when a device cannot be had.
    public func start() throws {
        SystemSettings.raiseDescriptorLimit()
        for setting in SystemSettings.prepareNamespace() {
            log.warning("cannot set net.\(setting.replacing("/", with: "."))")
        }
        try addPorts()
        try addRules()
        dataplane.start()
        links.start()
        makeEngine()
        try listen()
        isRunning = true
        let box = Unmanaged.passRetained(self)
        let result = pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                let daemon = Unmanaged<Daemon>.fromOpaque(argument).takeRetainedValue()
                daemon.loop.run()
                // Sessions have ended, and nothing runs any more that could change them.
                for volume in daemon.portal.volumes { volume.close() }
                return nil
            }, box.toOpaque())
        guard result == 0 else { throw StartError(description: "cannot start a thread") }
    }

    /// Where the kernel has none, relayed sessions work as well.
    private func makeShortcut() -> RelayShortcut? {
        guard configuration.usesShortcut else { return nil }
        do { return try RelayShortcut() } catch {
            log.notice("relayed sessions have no shortcut: \(error)")
            return nil
        }
    }

    private func hasShortcut(_ port: PortConfiguration) -> Bool {
        shortcut != nil && port.kind == .packet && port.faults == nil
    }

    private func attachShortcut(_ number: PortNumber, _ port: PortConfiguration) {
        guard hasShortcut(port) else { return }
        do { try shortcut?.add(number, device: port.device, domain: port.side.domain) } catch {
            log.notice("no shortcut at port \(port.name): \(error)")
        }
    }

    private func addPorts() throws {
        shortcut = makeShortcut()
        for (index, port) in configuration.ports.enumerated() {
            let device = try makePort(port)
            if port.kind == .packet { SystemSettings.preparePort(port.device) }
            let mtu = (device as? PacketSocketPort)?.mtu ?? 0
            let recorded = RecordingPort(
                port.faults == nil
                    ? device : FaultInjectingPort(device, faults: FaultProfile(port.faults)))
            captures.add(recorded, name: port.name)
            let number = PortNumber(index + 1)
            let domain = port.side.domain
            let isAdded = dataplane.call {
                $0.addPort(recorded, number: number, domain: domain, mtu: mtu)
            }
            guard isAdded == true else {
                throw StartError(description: "port \(port.name) cannot be added")
            }
            attachShortcut(number, port)
        }
        let netlink = try Netlink()
        for (offset, cpu) in [configuration.clientCPU, configuration.storageCPU].enumerated() {
            let tap = try TAPPort(name: cpu.device, macAddress: cpu.macAddress, watch: links)
            SystemSettings.prepareDevice(cpu.device)
            var networks: Set<IPPrefix> = []
            for address in cpu.addresses {
                let prefix = IPPrefix(
                    address: address.address, length: Int(address.prefixLength))
                try netlink.addAddress(prefix, interfaceIndex: tap.interfaceIndex)
                // A network has one route, with its first address as source; the others are secondary.
                let network = IPPrefix(address: prefix.network, length: prefix.length)
                guard networks.insert(network).inserted else { continue }
                // Sessions work with the kernel's own value too, only slower after each change.
                do {
                    try netlink.setInitialWindow(
                        prefix, interfaceIndex: tap.interfaceIndex,
                        segments: UInt32(cpu.initialWindow))
                } catch {
                    log.notice("\(cpu.device): \(error)")
                }
            }
            do {
                try shortcut?.add(
                    cpu: cpu.device, domain: (offset == 0 ? PortSide.client : .storage).domain)
            } catch {
                log.notice("no shortcut at \(cpu.device): \(error)")
            }
            let recorded = RecordingPort(tap)
            captures.add(recorded, name: cpu.device)
            let number = PortNumber(configuration.ports.count + 1 + offset)
            let domain = (offset == 0 ? PortSide.client : PortSide.storage).domain
            _ = dataplane.call {
                $0.addPort(recorded, number: number, domain: domain, isCPU: true)
            }
        }
    }

    private func makePort(_ port: PortConfiguration) throws -> any DataPlane.Port {
        switch port.kind {
        case .tap:
            return try TAPPort(
                name: port.device,
                macAddress: MACAddress(
                    rawValue: 0x0264_7372_1000
                        + UInt64(port.device.utf8.reduce(0) { $0 &* 31 &+ Int($1) } & 0xfff)),
                watch: links)
        case .packet:
            var options = PacketSocketPort.Options()
            options.receive = port.receive == .ring ? .ring : .batched
            options.watch = links
            if hasShortcut(port) { options.filter = shortcut?.socketFilter }
            return try PacketSocketPort(name: port.name, device: port.device, options: options)
        }
    }

    /// Rules of the switch itself, then those of the configuration.
    private func addRules() throws {
        ownRules = try SwitchRules.rules(configuration, ports: portNames)
        let configured = try configuration.rules.map { text in
            let rule = try RuleSyntax.parse(text, ports: portNames)
            if let refusal = SwitchRules.refusal(rule, own: ownRules) {
                throw StartError(description: "rule \"\(text)\": \(refusal.message)")
            }
            return rule
        }
        _ = try dataplane.apply((ownRules + configured).map { .addRule($0) })
    }

    private func makeEngine() {
        var environment = SessionEngine.Environment(
            clientDevice: configuration.clientCPU.device,
            storageDevice: configuration.storageCPU.device,
            clientDomain: PortSide.client.domain, storageDomain: PortSide.storage.domain,
            clientMAC: configuration.clientCPU.macAddress,
            storageMAC: configuration.storageCPU.macAddress,
            storageAddresses: configuration.storageCPU.addresses.map(\.address),
            sessionMaximum: configuration.limits.sessions)
        environment.drainMaximum =
            UInt64(configuration.limits.drainTimeoutMilliseconds) * 1_000_000
        environment.idleSeconds = UInt32(configuration.limits.idleTimeoutSeconds)
        environment.keepAliveSeconds = UInt32(configuration.limits.keepAliveSeconds)
        engine = SessionEngine(
            loop: loop, dataplane: dataplane, environment: environment, log: log)
        engine.shortcut = shortcut
        portal = ISCSIPortal(configuration: configuration, engine: engine)
        listeners = Listeners(engine: engine, portal: portal)
        health = HealthMonitor(configuration, engine: engine, portal: portal)
        management = ResourceManagement(
            configuration, engine: engine, portal: portal, health: health)
        announcements = Announcements(
            configuration, engine: engine, portal: portal, management: management)
        nfs = NFSService(configuration, engine: engine, portal: portal)
        management.balancing.exportTraffic = { [weak self] in self?.nfs?.traffic($0) ?? [:] }
        management.onEvent = { [weak self, events, log] event in
            if case .serverRemoved(let name) = event { self?.serverRemoved(name) }
            self?.nfs?.take(event)
            let model = EventModel(event)
            log.log(level: model.level, "\(model.message)")
            events.add(model)
        }
        let announcer = AddressAnnouncer(
            configuration: configuration, loop: loop, dataplane: dataplane)
        self.announcer = announcer
        let rejoins = PortRejoins(dataplane: dataplane)
        engine.onEvent = { [weak self, events, portNames] event in
            var isRejoined = false
            if case .port(let number, let isUp) = event {
                isRejoined = rejoins.take(number)
                if isUp { announcer.announce(only: number) }
                self?.linkChanged(number, isUp: isUp)
            }
            events.add(event, ports: portNames, isRejoined: isRejoined)
        }
        engine.start()
        announcer.start()
    }

    private func linkChanged(_ number: PortNumber, isUp: Bool) {
        guard let port = configuration.ports.first(where: { $0.name == portNames.name(number) })
        else { return }
        // A device that came back is another one.
        if isUp { attachShortcut(number, port) } else { shortcut?.lost(number) }
        management.portChanged(
            number, isUp: isUp,
            deviceExists: FileManager.default.fileExists(atPath: "/sys/class/net/\(port.device)"))
    }

    /// Listens when every server was looked at once, so that the first client finds what it needs.
    private func listen() throws {
        try listeners.update(configuration)
        try announcements.start(device: configuration.storageCPU.device)
        guard !configuration.resources.isEmpty else { return becomeReady() }
        health.start { [weak self] in
            guard let self else { return }
            open(configuration)
            becomeReady()
        }
    }

    /// Listens for what the configuration has and is not listened for. On the session thread.
    func open(_ configuration: Configuration) {
        if configuration.hasTargets {
            for failure in listeners.openISCSI(configuration) { log.error("iSCSI at \(failure)") }
        }
        if nfs == nil { nfs = NFSService(configuration, engine: engine, portal: portal) }
        for failure in nfs?.update(configuration) ?? [] { log.error("NFS at \(failure)") }
    }

    /// Ready is when clients are listened to and packets reach the ports: a port whose device is there is
    /// up, or its cable is out for good.
    private func becomeReady(waited: UInt64 = 0) {
        let step: UInt64 = 20_000_000
        let isWaiting =
            dataplane.call { pipeline in
                pipeline.portStatus().contains { !$0.isUp && ($0.isCPU || $0.mtu > 0) }
            } ?? false
        if isWaiting, waited < Self.portTimeMaximum {
            loop.schedule(after: step) { [weak self] in
                self?.becomeReady(waited: waited + step)
            }
            return
        }
        isReady.store(true, ordering: .releasing)
        log.notice("ready: \(configuration.resources.count) resources")
    }

    /// ns that the start waits for ports.
    private static let portTimeMaximum: UInt64 = 2_000_000_000

    /// True when clients are listened to.
    let isReady = Atomic<Bool>(false)

    // MARK: Stop

    /// Ends all sessions and threads; devices and addresses go with them.
    public func stop() {
        guard isRunning else { return }
        isRunning = false
        loop.post { [self] in endSessions(since: loop.clock()) }
        pthread_join(thread, nil)
        links.stop()
        dataplane.stop()
        for (_, port) in captures.all { _ = port.stop() }
    }

    /// ns between looks at writes that are still open, and for which they are waited for.
    private static let endInterval: UInt64 = 10_000_000
    private static let endTimeMaximum: UInt64 = 1_000_000_000

    /// Then the loop stops. Writes to mirrors that have begun end first: their members are the same then, and the next
    /// start has nothing to copy.
    private func endSessions(since start: UInt64) {
        // Again each time: clients come back at once.
        engine.endAll("the switch is stopping")
        nfs?.close("the switch is stopping")
        guard hasOpenMirrors, loop.clock() - start < Self.endTimeMaximum else {
            return loop.stop()
        }
        loop.schedule(after: Self.endInterval) { [self] in endSessions(since: start) }
    }

    /// Sessions that have ended still use members of one that is whole; any other has to be copied anyway.
    private var hasOpenMirrors: Bool {
        portal.volumes.contains { volume in
            volume.isMirror && volume.inService.count == volume.resources.count
                && volume.resources.contains { !portal.nexuses(of: $0.name).isEmpty }
        }
    }
}

extension FaultProfile {
    init(_ faults: PortFaults?) {
        self.init()
        guard let faults else { return }
        drop = faults.drop
        duplicate = faults.duplicate
        reorder = faults.reorder
        corrupt = faults.corrupt
        delay = UInt64(faults.delayMicroseconds) * 1_000
        seed = faults.seed
    }
}
