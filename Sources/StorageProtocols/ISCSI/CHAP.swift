import Crypto

/// CHAP with MD5 (RFC 1994 section 4.1, RFC 7143 section 12.1.3).
public enum CHAP {
    /// MD5 over identifier, secret and challenge.
    public static func response(
        identifier: UInt8, secret: String, challenge: [UInt8]
    ) -> [UInt8] {
        var hash = Insecure.MD5()
        hash.update(data: [identifier])
        hash.update(data: Array(secret.utf8))
        hash.update(data: challenge)
        return Array(hash.finalize())
    }

    /// Whether two responses agree, in a time that does not depend on where they differ.
    public static func areEqual(_ left: [UInt8], _ right: [UInt8]) -> Bool {
        guard left.count == right.count else { return false }
        return zip(left, right).reduce(UInt8(0)) { $0 | ($1.0 ^ $1.1) } == 0
    }
}

/// A name and a secret.
public struct ISCSICredential: Hashable, Sendable {
    public var user: String
    public var secret: String
    public init(user: String, secret: String) {
        self.user = user
        self.secret = secret
    }
}
