import ControlPlane
import TestSupport
import Testing

/// What holds for all inputs.
@Suite struct PlacementPropertyTests {
    private static func input(
        servers: Int, resources: Int, using random: inout SplitMix64
    ) -> PlacementInput {
        let names = (0..<servers).map { "s\($0)" }
        let isEvenPower = Bool.random(using: &random)
        var result = PlacementInput(
            servers: names.map {
                PlacementServer(
                    name: $0, isAvailable: Int.random(in: 0..<8, using: &random) > 0,
                    isSpare: Int.random(in: 0..<8, using: &random) == 0,
                    ownLoad: Bool.random(using: &random)
                        ? 0 : Double(Int.random(in: 0..<100, using: &random)),
                    weight: isEvenPower ? 1 : Double(Int.random(in: 1..<4, using: &random)))
            }, resources: [])
        for number in 0..<resources {
            let holders = names.shuffled(using: &random)
                .prefix(Int.random(in: 1...servers, using: &random))
            result.resources.append(
                PlacementResource(
                    name: "r\(number)", servers: Array(holders),
                    assigned: Int.random(in: 0..<10, using: &random) == 0
                        ? nil : holders.randomElement(using: &random),
                    home: Bool.random(using: &random) ? holders.first : nil,
                    load: Double(Int.random(in: 0..<100, using: &random)),
                    isMovable: Int.random(in: 0..<6, using: &random) > 0))
        }
        return result
    }

    /// Every move leads to an available server that holds the resource, from where that is.
    private func expectSound(_ moves: [PlannedMove], _ input: PlacementInput) {
        #expect(Set(moves.map(\.resource)).count == moves.count)
        for move in moves {
            let resource = input.resources.first { $0.name == move.resource }
            #expect(resource?.assigned == move.from)
            #expect(resource?.servers.contains(move.to) == true)
            #expect(move.from != move.to)
            #expect(input.servers.first { $0.name == move.to }?.isAvailable == true)
        }
    }

    /// Of the servers that take part.
    private struct Quality {
        var highest: Double
        /// With all load above an even share.
        var sum: Double
        var squares: Double

        func isBetter(than other: Self) -> Bool {
            if abs(sum - other.sum) > 1e-6 { return sum < other.sum }
            return squares < other.squares - 1e-4
        }
    }

    private func quality(_ input: PlacementInput) -> Quality {
        let servers = input.servers.filter { $0.isAvailable && !$0.isSpare }
        let totals = servers.map { server in
            input.resources.filter { $0.assigned == server.name }
                .reduce(server.ownLoad) { $0 + $1.load }
        }
        let mean = totals.reduce(0, +) / servers.map(\.weight).reduce(0, +)
        let highest = zip(totals, servers).map { $0 / $1.weight }.max() ?? 0
        let excess = zip(totals, servers).map { max(0, $0 - mean * $1.weight) }.reduce(0, +)
        let squares = zip(totals, servers).map { $0 * $0 / $1.weight }.reduce(0, +)
        return Quality(highest: highest, sum: highest + excess, squares: squares)
    }

    @Test("Plans are sound, never raise the highest load and are not followed by another one")
    func plans() {
        var random = SplitMix64(seed: 11)
        var plans = 0
        for round in 0..<3000 {
            let servers = Int.random(in: 1...6, using: &random)
            // Up to 8 resources nearly always take the exact search, 30 always the local one.
            let count = round % 3 == 0 ? 30 : Int.random(in: 0...8, using: &random)
            let input = Self.input(servers: servers, resources: count, using: &random)
            let policy = BalancePolicy(
                minimumImprovement: Bool.random(using: &random) ? 0 : 0.05,
                costPerMove: Bool.random(using: &random) ? 0 : 0.1)
            guard let plan = Placement.bestDistribution(input, policy: policy) else { continue }
            plans += 1
            expectSound(plan.moves, input)
            for move in plan.moves {
                #expect(input.resources.first { $0.name == move.resource }?.isMovable == true)
                #expect(input.servers.first { $0.name == move.to }?.isSpare == false)
            }
            let next = PlacementBalanceTests.apply(plan, to: input)
            #expect(quality(next).highest <= quality(input).highest + 1e-6)
            #expect(quality(next).sum < quality(input).sum)
            #expect(Placement.bestDistribution(next, policy: policy) == nil, "round \(round)")
        }
        #expect(plans > 1000)
    }

    @Test("Small cases: as good as the best of all distributions, in the fewest moves")
    func exact() {
        var random = SplitMix64(seed: 12)
        let policy = BalancePolicy(minimumImprovement: 0, costPerMove: 0)
        var plans = 0
        for _ in 0..<300 {
            let input = Self.input(
                servers: 3, resources: Int.random(in: 2...6, using: &random), using: &random)
            let best = everything(input)
            let plan = Placement.bestDistribution(input, policy: policy)
            guard let plan else {
                // Evenness in detail alone is no reason to move anything.
                #expect(best.quality.sum > quality(input).sum - 1e-6)
                continue
            }
            plans += 1
            let after = quality(PlacementBalanceTests.apply(plan, to: input))
            #expect(abs(after.sum - best.quality.sum) < 1e-6)
            #expect(abs(after.squares - best.quality.squares) < 1e-4)
            #expect(plan.moves.count == best.moves)
        }
        #expect(plans > 100)
    }

    /// Best quality that any distribution has which does not raise the highest load, and the moves
    /// to it.
    private func everything(_ input: PlacementInput) -> (quality: Quality, moves: Int) {
        let start = quality(input)
        let open = Set(input.servers.filter { $0.isAvailable && !$0.isSpare }.map(\.name))
        var best = (quality: start, moves: 0)
        func visit(_ position: Int, _ current: PlacementInput, _ moves: Int) {
            guard position < current.resources.count else {
                let found = quality(current)
                if found.highest > start.highest + 1e-9 { return }
                if found.isBetter(than: best.quality) {
                    best = (found, moves)
                } else if !best.quality.isBetter(than: found) {
                    best.moves = min(best.moves, moves)
                }
                return
            }
            visit(position + 1, current, moves)
            let resource = current.resources[position]
            guard resource.isMovable, let place = resource.assigned, open.contains(place) else {
                return
            }
            for server in resource.servers where open.contains(server) && server != place {
                var next = current
                next.resources[position].assigned = server
                visit(position + 1, next, moves + 1)
            }
        }
        visit(0, input, 0)
        return best
    }

    @Test("Failover, draining and giving back are sound for any input")
    func failover() {
        var random = SplitMix64(seed: 13)
        var moved = 0
        for _ in 0..<2000 {
            var input = Self.input(
                servers: Int.random(in: 1...6, using: &random),
                resources: Int.random(in: 0...20, using: &random), using: &random)
            let failed = input.servers.randomElement(using: &random)!.name
            let position = input.servers.firstIndex { $0.name == failed }!
            input.servers[position].isAvailable = false
            let isLost = input.servers.contains { !$0.isAvailable && !$0.isSpare }
            let moves = Placement.failover(of: [failed], in: input)
            expectSound(moves, input)
            moved += moves.count
            let open = Set(
                input.servers.filter { $0.isAvailable && (isLost || !$0.isSpare) }.map(\.name))
            let expected = input.resources.filter {
                $0.assigned == failed && !open.isDisjoint(with: $0.servers)
            }
            #expect(moves.map(\.resource) == expected.map(\.name))
            let drain = Placement.drain(of: failed, in: input)
            expectSound(drain, input)
            #expect(drain.map(\.resource) == expected.filter(\.isMovable).map(\.name))
            for server in input.servers {
                let back = Placement.giveBack(to: server.name, in: input)
                expectSound(back, input)
                #expect(back.allSatisfy { $0.to == server.name })
            }
            for resource in input.resources {
                let candidates = Placement.candidates(for: resource.name, in: input)
                expectSound(
                    candidates.prefix(1).map {
                        PlannedMove(resource: resource.name, from: resource.assigned, to: $0)
                    }, input)
                #expect(Set(candidates).count == candidates.count)
            }
        }
        #expect(moved > 1000)
    }
}
