/// Octets of a file, the first and the last of them among it. What goes to the end of the file, wherever that will be,
/// ends at the highest number.
package struct NLMRange: Hashable, Sendable {
    package let first: UInt64
    package let last: UInt64

    /// The whole file.
    package static let whole = NLMRange(first: 0, last: .max)

    private init(first: UInt64, last: UInt64) {
        self.first = first
        self.last = last
    }

    /// As calls have it: length 0 is to the end. Nil: it goes beyond what 64 bits can count.
    package init?(offset: UInt64, length: UInt64) {
        guard length > 0 else {
            self.init(first: offset, last: .max)
            return
        }
        let (last, isBeyond) = offset.addingReportingOverflow(length - 1)
        if isBeyond { return nil }
        self.init(first: offset, last: last)
    }

    /// As calls have it.
    package var length: UInt64 { last == .max ? 0 : last - first + 1 }

    package func overlaps(_ other: NLMRange) -> Bool {
        first <= other.last && other.first <= last
    }

    package func contains(_ other: NLMRange) -> Bool {
        first <= other.first && other.last <= last
    }

    /// What is in front of another range, and behind it.
    fileprivate func parts(without other: NLMRange) -> [NLMRange] {
        var result: [NLMRange] = []
        if first < other.first { result.append(NLMRange(first: first, last: other.first - 1)) }
        if last > other.last { result.append(NLMRange(first: other.last + 1, last: last)) }
        return result
    }

    /// Both together; nil: something lies between them.
    fileprivate func joined(behind other: NLMRange) -> NLMRange? {
        guard other.last != .max, other.last + 1 == first else { return nil }
        return NLMRange(first: other.first, last: last)
    }
}

/// A part of a file that an owner holds.
package struct NLMHeld: Hashable, Sendable {
    package let range: NLMRange
    package let isExclusive: Bool

    package init(range: NLMRange, isExclusive: Bool) {
        self.range = range
        self.isExclusive = isExclusive
    }
}

/// What one owner holds of one file. As POSIX has it (fcntl): a lock takes the place of what the owner had there, an
/// unlock may leave parts in front of it and behind it, and neighbours of one kind become one.
package struct NLMHeldRanges: Equatable, Sendable {
    /// In the order of their places; none overlaps another one.
    package private(set) var all: [NLMHeld] = []

    package init() {}

    package mutating func lock(_ range: NLMRange, isExclusive: Bool) {
        unlock(range)
        all.append(NLMHeld(range: range, isExclusive: isExclusive))
        all.sort { $0.range.first < $1.range.first }
        var joined: [NLMHeld] = []
        for held in all {
            if let before = joined.last, before.isExclusive == held.isExclusive,
                let both = held.range.joined(behind: before.range)
            {
                joined[joined.count - 1] = NLMHeld(range: both, isExclusive: held.isExclusive)
            } else {
                joined.append(held)
            }
        }
        all = joined
    }

    package mutating func unlock(_ range: NLMRange) {
        all = all.flatMap { held in
            guard held.range.overlaps(range) else { return [held] }
            return held.range.parts(without: range).map {
                NLMHeld(range: $0, isExclusive: held.isExclusive)
            }
        }
    }

    /// One kind of lock is held there from end to end.
    package func covers(_ range: NLMRange, isExclusive: Bool) -> Bool {
        all.contains { $0.isExclusive == isExclusive && $0.range.contains(range) }
    }
}
