import ControlPlane
import StorageProtocols
import Testing

private func resource(
    _ name: String, _ state: AnnouncedResource.State = .serving, target: String? = nil
) -> AnnouncedResource {
    AnnouncedResource(
        name: name, target: target ?? "iqn.2026-01.lab.dsr:\(name)", state: state)
}

/// A table that hears agents at times in ms.
private struct Room {
    var table = AgentTable()

    @discardableResult
    mutating func say(
        _ server: String, _ sequence: UInt64, _ resources: [AnnouncedResource], at time: UInt64 = 0,
        boot: UInt64 = 1, part: UInt8 = 0, of parts: UInt8 = 1, load: AgentLoad? = nil,
        isLeaving: Bool = false
    ) throws -> AgentTable.Change {
        var announcement = Announcement(
            server: server, bootID: boot, bootTime: boot, sequence: sequence, timestamp: 0)
        announcement.part = part
        announcement.partCount = parts
        announcement.resources = resources
        announcement.load = load
        announcement.isLeaving = isLeaving
        return try table.apply(announcement, now: time * 1_000_000)
    }

    mutating func silent(at time: UInt64) -> [String] {
        table.markSilent(now: time * 1_000_000, silence: 3_000_000_000)
    }
}

@Suite struct AgentTableTests {
    @Test func `resources appear, change and go`() throws {
        var room = Room()
        let first = try room.say("a", 1, [resource("r1"), resource("r2")])
        #expect(first.appeared.map(\.name) == ["r1", "r2"])
        #expect(first.isReturn)
        #expect(try !room.say("a", 2, [resource("r1"), resource("r2")]).changesResources)
        let third = try room.say("a", 3, [resource("r1", .standby), resource("r3")])
        #expect(third.appeared.map(\.name) == ["r3"])
        #expect(third.gone.map(\.name) == ["r2"])
        #expect(third.changed == [resource("r1", .standby)])
        #expect(!third.isReturn)
        #expect(room.table["a"]?.resources.map(\.name) == ["r1", "r3"])
    }

    @Test func `older state does not replace newer`() throws {
        var room = Room()
        let loads = (1...3).map { AgentLoad(cpuPermille: $0, memoryPermille: 0) }
        try room.say("a", 1, [resource("r1")], load: loads[0])
        try room.say("a", 3, [resource("r3")], load: loads[2])
        let late = try room.say("a", 2, [resource("r2")], load: loads[1])
        #expect(late == AgentTable.Change())
        #expect(room.table["a"]?.resources.map(\.name) == ["r3"])
        #expect(room.table["a"]?.load == loads[2])
    }

    @Test func `parts count when all are there, in any order`() throws {
        var room = Room()
        try room.say("a", 1, [resource("old")])
        try room.say("a", 4, [resource("r3")], part: 2, of: 3)
        try room.say("a", 2, [resource("r1")], part: 0, of: 3)
        #expect(room.table["a"]?.resources.map(\.name) == ["old"])
        let last = try room.say("a", 3, [resource("r2")], part: 1, of: 3)
        #expect(last.appeared.map(\.name) == ["r1", "r2", "r3"])
        #expect(last.gone.map(\.name) == ["old"])
    }

    @Test func `parts of two announcements are never mixed`() throws {
        var room = Room()
        try room.say("a", 1, [resource("r1")], part: 0, of: 2)
        try room.say("a", 3, [resource("s1")], part: 0, of: 2)
        try room.say("a", 2, [resource("r2")], part: 1, of: 2)
        #expect(room.table["a"]?.resources.isEmpty == true)
        #expect(room.table["a"]?.isComplete == false)
        #expect(
            try room.say("a", 4, [resource("s2")], part: 1, of: 2).appeared.map(\.name) == [
                "s1", "s2",
            ])
        #expect(throws: AnnouncementRefusal.malformed) {
            try room.say("a", 5, [], part: 0, of: 2)
            try room.say("a", 6, [], part: 1, of: 3)
        }
    }

    @Test func `an announcement that contradicts itself changes nothing`() throws {
        var room = Room()
        try room.say("a", 1, [resource("r1")])
        for wrong in [
            [resource("r2"), resource("r2", target: "iqn.other")],
            [resource("r2"), resource("r3", target: "IQN.2026-01.lab.dsr:r2")],
        ] {
            #expect(throws: AnnouncementRefusal.malformed) { try room.say("a", 2, wrong) }
        }
        #expect(room.table["a"]?.resources.map(\.name) == ["r1"])
    }

    @Test func `an agent that dies leaves its resources`() throws {
        var room = Room()
        try room.say("a", 1, [resource("r1")], at: 1_000)
        try room.say("b", 1, [resource("r2")], at: 2_000)
        #expect(room.silent(at: 4_000).isEmpty)
        #expect(room.silent(at: 4_001) == ["a"])
        #expect(room.silent(at: 4_002).isEmpty)
        #expect(room.table["a"]?.isSilent == true)
        #expect(room.table["a"]?.resources.map(\.name) == ["r1"])
        let back = try room.say("a", 1, [resource("r1")], at: 9_000, boot: 2)
        #expect(back.isReturn)
        #expect(!back.changesResources)
        #expect(room.table["a"]?.isSilent == false)
    }

    @Test func `an agent that ends is silent at once, and what is late does not wake it`() throws {
        var room = Room()
        try room.say("a", 1, [resource("r1")])
        let end = try room.say("a", 3, [], isLeaving: true)
        #expect(end.isLeaving)
        #expect(!end.changesResources)
        #expect(room.table["a"]?.isSilent == true)
        let late = try room.say("a", 2, [resource("r2")])
        #expect(!late.isReturn)
        // It is newer than what was said before, though.
        #expect(late.appeared.map(\.name) == ["r2"])
        #expect(room.table["a"]?.isSilent == true)
        #expect(room.silent(at: 99_000).isEmpty)
    }

    @Test func `servers that are configured no more are forgotten`() throws {
        var room = Room()
        try room.say("a", 1, [])
        try room.say("b", 1, [])
        room.table.keep(only: ["b"])
        #expect(room.table.servers == ["b"])
    }
}

@Suite struct AnnouncedResourcesTests {
    private let policy = AnnouncedResourcePolicy(allow: ["iqn.2026-01.lab.dsr:*"])
    private let order = ["b", "a", "c"]

    private func merged(
        _ table: AgentTable, configured: [Resource] = [], policy: AnnouncedResourcePolicy? = nil,
        assigned: [String: String] = [:]
    ) -> [Resource] {
        AnnouncedResources.merge(
            configured: configured, agents: table, policy: policy ?? self.policy, order: order,
            assigned: assigned)
    }

    private func expected(
        _ name: String, _ servers: [String], _ assigned: String
    ) -> Resource {
        Resource(
            name: name, target: "iqn.2026-01.lab.dsr:\(name)", servers: servers, assigned: assigned)
    }

    @Test func `what is announced and allowed appears, nothing else`() throws {
        var room = Room()
        try room.say(
            "a", 1, [resource("r2"), resource("r1"), resource("x", target: "iqn.2026-01.other:x")])
        #expect(merged(room.table) == [expected("r1", ["a"], "a"), expected("r2", ["a"], "a")])
        #expect(merged(room.table, policy: AnnouncedResourcePolicy()).isEmpty)
        #expect(merged(AgentTable()).isEmpty)
        let others = AnnouncedResourcePolicy(allow: ["*"], servers: ["b"])
        #expect(merged(room.table, policy: others).isEmpty)
    }

    @Test func `what is configured stays as it is`() throws {
        var room = Room()
        try room.say("a", 1, [resource("other", target: "IQN.2026-01.lab.dsr:r1"), resource("r2")])
        let configured = [
            expected("r1", ["c"], "c"),
            Resource(name: "r2", target: "iqn.2026-01.lab.dsr:two", servers: ["c"], assigned: "c"),
        ]
        #expect(merged(room.table, configured: configured) == configured)
        let refused = AnnouncedResources.evaluate(
            configured: configured, agents: room.table, policy: policy
        ).refused
        #expect(refused.map(\.name) == ["r2"])
        #expect(refused.first?.reason.contains("iqn.2026-01.lab.dsr:two") == true)
    }

    @Test func `a resource at several servers`() throws {
        var room = Room()
        try room.say("a", 1, [resource("r1")])
        try room.say("b", 1, [resource("r1", .standby)])
        try room.say("c", 1, [resource("r1")])
        // In the order of the configuration; the first that serves.
        #expect(merged(room.table) == [expected("r1", ["b", "a", "c"], "a")])
        // Where it was, as long as that server serves it.
        #expect(merged(room.table, assigned: ["r1": "c"]).first?.assigned == "c")
        #expect(merged(room.table, assigned: ["r1": "b"]).first?.assigned == "a")
        #expect(merged(room.table, assigned: ["r1": "z"]).first?.assigned == "a")
    }

    @Test func `a name with two targets belongs to the first server's`() throws {
        var room = Room()
        try room.say("a", 1, [resource("d", target: "iqn.2026-01.lab.dsr:one")])
        try room.say("b", 1, [resource("d", target: "iqn.2026-01.lab.dsr:two")])
        #expect(merged(room.table).map(\.target) == ["iqn.2026-01.lab.dsr:two"])
    }

    /// Fig. 3: one controller takes over what the other had.
    @Test func `a failover moves the resource`() throws {
        var room = Room()
        try room.say("a", 1, [resource("r1")], at: 0)
        try room.say("b", 1, [resource("r1", .standby)], at: 0)
        #expect(merged(room.table).first?.assigned == "a")
        // Controller a dies without a word.
        try room.say("b", 2, [resource("r1", .serving)], at: 3_500)
        #expect(merged(room.table, assigned: ["r1": "a"]).first?.assigned == "a")
        #expect(room.silent(at: 3_600) == ["a"])
        #expect(merged(room.table, assigned: ["r1": "a"]).first?.assigned == "b")
        #expect(
            AnnouncedResources.serving(target: "iqn.2026-01.lab.dsr:r1", agents: room.table) == [
                "b"
            ])
        // It comes back and has nothing.
        try room.say("a", 1, [], at: 5_000, boot: 2)
        #expect(merged(room.table, assigned: ["r1": "b"]) == [expected("r1", ["b"], "b")])
    }

    @Test func `an agent that dies takes nothing away`() throws {
        var room = Room()
        try room.say("a", 1, [resource("r1")], at: 0)
        try room.say("b", 1, [resource("r1", .standby)], at: 0)
        let before = merged(room.table)
        #expect(room.silent(at: 10_000) == ["a", "b"])
        #expect(merged(room.table, assigned: ["r1": "a"]) == before)
    }

    @Test(arguments: [
        ("*", "iqn.a:b", true), ("iqn.a:*", "iqn.a:", true), ("iqn.a:*", "iqn.ab", false),
        ("*:b", "iqn.a:b", true), ("*:b", "iqn.a:bc", false), ("iqn.?:b", "iqn.a:b", true),
        ("iqn.?:b", "iqn.:b", false), ("IQN.A:B", "iqn.a:b", true), ("", "iqn.a", false),
        ("iqn*a*b", "iqn.aab.a.b", true), ("iqn*a*b", "iqn.aab.a.c", false),
        (
            String(repeating: "*a", count: 100) + "b", "iqn." + String(repeating: "a", count: 200),
            false
        ),
    ]) func `patterns`(pattern: String, target: String, isAllowed: Bool) {
        let policy = AnnouncedResourcePolicy(allow: [pattern])
        #expect(policy.allows(target: target, at: "a") == isAllowed)
    }
}
