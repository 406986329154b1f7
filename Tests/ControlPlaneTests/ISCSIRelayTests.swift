import ControlPlane
import DataPlane
import StorageProtocols
import TestSupport
import Testing

/// A server is lost anywhere; another finishes what it began, and the client notices nothing. Where it is cut off
/// says `Options.cuts`: at every octet of the headers, and at a sample of those of the data.
@Suite struct ISCSIRelayTests {
    typealias Request = SimulatedISCSIInitiator.Request
    typealias Options = ISCSIRelayHarness.Options

    /// Few octets, so that each can be the last.
    private static func small(_ requests: [Request], depth: Int = 2) -> Options {
        var options = Options()
        options.requests = requests
        options.depth = depth
        for path in [\Options.first, \Options.second] {
            options[keyPath: path].segment = 512
            options[keyPath: path].parameters.maxBurstLength = 1_024
            options[keyPath: path].parameters.firstBurstLength = 1_024
            options[keyPath: path].parameters.immediateData = false
        }
        // The first would show its own to the client, as it should.
        options.first.attentions = 0
        return options
    }

    private static func both(
        _ options: inout Options, _ change: (inout SimulatedISCSIOptions) -> Void
    ) {
        change(&options.first)
        change(&options.second)
    }

    enum Scenario: String, CaseIterable, CustomTestStringConvertible {
        case reads, readsWithOwnStatus, writes, immediateWrites, unsolicitedWrites, mixed, pings
        var testDescription: String { rawValue }

        var options: Options {
            switch self {
            case .reads, .readsWithOwnStatus:
                var options = ISCSIRelayTests.small([
                    .read(block: 3, count: 4), .read(block: 9, count: 1),
                ])
                ISCSIRelayTests.both(&options) { $0.collapsesStatus = self == .reads }
                return options
            case .writes:
                return ISCSIRelayTests.small([
                    .write(block: 3, count: 5), .read(block: 3, count: 2),
                ])
            case .immediateWrites:
                var options = ISCSIRelayTests.small([
                    .write(block: 3, count: 4), .write(block: 20, count: 1),
                ])
                ISCSIRelayTests.both(&options) { $0.parameters.immediateData = true }
                return options
            case .unsolicitedWrites:
                var options = ISCSIRelayTests.small([
                    .write(block: 3, count: 5), .write(block: 20, count: 1),
                ])
                ISCSIRelayTests.both(&options) {
                    $0.parameters.immediateData = true
                    $0.parameters.initialR2T = false
                }
                return options
            case .mixed:
                return ISCSIRelayTests.small(
                    [
                        .read(block: 3, count: 3), .write(block: 10, count: 3), .ping,
                        .read(block: 30, count: 1),
                    ], depth: 4)
            case .pings:
                var options = ISCSIRelayTests.small(
                    [.ping, .read(block: 1, count: 1), .ping, .ping])
                ISCSIRelayTests.both(&options) { $0.pingsAfter = 1 }
                return options
            }
        }
    }

    /// Every header octet and a sample of the data of every stream, in the relay and in the fast path.
    @Test(arguments: Scenario.allCases, [false, true])
    func everyHeaderOctet(scenario: Scenario, isSpliced: Bool) {
        var options = scenario.options
        options.isSpliced = isSpliced
        for seed in 1...2 as ClosedRange<UInt64> {
            options.seed = seed
            let whole = ISCSIRelayHarness(options)
            _ = whole.runWhole()
            if let problem = whole.problem() {
                Issue.record("without a cut: \(problem)")
                return
            }
            let cuts = options.cuts()
            #expect(cuts.count > 300)
            var bad: [String] = []
            for cut in cuts {
                let harness = ISCSIRelayHarness(options)
                harness.runAcross(cut)
                if let problem = harness.problem() { bad.append("\(cut): \(problem)") }
            }
            #expect(bad.isEmpty, "\(bad.count) of \(cuts.count), seed \(seed): \(bad.prefix(3))")
        }
    }

    // MARK: Depth

    /// Reads and writes of all sizes, many at once.
    static func requests(_ count: Int, _ random: inout SplitMix64, pings: Bool = true) -> [Request]
    {
        (0..<count).map { _ in
            let block = random.below(240)
            let size = 1 + random.below(random.below(4) == 0 ? 16 : 4)
            switch random.below(pings ? 9 : 8) {
            case 0..<4: return .read(block: block, count: min(size, 256 - block))
            case 4..<8: return .write(block: block, count: min(size, 256 - block))
            default: return .ping
            }
        }
    }

    private static func deep(_ seed: UInt64) -> Options {
        var random = SplitMix64(seed: seed)
        var options = Options()
        options.seed = seed
        options.requests = requests(60, &random)
        options.depth = 16
        options.piece = [.max, 7, 100, 3_000][random.below(4)]
        options.isSpliced = random.below(2) == 0
        options.splicesAgain = random.below(2) == 0
        let initial = random.below(2) == 0
        let immediate = random.below(2) == 0
        let burst = [1_024, 2_048, 8_192][random.below(3)]
        for path in [\Options.first, \Options.second] {
            options[keyPath: path].parameters.initialR2T = initial
            options[keyPath: path].parameters.immediateData = immediate
            options[keyPath: path].parameters.maxBurstLength = UInt64(burst)
            options[keyPath: path].parameters.firstBurstLength = 1_024
            options[keyPath: path].collapsesStatus = random.below(2) == 0
            options[keyPath: path].attentions = random.below(3)
        }
        // Only in the second: the first shows its own to the client, as it should.
        options.first.attentions = 0
        if random.below(3) == 0 { options.second.pingsAfter = 6 }
        return options
    }

    /// Depth 16, up to three failures, some of them in the middle of a recovery.
    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func mixedDepth(seed: UInt64) {
        for round in 0..<20 as Range<UInt64> {
            let options = Self.deep(seed &* 1_000 &+ round)
            var random = SplitMix64(seed: options.seed ^ 0xabcd)
            let harness = ISCSIRelayHarness(options)
            harness.start()
            for _ in 0..<(1 + random.below(3)) {
                let place = random.below(random.below(2) == 0 ? 600 : 30_000)
                harness.cut =
                    [.fromClient(place), .toServer(place), .fromServer(place)][random.below(3)]
                guard harness.run() else { break }
                harness.fail()
                harness.recover()
            }
            harness.cut = nil
            harness.run()
            if let problem = harness.problem() {
                Issue.record(
                    "seed \(options.seed), spliced \(options.isSpliced), \(harness.failures): \(problem)"
                )
                return
            }
        }
    }

    /// The next server dies as well, all over what it gets and says: login, nexus, recovery. Each place of the
    /// first failure has other places for the second, so that together they are less than 4 octets apart.
    @Test(arguments: [false, true])
    func secondFailure(isSpliced: Bool) {
        var options = Self.small(
            [.write(block: 3, count: 3), .read(block: 10, count: 2), .text, .ping], depth: 4)
        options.isSpliced = isSpliced
        if isSpliced { options.requests.remove(at: 2) }
        var bad: [String] = []
        var tries = 0
        for first in stride(from: 1, to: 1_400, by: 173) {
            for second in stride(from: first % 29, to: 4_000, by: 29) {
                for isServer in [false, true] {
                    let harness = ISCSIRelayHarness(options)
                    harness.cut = .fromServer(first)
                    harness.start()
                    guard harness.run() else { continue }
                    harness.fail()
                    harness.recover()
                    harness.cut = isServer ? .fromServer(second) : .toServer(second)
                    guard harness.run() else { continue }
                    harness.fail()
                    harness.recover()
                    harness.run()
                    tries += 1
                    if let problem = harness.problem() {
                        bad.append("\(first), \(second), \(isServer): \(problem)")
                    }
                }
            }
        }
        #expect(tries > 500)
        #expect(bad.isEmpty, "\(bad.count) of \(tries): \(bad.prefix(3))")
    }

    // MARK: Requests that are not reads and writes

    @Test func textIsAnsweredByUs() {
        var bad: [String] = []
        let options = Self.small(
            [.read(block: 1, count: 2), .text, .read(block: 4, count: 1), .text], depth: 4)
        for cut in options.cuts() {
            let harness = ISCSIRelayHarness(options)
            harness.runAcross(cut)
            if let problem = harness.problem() { bad.append("\(cut): \(problem)") }
            if harness.initiator.textAnswers != 2 { bad.append("\(cut): text") }
        }
        #expect(bad.isEmpty, "\(bad.count): \(bad.prefix(3))")
    }

    @Test(arguments: [false, true])
    func taskManagementInFlight(isReset: Bool) {
        var bad: [String] = []
        var aborted = 0
        var options = Self.small(
            [
                .write(block: 1, count: 3), .read(block: 20, count: 3),
                isReset ? .resetUnit : .abort(1), .read(block: 40, count: 1),
            ], depth: 4)
        for seed in 1...4 as ClosedRange<UInt64> {
            options.seed = seed
            for cut in options.cuts([.fromServer, .fromClient]) {
                let harness = ISCSIRelayHarness(options)
                harness.runAcross(cut)
                aborted += harness.initiator.aborted.count
                // 1: the task is not there any more.
                if let problem = harness.problem(allowing: [0, 1]) {
                    bad.append("\(seed), \(cut): \(problem)")
                }
                // Nothing is left in the recovery: the session can be spliced again.
                if !harness.relay.isAtRest { bad.append("\(seed), \(cut): not at rest") }
            }
        }
        #expect(aborted > 50)
        #expect(bad.isEmpty, "\(bad.count): \(bad.prefix(3))")
    }

    @Test(arguments: [false, true])
    func reservationsAreMadeAgain(isPersistent: Bool) {
        let unit: UInt64 = 0
        var bad: [String] = []
        let requests: [Request] =
            isPersistent
            ? [
                .persistentReserve(action: 0, type: 0, key: 0, newKey: 0x1234),
                .persistentReserve(action: 1, type: 5, key: 0x1234, newKey: 0),
                .read(block: 1, count: 1), .read(block: 2, count: 1),
            ] : [.read(block: 1, count: 1), .reserve, .read(block: 2, count: 1)]
        let options = Self.small(requests, depth: 1)
        for cut in options.cuts([.fromServer, .fromClient], stride: 7) {
            let harness = ISCSIRelayHarness(options)
            harness.cut = cut
            harness.start()
            // Two failures: what the first recovery had to repeat the second must know of.
            for again in [cut.place / 3 + 700, Int.max] where harness.run() {
                harness.fail()
                // The new server knows nothing of registrations.
                harness.disk.keys = [:]
                harness.disk.types = [:]
                harness.recover()
                harness.cut = .fromServer(again)
            }
            harness.cut = nil
            harness.run()
            if let problem = harness.problem() { bad.append("\(cut): \(problem)") }
            let isMade =
                isPersistent
                ? harness.disk.keys[unit] == 0x1234 && harness.disk.types[unit] == 5
                : harness.targets.last?.reserved == [unit]
            if !isMade { bad.append("\(cut): reservation") }
        }
        #expect(bad.isEmpty, "\(bad.count): \(bad.prefix(3))")
    }

    /// One more unit attention, after the nexus was made: the task is given again.
    @Test(
        arguments: [Scenario.reads, .readsWithOwnStatus, .writes, .unsolicitedWrites],
        [false, true])
    func attentionDuringTheRecovery(scenario: Scenario, isSpliced: Bool) {
        var options = scenario.options
        options.requests = [options.requests[0]]
        options.isSpliced = isSpliced
        options.second.laterAttentionAfter = 3
        var bad: [String] = []
        var tries = 0
        for cut in options.cuts([.fromServer, .fromClient]) {
            let harness = ISCSIRelayHarness(options)
            harness.cut = cut
            harness.start()
            guard harness.run(), harness.log.openCount > 0 else { continue }
            harness.fail()
            // Its command may have been on its way only: then it is the client's to see.
            guard harness.log.openCount > 0 else { continue }
            harness.recover()
            harness.run()
            tries += 1
            if let problem = harness.problem() { bad.append("\(cut): \(problem)") }
        }
        #expect(tries > 50)
        #expect(bad.isEmpty, "\(bad.count) of \(tries): \(bad.prefix(3))")
    }

    // MARK: What cannot be sent again

    /// Writes that found no room in the log end with BUSY; the client's stream stays whole.
    @Test(arguments: [false, true])
    func unprotectedWrites(isSpliced: Bool) {
        var options = Self.small(
            [
                .write(block: 1, count: 60), .read(block: 100, count: 2),
                .write(block: 120, count: 2),
            ], depth: 3)
        options.isSpliced = isSpliced
        options.logMaximum = 16 << 10
        options.first.segment = 4_096
        options.second.segment = 4_096
        Self.both(&options) { $0.parameters.maxBurstLength = 32_768 }
        var bad: [String] = []
        var busy = 0
        // Nearly all of it is data of one write: every header octet, and the data in steps.
        for cut in options.cuts([.fromClient, .fromServer], stride: 61) {
            for piece in [Int.max, 300] {
                options.piece = piece
                let harness = ISCSIRelayHarness(options)
                harness.runAcross(cut)
                if let problem = harness.problem(allowing: [0, 8]) {
                    bad.append("\(cut), \(piece): \(problem)")
                }
                for (place, outcome) in harness.initiator.outcomes where outcome.status == 8 {
                    busy += 1
                    if place != 0 { bad.append("\(cut): request \(place) is busy") }
                }
            }
        }
        #expect(busy > 100)
        #expect(bad.isEmpty, "\(bad.count): \(bad.prefix(3))")
    }

    // MARK: Servers that differ

    @Test(arguments: [1, 2, 5])
    func smallerWindow(window: Int) {
        var bad: [String] = []
        for seed in 1...40 as ClosedRange<UInt64> {
            var options = Self.deep(seed)
            options.second.window = window
            options.splicesAgain = false
            for place in [100, 3_000, 9_000, 20_000] {
                let harness = ISCSIRelayHarness(options)
                harness.runAcross(.fromServer(place + Int(seed)))
                if let problem = harness.problem() { bad.append("\(seed), \(place): \(problem)") }
            }
        }
        #expect(bad.isEmpty, "\(bad.count): \(bad.prefix(3))")
    }

    /// The session asks for servers alike; data of our own is cut to what this one takes all the same.
    @Test func smallerSegmentsOfTheNewServer() {
        var options = Self.small([.write(block: 1, count: 8)], depth: 1)
        Self.both(&options) { $0.parameters.maxBurstLength = 4_096 }
        options.first.segment = 2_048
        options.second.segment = 512
        // All data is here before the server is lost.
        let harness = ISCSIRelayHarness(options)
        harness.cut = .fromServer(48 + 48)
        harness.start()
        let isCut = harness.run()
        #expect(isCut)
        harness.cut = .fromClient(48 + 2 * (48 + 2_048))
        harness.run()
        harness.fail()
        harness.recover()
        harness.run()
        #expect(harness.targets.last?.violations.filter { $0.contains("segment") }.isEmpty == true)
    }

    /// The data of a read cannot be had again: nothing half said is left open, and the error is told.
    @Test(arguments: [false, true])
    func rereadFails(isSpliced: Bool) {
        var options = Self.small([.read(block: 1, count: 8)], depth: 1)
        options.isSpliced = isSpliced
        options.second.failsReadsAfter = 0
        options.makesUpData = true
        var kinds: [String: Int] = [:]
        for cut in options.cuts([.fromServer], stride: 5) {
            let harness = ISCSIRelayHarness(options)
            harness.runAcross(cut)
            if let failed = harness.failed {
                // Only when the client has a part of data that it was told is good.
                kinds["ended", default: 0] += 1
                #expect(failed.contains("cannot be read again"))
                continue
            }
            let problem = harness.problem(allowing: [0, 2])
            #expect(problem == nil, "\(cut): \(problem ?? "")")
            kinds["status \(harness.initiator.outcomes[0]?.status ?? 99)", default: 0] += 1
            if problem != nil { break }
        }
        #expect(kinds["status 2", default: 0] > 300, "\(kinds)")
    }

    // MARK: Orderly change

    /// New requests wait, open ones end; then another server takes the next ones.
    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func holdAndMove(seed: UInt64) {
        for round in 0..<18 as Range<UInt64> {
            var options = Self.deep(seed &* 77 &+ round)
            options.isSpliced = false
            options.splicesAgain = false
            var random = SplitMix64(seed: options.seed)
            let harness = ISCSIRelayHarness(options)
            harness.cut = .fromClient(random.below(12_000))
            harness.start()
            guard harness.run() else { continue }
            harness.cut = nil
            harness.relay.hold()
            let standby = random.below(2) == 0 ? harness.openStandby() : nil
            harness.run()
            #expect(harness.isQuiet && harness.log.openCount == 0)
            #expect(harness.problems.isEmpty && harness.failed == nil)
            if random.below(3) == 0 {
                harness.release()
            } else if let standby {
                harness.take(standby)
            } else {
                harness.fail()
                harness.recover()
            }
            harness.run()
            if let problem = harness.problem() {
                Issue.record("seed \(options.seed): \(problem)")
                return
            }
        }
    }

    /// What is open stays with the server that is left, what is new goes to the other at once; some time later either of
    /// them may die, and then a third one does all that is open.
    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func splitAndMove(seed: UInt64) {
        var takeovers = 0
        for round in 0..<24 as Range<UInt64> {
            var options = Self.deep(seed &* 131 &+ round)
            options.isSpliced = false
            options.splicesAgain = false
            options.standbyCommand = UInt32(truncatingIfNeeded: options.seed &* 0x9e37_79b9)
            var random = SplitMix64(seed: options.seed)
            let harness = ISCSIRelayHarness(options)
            harness.cut = .fromClient(random.below(12_000))
            harness.start()
            guard harness.run() else { continue }
            harness.cut = nil
            guard let standby = harness.openStandby() else {
                Issue.record("no standby")
                return
            }
            harness.relay.hold()
            harness.relay.splitWhenPossible()
            harness.runUntil { harness.relay.isReadyToChange }
            let isUndone = random.below(5) == 0
            if isUndone {
                harness.release()
            } else if harness.relay.canTakeOver(standby.session) {
                harness.take(standby)
            } else {
                harness.fail()
                harness.recover()
            }
            if random.below(3) == 0 {
                harness.cut = .fromServer(random.below(3_000))
                if harness.run() {
                    harness.fail()
                    harness.recover()
                }
                harness.cut = nil
            }
            harness.run()
            takeovers += harness.takeovers
            if let problem = harness.problem() {
                Issue.record("seed \(options.seed): \(problem)")
                return
            }
        }
        #expect(takeovers > 5, "\(takeovers)")
    }

    /// The change is given up before all is quiet.
    @Test(arguments: 1...10 as ClosedRange<UInt64>)
    func releasedEarly(seed: UInt64) {
        for round in 0..<28 as Range<UInt64> {
            var options = Self.deep(seed &* 99 &+ round)
            options.isSpliced = false
            options.splicesAgain = false
            var random = SplitMix64(seed: options.seed)
            let harness = ISCSIRelayHarness(options)
            harness.start()
            var place = 0
            for _ in 0..<3 {
                place += random.below(4_000)
                harness.cut = .fromClient(place)
                guard harness.run() else { break }
                harness.relay.hold()
                place += random.below(800)
                harness.cut = .fromClient(place)
                harness.run()
                harness.release()
            }
            // And a loss while requests are held.
            place += random.below(2_000)
            harness.cut = .fromClient(place)
            if harness.run() {
                harness.relay.hold()
                harness.cut = .fromClient(place + random.below(800))
                harness.run()
                harness.fail()
                harness.recover()
            }
            harness.cut = nil
            harness.run()
            if let problem = harness.problem() {
                Issue.record("seed \(options.seed): \(problem)")
                return
            }
        }
    }

    /// The checks can fail.
    @Test func mistakesAreNoticed() {
        let options = Self.small([.read(block: 1, count: 4), .write(block: 9, count: 2)])
        let harness = ISCSIRelayHarness(options)
        harness.cut = .fromServer(700)
        harness.start()
        let isCut = harness.run()
        #expect(isCut)
        harness.fail()
        // Another disk.
        for index in harness.disk.bytes.indices { harness.disk.bytes[index] ^= 1 }
        harness.recover()
        harness.run()
        #expect(harness.problem() != nil)
    }
}
