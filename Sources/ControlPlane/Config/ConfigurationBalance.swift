import Yams

extension Configuration {
    /// How loads are measured, and when resources move because of them.
    public struct Balance: Hashable, Sendable {
        /// Resources move by themselves from the start on.
        public var isAutomatic = false
        /// Between two looks at the loads. A rise is seen within a second, yet never acted on twice in this time.
        public var intervalMilliseconds = 10_000
        /// Time in which a measured load loses half of its weight.
        public var halfLifeMilliseconds = 5_000
        public var policy = BalancePolicy()
        public var weights = LoadWeights()
        public var prediction = Prediction()
        /// Where loads of the past are kept over restarts; nil: nowhere.
        public var historyFile: String?
        public init() {}
    }

    /// Moves before loads become uneven.
    public struct Prediction: Hashable, Sendable {
        public var isEnabled = false
        /// Length of a slot, whose mean load is one value.
        public var slotSeconds = 300
        /// Slots after which loads repeat.
        public var seasonSlots = 288
        public var horizonSeconds = 3_600
        /// Largest error of forecasts that are used, as a fraction of the mean load.
        public var maximumError = 0.3
        /// Forecasts in a row that must agree.
        public var confirmations = 2
        /// Standard deviations of the error that a forecast must be beyond the limit.
        public var caution = 1.0
        public init() {}

        var settings: ForecastSettings {
            ForecastSettings(
                season: seasonSlots, horizon: max(1, horizonSeconds / slotSeconds),
                maximumError: maximumError)
        }
    }
}

extension ConfigurationReader {
    func yes(_ node: Node?, _ field: String, default fallback: Bool) -> Bool {
        guard let node else { return fallback }
        switch node.scalar?.string {
        case "true": return true
        case "false": return false
        default:
            fail(node, field, "must be true or false, not \"\(node.scalar?.string ?? "?")\"")
            return fallback
        }
    }

    private func real(
        _ node: Node?, _ field: String, in range: ClosedRange<Double>, default fallback: Double
    ) -> Double {
        node.map { real($0, field, in: range) } ?? fallback
    }

    /// The section `balance`.
    func balance(_ node: Node?) -> Configuration.Balance {
        var result = Configuration.Balance()
        let values = mapping(
            node, "balance",
            keys: [
                "auto", "interval_ms", "half_life_ms", "ratio", "minimum_improvement", "move_cost",
                "rest_s", "floor", "weights", "predict", "history_file",
            ])
        result.isAutomatic = yes(values["auto"], "balance.auto", default: result.isAutomatic)
        result.intervalMilliseconds = integer(
            values["interval_ms"], "balance.interval_ms", in: 1_000...3_600_000,
            default: result.intervalMilliseconds)
        result.halfLifeMilliseconds = integer(
            values["half_life_ms"], "balance.half_life_ms", in: 0...3_600_000,
            default: result.halfLifeMilliseconds)
        result.policy = policy(values, result.policy)
        result.weights = weights(values["weights"], result.weights)
        result.prediction = prediction(values["predict"])
        if let file = values["history_file"] {
            let path = string(file, "balance.history_file")
            if !path.isEmpty, !path.hasPrefix("/") {
                fail(file, "balance.history_file", "must be an absolute path, not \"\(path)\"")
            }
            result.historyFile = path
        }
        return result
    }

    private func policy(_ values: [String: Node], _ standard: BalancePolicy) -> BalancePolicy {
        BalancePolicy(
            ratio: real(values["ratio"], "balance.ratio", in: 1...1_000, default: standard.ratio),
            floor: real(values["floor"], "balance.floor", in: 0...1e12, default: standard.floor),
            minimumImprovement: real(
                values["minimum_improvement"], "balance.minimum_improvement", in: 0...10,
                default: standard.minimumImprovement),
            costPerMove: real(
                values["move_cost"], "balance.move_cost", in: 0...10, default: standard.costPerMove),
            resourceRestTime: .seconds(
                integer(
                    values["rest_s"], "balance.rest_s", in: 0...604_800,
                    default: Int(standard.resourceRestTime.components.seconds))))
    }

    private static let weightKeys:
        [(
            key: String, path: any WritableKeyPath<LoadWeights, Double> & Sendable, maximum: Double
        )] = [
            ("requests", \.perRequest, 1e9), ("bytes", \.perMebibyte, 1e9),
            ("open", \.perOutstanding, 1e9), ("latency", \.perSecondOfLatency, 1e9),
            ("cpu", \.perProcessor, 1e9), ("cpu_floor", \.processorFloor, 0.99),
            ("memory", \.perMemory, 1e9), ("memory_floor", \.memoryFloor, 0.99),
        ]

    private func weights(_ node: Node?, _ standard: LoadWeights) -> LoadWeights {
        var result = standard
        let values = mapping(node, "balance.weights", keys: Self.weightKeys.map(\.key))
        for (key, path, maximum) in Self.weightKeys {
            result[keyPath: path] = real(
                values[key], "balance.weights.\(key)", in: 0...maximum,
                default: standard[keyPath: path])
        }
        let isBlind =
            result.perRequest == 0 && result.perMebibyte == 0 && result.perOutstanding == 0
            && result.perSecondOfLatency == 0
        if isBlind {
            fail(
                node, "balance.weights",
                "requests, bytes, open and latency are all 0: no resource would have a load")
        }
        return result
    }

    private func prediction(_ node: Node?) -> Configuration.Prediction {
        var result = Configuration.Prediction()
        let field = "balance.predict"
        let values = mapping(
            node, field,
            keys: [
                "enabled", "slot_s", "season_slots", "horizon_s", "maximum_error", "confirmations",
                "caution",
            ])
        result.isEnabled = yes(values["enabled"], "\(field).enabled", default: result.isEnabled)
        result.slotSeconds = integer(
            values["slot_s"], "\(field).slot_s", in: 1...86_400, default: result.slotSeconds)
        result.seasonSlots = integer(
            values["season_slots"], "\(field).season_slots", in: 2...2_016,
            default: result.seasonSlots)
        let season = result.slotSeconds * result.seasonSlots
        result.horizonSeconds = integer(
            values["horizon_s"], "\(field).horizon_s", in: 1...604_800,
            default: min(season, max(result.slotSeconds, result.horizonSeconds)))
        result.maximumError = real(
            values["maximum_error"], "\(field).maximum_error", in: 0...10,
            default: result.maximumError)
        result.confirmations = integer(
            values["confirmations"], "\(field).confirmations", in: 1...100,
            default: result.confirmations)
        result.caution = real(
            values["caution"], "\(field).caution", in: 0...100, default: result.caution)
        if !(result.slotSeconds...season).contains(result.horizonSeconds) {
            fail(
                values["horizon_s"] ?? node, "\(field).horizon_s",
                "must be at least one slot (\(result.slotSeconds) s) and at most a season "
                    + "(\(season) s)")
        }
        return result
    }
}

extension Configuration.Balance {
    /// Each setting as people know it, for comparing.
    var texts: [(key: String, value: String)] {
        [
            ("auto", "\(isAutomatic)"), ("interval_ms", "\(intervalMilliseconds)"),
            ("half_life_ms", "\(halfLifeMilliseconds)"), ("ratio", "\(policy.ratio)"),
            ("floor", "\(policy.floor)"), ("minimum_improvement", "\(policy.minimumImprovement)"),
            ("move_cost", "\(policy.costPerMove)"),
            ("rest_s", "\(policy.resourceRestTime.components.seconds)"),
            ("weights.requests", "\(weights.perRequest)"),
            ("weights.bytes", "\(weights.perMebibyte)"),
            ("weights.open", "\(weights.perOutstanding)"),
            ("weights.latency", "\(weights.perSecondOfLatency)"),
            ("weights.cpu", "\(weights.perProcessor)"),
            ("weights.cpu_floor", "\(weights.processorFloor)"),
            ("weights.memory", "\(weights.perMemory)"),
            ("weights.memory_floor", "\(weights.memoryFloor)"),
            ("predict.enabled", "\(prediction.isEnabled)"),
            ("predict.slot_s", "\(prediction.slotSeconds)"),
            ("predict.season_slots", "\(prediction.seasonSlots)"),
            ("predict.horizon_s", "\(prediction.horizonSeconds)"),
            ("predict.maximum_error", "\(prediction.maximumError)"),
            ("predict.confirmations", "\(prediction.confirmations)"),
            ("predict.caution", "\(prediction.caution)"),
            ("history_file", historyFile ?? "none"),
        ]
    }
}
