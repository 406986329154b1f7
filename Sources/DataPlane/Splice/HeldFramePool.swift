import Glibc

/// Memory for frames that must wait: two sizes of block in one mapping that the kernel fills only as it is
/// touched. Taking and giving back are a few instructions; when all blocks are taken the frame is refused.
struct HeldFramePool: ~Copyable {
    /// Octets of a small block's frame: a full Ethernet frame with tags.
    static let smallFrame = 1_600
    private static let nodeSize = 32
    private static let smallBlock = nodeSize + Frame.headroom + smallFrame
    private static let largeBlock = (nodeSize + Frame.bufferSize + 63) & ~63

    private struct Node {
        var next: UInt32
        var length: UInt32
        var ingress: PortNumber
        /// Place in a queue that is kept in order.
        var sequence = SequenceNumber(0)
    }

    private let memory: UnsafeMutableRawPointer
    private let size: Int
    private let smallCount: Int
    private let largeCount: Int
    private var smallUsed = 0
    private var largeUsed = 0
    private var smallFree: UInt32 = 0
    private var largeFree: UInt32 = 0
    /// Octets of blocks that are taken now.
    private(set) var occupied = 0

    /// `maximum` octets in all: a quarter in small blocks, the rest in large ones.
    init(maximum: Int) {
        smallCount = max(16, maximum / 4 / Self.smallBlock)
        largeCount = max(16, maximum * 3 / 4 / Self.largeBlock)
        size = smallCount * Self.smallBlock + largeCount * Self.largeBlock
        let mapping = mmap(
            nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let mapping, mapping != MAP_FAILED else {
            fatalError("cannot map \(size) octets for held frames")
        }
        memory = mapping
    }

    deinit { munmap(memory, size) }

    /// Block numbers start at 1; small blocks first.
    private func address(_ block: UInt32) -> UnsafeMutableRawPointer {
        let index = Int(block) - 1
        return index < smallCount
            ? memory + index * Self.smallBlock
            : memory + smallCount * Self.smallBlock + (index - smallCount) * Self.largeBlock
    }

    private func node(_ block: UInt32) -> UnsafeMutablePointer<Node> {
        address(block).assumingMemoryBound(to: Node.self)
    }

    private mutating func take(length: Int) -> UInt32 {
        if length <= Self.smallFrame {
            if smallFree != 0 {
                let block = smallFree
                smallFree = node(block).pointee.next
                occupied &+= Self.smallBlock
                return block
            }
            if smallUsed < smallCount {
                smallUsed += 1
                occupied &+= Self.smallBlock
                return UInt32(smallUsed)
            }
        }
        if largeFree != 0 {
            let block = largeFree
            largeFree = node(block).pointee.next
            occupied &+= Self.largeBlock
            return block
        }
        guard largeUsed < largeCount else { return 0 }
        largeUsed += 1
        occupied &+= Self.largeBlock
        return UInt32(smallCount + largeUsed)
    }

    private mutating func giveBack(_ block: UInt32) {
        if Int(block) <= smallCount {
            node(block).pointee.next = smallFree
            smallFree = block
            occupied &-= Self.smallBlock
        } else {
            node(block).pointee.next = largeFree
            largeFree = block
            occupied &-= Self.largeBlock
        }
    }

    /// A block with a copy of `frame` and its virtio header; 0 when none is free.
    private mutating func copy(
        _ frame: Frame, ingress: PortNumber, sequence: SequenceNumber
    ) -> UInt32 {
        guard frame.length <= Frame.maximumLength else { return 0 }
        let block = take(length: frame.length)
        guard block != 0 else { return 0 }
        node(block).pointee = Node(
            next: 0, length: UInt32(frame.length), ingress: ingress, sequence: sequence)
        let start = address(block) + Self.nodeSize + Frame.headroom
        (start - VirtioHeader.size).copyMemory(
            from: frame.start - VirtioHeader.size, byteCount: frame.length + VirtioHeader.size)
        return block
    }

    /// Copies `frame` to the end of `queue`; false when no block is free.
    mutating func append(_ frame: Frame, ingress: PortNumber, to queue: inout FrameQueue) -> Bool {
        let block = copy(frame, ingress: ingress, sequence: SequenceNumber(0))
        guard block != 0 else { return false }
        link(block, to: &queue)
        return true
    }

    /// Copies `frame` to its place in a queue in the order of sequence numbers.
    mutating func insert(
        _ frame: Frame, ingress: PortNumber, sequence: SequenceNumber, to queue: inout FrameQueue
    ) -> Bool {
        let block = copy(frame, ingress: ingress, sequence: sequence)
        guard block != 0 else { return false }
        guard queue.tail != 0, sequence.isBefore(node(queue.tail).pointee.sequence) else {
            link(block, to: &queue)
            return true
        }
        var before: UInt32 = 0
        var after = queue.head
        while after != 0, !sequence.isBefore(node(after).pointee.sequence) {
            before = after
            after = node(after).pointee.next
        }
        node(block).pointee.next = after
        if before == 0 { queue.head = block } else { node(before).pointee.next = block }
        queue.count &+= 1
        queue.bytes &+= UInt64(frame.length)
        return true
    }

    /// Moves the first frame of a queue to the end of another, without a copy.
    func moveFirst(of queue: inout FrameQueue, to other: inout FrameQueue) {
        guard queue.head != 0 else { return }
        let block = queue.head
        queue.head = node(block).pointee.next
        if queue.head == 0 { queue.tail = 0 }
        queue.count &-= 1
        queue.bytes &-= UInt64(node(block).pointee.length)
        node(block).pointee.next = 0
        link(block, to: &other)
    }

    private func link(_ block: UInt32, to queue: inout FrameQueue) {
        if queue.tail != 0 { node(queue.tail).pointee.next = block } else { queue.head = block }
        queue.tail = block
        queue.count &+= 1
        queue.bytes &+= UInt64(node(block).pointee.length)
    }

    /// The first block of a queue and where its frame lies; nil when empty.
    func first(of queue: FrameQueue) -> (block: UInt32, frame: Frame, ingress: PortNumber)? {
        queue.head == 0 ? nil : entry(queue.head)
    }

    func next(after block: UInt32) -> (block: UInt32, frame: Frame, ingress: PortNumber)? {
        let following = node(block).pointee.next
        return following == 0 ? nil : entry(following)
    }

    private func entry(_ block: UInt32) -> (block: UInt32, frame: Frame, ingress: PortNumber) {
        let header = node(block).pointee
        let start = address(block) + Self.nodeSize + Frame.headroom
        return (block, Frame(start: start, length: Int(header.length)), header.ingress)
    }

    /// Frees the first frame of the queue. Its memory must not be in a transmit queue any more.
    mutating func removeFirst(of queue: inout FrameQueue) {
        guard queue.head != 0 else { return }
        let block = queue.head
        let header = node(block).pointee
        queue.head = header.next
        if queue.head == 0 { queue.tail = 0 }
        queue.count &-= 1
        queue.bytes &-= UInt64(header.length)
        giveBack(block)
    }

    /// Puts all of a queue behind another, without a copy.
    func join(_ queue: FrameQueue, to other: inout FrameQueue) {
        guard queue.head != 0 else { return }
        if other.tail != 0 {
            node(other.tail).pointee.next = queue.head
        } else {
            other.head = queue.head
        }
        other.tail = queue.tail
        other.count &+= queue.count
        other.bytes &+= queue.bytes
    }

    mutating func removeAll(of queue: inout FrameQueue) {
        while !queue.isEmpty { removeFirst(of: &queue) }
    }
}
