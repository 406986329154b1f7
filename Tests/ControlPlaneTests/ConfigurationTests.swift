import ControlPlane
import DataPlane
import Foundation
import TestSupport
import Testing

/// A file that uses every field.
let exampleConfiguration = """
    # every field
    ports:
      - name: client0
        device: veth-c0
        side: client
        receive: ring
      - name: storage0
        device: veth-s0
        side: storage
        kind: packet
        faults: { drop: 0.01, duplicate: 0.5, reorder: 1, corrupt: 0, delay_us: 100, seed: 7 }
      - name: beat
        device: tap-h
        side: heartbeat
        kind: tap
    cpu:
      client:
        device: dsr-client
        mac: 02:00:00:00:01:01
        addresses: [10.0.0.1/24, "fd00::1/64"]
      storage: { device: dsr-storage, mac: "02:00:00:00:02:01", addresses: [10.0.1.1/24], initcwnd: 40 }
      shortcut: off
    servers:
      - name: srv1
        addresses: [10.0.1.11]
        iscsi: { port: 3261 }
        credentials:
          user: switch
          secret: switch-secret-1
          mutual: { user: srv1, secret: server-secret-1 }
      - name: srv2
        addresses: [10.0.1.12, "fd01::12"]
    resources:
      - name: disk1
        protocol: iscsi
        target: iqn.2026-01.test:disk1
        servers: [srv1, srv2]
        assigned: srv2
        unit: 1
      - name: disk2
        target: iqn.2026-01.test:disk2
        servers: [srv1]
        assigned: srv1
        unit: 300
    iscsi:
      listen: { port: 3260 }
      authentication: chap
      all_units_target: iqn.2026-01.test:all
      splice: manual
    credentials:
      - user: alice
        secret: alice-secret-1
        mutual: { user: switch, secret: switch-secret-1 }
        resources: [disk1]
      - { user: bob, secret: bob-secret-123 }
    services:
      - name: web
        listen: { port: 8080 }
        server: srv1
        port: 80
        splice: manual
      - { name: ssh, listen: { port: 2222 }, server: srv2, port: 22 }
    rules:
      - priority=10,arp actions=NORMAL
      - "in_port=client0,tcp,tp_dst=80 actions=output:storage0"
    limits:
      sessions: 100
      rules: 200
      flows: 400
      macs: 500
      held_bytes: 1000000
      events: 600
      syns_per_second: 700
      icmp_errors_per_second: 800
      login_timeout_ms: 900
      drain_timeout_ms: 1000
      idle_timeout_s: 1100
    health: { interval_ms: 500, timeout_ms: 400 }
    control: { socket: /tmp/x.sock }
    log: { level: debug }

    """

private let head = """
    ports:
      - { name: c, device: c0, side: client }
      - { name: s, device: s0, side: storage }
    cpu:
      client: { device: k0, mac: "02:00:00:00:01:01", addresses: [10.0.0.1/24] }
      storage: { device: k1, mac: "02:00:00:00:02:01", addresses: [10.0.1.1/24] }

    """

@Suite struct ConfigurationTests {
    @Test func `every field of a file`() throws {
        let result = try Configuration.parse(text: exampleConfiguration, file: "x.yaml")
        var faults = PortFaults()
        faults.drop = 0.01
        faults.duplicate = 0.5
        faults.reorder = 1
        faults.delayMicroseconds = 100
        faults.seed = 7
        #expect(
            result.ports == [
                PortConfiguration(
                    name: "client0", device: "veth-c0", side: .client, receive: .ring),
                PortConfiguration(
                    name: "storage0", device: "veth-s0", side: .storage, faults: faults),
                PortConfiguration(name: "beat", device: "tap-h", side: .heartbeat, kind: .tap),
            ])
        #expect(result.clientCPU.device == "dsr-client")
        #expect(result.clientCPU.macAddress == MACAddress(rawValue: 0x0200_0000_0101))
        #expect(result.clientCPU.addresses.map(\.prefixLength) == [24, 64])
        #expect(result.clientCPU.addresses.first?.address == IPAddress(v4: 0x0a00_0001))
        #expect(result.storageCPU.addresses.first?.address == IPAddress(v4: 0x0a00_0101))
        #expect(result.clientCPU.initialWindow == 400 && result.storageCPU.initialWindow == 40)
        #expect(result.servers.map(\.name) == ["srv1", "srv2"])
        #expect(result.servers[0].iscsiPort == 3_261)
        #expect(result.servers[1].iscsiPort == 3_260)
        #expect(result.servers[0].credential?.mutual?.secret == "server-secret-1")
        #expect(result.servers[1].credential == nil)
        #expect(result.servers[1].addresses.count == 2)
        #expect(
            result.resources == [
                Resource(
                    name: "disk1", target: "iqn.2026-01.test:disk1", servers: ["srv1", "srv2"],
                    assigned: "srv2", unit: 1),
                Resource(
                    name: "disk2", target: "iqn.2026-01.test:disk2", servers: ["srv1"],
                    assigned: "srv1", unit: 300),
            ])
        #expect(result.iscsi.port == 3_260)
        #expect(result.iscsi.requiresCHAP)
        #expect(!result.iscsi.splicesAutomatically)
        #expect(result.iscsi.allUnitsTarget == "iqn.2026-01.test:all")
        #expect(!result.usesShortcut)
        #expect(result.credentials.map(\.user) == ["alice", "bob"])
        #expect(result.credentials.map(\.resources) == [["disk1"], nil])
        #expect(result.credentials[0].login.mutual?.user == "switch")
        #expect(result.services.map(\.name) == ["web", "ssh"])
        #expect(result.services.map(\.listenPort) == [8_080, 2_222])
        #expect(result.services.map(\.port) == [80, 22])
        #expect(result.services.map(\.splicesAtOnce) == [false, true])
        #expect(result.rules.count == 2)
        #expect(result.health.intervalMilliseconds == 500)
        #expect(result.health.timeoutMilliseconds == 400)
        #expect(result.socketPath == "/tmp/x.sock")
        #expect(result.logLevel == "debug")
    }

    @Test func `every limit`() throws {
        let limits = try Configuration.parse(text: exampleConfiguration, file: "x").limits
        var expected = Limits()
        expected.sessions = 100
        expected.rules = 200
        expected.flows = 400
        expected.macs = 500
        expected.heldBytes = 1_000_000
        expected.events = 600
        expected.synsPerSecond = 700
        expected.icmpErrorsPerSecond = 800
        expected.loginTimeoutMilliseconds = 900
        expected.drainTimeoutMilliseconds = 1_000
        expected.idleTimeoutSeconds = 1_100
        #expect(limits == expected)
    }

    @Test func `the least file, and its defaults`() throws {
        let result = try Configuration.parse(text: head, file: "x")
        #expect(result.limits == Limits())
        #expect(result.servers.isEmpty)
        #expect(!result.iscsi.requiresCHAP)
        #expect(result.iscsi.splicesAutomatically)
        #expect(result.iscsi.allUnitsTarget == nil)
        #expect(result.usesShortcut)
        #expect(result.socketPath == "/run/dsr/dsrd.sock")
        #expect(result.logLevel == "info")
        #expect(result.ports[0].kind == .packet)
        #expect(result.ports[0].receive == .batched)
        #expect(result.ports[0].faults == nil)
    }

    @Test(arguments: [("auto", true), ("off", false), ("\"off\"", false)])
    func shortcut(text: String, isUsed: Bool) throws {
        // The head ends with the ports of `cpu`.
        let result = try Configuration.parse(text: head + "  shortcut: \(text)\n", file: "x")
        #expect(result.usesShortcut == isUsed)
    }

    @Test func `unit numbers`() throws {
        let text = resources(
            [", unit: 0", ", unit: 16383", ""],
            iscsi: "{ all_units_target: iqn.2026-01.test:all }")
        let result = try Configuration.parse(text: text, file: "x")
        #expect(result.resources.map(\.unit) == [0, 16_383, nil])
        #expect(result.iscsi.allUnitsTarget == "iqn.2026-01.test:all")
    }

    /// Resources r0, r1 and so on from line 10 on, each with more fields, then `iscsi`.
    private func resources(_ fields: [String], iscsi: String) -> String {
        var text = head + "servers:\n  - { name: a, addresses: [10.0.1.2] }\nresources:\n"
        for (index, more) in fields.enumerated() {
            let target = "iqn.2026-01.test:r\(index)"
            text +=
                "  - { name: r\(index), target: \(target), servers: [a], assigned: a\(more) }\n"
        }
        return text + "iscsi: \(iscsi)\n"
    }

    // MARK: Errors

    struct Wrong: Sendable, CustomTestStringConvertible {
        var find: String
        var replacement: String
        var field: String
        /// Part of the message: what would be right.
        var message: String
        var testDescription: String { "\(field): \(message)" }
        init(_ find: String, _ replacement: String, _ field: String, _ message: String) {
            self.find = find
            self.replacement = replacement
            self.field = field
            self.message = message
        }
    }

    static let wrong = [
        // Unknown keys.
        Wrong("health: { interval_ms", "helth: { interval_ms", "helth", "did you mean health?"),
        Wrong("level: debug", "levl: debug", "log.levl", "did you mean level?"),
        Wrong("receive: ring", "recieve: ring", "ports[0].recieve", "did you mean receive?"),
        Wrong("seed: 7", "foo: 7", "ports[1].faults.foo", "known are drop, duplicate"),
        Wrong("idle_timeout_s:", "zzz:", "limits.zzz", "known are sessions"),
        // Types.
        Wrong("sessions: 100", "sessions: many", "limits.sessions", "number from 1 to 1048576"),
        Wrong("sessions: 100", "sessions: [1]", "limits.sessions", "number from 1"),
        Wrong("sessions: 100", "sessions: 1.5", "limits.sessions", "not \"1.5\""),
        Wrong("drop: 0.01", "drop: 2", "ports[1].faults.drop", "number from 0.0 to 1.0"),
        Wrong("drop: 0.01", "drop: nan", "ports[1].faults.drop", "number from 0.0 to 1.0"),
        Wrong("log: { level: debug }", "log: debug", "log", "must be a mapping of level"),
        Wrong("servers: [srv1]", "servers: srv1", "resources[1].servers", "must be a list"),
        Wrong("name: beat", "name: [a]", "ports[2].name", "text that is not empty"),
        Wrong("name: beat", "name: ''", "ports[2].name", "text that is not empty"),
        Wrong("level: debug", "level: loud", "log.level", "trace, debug, info"),
        // Choices.
        Wrong("side: heartbeat", "side: hartbeat", "ports[2].side", "did you mean heartbeat?"),
        Wrong("kind: tap", "kind: tun", "ports[2].kind", "none of packet, tap"),
        Wrong("receive: ring", "receive: x", "ports[0].receive", "none of batched, ring"),
        Wrong("authentication: chap", "authentication: Chap", "iscsi.authentication", "none, chap"),
        Wrong("splice: manual\ncred", "splice: no\ncred", "iscsi.splice", "auto, manual"),
        Wrong("protocol: iscsi", "protocol: smb", "resources[0].protocol", "none of iscsi, nfs"),
        Wrong("shortcut: off", "shortcut: no", "cpu.shortcut", "none of auto, off"),
        // Units.
        Wrong("unit: 300", "unit: 16384", "resources[1].unit", "number from 0 to 16383"),
        Wrong("unit: 300", "unit: -1", "resources[1].unit", "number from 0 to 16383"),
        Wrong("unit: 300", "unit: all", "resources[1].unit", "not \"all\""),
        Wrong("unit: 300", "unit: 1", "resources[1].unit", "1 is taken by disk1"),
        Wrong(
            "all_units_target: iqn", "all_unit_target: iqn", "iscsi.all_unit_target",
            "did you mean all_units_target?"),
        Wrong(
            "iqn.2026-01.test:all", "''", "iscsi.all_units_target", "text that is not empty"),
        Wrong(
            "iqn.2026-01.test:all", "IQN.2026-01.test:Disk2", "resources[1].target",
            "is taken by iscsi.all_units_target"),
        // Addresses and names of the network.
        Wrong("[10.0.1.11]", "[10.0.1.256]", "servers[0].addresses[0]", "not an IPv4 or IPv6"),
        Wrong("[10.0.1.11]", "[]", "servers[0].addresses", "must name an address"),
        Wrong(
            "10.0.0.1/24", "10.0.0.1", "cpu.client.addresses[0]", "with its prefix length, as 10"),
        Wrong("10.0.0.1/24", "10.0.0.1/33", "cpu.client.addresses[0]", "prefix length"),
        Wrong("10.0.0.1/24", "10.0.0.1/+8", "cpu.client.addresses[0]", "prefix length"),
        Wrong(
            "02:00:00:00:01:01", "02:00:00:00:01", "cpu.client.mac", "as 02:00:00:00:00:01"),
        Wrong("initcwnd: 40", "initcwnd: 0", "cpu.storage.initcwnd", "1 to 10000"),
        Wrong("02:00:00:00:01:01", "03:00:00:00:01:01", "cpu.client.mac", "unicast MAC address"),
        Wrong("02:00:00:00:01:01", "02:00:00:00:01:-1", "cpu.client.mac", "unicast MAC address"),
        Wrong(
            "device: veth-c0", "device: veth-too-long-name", "ports[0].device", "at most 15"),
        Wrong("device: veth-c0", "device: a/b", "ports[0].device", "no / or space"),
        Wrong("port: 3261", "port: 65536", "servers[0].iscsi.port", "1 to 65535"),
        Wrong("port: 8080", "port: 0", "services[0].listen.port", "1 to 65535"),
        // Doubles.
        Wrong("name: beat", "name: client0", "ports[2].name", "\"client0\" is taken"),
        Wrong("device: tap-h", "device: veth-c0", "ports[2].device", "\"veth-c0\" is taken"),
        Wrong("name: srv2", "name: srv1", "servers[1].name", "\"srv1\" is taken"),
        Wrong("name: disk2", "name: disk1", "resources[1].name", "\"disk1\" is taken"),
        Wrong(
            "iqn.2026-01.test:disk2", "IQN.2026-01.test:DISK1", "resources[1].target", "is taken"),
        Wrong("user: bob", "user: alice", "credentials[1].user", "\"alice\" is taken"),
        Wrong("name: ssh", "name: web", "services[1].name", "\"web\" is taken"),
        Wrong("port: 2222", "port: 8080", "services[1].listen.port", "8080 is taken by web"),
        Wrong("port: 2222", "port: 3260", "services[1].listen.port", "3260 is taken by iscsi"),
        Wrong("log: {", "health: {", "health", "given twice"),
        // References.
        Wrong("servers: [srv1]", "servers: [srv9]", "resources[1].servers[0]", "no server srv9"),
        Wrong("assigned: srv1", "assigned: srv2", "resources[1].assigned", "its servers: srv1"),
        Wrong("server: srv2", "server: srv7", "services[1].server", "no server srv7"),
        Wrong("resources: [disk1]", "resources: [disk7]", "credentials[0].resources[0]", "disk7"),
        // Missing.
        Wrong("    side: heartbeat\n", "", "ports[2].side", "is missing"),
        Wrong("side: storage", "side: client", "ports", "no port has side storage"),
        Wrong("assigned: srv1", "", "resources[1].assigned", "is missing"),
        Wrong("cpu:\n", "log2:\n", "cpu", "is missing"),
        Wrong("device: dsr-storage, ", "", "cpu.storage.device", "is missing"),
        Wrong("user: bob, ", "", "credentials[1].user", "is missing"),
        Wrong("  storage: { device", "  other: { device", "cpu.storage", "is missing"),
        // Secrets.
        Wrong("alice-secret-1", "short", "credentials[0].secret", "12 to 255 octets"),
        Wrong("server-secret-1", "short", "servers[0].credentials.mutual.secret", "12 to 255"),
        // Rules.
        Wrong("actions=NORMAL", "actions=NORML", "rules[0]", "did you mean normal?"),
        Wrong("output:storage0", "output:nowhere", "rules[1]", "\"nowhere\" is no port"),
        Wrong("priority=10,arp", "priority=70000,arp", "rules[0]", "column 10"),
        // YAML.
        Wrong("ports:\n", "ports: [\n", "YAML", "did not find"),
        Wrong("cpu:\n", "\tcpu:\n", "YAML", "found a tab character"),
    ]

    @Test(arguments: wrong) func `an error names line, field and what is right`(wrong: Wrong) throws
    {
        let place = try #require(exampleConfiguration.range(of: wrong.find))
        let text = exampleConfiguration.replacingCharacters(in: place, with: wrong.replacement)
        let errors = errors(of: text)
        let error = try #require(
            errors.first { $0.field == wrong.field && $0.message.contains(wrong.message) },
            "\(errors)")
        #expect(error.line >= 1)
        #expect(error.column >= 1)
        // Values and keys that are wrong are named by their own line.
        let line = exampleConfiguration[..<place.lowerBound].count { $0 == "\n" } + 1
        let isAtPlace =
            !wrong.message.hasSuffix("taken") && !wrong.message.hasSuffix("missing")
            && !["YAML", "ports", "health"].contains(wrong.field)
            && !wrong.message.contains("taken by")
            && !wrong.find.contains("\n")
        if isAtPlace { #expect(error.line == line) }
        #expect(error.description.hasPrefix("line \(error.line), column \(error.column): "))
    }

    private func errors(of text: String) -> [ConfigurationError] {
        do {
            _ = try Configuration.parse(text: text, file: "x.yaml")
            return []
        } catch {
            return error.errors
        }
    }

    @Test func `doubles and missing fields are named where they stand`() {
        let text =
            head + """
                servers:
                  - { name: a, addresses: [10.0.1.2] }
                  - name: b
                  - { name: a, addresses: [10.0.1.3] }
                """
        #expect(
            errors(of: text).map(\.description) == [
                "line 9, column 5: servers[1].addresses: is missing",
                "line 10, column 5: servers[2].name: \"a\" is taken",
            ])
    }

    static let wrongUnits: [([String], String, [String])] = [
        (
            [", unit: 7", "", ", unit: 8"], "{ listen: { port: 3260 } }",
            [
                "line 10, column 5: resources[0].unit: needs iscsi.all_units_target",
                "line 12, column 5: resources[2].unit: needs iscsi.all_units_target",
            ]
        ),
        (
            [", unit: 7", ", unit: 8", ", unit: 7"], "{ all_units_target: iqn.2026-01.test:R1 }",
            [
                "line 11, column 5: resources[1].target: \"iqn.2026-01.test:r1\" is taken by "
                    + "iscsi.all_units_target",
                "line 12, column 5: resources[2].unit: 7 is taken by r0",
            ]
        ),
        (
            ["", ""], "{ all_units_target: iqn.2026-01.test:all }",
            ["line 12, column 8: iscsi.all_units_target: no resource has a unit number"]
        ),
        (
            [", unit: 16384"], "{ all_units_target: iqn.2026-01.test:all }",
            [
                "line 10, column 79: resources[0].unit: must be a number from 0 to 16383, not "
                    + "\"16384\""
            ]
        ),
        (
            [", unit: 0", ", unit: 16384"], "{ all_units_target: iqn.2026-01.test:all }",
            [
                "line 11, column 79: resources[1].unit: must be a number from 0 to 16383, not "
                    + "\"16384\""
            ]
        ),
        (
            [", unit: -1"], "{ listen: { port: 3260 } }",
            [
                "line 10, column 79: resources[0].unit: must be a number from 0 to 16383, not "
                    + "\"-1\""
            ]
        ),
    ]

    @Test(arguments: wrongUnits)
    func `mistakes with units are named where they stand`(
        fields: [String], iscsi: String, expected: [String]
    ) {
        #expect(errors(of: resources(fields, iscsi: iscsi)).map(\.description) == expected)
    }

    @Test func `all errors are told at once, in order`() {
        var text = exampleConfiguration
        for (find, replacement) in [
            ("sessions: 100", "sessions: 0"), ("side: heartbeat", "side: x"),
            ("[10.0.1.11]", "[x]"), ("level: debug", "level: x"),
        ] {
            text = text.replacingOccurrences(of: find, with: replacement)
        }
        let found = errors(of: text)
        #expect(
            found.map(\.field) == [
                "ports[2].side", "servers[0].addresses[0]", "limits.sessions", "log.level",
            ])
        #expect(found.map(\.line) == found.map(\.line).sorted())
    }

    @Test func `chap without users`() {
        #expect(
            errors(of: head + "iscsi: { authentication: chap }\n").map(\.field)
                == ["iscsi.authentication"])
    }

    @Test(arguments: ["", "   \n", "# nothing\n", "~", "[]", "text", "3"])
    func `what is no configuration`(text: String) {
        #expect(!errors(of: text).isEmpty)
    }

    @Test func `a file that cannot be read, and one that can`() throws {
        do {
            _ = try Configuration.load(path: "/nonexistent/file.yaml")
            Issue.record("loaded")
        } catch {
            #expect("\(error)" == "/nonexistent/file.yaml: line 1, column 1: file: cannot be read")
        }
        let directory = try TemporaryDirectory()
        let path = directory.path + "/dsr.yaml"
        try Data(exampleConfiguration.utf8).write(to: URL(fileURLWithPath: path))
        #expect(try Configuration.load(path: path).ports.count == 3)
    }

    // MARK: Anything at all

    @Test func `every truncation`() {
        let characters = Array(exampleConfiguration)
        var (valid, invalid) = (0, 0)
        for end in 0...characters.count {
            if errors(of: String(characters[..<end])).isEmpty { valid += 1 } else { invalid += 1 }
        }
        #expect(valid > 0)
        #expect(invalid > 0)
    }

    @Test func `random changes of octets`() {
        var random = SplitMix64(seed: 1)
        let original = Array(exampleConfiguration.utf8)
        var (valid, invalid) = (0, 0)
        for _ in 0..<1_500 {
            var text = original
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                random.mutate(&text, inserting: "[]{}:,&*!|>'\"%@- \n\t\0")
            }
            let found = errors(of: String(decoding: text, as: UTF8.self))
            if found.isEmpty { valid += 1 } else { invalid += 1 }
            for error in found { #expect(error.line >= 0 && !error.message.isEmpty) }
        }
        #expect(valid > 0)
        #expect(invalid > 0)
    }

    @Test func `nested aliases do not grow`() {
        var text = "a0: &a0 [x, x]\n"
        for level in 1..<30 {
            text +=
                "a\(level): &a\(level) [\(Array(repeating: "*a\(level - 1)", count: 9).joined(separator: ", "))]\n"
        }
        #expect(!errors(of: text).isEmpty)
    }

    @Test func `interface addresses contain their network`() throws {
        let clients = try Configuration.parse(text: exampleConfiguration, file: "x").clientCPU
            .addresses
        #expect(clients[0].contains(IPAddress(v4: 0x0a00_00ff)))
        #expect(!clients[0].contains(IPAddress(v4: 0x0a00_0101)))
        #expect(!clients[0].contains(try #require(IPAddress("fd00::2"))))
        #expect(clients[1].contains(try #require(IPAddress("fd00::2"))))
        #expect(!clients[1].contains(try #require(IPAddress("fd00:0:0:1::2"))))
    }
}
