/// Sums and sizes of one request log.
public struct RequestStatistics: Hashable, Sendable {
    public var opened: UInt64 = 0
    public var answered: UInt64 = 0
    /// Open now; of them those whose octets found no room: they could not be sent again.
    public var open: UInt32 = 0
    public var unprotected: UInt32 = 0
    /// Requests that found no room since the start.
    public var unprotectedTotal: UInt64 = 0
    /// Octets of open requests that are kept now.
    public var bytes: UInt64 = 0
    /// ns from the request to its answer, summed; the newest answers weigh more in `smoothedLatency`
    /// and `latencyDeviation` (RFC 6298 section 2).
    public var latencySum: UInt64 = 0
    public var smoothedLatency: UInt64 = 0
    public var latencyDeviation: UInt64 = 0
    /// Answers by latency: bucket n counts those below 2^n * 16 µs.
    public var histogram = [UInt64](repeating: 0, count: RequestLog.buckets)
    /// ns, when the oldest open request came; 0: none is open.
    public var oldest: UInt64 = 0
    public init() {}
}

/// A request as it was sent, and how far its reply got.
public struct LoggedRequest: Hashable, Sendable {
    public var id: UInt64
    public var kind: UInt8
    /// ns of the monotonic clock.
    public var startedAt: UInt64
    /// No reply that ends it was passed on.
    public var isOpen: Bool
    /// False: some of its octets found no room.
    public var isWhole: Bool
    /// Its messages, as the client sent them, one behind the other.
    public var octets: [UInt8]
    /// The newest header of each progress kind.
    public var progress: [[UInt8]?]
}

/// A message of the server that the client may not have whole.
public struct LoggedReply: Hashable, Sendable {
    /// In the server's sequence space.
    public var position: SequenceNumber
    public var length: UInt32
    /// As the client gets it.
    public var header: [UInt8]
    /// Nil when data was not kept.
    public var data: [UInt8]?
    /// The request that it ends.
    public var closed: LoggedRequest?
}
