/// How long a request may stay unanswered before its server is suspected: the smoothed latency plus four
/// deviations, computed like the retransmission time-out of RFC 6298 section 2, times a factor. A disk may
/// stall for longer than a network, so the bounds matter more than there. Request logs measure both.
package struct RequestDeadline: Hashable, Sendable {
    package var factor: UInt64
    /// ns; never less.
    package var minimum: UInt64
    /// ns; never more.
    package var maximum: UInt64

    package init(factor: UInt64 = 4, minimum: UInt64, maximum: UInt64 = 10_000_000_000) {
        self.factor = factor
        self.minimum = minimum
        self.maximum = max(minimum, maximum)
    }

    /// ns that a request may take; all in ns. Zeros: nothing has been measured.
    package func value(latency: UInt64, deviation: UInt64) -> UInt64 {
        let (spread, isFar) = deviation.multipliedReportingOverflow(by: 4)
        let (sum, isLong) = latency.addingReportingOverflow(spread)
        let (wanted, isBeyond) = sum.multipliedReportingOverflow(by: factor)
        if isFar || isLong || isBeyond { return maximum }
        return min(maximum, max(minimum, wanted))
    }
}
