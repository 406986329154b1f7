/// Why the handles of a message were not replaced.
public enum NFSHandleRewritingError: Error, Equatable, Sendable {
    /// The range at this index is none of a handle of the message: out of order, beyond the end, without its
    /// length word in front or its padding behind.
    case badRange(Int)
    /// What should replace the handle at this index has a length that the version does not allow.
    case badLength(Int)
    /// There is nothing to replace the handle at this index.
    case refused(Int)
}

/// Replaces the handles in calls and replies.
public enum NFSHandleRewriting {
    // RFC 4506 section 4.10: "If n is not a multiple of four, then the n bytes are followed by enough (0 to 3)
    // residual zero bytes, r, to make the total byte count a multiple of four."
    /// A message like `message` with other handles. One pass: time in proportion to the length.
    ///
    /// The result is longer or shorter when handles of v3 are; a record mark is to be made for it, so `message`
    /// has none. Everything outside of `handles` stays as it is.
    ///
    /// - Parameters:
    ///   - message: the octets that `NFSCall` or `NFSResults` has read.
    ///   - handles: where they are, as it says, or some of them, in order.
    ///   - replacement: new octets for those of a handle: up to 64 in v3 (none too), 32 in v2; nil: refused. It is
    ///     called once for each range, in order.
    public static func rewrite(
        _ message: [UInt8], handles: [Range<Int>], version: NFSVersion,
        _ replacement: (ArraySlice<UInt8>) -> [UInt8]?
    ) throws(NFSHandleRewritingError) -> [UInt8] {
        switch version {
        case .v2: return try rewriteFixed(message, handles, replacement)
        case .v3: return try rewriteVariable(message, handles, replacement)
        }
    }

    private static func rewriteVariable(
        _ message: [UInt8], _ handles: [Range<Int>],
        _ replacement: (ArraySlice<UInt8>) -> [UInt8]?
    ) throws(NFSHandleRewritingError) -> [UInt8] {
        let maximum = NFSVersion.v3.handleLength
        var result: [UInt8] = []
        result.reserveCapacity(message.count + handles.count * 16)
        // Octets of `message` that are done.
        var done = 0
        for (index, range) in handles.enumerated() {
            guard range.lowerBound >= done + 4, range.upperBound <= message.count,
                range.count <= maximum
            else { throw .badRange(index) }
            let end = range.upperBound + padding(range.count)
            guard end <= message.count,
                Int(message.field32(range.lowerBound - 4)) == range.count
            else { throw .badRange(index) }
            guard let octets = replacement(message[range]) else { throw .refused(index) }
            guard octets.count <= maximum else { throw .badLength(index) }
            result.append(contentsOf: message[done..<range.lowerBound - 4])
            // The length word: a handle has less than 256 octets.
            result.append(0)
            result.append(0)
            result.append(0)
            result.append(UInt8(truncatingIfNeeded: octets.count))
            result.append(contentsOf: octets)
            for _ in 0..<padding(octets.count) { result.append(0) }
            done = end
        }
        result.append(contentsOf: message[done...])
        return result
    }

    private static func rewriteFixed(
        _ message: [UInt8], _ handles: [Range<Int>],
        _ replacement: (ArraySlice<UInt8>) -> [UInt8]?
    ) throws(NFSHandleRewritingError) -> [UInt8] {
        let length = NFSVersion.v2.handleLength
        var result = message
        var done = 0
        for (index, range) in handles.enumerated() {
            guard range.lowerBound >= done, range.upperBound <= message.count,
                range.count == length
            else { throw .badRange(index) }
            guard let octets = replacement(message[range]) else { throw .refused(index) }
            guard octets.count == length else { throw .badLength(index) }
            result.replaceSubrange(range, with: octets)
            done = range.upperBound
        }
        return result
    }

    /// Octets behind `count` of them up to the next multiple of four.
    private static func padding(_ count: Int) -> Int { (4 - count & 3) & 3 }
}
