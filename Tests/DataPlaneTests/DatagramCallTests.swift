import DataPlane
import TestSupport
import Testing

/// The part of an RPC call that the fast path reads.
@Suite struct DatagramCallTests {
    let memory = FrameMemory()

    /// The octets lie at the end of a page: who reads behind them ends the test.
    private func parse(_ octets: [UInt8]) -> DatagramCall.Outcome {
        DatagramCall.parse(memory.frame(octets).start, length: octets.count)
    }

    private func message(_ version: UInt32 = 3, handle length: Int = 32) -> NFSMessage {
        NFSMessage(version: version, handle: [UInt8](repeating: 0x77, count: length))
    }

    @Test(arguments: [2, 3] as [UInt32])
    func procedures(version: UInt32) {
        for procedure in [UInt32](0..<70) + [1 << 31, .max] {
            var message = message(version)
            message.procedure = procedure
            let isFast = NFSMessage.fastProcedures(version: version).contains(procedure)
            let call = DatagramCall(
                xid: message.xid, version: version, procedure: procedure,
                handleOffset: message.handleEnd - 32, handleLength: 32)
            let wanted: DatagramCall.Outcome = isFast ? .call(call) : .miss(.procedure)
            #expect(parse(message.call) == wanted, "\(procedure)")
        }
    }

    @Test func handleLengths() {
        for length in 0...70 {
            let message = message(handle: length)
            let outcome = parse(message.call)
            guard (1...64).contains(length) else {
                #expect(outcome == .miss(.malformed), "\(length)")
                continue
            }
            guard case .call(let call) = outcome else {
                Issue.record("\(length): \(outcome)")
                continue
            }
            #expect(call.handleLength == length)
            #expect(call.handleOffset == message.handleEnd - length)
        }
    }

    /// Credentials and verifiers of every length, filled up to four octets.
    @Test(arguments: [2, 3] as [UInt32])
    func authentication(version: UInt32) {
        for length in 0...404 {
            for isVerifier in [false, true] {
                var message = message(version)
                let body = [UInt8](repeating: 9, count: length)
                if isVerifier { message.verifier = body } else { message.credential = body }
                let outcome = parse(message.call)
                guard length <= 400 else {
                    #expect(outcome == .miss(.malformed), "\(length)")
                    continue
                }
                let call = DatagramCall(
                    xid: message.xid, version: version, procedure: 1,
                    handleOffset: message.handleEnd - 32, handleLength: 32)
                if outcome != .call(call) { Issue.record("\(length): \(outcome)") }
            }
        }
    }

    @Test func flavors() {
        for (flavor, isTaken) in [(0, true), (1, true), (2, false), (6, false), (.max, false)]
            as [(UInt32, Bool)]
        {
            var message = message()
            message.credentialFlavor = flavor
            if flavor == 0 { message.credential = [] }
            if isTaken {
                guard case .call = parse(message.call) else {
                    Issue.record("\(flavor)")
                    continue
                }
            } else {
                #expect(parse(message.call) == .miss(.credential))
            }
        }
    }

    @Test func otherMessages() {
        var message = message()
        message.messageType = 1
        #expect(parse(message.call) == .miss(.malformed))
        message = self.message()
        message.rpcVersion = 3
        #expect(parse(message.call) == .miss(.malformed))
        message = self.message()
        message.program = 100_005
        #expect(parse(message.call) == .miss(.program))
        for version in [0, 1, 4, .max] as [UInt32] {
            message = self.message()
            message.version = version
            #expect(parse(message.call) == .miss(.program))
        }
        // Lengths that would overflow.
        for place in [28, 32 + 20 + 4, 32 + 20 + 8] {
            var octets = self.message().call
            octets.replaceSubrange(place..<place + 4, with: [0xff, 0xff, 0xff, 0xff])
            #expect(parse(octets) == .miss(.malformed), "\(place)")
        }
    }

    @Test(arguments: [2, 3] as [UInt32])
    func everyTruncation(version: UInt32) {
        var message = message(version)
        message.verifier = [1, 2, 3]
        let octets = message.call
        for length in 0...octets.count {
            let outcome = parse(Array(octets.prefix(length)))
            if length < message.handleEnd {
                #expect(outcome == .miss(.truncated), "\(length)")
            } else if outcome == .miss(.truncated) {
                Issue.record("\(length) of \(message.handleEnd)")
            }
        }
    }

    /// Any octets: an answer, and a handle within them.
    @Test func garbage() {
        var random = SplitMix64(seed: 3)
        var calls = 0
        for round in 0..<40_000 {
            var octets: [UInt8]
            if round % 4 == 0 {
                octets = random.bytes(random.below(200))
            } else {
                octets = message(round % 2 == 0 ? 2 : 3, handle: 32).call
                for _ in 0..<random.below(3) {
                    octets[random.below(octets.count)] = UInt8(truncatingIfNeeded: random.next())
                }
                octets = Array(octets.prefix(random.below(octets.count * 2)))
            }
            guard case .call(let call) = parse(octets) else { continue }
            calls += 1
            if call.handleOffset < 40 || call.handleOffset + call.handleLength > octets.count
                || !(1...64).contains(call.handleLength)
            {
                Issue.record("round \(round): \(call)")
            }
        }
        #expect(calls > 5_000)
    }
}
