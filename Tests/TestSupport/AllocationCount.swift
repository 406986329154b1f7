import DataPlane
import CAllocationCount

/// Allocations that `body` made on this thread.
public func allocations(during body: () -> Void) -> UInt64 {
    let before = dsr_allocation_count()
    body()
    return dsr_allocation_count() - before
}
