import ControlPlane
import DataPlane
import Testing

/// What a new configuration changes live, and what it needs a restart for.
@Suite struct `Reload plan` {
    private static let text = """
        ports:
          - {name: c0, device: c0, side: client}
          - {name: s1, device: s1, side: storage}
        cpu:
          client: {device: dsr-client, mac: "02:00:00:00:00:01", addresses: [10.1.0.1/24]}
          storage: {device: dsr-storage, mac: "02:00:00:00:00:02", addresses: [10.2.0.1/24]}
        servers:
          - {name: a, addresses: [10.2.0.11]}
          - {name: b, addresses: [10.2.0.12]}
        resources:
          - {name: r1, target: iqn.2026-01.x:r1, servers: [a, b], assigned: a}
          - {name: r2, target: iqn.2026-01.x:r2, servers: [a, b], assigned: b}
        credentials:
          - {user: client, secret: client-secret-1}
        services:
          - {name: echo, listen: {port: 7}, server: a, port: 7}
        rules:
          - "priority=10,tcp,tp_dst=9 actions=drop"
          - "priority=11,udp,tp_dst=9 actions=drop"
        health: {interval_ms: 500, timeout_ms: 400}
        log: {level: info}
        """

    private func plan(_ replacements: (String, String)...) throws -> ReloadPlan {
        var changed = Self.text
        for (old, new) in replacements {
            try #require(changed.contains(old), "\(old)")
            changed = changed.replacing(old, with: new)
        }
        return ReloadPlan(
            from: try Configuration.parse(text: Self.text, file: "old"),
            to: try Configuration.parse(text: changed, file: "new"))
    }

    @Test func `the same file changes nothing`() throws {
        #expect(try plan().isEmpty)
    }

    @Test(arguments: [
        ("device: s1", "device: s9", "port s1: changed"),
        (
            "{name: s1, device: s1, side: storage}",
            "{name: s1, device: s1, side: storage}\n  - {name: s2, device: s2, side: storage}",
            "port s2: added"
        ),
        ("10.1.0.1/24", "10.1.0.2/24", "cpu.client: changed"),
        ("02:00:00:00:00:02", "02:00:00:00:00:03", "cpu.storage: changed"),
        ("health:", "limits: {sessions: 10}\nhealth:", "limits.sessions: 4096 to 10"),
        ("health:", "iscsi: {listen: {port: 3261}}\nhealth:", "iscsi.listen.port: 3260 to 3261"),
        (
            "health:", "control: {socket: /x}\nhealth:",
            "control.socket: /run/dsr/dsrd.sock to /x"
        ),
    ])
    func `these need a restart`(old: String, new: String, line: String) throws {
        let plan = try plan((old, new))
        #expect(plan.needsRestart == [line])
        #expect(plan.changes == [])
    }

    @Test func `the order of ports gives them their numbers`() throws {
        let plan = try plan(
            ("{name: c0, device: c0, side: client}", "{name: s1, device: s1, side: storagX}"),
            ("{name: s1, device: s1, side: storage}", "{name: c0, device: c0, side: client}"),
            ("storagX", "storage"))
        #expect(plan.needsRestart == ["order of ports"])
    }

    @Test(arguments: [
        ("[10.2.0.12]", "[10.2.0.13]", "server b: changed"),
        (
            "servers: [a, b], assigned: b", "servers: [a, b], assigned: a",
            "resource r2: assigned to a instead of b"
        ),
        ("iqn.2026-01.x:r2", "iqn.2026-01.x:r3", "resource r2: changed"),
        ("client-secret-1", "client-secret-2", "user client: changed"),
        ("user: client,", "user: other,", "user client: removed"),
        ("port: 7}, server: a", "port: 7}, server: b", "service echo: changed"),
        ("interval_ms: 500", "interval_ms: 600", "health.interval_ms: 500 to 600"),
        ("timeout_ms: 400", "timeout_ms: 300", "health.timeout_ms: 400 to 300"),
        ("interval_ms: 500", "rise: 3, interval_ms: 500", "health.rise: 2 to 3"),
        ("interval_ms: 500", "fall: 5, interval_ms: 500", "health.fall: 2 to 5"),
        (
            "interval_ms: 500", "request_deadline_ms: 900, interval_ms: 500",
            "health.request_deadline_ms: 400 to 900"
        ),
        (
            "interval_ms: 500", "suspect_timeout_ms: 250, interval_ms: 500",
            "health.suspect_timeout_ms: 500 to 250"
        ),
        (
            "interval_ms: 500", "server_wait_ms: 0, interval_ms: 500",
            "health.server_wait_ms: 30000 to 0"
        ),
        ("level: info", "level: debug", "log.level: info to debug"),
        ("health:", "iscsi: {splice: manual}\nhealth:", "iscsi.splice: manual for new sessions"),
        (
            "health:", "iscsi: {authentication: chap}\nhealth:",
            "iscsi.authentication: chap for new logins"
        ),
        (
            "health:", "limits: {login_timeout_ms: 100}\nhealth:",
            "limits.login_timeout_ms: 15000 to 100"
        ),
    ])
    func `these are changed live`(old: String, new: String, line: String) throws {
        let plan = try plan((old, new))
        #expect(plan.needsRestart == [])
        #expect(plan.changes.first == line)
        #expect(!"\(plan)".contains("client-secret"), "a secret is in the plan")
    }

    @Test func `the target with all units is changed live`() throws {
        let name = "iqn.2026-01.x:all"
        let line = "iscsi.all_units_target: \(name) for new logins"
        // It needs a resource with a unit number.
        let both = try plan(
            ("assigned: a}", "assigned: a, unit: 1}"),
            ("health:", "iscsi: {all_units_target: \(name)}\nhealth:"))
        #expect(both.needsRestart == [])
        #expect(both.changes == ["resource r1: changed", line])
        let old = try Configuration.parse(text: Self.text, file: "old")
        var new = old
        new.iscsi.allUnitsTarget = name
        #expect(ReloadPlan(from: old, to: new).changes == [line])
        let gone = ReloadPlan(from: new, to: old)
        #expect(gone.needsRestart == [])
        #expect(gone.changes == ["iscsi.all_units_target: none for new logins"])
    }

    @Test func `rules are compared by their text`() throws {
        let plan = try plan(("priority=11,udp", "priority=12,udp"))
        #expect(plan.rulesRemoved == ["priority=11,udp,tp_dst=9 actions=drop"])
        #expect(plan.rulesAdded == ["priority=12,udp,tp_dst=9 actions=drop"])
        #expect(plan.changes.count == 2)
    }

    @Test func `what live sessions use is named`() throws {
        let plan = try plan(
            ("servers: [a, b], assigned: b", "servers: [a, b], assigned: a"),
            ("name: echo", "name: discard"))
        #expect(plan.resourcesChanged == ["r2": "move to a"])
        #expect(plan.servicesChanged.keys.sorted() == ["echo"])
    }
}

/// The switch's own rules cannot be changed by commands.
@Suite struct `Rules of the switch` {
    private func rules() throws -> (rules: [Rule], ports: PortNames) {
        let text = """
            ports:
              - {name: c0, device: c0, side: client}
              - {name: s1, device: s1, side: storage}
            cpu:
              client: {device: dsr-client, mac: "02:00:00:00:00:01", addresses: [10.1.0.1/24, "fd10::1/64"]}
              storage: {device: dsr-storage, mac: "02:00:00:00:00:02", addresses: [10.2.0.1/24]}
            """
        let configuration = try Configuration.parse(text: text, file: "x")
        let ports = PortNames(configuration.ports.map(\.name))
        return (try SwitchRules.rules(configuration, ports: ports), ports)
    }

    @Test func `all of them are marked`() throws {
        let own = try rules().rules
        #expect(own.allSatisfy { $0.cookie == SwitchRules.cookie })
        #expect(own.filter { $0.priority == 0 }.map(\.actions) == [[.normal]])
        // Each port: own addresses, the other side's networks, link-local, the rest.
        #expect(own.count == 1 + (2 + 1 + 1 + 2) + (1 + 2 + 1 + 2))
    }

    @Test(arguments: [
        ("priority=0 actions=drop", true), ("priority=1 actions=drop", false),
        ("cookie=0xd5,priority=7 actions=drop", true), ("priority=7 actions=drop", false),
        ("priority=60002,in_port=1,ip,nw_dst=10.2.0.7/24 actions=NORMAL", true),
        ("priority=60003,in_port=1,ip,nw_dst=10.2.0.0/24 actions=NORMAL", false),
    ])
    func `a rule in the place of one is refused`(text: String, isRefused: Bool) throws {
        let (own, ports) = try rules()
        let rule = try RuleSyntax.parse(text, ports: ports)
        #expect((SwitchRules.refusal(rule, own: own) != nil) == isRefused)
    }

    @Test func `deleting everything leaves them`() throws {
        let own = try rules().rules
        var pipeline = Pipeline()
        let added = Rule(priority: 9, actions: [.drop], cookie: 1)
        _ = try pipeline.apply((own + [added]).map { .addRule($0) }, now: 0)
        var everything = RuleSelector()
        everything.exceptCookie = SwitchRules.cookie
        let results = try pipeline.apply([.deleteRules(everything)], now: 0)
        guard case .count(let count) = results[0] else {
            Issue.record("no count")
            return
        }
        #expect(count == 1)
        let left = pipeline.ruleStatus(now: 0).map(\.rule)
        #expect(left == own)
        #expect(pipeline.ruleStatus(now: 0).map(RuleModel.init).allSatisfy { $0.isOfSwitch })
    }
}
