import StorageProtocols
import TestSupport
import Testing

/// Truncated and changed streams: refused or waited for, never served wrongly.
@Suite struct MalformedTests {
    /// What became of a client's stream.
    private enum End { case established(ISCSILoginResult), refused, waiting }

    private func serve(_ stream: [UInt8], _ recording: RecordedLoginTests.Recording) -> End {
        var login = RecordedLoginTests.target(for: recording)
        var session: ISCSITargetSession?
        var result: ISCSILoginResult?
        var reader = ISCSIPDUReader(dataMaximum: 8_192)
        reader.append(stream)
        do {
            while let pdu = try reader.next() {
                if var current = session {
                    for action in current.receive(pdu) {
                        if case .send(let answer) = action {
                            #expect(answer.encoded().count % 4 == 0)
                        }
                        if action == .needServer {
                            _ = current.refuse(pdu, sense: (key: 2, code: 4, qualifier: 1))
                        }
                    }
                    session = current
                    continue
                }
                for action in login.receive(pdu) {
                    if action.failure != nil { return .refused }
                    if let established = action.established {
                        result = established
                        session = ISCSITargetSession(
                            established,
                            discovery: ISCSIDiscovery(targets: DiscoveryTests.targets))
                    }
                }
            }
        } catch {
            return .refused
        }
        return result.map { .established($0) } ?? .waiting
    }

    /// Octets of the login alone.
    private func loginLength(_ stream: [UInt8]) throws -> Int {
        try pdus(stream).prefix { $0.opcode == ISCSIOpcode.login }.reduce(0) {
            $0 + $1.encoded().count
        }
    }

    @Test(arguments: RecordedLoginTests.recordings)
    func `a login that was cut off is waited for`(recording: RecordedLoginTests.Recording) throws {
        let stream = recording.connection.client
        let length = try loginLength(stream)
        for end in 0...stream.count {
            switch serve(Array(stream[..<end]), recording) {
            case .waiting: #expect(end < length)
            case .established: #expect(end >= length)
            case .refused: Issue.record("refused after \(end) octets")
            }
        }
    }

    @Test(arguments: RecordedLoginTests.recordings)
    func `every PDU with its text cut short`(recording: RecordedLoginTests.Recording) throws {
        let client = try pdus(recording.connection.client)
        for (index, pdu) in client.enumerated() where pdu.opcode == ISCSIOpcode.login {
            for length in 0..<pdu.data.count {
                var changed = client
                changed[index].data = Array(pdu.data.prefix(length))
                let end = serve(changed.flatMap { $0.encoded() }, recording)
                // Without its proof nobody gets in.
                if pdu.text["CHAP_R"] != nil, case .established(let result) = end {
                    #expect(result.user == Recorded.user)
                    #expect(changed[index].text["CHAP_R"] == pdu.text["CHAP_R"])
                }
            }
        }
    }

    @Test(arguments: RecordedLoginTests.recordings)
    func `every bit of a login changed`(recording: RecordedLoginTests.Recording) throws {
        let stream = recording.connection.client
        let length = try loginLength(stream)
        var (established, refused, waiting) = (0, 0, 0)
        for bit in 0..<length * 8 {
            var changed = stream
            changed[bit / 8] ^= 1 << UInt8(bit % 8)
            switch serve(changed, recording) {
            case .refused: refused += 1
            case .waiting: waiting += 1
            case .established(let result):
                established += 1
                #expect(result.targetName == (result.isDiscovery ? nil : Recorded.target))
                #expect(result.user == (recording.challenge.isEmpty ? nil : Recorded.user))
            }
        }
        // Each kind of end is met: reserved fields do not matter, names and lengths do.
        #expect(established > 0)
        #expect(refused > 0)
        #expect(waiting > 0)
    }

    @Test(arguments: RecordedLoginTests.recordings)
    func `random changes of whole connections`(recording: RecordedLoginTests.Recording) {
        var random = SplitMix64(seed: 7)
        for _ in 0..<3_000 {
            var stream = recording.connection.client
            for _ in 0..<Int.random(in: 1...6, using: &random) {
                let place = Int.random(in: 0..<stream.count, using: &random)
                switch Int.random(in: 0..<4, using: &random) {
                case 0: stream[place] = UInt8.random(in: 0...255, using: &random)
                case 1: stream.remove(at: place)
                case 2: stream.insert(UInt8.random(in: 0...255, using: &random), at: place)
                default:
                    let end = min(stream.count, place + 48)
                    stream.insert(contentsOf: stream[place..<end], at: place)
                }
                if stream.isEmpty { stream = [0] }
            }
            if case .established(let result) = serve(stream, recording) {
                #expect(result.user == (recording.challenge.isEmpty ? nil : Recorded.user))
            }
        }
    }

    @Test(arguments: RecordedLoginTests.recordings.dropFirst())
    func `changed answers of a server`(recording: RecordedLoginTests.Recording) {
        var random = SplitMix64(seed: 8)
        let hasCHAP = !recording.challenge.isEmpty
        let request = ISCSIInitiatorRequest(
            initiatorName: initiatorName, targetName: Recorded.target, isid: isid,
            credential: hasCHAP
                ? ISCSICredential(user: Recorded.user, secret: Recorded.secret) : nil,
            mutual: recording.isMutual
                ? ISCSICredential(user: Recorded.mutualUser, secret: Recorded.mutualSecret) : nil)
        var established = 0
        for _ in 0..<3_000 {
            var stream = recording.connection.target
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                stream[Int.random(in: 0..<stream.count, using: &random)] ^=
                    1
                    << UInt8.random(in: 0..<8, using: &random)
            }
            var initiator = ISCSIInitiatorLogin(request) { _ in Recorded.mutualOwnChallenge }
            _ = initiator.start()
            var reader = ISCSIPDUReader(dataMaximum: 8_192)
            reader.append(stream)
            while let pdu = try? reader.next() {
                for case .established(let result) in initiator.receive(pdu) {
                    established += 1
                    #expect(result.parameters.text("InitialR2T") == "Yes")
                }
            }
        }
        #expect(established > 0)
    }
}
