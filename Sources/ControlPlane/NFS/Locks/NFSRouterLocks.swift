import StorageProtocols

// What handles of locks mean: as those of calls of NFS do.
extension NFSRouter {
    enum LockPlace {
        case known(NLMPlace)
        /// To be asked first, with what the answers are to be given back: `take(_:for:now:)`.
        case ask(NFSResolution)
    }

    /// - Parameter round: how many answers it has waited for.
    func lockPlace(_ question: NLMQuestion, now: UInt64, round: Int) -> LockPlace {
        self.now = now
        switch scheme.meaning(of: question.handle[...], version: question.version) {
        case .directory, .stale, .foreign: return .known(.stale)
        case .export(let index, let handle):
            guard let export = exports[index] else { return .known(.stale) }
            let rights = export.export.rights(of: question.client)
            // As knfsd does: to those who may not use it, an export is not there.
            guard rights.mode != .none else { return .known(.stale) }
            let head = Array(question.call[..<question.header.arguments])
            guard let squashed = rights.squashed(head, question.header) else {
                return .known(.refused)
            }
            let file = NLMFile(index: index, version: question.version, handle: handle)
            return .known(.file(file, resource: export.resource, head: squashed))
        case .unknown: return ask(question, now: now, round: round)
        }
    }

    /// Which of the shared exports it is of, is found out as for a GETATTR.
    private func ask(_ question: NLMQuestion, now: UInt64, round: Int) -> LockPlace {
        // What is left to be done when it is known: nothing.
        let call = RPCMessage.call(
            xid: 0, program: NFSProgram.number, version: question.version.rawValue, procedure: 0)
        let parsed = call.read { (reader: inout XDRReader) throws(RPCError) in
            try RPCCallHeader(&reader)
        }
        guard case .success(let header) = parsed else { return .known(.unknown) }
        let incoming = NFSIncoming(
            octets: call, header: header,
            client: NFSClient(address: question.client, port: 0, transport: .udp), local: nil)
        let procedure: NFSProcedure = question.version == .v2 ? .v2(.getattr) : .v3(.getattr)
        switch resolve(incoming, procedure, question.handle, now: now, round: round) {
        case .resolve(let resolution): return .ask(resolution)
        case .answer: return .known(.stale)
        default: return .known(.unknown)
        }
    }
}
