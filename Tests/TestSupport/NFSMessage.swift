/// An NFS call as plain octets (RFC 5531 section 9, RFC 4506), and a reply to it, without the product's code for
/// them.
package struct NFSMessage: Sendable {
    package var xid: UInt32 = 0x1020_3040
    package var messageType: UInt32 = 0
    package var rpcVersion: UInt32 = 2
    package var program: UInt32 = 100_003
    package var version: UInt32
    package var procedure: UInt32
    /// AUTH_SYS. Bodies are filled up; their lengths are told as they are.
    package var credentialFlavor: UInt32 = 1
    package var credential = [UInt8](repeating: 0xc1, count: 20)
    package var verifierFlavor: UInt32 = 0
    package var verifier: [UInt8] = []
    /// With its length in version 3.
    package var handle: [UInt8]
    /// What follows the handle.
    package var arguments: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]

    package init(version: UInt32 = 3, procedure: UInt32 = 1, handle: [UInt8]) {
        self.version = version
        self.procedure = procedure
        self.handle = handle
    }

    /// Procedures that may be done twice, whose first argument is a handle and whose reply has none.
    package static func fastProcedures(version: UInt32) -> Set<UInt32> {
        version == 3 ? [1, 4, 5, 6, 7, 16, 18, 19, 20, 21] : [1, 5, 6, 8, 16, 17]
    }

    private static func opaque(_ octets: [UInt8]) -> [UInt8] {
        bigEndian32(UInt32(octets.count)) + octets
            + [UInt8](repeating: 0, count: (4 - octets.count % 4) % 4)
    }

    /// Up to the handle's first octet.
    private var front: [UInt8] {
        let words = [xid, messageType, rpcVersion, program, version, procedure]
        let header = words.flatMap { bigEndian32($0) }
        let authentication =
            bigEndian32(credentialFlavor) + Self.opaque(credential) + bigEndian32(verifierFlavor)
            + Self.opaque(verifier)
        let length = version == 3 ? bigEndian32(UInt32(handle.count)) : []
        return header + authentication + length
    }

    package var call: [UInt8] {
        let fill = [UInt8](repeating: 0, count: (4 - handle.count % 4) % 4)
        return front + handle + fill + arguments
    }

    /// Octets up to the end of the handle.
    package var handleEnd: Int { front.count + handle.count }

    /// Accepted, success, with these results.
    package func reply(_ results: [UInt8] = [0, 0, 0, 0]) -> [UInt8] {
        ([xid, 1, 0, 0, 0, 0] as [UInt32]).flatMap { bigEndian32($0) } + results
    }
}
