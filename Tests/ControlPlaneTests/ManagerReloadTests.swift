import ControlPlane
import Testing

private let second: UInt64 = 1_000_000_000
private let names = ["server1", "server2", "server3"]

/// The configuration is read again: the new manager goes on where the old one was.
@Suite struct `Manager after a reload` {
    /// A manager of the same servers and resources, with what the old one knew.
    private func reload(
        _ bench: inout ManagerBench, servers: [ManagedServer]? = nil,
        unchanged: Set<String> = Set(names), table: ResourceTable? = nil,
        settings: ManagementSettings = .init()
    ) {
        var manager = ResourceManager(
            servers: servers ?? names.map { ManagedServer(name: $0) },
            table: table ?? bench.manager.table, settings: settings)
        manager.inherit(from: bench.manager, unchanged: unchanged)
        bench.manager = manager
        bench.clear()
        bench.input(.tick)
    }

    @Test func `a drained server stays drained until it is undrained`() throws {
        var bench = ManagerBench.figure7()
        try bench.perform(.drain(server: "server1"))
        bench.complete()
        reload(&bench)
        #expect(bench.manager.isDraining("server1"))
        #expect(throws: ManagementRefusal.self) {
            try bench.perform(.move(resource: "r1", to: "server1"))
        }
        // Not even a failure brings anything there.
        bench.probe("server2", .refused)
        bench.complete()
        #expect(bench.manager.table.assigned(to: "server1").isEmpty)
        #expect(bench.manager.table.assigned(to: "server3").count == 6)
        try bench.perform(.undrain(server: "server1"))
        try bench.perform(.move(resource: "r1", to: "server1"))
    }

    @Test func `a drain that has just begun goes on to its end`() throws {
        var bench = ManagerBench.figure7()
        bench.now = 5 * second
        try bench.perform(.drain(server: "server1"))
        let asked = bench.confirmations
        #expect(!asked.isEmpty)
        reload(&bench)
        #expect(!bench.confirmations.isEmpty)
        // Answers to the old questions decide nothing.
        let old = Set(asked.map(\.id))
        #expect(bench.confirmations.allSatisfy { !old.contains($0.id) })
        let version = bench.manager.table.version
        for (id, resource, server) in asked {
            bench.input(.confirmed(id, resource: resource, server: server, isGood: true))
        }
        #expect(bench.manager.table.version == version)
        bench.confirmAll()
        bench.now += second
        bench.moveAllSessions()
        #expect(bench.manager.table.assigned(to: "server1").isEmpty)
        #expect(bench.events.contains(.drainFinished("server1", duration: second)))
    }

    @Test func `a drained server stays so at another address, but its history is gone`() throws {
        var bench = ManagerBench.figure7()
        try bench.perform(.drain(server: "server1"))
        bench.complete()
        reload(&bench, unchanged: ["server2", "server3"])
        #expect(bench.manager.isDraining("server1"))
        #expect(bench.manager.state(of: "server1") == .unknown)
        #expect(bench.manager.state(of: "server2") == .up)
    }

    @Test func `a server that is down stays down until good probes`() throws {
        var bench = ManagerBench.figure7()
        bench.probe("server1", .refused)
        bench.complete()
        reload(&bench)
        #expect(bench.manager.state(of: "server1") == .down)
        // One is not enough for a server that was down.
        bench.probe("server1", .good)
        #expect(bench.manager.state(of: "server1") == .down)
        bench.probe("server1", .good)
        #expect(bench.manager.state(of: "server1") == .up)
        #expect(!bench.events.contains { if case .serverDown = $0 { true } else { false } })
    }

    @Test func `a failover that was not confirmed yet is planned again`() {
        var bench = ManagerBench.figure7()
        bench.probe("server1", .refused)
        #expect(bench.manager.table.assigned(to: "server1").count == 2)
        reload(&bench)
        bench.complete()
        #expect(bench.manager.table.assigned(to: "server1").isEmpty)
        #expect(bench.sessionMoves.allSatisfy { $0.hasSuffix("dead") })
    }

    @Test func `one bad probe does not take down a server that was up`() {
        var bench = ManagerBench.figure7()
        reload(&bench)
        bench.probe("server1", .timedOut)
        #expect(bench.manager.state(of: "server1") == .up)
        bench.probe("server1", .timedOut)
        #expect(bench.manager.state(of: "server1") == .down)
        var settings = ManagementSettings()
        settings.monitor.fall = 1
        bench = ManagerBench.figure7()
        reload(&bench, settings: settings)
        bench.probe("server1", .timedOut)
        #expect(bench.manager.state(of: "server1") == .down)
    }

    @Test func `a suspect is asked again, since its probe may be lost`() {
        var bench = ManagerBench.figure7()
        bench.now = second
        bench.input(.evidence(.soft(.sessionReset), server: "server1"))
        #expect(bench.manager.state(of: "server1") == .suspect)
        bench.now += second / 10
        reload(&bench)
        let probes = bench.actions.compactMap { action -> String? in
            if case .probeNow(let server, _) = action { server } else { nil }
        }
        #expect(probes == ["server1"])
        bench.probe("server1", .good)
        #expect(bench.manager.state(of: "server1") == .up)
    }

    @Test func `a server that flaps is not trusted after a reload either`() {
        var bench = ManagerBench.figure7()
        for _ in 0..<3 {
            bench.now += second
            bench.probe("server1", .refused)
            bench.complete()
            bench.clear()
            bench.revive("server1")
        }
        #expect(!bench.manager.placementInput().servers[0].isAvailable)
        reload(&bench)
        #expect(bench.manager.state(of: "server1") == .up)
        #expect(!bench.manager.placementInput().servers[0].isAvailable)
        bench.wait(600 * second)
        #expect(bench.manager.placementInput().servers[0].isAvailable)
    }

    @Test func `a fence that runs counts for the new manager`() {
        let servers = names.map { ManagedServer(name: $0, canBeFenced: true) }
        var bench = ManagerBench.figure7(servers: servers)
        for _ in 0..<2 { bench.probe("server1", .timedOut) }
        let fences = bench.fences
        #expect(fences.map(\.server) == ["server1"])
        reload(&bench, servers: servers)
        #expect(bench.fences.isEmpty)
        bench.confirmAll()
        #expect(bench.commits.isEmpty)
        bench.input(.fenced(fences[0].id, server: "server1", isGood: true))
        #expect(bench.commits.count == 1)
    }

    @Test func `sessions on their way are sent again`() {
        var bench = ManagerBench.figure7()
        bench.probe("server1", .refused)
        bench.confirmAll()
        let sent = Set(bench.sessionMoves)
        #expect(sent.count == 2)
        reload(&bench)
        #expect(Set(bench.sessionMoves) == sent)
        bench.moveAllSessions()
        #expect(!bench.manager.isChanging("r1"))
    }

    @Test func `resources still go back from a spare, unless the file has put them there`() {
        let servers =
            names.map { ManagedServer(name: $0) } + [ManagedServer(name: "spare", isSpare: true)]
        for isPutThere in [false, true] {
            var bench = ManagerBench.figure7(servers: servers)
            bench.probe("server1", .refused)
            bench.complete()
            #expect(bench.server(of: "r1") == "spare")
            var table = bench.manager.table
            if isPutThere { try? table.assign("r1", to: "server2") }
            reload(
                &bench, servers: servers, unchanged: Set(servers.map(\.name)), table: table)
            bench.revive("server1")
            bench.complete()
            #expect(bench.server(of: "r1") == (isPutThere ? "server2" : "server1"))
        }
    }

    @Test func `what is gone from the file is forgotten, and a removal is taken back`() throws {
        var bench = ManagerBench.figure7()
        try bench.perform(.removeServer("server2", force: true))
        bench.input(.loads(["r1": 5, "r2": 7], own: ["server1": 3, "server3": 4]))
        let left = [ManagedServer(name: "server1"), ManagedServer(name: "server2")]
        let resources = bench.manager.table.all.filter { $0.name != "r2" }.map { resource in
            Resource(
                name: resource.name, target: resource.target, servers: ["server1", "server2"],
                assigned: "server1")
        }
        reload(&bench, servers: left, table: ResourceTable(resources))
        #expect(!bench.manager.isDraining("server2"))
        #expect(bench.manager.state(of: "server3") == nil)
        let input = bench.manager.placementInput()
        #expect(input.resources.map(\.name) == ["r1", "r3", "r4", "r5", "r6"])
        #expect(input.resources[0].load == 5)
        #expect(input.servers.map(\.ownLoad) == [3, 0])
    }

    @Test func `balancing stays on, and rests stay`() throws {
        var bench = ManagerBench.figure7()
        bench.now = second
        try bench.perform(.setAutomaticBalance(true))
        try bench.perform(.move(resource: "r1", to: "server2"))
        bench.complete()
        let due = bench.manager.nextDeadline
        reload(&bench)
        #expect(bench.manager.isBalancingAutomatically)
        #expect(bench.manager.nextDeadline == due)
        #expect(bench.manager.resting.contains("r1"))
    }
}
