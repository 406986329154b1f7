import DataPlane
package import StorageProtocols

/// Calls that must not be done twice: those that are under way, and the replies of those that were done. A client that
/// has not heard of its call says it again, with the same XID, and gets the same reply (RFC 1813 section 4.5).
///
/// Bounded by octets and by age. What does not fit any more, or is too old, is forgotten, the oldest first: the call is
/// done again when it comes again.
package struct NFSDuplicateMemory: Sendable {
    /// A call of a client, and what it says.
    package struct Call: Hashable, Sendable {
        let client: NFSClient
        let xid: UInt32
        let octets: SipHash.Value
        /// Of what it says, whatever its XID and its caller are.
        let content: SipHash.Value

        /// - Parameter header: of the call whose octets these are.
        package init(_ octets: [UInt8], _ header: RPCCallHeader, from client: NFSClient) {
            self.client = client
            xid = header.xid
            self.octets = SipHash.hash(octets, key: (0, 0))
            // Program, version and procedure; the arguments. What is between says who calls, with a stamp that some
            // clients change from call to call.
            let said = Array(octets[12..<24]) + Array(octets[header.arguments...])
            content = SipHash.hash(said, key: (0, 0))
        }
    }

    package enum Finding: Equatable, Sendable {
        case new
        /// The same was given up, and may have been done. How things stood then.
        case resumed(NFSFirstSend)
        case underWay
        case done([UInt8])
    }

    private enum State {
        case underWay(NFSFirstSend)
        case done([UInt8])
    }

    private struct Entry {
        var state: State
        /// Which of the queue's elements is about it.
        var serial: UInt64
        var octets: Int
    }

    /// A client may say it with another XID, as after NFS3ERR_JUKEBOX, or over another connection.
    private struct Content: Hashable, Sendable {
        let address: IPAddress
        let hash: SipHash.Value

        init(_ call: Call) {
            address = call.client.address
            hash = call.content
        }
    }

    private struct Lost: Sendable {
        let first: NFSFirstSend
        let time: UInt64
    }

    private var entries: [Call: Entry] = [:]
    /// Oldest first; elements whose serial number is not the entry's mean nothing.
    private var queue: [(call: Call, serial: UInt64, time: UInt64)] = []
    private var head = 0
    private var lost: NFSRecentTable<Content, Lost>
    private var lastSerial: UInt64 = 0
    private var octets = 0
    private let maximum: Int
    private let age: UInt64
    /// Octets of an entry without its reply, about.
    private static let overhead = 400

    /// - Parameters:
    ///   - octets: of all that is kept.
    ///   - age: ns from a call, or its reply, until it is forgotten.
    package init(octets: Int, age: UInt64) {
        maximum = octets
        self.age = age
        lost = NFSRecentTable(maximum: max(2, octets / Self.overhead / 4))
    }

    package var count: Int { entries.count }

    /// It is under way, was done, or was given up and may have been done.
    package func isKnown(_ call: Call) -> Bool {
        entries[call] != nil || lost.peek(Content(call)) != nil
    }

    /// A call has come. When it is not known it is under way from now on.
    /// - Parameter first: how things stand now.
    package mutating func begin(_ call: Call, _ first: NFSFirstSend, now: UInt64) -> Finding {
        forgetOld(now)
        switch entries[call]?.state {
        case .underWay: return .underWay
        case .done(let reply): return .done(reply)
        case nil: break
        }
        let key = Content(call)
        if let known = lost.value(key), now &- known.time < age {
            lost.remove(key)
            put(.underWay(known.first), call, now)
            return .resumed(known.first)
        }
        put(.underWay(first), call, now)
        return .new
    }

    /// It has ended.
    package mutating func finish(_ call: Call, reply: [UInt8], now: UInt64) {
        put(.done(reply), call, now)
        forgetOld(now)
    }

    /// It was given up.
    /// - Parameter wasSent: nobody knows whether it was done.
    package mutating func giveUp(_ call: Call, wasSent: Bool, now: UInt64) {
        guard case .underWay(let first) = entries[call]?.state else { return }
        remove(call)
        if wasSent { lost.set(Lost(first: first, time: now), for: Content(call)) }
    }

    private mutating func put(_ state: State, _ call: Call, _ now: UInt64) {
        remove(call)
        var size = Self.overhead
        if case .done(let reply) = state { size += reply.count }
        lastSerial += 1
        entries[call] = Entry(state: state, serial: lastSerial, octets: size)
        octets += size
        queue.append((call, lastSerial, now))
    }

    private mutating func remove(_ call: Call) {
        guard let entry = entries.removeValue(forKey: call) else { return }
        octets -= entry.octets
    }

    private mutating func forgetOld(_ now: UInt64) {
        while head < queue.count {
            let oldest = queue[head]
            let isCurrent = entries[oldest.call]?.serial == oldest.serial
            let isOld = now >= oldest.time && now - oldest.time >= age
            guard !isCurrent || octets > maximum || isOld else { break }
            if isCurrent { remove(oldest.call) }
            head += 1
        }
        if head > 1_024, head > queue.count / 2 {
            queue.removeFirst(head)
            head = 0
        }
    }
}
