import ControlPlane
import DataPlane
import StorageProtocols
import TestSupport

/// A relay of one NFS connection between a client's and a server's stream that the test makes, in the relay or in the
/// fast path; what passes is gathered.
final class NFSStreamBench {
    static let handle = [UInt8](repeating: 0x41, count: 28)
    static let otherHandle = [UInt8](repeating: 0x42, count: 32)

    let log: SessionLog
    let handles = RPCHandleSet([NFSStreamBench.handle: 0, NFSStreamBench.otherHandle: 1])
    let relay: NFSStreamRelay
    /// What has passed.
    private(set) var toServer: [UInt8] = []
    private(set) var toClient: [UInt8] = []
    /// All records of the two streams, for whoever splices in the middle of one.
    var calls: [[UInt8]] = []
    var replies: [[UInt8]] = []
    private var output = RelayOutput()
    private var fast: FastPath?
    /// Octets that the client had before the splice.
    private var before = 0

    init(logMaximum: Int = 8 << 20) {
        log = SessionLog(
            format: .rpc, rules: .rpc, maximum: logMaximum,
            budget: RequestLogBudget(maximum: 1 << 30))
        relay = NFSStreamRelay(log: log, handles: handles) { 1 }
    }

    // MARK: Messages

    /// A call as a record.
    static func call(
        _ xid: UInt32, procedure: UInt32 = 1, handle: [UInt8] = NFSStreamBench.handle,
        arguments: Int = 8, _ change: (inout NFSMessage) -> Void = { _ in }
    ) -> [UInt8] {
        var message = NFSMessage(procedure: procedure, handle: handle)
        message.xid = xid
        message.arguments = (0..<arguments).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        change(&message)
        return RPCRecord.framed(message.call)
    }

    /// A reply as a record, with that many octets of results.
    static func reply(_ xid: UInt32, results: Int = 8) -> [UInt8] {
        var message = NFSMessage(handle: handle)
        message.xid = xid
        let octets = (0..<results).map { UInt8(truncatingIfNeeded: $0 &* 11 &+ Int(xid)) }
        return RPCRecord.framed(message.reply(octets))
    }

    /// What is in a record of one fragment.
    static func message(_ record: [UInt8]) -> [UInt8] { Array(record.dropFirst(4)) }

    /// Octets from a place in the stream to the next record's begin, and to that of the present one.
    static func distance(_ place: Int, in records: [[UInt8]]) -> Int {
        var end = 0
        for record in records where end < place { end += record.count }
        return end - place
    }
    static func start(_ place: Int, in records: [[UInt8]]) -> Int {
        var start = 0
        for record in records {
            guard start + record.count <= place else { break }
            start += record.count
        }
        return start
    }

    // MARK: Streams

    func fromClient(_ bytes: some Collection<UInt8>, piece: Int = .max) throws {
        try receive(Array(bytes), from: .client, piece: piece)
    }
    func fromServer(_ bytes: some Collection<UInt8>, piece: Int = .max) throws {
        try receive(Array(bytes), from: .server, piece: piece)
    }

    private func receive(_ bytes: [UInt8], from side: SpliceSide, piece: Int) throws {
        var start = 0
        while start < bytes.count {
            let count = min(piece, bytes.count - start)
            let part = Array(bytes[start..<start + count])
            start += count
            if let fast {
                let passed = fast.pass(side, part)
                if side == .client { toServer += passed } else { toClient += passed }
                problem = problem ?? fast.problem
                continue
            }
            defer {
                toServer += output.toServer.take(output.toServer.count)
                toClient += output.toClient.take(output.toClient.count)
            }
            try part.withUnsafeBytes { try relay.receive($0, from: side, output: &output) }
        }
    }

    /// Octets of the server that the relay is told of and does not see.
    func plain(_ bytes: [UInt8]) {
        toClient += bytes
        relay.passedPlain(bytes.count)
    }

    // MARK: Splice and loss

    var isSpliced: Bool { fast != nil }
    /// What the fast path has found wrong.
    private(set) var problem: String?
    private static let base = SequenceNumber(0xffff_ff00)

    /// Into the fast path, if the relay can.
    func splice() {
        guard fast == nil, relay.isAtRest, let messages = relay.messages else { return }
        relay.spliced(at: Self.base)
        before = toClient.count
        fast = FastPath(messages, log: log, base: Self.base)
    }

    private var position: SequenceNumber {
        Self.base + UInt32(truncatingIfNeeded: toClient.count - before)
    }

    func unsplice() throws {
        guard let path = fast else { return }
        fast = nil
        relay.resume(
            position: position,
            clientHeaderDistance: UInt32(Self.distance(toServer.count, in: calls)),
            serverHeaderDistance: UInt32(Self.distance(toClient.count, in: replies)))
        try fromClient(path.waiting(.client))
        try fromServer(path.waiting(.server))
    }

    /// The server dies. `delivered`: octets that passed in the fast path and that the client has; nil: all.
    func lose(delivered: Int? = nil) throws {
        guard let path = fast else { return relay.detach() }
        fast = nil
        let clientRemaining = path.clientRemaining
        problem = problem ?? path.problem
        relay.detachSpliced(
            position: delivered.map { Self.base + UInt32($0) } ?? position,
            clientRemaining: clientRemaining)
        try fromClient(path.waiting(.client))
    }
}
