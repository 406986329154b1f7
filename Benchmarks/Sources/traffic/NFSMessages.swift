import Glibc

/// Calls and replies of NFS 3 and MOUNT 3 (RFC 1813) as ONC RPC has them (RFC 5531 section 9), as
/// far as both ends need them.
enum NFSMessages {
    static let program: UInt32 = 100_003
    static let mountProgram: UInt32 = 100_005
    static let version: UInt32 = 3
    /// GETATTR of NFS and MNT of MOUNT.
    static let getattr: UInt32 = 1
    static let mount: UInt32 = 1
    /// Octets of a handle: NFS3_FHSIZE.
    static let handleMaximum = 64
    /// The only one that the server gives and takes.
    static let handle = Array("traffic-bench-nfs-root-directory".utf8)
    /// Octets of a call or reply that either end takes.
    static let lengthMaximum = 512

    /// Octets that opaque data takes (RFC 4506 section 4.10); nil when it is longer than `maximum`.
    private static func padded(_ length: UInt32, maximum: Int) -> Int? {
        Int(length) <= maximum ? (Int(length) + 3) & ~3 : nil
    }

    static func opaque(_ octets: [UInt8]) -> [UInt8] {
        bigEndian([UInt32(octets.count)]) + octets
            + [UInt8](repeating: 0, count: -octets.count & 3)
    }

    /// AUTH_SYS of a user with a few groups, as clients have it: stamp, machine name, uid, gid,
    /// gids (RFC 5531 appendix A).
    private static let credential =
        bigEndian([1]) + opaque(Array("traffic".utf8))
        + bigEndian([1_000, 1_000, 5, 1_000, 4, 24, 27, 30])

    /// - Returns: a call with XID 0.
    static func call(program: UInt32, procedure: UInt32, arguments: [UInt8]) -> [UInt8] {
        bigEndian([0, 0, 2, program, version, procedure, 1]) + opaque(credential)
            + bigEndian([0, 0]) + arguments
    }

    /// Where the arguments of a call begin; nil: it is none.
    static func arguments(_ call: UnsafeMutableRawPointer, _ length: Int) -> Int? {
        guard length >= 40, call.field32(4) == 0, call.field32(8) == 2,
            let credential = padded(call.field32(28), maximum: 400)
        else { return nil }
        let verifier = 32 + credential
        guard length >= verifier + 8,
            let body = padded(call.field32(verifier + 4), maximum: 400),
            length >= verifier + 8 + body
        else { return nil }
        return verifier + 8 + body
    }

    /// Where the results of a reply begin; nil: the call was not accepted and done.
    static func results(_ reply: UnsafeMutableRawPointer, _ length: Int) -> Int? {
        // REPLY, MSG_ACCEPTED, verifier, SUCCESS.
        guard length >= 24, reply.field32(4) == 1, reply.field32(8) == 0,
            let verifier = padded(reply.field32(16), maximum: 400), length >= 24 + verifier,
            reply.field32(20 + verifier) == 0
        else { return nil }
        return 24 + verifier
    }

    /// The handle in the results of MNT; nil: the server gives none.
    static func mounted(_ reply: UnsafeMutableRawPointer, _ length: Int) -> [UInt8]? {
        guard let start = results(reply, length), length >= start + 8,
            reply.field32(start) == 0
        else { return nil }
        let count = Int(reply.field32(start + 4))
        guard (1...handleMaximum).contains(count), length >= start + 8 + count else { return nil }
        return Array(UnsafeRawBufferPointer(start: reply + start + 8, count: count))
    }
}
