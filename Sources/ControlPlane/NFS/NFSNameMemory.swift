/// What replies have said of names in directories lately. When a call about a name has to be sent again, this is what
/// is known of how it was before the call was sent first.
package struct NFSNameMemory: Sendable {
    /// A name in a directory, which is a handle of the server.
    package struct Place: Hashable, Sendable {
        package let index: UInt32
        package let directory: [UInt8]
        package let name: [UInt8]
    }

    /// What a name is of.
    package struct Identity: Equatable, Sendable {
        /// The server's.
        package var handle: [UInt8]
        package var fileNumber: UInt64?

        package init(handle: [UInt8], fileNumber: UInt64? = nil) {
            self.handle = handle
            self.fileNumber = fileNumber
        }
    }

    package struct Knowledge: Equatable, Sendable {
        package var isThere: Bool
        /// Of what is there; nil: nobody knows.
        package var identity: Identity?
        /// When a client was last told that its call has made or removed the name, ns.
        package var changedAt: UInt64?
    }

    private var table: NFSRecentTable<Place, Knowledge>

    /// - Parameter maximum: names, about 300 octets each. What was forgotten is unknown.
    package init(maximum: Int) { table = NFSRecentTable(maximum: maximum) }

    package mutating func knowledge(of place: Place) -> Knowledge? { table.value(place) }

    /// A client was told that since `time` another call has made the name (`isThere`), or removed it.
    package func wasChanged(_ place: Place, isThere: Bool, since time: UInt64) -> Bool {
        guard let known = table.peek(place), known.isThere == isThere,
            let changedAt = known.changedAt
        else { return false }
        return changedAt >= time
    }

    /// A reply has said how it is.
    /// - Parameter askedAt: ns, when its call was sent: what a client was told since to have changed may not be in it.
    mutating func see(
        _ place: Place, isThere: Bool, identity: Identity? = nil, askedAt: UInt64
    ) {
        var known = Knowledge(isThere: isThere, identity: identity)
        if let before = table.peek(place) {
            if let changedAt = before.changedAt, changedAt > askedAt { return }
            if before.isThere == isThere {
                known.changedAt = before.changedAt
                if identity == nil { known.identity = before.identity }
            }
        }
        table.set(known, for: place)
    }

    /// A call that succeeded has made it so.
    mutating func change(
        _ place: Place, isThere: Bool, identity: Identity? = nil, now: UInt64
    ) {
        table.set(
            Knowledge(isThere: isThere, identity: identity, changedAt: now), for: place)
    }

    mutating func forget(_ indexes: Set<UInt32>) {
        table.removeAll { place, _ in indexes.contains(place.index) }
    }
}

/// What a server's clock shows, from the times of what it has just changed. A lower bound: the change was made before
/// its reply came.
package struct NFSServerClock: Equatable, Sendable {
    /// ns from our clock to the server's.
    private var offset: Int64?
    private var learnedAt: UInt64 = 0
    /// A bound that is lower than the one before counts when that is older: clocks are set back now and then. ns.
    private static let patience: UInt64 = 10_000_000_000

    package init() {}

    /// - Parameter change: ns since 1970, of a file that the reply which came `now` says to be changed.
    package mutating func note(change: UInt64, now: UInt64) {
        let found = Int64(truncatingIfNeeded: change &- now)
        if let offset, found < offset, now &- learnedAt < Self.patience { return }
        offset = found
        learnedAt = now
    }

    /// ns since 1970 at `time` of ours; nil: nothing of it is known.
    package func time(at time: UInt64) -> UInt64? {
        offset.map { time &+ UInt64(bitPattern: $0) }
    }
}

/// How things stood when a call was sent first.
package struct NFSFirstSend: Equatable, Sendable {
    /// ns.
    package let startedAt: UInt64
    /// Of each of its names.
    package let names: [NFSNameMemory.Knowledge?]
    /// The server's clock then, ns since 1970; nil: nothing of it is known.
    package let serverTime: UInt64?

    package init(
        startedAt: UInt64, names: [NFSNameMemory.Knowledge?] = [], serverTime: UInt64? = nil
    ) {
        self.startedAt = startedAt
        self.names = names
        self.serverTime = serverTime
    }
}
