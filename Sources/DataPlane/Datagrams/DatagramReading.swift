// What people are told of the datagram grain. Called between bursts, never for a packet.

/// A resource of the datagram grain with its counters.
public struct DatagramResourceStatus: Hashable, Sendable {
    public var id: DatagramResourceID
    /// Nil: it is served nowhere now.
    public var server: DatagramServer?
    /// File handles in the table that are the resource's.
    public var handles: Int
    /// Of the fast path only; a call or reply that is said again is counted again.
    public var calls: UInt64
    public var replies: UInt64
    /// Octets of IP, fragments counted each for itself.
    public var callOctets: UInt64
    public var replyOctets: UInt64
    /// ns from a call, the first time that it was said, to its reply, summed over `replies`.
    public var latencySum: UInt64
    /// Replies by latency: bucket n counts those below 2^n * 16 µs.
    public var histogram: [UInt64]
    /// Calls since the last reply, and when the first of them passed, ns of the monotonic clock; 0: the last word
    /// was the server's. Approximate: a reply to any call starts them again.
    public var callsSinceReply: UInt64
    public var unansweredSince: UInt64
    /// ns of the monotonic clock; 0: never.
    public var lastReply: UInt64
}

/// A client that may use the fast path.
public struct DatagramBindingStatus: Hashable, Sendable {
    public var service: DatagramServiceID
    public var client: DatagramEndpoint
    public var localPort: UInt16
    public var resources: DatagramResourceSet
    /// Next hop to the client, zero when it is not known yet, and the switch port where it was seen last, or 0.
    public var mac: MACAddress
    public var port: PortNumber
    /// ns of the monotonic clock of the last call or reply, at first of the binding itself.
    public var lastUsed: UInt64
    public var calls: UInt64
    public var replies: UInt64
}

/// Sums and sizes of the datagram grain.
public struct DatagramStatus: Sendable {
    public var services: [DatagramServiceID: DatagramService]
    public var bindings: Int
    public var bindingCapacity: Int
    public var handles: Int
    public var handleCapacity: Int
    /// Handles that gave way to others because the table was full.
    public var handleEvictions: UInt64
    /// Packets to a service that went their ordinary way.
    public var misses: [DatagramMiss: UInt64]
    /// Replies that were passed on though their call was not known any more: no resource counts them.
    public var unknownReplies: UInt64
    /// Of the fragment table, which exact flows use too: datagrams that are not complete, fragments that wait for
    /// their first one, and the memory that they take, octets.
    public var fragments: Int
    public var waitingFragments: Int
    public var waitingOctets: Int
    /// Those that have a server, handles, or were called once.
    public var resources: [DatagramResourceStatus]
}

extension Pipeline {
    public func datagramStatus() -> DatagramStatus {
        var services: [DatagramServiceID: DatagramService] = [:]
        for index in 0..<datagrams.serviceCapacity {
            let id = DatagramServiceID(index)
            services[id] = datagrams.service(id)
        }
        var misses: [DatagramMiss: UInt64] = [:]
        for reason in DatagramMiss.allCases {
            let count = datagrams.missCount(reason)
            if count > 0 { misses[reason] = count }
        }
        var resources: [DatagramResourceStatus] = []
        for index in 0..<DatagramResources.count {
            let id = DatagramResourceID(index)
            if let status = datagramResource(id) { resources.append(status) }
        }
        return DatagramStatus(
            services: services, bindings: datagrams.bindings.count,
            bindingCapacity: datagrams.bindings.capacity, handles: datagrams.handles.count,
            handleCapacity: datagrams.handles.capacity,
            handleEvictions: datagrams.handles.evictions, misses: misses,
            unknownReplies: datagrams.unknownReplies, fragments: fragments.count,
            waitingFragments: fragments.waitingCount, waitingOctets: fragments.waitingOctets,
            resources: resources)
    }

    /// Nil: it has no server, no handles, and was never called.
    public func datagramResource(_ id: DatagramResourceID) -> DatagramResourceStatus? {
        let record = datagrams.resources.record(Int(id)).pointee
        let handles = datagrams.handles.count(of: id)
        guard record.hasServer || handles > 0 || record.calls > 0 else { return nil }
        return DatagramResourceStatus(
            id: id, server: record.hasServer ? record.server : nil, handles: handles,
            calls: record.calls, replies: record.replies, callOctets: record.callOctets,
            replyOctets: record.replyOctets, latencySum: record.latencySum,
            histogram: datagrams.resources.latencies(Int(id)),
            callsSinceReply: record.callsSinceReply, unansweredSince: record.unansweredSince,
            lastReply: record.lastReply)
    }

    /// Up to `limit` bindings from place `start`; `next` is where to go on, nil at the end. A walk begins at 0.
    /// Bindings that are made between two calls may be missed.
    public func datagramBindings(
        from start: Int, limit: Int
    ) -> (bindings: [DatagramBindingStatus], next: Int?) {
        var result: [DatagramBindingStatus] = []
        var slot = max(0, start)
        // A look at a bounded number, so that packets do not wait for long.
        let end = min(datagrams.bindings.slotsTaken, slot + 8_192)
        while slot < end, result.count < limit {
            let record = datagrams.bindings.record(slot).pointee
            if record.serial != 0 { result.append(status(record)) }
            slot += 1
        }
        return (result, slot < datagrams.bindings.slotsTaken ? slot : nil)
    }

    /// Nil when the client is not bound.
    public func datagramBinding(
        _ service: DatagramServiceID, client: DatagramEndpoint
    ) -> DatagramBindingStatus? {
        guard Int(service) < datagrams.serviceCapacity else { return nil }
        let slot = datagrams.bindings.find(client, service: service)
        return slot < 0 ? nil : status(datagrams.bindings.record(slot).pointee)
    }

    private func status(_ record: DatagramBinding) -> DatagramBindingStatus {
        DatagramBindingStatus(
            service: record.service, client: record.client, localPort: record.localPort,
            resources: record.resources, mac: record.mac, port: record.port,
            lastUsed: record.lastUsed, calls: record.calls, replies: record.replies)
    }
}
