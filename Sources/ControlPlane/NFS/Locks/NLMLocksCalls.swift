package import DataPlane
package import StorageProtocols

// Calls of clients: what they ask for, and the way of the answer.
extension NLMLocks {
    /// Takes a call; `done` gets the reply.
    /// - Parameter local: the address of ours that it came to.
    /// - Returns: false: too much is open.
    package func take(
        _ call: [UInt8], _ header: RPCCallHeader, from client: IPAddress, at local: IPAddress,
        done: @escaping ([UInt8]) -> Void
    ) -> Bool {
        guard openOperations < bounds.operations else { return false }
        func refuse(_ refusal: RPCRefusal) {
            done(RPCMessage.reply(xid: header.xid, refusal: refusal))
        }
        guard [RPCFlavor.none, RPCFlavor.system].contains(header.credential.flavor) else {
            refuse(.authenticationError(.rejectedCredential))
            return true
        }
        let parsed = call.read { (reader: inout XDRReader) throws(RPCRefusal) -> NLMCall in
            do throws(XDRError) {
                try reader.skip(header.arguments)
            } catch {
                throw RPCRefusal.garbageArguments
            }
            return try NLMCall(header, &reader)
        }
        switch parsed {
        case .failure(let refusal): refuse(refusal)
        case .success(let parsed):
            let known = NLMVersion.allCases.filter { versions.contains($0.nfsVersion) }
            guard let version = known.first(where: { $0.rawValue == header.version }) else {
                refuse(
                    .programMismatch(
                        low: known.first?.rawValue ?? 0, high: known.last?.rawValue ?? 0))
                return true
            }
            if let procedure = NLMProcedure(rawValue: header.procedure) {
                counters.calls[procedure, default: 0] += 1
            }
            take(
                parsed,
                Incoming(
                    call: call, header: header, version: version, client: client, local: local,
                    done: done))
        }
        return true
    }

    /// A client's call and the way back.
    private struct Incoming {
        let call: [UInt8]
        let header: RPCCallHeader
        let version: NLMVersion
        let client: IPAddress
        let local: IPAddress
        let done: ([UInt8]) -> Void

        func reply(_ results: [UInt8] = []) {
            done(RPCMessage.reply(xid: header.xid, results: results))
        }
    }

    private func take(_ call: NLMCall, _ incoming: Incoming) {
        switch call {
        // Our GRANTEDs have replies: nobody has to send results here.
        case .null, .result: incoming.reply()
        case .freeAll(let name):
            release(name, at: incoming.client)
            incoming.reply()
        case .share(let procedure, let request):
            let answer = answer(procedure, incoming, request.cookie)
            let identity = NLMOwnerIdentity(
                caller: NLMCaller(address: incoming.client, name: request.callerName), svid: 0,
                owner: request.owner)
            find(request.handle, identity, incoming, answer) { operation in
                operation.mode = request.mode
                operation.access = request.access
                operation.isReclaim = request.isReclaim
                return procedure == .share ? .share : .unshare
            }
        case .request(let procedure, let request):
            let answer = answer(procedure, incoming, request.cookie)
            let lock = request.lock
            guard let range = NLMRange(offset: lock.offset, length: lock.length) else {
                return answer(.tooBig, nil, 0)
            }
            let identity = NLMOwnerIdentity(
                caller: NLMCaller(address: incoming.client, name: lock.callerName),
                svid: lock.svid, owner: lock.owner)
            guard let action = Self.action(procedure.action) else {
                // GRANTED: nothing was asked of the client.
                return answer(.denied, nil, 0)
            }
            find(lock.handle, identity, incoming, answer) { operation in
                operation.range = range
                operation.isExclusive = request.isExclusive
                operation.isBlocking = request.isBlocking
                operation.isReclaim = request.isReclaim
                return action
            }
        }
    }

    private static func action(_ procedure: NLMProcedure) -> NLMOperation.Action? {
        switch procedure {
        case .test: .test
        case .lock, .unmonitoredLock: .lock
        case .cancel: .cancel
        case .unlock: .unlock
        default: nil
        }
    }

    private typealias Answer = (NLMStatus, NLMHolder?, _ sequence: UInt32) -> Void

    /// The way of results to the client: in the reply, or in a call of its own.
    private func answer(
        _ procedure: NLMProcedure, _ incoming: Incoming, _ cookie: [UInt8]
    ) -> Answer {
        let version = incoming.version
        guard let result = procedure.result else {
            return { status, holder, sequence in
                let reply = NLMReply(
                    cookie: cookie, status: status, holder: holder, sequence: sequence)
                incoming.reply(reply.encoded(procedure, version: version))
            }
        }
        incoming.reply()
        return { [weak self] status, holder, _ in
            let reply = NLMReply(cookie: cookie, status: status, holder: holder)
            self?.surroundings?.call(
                client: incoming.client, from: incoming.local, version: version, result,
                reply.encoded(procedure.action, version: version)
            ) { _ in }
        }
    }

    /// What the handle means; then the operation begins.
    private func find(
        _ handle: [UInt8], _ identity: NLMOwnerIdentity, _ incoming: Incoming,
        _ answer: @escaping Answer, _ fill: @escaping (inout Draft) -> NLMOperation.Action
    ) {
        let version = incoming.version.nfsVersion
        let isLength =
            version == .v2
            ? handle.count == version.handleLength
            : (1...version.handleLength).contains(handle.count)
        guard isLength, let surroundings else { return answer(.staleHandle, nil, 0) }
        openOperations += 1
        let question = NLMQuestion(
            call: incoming.call, header: incoming.header, client: incoming.client,
            handle: handle, version: version)
        let startedAt = now
        surroundings.find(question) { [weak self] place in
            guard let self else { return }
            openOperations -= 1
            switch place {
            case .stale: answer(.staleHandle, nil, 0)
            case .refused: answer(.failed, nil, 0)
            case .unknown: answer(.deniedGracePeriod, nil, 0)
            case .file(let file, let resource, let head):
                var draft = Draft()
                let action = fill(&draft)
                var operation = NLMOperation(
                    action: action, version: incoming.version,
                    owner: owners.owner(identity), file: file, resource: resource, head: head,
                    startedAt: startedAt, done: answer)
                operation.range = draft.range
                operation.isExclusive = draft.isExclusive
                operation.isBlocking = draft.isBlocking
                operation.isReclaim = draft.isReclaim
                operation.mode = draft.mode
                operation.access = draft.access
                operation.origin = NLMOrigin(
                    client: incoming.client, local: incoming.local, handle: handle)
                start(operation)
            }
        }
    }

    /// What a call says of an operation.
    private struct Draft {
        var range = NLMRange.whole
        var isExclusive = false
        var isBlocking = false
        var isReclaim = false
        var mode: UInt32 = 0
        var access: UInt32 = 0
    }
}
