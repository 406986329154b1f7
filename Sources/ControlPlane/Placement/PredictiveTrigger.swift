/// Moves resources before loads become uneven: the trigger on the loads that are forecast (P34).
///
/// A false alarm costs moves for nothing, therefore all of this must hold: the forecasts are good
/// enough (a resource whose forecasts are not counts with its load of now; without any good one
/// nothing is predicted); the trigger fires also when the highest load is taken lower and the
/// lowest higher by `caution` standard deviations; it does so in `confirmations` forecasts in a
/// row; and the plan does not make the loads of *now* uneven, which would send the resources back
/// at once.
public struct PredictiveTrigger: Sendable {
    public var settings: ForecastSettings
    /// Forecasts in a row that have to agree.
    public var confirmations: Int
    /// Standard deviations of the forecast error that have to be between the loads and the limit.
    public var caution: Double
    private var agreeing = 0

    public init(
        settings: ForecastSettings = .init(), confirmations: Int = 2, caution: Double = 1
    ) {
        self.settings = settings
        self.confirmations = max(1, confirmations)
        self.caution = caution
    }

    /// To be asked once for each slot. `input` has the loads of now; the plan's loads are those
    /// forecast.
    public mutating func plan(
        _ input: PlacementInput, histories: [String: LoadHistory], policy: BalancePolicy = .init(),
        rest: RestTable = .init(), now: UInt64 = 0
    ) -> BalancePlan? {
        guard let (ahead, trigger) = alarm(input, histories, policy) else {
            agreeing = 0
            return nil
        }
        agreeing += 1
        guard agreeing >= confirmations,
            var plan = Placement.bestDistribution(ahead, policy: policy, rest: rest, now: now),
            isHarmless(plan, input, policy)
        else { return nil }
        agreeing = 0
        plan.reason =
            "forecast for \(settings.horizon) slots ahead: \(trigger.reason); " + plan.reason
        return plan
    }

    /// Loads that are forecast, and the trigger when it fires on them with caution.
    private func alarm(
        _ input: PlacementInput, _ histories: [String: LoadHistory], _ policy: BalancePolicy
    ) -> (PlacementInput, Placement.Trigger)? {
        var ahead = input
        var variances: [String: Double] = [:]
        var isForecast = false
        for position in input.resources.indices {
            let resource = input.resources[position]
            guard let values = histories[resource.name]?.values,
                let forecast = Forecast(values, settings: settings), forecast.isTrusted(settings)
            else { continue }
            isForecast = true
            ahead.resources[position].load = forecast.load
            let variance = forecast.deviation * forecast.deviation
            if let server = resource.assigned { variances[server, default: 0] += variance }
        }
        guard isForecast, let trigger = Placement.Trigger(ahead, policy: policy) else { return nil }
        func margin(_ name: String) -> Double {
            let weight = input.servers.first { $0.name == name }?.weight ?? 1
            return caution * (variances[name] ?? 0).squareRoot() / (weight > 0 ? weight : 1)
        }
        let high = trigger.highestLoad - margin(trigger.highest)
        let low = trigger.lowestLoad + margin(trigger.lowest)
        return high > policy.ratio * low && high > policy.floor ? (ahead, trigger) : nil
    }

    /// Whether the loads of now stay even, or were not even anyway.
    private func isHarmless(
        _ plan: BalancePlan, _ input: PlacementInput, _ policy: BalancePolicy
    ) -> Bool {
        if Placement.Trigger(input, policy: policy) != nil { return true }
        let targets = Dictionary(
            plan.moves.map { ($0.resource, $0.to) }, uniquingKeysWith: { first, _ in first })
        var moved = input
        for position in moved.resources.indices {
            guard let target = targets[moved.resources[position].name] else { continue }
            moved.resources[position].assigned = target
        }
        return Placement.Trigger(moved, policy: policy) == nil
    }
}
