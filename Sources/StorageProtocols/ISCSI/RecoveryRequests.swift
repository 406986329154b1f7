/// Towards the new server: open tasks in their order, then what the client sends meanwhile.
extension ISCSIRecovery {
    private func isInWindow(_ number: UInt32) -> Bool {
        Int32(bitPattern: server.maximumCommand &- number) >= 0
    }

    mutating func sendTasks() -> [Action] {
        var actions: [Action] = []
        while let tag = unsent.first, var task = tasks[tag] {
            if !task.command.isImmediate, !isInWindow(nextCommand) { return actions }
            unsent.removeFirst()
            var pdu = numbered(task.command)
            renumbered[pdu.commandSequence] = nextCommand
            pdu.commandSequence = nextCommand
            if !pdu.isImmediate { nextCommand &+= 1 }
            task.isSent = true
            tasks[tag] = task
            actions.append(.toServer(pdu))
            for var data in task.unsolicited {
                data.expectedStatus = server.nextStatus
                actions.append(.toServer(data))
            }
        }
        while unsent.isEmpty, let pdu = queued.first,
            pdu.isImmediate || pdu.opcode == ISCSIOpcode.dataOut || isInWindow(pdu.commandSequence)
        {
            queued.removeFirst()
            actions.append(.toServer(numbered(pdu)))
        }
        return actions
    }

    /// As the server gets it, once all that came before it is sent.
    func numbered(_ pdu: ISCSIPDU) -> ISCSIPDU {
        var pdu = pdu
        pdu.expectedStatus = server.nextStatus
        if pdu.opcode == ISCSIOpcode.taskManagement {
            // RFC 7143 section 11.5.6: RefCmdSN is the number of the task that is meant.
            let reference = pdu.field32(32)
            pdu.setField32(renumbered[reference] ?? reference, 32)
        }
        return pdu
    }

    // MARK: From the client

    /// A PDU that the client sends while the recovery goes on.
    public mutating func receiveFromClient(_ pdu: ISCSIPDU) -> [Action] {
        if let wanted = lateUntil, Int32(bitPattern: pdu.expectedStatus &- wanted) >= 0,
            ownAnswers.isEmpty, deferred.isEmpty
        {
            late = []
            lateUntil = nil
        }
        switch pdu.opcode {
        case ISCSIOpcode.dataOut: return receiveData(pdu)
        case ISCSIOpcode.nopOut where pdu.initiatorTaskTag == ISCSIPDU.reservedTag:
            // The answer to a question of the old server's says nothing to the new one.
            stalePings.remove(pdu.targetTransferTag)
            guard
                pdu.targetTransferTag == ISCSIPDU.reservedTag
                    || pings.remove(pdu.targetTransferTag) != nil
            else { return [] }
            return [.toServer(numbered(pdu))]
        default: break
        }
        if !pdu.isImmediate {
            guard Int32(bitPattern: pdu.commandSequence &- client.nextCommand) >= 0 else {
                // So is its unsolicited data, unless the tag is an open task's.
                if tasks[pdu.initiatorTaskTag] == nil { gone.insert(pdu.initiatorTaskTag) }
                return []
            }
            client.nextCommand = pdu.commandSequence &+ 1
        }
        // A tag that is used anew names another task.
        gone.remove(pdu.initiatorTaskTag)
        late.remove(pdu.initiatorTaskTag)
        if pdu.opcode == ISCSIOpcode.taskManagement { management[pdu.initiatorTaskTag] = pdu }
        // Behind what came before it, and within what the server takes.
        guard unsent.isEmpty, queued.isEmpty, pdu.isImmediate || isInWindow(pdu.commandSequence)
        else {
            guard queued.count < Self.queueMaximum else {
                return [.failed("the client sends more than the new server takes")]
            }
            queued.append(pdu)
            return []
        }
        return [.toServer(numbered(pdu))]
    }

    private mutating func receiveData(_ pdu: ISCSIPDU) -> [Action] {
        let tag = pdu.initiatorTaskTag
        guard var task = tasks[tag] else {
            if gone.contains(tag) { return [] }
            // Unsolicited data follows its command, which may still wait.
            if let place = queued.lastIndex(where: { $0.initiatorTaskTag == tag }) {
                queued.insert(pdu, at: place + 1)
                return []
            }
            return [.toServer(numbered(pdu))]
        }
        task.take(pdu)
        tasks[tag] = task
        if pdu.targetTransferTag == ISCSIPDU.reservedTag {
            tasks[tag]?.unsolicited.append(pdu)
            return task.isSent ? [.toServer(numbered(pdu))] : []
        }
        return transferMore(tag)
    }
}
