import ControlPlane
import Testing

private let second = ManagerBench.second

/// Operations of people, announcements, spares, balancing.
@Suite struct ManagerOperationTests {
    @Test func `move: confirmed, then orderly`() throws {
        var bench = ManagerBench.figure7()
        try bench.perform(.move(resource: "r1", to: "server2"))
        #expect(bench.server(of: "r1") == "server1")
        bench.confirmAll()
        #expect(bench.server(of: "r1") == "server2")
        #expect(bench.sessionMoves == ["r1 server1 server2 orderly"])
        #expect(throws: ManagementRefusal.changeInProgress(resource: "r1")) {
            try bench.perform(.move(resource: "r1", to: "server3"))
        }
        bench.moveAllSessions()
        try bench.perform(.move(resource: "r1", to: "server3"))
    }

    @Test func `a move that is not confirmed changes nothing and is not repeated`() throws {
        var bench = ManagerBench.figure7()
        try bench.perform(.move(resource: "r1", to: "server2"))
        bench.confirmAll(refusing: ["server2"])
        #expect(bench.manager.table.version == 0 && !bench.manager.isChanging("r1"))
        bench.clear()
        bench.wait(100 * second)
        #expect(bench.actions == [])
    }

    @Test func `orderly becomes dead when the old server fails`() throws {
        var bench = ManagerBench.figure7()
        try bench.perform(.move(resource: "r1", to: "server2"))
        bench.confirmAll()
        bench.clear()
        bench.probe("server1", .refused)
        #expect(bench.sessionMoves == ["r1 server1 server2 dead"])
    }

    @Test func `sessions that never report are given up`() throws {
        var bench = ManagerBench.figure7()
        try bench.perform(.move(resource: "r1", to: "server2"))
        bench.confirmAll()
        bench.wait(61 * second)
        #expect(!bench.manager.isChanging("r1"))
        #expect(
            bench.events.contains(
                .sessionsAbandoned(ChangeID(1), resource: "r1", why: "not done in time")))
    }

    @Test func `operations that cannot be`() throws {
        var bench = ManagerBench.figure7()
        // What fails over to server1 and server2 counts as theirs.
        bench.probe("server3", .refused)
        let refusals: [(ManagementOperation, ManagementRefusal)] = [
            (.move(resource: "r9", to: "server1"), .unknownResource("r9")),
            (.move(resource: "r1", to: "server9"), .unknownServer("server9")),
            (
                .move(resource: "r1", to: "server1"),
                .alreadyThere(resource: "r1", server: "server1")
            ),
            (
                .move(resource: "r1", to: "server3"),
                .serverNotUsable("server3", why: "it is down")
            ),
            (.drain(server: "x"), .unknownServer("x")),
            (.undrain(server: "server1"), .notDraining("server1")),
            (.addServer(ManagedServer(name: "server1"), resources: []), .serverExists("server1")),
            (.addServer(ManagedServer(name: "s4"), resources: ["r9"]), .unknownResource("r9")),
            (.removeServer("x", force: true), .unknownServer("x")),
            (
                .removeServer("server1", force: false),
                .stillServes("server1", resources: ["r1", "r2", "r6"])
            ),
        ]
        for (operation, refusal) in refusals {
            #expect(throws: refusal) { try bench.perform(operation) }
            #expect(refusal.description.count > 10)
        }
        try bench.perform(.drain(server: "server2"))
        #expect(throws: ManagementRefusal.alreadyDraining("server2")) {
            try bench.perform(.drain(server: "server2"))
        }
    }

    @Test func `drain empties a server, undrain makes it usable`() throws {
        var bench = ManagerBench.figure7()
        bench.now = 7 * second
        try bench.perform(.drain(server: "server1"))
        #expect(throws: ManagementRefusal.self) {
            try bench.perform(.move(resource: "r3", to: "server1"))
        }
        bench.confirmAll()
        #expect(bench.sessionMoves.allSatisfy { $0.hasSuffix("orderly") })
        bench.now += second
        bench.moveAllSessions()
        #expect(bench.events.contains(.drainFinished("server1", duration: second)))
        #expect(bench.manager.table.assigned(to: "server1").isEmpty)
        try bench.perform(.undrain(server: "server1"))
        try bench.perform(.move(resource: "r3", to: "server1"))
    }

    @Test func `undrain before the commit leaves everything where it is`() throws {
        var bench = ManagerBench.figure7()
        try bench.perform(.drain(server: "server1"))
        try bench.perform(.undrain(server: "server1"))
        bench.confirmAll()
        #expect(bench.manager.table.version == 0 && !bench.manager.isChanging("r1"))
    }

    @Test func `the failure of a server that is drained is a failover`() throws {
        var bench = ManagerBench.figure7()
        try bench.perform(.drain(server: "server1"))
        bench.probe("server1", .refused)
        bench.complete()
        #expect(bench.manager.table.assigned(to: "server1").isEmpty)
        #expect(bench.sessionMoves.allSatisfy { $0.hasSuffix("dead") })
    }

    @Test func `a new server takes resources, a removed one is never named again`() throws {
        var bench = ManagerBench.figure7()
        try bench.perform(.addServer(ManagedServer(name: "server4"), resources: ["r1"]))
        #expect(throws: ManagementRefusal.self) {
            try bench.perform(.move(resource: "r1", to: "server4"))
        }
        bench.probe("server4", .good)
        try bench.perform(.move(resource: "r1", to: "server4"))
        #expect(throws: ManagementRefusal.stillServes("server4", resources: ["r1"])) {
            try bench.perform(.removeServer("server4", force: false))
        }
        bench.complete()
        #expect(bench.server(of: "r1") == "server4")
        try bench.perform(.removeServer("server4", force: true))
        #expect(bench.manager.serverNames.contains("server4"))
        bench.complete()
        #expect(bench.events.contains(.serverRemoved("server4")))
        #expect(!bench.manager.serverNames.contains("server4"))
        #expect(bench.manager.table["r1"]?.servers.contains("server4") == false)
        bench.clear()
        bench.probe("server4", .good)
        #expect(bench.actions == [])
    }

    @Test func `the only holder cannot be removed`() {
        let resource = Resource(name: "a", target: "iqn.a:a", servers: ["s1"], assigned: "s1")
        var bench = ManagerBench([ManagedServer(name: "s1")], [resource])
        #expect(throws: ManagementRefusal.onlyHolder("s1", resources: ["a"])) {
            try bench.perform(.removeServer("s1", force: true))
        }
    }

    @Test func `a spare stands in and gives back`() {
        let servers = [
            ManagedServer(name: "server1"), ManagedServer(name: "server2"),
            ManagedServer(name: "server3"), ManagedServer(name: "spare", isSpare: true),
        ]
        var bench = ManagerBench.figure7(servers: servers)
        bench.probe("server1", .refused)
        bench.complete()
        #expect(bench.manager.table.assigned(to: "spare").map(\.name) == ["r1", "r2"])
        bench.clear()
        bench.revive("server1")
        bench.confirmAll()
        #expect(bench.sessionMoves == ["r1 spare server1 orderly", "r2 spare server1 orderly"])
        bench.moveAllSessions()
        bench.clear()
        bench.wait(600 * second)
        #expect(bench.actions == [])
        #expect(bench.manager.table.assigned(to: "spare").isEmpty)
    }
}

@Suite struct ManagerSpareTests {
    private static func bench() -> ManagerBench {
        .figure7(
            servers: [
                ManagedServer(name: "server1"), ManagedServer(name: "server2"),
                ManagedServer(name: "server3"), ManagedServer(name: "spare", isSpare: true),
            ])
    }

    @Test func `a spare that fails as well gives nothing back, its failover goes on`() {
        var bench = Self.bench()
        bench.probe("server1", .refused)
        bench.complete()
        bench.probe("spare", .refused)
        bench.confirmAll(refusing: ["server2", "server3"])
        bench.clear()
        bench.revive("server1")
        for _ in 0..<10 {
            bench.confirmAll(refusing: ["server1", "server2", "server3"])
            bench.wait(10 * second)
        }
        for case .changePlanned(_, let reason, _) in bench.events {
            #expect(reason == .failover(of: "spare"))
        }
        // Six attempts at most in 100 s, with pauses of 1, 2, 4, 8, 16 and 30 s.
        #expect(bench.confirmations.count <= 2 * 3 * 7)
        bench.wait(30 * second)
        bench.complete()
        #expect(bench.manager.table.assigned(to: "spare").isEmpty)
    }

    @Test func `a give back that is not confirmed is tried again with pauses`() {
        var bench = Self.bench()
        bench.probe("server1", .refused)
        bench.complete()
        bench.revive("server1")
        bench.clear()
        for _ in 0..<60 {
            bench.input(.tick)
            bench.confirmAll(refusing: ["server1"])
            bench.clear()
            bench.wait(second)
        }
        #expect(bench.manager.table.assigned(to: "spare").count == 2)
        while bench.confirmations.isEmpty, bench.now < 200 * second { bench.wait(second) }
        bench.complete()
        #expect(bench.manager.table.assigned(to: "server1").count == 2)
    }
}

@Suite struct ManagerAnnouncementTests {
    @Test func `a resource that left one server and entered another follows`() {
        var bench = ManagerBench.figure7()
        bench.input(.announced(server: "server2", .init(appeared: ["r1"])))
        #expect(bench.confirmations.isEmpty)
        bench.input(.announced(server: "server1", .init(gone: ["r1"])))
        #expect(bench.confirmations.map(\.server) == ["server2"])
        bench.complete()
        #expect(bench.sessionMoves == ["r1 server1 server2 dead"])
    }

    @Test func `as long as the old server serves it, in order`() {
        var bench = ManagerBench.figure7()
        bench.input(.announced(server: "server1", .init(leaving: ["r1"])))
        bench.wait(100 * second)
        #expect(bench.confirmations.isEmpty)
        bench.input(.announced(server: "server3", .init(appeared: ["r1"])))
        bench.complete()
        #expect(bench.sessionMoves == ["r1 server1 server3 orderly"])
    }

    @Test func `without an announcement of a new place others are asked after a while`() {
        var bench = ManagerBench.figure7()
        bench.input(.announced(server: "server1", .init(gone: ["r1"])))
        #expect(bench.confirmations.isEmpty)
        bench.wait(2 * second)
        bench.confirmAll(refusing: ["server3"])
        #expect(bench.server(of: "r1") == "server2")
    }

    @Test func `two servers announce one resource: the present owner keeps it`() {
        var bench = ManagerBench.figure7()
        bench.input(.announced(server: "server1", .init(appeared: ["r1"])))
        bench.input(.announced(server: "server2", .init(appeared: ["r1"])))
        bench.wait(10 * second)
        #expect(bench.confirmations.isEmpty)
        #expect(
            bench.events.contains(
                .announcementIgnored(
                    server: "server2", resource: "r1", why: "it stays on server server1")))
    }

    @Test func `what is not configured is not invented`() {
        var bench = ManagerBench.figure7()
        bench.input(.announced(server: "server1", .init(appeared: ["r9"], gone: ["r8"])))
        bench.input(.announced(server: "server9", .init(appeared: ["r1"])))
        #expect(bench.manager.table.count == 6 && bench.confirmations.isEmpty)
        #expect(bench.events.count == 3)
    }

    @Test func `a resource that is gone from a server is not moved there`() throws {
        var bench = ManagerBench.figure7()
        bench.input(.announced(server: "server3", .init(gone: ["r1"])))
        #expect(throws: ManagementRefusal.notHeld(resource: "r1", server: "server3")) {
            try bench.perform(.move(resource: "r1", to: "server3"))
        }
        bench.probe("server1", .refused)
        #expect(!bench.confirmations.contains { $0.resource == "r1" && $0.server == "server3" })
        bench.input(.announced(server: "server3", .init(appeared: ["r1"])))
        bench.complete()
        try bench.perform(.move(resource: "r1", to: "server3"))
    }

    /// A daemon that was started anew and listens before it has its targets; nobody announces anything.
    @Test func `what a check misses goes elsewhere, and may come back when a check finds it`()
        throws
    {
        var bench = ManagerBench.figure7()
        bench.input(.checked(resource: "r1", server: "server1", isThere: false))
        #expect(bench.manager.isMissing("r1", at: "server1"))
        bench.wait(2 * second)
        bench.complete()
        #expect(bench.server(of: "r1") != "server1")
        #expect(throws: ManagementRefusal.notHeld(resource: "r1", server: "server1")) {
            try bench.perform(.move(resource: "r1", to: "server1"))
        }
        bench.input(.checked(resource: "r1", server: "server1", isThere: true))
        #expect(!bench.manager.isMissing("r1", at: "server1"))
        try bench.perform(.move(resource: "r1", to: "server1"))
        bench.complete()
        #expect(bench.server(of: "r1") == "server1")
    }

    /// It may be there still when its server has announced that it is going.
    @Test func `a check does not take back what an agent has said`() {
        var bench = ManagerBench.figure7()
        bench.input(.announced(server: "server1", .init(gone: ["r1"])))
        bench.input(.checked(resource: "r1", server: "server1", isThere: true))
        #expect(!bench.manager.isMissing("r1", at: "server1"))
        #expect(throws: ManagementRefusal.notHeld(resource: "r1", server: "server1")) {
            try bench.perform(.move(resource: "r1", to: "server1"))
        }
        bench.wait(2 * second)
        bench.complete()
        #expect(bench.server(of: "r1") != "server1")
    }
}

@Suite struct ManagerBalanceTests {
    @Test func `figure 8: two moves, applied as one change, and then rest`() throws {
        let names = ["server1", "server2", "server3"]
        let resources = (1...6).map { number in
            Resource(
                name: "r\(number)", target: "iqn.2026-01.test:r\(number)", servers: names,
                assigned: "server\((number + 1) / 2)")
        }
        var bench = ManagerBench(names.map { ManagedServer(name: $0) }, resources)
        let loads = ["r1": 100.0, "r2": 100, "r3": 150, "r4": 200, "r5": 300, "r6": 400]
        bench.input(.loads(loads, own: [:]))
        try bench.perform(.setAutomaticBalance(true))
        bench.wait(10 * second)
        bench.confirmAll()
        #expect(bench.commits == [["r4 server1", "r5 server2"]])
        bench.moveAllSessions()
        bench.clear()
        bench.wait(600 * second)
        #expect(bench.actions == [])
    }

    private static let move = PlannedMove(resource: "r1", from: "server1", to: "server2")

    /// Wants to move what is on server1 to server2, as long as that is allowed.
    private static func bench() throws -> ManagerBench {
        var functions = PlacementFunctions.standard()
        functions.balance = { input, _ in
            let moves = input.resources.filter { $0.assigned == "server1" && $0.isMovable }
                .prefix(1).map { PlannedMove(resource: $0.name, from: "server1", to: "server2") }
            return BalanceProposal(moves: moves, why: "test")
        }
        var bench = ManagerBench.figure7(placement: functions)
        try bench.perform(.setAutomaticBalance(true))
        return bench
    }

    @Test func `checks at its interval and moves in order`() throws {
        var bench = try Self.bench()
        bench.wait(9 * second)
        #expect(bench.confirmations.isEmpty)
        bench.wait(second)
        bench.complete()
        #expect(bench.sessionMoves == ["r1 server1 server2 orderly"])
        #expect(bench.events.contains(.balancePlanned(ChangeID(1), why: "test")))
        try bench.perform(.setAutomaticBalance(false))
        bench.clear()
        bench.wait(100 * second)
        #expect(bench.actions == [] && bench.manager.nextDeadline == nil)
    }

    @Test func `a resource that has moved rests`() throws {
        var bench = ManagerBench.figure7(
            placement: {
                var functions = PlacementFunctions.standard()
                functions.balance = { input, _ in
                    let moves = input.resources.filter { $0.name == "r1" && $0.isMovable }.map {
                        let to = $0.assigned == "server1" ? "server2" : "server1"
                        return PlannedMove(resource: "r1", from: $0.assigned, to: to)
                    }
                    return BalanceProposal(moves: moves, why: "test")
                }
                return functions
            }())
        try bench.perform(.setAutomaticBalance(true))
        var commits = 0
        for _ in 0..<30 {
            bench.clear()
            bench.wait(10 * second)
            bench.complete()
            commits += bench.commits.count
        }
        // In 300 s, at the checks at 10, 70, 130, 190 and 250 s.
        #expect(commits == 5)
    }

    @Test func `not while a server is down with resources, and says why once`() throws {
        var bench = try Self.bench()
        for name in ["server1", "server2", "server3"] { bench.probe(name, .refused) }
        bench.clear()
        bench.wait(100 * second)
        let why = "server server1 still has resources and is down"
        #expect(bench.actions == [.event(.balanceSkipped(why: why))])
    }

    @Test func `a plan is carried out whole or not at all`() throws {
        var bench = ManagerBench.figure7()
        let moves = [Self.move, PlannedMove(resource: "r2", from: "server1", to: "server3")]
        try bench.perform(.applyBalance(moves))
        bench.confirmAll(refusing: ["server3"])
        #expect(bench.manager.table.version == 0 && !bench.manager.isChanging("r1"))
        try bench.perform(.applyBalance(moves))
        bench.clear()
        #expect(throws: ManagementRefusal.stalePlan("a change is under way")) {
            try bench.perform(.applyBalance(moves))
        }
    }

    @Test func `a plan made for another state is refused`() throws {
        var bench = ManagerBench.figure7()
        let stale = PlannedMove(resource: "r3", from: "server1", to: "server3")
        #expect(throws: ManagementRefusal.self) {
            try bench.perform(.applyBalance([Self.move, stale]))
        }
        #expect(bench.confirmations.isEmpty)
    }
}
