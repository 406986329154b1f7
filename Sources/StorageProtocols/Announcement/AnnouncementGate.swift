/// Which sequences were taken: the window of RFC 4303 appendix A2 over whole 64-bit sequences, so that
/// datagrams may overtake each other and none is taken twice.
package struct ReplayWindow: Hashable, Sendable {
    package static let width: UInt64 = 64

    package private(set) var newest: UInt64 = 0
    /// Bit n: `newest - n` was taken.
    private var taken: UInt64 = 0

    package init() {}

    /// All below `sequence` counts as taken.
    package init(from sequence: UInt64) {
        newest = sequence &- 1
        taken = .max
    }

    package func check(_ sequence: UInt64) throws(AnnouncementRefusal) {
        guard sequence <= newest else { return }
        let age = newest - sequence
        guard age < Self.width else { throw .tooOld }
        guard taken >> age & 1 == 0 else { throw .replayed }
    }

    /// To be called only with what `check` lets pass.
    package mutating func insert(_ sequence: UInt64) {
        if sequence > newest {
            let step = sequence - newest
            taken = step < Self.width ? taken << step | 1 : 1
            newest = sequence
        } else if newest - sequence < Self.width {
            taken |= 1 << (newest - sequence)
        }
    }
}

/// Lets through what servers have really said, once.
///
/// The sequence protects within one run of an agent. A run that is not known must have started after the known
/// one, and its datagram must have been sent just now; so the switch, when it has started anew and knows no run,
/// can be told at most what was said within the permitted skew, and until the next true datagram comes.
public struct AnnouncementGate: Sendable {
    private struct Known {
        var bootID: UInt64
        var bootTime: UInt64
        var window: ReplayWindow
    }

    private var keys: [String: AnnouncementKey] = [:]
    private var known: [String: Known] = [:]
    /// ms.
    public var skew: UInt64

    /// `skew`: ms by which clocks may differ.
    public init(skew: UInt64) { self.skew = skew }

    /// Servers that may announce. What is known of those that stay is kept: a reload must not open the gate to
    /// replays.
    public mutating func setKeys(_ keys: [String: AnnouncementKey]) {
        self.keys = keys
        known = known.filter { keys[$0.key] != nil }
    }

    /// What a datagram says. `now`: ms since 1970; `isAddress`: whether it came from an address of the server.
    public mutating func take(
        _ datagram: [UInt8], now: UInt64, isAddress: (_ server: String) -> Bool
    ) throws(AnnouncementRefusal) -> Announcement {
        let envelope = try AnnouncementEnvelope(datagram)
        let server = envelope.announcement.server
        guard let key = keys[server] else { throw .unknownServer }
        guard isAddress(server) else { throw .wrongAddress }
        guard key.identifier == envelope.keyIdentifier else { throw .unknownKey }
        guard key.isCode(envelope.code, of: envelope.covered) else { throw .badMAC }
        let announcement = try envelope.whole()
        var run = try run(of: announcement, now: now)
        try run.window.check(announcement.sequence)
        run.window.insert(announcement.sequence)
        known[server] = run
        return announcement
    }

    private func run(
        of announcement: Announcement, now: UInt64
    ) throws(AnnouncementRefusal) -> Known {
        // What a run said before it was first heard may be a recording of any age.
        let new = Known(
            bootID: announcement.bootID, bootTime: announcement.bootTime,
            window: ReplayWindow(from: announcement.sequence))
        if let old = known[announcement.server] {
            if old.bootID == new.bootID {
                guard old.bootTime == new.bootTime else { throw .stale }
                return old
            }
            guard new.bootTime > old.bootTime else { throw .stale }
        }
        // A start in the future would shut out all runs until then.
        guard Self.distance(announcement.timestamp, now) <= skew,
            new.bootTime <= now || new.bootTime - now <= skew
        else { throw .stale }
        return new
    }

    private static func distance(_ left: UInt64, _ right: UInt64) -> UInt64 {
        left > right ? left - right : right - left
    }
}
