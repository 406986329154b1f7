import Glibc

/// File handles that the calls of one spliced NFS connection may begin with, and how many calls there were for each
/// of the resources that they belong to. Built once; open addressing in raw memory, at most half full. Allocates
/// nothing after `init`; takes any input.
public final class RPCHandleSet: @unchecked Sendable, Hashable {
    /// Resources that are told apart in counting.
    public static let resourceMaximum = 16
    /// Handles.
    public static let capacity = 4_096

    private struct Cell {
        var hash: UInt32 = 0
        /// Where the handle's octets lie, from 1; 0: the cell is empty.
        var place: UInt16 = 0
        var length: UInt8 = 0
        var resource: UInt8 = 0
    }

    public let count: Int
    private let hasher: SeededHash
    private let mask: Int
    private let cells: UnsafeMutablePointer<Cell>
    private let octets: UnsafeMutableRawPointer
    private let counters: UnsafeMutablePointer<UInt64>

    /// - Parameter handles: octets of 1 to 64 -> place of the resource, 0 ..< `resourceMaximum`. What does not fit is
    ///   left out, and so are handles beyond `capacity`.
    public init(_ handles: [[UInt8]: Int]) {
        let fitting = handles.filter { handle, resource in
            (1...HandleTable.handleMaximum).contains(handle.count)
                && (0..<Self.resourceMaximum).contains(resource)
        }.prefix(Self.capacity)
        var cellCount = 16
        while cellCount < fitting.count * 2 { cellCount *= 2 }
        count = fitting.count
        mask = cellCount - 1
        hasher = SeededHash(
            seed: (UInt64.random(in: .min ... .max), UInt64.random(in: .min ... .max)))
        cells = .allocate(capacity: cellCount)
        cells.initialize(repeating: Cell(), count: cellCount)
        octets = .allocate(
            byteCount: max(1, fitting.count) * HandleTable.handleMaximum,
            alignment: HandleTable.handleMaximum)
        counters = .allocate(capacity: Self.resourceMaximum)
        counters.initialize(repeating: 0, count: Self.resourceMaximum)
        for (number, (handle, resource)) in fitting.enumerated() {
            handle.withUnsafeBytes { bytes in
                guard let start = bytes.baseAddress else { return }
                address(UInt16(number + 1)).copyMemory(from: start, byteCount: bytes.count)
                let hash = hasher.octets(start, count: bytes.count)
                var index = Int(hash) & mask
                while cells[index].place != 0 { index = (index + 1) & mask }
                cells[index] = Cell(
                    hash: hash, place: UInt16(number + 1), length: UInt8(bytes.count),
                    resource: UInt8(resource))
            }
        }
    }

    deinit {
        cells.deallocate()
        octets.deallocate()
        counters.deallocate()
    }

    public static func == (left: RPCHandleSet, right: RPCHandleSet) -> Bool { left === right }
    public func hash(into hasher: inout Hasher) { hasher.combine(ObjectIdentifier(self)) }

    /// Calls that passed, by the place of their resource. Only the set's present owner may read or write them, as for
    /// `SessionLog`: the dataplane from `install` to `finishToSlow`, `restoreClient` or the end.
    public var calls: [UInt64] {
        Array(UnsafeBufferPointer(start: counters, count: Self.resourceMaximum))
    }

    // MARK: Calls

    package enum Judgement: Equatable {
        /// So many octets of the message, mark included, must be there to say more.
        case needs(Int)
        /// It is for this resource, and may be done twice.
        case passes(resource: Int)
        /// It must not pass.
        case foreign
    }

    /// Procedures whose calls may pass: they may be done twice.
    /// Version 2: GETATTR 1, LOOKUP 4, READLINK 5, READ 6, WRITE 8, STATFS 17 (RFC 1094 section 2.2).
    /// Version 3: GETATTR 1, LOOKUP 3, ACCESS 4, READLINK 5, READ 6, WRITE 7, FSSTAT 18, FSINFO 19, PATHCONF 20,
    /// COMMIT 21 (RFC 1813 section 3.3).
    ///
    /// READDIR and READDIRPLUS may be done twice too, but a listing of which the client has a part when its server
    /// dies could not be finished from another server's answer: that has other entries, or another order. Small
    /// replies are passed only as a whole, and of a READ length and place say which octets are missing.
    @inline(__always)
    private static var procedures: DatagramCall.Procedures {
        DatagramCall.Procedures(version2: 0x0002_0172, version3: 0x003c_00fa)
    }

    /// Whether a call may pass. `message` begins with the record mark (RFC 5531 section 11); `length` octets of it,
    /// at least 24, are there, and nothing behind them is read. Takes any input. A record that ends before its file
    /// handle does is foreign.
    package func judge(_ message: UnsafeRawPointer, length: Int) -> Judgement {
        let mark = message.load32(0)
        // RFC 5531 section 11: "1 implies the fragment is the last fragment".
        guard mark >> 31 != 0 else { return .foreign }
        let record = 4 &+ Int(mark & 0x7fff_ffff)
        let call = message + 4
        let step = DatagramCall.step(
            call, length: min(length, record) &- 4, procedures: Self.procedures)
        switch step {
        case .miss: return .foreign
        case .needs(let wanted):
            return wanted &+ 4 <= record ? .needs(wanted &+ 4) : .foreign
        case .call(let found):
            if found.procedure == Self.lookup(found.version) {
                let name = 4 &+ found.handleOffset &+ (found.handleLength &+ 3) & ~3
                if let other = Self.judgeName(message, at: name, length: length, record: record) {
                    return other
                }
            }
            return resource(of: call + found.handleOffset, length: found.handleLength)
        }
    }

    @inline(__always)
    private static func lookup(_ version: UInt32) -> UInt32 { version == 2 ? 4 : 3 }

    // RFC 1813 section 3.3.3: LOOKUP of ".." finds the parent; what that of an export's root is, the switch says, where
    // exports are in directories of its own.
    /// Nil: the name is there, and is another one.
    private static func judgeName(
        _ message: UnsafeRawPointer, at place: Int, length: Int, record: Int
    ) -> Judgement? {
        let there = min(length, record)
        guard there >= place &+ 4 else {
            return record >= place &+ 4 ? .needs(place &+ 4) : .foreign
        }
        guard message.load32(place) == 2 else { return nil }
        guard there >= place &+ 6 else {
            return record >= place &+ 6 ? .needs(place &+ 6) : .foreign
        }
        return message.load16(place &+ 4) == 0x2e2e ? .foreign : nil
    }

    /// Where the handle is that a call without record mark begins with; nil: it is none that may pass.
    package static func handle(of call: [UInt8]) -> Range<Int>? {
        DatagramCall.handle(of: call, procedures: procedures)
    }

    /// Counts a call that passed.
    package func count(resource: Int) {
        guard resource >= 0, resource < Self.resourceMaximum else { return }
        counters[resource] &+= 1
    }

    private func resource(of handle: UnsafeRawPointer, length: Int) -> Judgement {
        let hash = hasher.octets(handle, count: length)
        var index = Int(hash) & mask
        while true {
            let cell = cells[index]
            if cell.place == 0 { return .foreign }
            if cell.hash == hash, Int(cell.length) == length,
                memcmp(address(cell.place), handle, length) == 0
            {
                return .passes(resource: Int(cell.resource))
            }
            index = (index &+ 1) & mask
        }
    }

    private func address(_ place: UInt16) -> UnsafeMutableRawPointer {
        octets + (Int(place) &- 1) &* HandleTable.handleMaximum
    }
}
