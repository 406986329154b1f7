import DataPlane
import StorageProtocols

/// What somebody else has to finish of a connection that one server served. `replies` go to the client at once, then
/// the tails' replies in their order, then all others as they come (RFC 5531 section 9: the XID tells which is which).
package struct NFSStreamRemains {
    /// A reply of which the client has a part, or may have. It is asked for once more; see `NFSStreamRelay.missing`.
    package struct Tail: Equatable {
        /// RPC message, without record mark.
        package var call: [UInt8]
        /// Octets of the record, mark included: that the client has, and in all.
        package var delivered: Int
        package var length: Int
        /// Octets that come next in the stream: of replies that are kept.
        package var following: [UInt8]
    }

    /// Octets of the client that were not passed on, from a message's begin: what was cut off in the middle, or what
    /// waited.
    package var waiting: [UInt8] = []
    /// Calls that no reply was passed on for: RPC messages, without record mark, in the order in which they came.
    package var open: [[UInt8]] = []
    /// Octets that come next in the stream to the client: of replies that are kept.
    package var replies: [UInt8] = []
    package var tails: [Tail] = []
    /// Something cannot be finished: the connection has to be closed. The client then sends its calls again, all of
    /// them such as may be done twice.
    package var failure: String?

    // What is sent anew from `position` on must be the same octets, or at least as many in the same order, as were sent
    // before: beyond a lost segment the client may hold some of them.
    /// - Parameter position: up to where the client has the stream.
    init(of log: SessionLog, position: SequenceNumber) {
        for reply in log.keptReplies {
            let length = Int(reply.length)
            let delivered = max(0, Int(Int32(bitPattern: position - reply.position)))
            guard delivered < length else { continue }
            let octets = reply.header + (reply.data ?? [])
            if octets.count == length {
                if tails.isEmpty {
                    replies += octets[delivered...]
                } else {
                    tails[tails.count - 1].following += octets[delivered...]
                }
            } else if let call = reply.closed.flatMap({ Self.message($0.octets) }) {
                tails.append(
                    Tail(call: call, delivered: delivered, length: length, following: []))
            } else {
                failure = "the client may have parts of replies that cannot be had again"
            }
        }
        for request in log.openRequests {
            if request.isWhole, let call = Self.message(request.octets) {
                open.append(call)
            } else {
                failure = "an open call was not kept whole"
            }
        }
    }

    /// The message of a record of one fragment; nil when octets are missing. Of a call that was answered the log keeps
    /// the begin.
    private static func message(_ record: [UInt8]) -> [UInt8]? {
        guard record.count >= RPCRecord.headerLength else { return nil }
        let mark = NFSRecordMark(record)
        guard mark.isLast, mark.end == record.count else { return nil }
        return Array(record[RPCRecord.headerLength...])
    }
}

extension NFSStreamRelay {
    /// What the client gets next when the tail's call was answered once more, with what follows.
    /// - Parameter reply: RPC message without record mark, with the XID of the call.
    /// - Returns: nil when the reply does not have as many octets as the first one: the stream cannot go on.
    package static func missing(of tail: NFSStreamRemains.Tail, in reply: [UInt8]) -> [UInt8]? {
        let record = RPCRecord.framed(reply)
        guard record.count == tail.length else { return nil }
        return Array(record[tail.delivered...]) + tail.following
    }
}
