/// Who may touch which blocks of a volume at a time. Belongs to one thread.
///
/// First come, first served: a request waits while an earlier one, held or itself waiting, conflicts with it. So
/// nobody starves.
package final class RangeLocks {
    package enum Purpose: Hashable, Sendable {
        /// Conflicts with `atomic`.
        case read
        /// Conflicts with `write` and `atomic`: members of a mirror could end up with different blocks when two
        /// overlapping writes reach them in different order.
        case write
        /// Reads and writes that must not be separated (COMPARE AND WRITE, copying of a region). Conflicts with
        /// everything.
        case atomic

        fileprivate func conflicts(with other: Purpose) -> Bool {
            switch (self, other) {
            case (.read, .read), (.read, .write), (.write, .read): false
            default: true
            }
        }
    }

    /// Names a request; never 0, never used again.
    package typealias Ticket = UInt64

    private struct Entry {
        let ticket: Ticket
        let range: Range<UInt64>
        let purpose: Purpose
        var isHeld: Bool
        /// Nil once it was called.
        var granted: (() -> Void)?

        func conflicts(with other: Entry) -> Bool {
            purpose.conflicts(with: other.purpose) && !range.isEmpty && !other.range.isEmpty
                && range.lowerBound < other.range.upperBound
                && other.range.lowerBound < range.upperBound
        }
    }

    /// In the order of arrival. One is held when none before it conflicts with it; that it conflicts with a held one
    /// behind it cannot be.
    private var entries: [Entry] = []
    private var lastTicket: Ticket = 0
    /// Held by now, but not told yet; in order.
    private var untold: [Ticket] = []
    private var isTelling = false

    /// Requests that wait.
    package private(set) var waiting = 0

    package init() {}

    /// Nothing is held and nothing waits.
    package var isEmpty: Bool { entries.isEmpty }

    /// Asks for blocks. `granted` is called once: before this returns when nothing that conflicts is held or waits,
    /// else by the `release` that makes it free, and never after a `release` of its own ticket. It may call `acquire`
    /// and `release`. An empty range conflicts with nothing, but its ticket must be released too.
    package func acquire(
        _ range: Range<UInt64>, for purpose: Purpose, granted: @escaping () -> Void
    ) -> Ticket {
        lastTicket += 1
        let ticket = lastTicket
        var entry = Entry(
            ticket: ticket, range: range, purpose: purpose, isHeld: true, granted: nil)
        if entries.contains(where: { $0.conflicts(with: entry) }) {
            entry.isHeld = false
            entry.granted = granted
            entries.append(entry)
            waiting += 1
        } else {
            entries.append(entry)
            granted()
        }
        return ticket
    }

    /// Gives back what is held, or cancels what waits; then grants what has become free, in the order of arrival.
    /// Within a `granted` that another `release` has called, those that become free are told by that one, once this
    /// `granted` has returned. A ticket that is not known is ignored.
    package func release(_ ticket: Ticket) {
        guard let place = entries.firstIndex(where: { $0.ticket == ticket }) else { return }
        let removed = entries.remove(at: place)
        if !removed.isHeld { waiting -= 1 }
        guard waiting > 0 else { return }
        for index in place..<entries.count where !entries[index].isHeld {
            let entry = entries[index]
            guard removed.conflicts(with: entry),
                !entries[..<index].contains(where: { $0.conflicts(with: entry) })
            else { continue }
            entries[index].isHeld = true
            waiting -= 1
            untold.append(entry.ticket)
        }
        tell()
    }

    /// Calls what is due. One loop for calls within calls: the order stays, and the stack does not grow.
    private func tell() {
        guard !isTelling else { return }
        isTelling = true
        var next = 0
        while next < untold.count {
            let ticket = untold[next]
            next += 1
            // Released by one that was told before it: gone.
            guard let place = entries.firstIndex(where: { $0.ticket == ticket }) else { continue }
            let granted = entries[place].granted
            entries[place].granted = nil
            granted?()
        }
        untold.removeAll(keepingCapacity: true)
        isTelling = false
    }
}
