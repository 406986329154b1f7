/// What the first fragment of a datagram decided, so that later ones can follow it (they carry no ports), and
/// later fragments that came too early. Bounded in entries, octets and time.
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
    }

    private struct Entry {
        var key: Key
        var decision: Decision
        /// ns; 0: free.
        var deadline: UInt64
        var waiting: FrameQueue
    }

    private let capacity: Int
    private let entries: UnsafeMutablePointer<Entry>
    private var pool: HeldFramePool
    package private(set) var count = 0
    /// RFC 791 recommends 15 s; the datagram is lost anyway long before.
    private static let lifetime: UInt64 = 2_000_000_000
    private static let waitingMaximum: UInt32 = 64
    private static let probes = 8

    package init(capacity: Int, octets: Int) {
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

    /// Index of the datagram's entry, made when there is none; -1 when its places are all taken.
    package mutating func entry(for key: Key, now: UInt64) -> Int {
        let start = home(key)
        var free = -1
        for step in 0..<Self.probes {
            let index = (start + step) & (capacity - 1)
            if entries[index].deadline == 0 {
                if free < 0 { free = index }
            } else if entries[index].key == key {
                return index
            }
        }
        guard free >= 0 else { return -1 }
        entries[free] = Entry(
            key: key, decision: .unknown, deadline: now &+ Self.lifetime, waiting: FrameQueue())
        count += 1
        return free
    }

    package func decision(_ index: Int) -> Decision { entries[index].decision }

    package mutating func decide(_ index: Int, _ decision: Decision, now: UInt64) {
        entries[index].decision = decision
        entries[index].deadline = now &+ Self.lifetime
    }

    /// Keeps a copy of a fragment that came before its first one. False when there is no room.
    package mutating func wait(_ index: Int, _ frame: Frame, ingress: PortNumber) -> Bool {
        guard entries[index].waiting.count < Self.waitingMaximum else { return false }
        return pool.append(frame, ingress: ingress, to: &entries[index].waiting)
    }

    /// Oldest fragment that waits for this datagram's first one.
    package func firstWaiting(_ index: Int) -> (frame: Frame, ingress: PortNumber)? {
        pool.first(of: entries[index].waiting).map { ($0.frame, $0.ingress) }
    }

    package mutating func removeFirstWaiting(_ index: Int) {
        pool.removeFirst(of: &entries[index].waiting)
    }

    /// Frees what is over time; returns how many fragments were dropped with it.
    package mutating func expire(now: UInt64) -> Int {
        guard count > 0 else { return 0 }
        var dropped = 0
        for index in 0..<capacity
        where entries[index].deadline != 0 && now >= entries[index].deadline {
            dropped += Int(entries[index].waiting.count)
            pool.removeAll(of: &entries[index].waiting)
            entries[index].deadline = 0
            count -= 1
        }
        return dropped
    }
}
