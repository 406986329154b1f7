/// Improves a distribution step by step until no step improves it, where there are too many to look
/// at all. A step moves one resource, or swaps a resource of the most loaded server that has
/// movable ones with one elsewhere.
///
/// The result is not always the best distribution. It is stable though: asked again from where it
/// ended, the search finds no step, because a step costs there at least as much as it did on the
/// way.
struct DescentSearch {
    private(set) var state: BalanceState
    private let problem: BalanceProblem
    /// Items on each server, in their order.
    private var items: [[Int]]
    /// Score without costs, kept up to date.
    private var excess = 0.0
    /// Three servers with the highest relative load, the highest first.
    private var top: [(server: Int, load: Double)] = []

    private struct Step {
        var item: Int
        var target: Int
        /// Item that goes the other way.
        var partner: Int?
        var score: Double
        var squares: Double
        var moves: Int
        var fromLeast: Int
        var loadMoved: Double
    }

    static func best(of problem: BalanceProblem) -> BalanceState {
        var search = DescentSearch(problem)
        // Each step improves the score, so this ends by itself; the bound is against rounding.
        for _ in 0..<(8 * problem.items.count + 64) {
            guard let step = search.bestMove() ?? search.bestSwap() else { break }
            search.apply(step)
        }
        return search.state
    }

    private init(_ problem: BalanceProblem) {
        self.problem = problem
        state = BalanceState(problem)
        items = Array(repeating: [], count: problem.totals.count)
        for (item, value) in problem.items.enumerated() { items[value.origin].append(item) }
        refresh()
    }

    private mutating func refresh() {
        excess = 0
        top = []
        for server in state.totals.indices {
            excess += state.excess(server, total: state.totals[server])
            let entry = (server: server, load: state.relative(server))
            let place = top.firstIndex { $0.load < entry.load } ?? top.count
            if place < 3 { top.insert(entry, at: place) }
            if top.count > 3 { top.removeLast() }
        }
    }

    private mutating func apply(_ step: Step) {
        let source = state.places[step.item]
        relocate(step.item, to: step.target)
        if let partner = step.partner { relocate(partner, to: source) }
        refresh()
    }

    private mutating func relocate(_ item: Int, to server: Int) {
        items[state.places[item]].removeAll { $0 == item }
        let place = items[server].firstIndex { $0 > item } ?? items[server].count
        items[server].insert(item, at: place)
        state.move(item, to: server)
    }

    /// Servers with movable items, the most loaded first.
    private func sources() -> [Int] {
        items.indices.filter { !items[$0].isEmpty }
            .map { (-state.relative($0), $0) }.sorted(by: <).map(\.1)
    }

    /// The best move of the most loaded server that has one that improves.
    private func bestMove() -> Step? {
        for source in sources() {
            var best: Step?
            for item in items[source] {
                for target in problem.items[item].options where target != source {
                    consider(item, to: target, swappedWith: nil, &best)
                }
            }
            if let best { return best }
        }
        return nil
    }

    /// The best swap of the most loaded server that has movable items; the heavier item leaves it.
    private func bestSwap() -> Step? {
        guard let source = sources().first else { return nil }
        var best: Step?
        for item in items[source] {
            for target in problem.items[item].options where target != source {
                for partner in items[target]
                where problem.items[partner].load < problem.items[item].load
                    && problem.items[partner].options.contains(source)
                {
                    consider(item, to: target, swappedWith: partner, &best)
                }
            }
        }
        return best
    }

    private func consider(
        _ item: Int, to target: Int, swappedWith partner: Int?, _ best: inout Step?
    ) {
        let source = state.places[item]
        let flow = problem.items[item].load - (partner.map { problem.items[$0].load } ?? 0)
        let (left, right) = (state.totals[source] - flow, state.totals[target] + flow)
        let others = top.first { $0.server != source && $0.server != target }?.load ?? 0
        let highest = max(
            others, left / problem.weights[source], right / problem.weights[target])
        let current = top[0].load
        if highest > current + problem.epsilon { return }
        let was =
            state.excess(source, total: state.totals[source])
            + state.excess(target, total: state.totals[target])
        let gain = state.excess(source, total: left) + state.excess(target, total: right) - was
        var moves = moveChange(item, to: target)
        if let partner { moves += moveChange(partner, to: source) }
        let score = highest - current + gain + problem.cost * Double(moves)
        // Most candidates end here.
        guard score < min(-problem.epsilon, (best?.score ?? 0) + problem.epsilon) else { return }
        let pair = [item] + (partner.map { [$0] } ?? [])
        let step = Step(
            item: item, target: target, partner: partner, score: score,
            squares: state.square(source, total: left) + state.square(target, total: right)
                - state.square(source, total: state.totals[source])
                - state.square(target, total: state.totals[target]),
            moves: moves,
            fromLeast: pair.count { problem.isLeast[problem.items[$0].origin] },
            loadMoved: pair.reduce(0) { $0 + problem.items[$1].load })
        if let known = best, !isBetter(step, than: known) { return }
        best = step
    }

    /// Moves more than before: an item that goes back to its origin needs none.
    private func moveChange(_ item: Int, to server: Int) -> Int {
        let origin = problem.items[item].origin
        return (server == origin ? 0 : 1) - (state.places[item] == origin ? 0 : 1)
    }

    private func isBetter(_ step: Step, than other: Step) -> Bool {
        func score(_ step: Step) -> BalanceScore {
            BalanceScore(
                score: step.score, squares: step.squares, moves: step.moves,
                fromLeast: step.fromLeast, loadMoved: step.loadMoved)
        }
        return score(step).compare(score(other), epsilon: problem.epsilon) < 0
    }
}
