/// When a session changes its grain.
struct GrainChange {
    /// ns that it must have used one server only. Twice as long after a change that did not last, so that a session which
    /// goes to and fro is left alone.
    var settle = GrainChange.settleMinimum
    var changedAt: UInt64 = 0
    var isWanted = false
    var timer: EventLoop.Timer?
    /// What waits for the session to be back.
    var afterwards: [() -> Void] = []
    /// Why the session is where it is, for people.
    var reason = "it was not used yet"

    static let settleMinimum: UInt64 = 1_000_000_000
    static let settleMaximum: UInt64 = 60_000_000_000
    /// A change that held for this long was right.
    static let rightTime: UInt64 = 10_000_000_000

    mutating func cameBack(at now: UInt64) {
        settle =
            now - changedAt > Self.rightTime
            ? Self.settleMinimum : min(Self.settleMaximum, settle * 2)
    }
}
