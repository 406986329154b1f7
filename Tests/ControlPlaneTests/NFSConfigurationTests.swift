import ControlPlane
import DataPlane
import Foundation
import StorageProtocols
import Testing

/// From line 1: ports and so on; servers from line 7, resources from line 10.
private let example = """
    ports:
      - { name: c, device: c0, side: client }
      - { name: s, device: s0, side: storage }
    cpu:
      client: { device: k0, mac: "02:00:00:00:01:01", addresses: [10.0.0.1/24] }
      storage: { device: k1, mac: "02:00:00:00:02:01", addresses: [10.1.0.1/24] }
    servers:
      - { name: a, addresses: [10.1.0.11], nfs: { port: 2050, mount_port: 635 } }
      - { name: b, addresses: [10.1.0.12] }
    resources:
      - name: r1
        export: /r1/
        path: /srv/one
        handles: shared
        servers: [a, b]
        assigned: a
        index: 9
        access:
          - { clients: [10.0.0.0/24, 10.9.9.9, "fd00::/64"], squash: root }
          - clients: ["*"]
            mode: ro
            squash: all
            anonymous: { uid: 99, gid: 98 }
      - { name: r2, protocol: nfs, export: /homes/r2, servers: [b], assigned: b }
      - { name: disk, target: iqn.2026-01.test:disk, servers: [a], assigned: a }
    nfs:
      port: 2051
      mount_port: 2052
      portmapper: false
      root_export: true
      versions: [3]
      udp: false
      tcp: true
    credentials:
      - { user: alice, secret: alice-secret-1, resources: [disk] }
    services:
      - { name: web, listen: { port: 8080 }, server: a, port: 80 }

    """

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

@Suite struct NFSConfigurationTests {
    @Test func `every field`() throws {
        let result = try Configuration.parse(text: example, file: "x")
        var nfs = Configuration.NFS()
        nfs.port = 2_051
        nfs.mountPort = 2_052
        nfs.hasPortmapper = false
        nfs.hasRootExport = true
        nfs.versions = [.v3]
        nfs.takesUDP = false
        #expect(result.nfs == nfs)
        #expect(result.servers.map(\.nfsPort) == [2_050, 2_049])
        #expect(result.servers.map(\.mountPort) == [635, nil])
        let inside = NFSAccessRule(
            clients: [
                .network(try #require(IPPrefix("10.0.0.0/24"))),
                .network(try #require(IPPrefix("10.9.9.9"))),
                .network(try #require(IPPrefix("fd00::/64"))),
            ], squash: .root)
        let outside = NFSAccessRule(
            clients: [.everybody], mode: .readOnly, squash: .all, anonymousUser: 99,
            anonymousGroup: 98)
        #expect(
            result.resources == [
                Resource(
                    name: "r1",
                    export: NFSExport(
                        directory: "/r1", path: "/srv/one", handles: .shared,
                        access: [inside, outside], index: 9), servers: ["a", "b"],
                    assigned: "a"),
                Resource(
                    name: "r2", export: NFSExport(directory: "/homes/r2"), servers: ["b"],
                    assigned: "b"),
                Resource(
                    name: "disk", target: "iqn.2026-01.test:disk", servers: ["a"], assigned: "a"),
            ])
        #expect(result.resources.map(\.protocol) == [.nfs, .nfs, .iscsi])
        #expect(
            result.resources.map(\.clientName) == ["/r1", "/homes/r2", "iqn.2026-01.test:disk"])
        #expect(result.resources[1].export?.path == "/homes/r2")
        #expect(result.resources[1].export?.handles == .distinct)
    }

    @Test func `an export turns the service on, with defaults`() throws {
        let start = try #require(example.range(of: "nfs:\n  port"))
        let end = try #require(example.range(of: "credentials:"))
        var text = example
        text.removeSubrange(start.lowerBound..<end.lowerBound)
        let nfs = try #require(try Configuration.parse(text: text, file: "x").nfs)
        #expect(nfs.port == 2_049)
        #expect(nfs.mountPort == 20_048)
        #expect(nfs.hasPortmapper)
        #expect(!nfs.hasRootExport)
        #expect(nfs.versions == [.v2, .v3])
        #expect(nfs.takesUDP && nfs.takesTCP)
    }

    @Test func `no export, no section: no service`() throws {
        let head = try #require(example.range(of: "servers:"))
        let text = String(example[..<head.lowerBound])
        let found1 = try Configuration.parse(text: text, file: "x").nfs
        #expect(found1 == nil)
        #expect(
            try Configuration.parse(text: text + "nfs: {}\n", file: "x").nfs == Configuration.NFS())
    }

    @Test func `an export is no target of iSCSI`() throws {
        let result = try Configuration.parse(text: example, file: "x")
        let table = ResourceTable(result.resources)
        #expect(table.count == 3)
        #expect(table.resource(target: "") == nil)
        #expect(table.resource(target: "/r1") == nil)
        #expect(table["r1"]?.export?.directory == "/r1")
        // Of equal exports the first counts.
        let other = Resource(
            name: "r9", export: NFSExport(directory: "/r1"), servers: ["a"], assigned: "a")
        #expect(ResourceTable(result.resources + [other]) == table)
        var copy = table
        let isAdded = copy.add(other)
        #expect(!isAdded)
        #expect(copy == table)
    }

    // MARK: Numbers

    @Test func `a number is a function of the name alone`() {
        let names = (0..<10).map { "export\($0)" }
        let indexes = names.map { NFSExport.index(ofName: $0) }
        #expect(Set(indexes).count == names.count)
        #expect(indexes.allSatisfy { NFSExport.indexes.contains($0) })
        // FNV-1a of 32 bits, its lowest octet.
        for name in names + ["", "a", "homes"] {
            let hash = name.utf8.reduce(UInt32(0x811c_9dc5)) { ($0 ^ UInt32($1)) &* 0x0100_0193 }
            #expect(NFSExport.index(ofName: name) == Int(hash & 0xff))
        }
        let resource = Resource(
            name: "x", export: NFSExport(directory: "/x", index: 3), servers: ["a"], assigned: "a")
        #expect(resource.handleIndex == 3)
        #expect(
            Resource(name: "x", target: "t", servers: ["a"], assigned: "a").handleIndex == nil)
    }

    @Test func `two with one number have to be told apart`() throws {
        let index = NFSExport.index(ofName: "r2")
        let found = errors(of: try changed("index: 9", "index: \(index)"))
        #expect(found.map(\.field) == ["resources[1].index"])
        #expect(found.first?.message.contains("that of r1 too") == true)
        #expect(found.first?.message.contains("as index: 0") == true)
        #expect(found.first?.line == 24)
    }

    // MARK: Errors

    struct Wrong: Sendable, CustomTestStringConvertible {
        var find: String
        var replacement: String
        var field: String
        var message: String
        var line: Int?
        var testDescription: String { "\(field): \(message)" }
        init(
            _ find: String, _ replacement: String, _ field: String, _ message: String,
            line: Int? = nil
        ) {
            self.find = find
            self.replacement = replacement
            self.field = field
            self.message = message
            self.line = line
        }
    }

    static let wrong = [
        // Paths.
        Wrong("export: /r1/", "export: r1", "resources[0].export", "absolute path, not \"r1\""),
        Wrong("path: /srv/one", "path: srv", "resources[0].path", "absolute path", line: 13),
        Wrong("export: /r1/", "export: /a//b", "resources[0].export", "\"\" as a name", line: 12),
        Wrong("export: /r1/", "export: /a/./b", "resources[0].export", "\".\" as a name"),
        Wrong("export: /r1/", "export: /../b", "resources[0].export", "\"..\" as a name"),
        Wrong(
            "export: /r1/", "export: /" + String(repeating: "a/", count: 512) + "b",
            "resources[0].export", "1026 octets"),
        Wrong(
            "export: /r1/", "export: /" + String(repeating: "a", count: 256),
            "resources[0].export", "name of more than 255"),
        Wrong("export: /r1/", "export: ''", "resources[0].export", "text that is not empty"),
        // One in another.
        Wrong("/homes/r2", "/r1", "resources[1].export", "\"/r1\" is taken by r1", line: 24),
        Wrong("/homes/r2", "/r1/x", "resources[1].export", "lies in \"/r1\" of r1"),
        Wrong("/r1/", "/homes", "resources[1].export", "lies in \"/homes\" of r1"),
        Wrong("/r1/", "/homes/r2/x", "resources[1].export", "has \"/homes/r2/x\" of r1 in it"),
        Wrong("/r1/", "/", "resources[0].export", "taken by nfs.root_export"),
        // Keys of the other protocol, and missing ones.
        Wrong("index: 9", "unit: 9", "resources[0].unit", "is for iscsi, not for nfs", line: 17),
        Wrong("index: 9", "serve: any", "resources[0].serve", "is for iscsi"),
        Wrong("index: 9", "target: x", "resources[0].target", "is for iscsi"),
        Wrong(
            "target: iqn.2026-01.test:disk", "target: x, path: /y", "resources[2].path",
            "is for nfs, not for iscsi"),
        Wrong("protocol: nfs", "protocol: iscsi", "resources[1].export", "is for nfs"),
        Wrong("protocol: nfs", "protocol: iscsi", "resources[1].target", "is missing"),
        Wrong("export: /homes/r2, ", "", "resources[1].export", "is missing"),
        Wrong("protocol: nfs", "protocol: smb", "resources[1].protocol", "none of iscsi, nfs"),
        Wrong("target: iqn.2026-01.test:disk, ", "", "resources[2].target", "is missing"),
        // Values.
        Wrong(
            "handles: shared", "handles: same", "resources[0].handles", "none of shared, distinct"),
        Wrong("index: 9", "index: 256", "resources[0].index", "number from 0 to 255"),
        Wrong("mode: ro", "mode: no", "resources[0].access[1].mode", "none of rw, ro, none"),
        Wrong("squash: all", "squash: yes", "resources[0].access[1].squash", "none, root, all"),
        Wrong("uid: 99", "uid: -1", "resources[0].access[1].anonymous.uid", "from 0 to 4294967295"),
        Wrong("10.9.9.9", "10.9.9.x", "resources[0].access[0].clients[1]", "is not an address"),
        Wrong("[\"*\"]", "[]", "resources[0].access[1].clients", "must name a client"),
        Wrong("clients: [\"*\"]", "client: [\"*\"]", "resources[0].access[1].client", "clients?"),
        // The section.
        Wrong("versions: [3]", "versions: [4]", "nfs.versions[0]", "number from 2 to 3"),
        Wrong("versions: [3]", "versions: [3, 3]", "nfs.versions[1]", "given twice"),
        Wrong("versions: [3]", "versions: []", "nfs.versions", "must name a version"),
        Wrong("tcp: true", "tcp: false", "nfs", "udp and tcp are both false"),
        Wrong("mount_port: 2052", "mount_port: 2051", "nfs.mount_port", "taken by nfs.port"),
        Wrong("port: 2051", "port: 3260", "nfs.port", "3260 is taken by iscsi"),
        Wrong("port: 2051", "port: 8080", "nfs.port", "8080 is taken by web"),
        Wrong("root_export: true", "root_exports: true", "nfs.root_exports", "root_export?"),
        Wrong("root_export: true", "root_export: 1", "nfs.root_export", "must be true or false"),
        Wrong("mount_port: 635", "mount_port: 0", "servers[0].nfs.mount_port", "1 to 65535"),
        // Who uses exports as something else.
        Wrong("resources: [disk]", "resources: [r1]", "credentials[0].resources[0]", "of iSCSI"),
    ]

    @Test(arguments: wrong)
    func `an error names line, field and what is right`(wrong: Wrong) throws {
        let found = errors(of: try changed(wrong.find, wrong.replacement))
        let error = try #require(
            found.first { $0.field == wrong.field && $0.message.contains(wrong.message) },
            "\(found)")
        if let line = wrong.line { #expect(error.line == line) }
    }

    @Test func `a portmapper needs its port`() throws {
        let text = try changed("portmapper: false", "portmapper: true")
            .replacing("8080", with: "111").replacing("port: 2051", with: "port: 111")
        let found = errors(of: text).map(\.field)
        #expect(found.contains("nfs.portmapper"))
        #expect(found.contains("nfs.port"))
    }

    @Test func `a volume has no exports in it`() throws {
        let text =
            example + """
                iscsi: { all_units_target: "iqn.2026-01.test:all" }
                volumes:
                  - { name: v, unit: 1, kind: concatenation, members: [r1] }

                """
        let found = errors(of: text)
        #expect(found.map(\.field) == ["volumes[0].members[0]"])
        #expect(found.first?.message.contains("is an NFS export") == true)
    }

    // MARK: Reading it again

    private func plan(_ find: String, _ replacement: String) throws -> ReloadPlan {
        ReloadPlan(
            from: try Configuration.parse(text: example, file: "old"),
            to: try Configuration.parse(text: try changed(find, replacement), file: "new"))
    }

    @Test(arguments: [
        ("port: 2051", "port: 2061", "nfs.port: 2051 to 2061"),
        ("mount_port: 2052", "mount_port: 2062", "nfs.mount_port: 2052 to 2062"),
        ("portmapper: false", "portmapper: true", "nfs.portmapper: false to true"),
        ("udp: false", "udp: true", "nfs.udp: false to true"),
    ])
    func `these need a restart`(old: String, new: String, line: String) throws {
        let plan = try plan(old, new)
        #expect(plan.needsRestart == [line])
        #expect(plan.changes == [])
    }

    @Test(arguments: [
        ("root_export: true", "root_export: false", "nfs.root_export: true to false"),
        ("versions: [3]", "versions: [2, 3]", "nfs.versions: 3 to 2, 3"),
        ("/homes/r2", "/homes/r3", "resource r2: changed"),
        ("mode: ro", "mode: rw", "resource r1: changed"),
        ("mount_port: 635", "mount_port: 636", "server a: changed"),
    ])
    func `these are changed live`(old: String, new: String, line: String) throws {
        let plan = try plan(old, new)
        #expect(plan.needsRestart == [])
        #expect(plan.changes == [line])
    }

    @Test func `the service begins and ends with a restart`() throws {
        let head = try #require(example.range(of: "servers:"))
        let without = try Configuration.parse(
            text: String(example[..<head.lowerBound]), file: "old")
        let with = try Configuration.parse(
            text: String(example[..<head.lowerBound]) + "nfs: {}\n", file: "new")
        #expect(ReloadPlan(from: without, to: with).needsRestart == ["nfs: added"])
        #expect(ReloadPlan(from: with, to: without).needsRestart == ["nfs: removed"])
    }
}
