import StorageProtocols

/// Sets the locks, shares and waiting requests of one export up at a server that has not got them: another one than
/// before, or one that has lost them. One that has been left in good order gives its locks up first.
final class NLMSettling {
    private enum Item {
        case lock(NLMOperation, NLMHeld)
        case share(NLMOperation)
        case wait(NLMWait)
    }

    private let export: NLMLocks.Export
    private let server: String
    private let former: String?
    private unowned let locks: NLMLocks
    private var held: [Item] = []
    private var waits: [Item] = []
    /// Called off.
    var isOver = false
    /// Whether the server takes back what was held, or is not in such a period and takes new locks.
    private var isReclaim = true

    /// Calls that are open at a time.
    private static let window = 16
    /// Times that something is asked for, `NLMLocks.retryInterval` apart: as long as a grace period may last.
    private static let graceMaximum = 600
    /// The same for what somebody else has: the locks of a process that has died may go a little later.
    private static let deniedMaximum = 10

    /// - Parameter former: where they are now; nil: nowhere.
    init(_ export: NLMLocks.Export, at server: String, former: String?, locks: NLMLocks) {
        self.export = export
        self.server = server
        self.former = former
        self.locks = locks
    }

    func begin() {
        let table = locks.table
        for (file, owners) in table.locks where file.index == export.index {
            for entry in owners.values {
                held += entry.ranges.all.map { Item.lock(entry.operation, $0) }
            }
        }
        for (file, owners) in table.shares where file.index == export.index {
            held += owners.values.map { Item.share($0) }
        }
        // The others are parked, and go to the server as they came.
        for wait in table.allWaits
        where wait.operation.file.index == export.index && wait.isTold {
            waits.append(.wait(wait))
        }
        guard let former else { return clean() }
        // Who waits must not be given there what the others are about to leave.
        forEach(waits + held, { [weak self] in self?.leave(former, $0, $1) }) { [weak self] in
            self?.clean()
        }
    }

    private func clean() {
        locks.clean(server) { [weak self] isDone in
            guard let self, !isOver else { return }
            guard isDone else { return abandon("no reply to FREE_ALL") }
            setHeld()
        }
    }

    /// What is held comes first: who waits would get it otherwise.
    private func setHeld() {
        forEach(held, { [weak self] in self?.set($0, $1) }) { [weak self] in
            guard let self, !isOver else { return }
            forEach(waits, { [weak self] in self?.set($0, $1) }) { [weak self] in
                guard let self, !isOver else { return }
                locks.settled(export)
            }
        }
    }

    /// Begins again later.
    private func abandon(_ reason: String) {
        guard !isOver else { return }
        locks.lost(export, server, reason)
    }

    // MARK: All of them

    /// Does something for each item, several at a time, and then goes on.
    private func forEach(
        _ items: [Item], _ body: @escaping (Item, @escaping () -> Void) -> Void,
        then: @escaping () -> Void
    ) {
        guard !items.isEmpty else { return then() }
        let pump = Pump(items, body, then)
        for _ in 0..<min(Self.window, items.count) { pump.next() }
    }

    private final class Pump {
        private let items: [Item]
        private let body: (Item, @escaping () -> Void) -> Void
        private let then: () -> Void
        private var started = 0
        private var finished = 0

        init(
            _ items: [Item], _ body: @escaping (Item, @escaping () -> Void) -> Void,
            _ then: @escaping () -> Void
        ) {
            self.items = items
            self.body = body
            self.then = then
        }

        func next() {
            guard started < items.count else { return }
            let item = items[started]
            started += 1
            body(item) {
                self.finished += 1
                if self.finished == self.items.count { return self.then() }
                self.next()
            }
        }
    }

    // MARK: At the server that is left

    /// As well as it can be done: should it fail there, its locks are gone anyway.
    private func leave(_ former: String, _ item: Item, _ done: @escaping () -> Void) {
        guard !isOver, let surroundings = locks.surroundings else { return }
        let operation: NLMOperation
        let message: [UInt8]
        switch item {
        case .lock(let holder, let held):
            operation = holder
            message = locks.message(operation, .unlock, range: held.range, at: former)
        case .share(let holder):
            operation = holder
            message = locks.message(operation, .unshare, at: former)
        case .wait(let wait):
            operation = wait.operation
            message = locks.message(operation, .cancel, at: former)
        }
        surroundings.call(server: former, version: operation.version, message) { _ in done() }
    }

    // MARK: At the new one

    private func set(_ item: Item, attempt: Int = 0, _ done: @escaping () -> Void) {
        guard !isOver, let surroundings = locks.surroundings else { return }
        let isReclaim = isReclaim
        let operation: NLMOperation
        let message: [UInt8]
        switch item {
        case .lock(let holder, let held):
            operation = holder
            message = locks.message(
                operation, .lock, range: held.range, isExclusive: held.isExclusive,
                isBlocking: false, isReclaim: isReclaim, at: server)
        case .share(let holder):
            operation = holder
            message = locks.message(operation, .share, isReclaim: isReclaim, at: server)
        case .wait(let wait):
            operation = wait.operation
            message = locks.message(
                operation, .lock, isBlocking: true, isReclaim: false, at: server)
        }
        surroundings.call(server: server, version: operation.version, message) {
            [weak self] outcome in
            guard let self, !isOver else { return }
            switch outcome {
            case .lost(let reason): abandon(reason)
            case .reply(let octets):
                let isShare = if case .share = item { true } else { false }
                let reply = NLMReply(
                    reply: octets, to: isShare ? .share : .lock, version: operation.version)
                take(reply?.status ?? .failed, item, isReclaim, attempt, done)
            }
        }
    }

    private func take(
        _ status: NLMStatus, _ item: Item, _ wasReclaim: Bool, _ attempt: Int,
        _ done: @escaping () -> Void
    ) {
        if case .wait(let wait) = item {
            return take(status, wait, attempt, done)
        }
        switch status {
        case .granted:
            locks.setUpAgain()
            done()
        case .deniedGracePeriod where attempt < Self.graceMaximum:
            // Not in its grace period a server denies reclaims with this too.
            if wasReclaim == isReclaim { isReclaim.toggle() }
            if attempt == 0 {
                set(item, attempt: 1, done)
            } else {
                again(item, attempt, done)
            }
        case .denied where attempt < Self.deniedMaximum: again(item, attempt, done)
        default:
            switch item {
            case .lock(let operation, let held):
                locks.lost(operation, held.range, at: server, "\(status)")
            case .share(let operation): locks.lost(operation, nil, at: server, "\(status)")
            case .wait: break
            }
            done()
        }
    }

    private func take(
        _ status: NLMStatus, _ wait: NLMWait, _ attempt: Int, _ done: @escaping () -> Void
    ) {
        switch status {
        case .blocked: done()
        case .granted:
            locks.grant(wait)
            done()
        case .deniedGracePeriod where attempt < Self.graceMaximum:
            again(.wait(wait), attempt, done)
        default:
            // The client asks again by itself now and then.
            locks.table.remove(wait)
            done()
        }
    }

    private func again(_ item: Item, _ attempt: Int, _ done: @escaping () -> Void) {
        locks.surroundings?.after(NLMLocks.retryInterval) { [weak self] in
            self?.set(item, attempt: attempt + 1, done)
        }
    }
}
