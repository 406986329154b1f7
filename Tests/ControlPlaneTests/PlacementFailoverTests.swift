import ControlPlane
import Testing

/// Failover, spares, draining, candidates.
@Suite struct PlacementFailoverTests {
    /// Three servers with two resources each; every server holds all.
    static func figure(load: Double, own: [Double] = [0, 0, 0]) -> PlacementInput {
        let names = ["server1", "server2", "server3"]
        return PlacementInput(
            servers: names.indices.map { PlacementServer(name: names[$0], ownLoad: own[$0]) },
            resources: (0..<6).map {
                PlacementResource(
                    name: "r\($0 + 1)", servers: names, assigned: names[$0 / 2], load: load)
            })
    }

    static func text(_ moves: [PlannedMove]) -> [String] {
        moves.map { "\($0.resource): \($0.from ?? "-") -> \($0.to)" }
    }

    @Test("The specification's example, whatever the equal load is", arguments: [0, 0.1, 1, 1e9])
    func example(load: Double) {
        let moves = Placement.failover(of: ["server1"], in: Self.figure(load: load))
        #expect(Self.text(moves) == ["r1: server1 -> server3", "r2: server1 -> server2"])
    }

    /// Each survivor takes its share; the lighter one of what is left over, and the stronger one more.
    @Test func survivorsShare() {
        let busy = Self.figure(load: 10, own: [0, 0, 50])
        #expect(Placement.failover(of: ["server1"], in: busy).map(\.to) == ["server2", "server3"])
        var three = busy
        three.resources[2].assigned = "server1"
        let spread = Placement.failover(of: ["server1"], in: three).map(\.to)
        #expect(spread.count { $0 == "server2" } == 2 && spread.count { $0 == "server3" } == 1)
        var strong = Self.figure(load: 10)
        strong.servers[1].weight = 4
        let moves = Placement.failover(of: ["server1"], in: strong)
        #expect(moves.map(\.to) == ["server2", "server2"])
    }

    @Test func theHeaviestIsPlacedFirst() {
        var input = Self.figure(load: 10)
        input.resources[1].load = 30
        let moves = Placement.failover(of: ["server1"], in: input)
        #expect(Self.text(moves) == ["r1: server1 -> server2", "r2: server1 -> server3"])
    }

    @Test func twoServersFailAtOnce() {
        let moves = Placement.failover(of: ["server1", "server2"], in: Self.figure(load: 1))
        #expect(moves.map(\.resource) == ["r1", "r2", "r3", "r4"])
        #expect(moves.allSatisfy { $0.to == "server3" })
    }

    @Test func withoutACandidateNothingMoves() {
        var input = Self.figure(load: 1)
        input.resources[0].servers = ["server1"]
        input.resources[1].servers = ["server1", "server2", "nobody"]
        input.servers[1].isAvailable = false
        #expect(Placement.failover(of: ["server1"], in: input).isEmpty)
        #expect(Placement.candidates(for: "r1", in: input).isEmpty)
        #expect(Placement.candidates(for: "nothing", in: input).isEmpty)
        #expect(Placement.failover(of: ["nobody"], in: input).isEmpty)
    }

    @Test func aResourceThatMayNotMoveLeavesOnlyAFailedServer() {
        var input = Self.figure(load: 1)
        input.resources[0].isMovable = false
        #expect(Placement.failover(of: ["server1"], in: input).count == 2)
        #expect(Placement.drain(of: "server1", in: input).map(\.resource) == ["r2"])
    }

    @Test func drainIsLikeFailover() {
        var input = Self.figure(load: 3)
        let expected = Placement.failover(of: ["server1"], in: input)
        #expect(Placement.drain(of: "server1", in: input) == expected)
        input.servers[0].isAvailable = false
        #expect(Placement.drain(of: "server1", in: input) == expected)
    }

    @Test func candidatesInOrder() {
        var input = Self.figure(load: 10, own: [0, 5, 0])
        #expect(Placement.candidates(for: "r1", in: input) == ["server3", "server2"])
        input.servers[1].ownLoad = 0
        #expect(Placement.candidates(for: "r1", in: input) == ["server3", "server2"])
        input.servers[2].ownLoad = 1
        #expect(Placement.candidates(for: "r1", in: input) == ["server2", "server3"])
        input.servers[2].isAvailable = false
        #expect(Placement.candidates(for: "r1", in: input) == ["server2"])
        input.resources[0].assigned = nil
        #expect(Placement.candidates(for: "r1", in: input) == ["server1", "server2"])
    }

    @Test func brokenMeasurementsDoNoHarm() {
        var input = Self.figure(load: 1)
        input.resources[0].load = .nan
        input.resources[3].load = -.infinity
        input.servers[1].weight = 0
        input.servers[2].ownLoad = .infinity
        let moves = Placement.failover(of: ["server1"], in: input)
        #expect(moves.count == 2)
        #expect(moves == Placement.failover(of: ["server1"], in: input))
    }

    /// The same with a spare that holds everything.
    private func withSpare() -> PlacementInput {
        var input = Self.figure(load: 10)
        input.servers.append(PlacementServer(name: "spare", isSpare: true))
        for position in input.resources.indices {
            input.resources[position].servers.append("spare")
            input.resources[position].home = input.resources[position].assigned
        }
        return input
    }

    private func apply(_ moves: [PlannedMove], to input: inout PlacementInput) {
        for move in moves {
            let position = input.resources.firstIndex { $0.name == move.resource }!
            input.resources[position].assigned = move.to
        }
    }

    @Test func aSpareStandsInForAWholeServerAndGivesBack() {
        var input = withSpare()
        #expect(Placement.candidates(for: "r1", in: input) == ["server3", "server2", "spare"])
        input.servers[0].isAvailable = false
        #expect(Placement.candidates(for: "r1", in: input) == ["spare", "server3", "server2"])
        let moves = Placement.failover(of: ["server1"], in: input)
        #expect(Self.text(moves) == ["r1: server1 -> spare", "r2: server1 -> spare"])
        apply(moves, to: &input)
        #expect(Placement.giveBack(to: "server1", in: input).isEmpty)
        input.servers[0].isAvailable = true
        let back = Placement.giveBack(to: "server1", in: input)
        #expect(Self.text(back) == ["r1: spare -> server1", "r2: spare -> server1"])
        #expect(Placement.giveBack(to: "server2", in: input).isEmpty)
        input.resources[0].isMovable = false
        #expect(Placement.giveBack(to: "server1", in: input).map(\.resource) == ["r2"])
    }

    @Test func aSecondFailureIsSharedByAllTheSpareCounted() {
        var input = withSpare()
        for position in input.resources.indices where position < 2 {
            input.resources[position].load = 1
        }
        apply(Placement.failover(of: ["server1"], in: input), to: &input)
        input.servers[0].isAvailable = false
        let moves = Placement.failover(of: ["server2"], in: input)
        // The spare has 2, server3 has 20: the spare is the lighter one for the first.
        #expect(Self.text(moves) == ["r3: server2 -> spare", "r4: server2 -> server3"])
    }

    @Test func theSpareThatStandsInTakesALateResourceToo() {
        var input = withSpare()
        input.servers[0].isAvailable = false
        input.servers[3].ownLoad = 1000
        input.resources[0].assigned = "spare"
        let moves = Placement.failover(of: ["server1"], in: input)
        #expect(Self.text(moves) == ["r2: server1 -> spare"])
    }

    @Test func aSpareIsNotUsedWithoutAFailure() {
        var input = withSpare()
        input.servers.append(PlacementServer(name: "spare2", isSpare: true))
        for position in input.resources.indices {
            input.resources[position].servers.append("spare2")
        }
        // A spare has a resource although its home is there, and fails.
        input.resources[0].assigned = "spare"
        let moves = Placement.failover(of: ["spare"], in: input)
        #expect(Self.text(moves) == ["r1: spare -> server1"])
        // Its home is gone: the second spare stands in.
        input.servers[0].isAvailable = false
        let second = Placement.failover(of: ["spare"], in: input)
        #expect(Self.text(second) == ["r1: spare -> spare2"])
    }

    @Test func aSpareThatHoldsAPartTakesThatPart() {
        var input = withSpare()
        input.resources[0].servers = ["server1", "server2"]
        let moves = Placement.failover(of: ["server1"], in: input)
        #expect(Self.text(moves) == ["r1: server1 -> server2", "r2: server1 -> spare"])
    }

    @Test func twoFailuresAtOnceAndOneSpare() {
        let moves = Placement.failover(of: ["server1", "server2"], in: withSpare())
        #expect(
            Self.text(moves) == [
                "r1: server1 -> spare", "r2: server1 -> spare", "r3: server2 -> spare",
                "r4: server2 -> server3",
            ])
    }
}
