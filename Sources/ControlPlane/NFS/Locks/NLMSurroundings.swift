package import DataPlane
package import StorageProtocols

/// What became of a call to a server.
package enum NLMOutcome: Sendable {
    /// The whole reply message.
    case reply([UInt8])
    /// None came, and none will. Says why.
    case lost(String)
}

/// What a handle of a lock is asked for.
package struct NLMQuestion: Sendable {
    /// The client's call, with its header.
    package let call: [UInt8]
    package let header: RPCCallHeader
    package let client: IPAddress
    package let handle: [UInt8]
    package let version: NFSVersion

    package init(
        call: [UInt8], header: RPCCallHeader, client: IPAddress, handle: [UInt8],
        version: NFSVersion
    ) {
        self.call = call
        self.header = header
        self.client = client
        self.handle = handle
        self.version = version
    }
}

/// What a handle of a lock is, for who asks.
package enum NLMPlace: Sendable {
    /// `head`: the client's call in front of its arguments, with the credential that servers are to see.
    case file(NLMFile, resource: String, head: [UInt8])
    /// Nothing that may be locked.
    case stale
    /// A credential that is none.
    case refused
    /// Nobody could say.
    case unknown
}

/// What locks need of the world.
package protocol NLMSurroundings: AnyObject {
    /// Monotonic ns.
    var now: UInt64 { get }
    func after(_ delay: UInt64, _ body: @escaping () -> Void)
    /// The server that has a resource now and may be asked; nil: none.
    func server(of resource: String) -> String?
    func isServing(_ server: String) -> Bool
    /// The host that a server is told to be called by: our name there, as octets.
    func name(towards server: String) -> [UInt8]
    func find(_ question: NLMQuestion, done: @escaping (NLMPlace) -> Void)
    /// A call of NLM; its XID does not count. `done` is not called from within.
    func call(
        server: String, version: NLMVersion, _ message: [UInt8],
        done: @escaping (NLMOutcome) -> Void)
    /// A call of NLM to a client's own lock manager; `done` gets the whole reply, or nil when none has come.
    func call(
        client: IPAddress, from local: IPAddress, version: NLMVersion, _ procedure: NLMProcedure,
        _ arguments: [UInt8], done: @escaping ([UInt8]?) -> Void)
    /// A call has no reply.
    func trouble(_ server: String, _ reason: String)
    /// Something that people should know.
    func report(_ text: String)
}
