/// A CHAP name and secret (RFC 1994), and optionally those of the other end.
public struct CHAPCredential: Hashable, Sendable {
    /// `CHAP_N` of the end that logs in.
    public var user: String
    /// Its secret; never shown in a listing or a log.
    public var secret: String
    /// Name and secret that the other end must answer with (mutual authentication); nil: one way.
    public var mutual: Mutual?

    public struct Mutual: Hashable, Sendable {
        public var user: String
        public var secret: String
        public init(user: String, secret: String) {
            self.user = user
            self.secret = secret
        }
    }

    public init(user: String, secret: String, mutual: Mutual? = nil) {
        self.user = user
        self.secret = secret
        self.mutual = mutual
    }

    /// Octets of a secret: RFC 7143 section 9.2.1 wants 96 bits.
    static let secretLengths = 12...255
    static let secretRule = "must have 12 to 255 octets (RFC 7143 section 9.2.1)"
}

extension CHAPCredential: CustomStringConvertible, CustomDebugStringConvertible {
    /// Without the secret, so that interpolating a credential into a log line leaks nothing.
    public var description: String { mutual == nil ? "CHAP \(user)" : "CHAP \(user), mutual" }
    public var debugDescription: String { description }
}

extension CHAPCredential.Mutual: CustomStringConvertible, CustomDebugStringConvertible {
    public var description: String { "CHAP \(user)" }
    public var debugDescription: String { description }
}

/// A user of the virtual address: how it logs in, and what it may use.
public struct Credential: Hashable, Sendable {
    /// Secret of the initiator; `mutual` is what the switch answers with.
    public var login: CHAPCredential
    /// Names of resources and volumes; nil: all of them. A volume's name stands for all that is in it.
    public var resources: Set<String>?

    public init(login: CHAPCredential, resources: Set<String>? = nil) {
        self.login = login
        self.resources = resources
    }

    public var user: String { login.user }

    public func allows(resource: String) -> Bool { resources?.contains(resource) ?? true }
}
