import Glibc
import Synchronization

/// Octets that all request logs together may take.
public final class RequestLogBudget: Sendable {
    public let maximum: Int
    private let used = Atomic<Int>(0)

    public init(maximum: Int) { self.maximum = maximum }

    public var inUse: Int { used.load(ordering: .relaxed) }

    func take(_ count: Int) -> Bool {
        let (before, _) = used.add(count, ordering: .relaxed)
        if before + count <= maximum { return true }
        used.subtract(count, ordering: .relaxed)
        return false
    }

    func giveBack(_ count: Int) { used.subtract(count, ordering: .relaxed) }
}

/// Sums and sizes of one request log.
public struct RequestStatistics: Hashable, Sendable {
    public var opened: UInt64 = 0
    public var answered: UInt64 = 0
    /// Open now; of them those whose octets found no room: they could not be sent again.
    public var open: UInt32 = 0
    public var unprotected: UInt32 = 0
    /// Requests that found no room since the start.
    public var unprotectedTotal: UInt64 = 0
    /// Octets of open requests that are kept now.
    public var bytes: UInt64 = 0
    /// ns from the request to its answer, summed; the newest answers weigh more in `smoothedLatency`
    /// and `latencyDeviation` (RFC 6298 section 2).
    public var latencySum: UInt64 = 0
    public var smoothedLatency: UInt64 = 0
    public var latencyDeviation: UInt64 = 0
    /// Answers by latency: bucket n counts those below 2^n * 16 µs.
    public var histogram = [UInt64](repeating: 0, count: RequestLog.buckets)
    /// ns, when the oldest open request came; 0: none is open.
    public var oldest: UInt64 = 0
    public init() {}
}

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

    private let memory: UnsafeMutableRawPointer
    private let memorySize: Int
    private let hash: UnsafeMutablePointer<UInt16>
    private let replies: UnsafeMutableRawPointer
    private let blocks: UnsafeMutableRawPointer
    private let blockMaximum: UInt32
    private let budget: RequestLogBudget
    private let rules: RequestRules
    private let headerLength: Int
    private let idField: MessageFormat.Field
    private let progressKinds: (UInt8, UInt8)
    private let closing: UnsafeMutableBufferPointer<RequestRules.Closing>

    private var freeRequest = RequestLog.none
    private var requestsUsed = 0
    private var oldest = RequestLog.none
    private var newest = RequestLog.none
    private var freeBlock: UInt32 = 0
    private var blocksUsed: UInt32 = 0
    private var granted = 0
    private var replyHead = 0
    private var replyTail = 0
    /// Request that the octets of the present client message go to, and where in it the message begins.
    private var current = RequestLog.none
    private var currentStart = 0
    private var statistics = RequestStatistics()
    private let histogram: UnsafeMutablePointer<UInt64>
    /// Newest header from the client that opened a request, and from the server that carries counters.
    private let newestHeaders: UnsafeMutableRawPointer
    package private(set) var hasOpening = false
    package private(set) var hasCounted = false

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

    private func request(_ slot: UInt16) -> UnsafeMutablePointer<Request> {
        (memory + Int(slot) * Self.requestStride).assumingMemoryBound(to: Request.self)
    }
    private func progress(_ slot: UInt16, _ index: Int) -> UnsafeMutableRawPointer {
        memory + Int(slot) * Self.requestStride + Self.progressOffset
            + index * MessageTracker.headerMaximum
    }
    private func inline(_ slot: UInt16) -> UnsafeMutableRawPointer {
        memory + Int(slot) * Self.requestStride + Self.inlineOffset
    }
    private func reply(_ index: Int) -> UnsafeMutablePointer<Reply> {
        (replies + (index & (Self.replyMaximum - 1)) * Self.replyStride)
            .assumingMemoryBound(to: Reply.self)
    }
    private func replyHeader(_ index: Int) -> UnsafeMutableRawPointer {
        replies + (index & (Self.replyMaximum - 1)) * Self.replyStride + 32
    }
    /// Block numbers start at 1. The first four octets of a free or chained block name the next one.
    private func block(_ number: UInt32) -> UnsafeMutableRawPointer {
        blocks + Int(number - 1) * Self.blockSize
    }
    private static let blockHeader = 16
    private static let blockRoom = blockSize - blockHeader

    private mutating func takeBlock() -> UInt32 {
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

    private mutating func giveBack(_ number: UInt32) {
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

    private static func bucket(_ id: UInt64) -> Int {
        Int(truncatingIfNeeded: (id &* 0x9e37_79b9_7f4a_7c15) >> 52)
    }

    private func find(_ id: UInt64) -> UInt16 {
        var index = Self.bucket(id)
        while hash[index] != 0 {
            let slot = hash[index] - 1
            if request(slot).pointee.id == id { return slot }
            index = (index + 1) & (Self.hashSize - 1)
        }
        return Self.none
    }

    private func enter(_ id: UInt64, _ slot: UInt16) {
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

    private mutating func takeRequest() -> UInt16 {
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
    private mutating func unlink(_ slot: UInt16) {
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

    private mutating func freeBlocks(_ slot: UInt16) {
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

    private mutating func free(_ slot: UInt16) {
        unlink(slot)
        freeBlocks(slot)
        statistics.bytes &-= UInt64(request(slot).pointee.count)
        request(slot).pointee.next = freeRequest
        freeRequest = slot
    }

    private mutating func lose(_ slot: UInt16) {
        let entry = request(slot)
        guard entry.pointee.isWhole else { return }
        entry.pointee.isWhole = false
        statistics.unprotected &+= 1
        statistics.unprotectedTotal &+= 1
        freeBlocks(slot)
    }

    // MARK: From the client

    /// The header of a client's message; its data follows by `data`.
    package mutating func clientHeader(
        _ header: UnsafeMutableRawPointer, kind: UInt64, now: UInt64
    ) {
        current = Self.none
        guard kind < 64 else { return }
        let isOpening = rules.opening >> kind & 1 != 0
        guard isOpening || rules.continuing >> kind & 1 != 0 else { return }
        let id = MessageTracker.load(header, idField)
        if isOpening {
            (newestHeaders).copyMemory(from: header, byteCount: headerLength)
            hasOpening = true
        }
        guard id != rules.noID else { return }
        var slot = find(id)
        if isOpening {
            // An id that is used anew: whatever it named is over.
            if slot != Self.none { free(slot) }
            slot = takeRequest()
            guard slot != Self.none else {
                statistics.unprotectedTotal &+= 1
                return
            }
            request(slot).pointee = Request(
                id: id, startedAt: now, previous: newest, kind: UInt8(kind), isOpen: true)
            if newest == Self.none { oldest = slot } else { request(newest).pointee.next = slot }
            newest = slot
            enter(id, slot)
            statistics.open &+= 1
            statistics.opened &+= 1
        }
        guard slot != Self.none else { return }
        current = slot
        currentStart = Int(request(slot).pointee.count)
        append(header, headerLength)
    }

    /// Takes the message that is on its way out again: it will be told anew. Nil: nothing of it is kept.
    package mutating func takeCurrent() -> [UInt8]? {
        guard current != Self.none, request(current).pointee.isWhole else {
            current = Self.none
            return nil
        }
        let slot = current
        current = Self.none
        let part = Array(octets(slot)[currentStart...])
        guard currentStart > 0 else {
            free(slot)
            return part
        }
        let kept = Array(octets(slot)[..<currentStart])
        freeBlocks(slot)
        statistics.bytes &-= UInt64(request(slot).pointee.count)
        request(slot).pointee.count = 0
        current = slot
        kept.withUnsafeBytes { if let start = $0.baseAddress { append(start, $0.count) } }
        current = Self.none
        return part
    }

    /// A request that will get no answer: it was aborted.
    package mutating func remove(_ id: UInt64) {
        let slot = find(id)
        if slot != Self.none { free(slot) }
    }

    package func openRequest(_ id: UInt64) -> LoggedRequest? {
        let slot = find(id)
        return slot == Self.none ? nil : logged(slot)
    }

    /// Octets of the present client message, in order, each once.
    package mutating func data(_ bytes: UnsafeRawPointer, _ count: Int) {
        guard current != Self.none else { return }
        append(bytes, count)
    }

    private mutating func append(_ bytes: UnsafeRawPointer, _ count: Int) {
        let entry = request(current)
        guard entry.pointee.isWhole else { return }
        var source = bytes
        var remaining = count
        while remaining > 0 {
            let position = Int(entry.pointee.count)
            var room: Int
            var target: UnsafeMutableRawPointer
            if position < Self.inlineSize {
                room = Self.inlineSize - position
                target = inline(current) + position
            } else {
                let offset = (position - Self.inlineSize) % Self.blockRoom
                if offset == 0 {
                    let number = takeBlock()
                    guard number != 0 else { return lose(current) }
                    if entry.pointee.lastBlock == 0 {
                        entry.pointee.firstBlock = number
                    } else {
                        block(entry.pointee.lastBlock).storeBytes(of: number, as: UInt32.self)
                    }
                    entry.pointee.lastBlock = number
                }
                room = Self.blockRoom - offset
                target = block(entry.pointee.lastBlock) + Self.blockHeader + offset
            }
            room = min(room, remaining)
            target.copyMemory(from: source, byteCount: room)
            source += room
            remaining -= room
            entry.pointee.count &+= UInt32(room)
            statistics.bytes &+= UInt64(room)
        }
    }

    // MARK: From the server

    /// Room for one more reply? Without, the server's stream must wait for the client's acknowledgements.
    package var hasReplyRoom: Bool { replyTail &- replyHead < Self.replyMaximum }

    func isWhole(kind: UInt64) -> Bool { kind < 64 && rules.whole >> kind & 1 != 0 }

    /// A message of the server is about to be passed on. `header` as the client gets it; `data`: its whole
    /// data segment, when it was gathered.
    package mutating func serverMessage(
        _ header: UnsafeMutableRawPointer, kind: UInt64, position: SequenceNumber, length: UInt32,
        data: (UnsafeRawPointer, Int)?, now: UInt64
    ) {
        let index = replyTail
        replyTail &+= 1
        var entry = Reply(position: position, length: length)
        replyHeader(index).copyMemory(from: header, byteCount: headerLength)
        if let (bytes, count) = data, count > 0, count <= Self.blockRoom {
            entry.block = takeBlock()
            if entry.block != 0 {
                (block(entry.block) + Self.blockHeader).copyMemory(from: bytes, byteCount: count)
                entry.dataCount = UInt16(count)
            }
        }
        let (slot, closes) = take(header, kind: kind, data: data)
        if closes, slot != Self.none {
            answer(slot, now: now)
            entry.closes = slot
        }
        // The counters of an answer hold whether or not its request is known.
        if closes || kind < 64 && rules.counted >> kind & 1 != 0 {
            (newestHeaders + MessageTracker.headerMaximum).copyMemory(
                from: header, byteCount: headerLength)
            hasCounted = true
        }
        reply(index).pointee = entry
    }

    /// Which request a message belongs to, if it is known, and whether it ends one.
    private func take(
        _ header: UnsafeMutableRawPointer, kind: UInt64, data: (UnsafeRawPointer, Int)?
    ) -> (slot: UInt16, closes: Bool) {
        guard kind < 64 else { return (Self.none, false) }
        var closes = false
        var id = MessageTracker.load(header, idField)
        for rule in closing where rule.kinds >> kind & 1 != 0 {
            guard rule.flagMask == 0 || header.load8(Int(rule.flagOffset)) & rule.flagMask != 0
            else { continue }
            closes = true
            guard let field = rule.id else { break }
            var behind = field
            behind.offset -= UInt16(min(Int(field.offset), headerLength))
            guard Int(field.offset) >= headerLength, let (bytes, count) = data,
                Int(behind.offset) + Int(behind.width) <= count
            else { return (Self.none, closes) }
            id = MessageTracker.load(UnsafeMutableRawPointer(mutating: bytes), behind)
            break
        }
        guard id != rules.noID else { return (Self.none, closes) }
        let slot = find(id)
        guard slot != Self.none else { return (Self.none, closes) }
        let index = kind == UInt64(progressKinds.0) ? 0 : kind == UInt64(progressKinds.1) ? 1 : -1
        if index >= 0 {
            progress(slot, index).copyMemory(from: header, byteCount: headerLength)
            request(slot).pointee.progress |= 1 << UInt8(index)
        }
        return (slot, closes)
    }

    private mutating func answer(_ slot: UInt16, now: UInt64) {
        let entry = request(slot)
        let latency = now > entry.pointee.startedAt ? now - entry.pointee.startedAt : 0
        statistics.answered &+= 1
        statistics.latencySum &+= latency
        // RFC 6298 section 2.3: RTTVAR <- 3/4 RTTVAR + 1/4 |SRTT - R'|, SRTT <- 7/8 SRTT + 1/8 R'.
        if statistics.answered == 1 {
            statistics.smoothedLatency = latency
            statistics.latencyDeviation = latency / 2
        } else {
            let smoothed = statistics.smoothedLatency
            let distance = smoothed > latency ? smoothed - latency : latency - smoothed
            statistics.latencyDeviation = (3 &* statistics.latencyDeviation &+ distance) / 4
            statistics.smoothedLatency = (7 &* smoothed &+ latency) / 8
        }
        let scaled = latency >> 14
        let index = scaled == 0 ? 0 : min(Self.buckets - 1, 64 - scaled.leadingZeroBitCount)
        histogram[index] &+= 1
        unlink(slot)
        // The header stays: what of its reply is lost on the way to the client may have to be had again.
        freeBlocks(slot)
    }

    /// The client has everything below `position`.
    package mutating func acknowledged(_ position: SequenceNumber) {
        while replyHead != replyTail {
            let entry = reply(replyHead).pointee
            if (entry.position + entry.length).isAfter(position) { return }
            if entry.block != 0 { giveBack(entry.block) }
            if entry.closes != Self.none { free(entry.closes) }
            replyHead &+= 1
        }
    }

    /// Positions of kept replies count from elsewhere now.
    package mutating func shiftReplies(by distance: UInt32) {
        var index = replyHead
        while index != replyTail {
            reply(index).pointee.position += distance
            index &+= 1
        }
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

    package var newestOpening: [UInt8]? {
        hasOpening ? Self.copy(newestHeaders, headerLength) : nil
    }
    package var newestCounted: [UInt8]? {
        hasCounted ? Self.copy(newestHeaders + MessageTracker.headerMaximum, headerLength) : nil
    }

    private static func copy(_ start: UnsafeRawPointer, _ count: Int) -> [UInt8] {
        Array(UnsafeRawBufferPointer(start: start, count: count))
    }

    private func octets(_ slot: UInt16) -> [UInt8] {
        let entry = request(slot).pointee
        let count = Int(entry.count)
        var result: [UInt8] = []
        result.reserveCapacity(count)
        result += UnsafeRawBufferPointer(start: inline(slot), count: min(count, Self.inlineSize))
        var number = entry.firstBlock
        while number != 0, result.count < count {
            result += UnsafeRawBufferPointer(
                start: block(number) + Self.blockHeader,
                count: min(Self.blockRoom, count - result.count))
            number = block(number).load(as: UInt32.self)
        }
        return result
    }

    private func logged(_ slot: UInt16) -> LoggedRequest {
        let entry = request(slot).pointee
        return LoggedRequest(
            id: entry.id, kind: entry.kind, startedAt: entry.startedAt, isOpen: entry.isOpen,
            isWhole: entry.isWhole, octets: octets(slot),
            progress: (0..<RequestRules.progressMaximum).map {
                entry.progress >> UInt8($0) & 1 != 0
                    ? Self.copy(progress(slot, $0), headerLength) : nil
            })
    }

    /// Open requests in the order in which they came.
    package func openRequests() -> [LoggedRequest] {
        var result: [LoggedRequest] = []
        var slot = oldest
        while slot != Self.none {
            result.append(logged(slot))
            slot = request(slot).pointee.next
        }
        return result
    }

    /// Replies that the client may not have whole, in the order of the stream.
    package func keptReplies() -> [LoggedReply] {
        var result: [LoggedReply] = []
        var index = replyHead
        while index != replyTail {
            let entry = reply(index).pointee
            result.append(
                LoggedReply(
                    position: entry.position, length: entry.length,
                    header: Self.copy(replyHeader(index), headerLength),
                    data: entry.block == 0
                        ? nil
                        : Self.copy(block(entry.block) + Self.blockHeader, Int(entry.dataCount)),
                    closed: entry.closes == Self.none ? nil : logged(entry.closes)))
            index &+= 1
        }
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
    }
}

/// A request as it was sent, and how far its reply got.
public struct LoggedRequest: Hashable, Sendable {
    public var id: UInt64
    public var kind: UInt8
    /// ns of the monotonic clock.
    public var startedAt: UInt64
    /// No reply that ends it was passed on.
    public var isOpen: Bool
    /// False: some of its octets found no room.
    public var isWhole: Bool
    /// Its messages, as the client sent them, one behind the other.
    public var octets: [UInt8]
    /// The newest header of each progress kind.
    public var progress: [[UInt8]?]
}

/// A message of the server that the client may not have whole.
public struct LoggedReply: Hashable, Sendable {
    /// In the server's sequence space.
    public var position: SequenceNumber
    public var length: UInt32
    /// As the client gets it.
    public var header: [UInt8]
    /// Nil when data was not kept.
    public var data: [UInt8]?
    /// The request that it ends.
    public var closed: LoggedRequest?
}

/// A request log that changes hands between the session thread and the dataplane. Only its present owner may
/// touch it: the dataplane from `SpliceCommand.install` to `finishToSlow` or `restoreClient`.
public final class SessionLog: @unchecked Sendable {
    package let log: UnsafeMutablePointer<RequestLog>

    public init(
        format: MessageFormat, rules: RequestRules, maximum: Int, budget: RequestLogBudget
    ) {
        log = .allocate(capacity: 1)
        log.initialize(
            to: RequestLog(format: format, rules: rules, maximum: maximum, budget: budget))
    }

    deinit {
        log.deinitialize(count: 1)
        log.deallocate()
    }

    public var statistics: RequestStatistics { log.pointee.summary }
    public var openCount: Int { log.pointee.openCount }
    public var openRequests: [LoggedRequest] { log.pointee.openRequests() }
    public var keptReplies: [LoggedReply] { log.pointee.keptReplies() }
    /// Headers, or nil when none was seen.
    public var newestOpening: [UInt8]? { log.pointee.newestOpening }
    public var newestCounted: [UInt8]? { log.pointee.newestCounted }

    /// For a session that passes messages by itself: a client's header, then its data, in order.
    public func clientHeader(_ header: [UInt8], kind: UInt8, now: UInt64) {
        var header = header
        header.withUnsafeMutableBytes { bytes in
            guard let start = bytes.baseAddress else { return }
            log.pointee.clientHeader(start, kind: UInt64(kind), now: now)
        }
    }
    public func clientData(_ bytes: UnsafeRawBufferPointer) {
        guard let start = bytes.baseAddress, bytes.count > 0 else { return }
        log.pointee.data(start, bytes.count)
    }
    /// A message of the server, with its header as the client gets it; `data` when it is gathered whole.
    /// Everything passed before counts as delivered.
    public func serverMessage(
        _ header: [UInt8], kind: UInt8, position: SequenceNumber, length: UInt32, data: [UInt8]?,
        now: UInt64
    ) {
        log.pointee.acknowledged(position)
        guard log.pointee.hasReplyRoom else { return }
        var header = header
        header.withUnsafeMutableBytes { bytes in
            guard let start = bytes.baseAddress else { return }
            guard let data else {
                return log.pointee.serverMessage(
                    start, kind: UInt64(kind), position: position, length: length, data: nil,
                    now: now)
            }
            data.withUnsafeBytes { part in
                log.pointee.serverMessage(
                    start, kind: UInt64(kind), position: position, length: length,
                    data: part.baseAddress.map { ($0, part.count) }, now: now)
            }
        }
    }
    /// The octets of the message that is on its way, which will be told anew.
    public func takeCurrent() -> [UInt8]? { log.pointee.takeCurrent() }
    public func remove(_ id: UInt64) { log.pointee.remove(id) }
    public func openRequest(_ id: UInt64) -> LoggedRequest? { log.pointee.openRequest(id) }
    /// The client has, or will get by itself, everything below `position`.
    public func delivered(_ position: SequenceNumber) { log.pointee.acknowledged(position) }
    public func shiftReplies(by distance: UInt32) { log.pointee.shiftReplies(by: distance) }
    public func removeAll() { log.pointee.removeAll() }
    /// Gives its memory back when it keeps nothing.
    public func trim() { log.pointee.trim() }
}
