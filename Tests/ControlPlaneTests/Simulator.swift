import ControlPlane
import TestSupport

/// Storage servers, sessions and people in virtual time around one `ResourceManager`. Everything that
/// happens follows from the seed. What must never happen is written to `violations`.
final class Simulator {
    struct WorldServer {
        enum Process { case running, crashed, frozen }
        var process = Process.running
        var isLinkUp = true
        /// Answers probes with an error.
        var isBroken = false
        /// Grows when the process and the requests that it holds are gone.
        var incarnation = 0
        /// There is a way to cut it off for certain.
        var canBeFenced = false
        /// Serves, and takes resources, since.
        var goodSince: UInt64? = 0

        var canServe: Bool { process == .running && isLinkUp && !isBroken }
    }

    enum Event {
        case routineProbe(String)
        case probeAnswer(String, started: UInt64, timeout: UInt64)
        case confirmAnswer(ChangeID, String, String, isLucky: Bool)
        case sessionsDone(ChangeID, String, String, String, SessionMoveMode)
        case fenceAnswer(FenceID, String, isLucky: Bool)
        case fault(Fault)
        case restart(String, incarnation: Int)
        case thaw(String)
        case linkUp(String)
        case repaired(String)
        case undrain(String)
        case evidence(ServerEvidence, String)
        case announce(String, ResourceAnnouncement)
    }

    enum Fault: CaseIterable {
        case crash, freeze, linkDown, broken, flapping, outage, drain, move, add, remove, loads,
            agent,
            falseAlarm, announcement, balancing
    }

    /// Parts of the world that the manager is not told of: a simulator that finds nothing wrong
    /// even then would be worth nothing.
    enum Deception { case none, fencing }

    let seed: UInt64
    var random: SplitMix64
    var now: UInt64 = 0
    var manager: ResourceManager
    var world: [String: WorldServer] = [:]
    /// Resource, server, incarnation of the server: where its sessions are.
    var legs: [String: [String: Int]] = [:]
    /// Resources that servers do not serve any more although they run.
    var gone: [String: Set<String>] = [:]
    var queue: [(time: UInt64, order: Int, event: Event)] = []
    private var order = 0
    var isQuiet = false
    var violations: [String] = []
    var trace: [String] = []
    let isTracing: Bool
    var steps = 0
    var addedServers = 0
    var invariants = Invariants()

    static let second: UInt64 = 1_000_000_000
    static let faultTime = 300 * second

    init(seed: UInt64, deception: Deception = .none, isTracing: Bool = false) {
        self.seed = seed
        self.isTracing = isTracing
        var random = SplitMix64(seed: seed &* 0x9e37_79b9 &+ 1)
        let count = 2 + random.below(5)
        var servers = (1...count).map { number in
            ManagedServer(
                name: "server\(number)", weight: Double(1 + random.below(2)),
                canBeFenced: random.below(2) == 0)
        }
        if count > 2, random.below(3) == 0 { servers[count - 1].isSpare = true }
        let regular = servers.filter { !$0.isSpare }.map(\.name)
        let resources = (1...(1 + random.below(8))).map { number in
            var holders = servers.map(\.name).filter { _ in random.below(4) > 0 }
            let owner = regular[random.below(regular.count)]
            if !holders.contains(owner) { holders.append(owner) }
            holders.shuffle(using: &random)
            return Resource(
                name: "r\(number)", target: "iqn.2026-01.test:r\(number)", servers: holders,
                assigned: owner)
        }
        for server in servers { world[server.name] = WorldServer(canBeFenced: server.canBeFenced) }
        for resource in resources { legs[resource.name] = [resource.assigned: 0] }
        if deception == .fencing {
            for index in servers.indices { servers[index].canBeFenced = false }
        }
        self.random = random
        manager = ResourceManager(
            servers: servers, table: ResourceTable(resources))
        invariants.table = manager.table
    }

    func schedule(after delay: UInt64, _ event: Event) {
        order += 1
        let entry = (time: now + delay, order: order, event: event)
        // Latest first: the next one is taken from the end.
        var low = 0
        var high = queue.count
        while low < high {
            let middle = (low + high) / 2
            let other = queue[middle]
            if (other.time, other.order) > (entry.time, entry.order) {
                low = middle + 1
            } else {
                high = middle
            }
        }
        queue.insert(entry, at: low)
    }

    func milliseconds(_ range: ClosedRange<Int>) -> UInt64 {
        UInt64(Int.random(in: range, using: &random)) * 1_000_000
    }

    func chance(_ percent: Int) -> Bool { random.below(100) < percent }

    /// Faults for five minutes, then rest; nothing may happen at the end of the rest.
    func run() {
        input(.loads(randomLoads(), own: [:]))
        if chance(60) { perform(.setAutomaticBalance(true)) }
        input(.start)
        for name in world.keys.sorted() {
            schedule(after: milliseconds(0...5000), .routineProbe(name))
        }
        for _ in 0..<(5 + random.below(30)) {
            guard let fault = Fault.allCases.randomElement(using: &random) else { continue }
            schedule(after: milliseconds(0...300_000), .fault(fault))
        }
        runUntil(Self.faultTime)
        isQuiet = true
        // What is still to be repaired is repaired within the next minute; damping ends within four.
        runUntil(Self.faultTime + 300 * Self.second)
        invariants.isStill = true
        runUntil(Self.faultTime + 400 * Self.second)
        checkEnd()
    }

    private func runUntil(_ end: UInt64) {
        while violations.isEmpty {
            steps += 1
            if steps > 20_000 { return violation("no end of steps") }
            let timer = manager.nextDeadline ?? .max
            let next = queue.last?.time ?? .max
            if min(timer, next) > end { break }
            if timer <= next {
                if timer < now { return violation("a deadline in the past: \(timer) < \(now)") }
                now = timer
                input(.tick)
                if manager.nextDeadline.map({ $0 <= now }) ?? false {
                    return violation("a deadline that stays due")
                }
            } else if let entry = queue.popLast() {
                now = entry.time
                happen(entry.event)
            }
            checkServers()
        }
        now = max(now, end)
    }

    func input(_ input: ManagementInput) {
        if case .loads = input { note("-> loads") } else { note("-> \(input)") }
        let actions = manager.handle(input, now: now)
        take(actions)
    }

    @discardableResult func perform(_ operation: ManagementOperation) -> Bool {
        note("-> \(operation)")
        do {
            take(try manager.perform(operation, now: now))
            return true
        } catch {
            note("refused: \(error)")
            return false
        }
    }

    func violation(_ text: String) {
        violations.append("at \(Double(now) / 1e9) s: \(text)")
    }

    func note(_ text: @autoclosure () -> String) {
        if isTracing { trace.append("\(Double(now) / 1e9) \(text())") }
    }

    // MARK: what the actions lead to

    private func take(_ actions: [ManagementAction]) {
        checkTable(actions)
        for action in actions {
            note("   \(action)")
            check(action)
            switch action {
            case .confirm(let id, let resource, let server): confirm(id, resource, server)
            case .moveSessions(let id, let resource, let from, let to, let mode):
                schedule(
                    after: mode == .dead ? milliseconds(1...100) : milliseconds(1...3000),
                    .sessionsDone(id, resource, from, to, mode))
            case .probeNow(let server, let timeout): probe(server, timeout)
            case .serverAlive(let server): reconnect(server)
            case .fence(let id, let server):
                let isLucky = isQuiet || !chance(20)
                schedule(
                    after: milliseconds(100...2000), .fenceAnswer(id, server, isLucky: isLucky))
            case .event(.serverRemoved(let server)): world[server] = nil
            case .event: break
            }
        }
    }

    private func confirm(_ id: ChangeID, _ resource: String, _ server: String) {
        if !isQuiet, chance(3) { return }
        let delay = !isQuiet && chance(5) ? milliseconds(1000...8000) : milliseconds(1...200)
        schedule(
            after: delay, .confirmAnswer(id, resource, server, isLucky: isQuiet || !chance(7)))
    }

    func probe(_ server: String, _ timeout: UInt64) {
        if !isQuiet, chance(2) { return }
        schedule(
            after: milliseconds(1...20), .probeAnswer(server, started: now, timeout: timeout))
    }

    private func reconnect(_ server: String) {
        guard let state = world[server], state.canServe else { return }
        for resource in manager.table.assigned(to: server) where isServing(server, resource.name) {
            let places = legs[resource.name] ?? [:]
            let isLost = places.allSatisfy { world[$0.key]?.incarnation != $0.value }
            if isLost { legs[resource.name] = [server: state.incarnation] }
        }
    }

    func isServing(_ server: String, _ resource: String) -> Bool {
        (world[server]?.canServe ?? false) && !(gone[resource]?.contains(server) ?? false)
    }
}
