/// What would happen to a packet.
public struct PacketTrace: Sendable {
    /// One step of the pipeline a line.
    public var steps: [String] = []
    /// Ports where it would go out, in this order.
    public var outputs: [PortNumber] = []
    /// Why it, or a copy of it, would be dropped.
    public var drops: [DropReason] = []
}

/// Stands for a real port in a dry run: as up and as wide as that one, and sends nothing.
private final class DryPort: Port {
    let name: String
    let isUp: Bool
    private let record: () -> Void
    var pollDescriptor: Int32 { -1 }
    var needsPolling: Bool { false }
    var deviceCounters: PortDeviceCounters { PortDeviceCounters() }

    init(name: String, isUp: Bool, record: @escaping () -> Void) {
        self.name = name
        self.isUp = isUp
        self.record = record
    }

    func receive(into burst: UnsafeMutablePointer<Frame>, limit: Int, now: UInt64) -> Int { 0 }
    func transmit(_ frame: Frame, now: UInt64) { record() }
    func flush(now: UInt64) {}
    func maintain(now: UInt64) -> Bool { false }
}

extension Pipeline {
    /// Runs one frame through the tables as if it had come in on `port`. Nothing is sent, learned or counted.
    ///
    /// The tables are really used, with ports that send nothing. What would change them is not done: a
    /// splice tells what it would do, since its positions move with every packet.
    public mutating func dryRun(
        _ bytes: [UInt8], port: PortNumber, now: UInt64
    ) -> PacketTrace {
        guard output.has(port), let slot = output.slots[Int(port)] else {
            return PacketTrace(steps: ["there is no port \(port)"])
        }
        guard bytes.count <= Frame.maximumLength else {
            return PacketTrace(steps: ["frame too long"])
        }
        let sink = TraceSink(isDry: true)
        let (domain, isCPU) = (slot.domain, slot.isCPU)
        let tokens = (icmpTokens, synTokens)
        var real = makeDryPorts(sink)
        swap(&output, &real)
        // The learned addresses are needed, and nothing in a dry run changes them.
        for index in 0..<PortSet.domainMaximum { swap(&output.macs[index], &real.macs[index]) }
        trace = sink
        decide(
            bytes, ingress: port, domain: domain, origin: isCPU ? .cpu : .network, sink, now: now)
        trace = nil
        let drops = DropReason.allCases.filter { output.drops[Int($0.rawValue)] > 0 }
        for index in 0..<PortSet.domainMaximum { swap(&output.macs[index], &real.macs[index]) }
        swap(&output, &real)
        (icmpTokens, synTokens) = tokens
        for number in sink.outputs { sink.note("output to port \(number)") }
        for reason in drops { sink.note("drop: \(reason)") }
        return PacketTrace(steps: sink.lines, outputs: sink.outputs, drops: drops)
    }

    private func makeDryPorts(_ sink: TraceSink) -> PortSet {
        var result = PortSet(capacity: configuration.ports, macCapacity: 8, eventCapacity: 16)
        for number in output.numbers {
            guard let slot = output.slots[Int(number)] else { continue }
            let port = DryPort(name: slot.port.name, isUp: slot.port.isUp) {
                sink.outputs.append(number)
            }
            _ = result.add(
                port, number: number, domain: slot.domain, isCPU: slot.isCPU, mtu: slot.mtu)
        }
        return result
    }

    /// As `process`, without its traces in the tables.
    private mutating func decide(
        _ bytes: [UInt8], ingress: PortNumber, domain: DomainID, origin: FlowKey.Origin,
        _ sink: TraceSink, now: UInt64
    ) {
        var frame = output.scratch(now: now)
        bytes.withUnsafeBytes { source in
            if let base = source.baseAddress {
                frame.start.copyMemory(from: base, byteCount: source.count)
            }
        }
        frame.length = bytes.count
        var headers = PacketHeaders()
        if let reason = PacketHeaders.parse(frame, into: &headers) { return output.count(reason) }
        sink.note(headers, port: ingress)
        let (hash, key) = flowKey(headers, domain: domain, origin: origin)
        if headers.fragment == 3, flows.count > 0 {
            return sink.note("later fragment: goes where the first one of its datagram went")
        }
        if hash > Self.noKey {
            let slot = flows.find(key, hash: flows.hash(key))
            if slot >= 0 {
                return follow(
                    flows.target(slot), frame, &headers, ingress: ingress, domain: domain,
                    origin: origin, sink, now: now)
            }
        } else if let splice = quotedSplice(frame, headers, domain: domain, origin: origin) {
            return describe(splice.id, splice.side, origin: origin, sink)
        } else if headers.fragment == 0, headers.transportOffset >= 0,
            processICMP(
                frame, headers, ingress: ingress, domain: domain, origin: origin, now: now)
        {
            return
        }
        if describeDatagram(frame, headers, domain: domain, origin: origin, sink) { return }
        let found = rules.lookup(PacketFields(headers, inPort: ingress))
        guard found >= 0 else {
            sink.note("no rule matches")
            return output.count(.noRule)
        }
        sink.note(rules.entries[found])
        execute(
            UnsafeMutableBufferPointer(rebasing: rules.entries[found].actions[...]), frame,
            &headers, ingress: ingress, domain: domain, origin: origin, now: now)
    }

    private mutating func follow(
        _ target: FlowTarget, _ frame: Frame, _ headers: inout PacketHeaders,
        ingress: PortNumber, domain: DomainID, origin: FlowKey.Origin, _ sink: TraceSink,
        now: UInt64
    ) {
        switch target {
        case .splice(let id, let side): describe(id, side, origin: origin, sink)
        case .actions:
            run(
                target, frame, &headers, ingress: ingress, domain: domain, origin: origin,
                now: now)
        }
    }

    /// The splice that an ICMP error is about.
    private func quotedSplice(
        _ frame: Frame, _ headers: PacketHeaders, domain: DomainID, origin: FlowKey.Origin
    ) -> (id: SpliceID, side: SpliceSide)? {
        guard headers.fragment == 0, headers.transportOffset >= 0, flows.count > 0,
            let embedded = EmbeddedPacket(frame, headers)
        else { return nil }
        let key = embedded.reverseKey(domain: domain, origin: origin)
        let slot = flows.find(key, hash: flows.hash(key))
        guard slot >= 0, case .splice(let id, let side) = flows.target(slot) else { return nil }
        return (id, side)
    }

    /// What a splice does with packets of this side in its present state.
    func describe(
        _ id: SpliceID, _ side: SpliceSide, origin: FlowKey.Origin, _ sink: TraceSink
    ) {
        let snapshot = splicer.snapshot(id)
        sink.note("splice \(id), \(side) side, state \(snapshot.state)")
        if origin == .cpu {
            sink.note("splice \(id): from the switch's own socket to the \(side)")
            return sink.leave(by: snapshot[side].port)
        }
        switch snapshot.state {
        case .spliced:
            sink.note("splice \(id): rewritten and sent to the \(side.other)")
            sink.leave(by: snapshot[side.other].port)
        case .slow:
            sink.note("splice \(id): to the switch's own socket")
            sink.leave(by: output.cpuPorts[Int(splicer.side(id, side).pointee.domain & 15)])
        case .free, .closed: sink.note("splice \(id): it has ended")
        case .serverLost:
            sink.note("splice \(id): its server is lost; the client's data waits for a socket")
        case .drainToSplice, .hold, .drainToSlow:
            sink.note("splice \(id): new data is held until the change of state is over")
        }
    }
}

extension TraceSink {
    fileprivate func leave(by port: PortNumber) {
        if port == 0 { note("its port is not known yet") } else { outputs.append(port) }
    }
}
