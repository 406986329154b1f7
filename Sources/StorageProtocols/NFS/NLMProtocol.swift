// NLM, the network lock manager: locks and shares of files of NFS 2 and 3 (X/Open "Protocols for Interworking: XNFS",
// chapter 10; version 4: RFC 1813 appendix II). Versions 1 and 3 go with handles of NFS 2 and have 32 bits for
// offsets, version 4 goes with those of NFS 3 and has 64.

/// Numbers of the program.
public enum NLMProtocol {
    public static let program: UInt32 = 100_021
    /// Octets of a caller's name: LM_MAXSTRLEN.
    public static let nameMaximum = 1_024
    /// Octets of a cookie, a handle or an owner: MAXNETOBJ_SZ.
    public static let objectMaximum = 1_024
}

public enum NLMVersion: UInt32, CaseIterable, Hashable, Sendable {
    case one = 1
    /// With shares.
    case three = 3
    case four = 4

    /// Whose handles it has.
    public var nfsVersion: NFSVersion { self == .four ? .v3 : .v2 }
}

/// Procedures (XNFS chapter 10, RFC 1813 section 6.3). A message is answered by a call of the result that belongs to
/// it, not by its reply, which is empty.
public enum NLMProcedure: UInt32, CaseIterable, Hashable, Sendable {
    case null = 0
    case test = 1
    case lock = 2
    case cancel = 3
    case unlock = 4
    /// From a server: a lock that had to wait is held now.
    case granted = 5
    case testMessage = 6
    case lockMessage = 7
    case cancelMessage = 8
    case unlockMessage = 9
    case grantedMessage = 10
    case testResult = 11
    case lockResult = 12
    case cancelResult = 13
    case unlockResult = 14
    case grantedResult = 15
    case share = 20
    case unshare = 21
    /// NM_LOCK: the server does not watch whether the client restarts.
    case unmonitoredLock = 22
    case freeAll = 23

    /// What a message asks for, or a result is of; others are their own.
    public var action: NLMProcedure {
        switch self {
        case .testMessage, .testResult: .test
        case .lockMessage, .lockResult: .lock
        case .cancelMessage, .cancelResult: .cancel
        case .unlockMessage, .unlockResult: .unlock
        case .grantedMessage, .grantedResult: .granted
        default: self
        }
    }

    /// What a message is answered with; nil: it is none.
    public var result: NLMProcedure? {
        switch self {
        case .testMessage: .testResult
        case .lockMessage: .lockResult
        case .cancelMessage: .cancelResult
        case .unlockMessage: .unlockResult
        case .grantedMessage: .grantedResult
        default: nil
        }
    }

    public var isResult: Bool { action != self && result == nil }

    /// As the specification has it, in small letters.
    public var name: String {
        switch self {
        case .testMessage, .lockMessage, .cancelMessage, .unlockMessage, .grantedMessage:
            "\(action)_msg"
        case .testResult, .lockResult, .cancelResult, .unlockResult, .grantedResult:
            "\(action)_res"
        case .unmonitoredLock: "nm_lock"
        case .freeAll: "free_all"
        default: "\(self)"
        }
    }
}

/// nlm4_stats (RFC 1813 section 6.2.6); versions 1 and 3 have the first five.
public enum NLMStatus: UInt32, CaseIterable, Hashable, Sendable {
    case granted = 0
    case denied = 1
    /// The server has no room for it.
    case deniedNoLocks = 2
    /// The lock will be granted by a call of GRANTED.
    case blocked = 3
    /// The server takes back what was held before its restart, and nothing else.
    case deniedGracePeriod = 4
    case deadlock = 5
    case readOnly = 6
    case staleHandle = 7
    case tooBig = 8
    case failed = 9

    /// What a version says for it.
    public func code(_ version: NLMVersion) -> UInt32 {
        if version == .four || rawValue <= Self.deniedGracePeriod.rawValue { return rawValue }
        return (self == .deadlock ? Self.denied : .deniedNoLocks).rawValue
    }
}

/// nlm4_lock (RFC 1813 section 6.1.4): octets of a file and who wants or has them.
public struct NLMLock: Equatable, Sendable {
    /// Name of the host, as octets: up to 1024.
    public var callerName: [UInt8]
    public var handle: [UInt8]
    /// Of the host: opaque.
    public var owner: [UInt8]
    /// Process there, as it is numbered by the host.
    public var svid: UInt32
    public var offset: UInt64
    /// Octets; 0: to the end of the file, wherever that will be.
    public var length: UInt64

    public init(
        callerName: [UInt8], handle: [UInt8], owner: [UInt8], svid: UInt32, offset: UInt64 = 0,
        length: UInt64 = 0
    ) {
        self.callerName = callerName
        self.handle = handle
        self.owner = owner
        self.svid = svid
        self.offset = offset
        self.length = length
    }

    init(_ reader: inout XDRReader, _ version: NLMVersion) throws(XDRError) {
        callerName = try reader.object(NLMProtocol.nameMaximum)
        handle = try reader.object()
        owner = try reader.object()
        svid = try reader.uint32()
        offset = try reader.offset(version)
        length = try reader.offset(version)
    }

    func write(_ writer: inout XDRWriter, _ version: NLMVersion) {
        writer.opaque(callerName)
        writer.opaque(handle)
        writer.opaque(owner)
        writer.uint32(svid)
        writer.offset(offset, version)
        writer.offset(length, version)
    }
}

/// Arguments of TEST, LOCK, NM_LOCK, CANCEL, UNLOCK and GRANTED (nlm4_lockargs and so on, RFC 1813 section 6.1): each
/// has some of them.
public struct NLMRequest: Equatable, Sendable {
    /// The answer has the same.
    public var cookie: [UInt8]
    /// Who asks waits when it cannot be had at once.
    public var isBlocking: Bool
    public var isExclusive: Bool
    public var lock: NLMLock
    /// It was held before the server's restart.
    public var isReclaim: Bool
    /// Counts restarts of the caller (NSM).
    public var state: UInt32

    public init(
        cookie: [UInt8] = [], isBlocking: Bool = false, isExclusive: Bool = false, lock: NLMLock,
        isReclaim: Bool = false, state: UInt32 = 0
    ) {
        self.cookie = cookie
        self.isBlocking = isBlocking
        self.isExclusive = isExclusive
        self.lock = lock
        self.isReclaim = isReclaim
        self.state = state
    }

    /// - Parameters:
    ///   - action: none of messages and results.
    ///   - reader: where the arguments begin; leaves it behind them.
    public init(
        _ action: NLMProcedure, _ reader: inout XDRReader, version: NLMVersion
    ) throws(XDRError) {
        cookie = try reader.object()
        isBlocking = try Self.hasBlocking(action) ? reader.bool() : false
        isExclusive = try action == .unlock ? false : reader.bool()
        lock = try NLMLock(&reader, version)
        isReclaim = try Self.hasState(action) ? reader.bool() : false
        state = try Self.hasState(action) ? reader.uint32() : 0
    }

    /// XDR. What the action has not is left out.
    public func encoded(_ action: NLMProcedure, version: NLMVersion) -> [UInt8] {
        var writer = XDRWriter()
        writer.opaque(cookie)
        if Self.hasBlocking(action) { writer.bool(isBlocking) }
        if action != .unlock { writer.bool(isExclusive) }
        lock.write(&writer, version)
        if Self.hasState(action) {
            writer.bool(isReclaim)
            writer.uint32(state)
        }
        return writer.bytes
    }

    private static func hasState(_ action: NLMProcedure) -> Bool {
        action == .lock || action == .unmonitoredLock
    }

    private static func hasBlocking(_ action: NLMProcedure) -> Bool {
        hasState(action) || action == .cancel
    }
}

/// Arguments of SHARE and UNSHARE (nlm4_shareargs, RFC 1813 section 6.1.6).
public struct NLMShareRequest: Equatable, Sendable {
    public var cookie: [UInt8]
    public var callerName: [UInt8]
    public var handle: [UInt8]
    public var owner: [UInt8]
    /// What others may not: none, read, write, both: 0 to 3.
    public var mode: UInt32
    /// What the owner does, with the same numbers.
    public var access: UInt32
    public var isReclaim: Bool

    public init(
        cookie: [UInt8] = [], callerName: [UInt8], handle: [UInt8], owner: [UInt8], mode: UInt32,
        access: UInt32, isReclaim: Bool = false
    ) {
        self.cookie = cookie
        self.callerName = callerName
        self.handle = handle
        self.owner = owner
        self.mode = mode
        self.access = access
        self.isReclaim = isReclaim
    }

    /// - Parameter reader: where the arguments begin; leaves it behind them.
    public init(_ reader: inout XDRReader) throws(XDRError) {
        cookie = try reader.object()
        callerName = try reader.object(NLMProtocol.nameMaximum)
        handle = try reader.object()
        owner = try reader.object()
        mode = try reader.uint32()
        access = try reader.uint32()
        guard mode <= 3, access <= 3 else { throw .badValue }
        isReclaim = try reader.bool()
    }

    /// XDR.
    public func encoded() -> [UInt8] {
        var writer = XDRWriter()
        writer.opaque(cookie)
        writer.opaque(callerName)
        writer.opaque(handle)
        writer.opaque(owner)
        writer.uint32(mode)
        writer.uint32(access)
        writer.bool(isReclaim)
        return writer.bytes
    }
}

/// Who has the lock that is in the way (nlm4_holder, RFC 1813 section 6.1.3).
public struct NLMHolder: Equatable, Sendable {
    public var isExclusive: Bool
    public var svid: UInt32
    public var owner: [UInt8]
    public var offset: UInt64
    public var length: UInt64

    public init(
        isExclusive: Bool, svid: UInt32, owner: [UInt8], offset: UInt64, length: UInt64
    ) {
        self.isExclusive = isExclusive
        self.svid = svid
        self.owner = owner
        self.offset = offset
        self.length = length
    }
}

/// Results (nlm4_res, nlm4_testres, nlm4_shareres, RFC 1813 section 6.1): in replies, and as arguments of results.
public struct NLMReply: Equatable, Sendable {
    public var cookie: [UInt8]
    public var status: NLMStatus
    /// TEST that was denied.
    public var holder: NLMHolder?
    /// SHARE, UNSHARE.
    public var sequence: UInt32

    public init(
        cookie: [UInt8], status: NLMStatus, holder: NLMHolder? = nil, sequence: UInt32 = 0
    ) {
        self.cookie = cookie
        self.status = status
        self.holder = holder
        self.sequence = sequence
    }

    /// - Parameters:
    ///   - action: none of messages and results.
    ///   - reader: where the results begin; leaves it behind them.
    public init(
        _ action: NLMProcedure, _ reader: inout XDRReader, version: NLMVersion
    ) throws(XDRError) {
        cookie = try reader.object()
        guard let status = NLMStatus(rawValue: try reader.uint32()) else { throw .badValue }
        self.status = status
        holder = nil
        sequence = 0
        if action == .test, status == .denied {
            let isExclusive = try reader.bool()
            let svid = try reader.uint32()
            let owner = try reader.object()
            let offset = try reader.offset(version)
            let length = try reader.offset(version)
            holder = NLMHolder(
                isExclusive: isExclusive, svid: svid, owner: owner, offset: offset,
                length: length)
        }
        if action == .share || action == .unshare { sequence = try reader.uint32() }
    }

    /// XDR. TEST is denied by somebody: without a holder all of the file is said to be in the way.
    public func encoded(_ action: NLMProcedure, version: NLMVersion) -> [UInt8] {
        var writer = XDRWriter()
        writer.opaque(cookie)
        let code = status.code(version)
        writer.uint32(code)
        if action == .test, code == NLMStatus.denied.rawValue {
            let holder =
                holder
                ?? NLMHolder(isExclusive: true, svid: 0, owner: [], offset: 0, length: 0)
            writer.bool(holder.isExclusive)
            writer.uint32(holder.svid)
            writer.opaque(holder.owner)
            writer.offset(holder.offset, version)
            writer.offset(holder.length, version)
        }
        if action == .share || action == .unshare { writer.uint32(sequence) }
        return writer.bytes
    }

    /// Of a whole reply; nil: it is none to such a call, or a refusal.
    public init?(reply: [UInt8], to action: NLMProcedure, version: NLMVersion) {
        let found = reply.withUnsafeBytes { raw -> NLMReply? in
            var reader = XDRReader(raw)
            guard let header = try? RPCReplyHeader(&reader), header.refusal == nil else {
                return nil
            }
            return try? NLMReply(action, &reader, version: version)
        }
        guard let found else { return nil }
        self = found
    }
}

/// A call of NLM.
public enum NLMCall: Equatable, Sendable {
    case null
    /// TEST, LOCK, CANCEL, UNLOCK, GRANTED, their messages, NM_LOCK.
    case request(NLMProcedure, NLMRequest)
    /// SHARE, UNSHARE.
    case share(NLMProcedure, NLMShareRequest)
    /// The answer to a message.
    case result(NLMProcedure, NLMReply)
    /// A host has restarted: nothing of it is held any more. Its name, as octets.
    case freeAll([UInt8])

    /// - Parameter reader: where the arguments begin; leaves it behind them.
    /// - Throws: what the call is to be answered with.
    public init(_ header: RPCCallHeader, _ reader: inout XDRReader) throws(RPCRefusal) {
        guard header.program == NLMProtocol.program else { throw .programUnavailable }
        guard let version = NLMVersion(rawValue: header.version) else {
            throw .programMismatch(
                low: NLMVersion.one.rawValue, high: NLMVersion.four.rawValue)
        }
        guard let procedure = NLMProcedure(rawValue: header.procedure),
            version != .one || procedure.rawValue < NLMProcedure.share.rawValue
        else { throw .procedureUnavailable }
        do throws(XDRError) {
            self = try Self.call(procedure, version, &reader)
        } catch {
            throw .garbageArguments
        }
    }

    private static func call(
        _ procedure: NLMProcedure, _ version: NLMVersion, _ reader: inout XDRReader
    ) throws(XDRError) -> NLMCall {
        switch procedure {
        case .null: return .null
        case .share, .unshare: return .share(procedure, try NLMShareRequest(&reader))
        case .freeAll:
            let name = try reader.object(NLMProtocol.nameMaximum)
            _ = try reader.uint32()
            return .freeAll(name)
        case _ where procedure.isResult:
            return .result(
                procedure, try NLMReply(procedure.action, &reader, version: version))
        default:
            return .request(
                procedure, try NLMRequest(procedure.action, &reader, version: version))
        }
    }

    /// Arguments of FREE_ALL.
    /// - Parameter state: of the caller now; locks of it go that were set in another one.
    public static func freeAll(_ name: [UInt8], state: UInt32) -> [UInt8] {
        var writer = XDRWriter()
        writer.opaque(name)
        writer.uint32(state)
        return writer.bytes
    }
}

extension XDRReader {
    fileprivate mutating func object(
        _ maximum: Int = NLMProtocol.objectMaximum
    ) throws(XDRError) -> [UInt8] {
        let range = try opaque(maximum: maximum)
        return try bytes(range)
    }

    fileprivate mutating func offset(_ version: NLMVersion) throws(XDRError) -> UInt64 {
        try version == .four ? uint64() : UInt64(uint32())
    }
}

extension XDRWriter {
    /// What 32 bits cannot say is their highest number.
    fileprivate mutating func offset(_ value: UInt64, _ version: NLMVersion) {
        if version == .four {
            uint64(value)
        } else {
            uint32(UInt32(clamping: value))
        }
    }
}
