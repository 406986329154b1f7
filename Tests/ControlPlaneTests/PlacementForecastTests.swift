import ControlPlane
import Foundation
import TestSupport
import Testing

/// Forecast of loads and the trigger that works on it. Slots of five minutes, 288 a day.
@Suite struct PlacementForecastTests {
    private static let day = 288
    private static let slot: UInt64 = 300_000_000_000

    /// Normally distributed (Box and Muller).
    private static func noise(_ random: inout SplitMix64) -> Double {
        let one = Double.random(in: 1e-12..<1, using: &random)
        let two = Double.random(in: 0..<1, using: &random)
        return (-2 * log(one)).squareRoot() * cos(2 * .pi * two)
    }

    /// 20 at night, 120 in the afternoon.
    private static func daily(_ slot: Int, peak: Double = 15) -> Double {
        let hour = Double(slot % day) / 12
        return 20 + 100 * exp(-pow(hour - peak, 2) / 8)
    }

    private static func series(_ count: Int, seed: UInt64, _ value: (Int) -> Double) -> [Double?] {
        var random = SplitMix64(seed: seed)
        return (0..<count).map { value($0) * (1 + 0.05 * noise(&random)) }
    }

    @Test func aDailyPatternIsForeseen() throws {
        let values = Self.series(10 * Self.day, seed: 1) { Self.daily($0) }
        var errors: [Double] = []
        // Over the rise of the last day: an hour ahead.
        let settings = ForecastSettings(horizon: 12)
        for end in stride(from: 9 * Self.day + 96, to: 9 * Self.day + 192, by: 6) {
            let forecast = try #require(Forecast(Array(values[..<end]), settings: settings))
            #expect(forecast.isTrusted(settings))
            errors.append(abs(forecast.load - Self.daily(end + 11)) / Self.daily(end + 11))
        }
        // Taking the load of now is up to 60 % wrong there.
        #expect(errors.max()! < 0.2)
        #expect(errors.reduce(0, +) / Double(errors.count) < 0.08)
    }

    @Test func aTrendIsFollowed() throws {
        let settings = ForecastSettings(season: 24, horizon: 6)
        let values: [Double?] = (0..<240).map { 100 + Double($0) }
        let forecast = try #require(Forecast(values, settings: settings))
        // Smoothed: above the last value, a little below the line, which is at 345 then.
        #expect(forecast.load > 100 + 239 + 2 && forecast.load < 100 + 239 + 7)
        let flat = try #require(
            Forecast([Double?](repeating: 50, count: 240), settings: settings))
        #expect(abs(flat.load - 50) < 1e-6 && flat.deviation < 1e-6 && flat.mean == 50)
    }

    @Test func missingValuesAreFilledWithWhatWasExpected() throws {
        var values = Self.series(10 * Self.day, seed: 2) { Self.daily($0) }
        let whole = try #require(Forecast(values))
        var random = SplitMix64(seed: 3)
        for slot in values.indices where Int.random(in: 0..<5, using: &random) == 0 {
            values[slot] = nil
        }
        // And the last two hours are not known at all.
        for slot in values.indices.suffix(24) { values[slot] = nil }
        let holes = try #require(Forecast(values))
        #expect(abs(holes.load - whole.load) < 0.15 * whole.load)
        #expect(holes.isTrusted(.init()))
        for slot in values.indices where slot % 5 != 0 { values[slot] = nil }
        #expect(Forecast(values) == nil)
    }

    @Test func tooLittleIsNotForecast() {
        let values = Self.series(3 * Self.day, seed: 4) { Self.daily($0) }
        #expect(Forecast(Array(values[..<(2 * Self.day - 1)])) == nil)
        #expect(Forecast(Array(values[..<(2 * Self.day + 60)])) == nil)
        #expect(Forecast(values) != nil)
        #expect(Forecast([]) == nil)
    }

    @Test func whatDoesNotRepeatIsNotTrusted() throws {
        var random = SplitMix64(seed: 5)
        let values: [Double?] = (0..<5 * Self.day).map { _ in
            Int.random(in: 0..<20, using: &random) == 0 ? 500 : 1
        }
        #expect(try !#require(Forecast(values)).isTrusted(.init()))
    }

    @Test func historyFillsGapsAndForgets() {
        var history = LoadHistory(slotLength: .seconds(10), capacity: 5)
        func add(_ load: Double, _ second: UInt64) -> Bool {
            history.add(load, at: second * 1_000_000_000)
        }
        var closed = [add(1, 3), add(3, 9)]
        #expect(history.values.isEmpty)
        closed += [add(5, 10), add(.nan, 25)]
        #expect(history.values == [2])
        closed += [add(7, 41)]
        #expect(history.values == [2, 5, nil, nil])
        // Late samples count to the open slot.
        closed += [add(9, 12), add(1, 50), add(1, 60)]
        #expect(closed == [false, false, true, false, true, false, true, true])
        #expect(history.values == [5, nil, nil, 8, 1])
        history.add(4, at: UInt64.max)
        #expect(history.values == [nil, nil, nil, nil, nil])
        #expect(history.count == 5)
    }

    /// What a simulation of some days came to.
    private struct Outcome {
        var planned: [Int: Int] = [:]
        var uneven: [Int: Int] = [:]
        var plans = 0
    }

    /// Two resources on each of two servers, put back at midnight. Takes down when each day the
    /// trigger on forecasts planned and when the loads themselves were uneven, as if nothing had
    /// moved.
    private func simulate(_ loads: [[Double?]], days: Int) -> Outcome {
        let names = ["r1", "r2", "r3", "r4"]
        var input = PlacementBalanceTests.input([[0, 0], [0, 0]])
        var histories = Dictionary(uniqueKeysWithValues: names.map { ($0, LoadHistory()) })
        var trigger = PredictiveTrigger()
        var outcome = Outcome()
        for slot in 0..<(days * Self.day) {
            let now = UInt64(slot) * Self.slot
            for (position, name) in names.enumerated() {
                guard let load = loads[position][slot] else { continue }
                histories[name]!.add(load, at: now)
                input.resources[position].load = load
            }
            let today = slot / Self.day
            if Placement.Trigger(input, policy: .init()) != nil, outcome.uneven[today] == nil {
                outcome.uneven[today] = slot % Self.day
            }
            guard outcome.planned[today] == nil,
                trigger.plan(input, histories: histories, now: now) != nil
            else { continue }
            outcome.planned[today] = slot % Self.day
            outcome.plans += 1
        }
        return outcome
    }

    @Test("A daily peak: the plan is there before the loads are uneven, on 9 of 10 days")
    func beforeThePeak() {
        // r1 and r2 have their peak in the afternoon, r3 and r4 are flat.
        let loads = (0..<4).map { number in
            Self.series(14 * Self.day, seed: UInt64(20 + number)) {
                number < 2 ? Self.daily($0) : 45
            }
        }
        // At night the other server is the one that has more; that is not counted.
        let shifted = loads.enumerated().map { number, values in
            number < 2 ? values.map { $0.map { $0 + 20 } } : values
        }
        let outcome = simulate(shifted, days: 14)
        // Three days to learn from, and the fourth to look at forecasts.
        let days = 4..<14
        let early = days.count { day in
            guard let planned = outcome.planned[day], let uneven = outcome.uneven[day] else {
                return false
            }
            return planned < uneven
        }
        #expect(days.allSatisfy { outcome.uneven[$0] != nil })
        #expect(early >= 9, "\(outcome.planned) \(outcome.uneven)")
    }

    @Test("Flat and noisy: no plan in 30 days")
    func noFalseAlarm() {
        let loads = (0..<4).map { number in
            var random = SplitMix64(seed: UInt64(40 + number))
            return (0..<30 * Self.day).map { _ -> Double? in
                100 * max(0, 1 + 0.15 * Self.noise(&random))
            }
        }
        #expect(simulate(loads, days: 30).plans == 0)
    }

    @Test func aPlanThatWouldMakeTheLoadsOfNowUnevenWaits() {
        // Night: r1 and r2 are idle, to move one to the other server then makes that worse off.
        var trigger = PredictiveTrigger(settings: ForecastSettings(season: 4, horizon: 1))
        var histories: [String: LoadHistory] = [:]
        let patterns: [[Double]] = [
            [100, 1, 1, 1], [100, 1, 1, 1], [10, 10, 10, 10], [1, 1, 1, 1],
        ]
        var input = PlacementBalanceTests.input([[1, 1], [1, 1]])
        for (number, pattern) in patterns.enumerated() {
            var history = LoadHistory(slotLength: .seconds(1), capacity: 100)
            for slot in 0...44 { history.add(pattern[slot % 4], at: UInt64(slot) * 1_000_000_000) }
            histories["r\(number + 1)"] = history
        }
        var plans: [BalancePlan?] = []
        // The loads of now are even, and would be 1 to 3 after a move.
        for _ in 0..<4 { plans.append(trigger.plan(input, histories: histories)) }
        #expect(plans.allSatisfy { $0 == nil })
        // With loads that stay even the second forecast in a row is enough.
        input = PlacementBalanceTests.input([[1, 10], [5, 4]])
        trigger = PredictiveTrigger(settings: trigger.settings)
        plans = []
        for known in [histories, histories, [:]] {
            plans.append(trigger.plan(input, histories: known))
        }
        #expect(plans.map { $0 != nil } == [false, true, false])
    }
}
