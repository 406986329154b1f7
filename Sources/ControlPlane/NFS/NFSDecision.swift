package import DataPlane
import StorageProtocols

/// Who calls, and over what.
package struct NFSClient: Hashable, Sendable {
    package enum Transport: Hashable, Sendable { case udp, tcp }

    package var address: IPAddress
    package var port: UInt16
    package var transport: Transport

    package init(address: IPAddress, port: UInt16, transport: Transport) {
        self.address = address
        self.port = port
        self.transport = transport
    }
}

/// What is to be done with a call.
package enum NFSDecision: Sendable {
    /// The whole RPC reply for the client, without record mark.
    case answer([UInt8])
    /// Goes to the server that has the resource.
    case forward(NFSForward)
    /// Something is to be asked first, with what the answers are to be given back: `NFSRouter.take(_:for:now:)`.
    case resolve(NFSResolution)
    /// Nothing to do: a duplicate of a call that is under way, whose answer will come, or something that the client
    /// had better say again.
    case underWay
    /// Not an RPC call: a datagram is dropped, a connection closed. Says why.
    case malformed(String)
}

/// A client's call for a server.
package struct NFSForward: Sendable {
    /// Name of the resource.
    package let resource: String
    /// Number of the export.
    package var index: UInt32 { context.index }
    package let program: UInt32
    package let version: UInt32
    /// Without record mark. It has the client's XID, which the sender replaces in octets 0..<4.
    package let call: [UInt8]
    package let context: NFSCallContext
    /// It may be sent again as it is, to another server too. Any other one may have been done as soon as it was sent:
    /// `NFSRouter.retry` says what is to be sent then.
    package let isIdempotent: Bool
    /// It was sent before and then given up: the first that is sent is what `NFSRouter.retry` says.
    package let mayHaveBeenDone: Bool
}

/// What a call is about, for when its reply has come. To the sender it is opaque.
package struct NFSCallContext: Sendable {
    enum Kind: Sendable {
        case nfs(NFSProcedure)
        /// A LOOKUP in one of our directories (its file number) that has found an export: its server was asked for
        /// the attributes.
        case exportRoot(NFSVersion, directory: UInt32)
        /// `path`: what the client mounts.
        case mount(MountProtocol.Version, path: NFSPath, isRoot: Bool)
    }

    package let client: NFSClient
    /// Of the client's call.
    package let xid: UInt32
    /// Name of the resource.
    package let resource: String
    /// Number of the export.
    let index: UInt32
    let kind: Kind
    let rights: NFSRights
    /// Names that it is about, and what was known of them when it was sent first.
    let names: [NFSNameMemory.Place]
    let first: NFSFirstSend
    /// Nil: it may be done twice.
    let duplicate: NFSDuplicateMemory.Call?
}

/// A call of our own.
package struct NFSOwnCall: Sendable, Equatable {
    /// Name of the resource whose server it is for.
    package let resource: String
    package let program: UInt32
    package let version: UInt32
    /// Without record mark; its XID is 0, which the sender replaces in octets 0..<4.
    package let call: [UInt8]
}

/// What must be known before it can be said where a call goes.
package struct NFSResolution: Sendable {
    enum Question: Sendable {
        /// The handle of an export's root. One call: MNT.
        case root(UInt32, NFSVersion)
        /// Which export a shared handle is of. A call for each of `indexes`: GETATTR.
        case shared([UInt8], indexes: [UInt32], NFSVersion)
        /// The same, when several have it. A call for each of `owners`: MNT, for the handles of their roots.
        case owner([UInt8], owners: [UInt32], NFSVersion)
        /// Whether a name is there that a call is about to make or to take away. One call: LOOKUP.
        case name(NFSNameMemory.Place, NFSRetryRequest)
    }

    /// All of them, side by side; the same calls may be asked for by several clients.
    package let calls: [NFSOwnCall]
    let question: Question
    let incoming: NFSIncoming
    /// ns.
    let askedAt: UInt64
    /// How many answers the call has waited for already.
    let round: Int
}

/// A client's call with its header read.
struct NFSIncoming: Sendable {
    let octets: [UInt8]
    let header: RPCCallHeader
    let client: NFSClient
    /// Where it came in; nil: nobody knows.
    let local: IPAddress?
    /// Its name was asked for, whatever the answer was.
    var isNameAsked = false
}
