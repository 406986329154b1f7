extension DatagramRedirector {
    /// Does a checked command.
    mutating func apply(_ command: DatagramCommand, now: UInt64) -> CommandResult {
        switch command {
        case .setService(let id, let service): set(id, service)
        case .setResource(let id, let server): resources.set(id, server: server)
        case .bind(let id, let client, let localPort, let allowed, let mac):
            bindings.insert(
                client, service: id, localPort: localPort, resources: allowed, mac: mac, now: now)
        case .unbind(let id, let client): bindings.remove(client, service: id)
        case .allow(let id, let client, let resource, let isAllowed):
            let slot = bindings.find(client, service: id)
            if slot >= 0 { bindings.record(slot).pointee.resources.set(resource, isAllowed) }
        case .installHandle(let octets, let resource):
            handles.install(octets, length: octets.count, resource: resource)
        case .removeHandle(let octets):
            return .count(handles.remove(octets, length: octets.count) ? 1 : 0)
        case .removeHandles(let resource): return .count(handles.removeAll(of: resource))
        }
        return .done
    }
}
