package import DataPlane
import StorageProtocols

/// Carries one NFS connection over TCP to the one server that serves all its calls, while both legs are kernel sockets,
/// as the dataplane's message tracker does while it is spliced: octets pass as they come, each call from the moment on
/// when it is known to be the server's. What is open is kept in a request log, so that others can finish it.
///
/// With the first call that is not the server's, or by order of the session, it is *returning*: nothing more of the
/// client passes, and when nothing is open at the server `isForeign` says so.
///
/// Calls of several fragments are not the server's here. A reply may have several: its first one must have the begin of
/// the message, 20 octets, as all servers send it.
///
/// Lives on the session thread.
package final class NFSStreamRelay: StreamRelay {
    /// The server's record that is on its way.
    private struct Record {
        /// Octets that do not pass yet: of a mark, a header or a short reply.
        var gathered: [UInt8] = []
        /// Octets that `gathered` must have to go on.
        var needed = RPCRecord.headerLength
        /// Octets of the present fragment that pass as they come.
        var remaining = 0
        /// Octets of its fragments, up to the present one, without marks.
        var length = 0
        /// The present fragment is the last one.
        var isLast = true
        /// It has several.
        var isFragmented = false
    }

    /// Octets of the client that wait beyond which it is not read.
    package static let waitingMaximum = 4 << 20
    private static let headerLength = Int(MessageFormat.rpc.headerLength)
    /// msg_type (RFC 5531 section 9): CALL and REPLY.
    private static let callKind: UInt8 = 0
    private static let replyKind: UInt8 = 1

    private let requests: SessionLog
    private let handles: RPCHandleSet
    /// ns.
    private let now: () -> UInt64
    /// What the log and the handles had counted before.
    private let loggedBefore: UInt64
    private let callsBefore: UInt64
    /// Where the stream to the client stands, in positions that count on whatever carries it.
    private var position = SequenceNumber(0)
    /// The begin of a call that is not judged yet, and octets that it must have to be.
    private var unjudged: [UInt8] = []
    private var needed = RPCRecord.headerLength
    /// Octets of the client's present call that are still to pass.
    private var clientRemaining = 0
    private var record = Record()
    private var isReturning = false
    /// The log is the dataplane's.
    private var isSpliced = false
    /// Octets of the client, from a message's begin, that are not for the server.
    private var waiting: [UInt8] = []
    private var failure: String?
    /// Calls that passed here, not in the dataplane.
    package private(set) var passedCalls: UInt64 = 0

    /// - Parameters:
    ///   - log: of format and rules `rpc`.
    ///   - handles: of which all calls must be.
    ///   - now: ns of the monotonic clock.
    package init(log: SessionLog, handles: RPCHandleSet, now: @escaping () -> UInt64) {
        requests = log
        self.handles = handles
        self.now = now
        loggedBefore = log.statistics.opened
        callsBefore = handles.calls.reduce(0, &+)
    }

    package var log: SessionLog? { requests }
    /// Not while spliced.
    package var statistics: RequestStatistics { requests.statistics }
    /// ns, since when the call that is open longest is; nil: none is. Not while spliced.
    package var oldest: UInt64? { requests.oldest?.startedAt }

    // MARK: State

    package var wantsClientInput: Bool { waiting.count < Self.waitingMaximum }
    package var survivesServer: Bool { true }
    let canHold = false
    let isHolding = false
    let isQuiet = false
    var onQuiet: () -> Void = {}
    func hold() {}
    func tellWhenQuiet() {}
    func release(output: inout RelayOutput) {}
    func begin(output: inout RelayOutput) {}

    // In the middle of a record the dataplane would take the mark of its next fragment for a message's begin.
    package var isSettled: Bool { !isReturning && !record.isFragmented }

    package var isAtRest: Bool { isSettled && unjudged.isEmpty && record.gathered.isEmpty }

    /// Returning, with nothing open at the server and no reply half said.
    package var isForeign: Bool {
        isReturning && !isSpliced && clientRemaining == 0 && record.remaining == 0
            && record.gathered.isEmpty && !record.isFragmented && requests.openCount == 0
    }

    /// Nothing but the rest of the client's present call goes to the server any more; `isForeign` tells when it can be
    /// left.
    package func beginReturn() {
        isReturning = true
        waiting += unjudged
        unjudged = []
        needed = RPCRecord.headerLength
    }

    // MARK: Splice

    package var messages: SpliceMessages? {
        SpliceMessages(
            format: .rpc, clientHeaderDistance: UInt32(clamping: clientRemaining),
            serverHeaderDistance: UInt32(clamping: record.remaining), requests: .rpc,
            clientHandles: handles)
    }

    /// The log goes to the dataplane, whose positions are others.
    package func spliced(at serverPosition: SequenceNumber) {
        requests.shiftReplies(by: serverPosition - position)
        position = serverPosition
        isSpliced = true
    }

    package func resume(
        position: SequenceNumber, clientHeaderDistance: UInt32, serverHeaderDistance: UInt32
    ) {
        takeOver(position)
        clientRemaining = Int(clientHeaderDistance)
        record.remaining = Int(serverHeaderDistance)
    }

    /// The log is here again.
    private func takeOver(_ position: SequenceNumber) {
        isSpliced = false
        self.position = position
        requests.delivered(position)
        record = Record()
    }

    // MARK: Loss and return

    /// The server is gone, or is left. What it had to do stays in the log.
    package func detach() {
        if record.isFragmented { failure = "a reply of several fragments is half said" }
        record = Record()
        if clientRemaining > 0 {
            // The present call of the client comes anew as a whole.
            if let part = requests.takeCurrent() {
                waiting += part
            } else {
                failure = "the begin of a call was not kept"
            }
            clientRemaining = 0
        }
        beginReturn()
    }

    /// The same for a connection that was spliced. `position`: of the stream to the client, up to where the client has
    /// it; `clientRemaining`: octets of the client's present call that are still to come.
    package func detachSpliced(position: SequenceNumber, clientRemaining: UInt32) {
        takeOver(position)
        self.clientRemaining = Int(clientRemaining)
        detach()
    }

    /// Once, when the server is lost, or `isForeign`: what is to be finished elsewhere. The log is empty then.
    package func takeRemains() -> NFSStreamRemains {
        detach()
        var remains = NFSStreamRemains(of: requests, position: position)
        remains.waiting = waiting
        waiting = []
        // Each call opens one request, unless the log has no room for another.
        let calls = handles.calls.reduce(0, &+) &- callsBefore
        if calls > requests.statistics.opened &- loggedBefore {
            remains.failure = "more calls were open than are kept"
        }
        if let failure { remains.failure = failure }
        requests.removeAll()
        return remains
    }

    // MARK: Octets

    package func receive(
        _ bytes: UnsafeRawBufferPointer, from side: SpliceSide, output: inout RelayOutput
    ) throws(RelayError) {
        switch side {
        case .client: passFromClient(bytes, output: &output)
        case .server: try passFromServer(bytes, output: &output)
        }
    }

    private func passFromClient(_ bytes: UnsafeRawBufferPointer, output: inout RelayOutput) {
        var rest = bytes
        while rest.count > 0 {
            let count: Int
            if clientRemaining > 0 {
                count = min(clientRemaining, rest.count)
                let part = UnsafeRawBufferPointer(rebasing: rest[..<count])
                output.toServer.append(part)
                requests.clientData(part)
                clientRemaining -= count
            } else if isReturning {
                return waiting.append(contentsOf: rest)
            } else {
                count = min(needed - unjudged.count, rest.count)
                unjudged.append(contentsOf: rest[..<count])
                if unjudged.count == needed { judge(output: &output) }
            }
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        }
    }

    /// As many octets of the client's next message are there as were needed: passes its begin, asks for more, or keeps
    /// it.
    private func judge(output: inout RelayOutput) {
        let mark = NFSRecordMark(unjudged)
        if unjudged.count < Self.headerLength {
            guard mark.end >= Self.headerLength, mark.length <= RPCConnection.replyMaximum else {
                return beginReturn()
            }
            needed = Self.headerLength
            return
        }
        let judgement: RPCHandleSet.Judgement = unjudged.withUnsafeBytes { message in
            guard let start = message.baseAddress else { return .foreign }
            return handles.judge(start, length: message.count)
        }
        switch judgement {
        case .needs(let count) where count > unjudged.count && count <= mark.end: needed = count
        case .passes(let resource): passCall(mark, resource: resource, output: &output)
        case .needs, .foreign: beginReturn()
        }
    }

    private func passCall(_ mark: NFSRecordMark, resource: Int, output: inout RelayOutput) {
        handles.count(resource: resource)
        passedCalls &+= 1
        requests.clientHeader(
            Array(unjudged[..<Self.headerLength]), kind: Self.callKind, now: now())
        unjudged.withUnsafeBytes {
            requests.clientData(UnsafeRawBufferPointer(rebasing: $0[Self.headerLength...]))
        }
        output.toServer.append(unjudged)
        clientRemaining = mark.end - unjudged.count
        unjudged.removeAll(keepingCapacity: true)
        needed = RPCRecord.headerLength
    }

    private func passFromServer(
        _ bytes: UnsafeRawBufferPointer, output: inout RelayOutput
    ) throws(RelayError) {
        var rest = bytes
        while rest.count > 0 {
            let count: Int
            if record.remaining > 0 {
                count = min(record.remaining, rest.count)
                output.toClient.append(UnsafeRawBufferPointer(rebasing: rest[..<count]))
                passedPlain(count)
            } else {
                count = min(record.needed - record.gathered.count, rest.count)
                record.gathered.append(contentsOf: rest[..<count])
                if record.gathered.count == record.needed { try takeGathered(output: &output) }
            }
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        }
        requests.delivered(position)
    }

    /// The rest of a long reply's fragment.
    package var plainServerOctets: Int { record.remaining }

    package func passedPlain(_ count: Int) {
        position += UInt32(truncatingIfNeeded: count)
        record.remaining -= min(count, record.remaining)
        requests.delivered(position)
        endRecordIfDone()
    }

    private func endRecordIfDone() {
        if record.remaining == 0, record.isLast { record = Record() }
    }

    /// As many octets of the server's fragment are there as were needed.
    private func takeGathered(output: inout RelayOutput) throws(RelayError) {
        let mark = NFSRecordMark(record.gathered)
        if record.gathered.count == RPCRecord.headerLength {
            record.length += mark.length
            guard record.length <= RPCConnection.replyMaximum else {
                throw RelayError(message: "a reply of \(record.length) octets")
            }
            // Only the first fragment has a message's begin.
            if record.isFragmented { return passGathered(mark, output: &output) }
            guard mark.end >= Self.headerLength else {
                throw RelayError(message: "a record of the server that begins with no reply")
            }
            record.needed = Self.headerLength
            return
        }
        guard record.gathered.field32(8) == UInt32(Self.replyKind) else {
            throw RelayError(message: "the server says something that is not a reply")
        }
        // What the client must not have in part only.
        let isShort = mark.isLast && mark.end <= MessageTracker.wholeMaximum
        if isShort, record.gathered.count < mark.end {
            record.needed = mark.end
            return
        }
        let data = Array(record.gathered[Self.headerLength...])
        requests.serverMessage(
            Array(record.gathered[..<Self.headerLength]), kind: Self.replyKind,
            position: position, length: UInt32(clamping: mark.end),
            data: data.isEmpty ? nil : data, now: now())
        record.isFragmented = !mark.isLast
        passGathered(mark, output: &output)
    }

    private func passGathered(_ mark: NFSRecordMark, output: inout RelayOutput) {
        output.toClient.append(record.gathered)
        position += UInt32(truncatingIfNeeded: record.gathered.count)
        record.remaining = mark.end - record.gathered.count
        record.isLast = mark.isLast
        record.gathered = []
        record.needed = RPCRecord.headerLength
        endRecordIfDone()
    }
}

// RFC 5531 section 11: "The number encodes two values -- a boolean that indicates whether the fragment is the last
// fragment of the record (bit value 1 implies the fragment is the last fragment) and a 31-bit unsigned binary value
// that is the length in bytes of the fragment's data."
/// What stands before each fragment of a record.
struct NFSRecordMark {
    let isLast: Bool
    /// Octets of the fragment behind the mark.
    let length: Int
    /// Octets of the fragment with the mark.
    var end: Int { RPCRecord.headerLength + length }

    /// - Parameter octets: a fragment's begin, four at least.
    init(_ octets: [UInt8]) {
        let number = octets.field32(0)
        length = Int(number & UInt32(RPCRecord.fragmentMaximum))
        isLast = number > UInt32(RPCRecord.fragmentMaximum)
    }
}
