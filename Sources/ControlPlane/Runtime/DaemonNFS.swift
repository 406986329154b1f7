package import DataPlane

// NFS for people: mounts, exports, clients. The service lives on the session thread.
extension Daemon {
    public func nfsMounts() async -> [NFSMountModel] {
        await onLoop { [self, now] in
            guard let router = nfs?.router else { return [] }
            return router.mounts.all.map { mount, since in
                var model = NFSMountModel()
                model.client = "\(mount.address)"
                model.path = String(decoding: mount.path.octets, as: UTF8.self)
                model.resource = router.resource(at: mount.path)
                model.ageS = seconds(now - min(now, since))
                return model
            }
        }
    }

    public func nfsExports() async -> [NFSExportModel] {
        let datagrams = dataplane.call { $0.datagramStatus() }
        return await onLoop { [self] in
            guard let nfs else { return [] }
            let traffic = nfs.traffic(datagrams)
            let measured = management.balancing.report.measurements
            return portal.resources.all.compactMap { resource in
                NFSExportModel(
                    resource, state(of: resource),
                    traffic[resource.name] ?? NFSResourceStatistics(), measured[resource.name])
            }
        }
    }

    public func nfsClients() async -> [NFSClientModel] {
        let bindings = dataplane.datagramBindings() ?? []
        return await onLoop { [self, now] in
            guard let nfs else { return [] }
            var table = NFSClientTable()
            for (mount, _) in nfs.router.mounts.all { table.addMount(of: mount.address) }
            for client in nfs.connectedClients { table.addConnection(of: client.address) }
            for client in nfs.openClients { table.addOpenCall(of: client) }
            for binding in bindings {
                table.addBinding(
                    of: binding.client.address, calls: binding.calls, replies: binding.replies,
                    idle: now - min(now, binding.lastUsed))
            }
            return table.models
        }
    }
}

extension NFSExportModel {
    /// - Parameter measured: of the last second; nil: nothing was measured yet.
    /// - Returns: nil: the resource is none of NFS.
    package init?(
        _ resource: Resource, _ state: ResourceState, _ traffic: NFSResourceStatistics,
        _ measured: ResourceMeasurement?
    ) {
        guard let export = resource.export, let index = resource.handleIndex else { return nil }
        self.init()
        name = resource.name
        directory = export.directory
        path = export.path
        handles = export.handles.rawValue
        self.index = Int(index)
        assigned = resource.assigned
        self.state = state
        calls = traffic.calls
        replies = traffic.replies
        fastCalls = traffic.fastCalls
        fastReplies = traffic.fastReplies
        givenUp = traffic.givenUp
        clientBytes = traffic.callOctets
        serverBytes = traffic.replyOctets
        guard let measured, measured.requestsPerSecond > 0 else { return }
        repliesPerS = measured.requestsPerSecond
        latencyUs = UInt64(exactly: (measured.latency * 1e6).rounded())
    }
}

/// What is known of clients of NFS, put together by address.
package struct NFSClientTable {
    private var known: [IPAddress: NFSClientModel] = [:]
    private var transports: [IPAddress: Set<NFSClient.Transport>] = [:]

    package init() {}

    package mutating func addMount(of address: IPAddress) {
        known[address, default: NFSClientModel()].mounts += 1
    }

    package mutating func addConnection(of address: IPAddress) {
        known[address, default: NFSClientModel()].connections += 1
        transports[address, default: []].insert(.tcp)
    }

    package mutating func addOpenCall(of client: NFSClient) {
        known[client.address, default: NFSClientModel()].openCalls += 1
        transports[client.address, default: []].insert(client.transport)
    }

    /// A UDP port that is in the fast path.
    /// - Parameter idle: ns since its last packet there.
    package mutating func addBinding(
        of address: IPAddress, calls: UInt64, replies: UInt64, idle: UInt64
    ) {
        var model = known[address] ?? NFSClientModel()
        model.fastPorts += 1
        model.fastCalls += calls
        model.fastReplies += replies
        model.fastIdleS = min(model.fastIdleS ?? .infinity, Double(idle) / 1e9)
        known[address] = model
        transports[address, default: []].insert(.udp)
    }

    /// In the order of their addresses, those of IPv4 first.
    package var models: [NFSClientModel] {
        known.sorted { ($0.key.high, $0.key.low) < ($1.key.high, $1.key.low) }.map {
            address, known in
            var model = known
            let used = transports[address] ?? []
            model.client = "\(address)"
            model.transports =
                (used.contains(.tcp) ? ["tcp"] : []) + (used.contains(.udp) ? ["udp"] : [])
            return model
        }
    }
}
