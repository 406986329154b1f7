/// A request log that changes hands between the session thread and the dataplane. Only its present owner may
/// touch it: the dataplane from `SpliceCommand.install` to `finishToSlow` or `restoreClient`.
public final class SessionLog: @unchecked Sendable {
    package let log: UnsafeMutablePointer<RequestLog>

    public init(
        format: MessageFormat, rules: RequestRules, maximum: Int, budget: RequestLogBudget
    ) {
        log = .allocate(capacity: 1)
        log.initialize(
            to: RequestLog(format: format, rules: rules, maximum: maximum, budget: budget))
    }

    deinit {
        log.deinitialize(count: 1)
        log.deallocate()
    }

    public var statistics: RequestStatistics { log.pointee.summary }
    public var openCount: Int { log.pointee.openCount }
    /// The request that is open for the longest time, and since when, ns; nil: none is open.
    public var oldest: (id: UInt64, startedAt: UInt64)? {
        let start = log.pointee.oldestStart
        return start == 0 ? nil : (log.pointee.oldestID, start)
    }
    public var openRequests: [LoggedRequest] { log.pointee.openRequests() }
    public var keptReplies: [LoggedReply] { log.pointee.keptReplies() }
    /// Headers, or nil when none was seen.
    public var newestOpening: [UInt8]? { log.pointee.newestOpening }
    public var newestCounted: [UInt8]? { log.pointee.newestCounted }

    /// For a session that passes messages by itself: a client's header, then its data, in order.
    public func clientHeader(_ header: [UInt8], kind: UInt8, now: UInt64) {
        var header = header
        header.withUnsafeMutableBytes { bytes in
            guard let start = bytes.baseAddress else { return }
            log.pointee.clientHeader(start, kind: UInt64(kind), now: now)
        }
    }
    public func clientData(_ bytes: UnsafeRawBufferPointer) {
        guard let start = bytes.baseAddress, bytes.count > 0 else { return }
        log.pointee.data(start, bytes.count)
    }
    /// A message of the server, with its header as the client gets it; `data` when it is gathered whole.
    /// Everything passed before counts as delivered.
    public func serverMessage(
        _ header: [UInt8], kind: UInt8, position: SequenceNumber, length: UInt32, data: [UInt8]?,
        now: UInt64
    ) {
        log.pointee.acknowledged(position)
        guard log.pointee.hasReplyRoom else { return }
        var header = header
        header.withUnsafeMutableBytes { bytes in
            guard let start = bytes.baseAddress else { return }
            guard let data else {
                return log.pointee.serverMessage(
                    start, kind: UInt64(kind), position: position, length: length, data: nil,
                    now: now)
            }
            data.withUnsafeBytes { part in
                log.pointee.serverMessage(
                    start, kind: UInt64(kind), position: position, length: length,
                    data: part.baseAddress.map { ($0, part.count) }, now: now)
            }
        }
    }
    /// The octets of the message that is on its way, which will be told anew.
    public func takeCurrent() -> [UInt8]? { log.pointee.takeCurrent() }
    public func remove(_ id: UInt64) { log.pointee.remove(id) }
    public func openRequest(_ id: UInt64) -> LoggedRequest? { log.pointee.openRequest(id) }
    /// The client has, or will get by itself, everything below `position`.
    public func delivered(_ position: SequenceNumber) { log.pointee.acknowledged(position) }
    public func shiftReplies(by distance: UInt32) { log.pointee.shiftReplies(by: distance) }
    public func removeAll() { log.pointee.removeAll() }
    /// Gives its memory back when it keeps nothing.
    public func trim() { log.pointee.trim() }
}
