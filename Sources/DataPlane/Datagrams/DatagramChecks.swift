// Whether a command can be done: asked for a whole batch before anything of it is done.

/// What the earlier commands of a batch will have changed of services and bindings.
struct DatagramPlan {
    struct Client: Hashable {
        var service: DatagramServiceID
        var endpoint: DatagramEndpoint
    }

    /// Services, and how many bindings each has; empty until they are needed.
    var services: [DatagramService?] = []
    var counts: [Int] = []
    /// Services whose bindings of before the batch are gone.
    var cleared: Set<DatagramServiceID> = []
    /// Local ports of clients that were bound or unbound; 0: not bound.
    var bindings: [Client: UInt16] = [:]
    /// Endpoints on the storage side that were taken or left.
    var isTaken: [DatagramEndpoint: Bool] = [:]
}

extension DatagramRedirector {
    /// Nil when `apply` will do the command: then the plan holds what it changes.
    func check(_ command: DatagramCommand, plan: inout DatagramPlan) -> BatchError.Reason? {
        switch command {
        case .setResource, .removeHandle, .removeHandles: return nil
        case .installHandle(let octets, _):
            let isHandle = (1...HandleTable.handleMaximum).contains(octets.count)
            return isHandle ? nil : .datagramHandleLength(octets.count)
        case .setService(let id, let service):
            prepare(&plan)
            return refusal(id, service, &plan)
        case .bind(let id, let client, let localPort, _, _):
            prepare(&plan)
            return refusal(id, bind: client, localPort, &plan)
        case .unbind(let id, let client):
            prepare(&plan)
            guard let local = localEndpoint(id, client, plan) else { return .noSuchDatagramBinding }
            plan.bindings[.init(service: id, endpoint: client)] = 0
            plan.isTaken[local] = false
            plan.counts[Int(id)] -= 1
            return nil
        case .allow(let id, let client, _, _):
            prepare(&plan)
            return localEndpoint(id, client, plan) == nil ? .noSuchDatagramBinding : nil
        }
    }

    private func prepare(_ plan: inout DatagramPlan) {
        guard plan.services.isEmpty else { return }
        for index in 0..<serviceCapacity {
            let id = DatagramServiceID(index)
            plan.services.append(service(id))
            plan.counts.append(bindings.count(of: id))
        }
    }

    private func plannedService(_ id: DatagramServiceID, _ plan: DatagramPlan) -> DatagramService? {
        Int(id) < serviceCapacity ? plan.services[Int(id)] : nil
    }

    /// Storage-side endpoint that a client has, nil when it is not bound.
    private func localEndpoint(
        _ id: DatagramServiceID, _ client: DatagramEndpoint, _ plan: DatagramPlan
    ) -> DatagramEndpoint? {
        guard let service = plannedService(id, plan),
            let local = service.storageAddresses.address(isIPv4: client.address.isIPv4)
        else { return nil }
        var port: UInt16 = 0
        if let planned = plan.bindings[.init(service: id, endpoint: client)] {
            port = planned
        } else if !plan.cleared.contains(id) {
            let slot = bindings.find(client, service: id)
            if slot >= 0 { port = bindings.record(slot).pointee.localPort }
        }
        return port == 0 ? nil : DatagramEndpoint(address: local, port: port)
    }

    private func refusal(
        _ id: DatagramServiceID, _ service: DatagramService?, _ plan: inout DatagramPlan
    ) -> BatchError.Reason? {
        guard Int(id) < serviceCapacity else {
            return .datagramServiceOutOfRange(id, limit: serviceCapacity)
        }
        let earlier = plan.services[Int(id)]
        if service == nil, earlier == nil { return .noSuchDatagramService(id) }
        if let service {
            guard service.isValid else { return .datagramServiceInvalid(id) }
            for (index, other) in plan.services.enumerated() where index != Int(id) {
                if let other, service.clashes(with: other) {
                    return .datagramServiceInUse(by: DatagramServiceID(index))
                }
            }
        }
        if let earlier, service?.hasSameAddresses(as: earlier) != true {
            clear(id, earlier, &plan)
        }
        plan.services[Int(id)] = service
        return nil
    }

    /// All bindings of a service go.
    private func clear(
        _ id: DatagramServiceID, _ service: DatagramService, _ plan: inout DatagramPlan
    ) {
        for (client, port) in plan.bindings where client.service == id {
            plan.bindings[client] = nil
            let isIPv4 = client.endpoint.address.isIPv4
            if port != 0, let local = service.storageAddresses.address(isIPv4: isIPv4) {
                plan.isTaken[DatagramEndpoint(address: local, port: port)] = nil
            }
        }
        plan.cleared.insert(id)
        plan.counts[Int(id)] = 0
    }

    private func refusal(
        _ id: DatagramServiceID, bind client: DatagramEndpoint, _ localPort: UInt16,
        _ plan: inout DatagramPlan
    ) -> BatchError.Reason? {
        guard let service = plannedService(id, plan) else { return .noSuchDatagramService(id) }
        let isIPv4 = client.address.isIPv4
        guard let address = service.storageAddresses.address(isIPv4: isIPv4),
            service.virtualAddresses.address(isIPv4: isIPv4) != nil
        else { return .datagramAddressFamily }
        guard localEndpoint(id, client, plan) == nil else { return .datagramBindingExists }
        let local = DatagramEndpoint(address: address, port: localPort)
        guard localPort != 0, !isTaken(local, plan) else { return .datagramPortInUse(localPort) }
        guard plan.counts.reduce(0, +) < bindings.capacity else {
            return .datagramBindingTableFull(limit: bindings.capacity)
        }
        plan.bindings[.init(service: id, endpoint: client)] = localPort
        plan.isTaken[local] = true
        plan.counts[Int(id)] += 1
        return nil
    }

    private func isTaken(_ local: DatagramEndpoint, _ plan: DatagramPlan) -> Bool {
        if let planned = plan.isTaken[local] { return planned }
        let isIPv4 = local.address.isIPv4
        for index in 0..<serviceCapacity {
            let id = DatagramServiceID(index)
            guard !plan.cleared.contains(id),
                service(id)?.storageAddresses.address(isIPv4: isIPv4) == local.address
            else { continue }
            if bindings.find(localPort: local.port, service: id, isIPv4: isIPv4) >= 0 {
                return true
            }
        }
        return false
    }
}

extension DatagramService {
    /// A packet could be for both.
    fileprivate func clashes(with other: DatagramService) -> Bool {
        guard clientDomain == other.clientDomain, port == other.port else { return false }
        let (mine, others) = (virtualAddresses, other.virtualAddresses)
        return (mine.ipv4 != nil && mine.ipv4 == others.ipv4)
            || (mine.ipv6 != nil && mine.ipv6 == others.ipv6)
    }
}
