import ControlPlane
import Foundation
import StorageProtocols
import Testing

private func sender(
    _ server: String = "server1", secret: String = ListeningReceiver.secret, later: UInt64 = 0
) throws -> AnnouncementSender {
    try AnnouncementSender(
        server: server, key: AnnouncementKey(secret: secret), bootID: .random(in: 0 ... .max),
        bootTime: AnnouncementReceiver.wallClock() + later)
}

private let resource = AnnouncedResource(name: "r1", target: "iqn.2026-01.lab.dsr:r1")
private let load = AgentLoad(cpuPermille: 1, memoryPermille: 2)

@Suite struct AnnouncementReceiverTests {
    @Test func `what is announced arrives, and silence is noticed`() async throws {
        let room = try await ListeningReceiver()
        var sender = try sender()
        let now = AnnouncementReceiver.wallClock()
        for datagram in try sender.announce([resource], load: load, timestamp: now) {
            try room.send(datagram)
        }
        var change = AgentTable.Change()
        change.appeared = [resource]
        change.load = load
        change.isReturn = true
        let silence = try #require(try await room.first { $0 == .silence("server1") })
        #expect(
            room.events == [
                .back("server1"), .change("server1", change), .load("server1"),
                .silence("server1"),
            ])
        let heard = try #require(try await room.first { $0 == .back("server1") })
        #expect(heard.duration(to: silence) > .milliseconds(295))
        // The agent is silent; what the server has is still known.
        let table = await room.thread.call { room.receiver.table }
        #expect(table["server1"]?.resources == [resource])
        #expect(table["server1"]?.isSilent == true)
        await room.stop()
    }

    @Test func `what is wrong is refused and counted by its reason`() async throws {
        let room = try await ListeningReceiver()
        let now = AnnouncementReceiver.wallClock()
        func datagram(_ sender: AnnouncementSender, at time: UInt64 = now) throws -> [UInt8] {
            var sender = sender
            return try #require(
                try sender.announce([resource], load: nil, timestamp: time).first)
        }
        let right = try datagram(sender())
        var broken = right
        broken[broken.count - 1] ^= 1
        let sent = [
            try datagram(sender(), at: now - 60_000), broken, right, right,
            try datagram(sender("server2")), try datagram(sender("nobody")),
            try datagram(sender(secret: "a secret of another")), Array(right.dropLast()), [],
            right + [UInt8](repeating: 0, count: 4_000),
        ]
        for datagram in sent { try room.send(datagram) }
        try await room.waitFor(UInt64(sent.count))
        let counts = await room.counts()
        #expect(counts.accepted == 1)
        #expect(
            counts.refused == [
                .stale: 1, .badMAC: 1, .replayed: 1, .wrongAddress: 1, .unknownServer: 1,
                .unknownKey: 1, .malformed: 3,
            ])
        await room.stop()
    }

    @Test func `a server's own secret replaces the common one`() async throws {
        let text = ListeningReceiver.configuration.replacingOccurrences(
            of: "[127.0.0.1]", with: "[127.0.0.1], agent_secret: 'its own secret, long'")
        let room = try await ListeningReceiver(text)
        let now = AnnouncementReceiver.wallClock()
        var (own, common) = (try sender(secret: "its own secret, long"), try sender())
        try room.send(own.announce([], load: nil, timestamp: now)[0])
        try room.send(common.announce([], load: nil, timestamp: now)[0])
        try await room.waitFor(2)
        #expect(await room.counts() == (1, [.unknownKey: 1]))
        // After a reload the common one holds.
        let plain = try Configuration.parse(text: ListeningReceiver.configuration, file: "x")
        await room.thread.call { room.receiver.update(to: plain) }
        // Two starts within a millisecond are not told apart.
        var later = try sender(later: 10)
        try room.send(later.announce([], load: nil, timestamp: now + 10)[0])
        try await room.waitFor(3)
        #expect(await room.counts().accepted == 2)
        await room.stop()
    }

    @Test func `an address that cannot be had`() async throws {
        let room = try await ListeningReceiver()
        let port = room.port
        let error: String = await room.thread.call {
            do {
                try room.receiver.start(
                    at: .init(
                        addresses: room.receiver.listening.map(\.address), device: nil, port: port))
                return ""
            } catch {
                return "\(error)"
            }
        }
        #expect(error.contains("bind (UDP 127.0.0.1:\(port)): Address already in use"))
    }
}

@Suite struct AgentConfigurationTests {
    private func parse(_ text: String) throws -> Configuration {
        try Configuration.parse(text: agentHead + text, file: "x")
    }

    @Test func `every key`() throws {
        let folder = try TemporaryDirectory()
        let file = folder.path + "/secret"
        try Data("from a file, long\n".utf8).write(to: URL(fileURLWithPath: file))
        let result = try parse(
            """
            servers:
              - { name: a, addresses: [10.0.1.2], agent_secret_file: \(file) }
              - { name: b, addresses: [10.0.1.3], node_exporter: "http://10.0.1.3:9101/m?x=1" }
            agents: { port: 7000, secret: common secret 16, silence_ms: 500, skew_s: 5 }
            announced_resources: { allow: ["iqn.2026-01.lab.dsr:*"], servers: [a] }
            """)
        #expect(result.agents?.port == 7_000)
        #expect(result.agents?.silenceMilliseconds == 500)
        #expect(result.agents?.skewSeconds == 5)
        #expect(result.agents?.key == AnnouncementKey(secret: "common secret 16"))
        #expect(result.servers[0].agentKey == AnnouncementKey(secret: "from a file, long"))
        #expect(result.servers[1].agentKey == nil)
        #expect(result.servers[1].nodeExporter?.address.description == "10.0.1.3:9101")
        #expect(result.servers[1].nodeExporter?.path == "/m?x=1")
        #expect(
            result.announcedResources
                == AnnouncedResourcePolicy(allow: ["iqn.2026-01.lab.dsr:*"], servers: ["a"]))
        for secret in ["common secret", "from a file"] {
            #expect(!"\(result)".contains(secret))
            #expect(!String(reflecting: result).contains(secret))
        }
    }

    @Test func `without the section nothing is heard and nothing appears`() throws {
        let result = try parse("")
        #expect(result.agents == nil)
        #expect(result.announcedResources == AnnouncedResourcePolicy())
    }

    @Test(arguments: [
        ("agents: {}", "agents", "needs secret or secret_file"),
        ("agents: { secret: short }", "agents.secret", "16 to 255 octets"),
        (
            "agents: { secret_file: /nonexistent/x }", "agents.secret_file",
            "cannot be read: No such"
        ),
        ("agents: { secret_file: /dev/zero }", "agents.secret_file", "no regular file"),
        (
            "agents: { secret_file: /etc/hostname, secret: 0123456789abcdef }",
            "agents.secret_file",
            "only one"
        ),
        ("agents: { secret: 0123456789abcdef, port: 0 }", "agents.port", "1 to 65535"),
        ("agents: { secret: 0123456789abcdef, skew_s: 0 }", "agents.skew_s", "1 to 3600"),
        ("agents: { secret: 0123456789abcdef, silence_ms: 1 }", "agents.silence_ms", "100 to"),
        ("agents: { secrt: x }", "agents.secrt", "did you mean secret?"),
        (
            "announced_resources: { allow: ['*'] }", "announced_resources",
            "needs the section agents"
        ),
        ("announced_resources: {}", "announced_resources.allow", "is missing"),
        (
            "announced_resources: { allow: [], servers: [x] }", "announced_resources.servers[0]",
            "no server x"
        ),
        (
            "servers: [{ name: a, addresses: [10.0.1.2], agent_secret: 0123456789abcdef }]",
            "servers[0].agent_secret", "needs the section agents"
        ),
        (
            "servers: [{ name: a, addresses: [10.0.1.2], node_exporter: 'http://host/' }]",
            "servers[0].node_exporter", "not as http://10.20.0.11:9100/metrics"
        ),
    ]) func `what is wrong`(text: String, field: String, message: String) {
        do {
            _ = try parse(text)
            Issue.record("taken")
        } catch let errors as ConfigurationErrors {
            #expect(
                errors.errors.contains { $0.field == field && $0.message.contains(message) },
                "\(errors)")
        } catch {
            Issue.record("\(error)")
        }
    }

    @Test func `what a reload may change`() throws {
        let servers = "servers: [{ name: a, addresses: [10.0.1.2] }]\n"
        let old = try parse(servers + "agents: { secret: 0123456789abcdef }")
        func plan(_ text: String) throws -> ReloadPlan {
            ReloadPlan(from: old, to: try parse(servers + text))
        }
        #expect(try plan("agents: { secret: 0123456789abcdef }").isEmpty)
        #expect(try plan("agents: { secret: 0123456789abcdeF }").changes == ["agents: changed"])
        #expect(
            try plan("agents: { secret: 0123456789abcdef, port: 7000 }").needsRestart
                == ["agents.port: 7411 to 7000"])
        #expect(try plan("").needsRestart == ["agents.port: 7411 to none"])
        let allowed = "agents: { secret: 0123456789abcdef }\nannounced_resources: { allow: ['*'] }"
        #expect(try plan(allowed).changes == ["announced_resources: changed"])
    }
}
