/// A resource's server and what was counted. Plain values in raw memory.
struct DatagramResourceRecord {
    var server = DatagramServer(
        address: IPAddress(high: 0, low: 0), port: 0, mac: MACAddress.zero)
    var hasServer = false
    /// Next resource with the same server; -1: none.
    var next: Int16 = -1
    var calls: UInt64 = 0
    var replies: UInt64 = 0
    var callOctets: UInt64 = 0
    var replyOctets: UInt64 = 0
    /// ns, of all replies.
    var latencySum: UInt64 = 0
    /// Calls since the last reply, and when the first of them passed, ns; 0: none did.
    var callsSinceReply: UInt64 = 0
    var unansweredSince: UInt64 = 0
    /// ns; 0: never.
    var lastReply: UInt64 = 0

    init() {}
}

/// Where the resources are served, with their counters; found by index, and by their servers' endpoints.
struct DatagramResources: ~Copyable {
    static let count = Int(DatagramResourceID.max) + 1
    /// Replies by latency: bucket n counts those below 2^n * 16 µs, as in `RequestStatistics`.
    static let buckets = RequestLog.buckets
    private static let headCount = 1_024

    private let records: UnsafeMutablePointer<DatagramResourceRecord>
    private let histogram: UnsafeMutablePointer<UInt64>
    /// By endpoint, open addressing: the first resource of a server; -1: empty.
    private let heads: UnsafeMutablePointer<Int16>
    private let hasher: SeededHash

    init(seed: (UInt64, UInt64)) {
        records = .allocate(capacity: Self.count)
        records.initialize(repeating: DatagramResourceRecord(), count: Self.count)
        histogram = .allocate(capacity: Self.count * Self.buckets)
        histogram.initialize(repeating: 0, count: Self.count * Self.buckets)
        heads = .allocate(capacity: Self.headCount)
        heads.initialize(repeating: -1, count: Self.headCount)
        hasher = SeededHash(seed: seed)
    }

    deinit {
        records.deallocate()
        histogram.deallocate()
        heads.deallocate()
    }

    @inline(__always)
    func record(_ resource: Int) -> UnsafeMutablePointer<DatagramResourceRecord> {
        records + resource
    }

    // MARK: Servers

    /// A resource that is served at an endpoint; -1: nothing is.
    @inline(__always)
    func find(_ address: IPAddress, port: UInt16) -> Int {
        Int(heads[position(address, port)])
    }

    /// Where an endpoint is in `heads`, or would be.
    @inline(__always)
    private func position(_ address: IPAddress, _ port: UInt16) -> Int {
        var index = Int(hasher.endpoint(address, port: port)) & (Self.headCount &- 1)
        while heads[index] >= 0 {
            let server = record(Int(heads[index])).pointee.server
            if server.port == port, server.address == address { break }
            index = (index &+ 1) & (Self.headCount &- 1)
        }
        return index
    }

    func set(_ resource: DatagramResourceID, server: DatagramServer?) {
        let record = record(Int(resource))
        let isSame = record.pointee.hasServer && record.pointee.server == server
        record.pointee.hasServer = server != nil
        if let server { record.pointee.server = server }
        if !isSame {
            // Nothing is known of the new one yet.
            record.pointee.callsSinceReply = 0
            record.pointee.unansweredSince = 0
        }
        heads.update(repeating: -1, count: Self.headCount)
        for index in 0..<Self.count where records[index].hasServer {
            let place = position(records[index].server.address, records[index].server.port)
            records[index].next = heads[place]
            heads[place] = Int16(index)
        }
    }

    // MARK: Counting

    @inline(__always)
    func countCall(_ resource: Int, now: UInt64) {
        let record = record(resource)
        record.pointee.calls &+= 1
        record.pointee.callsSinceReply &+= 1
        if record.pointee.unansweredSince == 0 { record.pointee.unansweredSince = max(1, now) }
    }

    /// A reply to a call that passed here. `server`: a resource of where it came from; an answer of the server
    /// before says nothing of the present one.
    @inline(__always)
    func countReply(_ resource: Int, from server: Int, latency: UInt64, now: UInt64) {
        let record = record(resource)
        record.pointee.replies &+= 1
        record.pointee.latencySum &+= latency
        let scaled = latency >> 14
        let bucket = scaled == 0 ? 0 : min(Self.buckets &- 1, 64 &- scaled.leadingZeroBitCount)
        histogram[resource &* Self.buckets &+ bucket] &+= 1
        let sender = self.record(server).pointee.server
        guard record.pointee.hasServer, record.pointee.server.port == sender.port,
            record.pointee.server.address == sender.address
        else { return }
        hear(record, now: now)
    }

    /// A reply of which nobody knows to what resource it belongs: its server lives.
    @inline(__always)
    func hear(server: Int, now: UInt64) {
        var index = server
        while index >= 0 {
            hear(records + index, now: now)
            index = Int(records[index].next)
        }
    }

    @inline(__always)
    private func hear(_ record: UnsafeMutablePointer<DatagramResourceRecord>, now: UInt64) {
        record.pointee.callsSinceReply = 0
        record.pointee.unansweredSince = 0
        record.pointee.lastReply = max(1, now)
    }

    /// One bucket after the other.
    func latencies(_ resource: Int) -> [UInt64] {
        Array(UnsafeBufferPointer(start: histogram + resource * Self.buckets, count: Self.buckets))
    }
}
