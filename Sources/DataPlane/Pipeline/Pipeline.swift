import CLinux

/// Sizes and habits of a switch.
public struct PipelineConfiguration: Sendable {
    public var ports = 63
    public var rules = 4_096
    public var flows = 1 << 20
    public var macsPerDomain = 4_096
    /// Datagrams whose fragments are under way, octets of fragments that came before their first one, and ns that
    /// these wait and that what a first fragment decided is kept.
    public var fragments = 4_096
    public var fragmentOctets = 16 << 20
    public var fragmentLifetime: UInt64 = 2_000_000_000
    public var splices = 8_192
    public var heldOctets = 256 << 20
    /// Datagram services, 64 at most, and clients bound to them.
    public var datagramServices = 8
    public var datagramBindings = 1 << 16
    /// File handles of the datagram grain; beyond them those that were not used for long are forgotten.
    public var datagramHandles = 1 << 20
    /// Calls whose latency is measured at a time, about.
    public var datagramCalls = 1 << 16
    public var events = 8_192
    /// ns until a MAC address that is not seen is forgotten.
    public var macAge: UInt64 = 300_000_000_000
    /// Source of ICMP errors by domain; else the address that the packet was sent to.
    public var icmpSources: [DomainID: [IPAddress]] = [:]
    /// ICMP errors a second (RFC 1812 section 4.3.2.8).
    public var icmpRate = 1_000
    /// SYNs a second to the CPU ports, all together; 0: no limit.
    public var synRate = 0
    public var flowSeed: (UInt64, UInt64) = (0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93)
    public init() {}
}

/// The switch: ports in, tables, ports out. One thread owns it; it never allocates, blocks or logs for a
/// packet.
public struct Pipeline: ~Copyable {
    static let burst = 64
    /// Longest action list.
    public static let actionMaximum = 64

    let configuration: PipelineConfiguration
    var output: PortSet
    var flows: FlowTable
    var rules: RuleTable
    var fragments: FragmentTable
    var splicer: Splicer
    var datagrams: DatagramRedirector
    /// Action lists of exact flows; nil: free.
    var lists: [FlowActions?] = []
    var freeLists: [UInt32] = []
    /// Lists with an idle time-out, and the one that is looked at next.
    var idleLists = 0
    var idleCursor = 0
    var trace: TraceSink?
    var received = ReceivedPacket()
    private let frames: UnsafeMutablePointer<Frame>
    private let headers: UnsafeMutablePointer<PacketHeaders>
    private let keys: UnsafeMutablePointer<FlowKey>
    private let hashes: UnsafeMutablePointer<UInt64>
    /// Slots of the flows that a burst belongs to; -1: none.
    private let found: UnsafeMutablePointer<Int>
    private var nextMaintenance: UInt64 = 0
    private var nextTick: UInt64 = 0
    var icmpTokens: TokenBucket
    var synTokens: TokenBucket

    public init(configuration: PipelineConfiguration = PipelineConfiguration()) {
        self.configuration = configuration
        output = PortSet(
            capacity: configuration.ports, macCapacity: configuration.macsPerDomain,
            eventCapacity: configuration.events)
        flows = FlowTable(capacity: configuration.flows, seed: configuration.flowSeed)
        rules = RuleTable(capacity: configuration.rules)
        fragments = FragmentTable(
            capacity: configuration.fragments, octets: configuration.fragmentOctets,
            lifetime: configuration.fragmentLifetime)
        splicer = Splicer(
            capacity: configuration.splices, heldBytesMaximum: configuration.heldOctets)
        datagrams = DatagramRedirector(configuration: configuration)
        icmpTokens = TokenBucket(rate: configuration.icmpRate)
        synTokens = TokenBucket(rate: configuration.synRate)
        frames = .allocate(capacity: Self.burst)
        headers = .allocate(capacity: Self.burst)
        headers.initialize(repeating: PacketHeaders(), count: Self.burst)
        keys = .allocate(capacity: Self.burst)
        hashes = .allocate(capacity: Self.burst)
        found = .allocate(capacity: Self.burst)
    }

    deinit {
        frames.deallocate()
        headers.deallocate()
        keys.deallocate()
        hashes.deallocate()
        found.deallocate()
        for case let list? in lists { list.actions.deallocate() }
    }

    // MARK: Ports

    /// False when the number is taken or out of 1 ... 63. `mtu`: octets of IP that the port can send, 0:
    /// unknown.
    @discardableResult
    public mutating func addPort(
        _ port: any Port, number: PortNumber, domain: DomainID = 0, isCPU: Bool = false,
        mtu: Int = 0
    ) -> Bool {
        output.add(port, number: number, domain: domain, isCPU: isCPU, mtu: mtu)
    }

    @discardableResult
    public mutating func removePort(_ number: PortNumber) -> Bool { output.remove(number) }

    // MARK: One breath

    /// Takes a burst from every port, processes it and sends what comes of it. Returns frames taken.
    @discardableResult
    public mutating func step(now: UInt64) -> Int {
        var total = 0
        for index in 0..<output.numbers.count {
            total &+= receive(output.numbers[index], now: now)
        }
        return total
    }

    /// The same for the ports of a set: bit n is port n.
    @discardableResult
    mutating func step(ports: UInt64, now: UInt64) -> Int {
        var total = 0
        var rest = ports
        while rest != 0 {
            let number = rest.trailingZeroBitCount
            rest &= rest &- 1
            total &+= receive(PortNumber(number), now: now)
        }
        return total
    }

    /// One burst from one port.
    mutating func receive(_ number: PortNumber, now: UInt64) -> Int {
        guard let slot = output.slots[Int(number)] else { return 0 }
        let count = slot.port.receive(into: frames, limit: Self.burst, now: now)
        guard count > 0 else { return 0 }
        let origin: FlowKey.Origin = slot.isCPU ? .cpu : .network
        var bytes = 0
        // In stages over the whole burst: the cache misses of a large flow table overlap.
        for index in 0..<count {
            bytes &+= frames[index].length
            parse(index, domain: slot.domain, origin: origin)
        }
        if flows.count > 0 {
            for index in 0..<count { find(index) }
            for index in 0..<count { prefetchActions(index) }
        }
        output.slots[Int(number)]!.counters.receivedPackets &+= UInt64(count)
        output.slots[Int(number)]!.counters.receivedBytes &+= UInt64(truncatingIfNeeded: bytes)
        let headers = self.headers
        for index in 0..<count where hashes[index] != Self.bad {
            process(
                frames[index], &headers[index], hasKey: hashes[index] > Self.noKey,
                found: found[index], ingress: number, domain: slot.domain, origin: origin,
                now: now)
        }
        output.flush(now: now)
        splicer.releaseLeaving(flows: &flows)
        return count
    }

    /// Mark in `hashes`: the frame was dropped, or has no flow key.
    private static let bad: UInt64 = 0
    static let noKey: UInt64 = 1

    @inline(__always)
    private mutating func parse(_ index: Int, domain: DomainID, origin: FlowKey.Origin) {
        if let reason = PacketHeaders.parse(frames[index], into: &headers[index]) {
            output.count(reason)
            if let trace { trace.note("drop: \(reason)") }
            hashes[index] = Self.bad
            return
        }
        let (hash, key) = flowKey(headers[index], domain: domain, origin: origin)
        hashes[index] = hash
        keys[index] = key
        found[index] = -1
        if hash > Self.noKey { flows.prefetch(hash) }
    }

    /// Looks a frame's flow up and fetches what it will need. Nothing in a burst adds or removes flows.
    @inline(__always)
    private func find(_ index: Int) {
        guard hashes[index] > Self.noKey else { return }
        let slot = flows.find(keys[index], hash: hashes[index])
        found[index] = slot
        guard slot >= 0 else { return }
        switch flows.target(slot) {
        case .splice(let id, _): splicer.prefetch(id)
        case .actions(let list):
            lists.withUnsafeBufferPointer { dsr_prefetch($0.baseAddress! + Int(list)) }
        }
    }

    @inline(__always)
    private func prefetchActions(_ index: Int) {
        guard hashes[index] > Self.noKey, found[index] >= 0,
            case .actions(let list) = flows.target(found[index]),
            let memory = lists[Int(list)]?.actions.baseAddress
        else { return }
        dsr_prefetch(memory)
        dsr_prefetch(UnsafeRawPointer(memory) + 64)
    }

    @inline(__always)
    func flowKey(
        _ headers: PacketHeaders, domain: DomainID, origin: FlowKey.Origin
    ) -> (UInt64, FlowKey) {
        let key = FlowKey(
            source: headers.source, sourcePort: headers.sourcePort,
            destination: headers.destination, destinationPort: headers.destinationPort,
            ipProtocol: headers.ipProtocol, domain: domain, origin: origin)
        guard headers.transportOffset >= 0, headers.vlanCount == 0,
            headers.ipProtocol == IPProtocol.tcp || headers.ipProtocol == IPProtocol.udp
        else { return (Self.noKey, key) }
        return (flows.hash(key), key)
    }

    // MARK: One packet

    /// `hasKey`: TCP or UDP without a VLAN tag; `found`: slot of its exact flow, -1: none.
    mutating func process(
        _ frame: Frame, _ headers: inout PacketHeaders, hasKey: Bool, found slot: Int,
        ingress: PortNumber, domain: DomainID, origin: FlowKey.Origin, now: UInt64
    ) {
        if !headers.sourceMAC.isGroup {
            output.macs[Int(domain & 15)].learn(
                headers.sourceMAC, vlan: headers.vlanTCI, port: ingress, now: now)
        }
        if let trace { trace.note(headers, port: ingress) }
        if datagrams.watches(headers.ipProtocol), origin == .network,
            processDatagram(
                frame, &headers, found: slot, ingress: ingress, domain: domain, now: now)
        {
            return
        }
        if headers.fragment != 0 {
            return processFragment(
                frame, &headers, found: slot, ingress: ingress, domain: domain,
                origin: origin, now: now)
        }
        if hasKey {
            if slot >= 0 {
                flows.count(slot, bytes: frame.length, now: now)
                return run(
                    flows.target(slot), frame, &headers, ingress: ingress, domain: domain,
                    origin: origin, now: now)
            }
        } else if headers.transportOffset >= 0,
            processICMP(
                frame, headers, ingress: ingress, domain: domain, origin: origin, now: now)
        {
            return
        }
        matchRules(frame, &headers, ingress: ingress, domain: domain, origin: origin, now: now)
    }

    @inline(__always)
    mutating func run(
        _ target: FlowTarget, _ frame: Frame, _ headers: inout PacketHeaders,
        ingress: PortNumber, domain: DomainID, origin: FlowKey.Origin, now: UInt64
    ) {
        switch target {
        case .splice(let id, let side):
            let disposition = splicer.process(
                id, side: side, origin: origin, frame: frame, headers: &headers,
                ingress: ingress, output: &output, now: now)
            finish(disposition, id)
        case .actions(let index):
            guard let list = lists[Int(index)] else { return }
            if let trace { trace.note("flow: actions \(list.actions.map { $0 })") }
            execute(
                list.actions, frame, &headers, ingress: ingress, domain: domain, origin: origin,
                now: now)
        }
    }

    @inline(__always)
    mutating func finish(_ disposition: SpliceDisposition, _ id: SpliceID) {
        if case .dropped(let reason) = disposition { output.count(reason) }
        if let trace { trace.note("splice \(id): \(disposition)") }
    }

    mutating func matchRules(
        _ frame: Frame, _ headers: inout PacketHeaders, ingress: PortNumber, domain: DomainID,
        origin: FlowKey.Origin, now: UInt64
    ) {
        let found = rules.lookup(PacketFields(headers, inPort: ingress))
        guard found >= 0 else {
            output.count(.noRule)
            if let trace { trace.note("no rule matches: drop") }
            return
        }
        rules.count(found, bytes: frame.length, now: now)
        if let trace { trace.note(rules.entries[found]) }
        execute(
            UnsafeMutableBufferPointer(rebasing: rules.entries[found].actions[...]), frame,
            &headers, ingress: ingress, domain: domain, origin: origin, now: now)
    }

    // MARK: Time

    /// A port's device is not as it was: looked at with the next `tick`.
    public mutating func lookAtPorts() {
        nextTick = 0
        nextMaintenance = 0
    }

    /// Time-outs, ageing, ports that went or came back. Called at least every 100 ms, better every few ms.
    public mutating func tick(now: UInt64) {
        guard now >= nextTick else { return }
        nextTick = now &+ 2_000_000
        splicer.tick(flows: &flows, output: &output, now: now)
        guard now >= nextMaintenance else { return }
        nextMaintenance = now &+ 100_000_000
        for index in 0..<output.numbers.count {
            let number = output.numbers[index]
            guard let slot = output.slots[Int(number)] else { continue }
            if slot.port.maintain(now: now) {
                output.emit(.portChanged(port: number, isUp: slot.port.isUp))
            }
        }
        let dropped = fragments.expire(now: now)
        for _ in 0..<dropped { output.count(.fragmentNoFirst) }
        for domain in 0..<PortSet.domainMaximum where output.macs[domain].count > 0 {
            output.macs[domain].expire(age: configuration.macAge, now: now)
        }
        expireRules(now: now)
        expireFlows(now: now)
        output.flush(now: now)
    }

    private mutating func expireRules(now: UInt64) {
        guard rules.hasTimeouts else { return }
        var expired: [(UInt32, UInt64, Bool)] = []
        let isChanged = rules.expire(now: now) { entry, isHard in
            expired.append((entry.ruleID, entry.rule.cookie, isHard))
        }
        if isChanged { rules.rebuild() }
        for (id, cookie, isHard) in expired {
            output.emit(.ruleExpired(ruleID: id, cookie: cookie, isHard: isHard))
        }
    }
}

/// Allows `rate` things a second, and a burst of a tenth of that.
struct TokenBucket {
    private let interval: UInt64
    private let burst: UInt64
    private var next: UInt64 = 0

    /// 0: everything is allowed.
    init(rate: Int) {
        interval = rate > 0 ? UInt64(1_000_000_000 / rate) : 0
        burst = 100_000_000
    }

    mutating func take(now: UInt64) -> Bool {
        guard interval != 0 else { return true }
        if next &+ burst < now { next = now &- burst }
        guard next <= now else { return false }
        next &+= interval
        return true
    }
}

/// Collects what happens to a traced packet.
final class TraceSink {
    var lines: [String] = []
    /// Of a dry run: ports where the packet would go out.
    var outputs: [PortNumber] = []
    /// Nothing may be changed.
    let isDry: Bool
    init(isDry: Bool = false) { self.isDry = isDry }
    func note(_ line: String) { lines.append(line) }
    func note(_ headers: PacketHeaders, port: PortNumber) {
        lines.append("packet in on port \(port): \(headers.summary)")
    }
    func note(_ entry: RuleTable.Entry) {
        lines.append(
            "rule \(entry.ruleID), priority \(entry.rule.priority), cookie 0x"
                + String(entry.rule.cookie, radix: 16) + ": "
                + entry.rule.actions.map { "\($0)" }.joined(separator: ", "))
    }
}
