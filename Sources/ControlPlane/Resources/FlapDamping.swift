import Glibc

/// Keeps something that changes its state again and again out of use, in the manner of route flap damping
/// (RFC 2439): each failure adds a penalty that decays exponentially; above one limit it is suppressed,
/// below another it may be used again.
package struct FlapDamping: Hashable, Sendable {
    package struct Settings: Hashable, Sendable {
        /// Added by each failure.
        package var penalty: Double
        /// Suppressed from this penalty on.
        package var suppressLimit: Double
        /// Not suppressed any more below this one.
        package var reuseLimit: Double
        /// The penalty never exceeds it: bounds the time out of use.
        package var maximum: Double
        /// ns in which the penalty halves. Positive.
        package var halfLife: UInt64

        /// By default the third failure within a minute suppresses, for two minutes or so.
        package init(
            penalty: Double = 1000, suppressLimit: Double = 2200, reuseLimit: Double = 750,
            maximum: Double = 6000, halfLife: UInt64 = 60_000_000_000
        ) {
            self.penalty = penalty
            self.suppressLimit = suppressLimit
            self.reuseLimit = reuseLimit
            self.maximum = maximum
            self.halfLife = max(1, halfLife)
        }
    }

    private let settings: Settings
    private var value = 0.0
    private var updated: UInt64 = 0
    package private(set) var isSuppressed = false

    package init(_ settings: Settings = Settings()) { self.settings = settings }

    package func penalty(now: UInt64) -> Double {
        let elapsed = now > updated ? Double(now - updated) : 0
        return value * exp2(-elapsed / Double(settings.halfLife))
    }

    /// Counts one failure. True: it is suppressed from now on.
    package mutating func fail(now: UInt64) -> Bool {
        value = min(settings.maximum, penalty(now: now) + settings.penalty)
        updated = max(updated, now)
        guard !isSuppressed, value >= settings.suppressLimit else { return false }
        isSuppressed = true
        return true
    }

    /// True: it may be used again from now on.
    package mutating func release(now: UInt64) -> Bool {
        guard isSuppressed, let time = reuseTime, time <= now else { return false }
        isSuppressed = false
        return true
    }

    /// ns at which the penalty is low enough for use; nil: not suppressed.
    package var reuseTime: UInt64? {
        guard isSuppressed else { return nil }
        guard value > settings.reuseLimit, settings.reuseLimit > 0 else { return updated }
        return updated
            + UInt64((log2(value / settings.reuseLimit) * Double(settings.halfLife)).rounded(.up))
    }
}
