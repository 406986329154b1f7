/// When loads count as uneven and what a move has to be worth. The defaults are those of the
/// specification where it names a number, else chosen so that noise of a few percent moves nothing.
public struct BalancePolicy: Hashable, Sendable {
    /// The most loaded server must have *more* than this many times the load of the least loaded
    /// one; 1.5 is "more than 50 % above".
    public var ratio: Double
    /// Load below which a server counts as idle, in the unit of the load formula: nothing moves
    /// while no server is above it.
    public var floor: Double
    /// What a plan must gain at least, as a fraction of the mean load of a server.
    public var minimumImprovement: Double
    /// What each move must gain at least, as a fraction of the mean load of a resource: sessions
    /// pause for a moment.
    public var costPerMove: Double
    /// Time for which a resource stays where it is after it was moved.
    public var resourceRestTime: Duration

    public init(
        ratio: Double = 1.5, floor: Double = 1, minimumImprovement: Double = 0.05,
        costPerMove: Double = 0.1, resourceRestTime: Duration = .seconds(600)
    ) {
        self.ratio = ratio
        self.floor = floor
        self.minimumImprovement = minimumImprovement
        self.costPerMove = costPerMove
        self.resourceRestTime = resourceRestTime
    }
}

/// Moves that even out the loads, and why.
public struct BalancePlan: Hashable, Sendable {
    /// In the order of the configuration. May be applied in any order and at the same time.
    public var moves: [PlannedMove]
    /// Load of each server divided by its weight, as it is.
    public var before: [String: Double]
    /// The same after all moves.
    public var after: [String: Double]
    /// For people: what was uneven and what the moves achieve.
    public var reason: String
}

/// When a resource was moved last.
public struct RestTable: Hashable, Sendable {
    /// ns of any monotonic clock.
    private var moves: [String: UInt64] = [:]

    public init() {}

    /// Takes down that a resource was moved, for whatever reason.
    public mutating func record(_ resource: String, at now: UInt64) { moves[resource] = now }

    /// Whether a resource was moved less than `time` ago.
    public func isResting(_ resource: String, at now: UInt64, for time: Duration) -> Bool {
        guard let moved = moves[resource] else { return false }
        let elapsed = now > moved ? now - moved : 0
        return Duration.nanoseconds(Int64(clamping: elapsed)) < time
    }

    /// Forgets resources that are no more.
    public mutating func keep(_ names: Set<String>) {
        moves = moves.filter { names.contains($0.key) }
    }
}

/// A load for people: whole, or with one digit when it is small.
func loadText(_ load: Double) -> String {
    guard load.isFinite, abs(load) < 1e15 else { return "\(load)" }
    if load.rounded() == load || abs(load) >= 100 { return String(Int64(load.rounded())) }
    return "\((load * 10).rounded() / 10)"
}
