import DataPlane
import Synchronization

// Counters for Prometheus.
extension Daemon {
    public func metrics() async -> [MetricFamily] {
        let status = dataplane.call { $0.status() }
        let sessions = await onLoop { [self] in
            (
                summaries: engine.sessions.values.map(\.summary), ended: engine.ended,
                counters: engine.counters, health: health.states,
                up: Set(health.states.keys.filter { management.health(of: $0) == .up }),
                traffic: engine.traffic.all()
            )
        }
        var total = sessions.ended
        for summary in sessions.summaries { total.add(summary.statistics) }
        let families: [MetricFamily] =
            [
                gauge("dsr_uptime_seconds", "Seconds since the start.", seconds(now - startedAt)),
                gauge(
                    "dsr_ready", "1 when clients are listened to.",
                    UInt64(isReady.load(ordering: .acquiring) ? 1 : 0)),
            ]
            + portMetrics(await ports())
            + (status.map(switchMetrics) ?? [])
            + [occupancy(status, sessions: sessions.summaries.count, macs: await macs().count)]
            + sessionMetrics(sessions.summaries, total, sessions.counters)
            + [spliceCounters(status?.splicer ?? SpliceCounters())]
            + serverMetrics(sessions.health, up: sessions.up)
            + resourceMetrics(
                resourceTraffic(sessions.summaries, ended: sessions.traffic))
            + (await managementMetrics()) + (await nfsMetrics())
            + (await lockMetrics())
        return families + VolumeMetrics.families(await volumes())
    }

    private func resourceMetrics(_ traffic: [String: ResourceTraffic]) -> [MetricFamily] {
        var bytes = MetricFamily(
            name: "dsr_resource_bytes_total",
            help: "Octets of a resource's or service's sessions, by the end that sent them.",
            kind: .counter)
        var packets = MetricFamily(
            name: "dsr_resource_packets_total",
            help: "Packets of a resource's or service's sessions in the fast path.", kind: .counter)
        for (name, sum) in traffic.sorted(by: { $0.key < $1.key }) {
            let label = MetricFamily.Label("resource", name)
            bytes.add(sum.clientBytes, label, .init("from", "client"))
            bytes.add(sum.serverBytes, label, .init("from", "server"))
            packets.add(sum.clientPackets, label, .init("from", "client"))
            packets.add(sum.serverPackets, label, .init("from", "server"))
        }
        return [bytes, packets]
    }

    func gauge(_ name: String, _ help: String, _ value: UInt64) -> MetricFamily {
        var family = MetricFamily(name: name, help: help, kind: .gauge)
        family.add(value)
        return family
    }

    func gauge(_ name: String, _ help: String, _ value: Double) -> MetricFamily {
        var family = MetricFamily(name: name, help: help, kind: .gauge)
        family.add(value)
        return family
    }

    func counter(_ name: String, _ help: String, _ value: UInt64) -> MetricFamily {
        var family = MetricFamily(name: name, help: help, kind: .counter)
        family.add(value)
        return family
    }

    private func portMetrics(_ ports: [PortModel]) -> [MetricFamily] {
        var packets = MetricFamily(
            name: "dsr_port_packets_total", help: "Packets of a port.", kind: .counter)
        var bytes = MetricFamily(
            name: "dsr_port_bytes_total", help: "Octets of a port.", kind: .counter)
        var drops = MetricFamily(
            name: "dsr_port_drops_total",
            help: "Frames lost at a port's device: not read in time, too long, or not taken.",
            kind: .counter)
        var rejoins = MetricFamily(
            name: "dsr_port_rejoins_total",
            help: "How often a port's device was joined again after it had vanished.",
            kind: .counter)
        var up = MetricFamily(name: "dsr_port_up", help: "1 when a port is up.", kind: .gauge)
        for port in ports {
            let name = MetricFamily.Label("port", port.name)
            packets.add(port.rxPackets, name, .init("direction", "receive"))
            packets.add(port.txPackets, name, .init("direction", "transmit"))
            bytes.add(port.rxBytes, name, .init("direction", "receive"))
            bytes.add(port.txBytes, name, .init("direction", "transmit"))
            drops.add(port.rxDrops, name, .init("reason", "receive_queue"))
            drops.add(port.rxTruncated, name, .init("reason", "receive_truncated"))
            drops.add(port.txDrops, name, .init("reason", "transmit"))
            rejoins.add(port.rejoins, name)
            up.add(UInt64(port.isUp ? 1 : 0), name)
        }
        return [packets, bytes, drops, rejoins, up]
    }

    private func switchMetrics(_ status: PipelineStatus) -> [MetricFamily] {
        var drops = MetricFamily(
            name: "dsr_drops_total", help: "Packets not forwarded, by reason.", kind: .counter)
        for reason in DropReason.allCases {
            drops.add(status.drops[reason] ?? 0, .init("reason", "\(reason)"))
        }
        return [
            drops,
            counter(
                "dsr_events_lost_total", "Events lost because their queue was full.",
                status.eventsLost),
            gauge(
                "dsr_held_bytes", "Octets of packets held while splices change state.",
                UInt64(status.heldOctets)),
        ]
    }

    private func occupancy(
        _ status: PipelineStatus?, sessions: Int, macs: Int
    ) -> MetricFamily {
        var family = MetricFamily(
            name: "dsr_table_entries", help: "Entries of a table, and room for them.",
            kind: .gauge)
        let limits = configuration.limits
        let tables = [
            ("rules", status?.rules ?? 0, limits.rules),
            ("flows", status?.flows ?? 0, limits.flows),
            ("splices", status?.splices ?? 0, status?.spliceCapacity ?? 0),
            ("sessions", sessions, limits.sessions),
            ("macs", macs, limits.macs * PortSide.allCases.count),
        ]
        for (table, used, capacity) in tables {
            family.add(UInt64(used), .init("table", table), .init("kind", "used"))
            family.add(UInt64(capacity), .init("table", table), .init("kind", "capacity"))
        }
        return family
    }

    private func sessionMetrics(
        _ summaries: [SessionSummary], _ total: Redirect.Statistics, _ counters: EngineCounters
    ) -> [MetricFamily] {
        var states = MetricFamily(
            name: "dsr_sessions", help: "Sessions by state.", kind: .gauge)
        for state in SessionState.allCases {
            states.add(
                UInt64(summaries.count { self.state($0.state) == state }),
                .init("state", state.rawValue))
        }
        var logins = MetricFamily(
            name: "dsr_logins_total", help: "iSCSI logins of clients by result.", kind: .counter)
        logins.add(counters.loginsAccepted, .init("result", "accepted"))
        logins.add(counters.loginsRefused, .init("result", "refused"))
        logins.add(counters.authenticationFailures, .init("result", "authentication_failure"))
        var changes = MetricFamily(
            name: "dsr_splice_changes_total", help: "Sessions spliced and unspliced.",
            kind: .counter)
        changes.add(total.splices, .init("change", "splice"))
        changes.add(total.unsplices, .init("change", "unsplice"))
        var giveUps = MetricFamily(
            name: "dsr_splice_give_ups_total",
            help: "Changes given up because data was in flight for too long; they are tried again.",
            kind: .counter)
        giveUps.add(total.spliceGiveUps, .init("change", "splice"))
        giveUps.add(total.unspliceGiveUps, .init("change", "unsplice"))
        var standbys = MetricFamily(
            name: "dsr_standby_servers_total",
            help: "Servers that were logged in to while a session's present server finished.",
            kind: .counter)
        standbys.add(total.standbys, .init("outcome", "taken"))
        standbys.add(total.standbyGiveUps, .init("outcome", "given_up"))
        var relayed = MetricFamily(
            name: "dsr_relayed_bytes_total",
            help: "Octets that went through the control plane, by the side they came from.",
            kind: .counter)
        relayed.add(total.relayedFromClient, .init("side", "client"))
        relayed.add(total.relayedFromServer, .init("side", "server"))
        return [
            states,
            counter("dsr_sessions_accepted_total", "Connections of clients.", counters.accepted),
            counter(
                "dsr_sessions_refused_total", "Connections refused because all places were taken.",
                counters.refusedFull),
            counter("dsr_sessions_closed_total", "Sessions that have ended.", counters.closed),
            logins,
            counter(
                "dsr_server_failures_total",
                "Commands answered with an error because no server could be had for them.",
                counters.serverLoginFailures), changes, giveUps, standbys,
            gauge(
                "dsr_splice_longest_stall_seconds",
                "Longest time for which packets were held by one change of state.",
                seconds(total.longestFreeze)), relayed,
        ]
    }

    private func spliceCounters(_ counters: SpliceCounters) -> MetricFamily {
        var family = MetricFamily(
            name: "dsr_splice_packets_total",
            help: "Packets of splices that needed more than a rewrite, by what was done.",
            kind: .counter)
        let values = [
            ("acknowledgement_raised", counters.acknowledgementsRaised),
            ("acknowledgement_limited", counters.acknowledgementsLimited),
            ("edge_kept", counters.edgesKept), ("sequence_moved", counters.sequencesMoved),
            ("timestamp_raised", counters.timestampsRaised), ("held", counters.held),
            ("released", counters.released), ("gap_held", counters.gapHolds),
            ("room_waited", counters.roomWaits),
            ("gap_acknowledged", counters.gapAcknowledgements), ("probe", counters.probes),
            ("kernel_dropped", counters.kernelPacketsDropped),
            ("icmp_translated", counters.icmpTranslated),
        ]
        for (what, value) in values { family.add(value, .init("what", what)) }
        return family
    }

    private func serverMetrics(
        _ states: [String: HealthMonitor.State], up serving: Set<String>
    ) -> [MetricFamily] {
        var up = MetricFamily(
            name: "dsr_server_up", help: "1 when a server answers its health checks.",
            kind: .gauge)
        var checks = MetricFamily(
            name: "dsr_server_checks_total", help: "Health checks of a server.", kind: .counter)
        var failures = MetricFamily(
            name: "dsr_server_checks_failed_total", help: "Health checks that failed.",
            kind: .counter)
        for (name, state) in states.sorted(by: { $0.key < $1.key }) {
            let label = MetricFamily.Label("server", name)
            up.add(UInt64(serving.contains(name) ? 1 : 0), label)
            checks.add(state.checks, label)
            failures.add(state.failures, label)
        }
        return [up, checks, failures]
    }
}
