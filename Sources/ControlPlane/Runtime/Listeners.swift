import DataPlane

/// The switch's listening sockets: plain TCP services and iSCSI, at every virtual address. On the session
/// thread, or before it runs.
final class Listeners {
    /// Where connections to a listening socket go.
    private struct Destination {
        var name: String
        var server: String
        var address: SocketAddress
        var splicesAtOnce: Bool
    }

    private let engine: SessionEngine
    private let portal: ISCSIPortal
    private var services: [SocketAddress: Destination] = [:]
    private var isISCSIOpen = false

    init(engine: SessionEngine, portal: ISCSIPortal) {
        self.engine = engine
        self.portal = portal
    }

    /// Opens what a configuration has and is not open, then closes what it has no more; a service that only
    /// goes elsewhere keeps its socket. Throws before anything has changed.
    func update(_ configuration: Configuration) throws(SystemCallError) {
        let wanted = destinations(configuration)
        var opened: [SocketAddress] = []
        for (address, destination) in wanted where services[address] == nil {
            do {
                try open(address, destination)
                opened.append(address)
            } catch {
                for address in opened { engine.stopListening(address) }
                throw error
            }
        }
        for address in services.keys where wanted[address] == nil {
            engine.stopListening(address)
        }
        services = wanted
    }

    private func destinations(_ configuration: Configuration) -> [SocketAddress: Destination] {
        var result: [SocketAddress: Destination] = [:]
        for service in configuration.services {
            guard let server = configuration.servers.first(where: { $0.name == service.server })
            else { continue }
            for virtual in configuration.clientCPU.addresses {
                let isIPv4 = virtual.address.isIPv4
                guard let address = server.addresses.first(where: { $0.isIPv4 == isIPv4 }) else {
                    continue
                }
                let listening = SocketAddress(address: virtual.address, port: service.listenPort)
                result[listening] = Destination(
                    name: service.name, server: server.name,
                    address: SocketAddress(address: address, port: service.port),
                    splicesAtOnce: service.splicesAtOnce)
            }
        }
        return result
    }

    private func open(
        _ address: SocketAddress, _ first: Destination
    ) throws(SystemCallError) {
        try engine.listen(address) { [weak self, engine] id, leg in
            let destination = self?.services[address] ?? first
            return ServiceSession(
                id: id, leg: leg, engine: engine, name: destination.name,
                serverName: destination.server, address: destination.address,
                splicesAtOnce: destination.splicesAtOnce)
        }
    }

    /// Listens for iSCSI at every virtual address, once; returns what failed.
    func openISCSI(_ configuration: Configuration) -> [String] {
        guard !isISCSIOpen else { return [] }
        isISCSIOpen = true
        var failures: [String] = []
        for virtual in configuration.clientCPU.addresses {
            let address = SocketAddress(
                address: virtual.address, port: configuration.iscsi.port)
            do throws(SystemCallError) {
                try engine.listen(address) { [engine, portal] id, leg in
                    ISCSISession(id: id, leg: leg, engine: engine, portal: portal)
                }
            } catch {
                failures.append("\(address): \(error)")
            }
        }
        return failures
    }
}
