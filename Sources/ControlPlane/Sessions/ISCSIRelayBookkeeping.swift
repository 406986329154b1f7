import DataPlane
import StorageProtocols

/// What is kept of passing PDUs because a new server must know it: numbers, pings, aborted tasks, reservations.
extension ISCSIRelay {
    func note(commandIn header: [UInt8]) {
        let number = header.field32(24)
        let next = header[0] & 0x40 != 0 ? number : number &+ 1
        if Int32(bitPattern: next &- numbers.nextCommand) > 0 { numbers.nextCommand = next }
    }

    func note(statusIn header: [UInt8]) {
        let opcode = header[0] & 0x3f
        let hasNext =
            opcode == ISCSIOpcode.readyToTransfer
            || opcode == ISCSIOpcode.nopIn && header.field32(16) == ISCSIPDU.reservedTag
        if opcode != ISCSIOpcode.dataIn || header[1] & 1 != 0 {
            let next = header.field32(24) &+ (hasNext ? 0 : 1)
            if Int32(bitPattern: next &- numbers.nextStatus) > 0 { numbers.nextStatus = next }
        }
        let expected = header.field32(28)
        if Int32(bitPattern: expected &- numbers.expectedCommand) > 0 {
            numbers.expectedCommand = expected
        }
        let maximum = header.field32(32)
        if Int32(bitPattern: maximum &- numbers.maximumCommand) > 0 {
            numbers.maximumCommand = maximum
        }
    }

    // MARK: What a new server must know

    func noteClient(_ header: [UInt8]) {
        let opcode = header[0] & 0x3f
        guard opcode != ISCSIOpcode.dataOut, opcode != ISCSIOpcode.snack,
            !ISCSIRecovery.isIgnored(header, next: numbers.nextCommand)
        else { return }
        note(commandIn: header)
        if !aborted.isEmpty {
            aborted.remove(header.field32(16))
            if Int32(bitPattern: header.field32(28) &- abortedUntil) >= 0 { aborted = [] }
        }
        if opcode == ISCSIOpcode.nopOut, header.field32(16) == ISCSIPDU.reservedTag {
            pings.remove(header.field32(20))
        }
        switch opcode {
        case ISCSIOpcode.logout: isLoggingOut = true
        case ISCSIOpcode.taskManagement: watched.insert(header.field32(16))
        case ISCSIOpcode.scsiCommand where Self.reservationCommands.contains(header[32]):
            watched.insert(header.field32(16))
        default: break
        }
    }

    /// The tag that the client's answer will have, when a header asks for one (RFC 7143 section 11.19).
    static func ping(_ header: [UInt8]) -> UInt32? {
        let tag = header.field32(20)
        return header[0] & 0x3f == ISCSIOpcode.nopIn && header.field32(16) == ISCSIPDU.reservedTag
            && tag != ISCSIPDU.reservedTag ? tag : nil
    }

    func noteServer(_ header: [UInt8]) {
        note(statusIn: header)
        if let tag = Self.ping(header) { pings.insert(tag) }
        let tag = header.field32(16)
        guard watched.contains(tag) else { return }
        switch header[0] & 0x3f {
        case ISCSIOpcode.taskManagementResponse:
            watched.remove(tag)
            if let request = log?.openRequest(UInt64(tag)) {
                tasksEnded(by: request.octets, response: header[2])
            }
        case ISCSIOpcode.scsiResponse:
            watched.remove(tag)
            if header[3] == 0, let request = log?.openRequest(UInt64(tag)) {
                reserved(by: request.octets)
            }
        case ISCSIOpcode.reject: watched.remove(tag)
        default: break
        }
    }

    // RFC 7143 section 11.5.1: a task that is aborted gets no response of its own.
    private func tasksEnded(by request: [UInt8], response: UInt8) {
        guard response == 0, request.count >= ISCSIPDU.headerLength, let log else { return }
        let function = request[1] & 0x7f
        let own = UInt64(request.field32(16))
        switch function {
        case 1:
            if let task = log.openRequest(UInt64(request.field32(20))) { end(task) }
        case 2, 4, 5, 6, 7:
            for task in log.openRequests where task.id != own {
                let isSameUnit =
                    task.octets.count >= 16 && task.octets.unit == request.unit
                if task.kind == ISCSIOpcode.scsiCommand, function >= 6 || isSameUnit { end(task) }
            }
            // SPC-2 section 5.5.1: a reset ends RESERVE; persistent reservations stay.
            if function >= 5 {
                for unit in reservations.keys where function >= 6 || unit == request.unit {
                    reservations[unit]?.isReserved = false
                }
            }
        default: break
        }
    }

    private func end(_ task: LoggedRequest) {
        let tag = UInt32(truncatingIfNeeded: task.id)
        log?.remove(task.id)
        watched.remove(tag)
        if ISCSIRecovery.isWrite(task.octets) {
            aborted.insert(tag)
            abortedUntil = numbers.nextStatus
        }
    }

    /// A command that changes reservations ended with GOOD (SPC-4 section 6.14, SPC-2 sections 7.21 and 7.27).
    private func reserved(by request: [UInt8]) {
        guard request.count >= ISCSIPDU.headerLength else { return }
        let unit = request.unit
        var present = reservations[unit] ?? ISCSIReservation()
        let key = { (offset: Int) -> UInt64 in
            let start = ISCSIPDU.headerLength + Int(request[4]) * 4 + offset
            guard request.count >= start + 8 else { return 0 }
            return request[start..<start + 8].reduce(0) { $0 << 8 | UInt64($1) }
        }
        switch (request[32], request[33] & 0x1f) {
        case (0x16, _), (0x56, _): present.isReserved = true
        case (0x17, _), (0x57, _): present.isReserved = false
        case (0x5f, 0), (0x5f, 6):
            let new = key(8)
            present.key = new == 0 ? nil : new
            if new == 0 { present.type = nil }
        case (0x5f, 1), (0x5f, 4), (0x5f, 5): present.type = request[34] & 0x0f
        case (0x5f, 2): present.type = nil
        case (0x5f, 3): present = ISCSIReservation()
        default: break
        }
        reservations[unit] = present.isEmpty ? nil : present
    }
}
