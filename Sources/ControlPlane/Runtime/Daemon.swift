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

    let configuration: Configuration
    let configurationPath: String
    let log: Logger
    let dataplane: DataPlaneWorker
    let loop = EventLoop()
    let startedAt = dsr_monotonic_ns()
    let portNames: PortNames
    let events: EventLog
    private var thread = pthread_t()
    private var isRunning = false
    private(set) var engine: SessionEngine!
    private(set) var portal: ISCSIPortal!
    private(set) var health: HealthMonitor!
    let captures = CaptureTable()

    public init(configuration: Configuration, path: String, log: Logger) {
        self.configuration = configuration
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
        dataplane = DataPlaneWorker(configuration: pipeline)
        events = EventLog(capacity: limits.events)
    }

    // MARK: Start

    /// Makes everything and starts all threads. Throws before anything runs when a device cannot be had.
    public func start() throws {
        for setting in SystemSettings.prepareNamespace() {
            log.warning("cannot set net.\(setting.replacing("/", with: "."))")
        }
        try addPorts()
        try addRules()
        dataplane.start()
        makeEngine()
        try listen()
        isRunning = true
        let box = Unmanaged.passRetained(self)
        let result = pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                Unmanaged<Daemon>.fromOpaque(argument).takeRetainedValue().loop.run()
                return nil
            }, box.toOpaque())
        guard result == 0 else { throw StartError(description: "cannot start a thread") }
    }

    private func addPorts() throws {
        for (index, port) in configuration.ports.enumerated() {
            let device = try makePort(port)
            if port.kind == .packet { SystemSettings.preparePort(port.device) }
            let mtu = (device as? PacketSocketPort)?.mtu ?? 0
            let wrapped = FaultInjectingPort(device, faults: FaultProfile(port.faults))
            let recorded = RecordingPort(wrapped)
            captures.add(recorded, name: port.name)
            let number = PortNumber(index + 1)
            let domain = port.side.domain
            let isAdded = dataplane.call {
                $0.addPort(recorded, number: number, domain: domain, mtu: mtu)
            }
            guard isAdded == true else {
                throw StartError(description: "port \(port.name) cannot be added")
            }
        }
        let netlink = try Netlink()
        for (offset, cpu) in [configuration.clientCPU, configuration.storageCPU].enumerated() {
            let tap = try TAPPort(name: cpu.device, macAddress: cpu.macAddress)
            SystemSettings.prepareDevice(cpu.device)
            for address in cpu.addresses {
                try netlink.addAddress(
                    IPPrefix(address: address.address, length: Int(address.prefixLength)),
                    interfaceIndex: tap.interfaceIndex)
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
                macAddress: MACAddress(rawValue: 0x0264_7372_1000 + UInt64(port.device.utf8.reduce(0) { $0 &* 31 &+ Int($1) } & 0xfff)))
        case .packet:
            var options = PacketSocketPort.Options()
            options.receive = port.receive == .ring ? .ring : .batched
            return try PacketSocketPort(name: port.name, device: port.device, options: options)
        }
    }

    /// Rules of the switch itself, lowest first, then those of the configuration.
    ///
    /// The kernel would accept a packet for any of its addresses on any of its devices: rules see to it
    /// that each side reaches only its own CPU port's addresses.
    private func addRules() throws {
        var rules = ["priority=0 actions=NORMAL"]
        for (index, port) in configuration.ports.enumerated() where port.side != .heartbeat {
            let own = port.side == .client ? configuration.clientCPU : configuration.storageCPU
            let other = port.side == .client ? configuration.storageCPU : configuration.clientCPU
            let head = "in_port=\(index + 1)"
            for address in own.addresses {
                let field = address.address.isIPv4 ? "ip,nw_dst" : "ipv6,ipv6_dst"
                rules.append(
                    "priority=60001,cookie=0xd5,\(head),dl_dst=\(own.macAddress),"
                        + "\(field)=\(address.address) actions=NORMAL")
            }
            for address in other.addresses {
                let prefix = IPPrefix(address: address.address, length: Int(address.prefixLength))
                let field = address.address.isIPv4 ? "ip,nw_dst" : "ipv6,ipv6_dst"
                rules.append(
                    "priority=60002,cookie=0xd5,\(head),\(field)=\(prefix.network)/"
                        + "\(prefix.length) actions=drop")
            }
            rules.append(
                "priority=60001,cookie=0xd5,\(head),icmp6,dl_dst=\(own.macAddress),"
                    + "ipv6_dst=fe80::/10 actions=NORMAL")
            for family in ["ip", "ipv6"] {
                rules.append(
                    "priority=60000,cookie=0xd5,\(head),\(family),dl_dst=\(own.macAddress) "
                        + "actions=drop")
            }
        }
        let parsed = try (rules + configuration.rules).map {
            Command.addRule(try RuleSyntax.parse($0, ports: portNames))
        }
        _ = try dataplane.apply(parsed)
    }

    private func makeEngine() {
        let environment = SessionEngine.Environment(
            clientDevice: configuration.clientCPU.device,
            storageDevice: configuration.storageCPU.device,
            clientDomain: PortSide.client.domain, storageDomain: PortSide.storage.domain,
            clientMAC: configuration.clientCPU.macAddress,
            storageMAC: configuration.storageCPU.macAddress,
            storageAddresses: configuration.storageCPU.addresses.map(\.address),
            sessionMaximum: configuration.limits.sessions)
        engine = SessionEngine(
            loop: loop, dataplane: dataplane, environment: environment, log: log)
        portal = ISCSIPortal(configuration: configuration, engine: engine)
        let used = Set(configuration.resources.flatMap(\.servers))
        health = HealthMonitor(
            servers: configuration.servers.filter { used.contains($0.name) },
            interval: UInt64(configuration.health.intervalMilliseconds) * 1_000_000,
            timeout: UInt64(configuration.health.timeoutMilliseconds) * 1_000_000,
            engine: engine, portal: portal)
        engine.onEvent = { [events, portNames] event in events.add(event, ports: portNames) }
        engine.start()
    }

    /// Listens when every server was looked at once, so that the first client finds what it needs.
    private func listen() throws {
        let engine = self.engine!
        let portal = self.portal!
        for service in configuration.services {
            guard let server = configuration.servers.first(where: { $0.name == service.server })
            else { continue }
            for virtual in configuration.clientCPU.addresses {
                guard
                    let address = server.addresses.first(where: {
                        $0.isIPv4 == virtual.address.isIPv4
                    })
                else { continue }
                let target = SocketAddress(address: address, port: service.port)
                try engine.listen(
                    SocketAddress(address: virtual.address, port: service.listenPort)
                ) { id, leg in
                    ServiceSession(
                        id: id, leg: leg, engine: engine, name: service.name,
                        serverName: server.name, address: target,
                        splicesAtOnce: service.splicesAtOnce)
                }
            }
        }
        guard !configuration.resources.isEmpty else { return isReady.store(true, ordering: .releasing) }
        health.start { [configuration, log, weak self] in
            for virtual in configuration.clientCPU.addresses {
                do {
                    try engine.listen(
                        SocketAddress(address: virtual.address, port: configuration.iscsi.port)
                    ) { id, leg in
                        ISCSISession(id: id, leg: leg, engine: engine, portal: portal)
                    }
                } catch {
                    log.error("iSCSI at \(virtual.address): \(error)")
                }
            }
            self?.isReady.store(true, ordering: .releasing)
            log.notice("ready: \(configuration.resources.count) resources")
        }
    }

    /// True when clients are listened to.
    let isReady = Atomic<Bool>(false)

    // MARK: Stop

    /// Ends all sessions and threads; devices and addresses go with them.
    public func stop() {
        guard isRunning else { return }
        isRunning = false
        loop.post { [self] in
            engine.endAll("the switch is stopping")
            loop.stop()
        }
        pthread_join(thread, nil)
        dataplane.stop()
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
