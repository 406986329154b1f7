import DataPlane
import TestSupport

extension NFSMessage {
    /// A message as it goes over TCP (RFC 5531 section 11).
    static func record(_ message: [UInt8], isLast: Bool = true) -> [UInt8] {
        bigEndian32((isLast ? 0x8000_0000 : 0) | UInt32(message.count)) + message
    }

    var record: [UInt8] { Self.record(call) }

    /// Procedures that may pass in the spliced state.
    static func splicedProcedures(version: UInt32) -> Set<UInt32> {
        version == 3 ? [1, 3, 4, 5, 6, 7, 18, 19, 20, 21] : [1, 4, 5, 6, 8, 17]
    }

    /// What makes a call with a known handle of 32 octets one that must not pass.
    struct Refusal: Sendable {
        let name: String
        let change: @Sendable (inout NFSMessage) -> Void

        static let all: [Refusal] = [
            Refusal(name: "another handle") { $0.handle[31] ^= 1 },
            Refusal(name: "a longer handle") { $0.handle.append(0x42) },
            Refusal(name: "a shorter handle") { $0.handle.removeLast() },
            Refusal(name: "no handle") { $0.handle = [] },
            Refusal(name: "a handle of 65 octets") {
                $0.handle = [UInt8](repeating: 0x42, count: 65)
            },
            Refusal(name: "a reply") { $0.messageType = 1 },
            Refusal(name: "another message type") { $0.messageType = 0x100 },
            Refusal(name: "RPC version 3") { $0.rpcVersion = 3 },
            Refusal(name: "MOUNT") { $0.program = 100_005 },
            Refusal(name: "NFS version 4") { $0.version = 4 },
            Refusal(name: "NULL") { $0.procedure = 0 },
            Refusal(name: "SETATTR") { $0.procedure = 2 },
            Refusal(name: "READDIR") { $0.procedure = 16 },
            Refusal(name: "READDIRPLUS") { $0.procedure = 17 },
            Refusal(name: "RPCSEC_GSS") { $0.credentialFlavor = 6 },
            Refusal(name: "a credential of 401 octets") {
                $0.credential = [UInt8](repeating: 1, count: 401)
            },
            Refusal(name: "a verifier of 401 octets") {
                $0.verifier = [UInt8](repeating: 1, count: 401)
            },
        ]
    }
}

/// Calls of NFS one behind the other, and what may pass of them.
struct NFSCallStream {
    /// Handles, whose places in the set are `place`.
    static let handles = [
        [UInt8](repeating: 0x42, count: 32), [UInt8](repeating: 0x43, count: 1),
        [UInt8](repeating: 0x44, count: 64), [UInt8](repeating: 0x45, count: 30),
    ]
    static func place(_ index: Int) -> Int { index * 5 }

    static var handleSet: RPCHandleSet {
        RPCHandleSet(
            Dictionary(
                uniqueKeysWithValues: handles.enumerated().map { ($0.element, place($0.offset)) }))
    }

    private(set) var stream = MessageStream(format: .rpc)
    private(set) var records: [[UInt8]] = []
    /// Where the handle of each call ends.
    private(set) var gates: [Int] = []
    /// Calls by the place of their resource.
    private(set) var counts = [UInt64](repeating: 0, count: RPCHandleSet.resourceMaximum)

    init() {}

    /// Calls with known handles, credentials and verifiers of all lengths, and XIDs from 0.
    init(
        _ count: Int, authenticationMaximum: Int = 400, argumentsMaximum: Int = 9_000,
        _ random: inout SplitMix64
    ) {
        for xid in 0..<count {
            let index = random.below(Self.handles.count)
            var message = NFSMessage(handle: Self.handles[index])
            if index == 0, random.below(2) == 0 { message.version = 2 }
            message.xid = UInt32(xid)
            message.credential = random.bytes(random.below(authenticationMaximum + 1))
            message.verifier = random.bytes(
                random.below(3) == 0 ? random.below(authenticationMaximum + 1) : 0)
            message.arguments = random.bytes(
                random.below(random.below(6) == 0 ? argumentsMaximum : 200))
            append(message)
        }
    }

    mutating func append(_ message: NFSMessage) {
        if let index = Self.handles.firstIndex(of: message.handle) {
            counts[Self.place(index)] += 1
        }
        gates.append(stream.bytes.count + 4 + message.handleEnd)
        records.append(message.record)
        stream.append(message.record, kind: 0)
    }

    var count: Int { stream.bytes.count }

    /// Octets that may have passed when the first `count` have come: a call goes when its handle is there.
    func passable(_ count: Int) -> Int {
        guard let index = stream.boundaries.lastIndex(where: { $0 < count }) else { return 0 }
        return count >= gates[index] ? count : stream.boundaries[index]
    }

    /// What a log has when so many octets have passed: nothing was answered.
    func open(_ passed: Int) -> [[UInt8]] {
        zip(stream.boundaries, records).filter { $0.0 < passed }
            .map { Array($0.1.prefix(passed - $0.0)) }
    }
}
