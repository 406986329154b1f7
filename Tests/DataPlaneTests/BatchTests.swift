import DataPlane
import Synchronization
import TestSupport
import Testing

/// Batches are applied whole or not at all.
@Suite struct BatchTests {
    private func key(_ number: UInt16) -> FlowKey {
        FlowKey(
            source: IPAddress(v4: 1), sourcePort: number, destination: IPAddress(v4: 2),
            destinationPort: 2, ipProtocol: 6, domain: 0, origin: .network)
    }

    private func add(_ number: UInt16, _ actions: [Action] = [.output(1)]) -> Command {
        .addFlow(key(number), actions: actions, cookie: 0, idleTimeout: 0)
    }

    private func rule(_ number: UInt16, _ actions: [Action] = [.drop]) -> Rule {
        Rule(match: .destinationPort(number), actions: actions)
    }

    @Test func refusals() throws {
        let fixture = TestSwitch([.init(1), .init(2)])
        try fixture.addRule([.output(2)], cookie: 1)
        try fixture.apply([add(1)])
        let many = [Action](repeating: .output(1), count: 65)
        let cases: [(String, Command, BatchError.Reason)] = [
            ("flow twice", add(1), .flowExists),
            ("no flow", .deleteFlow(key(7)), .noSuchFlow),
            ("port 0", .addRule(rule(1, [.output(0)])), .noSuchPort(0)),
            ("port 64", .addRule(rule(1, [.normal, .mirror(64)])), .noSuchPort(64)),
            ("port in a flow", add(2, [.output(100)]), .noSuchPort(100)),
            (
                "port in a change", .modifyRules(RuleSelector(), actions: [.output(99)]),
                .noSuchPort(99)
            ),
            (
                "port in a replacement", .replaceRules([rule(1), rule(2, [.output(0)])]),
                .noSuchPort(0)
            ),
            ("long list", .addRule(rule(1, many)), .tooManyActions(limit: 64)),
            ("long flow", add(2, many), .tooManyActions(limit: 64)),
            ("too many rules", .replaceRules((0..<65).map { rule($0) }), .ruleTableFull(limit: 64)),
        ]
        for (name, command, reason) in cases {
            // Good commands around the bad one leave nothing behind.
            let batch = [
                .addRule(rule(500)), add(500), .deleteFlow(key(1)), add(1), .deleteFlow(key(1)),
                add(1),
                .flushMACs(nil), command, .deleteRules(RuleSelector()),
            ]
            do throws(BatchError) {
                try fixture.apply(batch)
                Issue.record("\(name): applied")
            } catch {
                #expect(error == BatchError(index: 7, reason: reason), "\(name)")
            }
            #expect(fixture.rules.map(\.rule.cookie) == [1], "\(name)")
            #expect(fixture.status.flows == 1, "\(name)")
        }
        let flow = fixture.worker.call { $0.actionFlowStatus() }
        #expect(flow?.map(\.key) == [key(1)])
    }

    @Test func order() throws {
        let fixture = TestSwitch([.init(1), .init(2)])
        // Later commands see what earlier ones did.
        try fixture.apply([add(1), .deleteFlow(key(1)), add(1), add(2)])
        #expect(fixture.status.flows == 2)
        let second = [add(3), add(3)]
        #expect(throws: BatchError(index: 1, reason: .flowExists)) { try fixture.apply(second) }
        let third = [Command.deleteFlow(key(2)), .deleteFlow(key(2))]
        #expect(throws: BatchError(index: 1, reason: .noSuchFlow)) { try fixture.apply(third) }
        #expect(fixture.status.flows == 2)
        let results = try fixture.apply([
            .replaceRules([rule(1), rule(2)]), .addRule(rule(3)),
            .deleteRules(RuleSelector(match: .destinationPort(1))),
            .deleteFlow(key(1)),
        ])
        #expect(results.count == 4)
        guard case .count(2) = results[0], case .count(1) = results[1], case .count(1) = results[2],
            case .done = results[3]
        else {
            Issue.record("\(results)")
            return
        }
        #expect(fixture.rules.map(\.rule.match) == [.destinationPort(2), .destinationPort(3)])
    }

    @Test func ruleTableFull() throws {
        let fixture = TestSwitch([.init(1)])
        try fixture.apply((0..<64).map { .addRule(rule($0)) })
        let oneMore = [Command.addRule(rule(99))]
        #expect(throws: BatchError(index: 0, reason: .ruleTableFull(limit: 64))) {
            try fixture.apply(oneMore)
        }
        // One that is there may still be replaced.
        try fixture.apply([.addRule(rule(5, [.normal]))])
        #expect(fixture.rules.count == 64)
        #expect(fixture.rules.filter { $0.rule.actions == [.normal] }.count == 1)
        // After a replacement of all in the same batch, the one that was there is new.
        let emptied = [
            Command.replaceRules((100..<164).map { rule($0) }), .addRule(rule(5, [.normal])),
        ]
        #expect(throws: BatchError(index: 1, reason: .ruleTableFull(limit: 64))) {
            try fixture.apply(emptied)
        }
        #expect(fixture.rules.count == 64 && fixture.rules.first?.rule.match == .destinationPort(0))
    }

    /// What counts is what the batch comes to, in whatever order.
    @Test func rulesMakeRoomForOthers() throws {
        let delete = Command.deleteRules(RuleSelector(match: .destinationPort(3)))
        let add = Command.addRule(rule(99))
        for batch in [[delete, add], [add, delete]] {
            let fixture = TestSwitch([.init(1)])
            try fixture.apply((0..<64).map { .addRule(rule($0)) })
            let results = try fixture.apply(batch)
            #expect(results.count == 2)
            let ports = Set(fixture.rules.map { $0.rule.match.value.transportDestination })
            #expect(fixture.rules.count == 64)
            #expect(!ports.contains(3) && ports.contains(99))
            // The table is no larger for it.
            let tooMany = [Command.addRule(rule(100))]
            #expect(throws: BatchError(index: 0, reason: .ruleTableFull(limit: 64))) {
                try fixture.apply(tooMany)
            }
        }
    }

    @Test func manyRulesForMany() throws {
        let fixture = TestSwitch([.init(1), .init(2)])
        try fixture.apply((0..<64).map { .addRule(rule($0, [.output($0 % 2 + 1)])) })
        let additions = (100..<132).map { Command.addRule(rule($0)) }
        // 32 go by their output port.
        let selector = RuleSelector(outPort: 2)
        try fixture.apply(additions + [.deleteRules(selector)])
        #expect(fixture.rules.count == 64)
        // One more than there is room for: nothing changes, and the one too many is named.
        let more = (200..<234).map { Command.addRule(rule($0)) }
        let batch = [.deleteRules(RuleSelector(outPort: 1))] + more
        do throws(BatchError) {
            try fixture.apply(batch)
            Issue.record("applied")
        } catch {
            #expect(error == BatchError(index: 33, reason: .ruleTableFull(limit: 64)))
        }
        #expect(fixture.rules.count == 64)
        #expect(fixture.rules.count { $0.rule.actions == [.output(1)] } == 32)
        // Changed actions count when rules are chosen by them.
        try fixture.apply(
            more + [
                .modifyRules(RuleSelector(outPort: 1), actions: [.output(2)]),
                .deleteRules(RuleSelector(outPort: 2)),
                .deleteRules(RuleSelector(match: .destinationPort(200))),
                .deleteRules(RuleSelector(match: .destinationPort(201))),
            ])
        #expect(fixture.rules.count == 64)
    }

    /// Batches that nobody waits for are applied in their order, and before those that come later.
    @Test func postedBatches() throws {
        let worker = DataPlaneWorker(configuration: TestSwitch.configuration)
        _ = worker.call { $0.addPort(MemoryPort(name: "one"), number: 1) }
        worker.start()
        let refusals = Mutex<[BatchError]>([])
        for number in 0..<50 as Range<UInt16> {
            worker.post([.addRule(rule(number))]) { error in refusals.withLock { $0.append(error) }
            }
        }
        worker.post([.addRule(rule(70)), .deleteFlow(key(1))]) { error in
            refusals.withLock { $0.append(error) }
        }
        _ = try worker.apply([.addRule(rule(60))])
        #expect(refusals.withLock { $0 } == [BatchError(index: 1, reason: .noSuchFlow)])
        let ports = worker.call { pipeline in
            pipeline.ruleStatus(now: 0).map { $0.rule.match.value.transportDestination }
        }
        #expect(ports == Array(0..<50) + [60])
        worker.stop()
        worker.post([.flushMACs(nil)]) { error in refusals.withLock { $0.append(error) } }
        #expect(refusals.withLock { $0.last?.reason } == .stopped)
    }

    @Test func flowTableFull() throws {
        let fixture = TestSwitch([.init(1)])
        try fixture.apply((0..<64).map { add($0) })
        let oneMore = [add(100)]
        #expect(throws: BatchError(index: 0, reason: .flowTableFull(limit: 64))) {
            try fixture.apply(oneMore)
        }
        try fixture.apply([.deleteFlow(key(3)), add(100)])
        #expect(fixture.status.flows == 64)
        // Nothing leaks over many rounds.
        for round in 0..<100 as Range<UInt16> {
            try fixture.apply([.deleteFlow(key(100 + round)), add(101 + round)])
        }
        #expect(fixture.status.flows == 64)
        #expect((fixture.worker.call { $0.actionFlowStatus().count }) == 64)
    }

    @Test func stoppedWorker() throws {
        let worker = DataPlaneWorker(configuration: TestSwitch.configuration)
        worker.start()
        #expect(throws: Never.self) { try worker.apply([.flushMACs(nil)]) }
        worker.stop()
        #expect(throws: BatchError.self) { try worker.apply([.flushMACs(nil)]) }
        #expect(worker.call { _ in 1 } == nil)
    }

    /// The running thread takes batches one after the other and answers each.
    @Test func runningWorker() throws {
        let worker = DataPlaneWorker(configuration: TestSwitch.configuration)
        _ = worker.call { pipeline in
            pipeline.addPort(MemoryPort(name: "one"), number: 1)
            pipeline.addPort(MemoryPort(name: "other"), number: 2)
        }
        worker.start()
        defer { worker.stop() }
        for number in 0..<200 as Range<UInt16> {
            _ = try worker.apply([
                .addRule(Rule(match: .destinationPort(number % 60), actions: [.output(2)]))
            ])
        }
        #expect(worker.call { $0.status().rules } == 60)
        let wrong = [Command.addRule(Rule(actions: [.output(0)]))]
        #expect(throws: BatchError(index: 0, reason: .noSuchPort(0))) { try worker.apply(wrong) }
    }
}
