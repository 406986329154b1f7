/// Failing controllers, as the servers and agents of a lab see them.
extension Lab {
    var array: StorageArray {
        StorageArray(topology: topology, failed: Set(state.failedControllers ?? []))
    }

    /// What a host's tgtd serves now: its targets as far as there is a path to them.
    func reachableTargets(of service: Topology.Service) -> [Topology.Target] {
        topology.targets(of: service).filter { array.isReachable($0.name, from: service.host) }
    }

    /// What an agent announces: what the tgtd beside it serves.
    func announcedTargets(by agent: Topology.Service) -> [Topology.Target] {
        (topology.services ?? []).filter { $0.host == agent.host && $0.kind == .tgtd }
            .flatMap(reachableTargets)
    }

    /// Units leave servers before they appear at others: no unit has two controllers at any time.
    mutating func setFailedControllers(_ failed: [String]?) throws {
        let servers = (topology.services ?? []).filter { $0.kind == .tgtd }
        for server in servers where process(server)?.condition == "frozen" {
            throw LabError("tgtd of \(server.host) is frozen: it would not hear of the change")
        }
        let before = servers.map { Set(reachableTargets(of: $0).map(\.name)) }
        state.failedControllers = failed
        try state.save()
        let after = servers.map { Set(reachableTargets(of: $0).map(\.name)) }
        for (index, server) in servers.enumerated() where isRunning(server) {
            try targets(server).remove(before[index].subtracting(after[index]))
        }
        for (index, server) in servers.enumerated() where isRunning(server) {
            try targets(server).add(after[index].subtracting(before[index]))
        }
        for agent in topology.services ?? [] where agent.kind == .agent {
            try self.agent(agent).writeResources()
        }
    }
}
