import ControlPlane
import DataPlane
import Testing

@Suite struct ResourceTableTests {
    private let resources = [
        Resource(
            name: "a", target: "iqn.2026-01.test:A", servers: ["s1", "s2", "s3"], assigned: "s1"),
        Resource(name: "b", target: "iqn.2026-01.test:b", servers: ["s2"], assigned: "s2"),
    ]

    @Test func `resources by name and by target`() {
        let table = ResourceTable(resources)
        #expect(table.count == 2)
        #expect(table.all.map(\.name) == ["a", "b"])
        #expect(table["a"]?.assigned == "s1")
        #expect(table["c"] == nil)
        #expect(table.resource(target: "IQN.2026-01.TEST:a")?.name == "a")
        #expect(table.resource(target: "iqn.2026-01.test:c") == nil)
        #expect(table.assignedServer(of: "b") == "s2")
        #expect(table.assigned(to: "s2").map(\.name) == ["b"])
        #expect(table.candidates(for: "a") == ["s2", "s3"])
        #expect(table.candidates(for: "c") == [])
        #expect(ResourceTable().count == 0)
    }

    @Test func `an assignment changes the version, a copy keeps its own`() throws {
        var table = ResourceTable(resources)
        let before = table
        try table.assign("a", to: "s2")
        #expect(table.version == 1)
        #expect(table.assignedServer(of: "a") == "s2")
        #expect(table.candidates(for: "a") == ["s1", "s3"])
        #expect(table.assigned(to: "s2").map(\.name) == ["a", "b"])
        #expect(before.version == 0)
        #expect(before.assignedServer(of: "a") == "s1")
        // The same again is no change.
        try table.assign("a", to: "s2")
        #expect(table.version == 1)
    }

    @Test func `assignments that cannot be`() {
        var table = ResourceTable(resources)
        #expect(throws: ResourceTable.AssignmentError.noSuchResource("c")) {
            try table.assign("c", to: "s1")
        }
        #expect(throws: ResourceTable.AssignmentError.notACandidate(resource: "b", server: "s1")) {
            try table.assign("b", to: "s1")
        }
        #expect(table == ResourceTable(resources))
    }

    @Test func `of doubles the first counts`() {
        let same = Resource(name: "a", target: "iqn.x:z", servers: ["s9"], assigned: "s9")
        let sameTarget = Resource(
            name: "z", target: "iqn.2026-01.test:a", servers: ["s9"], assigned: "s9")
        let table = ResourceTable(resources + [same, sameTarget])
        #expect(table == ResourceTable(resources))
    }
}

@Suite struct CredentialTableTests {
    private let alice = Credential(
        login: CHAPCredential(user: "alice", secret: "alice-secret-1"), resources: ["a"])
    private let bob = Credential(login: CHAPCredential(user: "bob", secret: "bob-secret-123"))
    private let own = CHAPCredential(user: "switch", secret: "switch-secret-1")
    private let special = CHAPCredential(user: "special", secret: "special-secret")

    private var table: CredentialTable {
        CredentialTable(
            credentials: [bob, alice],
            servers: [
                Server(name: "s1", addresses: [], credential: own),
                Server(name: "s2", addresses: []),
            ],
            resources: [
                Resource(name: "a", target: "t", servers: ["s1"], assigned: "s1"),
                Resource(
                    name: "b", target: "u", servers: ["s1"], assigned: "s1", credential: special),
            ])
    }

    @Test func `who may use what`() {
        #expect(table.userNames == ["alice", "bob"])
        #expect(table[user: "alice"] == alice)
        #expect(table[user: "Alice"] == nil)
        #expect(table.mayUse(user: "alice", resource: "a"))
        #expect(!table.mayUse(user: "alice", resource: "b"))
        #expect(table.mayUse(user: "bob", resource: "b"))
        #expect(!table.mayUse(user: "eve", resource: "a"))
        #expect(table.mayUse(user: nil, resource: "a"))
        let nothing = Credential(login: own, resources: [])
        #expect(!nothing.allows(resource: "a"))
    }

    @Test func `how the switch logs in`() {
        #expect(table.towards(server: "s1", resource: "a") == own)
        #expect(table.towards(server: "s1", resource: "b") == special)
        #expect(table.towards(server: "s2", resource: "a") == nil)
        #expect(CredentialTable().towards(server: "s1", resource: "a") == nil)
    }

    @Test func `a secret is never in a text`() {
        let mutual = CHAPCredential(
            user: "u", secret: "hidden-secret", mutual: .init(user: "m", secret: "hidden-secret"))
        let texts = [
            "\(mutual)", String(reflecting: mutual), "\(mutual.mutual as Any)",
            String(reflecting: mutual.mutual), "\([mutual])", "\(Credential(login: mutual))",
        ]
        for text in texts { #expect(!text.contains("hidden")) }
    }
}

@Suite struct PortAllocatorTests {
    private let address = IPAddress(v4: 0x0a00_0101)
    private let other = IPAddress(v4: 0x0a00_0102)

    @Test func `each port once, then none`() {
        let allocator = PortAllocator(range: 65_530...65_535, start: 65_533)
        let ports = (0..<6).compactMap { _ in allocator.allocate(address: address, now: 0) }
        #expect(ports == [65_533, 65_534, 65_535, 65_530, 65_531, 65_532])
        #expect(allocator.allocate(address: address, now: .max - 1) == nil)
        #expect(allocator.takenCount == 6)
        // Another address has its own.
        #expect(allocator.allocate(address: other, now: 0) != nil)
        #expect(allocator.takenCount == 7)
    }

    @Test func `a port that was given back rests`() {
        let allocator = PortAllocator(range: 1...2, start: 1)
        #expect(allocator.allocate(address: address, now: 0) == 1)
        #expect(allocator.allocate(address: address, now: 0) == 2)
        allocator.release(address: address, port: 1, now: 100, quarantine: 50)
        #expect(allocator.takenCount == 1)
        #expect(allocator.allocate(address: address, now: 149) == nil)
        #expect(allocator.allocate(address: address, now: 150) == 1)
        allocator.release(address: address, port: 2, now: 200, quarantine: 0)
        #expect(allocator.allocate(address: address, now: 200) == 2)
    }

    @Test func `a port of another address cannot be given back`() {
        let allocator = PortAllocator(range: 1...1, start: 1)
        #expect(allocator.allocate(address: address, now: 0) == 1)
        allocator.release(address: other, port: 1, now: 0, quarantine: 0)
        #expect(allocator.allocate(address: address, now: 1) == nil)
    }

    /// A table of all ports is not copied for each connection: that took a millisecond.
    @Test func `a full table is searched, not copied`() throws {
        let allocator = PortAllocator()
        let clock = ContinuousClock()
        for _ in 0..<39_999 { try #require(allocator.allocate(address: address, now: 0) != nil) }
        let last = try #require(allocator.allocate(address: address, now: 0))
        let time = try clock.measure {
            for _ in 0..<100 {
                allocator.release(address: address, port: last, now: 0, quarantine: 0)
                try #require(allocator.allocate(address: address, now: 1) == last)
            }
        }
        #expect(allocator.allocate(address: address, now: 1) == nil)
        #expect(time < .seconds(2))
    }

    @Test func `the first port is in the range`() {
        for _ in 0..<50 {
            let allocator = PortAllocator(range: 500...510)
            #expect((500...510).contains(allocator.allocate(address: address, now: 0) ?? 0))
        }
    }
}
