extension Placement {
    /// Moves that make the loads even, when they are uneven enough; nil when there is nothing to
    /// do. `now` is in ns of the clock that `rest` was written with.
    public static func balance(
        _ input: PlacementInput, policy: BalancePolicy = .init(), rest: RestTable = .init(),
        now: UInt64 = 0
    ) -> BalancePlan? {
        guard let trigger = Trigger(input, policy: policy) else { return nil }
        guard var plan = bestDistribution(input, policy: policy, rest: rest, now: now) else {
            return nil
        }
        plan.reason = trigger.reason + "; " + plan.reason
        return plan
    }

    /// The best distribution without asking whether loads are uneven; nil when no plan is worth its
    /// moves.
    ///
    /// Spares, servers that are not available and resources that may not be moved or that were
    /// moved a short time ago are left alone. No plan raises the highest load.
    ///
    /// Best is, in this order (`BalanceScore`): the lowest sum of the highest load and of all load
    /// above an even share, each move counting `costPerMove`; then evenness in detail; then the
    /// fewest moves; then moves that take nothing away from the least loaded server; then the least
    /// load moved. Distributions that are worse by no more than `minimumImprovement` count as equal
    /// to the best one: loads are measured, and small differences are noise; of these the fewest
    /// moves, then those that leave the least loaded server alone, win. So loads of 200, 350 and 700 in the specification's example become 400, 450 and
    /// 400 in two moves; two other pairs of moves get there too and move less, but take a resource
    /// away from the server with 200.
    ///
    /// Up to `exactLimit` distributions, all are considered; beyond, a local search is made. Both
    /// are deterministic, and both are stable: asked again after the moves, the answer is nil.
    public static func bestDistribution(
        _ input: PlacementInput, policy: BalancePolicy = .init(), rest: RestTable = .init(),
        now: UInt64 = 0
    ) -> BalancePlan? {
        var state = PlacementState(input)
        let problem = BalanceProblem(state, policy: policy) {
            rest.isResting($0, at: now, for: policy.resourceRestTime)
        }
        guard problem.servers.count > 1, !problem.items.isEmpty, problem.mean > 0 else {
            return nil
        }
        let before = state.loadsByName
        let start = BalanceState(problem)
        var result = DescentSearch.best(of: problem)
        let isExact = problem.size(limit: exactLimit) < exactLimit
        if isExact { result = ExactSearch.best(of: problem, from: result) }
        let worth = max(problem.epsilon, policy.minimumImprovement * problem.mean)
        guard start.score.score - result.score.score > worth else { return nil }
        if isExact, policy.minimumImprovement > 0 {
            // What a plan would not be made for is not worth a move more either. Asked again, the gentler
            // distribution is at most `worth` above the best one, so that nothing moves.
            let limit = min(result.score.score + worth, start.score.score - worth)
            result = ExactSearch.gentlest(of: problem, from: result, limit: limit)
        }
        var targets: [(resource: Int, server: Int)] = []
        for (item, place) in result.places.enumerated() where place != problem.items[item].origin {
            targets.append((problem.items[item].resource, problem.servers[place]))
        }
        targets.sort { $0.resource < $1.resource }
        var moves: [PlannedMove] = []
        for (resource, server) in targets {
            let value = state.resources[resource]
            moves.append(
                PlannedMove(
                    resource: value.name, from: value.assigned, to: state.servers[server].name))
            state.move(resource, to: server)
        }
        let reason =
            "\(moves.count) \(moves.count == 1 ? "move brings" : "moves bring") the highest load "
            + "from \(loadText(start.highest)) to \(loadText(result.highest)), an even share is "
            + loadText(problem.mean)
        return BalancePlan(moves: moves, before: before, after: state.loadsByName, reason: reason)
    }

    /// Distributions up to which all of them are considered: 12 resources that may be on 3 servers
    /// are 531441.
    package static var exactLimit: Int { 600_000 }
}
