package import DataPlane

/// Source ports of server legs. A port stays taken while its leg is spliced, when the kernel does not know
/// that it is in use, and rests for a while afterwards.
package final class PortAllocator {
    private var freeAt: [IPAddress: [UInt16: UInt64]] = [:]
    private var next: UInt16
    private let range: ClosedRange<UInt16>

    package init(range: ClosedRange<UInt16> = 20_000...59_999, start: UInt16? = nil) {
        self.range = range
        next = start ?? range.randomElement() ?? range.lowerBound
    }

    /// A port that is neither taken nor resting; nil when there is none. `now`: monotonic ns.
    package func allocate(address: IPAddress, now: UInt64) -> UInt16? {
        for _ in range {
            let port = next
            next = next == range.upperBound ? range.lowerBound : next + 1
            if let time = freeAt[address]?[port], time > now { continue }
            // In place: a copy of the table for each connection would cost more than all else.
            freeAt[address, default: [:]][port] = .max
            return port
        }
        return nil
    }

    /// Gives a port back; it rests for `quarantine` ns.
    package func release(address: IPAddress, port: UInt16, now: UInt64, quarantine: UInt64) {
        freeAt[address]?[port] = quarantine == 0 ? nil : now + quarantine
    }

    package var takenCount: Int { freeAt.values.reduce(0) { $0 + $1.values.count { $0 == .max } } }
}
