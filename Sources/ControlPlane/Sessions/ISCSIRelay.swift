package import DataPlane
package import StorageProtocols

/// Carries an iSCSI session between two kernel sockets: logs in to the server first, then passes PDUs with the
/// few header fields changed that differ between the legs, and answers Text requests itself. What is open is kept
/// in a request log, so that another server can finish it.
///
/// StatSN is each leg's own. CmdSN is the same on both, since the login to the server starts with the client's,
/// unless the client uses its numbers for several servers: see `ISCSILegDifference`.
package final class ISCSIRelay: StreamRelay {
    /// One direction of the stream.
    struct Direction {
        /// Octets of a header that is not whole yet.
        var header: [UInt8] = []
        /// Octets of the present PDU that are still to pass.
        var remaining: UInt32 = 0
        /// A PDU that is gathered: to be answered here, held, or passed as a whole.
        var gathered: [UInt8]?
        /// It is gathered because it has to wait.
        var isHeld = false
        /// It is for the server that was left.
        var isFormer = false
    }

    package enum LoginOutcome {
        case established(ISCSIInitiatorResult)
        case failed(status: UInt16, String)
    }

    enum Mode {
        /// Without a server.
        case idle
        case login(ISCSINexusLogin)
        /// Another server takes the place of the one that was.
        case recovering
        case passing
    }

    var mode = Mode.idle
    /// What the new server has to finish; nil: it is the session's first.
    var recovery: ISCSIRecovery?
    var serverReader = ISCSIPDUReader(dataMaximum: 1 << 24)
    var clientReader = ISCSIPDUReader(dataMaximum: 1 << 24)
    /// Octets of a client's message of which nothing was kept: they are of no use to a new server.
    var clientSkip: UInt32 = 0
    /// Octets of the client that came while there was no server.
    private var backlog: [UInt8] = []
    var directions = [Direction(), Direction()]
    /// In what the legs' headers differ.
    var difference = ISCSILegDifference()
    var discovery: ISCSIDiscovery
    let loginResult: ISCSILoginResult
    /// Text responses that wait for the server's sequence numbers, by task tag.
    var owed: [UInt32: ISCSIPDU] = [:]
    /// Initiators have one at a time.
    static let owedMaximum = 128
    package let log: SessionLog?
    /// ns.
    let clock: () -> UInt64
    /// Where the stream to the client stands, in positions that count on whatever carries it.
    package internal(set) var position = SequenceNumber(0)
    /// What the client was told last, from the login on.
    package internal(set) var numbers: ISCSIClientPosition
    /// Reservations by unit, and commands that may change them, by tag.
    package internal(set) var reservations: [UInt64: ISCSIReservation] = [:]
    var watched: Set<UInt32> = []
    /// Transfer tags of NOP-Ins that the client has not answered.
    var pings: Set<UInt32> = []
    /// Writes that the server has aborted: until the client has acknowledged this StatSN it may still send data
    /// for them.
    var aborted: Set<UInt32> = []
    var abortedUntil: UInt32 = 0
    /// LUN field of the only unit for which this is the client's relay: what is about another, or about the target, is
    /// somebody else's. Nil: everything is for the server.
    var watchedUnit: UInt64?
    /// From the first PDU on that is somebody else's.
    private(set) var foreign: [UInt8]?
    /// Where its numbers were when it became so.
    private var aloneSince: UInt32 = 0
    /// Octets of the client's message that was cut by the end of the server leg.
    var cutRemaining: UInt32 = 0
    /// The header of that message, when it will be told anew as a whole.
    var cutHeader: [UInt8]?
    /// Called when the server login is decided, before anything of the backlog goes out.
    package var onLogin: (LoginOutcome) -> Void = { _ in }
    /// A held session has nothing open any more.
    package var onQuiet: () -> Void = {}
    package internal(set) var isEstablished = false
    var isLoggingOut = false
    /// New requests wait: the session is to change its server.
    package internal(set) var isHolding = false
    var isQuietTold = false
    /// The server is to be left with what is open there; octets that it has sent since it is.
    var wantsSplit = false
    var splitRest: [UInt8]?
    var former: ISCSIFormerServer?
    var held: [UInt8] = []
    /// Requests among them: their unsolicited data waits as well.
    var heldTags: Set<UInt32> = []
    static let heldMaximum = 32 << 20

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

    /// Before the connection to the first server. The login starts with `firstCommand`.
    package func prepare(_ login: ISCSIInitiatorLogin, firstCommand: UInt32) {
        mode = .login(ISCSINexusLogin(login))
        difference.begin(nextCommand: firstCommand)
        recovery = nil
        serverReader.clear()
        directions = [Direction(), Direction()]
        backlog = []
        owed = [:]
        isEstablished = false
    }

    package func begin(output: inout RelayOutput) {
        guard case .login(var login) = mode else { return }
        output.toServer.append(login.start())
        mode = .login(login)
    }

    /// `clientNext`: StatSN that the client expects next; `serverNext`: the one that the server sends next.
    package func setStatus(clientNext: UInt32, serverNext: UInt32) {
        difference.status = serverNext &- clientNext
    }

    /// What the client sent and nobody has answered: for the session, when the first server fails.
    func takeBacklog() -> [UInt8] {
        defer { backlog = [] }
        return backlog
    }

    // MARK: Splice

    var wantsClientInput: Bool { isEstablished }
    var canHold: Bool { isEstablished }

    /// With a log, and until the client says goodbye, a lost server is not the end.
    package var survivesServer: Bool { log != nil && isEstablished && !isLoggingOut }

    package var isSettled: Bool {
        guard case .passing = mode else { return false }
        return foreign == nil && former == nil && owed.isEmpty && watched.isEmpty && held.isEmpty
            && !isHolding && !isLoggingOut
    }

    package var isAtRest: Bool {
        isSettled && directions.allSatisfy { $0.header.isEmpty && $0.gathered == nil }
    }

    package var messages: SpliceMessages? {
        SpliceMessages(
            format: .iscsi,
            clientEdits: difference.clientEdits, serverEdits: difference.serverEdits,
            clientHeaderDistance: directions[0].remaining,
            serverHeaderDistance: directions[1].remaining,
            // A server would answer SendTargets with its own address. What ends other tasks, the session,
            // or changes reservations must be understood, not only passed.
            clientHoldKinds: 1 << UInt64(ISCSIOpcode.text)
                | 1 << UInt64(ISCSIOpcode.taskManagement) | 1 << UInt64(ISCSIOpcode.logout),
            clientHoldRule: MessageHoldRule(
                kind: ISCSIOpcode.scsiCommand, field: MessageFormat.Field(offset: 32, width: 1),
                values: Array(Self.reservationCommands)
                    + (watchedUnit == nil ? [] : [Self.reportUnits])),
            clientRouting: watchedUnit.map {
                MessageRoutingRule(kinds: 1 << UInt64(ISCSIOpcode.scsiCommand), value: $0)
            },
            requests: .iscsi)
    }

    /// REPORT LUNS (SPC-4 section 6.33).
    static let reportUnits: UInt8 = 0xa0

    /// Whether a PDU is about another unit than the watched one, or about the target.
    func isForeign(_ header: [UInt8]) -> Bool {
        guard let watchedUnit else { return false }
        switch header[0] & 0x3f {
        case ISCSIOpcode.scsiCommand:
            return header.unit != watchedUnit || header[32] == Self.reportUnits
        case ISCSIOpcode.text, ISCSIOpcode.logout, ISCSIOpcode.taskManagement: return true
        default: return false
        }
    }

    /// Nothing of the client is passed any more.
    func keepForeign(_ octets: [UInt8]) { foreign = (foreign ?? []) + octets }

    // MARK: A client that uses several servers

    /// Takes the client's stream over, which uses nothing but `unit` for now. `position`: where it stands.
    func beginAlone(unit: UInt64, position: ISCSIClientPosition) {
        let serverStatus = numbers.nextStatus &+ difference.status
        numbers = position
        difference.status = serverStatus &- position.nextStatus
        difference.command = difference.nextCommand &- position.nextCommand
        difference.assignsCommands = false
        watchedUnit = unit
        aloneSince = position.nextCommand
        foreign = nil
    }

    /// Gives the client's stream back: what comes from now on is numbered here again.
    func endAlone() -> [UInt8] {
        difference.nextCommand = numbers.nextCommand &+ difference.command
        difference.endConstant(first: aloneSince, end: numbers.nextCommand)
        // What passed in the dataplane is in the client's numbers only.
        let maximum = numbers.maximumCommand &+ difference.command
        if Int32(bitPattern: maximum &- difference.maximumCommand) > 0 {
            difference.maximumCommand = maximum
        }
        difference.assignsCommands = true
        watchedUnit = nil
        defer { foreign = nil }
        return foreign ?? []
    }

    /// Octets of the client's present message that are still to come.
    var clientRemaining: UInt32 { directions[0].remaining }

    /// The begin of a header of the client that is not whole: for whoever takes its stream.
    func takeHeaderPart() -> [UInt8] {
        defer { directions[0].header = [] }
        return directions[0].header
    }

    /// Octets that the client must get before anything else: of messages that it has in part.
    var unfinishedOctets: Int {
        (log?.keptReplies ?? []).reduce(0) { sum, reply in
            let known = reply.header.withUnsafeBytes {
                $0.baseAddress.flatMap(MessageFormat.iscsi.length)
            }
            let delivered = max(0, Int(Int32(bitPattern: position - reply.position)))
            return sum + max(0, (known ?? 0) - delivered)
        }
    }

    /// The client has this window at least, so that it can go on here.
    func covers(maximumCommand: UInt32, nextCommand: UInt32) -> Bool {
        let command = difference.nextCommand &- nextCommand
        return Int32(bitPattern: difference.maximumCommand &- command &- maximumCommand) >= 0
    }

    /// PERSISTENT RESERVE OUT, RESERVE and RELEASE, of 6 and 10 octets.
    static let reservationCommands: Set<UInt8> = [0x5f, 0x16, 0x17, 0x56, 0x57]

    /// The log goes to the dataplane, whose positions are others.
    package func spliced(at serverPosition: SequenceNumber) {
        log?.shiftReplies(by: serverPosition - position)
        // Answers are not seen there; those that are told there are found among the kept replies.
        pings = []
        aborted = []
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
        case (.idle, .client), (.login, .client): backlog.append(contentsOf: bytes)
        case (.login, .server): try logIn(bytes, output: &output)
        case (.recovering, .client): try recoverFromClient(bytes, output: &output)
        case (.recovering, .server): try recoverFromServer(bytes, output: &output)
        case (.idle, .server): break
        case (.passing, _): try pass(bytes, from: side, output: &output)
        }
    }

    private func logIn(
        _ bytes: UnsafeRawBufferPointer, output: inout RelayOutput
    ) throws(RelayError) {
        guard case .login(var login) = mode else { return }
        var answer: [UInt8] = []
        let outcome = login.receive(bytes, answer: &answer)
        mode = .login(login)
        output.toServer.append(answer)
        switch outcome {
        case .failed(let status, let reason):
            mode = .idle
            onLogin(.failed(status: status, reason))
        case .established(let session):
            try begin(session, rest: login.rest, output: &output)
        case nil: break
        }
    }

    /// The nexus is there. `rest`: what the server has sent behind that.
    func begin(
        _ session: ISCSIInitiatorResult, rest: [UInt8], output: inout RelayOutput
    ) throws(RelayError) {
        difference.maximumCommand = session.maximumCommand
        if recovery != nil {
            startRecovery(session, output: &output)
        } else {
            mode = .passing
            isEstablished = true
            onLogin(.established(session))
        }
        guard isEstablished else { return }
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
}
