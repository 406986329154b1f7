// What people are told of the tables. Called between bursts, never for a packet.

/// A rule with its counters.
public struct RuleStatus: Sendable {
    public var ruleID: UInt32
    public var rule: Rule
    public var packets: UInt64
    public var bytes: UInt64
    /// ns since it was installed, and since it matched last.
    public var duration: UInt64
    public var idle: UInt64

    package init(
        ruleID: UInt32, rule: Rule, packets: UInt64, bytes: UInt64, duration: UInt64, idle: UInt64
    ) {
        self.ruleID = ruleID
        self.rule = rule
        self.packets = packets
        self.bytes = bytes
        self.duration = duration
        self.idle = idle
    }
}

/// An exact flow with its counters.
public struct FlowStatus: Sendable {
    public var key: FlowKey
    /// The splice that it belongs to, or nil.
    public var splice: (id: SpliceID, side: SpliceSide)?
    public var actions: [Action]
    public var cookie: UInt64
    public var packets: UInt64
    public var bytes: UInt64
    /// Second of the last packet, of the clock of `now`.
    public var lastUsed: UInt32
}

public struct MACStatus: Sendable {
    public var mac: MACAddress
    public var vlan: UInt16
    public var port: PortNumber
    public var domain: DomainID
    /// ns since it was seen last.
    public var age: UInt64
}

/// Sums and sizes.
public struct PipelineStatus: Sendable {
    public var drops: [DropReason: UInt64]
    public var rules: Int
    public var ruleCapacity: Int
    public var flows: Int
    public var flowCapacity: Int
    public var splices: Int
    public var spliceCapacity: Int
    public var fragments: Int
    public var heldOctets: Int
    public var eventsLost: UInt64
    public var splicer: SpliceCounters
}

/// How far a reader of the flows is.
public struct FlowCursor: Sendable {
    /// Flows still to be passed over.
    public var skip: Int
    public internal(set) var isAtEnd = false
    var splice = 0
    var key = 0
    var list = 0
    /// Flows that one call looks at.
    static let looks = 2_048

    public init(skip: Int = 0) { self.skip = max(0, skip) }
}

extension Pipeline {
    public func ruleStatus(now: UInt64) -> [RuleStatus] {
        (0..<rules.count).map { index in
            let entry = rules.entries[index]
            return RuleStatus(
                ruleID: entry.ruleID, rule: entry.rule, packets: entry.packets,
                bytes: entry.bytes, duration: now &- min(now, entry.created),
                idle: now &- min(now, entry.lastUsed))
        }
    }

    /// Up to `limit` flows from slot `start`; `next` is where to go on, nil at the end.
    public func flowStatus(from start: Int, limit: Int) -> (flows: [FlowStatus], next: Int?) {
        var result: [FlowStatus] = []
        var index = max(0, start)
        // A look at a bounded number of slots, so that packets do not wait for long.
        let end = min(flows.slotCount, index + 65_536)
        while index < end, result.count < limit {
            if let slot = flows.slot(index) { result.append(status(slot)) }
            index += 1
        }
        return (result, index < flows.slotCount ? index : nil)
    }

    private func status(
        _ slot: (
            key: FlowKey, target: FlowTarget, packets: UInt64, bytes: UInt64, lastUsed: UInt32
        )
    ) -> FlowStatus {
        switch slot.target {
        case .splice(let id, let side):
            return FlowStatus(
                key: slot.key, splice: (id, side), actions: [.splice(id)], cookie: 0,
                packets: slot.packets, bytes: slot.bytes, lastUsed: slot.lastUsed)
        case .actions(let index):
            let list = lists[Int(index)]
            return FlowStatus(
                key: slot.key, splice: nil, actions: list.map { Array($0.actions) } ?? [],
                cookie: list?.cookie ?? 0, packets: slot.packets, bytes: slot.bytes,
                lastUsed: slot.lastUsed)
        }
    }

    /// The next flows behind `cursor`, those of splices first; without a walk over the whole table. Looks
    /// at a bounded number, so that packets do not wait for long. Flows that come or go between two
    /// calls may be missed or told twice.
    public func nextFlows(_ cursor: inout FlowCursor, limit: Int) -> [FlowStatus] {
        var result: [FlowStatus] = []
        var looks = 0
        while cursor.splice < splicer.activeCount, looks < FlowCursor.looks, result.count < limit {
            looks += 4
            let keys = boundKeys(splicer.active[cursor.splice])
            for key in keys.dropFirst(cursor.key) where result.count < limit {
                cursor.key += 1
                take(key, &cursor, &result)
            }
            guard cursor.key >= keys.count else { break }
            cursor.key = 0
            cursor.splice += 1
        }
        guard cursor.splice >= splicer.activeCount else { return result }
        while cursor.list < lists.count, looks < FlowCursor.looks, result.count < limit {
            looks += 1
            cursor.list += 1
            if let list = lists[cursor.list - 1] { take(list.key, &cursor, &result) }
        }
        cursor.isAtEnd = cursor.list >= lists.count
        return result
    }

    private func take(_ key: FlowKey, _ cursor: inout FlowCursor, _ result: inout [FlowStatus]) {
        guard cursor.skip == 0 else {
            cursor.skip -= 1
            return
        }
        let slot = flows.find(key, hash: flows.hash(key))
        if let entry = flows.slot(slot) { result.append(status(entry)) }
    }

    private func boundKeys(_ id: SpliceID) -> [FlowKey] {
        SpliceSide.allCases.flatMap { which in
            let side = splicer.side(id, which)
            return side.pointee.isBound ? [splicer.networkKey(side), splicer.cpuKey(side)] : []
        }
    }

    /// Flows in the table, of every kind.
    public var flowCount: Int { flows.count }

    public func actionFlowStatus() -> [FlowStatus] {
        lists.compactMap { list in
            guard let list else { return nil }
            let slot = flows.find(list.key, hash: flows.hash(list.key))
            return flows.slot(slot).map { status($0) }
        }
    }

    /// Port behind which an untagged MAC address of a domain was seen last; nil: nobody has seen it.
    public func port(of mac: MACAddress, in domain: DomainID) -> PortNumber? {
        let number = output.macs[Int(domain & 15)].port(of: mac, vlan: 0)
        return number == 0 ? nil : number
    }

    public func macStatus(now: UInt64) -> [MACStatus] {
        (0..<PortSet.domainMaximum).flatMap { domain in
            output.macs[domain].entries(now: now).map {
                MACStatus(
                    mac: $0.mac, vlan: $0.vlan, port: $0.port, domain: DomainID(domain),
                    age: $0.age)
            }
        }
    }

    public func portStatus() -> [PortStatus] { output.status() }

    public func status() -> PipelineStatus {
        var drops: [DropReason: UInt64] = [:]
        for reason in DropReason.allCases {
            let count = output.dropCount(reason)
            if count > 0 { drops[reason] = count }
        }
        return PipelineStatus(
            drops: drops, rules: rules.count, ruleCapacity: rules.capacity, flows: flows.count,
            flowCapacity: flows.capacity, splices: splicer.activeCount,
            spliceCapacity: splicer.capacity, fragments: fragments.count,
            heldOctets: splicer.pool.occupied, eventsLost: output.events.lost,
            splicer: splicer.counters)
    }

    /// Of each that is open; for a bounded number at a time.
    public func spliceSnapshots(_ ids: ArraySlice<SpliceID>) -> [SpliceID: SpliceSnapshot] {
        var result: [SpliceID: SpliceSnapshot] = [:]
        for id in ids { result[id] = spliceSnapshot(id) }
        return result
    }

    /// What the request logs say that belong to the dataplane now; for a bounded number at a time.
    public func requestStatistics(
        _ ids: ArraySlice<SpliceID>
    ) -> [SpliceID: RequestStatistics] {
        var result: [SpliceID: RequestStatistics] = [:]
        for id in ids where splicer.isOpen(id) {
            guard let log = splicer.records[Int(id)].log else { continue }
            result[id] = log._withUnsafeGuaranteedRef { $0.statistics }
        }
        return result
    }

    /// Gives the memory back of those logs among them that belong to the dataplane and keep nothing now.
    public func trimRequestLogs(_ ids: ArraySlice<SpliceID>) {
        for id in ids where splicer.isOpen(id) {
            splicer.records[Int(id)].log?._withUnsafeGuaranteedRef { $0.trim() }
        }
    }

    public func spliceSnapshot(_ id: SpliceID) -> SpliceSnapshot? {
        splicer.isOpen(id) ? splicer.snapshot(id) : nil
    }
}
