package import DataPlane
package import StorageProtocols

/// Another server takes over what one had: what it must finish, and PDUs while it does.
extension ISCSIRelay {
    /// Before the connection to a server that takes the place of another: what it has to finish. The login
    /// must start with the recovery's `firstCommand`.
    package func prepareRecovery(maximumSegment: Int) -> ISCSIRecovery {
        difference.begin(nextCommand: numbers.nextCommand)
        if difference.assignsCommands {
            // Whoever uses several servers tells the client of windows.
            numbers.expectedCommand = numbers.nextCommand
            numbers.maximumCommand = numbers.nextCommand &- 1
        }
        let replies = (log?.keptReplies ?? []).map { reply in
            ISCSIUnfinishedReply(
                header: reply.header, data: reply.data, ended: reply.closed.map(Self.task),
                delivered: max(0, Int(Int32(bitPattern: position - reply.position))))
        }
        return ISCSIRecovery(
            requests: (log?.openRequests ?? []).map(Self.task), replies: replies,
            client: numbers, answers: Array(owed.values) + (recovery?.unsaidAnswers ?? []),
            pings: pings.union(replies.compactMap { Self.ping($0.header) }),
            aborted: aborted, abortedUntil: abortedUntil, maximumSegment: maximumSegment)
    }

    package func prepare(_ login: ISCSIInitiatorLogin, recovery: ISCSIRecovery) {
        mode = .login(ISCSINexusLogin(login, replacing: serverReservations))
        self.recovery = recovery
        owed = [:]
        serverReader.clear()
        isEstablished = false
    }

    /// By the server's units.
    private var serverReservations: [UInt64: ISCSIReservation] {
        guard let unit = difference.unit else { return reservations }
        return Dictionary(
            reservations.map { ($0.key == unit.client ? unit.server : $0.key, $0.value) },
            uniquingKeysWith: { first, _ in first })
    }

    static func task(_ request: LoggedRequest) -> ISCSIOpenTask {
        ISCSIOpenTask(
            tag: UInt32(truncatingIfNeeded: request.id), octets: request.octets,
            isWhole: request.isWhole, dataIn: request.progress[0],
            readyToTransfer: request.progress[1])
    }

    /// The server is gone, or is left. What it had to do stays in the log.
    package func detach() {
        switch mode {
        case .passing:
            cutRemaining = directions[0].remaining
            // The present PDU of the client comes anew as a whole.
            takeClientPart(remaining: directions[0].remaining)
            clientReader.append(directions[0].header)
        case .recovering, .idle, .login: break
        }
        mode = .idle
        directions = [Direction(), Direction()]
        serverReader.clear()
        // Held ones come before what follows them.
        let rest = clientReader.remaining
        clientReader.clear()
        clientReader.append(held)
        clientReader.append(rest)
        held = []
        heldTags = []
        isHolding = false
        isQuietTold = false
        isEstablished = false
        // What it has not finished is done again with the rest.
        former = nil
        wantsSplit = false
        splitRest = nil
    }

    /// The same for a session that was spliced. `position`: of the stream to the client, up to where the
    /// client has it; `clientRemaining`: octets of the client's present message that are still to come.
    package func detachSpliced(position: SequenceNumber, clientRemaining: UInt32) {
        self.position = position
        log?.delivered(position)
        takeNumbers()
        directions = [Direction(), Direction()]
        cutRemaining = clientRemaining
        takeClientPart(remaining: clientRemaining)
        mode = .idle
        serverReader.clear()
        isEstablished = false
    }

    /// The begin of a header that nobody has looked at: for whoever takes the client's stream.
    func takeCutHeader() -> [UInt8] {
        guard cutRemaining == 0 else { return [] }
        defer { clientReader.clear() }
        return clientReader.remaining
    }

    private func takeClientPart(remaining: UInt32) {
        clientReader.clear()
        clientSkip = 0
        cutHeader = nil
        if let gathered = directions[0].gathered {
            clientReader.append(gathered)
            return
        }
        guard remaining > 0 else { return }
        if let part = log?.takeCurrent() {
            clientReader.append(part)
            cutHeader = Array(part.prefix(ISCSIPDU.headerLength))
            // A command that will be told anew has not been counted.
            if part[0] & 0x3f != ISCSIOpcode.dataOut, part[0] & 0x40 == 0 {
                numbers.nextCommand = part.field32(24)
            }
        } else {
            clientSkip = remaining
        }
    }

    /// What the log saw of sequence numbers while the session was spliced.
    func takeNumbers() {
        if let header = log?.newestOpening {
            note(commandIn: header)
        }
        if let header = log?.newestCounted { note(statusIn: header) }
        // Data-Ins without status tell the client of ExpCmdSN and MaxCmdSN as well.
        for request in log?.openRequests ?? [] {
            if let header = request.progress[0] { note(statusIn: header) }
        }
    }

    // MARK: Recovery

    func startRecovery(_ session: ISCSIInitiatorResult, output: inout RelayOutput) {
        mode = .recovering
        isEstablished = true
        onLogin(.established(session))
        guard let actions = recovery?.start(session) else { return }
        // A failure at the start is met again with the next PDU.
        try? take(actions, output: &output)
    }

    func recoverFromClient(
        _ bytes: UnsafeRawBufferPointer, output: inout RelayOutput
    ) throws(RelayError) {
        var bytes = bytes
        if clientSkip > 0 {
            let count = min(bytes.count, Int(clientSkip))
            clientSkip -= UInt32(count)
            bytes = UnsafeRawBufferPointer(rebasing: bytes[count...])
        }
        clientReader.append(bytes)
        try recoverFromClient(output: &output)
    }

    func recoverFromClient(
        _ bytes: [UInt8], output: inout RelayOutput
    ) throws(RelayError) {
        clientReader.append(bytes)
        try recoverFromClient(output: &output)
    }

    func recoverFromClient(output: inout RelayOutput) throws(RelayError) {
        do {
            while case .recovering = mode, let pdu = try clientReader.next() {
                guard let present = try logClient(pdu) else { continue }
                try take(recovery?.receiveFromClient(present) ?? [], output: &output)
                try finishRecovery(output: &output)
            }
            try finishRecovery(output: &output)
        } catch let error as RelayError {
            throw error
        } catch {
            throw RelayError(message: "\(error)")
        }
    }

    /// Notes a PDU of the client; returns what the server gets in its place.
    private func logClient(_ pdu: ISCSIPDU) throws(RelayError) -> ISCSIPDU? {
        let octets = pdu.encoded()
        let header = Array(octets[..<ISCSIPDU.headerLength])
        noteClient(header)
        if pdu.opcode == ISCSIOpcode.text { return try answered(octets) }
        log?.clientHeader(header, kind: pdu.opcode, now: clock())
        octets.withUnsafeBytes {
            log?.clientData(UnsafeRawBufferPointer(rebasing: $0[ISCSIPDU.headerLength...]))
        }
        return difference.numbered(pdu)
    }

    func recoverFromServer(
        _ bytes: UnsafeRawBufferPointer, output: inout RelayOutput
    ) throws(RelayError) {
        serverReader.append(bytes)
        do {
            while case .recovering = mode, let pdu = try serverReader.next() {
                difference.noteWindow(pdu.header)
                try take(recovery?.receiveFromServer(pdu) ?? [], output: &output)
                try finishRecovery(output: &output)
            }
        } catch let error as RelayError {
            throw error
        } catch {
            throw RelayError(message: "\(error)")
        }
    }

    private func take(
        _ actions: [ISCSIRecovery.Action], output: inout RelayOutput
    ) throws(RelayError) {
        for action in actions {
            switch action {
            case .complete(let octets):
                output.toClient.append(octets)
                position += UInt32(octets.count)
                log?.delivered(position)
            case .toClient(let pdu): say(pdu, output: &output)
            case .toServer(let pdu):
                var octets = pdu.encoded()
                difference.unitToServer(&octets)
                output.toServer.append(octets)
            case .failed(let reason): throw RelayError(message: reason)
            }
        }
    }

    /// A whole PDU for the client, numbered.
    private func say(_ pdu: ISCSIPDU, output: inout RelayOutput) {
        var pdu = pdu
        if pdu.opcode == ISCSIOpcode.nopIn,
            let answer = owed.removeValue(forKey: pdu.initiatorTaskTag)
        {
            pdu = stamped(answer, like: pdu)
        }
        var octets = pdu.encoded()
        difference.unitToClient(&octets)
        let header = Array(octets[..<ISCSIPDU.headerLength])
        noteServer(header)
        log?.serverMessage(
            header, kind: pdu.opcode, position: position, length: UInt32(octets.count),
            data: pdu.opcode == ISCSIOpcode.dataIn || pdu.data.isEmpty
                ? nil : Array(octets[ISCSIPDU.headerLength...]), now: clock())
        output.toClient.append(octets)
        position += UInt32(octets.count)
        log?.delivered(position)
    }

    /// Everything of the old server is finished: PDUs pass with constants from here on.
    func finishRecovery(output: inout RelayOutput) throws(RelayError) {
        // The rest of a message that nobody can use must not reach the server.
        guard case .recovering = mode, clientSkip == 0, let machine = recovery,
            machine.isFinished
        else { return }
        mode = .passing
        recovery = nil
        let next = machine.nextStatus
        difference.status = next.server &- next.client
        directions = [Direction(), Direction()]
        let rests = [clientReader.remaining, serverReader.remaining]
        clientReader.clear()
        serverReader.clear()
        for side in SpliceSide.allCases {
            try rests[side.index].withBytes { buffer throws(RelayError) in
                try pass(buffer, from: side, output: &output)
            }
        }
    }
}
