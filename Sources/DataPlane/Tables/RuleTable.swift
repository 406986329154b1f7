extension PacketFields {
    /// The fields of a packet as rules see them. As in Open vSwitch's normal fragment mode, the transport
    /// ports of every fragment are 0 (ovs-fields(7), "IP Fragments").
    @inline(__always)
    package init(_ headers: PacketHeaders, inPort: PortNumber) {
        sourceMAC = headers.sourceMAC.rawValue
        destinationMAC = headers.destinationMAC.rawValue
        self.inPort = inPort
        etherType = headers.etherType
        vlanTCI = headers.vlanTCI
        guard headers.ipVersion != 0 || headers.etherType == EtherType.arp else { return }
        sourceHigh = headers.source.high
        sourceLow = headers.source.low
        destinationHigh = headers.destination.high
        destinationLow = headers.destination.low
        ipProtocol = headers.ipProtocol
        tos = headers.tos
        ttl = headers.ttl
        fragment = headers.fragment
        arpSourceMAC = headers.arpSourceMAC.rawValue
        arpTargetMAC = headers.arpTargetMAC.rawValue
        if headers.fragment == 0, headers.transportOffset >= 0 {
            transportSource = headers.sourcePort
            transportDestination = headers.destinationPort
            tcpFlags = headers.tcpFlags
        }
    }

    /// Ten words: the layout has no padding.
    package static let words = 10

    @inline(__always)
    package static func masked(_ value: PacketFields, _ mask: PacketFields) -> PacketFields {
        var result = value
        withUnsafeMutableBytes(of: &result) { bytes in
            withUnsafeBytes(of: mask) { maskBytes in
                guard let to = bytes.baseAddress, let by = maskBytes.baseAddress else { return }
                for word in 0..<words {
                    let offset = word &* 8
                    to.storeBytes(
                        of: to.load(fromByteOffset: offset, as: UInt64.self)
                            & by.load(fromByteOffset: offset, as: UInt64.self),
                        toByteOffset: offset, as: UInt64.self)
                }
            }
        }
        return result
    }

    @inline(__always)
    package static func hash(_ value: PacketFields) -> UInt64 {
        withUnsafeBytes(of: value) { bytes in
            guard let from = bytes.baseAddress else { return 0 }
            var hash: UInt64 = 0x9e37_79b9_7f4a_7c15
            for word in 0..<words {
                let part = from.load(fromByteOffset: word &* 8, as: UInt64.self)
                let (high, low) = (hash ^ part).multipliedFullWidth(by: 0xd6e8_feb8_6659_fd93)
                hash = high ^ low
            }
            return hash
        }
    }

    @inline(__always)
    package static func areEqual(_ left: PacketFields, _ right: PacketFields) -> Bool {
        withUnsafeBytes(of: left) { leftBytes in
            withUnsafeBytes(of: right) { rightBytes in
                guard let a = leftBytes.baseAddress, let b = rightBytes.baseAddress else {
                    return false
                }
                var difference: UInt64 = 0
                for word in 0..<words {
                    difference |=
                        a.load(fromByteOffset: word &* 8, as: UInt64.self)
                        ^ b.load(fromByteOffset: word &* 8, as: UInt64.self)
                }
                return difference == 0
            }
        }
    }
}

extension Match {
    /// Whether every packet that `self` matches is matched by `other` too.
    package func isAtLeastAsSpecific(as other: Match) -> Bool {
        PacketFields.areEqual(PacketFields.masked(mask, other.mask), other.mask)
            && PacketFields.areEqual(PacketFields.masked(value, other.mask), other.value)
    }

    /// With zeros wherever the mask is zero.
    package var canonical: Match {
        var result = self
        result.value = PacketFields.masked(value, mask)
        return result
    }
}

extension RuleSelector {
    /// Whether a rule of the table, with its match in canonical form, is meant.
    package func selects(_ rule: Rule) -> Bool {
        if rule.cookie == exceptCookie { return false }
        if cookieMask != 0, (rule.cookie ^ cookie) & cookieMask != 0 { return false }
        if let outPort, !rule.actions.contains(.output(outPort)) { return false }
        let wanted = match.canonical
        if isStrict { return rule.match == wanted && rule.priority == priority }
        return rule.match.isAtLeastAsSpecific(as: wanted)
    }
}

/// Masked rules with priorities, by tuple space search: rules with the same mask share a hash table, and the
/// tables are searched from the highest priority down until none can win any more. Of two rules of the same
/// priority that both match, the older one wins.
package struct RuleTable: ~Copyable {
    /// A rule in the table.
    package struct Entry {
        package let ruleID: UInt32
        package var rule: Rule
        /// The rule's actions in memory of their own, for the packet path.
        package var actions: UnsafeMutableBufferPointer<Action>
        package var created: UInt64
        package var lastUsed: UInt64
        package var packets: UInt64 = 0
        package var bytes: UInt64 = 0
    }

    private struct Group {
        var mask: PacketFields
        var priorityMaximum: UInt16
        /// Index into `entries` + 1; 0: empty.
        var buckets: UnsafeMutableBufferPointer<UInt32>
    }

    package let capacity: Int
    /// In order of age.
    package private(set) var entries: UnsafeMutablePointer<Entry>
    package private(set) var count = 0
    private let groups: UnsafeMutablePointer<Group>
    private var groupCount = 0
    private var nextID: UInt32 = 1
    /// Entries that there is memory for: more than `capacity` after a batch that needed it on the way.
    private var room: Int

    package init(capacity: Int) {
        self.capacity = max(1, capacity)
        room = self.capacity
        entries = .allocate(capacity: self.capacity)
        groups = .allocate(capacity: self.capacity)
    }

    deinit {
        for index in 0..<count { entries[index].actions.deallocate() }
        entries.deinitialize(count: count)
        for index in 0..<groupCount { groups[index].buckets.deallocate() }
        entries.deallocate()
        groups.deallocate()
    }

    // MARK: Look-up

    /// Index of the entry with the highest priority that matches, or -1. Allocates nothing.
    @inline(__always)
    package func lookup(_ fields: PacketFields) -> Int {
        var best = -1
        var bestPriority: UInt16 = 0
        for index in 0..<groupCount {
            let group = groups + index
            if best >= 0, bestPriority > group.pointee.priorityMaximum { break }
            let masked = PacketFields.masked(fields, group.pointee.mask)
            let found = find(masked, group)
            guard found >= 0 else { continue }
            let priority = entries[found].rule.priority
            if best < 0 || priority > bestPriority || (priority == bestPriority && found < best) {
                best = found
                bestPriority = priority
            }
        }
        return best
    }

    @inline(__always)
    private func find(_ masked: PacketFields, _ group: UnsafeMutablePointer<Group>) -> Int {
        let buckets = group.pointee.buckets
        let bucketMask = buckets.count &- 1
        var index = Int(truncatingIfNeeded: PacketFields.hash(masked)) & bucketMask
        while buckets[index] != 0 {
            let entry = Int(buckets[index]) - 1
            if PacketFields.areEqual(entries[entry].rule.match.value, masked) { return entry }
            index = (index &+ 1) & bucketMask
        }
        return -1
    }

    @inline(__always)
    package func count(_ index: Int, bytes: Int, now: UInt64) {
        entries[index].packets &+= 1
        entries[index].bytes &+= UInt64(truncatingIfNeeded: bytes)
        entries[index].lastUsed = now
    }

    // MARK: Change (control time: may allocate)

    /// Adds a rule or replaces the one with the same match and priority. The caller has checked capacity.
    package mutating func add(_ rule: Rule, now: UInt64) {
        var rule = rule
        rule.match = rule.match.canonical
        let same = (0..<count).first {
            entries[$0].rule.priority == rule.priority && entries[$0].rule.match == rule.match
        }
        if let same { remove(at: same) }
        guard count < room else { return }
        (entries + count).initialize(to: makeEntry(rule, now: now))
        count += 1
    }

    /// Makes memory for that many entries. Before `rebuild` there must be no more than `capacity` again.
    package mutating func reserve(_ wanted: Int) {
        guard wanted > room else { return }
        let larger = UnsafeMutablePointer<Entry>.allocate(capacity: wanted)
        larger.moveInitialize(from: entries, count: count)
        entries.deallocate()
        entries = larger
        room = wanted
    }

    private mutating func makeEntry(_ rule: Rule, now: UInt64) -> Entry {
        defer { nextID &+= 1 }
        return Entry(
            ruleID: nextID, rule: rule, actions: Self.copy(rule.actions), created: now,
            lastUsed: now)
    }

    private static func copy(_ actions: [Action]) -> UnsafeMutableBufferPointer<Action> {
        let memory = UnsafeMutableBufferPointer<Action>.allocate(capacity: actions.count)
        _ = memory.initialize(from: actions)
        return memory
    }

    private mutating func remove(at index: Int) {
        entries[index].actions.deallocate()
        (entries + index).deinitialize(count: 1)
        (entries + index).moveInitialize(from: entries + index + 1, count: count - index - 1)
        count -= 1
    }

    private func isSelected(_ entry: Entry, _ selector: RuleSelector) -> Bool {
        selector.selects(entry.rule)
    }

    /// Number of rules removed.
    package mutating func delete(_ selector: RuleSelector) -> Int {
        var removed = 0
        for index in stride(from: count - 1, through: 0, by: -1)
        where isSelected(entries[index], selector) {
            remove(at: index)
            removed += 1
        }
        return removed
    }

    /// Number of rules changed.
    package mutating func modify(_ selector: RuleSelector, actions: [Action]) -> Int {
        var changed = 0
        for index in 0..<count where isSelected(entries[index], selector) {
            entries[index].rule.actions = actions
            entries[index].actions.deallocate()
            entries[index].actions = Self.copy(actions)
            changed += 1
        }
        return changed
    }

    /// Number of rules after the change. Rules that stay the same keep their counters.
    package mutating func replace(with rules: [Rule], now: UInt64) -> Int {
        var wanted: [Rule] = []
        for var rule in rules {
            rule.match = rule.match.canonical
            wanted.removeAll { $0.priority == rule.priority && $0.match == rule.match }
            wanted.append(rule)
        }
        for index in stride(from: count - 1, through: 0, by: -1)
        where !wanted.contains(entries[index].rule) {
            remove(at: index)
        }
        for rule in wanted where !(0..<count).contains(where: { entries[$0].rule == rule }) {
            guard count < capacity else { break }
            (entries + count).initialize(to: makeEntry(rule, now: now))
            count += 1
        }
        return count
    }

    /// Removes rules whose time is over; calls `expired` for each.
    package mutating func expire(now: UInt64, _ expired: (_ entry: Entry, _ isHard: Bool) -> Void)
        -> Bool
    {
        var isChanged = false
        for index in stride(from: count - 1, through: 0, by: -1) {
            let entry = entries[index]
            let hard = UInt64(entry.rule.hardTimeout) * 1_000_000_000
            let idle = UInt64(entry.rule.idleTimeout) * 1_000_000_000
            let isHard = hard != 0 && now >= entry.created && now - entry.created >= hard
            let isIdle = idle != 0 && now >= entry.lastUsed && now - entry.lastUsed >= idle
            guard isHard || isIdle else { continue }
            expired(entry, isHard)
            remove(at: index)
            isChanged = true
        }
        return isChanged
    }

    package var hasTimeouts: Bool {
        (0..<count).contains {
            entries[$0].rule.idleTimeout != 0 || entries[$0].rule.hardTimeout != 0
        }
    }

    /// Builds the search structure anew; once after all changes of a batch.
    package mutating func rebuild() {
        for index in 0..<groupCount { groups[index].buckets.deallocate() }
        groupCount = 0
        var members: [PacketFields: [Int]] = [:]
        for index in 0..<count {
            members[entries[index].rule.match.mask, default: []].append(index)
        }
        let built = members.map { mask, indices in
            Group(
                mask: mask,
                priorityMaximum: indices.map { entries[$0].rule.priority }.max() ?? 0,
                buckets: buckets(indices))
        }.sorted { $0.priorityMaximum > $1.priorityMaximum }
        for group in built {
            groups[groupCount] = group
            groupCount += 1
        }
    }

    /// A hash table over rules of one mask; of several with the same value only the winner is in it.
    private func buckets(_ indices: [Int]) -> UnsafeMutableBufferPointer<UInt32> {
        var size = 4
        while size < indices.count * 2 { size *= 2 }
        let table = UnsafeMutableBufferPointer<UInt32>.allocate(capacity: size)
        table.initialize(repeating: 0)
        for index in indices {
            let value = entries[index].rule.match.value
            var position = Int(truncatingIfNeeded: PacketFields.hash(value)) & (size - 1)
            while table[position] != 0 {
                let other = Int(table[position]) - 1
                if entries[other].rule.match.value == value {
                    if entries[index].rule.priority > entries[other].rule.priority {
                        table[position] = UInt32(index + 1)
                    }
                    break
                }
                position = (position + 1) & (size - 1)
            }
            if table[position] == 0 { table[position] = UInt32(index + 1) }
        }
        return table
    }
}
