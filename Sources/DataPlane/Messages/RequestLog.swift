import Glibc

/// What is open between a client and its server: the octets of each request from its first on, so that they can
/// be sent again to another server, and what of the replies the client may not have yet.
///
/// Octets of the server's data are not kept: whoever finishes a reply has the request done again. Headers are,
/// and small data segments, until the client has acknowledged the end of their message.
///
/// Raw memory in one mapping, touched as it is needed; bounded by its own limit and by the budget of all logs.
/// When there is no room a request is marked as not protected and the session goes on. Allocates nothing after
/// `init`; takes any input. One owner at a time: the dataplane while spliced, the session else.
package struct RequestLog: ~Copyable {
    package static let buckets = 20
    static let requestMaximum = 1_024
    static let replyMaximum = 4_096
    private static let hashSize = 4_096
    static let blockSize = 16 << 10
    private static let grant = 256 << 10
    /// Octets of a request that are kept beside its record: a command without data needs no block.
    static let inlineSize = 256
    static let none = UInt16.max

    struct Request {
        var id: UInt64 = 0
        var startedAt: UInt64 = 0
        /// Octets kept, and blocks that hold those behind the inline ones.
        var count: UInt32 = 0
        var firstBlock: UInt32 = 0
        var lastBlock: UInt32 = 0
        /// List of open requests in the order in which they came.
        var next = RequestLog.none
        var previous = RequestLog.none
        var kind: UInt8 = 0
        var isOpen = false
        var isWhole = true
        /// Bit n: the header of progress kind n is valid.
        var progress: UInt8 = 0
    }

    struct Reply {
        var position = SequenceNumber(0)
        var length: UInt32 = 0
        /// Small data segment, in a block of its own; 0: not kept.
        var block: UInt32 = 0
        var dataCount: UInt16 = 0
        /// Request that this reply ends.
        var closes = RequestLog.none
    }

    private static let progressOffset = 64
    private static let inlineOffset = progressOffset + 2 * MessageTracker.headerMaximum
    private static let requestStride = inlineOffset + inlineSize
    private static let replyStride = 32 + MessageTracker.headerMaximum

    let memory: UnsafeMutableRawPointer
    private let memorySize: Int
    private let hash: UnsafeMutablePointer<UInt16>
    let replies: UnsafeMutableRawPointer
    private let blocks: UnsafeMutableRawPointer
    private let blockMaximum: UInt32
    let budget: RequestLogBudget
    let rules: RequestRules
    let headerLength: Int
    let idField: MessageFormat.Field
    let progressKinds: (UInt8, UInt8)
    let closing: UnsafeMutableBufferPointer<RequestRules.Closing>

    private var freeRequest = RequestLog.none
    private var requestsUsed = 0
    var oldest = RequestLog.none
    var newest = RequestLog.none
    private var freeBlock: UInt32 = 0
    private var blocksUsed: UInt32 = 0
    private var granted = 0
    var replyHead = 0
    var replyTail = 0
    /// Request that the octets of the present client message go to, and where in it the message begins.
    var current = RequestLog.none
    var currentStart = 0
    /// Number of the newest request that was counted.
    var newestSequence: UInt32?
    var statistics = RequestStatistics()
    let histogram: UnsafeMutablePointer<UInt64>
    /// Newest header from the client that opened a request, and from the server that carries counters.
    let newestHeaders: UnsafeMutableRawPointer
    package internal(set) var hasOpening = false
    package internal(set) var hasCounted = false

    package init(
        format: MessageFormat, rules: RequestRules, maximum: Int, budget: RequestLogBudget
    ) {
        self.rules = rules
        self.budget = budget
        headerLength = Int(format.headerLength)
        idField = format.id ?? MessageFormat.Field(offset: 0, width: 1)
        progressKinds = (rules.progress.first ?? .max, rules.progress.dropFirst().first ?? .max)
        closing = .allocate(capacity: rules.closing.count)
        _ = closing.initialize(from: rules.closing)
        let requestSize = Self.requestMaximum * Self.requestStride
        let hashBytes = Self.hashSize * 2
        let replySize = Self.replyMaximum * Self.replyStride
        blockMaximum = UInt32(max(1, maximum / Self.blockSize))
        memorySize = requestSize + hashBytes + replySize + Int(blockMaximum) * Self.blockSize
        let mapping = mmap(
            nil, memorySize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
            -1, 0)
        guard let mapping, mapping != MAP_FAILED else {
            fatalError("cannot map \(memorySize) octets for a request log")
        }
        memory = mapping
        hash = (mapping + requestSize).assumingMemoryBound(to: UInt16.self)
        replies = mapping + requestSize + hashBytes
        blocks = replies + replySize
        histogram = .allocate(capacity: Self.buckets)
        histogram.initialize(repeating: 0, count: Self.buckets)
        newestHeaders = .allocate(byteCount: 2 * MessageTracker.headerMaximum, alignment: 8)
        newestHeaders.initializeMemory(
            as: UInt8.self, repeating: 0, count: 2 * MessageTracker.headerMaximum)
    }

    deinit {
        munmap(memory, memorySize)
        closing.deallocate()
        histogram.deallocate()
        newestHeaders.deallocate()
        budget.giveBack(granted)
    }

    // MARK: Memory

    func request(_ slot: UInt16) -> UnsafeMutablePointer<Request> {
        (memory + Int(slot) * Self.requestStride).assumingMemoryBound(to: Request.self)
    }
    func progress(_ slot: UInt16, _ index: Int) -> UnsafeMutableRawPointer {
        memory + Int(slot) * Self.requestStride + Self.progressOffset
            + index * MessageTracker.headerMaximum
    }
    func inline(_ slot: UInt16) -> UnsafeMutableRawPointer {
        memory + Int(slot) * Self.requestStride + Self.inlineOffset
    }
    func reply(_ index: Int) -> UnsafeMutablePointer<Reply> {
        (replies + (index & (Self.replyMaximum - 1)) * Self.replyStride)
            .assumingMemoryBound(to: Reply.self)
    }
    func replyHeader(_ index: Int) -> UnsafeMutableRawPointer {
        replies + (index & (Self.replyMaximum - 1)) * Self.replyStride + 32
    }
    /// Block numbers start at 1. The first four octets of a free or chained block name the next one.
    func block(_ number: UInt32) -> UnsafeMutableRawPointer {
        blocks + Int(number - 1) * Self.blockSize
    }
    static let blockHeader = 16
    static let blockRoom = blockSize - blockHeader

    mutating func takeBlock() -> UInt32 {
        if freeBlock != 0 {
            let number = freeBlock
            freeBlock = block(number).load(as: UInt32.self)
            block(number).storeBytes(of: 0, as: UInt32.self)
            return number
        }
        guard blocksUsed < blockMaximum else { return 0 }
        if Int(blocksUsed + 1) * Self.blockSize > granted {
            guard budget.take(Self.grant) else { return 0 }
            granted += Self.grant
        }
        blocksUsed += 1
        block(blocksUsed).storeBytes(of: 0, as: UInt32.self)
        return blocksUsed
    }

    mutating func giveBack(_ number: UInt32) {
        block(number).storeBytes(of: freeBlock, as: UInt32.self)
        freeBlock = number
    }

    /// Gives memory back that is not needed now; for a log in which nothing is open.
    package mutating func trim() {
        guard oldest == Self.none, replyHead == replyTail, blocksUsed > 0 else { return }
        madvise(blocks, Int(blocksUsed) * Self.blockSize, MADV_DONTNEED)
        budget.giveBack(granted)
        granted = 0
        blocksUsed = 0
        freeBlock = 0
    }

    // MARK: Requests

    static func bucket(_ id: UInt64) -> Int {
        Int(truncatingIfNeeded: (id &* 0x9e37_79b9_7f4a_7c15) >> 52)
    }

    func find(_ id: UInt64) -> UInt16 {
        var index = Self.bucket(id)
        while hash[index] != 0 {
            let slot = hash[index] - 1
            if request(slot).pointee.id == id { return slot }
            index = (index + 1) & (Self.hashSize - 1)
        }
        return Self.none
    }

    func enter(_ id: UInt64, _ slot: UInt16) {
        var index = Self.bucket(id)
        while hash[index] != 0 { index = (index + 1) & (Self.hashSize - 1) }
        hash[index] = slot + 1
    }

    private func leave(_ slot: UInt16) {
        var hole = Self.bucket(request(slot).pointee.id)
        while hash[hole] != slot + 1 {
            if hash[hole] == 0 { return }
            hole = (hole + 1) & (Self.hashSize - 1)
        }
        hash[hole] = 0
        // Backward shift: entries behind the hole that may move into it.
        var index = (hole + 1) & (Self.hashSize - 1)
        while hash[index] != 0 {
            let home = Self.bucket(request(hash[index] - 1).pointee.id)
            let distance = (index - home) & (Self.hashSize - 1)
            if distance >= (index - hole) & (Self.hashSize - 1) {
                hash[hole] = hash[index]
                hash[index] = 0
                hole = index
            }
            index = (index + 1) & (Self.hashSize - 1)
        }
    }

    mutating func takeRequest() -> UInt16 {
        if freeRequest != Self.none {
            let slot = freeRequest
            freeRequest = request(slot).pointee.next
            return slot
        }
        guard requestsUsed < Self.requestMaximum else { return Self.none }
        requestsUsed += 1
        return UInt16(requestsUsed - 1)
    }

    /// Takes it out of the table and the list: it is answered.
    mutating func unlink(_ slot: UInt16) {
        let entry = request(slot)
        guard entry.pointee.isOpen else { return }
        leave(slot)
        entry.pointee.isOpen = false
        let next = entry.pointee.next
        let previous = entry.pointee.previous
        if previous == Self.none { oldest = next } else { request(previous).pointee.next = next }
        if next == Self.none {
            newest = previous
        } else {
            request(next).pointee.previous = previous
        }
        statistics.open &-= 1
        if !entry.pointee.isWhole { statistics.unprotected &-= 1 }
        if current == slot { current = Self.none }
    }

    mutating func freeBlocks(_ slot: UInt16) {
        let entry = request(slot)
        var number = entry.pointee.firstBlock
        while number != 0 {
            let following = block(number).load(as: UInt32.self)
            giveBack(number)
            number = following
        }
        statistics.bytes &-= UInt64(entry.pointee.count)
        entry.pointee.count = min(entry.pointee.count, UInt32(Self.inlineSize))
        statistics.bytes &+= UInt64(entry.pointee.count)
        entry.pointee.firstBlock = 0
        entry.pointee.lastBlock = 0
    }

    mutating func free(_ slot: UInt16) {
        unlink(slot)
        freeBlocks(slot)
        statistics.bytes &-= UInt64(request(slot).pointee.count)
        request(slot).pointee.next = freeRequest
        freeRequest = slot
    }

    mutating func lose(_ slot: UInt16) {
        let entry = request(slot)
        guard entry.pointee.isWhole else { return }
        entry.pointee.isWhole = false
        statistics.unprotected &+= 1
        statistics.unprotectedTotal &+= 1
        freeBlocks(slot)
    }

    // MARK: Reading

    /// ns, when the oldest open request came; 0: none.
    @inline(__always)
    package var oldestStart: UInt64 {
        oldest == Self.none ? 0 : max(1, request(oldest).pointee.startedAt)
    }
    @inline(__always)
    package var oldestID: UInt64 { oldest == Self.none ? 0 : request(oldest).pointee.id }
    package var openCount: Int { Int(statistics.open) }

    package var summary: RequestStatistics {
        var result = statistics
        result.histogram = Array(UnsafeBufferPointer(start: histogram, count: Self.buckets))
        result.oldest = oldestStart
        return result
    }

    /// Nothing is open or kept any more: what follows is another connection's.
    package mutating func removeAll() {
        while oldest != Self.none { free(oldest) }
        while replyHead != replyTail {
            let entry = reply(replyHead).pointee
            if entry.block != 0 { giveBack(entry.block) }
            if entry.closes != Self.none { free(entry.closes) }
            replyHead &+= 1
        }
        current = Self.none
        newestSequence = nil
    }
}
