import DataPlane
package import StorageProtocols

/// A server that was left while requests are open there: it finishes them, while another one gets all that is new.
struct ISCSIFormerServer {
    /// Tasks that are open there.
    var tags: Set<UInt32>
    /// In what its leg differs from the client's. Its sequence numbers are not used any more: what it says is numbered
    /// anew, between what the present server says.
    var difference: ISCSILegDifference
    /// StatSN that it sends next: what we have of it counts as acknowledged.
    var nextStatus: UInt32
    var reader = ISCSIPDUReader(dataMaximum: 1 << 24)
    /// Whole PDUs that wait for the end of one of the present server.
    var waiting: [ISCSIPDU] = []
}

/// The change from one server to another without a pause: what is open stays with the one, what is new goes to the
/// other. The rules are in DESIGN.md, "Servers change, sessions stay".
extension ISCSIRelay {
    // MARK: The server is left

    /// For a relay that holds new requests: as soon as the server is between two messages it is left as it is, with what
    /// is open; `onQuiet` tells, and `isSplit` says so. Not when what is open has an order to what comes.
    package func splitWhenPossible() {
        wantsSplit = true
        if splitIfPossible() { tellSplit() }
    }

    /// The server's octets are kept from here on, for whoever takes it over as the former one.
    package var isSplit: Bool { splitRest != nil }

    /// True when it has become so now.
    func splitIfPossible() -> Bool {
        guard wantsSplit, splitRest == nil, canSplit, directions[1].remaining == 0,
            directions[1].gathered == nil
        else { return false }
        splitRest = directions[1].header
        directions[1].header = []
        return true
    }

    func tellSplit() {
        wantsSplit = false
        isQuietTold = true
        onQuiet()
    }

    /// The same server goes on.
    package func undoSplit(output: inout RelayOutput) throws(RelayError) {
        wantsSplit = false
        guard let rest = splitRest else { return }
        splitRest = nil
        try rest.withBytes { buffer throws(RelayError) in
            try pass(buffer, from: .server, output: &output)
        }
    }

    /// Most of them: more would make the search for one slow.
    private static let splitMaximum = 256

    private var canSplit: Bool {
        guard isHolding, former == nil, case .passing = mode, let log, log.openCount > 0,
            log.openCount <= Self.splitMaximum, canChangeWithConstants
        else { return false }
        return log.openRequests.allSatisfy { request in
            request.octets.count >= ISCSIPDU.headerLength && !Self.hasOrder(request.octets)
        }
    }

    // SAM-5 section 8.6: a task with the SIMPLE attribute may be done in any order among others like it; ORDERED, HEAD
    // OF QUEUE and ACA ones may not. RFC 7143 section 11.3.1 has the codes: 0 untagged, 1 simple.
    /// A request that must not overtake others, nor be overtaken: task management ends what is open, a reservation
    /// decides who may do what comes.
    static func hasOrder(_ header: [UInt8]) -> Bool {
        switch header[0] & 0x3f {
        case ISCSIOpcode.scsiCommand:
            header[1] & 7 > 1 || reservationCommands.contains(header[32])
        case ISCSIOpcode.nopOut: false
        default: true
        }
    }

    // MARK: Another one takes over

    /// Nothing is open that has to be done again, or said again, or be known to the next server.
    private var canChangeWithConstants: Bool {
        owed.isEmpty && watched.isEmpty && pings.isEmpty && aborted.isEmpty && reservations.isEmpty
            && directions[1].remaining == 0
    }

    /// No message of the client is on its way to the server.
    var isClientBetweenMessages: Bool {
        directions[0].remaining == 0 || directions[0].gathered != nil
    }
    /// Held, and either nothing is open or what is stays with the server.
    package var isReadyToChange: Bool { isQuiet || isSplit && isClientBetweenMessages }

    /// Whether a server that was logged in to beforehand can take the place of the present one without a recovery.
    package func canTakeOver(_ session: ISCSIInitiatorResult) -> Bool {
        guard case .passing = mode, isReadyToChange, isClientBetweenMessages, canChangeWithConstants
        else { return false }
        // A command beyond what a server takes would be lost without a word.
        let told = numbers.maximumCommand &- numbers.nextCommand
        let room = session.maximumCommand &- session.expectedCommand
        return difference.assignsCommands || Int32(bitPattern: room &- told) >= 0
    }

    /// It does: the present one has nothing open, or is split. False: it cannot, and nothing has changed.
    package func takeOver(
        _ session: ISCSIInitiatorResult, rest: [UInt8], output: inout RelayOutput
    ) throws(RelayError) -> Bool {
        guard canTakeOver(session) else { return false }
        var next = difference
        next.begin(nextCommand: session.expectedCommand)
        next.maximumCommand = session.maximumCommand
        next.command = session.expectedCommand &- numbers.nextCommand
        next.status = session.nextStatus &- numbers.nextStatus
        if let rest = splitRest { makeFormer(rest) }
        difference = next
        isHolding = false
        isQuietTold = false
        wantsSplit = false
        serverReader.clear()
        onLogin(.established(session))
        guard isEstablished else { return true }
        try passWaiting(output: &output)
        try rest.withBytes { buffer throws(RelayError) in
            try pass(buffer, from: .server, output: &output)
        }
        try flushFormer(output: &output)
        return true
    }

    private func makeFormer(_ rest: [UInt8]) {
        var server = ISCSIFormerServer(
            tags: Set((log?.openRequests ?? []).map { UInt32(truncatingIfNeeded: $0.id) }),
            difference: difference, nextStatus: numbers.nextStatus &+ difference.status)
        server.reader.append(rest)
        former = server
        splitRest = nil
    }

    /// What the client has sent meanwhile: what was held, then what has come of the present PDU.
    private func passWaiting(output: inout RelayOutput) throws(RelayError) {
        let waiting = held + (directions[0].gathered ?? directions[0].header)
        held = []
        heldTags = []
        directions = [Direction(), Direction()]
        try waiting.withBytes { buffer throws(RelayError) in
            try pass(buffer, from: .client, output: &output)
        }
    }

    // MARK: While both are there

    /// Data of a task that the former server has.
    func isForFormer(_ header: [UInt8]) -> Bool {
        header[0] & 0x3f == ISCSIOpcode.dataOut
            && former?.tags.contains(header.field32(16)) == true
    }

    /// A Data-Out as the former server must get it: it has no CmdSN (RFC 7143 section 11.7).
    func toFormer(_ header: inout [UInt8]) {
        guard let former else { return }
        header.set(former.nextStatus, at: 28)
        former.difference.unitToServer(&header)
    }

    /// Octets of the former server.
    package func receiveFromFormer(
        _ bytes: UnsafeRawBufferPointer, output: inout RelayOutput
    ) throws(RelayError) {
        former?.reader.append(bytes)
        try flushFormer(output: &output)
    }

    /// Says what the former server has said, where nothing of the present one is half said.
    package func flushFormer(output: inout RelayOutput) throws(RelayError) {
        guard former != nil else { return }
        do {
            while let pdu = try former?.reader.next() { former?.waiting.append(pdu) }
        } catch {
            throw RelayError(message: "the former server: \(error)")
        }
        guard case .passing = mode, directions[1].remaining == 0, directions[1].gathered == nil
        else { return }
        let waiting = former?.waiting ?? []
        former?.waiting = []
        for pdu in waiting { sayOfFormer(pdu, output: &output) }
        log?.delivered(position)
    }

    private func sayOfFormer(_ pdu: ISCSIPDU, output: inout RelayOutput) {
        var octets = pdu.encoded()
        let hasStatus = pdu.opcode != ISCSIOpcode.dataIn || octets[1] & 1 != 0
        let isQuestion =
            pdu.opcode == ISCSIOpcode.nopIn && pdu.initiatorTaskTag == ISCSIPDU.reservedTag
        let takesNumber =
            hasStatus && pdu.opcode != ISCSIOpcode.readyToTransfer && !isQuestion
        if hasStatus {
            former?.nextStatus = pdu.statusSequence &+ (takesNumber ? 1 : 0)
        }
        // The client has another server to be asked by, and to be told of what befalls it.
        if isQuestion { return answer(pdu, output: &output) }
        if pdu.opcode == ISCSIOpcode.asyncMessage { return }
        former?.difference.unitToClient(&octets)
        if hasStatus { octets.set(numbers.nextStatus, at: 24) }
        octets.set(numbers.expectedCommand, at: 28)
        octets.set(numbers.maximumCommand, at: 32)
        if takesNumber { difference.status &-= 1 }
        let header = Array(octets[..<ISCSIPDU.headerLength])
        let isEnd =
            pdu.opcode == ISCSIOpcode.scsiResponse || pdu.opcode == ISCSIOpcode.nopIn
            || pdu.opcode == ISCSIOpcode.dataIn && hasStatus
        passed(
            header, length: UInt32(octets.count),
            data: pdu.opcode == ISCSIOpcode.dataIn || pdu.data.isEmpty
                ? nil : Array(octets[ISCSIPDU.headerLength...]))
        output.toClient.append(octets)
        position += UInt32(octets.count)
        if isEnd { former?.tags.remove(pdu.initiatorTaskTag) }
        guard pdu.opcode == ISCSIOpcode.reject, let log, let tags = former?.tags else { return }
        // A rejected command is named in the data of the Reject: the log has found out which it was.
        former?.tags = tags.filter { log.openRequest(UInt64($0)) != nil }
    }

    /// RFC 7143 section 11.18: the answer has the transfer tag of the question, and is immediate.
    private func answer(_ question: ISCSIPDU, output: inout RelayOutput) {
        guard question.targetTransferTag != ISCSIPDU.reservedTag, let former else { return }
        var answer = ISCSIPDU(opcode: ISCSIOpcode.nopOut, flags: 0x80, isImmediate: true)
        answer.initiatorTaskTag = ISCSIPDU.reservedTag
        answer.targetTransferTag = question.targetTransferTag
        for index in 8..<16 { answer[index] = question[index] }
        answer.commandSequence = former.difference.command &+ numbers.nextCommand
        answer.expectedStatus = former.nextStatus
        output.toFormer.append(answer.encoded())
    }

    /// All is said that was open there.
    package var isFormerDone: Bool {
        former.map { $0.tags.isEmpty && $0.waiting.isEmpty } ?? false
    }

    /// It is not needed any more: what had to wait for it goes on.
    package func formerEnded(output: inout RelayOutput) throws(RelayError) {
        former = nil
        try passHeldIfPossible(output: &output)
        if splitIfPossible() { return tellSplit() }
        tellIfQuiet()
    }
}
