import StorageProtocols

/// Asks a server for an export as a client would: MNT, then GETATTR of what it gave. Lives on the session thread and
/// keeps itself alive until it is done.
final class NFSProbe {
    enum Result {
        case good
        /// The server answers, and does not have the export.
        case missing(String)
        case bad(String)
        case refused(String)
        case timedOut(String)
    }

    private let engine: SessionEngine
    private let link: NFSServerLink
    private let version: NFSVersion
    private var timer: EventLoop.Timer?
    private var done: ((Result, _ latency: UInt64) -> Void)?
    private var startedAt: UInt64 = 0
    /// The server has answered something.
    private(set) var isReached = false

    init(_ server: String, version: NFSVersion, engine: SessionEngine, portal: ISCSIPortal) {
        self.engine = engine
        self.version = version
        link = NFSServerLink(server, engine: engine, portal: portal)
    }

    private static let credential = RPCSystemCredential(machineName: "dsr", uid: 0, gid: 0)

    /// - Parameters:
    ///   - path: of the export at the server.
    ///   - timeout: ns.
    func run(
        _ path: String, timeout: UInt64, done: @escaping (Result, _ latency: UInt64) -> Void
    ) {
        self.done = done
        startedAt = engine.loop.clock()
        timer = engine.loop.schedule(after: timeout) { [self] in
            finish(.timedOut(isReached ? "no answer" : "no connection"))
        }
        let call = MountCall.mount(path: path).message(
            xid: 0, version: version.mountVersion, credential: Self.credential)
        link.call(
            program: MountProtocol.program, version: version.mountVersion.rawValue, call
        ) { [self] outcome in
            guard let reply = reply(outcome, "MNT") else { return }
            takeMount(reply)
        }
    }

    private func reply(_ outcome: RPCConnection.Outcome, _ name: String) -> [UInt8]? {
        guard done != nil else { return nil }
        switch outcome {
        case .reply(let reply):
            isReached = true
            return reply
        case .lost(let reason, _):
            let text = "\(name): \(reason)"
            finish(reason.contains("refused") ? .refused(text) : .bad(text))
            return nil
        }
    }

    private func takeMount(_ reply: [UInt8]) {
        let result = reply.withUnsafeBytes { raw -> MountResult? in
            var reader = XDRReader(raw)
            guard let header = try? RPCReplyHeader(&reader), header.refusal == nil else {
                return nil
            }
            return try? MountResult(&reader, version: version.mountVersion)
        }
        switch result {
        case nil: finish(.bad("MNT: not served"))
        case .failed(let status): finish(.missing("MNT: \(status)"))
        case .mounted(let handle, _):
            var arguments = XDRWriter()
            let getattr: NFSProcedure
            switch version {
            case .v2:
                arguments.fixedOpaque(handle)
                getattr = .v2(.getattr)
            case .v3:
                arguments.opaque(handle)
                getattr = .v3(.getattr)
            }
            let call = RPCMessage.call(
                xid: 0, program: NFSProgram.number, version: version.rawValue,
                procedure: getattr.number, credential: Self.credential,
                arguments: arguments.bytes)
            link.call(program: NFSProgram.number, version: version.rawValue, call) {
                [self] outcome in
                guard let reply = self.reply(outcome, "GETATTR") else { return }
                takeAttributes(reply)
            }
        }
    }

    private func takeAttributes(_ reply: [UInt8]) {
        let status = reply.withUnsafeBytes { raw -> UInt32? in
            var reader = XDRReader(raw)
            guard let header = try? RPCReplyHeader(&reader), header.refusal == nil else {
                return nil
            }
            return try? reader.uint32()
        }
        switch status {
        case 0: finish(.good)
        case let status?: finish(.bad("GETATTR of the root: status \(status)"))
        case nil: finish(.bad("GETATTR of the root: not served"))
        }
    }

    private func finish(_ result: Result) {
        guard let done else { return }
        self.done = nil
        timer?.cancel()
        link.end("done")
        done(result, engine.loop.clock() - startedAt)
    }
}
