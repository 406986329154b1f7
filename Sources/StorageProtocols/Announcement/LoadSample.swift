/// Counters of a server at one moment; two of them make a load.
public struct LoadSample: Hashable, Sendable {
    /// Of all processors together, in any unit.
    public var cpuTotal: Double = 0
    public var cpuIdle: Double = 0
    public var cores = 0
    /// Octets.
    public var memoryTotal: Double = 0
    public var memoryAvailable: Double = 0
    /// Mean of a minute.
    public var runQueue: Double = 0
    /// Sent and received since the start, loopback not counted.
    public var networkOctets: Double = 0

    public init() {}

    /// Nil when the two do not follow each other: the machine was started anew, or nothing was counted.
    public func load(since earlier: LoadSample, seconds: Double) -> AgentLoad? {
        let total = cpuTotal - earlier.cpuTotal
        let idle = cpuIdle - earlier.cpuIdle
        guard total > 0, idle >= 0, memoryTotal > 0, seconds > 0 else { return nil }
        let rate = (networkOctets - earlier.networkOctets) / seconds
        return AgentLoad(
            cpuPermille: UInt16(Self.bounded((1 - idle / total) * 1_000, 1_000)),
            memoryPermille: UInt16(
                Self.bounded((1 - memoryAvailable / memoryTotal) * 1_000, 1_000)),
            runQueueHundredths: UInt32(Self.bounded(runQueue * 100, 4_000_000_000)),
            cores: UInt16(clamping: cores),
            networkOctetsPerSecond: UInt64(Self.bounded(rate, 1e18)))
    }

    /// 0 for what is no number.
    private static func bounded(_ value: Double, _ maximum: Double) -> Double {
        value.isNaN ? 0 : min(max(value, 0), maximum).rounded()
    }
}

extension LoadSample {
    /// From the texts of `/proc/stat`, `/proc/meminfo`, `/proc/loadavg` and `/proc/net/dev`; nil when the first
    /// two do not have what is needed.
    public init?(stat: String, memory: String, average: String, network: String) {
        self.init()
        guard readStat(stat), readMemory(memory) else { return nil }
        runQueue = average.split(separator: " ").first.flatMap { Double($0) } ?? 0
        readNetwork(network)
    }

    /// `cpu  user nice system idle iowait irq softirq steal guest guest_nice`: guest is in user already.
    private mutating func readStat(_ text: String) -> Bool {
        for line in text.split(separator: "\n") where line.hasPrefix("cpu") {
            let words = line.split(separator: " ")
            guard words[0] == "cpu" else {
                cores += 1
                continue
            }
            let values = words.dropFirst().prefix(8).map { Double($0) ?? 0 }
            guard values.count >= 4 else { return false }
            cpuTotal = values.reduce(0, +)
            cpuIdle = values[3] + (values.count > 4 ? values[4] : 0)
        }
        return cpuTotal > 0
    }

    private mutating func readMemory(_ text: String) -> Bool {
        for line in text.split(separator: "\n") {
            let words = line.split(separator: " ")
            guard words.count >= 2, let value = Double(words[1]) else { continue }
            if words[0] == "MemTotal:" { memoryTotal = value * 1_024 }
            if words[0] == "MemAvailable:" { memoryAvailable = value * 1_024 }
        }
        return memoryTotal > 0
    }

    /// Behind the device's name: received octets first, sent octets ninth.
    private mutating func readNetwork(_ text: String) {
        for line in text.split(separator: "\n") {
            let parts = line.split(separator: ":", maxSplits: 1)
            guard parts.count == 2, parts[0].split(separator: " ").last != "lo" else { continue }
            let values = parts[1].split(separator: " ").map { Double($0) ?? 0 }
            guard values.count >= 9 else { continue }
            networkOctets += values[0] + values[8]
        }
    }
}
