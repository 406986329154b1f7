import DataPlane
import Logging

/// Calls over UDP that the dataplane forwards by itself: tells it of servers, clients and handles.
///
/// A client's call that comes to the control plane is a miss. Where the next one of its kind could be forwarded in the
/// dataplane, what that needs is installed: the client's binding, and the handle when it does not name its resource
/// itself.
///
/// Lives on the session thread.
final class NFSFastPath {
    private let engine: SessionEngine
    private let portal: ISCSIPortal
    private let service: DatagramServiceID = 0
    /// Resources that may be there, by number.
    private var resources: [DatagramResourceID: String] = [:]
    private var installed: [DatagramResourceID: DatagramServer] = [:]
    private var bindings: [DatagramEndpoint: Binding] = [:]
    /// When each resource's server was told to be late: since when, ns.
    private var toldLate: [DatagramResourceID: UInt64] = [:]
    private var timer: EventLoop.Timer?
    private var ticks = 0
    private var isOn = false
    /// Handles of distinct exports may pass: what the servers say of file systems is what clients are told.
    private var takesPrefixed = false
    /// ns that a call may be open.
    var deadline: UInt64 = 1_000_000_000

    /// A client's UDP port, and the socket that keeps ours for it.
    private final class Binding {
        let socket: DatagramSocket
        var allowed = DatagramResourceSet()
        init(_ socket: DatagramSocket) { self.socket = socket }
        deinit { socket.close() }
    }

    /// ns between looks at servers, and of bindings without a packet.
    private static let interval: UInt64 = 100_000_000
    private static let idleMaximum: UInt64 = 60_000_000_000
    private static let bindingMaximum = 16_384

    init(engine: SessionEngine, portal: ISCSIPortal) {
        self.engine = engine
        self.portal = portal
    }

    /// - Parameters:
    ///   - addresses: virtual ones.
    ///   - magic: of handles that name their resource themselves; nil: none of them passes.
    func update(
        addresses: [IPAddress], port: UInt16, magic: UInt32?, resources: [Resource]
    ) {
        func pair(_ addresses: [IPAddress]) -> DatagramAddresses {
            DatagramAddresses(
                ipv4: addresses.first(where: \.isIPv4), ipv6: addresses.first { !$0.isIPv4 })
        }
        var virtual = pair(addresses)
        let storage = pair(engine.environment.storageAddresses)
        if storage.ipv4 == nil { virtual.ipv4 = nil }
        if storage.ipv6 == nil { virtual.ipv6 = nil }
        takesPrefixed = magic != nil
        self.resources = [:]
        for resource in resources {
            guard let index = resource.handleIndex, let id = DatagramResourceID(exactly: index)
            else { continue }
            self.resources[id] = resource.name
        }
        let gone = installed.keys.filter { self.resources[$0] == nil }
        for id in gone {
            apply([.setResource(id, server: nil), .removeHandles(of: id)])
            installed[id] = nil
        }
        isOn = apply([
            .setService(
                service,
                DatagramService(
                    clientDomain: engine.clientDomain, virtualAddresses: virtual, port: port,
                    clientMAC: engine.clientMAC, storageDomain: engine.storageDomain,
                    storageAddresses: storage, storageMAC: engine.storageMAC, handleMagic: magic))
        ])
        updateServers()
        if isOn, timer == nil { schedule() }
    }

    @discardableResult
    private func apply(_ commands: [DatagramCommand]) -> Bool {
        do {
            try engine.apply(commands.map { .datagram($0) })
            return true
        } catch {
            engine.log.warning("NFS: fast path of datagrams: \(error)")
            return false
        }
    }

    private func schedule() {
        timer = engine.loop.schedule(after: Self.interval) { [weak self] in
            guard let self else { return }
            updateServers()
            checkServers()
            ticks += 1
            if ticks % 100 == 0 { expireBindings() }
            schedule()
        }
    }

    // MARK: Servers

    /// Where resources are now; what has no server that may be asked goes to the control plane.
    func updateServers() {
        guard isOn else { return }
        for (id, name) in resources {
            let server = server(of: name)
            guard installed[id] != server else { continue }
            if apply([.setResource(id, server: server)]) { installed[id] = server }
        }
    }

    private func server(of resource: String) -> DatagramServer? {
        guard let assigned = portal.resources.assignedServer(of: resource),
            portal.isServing(assigned), let entry = portal.server(assigned),
            let address = entry.addresses.first
        else { return nil }
        guard let mac = macAddress(of: address) else { return nil }
        return DatagramServer(address: address, port: entry.nfsPort, mac: mac)
    }

    /// What the kernel's table of neighbours said last, and when that was, ns.
    private var neighbours: [IPAddress: (mac: MACAddress?, readAt: UInt64)] = [:]
    private static let neighbourInterval: UInt64 = 1_000_000_000

    private func macAddress(of address: IPAddress) -> MACAddress? {
        let now = engine.loop.now
        let known = neighbours[address]
        if let known, now - known.readAt < Self.neighbourInterval { return known.mac }
        let mac = NeighbourTable.macAddress(of: address, device: engine.storageDevice)
        // The kernel forgets neighbours that it does not talk to.
        neighbours[address] = (mac ?? known?.mac, now)
        return mac ?? known?.mac
    }

    /// A server that does not answer calls in the dataplane is looked at.
    private func checkServers() {
        guard !bindings.isEmpty,
            let status = engine.dataplane.call({ $0.datagramStatus() })
        else { return }
        let now = engine.loop.now
        for resource in status.resources
        where resource.unansweredSince != 0 && resource.callsSinceReply > 1
            && now > resource.unansweredSince + deadline
            && toldLate[resource.id] != resource.unansweredSince
        {
            toldLate[resource.id] = resource.unansweredSince
            guard let name = resources[resource.id],
                let server = portal.resources.assignedServer(of: name)
            else { continue }
            portal.trouble(server, .requestLate)
        }
    }

    // MARK: Misses

    /// A client's call was forwarded by the control plane.
    /// - Parameters:
    ///   - client: over UDP.
    ///   - index: the export's number.
    ///   - rights: the client's there.
    func missed(
        _ call: [UInt8], from client: NFSClient, index: UInt32, isDistinct: Bool,
        rights: NFSRights
    ) {
        guard isOn, client.transport == .udp, let id = DatagramResourceID(exactly: index),
            resources[id] != nil, !isDistinct || takesPrefixed,
            // The dataplane looks at neither credentials nor procedures' effects.
            rights.changeNothing
        else { return }
        let endpoint = DatagramEndpoint(address: client.address, port: client.port)
        if let binding = bindings[endpoint] {
            if !binding.allowed.contains(id),
                apply([.allow(service, client: endpoint, resource: id, isAllowed: true)])
            {
                binding.allowed.insert(id)
            }
        } else {
            bind(endpoint, id)
        }
        guard !isDistinct, let handle = DatagramCall.handle(of: call) else { return }
        engine.dataplane.post(
            [.datagram(.installHandle(Array(call[handle]), resource: id))], onRefusal: { _ in })
    }

    private func bind(_ client: DatagramEndpoint, _ id: DatagramResourceID) {
        guard bindings.count < Self.bindingMaximum,
            let local = engine.storageAddress(like: client.address)
        else { return }
        do {
            let socket = try DatagramSocket(
                bind: SocketAddress(address: local, port: 0), device: engine.storageDevice)
            let binding = Binding(socket)
            binding.allowed.insert(id)
            guard
                apply([
                    .bind(
                        service, client: client, localPort: socket.address.port,
                        resources: binding.allowed)
                ])
            else { return }
            bindings[client] = binding
        } catch {
            engine.log.debug("NFS: no port for \(client.address): \(error)")
        }
    }

    private func expireBindings() {
        guard !bindings.isEmpty, let all = engine.dataplane.datagramBindings() else { return }
        let now = engine.loop.now
        let idle = all.filter {
            $0.service == service && now > $0.lastUsed + Self.idleMaximum
        }.map(\.client)
        for client in idle where bindings[client] != nil {
            apply([.unbind(service, client: client)])
            bindings[client] = nil
        }
    }

    func name(of resource: DatagramResourceID) -> String? { resources[resource] }

    func close() {
        timer?.cancel()
        timer = nil
        guard isOn else { return }
        isOn = false
        apply([.setService(service, nil)])
        bindings = [:]
    }
}

extension DataPlaneWorker {
    /// All clients of the fast path, some at a time: packets go on in between. Nil: it is stopping or
    /// overloaded.
    func datagramBindings() -> [DatagramBindingStatus]? {
        var from: Int? = 0
        var result: [DatagramBindingStatus] = []
        while let start = from {
            guard let part = call({ $0.datagramBindings(from: start, limit: 1_024) }) else {
                return nil
            }
            result += part.bindings
            from = part.next
        }
        return result
    }
}
