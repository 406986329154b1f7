/// The actions of an exact flow.
struct FlowActions {
    var key: FlowKey
    var actions: UnsafeMutableBufferPointer<Action>
    var cookie: UInt64
    /// Seconds; 0: none.
    var idleTimeout: UInt16
}

extension Pipeline {
    /// Runs an action list (ovs-actions(7)): in order; an output sends the packet as it is then, and later
    /// changes do not alter it. `keepsAddresses`: the packet has its IP addresses already.
    mutating func execute(
        _ actions: UnsafeMutableBufferPointer<Action>, _ original: Frame,
        _ headers: inout PacketHeaders, ingress: PortNumber, domain: DomainID,
        origin: FlowKey.Origin, keepsAddresses: Bool = false, now: UInt64
    ) {
        var frame = original
        // The frame's memory is in a transmit queue: it must be copied before it is changed.
        var isQueued = false
        var hasActed = false
        received.reset()
        for action in actions {
            if let trace { trace.note("action: \(action)") }
            if keepsAddresses, action.changesAddress { continue }
            if action.changesPacket, !received.isKept { received.keep(frame, headers) }
            if isQueued, action.changesPacket {
                frame = output.copy(frame, now: now)
                isQueued = false
            }
            switch action {
            case .output(let port), .mirror(let port):
                // As in Open vSwitch, a packet does not go back where it came from but by in_port.
                if port == ingress {
                    if actions.count == 1 { output.count(.sourceIsDestinationPort) }
                } else {
                    send(frame, headers, to: port, ingress: ingress, domain: domain, now: now)
                    isQueued = true
                }
            case .inPort:
                send(frame, headers, to: ingress, ingress: ingress, domain: domain, now: now)
                isQueued = true
            case .flood, .all:
                flood(frame, headers, ingress: ingress, domain: domain, now: now)
                isQueued = true
            case .normal:
                normal(frame, headers, ingress: ingress, domain: domain, now: now)
                isQueued = true
            case .cpu:
                toCPU(frame, headers, domain: domain, now: now)
                isQueued = true
            case .drop:
                if !hasActed { output.count(.ruleAction) }
                return
            case .splice(let id):
                splice(id, frame, &headers, ingress: ingress, origin: origin, now: now)
                return
            case .decrementTTL:
                guard PacketRewriter.decrementTTL(frame, &headers) else {
                    output.count(.ttlExpired)
                    return sendError(
                        .timeExceeded, about: frame, headers, ingress: ingress, domain: domain,
                        now: now)
                }
            case .pushVLAN where headers.vlanCount >= PacketRewriter.tagMaximum:
                return output.count(.actionLimit)
            default: change(action, &frame, &headers)
            }
            hasActed = true
        }
        if actions.isEmpty { output.count(.ruleAction) }
    }

    /// Actions that change one field.
    @inline(__always)
    private func change(
        _ action: Action, _ frame: inout Frame, _ headers: inout PacketHeaders
    ) {
        switch action {
        case .setSourceMAC(let mac): PacketRewriter.setSourceMAC(mac, frame, &headers)
        case .setDestinationMAC(let mac): PacketRewriter.setDestinationMAC(mac, frame, &headers)
        case .setSourceAddress(let address):
            PacketRewriter.setAddresses(source: address, destination: nil, frame, &headers)
        case .setDestinationAddress(let address):
            PacketRewriter.setAddresses(source: nil, destination: address, frame, &headers)
        case .setSourcePort(let port):
            PacketRewriter.setPorts(source: port, destination: nil, frame, &headers)
        case .setDestinationPort(let port):
            PacketRewriter.setPorts(source: nil, destination: port, frame, &headers)
        case .setTOS(let tos): PacketRewriter.setTOS(tos, frame, &headers)
        case .setTTL(let ttl): PacketRewriter.setTTL(ttl, frame, &headers)
        case .pushVLAN(let type): PacketRewriter.pushVLAN(type, tci: 0, &frame, &headers)
        case .popVLAN: PacketRewriter.popVLAN(&frame, &headers)
        case .setVLANID(let id): PacketRewriter.setVLAN(id, mask: 0x0fff, &frame, &headers)
        case .setVLANPriority(let priority):
            PacketRewriter.setVLAN(UInt16(priority) << 13, mask: 0xe000, &frame, &headers)
        default: break
        }
    }

    private mutating func splice(
        _ id: SpliceID, _ frame: Frame, _ headers: inout PacketHeaders, ingress: PortNumber,
        origin: FlowKey.Origin, now: UInt64
    ) {
        // The side is found by the tuple, which must be one of the splice's legs.
        guard
            let side = splicer.side(of: headers, id: id, origin: origin)
        else { return output.count(.spliceUnknown) }
        let disposition = splicer.process(
            id, side: side, origin: origin, frame: frame, headers: &headers, ingress: ingress,
            output: &output, now: now)
        finish(disposition, id)
    }

    // MARK: Output

    /// To one port, if the packet fits.
    @inline(__always)
    mutating func send(
        _ frame: Frame, _ headers: PacketHeaders, to port: PortNumber, ingress: PortNumber,
        domain: DomainID, now: UInt64
    ) {
        guard output.has(port), let slot = output.slots[Int(port)] else {
            return output.count(.noSuchPort)
        }
        let length = Int(headers.networkEnd - max(0, headers.networkOffset))
        if slot.mtu > 0, length > slot.mtu, headers.ipVersion != 0, !frame.offload.isSegmented {
            output.count(.tooBig)
            let mayNotFragment =
                headers.ipVersion == 6
                || frame.start.load16(Int(headers.networkOffset) + 6) & 0x4000 != 0
            if mayNotFragment {
                sendError(
                    .tooBig(mtu: slot.mtu), about: frame, headers, ingress: ingress,
                    domain: domain, now: now)
            }
            return
        }
        output.transmit(frame, to: port, now: now)
    }

    private mutating func toCPU(
        _ frame: Frame, _ headers: PacketHeaders, domain: DomainID, now: UInt64
    ) {
        let isSYN =
            headers.ipProtocol == IPProtocol.tcp
            && headers.tcpFlags & (TCPFlags.syn | TCPFlags.ack) == TCPFlags.syn
        if isSYN, !synTokens.take(now: now) { return output.count(.synLimit) }
        output.transmitToCPU(frame, domain: domain, now: now)
    }

    mutating func flood(
        _ frame: Frame, _ headers: PacketHeaders, ingress: PortNumber, domain: DomainID,
        now: UInt64
    ) {
        for index in 0..<output.numbers.count {
            let number = output.numbers[index]
            guard number != ingress, let slot = output.slots[Int(number)], slot.domain == domain,
                slot.port.isUp
            else { continue }
            send(frame, headers, to: number, ingress: ingress, domain: domain, now: now)
        }
    }

    /// Switching by learned addresses (IEEE 802.1Q clause 8.8).
    mutating func normal(
        _ frame: Frame, _ headers: PacketHeaders, ingress: PortNumber, domain: DomainID,
        now: UInt64
    ) {
        let destination = headers.destinationMAC
        // IEEE 802.1Q table 8-1: 01-80-c2-00-00-00 ... 0f are not relayed.
        if destination.rawValue & ~0xf == 0x0180_c200_0000 {
            return output.count(.reservedMulticast)
        }
        if !destination.isGroup {
            let port = output.port(of: destination, vlan: headers.vlanTCI, domain: domain)
            if port == ingress { return output.count(.sourceIsDestinationPort) }
            if port != 0, output.has(port) {
                if let trace { trace.note("normal: \(destination) is behind port \(port)") }
                if port == output.cpuPorts[Int(domain & 15)] {
                    return toCPU(frame, headers, domain: domain, now: now)
                }
                return send(
                    frame, headers, to: port, ingress: ingress, domain: domain, now: now)
            }
        }
        if let trace { trace.note("normal: flood") }
        flood(frame, headers, ingress: ingress, domain: domain, now: now)
    }

    /// An ICMP error back to where the packet came from.
    mutating func sendError(
        _ kind: ICMPError.Kind, about frame: Frame, _ headers: PacketHeaders,
        ingress: PortNumber, domain: DomainID, now: UInt64
    ) {
        guard ICMPError.isAllowed(about: headers) else { return }
        guard icmpTokens.take(now: now) else { return output.count(.icmpLimit) }
        let isIPv4 = headers.ipVersion == 4
        let own = configuration.icmpSources[domain]?.first { $0.isIPv4 == isIPv4 }
        let buffer = output.scratch(now: now)
        var original = (frame: frame, headers: headers)
        if received.isKept {
            original = received.restore(frame, headers, to: output.scratch(now: now))
        }
        let error = ICMPError.build(
            kind, about: original.frame, original.headers,
            source: own ?? original.headers.destination, in: buffer)
        output.transmit(error, to: ingress, now: now)
    }
}

extension Action {
    /// Whether the action alters the packet's octets.
    @inline(__always)
    var changesPacket: Bool {
        switch self {
        case .output, .mirror, .inPort, .flood, .all, .normal, .cpu, .drop: false
        default: true
        }
    }
}

extension Action {
    /// Whether the action alters an IP address.
    @inline(__always)
    var changesAddress: Bool {
        switch self {
        case .setSourceAddress, .setDestinationAddress: true
        default: false
        }
    }
}

extension Splicer {
    /// Side of a splice to which a packet's tuple belongs.
    func side(
        of headers: PacketHeaders, id: SpliceID, origin: FlowKey.Origin
    ) -> SpliceSide? {
        guard isOpen(id) else { return nil }
        return SpliceSide.allCases.first { which in
            let leg = side(id, which).pointee
            let remote = origin == .network ? headers.source : headers.destination
            let port = origin == .network ? headers.sourcePort : headers.destinationPort
            return leg.isBound && leg.remoteAddress == remote && leg.remotePort == port
        }
    }
}
