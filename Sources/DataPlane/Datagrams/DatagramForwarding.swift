// How packets of the datagram services come to them.

extension Pipeline {
    /// A packet from the network while there are datagram services, of a protocol that they watch. False: it is
    /// not for them, or not for the fast path, and goes its ordinary way.
    mutating func processDatagram(
        _ frame: Frame, _ headers: inout PacketHeaders, found slot: Int, ingress: PortNumber,
        domain: DomainID, now: UInt64
    ) -> Bool {
        // ARP has its operation where others have their protocol. As for exact flows, no tag.
        guard headers.ipVersion != 0, headers.vlanCount == 0, slot < 0 else { return false }
        guard headers.fragment == 0 else {
            guard datagrams.isAddressed(headers, domain: domain) else { return false }
            processFragment(
                frame, &headers, found: slot, ingress: ingress, domain: domain, origin: .network,
                isDatagram: true, now: now)
            return true
        }
        guard
            let change = decideDatagram(
                frame, headers, ingress: ingress, domain: domain, now: now)
        else { return false }
        forwardDatagram(change, frame, &headers, now: now)
        return true
    }

    /// What becomes of a datagram, from the whole of it or its first fragment; nil: it goes its ordinary way.
    mutating func decideDatagram(
        _ frame: Frame, _ headers: PacketHeaders, ingress: PortNumber, domain: DomainID,
        now: UInt64
    ) -> DatagramRewrite? {
        let outcome = datagrams.evaluate(frame, headers, domain: domain, output: output)
        if let trace { trace.note(outcome) }
        return datagrams.take(outcome, headers, ingress: ingress, now: now)
    }

    /// A frame of a datagram about which was decided.
    mutating func forwardDatagram(
        _ change: DatagramRewrite, _ frame: Frame, _ headers: inout PacketHeaders, now: UInt64
    ) {
        if headers.fragment == 3 {
            // RFC 1858 section 4, RFC 5722: what lies over the first fragment could change what was decided by.
            guard headers.fragmentOffset >= change.firstLength else {
                return output.count(.fragmentOverlap)
            }
            let mtu = output.mtu(of: change.port)
            guard mtu == 0 || headers.networkLength <= mtu else { return output.count(.tooBig) }
        }
        var frame = frame
        PacketRewriter.apply(change, &frame, &headers)
        datagrams.countOctets(change, headers)
        if headers.fragment == 0, headers.transportOffset >= 0 {
            frame.allowMerging(payload: headers.payloadLength)
        }
        if let trace { trace.note("datagram: to port \(change.port)") }
        output.transmit(frame, to: change.port, now: now)
    }

    /// Tells what the datagram services would do with a packet. False: nothing.
    func describeDatagram(
        _ frame: Frame, _ headers: PacketHeaders, domain: DomainID, origin: FlowKey.Origin,
        _ sink: TraceSink
    ) -> Bool {
        guard datagrams.watches(headers.ipProtocol), origin == .network, headers.ipVersion != 0,
            headers.vlanCount == 0
        else { return false }
        if headers.fragment == 3 {
            guard datagrams.isAddressed(headers, domain: domain) else { return false }
            sink.note("later fragment: goes where the first one of its datagram went")
            return true
        }
        let outcome = datagrams.evaluate(frame, headers, domain: domain, output: output)
        sink.note(outcome)
        switch outcome {
        case .other, .miss: return false
        case .call(let match), .reply(let match):
            sink.outputs.append(match.change.port)
            return true
        }
    }
}

extension TraceSink {
    fileprivate func note(_ outcome: DatagramOutcome) {
        switch outcome {
        case .other: break
        case .miss(let reason): note("datagram: its ordinary way, \(reason)")
        case .call(let match):
            note(
                "datagram: call for resource \(match.change.resource), to "
                    + "\(match.change.destination) port \(match.change.destinationPort)")
        case .reply(let match):
            note(
                "datagram: reply to \(match.change.destination) port "
                    + "\(match.change.destinationPort)")
        }
    }
}
