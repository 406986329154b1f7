/// From the new server: transfers, data and responses of tasks that were sent again.
extension ISCSIRecovery {
    public mutating func receiveFromServer(_ pdu: ISCSIPDU) -> [Action] {
        note(pdu)
        var actions: [Action] = []
        switch pdu.opcode {
        case ISCSIOpcode.readyToTransfer where tasks[pdu.initiatorTaskTag] != nil:
            actions += ask(pdu)
        case ISCSIOpcode.dataIn where tasks[pdu.initiatorTaskTag] != nil:
            actions += takeData(pdu)
        case ISCSIOpcode.taskManagementResponse: actions += takeManagement(pdu)
        case ISCSIOpcode.scsiResponse, ISCSIOpcode.nopIn, ISCSIOpcode.logoutResponse:
            actions += takeResponse(pdu)
        default: actions += pass(pdu)
        }
        return actions + sendTasks()
    }

    /// Numbers of the new server.
    private mutating func note(_ pdu: ISCSIPDU) {
        if Int32(bitPattern: pdu.maximumCommand &- server.maximumCommand) > 0 {
            server.maximumCommand = pdu.maximumCommand
        }
        if Int32(bitPattern: pdu.expectedCommand &- server.expectedCommand) > 0 {
            server.expectedCommand = pdu.expectedCommand
        }
        if Self.countsStatus(pdu) { server.nextStatus = pdu.statusSequence &+ 1 }
        if pdu.opcode == ISCSIOpcode.nopIn, pdu.initiatorTaskTag == ISCSIPDU.reservedTag {
            pings.insert(pdu.targetTransferTag)
        }
    }

    // RFC 7143 section 11.7.1: StatSN is set in a Data-In "only if the S bit is set"; section 11.8.2: an
    // R2T "MUST contain the next StatSN. The StatSN for this connection is not advanced"; section 11.19.3:
    // the same for a NOP-In that is not an answer.
    /// Whether a PDU takes a StatSN.
    public static func countsStatus(_ pdu: ISCSIPDU) -> Bool {
        switch pdu.opcode {
        case ISCSIOpcode.dataIn: pdu.flags & 1 != 0
        case ISCSIOpcode.readyToTransfer: false
        case ISCSIOpcode.nopIn: pdu.initiatorTaskTag != ISCSIPDU.reservedTag
        default: true
        }
    }

    /// R2T of a task that was sent again: what is here is sent, what the client was not asked for is asked.
    private mutating func ask(_ pdu: ISCSIPDU) -> [Action] {
        let tag = pdu.initiatorTaskTag
        let offset = Int(pdu.field32(40))
        // Section 11.3.4, Expected Data Transfer Length: there is no more.
        guard let task = tasks[tag], pdu.field32(44) > 0,
            offset + Int(pdu.field32(44)) <= Int(task.command.field32(20))
        else { return [.failed("the new server asks for data that the command has not")] }
        let transfer = Transfer(
            tag: pdu.targetTransferTag, offset: offset, end: offset + Int(pdu.field32(44)),
            sent: offset)
        tasks[tag]?.waiting.append(transfer)
        return transferMore(tag)
    }

    /// Sends what is there for the present R2T, and asks the client for what is not.
    mutating func transferMore(_ tag: UInt32) -> [Action] {
        guard var task = tasks[tag] else { return [] }
        var actions: [Action] = []
        while true {
            if task.transfer == nil, !task.waiting.isEmpty {
                task.transfer = task.waiting.removeFirst()
            }
            guard var transfer = task.transfer else { break }
            while transfer.sent < min(transfer.end, task.data.count) {
                // Short PDUs only at the end: the server may count them.
                let rest = transfer.end - transfer.sent
                let count = min(maximumSegment, rest)
                guard task.data.count - transfer.sent >= count else { break }
                actions.append(.toServer(dataOut(task, &transfer, count)))
            }
            if transfer.sent >= transfer.end {
                task.transfer = nil
                continue
            }
            task.transfer = transfer
            // One R2T at a time towards the client: it has answered all it was asked for.
            if task.asked < transfer.end, task.data.count >= task.asked {
                actions += say(readyToTransfer(&task, end: transfer.end))
            }
            break
        }
        tasks[tag] = task
        return actions
    }

    func dataOut(_ task: Task, _ transfer: inout Transfer, _ count: Int) -> ISCSIPDU {
        let isLast = transfer.sent + count == transfer.end
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.dataOut, flags: isLast ? 0x80 : 0)
        for index in 8..<16 { pdu[index] = task.command[index] }
        pdu.initiatorTaskTag = task.tag
        pdu.targetTransferTag = transfer.tag
        pdu.expectedStatus = server.nextStatus
        pdu.setField32(transfer.dataSequence, 36)
        pdu.setField32(UInt32(transfer.sent), 40)
        pdu.data = Array(task.data[transfer.sent..<transfer.sent + count])
        transfer.sent += count
        transfer.dataSequence &+= 1
        return pdu
    }

    mutating func readyToTransfer(_ task: inout Task, end: Int) -> ISCSIPDU {
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.readyToTransfer, flags: 0x80)
        for index in 8..<16 { pdu[index] = task.command[index] }
        pdu.initiatorTaskTag = task.tag
        pdu.targetTransferTag = nextOwnTag
        nextOwnTag &+= 1
        pdu.setField32(task.nextTransfer, 36)
        pdu.setField32(UInt32(task.asked), 40)
        pdu.setField32(UInt32(end - task.asked), 44)
        task.nextTransfer &+= 1
        task.asked = end
        return pdu
    }

    /// Data of a read that was done again.
    private mutating func takeData(_ pdu: ISCSIPDU) -> [Action] {
        let tag = pdu.initiatorTaskTag
        guard let task = tasks[tag] else { return [] }
        let offset = Int(pdu.field32(40))
        let end = offset + pdu.data.count
        guard end <= Int(UInt32.max) else {
            return [.failed("the new server sends data beyond any length")]
        }
        if let known = fetched[tag]?.count, known < needed(tag), offset <= known, end > known {
            fetched[tag]? += pdu.data[(known - offset)...]
        }
        var actions = completeReplies()
        guard !task.isEnded else {
            if pdu.flags & 1 != 0 { actions += endLender(task, status: pdu[3]) }
            return actions
        }
        var part = pdu
        if end > task.passed {
            let skip = max(0, task.passed - offset)
            part.data = Array(pdu.data[skip...])
            part.setField32(UInt32(offset + skip), 40)
            part.setField32(task.nextData, 36)
            tasks[tag]?.nextData &+= 1
            tasks[tag]?.passed = end
            actions += say(part)
        } else if pdu.flags & 1 != 0 {
            // The client has all of the data: what is left is the status.
            actions += say(response(from: pdu, task))
        }
        if pdu.flags & 1 != 0 { actions += finish(tag) }
        return actions
    }

    /// The status of a Data-In as a SCSI Response (RFC 7143 section 11.4).
    private func response(from pdu: ISCSIPDU, _ task: Task) -> ISCSIPDU {
        var answer = ISCSIPDU(opcode: ISCSIOpcode.scsiResponse, flags: 0x80 | pdu.flags & 0x06)
        answer[3] = pdu[3]
        answer.initiatorTaskTag = pdu.initiatorTaskTag
        answer.setField32(task.nextData, 36)
        answer.setField32(pdu.field32(44), 44)
        return answer
    }

    private mutating func takeResponse(_ pdu: ISCSIPDU) -> [Action] {
        guard let task = tasks[pdu.initiatorTaskTag] else { return pass(pdu) }
        if pdu.opcode == ISCSIOpcode.scsiResponse, Self.isUnitAttention(pdu),
            task.attentions < Self.attentionMaximum
        {
            return repeatTask(task)
        }
        guard !task.isEnded else { return endLender(task, status: pdu[3]) }
        var actions: [Action] = []
        if fill(task.tag) {
            // It failed this time. The client takes no data of a command that failed.
            if pdu[3] == 0 { return [.failed("the new server has less data than the old one")] }
            actions += completeReplies()
        }
        var answer = pdu
        if pdu.opcode == ISCSIOpcode.scsiResponse {
            // Section 11.4.8: ExpDataSN, "the number of Data-In (read) PDUs the target has sent for the
            // command", or of R2T.
            answer.setField32(task.nextData != 0 ? task.nextData : task.nextTransfer, 36)
        }
        noteLate(task)
        actions += say(answer)
        return actions + finish(task.tag)
    }

    /// A task that only lent its data is over.
    private mutating func endLender(_ task: Task, status: UInt8) -> [Action] {
        if isLending(task) {
            return [
                .failed("data that the client has in part cannot be read again: status \(status)")
            ]
        }
        return finish(task.tag)
    }

    /// Unit attentions of the new nexus are ours to take up (SAM-5 section 5.14). The task is given again, for
    /// immediate delivery: its number is used.
    private mutating func repeatTask(_ task: Task) -> [Action] {
        var task = task
        task.attentions += 1
        task.transfer = nil
        task.waiting = []
        tasks[task.tag] = task
        var pdu = task.command
        pdu[0] |= 0x40
        pdu.commandSequence = nextCommand
        pdu.expectedStatus = server.nextStatus
        return [.toServer(pdu)]
            + task.unsolicited.map { .toServer(numbered($0)) }
    }

    /// CHECK CONDITION with sense key UNIT ATTENTION (SPC-4 section 4.5.6), fixed or descriptor format.
    static func isUnitAttention(_ pdu: ISCSIPDU) -> Bool {
        guard pdu[3] == 0x02, pdu.data.count >= 5 else { return false }
        switch pdu.data[2] & 0x7f {
        case 0x70, 0x71: return pdu.data[4] & 0x0f == 6
        case 0x72, 0x73: return pdu.data[3] & 0x0f == 6
        default: return false
        }
    }

    mutating func finish(_ tag: UInt32) -> [Action] {
        tasks[tag] = nil
        gone.insert(tag)
        return []
    }

    /// A write that ends before the client has sent what it was asked for, or wants to say by itself.
    private mutating func noteLate(_ task: Task) {
        guard Self.isWrite(task.command.encoded()) else { return }
        let announced = task.unsolicited.last ?? task.command
        if task.asked > task.data.count || announced.flags & 0x80 == 0 { late.insert(task.tag) }
    }

    // RFC 7143 section 11.5.1: a task that was aborted gets no response of its own.
    private mutating func takeManagement(_ pdu: ISCSIPDU) -> [Action] {
        let tag = pdu.initiatorTaskTag
        let request = management.removeValue(forKey: tag) ?? tasks[tag]?.command
        guard pdu[2] == 0, let request else { return takeResponse(pdu) }
        let function = request.flags & 0x7f
        for task in tasks.values where task.opcode == ISCSIOpcode.scsiCommand {
            let isSameUnit = (8..<16).allSatisfy { task.command[$0] == request[$0] }
            switch function {
            case 1: guard task.tag == request.field32(20) else { continue }
            case 2, 4, 5: guard isSameUnit else { continue }
            case 6, 7: break
            default: continue
            }
            guard task.isSent else { continue }
            if isLending(task) {
                return [.failed("a task that reads again what the client has in part was aborted")]
            }
            noteLate(task)
            _ = fill(task.tag)
            _ = finish(task.tag)
        }
        return completeReplies() + takeResponse(pdu)
    }

    /// Up to where unfinished replies need a task's data.
    private func needed(_ tag: UInt32) -> Int {
        replies.reduce(0) { most, reply in
            guard reply.header[0] & 0x3f == ISCSIOpcode.dataIn,
                reply.header.field32(16) == tag
            else { return most }
            return max(most, Int(reply.header.field32(40)) + Self.length(reply.header))
        }
    }

    /// An ended task whose data is not all here yet.
    private func isLending(_ task: Task) -> Bool {
        task.isEnded && fetched[task.tag].map { $0.count < needed(task.tag) } == true
    }

    /// Completes what could not be read again, for a client that will be told so; true when that was needed.
    private mutating func fill(_ tag: UInt32) -> Bool {
        let end = needed(tag)
        guard let known = fetched[tag]?.count, known < end else { return false }
        fetched[tag]? += [UInt8](repeating: 0, count: end - known)
        return true
    }
}
