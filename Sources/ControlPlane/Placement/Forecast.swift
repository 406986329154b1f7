import Glibc

/// What a forecast needs to know. The defaults are for slots of five minutes and days that are
/// alike.
public struct ForecastSettings: Hashable, Sendable {
    /// Slots after which the pattern repeats.
    public var season: Int
    /// Slots ahead.
    public var horizon: Int
    /// Share of a new value in the level, 0...1.
    public var levelShare: Double
    /// Share of a new value in the trend, 0...1.
    public var trendShare: Double
    /// Share of a new value in the pattern, 0...1.
    public var seasonShare: Double
    /// What is left of the trend after each slot ahead, 0...1: no trend goes on for ever.
    public var damping: Double
    /// Forecasts are used while their error (root of the mean square over the last season, at this
    /// horizon) is at most this fraction of the mean load.
    public var maximumError: Double

    public init(
        season: Int = 288, horizon: Int = 12, levelShare: Double = 0.1, trendShare: Double = 0.005,
        seasonShare: Double = 0.25, damping: Double = 0.998, maximumError: Double = 0.3
    ) {
        self.season = max(1, season)
        self.horizon = max(1, horizon)
        self.levelShare = levelShare
        self.trendShare = trendShare
        self.seasonShare = seasonShare
        self.damping = damping
        self.maximumError = maximumError
    }
}

/// The load of a resource some slots ahead (P34), by triple exponential smoothing (Holt and
/// Winters, additive, with a damped trend): a level, a trend and a pattern that repeats are each
/// carried along and corrected a little by every value.
///
/// Why this method: loads of storage follow the day; it needs no training, no library and a few
/// operations per value, tolerates missing values, and everything it believes can be printed. Its
/// weakness: it knows one season only. A weekend in a daily pattern is a surprise to it, a peak
/// that comes on other days at other times is smeared out, and what never happened before is not
/// foreseen. Its own error tells when this is so, and then it is not used.
public struct Forecast: Hashable, Sendable {
    /// Load expected `horizon` slots after the last value. Not negative.
    public var load: Double
    /// Root of the mean square of errors that forecasts for this horizon had over the last season.
    public var deviation: Double
    /// Mean of the values of the last season.
    public var mean: Double

    /// Good enough to act on it.
    public func isTrusted(_ settings: ForecastSettings) -> Bool {
        deviation <= settings.maximumError * mean
    }

    /// Nil while there is too little to learn from: there must be two whole seasons, after them
    /// forecasts for a quarter of a season that could be compared to what came, and half of the
    /// slots must have been measured.
    public init?(_ values: [Double?], settings: ForecastSettings = .init()) {
        let (season, horizon) = (settings.season, settings.horizon)
        guard values.count >= 2 * season, values.count(where: { $0 != nil }) * 2 >= values.count,
            var model = SeasonalModel(values.prefix(2 * season), settings: settings)
        else { return nil }
        var expected = [Double?](repeating: nil, count: values.count + horizon)
        var (squares, errors, sum, count) = (0.0, 0, 0.0, 0)
        let recent = values.count - season
        for slot in values.indices {
            if slot >= recent, let value = values[slot] {
                sum += value
                count += 1
                if let forecast = expected[slot] {
                    squares += (value - forecast) * (value - forecast)
                    errors += 1
                }
            }
            model.add(values[slot], at: slot)
            // Forecasts made within what the pattern was started from would be too good to be true.
            if slot >= 2 * season - 1 {
                expected[slot + horizon] = model.forecast(horizon, after: slot)
            }
        }
        guard errors * 4 >= season, count > 0, let last = expected[values.count - 1 + horizon]
        else { return nil }
        load = max(0, last)
        deviation = (squares / Double(errors)).squareRoot()
        mean = sum / Double(count)
        guard load.isFinite, deviation.isFinite else { return nil }
    }
}

/// Level, trend and pattern.
struct SeasonalModel {
    private var level: Double
    private var trend: Double
    private var pattern: [Double]
    private let settings: ForecastSettings

    /// Starts from two seasons: their means give level and trend, the rest is the pattern.
    init?(_ start: ArraySlice<Double?>, settings: ForecastSettings) {
        self.settings = settings
        let season = settings.season
        let values = Array(start)
        func mean(_ range: Range<Int>) -> Double? {
            let known = values[range].compactMap { $0 }
            return known.isEmpty ? nil : known.reduce(0, +) / Double(known.count)
        }
        guard let first = mean(0..<season), let second = mean(season..<2 * season) else {
            return nil
        }
        let slope = (second - first) / Double(season)
        let middle = Double(season - 1) / 2
        pattern = (0..<season).map { slot in
            let offset = slope * (Double(slot) - middle)
            let parts = [
                values[slot].map { $0 - first - offset },
                values[slot + season].map { $0 - second - offset },
            ].compactMap { $0 }
            return parts.isEmpty ? 0 : parts.reduce(0, +) / Double(parts.count)
        }
        trend = slope
        level = first - slope * (middle + 1)
    }

    /// A value that is missing is taken to be the expected one.
    mutating func add(_ value: Double?, at slot: Int) {
        let place = slot % settings.season
        let expected = level + settings.damping * trend
        guard let value else {
            level = expected
            trend *= settings.damping
            return
        }
        let old = level
        level = expected + settings.levelShare * (value - pattern[place] - expected)
        let damped = settings.damping * trend
        trend = damped + settings.trendShare * (level - old - damped)
        pattern[place] += settings.seasonShare * (value - level - pattern[place])
    }

    func forecast(_ horizon: Int, after slot: Int) -> Double {
        let damping = settings.damping
        // Sum of damping ^ 1 ... horizon.
        let steps =
            damping == 1
            ? Double(horizon) : damping * (1 - pow(damping, Double(horizon))) / (1 - damping)
        return level + steps * trend + pattern[(slot + horizon) % settings.season]
    }
}
