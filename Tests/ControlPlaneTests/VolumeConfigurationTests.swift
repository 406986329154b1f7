import ControlPlane
import Foundation
import Testing

/// All kinds of volumes, beside resources that are in none.
private let example = """
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
      - {name: s1, target: iqn.2026-01.x:s1, servers: [a, b], assigned: a}
      - {name: s2, target: iqn.2026-01.x:s2, servers: [a, b], assigned: b}
      - {name: s3, target: iqn.2026-01.x:s3, servers: [a, b], assigned: b}
      - {name: m1, target: iqn.2026-01.x:m1, servers: [a], assigned: a}
      - {name: m2, target: iqn.2026-01.x:m2, servers: [b], assigned: b}
      - {name: m3, target: iqn.2026-01.x:m3, servers: [a], assigned: a}
      - {name: m4, target: iqn.2026-01.x:m4, servers: [b], assigned: b}
      - {name: c1, target: iqn.2026-01.x:c1, servers: [a, b], assigned: a}
      - {name: r1, target: iqn.2026-01.x:r1, servers: [a, b], assigned: a, unit: 1}
      - {name: r2, target: iqn.2026-01.x:r2, servers: [a, b], assigned: a, serve: any}
    iscsi: {all_units_target: "iqn.2026-01.x:all"}
    credentials:
      - {user: alice, secret: alice-secret-1, resources: [v7, r1]}
    volumes:
      - name: v7
        unit: 7
        kind: stripe
        chunk_kib: 128
        members: [s1, s2, s3]
      - name: v8
        unit: 8
        kind: mirror
        map: /var/lib/dsr/v8.map
        members: [m1, m2]
      - name: v9
        unit: 0
        kind: concatenation
        members: [c1]
      - name: v10
        unit: 16383
        kind: mirror
        map: /var/lib/dsr/v10.map
        members: [m4, m3]

    """

private func parse(_ text: String) throws -> Configuration {
    try Configuration.parse(text: text, file: "x.yaml")
}

/// The example with the first occurrence of a text replaced.
private func changed(_ find: String, _ replacement: String) throws -> String {
    let place = try #require(example.range(of: find), "\(find)")
    return example.replacingCharacters(in: place, with: replacement)
}

private func errors(of text: String) -> [ConfigurationError] {
    do {
        _ = try Configuration.parse(text: text, file: "x.yaml")
        return []
    } catch {
        return error.errors
    }
}

@Suite struct VolumeConfigurationTests {
    @Test func `every kind, every field`() throws {
        let result = try parse(example)
        #expect(
            result.volumes == [
                VolumeDefinition(
                    name: "v7", unit: 7, kind: .stripe, chunkKiB: 128, members: ["s1", "s2", "s3"]),
                VolumeDefinition(
                    name: "v8", unit: 8, kind: .mirror, mapPath: "/var/lib/dsr/v8.map",
                    members: ["m1", "m2"]),
                VolumeDefinition(name: "v9", unit: 0, kind: .concatenation, members: ["c1"]),
                VolumeDefinition(
                    name: "v10", unit: 16_383, kind: .mirror, mapPath: "/var/lib/dsr/v10.map",
                    members: ["m4", "m3"]),
            ])
        #expect(result.volume(ofMember: "s3")?.name == "v7")
        #expect(result.volume(ofMember: "m3")?.name == "v10")
        #expect(result.volume(ofMember: "r1") == nil)
        #expect(result.volume(ofMember: "v7") == nil)
    }

    @Test func `a file without volumes`() throws {
        let start = try #require(example.range(of: "volumes:\n"))
        let text = String(example[..<start.lowerBound]).replacing("[v7, r1]", with: "[r1]")
        #expect(try parse(text).volumes == [])
        #expect(try parse(text + "volumes: []\n").volumes == [])
    }

    @Test(arguments: [
        ("    chunk_kib: 128\n", "", 64), ("chunk_kib: 128", "chunk_kib: 4", 4),
        ("chunk_kib: 128", "chunk_kib: 16384", 16_384),
    ])
    func chunks(find: String, replacement: String, chunk: Int) throws {
        #expect(try parse(changed(find, replacement)).volumes[0].chunkKiB == chunk)
    }

    @Test func `a volume is a unit of the target that has them all`() throws {
        #expect(try parse(changed(", unit: 1}", "}")).resources.allSatisfy { $0.unit == nil })
    }

    @Test func `users of volumes`() throws {
        let result = try parse(example)
        let table = CredentialTable(
            credentials: result.credentials, servers: result.servers, resources: result.resources)
        #expect(table.mayUse(user: "alice", resource: "v7"))
        #expect(table.mayUse(user: "alice", resource: "r1"))
        #expect(!table.mayUse(user: "alice", resource: "v8"))
        #expect(!table.mayUse(user: "alice", resource: "s1"))
    }

    // MARK: Errors

    struct Wrong: Sendable, CustomTestStringConvertible {
        var find: String
        var replacement: String
        var field: String
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
        // Names.
        Wrong("name: v8", "name: v7", "volumes[1].name", "\"v7\" is taken"),
        Wrong("name: v8", "name: s1", "volumes[1].name", "\"s1\" is the name of a resource"),
        Wrong("name: v8", "name: ''", "volumes[1].name", "must be a text that is not empty"),
        Wrong("name: v8\n    unit: 8", "unit: 8", "volumes[1].name", "is missing"),
        // Units.
        Wrong(
            "unit: 8", "unit: 16384", "volumes[1].unit",
            "must be a number from 0 to 16383, not \"16384\""),
        Wrong(
            "unit: 8", "unit: -1", "volumes[1].unit",
            "must be a number from 0 to 16383, not \"-1\""),
        Wrong("unit: 8", "unit: 7", "volumes[1].unit", "7 is taken by v7"),
        Wrong("unit: 8", "unit: 1", "volumes[1].unit", "1 is taken by r1"),
        Wrong("name: v8\n    unit: 8", "name: v8", "volumes[1].unit", "is missing"),
        // Kinds.
        Wrong(
            "name: v8\n    unit: 8\n    kind: mirror", "name: v8\n    unit: 8", "volumes[1].kind",
            "is missing"),
        Wrong(
            "kind: mirror", "kind: miror", "volumes[1].kind",
            "\"miror\" is none of concatenation, stripe, mirror; did you mean mirror?"),
        // Chunks.
        Wrong(
            "map: /var/lib/dsr/v8.map", "chunk_kib: 64\n    map: /var/lib/dsr/v8.map",
            "volumes[1].chunk_kib", "is for a stripe, not for a mirror"),
        Wrong(
            "unit: 0", "chunk_kib: 64\n    unit: 0", "volumes[2].chunk_kib",
            "is for a stripe, not for a concatenation"),
        Wrong(
            "chunk_kib: 128", "chunk_kib: 3", "volumes[0].chunk_kib",
            "must be a number from 4 to 16384, not \"3\""),
        Wrong(
            "chunk_kib: 128", "chunk_kib: 16385", "volumes[0].chunk_kib",
            "must be a number from 4 to 16384, not \"16385\""),
        // Maps.
        Wrong(
            "name: v8\n    unit: 8\n    kind: mirror\n    map: /var/lib/dsr/v8.map",
            "name: v8\n    unit: 8\n    kind: mirror", "volumes[1].map",
            "is missing: a mirror needs a file for its change map"),
        Wrong(
            "chunk_kib: 128", "map: /var/lib/dsr/v7.map", "volumes[0].map",
            "is for a mirror, not for a stripe"),
        Wrong(
            "unit: 0", "map: /var/lib/dsr/v9.map\n    unit: 0", "volumes[2].map",
            "is for a mirror, not for a concatenation"),
        Wrong(
            "/var/lib/dsr/v8.map", "v8.map", "volumes[1].map",
            "must be an absolute path, not \"v8.map\""),
        Wrong(
            "/var/lib/dsr/v8.map", "''", "volumes[1].map", "must be a text that is not empty"),
        Wrong(
            "/var/lib/dsr/v10.map", "/var/lib/dsr/v8.map", "volumes[3].map",
            "/var/lib/dsr/v8.map is taken by v8"),
        // How many members.
        Wrong("[m1, m2]", "[m1]", "volumes[1].members", "a mirror has 2 to 16 members, not 1"),
        Wrong("[s1, s2, s3]", "[s1]", "volumes[0].members", "a stripe has 2 to 16 members, not 1"),
        Wrong("[c1]", "[]", "volumes[2].members", "a concatenation has 1 to 16 members, not 0"),
        Wrong("[c1]", "c1", "volumes[2].members", "must be a list"),
        Wrong(
            "name: v9\n    unit: 0\n    kind: concatenation\n    members: [c1]",
            "name: v9\n    unit: 0\n    kind: concatenation", "volumes[2].members", "is missing"),
        // Which members.
        Wrong("[c1]", "[c9]", "volumes[2].members[0]", "there is no resource c9"),
        Wrong("[c1]", "[v7]", "volumes[2].members[0]", "there is no resource v7"),
        Wrong("[c1]", "[c1, '']", "volumes[2].members[1]", "must be a text that is not empty"),
        Wrong("[c1]", "[c1, c1]", "volumes[2].members[1]", "c1 is given twice"),
        Wrong("[c1]", "[c1, s2]", "volumes[2].members[1]", "s2 is in v7 already"),
        Wrong(
            "[c1]", "[c1, r1]", "volumes[2].members[1]",
            "r1 is unit 1 itself: a member has no unit"),
        Wrong(
            "[c1]", "[c1, r2]", "volumes[2].members[1]",
            "r2 has serve: any: a member is served by one server at a time"),
        // Users, keys, types.
        Wrong(
            "[v7, r1]", "[r1, v77]", "credentials[0].resources[1]",
            "there is no resource or volume v77 of iSCSI"),
        Wrong(
            "chunk_kib: 128", "chunk: 128", "volumes[0].chunk",
            "unknown; known are name, unit, kind, chunk_kib, map, members"),
        Wrong(
            "- name: v7", "- v6\n  - name: v7", "volumes[0]",
            "must be a mapping of name, unit, kind, chunk_kib, map, members"),
    ]

    /// One mistake is told once, and nothing that only follows from it.
    @Test(arguments: wrong) func `an error names its line and field`(wrong: Wrong) throws {
        let found = errors(of: try changed(wrong.find, wrong.replacement))
        #expect(found.map(\.field) == [wrong.field])
        #expect(found.map(\.message) == [wrong.message])
        let place = try #require(example.range(of: wrong.find))
        let line = example[..<place.lowerBound].count { $0 == "\n" } + 1
        #expect(found.map(\.line) == [line])
    }

    @Test func `volumes need the target that they are units of`() throws {
        let found = errors(
            of: try changed("iscsi: {all_units_target: \"iqn.2026-01.x:all\"}\n", ""))
        #expect(
            found.map(\.field)
                == ["resources[8].unit"] + (0..<4).map { "volumes[\($0)].unit" })
        #expect(found.allSatisfy { $0.message == "needs iscsi.all_units_target" })
    }

    @Test func `a list of volumes`() throws {
        let start = try #require(example.range(of: "volumes:\n"))
        let text = String(example[..<start.lowerBound]).replacing("[v7, r1]", with: "[r1]")
        #expect(
            errors(of: text + "volumes: {v7: 1}\n").map(\.description)
                == ["line 24, column 10: volumes: must be a list"])
    }

    @Test(arguments: [16, 17]) func `members at most`(count: Int) throws {
        var resources = ""
        for index in 1..<count {
            let target = "iqn.2026-01.x:x\(index)"
            resources += "  - {name: x\(index), target: \(target), servers: [a], assigned: a}\n"
        }
        let names = (1..<count).map { "x\($0)" }
        let text = try changed("[c1]", "[\((["c1"] + names).joined(separator: ", "))]")
            .replacing("iscsi:", with: resources + "iscsi:")
        let found = errors(of: text)
        #expect(found.map(\.field) == (count == 16 ? [] : ["volumes[2].members"]))
        #expect(found.allSatisfy { $0.message.hasSuffix("members, not 17") })
    }

    // MARK: Reload

    @Test(arguments: [
        ("chunk_kib: 128", "chunk_kib: 64", ["volume v7: changed"]),
        ("[m1, m2]", "[m2, m1]", ["volume v8: changed"]),
        ("unit: 0", "unit: 9", ["volume v9: changed"]),
        ("/var/lib/dsr/v8.map", "/var/lib/dsr/v8", ["volume v8: changed"]),
        ("name: v9", "name: v11", ["volume v9: removed", "volume v11: added"]),
        (
            "  - name: v9\n    unit: 0\n    kind: concatenation\n    members: [c1]\n", "",
            ["volume v9: removed"]
        ),
    ])
    func `changed volumes need a restart`(
        find: String, replacement: String, lines: [String]
    ) throws {
        let plan = ReloadPlan(
            from: try parse(example), to: try parse(changed(find, replacement)))
        #expect(plan.needsRestart == lines)
        #expect(plan.changes == [])
    }

    @Test func `volumes that are the same do not`() throws {
        let old = try parse(example)
        #expect(ReloadPlan(from: old, to: old).isEmpty)
        var new = old
        new.volumes.reverse()
        #expect(ReloadPlan(from: old, to: new).isEmpty)
        // A member is a resource like others.
        let moved = try parse(
            changed("servers: [a, b], assigned: b", "servers: [a, b], assigned: a"))
        let plan = ReloadPlan(from: old, to: moved)
        #expect(plan.needsRestart == [])
        #expect(plan.changes == ["resource s2: assigned to a instead of b"])
    }

    // MARK: Topologies

    private func topology(_ name: String) throws -> Configuration {
        var folder = URL(fileURLWithPath: #filePath)
        for _ in 0..<3 { folder.deleteLastPathComponent() }
        return try Configuration.load(path: folder.path + "/topologies/\(name)/dsr.yaml")
    }

    /// That of fig3-raid has a secret file, which is only there while the lab is up.
    @Test(arguments: ["fig2-san", "fig2-san-chap", "fig2-san-spare", "fig2-volumes"])
    func `configurations of labs are right`(name: String) throws {
        let result = try topology(name)
        #expect(!result.resources.isEmpty)
        #expect(result.volumes.isEmpty == (name != "fig2-volumes"))
    }

    @Test func `the lab with volumes`() throws {
        let result = try topology("fig2-volumes")
        #expect(
            result.volumes == [
                VolumeDefinition(
                    name: "v7", unit: 7, kind: .stripe, chunkKiB: 64, members: ["s1", "s2", "s3"]),
                VolumeDefinition(
                    name: "v8", unit: 8, kind: .mirror,
                    mapPath: "/run/dsr-lab/fig2-volumes/v8.map", members: ["m1", "m2"]),
                VolumeDefinition(name: "v9", unit: 9, kind: .concatenation, members: ["c1", "c2"]),
            ])
        let alone = result.resources.filter { result.volume(ofMember: $0.name) == nil }
        #expect(alone.map(\.name) == ["r1"])
        #expect(alone.map(\.unit) == [1])
    }
}
