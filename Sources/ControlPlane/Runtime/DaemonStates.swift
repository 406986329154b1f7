import DataPlane
import StorageProtocols

// States of servers and resources, and protection of sessions, for people. On the session thread.
extension Daemon {
    func state(ofServer name: String) -> ServerState {
        guard let entry = management.manager.servers.first(where: { $0.server.name == name }) else {
            return .unknown
        }
        switch entry.monitor.state {
        case .unknown: return .unknown
        case .down: return .down
        case .suspect: return .suspect
        case .up: break
        }
        if entry.isRemoving { return .removing }
        if entry.isDraining {
            return entry.drainStarted == nil ? .drained : .draining
        }
        if entry.monitor.isFlapping { return .flapping }
        return entry.server.isSpare ? .spare : .up
    }

    func state(of resource: Resource) -> ResourceState {
        let manager = management.manager
        if manager.isChanging(resource.name) { return .moving }
        switch manager.state(of: resource.assigned) {
        case .up, .suspect: return .served
        case .down: return .waiting
        case .unknown, nil: return .unknown
        }
    }

    /// Relative load of each server and load of each resource, as balancing sees them.
    func loads() -> (servers: [String: Double], resources: [String: Double]) {
        let input = management.manager.placementInput()
        return (
            PlacementState(input).loadsByName,
            Dictionary(
                input.resources.map { ($0.name, $0.load) }, uniquingKeysWith: { first, _ in first })
        )
    }

    /// Sessions that a failing server would end, or requests of which it would leave unanswered, now; and such
    /// requests since the start.
    func unprotected() async -> (sessions: Int, requests: UInt64) {
        await onLoop { [self] in
            let live = management.requests.live()
            return (
                live.count { $0.1.unprotected > 0 } + sessionsWithoutLog,
                management.requests.sums(live).values.reduce(0) { $0 + $1.unprotected }
            )
        }
    }

    private var sessionsWithoutLog: Int {
        portal.resources.all.reduce(0) { sum, resource in
            sum
                + portal.nexuses(of: resource.name).count { $0.serverName != nil && $0.log == nil }
        }
    }

    /// What the resource management knows of a resource.
    private func management(of resource: Resource, now: UInt64) -> ResourceModel {
        var model = ResourceModel()
        let manager = management.manager
        model.state = state(of: resource)
        let since = management.assignedAt[resource.name] ?? startedAt
        model.stateAgeS = seconds(now - min(now, since))
        model.load = manager.loads[resource.name] ?? 0
        model.home = manager.homes[resource.name]
        return model
    }

    public func resources() async -> [ResourceModel] {
        let datagrams = dataplane.call { $0.datagramStatus() }
        let (all, sessions, ended, exports) = await onLoop { [self, now] in
            (
                portal.resources.all.map { ($0, management(of: $0, now: now)) },
                engine.sessions.values.map(\.summary), engine.traffic.all(),
                nfs?.traffic(datagrams) ?? [:]
            )
        }
        let traffic = resourceTraffic(sessions, ended: ended)
        return all.map { resource, known in
            var model = known
            model.name = resource.name
            model.protocol = resource.protocol.rawValue
            model.target = resource.clientName
            model.assigned = resource.assigned
            model.servers = resource.servers
            model.sessions = sessions.count { $0.uses(resource: resource.name) }
            let sum = traffic[resource.name] ?? ResourceTraffic()
            model.clientBytes = sum.clientBytes
            model.serverBytes = sum.serverBytes
            model.clientPackets = sum.clientPackets
            model.serverPackets = sum.serverPackets
            if let export = exports[resource.name] {
                model.clientBytes = export.callOctets
                model.serverBytes = export.replyOctets
            }
            return model
        }
    }

    public func servers() async -> [ServerModel] {
        let sessions = await summaries()
        return await onLoop { [self, now] in
            let loads = loads().servers
            return configuration.servers.map { server in
                var model = ServerModel()
                model.name = server.name
                model.addresses = server.addresses.map { "\($0)" }
                model.activeAddress = model.addresses.first
                if let state = health.states[server.name] {
                    model.health = management.health(of: server.name)
                    model.healthReason = state.reason
                    model.latencyUs = state.latency.map { $0 / 1_000 }
                    model.checks = state.checks
                    model.checksFailed = state.failures
                    let since = management.since[server.name] ?? 0
                    model.stateAgeS = since == 0 ? 0 : seconds(now &- min(now, since))
                }
                model.state = state(ofServer: server.name)
                model.isSpare = server.isSpare
                model.weight = server.weight
                model.load = loads[server.name] ?? 0
                model.resources = portal.resources.assigned(to: server.name).map(\.name)
                model.sessions = sessions.count { $0.uses(server: server.name) }
                if let learned = portal.learnedParameters(of: server.name) {
                    model.parameters = [
                        "InitialR2T": learned.limits.initialR2T ? "Yes" : "No",
                        "ImmediateData": learned.limits.immediateData ? "Yes" : "No",
                        "MaxBurstLength": "\(learned.limits.maxBurstLength)",
                        "FirstBurstLength": "\(learned.limits.firstBurstLength)",
                        "MaxRecvDataSegmentLength":
                            "\(learned.maxReceiveDataSegmentLength ?? 8_192)",
                    ]
                }
                return model
            }
        }
    }

    /// What the resource management adds to a session.
    struct Protection: Sendable {
        var requests: RequestStatistics?
        var moves: SessionMoves?

        /// What one of the session's logs has counted.
        mutating func add(_ statistics: RequestStatistics) {
            guard var sum = requests else {
                requests = statistics
                return
            }
            sum.open += statistics.open
            sum.unprotected += statistics.unprotected
            sum.bytes += statistics.bytes
            requests = sum
        }
    }

    func protection() async -> [SpliceID: Protection] {
        await onLoop { [self] in
            var result = management.moves.mapValues { Protection(moves: $0) }
            for (source, statistics) in management.requests.live() {
                result[source.id, default: Protection()].add(statistics)
            }
            return result
        }
    }

    func protection(of id: SpliceID) async -> Protection? {
        await onLoop { [self] in
            guard let session = engine.sessions[id] else { return nil }
            var result = Protection(moves: management.moves[id])
            for (_, statistics) in management.requests.read(session.requests) {
                result.add(statistics)
            }
            return result
        }
    }
}

extension SessionModel {
    mutating func add(_ protection: Daemon.Protection?) {
        if let moved = protection?.moves {
            moves = moved.count
            lastMoveStallUs = moved.lastStall / 1_000
        }
        guard let requests = protection?.requests else {
            // A session with a server and without a log ends with its server.
            if `protocol` == "iscsi", serverLeg != nil { isProtected = false }
            return
        }
        outstandingRequests = Int(requests.open)
        unprotectedRequests = Int(requests.unprotected)
        logBytes = requests.bytes
        isProtected = requests.unprotected == 0
    }
}
