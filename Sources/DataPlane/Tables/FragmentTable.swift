/// What the first fragment of a datagram decided, so that later ones can follow it (they carry no ports), and
/// later fragments that came too early. Bounded in entries, octets and time. Where there is no place left, datagrams
/// that are complete give way first, then those that were decided about longest ago; fragments that wait for their
/// first one give way to a first one only.
package struct FragmentTable: ~Copyable {
    package struct Key: Equatable {
        package var source: IPAddress
        package var destination: IPAddress
        package var identification: UInt32
        package var ipProtocol: UInt8
        package var domain: DomainID
        package var origin: UInt8

        package init(
            source: IPAddress, destination: IPAddress, identification: UInt32, ipProtocol: UInt8,
            domain: DomainID, origin: UInt8
        ) {
            self.source = source
            self.destination = destination
            self.identification = identification
            self.ipProtocol = ipProtocol
            self.domain = domain
            self.origin = origin
        }
    }

    package enum Decision: Equatable {
        /// The first fragment has not come yet.
        case unknown
        /// No exact flow: rules decide for each fragment.
        case rules
        case flow(FlowTarget)
        /// A call or reply of a datagram service.
        case datagram(DatagramRewrite)
    }

    private struct Entry {
        var key: Key
        var decision: Decision
        /// ns; 0: free.
        var deadline: UInt64
        var waiting: FrameQueue
        /// Octets of the datagram that came, repeated ones once more, and all that it has; 0: not known yet.
        var seen: UInt32 = 0
        var total: UInt32 = 0
        var isComplete = false
    }

    private let capacity: Int
    private let entries: UnsafeMutablePointer<Entry>
    private var pool: HeldFramePool
    /// Datagrams that are not complete. Complete ones stay for a moment, for repeated fragments.
    package private(set) var count = 0
    /// Fragments that wait for their first one.
    package private(set) var waitingCount = 0
    /// Entries that are not free.
    private var occupied = 0
    /// Waiting fragments that were dropped for a first one since the last `expire`.
    private var displaced = 0
    private let lifetime: UInt64
    private static let completeLifetime: UInt64 = 100_000_000
    private static let waitingMaximum: UInt32 = 64
    private static let probes = 8

    /// `lifetime`: ns. RFC 791 recommends 15 s; the datagram is lost anyway long before.
    package init(capacity: Int, octets: Int, lifetime: UInt64 = 2_000_000_000) {
        self.lifetime = max(1, lifetime)
        var size = 16
        while size < capacity { size *= 2 }
        self.capacity = size
        entries = .allocate(capacity: size)
        let empty = Key(
            source: IPAddress(high: 0, low: 0), destination: IPAddress(high: 0, low: 0),
            identification: 0, ipProtocol: 0, domain: 0, origin: 0)
        entries.initialize(
            repeating: Entry(
                key: empty, decision: .unknown, deadline: 0, waiting: FrameQueue()), count: size)
        pool = HeldFramePool(maximum: octets)
    }

    deinit { entries.deallocate() }

    private func home(_ key: Key) -> Int {
        var hash = key.source.low ^ key.source.high &* 0x9e37_79b9_7f4a_7c15
        hash = (hash ^ key.destination.low) &* 0xd6e8_feb8_6659_fd93
        hash =
            (hash ^ key.destination.high ^ UInt64(key.identification) << 16
                ^ UInt64(key.ipProtocol)) &* 0xff51_afd7_ed55_8ccd
        return Int(truncatingIfNeeded: hash >> 32) & (capacity - 1)
    }

    /// Octets of memory that waiting fragments take.
    package var waitingOctets: Int { pool.occupied }

    /// Index of the datagram's entry, made when there is none; -1 when its places are all taken. It may become
    /// another datagram's at the next call. `isFirst`: the first fragment asks.
    package mutating func entry(for key: Key, isFirst: Bool = false, now: UInt64) -> Int {
        let start = home(key)
        var free = -1
        var displaceable = -1
        for step in 0..<Self.probes {
            let index = (start + step) & (capacity - 1)
            if entries[index].deadline == 0 {
                if free < 0 { free = index }
            } else if entries[index].key == key {
                return index
            } else if isFirst || need(index) < 2, isNeededLess(index, than: displaceable) {
                displaceable = index
            }
        }
        if free < 0, displaceable >= 0 {
            let dropped = release(displaceable)
            displaced += dropped
            free = displaceable
        }
        guard free >= 0 else { return -1 }
        entries[free] = Entry(
            key: key, decision: .unknown, deadline: now &+ lifetime, waiting: FrameQueue())
        occupied += 1
        count += 1
        return free
    }

    /// 0: complete; 1: decided; 2: fragments wait.
    private func need(_ index: Int) -> Int {
        if entries[index].isComplete { return 0 }
        if case .unknown = entries[index].decision { return 2 }
        return 1
    }

    /// `other` -1: none yet.
    private func isNeededLess(_ index: Int, than other: Int) -> Bool {
        guard other >= 0 else { return true }
        let (left, right) = (need(index), need(other))
        return left == right ? entries[index].deadline < entries[other].deadline : left < right
    }

    /// Frees an entry; returns how many waiting fragments went with it.
    private mutating func release(_ index: Int) -> Int {
        let dropped = Int(entries[index].waiting.count)
        pool.removeAll(of: &entries[index].waiting)
        entries[index].deadline = 0
        if !entries[index].isComplete { count -= 1 }
        occupied -= 1
        waitingCount -= dropped
        return dropped
    }

    package func decision(_ index: Int) -> Decision { entries[index].decision }

    package mutating func decide(_ index: Int, _ decision: Decision, now: UInt64) {
        if entries[index].isComplete {
            // A first fragment again: repeated, or another datagram with the same identification.
            entries[index].isComplete = false
            entries[index].seen = 0
            entries[index].total = 0
            count += 1
        }
        entries[index].decision = decision
        entries[index].deadline = now &+ lifetime
    }

    /// Notes that `octets` octets at `offset` of the datagram have come. When all have, its entry is not needed for
    /// long. Repeated fragments may make that too early: then a later one waits in vain.
    package mutating func note(
        _ index: Int, offset: UInt32, count octets: UInt32, isLast: Bool, now: UInt64
    ) {
        entries[index].seen &+= octets
        if isLast { entries[index].total = offset &+ octets }
        guard need(index) == 1, entries[index].total != 0,
            entries[index].seen >= entries[index].total
        else { return }
        entries[index].isComplete = true
        entries[index].deadline = now &+ min(lifetime, Self.completeLifetime)
        count -= 1
    }

    /// Keeps a copy of a fragment that came before its first one. False when there is no room.
    package mutating func wait(_ index: Int, _ frame: Frame, ingress: PortNumber) -> Bool {
        guard entries[index].waiting.count < Self.waitingMaximum,
            pool.append(frame, ingress: ingress, to: &entries[index].waiting)
        else { return false }
        waitingCount += 1
        return true
    }

    /// Oldest fragment that waits for this datagram's first one.
    package func firstWaiting(_ index: Int) -> (frame: Frame, ingress: PortNumber)? {
        pool.first(of: entries[index].waiting).map { ($0.frame, $0.ingress) }
    }

    package mutating func removeFirstWaiting(_ index: Int) {
        guard !entries[index].waiting.isEmpty else { return }
        pool.removeFirst(of: &entries[index].waiting)
        waitingCount -= 1
    }

    /// Frees what is over time; returns how many waiting fragments were dropped with it, and for others since the
    /// last call.
    package mutating func expire(now: UInt64) -> Int {
        var dropped = displaced
        displaced = 0
        guard occupied > 0 else { return dropped }
        for index in 0..<capacity
        where entries[index].deadline != 0 && now >= entries[index].deadline {
            dropped += release(index)
        }
        return dropped
    }
}
