/// Looks at all distributions, except where none can be better than the best one so far (branch and
/// bound).
struct ExactSearch {
    private var state: BalanceState
    private var best: BalanceState
    private var bestScore: BalanceScore
    /// No server may come above this.
    private let ceiling: Double
    private var moves = 0
    /// Score up to which distributions count as good: among them the gentlest is looked for.
    private var limit: Double?

    static func best(of problem: BalanceProblem, from start: BalanceState) -> BalanceState {
        var search = ExactSearch(problem, from: start)
        search.descend(to: 0)
        return search.best
    }

    /// Of all distributions up to a score the one with the fewest moves, then the fewest away from the least loaded
    /// server, then the best score: loads are measured, so small differences between scores are noise.
    static func gentlest(
        of problem: BalanceProblem, from start: BalanceState, limit: Double
    ) -> BalanceState {
        var search = ExactSearch(problem, from: start)
        search.limit = limit
        search.descend(to: 0)
        return search.best
    }

    private init(_ problem: BalanceProblem, from start: BalanceState) {
        state = BalanceState(problem)
        ceiling = state.highest + problem.epsilon
        best = start
        bestScore = start.score
        // Only what is fixed is on the servers; items are added one by one.
        fixed = problem.totals
        for item in problem.items { fixed[item.origin] -= item.load }
    }

    /// Loads of what is placed already.
    private var fixed: [Double]

    private mutating func descend(to depth: Int) {
        let problem = state.problem
        guard depth < problem.items.count else {
            let score = state.score
            let isBetter =
                limit.map { score.score <= $0 && score.isGentler(than: bestScore, problem.epsilon) }
                ?? (score.compare(bestScore, epsilon: problem.epsilon) < 0)
            if isBetter {
                (best, bestScore) = (state, score)
            }
            return
        }
        let item = problem.items[depth]
        for option in item.options {
            let isMove = option != item.origin
            fixed[option] += item.load
            moves += isMove ? 1 : 0
            if isMove { state.move(depth, to: option) }
            if canBeBetter(option) { descend(to: depth + 1) }
            if isMove { state.move(depth, to: item.origin) }
            moves -= isMove ? 1 : 0
            fixed[option] -= item.load
        }
    }

    /// Loads only grow further down: what is in excess now remains so.
    private func canBeBetter(_ changed: Int) -> Bool {
        let problem = state.problem
        if fixed[changed] / problem.weights[changed] > ceiling { return false }
        var highest = problem.mean
        var excess = 0.0
        for server in fixed.indices {
            highest = max(highest, fixed[server] / problem.weights[server])
            excess += state.excess(server, total: fixed[server])
        }
        let bound = highest + excess + problem.cost * Double(moves)
        if let limit { return bound <= limit && moves <= bestScore.moves }
        return bound <= bestScore.score + problem.epsilon
    }
}
