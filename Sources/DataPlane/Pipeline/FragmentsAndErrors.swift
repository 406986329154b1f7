// Packets that do not carry their own ports: fragments, and ICMP errors about other packets.

extension Pipeline {
    /// A fragment goes where the first fragment of its datagram goes. `isDatagram`: to an address of a datagram
    /// service.
    mutating func processFragment(
        _ frame: Frame, _ headers: inout PacketHeaders, found slot: Int,
        ingress: PortNumber, domain: DomainID, origin: FlowKey.Origin, isDatagram: Bool = false,
        now: UInt64
    ) {
        // Without exact flows only rules decide, and they look at no ports in fragments.
        guard flows.count > 0 || isDatagram else {
            return matchRules(
                frame, &headers, ingress: ingress, domain: domain, origin: origin, now: now)
        }
        let fragmentKey = FragmentTable.Key(
            source: headers.source, destination: headers.destination,
            identification: headers.identification, ipProtocol: headers.ipProtocol,
            domain: domain, origin: origin.rawValue)
        let index = fragments.entry(
            for: fragmentKey, isFirst: headers.fragment == 1, now: now)
        guard index >= 0 else { return output.count(.fragmentTableFull) }
        if headers.fragment == 1 {
            if slot >= 0 { flows.count(slot, bytes: frame.length, now: now) }
            let decision = decide(
                index, frame, headers, found: slot, ingress: ingress, domain: domain,
                isDatagram: isDatagram, now: now)
            fragments.decide(index, decision, now: now)
            note(index, headers, now: now)
            follow(
                decision, frame, &headers, ingress: ingress, domain: domain, origin: origin,
                now: now)
            return releaseWaiting(index, decision, domain: domain, origin: origin, now: now)
        }
        let decision = fragments.decision(index)
        if decision == .unknown {
            if fragments.wait(index, frame, ingress: ingress) {
                note(index, headers, now: now)
            } else {
                output.count(.fragmentQueueFull)
            }
            return
        }
        note(index, headers, now: now)
        follow(
            decision, frame, &headers, ingress: ingress, domain: domain, origin: origin, now: now)
    }

    /// What the first fragment says of its datagram.
    private mutating func decide(
        _ index: Int, _ frame: Frame, _ headers: PacketHeaders, found slot: Int,
        ingress: PortNumber, domain: DomainID, isDatagram: Bool, now: UInt64
    ) -> FragmentTable.Decision {
        if slot >= 0 { return .flow(flows.target(slot)) }
        guard isDatagram,
            var change = decideDatagram(
                frame, headers, ingress: ingress, domain: domain, now: now)
        else { return .rules }
        if case .datagram(let earlier) = fragments.decision(index) {
            change.keepIdentification(of: earlier)
        }
        return .datagram(change)
    }

    private mutating func note(_ index: Int, _ headers: PacketHeaders, now: UInt64) {
        fragments.note(
            index, offset: headers.fragmentOffset, count: headers.fragmentLength,
            isLast: !headers.moreFragments, now: now)
    }

    private mutating func releaseWaiting(
        _ index: Int, _ decision: FragmentTable.Decision, domain: DomainID,
        origin: FlowKey.Origin, now: UInt64
    ) {
        while let (frame, ingress) = fragments.firstWaiting(index) {
            var headers = PacketHeaders()
            if PacketHeaders.parse(frame, into: &headers) == nil {
                follow(
                    decision, frame, &headers, ingress: ingress, domain: domain, origin: origin,
                    now: now)
            }
            // The memory goes back to the pool.
            output.flush(now: now)
            fragments.removeFirstWaiting(index)
        }
    }

    private mutating func follow(
        _ decision: FragmentTable.Decision, _ frame: Frame, _ headers: inout PacketHeaders,
        ingress: PortNumber, domain: DomainID, origin: FlowKey.Origin, now: UInt64
    ) {
        switch decision {
        case .unknown: break
        case .rules:
            matchRules(
                frame, &headers, ingress: ingress, domain: domain, origin: origin, now: now)
        case .flow(.splice(let id, let side)) where headers.fragment == 3 && origin == .network:
            let disposition = splicer.processFragment(
                id, side: side, frame: frame, headers: headers, output: &output, now: now)
            finish(disposition, id)
        case .flow(.splice) where headers.fragment == 3:
            // Our own sockets send segments that fit; a fragment of one has no place to go.
            output.count(.spliceKernelPacket)
        case .datagram(let change): forwardDatagram(change, frame, &headers, now: now)
        case .flow(let target):
            run(
                target, frame, &headers, ingress: ingress, domain: domain, origin: origin,
                now: now)
        }
    }

    /// An ICMP error about a packet of an exact flow is translated like the flow. False: not such a one.
    mutating func processICMP(
        _ frame: Frame, _ headers: PacketHeaders, ingress: PortNumber, domain: DomainID,
        origin: FlowKey.Origin, now: UInt64
    ) -> Bool {
        guard flows.count > 0, let embedded = EmbeddedPacket(frame, headers) else { return false }
        let key = embedded.reverseKey(domain: domain, origin: origin)
        let slot = flows.find(key, hash: flows.hash(key))
        guard slot >= 0 else { return false }
        switch flows.target(slot) {
        case .splice(let id, let side):
            guard origin == .network,
                let disposition = splicer.processICMPError(
                    id, side: side, frame: frame, headers: headers, embedded: embedded,
                    output: &output, now: now)
            else { return false }
            finish(disposition, id)
            return true
        case .actions(let index):
            guard let list = lists[Int(index)] else { return false }
            translateError(
                frame, headers, embedded, list.actions, ingress: ingress, domain: domain,
                origin: origin, now: now)
            return true
        }
    }

    /// The flow's packets go the way of the error; the quoted packet went the other way, so what the flow
    /// makes of a source is what the quoted destination becomes, and the reverse (RFC 5508 section 4.2).
    private mutating func translateError(
        _ frame: Frame, _ headers: PacketHeaders, _ embedded: EmbeddedPacket,
        _ actions: UnsafeMutableBufferPointer<Action>, ingress: PortNumber, domain: DomainID,
        origin: FlowKey.Origin, now: UInt64
    ) {
        var source = embedded.source
        var destination = embedded.destination
        var sourcePort = embedded.sourcePort
        var destinationPort = embedded.destinationPort
        for action in actions {
            switch action {
            case .setSourceAddress(let address) where address.isIPv4 == destination.isIPv4:
                destination = address
            case .setDestinationAddress(let address) where address.isIPv4 == source.isIPv4:
                source = address
            case .setSourcePort(let port): destinationPort = port
            case .setDestinationPort(let port): sourcePort = port
            default: break
            }
        }
        // A router on the way keeps its own address unless it is the end itself.
        let outerSource = headers.source == embedded.destination ? destination : headers.source
        embedded.rewrite(
            frame, headers, innerSource: source, innerSourcePort: sourcePort,
            innerDestination: destination, innerDestinationPort: destinationPort,
            sequenceDelta: 0, outerSource: outerSource, outerDestination: source)
        var changed = PacketHeaders()
        guard PacketHeaders.parse(frame, into: &changed) == nil else {
            return output.count(.malformedICMP)
        }
        // The rest of the list: MAC addresses, tags, output.
        execute(
            actions, frame, &changed, ingress: ingress, domain: domain, origin: origin,
            keepsAddresses: true, now: now)
    }
}
