// Messages of ONC RPC version 2 (RFC 5531 section 9): how calls and replies begin. What follows is the program's.

/// Authentication flavors (RFC 5531 section 8.2).
public enum RPCFlavor {
    /// AUTH_NONE.
    public static let none: UInt32 = 0
    /// AUTH_SYS.
    public static let system: UInt32 = 1
    /// AUTH_SHORT.
    public static let short: UInt32 = 2
    /// AUTH_DH.
    public static let diffieHellman: UInt32 = 3
    /// RPCSEC_GSS (RFC 2203).
    public static let gss: UInt32 = 6
}

/// Credential or verifier: opaque_auth (RFC 5531 section 8.2), read in place.
public struct RPCAuthenticator: Equatable, Sendable {
    /// Octets of a body: "opaque body<400>".
    public static let bodyMaximum = 400

    /// As in `RPCFlavor`, or any other.
    public var flavor: UInt32
    /// Where the body is in the buffer of the reader that has read it.
    public var body: Range<Int>
}

/// A message that is not what was expected.
public enum RPCError: Error, Equatable, Sendable {
    /// Cut off within its header, or with a length or value there that cannot be. There is nobody to answer.
    case malformed(XDRError)
    /// A reply where calls come.
    case notACall
    /// A call where replies come.
    case notAReply
    /// A call of another version of RPC. The answer is `RPCRefusal.versionMismatch` with `xid`.
    case unsupportedVersion(UInt32, xid: UInt32)
}

/// Why a call was not served: everything that a reply says but success (RFC 5531 section 9). Programs throw it for
/// calls that they do not take.
public enum RPCRefusal: Error, Equatable, Sendable {
    /// PROG_UNAVAIL: the program is not here.
    case programUnavailable
    /// PROG_MISMATCH: lowest and highest version of the program that are here.
    case programMismatch(low: UInt32, high: UInt32)
    /// PROC_UNAVAIL: the program has no such procedure.
    case procedureUnavailable
    /// GARBAGE_ARGS: the arguments are not the procedure's.
    case garbageArguments
    /// SYSTEM_ERR: such as no memory.
    case systemError
    /// Denied, RPC_MISMATCH: lowest and highest version of RPC.
    case versionMismatch(low: UInt32, high: UInt32)
    /// Denied, AUTH_ERROR.
    case authenticationError(RPCAuthenticationStatus)
}

/// Why a credential or verifier is not taken: auth_stat (RFC 5531 section 9). Values that have no name here are kept.
public struct RPCAuthenticationStatus: RawRepresentable, Hashable, Sendable {
    public var rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    public static let badCredential = Self(rawValue: 1)
    public static let rejectedCredential = Self(rawValue: 2)
    public static let badVerifier = Self(rawValue: 3)
    public static let rejectedVerifier = Self(rawValue: 4)
    public static let tooWeak = Self(rawValue: 5)
    public static let invalidResponse = Self(rawValue: 6)
    public static let failed = Self(rawValue: 7)
    /// RPCSEC_GSS_CREDPROBLEM.
    public static let gssCredentialProblem = Self(rawValue: 13)
    /// RPCSEC_GSS_CTXPROBLEM.
    public static let gssContextProblem = Self(rawValue: 14)
}

/// How a call begins (RFC 5531 section 9).
public struct RPCCallHeader: Equatable, Sendable {
    /// Transaction identifier: the reply has the same.
    public var xid: UInt32
    public var program: UInt32
    public var version: UInt32
    public var procedure: UInt32
    public var credential: RPCAuthenticator
    public var verifier: RPCAuthenticator
    /// Where the arguments begin in the buffer; they go to the end of the message.
    public var arguments: Int

    // RFC 5531 section 9: "In version 2 of the RPC protocol specification, rpcvers MUST be equal to 2." What is
    // behind it may be anything otherwise.
    /// Leaves the reader where the arguments begin.
    public init(_ reader: inout XDRReader) throws(RPCError) {
        xid = try reader.field()
        guard try reader.field() == RPCMessage.callType else { throw .notACall }
        let rpcVersion = try reader.field()
        guard rpcVersion == RPCMessage.rpcVersion else {
            throw .unsupportedVersion(rpcVersion, xid: xid)
        }
        program = try reader.field()
        version = try reader.field()
        procedure = try reader.field()
        credential = try reader.authenticator()
        verifier = try reader.authenticator()
        arguments = reader.position
    }
}

/// How a reply begins (RFC 5531 section 9).
public struct RPCReplyHeader: Equatable, Sendable {
    /// That of the call.
    public var xid: UInt32
    /// nil: the call was served.
    public var refusal: RPCRefusal?
    /// Of accepted calls; a denied one has none.
    public var verifier: RPCAuthenticator?
    /// Where the results begin in the buffer; only a call that was served has some.
    public var results: Int

    /// Leaves the reader where the results begin.
    public init(_ reader: inout XDRReader) throws(RPCError) {
        xid = try reader.field()
        guard try reader.field() == RPCMessage.replyType else { throw .notAReply }
        switch try reader.field() {
        case RPCMessage.accepted:
            verifier = try reader.authenticator()
            refusal = try reader.acceptedStatus()
        case RPCMessage.denied:
            verifier = nil
            refusal = try reader.deniedStatus()
        default: throw .malformed(.badValue)
        }
        results = reader.position
    }
}

/// Whole messages.
public enum RPCMessage {
    public static let rpcVersion: UInt32 = 2
    // msg_type and reply_stat (RFC 5531 section 9).
    fileprivate static let callType: UInt32 = 0
    fileprivate static let replyType: UInt32 = 1
    fileprivate static let accepted: UInt32 = 0
    fileprivate static let denied: UInt32 = 1

    /// - Parameter credential: nil is AUTH_NONE.
    /// - Parameter arguments: XDR, as the procedure wants them.
    public static func call(
        xid: UInt32, program: UInt32, version: UInt32, procedure: UInt32,
        credential: RPCSystemCredential? = nil, arguments: [UInt8] = []
    ) -> [UInt8] {
        var writer = XDRWriter()
        writer.fields(xid, callType, rpcVersion, program, version, procedure)
        if let credential {
            writer.uint32(RPCFlavor.system)
            writer.opaque(credential.encoded())
        } else {
            writer.noAuthentication()
        }
        writer.noAuthentication()
        return writer.bytes + arguments
    }

    /// The reply to a call that was served, with an AUTH_NONE verifier.
    /// - Parameter results: XDR, as the procedure gives them.
    public static func reply(xid: UInt32, results: [UInt8]) -> [UInt8] {
        var writer = XDRWriter()
        writer.fields(xid, replyType, accepted)
        writer.noAuthentication()
        writer.uint32(0)
        return writer.bytes + results
    }

    /// The reply to a call that was not.
    public static func reply(xid: UInt32, refusal: RPCRefusal) -> [UInt8] {
        var writer = XDRWriter()
        writer.fields(xid, replyType)
        switch refusal {
        case .versionMismatch(let low, let high): writer.fields(denied, 0, low, high)
        case .authenticationError(let status): writer.fields(denied, 1, status.rawValue)
        case .programUnavailable: writer.acceptedStatus(1)
        case .programMismatch(let low, let high):
            writer.acceptedStatus(2)
            writer.fields(low, high)
        case .procedureUnavailable: writer.acceptedStatus(3)
        case .garbageArguments: writer.acceptedStatus(4)
        case .systemError: writer.acceptedStatus(5)
        }
        return writer.bytes
    }
}

/// Who calls, as the caller says: the body of an AUTH_SYS credential (RFC 5531 appendix A).
public struct RPCSystemCredential: Equatable, Sendable {
    /// Octets: "string machinename<255>".
    public static let machineNameMaximum = 255
    /// "unsigned int gids<16>".
    public static let groupMaximum = 16

    /// Any number of the caller.
    public var stamp: UInt32
    public var machineName: String
    public var uid: UInt32
    public var gid: UInt32
    /// Further groups.
    public var gids: [UInt32]

    public init(
        stamp: UInt32 = 0, machineName: String, uid: UInt32, gid: UInt32, gids: [UInt32] = []
    ) {
        self.stamp = stamp
        self.machineName = machineName
        self.uid = uid
        self.gid = gid
        self.gids = gids
    }

    /// What stands behind the last group is not looked at.
    /// - Parameter message: the buffer that the header was read from.
    /// - Throws: `badValue` for another flavor than AUTH_SYS, `tooLong` for a name or groups beyond the maximum.
    public init(
        _ authenticator: RPCAuthenticator, in message: UnsafeRawBufferPointer
    ) throws(XDRError) {
        guard authenticator.flavor == RPCFlavor.system else { throw .badValue }
        // A range of another message must not be read behind the end of this one.
        let body = authenticator.body.clamped(to: 0..<message.count)
        var reader = XDRReader(UnsafeRawBufferPointer(rebasing: message[body]))
        stamp = try reader.uint32()
        machineName = try reader.string(maximum: Self.machineNameMaximum)
        uid = try reader.uint32()
        gid = try reader.uint32()
        let count = Int(try reader.uint32())
        guard count <= Self.groupMaximum else { throw .tooLong }
        var groups: [UInt32] = []
        for _ in 0..<count { groups.append(try reader.uint32()) }
        gids = groups
    }

    /// The body, at most 340 octets. What a name or the groups have beyond the maximum is left out.
    public func encoded() -> [UInt8] {
        var writer = XDRWriter()
        writer.uint32(stamp)
        writer.opaque(Array(machineName.utf8.prefix(Self.machineNameMaximum)))
        writer.fields(uid, gid)
        let groups = gids.prefix(Self.groupMaximum)
        writer.uint32(UInt32(groups.count))
        for group in groups { writer.uint32(group) }
        return writer.bytes
    }
}

extension XDRReader {
    fileprivate mutating func field() throws(RPCError) -> UInt32 {
        do throws(XDRError) {
            return try uint32()
        } catch {
            throw .malformed(error)
        }
    }

    fileprivate mutating func authenticator() throws(RPCError) -> RPCAuthenticator {
        do throws(XDRError) {
            let flavor = try uint32()
            let body = try opaque(maximum: RPCAuthenticator.bodyMaximum)
            return RPCAuthenticator(flavor: flavor, body: body)
        } catch {
            throw .malformed(error)
        }
    }

    /// accept_stat; nil is SUCCESS.
    fileprivate mutating func acceptedStatus() throws(RPCError) -> RPCRefusal? {
        switch try field() {
        case 0: return nil
        case 1: return RPCRefusal.programUnavailable
        case 2:
            let low = try field()
            let high = try field()
            return RPCRefusal.programMismatch(low: low, high: high)
        case 3: return RPCRefusal.procedureUnavailable
        case 4: return RPCRefusal.garbageArguments
        case 5: return RPCRefusal.systemError
        default: throw .malformed(.badValue)
        }
    }

    /// reject_stat.
    fileprivate mutating func deniedStatus() throws(RPCError) -> RPCRefusal {
        switch try field() {
        case 0:
            let low = try field()
            let high = try field()
            return .versionMismatch(low: low, high: high)
        case 1:
            let status = try field()
            return .authenticationError(RPCAuthenticationStatus(rawValue: status))
        default: throw .malformed(.badValue)
        }
    }
}

extension XDRWriter {
    fileprivate mutating func fields(_ values: UInt32...) {
        for value in values { uint32(value) }
    }

    // RFC 5531 section 10.1: "It is recommended that the length of the opaque data be zero."
    fileprivate mutating func noAuthentication() { fields(RPCFlavor.none, 0) }

    fileprivate mutating func acceptedStatus(_ status: UInt32) {
        uint32(RPCMessage.accepted)
        noAuthentication()
        uint32(status)
    }
}
