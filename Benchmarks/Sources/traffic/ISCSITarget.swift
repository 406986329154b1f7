import Glibc

/// A target with one logical unit that stores nothing: reads give the same octets always, writes are thrown
/// away. For all connections to one port, in one thread.
func serveISCSI(port: UInt16) -> Never {
    let listener = makeListener(port)
    var watched = [pollfd(fd: listener, events: Int16(POLLIN), revents: 0)]
    var sessions: [Int32: TargetSession] = [:]
    print("ready")
    fflush(nil)
    while true {
        guard poll(&watched, nfds_t(watched.count), -1) > 0 else { continue }
        if watched[0].revents != 0 {
            let peer = accept(listener, nil, nil)
            if peer >= 0 {
                sessions[peer] = TargetSession(peer)
                watched.append(pollfd(fd: peer, events: Int16(POLLIN), revents: 0))
            }
        }
        var hasClosed = false
        for index in 1..<max(1, watched.count) where watched[index].revents != 0 {
            guard let session = sessions[watched[index].fd] else { continue }
            if session.serve() {
                watched[index].events = Int16(session.hasOutput ? POLLIN | POLLOUT : POLLIN)
            } else {
                sessions[watched[index].fd] = nil
                watched[index].fd = -1
                hasClosed = true
            }
        }
        if hasClosed { watched.removeAll { $0.fd < 0 } }
    }
}

/// One connection, which is a session.
private final class TargetSession {
    /// A write that waits for data.
    private struct Write {
        var tag: UInt32 = 0
        var total = 0
        /// 0: the entry is free.
        var missing = 0
        var sequence: UInt32 = 0
    }

    private let stream: ISCSIStream
    private var status: UInt32 = 1
    private var expectedCommand: UInt32 = 0
    private var initiatorMaxReceive = 8_192
    private var writes = [Write](repeating: Write(), count: Int(ISCSITerms.window))
    private var isOver = false

    init(_ descriptor: Int32) { stream = ISCSIStream(descriptor) }

    var hasOutput: Bool { stream.hasOutput }

    /// Takes and sends what there is; false: the connection is over.
    func serve() -> Bool {
        let isThere = stream.receive(take)
        return stream.flush() && isThere && !(isOver && !stream.hasOutput)
    }

    private func take(_ pdu: UnsafeMutableRawPointer) {
        let opcode = pdu.field8(0) & 0x3f
        let tag = pdu.field32(16)
        switch opcode {
        case 0x00: if tag != .max { answer(0x20, pdu) { $0.set32(.max, 20) } }
        case 0x01:
            if pdu.field8(0) & 0x40 == 0 { expectedCommand = pdu.field32(24) &+ 1 }
            command(pdu, tag)
        case 0x02: answer(0x22, pdu)
        case 0x03: login(pdu)
        case 0x05: dataOut(pdu, tag)
        case 0x06:
            answer(0x26, pdu)
            isOver = true
        default: fail("target: PDU 0x\(String(opcode, radix: 16))")
        }
    }

    // MARK: Login

    private func login(_ pdu: UnsafeMutableRawPointer) {
        let flags = pdu.field8(1)
        expectedCommand = pdu.field32(24)
        var pairs = [("TargetPortalGroupTag", "1")]
        for (key, value) in ISCSILoginText.decode(stream.text) {
            if key == "MaxRecvDataSegmentLength" {
                initiatorMaxReceive = min(ISCSITerms.maxReceive, Int(value) ?? 8_192)
                pairs.append((key, String(ISCSITerms.maxReceive)))
            } else if let result = negotiate(key, value) {
                pairs.append((key, result))
            }
        }
        let isLast = flags & 0x83 == 0x83
        answer(
            0x23, pdu, flags: flags & 0x80 != 0 ? flags & 0x8f : flags & 0x0c,
            ISCSILoginText.encode(pairs)
        ) {
            for offset in 8..<14 { $0.set8(pdu.field8(offset), offset) }
            $0.set16(isLast ? 1 : 0, 14)
        }
    }

    /// RFC 7143 section 13; nil: nothing is answered.
    private func negotiate(_ key: String, _ value: String) -> String? {
        func atMost(_ limit: Int) -> String { String(min(limit, Int(value) ?? limit)) }
        switch key {
        case "InitiatorName", "InitiatorAlias", "TargetName", "SessionType": return nil
        case "AuthMethod", "HeaderDigest", "DataDigest": return "None"
        case "InitialR2T", "ImmediateData": return value
        case "DataPDUInOrder", "DataSequenceInOrder": return "Yes"
        case "MaxBurstLength": return atMost(ISCSITerms.maxBurst)
        case "FirstBurstLength": return atMost(ISCSITerms.firstBurst)
        case "MaxOutstandingR2T", "MaxConnections": return atMost(1)
        case "DefaultTime2Wait": return String(max(2, Int(value) ?? 2))
        case "DefaultTime2Retain": return atMost(20)
        case "ErrorRecoveryLevel": return atMost(0)
        default: return "NotUnderstood"
        }
    }

    // MARK: Commands

    private func command(_ pdu: UnsafeMutableRawPointer, _ tag: UInt32) {
        let expected = Int(pdu.field32(20))
        switch pdu.field8(32) {
        case 0x00: respond(pdu)
        case 0x12: sendSmall(inquiry(pdu), pdu)
        case 0x25: sendSmall(bigEndian([UInt32.max, UInt32(ISCSITerms.blockSize)]), pdu)
        case 0x9e:
            let last = ISCSITerms.blocks - 1
            let capacity = [UInt32(last >> 32), UInt32(truncatingIfNeeded: last)]
            sendSmall(bigEndian(capacity + [UInt32(ISCSITerms.blockSize), 0, 0, 0, 0, 0]), pdu)
        case 0xa0: sendSmall(bigEndian([8, 0, 0, 0]), pdu)
        case 0x28, 0x88: sendData(expected, pdu)
        case 0x2a, 0x8a: takeWrite(pdu, tag, expected)
        // ILLEGAL REQUEST, INVALID COMMAND OPERATION CODE in fixed format (SPC-4 section 4.5.3).
        default:
            let sense: [UInt8] = [
                0, 18, 0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0,
            ]
            answer(0x21, pdu, sense) { $0.set8(2, 3) }
        }
    }

    /// SPC-4 sections 6.6 and 7.8: standard data, and the page that names the unit.
    private func inquiry(_ pdu: UnsafeMutableRawPointer) -> [UInt8] {
        let identifier = Array("traffic-bench-unit-0".utf8)
        switch (pdu.field8(33) & 1, pdu.field8(34)) {
        case (0, _):
            return [0, 0, 6, 2, 31, 0, 0, 2] + Array("DSR     TRAFFIC         1   ".utf8)
        case (_, 0x83):
            // T10 vendor id based, ASCII, of the unit.
            return [0, 0x83, 0, UInt8(4 + identifier.count), 2, 1, 0, UInt8(identifier.count)]
                + identifier
        case (_, let page): return [0, page, 0, 0]
        }
    }

    private func sendSmall(_ data: [UInt8], _ pdu: UnsafeMutableRawPointer) {
        let expected = Int(pdu.field32(20))
        let sent = Array(data.prefix(expected))
        answer(0x25, pdu, flags: sent.count < expected ? 0x83 : 0x81, sent) {
            $0.set32(.max, 20)
            $0.set32(UInt32(expected - sent.count), 44)
        }
    }

    /// The status comes with the last data.
    private func sendData(_ total: Int, _ pdu: UnsafeMutableRawPointer) {
        var offset = 0
        var sequence: UInt32 = 0
        while offset < total {
            let count = min(total - offset, initiatorMaxReceive)
            let isLast = offset + count == total
            stream.send(0x25, flags: isLast ? 0x81 : 0, bulk: count) {
                $0.set32(pdu.field32(16), 16)
                $0.set32(.max, 20)
                $0.set32(isLast ? status : 0, 24)
                setWindow($0)
                $0.set32(sequence, 36)
                $0.set32(UInt32(offset), 40)
            }
            offset += count
            sequence += 1
        }
        status &+= 1
    }

    // MARK: Writes

    private func takeWrite(_ pdu: UnsafeMutableRawPointer, _ tag: UInt32, _ total: Int) {
        let missing = total - stream.dataLength
        if missing <= 0 { return respond(pdu) }
        guard let index = writes.firstIndex(where: { $0.missing == 0 }) else {
            fail("target: too many writes")
        }
        writes[index] = Write(tag: tag, total: total, missing: missing, sequence: 0)
        // F: no data comes without being asked for.
        if pdu.field8(1) & 0x80 != 0 { askForData(index, pdu) }
    }

    private func dataOut(_ pdu: UnsafeMutableRawPointer, _ tag: UInt32) {
        guard let index = writes.firstIndex(where: { $0.missing > 0 && $0.tag == tag }),
            stream.dataLength <= writes[index].missing
        else { fail("target: data of no write") }
        writes[index].missing -= stream.dataLength
        if writes[index].missing == 0 { return respond(pdu) }
        if pdu.field8(1) & 0x80 != 0 { askForData(index, pdu) }
    }

    private func askForData(_ index: Int, _ pdu: UnsafeMutableRawPointer) {
        let write = writes[index]
        stream.send(0x31, flags: 0x80) {
            $0.set32(write.tag, 16)
            $0.set32(UInt32(index), 20)
            $0.set32(status, 24)
            setWindow($0)
            $0.set32(write.sequence, 36)
            $0.set32(UInt32(write.total - write.missing), 40)
            $0.set32(UInt32(min(write.missing, ISCSITerms.maxBurst)), 44)
        }
        writes[index].sequence += 1
    }

    // MARK: Answers

    private func respond(_ pdu: UnsafeMutableRawPointer) { answer(0x21, pdu) }

    private func answer(
        _ opcode: UInt8, _ pdu: UnsafeMutableRawPointer, flags: UInt8 = 0x80,
        _ data: [UInt8] = [], fill: (UnsafeMutableRawPointer) -> Void = { _ in }
    ) {
        stream.send(opcode, flags: flags, small: data) {
            $0.set32(pdu.field32(16), 16)
            $0.set32(status, 24)
            setWindow($0)
            fill($0)
        }
        status &+= 1
    }

    private func setWindow(_ pdu: UnsafeMutableRawPointer) {
        pdu.set32(expectedCommand, 28)
        pdu.set32(expectedCommand &+ ISCSITerms.window &- 1, 32)
    }
}
