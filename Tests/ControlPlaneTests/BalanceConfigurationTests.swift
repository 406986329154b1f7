import ControlPlane
import Testing

private let head = """
    ports:
      - {name: c0, device: c0, side: client}
      - {name: s1, device: s1, side: storage}
    cpu:
      client: {device: dsr-client, mac: "02:00:00:00:00:01", addresses: [10.1.0.1/24]}
      storage: {device: dsr-storage, mac: "02:00:00:00:00:02", addresses: [10.2.0.1/24]}
    servers:
      - {name: a, addresses: [10.2.0.11]}
      - {name: b, addresses: [10.2.0.12]}
    resources:
      - {name: r1, target: iqn.2026-01.x:r1, servers: [a, b], assigned: a, serve: any}
      - {name: r2, target: iqn.2026-01.x:r2, servers: [a, b], assigned: b}

    """

private func parse(_ balance: String) throws -> Configuration {
    try Configuration.parse(text: head + balance + "\n", file: "x")
}

@Suite struct BalanceConfigurationTests {
    @Test func defaults() throws {
        let result = try parse("")
        #expect(result.balance == Configuration.Balance())
        #expect(!result.balance.isAutomatic && result.balance.policy.ratio == 1.5)
        #expect(result.resources.map(\.serving) == [.any, .one])
    }

    @Test func `every field`() throws {
        let balance = try parse(
            """
            balance:
              auto: true
              interval_ms: 2000
              half_life_ms: 1000
              ratio: 2.5
              minimum_improvement: 0.2
              move_cost: 0.3
              rest_s: 7
              floor: 9
              weights: {requests: 2, bytes: 0, open: 3, latency: 4, cpu: 5, cpu_floor: 0.1, memory: 6, memory_floor: 0.2}
              predict: {enabled: true, slot_s: 60, season_slots: 24, horizon_s: 120, maximum_error: 0.5, confirmations: 3, caution: 2}
              history_file: /var/lib/dsr/loads.json
            """
        ).balance
        var expected = Configuration.Balance()
        expected.isAutomatic = true
        expected.intervalMilliseconds = 2_000
        expected.halfLifeMilliseconds = 1_000
        expected.policy = BalancePolicy(
            ratio: 2.5, floor: 9, minimumImprovement: 0.2, costPerMove: 0.3,
            resourceRestTime: .seconds(7))
        expected.weights = LoadWeights(
            perRequest: 2, perMebibyte: 0, perOutstanding: 3, perSecondOfLatency: 4,
            perProcessor: 5, processorFloor: 0.1, perMemory: 6, memoryFloor: 0.2)
        expected.prediction.isEnabled = true
        expected.prediction.slotSeconds = 60
        expected.prediction.seasonSlots = 24
        expected.prediction.horizonSeconds = 120
        expected.prediction.maximumError = 0.5
        expected.prediction.confirmations = 3
        expected.prediction.caution = 2
        expected.historyFile = "/var/lib/dsr/loads.json"
        #expect(balance == expected)
    }

    @Test(arguments: [
        ("{auto: yess}", "balance.auto", "true or false"),
        ("{automatic: true}", "balance.automatic", "unknown"),
        ("{interval_ms: 10}", "balance.interval_ms", "1000"),
        ("{ratio: 0.5}", "balance.ratio", "from 1"),
        ("{floor: -1}", "balance.floor", "from 0"),
        ("{rest_s: x}", "balance.rest_s", "number"),
        ("{weights: {request: 1}}", "balance.weights.request", "did you mean requests"),
        ("{weights: {requests: -1}}", "balance.weights.requests", "from 0"),
        ("{weights: {cpu_floor: 1}}", "balance.weights.cpu_floor", "0.99"),
        ("{weights: {requests: 0, bytes: 0, open: 0}}", "balance.weights", "all 0"),
        ("{predict: {slot_s: 0}}", "balance.predict.slot_s", "from 1"),
        ("{predict: {horizon_s: 100}}", "balance.predict.horizon_s", "one slot (300 s)"),
        (
            "{predict: {season_slots: 2, horizon_s: 601}}", "balance.predict.horizon_s",
            "a season (600 s)"
        ),
        ("{history_file: loads.json}", "balance.history_file", "absolute"),
        ("[1]", "balance", "mapping"),
    ])
    func `errors name field and what is right`(
        text: String, field: String, message: String
    ) throws {
        let error = try #require(
            throws: ConfigurationErrors.self, performing: { _ = try parse("balance: \(text)") })
        #expect(error.errors.map(\.field) == [field])
        #expect(error.errors.first?.message.contains(message) == true, "\(error)")
        #expect(error.errors.first?.line == 13)
    }

    @Test func `a short season needs no horizon`() throws {
        let prediction = try parse("balance: {predict: {slot_s: 1, season_slots: 10}}").balance
            .prediction
        #expect(prediction.horizonSeconds == 10)
    }

    @Test func `serve is one or any`() throws {
        let text = head.replacing("serve: any", with: "serve: all")
        let error = try #require(
            throws: ConfigurationErrors.self,
            performing: { _ = try Configuration.parse(text: text, file: "x") })
        #expect(error.errors.map(\.field) == ["resources[0].serve"])
    }

    @Test func `all of it is changed live`() throws {
        let plan = ReloadPlan(
            from: try parse("balance: {auto: false}"),
            to: try parse("balance: {auto: true, weights: {open: 0}, history_file: /x}"))
        #expect(plan.needsRestart == [])
        #expect(
            plan.changes == [
                "balance.auto: false to true", "balance.weights.open: 4.0 to 0.0",
                "balance.history_file: none to /x",
            ])
    }
}
