import Glibc

/// Words, most significant octet first.
func bigEndian(_ words: [UInt32]) -> [UInt8] {
    words.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> (24 - 8 * $0)) } }
}

/// Fields of iSCSI headers (RFC 7143 section 11) and of XDR (RFC 4506), most significant octet first.
extension UnsafeMutableRawPointer {
    func field8(_ offset: Int) -> UInt8 { load(fromByteOffset: offset, as: UInt8.self) }
    func field16(_ offset: Int) -> UInt16 {
        UInt16(bigEndian: loadUnaligned(fromByteOffset: offset, as: UInt16.self))
    }
    func field32(_ offset: Int) -> UInt32 {
        UInt32(bigEndian: loadUnaligned(fromByteOffset: offset, as: UInt32.self))
    }
    func set8(_ value: UInt8, _ offset: Int) {
        storeBytes(of: value, toByteOffset: offset, as: UInt8.self)
    }
    func set16(_ value: UInt16, _ offset: Int) {
        storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt16.self)
    }
    func set32(_ value: UInt32, _ offset: Int) {
        storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt32.self)
    }
}

/// What both ends agree to; they refuse anything else, so that all runs are alike.
enum ISCSITerms {
    static let target = "iqn.2026-01.lab.dsr:bench"
    static let initiator = "iqn.2026-01.lab.dsr:traffic"
    static let maxReceive = 262_144
    static let maxBurst = 262_144
    static let firstBurst = 65_536
    static let blockSize = 512
    static let blocks: UInt64 = 1 << 31
    /// Commands that the target takes ahead.
    static let window: UInt32 = 64
}

/// PDUs over one connection, without blocking. Data segments are no copies: those sent come from one buffer,
/// those received are thrown away, in the kernel where they are large. Only the text of logins is kept.
final class ISCSIStream {
    let descriptor: Int32
    /// Of the PDU that `receive` is handing out: the text of a login, and the length of any data segment.
    private(set) var text: [UInt8] = []
    private(set) var dataLength = 0

    private let header = UnsafeMutableRawPointer.allocate(byteCount: 48, alignment: 8)
    private let input = UnsafeMutableRawPointer.allocate(
        byteCount: ISCSIStream.inputSize, alignment: 64)
    private var head = 0
    private var tail = 0
    /// Octets of the header, and then of what follows it, that are missing.
    private var missingHeader = 48
    private var missingData = 0
    private var isText = false

    /// Sent by one system call: headers with small data inside their slots, and the length of bulk data.
    private let slots = UnsafeMutableRawPointer.allocate(
        byteCount: ISCSIStream.slotCount * ISCSIStream.slotSize, alignment: 64)
    private var lengths = [(small: Int, bulk: Int)](repeating: (0, 0), count: ISCSIStream.slotCount)
    private var firstSlot = 0
    private var lastSlot = 0
    private var sentOfFirst = 0
    private var vectors = [iovec](repeating: iovec(), count: 64)

    private static let inputSize = 32 << 10
    private static let slotSize = 2_048
    /// A power of two: slots are used in turn.
    private static let slotCount = 256
    /// From here on data is thrown away in the kernel.
    private static let truncateMinimum = 16 << 10
    /// `MSG_TRUNC`, by which the kernel throws away what it would copy (tcp(7)).
    private static let truncate: Int32 = 0x20
    /// What is sent as data: each connection's own, so that what three servers send is as much in the caches, or as
    /// little, as what one server sends on three connections.
    private let bulk: UnsafeMutableRawPointer = {
        let start = UnsafeMutableRawPointer.allocate(
            byteCount: ISCSITerms.maxReceive, alignment: 4_096)
        memset(start, 0x5a, ISCSITerms.maxReceive)
        return start
    }()

    init(_ descriptor: Int32) {
        self.descriptor = descriptor
        setNonBlocking(descriptor)
        setOption(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
    }

    deinit {
        close(descriptor)
        header.deallocate()
        input.deallocate()
        slots.deallocate()
        bulk.deallocate()
    }

    // MARK: Output

    private func slot(_ index: Int) -> UnsafeMutableRawPointer {
        slots + (index & (Self.slotCount - 1)) * Self.slotSize
    }

    var hasOutput: Bool { firstSlot < lastSlot }

    /// Queues a PDU; `fill` writes its header, which is all zeros, but for the lengths.
    func send(
        _ opcode: UInt8, flags: UInt8, small: [UInt8] = [], bulk: Int = 0,
        fill: (UnsafeMutableRawPointer) -> Void
    ) {
        if lastSlot - firstSlot == Self.slotCount { fail("more PDUs queued than fit") }
        let start = slot(lastSlot)
        let padded = (small.count + 3) & ~3
        guard 48 + padded <= Self.slotSize, bulk <= ISCSITerms.maxReceive else {
            fail("data segment too long")
        }
        memset(start, 0, 48 + padded)
        fill(start)
        start.set8(opcode, 0)
        start.set8(flags, 1)
        start.set32(UInt32(small.count + bulk), 4)
        small.withUnsafeBytes {
            if let base = $0.baseAddress {
                (start + 48).copyMemory(from: base, byteCount: $0.count)
            }
        }
        lengths[lastSlot & (Self.slotCount - 1)] = (48 + padded, bulk)
        lastSlot += 1
    }

    /// Sends what is queued as far as it goes; false: the other end is gone.
    func flush() -> Bool {
        while hasOutput {
            let count = gather()
            let sent = writev(descriptor, vectors, count)
            if sent < 0 { return errno == EAGAIN || errno == EINTR }
            sentOfFirst += sent
            while firstSlot < lastSlot {
                let entry = lengths[firstSlot & (Self.slotCount - 1)]
                let length = entry.small + entry.bulk
                guard sentOfFirst >= length else { break }
                sentOfFirst -= length
                firstSlot += 1
            }
        }
        firstSlot = 0
        lastSlot = 0
        return true
    }

    /// Puts what is queued into `vectors`, as far as they go; returns how many are used.
    private func gather() -> Int32 {
        var count = 0
        var skipped = sentOfFirst
        func add(_ start: UnsafeMutableRawPointer, _ length: Int) {
            if skipped < length {
                vectors[count] = iovec(iov_base: start + skipped, iov_len: length - skipped)
                count += 1
            }
            skipped = max(0, skipped - length)
        }
        var index = firstSlot
        while index < lastSlot, count + 2 <= vectors.count {
            let entry = lengths[index & (Self.slotCount - 1)]
            add(slot(index), entry.small)
            add(bulk, entry.bulk)
            index += 1
        }
        return Int32(count)
    }

    // MARK: Input

    /// Hands out the header of each PDU that has come whole; false: the other end is gone.
    func receive(_ take: (UnsafeMutableRawPointer) -> Void) -> Bool {
        // As much as there is, but not for ever: answers must go out.
        for _ in 0..<16 {
            let isTruncated =
                missingHeader == 0 && !isText
                && missingData >= Self.truncateMinimum
            let octets =
                isTruncated
                ? recv(descriptor, input, missingData, Self.truncate)
                : recv(descriptor, input, Self.inputSize, 0)
            if octets < 0 { return errno == EAGAIN || errno == EINTR }
            if octets == 0 { return false }
            if isTruncated {
                missingData -= octets
                if missingData == 0 { finish(take) }
                continue
            }
            head = 0
            tail = octets
            while head < tail { parse(take) }
        }
        return true
    }

    private func parse(_ take: (UnsafeMutableRawPointer) -> Void) {
        if missingHeader > 0 {
            let count = min(missingHeader, tail - head)
            (header + (48 - missingHeader)).copyMemory(from: input + head, byteCount: count)
            missingHeader -= count
            head += count
            guard missingHeader == 0 else { return }
            dataLength = Int(header.field32(4) & 0xff_ffff)
            missingData = Int(header.field8(4)) * 4 + (dataLength + 3) & ~3
            isText = header.field8(0) & 0x1f == 0x03  // login and its response
            text.removeAll(keepingCapacity: true)
        }
        let count = min(missingData, tail - head)
        if isText { text += UnsafeRawBufferPointer(start: input + head, count: count) }
        missingData -= count
        head += count
        if missingData == 0 { finish(take) }
    }

    private func finish(_ take: (UnsafeMutableRawPointer) -> Void) {
        text.removeLast(max(0, text.count - dataLength))
        missingHeader = 48
        take(header)
    }
}

/// Keys and values of a login (RFC 7143 section 6.1).
enum ISCSILoginText {
    static func encode(_ pairs: [(String, String)]) -> [UInt8] {
        pairs.flatMap { Array("\($0.0)=\($0.1)".utf8) + [0] }
    }

    static func decode(_ text: [UInt8]) -> [(String, String)] {
        text.split(separator: 0).compactMap {
            guard let middle = $0.firstIndex(of: UInt8(ascii: "=")) else { return nil }
            return (
                String(decoding: $0[..<middle], as: UTF8.self),
                String(decoding: $0[(middle + 1)...], as: UTF8.self)
            )
        }
    }
}
