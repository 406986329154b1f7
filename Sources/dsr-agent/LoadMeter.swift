import Foundation
import Glibc
import StorageProtocols

/// Load of this machine, between two looks at `/proc`.
struct LoadMeter {
    private var sample: LoadSample?
    private var time: UInt64 = 0
    private var last: AgentLoad?

    /// ns that counters need to say something: the kernel's clock ticks are 10 ms at the slowest.
    private static let span: UInt64 = 200_000_000

    init() {
        sample = Self.read()
        time = nanoseconds(CLOCK_MONOTONIC)
    }

    /// Nil as long as nothing can be said.
    mutating func load() -> AgentLoad? {
        let now = nanoseconds(CLOCK_MONOTONIC)
        guard now - time >= Self.span, let next = Self.read() else { return last }
        if let sample {
            last = next.load(since: sample, seconds: Double(now - time) / 1_000_000_000) ?? last
        }
        sample = next
        time = now
        return last
    }

    /// Waits until `load` can say something.
    func waitForLoad() { usleep(UInt32(Self.span / 1_000) + 1_000) }

    private static func read() -> LoadSample? {
        func text(_ path: String) -> String {
            String(decoding: FileManager.default.contents(atPath: path) ?? Data(), as: UTF8.self)
        }
        return LoadSample(
            stat: text("/proc/stat"), memory: text("/proc/meminfo"),
            average: text("/proc/loadavg"), network: text("/proc/net/dev"))
    }
}
