import ControlPlane
import DataPlane
import Glibc
import StorageProtocols
import TestSupport

/// A relay between a simulated initiator and simulated servers, in steps: chance, from one seed, says who goes
/// next. A server can be cut off after any octet of any stream, spliced or not; another goes on.
final class ISCSIRelayHarness {
    struct Options {
        var seed: UInt64 = 1
        var requests: [SimulatedISCSIInitiator.Request] = []
        var depth = 4
        var first = SimulatedISCSIOptions()
        var second = SimulatedISCSIOptions()
        var isSpliced = false
        var logMaximum = 8 << 20
        /// Longest piece of a stream that is passed at once; the initiator and the servers do all they can first
        /// when it is not limited.
        var piece = Int.max
        /// Octets of the window that the client was told at its login.
        var clientWindow: UInt32 = 32
        /// Goes into the fast path again after a recovery.
        var splicesAgain = false
        /// CmdSN of the standby's login; nil: the client's next one.
        var standbyCommand: UInt32?
        /// Data that cannot be read again is made up when its command fails: the client, which has some of it
        /// already, will be told.
        var makesUpData = false
    }

    /// Where the server is cut off, in octets since the login.
    enum Cut: Hashable {
        /// Of the client's stream to us, of ours to the server, of the server's to us.
        case fromClient(Int)
        case toServer(Int)
        case fromServer(Int)

        var place: Int {
            switch self {
            case .fromClient(let place), .toServer(let place), .fromServer(let place): place
            }
        }
    }

    /// The three streams, for whoever wants to cut them.
    struct Streams {
        var fromClient: [UInt8] = []
        var toServer: [UInt8] = []
        var fromServer: [UInt8] = []
    }

    let options: Options
    let relay: ISCSIRelay
    let log: SessionLog
    let disk: SimulatedDisk
    let initiator: SimulatedISCSIInitiator
    private(set) var targets: [SimulatedISCSITarget] = []
    private(set) var problems: [String] = []
    private(set) var failures = 0
    private(set) var failed: String?
    /// Octets that have passed since the login, or the last failure.
    private(set) var counts = (fromClient: 0, toServer: 0, fromServer: 0)
    var cut: Cut?
    var isQuiet = false
    /// Nil: what passes is not kept.
    private(set) var streams: Streams?

    private var output = RelayOutput()
    private var steps = 0
    private var random: SplitMix64
    private var fast: FastPath?
    /// The server that was left with what is open there.
    private var former: SimulatedISCSITarget?
    /// Servers that took over from one that went on.
    private(set) var takeovers = 0
    /// What the client got and did not acknowledge: the relay must say the same again.
    private var repeated: [UInt8] = []
    private static let firstCommand: UInt32 = 0xffff_fff0
    private static let firstStatus: UInt32 = 0x7fff_fff8

    init(_ options: Options) {
        self.options = options
        random = SplitMix64(seed: options.seed)
        disk = SimulatedDisk(blocks: 256, seed: options.seed)
        log = SessionLog(
            format: .iscsi, rules: .iscsi, maximum: options.logMaximum,
            budget: RequestLogBudget(maximum: 1 << 30))
        initiator = SimulatedISCSIInitiator(
            options.requests, depth: options.depth, parameters: options.first.parameters,
            segment: options.first.segment, disk: disk, command: Self.firstCommand,
            status: Self.firstStatus, window: options.clientWindow, seed: options.seed &+ 1)
        var position = ISCSIClientPosition(
            nextCommand: Self.firstCommand, nextStatus: Self.firstStatus,
            expectedCommand: Self.firstCommand,
            maximumCommand: Self.firstCommand &+ options.clientWindow &- 1)
        position.nextStatus = Self.firstStatus
        relay = ISCSIRelay(
            loginResult: ISCSIRelayHarness.loginResult(),
            discovery: ISCSIDiscovery(targets: [.init(name: "iqn.a:b", addresses: ["10.0.0.1:1"])]),
            log: log, numbers: position, clock: { 1 })
        relay.onLogin = { [unowned self] outcome in
            switch outcome {
            case .established(let result):
                // Later ones take another's place.
                if targets.count == 1 {
                    relay.setStatus(clientNext: Self.firstStatus, serverNext: result.nextStatus)
                }
            case .failed(_, let reason): failed = reason
            }
        }
        relay.onQuiet = { [unowned self] in isQuiet = true }
    }

    /// What the client's own login gave, by the product's two ends.
    private static func loginResult() -> ISCSILoginResult {
        var result = ISCSILoginResult()
        result.targetName = "iqn.a:b"
        result.initiatorName = "iqn.a:c"
        return result
    }

    private func login(command: UInt32, status: UInt32) -> ISCSIInitiatorLogin {
        ISCSIInitiatorLogin(
            ISCSIInitiatorRequest(
                initiatorName: "iqn.a:c", targetName: "iqn.a:b", isid: [0x80, 0, 0, 0, 0, 1],
                commandSequence: command, expectedStatus: status,
                parameters: options.first.parameters, maxReceive: 65_536),
            random: { [UInt8](repeating: 3, count: $0) })
    }

    private func makeTarget(_ options: SimulatedISCSIOptions) -> SimulatedISCSITarget {
        SimulatedISCSITarget(
            options, disk: disk, seed: self.options.seed &* 31 &+ UInt64(targets.count) &+ 5)
    }

    private func addTarget(_ options: SimulatedISCSIOptions) {
        targets.append(makeTarget(options))
    }

    func start() {
        addTarget(options.first)
        relay.prepare(
            login(command: Self.firstCommand, status: 77), firstCommand: Self.firstCommand)
        relay.begin(output: &output)
        for _ in 0..<1_000 where !relay.isEstablished && failed == nil {
            passToServer()
            passFromServer()
        }
        counts = (0, 0, 0)
        if options.isSpliced { splice() }
    }

    // MARK: Streams

    private func size(_ available: Int) -> Int {
        options.piece == .max ? available : min(available, 1 + random.below(options.piece))
    }

    private func receive(_ bytes: [UInt8], from side: SpliceSide) {
        guard !bytes.isEmpty, failed == nil else { return }
        bytes.withUnsafeBytes { buffer in
            do {
                try relay.receive(buffer, from: side, output: &output)
            } catch {
                failed = (error as? RelayError)?.message ?? "\(error)"
            }
        }
        sayToClient()
    }

    private static func take(_ buffer: inout OutboundBuffer, _ maximum: Int) -> [UInt8] {
        var part: [UInt8] = []
        buffer.drain { (bytes: UnsafeRawBufferPointer) throws(Never) -> Int in
            part = Array(bytes.prefix(maximum))
            return part.count
        }
        return part
    }

    private func sayToClient() {
        var bytes = Self.take(&output.toClient, .max)
        let again = min(bytes.count, repeated.count)
        if again > 0 {
            if !options.makesUpData, !bytes[..<again].elementsEqual(repeated[..<again]) {
                problems.append("what the client has in part is said in other words")
            }
            repeated.removeFirst(again)
            bytes.removeFirst(again)
        }
        initiator.receive(bytes)
    }

    private func limited(_ count: Int, _ done: Int, _ limit: Int?) -> Int {
        limit.map { min(count, $0 - done) } ?? count
    }

    private var limits: (fromClient: Int?, toServer: Int?, fromServer: Int?) {
        switch cut {
        case .fromClient(let limit)?: (limit, nil, nil)
        case .toServer(let limit)?: (nil, limit, nil)
        case .fromServer(let limit)?: (nil, nil, limit)
        case nil: (nil, nil, nil)
        }
    }

    @discardableResult
    private func passFromClient() -> Bool {
        let count = limited(
            size(initiator.output.count), counts.fromClient, limits.fromClient)
        guard count > 0 else { return false }
        let bytes = initiator.takeOutput(count)
        counts.fromClient += bytes.count
        streams?.fromClient += bytes
        if let fast {
            targets[targets.count - 1].receive(fast.pass(.client, bytes))
            if let problem = fast.problem { problems.append(problem) }
        } else {
            receive(bytes, from: .client)
        }
        return true
    }

    @discardableResult
    private func passToServer() -> Bool {
        let count = limited(size(output.toServer.count), counts.toServer, limits.toServer)
        guard count > 0 else { return false }
        counts.toServer += count
        let bytes = Self.take(&output.toServer, count)
        streams?.toServer += bytes
        targets[targets.count - 1].receive(bytes)
        return true
    }

    @discardableResult
    private func passFromServer() -> Bool {
        let target = targets[targets.count - 1]
        let count = limited(size(target.output.count), counts.fromServer, limits.fromServer)
        guard count > 0 else { return false }
        counts.fromServer += count
        let bytes = target.takeOutput(count)
        streams?.fromServer += bytes
        if let fast {
            let passed = fast.pass(.server, bytes)
            fast.said += passed
            initiator.receive(passed)
            if let problem = fast.problem { problems.append(problem) }
            if random.below(3) == 0 { fast.acknowledge(upTo: random) }
        } else {
            receive(bytes, from: .server)
        }
        return true
    }

    // MARK: Time

    private func step() -> Bool {
        if former != nil, random.below(4) == 0 { return passFormer() }
        return switch random.below(5) {
        case 0: initiator.step()
        case 1: passFromClient()
        case 2: passToServer()
        case 3: targets[targets.count - 1].step()
        default: passFromServer()
        }
    }

    private var isAtCut: Bool {
        switch cut {
        case .fromClient(let limit)?: counts.fromClient >= limit
        case .toServer(let limit)?: counts.toServer >= limit
        case .fromServer(let limit)?: counts.fromServer >= limit
        case nil: false
        }
    }

    /// Until the cut, or the end of all requests, or until nothing moves any more. True at the cut.
    @discardableResult
    func run() -> Bool {
        var idle = 0
        while idle < 200, problems.isEmpty, failed == nil {
            steps += 1
            guard steps < 500_000 else {
                problems.append("no end")
                break
            }
            if isAtCut { return true }
            if initiator.isDone, output.toServer.isEmpty, relay.isEstablished, former == nil {
                return false
            }
            idle = step() ? 0 : idle + 1
            if options.splicesAgain, fast == nil, failures > 0 { splice() }
        }
        return false
    }

    /// Steps until the condition holds, or nothing moves any more.
    func runUntil(_ condition: () -> Bool) {
        var idle = 0
        while idle < 200, problems.isEmpty, failed == nil, !condition() {
            idle = step() ? 0 : idle + 1
        }
    }

    // MARK: Splice and failure

    func splice() {
        guard fast == nil, relay.isEstablished, relay.isAtRest, output.toServer.isEmpty,
            repeated.isEmpty, let messages = relay.messages
        else { return }
        let base = SequenceNumber(0xffff_ff00)
        relay.spliced(at: base)
        fast = FastPath(messages, log: log, base: base)
    }

    /// The server dies here and now.
    func fail() {
        cut = nil
        failures += 1
        counts = (0, 0, 0)
        former = nil
        output.toFormer = RelayOutput().toFormer
        if let path = fast {
            fast = nil
            path.acknowledge(upTo: random)
            repeated = Array(path.said[path.acknowledged...])
            relay.detachSpliced(
                position: path.base + UInt32(path.acknowledged),
                clientRemaining: path.clientRemaining)
            if let problem = path.problem { problems.append(problem) }
            output.toServer = RelayOutput().toServer
            receive(path.waiting(.client), from: .client)
        } else {
            relay.detach()
            output.toServer = RelayOutput().toServer
        }
    }

    /// The change of server is given up.
    func release() {
        isQuiet = false
        do {
            try relay.release(output: &output)
        } catch {
            failed = error.message
        }
        sayToClient()
    }

    /// Another server takes over.
    func recover(_ other: SimulatedISCSIOptions? = nil) {
        let next = other ?? options.second
        let recovery = relay.prepareRecovery(maximumSegment: next.segment)
        relay.prepare(login(command: recovery.firstCommand, status: 1), recovery: recovery)
        addTarget(next)
        relay.begin(output: &output)
    }

    /// The next server, logged in to while the present one goes on.
    struct Standby {
        var target: SimulatedISCSITarget
        var session: ISCSIInitiatorResult
        var rest: [UInt8]
    }

    /// For a relay that holds new requests.
    func openStandby() -> Standby? {
        let command = options.standbyCommand ?? relay.numbers.nextCommand
        let target = makeTarget(options.second)
        var nexus = ISCSINexusLogin(login(command: command, status: 1), replacing: [:])
        target.receive(nexus.start())
        for _ in 0..<1_000 {
            _ = target.step()
            var answer: [UInt8] = []
            let part = target.takeOutput(1 + random.below(200))
            let outcome = part.withUnsafeBytes { nexus.receive($0, answer: &answer) }
            target.receive(answer)
            switch outcome {
            case .established(let session):
                return Standby(target: target, session: session, rest: nexus.rest)
            case .failed(_, let reason):
                failed = reason
                return nil
            case nil: break
            }
        }
        failed = "the standby is not logged in"
        return nil
    }

    /// The present server is left; the standby takes over, or another server does when it cannot. A server that is split
    /// goes on with what is open.
    func take(_ standby: Standby) {
        let isSplit = relay.isSplit
        let present = targets[targets.count - 1]
        targets.append(standby.target)
        var isTaken = false
        do {
            if isSplit {
                output.toFormer = output.toServer
                output.toServer = RelayOutput().toServer
            }
            isTaken = try relay.takeOver(standby.session, rest: standby.rest, output: &output)
        } catch {
            failed = error.message
        }
        guard isTaken else {
            targets.removeLast()
            if isSplit { problems.append("a split server is not left") }
            fail()
            return recover()
        }
        counts = (0, 0, 0)
        if isSplit { former = present }
        takeovers += isSplit ? 1 : 0
        sayToClient()
    }

    /// Octets of the former server, and for it.
    @discardableResult
    private func passFormer() -> Bool {
        guard let target = former else { return false }
        let bytes = Self.take(&output.toFormer, size(output.toFormer.count))
        target.receive(bytes)
        let isBusy = target.step()
        let said = target.takeOutput(size(target.output.count))
        if !said.isEmpty {
            said.withUnsafeBytes { buffer in
                do {
                    try relay.receiveFromFormer(buffer, output: &output)
                } catch {
                    failed = (error as? RelayError)?.message ?? "\(error)"
                }
            }
        }
        do {
            try relay.flushFormer(output: &output)
            if relay.isFormerDone {
                former = nil
                try relay.formerEnded(output: &output)
            }
        } catch {
            failed = error.message
        }
        sayToClient()
        return isBusy || !said.isEmpty || !bytes.isEmpty
    }

    /// Runs without a cut and keeps what has passed since the login.
    func runWhole() -> Streams {
        start()
        streams = Streams()
        run()
        defer { streams = nil }
        return streams ?? Streams()
    }

    /// Runs to the cut, if it comes, lets another server go on, and runs to the end.
    func runAcross(_ cut: Cut) {
        self.cut = cut
        start()
        if run() {
            fail()
            recover()
        }
        self.cut = nil
        run()
    }

    /// `==` looks at one octet after the other.
    private static func isEqual(_ left: [UInt8], _ right: [UInt8]) -> Bool {
        left.count == right.count
            && left.withUnsafeBytes { left in
                right.withUnsafeBytes { right in
                    guard let start = left.baseAddress, let other = right.baseAddress else {
                        return left.isEmpty
                    }
                    return memcmp(start, other, left.count) == 0
                }
            }
    }

    /// What must be true in the end; nil: it is.
    func problem(allowing statuses: Set<UInt8> = [0]) -> String? {
        if let failed { return "ended: \(failed)" }
        if let first = problems.first { return first }
        if let first = initiator.violations.first { return "the client sees: \(first)" }
        for (index, target) in targets.enumerated() {
            if let first = target.violations.first { return "server \(index) sees: \(first)" }
        }
        guard initiator.isDone else { return "nothing moves: \(initiator.state)" }
        guard initiator.outcomes.count + initiator.aborted.count == options.requests.count else {
            return "\(initiator.outcomes.count) answers"
        }
        if let bad = initiator.outcomes.first(where: { !statuses.contains($0.value.status) }) {
            return "request \(bad.key): status \(bad.value.status), sense \(bad.value.sense)"
        }
        if initiator.aborted.isEmpty, statuses == [0], !Self.isEqual(disk.bytes, initiator.image) {
            return "the disk is not what was written"
        }
        if log.openCount != 0 { return "\(log.openCount) requests are open in the log" }
        return nil
    }
}

/// The dataplane's part: message boundaries, edits and the log, over streams in order.
final class FastPath {
    private var up: MessageTracker
    private var down: MessageTracker
    private let log: SessionLog
    let base: SequenceNumber
    private let clientBase = SequenceNumber(0x1000)
    private var pending: [[UInt8]] = [[], []]
    private var passed = [0, 0]
    /// To the client, and how much of it the client has acknowledged.
    var said: [UInt8] = []
    private(set) var acknowledged = 0
    private(set) var problem: String?

    init(_ messages: SpliceMessages, log: SessionLog, base: SequenceNumber) {
        self.log = log
        self.base = base
        up = MessageTracker(
            messages.format, edits: messages.clientEdits, holdKinds: messages.clientHoldKinds,
            holdRule: messages.clientHoldRule,
            nextHeader: clientBase + messages.clientHeaderDistance, followed: clientBase,
            log: log.log, role: .client)
        down = MessageTracker(
            messages.format, edits: messages.serverEdits, holdKinds: 0,
            nextHeader: base + messages.serverHeaderDistance, log: log.log, role: .server)
    }

    func waiting(_ side: SpliceSide) -> [UInt8] { pending[side == .client ? 0 : 1] }

    var clientRemaining: UInt32 {
        if up.followed != clientBase + UInt32(passed[0]) {
            problem = "followed \(up.followed), passed \(passed[0])"
        }
        return up.nextHeader - up.followed
    }

    func acknowledge(upTo random: SplitMix64) {
        var random = random
        acknowledged += random.below(said.count - acknowledged + 1)
        log.delivered(base + UInt32(acknowledged))
    }

    func pass(_ side: SpliceSide, _ bytes: [UInt8]) -> [UInt8] {
        let index = side == .client ? 0 : 1
        pending[index] += bytes
        var copy = pending[index]
        let start = (side == .client ? clientBase : base) + UInt32(passed[index])
        var delta = PayloadDelta()
        let count = copy.count
        let verdict = copy.withUnsafeMutableBytes { buffer -> MessageTracker.Verdict in
            guard let address = buffer.baseAddress else { return .forward }
            return side == .client
                ? up.inspect(
                    payload: address, length: count, sequence: start, delta: &delta, now: 1)
                : down.inspect(
                    payload: address, length: count, sequence: start, delta: &delta, now: 1)
        }
        let goes: Int
        switch verdict {
        case .forward: goes = count
        case .forwardPrefix(let prefix): goes = prefix
        case .hold: goes = 0
        case .malformed:
            goes = 0
            problem = "malformed"
        }
        pending[index].removeFirst(goes)
        passed[index] += goes
        return Array(copy[..<goes])
    }
}
