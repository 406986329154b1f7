/// What a packet is to the datagram services; found out without changing anything.
enum DatagramOutcome {
    /// To none of their ports.
    case other
    case miss(DatagramMiss)
    case call(DatagramMatch)
    case reply(DatagramMatch)
}

/// A call or reply that the fast path takes.
struct DatagramMatch {
    /// Without an identification.
    var change: DatagramRewrite
    /// Slot of the client's binding.
    var binding: Int
    var xid: UInt32
    /// Calls: cell of the file handle; -1: it names its resource itself.
    var handle = -1
    /// Replies: a resource that is served where the reply comes from.
    var server = -1
}

/// NFS calls over UDP, each of which goes to the server that has what its file handle is about, and their replies.
///
/// Nothing is remembered of a call but for measuring: the client's binding gives the port at which the server
/// answers, and that port gives the client. Calls that the fast path takes may be done twice, so what was lost is
/// said again by the client, and goes to whoever has the resource then. See DESIGN.md, "Datagrams".
struct DatagramRedirector: ~Copyable {
    private struct ServiceRecord {
        var isUsed: Bool
        var service: DatagramService
    }

    let serviceCapacity: Int
    private let services: UnsafeMutablePointer<ServiceRecord>
    /// Services below this are looked at.
    private var serviceLimit = 0
    /// UDP while there is a service, else a number that no packet has.
    private var watchedProtocol: UInt16 = DatagramRedirector.noProtocol
    private static let noProtocol: UInt16 = 0x100

    var bindings: BindingTable
    var handles: HandleTable
    let resources: DatagramResources
    let pending: PendingCalls
    /// Next IP identification by a hash of where a datagram goes.
    private let identifications: UnsafeMutablePointer<UInt32>
    private let hasher: SeededHash
    private let misses: UnsafeMutablePointer<UInt64>
    /// Replies that were passed on though their call was not known any more.
    private(set) var unknownReplies: UInt64 = 0

    private static let serviceMaximum = 64
    private static let identificationCount = 1_024

    init(configuration: PipelineConfiguration) {
        let seed = configuration.flowSeed
        let serviceCapacity = max(1, min(Self.serviceMaximum, configuration.datagramServices))
        self.serviceCapacity = serviceCapacity
        services = .allocate(capacity: serviceCapacity)
        services.initialize(
            repeating: ServiceRecord(isUsed: false, service: Self.nothing), count: serviceCapacity)
        bindings = BindingTable(
            capacity: configuration.datagramBindings, services: serviceCapacity, seed: seed)
        handles = HandleTable(capacity: configuration.datagramHandles, seed: seed)
        resources = DatagramResources(seed: seed)
        pending = PendingCalls(capacity: configuration.datagramCalls, seed: seed)
        let hasher = SeededHash(seed: seed)
        identifications = .allocate(capacity: Self.identificationCount)
        for index in 0..<Self.identificationCount {
            (identifications + index).initialize(to: hasher.word(UInt64(index)))
        }
        self.hasher = hasher
        misses = .allocate(capacity: DatagramMiss.allCases.count)
        misses.initialize(repeating: 0, count: DatagramMiss.allCases.count)
    }

    deinit {
        services.deallocate()
        identifications.deallocate()
        misses.deallocate()
    }

    private static let nothing = DatagramService(
        clientDomain: 0, virtualAddresses: DatagramAddresses(), clientMAC: .zero, storageDomain: 0,
        storageAddresses: DatagramAddresses(), storageMAC: .zero)

    // MARK: Services

    func service(_ id: DatagramServiceID) -> DatagramService? {
        guard Int(id) < serviceCapacity, services[Int(id)].isUsed else { return nil }
        return services[Int(id)].service
    }

    mutating func set(_ id: DatagramServiceID, _ service: DatagramService?) {
        let record = services + Int(id)
        if record.pointee.isUsed,
            service?.hasSameAddresses(as: record.pointee.service) != true
        {
            bindings.removeAll(of: id)
        }
        record.pointee.isUsed = service != nil
        if let service { record.pointee.service = service }
        serviceLimit = 0
        for index in 0..<serviceCapacity where services[index].isUsed { serviceLimit = index + 1 }
        watchedProtocol = serviceLimit > 0 ? UInt16(IPProtocol.udp) : Self.noProtocol
    }

    // MARK: Looking

    /// Whether packets of a protocol may be for a service: one comparison for all that are not.
    @inline(__always)
    func watches(_ ipProtocol: UInt8) -> Bool { UInt16(ipProtocol) == watchedProtocol }

    /// Whether a packet goes to an address of a service, whatever its port: fragments have none.
    func isAddressed(_ headers: PacketHeaders, domain: DomainID) -> Bool {
        let isIPv4 = headers.ipVersion == 4
        for index in 0..<serviceLimit where services[index].isUsed {
            let record = services + index
            if record.pointee.service.clientDomain == domain,
                record.pointee.service.virtualAddresses.address(isIPv4: isIPv4)
                    == headers.destination
            {
                return true
            }
            if record.pointee.service.storageDomain == domain,
                record.pointee.service.storageAddresses.address(isIPv4: isIPv4)
                    == headers.destination
            {
                return true
            }
        }
        return false
    }

    /// What a UDP datagram, or the first fragment of one, from the network of `domain` is.
    func evaluate<Output: FrameOutput & ~Copyable>(
        _ frame: Frame, _ headers: PacketHeaders, domain: DomainID, output: borrowing Output
    ) -> DatagramOutcome {
        let isIPv4 = headers.ipVersion == 4
        for index in 0..<serviceLimit where services[index].isUsed {
            let record = services + index
            if record.pointee.service.port == headers.destinationPort,
                record.pointee.service.clientDomain == domain,
                record.pointee.service.virtualAddresses.address(isIPv4: isIPv4)
                    == headers.destination
            {
                return evaluateCall(index, frame, headers, output: output)
            }
            if record.pointee.service.storageDomain == domain,
                record.pointee.service.storageAddresses.address(isIPv4: isIPv4)
                    == headers.destination
            {
                let binding = bindings.find(
                    localPort: headers.destinationPort, service: DatagramServiceID(index),
                    isIPv4: isIPv4)
                if binding >= 0 {
                    return evaluateReply(index, binding, frame, headers, output: output)
                }
            }
        }
        return .other
    }

    /// Octets of the RPC message that are in the frame.
    @inline(__always)
    private func messageLength(_ frame: Frame, _ headers: PacketHeaders) -> Int {
        let told = Int(frame.start.load16(Int(headers.transportOffset) &+ 4)) &- 8
        return min(told, Int(headers.payloadLength))
    }

    private func evaluateCall<Output: FrameOutput & ~Copyable>(
        _ index: Int, _ frame: Frame, _ headers: PacketHeaders, output: borrowing Output
    ) -> DatagramOutcome {
        guard !frame.offload.isSegmented else { return .miss(.segmented) }
        guard headers.isPlain else { return .miss(.options) }
        let message = UnsafeRawPointer(frame.start) + Int(headers.payloadOffset)
        let call: DatagramCall
        switch DatagramCall.parse(message, length: messageLength(frame, headers)) {
        case .miss(let reason): return .miss(reason)
        case .call(let parsed): call = parsed
        }
        let record = services + index
        let handle = message + call.handleOffset
        let isPrefixed =
            call.version == 3 && call.handleLength >= 4
            && record.pointee.service.handleMagic == handle.load32(0)
        var hash: UInt32 = 0
        if !isPrefixed {
            // Fetched while the client is looked up.
            hash = handles.hash(handle, length: call.handleLength)
            handles.prefetch(hash)
        }
        let client = DatagramEndpoint(address: headers.source, port: headers.sourcePort)
        let binding = bindings.find(client, service: DatagramServiceID(index))
        guard binding >= 0 else { return .miss(.binding) }
        let resource: DatagramResourceID
        var cell = -1
        if isPrefixed {
            guard call.handleLength > Int(DatagramRewrite.cutLength), handle.load32(4) < 256 else {
                return .miss(.handle)
            }
            resource = DatagramResourceID(truncatingIfNeeded: handle.load32(4))
        } else {
            cell = handles.find(handle, length: call.handleLength, hash: hash)
            guard cell >= 0 else { return .miss(.handle) }
            resource = handles.resource(cell)
        }
        guard bindings.record(binding).pointee.resources.contains(resource) else {
            return .miss(.notAllowed)
        }
        let server = resources.record(Int(resource))
        let isIPv4 = headers.ipVersion == 4
        guard server.pointee.hasServer, server.pointee.server.address.isIPv4 == isIPv4,
            let source = record.pointee.service.storageAddresses.address(isIPv4: isIPv4)
        else { return .miss(.server) }
        let port = output.port(
            of: server.pointee.server.mac, vlan: 0, domain: record.pointee.service.storageDomain)
        guard port != 0 else { return .miss(.route) }
        let cut = isPrefixed ? DatagramRewrite.cutLength : 0
        guard fits(headers.networkLength &- Int(cut), port, output) else { return .miss(.tooBig) }
        let change = DatagramRewrite(
            source: source, destination: server.pointee.server.address,
            sourceMAC: record.pointee.service.storageMAC,
            destinationMAC: server.pointee.server.mac,
            sourcePort: bindings.record(binding).pointee.localPort,
            destinationPort: server.pointee.server.port, port: port, cut: cut,
            cutOffset: headers.payloadOffset &+ Int32(truncatingIfNeeded: call.handleOffset),
            firstLength: headers.fragmentLength, resource: UInt16(resource), isReply: false)
        return .call(
            DatagramMatch(change: change, binding: binding, xid: call.xid, handle: cell))
    }

    private func evaluateReply<Output: FrameOutput & ~Copyable>(
        _ index: Int, _ slot: Int, _ frame: Frame, _ headers: PacketHeaders,
        output: borrowing Output
    ) -> DatagramOutcome {
        guard !frame.offload.isSegmented else { return .miss(.segmented) }
        guard headers.isPlain else { return .miss(.options) }
        let server = resources.find(headers.source, port: headers.sourcePort)
        guard server >= 0 else { return .miss(.unknownServer) }
        guard messageLength(frame, headers) >= 8 else { return .miss(.truncated) }
        let message = UnsafeRawPointer(frame.start) + Int(headers.payloadOffset)
        // RFC 5531 section 9: REPLY is 1.
        guard message.load32(4) == 1 else { return .miss(.notReply) }
        let record = services + index
        let binding = bindings.record(slot)
        let isIPv4 = headers.ipVersion == 4
        guard binding.pointee.mac != .zero,
            let source = record.pointee.service.virtualAddresses.address(isIPv4: isIPv4)
        else { return .miss(.route) }
        var port = binding.pointee.port
        if port == 0 {
            port = output.port(
                of: binding.pointee.mac, vlan: 0, domain: record.pointee.service.clientDomain)
        }
        guard port != 0 else { return .miss(.route) }
        guard fits(headers.networkLength, port, output) else { return .miss(.tooBig) }
        let change = DatagramRewrite(
            source: source, destination: binding.pointee.address,
            sourceMAC: record.pointee.service.clientMAC, destinationMAC: binding.pointee.mac,
            sourcePort: record.pointee.service.port, destinationPort: binding.pointee.clientPort,
            port: port, firstLength: headers.fragmentLength, isReply: true)
        return .reply(
            DatagramMatch(
                change: change, binding: slot, xid: message.load32(0), server: server))
    }

    @inline(__always)
    private func fits<Output: FrameOutput & ~Copyable>(
        _ length: Int, _ port: PortNumber, _ output: borrowing Output
    ) -> Bool {
        let mtu = output.mtu(of: port)
        return mtu == 0 || length <= mtu
    }

    // MARK: Taking

    /// Counts what was found out and returns what becomes of the datagram; nil: it goes its ordinary way.
    mutating func take(
        _ outcome: DatagramOutcome, _ headers: PacketHeaders, ingress: PortNumber, now: UInt64
    ) -> DatagramRewrite? {
        switch outcome {
        case .other: return nil
        case .miss(let reason):
            misses[Int(reason.rawValue)] &+= 1
            return nil
        case .call(let match):
            let binding = bindings.record(match.binding)
            if !headers.sourceMAC.isGroup { binding.pointee.mac = headers.sourceMAC }
            binding.pointee.port = ingress
            binding.pointee.lastUsed = now
            binding.pointee.calls &+= 1
            if match.handle >= 0 { handles.touch(match.handle) }
            var change = match.change
            pending.note(
                serial: binding.pointee.serial, xid: match.xid,
                resource: DatagramResourceID(truncatingIfNeeded: change.resource), now: now)
            resources.countCall(Int(change.resource), now: now)
            change.identification = nextIdentification(change.destination)
            return change
        case .reply(let match):
            let binding = bindings.record(match.binding)
            binding.pointee.lastUsed = now
            binding.pointee.replies &+= 1
            var change = match.change
            if let call = pending.take(serial: binding.pointee.serial, xid: match.xid) {
                change.resource = UInt16(call.resource)
                resources.countReply(
                    Int(call.resource), from: match.server,
                    latency: now > call.start ? now &- call.start : 0, now: now)
            } else {
                unknownReplies &+= 1
                resources.hear(server: match.server, now: now)
            }
            change.identification = nextIdentification(change.destination)
            return change
        }
    }

    /// The octets of a frame that goes out as was decided.
    @inline(__always)
    func countOctets(_ change: DatagramRewrite, _ headers: PacketHeaders) {
        guard change.resource != DatagramRewrite.noResource else { return }
        let record = resources.record(Int(change.resource))
        let octets = UInt64(truncatingIfNeeded: headers.networkLength)
        if change.isReply {
            record.pointee.replyOctets &+= octets
        } else {
            record.pointee.callOctets &+= octets
        }
    }

    // RFC 6864 section 4: unique for source, destination and protocol within the life of a datagram. All that goes
    // to one destination takes from one counter.
    @inline(__always)
    private func nextIdentification(_ destination: IPAddress) -> UInt32 {
        let place = Int(hasher.endpoint(destination, port: 0)) & (Self.identificationCount &- 1)
        identifications[place] &+= 1
        return identifications[place]
    }

    // MARK: Reading

    func missCount(_ reason: DatagramMiss) -> UInt64 { misses[Int(reason.rawValue)] }
}
