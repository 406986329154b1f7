import DataPlane
import StorageProtocols

/// Carries an iSCSI session between two kernel sockets: logs in to the server first, then passes PDUs with the
/// few header fields changed that differ between the legs, and answers Text requests itself.
///
/// StatSN is each leg's own. CmdSN is the same on both: the login to the server starts with the client's.
final class ISCSIRelay: StreamRelay {
    /// One direction of the stream.
    private struct Direction {
        /// Octets of a header that is not whole yet.
        var header: [UInt8] = []
        /// Octets of the present PDU that are still to pass.
        var remaining: UInt32 = 0
        /// A PDU that is gathered to be answered here.
        var gathered: [UInt8]?
    }

    enum LoginOutcome {
        case established(ISCSIInitiatorResult)
        case failed(status: UInt16, String)
    }

    private var login: ISCSIInitiatorLogin?
    private var loginReader = ISCSIPDUReader(dataMaximum: 1 << 16)
    /// Octets of the client that came before the server was logged in to.
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
    /// Called when the server login is decided, before anything of the backlog goes out.
    var onLogin: (LoginOutcome) -> Void = { _ in }
    private(set) var isEstablished = false

    init(loginResult: ISCSILoginResult, discovery: ISCSIDiscovery) {
        self.loginResult = loginResult
        self.discovery = discovery
    }

    /// Before each connection to a server.
    func prepare(_ login: ISCSIInitiatorLogin) {
        self.login = login
        loginReader.clear()
        directions = [Direction(), Direction()]
        backlog = []
        owed = [:]
        isEstablished = false
    }

    func begin(output: inout RelayOutput) {
        guard var login else { return }
        output.toServer.append(login.start().encoded())
        self.login = login
    }

    /// `clientNext`: StatSN that the client expects next; `serverNext`: the one that the server sends next.
    func setStatus(clientNext: UInt32, serverNext: UInt32) {
        statusDelta = serverNext &- clientNext
    }

    /// What the client sent and nobody has answered: for the session, when the server fails.
    func takeBacklog() -> [UInt8] {
        defer { backlog = [] }
        return backlog
    }

    var wantsClientInput: Bool { isEstablished }

    var isAtRest: Bool {
        isEstablished && owed.isEmpty
            && directions.allSatisfy { $0.header.isEmpty && $0.gathered == nil }
    }

    var messages: SpliceMessages? {
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
            // A server would answer SendTargets with its own address.
            clientHoldKinds: 1 << UInt64(ISCSIOpcode.text))
    }

    func resume(clientHeaderDistance: UInt32, serverHeaderDistance: UInt32) {
        directions = [Direction(), Direction()]
        directions[0].remaining = clientHeaderDistance
        directions[1].remaining = serverHeaderDistance
    }

    // MARK: Octets

    func receive(
        _ bytes: UnsafeRawBufferPointer, from side: SpliceSide, output: inout RelayOutput
    ) throws(RelayError) {
        guard isEstablished else {
            if side == .client { return backlog.append(contentsOf: bytes) }
            return try continueLogin(bytes, output: &output)
        }
        try pass(bytes, from: side, output: &output)
    }

    private func continueLogin(
        _ bytes: UnsafeRawBufferPointer, output: inout RelayOutput
    ) throws(RelayError) {
        loginReader.append(bytes)
        do throws(ISCSIError) {
            while !isEstablished, let pdu = try loginReader.next() {
                for action in login?.receive(pdu) ?? [] {
                    switch action {
                    case .send(let next): output.toServer.append(next.encoded())
                    case .failed(let status, let reason):
                        login = nil
                        return onLogin(.failed(status: status, reason))
                    case .established(let result):
                        login = nil
                        isEstablished = true
                        onLogin(.established(result))
                    }
                }
            }
        } catch {
            return onLogin(.failed(status: 0xffff, "\(error)"))
        }
        guard isEstablished else { return }
        let rest = loginReader.remaining
        loginReader.clear()
        let waiting = takeBacklog()
        try waiting.withBytes { buffer throws(RelayError) in
            try pass(buffer, from: .client, output: &output)
        }
        try rest.withBytes { buffer throws(RelayError) in
            try pass(buffer, from: .server, output: &output)
        }
    }

    private func pass(
        _ bytes: UnsafeRawBufferPointer, from side: SpliceSide, output: inout RelayOutput
    ) throws(RelayError) {
        var position = 0
        while position < bytes.count {
            if directions[side.index].remaining > 0 {
                let count = min(bytes.count - position, Int(directions[side.index].remaining))
                let part = UnsafeRawBufferPointer(rebasing: bytes[position..<position + count])
                if directions[side.index].gathered != nil {
                    directions[side.index].gathered?.append(contentsOf: part)
                } else {
                    output[side.other].append(part)
                }
                directions[side.index].remaining -= UInt32(count)
                position += count
            } else {
                let missing = ISCSIPDU.headerLength - directions[side.index].header.count
                let count = min(missing, bytes.count - position)
                directions[side.index].header += bytes[position..<position + count]
                position += count
                if count == missing { try takeHeader(side, output: &output) }
            }
            if directions[side.index].remaining == 0, let whole = directions[side.index].gathered {
                directions[side.index].gathered = nil
                answerText(whole, output: &output)
            }
        }
    }

    private func takeHeader(
        _ side: SpliceSide, output: inout RelayOutput
    ) throws(RelayError) {
        var header = directions[side.index].header
        directions[side.index].header = []
        let data = UInt32(header[5]) << 16 | UInt32(header[6]) << 8 | UInt32(header[7])
        let padded = (data + 3) & ~3
        directions[side.index].remaining = UInt32(header[4]) * 4 + padded
        let opcode = header[0] & 0x3f
        if side == .client, opcode == ISCSIOpcode.text {
            guard owed.count < Self.owedMaximum else {
                throw RelayError(message: "more than \(Self.owedMaximum) Text requests at once")
            }
            guard data <= UInt32(ISCSIText.maximumLength) else {
                throw RelayError(message: "Text request of \(data) octets")
            }
            directions[0].gathered = header
            return
        }
        let offset = side == .client ? 28 : 24
        let delta = side == .client ? statusDelta : 0 &- statusDelta
        let value = Self.load(header, offset) &+ delta
        for octet in 0..<4 {
            header[offset + octet] = UInt8(truncatingIfNeeded: value >> UInt32(24 - octet * 8))
        }
        if side == .server, opcode == ISCSIOpcode.nopIn,
            let answer = owed.removeValue(forKey: Self.load(header, 16))
        {
            // The server's place in the sequence, our text.
            var stamped = answer
            stamped.statusSequence = value
            stamped.expectedCommand = Self.load(header, 28)
            stamped.maximumCommand = Self.load(header, 32)
            output.toClient.append(stamped.encoded())
            return
        }
        header.withUnsafeBytes { output[side.other].append($0) }
    }

    private static func load(_ header: [UInt8], _ offset: Int) -> UInt32 {
        header[offset..<offset + 4].reduce(0) { $0 << 8 | UInt32($1) }
    }

    /// A Text request is answered here, and the server gets a NOP-Out in its place: so that both count one
    /// command and one response.
    private func answerText(_ whole: [UInt8], output: inout RelayOutput) {
        var reader = ISCSIPDUReader(dataMaximum: ISCSIText.maximumLength)
        reader.append(whole)
        guard let pdu = try? reader.next() else { return }
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
        ping.expectedStatus = pdu.expectedStatus &+ statusDelta
        output.toServer.append(ping.encoded())
    }
}
