/// What differs between two configurations, and what of it can be changed while the switch runs.
package struct ReloadPlan: Sendable, Equatable {
    /// Changed live, one line each.
    package private(set) var changes: [String] = []
    /// Differences that need a restart, one line each; when there is one nothing is changed.
    package private(set) var needsRestart: [String] = []
    /// Texts of rules.
    package private(set) var rulesRemoved: [String] = []
    package private(set) var rulesAdded: [String] = []
    /// Names of resources and services that live sessions may use, and what becomes of them.
    package private(set) var resourcesChanged: [String: String] = [:]
    package private(set) var servicesChanged: [String: String] = [:]

    package init(from old: Configuration, to new: Configuration) {
        compareFixed(old, new)
        compareLimits(old.limits, new.limits)
        compareServers(old, new)
        compareResources(old, new)
        compareCredentials(old, new)
        compareServices(old, new)
        compareRules(old, new)
        compareSettings(old, new)
    }

    package var isEmpty: Bool { changes.isEmpty && needsRestart.isEmpty }

    // MARK: What a restart is needed for

    private mutating func compareFixed(_ old: Configuration, _ new: Configuration) {
        for name in Self.names(old.ports.map(\.name), new.ports.map(\.name)) {
            let before = old.ports.first { $0.name == name }
            let after = new.ports.first { $0.name == name }
            if let verb = Self.verb(before, after) { needsRestart.append("port \(name): \(verb)") }
        }
        if needsRestart.isEmpty, old.ports != new.ports { needsRestart.append("order of ports") }
        for (side, before, after) in [
            ("client", old.clientCPU, new.clientCPU), ("storage", old.storageCPU, new.storageCPU),
        ] where before != after {
            needsRestart.append("cpu.\(side): changed")
        }
        if old.usesShortcut != new.usesShortcut { needsRestart.append("cpu.shortcut: changed") }
        if old.iscsi.port != new.iscsi.port {
            needsRestart.append("iscsi.listen.port: \(old.iscsi.port) to \(new.iscsi.port)")
        }
        compareNFS(old.nfs, new.nfs)
        for name in Self.names(old.volumes.map(\.name), new.volumes.map(\.name)) {
            let before = old.volumes.first { $0.name == name }
            let after = new.volumes.first { $0.name == name }
            if let verb = Self.verb(before, after) {
                needsRestart.append("volume \(name): \(verb)")
            }
        }
        if old.agents?.port != new.agents?.port {
            let ports = [old.agents, new.agents].map { $0.map { "\($0.port)" } ?? "none" }
            needsRestart.append("agents.port: \(ports[0]) to \(ports[1])")
        }
        if old.socketPath != new.socketPath {
            needsRestart.append("control.socket: \(old.socketPath) to \(new.socketPath)")
        }
    }

    private mutating func compareNFS(_ old: Configuration.NFS?, _ new: Configuration.NFS?) {
        guard let old, let new else {
            if let verb = Self.verb(old, new) { needsRestart.append("nfs: \(verb)") }
            return
        }
        for (before, after) in zip(old.listening, new.listening) where before.value != after.value {
            needsRestart.append("nfs.\(before.key): \(before.value) to \(after.value)")
        }
        for (before, after) in zip(old.settings, new.settings) where before.value != after.value {
            changes.append("nfs.\(before.key): \(before.value) to \(after.value)")
        }
    }

    private mutating func compareLimits(_ old: Limits, _ new: Limits) {
        for field in Limits.fields where old[keyPath: field.path] != new[keyPath: field.path] {
            let line =
                "limits.\(field.key): \(old[keyPath: field.path]) to \(new[keyPath: field.path])"
            if field.path == \Limits.loginTimeoutMilliseconds {
                changes.append(line)
            } else {
                needsRestart.append(line)
            }
        }
    }

    // MARK: What is changed live

    private mutating func compareServers(_ old: Configuration, _ new: Configuration) {
        for name in Self.names(old.servers.map(\.name), new.servers.map(\.name)) {
            let before = old.servers.first { $0.name == name }
            let after = new.servers.first { $0.name == name }
            if let verb = Self.verb(before, after) { changes.append("server \(name): \(verb)") }
        }
    }

    private mutating func compareResources(_ old: Configuration, _ new: Configuration) {
        for name in Self.names(old.resources.map(\.name), new.resources.map(\.name)) {
            let before = old.resources.first { $0.name == name }
            let after = new.resources.first { $0.name == name }
            guard let verb = Self.verb(before, after) else { continue }
            if let before, let after, before.assigned != after.assigned {
                changes.append(
                    "resource \(name): assigned to \(after.assigned) instead of \(before.assigned)")
                resourcesChanged[name] = "move to \(after.assigned)"
            } else {
                changes.append("resource \(name): \(verb)")
                if before != nil { resourcesChanged[name] = "go on as they are until they end" }
            }
        }
    }

    private mutating func compareCredentials(_ old: Configuration, _ new: Configuration) {
        for name in Self.names(old.credentials.map(\.user), new.credentials.map(\.user)) {
            let before = old.credentials.first { $0.user == name }
            let after = new.credentials.first { $0.user == name }
            if let verb = Self.verb(before, after) { changes.append("user \(name): \(verb)") }
        }
    }

    private mutating func compareServices(_ old: Configuration, _ new: Configuration) {
        for name in Self.names(old.services.map(\.name), new.services.map(\.name)) {
            let before = old.services.first { $0.name == name }
            let after = new.services.first { $0.name == name }
            guard let verb = Self.verb(before, after) else { continue }
            changes.append("service \(name): \(verb)")
            if before != nil { servicesChanged[name] = "go on as they are until they end" }
        }
    }

    private mutating func compareRules(_ old: Configuration, _ new: Configuration) {
        rulesRemoved = old.rules.filter { !new.rules.contains($0) }
        rulesAdded = new.rules.filter { !old.rules.contains($0) }
        changes += rulesRemoved.map { "rule removed: \($0)" }
        changes += rulesAdded.map { "rule added: \($0)" }
    }

    private mutating func compareSettings(_ old: Configuration, _ new: Configuration) {
        if old.iscsi.requiresCHAP != new.iscsi.requiresCHAP {
            changes.append(
                "iscsi.authentication: \(new.iscsi.requiresCHAP ? "chap" : "none") for new logins")
        }
        if old.iscsi.splicesAutomatically != new.iscsi.splicesAutomatically {
            changes.append(
                "iscsi.splice: \(new.iscsi.splicesAutomatically ? "auto" : "manual") for new sessions"
            )
        }
        if old.iscsi.allUnitsTarget != new.iscsi.allUnitsTarget {
            changes.append(
                "iscsi.all_units_target: \(new.iscsi.allUnitsTarget ?? "none") for new logins")
        }
        for (before, after) in zip(old.health.values, new.health.values)
        where before.value != after.value {
            changes.append("health.\(before.key): \(before.value) to \(after.value)")
        }
        for (before, after) in zip(old.balance.texts, new.balance.texts)
        where before.value != after.value {
            changes.append("balance.\(before.key): \(before.value) to \(after.value)")
        }
        if old.agents?.port == new.agents?.port, old.agents != new.agents {
            changes.append("agents: changed")
        }
        if old.announcedResources != new.announcedResources {
            changes.append("announced_resources: changed")
        }
        if old.logLevel != new.logLevel {
            changes.append("log.level: \(old.logLevel) to \(new.logLevel)")
        }
    }

    // MARK: Comparing

    /// Names of both, in the order of the files.
    private static func names(_ old: [String], _ new: [String]) -> [String] {
        old + new.filter { !old.contains($0) }
    }

    private static func verb<Value: Equatable>(_ old: Value?, _ new: Value?) -> String? {
        switch (old, new) {
        case (nil, nil): nil
        case (nil, _): "added"
        case (_, nil): "removed"
        default: old == new ? nil : "changed"
        }
    }
}
