/// What the search for a better distribution works on: numbers only, servers and resources by
/// position.
struct BalanceProblem {
    struct Item {
        /// Position among the resources of the input.
        var resource: Int
        var load: Double
        var origin: Int
        /// Servers it may be on; the origin is the first.
        var options: [Int]
    }

    /// Heaviest first; then in the order of the configuration.
    var items: [Item] = []
    /// Of the servers that take part.
    var weights: [Double] = []
    /// Loads as they are, not divided.
    var totals: [Double] = []
    /// Cost of a move, in load.
    var cost = 0.0
    /// Load of a server of weight 1 if all were even.
    var mean = 0.0
    /// Whether a server is the least loaded one (or as low as it) to begin with.
    var isLeast: [Bool] = []
    /// Differences below this are none.
    var epsilon = 0.0
    /// Position of each server among the servers of the input.
    var servers: [Int] = []

    init(_ state: PlacementState, policy: BalancePolicy, isResting: (String) -> Bool) {
        servers = state.balanced
        weights = servers.map { 1 / state.relativeLoad($0, total: 1) }
        totals = servers.map { state.totals[$0] }
        let power = weights.reduce(0, +)
        let sum = totals.reduce(0, +)
        guard power > 0 else { return }
        mean = sum / power
        epsilon = 1e-9 * (sum + 1)
        let least = servers.map(state.relativeLoad).min() ?? 0
        isLeast = servers.map { state.relativeLoad($0) <= least + epsilon }
        addItems(of: state, policy: policy, isResting: isResting)
    }

    private mutating func addItems(
        of state: PlacementState, policy: BalancePolicy, isResting: (String) -> Bool
    ) {
        var local = [Int?](repeating: nil, count: state.servers.count)
        for (position, server) in servers.enumerated() { local[server] = position }
        var (placed, load) = (0, 0.0)
        for resource in state.resources.indices {
            guard let place = state.places[resource], let origin = local[place] else { continue }
            placed += 1
            load += state.loads[resource]
            guard state.canMove(resource), !isResting(state.resources[resource].name) else {
                continue
            }
            let options = state.holders[resource].compactMap { local[$0] }.filter { $0 != origin }
            items.append(
                Item(
                    resource: resource, load: state.loads[resource], origin: origin,
                    options: [origin] + options))
        }
        cost = placed > 0 ? max(0, policy.costPerMove) * load / Double(placed) : 0
        items.sort { ($1.load, $0.resource) < ($0.load, $1.resource) }
    }

    /// Distributions there are, at most `limit`: the same before and after moves.
    func size(limit: Int) -> Int {
        var size = 1
        for item in items {
            size *= item.options.count
            if size >= limit { return limit }
        }
        return size
    }
}

/// How good a distribution is; a smaller one is better.
///
/// First comes `score`: the highest relative load, plus the load that is in excess of an even share
/// over all servers, plus the cost of the moves. The excess is there because the highest load alone
/// would not care for the others once the worst server cannot be helped. Then the sum of squares,
/// the evenness in detail. Then what the way there takes: the number of moves, how many of them
/// take a resource away from the least loaded server (a server that is to get load should not lose
/// sessions), and the load moved.
struct BalanceScore {
    var score: Double
    var squares: Double
    var moves = 0
    var fromLeast = 0
    var loadMoved = 0.0

    /// Fewer moves, then fewer that take something away from the least loaded server, then what `compare` says.
    func isGentler(than other: Self, _ epsilon: Double) -> Bool {
        if moves != other.moves { return moves < other.moves }
        if fromLeast != other.fromLeast { return fromLeast < other.fromLeast }
        return compare(other, epsilon: epsilon) < 0
    }

    /// -1, 0 or 1; differences below `epsilon` are none.
    func compare(_ other: Self, epsilon: Double) -> Int {
        if abs(score - other.score) > epsilon { return score < other.score ? -1 : 1 }
        // Of the second order: a relative bound, squares have another magnitude.
        let bound = 1e-9 * (abs(squares) + abs(other.squares))
        if abs(squares - other.squares) > bound { return squares < other.squares ? -1 : 1 }
        if moves != other.moves { return moves < other.moves ? -1 : 1 }
        if fromLeast != other.fromLeast { return fromLeast < other.fromLeast ? -1 : 1 }
        if abs(loadMoved - other.loadMoved) > epsilon {
            return loadMoved < other.loadMoved ? -1 : 1
        }
        return 0
    }
}

/// A distribution under construction.
struct BalanceState {
    let problem: BalanceProblem
    /// Server of each item.
    private(set) var places: [Int]
    private(set) var totals: [Double]

    init(_ problem: BalanceProblem) {
        self.problem = problem
        places = problem.items.map(\.origin)
        totals = problem.totals
    }

    mutating func move(_ item: Int, to server: Int) {
        totals[places[item]] -= problem.items[item].load
        totals[server] += problem.items[item].load
        places[item] = server
    }

    func relative(_ server: Int) -> Double { totals[server] / problem.weights[server] }

    func excess(_ server: Int, total: Double) -> Double {
        max(0, total - problem.mean * problem.weights[server])
    }

    func square(_ server: Int, total: Double) -> Double {
        total * total / problem.weights[server]
    }

    var highest: Double { totals.indices.map(relative).max() ?? 0 }

    /// Everything anew: no error accumulates.
    var score: BalanceScore {
        var result = BalanceScore(score: 0, squares: 0)
        var highest = 0.0
        for server in totals.indices {
            highest = max(highest, relative(server))
            result.score += excess(server, total: totals[server])
            result.squares += square(server, total: totals[server])
        }
        for (item, place) in places.enumerated() where place != problem.items[item].origin {
            result.moves += 1
            result.fromLeast += problem.isLeast[problem.items[item].origin] ? 1 : 0
            result.loadMoved += problem.items[item].load
        }
        result.score += highest + problem.cost * Double(result.moves)
        return result
    }
}
