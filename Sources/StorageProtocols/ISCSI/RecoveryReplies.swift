/// Towards the client: PDUs that it has in part are completed, others numbered as it counts.
extension ISCSIRecovery {
    /// What is not about tasks of the old session.
    mutating func pass(_ pdu: ISCSIPDU) -> [Action] { say(pdu) }

    mutating func say(_ pdu: ISCSIPDU) -> [Action] {
        guard replies.isEmpty, deferred.isEmpty, ownAnswers.isEmpty else {
            deferred.append(pdu)
            return []
        }
        return [.toClient(stamped(pdu))]
    }

    /// The client's numbers: StatSN its own, ExpCmdSN and MaxCmdSN never behind what it was told.
    private mutating func stamped(_ pdu: ISCSIPDU) -> ISCSIPDU {
        var pdu = pdu
        if pdu.opcode != ISCSIOpcode.dataIn || pdu.flags & 1 != 0 {
            pdu.statusSequence = client.nextStatus
        }
        if Self.countsStatus(pdu) {
            client.nextStatus &+= 1
            if late.contains(pdu.initiatorTaskTag)
                || pdu.opcode == ISCSIOpcode.taskManagementResponse && !late.isEmpty
            {
                lateUntil = client.nextStatus
            }
        }
        if Int32(bitPattern: server.expectedCommand &- client.expectedCommand) > 0 {
            client.expectedCommand = server.expectedCommand
        }
        if Int32(bitPattern: server.maximumCommand &- client.maximumCommand) > 0 {
            client.maximumCommand = server.maximumCommand
        }
        pdu.expectedCommand = client.expectedCommand
        pdu.maximumCommand = client.maximumCommand
        return pdu
    }

    /// Goes on with the PDUs that the client has in part, as far as their data is there.
    mutating func completeReplies() -> [Action] {
        var octets: [UInt8] = []
        while let reply = replies.first {
            guard let whole = wholeOctets(reply) else { break }
            switch whole {
            case .failure(let error): return [.failed(error.reason)]
            case .success(let bytes):
                octets += bytes.dropFirst(reply.delivered)
                replies.removeFirst()
            }
        }
        var actions: [Action] = octets.isEmpty ? [] : [.complete(octets)]
        guard replies.isEmpty else { return actions }
        fetched = [:]
        for answer in ownAnswers { actions.append(.toClient(stamped(answer))) }
        ownAnswers = []
        for pdu in deferred { actions.append(.toClient(stamped(pdu))) }
        deferred = []
        return actions
    }

    private struct Incomplete: Error { var reason: String }

    /// Nil: its data is not there yet.
    private func wholeOctets(_ reply: ISCSIUnfinishedReply) -> Result<[UInt8], Incomplete>? {
        let length = Self.length(reply.header)
        let padding = [UInt8](repeating: 0, count: (4 - length & 3) & 3)
        if length == 0 { return .success(reply.header) }
        if let data = reply.data {
            return .success(reply.header + data)
        }
        // All of it was delivered but the padding, or nothing but the header matters.
        if reply.delivered >= reply.header.count + length + padding.count {
            return .success([UInt8](repeating: 0, count: reply.delivered))
        }
        guard reply.header[0] & 0x3f == ISCSIOpcode.dataIn else {
            return .failure(
                Incomplete(reason: "a PDU of kind \(reply.header[0] & 0x3f) cannot be completed"))
        }
        let tag = reply.header.field32(16)
        guard let known = fetched[tag] else {
            // Its task cannot be sent again: the client will be told, and takes no data of it.
            return .success(reply.header + [UInt8](repeating: 0, count: length) + padding)
        }
        let offset = Int(reply.header.field32(40))
        guard known.count >= offset + length else { return nil }
        return .success(reply.header + known[offset..<offset + length] + padding)
    }
}
