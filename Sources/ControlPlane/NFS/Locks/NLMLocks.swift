package import DataPlane
package import StorageProtocols

/// Locks of clients' files (NLM). Every call is made anew at the server that has the export: servers see one host,
/// which locks for owners that it numbers. What is held and waited for is kept here, and set up again at another
/// server, or at one that has forgotten it.
///
///     take -> (what the handle means) -> start -> run -> (the server) -> note -> finish -> the client
///                                                  |
///                                                  | the export's locks are not set up at its server: parked
///                                                  | until they are (NLMSettling)
///
/// No sockets and no clock. Lives on the session thread.
package final class NLMLocks {
    /// Calls that are open, and what is held and waited for.
    package struct Bounds: Sendable {
        package var operations = 65_536
        package var locks = 65_536
        package init() {}
    }

    package struct Counters: Equatable, Sendable {
        package var calls: [NLMProcedure: UInt64] = [:]
        /// Locks and shares that were set up again at a server.
        package var reclaimed: UInt64 = 0
        /// Those that could not.
        package var lost: UInt64 = 0
        /// Denied for want of room.
        package var refused: UInt64 = 0
        /// GRANTED that a client did not want, or did not answer.
        package var unwanted: UInt64 = 0
        package init() {}
    }

    /// Where the locks of an export are.
    final class Export {
        enum Phase { case unsettled, settling, settled }

        let resource: String
        let index: UInt32
        var phase = Phase.unsettled
        /// The server that has them, or had them last; nil: none has.
        var server: String?
        /// What sets them up.
        var settling: NLMSettling?
        /// Operations that are at the server.
        var flight = 0
        var parked: [NLMOperation] = []
        /// ns: nothing is tried before.
        var retryAt: UInt64 = 0
        /// The last server has no NLM.
        var isMissing = false

        init(_ resource: String, index: UInt32) {
            self.resource = resource
            self.index = index
        }
    }

    /// A GRANTED that a client has not answered.
    struct Pending {
        let wait: NLMWait
        let serial: UInt64
    }

    package weak var surroundings: (any NLMSurroundings)?
    package internal(set) var counters = Counters()
    package internal(set) var openOperations = 0
    /// Versions of NFS whose handles are taken.
    package var versions: Set<NFSVersion>
    var table = NLMTable()
    let owners: NLMOwners
    let bounds: Bounds
    /// By number of the export.
    var exports: [UInt32: Export] = [:]
    private var queues: [NLMOperation.Order: [NLMOperation]] = [:]
    var pending: [Pending] = []
    /// Servers that may have locks of ours that nobody has any more.
    var forgotten: Set<String> = []
    /// Who waits until they are gone.
    var cleaning: [String: [(Bool) -> Void]] = [:]
    private var serial: UInt64 = 0
    var isTicking = false

    /// ns that clients' calls wait for locks to be set up.
    static let parkMaximum: UInt64 = 2_000_000_000
    /// The same for what is done on our own account.
    static let ownParkMaximum: UInt64 = 60_000_000_000
    static let retryInterval: UInt64 = 100_000_000
    /// Our state, as servers keep it with locks (NSM): odd is up.
    static let state: UInt32 = 1

    /// - Parameter seed: with the same one owners have the same numbers at servers.
    package init(seed: UInt64, versions: Set<NFSVersion>, bounds: Bounds = Bounds()) {
        owners = NLMOwners(seed: seed)
        self.versions = versions
        self.bounds = bounds
    }

    /// Locked ranges and shares.
    package var heldCount: Int { table.heldCount }
    package var waitingCount: Int { table.waitingCount }
    var now: UInt64 { surroundings?.now ?? 0 }

    // MARK: Operations

    /// One owner's operations on one file come one after the other, or servers with many threads would mix them.
    func start(_ operation: NLMOperation) {
        openOperations += 1
        guard operation.action != .test else { return run(operation) }
        if queues[operation.order] != nil {
            queues[operation.order]?.append(operation)
        } else {
            queues[operation.order] = []
            run(operation)
        }
    }

    func finish(
        _ operation: NLMOperation, _ status: NLMStatus, _ holder: NLMHolder? = nil,
        _ sequence: UInt32 = 0
    ) {
        openOperations -= 1
        operation.done(status, holder, sequence)
        guard operation.action != .test else { return }
        guard let queue = queues[operation.order], let next = queue.first else {
            queues[operation.order] = nil
            return
        }
        queues[operation.order] = Array(queue.dropFirst())
        run(next)
    }

    private func export(_ operation: NLMOperation) -> Export {
        let index = operation.file.index
        if let export = exports[index], export.resource == operation.resource { return export }
        let export = Export(operation.resource, index: index)
        exports[index] = export
        return export
    }

    func run(_ operation: NLMOperation) {
        let export = export(operation)
        guard export.phase == .settled, let surroundings,
            let server = surroundings.server(of: export.resource), server == export.server
        else { return park(operation, export) }
        var wait: NLMWait?
        if operation.action == .lock || operation.action == .share {
            wait = table.wait(for: operation)
            if wait == nil, table.count >= bounds.locks {
                counters.refused += 1
                // Not from within: others of the owner may wait for this one, and fare as it does.
                return surroundings.after(0) { [weak self] in
                    self?.finish(operation, .deniedNoLocks)
                }
            }
            if wait == nil, operation.action == .lock, operation.isBlocking {
                let new = NLMWait(operation)
                table.add(new)
                wait = new
            }
        }
        export.flight += 1
        let message = message(operation, operation.procedure, at: server)
        surroundings.call(server: server, version: operation.version, message) {
            [weak self] outcome in
            self?.took(outcome, operation, wait, export, server)
        }
    }

    private func took(
        _ outcome: NLMOutcome, _ operation: NLMOperation, _ wait: NLMWait?, _ export: Export,
        _ server: String
    ) {
        export.flight -= 1
        switch outcome {
        case .lost(let reason):
            lost(export, server, reason)
            park(operation, export)
        case .reply(let octets):
            export.isMissing = false
            guard
                let reply = NLMReply(
                    reply: octets, to: operation.procedure, version: operation.version)
            else {
                if let wait, operation.isBlocking { table.remove(wait) }
                return finish(operation, operation.action == .lock ? .deniedNoLocks : .failed)
            }
            let status = note(reply.status, operation, wait)
            finish(operation, status, reply.holder.map(clientHolder), reply.sequence)
            settle(export)
        }
    }

    /// What the server has done; returns what the client is told.
    private func note(
        _ status: NLMStatus, _ operation: NLMOperation, _ wait: NLMWait?
    ) -> NLMStatus {
        switch operation.action {
        case .test: return status
        case .lock: return noteLock(status, operation, wait)
        case .cancel:
            // Denied: it is not waited for, or was granted meanwhile.
            if status == .granted || status == .denied, let wait = table.wait(for: operation) {
                table.remove(wait)
            }
        case .unlock where status == .granted:
            table.unlock(operation, operation.range)
            confirm(operation) { $0.overlaps(operation.range) }
        case .share where status == .granted: table.share(operation)
        case .unshare where status == .granted: table.unshare(operation)
        case .unlock, .share, .unshare: break
        }
        return status
    }

    private func noteLock(
        _ status: NLMStatus, _ operation: NLMOperation, _ wait: NLMWait?
    ) -> NLMStatus {
        if wait?.isGrantedEarly == true { return .granted }
        switch status {
        case .granted:
            if let wait { table.remove(wait) }
            table.lock(operation)
            // It has asked again, and knows now.
            confirm(operation) { $0 == operation.range }
        case .blocked: wait?.isTold = true
        default:
            // One that does not wait has been denied: another that waits goes on waiting.
            if let wait, operation.isBlocking { table.remove(wait) }
        }
        return status
    }

    /// The client knows what it has: an answer to GRANTED does not count any more.
    private func confirm(_ operation: NLMOperation, _ isMeant: (NLMRange) -> Bool) {
        pending.removeAll {
            $0.wait.operation.order == operation.order && isMeant($0.wait.operation.range)
        }
    }

    /// As the client is to see it.
    private func clientHolder(_ holder: NLMHolder) -> NLMHolder {
        guard let owner = owners.owner(octets: holder.owner, svid: holder.svid) else {
            return holder
        }
        var result = holder
        result.svid = owner.identity.svid
        result.owner = owner.identity.owner
        return result
    }

    /// A call to a server.
    func message(
        _ operation: NLMOperation, _ procedure: NLMProcedure, range: NLMRange? = nil,
        isExclusive: Bool? = nil, isBlocking: Bool? = nil, isReclaim: Bool? = nil,
        at server: String
    ) -> [UInt8] {
        let name = surroundings?.name(towards: server) ?? []
        let owner = operation.owner
        let range = range ?? operation.range
        serial &+= 1
        let arguments: [UInt8]
        if procedure == .share || procedure == .unshare {
            arguments =
                NLMShareRequest(
                    cookie: Self.octets(serial), callerName: name,
                    handle: operation.file.handle, owner: owner.octets, mode: operation.mode,
                    access: operation.access, isReclaim: isReclaim ?? operation.isReclaim
                ).encoded()
        } else {
            let lock = NLMLock(
                callerName: name, handle: operation.file.handle, owner: owner.octets,
                svid: owner.svid, offset: range.first, length: range.length)
            arguments =
                NLMRequest(
                    cookie: Self.octets(serial), isBlocking: isBlocking ?? operation.isBlocking,
                    isExclusive: isExclusive ?? operation.isExclusive, lock: lock,
                    isReclaim: isReclaim ?? operation.isReclaim, state: Self.state
                ).encoded(procedure, version: operation.version)
        }
        return Self.call(operation.head, operation.version, procedure) + arguments
    }

    // RFC 5531 section 9: a call is xid, msg_type, rpcvers, prog, vers, proc, credential, verifier.
    private static func call(
        _ head: [UInt8], _ version: NLMVersion, _ procedure: NLMProcedure
    ) -> [UInt8] {
        guard head.count >= 24 else { return head }
        var result = head
        result.set(NLMProtocol.program, at: 12)
        result.set(version.rawValue, at: 16)
        result.set(procedure.rawValue, at: 20)
        return result
    }

    private static func octets(_ word: UInt64) -> [UInt8] {
        var writer = XDRWriter()
        writer.uint64(word)
        return writer.bytes
    }

    // MARK: Locks that were waited for

    /// A server says that a lock is held now.
    /// - Returns: what it is told.
    package func granted(
        _ request: NLMRequest, version: NLMVersion, by server: String
    ) -> NLMStatus {
        counters.calls[.granted, default: 0] += 1
        let lock = request.lock
        guard let owner = owners.owner(octets: lock.owner, svid: lock.svid),
            let range = NLMRange(offset: lock.offset, length: lock.length)
        else { return .denied }
        let wait = table.waits(of: owner).first { wait in
            let operation = wait.operation
            return operation.file.handle == lock.handle
                && operation.file.version == version.nfsVersion && operation.range == range
                && operation.isExclusive == request.isExclusive
                && exports[operation.file.index]?.server == server
        }
        guard let wait else {
            // It has not heard our answer to the first one.
            let isHeld = table.holds(
                owner, handle: lock.handle, range, isExclusive: request.isExclusive)
            return isHeld ? .granted : .denied
        }
        grant(wait)
        return .granted
    }

    /// It is held at the server now. The client is told, unless it is about to get the answer to its call.
    func grant(_ wait: NLMWait) {
        table.remove(wait)
        table.lock(wait.operation)
        guard wait.isTold else {
            wait.isGrantedEarly = true
            return
        }
        guard let origin = wait.operation.origin, let surroundings else { return }
        serial &+= 1
        let own = serial
        pending.append(Pending(wait: wait, serial: own))
        let operation = wait.operation
        let identity = operation.owner.identity
        let request = NLMRequest(
            cookie: Self.octets(own), isExclusive: operation.isExclusive,
            lock: NLMLock(
                callerName: identity.caller.name, handle: origin.handle, owner: identity.owner,
                svid: identity.svid, offset: operation.range.first,
                length: operation.range.length))
        surroundings.call(
            client: origin.client, from: origin.local, version: operation.version, .granted,
            request.encoded(.granted, version: operation.version)
        ) { [weak self] reply in
            self?.answered(reply, own)
        }
    }

    /// A client's answer to GRANTED; nil: none came. What it does not want must not stay locked.
    private func answered(_ reply: [UInt8]?, _ serial: UInt64) {
        guard let place = pending.firstIndex(where: { $0.serial == serial }) else { return }
        let operation = pending.remove(at: place).wait.operation
        let status = reply.flatMap {
            NLMReply(reply: $0, to: .granted, version: operation.version)?.status
        }
        guard status != .granted else { return }
        counters.unwanted += 1
        begin(.unlock, like: operation, operation.range)
    }

    // MARK: On our own account

    private func begin(
        _ action: NLMOperation.Action, like other: NLMOperation, _ range: NLMRange
    ) {
        var operation = NLMOperation(
            action: action, version: other.version, owner: other.owner, file: other.file,
            resource: other.resource, head: other.head, startedAt: now, done: { _, _, _ in })
        operation.range = range
        operation.isExclusive = other.isExclusive
        operation.mode = other.mode
        operation.access = other.access
        start(operation)
    }

    /// A client's host has restarted: it has nothing any more.
    /// - Parameter name: as it says it itself.
    package func release(_ name: [UInt8], at client: IPAddress) {
        func isMeant(_ operation: NLMOperation) -> Bool {
            operation.owner.identity.caller.isSame(address: client, name: name)
        }
        pending.removeAll { isMeant($0.wait.operation) }
        for wait in table.allWaits where isMeant(wait.operation) {
            begin(.cancel, like: wait.operation, wait.operation.range)
        }
        let held = table.locks.values.flatMap(\.values).map(\.operation)
        for operation in held where isMeant(operation) {
            begin(.unlock, like: operation, .whole)
        }
        for operation in table.shares.values.flatMap(\.values) where isMeant(operation) {
            begin(.unshare, like: operation, .whole)
        }
    }
}
