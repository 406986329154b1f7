import DataPlane

// Counters of the resource management and of request logs, for Prometheus.
extension Daemon {
    private struct ManagementSnapshot: Sendable {
        var statistics = ManagementStatistics()
        var resources: [(name: String, server: String, state: ResourceState)] = []
        var servers: [(name: String, state: ServerState, isDraining: Bool, isSpare: Bool)] = []
        var loads: (servers: [String: Double], resources: [String: Double]) = ([:], [:])
        var open: UInt64 = 0
        var bytes: UInt64 = 0
        var unprotectedSessions: UInt64 = 0
        var unprotectedRequests: UInt64 = 0
        var requests: [String: RequestTotals.Sum] = [:]
        var announcements: [(result: String, count: UInt64)] = []
        var budget: (used: Int, maximum: Int) = (0, 0)
    }

    func managementMetrics() async -> [MetricFamily] {
        let snapshot = await onLoop { [self] in managementSnapshot() }
        return resourceStates(snapshot) + serverStates(snapshot) + changes(snapshot.statistics)
            + requestMetrics(snapshot) + [announcementMetrics(snapshot.announcements)]
    }

    private func announcementMetrics(
        _ results: [(result: String, count: UInt64)]
    ) -> MetricFamily {
        var family = MetricFamily(
            name: "dsr_announcements_total",
            help: "Datagrams of agents that were taken, and refused by reason.", kind: .counter)
        for (result, count) in results { family.add(count, .init("result", result)) }
        return family
    }

    private func managementSnapshot() -> ManagementSnapshot {
        var snapshot = ManagementSnapshot()
        snapshot.statistics = management.statistics
        snapshot.resources = portal.resources.all.map { ($0.name, $0.assigned, state(of: $0)) }
        snapshot.servers = configuration.servers.map { server in
            (
                server.name, state(ofServer: server.name),
                management.manager.isDraining(server.name), server.isSpare
            )
        }
        snapshot.loads = loads()
        snapshot.announcements = announcements.results
        let live = management.requests.live()
        for (_, statistics) in live {
            snapshot.open += UInt64(statistics.open)
            snapshot.bytes += statistics.bytes
            snapshot.unprotectedSessions += statistics.unprotected > 0 ? 1 : 0
            snapshot.unprotectedRequests += UInt64(statistics.unprotected)
        }
        snapshot.requests = management.requests.sums(live)
        snapshot.budget = (portal.logBudget.inUse, portal.logBudget.maximum)
        return snapshot
    }

    private func resourceStates(_ snapshot: ManagementSnapshot) -> [MetricFamily] {
        var assigned = MetricFamily(
            name: "dsr_resource_assigned", help: "1 for the server that serves a resource.",
            kind: .gauge)
        var states = MetricFamily(
            name: "dsr_resource_state", help: "1 for the state that a resource is in.",
            kind: .gauge)
        var load = MetricFamily(
            name: "dsr_resource_load", help: "Load of a resource, in the unit of the load formula.",
            kind: .gauge)
        for resource in snapshot.resources {
            let label = MetricFamily.Label("resource", resource.name)
            assigned.add(UInt64(1), label, .init("server", resource.server))
            for state in ResourceState.allCases {
                states.add(
                    UInt64(resource.state == state ? 1 : 0), label, .init("state", state.rawValue))
            }
            load.add(snapshot.loads.resources[resource.name] ?? 0, label)
        }
        return [assigned, states, load]
    }

    private func serverStates(_ snapshot: ManagementSnapshot) -> [MetricFamily] {
        var states = MetricFamily(
            name: "dsr_server_state", help: "1 for the state that a server is in.", kind: .gauge)
        var draining = MetricFamily(
            name: "dsr_server_draining", help: "1 while a server gets nothing, by command.",
            kind: .gauge)
        var spare = MetricFamily(
            name: "dsr_server_spare", help: "1 for servers used only while another one fails.",
            kind: .gauge)
        var load = MetricFamily(
            name: "dsr_server_load",
            help: "Load of a server divided by its weight, in the unit of the load formula.",
            kind: .gauge)
        for server in snapshot.servers {
            let label = MetricFamily.Label("server", server.name)
            for state in ServerState.allCases {
                states.add(
                    UInt64(server.state == state ? 1 : 0), label, .init("state", state.rawValue))
            }
            draining.add(UInt64(server.isDraining ? 1 : 0), label)
            spare.add(UInt64(server.isSpare ? 1 : 0), label)
            load.add(snapshot.loads.servers[server.name] ?? 0, label)
        }
        return [states, draining, spare, load]
    }

    private func changes(_ statistics: ManagementStatistics) -> [MetricFamily] {
        var planned = MetricFamily(
            name: "dsr_changes_planned_total", help: "Changes of assignments planned, by reason.",
            kind: .counter)
        for reason in ChangeReason.labels {
            planned.add(statistics.planned[reason] ?? 0, .init("reason", reason))
        }
        var failovers = MetricFamily(
            name: "dsr_failover_duration_seconds",
            help: "From the detection of a failed server until all that it served that can be is "
                + "served elsewhere.", kind: .histogram)
        failovers.add(.init(statistics.failoverDurations))
        var stalls = MetricFamily(
            name: "dsr_session_stall_seconds",
            help: "Time without a server of sessions that went on at another one, or again at the "
                + "same: after a failure (dead), or by command and balancing (orderly).",
            kind: .histogram)
        stalls.add(.init(statistics.stalls), .init("mode", "dead"))
        stalls.add(.init(statistics.orderlyStalls), .init("mode", "orderly"))
        return [
            planned,
            counter(
                "dsr_changes_total", "Changes of assignments that entered the table.",
                statistics.changes),
            counter(
                "dsr_resource_moves_total", "Resources that got another server.", statistics.moves),
            counter(
                "dsr_confirmations_refused_total",
                "Servers that did not confirm that they serve a resource planned for them.",
                statistics.refusedConfirmations),
            counter(
                "dsr_moves_dropped_total", "Planned moves that were not made.", statistics.dropped),
            counter(
                "dsr_session_moves_abandoned_total",
                "Resources whose sessions did not all arrive at their new server in time.",
                statistics.abandoned),
            counter(
                "dsr_announcements_ignored_total",
                "Announcements of servers that led to nothing: resource or server not configured, "
                    + "or served elsewhere.", statistics.announcementsIgnored), failovers, stalls,
        ]
    }

    private func requestMetrics(_ snapshot: ManagementSnapshot) -> [MetricFamily] {
        var latency = MetricFamily(
            name: "dsr_request_latency_seconds",
            help: "From a request of a client to the end of its answer by the server.",
            kind: .histogram)
        var unprotected = MetricFamily(
            name: "dsr_requests_unprotected_total",
            help: "Requests that found no room in the log: they could not have been given to "
                + "another server.", kind: .counter)
        for (name, sum) in snapshot.requests.sorted(by: { $0.key < $1.key }) {
            let label = MetricFamily.Label("resource", name)
            latency.add(.init(requestLatencies: sum.histogram, sum: sum.latency), label)
            unprotected.add(sum.unprotected, label)
        }
        var budget = MetricFamily(
            name: "dsr_request_log_budget_bytes",
            help: "Memory that all request logs together have taken, and may take.", kind: .gauge)
        budget.add(UInt64(max(0, snapshot.budget.used)), .init("kind", "used"))
        budget.add(UInt64(max(0, snapshot.budget.maximum)), .init("kind", "capacity"))
        return [
            gauge("dsr_requests_open", "Requests without an answer yet.", snapshot.open),
            gauge(
                "dsr_requests_open_unprotected",
                "Open requests that could not be given to another server.",
                snapshot.unprotectedRequests),
            gauge(
                "dsr_sessions_unprotected",
                "Sessions with open requests that could not be given to another server.",
                snapshot.unprotectedSessions),
            gauge("dsr_request_log_bytes", "Octets of open requests kept.", snapshot.bytes),
            budget, unprotected, latency,
        ]
    }
}
