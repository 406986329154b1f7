import Crypto

/// What agents and the switch share; made from a secret that it does not show.
public struct AnnouncementKey: Hashable, Sendable, CustomStringConvertible,
    CustomDebugStringConvertible
{
    /// Octets of a secret.
    public static let secretLength = 16...255

    /// Tells keys apart on the wire.
    public let identifier: UInt32
    private let secret: [UInt8]

    public init(secret: String) {
        // Keys of their own for each purpose: the identifier says nothing of the codes.
        let root = SymmetricKey(data: Array(secret.utf8))
        let label = HMAC<SHA256>.authenticationCode(
            for: Array("dsr announcement 1 identifier".utf8), using: root)
        identifier = label.prefix(4).reduce(0) { $0 << 8 | UInt32($1) }
        self.secret = Array(
            HMAC<SHA256>.authenticationCode(
                for: Array("dsr announcement 1 code".utf8), using: root))
    }

    func code(_ bytes: ArraySlice<UInt8>) -> [UInt8] {
        Array(
            HMAC<SHA256>.authenticationCode(for: bytes, using: SymmetricKey(data: secret)))
    }

    /// In a time that does not depend on where they differ.
    func isCode(_ code: ArraySlice<UInt8>, of bytes: ArraySlice<UInt8>) -> Bool {
        HMAC<SHA256>.isValidAuthenticationCode(
            code, authenticating: bytes, using: SymmetricKey(data: secret))
    }

    public var description: String { "announcement key" }
    public var debugDescription: String { description }
}
