/// Where the blocks of a volume lie on the resources that it is made of: a pure function of block ranges.
///
/// All members have the same block size. Addresses and counts are in blocks.
public struct VolumeLayout: Hashable, Sendable {
    public enum Kind: Hashable, Sendable {
        /// One member after the other.
        case concatenation
        /// Chunks of this many blocks, on each member in turn.
        case stripe(chunk: UInt64)
        /// The same blocks on every member.
        case mirror
    }

    /// A run of blocks of the volume that lie behind each other on one member.
    public struct Extent: Hashable, Sendable {
        /// Place of the member in the layout.
        public var member: Int
        /// First block on the member.
        public var start: UInt64
        public var count: UInt64
        /// Blocks from the begin of the request to this run.
        public var offset: UInt64
    }

    /// One request to a member: blocks in one run there, which may be pieces of the request that do not touch.
    public struct Part: Hashable, Sendable {
        public var member: Int
        public var start: UInt64
        public var count: UInt64
        /// Pieces of the request, in the order in which they lie on the member.
        public var pieces: [Piece]

        public init(member: Int, start: UInt64, count: UInt64, pieces: [Piece]) {
            self.member = member
            self.start = start
            self.count = count
            self.pieces = pieces
        }
    }

    /// Blocks of a request.
    public struct Piece: Hashable, Sendable {
        public var offset: UInt64
        public var count: UInt64

        public init(offset: UInt64, count: UInt64) {
            self.offset = offset
            self.count = count
        }
    }

    public let kind: Kind
    /// Blocks of each member that are used.
    public let members: [UInt64]
    /// Blocks of the volume.
    public let capacity: UInt64

    public enum Mistake: Error, Hashable, Sendable {
        case noMembers
        /// A stripe's chunk is not at least one block, or longer than a member.
        case badChunk
        /// A member has no blocks, or all together more than can be counted.
        case badCapacity
    }

    /// - Parameter members: blocks of each member. A stripe uses whole chunks and as many of each member as the
    ///   smallest has, a mirror as many blocks as the smallest has.
    public init(_ kind: Kind, members: [UInt64]) throws(Mistake) {
        guard let smallest = members.min() else { throw .noMembers }
        guard smallest > 0 else { throw .badCapacity }
        self.kind = kind
        switch kind {
        case .concatenation:
            self.members = members
            var total: UInt64 = 0
            for count in members {
                let (sum, overflow) = total.addingReportingOverflow(count)
                guard !overflow else { throw .badCapacity }
                total = sum
            }
            capacity = total
        case .stripe(let chunk):
            guard chunk > 0, chunk <= smallest else { throw .badChunk }
            let used = smallest / chunk * chunk
            self.members = Array(repeating: used, count: members.count)
            let (total, overflow) = used.multipliedReportingOverflow(by: UInt64(members.count))
            guard !overflow else { throw .badCapacity }
            capacity = total
        case .mirror:
            self.members = Array(repeating: smallest, count: members.count)
            capacity = smallest
        }
    }

    /// The runs of a request, in its order; of a mirror those of its first member. Empty when it is not
    /// within the volume.
    public func extents(start: UInt64, count: UInt64) -> [Extent] {
        guard count > 0, start < capacity, count <= capacity - start else { return [] }
        var result: [Extent] = []
        var offset: UInt64 = 0
        while offset < count {
            let (member, place, run) = locate(start + offset)
            let length = min(run, count - offset)
            result.append(Extent(member: member, start: place, count: length, offset: offset))
            offset += length
        }
        return result
    }

    /// The run that begins at a block; nil when it is not within the volume.
    public func extent(at block: UInt64) -> Extent? {
        guard block < capacity else { return nil }
        let (member, place, run) = locate(block)
        return Extent(member: member, start: place, count: run, offset: 0)
    }

    /// Member and block there of a block of the volume, and how many follow it there.
    private func locate(_ block: UInt64) -> (member: Int, start: UInt64, run: UInt64) {
        switch kind {
        case .mirror: return (0, block, capacity - block)
        case .stripe(let chunk):
            let (number, within) = block.quotientAndRemainder(dividingBy: chunk)
            let (row, member) = number.quotientAndRemainder(dividingBy: UInt64(members.count))
            return (Int(member), row * chunk + within, chunk - within)
        case .concatenation:
            var first: UInt64 = 0
            for (member, count) in members.enumerated() {
                if block - first < count { return (member, block - first, count - (block - first)) }
                first += count
            }
            return (members.count - 1, 0, 0)
        }
    }

    /// The runs of a request on each member, for what has no data of its own for each block: one of each member, however
    /// many chunks there are. Of each run only the first piece is told, to where it ends on that member in one go.
    public func spans(start: UInt64, count: UInt64) -> [Part] {
        guard case .stripe(let chunk) = kind else { return parts(start: start, count: count) }
        guard count > 0, start < capacity, count <= capacity - start else { return [] }
        let width = UInt64(members.count)
        let (first, last) = (start / chunk, (start + count - 1) / chunk)
        return (first...min(last, first + width - 1)).map { begin in
            // Its newest chunk within the request.
            let end = last - (last - begin) % width
            let from = begin == first ? start % chunk : 0
            let to = end == last ? (start + count - 1) % chunk + 1 : chunk
            let place = begin / width * chunk + from
            let firstCount = (begin == end ? to : chunk) - from
            return Part(
                member: Int(begin % width), start: place,
                count: end / width * chunk + to - place,
                pieces: [Piece(offset: begin * chunk + from - start, count: firstCount)])
        }
    }

    /// One request to each member that has a part: chunks of a stripe which follow each other on a member go into one
    /// command, however far apart they are in the volume. In the order of the members' first pieces; at most
    /// `maximum` blocks each (a member's own limit).
    public func parts(start: UInt64, count: UInt64, maximum: UInt64 = .max) -> [Part] {
        var result: [Part] = []
        var newest: [Int: Int] = [:]
        for var extent in extents(start: start, count: count) {
            while extent.count > 0 {
                if let place = newest[extent.member],
                    result[place].start + result[place].count == extent.start,
                    result[place].count < maximum
                {
                    let length = min(extent.count, maximum - result[place].count)
                    result[place].add(Piece(offset: extent.offset, count: length))
                    extent.skip(length)
                } else {
                    let length = min(extent.count, max(1, maximum))
                    newest[extent.member] = result.count
                    result.append(
                        Part(
                            member: extent.member, start: extent.start, count: length,
                            pieces: [Piece(offset: extent.offset, count: length)]))
                    extent.skip(length)
                }
            }
        }
        return result
    }
}

extension VolumeLayout.Extent {
    fileprivate mutating func skip(_ length: UInt64) {
        start += length
        offset += length
        count -= length
    }
}

extension VolumeLayout.Part {
    fileprivate mutating func add(_ piece: VolumeLayout.Piece) {
        count += piece.count
        if let last = pieces.last, last.offset + last.count == piece.offset {
            pieces[pieces.count - 1].count += piece.count
        } else {
            pieces.append(piece)
        }
    }
}
