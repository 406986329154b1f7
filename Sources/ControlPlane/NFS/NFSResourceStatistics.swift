import DataPlane

/// Calls of one resource that went to servers, and their replies. Sums only grow.
package struct NFSResourceStatistics: Equatable, Sendable {
    package var calls: UInt64 = 0
    package var replies: UInt64 = 0
    /// Of these, those that the dataplane has forwarded by itself: datagrams, and calls of spliced connections.
    package var fastCalls: UInt64 = 0
    package var fastReplies: UInt64 = 0
    /// Calls for which no server was there in time.
    package var givenUp: UInt64 = 0
    /// Octets of RPC messages to and from servers, in the fast path of IP.
    package var callOctets: UInt64 = 0
    package var replyOctets: UInt64 = 0
    /// ns, of all replies.
    package var latencySum: UInt64 = 0

    package init() {}

    package mutating func sent(_ octets: Int) {
        calls += 1
        callOctets += UInt64(octets)
    }

    package mutating func answered(_ octets: Int, after latency: UInt64) {
        replies += 1
        replyOctets += UInt64(octets)
        latencySum += latency
    }

    package mutating func add(_ other: NFSResourceStatistics) {
        for field in Self.fields { self[keyPath: field] += other[keyPath: field] }
    }

    /// - Parameter other: no field is more than here.
    package mutating func subtract(_ other: NFSResourceStatistics) {
        for field in Self.fields { self[keyPath: field] -= other[keyPath: field] }
    }

    /// A share of all: `count` of `total`, rounded down.
    package func part(_ count: UInt64, of total: UInt64) -> NFSResourceStatistics {
        guard count < total else { return self }
        var result = NFSResourceStatistics()
        for field in Self.fields {
            let (high, low) = self[keyPath: field].multipliedFullWidth(by: count)
            result[keyPath: field] = total.dividingFullWidth((high, low)).quotient
        }
        return result
    }

    private static var fields: [WritableKeyPath<NFSResourceStatistics, UInt64>] {
        [
            \.calls, \.replies, \.fastCalls, \.fastReplies, \.givenUp, \.callOctets, \.replyOctets,
            \.latencySum,
        ]
    }

    mutating func add(_ datagrams: DatagramResourceStatus) {
        calls += datagrams.calls
        replies += datagrams.replies
        fastCalls += datagrams.calls
        fastReplies += datagrams.replies
        latencySum += datagrams.latencySum
        callOctets += datagrams.callOctets
        replyOctets += datagrams.replyOctets
    }
}

extension SessionSample {
    /// All calls to an export. How many are open is not known: the fast path does not count them.
    /// - Parameter server: that has it now.
    package init(export name: String, at server: String?, _ traffic: NFSResourceStatistics) {
        self.init(
            session: SampledSession(export: name), resource: name, server: server,
            answered: traffic.replies, latencySum: traffic.latencySum,
            bytes: traffic.callOctets + traffic.replyOctets, open: nil)
    }
}
