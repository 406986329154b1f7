package import DataPlane
package import StorageProtocols

/// Carries an iSCSI session between two kernel sockets: logs in to the server first, then passes PDUs with the
/// few header fields changed that differ between the legs, and answers Text requests itself. What is open is kept
/// in a request log, so that another server can finish it.
///
/// StatSN is each leg's own. CmdSN is the same on both: the login to the server starts with the client's.
package final class ISCSIRelay: StreamRelay {
    /// One direction of the stream.
    private struct Direction {
        /// Octets of a header that is not whole yet.
        var header: [UInt8] = []
        /// Octets of the present PDU that are still to pass.
        var remaining: UInt32 = 0
        /// A PDU that is gathered: to be answered here, held, or passed as a whole.
        var gathered: [UInt8]?
    }

    package enum LoginOutcome {
        case established(ISCSIInitiatorResult)
        case failed(status: UInt16, String)
    }

    private enum Mode {
        /// Without a server.
        case idle
        case login(ISCSIInitiatorLogin)
        /// Another server takes the place of the one that was.
        case setup(ISCSINexusSetup)
        case recovering
        case passing
    }

    private var mode = Mode.idle
    /// What the new server has to finish; nil: it is the session's first.
    private var recovery: ISCSIRecovery?
    private var serverReader = ISCSIPDUReader(dataMaximum: 1 << 24)
    private var clientReader = ISCSIPDUReader(dataMaximum: 1 << 24)
    /// Octets of a client's message of which nothing was kept: they are of no use to a new server.
    private var clientSkip: UInt32 = 0
    /// Octets of the client that came while there was no server.
    private var backlog: [UInt8] = []
    private var directions = [Direction(), Direction()]
    /// Server's StatSN - client's.
    private var statusDelta: UInt32 = 0
    private var discovery: ISCSIDiscovery
    private let loginResult: ISCSILoginResult
    /// Text responses that wait for the server's sequence numbers, by task tag.
    private var owed: [UInt32: ISCSIPDU] = [:]
    /// Initiators have one at a time.
    private static let owedMaximum = 128
    package let log: SessionLog?
    /// ns.
    private let clock: () -> UInt64
    /// Where the stream to the client stands, in positions that count on whatever carries it.
    package private(set) var position = SequenceNumber(0)
    /// What the client was told last, from the login on.
    private var numbers: ISCSIClientPosition
    /// Reservations by unit, and commands that may change them, by tag.
    package private(set) var reservations: [UInt64: ISCSIReservation] = [:]
    private var watched: Set<UInt32> = []
    /// Transfer tags of NOP-Ins that the client has not answered.
    private var pings: Set<UInt32> = []
    /// Called when the server login is decided, before anything of the backlog goes out.
    package var onLogin: (LoginOutcome) -> Void = { _ in }
    /// A held session has nothing open any more.
    package var onQuiet: () -> Void = {}
    package private(set) var isEstablished = false
    private var isLoggingOut = false
    /// New requests wait: the session is to change its server.
    package private(set) var isHolding = false
    private var isQuietTold = false
    private var held: [UInt8] = []
    /// Requests among them: their unsolicited data waits as well.
    private var heldTags: Set<UInt32> = []
    private static let heldMaximum = 32 << 20

    package init(
        loginResult: ISCSILoginResult, discovery: ISCSIDiscovery, log: SessionLog?,
        numbers: ISCSIClientPosition, clock: @escaping () -> UInt64
    ) {
        self.loginResult = loginResult
        self.discovery = discovery
        self.log = log
        self.numbers = numbers
        self.clock = clock
    }

    // MARK: Servers

    /// Before the connection to the first server.
    package func prepare(_ login: ISCSIInitiatorLogin) {
        mode = .login(login)
        recovery = nil
        serverReader.clear()
        directions = [Direction(), Direction()]
        backlog = []
        owed = [:]
        isEstablished = false
    }

    /// Before the connection to a server that takes the place of another: what it has to finish. The login
    /// must start with the recovery's `firstCommand`.
    package func prepareRecovery(maximumSegment: Int) -> ISCSIRecovery {
        let replies = (log?.keptReplies ?? []).map { reply in
            ISCSIUnfinishedReply(
                header: reply.header, data: reply.data, ended: reply.closed.map(Self.task),
                delivered: max(0, Int(Int32(bitPattern: position - reply.position))))
        }
        return ISCSIRecovery(
            requests: (log?.openRequests ?? []).map(Self.task), replies: replies,
            client: numbers, answers: Array(owed.values) + (recovery?.unsaidAnswers ?? []),
            pings: pings.union(replies.compactMap { Self.ping($0.header) }),
            maximumSegment: maximumSegment)
    }

    package func prepare(_ login: ISCSIInitiatorLogin, recovery: ISCSIRecovery) {
        mode = .login(login)
        self.recovery = recovery
        owed = [:]
        serverReader.clear()
        isEstablished = false
    }

    private static func task(_ request: LoggedRequest) -> ISCSIOpenTask {
        ISCSIOpenTask(
            tag: UInt32(truncatingIfNeeded: request.id), octets: request.octets,
            isWhole: request.isWhole, dataIn: request.progress[0],
            readyToTransfer: request.progress[1])
    }

    package func begin(output: inout RelayOutput) {
        guard case .login(var login) = mode else { return }
        output.toServer.append(login.start().encoded())
        mode = .login(login)
    }

    /// `clientNext`: StatSN that the client expects next; `serverNext`: the one that the server sends next.
    package func setStatus(clientNext: UInt32, serverNext: UInt32) {
        statusDelta = serverNext &- clientNext
    }

    /// The server is gone, or is left. What it had to do stays in the log.
    package func detach() {
        switch mode {
        case .passing:
            // The present PDU of the client comes anew as a whole.
            takeClientPart(remaining: directions[0].remaining)
            clientReader.append(directions[0].header)
        case .recovering, .idle, .login, .setup: break
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
    }

    /// The same for a session that was spliced. `position`: of the stream to the client, up to where the
    /// client has it; `clientRemaining`: octets of the client's present message that are still to come.
    package func detachSpliced(position: SequenceNumber, clientRemaining: UInt32) {
        self.position = position
        log?.delivered(position)
        takeNumbers()
        directions = [Direction(), Direction()]
        takeClientPart(remaining: clientRemaining)
        mode = .idle
        serverReader.clear()
        isEstablished = false
    }

    private func takeClientPart(remaining: UInt32) {
        clientReader.clear()
        clientSkip = 0
        if let gathered = directions[0].gathered {
            clientReader.append(gathered)
            return
        }
        guard remaining > 0 else { return }
        if let part = log?.takeCurrent() {
            clientReader.append(part)
            // A command that will be told anew has not been counted.
            if part[0] & 0x3f != ISCSIOpcode.dataOut, part[0] & 0x40 == 0 {
                numbers.nextCommand = Self.load(part, 24)
            }
        } else {
            clientSkip = remaining
        }
    }

    /// What the log saw of sequence numbers while the session was spliced.
    private func takeNumbers() {
        if let header = log?.newestOpening {
            note(commandIn: header)
        }
        if let header = log?.newestCounted { note(statusIn: header) }
        // Data-Ins without status tell the client of ExpCmdSN and MaxCmdSN as well.
        for request in log?.openRequests ?? [] {
            if let header = request.progress[0] { note(statusIn: header) }
        }
    }

    private func note(commandIn header: [UInt8]) {
        let number = Self.load(header, 24)
        let next = header[0] & 0x40 != 0 ? number : number &+ 1
        if Int32(bitPattern: next &- numbers.nextCommand) > 0 { numbers.nextCommand = next }
    }

    private func note(statusIn header: [UInt8]) {
        let opcode = header[0] & 0x3f
        let hasNext =
            opcode == ISCSIOpcode.readyToTransfer
            || opcode == ISCSIOpcode.nopIn && Self.load(header, 16) == ISCSIPDU.reservedTag
        if opcode != ISCSIOpcode.dataIn || header[1] & 1 != 0 {
            let next = Self.load(header, 24) &+ (hasNext ? 0 : 1)
            if Int32(bitPattern: next &- numbers.nextStatus) > 0 { numbers.nextStatus = next }
        }
        let expected = Self.load(header, 28)
        if Int32(bitPattern: expected &- numbers.expectedCommand) > 0 {
            numbers.expectedCommand = expected
        }
        let maximum = Self.load(header, 32)
        if Int32(bitPattern: maximum &- numbers.maximumCommand) > 0 {
            numbers.maximumCommand = maximum
        }
    }

    /// What the client sent and nobody has answered: for the session, when the first server fails.
    func takeBacklog() -> [UInt8] {
        defer { backlog = [] }
        return backlog
    }

    // MARK: Splice

    var wantsClientInput: Bool { isEstablished }

    /// With a log, and until the client says goodbye, a lost server is not the end.
    package var survivesServer: Bool { log != nil && isEstablished && !isLoggingOut }

    package var isAtRest: Bool {
        guard case .passing = mode else { return false }
        return owed.isEmpty && watched.isEmpty && held.isEmpty && !isHolding && !isLoggingOut
            && directions.allSatisfy { $0.header.isEmpty && $0.gathered == nil }
    }

    package var messages: SpliceMessages? {
        SpliceMessages(
            format: .iscsi,
            clientEdits: [
                MessageEdit(
                    field: MessageFormat.Field(offset: 28, width: 4),
                    operation: .add(UInt64(statusDelta)))
            ],
            serverEdits: [
                MessageEdit(
                    field: MessageFormat.Field(offset: 24, width: 4),
                    operation: .add(UInt64(0 &- statusDelta)))
            ],
            clientHeaderDistance: directions[0].remaining,
            serverHeaderDistance: directions[1].remaining,
            // A server would answer SendTargets with its own address. What ends other tasks, the session,
            // or changes reservations must be understood, not only passed.
            clientHoldKinds: 1 << UInt64(ISCSIOpcode.text)
                | 1 << UInt64(ISCSIOpcode.taskManagement) | 1 << UInt64(ISCSIOpcode.logout),
            clientHoldRule: MessageHoldRule(
                kind: ISCSIOpcode.scsiCommand, field: MessageFormat.Field(offset: 32, width: 1),
                values: Array(Self.reservationCommands)),
            requests: .iscsi)
    }

    /// PERSISTENT RESERVE OUT, RESERVE and RELEASE, of 6 and 10 octets.
    private static let reservationCommands: Set<UInt8> = [0x5f, 0x16, 0x17, 0x56, 0x57]

    /// The log goes to the dataplane, whose positions are others.
    package func spliced(at serverPosition: SequenceNumber) {
        log?.shiftReplies(by: serverPosition - position)
        // Answers are not seen there; those that are told there are found among the kept replies.
        pings = []
        position = serverPosition
    }

    package func resume(
        position: SequenceNumber, clientHeaderDistance: UInt32, serverHeaderDistance: UInt32
    ) {
        self.position = position
        log?.delivered(position)
        takeNumbers()
        directions = [Direction(), Direction()]
        directions[0].remaining = clientHeaderDistance
        directions[1].remaining = serverHeaderDistance
    }

    // MARK: Octets

    package func receive(
        _ bytes: UnsafeRawBufferPointer, from side: SpliceSide, output: inout RelayOutput
    ) throws(RelayError) {
        switch (mode, side) {
        case (.idle, .client), (.login, .client), (.setup, .client):
            backlog.append(contentsOf: bytes)
        case (.login, .server), (.setup, .server): try makeNexus(bytes, output: &output)
        case (.recovering, .client): try recoverFromClient(bytes, output: &output)
        case (.recovering, .server): try recoverFromServer(bytes, output: &output)
        case (.idle, .server): break
        case (.passing, _): try pass(bytes, from: side, output: &output)
        }
    }

    private func makeNexus(
        _ bytes: UnsafeRawBufferPointer, output: inout RelayOutput
    ) throws(RelayError) {
        serverReader.append(bytes)
        do throws(ISCSIError) {
            while let pdu = try serverReader.next() {
                switch mode {
                case .login(var machine):
                    let actions = machine.receive(pdu)
                    mode = .login(machine)
                    for action in actions {
                        switch action {
                        case .send(let next): output.toServer.append(next.encoded())
                        case .failed(let status, let reason):
                            mode = .idle
                            return onLogin(.failed(status: status, reason))
                        case .established(let result): loggedIn(result, output: &output)
                        }
                    }
                case .setup(var machine):
                    let actions = machine.receive(pdu)
                    mode = .setup(machine)
                    for action in actions {
                        switch action {
                        case .send(let next): output.toServer.append(next.encoded())
                        case .failed(let reason):
                            mode = .idle
                            return onLogin(.failed(status: 0xfffe, reason))
                        case .ready: startRecovery(machine.session, output: &output)
                        }
                    }
                case .idle, .recovering, .passing: break
                }
                if isEstablished { break }
            }
        } catch {
            mode = .idle
            return onLogin(.failed(status: 0xffff, "\(error)"))
        }
        guard isEstablished else { return }
        let rest = serverReader.remaining
        serverReader.clear()
        let waiting = takeBacklog()
        if case .recovering = mode {
            try recoverFromClient([], output: &output)
            try finishRecovery(output: &output)
        }
        try waiting.withBytes { buffer throws(RelayError) in
            try receive(buffer, from: .client, output: &output)
        }
        try rest.withBytes { buffer throws(RelayError) in
            try receive(buffer, from: .server, output: &output)
        }
    }

    private func loggedIn(_ result: ISCSIInitiatorResult, output: inout RelayOutput) {
        guard recovery != nil else {
            mode = .passing
            isEstablished = true
            return onLogin(.established(result))
        }
        var setup = ISCSINexusSetup(result, reservations: reservations)
        output.toServer.append(setup.start().encoded())
        mode = .setup(setup)
    }

    // MARK: Recovery

    private func startRecovery(_ session: ISCSIInitiatorResult, output: inout RelayOutput) {
        mode = .recovering
        isEstablished = true
        onLogin(.established(session))
        guard let actions = recovery?.start(session) else { return }
        // A failure at the start is met again with the next PDU.
        try? take(actions, output: &output)
    }

    private func recoverFromClient(
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

    private func recoverFromClient(
        _ bytes: [UInt8], output: inout RelayOutput
    ) throws(RelayError) {
        clientReader.append(bytes)
        try recoverFromClient(output: &output)
    }

    private func recoverFromClient(output: inout RelayOutput) throws(RelayError) {
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
        return pdu
    }

    private func recoverFromServer(
        _ bytes: UnsafeRawBufferPointer, output: inout RelayOutput
    ) throws(RelayError) {
        serverReader.append(bytes)
        do {
            while case .recovering = mode, let pdu = try serverReader.next() {
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
            case .toServer(let pdu): output.toServer.append(pdu.encoded())
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
        let octets = pdu.encoded()
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
    private func finishRecovery(output: inout RelayOutput) throws(RelayError) {
        // The rest of a message that nobody can use must not reach the server.
        guard case .recovering = mode, clientSkip == 0, let machine = recovery,
            machine.isFinished
        else { return }
        mode = .passing
        recovery = nil
        let next = machine.nextStatus
        statusDelta = next.server &- next.client
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

    // MARK: Passing

    private func pass(
        _ bytes: UnsafeRawBufferPointer, from side: SpliceSide, output: inout RelayOutput
    ) throws(RelayError) {
        var offset = 0
        while offset < bytes.count {
            if directions[side.index].remaining > 0 {
                let count = min(bytes.count - offset, Int(directions[side.index].remaining))
                let part = UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count])
                if directions[side.index].gathered != nil {
                    directions[side.index].gathered?.append(contentsOf: part)
                } else {
                    output[side.other].append(part)
                    if side == .client {
                        log?.clientData(part)
                    } else {
                        position += UInt32(count)
                    }
                }
                directions[side.index].remaining -= UInt32(count)
                offset += count
            } else {
                let missing = ISCSIPDU.headerLength - directions[side.index].header.count
                let count = min(missing, bytes.count - offset)
                directions[side.index].header += bytes[offset..<offset + count]
                offset += count
                if count == missing { try takeHeader(side, output: &output) }
            }
            if directions[side.index].remaining == 0, let whole = directions[side.index].gathered {
                directions[side.index].gathered = nil
                try takeGathered(whole, from: side, output: &output)
            }
            if side == .client, !isHolding, !held.isEmpty, directions[0].remaining == 0,
                directions[0].header.isEmpty
            {
                try passHeld(output: &output)
            }
        }
        if side == .server { log?.delivered(position) }
        tellIfQuiet()
    }

    private func takeHeader(
        _ side: SpliceSide, output: inout RelayOutput
    ) throws(RelayError) {
        var header = directions[side.index].header
        directions[side.index].header = []
        let data = UInt32(header[5]) << 16 | UInt32(header[6]) << 8 | UInt32(header[7])
        let padded = (data + 3) & ~3
        let rest = UInt32(header[4]) * 4 + padded
        directions[side.index].remaining = rest
        let opcode = header[0] & 0x3f
        if side == .client {
            if opcode == ISCSIOpcode.text, data > UInt32(ISCSIText.maximumLength) {
                throw RelayError(message: "Text request of \(data) octets")
            }
            if opcode == ISCSIOpcode.text || isHolding && mustWait(header) {
                directions[0].gathered = header
                return
            }
            noteClient(header)
            log?.clientHeader(header, kind: opcode, now: clock())
            Self.add(statusDelta, to: &header, at: 28)
            header.withUnsafeBytes { output.toServer.append($0) }
            return
        }
        Self.add(0 &- statusDelta, to: &header, at: 24)
        // What the client must not have in part only.
        let isGathered = opcode != ISCSIOpcode.dataIn && rest > 0 && rest <= 4_096 - 48
        if isGathered {
            directions[1].gathered = header
            return
        }
        if opcode == ISCSIOpcode.nopIn, rest == 0, owed[Self.load(header, 16)] != nil {
            return sayWhole(header, output: &output)
        }
        passed(header, length: UInt32(header.count) + rest, data: nil)
        header.withUnsafeBytes { output.toClient.append($0) }
        position += UInt32(header.count)
    }

    /// Of a session that is held: data for open requests goes on, nothing else.
    private func mustWait(_ header: [UInt8]) -> Bool {
        header[0] & 0x3f != ISCSIOpcode.dataOut || heldTags.contains(Self.load(header, 16))
    }

    private func takeGathered(
        _ whole: [UInt8], from side: SpliceSide, output: inout RelayOutput
    ) throws(RelayError) {
        guard side == .client else { return sayWhole(whole, output: &output) }
        if isHolding {
            guard held.count + whole.count <= Self.heldMaximum else {
                throw RelayError(message: "the client sends too much while its server changes")
            }
            held += whole
            if whole[0] & 0x3f != ISCSIOpcode.dataOut { heldTags.insert(Self.load(whole, 16)) }
            return
        }
        noteClient(Array(whole[..<ISCSIPDU.headerLength]))
        guard var ping = try answered(whole) else { return }
        ping.expectedStatus = ping.expectedStatus &+ statusDelta
        output.toServer.append(ping.encoded())
    }

    /// A message of the server that is complete; `octets` with the client's numbers.
    private func sayWhole(_ octets: [UInt8], output: inout RelayOutput) {
        var octets = octets
        let opcode = octets[0] & 0x3f
        if opcode == ISCSIOpcode.nopIn,
            let answer = owed.removeValue(forKey: Self.load(octets, 16))
        {
            var stamped = answer
            stamped.statusSequence = Self.load(octets, 24)
            stamped.expectedCommand = Self.load(octets, 28)
            stamped.maximumCommand = Self.load(octets, 32)
            octets = stamped.encoded()
        }
        let header = Array(octets[..<ISCSIPDU.headerLength])
        passed(
            header, length: UInt32(octets.count),
            data: octets.count > header.count ? Array(octets[header.count...]) : nil)
        output.toClient.append(octets)
        position += UInt32(octets.count)
    }

    private func stamped(_ answer: ISCSIPDU, like pdu: ISCSIPDU) -> ISCSIPDU {
        var answer = answer
        answer.statusSequence = pdu.statusSequence
        answer.expectedCommand = pdu.expectedCommand
        answer.maximumCommand = pdu.maximumCommand
        return answer
    }

    /// A message of the server is about to go to the client.
    private func passed(_ header: [UInt8], length: UInt32, data: [UInt8]?) {
        noteServer(header)
        log?.serverMessage(
            header, kind: header[0] & 0x3f, position: position, length: length, data: data,
            now: clock())
    }

    private static func add(_ value: UInt32, to header: inout [UInt8], at offset: Int) {
        let sum = load(header, offset) &+ value
        for octet in 0..<4 {
            header[offset + octet] = UInt8(truncatingIfNeeded: sum >> UInt32(24 - octet * 8))
        }
    }

    private static func load(_ header: [UInt8], _ offset: Int) -> UInt32 {
        header[offset..<offset + 4].reduce(0) { $0 << 8 | UInt32($1) }
    }

    private static func unit(_ header: [UInt8]) -> UInt64 {
        header[8..<16].reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// A Text request is answered here, and the server gets a NOP-Out in its place: so that both count one
    /// command and one response.
    private func answered(_ whole: [UInt8]) throws(RelayError) -> ISCSIPDU? {
        guard owed.count < Self.owedMaximum else {
            throw RelayError(message: "more than \(Self.owedMaximum) Text requests at once")
        }
        var reader = ISCSIPDUReader(dataMaximum: ISCSIText.maximumLength)
        reader.append(whole)
        guard let pdu = try? reader.next() else { return nil }
        var answer: ISCSIPDU
        do throws(ISCSIRejectReason) {
            answer = try discovery.answer(pdu, login: loginResult)
            answer.initiatorTaskTag = pdu.initiatorTaskTag
        } catch {
            answer = ISCSIPDU(rejecting: pdu, error)
        }
        owed[pdu.initiatorTaskTag] = answer
        var ping = ISCSIPDU(
            opcode: ISCSIOpcode.nopOut, flags: 0x80, isImmediate: pdu.isImmediate)
        ping.initiatorTaskTag = pdu.initiatorTaskTag
        ping.targetTransferTag = ISCSIPDU.reservedTag
        ping.commandSequence = pdu.commandSequence
        ping.expectedStatus = pdu.expectedStatus
        return ping
    }

    // MARK: What a new server must know

    private func noteClient(_ header: [UInt8]) {
        let opcode = header[0] & 0x3f
        guard opcode != ISCSIOpcode.dataOut, opcode != ISCSIOpcode.snack else { return }
        note(commandIn: header)
        if opcode == ISCSIOpcode.nopOut, Self.load(header, 16) == ISCSIPDU.reservedTag {
            pings.remove(Self.load(header, 20))
        }
        switch opcode {
        case ISCSIOpcode.logout: isLoggingOut = true
        case ISCSIOpcode.taskManagement: watched.insert(Self.load(header, 16))
        case ISCSIOpcode.scsiCommand where Self.reservationCommands.contains(header[32]):
            watched.insert(Self.load(header, 16))
        default: break
        }
    }

    /// The tag that the client's answer will have, when a header asks for one (RFC 7143 section 11.19).
    private static func ping(_ header: [UInt8]) -> UInt32? {
        let tag = load(header, 20)
        return header[0] & 0x3f == ISCSIOpcode.nopIn && load(header, 16) == ISCSIPDU.reservedTag
            && tag != ISCSIPDU.reservedTag ? tag : nil
    }

    private func noteServer(_ header: [UInt8]) {
        note(statusIn: header)
        if let tag = Self.ping(header) { pings.insert(tag) }
        let tag = Self.load(header, 16)
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
        let own = UInt64(Self.load(request, 16))
        switch function {
        case 1:
            log.remove(UInt64(Self.load(request, 20)))
            watched.remove(Self.load(request, 20))
        case 2, 4, 5, 6, 7:
            for task in log.openRequests where task.id != own {
                let isSameUnit =
                    task.octets.count >= 16 && Self.unit(task.octets) == Self.unit(request)
                if task.kind == ISCSIOpcode.scsiCommand, function >= 6 || isSameUnit {
                    log.remove(task.id)
                    watched.remove(UInt32(truncatingIfNeeded: task.id))
                }
            }
            // SPC-2 section 5.5.1: a reset ends RESERVE; persistent reservations stay.
            if function >= 5 {
                for unit in reservations.keys where function >= 6 || unit == Self.unit(request) {
                    reservations[unit]?.isReserved = false
                }
            }
        default: break
        }
    }

    /// A command that changes reservations ended with GOOD (SPC-4 section 6.14, SPC-2 sections 7.21 and 7.27).
    private func reserved(by request: [UInt8]) {
        guard request.count >= ISCSIPDU.headerLength else { return }
        let unit = Self.unit(request)
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

    // MARK: Change of server

    /// New requests wait from now on; `onQuiet` tells when those that are open have ended.
    package func hold() {
        isHolding = true
        isQuietTold = false
        tellIfQuiet()
    }

    /// The change is given up: what waited goes on.
    package func release(output: inout RelayOutput) throws(RelayError) {
        isHolding = false
        // Behind data that is on its way to the server.
        guard directions[0].remaining == 0 || directions[0].gathered != nil else { return }
        // What has come of a PDU follows those that waited.
        held += directions[0].gathered ?? directions[0].header
        directions[0] = Direction()
        try passHeld(output: &output)
    }

    private func passHeld(output: inout RelayOutput) throws(RelayError) {
        let waiting = held
        held = []
        heldTags = []
        try waiting.withBytes { buffer throws(RelayError) in
            try pass(buffer, from: .client, output: &output)
        }
    }

    private func tellIfQuiet() {
        guard isHolding, !isQuietTold, case .passing = mode, log?.openCount == 0, owed.isEmpty,
            directions[1].remaining == 0, directions[1].header.isEmpty,
            directions[1].gathered == nil
        else { return }
        isQuietTold = true
        onQuiet()
    }
}
