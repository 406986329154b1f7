/// How long a request may stay unanswered before its server is suspected: the smoothed latency plus four
/// deviations, computed like the retransmission time-out of RFC 6298 section 2, times a factor. A disk may
/// stall for longer than a network, so the bounds matter more than there.
package struct RequestDeadline: Hashable, Sendable {
    package struct Settings: Hashable, Sendable {
        package var factor: Double
        /// ns; never less.
        package var minimum: UInt64
        /// ns; never more.
        package var maximum: UInt64
        /// ns; before anything has been measured.
        package var initial: UInt64

        package init(
            factor: Double = 4, minimum: UInt64 = 500_000_000, maximum: UInt64 = 10_000_000_000,
            initial: UInt64 = 2_000_000_000
        ) {
            self.factor = factor
            self.minimum = minimum
            self.maximum = max(minimum, maximum)
            self.initial = initial
        }
    }

    private let settings: Settings
    /// ns; nil: nothing measured.
    package private(set) var smoothed: Double?
    /// ns, mean deviation.
    package private(set) var deviation = 0.0

    package init(_ settings: Settings = Settings()) { self.settings = settings }

    /// ns from a request to its answer.
    package mutating func measure(_ latency: UInt64) {
        let sample = Double(latency)
        guard let mean = smoothed else {
            smoothed = sample
            deviation = sample / 2
            return
        }
        deviation += (abs(mean - sample) - deviation) / 4
        smoothed = mean + (sample - mean) / 8
    }

    /// ns that a request may take.
    package var value: UInt64 {
        let wanted = smoothed.map { ($0 + 4 * deviation) * settings.factor }
        let bounded = min(wanted ?? Double(settings.initial), Double(settings.maximum))
        return min(settings.maximum, max(settings.minimum, UInt64(max(0, bounded))))
    }
}
