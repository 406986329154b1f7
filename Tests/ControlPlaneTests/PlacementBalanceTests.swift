import ControlPlane
import TestSupport
import Testing

/// Trigger, distribution and hysteresis of balancing.
@Suite struct PlacementBalanceTests {
    static let names = ["server1", "server2", "server3"]

    /// Resources r1, r2 ... with these loads on server1, server2 ...; every server holds all.
    static func input(_ loads: [[Double]]) -> PlacementInput {
        let names = loads.indices.map { "server\($0 + 1)" }
        var resources: [PlacementResource] = []
        for (server, loads) in loads.enumerated() {
            for load in loads {
                resources.append(
                    PlacementResource(
                        name: "r\(resources.count + 1)", servers: names, assigned: names[server],
                        load: load))
            }
        }
        return PlacementInput(
            servers: names.map { PlacementServer(name: $0) }, resources: resources)
    }

    static let example = input([[100, 100], [150, 200], [300, 400]])

    static func apply(_ plan: BalancePlan, to input: PlacementInput) -> PlacementInput {
        var result = input
        for move in plan.moves {
            let position = result.resources.firstIndex { $0.name == move.resource }!
            result.resources[position].assigned = move.to
        }
        return result
    }

    private func fires(_ loads: [[Double]], _ policy: BalancePolicy = .init()) -> Bool {
        Placement.Trigger(Self.input(loads), policy: policy) != nil
    }

    @Test("The specification's example: exactly r4 to server1 and r5 to server2")
    func example() throws {
        let plan = try #require(Placement.balance(Self.example))
        #expect(
            plan.moves == [
                PlannedMove(resource: "r4", from: "server2", to: "server1"),
                PlannedMove(resource: "r5", from: "server3", to: "server2"),
            ])
        #expect(plan.before == ["server1": 200, "server2": 350, "server3": 700])
        #expect(plan.after == ["server1": 400, "server2": 450, "server3": 400])
        #expect(
            plan.reason
                == "server3 has load 700 and server1 200: more than 1.5 times; "
                + "2 moves bring the highest load from 700 to 450, an even share is 417")
        #expect(Placement.balance(Self.apply(plan, to: Self.example)) == nil)
    }

    @Test func triggerAtAndAroundTheRatio() {
        #expect(fires([[700], [350], [200]]))
        #expect(!fires([[450], [400], [400]]))
        #expect(!fires([[150], [100]]))
        #expect(fires([[150.001], [100]]))
        // 0.1 + 0.2 is more than 0.3 in binary fractions, yet not more than 1.5 times 0.2.
        let exact = BalancePolicy(floor: 0)
        #expect(!fires([[0.1, 0.2], [0.2]], exact))
        #expect(!fires([[3 * 0.7], [2 * 0.7]], exact))
        #expect(fires([[300], [140]], BalancePolicy(ratio: 2)))
        #expect(!fires([[300], [160]], BalancePolicy(ratio: 2)))
    }

    @Test func loadsNearZeroHaveRules() {
        #expect(!fires([[0, 0], [0]]))
        #expect(!fires([[0.4, 0.5], []]))
        // One resource would only change its place.
        #expect(!fires([[500], []]))
        #expect(fires([[500, 1], []]))
        #expect(!fires([[500, 0], [0]]))
        var pinned = Self.input([[500, 400], []])
        pinned.resources[0].isMovable = false
        #expect(Placement.Trigger(pinned, policy: .init()) != nil)
        pinned.resources[1].isMovable = false
        #expect(Placement.Trigger(pinned, policy: .init()) == nil)
        // A stronger empty server helps although there is one resource only.
        var strong = Self.input([[500], []])
        strong.servers[1].weight = 2
        #expect(Placement.balance(strong)?.moves.map(\.to) == ["server2"])
    }

    @Test func oneServerOrNoneIsEven() {
        #expect(!fires([[500, 100]]))
        #expect(Placement.balance(PlacementInput(servers: [], resources: [])) == nil)
        #expect(Placement.bestDistribution(Self.input([[500, 100]])) == nil)
    }

    @Test func weightsAndOwnLoadCount() throws {
        var input = Self.input([[100, 100, 100, 100], []])
        input.servers[0].weight = 3
        #expect(Placement.balance(input)?.after == ["server1": 100, "server2": 100])
        input.servers[1].ownLoad = 100
        #expect(Placement.balance(input) == nil)
        input.servers[0].weight = 1
        let plan = try #require(Placement.balance(input))
        // 200 and 300 would be as even, for one move more.
        #expect(plan.after == ["server1": 300, "server2": 200])
    }

    @Test func unavailableServersAndSparesAreLeftAlone() throws {
        var input = Self.input([[100, 100, 100, 100], [50], [10]])
        input.servers[2].isSpare = true
        var plan = try #require(Placement.balance(input))
        #expect(plan.moves.allSatisfy { $0.to == "server2" })
        input.servers[2].isSpare = false
        input.servers[1].isAvailable = false
        plan = try #require(Placement.balance(input))
        #expect(plan.moves.allSatisfy { $0.to == "server3" && $0.from == "server1" })
    }

    @Test func onlyHoldersAreTargets() throws {
        var input = Self.example
        input.resources[4].servers = ["server3", "server1"]
        input.resources[5].isMovable = false
        let plan = try #require(Placement.balance(input))
        #expect(plan.moves.allSatisfy { $0.resource != "r6" })
        #expect(plan.moves.filter { $0.resource == "r5" }.allSatisfy { $0.to == "server1" })
    }

    @Test("A move has to gain more than it costs")
    func hysteresis() {
        let input = Self.input([[100, 9], [60]])
        #expect(Placement.balance(input)?.moves.map(\.resource) == ["r2"])
        #expect(Placement.balance(input, policy: BalancePolicy(costPerMove: 0.4)) == nil)
        #expect(Placement.balance(input, policy: BalancePolicy(minimumImprovement: 0.3)) == nil)
    }

    @Test func aResourceRestsAfterItsMove() throws {
        var rest = RestTable()
        rest.record("r5", at: 1_000_000_000)
        let policy = BalancePolicy(resourceRestTime: .seconds(60))
        let soon = try #require(
            Placement.balance(Self.example, policy: policy, rest: rest, now: 60_999_999_999))
        #expect(!soon.moves.contains { $0.resource == "r5" })
        let later = Placement.balance(Self.example, policy: policy, rest: rest, now: 61_000_000_000)
        #expect(later?.moves.map(\.resource) == ["r4", "r5"])
        rest.record("r4", at: 61_000_000_000)
        rest.keep(["r4"])
        #expect(!rest.isResting("r5", at: 0, for: .seconds(60)))
        // A clock that goes back is no reason to move.
        #expect(rest.isResting("r4", at: 5, for: .seconds(60)))
    }

    @Test("The highest load cannot be helped: what else is above an even share is")
    func oneGiant() throws {
        let plan = try #require(Placement.balance(Self.input([[1000], [400, 500], []])))
        #expect(plan.moves.map(\.resource) == ["r2"])
        #expect(plan.after == ["server1": 1000, "server2": 500, "server3": 400])
        // Nothing but the giant is above an even share: no move is worth it.
        #expect(Placement.balance(Self.input([[1000], [200, 200], []])) == nil)
    }

    @Test func twelveResourcesAreSearchedWhole() throws {
        var random = SplitMix64(seed: 6)
        // Nearly equal: there are many distributions which are nearly as good as the best.
        let loads = [
            (0..<12).map { _ in Double.random(in: 50..<60, using: &random) }, [], [],
        ]
        var plan: BalancePlan?
        // Nothing but the loads bounds the search.
        let policy = BalancePolicy(minimumImprovement: 0, costPerMove: 0)
        let time = ContinuousClock().measure {
            plan = Placement.balance(Self.input(loads), policy: policy)
        }
        let found = try #require(plan)
        let next = Self.apply(found, to: Self.input(loads))
        #expect(Placement.bestDistribution(next, policy: policy) == nil)
        print("all distributions of 12 resources on 3 servers: \(time)")
        #expect(time < .seconds(2))
    }

    @Test func manyResources() throws {
        var random = SplitMix64(seed: 5)
        var input = Self.input(Array(repeating: [], count: 16))
        let names = input.servers.map(\.name)
        for number in 0..<1000 {
            // Two servers are new, and the last of the others has most.
            let server = min(13, Int.random(in: 0..<20, using: &random))
            input.resources.append(
                PlacementResource(
                    name: "r\(number)", servers: names, assigned: names[server],
                    load: Double.random(in: 1..<100, using: &random)))
        }
        var plan: BalancePlan?
        let time = ContinuousClock().measure { plan = Placement.balance(input) }
        let found = try #require(plan)
        let mean = found.before.values.reduce(0, +) / 16
        #expect(found.after.values.max()! < 1.02 * mean)
        #expect(found.moves.count < 450)
        #expect(Placement.balance(Self.apply(found, to: input)) == nil)
        #expect(Placement.bestDistribution(Self.apply(found, to: input)) == nil)
        #expect(Placement.balance(input) == found)
        print("balance of 1000 resources on 16 servers: \(time), \(found.moves.count) moves")
        // Much more than it takes: machines that test are busy.
        #expect(time < .seconds(1))
    }
}
