import StorageProtocols
import TestSupport
import Testing

@Suite struct NLMProtocolTests {
    private static let lock = NLMLock(
        callerName: Array("host".utf8), handle: [1, 2, 3, 4, 5], owner: [6, 7], svid: 0xffff_fffe,
        offset: 16, length: 32)

    private func call(_ message: [UInt8]) throws -> NLMCall {
        try message.withXDR { reader in
            let header = try RPCCallHeader(&reader)
            return try NLMCall(header, &reader)
        }
    }

    private func message(
        _ procedure: UInt32, _ arguments: [UInt8], version: UInt32 = 4,
        program: UInt32 = NLMProtocol.program
    ) -> [UInt8] {
        RPCMessage.call(
            xid: 7, program: program, version: version, procedure: procedure,
            arguments: arguments)
    }

    /// RFC 1813 section 6.1: nlm4_lockargs.
    @Test func `LOCK of version 4, octet by octet`() throws {
        let bytes = octets(
            """
            00000002 aabb0000 00000001 00000001
            00000004 686f7374 00000005 01020304 05000000 00000002 06070000
            fffffffe 00000000 00000010 00000000 00000020
            00000000 00000003
            """)
        let request = NLMRequest(
            cookie: [0xaa, 0xbb], isBlocking: true, isExclusive: true, lock: Self.lock, state: 3)
        #expect(request.encoded(.lock, version: .four) == bytes)
        let found = try call(message(2, bytes))
        #expect(found == .request(.lock, request))
    }

    /// XNFS chapter 10: offsets of 32 bits.
    @Test func `UNLOCK of version 1, octet by octet`() throws {
        let bytes = octets(
            """
            00000000
            00000004 686f7374 00000005 01020304 05000000 00000002 06070000
            fffffffe 00000010 00000020
            """)
        let request = NLMRequest(lock: Self.lock)
        #expect(request.encoded(.unlock, version: .one) == bytes)
        let found = try call(message(4, bytes, version: 1))
        #expect(found == .request(.unlock, request))
    }

    @Test(arguments: NLMVersion.allCases)
    func `calls are read as they were written`(version: NLMVersion) throws {
        for procedure in NLMProcedure.allCases {
            var request = NLMRequest(cookie: [1], lock: Self.lock)
            let action = procedure.action
            request.isExclusive = action != .unlock
            request.isBlocking = [.lock, .unmonitoredLock, .cancel].contains(action)
            request.isReclaim = [.lock, .unmonitoredLock].contains(action)
            request.state = request.isReclaim ? 9 : 0
            let share = NLMShareRequest(
                cookie: [2], callerName: [3], handle: [4], owner: [5], mode: 1, access: 3,
                isReclaim: true)
            let reply = NLMReply(cookie: [4], status: .deniedGracePeriod)
            let given: (call: NLMCall, arguments: [UInt8])
            switch procedure {
            case .null: given = (.null, [])
            case .share, .unshare: given = (.share(procedure, share), share.encoded())
            case .freeAll: given = (.freeAll([9, 9]), NLMCall.freeAll([9, 9], state: 1))
            default:
                given =
                    procedure.isResult
                    ? (.result(procedure, reply), reply.encoded(action, version: version))
                    : (.request(procedure, request), request.encoded(action, version: version))
            }
            let message = message(
                procedure.rawValue, given.arguments, version: version.rawValue)
            if version == .one, procedure.rawValue >= NLMProcedure.share.rawValue {
                #expect(throws: RPCRefusal.procedureUnavailable) { try call(message) }
                continue
            }
            let found = try call(message)
            #expect(found == given.call)
            for count in given.arguments.indices {
                let cut = Array(message.dropLast(given.arguments.count - count))
                #expect(throws: RPCRefusal.garbageArguments) { try call(cut) }
            }
        }
    }

    @Test func `other calls are refused`() throws {
        #expect(throws: RPCRefusal.programUnavailable) {
            try call(message(0, [], program: 100_003))
        }
        #expect(throws: RPCRefusal.programMismatch(low: 1, high: 4)) {
            try call(message(0, [], version: 2))
        }
        #expect(throws: RPCRefusal.procedureUnavailable) { try call(message(16, [])) }
    }

    @Test(arguments: NLMVersion.allCases)
    func `results are read as they were written`(version: NLMVersion) throws {
        let holder = NLMHolder(
            isExclusive: true, svid: 3, owner: [1, 2, 3], offset: 5, length: 0)
        for status in NLMStatus.allCases {
            for action: NLMProcedure in [.test, .lock, .share] {
                let isDenied =
                    action == .test && status.code(version) == NLMStatus.denied.rawValue
                let given = NLMReply(
                    cookie: [8], status: status, holder: isDenied ? holder : nil,
                    sequence: action == .share ? 4 : 0)
                let bytes = given.encoded(action, version: version)
                let found = try bytes.withXDR { try NLMReply(action, &$0, version: version) }
                #expect(found.status.rawValue == status.code(version))
                #expect(found.holder == given.holder)
                #expect(found.sequence == given.sequence)
                let whole = NLMReply(
                    reply: RPCMessage.reply(xid: 1, results: bytes), to: action, version: version)
                #expect(whole == found)
            }
        }
        #expect(NLMStatus.deadlock.code(.three) == 1)
        #expect(NLMStatus.staleHandle.code(.one) == 2)
    }

    @Test func `an unknown status is none`() {
        let bytes = xdr { writer in
            writer.opaque([])
            writer.uint32(10)
        }
        #expect(throws: XDRError.badValue) {
            try bytes.withXDR { try NLMReply(.lock, &$0, version: .four) }
        }
        let refused = RPCMessage.reply(xid: 1, refusal: .programUnavailable)
        #expect(NLMReply(reply: refused, to: .lock, version: .four) == nil)
    }

    // MARK: NSM

    private func monitor(_ procedure: UInt32, _ arguments: [UInt8]) throws -> NSMCall {
        let message = message(
            procedure, arguments, version: 1, program: NSMProtocol.program)
        return try message.withXDR { reader in
            let header = try RPCCallHeader(&reader)
            return try NSMCall(header, &reader)
        }
    }

    @Test func `NOTIFY has a name and a state`() throws {
        let arguments = octets("00000004 686f7374 00000007")
        let found = try monitor(6, arguments)
        #expect(found == .notify(name: Array("host".utf8), state: 7))
        for count in arguments.indices {
            #expect(throws: RPCRefusal.garbageArguments) {
                try monitor(6, Array(arguments[..<count]))
            }
        }
        #expect(throws: RPCRefusal.procedureUnavailable) { try monitor(7, []) }
    }

    @Test func `nobody is watched for others`() throws {
        let status = try monitor(1, octets("00000001 61000000"))
        #expect(status == .status(name: Array("a".utf8)))
        #expect(status.results(state: 1) == octets("00000000 00000001"))
        let results: [UInt32: String] = [
            0: "", 2: "00000001 00000001", 3: "00000001", 4: "00000001", 5: "",
        ]
        for (procedure, wanted) in results {
            let found = try monitor(procedure, [])
            #expect(found.results(state: 1) == octets(wanted))
        }
    }
}
