import StorageProtocols
import TestSupport
import Testing

@Suite struct RPCMessageTests {
    private static let credential = RPCSystemCredential(
        stamp: 0x11, machineName: "host1", uid: 1_000, gid: 100, gids: [100, 27])

    private static let refusals: [RPCRefusal] = [
        .programUnavailable, .programMismatch(low: 2, high: 4), .procedureUnavailable,
        .garbageArguments, .systemError, .versionMismatch(low: 2, high: 2),
        .authenticationError(.tooWeak), .authenticationError(.badCredential),
        .authenticationError(.gssContextProblem),
        .authenticationError(RPCAuthenticationStatus(rawValue: 0xffff_ffff)),
    ]

    private func call(_ bytes: [UInt8]) throws -> RPCCallHeader {
        try bytes.withXDR { try RPCCallHeader(&$0) }
    }

    private func reply(_ bytes: [UInt8]) throws -> RPCReplyHeader {
        try bytes.withXDR { try RPCReplyHeader(&$0) }
    }

    // MARK: Calls

    /// RFC 5531 section 9: xid, CALL, version 2, program, version, procedure; AUTH_NONE twice.
    @Test func `a call without credential`() throws {
        let bytes = octets(
            """
            01020304 00000000 00000002 000186a3 00000003 00000001
            00000000 00000000 00000000 00000000 aabbccdd
            """)
        let built = RPCMessage.call(
            xid: 0x0102_0304, program: 100_003, version: 3, procedure: 1,
            arguments: [0xaa, 0xbb, 0xcc, 0xdd])
        #expect(built == bytes)
        let header = try call(bytes)
        #expect(header.xid == 0x0102_0304)
        #expect(header.program == 100_003)
        #expect(header.version == 3)
        #expect(header.procedure == 1)
        #expect(header.credential.flavor == RPCFlavor.none)
        #expect(header.credential.body == 32..<32)
        #expect(header.verifier.flavor == RPCFlavor.none)
        #expect(header.verifier.body == 40..<40)
        #expect(header.arguments == 40)
    }

    /// RFC 5531 appendix A.
    @Test func `a call with an AUTH_SYS credential`() throws {
        let bytes = octets(
            """
            00000007 00000000 00000002 000186a5 00000003 00000000
            00000001 00000024
            00000011 00000005 686f7374 31000000 000003e8 00000064 00000002 00000064 0000001b
            00000000 00000000
            """)
        let built = RPCMessage.call(
            xid: 7, program: 100_005, version: 3, procedure: 0, credential: Self.credential)
        #expect(built == bytes)
        let header = try call(bytes)
        #expect(header.credential.flavor == RPCFlavor.system)
        #expect(header.credential.body == 32..<68)
        #expect(header.arguments == 76)
        let credential = try bytes.withUnsafeBytes {
            try RPCSystemCredential(header.credential, in: $0)
        }
        #expect(credential == Self.credential)
    }

    @Test func `a call leaves the reader at its arguments`() throws {
        let bytes = RPCMessage.call(
            xid: 1, program: 2, version: 3, procedure: 4, credential: Self.credential,
            arguments: [9, 8, 7, 6])
        let (header, position, argument) = try bytes.withXDR { reader in
            (try RPCCallHeader(&reader), reader.position, try reader.uint32())
        }
        #expect(header.arguments == position)
        #expect(position == bytes.count - 4)
        #expect(argument == 0x0908_0706)
    }

    @Test func `every truncation of a call is an error`() {
        let bytes = RPCMessage.call(
            xid: 7, program: 100_005, version: 3, procedure: 0, credential: Self.credential)
        for end in 0..<bytes.count {
            #expect(throws: RPCError.malformed(.truncated)) { try call(Array(bytes[..<end])) }
        }
    }

    @Test(arguments: [0, 1, 3, 0xffff_ffff] as [UInt32])
    func `another version of RPC is told with the transaction`(version: UInt32) {
        // Nothing behind the version counts.
        let bytes = xdr {
            $0.uint32(0xabcd)
            $0.uint32(0)
            $0.uint32(version)
        }
        #expect(throws: RPCError.unsupportedVersion(version, xid: 0xabcd)) { try call(bytes) }
    }

    @Test func `calls and replies are not taken for each other`() {
        let request = RPCMessage.call(xid: 1, program: 2, version: 3, procedure: 4)
        let answer = RPCMessage.reply(xid: 1, results: [])
        #expect(throws: RPCError.notACall) { try call(answer) }
        #expect(throws: RPCError.notAReply) { try reply(request) }
        var other = request
        other[7] = 2
        #expect(throws: RPCError.notACall) { try call(other) }
        #expect(throws: RPCError.notAReply) { try reply(other) }
    }

    /// RFC 5531 section 8.2: "opaque body<400>".
    @Test func `a credential or verifier has 400 octets at most`() throws {
        func message(credential: Int, verifier: Int) -> [UInt8] {
            xdr { writer in
                for value: UInt32 in [1, 0, 2, 3, 4, 5] { writer.uint32(value) }
                writer.uint32(RPCFlavor.gss)
                writer.opaque([UInt8](repeating: 1, count: credential))
                writer.uint32(RPCFlavor.gss)
                writer.opaque([UInt8](repeating: 2, count: verifier))
            }
        }
        let header = try call(message(credential: 400, verifier: 399))
        #expect(header.credential.body == 32..<432)
        #expect(header.verifier.body == 440..<839)
        #expect(header.arguments == 840)
        for bytes in [
            message(credential: 401, verifier: 0), message(credential: 0, verifier: 401),
        ] {
            #expect(throws: RPCError.malformed(.tooLong)) { try call(bytes) }
        }
    }

    // MARK: AUTH_SYS

    private func credential(_ body: [UInt8], flavor: UInt32 = RPCFlavor.system) throws
        -> RPCSystemCredential
    {
        let bytes = xdr { writer in
            for value: UInt32 in [1, 0, 2, 3, 4, 5, flavor] { writer.uint32(value) }
            writer.opaque(body)
            writer.uint32(0)
            writer.uint32(0)
            // What is behind the body must not be taken for it.
            for _ in 0..<32 { writer.uint32(0) }
        }
        let header = try call(bytes)
        return try bytes.withUnsafeBytes { try RPCSystemCredential(header.credential, in: $0) }
    }

    @Test func `AUTH_SYS credentials are read as they were written`() throws {
        var random = SplitMix64(seed: 31)
        for count in 0...16 {
            let given = RPCSystemCredential(
                stamp: UInt32(truncatingIfNeeded: random.next()),
                machineName: String(repeating: "m", count: count * 255 / 16),
                uid: UInt32(truncatingIfNeeded: random.next()),
                gid: UInt32(truncatingIfNeeded: random.next()),
                gids: (0..<count).map { _ in UInt32(truncatingIfNeeded: random.next()) })
            let body = given.encoded()
            let read = try credential(body)
            #expect(read == given)
            #expect(body.count <= 340)
            for end in 0..<body.count {
                #expect(throws: XDRError.truncated) { try credential(Array(body[..<end])) }
            }
        }
    }

    @Test func `AUTH_SYS has 255 octets of name and 16 groups at most`() throws {
        let given = RPCSystemCredential(
            machineName: String(repeating: "n", count: 256), uid: 1, gid: 2,
            gids: [UInt32](repeating: 5, count: 17))
        let read = try credential(given.encoded())
        #expect(read.machineName == String(repeating: "n", count: 255))
        #expect(read.gids == [UInt32](repeating: 5, count: 16))
        let name = xdr { writer in
            writer.uint32(0)
            writer.opaque([UInt8](repeating: 0x6e, count: 256))
            for _ in 0..<3 { writer.uint32(0) }
        }
        #expect(throws: XDRError.tooLong) { try credential(name) }
        let groups = xdr { writer in
            for value: UInt32 in [0, 0, 1, 2, 17] { writer.uint32(value) }
            for _ in 0..<17 { writer.uint32(5) }
        }
        #expect(throws: XDRError.tooLong) { try credential(groups) }
        let many = xdr { writer in
            for value: UInt32 in [0, 0, 1, 2, .max] { writer.uint32(value) }
        }
        #expect(throws: XDRError.tooLong) { try credential(many) }
        #expect(throws: XDRError.badValue) {
            try credential(Self.credential.encoded(), flavor: RPCFlavor.none)
        }
    }

    @Test func `a credential of another message is no reason to trap`() throws {
        let bytes = RPCMessage.call(
            xid: 7, program: 1, version: 1, procedure: 0, credential: Self.credential)
        let header = try call(bytes)
        for end in 0..<68 {
            #expect(throws: XDRError.truncated) {
                try Array(bytes[..<end]).withUnsafeBytes {
                    try RPCSystemCredential(header.credential, in: $0)
                }
            }
        }
    }

    // MARK: Replies

    @Test(
        arguments: [
            (RPCRefusal.programUnavailable, "00000000 00000000 00000000 00000001"),
            (
                .programMismatch(low: 2, high: 4),
                "00000000 00000000 00000000 00000002 00000002 00000004"
            ),
            (.procedureUnavailable, "00000000 00000000 00000000 00000003"),
            (.garbageArguments, "00000000 00000000 00000000 00000004"),
            (.systemError, "00000000 00000000 00000000 00000005"),
            (.versionMismatch(low: 2, high: 2), "00000001 00000000 00000002 00000002"),
            (.authenticationError(.tooWeak), "00000001 00000001 00000005"),
        ] as [(RPCRefusal, String)])
    func `replies as RFC 5531 section 9 has them`(refusal: RPCRefusal, hexadecimal: String) {
        #expect(
            RPCMessage.reply(xid: 0x0102_0304, refusal: refusal)
                == octets("01020304 00000001" + hexadecimal))
    }

    @Test func `a call that was served`() throws {
        let bytes = octets("01020304 00000001 00000000 00000000 00000000 00000000 0000000a")
        #expect(RPCMessage.reply(xid: 0x0102_0304, results: [0, 0, 0, 10]) == bytes)
        let header = try reply(bytes)
        #expect(header.xid == 0x0102_0304)
        #expect(header.refusal == nil)
        #expect(header.verifier?.flavor == RPCFlavor.none)
        #expect(header.results == 24)
    }

    @Test func `the verifier of a reply`() throws {
        let bytes = octets(
            "00000009 00000001 00000000 00000006 00000003 aabbcc00 00000000 0000000a")
        let header = try reply(bytes)
        #expect(header.verifier?.flavor == RPCFlavor.gss)
        #expect(header.verifier?.body == 20..<23)
        #expect(header.results == 28)
    }

    @Test func `refusals are read as they were written, and not when truncated`() throws {
        for refusal in Self.refusals {
            let bytes = RPCMessage.reply(xid: 5, refusal: refusal)
            let header = try reply(bytes)
            #expect(header.xid == 5)
            #expect(header.refusal == refusal)
            #expect(header.results == bytes.count)
            switch refusal {
            case .versionMismatch, .authenticationError: #expect(header.verifier == nil)
            default: #expect(header.verifier?.flavor == RPCFlavor.none)
            }
            for end in 0..<bytes.count {
                #expect(throws: RPCError.malformed(.truncated)) { try reply(Array(bytes[..<end])) }
            }
        }
    }

    @Test(arguments: [
        "00000001 00000001 00000002", "00000001 00000001 00000001 00000002",
        "00000001 00000001 00000000 00000000 00000000 00000006",
    ])
    func `statuses that there are not`(hexadecimal: String) {
        #expect(throws: RPCError.malformed(.badValue)) { try reply(octets(hexadecimal)) }
    }

    @Test func `random octets and changed messages never trap`() {
        var random = SplitMix64(seed: 32)
        let samples =
            [
                RPCMessage.call(
                    xid: 7, program: 100_005, version: 3, procedure: 0,
                    credential: Self.credential), RPCMessage.reply(xid: 7, results: [1, 2, 3, 4]),
            ] + Self.refusals.map { RPCMessage.reply(xid: 7, refusal: $0) }
        for _ in 0..<5_000 {
            var bytes = samples[random.below(samples.count)]
            if random.below(8) == 0 { bytes = random.bytes(random.below(120)) }
            for _ in 0..<random.below(4) { random.mutate(&bytes, inserting: "\0\u{1}\u{7f}") }
            if let header = try? call(bytes) {
                #expect(header.arguments <= bytes.count)
                #expect(header.credential.body.count <= RPCAuthenticator.bodyMaximum)
                let credential = bytes.withUnsafeBytes {
                    try? RPCSystemCredential(header.credential, in: $0)
                }
                if let credential { #expect(credential.gids.count <= 16) }
            }
            if let header = try? reply(bytes) { #expect(header.results <= bytes.count) }
        }
    }
}
