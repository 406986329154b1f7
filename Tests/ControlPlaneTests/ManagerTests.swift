import ControlPlane
import Testing

private let second = ManagerBench.second

/// Failover: from the evidence to the last session.
@Suite struct ManagerFailoverTests {
    @Test func `figure 7: both confirmed, one commit, r1 on server3 and r2 on server2`() {
        var bench = ManagerBench.figure7()
        bench.now = 5 * second
        bench.probe("server1", .refused)
        let asked = bench.confirmations
        #expect(asked.map { "\($0.resource) \($0.server)" } == ["r1 server3", "r2 server2"])
        #expect(bench.commits == [])
        bench.now += second
        bench.input(
            .confirmed(asked[1].id, resource: "r2", server: "server2", isGood: true))
        // Not before both have answered.
        #expect(bench.commits == [] && bench.manager.table.version == 0)
        #expect(bench.server(of: "r2") == "server1")
        bench.input(
            .confirmed(asked[0].id, resource: "r1", server: "server3", isGood: true))
        #expect(bench.commits == [["r1 server3", "r2 server2"]])
        #expect(bench.server(of: "r1") == "server3" && bench.server(of: "r2") == "server2")
        #expect(bench.sessionMoves == ["r1 server1 server3 dead", "r2 server1 server2 dead"])
        bench.now += second
        bench.moveAllSessions()
        let end = ManagementEvent.failoverFinished(
            server: "server1", moved: ["r1", "r2"], sinceDetection: 2 * second)
        #expect(bench.events.contains(end))
        #expect(!bench.manager.isChanging("r1"))
        for name in ["r3", "r4"] { #expect(bench.server(of: name) == "server2") }
        for name in ["r5", "r6"] { #expect(bench.server(of: name) == "server3") }
    }

    @Test func `a server that does not confirm is passed over`() {
        var bench = ManagerBench.figure7()
        bench.probe("server1", .refused)
        bench.confirmAll(refusing: ["server3"])
        #expect(bench.commits == [["r1 server2", "r2 server2"]])
    }

    @Test func `no answer is no confirmation, and a late one is not taken`() {
        var bench = ManagerBench.figure7()
        bench.probe("server1", .refused)
        let first = bench.confirmations[0]
        bench.wait(5 * second)
        let asked = bench.confirmations.dropFirst(2)
        #expect(
            asked.map { "\($0.resource) \($0.server)" }.sorted() == ["r1 server2", "r2 server3"])
        bench.input(
            .confirmed(first.id, resource: first.resource, server: first.server, isGood: true))
        #expect(bench.commits == [])
        for item in asked {
            bench.input(
                .confirmed(item.id, resource: item.resource, server: item.server, isGood: true))
        }
        #expect(bench.commits == [["r1 server2", "r2 server3"]])
    }

    @Test func `confirmations of things nobody asked for change nothing`() {
        var bench = ManagerBench.figure7()
        bench.input(.confirmed(ChangeID(99), resource: "r1", server: "server2", isGood: true))
        bench.probe("server1", .refused)
        let id = bench.confirmations[0].id
        bench.input(.confirmed(id, resource: "r9", server: "server2", isGood: true))
        bench.input(.confirmed(id, resource: "r1", server: "server2", isGood: true))
        bench.input(.sessionsMoved(id, resource: "r1", from: "server1", moved: 1, failed: 0))
        bench.input(.fenced(FenceID(1), server: "server1", isGood: true))
        #expect(bench.manager.isChanging("r1") && bench.manager.table.version == 0)
    }

    @Test func `what nobody confirms stays and is tried again with growing pauses`() {
        var bench = ManagerBench.figure7()
        bench.probe("server1", .refused)
        var attempts: [UInt64] = []
        for _ in 0..<8 {
            attempts.append(bench.now)
            bench.confirmAll(refusing: ["server2", "server3"])
            #expect(bench.manager.table.version == 0)
            bench.clear()
            while bench.confirmations.isEmpty, let next = bench.manager.nextDeadline {
                bench.now = next
                bench.input(.tick)
            }
        }
        let pauses = zip(attempts, attempts.dropFirst()).map { ($1 - $0) / second }
        #expect(pauses == [1, 2, 4, 8, 16, 30, 30])
        bench.complete()
        #expect(bench.manager.table.assigned(to: "server1").isEmpty)
    }

    @Test func `confirmed resources enter although others found nobody`() {
        let resources = [
            Resource(name: "a", target: "iqn.a:a", servers: ["s1", "s2"], assigned: "s1"),
            Resource(name: "b", target: "iqn.a:b", servers: ["s1", "s3"], assigned: "s1"),
        ]
        var bench = ManagerBench(["s1", "s2", "s3"].map { ManagedServer(name: $0) }, resources)
        bench.probe("s1", .refused)
        bench.confirmAll(refusing: ["s3"])
        #expect(bench.commits == [["a s2"]])
        #expect(bench.server(of: "b") == "s1")
        bench.moveAllSessions()
        bench.clear()
        bench.wait(second)
        bench.confirmAll()
        #expect(bench.commits == [["b s3"]])
    }

    @Test func `a target that fails after it has confirmed is replaced`() {
        var bench = ManagerBench.figure7()
        bench.probe("server1", .refused)
        let asked = bench.confirmations
        bench.input(.confirmed(asked[0].id, resource: "r1", server: "server3", isGood: true))
        bench.probe("server3", .refused)
        bench.complete()
        #expect(bench.commits.flatMap { $0 }.allSatisfy { $0.hasSuffix("server2") })
        #expect(bench.manager.table.assigned(to: "server2").count == 6)
    }

    @Test func `a target that fails while sessions move starts anew`() {
        var bench = ManagerBench.figure7()
        bench.probe("server1", .refused)
        bench.confirmAll()
        bench.clear()
        bench.probe("server3", .refused)
        let abandoned = bench.events.contains {
            if case .sessionsAbandoned(_, "r1", _) = $0 { true } else { false }
        }
        #expect(abandoned)
        bench.complete()
        #expect(bench.manager.table.assigned(to: "server2").count == 6)
        #expect(bench.sessionMoves.contains("r1 server3 server2 dead"))
    }

    @Test func `a target fails while sessions leave a live server: they go on in order`() throws {
        var bench = ManagerBench.figure7()
        try bench.perform(.move(resource: "r1", to: "server2"))
        bench.confirmAll()
        bench.clear()
        bench.probe("server2", .refused)
        bench.confirmAll()
        let target = bench.server(of: "r1") ?? ""
        if target == "server1" {
            #expect(bench.sessionMoves.contains("r1 server2 server1 dead"))
        } else {
            #expect(bench.sessionMoves.contains("r1 server1 server3 orderly"))
            #expect(bench.sessionMoves.contains("r1 server2 server3 dead"))
        }
        bench.moveAllSessions()
        #expect(!bench.manager.isChanging("r1"))
    }

    @Test func `sessions left behind follow when the failed target is back at once`() throws {
        var bench = ManagerBench.figure7()
        try bench.perform(.move(resource: "r1", to: "server2"))
        bench.confirmAll()
        bench.probe("server2", .refused)
        bench.clear()
        bench.revive("server2")
        #expect(bench.sessionMoves == ["r1 server1 server2 orderly"])
        bench.moveAllSessions()
        #expect(!bench.manager.isChanging("r1"))
        bench.clear()
        bench.wait(100 * second)
        #expect(bench.actions == [])
    }

    @Test func `two failures at once are two changes that do not wait for each other`() {
        var bench = ManagerBench.figure7()
        bench.probe("server1", .refused)
        bench.probe("server3", .refused)
        let open = bench.confirmations.filter { $0.server == "server2" }
        #expect(Set(open.map(\.id)).count == 2)
        bench.complete()
        #expect(bench.manager.table.assigned(to: "server2").count == 6)
    }

    @Test func `a server that is back before the commit keeps its resources`() {
        var bench = ManagerBench.figure7()
        bench.probe("server1", .refused)
        let asked = bench.confirmations
        bench.input(.confirmed(asked[0].id, resource: "r1", server: "server3", isGood: true))
        bench.revive("server1")
        #expect(bench.actions.contains(.serverAlive("server1")))
        bench.input(.confirmed(asked[1].id, resource: "r2", server: "server2", isGood: true))
        #expect(bench.commits == [] && bench.manager.table.version == 0)
        #expect(!bench.manager.isChanging("r1") && !bench.manager.isChanging("r2"))
    }

    @Test func `a server that is back after the commit does not get its resources back`() {
        var bench = ManagerBench.figure7()
        bench.probe("server1", .refused)
        bench.complete()
        bench.clear()
        bench.revive("server1")
        bench.wait(300 * second)
        #expect(bench.commits == [] && bench.confirmations.isEmpty)
    }

    @Test func `nothing moves while all servers are down, and all recovers with one`() {
        var bench = ManagerBench.figure7()
        for name in ["server1", "server2", "server3"] { bench.probe(name, .timedOut) }
        for name in ["server1", "server2", "server3"] { bench.probe(name, .timedOut) }
        bench.clear()
        bench.wait(600 * second)
        #expect(bench.actions == [])
        bench.revive("server2")
        bench.complete()
        #expect(bench.manager.table.assigned(to: "server2").count == 6)
    }

    @Test func `a suspect that answers keeps everything and its sessions are told`() {
        var bench = ManagerBench.figure7()
        bench.now = second
        bench.input(.evidence(.soft(.sessionReset), server: "server1"))
        #expect(bench.actions.contains(.probeNow(server: "server1", timeout: 300_000_000)))
        bench.probe("server1", .good)
        #expect(bench.actions.contains(.serverAlive("server1")))
        #expect(bench.confirmations.isEmpty)
    }

    @Test func `a flapping server gets nothing new unless nobody else is left`() {
        var bench = ManagerBench.figure7()
        for _ in 0..<3 {
            bench.now += second
            bench.probe("server3", .refused)
            bench.revive("server3")
        }
        #expect(bench.events.contains(.serverFlapping("server3", true)))
        bench.clear()
        bench.probe("server1", .refused)
        #expect(bench.confirmations.allSatisfy { $0.server == "server2" })
        bench.complete()
        bench.clear()
        bench.probe("server2", .refused)
        #expect(!bench.confirmations.isEmpty)
        #expect(bench.confirmations.allSatisfy { $0.server == "server3" })
        bench.clear()
        bench.wait(200 * second)
        #expect(bench.events.contains(.serverFlapping("server3", false)))
    }

    @Test func `evidence about unknown servers is ignored`() {
        var bench = ManagerBench.figure7()
        bench.probe("server9", .refused)
        bench.input(.evidence(.linkDown, server: ""))
        #expect(bench.actions == [])
    }
}

@Suite struct ManagerFencingTests {
    private static func bench() -> ManagerBench {
        .figure7(servers: (1...3).map { ManagedServer(name: "server\($0)", canBeFenced: true) })
    }

    @Test func `the commit waits for the fence, confirmations do not`() {
        var bench = Self.bench()
        bench.input(.evidence(.linkDown, server: "server1"))
        #expect(bench.fences.map(\.server) == ["server1"])
        #expect(bench.confirmations.count == 2)
        bench.confirmAll()
        #expect(bench.commits == [])
        bench.input(.fenced(bench.fences[0].id, server: "server1", isGood: true))
        #expect(bench.commits.count == 1)
        bench.moveAllSessions()
        #expect(bench.fences.count == 1)
    }

    @Test func `a refused connection needs no fence`() {
        var bench = Self.bench()
        bench.probe("server1", .refused)
        bench.confirmAll()
        #expect(bench.fences.isEmpty && bench.commits.count == 1)
    }

    @Test func `without a fence command nothing is waited for`() {
        var bench = ManagerBench.figure7()
        bench.input(.evidence(.linkDown, server: "server1"))
        bench.confirmAll()
        #expect(bench.fences.isEmpty && bench.commits.count == 1)
    }

    @Test
    func `a fence that fails is repeated with growing pauses, nothing moves before it succeeds`() {
        var bench = Self.bench()
        bench.input(.evidence(.linkDown, server: "server1"))
        bench.confirmAll()
        var times: [UInt64] = []
        for _ in 0..<4 {
            times.append(bench.now)
            let fence = bench.fences[bench.fences.count - 1]
            bench.input(.fenced(fence.id, server: "server1", isGood: false))
            let count = bench.fences.count
            while bench.fences.count == count, let next = bench.manager.nextDeadline {
                bench.now = next
                bench.input(.tick)
            }
        }
        #expect(zip(times, times.dropFirst()).map { ($1 - $0) / second } == [1, 2, 4])
        #expect(bench.commits == [])
        // The outcome of an earlier run does not count.
        bench.input(.fenced(bench.fences[0].id, server: "server1", isGood: true))
        #expect(bench.commits == [])
        bench.input(
            .fenced(bench.fences[bench.fences.count - 1].id, server: "server1", isGood: true))
        #expect(bench.commits.count == 1)
    }

    @Test func `a fence without an answer has failed`() {
        var bench = Self.bench()
        bench.input(.evidence(.linkDown, server: "server1"))
        bench.confirmAll()
        bench.wait(31 * second)
        #expect(bench.fences.count == 2)
        #expect(bench.commits == [])
    }

    @Test func `a sign of life after a fence makes it void`() {
        var bench = Self.bench()
        bench.input(.evidence(.linkDown, server: "server1"))
        bench.input(.fenced(bench.fences[0].id, server: "server1", isGood: true))
        bench.probe("server1", .good)
        bench.confirmAll()
        #expect(bench.commits == [] && bench.fences.count == 1)
        bench.probe("server1", .timedOut)
        #expect(bench.fences.count == 2)
        bench.input(.fenced(bench.fences[1].id, server: "server1", isGood: true))
        #expect(bench.commits.count == 1)
    }

    @Test func `a refusal later on makes the fence superfluous`() {
        var bench = Self.bench()
        bench.input(.evidence(.linkDown, server: "server1"))
        bench.confirmAll()
        bench.probe("server1", .refused)
        #expect(bench.commits.count == 1)
    }

    @Test func `sessions that were leaving in order wait for the fence when their server fails`()
        throws
    {
        var bench = Self.bench()
        try bench.perform(.drain(server: "server1"))
        bench.confirmAll()
        #expect(bench.sessionMoves.count == 2)
        bench.clear()
        bench.input(.evidence(.linkDown, server: "server1"))
        #expect(bench.sessionMoves == [])
        bench.input(.fenced(bench.fences[0].id, server: "server1", isGood: true))
        #expect(bench.sessionMoves.count == 2)
        #expect(bench.sessionMoves.allSatisfy { $0.hasSuffix("dead") })
    }

    @Test func `a server with nothing on it is not fenced`() {
        var bench = Self.bench()
        bench.probe("server1", .refused)
        bench.complete()
        bench.revive("server1")
        bench.input(.evidence(.linkDown, server: "server1"))
        #expect(bench.fences.isEmpty)
    }
}
