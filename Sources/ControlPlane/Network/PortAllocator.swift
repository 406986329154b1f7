package import DataPlane

/// Source ports of server legs. A port stays taken while its leg is spliced, when the kernel does not know
/// that it is in use, and rests for a while afterwards.
package final class PortAllocator {
    /// When each port of an address is free, ns; by the port's place in the range.
    private var freeAt: [IPAddress: [UInt64]] = [:]
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
            let place = Int(port - range.lowerBound)
            next = next == range.upperBound ? range.lowerBound : next + 1
            // In place: a table of tens of thousands of ports must not be copied for each connection.
            let isFree = freeAt[address, default: emptyTable][place] <= now
            guard isFree else { continue }
            freeAt[address, default: emptyTable][place] = .max
            return port
        }
        return nil
    }

    private var emptyTable: [UInt64] { [UInt64](repeating: 0, count: range.count) }

    /// Gives a port back; it rests for `quarantine` ns.
    package func release(address: IPAddress, port: UInt16, now: UInt64, quarantine: UInt64) {
        guard range.contains(port), freeAt[address] != nil else { return }
        freeAt[address]?[Int(port - range.lowerBound)] = now + quarantine
    }

    package var takenCount: Int { freeAt.values.reduce(0) { $0 + $1.count { $0 == .max } } }
}
