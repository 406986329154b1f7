import Glibc

/// What is measured of a resource over an interval.
public struct ResourceMeasurement: Hashable, Sendable {
    /// Requests completed per second.
    public var requestsPerSecond: Double
    /// Octets of data per second, both directions together.
    public var bytesPerSecond: Double
    /// Mean number of requests without an answer yet.
    public var outstanding: Double
    /// Mean time from a request to its answer, in seconds.
    public var latency: Double

    public init(
        requestsPerSecond: Double = 0, bytesPerSecond: Double = 0, outstanding: Double = 0,
        latency: Double = 0
    ) {
        self.requestsPerSecond = requestsPerSecond
        self.bytesPerSecond = bytesPerSecond
        self.outstanding = outstanding
        self.latency = latency
    }
}

/// What an agent reports of the server itself.
public struct ServerMeasurement: Hashable, Sendable {
    /// Share of the processors in use by anything, 0...1.
    public var processor: Double
    /// Share of the memory in use, without caches, 0...1.
    public var memory: Double

    public init(processor: Double = 0, memory: Double = 0) {
        self.processor = processor
        self.memory = memory
    }
}

/// What counts how much. One unit of load is about the work of one small request per second, so
/// that numbers are readable: "server3 has 700" is 700 small requests per second.
///
/// ```
/// load of a resource = perRequest * requests/s + perMebibyte * MiB/s
///                    + perOutstanding * outstanding
///                    + perSecondOfLatency * latency * (1 if there are requests, else 0)
/// load of a server   = sum of its resources
///                    + perProcessor * max(0, processor - processorFloor) / (1 - processorFloor)
///                    + perMemory    * max(0, memory - memoryFloor)       / (1 - memoryFloor)
/// ```
///
/// Requests and octets measure the work asked for, which moves along with a resource. Outstanding
/// requests and latency measure how hard it is for the server that does it now; they are worth
/// little by default, since they fall on another server. The server's part starts at a floor:
/// processor time up to there is the work of the resources themselves, which is counted already.
public struct LoadWeights: Hashable, Sendable {
    /// Load of one request per second.
    public var perRequest: Double
    /// Load of one MiB (1048576 octets) per second.
    public var perMebibyte: Double
    /// Load of one request that waits.
    public var perOutstanding: Double
    /// Load of one second of mean latency.
    public var perSecondOfLatency: Double
    /// Load of a server without processor time left.
    public var perProcessor: Double
    /// Share of processor time that is not counted, 0..<1.
    public var processorFloor: Double
    /// Load of a server without memory left.
    public var perMemory: Double
    /// Share of memory that is not counted, 0..<1.
    public var memoryFloor: Double

    /// A MiB/s is worth 16 requests of 64 KiB: bandwidth and requests weigh the same at that size.
    public init(
        perRequest: Double = 1, perMebibyte: Double = 16, perOutstanding: Double = 4,
        perSecondOfLatency: Double = 0, perProcessor: Double = 1000, processorFloor: Double = 0.5,
        perMemory: Double = 1000, memoryFloor: Double = 0.8
    ) {
        self.perRequest = perRequest
        self.perMebibyte = perMebibyte
        self.perOutstanding = perOutstanding
        self.perSecondOfLatency = perSecondOfLatency
        self.perProcessor = perProcessor
        self.processorFloor = processorFloor
        self.perMemory = perMemory
        self.memoryFloor = memoryFloor
    }

    /// Load of a resource: `PlacementResource.load`. Never negative, always finite.
    public func load(of measurement: ResourceMeasurement) -> Double {
        let requests = Self.usable(measurement.requestsPerSecond)
        let latency = requests > 0 ? Self.usable(measurement.latency) : 0
        return Self.usable(
            perRequest * requests
                + perMebibyte * Self.usable(measurement.bytesPerSecond) / 1_048_576
                + perOutstanding * Self.usable(measurement.outstanding)
                + perSecondOfLatency * latency)
    }

    /// Load of a server apart from its resources: `PlacementServer.ownLoad`. Never negative, always
    /// finite.
    public func ownLoad(of measurement: ServerMeasurement) -> Double {
        Self.usable(
            perProcessor * Self.above(processorFloor, measurement.processor)
                + perMemory * Self.above(memoryFloor, measurement.memory))
    }

    /// Part of what is above `floor` that is in use, 0...1.
    private static func above(_ floor: Double, _ share: Double) -> Double {
        guard floor < 1 else { return 0 }
        return max(0, min(1, usable(share)) - floor) / (1 - floor)
    }

    private static func usable(_ value: Double) -> Double { value.isFinite ? max(0, value) : 0 }
}

/// Exponentially weighted mean of a value that is measured now and then: a sample's share in it
/// halves with each half-life, whatever the intervals between samples are.
public struct SmoothedValue: Hashable, Sendable {
    /// Mean so far; nil before the first sample.
    public private(set) var value: Double?
    public let halfLife: Duration
    /// ns of any monotonic clock.
    private var updated: UInt64 = 0

    public init(halfLife: Duration) { self.halfLife = halfLife }

    /// Adds a sample that stands for the time since the one before. A sample that is no number is
    /// left out.
    public mutating func add(_ sample: Double, at now: UInt64) {
        guard sample.isFinite else { return }
        if let old = value {
            let keep = decay(over: now > updated ? now - updated : 0, halfLife: halfLife)
            value = sample + (old - sample) * keep
        } else {
            value = sample
        }
        updated = max(now, updated)
    }
}

/// What is left of one after `elapsed` ns: 0.5 after a half-life, 0 at once when that is not
/// positive.
func decay(over elapsed: UInt64, halfLife: Duration) -> Double {
    let (seconds, attoseconds) = halfLife.components
    let half = Double(seconds) + Double(attoseconds) * 1e-18
    return half > 0 ? exp2(-Double(elapsed) * 1e-9 / half) : 0
}
