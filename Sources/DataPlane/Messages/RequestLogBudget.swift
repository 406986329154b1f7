import Synchronization

/// Octets that all request logs together may take.
public final class RequestLogBudget: Sendable {
    public let maximum: Int
    let used = Atomic<Int>(0)

    public init(maximum: Int) { self.maximum = maximum }

    public var inUse: Int { used.load(ordering: .relaxed) }

    func take(_ count: Int) -> Bool {
        let (before, _) = used.add(count, ordering: .relaxed)
        if before + count <= maximum { return true }
        used.subtract(count, ordering: .relaxed)
        return false
    }

    func giveBack(_ count: Int) { used.subtract(count, ordering: .relaxed) }
}
