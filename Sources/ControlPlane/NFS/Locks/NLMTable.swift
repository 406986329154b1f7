package import DataPlane
package import StorageProtocols

/// A file of an export, as its servers know it.
package struct NLMFile: Hashable, Sendable {
    /// Number of the export.
    package let index: UInt32
    package let version: NFSVersion
    /// The server's.
    package let handle: [UInt8]

    package init(index: UInt32, version: NFSVersion, handle: [UInt8]) {
        self.index = index
        self.version = version
        self.handle = handle
    }
}

/// Where a client is, and how it knows a file.
package struct NLMOrigin: Sendable {
    package let client: IPAddress
    /// Our address that it uses.
    package let local: IPAddress
    package let handle: [UInt8]

    package init(client: IPAddress, local: IPAddress, handle: [UInt8]) {
        self.client = client
        self.local = local
        self.handle = handle
    }
}

/// What is done about locks with servers, of a client's call or on our own account.
struct NLMOperation {
    enum Action: Hashable { case test, lock, cancel, unlock, share, unshare }

    let action: Action
    let version: NLMVersion
    let owner: NLMOwner
    let file: NLMFile
    /// Name of the export's resource.
    let resource: String
    /// How calls to servers begin: with the credential of who asks.
    let head: [UInt8]
    var range = NLMRange.whole
    var isExclusive = false
    var isBlocking = false
    var isReclaim = false
    /// Of shares.
    var mode: UInt32 = 0
    var access: UInt32 = 0
    /// Nil: it is on our own account.
    var origin: NLMOrigin?
    /// ns.
    let startedAt: UInt64
    let done: (NLMStatus, NLMHolder?, _ sequence: UInt32) -> Void

    /// What one owner does with one file is done one thing after the other.
    struct Order: Hashable {
        let file: NLMFile
        let owner: UInt64
    }

    var order: Order { Order(file: file, owner: owner.id) }

    var procedure: NLMProcedure {
        switch action {
        case .test: .test
        case .lock: .lock
        case .cancel: .cancel
        case .unlock: .unlock
        case .share: .share
        case .unshare: .unshare
        }
    }
}

/// A lock that a client waits for.
final class NLMWait {
    let operation: NLMOperation
    /// Its client was told to wait.
    var isTold = false
    /// The server has granted it before its answer came that it has to be waited for.
    var isGrantedEarly = false

    init(_ operation: NLMOperation) { self.operation = operation }

    func isFor(_ other: NLMOperation) -> Bool {
        operation.file == other.file && operation.owner === other.owner
            && operation.range == other.range && operation.isExclusive == other.isExclusive
    }
}

/// What is held through us at servers, and what is waited for.
struct NLMTable {
    struct Locks {
        /// The last operation that locked something: whose it is, and how it is said to servers.
        var operation: NLMOperation
        var ranges = NLMHeldRanges()
    }

    private(set) var locks: [NLMFile: [UInt64: Locks]] = [:]
    private(set) var shares: [NLMFile: [UInt64: NLMOperation]] = [:]
    /// By owner.
    private var waits: [UInt64: [NLMWait]] = [:]
    /// Locked ranges and shares.
    private(set) var heldCount = 0
    private(set) var waitingCount = 0

    var count: Int { heldCount + waitingCount }

    // MARK: Held

    mutating func lock(_ operation: NLMOperation) {
        change(operation) { entry in
            entry.operation = operation
            entry.ranges.lock(operation.range, isExclusive: operation.isExclusive)
        }
    }

    mutating func unlock(_ operation: NLMOperation, _ range: NLMRange) {
        guard locks[operation.file]?[operation.owner.id] != nil else { return }
        change(operation) { $0.ranges.unlock(range) }
    }

    private mutating func change(_ operation: NLMOperation, _ body: (inout Locks) -> Void) {
        let file = operation.file
        let owner = operation.owner.id
        var entry = locks[file]?[owner] ?? Locks(operation: operation)
        heldCount -= entry.ranges.all.count
        body(&entry)
        heldCount += entry.ranges.all.count
        locks[file, default: [:]][owner] = entry.ranges.all.isEmpty ? nil : entry
        if locks[file]?.isEmpty == true { locks[file] = nil }
    }

    mutating func share(_ operation: NLMOperation) {
        let before = shares[operation.file, default: [:]]
            .updateValue(operation, forKey: operation.owner.id)
        if before == nil { heldCount += 1 }
    }

    mutating func unshare(_ operation: NLMOperation) {
        let before = shares[operation.file]?.removeValue(forKey: operation.owner.id)
        if before != nil { heldCount -= 1 }
        if shares[operation.file]?.isEmpty == true { shares[operation.file] = nil }
    }

    /// In a file with that handle, whichever export it is of.
    func holds(
        _ owner: NLMOwner, handle: [UInt8], _ range: NLMRange, isExclusive: Bool
    ) -> Bool {
        locks.contains { file, owners in
            file.handle == handle
                && owners[owner.id]?.ranges.covers(range, isExclusive: isExclusive) == true
        }
    }

    /// Something is held, or is waited for, in an export.
    func uses(_ index: UInt32) -> Bool {
        locks.keys.contains { $0.index == index } || shares.keys.contains { $0.index == index }
            || waits.values.contains { $0.contains { $0.operation.file.index == index } }
    }

    /// The export is no more: nothing of it is known.
    mutating func forget(_ index: UInt32) {
        for (file, owners) in locks where file.index == index {
            for entry in owners.values { heldCount -= entry.ranges.all.count }
            locks[file] = nil
        }
        for (file, owners) in shares where file.index == index {
            heldCount -= owners.count
            shares[file] = nil
        }
        for wait in allWaits where wait.operation.file.index == index { remove(wait) }
    }

    // MARK: Waited for

    func waits(of owner: NLMOwner) -> [NLMWait] { waits[owner.id] ?? [] }
    var allWaits: [NLMWait] { waits.values.flatMap { $0 } }

    func wait(for operation: NLMOperation) -> NLMWait? {
        waits[operation.owner.id]?.first { $0.isFor(operation) }
    }

    mutating func add(_ wait: NLMWait) {
        waits[wait.operation.owner.id, default: []].append(wait)
        waitingCount += 1
    }

    mutating func remove(_ wait: NLMWait) {
        let owner = wait.operation.owner.id
        guard let place = waits[owner]?.firstIndex(where: { $0 === wait }) else { return }
        waits[owner]?.remove(at: place)
        if waits[owner]?.isEmpty == true { waits[owner] = nil }
        waitingCount -= 1
    }
}
