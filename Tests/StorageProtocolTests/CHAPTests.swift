import StorageProtocols
import Testing

@Suite struct CHAPTests {
    @Test(
        arguments: [
            // MD5 of nothing and of "abc" (RFC 1321 appendix A.5), as identifier + secret + challenge.
            (0x61, "b", "63", "900150983cd24fb0d6963f7d28e17f72"),
            (0x61, "bc", "", "900150983cd24fb0d6963f7d28e17f72"),
            (0x61, "bcdefghijklmnopqrstuvwxyz", "", "c3fcd3d76192e4007dfb496cca67e13b"),
        ] as [(UInt8, String, String, String)])
    func `response is the MD5 of identifier, secret and challenge`(
        identifier: UInt8, secret: String, challenge: String, response: String
    ) {
        #expect(
            CHAP.response(identifier: identifier, secret: secret, challenge: octets(challenge))
                == octets(response))
    }

    @Test func `responses of libiscsi and of tgtd`() {
        // From the recorded connections.
        #expect(
            CHAP.response(
                identifier: Recorded.chapChallenge[0], secret: Recorded.secret,
                challenge: Array(Recorded.chapChallenge.dropFirst()))
                == octets("FC6073EEE543223382586355CAD03108"))
        #expect(
            CHAP.response(
                identifier: Recorded.mutualChallenge[0], secret: Recorded.secret,
                challenge: Array(Recorded.mutualChallenge.dropFirst()))
                == octets("C9D0784E6F0BAE1B3A92666EFC564567"))
        #expect(
            CHAP.response(
                identifier: Recorded.mutualOwnChallenge[0], secret: Recorded.mutualSecret,
                challenge: Array(Recorded.mutualOwnChallenge.dropFirst()))
                == octets("28fea0dc525adca0dda167050e375cb3"))
    }

    @Test func `comparison sees every bit and the length`() {
        let value = octets("00112233445566778899aabbccddeeff")
        #expect(CHAP.areEqual(value, value))
        #expect(CHAP.areEqual([], []))
        #expect(!CHAP.areEqual(value, Array(value.dropLast())))
        #expect(!CHAP.areEqual([], [0]))
        for bit in 0..<128 {
            var other = value
            other[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(!CHAP.areEqual(value, other))
        }
    }

    // MARK: In a login

    /// A login that has received its challenge.
    private func challenged(isMutual: Bool = false) throws -> (ISCSITargetLogin, UInt8, [UInt8]) {
        var login = targetLogin(chap: true, isMutual: isMutual)
        let first = try answer(
            &login,
            loginRequest(names + [("AuthMethod", "CHAP,None")], flags: Flags.securityToOperational))
        // The transit that was asked for is not granted before the client has proved itself.
        #expect(first.flags == 0)
        #expect(first.text["AuthMethod"] == "CHAP")
        #expect(first.text["TargetPortalGroupTag"] == "1")
        let second = try answer(&login, loginRequest([("CHAP_A", "7,5")], flags: Flags.security))
        #expect(second.text["CHAP_A"] == "5")
        let identifier = try #require(second.text["CHAP_I"].flatMap { UInt8($0) })
        let challenge = try #require(second.text["CHAP_C"].flatMap { ISCSIText.binary($0) })
        #expect(challenge.count == 16)
        return (login, identifier, challenge)
    }

    private func proof(
        _ identifier: UInt8, _ challenge: [UInt8], user: String = alice.user,
        secret: String = alice.secret
    ) -> [(String, String)] {
        let response = CHAP.response(identifier: identifier, secret: secret, challenge: challenge)
        return [("CHAP_N", user), ("CHAP_R", ISCSIText.hex(response))]
    }

    @Test func `right secret`() throws {
        var (login, identifier, challenge) = try challenged()
        let response = try answer(
            &login, loginRequest(proof(identifier, challenge), flags: Flags.securityToOperational))
        #expect(response.status == 0)
        #expect(response.flags == 0x81)
        #expect(response.text.isEmpty)
        let end = login.receive(loginRequest([], flags: Flags.operationalToFull))
        #expect(end.last?.established?.user == alice.user)
    }

    @Test func `wrong secret, unknown user, missing and malformed answers`() throws {
        let short = ISCSIText.hex([UInt8](repeating: 0, count: 15))
        for pairs in [
            [("CHAP_N", "alice")], [("CHAP_R", short)], [],
            [("CHAP_N", "alice"), ("CHAP_R", short)], [("CHAP_N", "alice"), ("CHAP_R", "0x")],
            [("CHAP_N", "alice"), ("CHAP_R", "hello")], [("CHAP_N", ""), ("CHAP_R", short)],
        ] {
            var (login, _, _) = try challenged()
            expectFailure(
                &login, loginRequest(pairs, flags: Flags.securityToOperational),
                .authenticationFailure)
        }
        for (user, secret) in [
            (alice.user, "alice-secret-2"), ("bob", alice.secret), ("bob", ""),
            ("ALICE", alice.secret),
        ] {
            var (login, identifier, challenge) = try challenged()
            expectFailure(
                &login,
                loginRequest(
                    proof(identifier, challenge, user: user, secret: secret),
                    flags: Flags.securityToOperational), .authenticationFailure)
        }
    }

    @Test func `a response to another challenge or identifier is refused`() throws {
        var (login, identifier, challenge) = try challenged()
        expectFailure(
            &login,
            loginRequest(proof(identifier &+ 1, challenge), flags: Flags.securityToOperational),
            .authenticationFailure)
        // What was right in one login is replayed in another, which has another challenge.
        let policy = ISCSILoginPolicy(
            requiresCHAP: true, credentials: [alice], server: ISCSIServerParameters())
        var other = ISCSITargetLogin(tsih: 1, random: { [UInt8](repeating: 0x55, count: $0) }) {
            _, _ in policy
        }
        _ = try answer(
            &other, loginRequest(names + [("AuthMethod", "CHAP")], flags: Flags.security))
        _ = try answer(&other, loginRequest([("CHAP_A", "5")], flags: Flags.security))
        expectFailure(
            &other, loginRequest(proof(identifier, challenge), flags: Flags.securityToOperational),
            .authenticationFailure)
    }

    @Test func `the target proves itself when asked to`() throws {
        var (login, identifier, challenge) = try challenged(isMutual: true)
        let own: [UInt8] = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6]
        let response = try answer(
            &login,
            loginRequest(
                proof(identifier, challenge) + [("CHAP_I", "200"), ("CHAP_C", ISCSIText.hex(own))],
                flags: Flags.securityToOperational))
        #expect(response.flags == 0x81)
        #expect(response.text["CHAP_N"] == switchUser.user)
        #expect(
            response.text["CHAP_R"].flatMap { ISCSIText.binary($0) }
                == CHAP.response(identifier: 200, secret: switchUser.secret, challenge: own))
    }

    @Test func `our own challenge, reflected, gets no answer`() throws {
        var (login, identifier, challenge) = try challenged(isMutual: true)
        expectFailure(
            &login,
            loginRequest(
                proof(identifier, challenge)
                    + [("CHAP_I", "\(identifier)"), ("CHAP_C", ISCSIText.hex(challenge))],
                flags: Flags.securityToOperational), .authenticationFailure)
    }

    @Test(arguments: [
        [("CHAP_I", "1")], [("CHAP_I", "256"), ("CHAP_C", "0x01")],
        [("CHAP_I", "x"), ("CHAP_C", "0x01")], [("CHAP_I", "1"), ("CHAP_C", "0x")],
        [("CHAP_I", "1"), ("CHAP_C", "zz")],
    ])
    func `malformed mutual challenge`(pairs: [(String, String)]) throws {
        var (login, identifier, challenge) = try challenged(isMutual: true)
        expectFailure(
            &login,
            loginRequest(proof(identifier, challenge) + pairs, flags: Flags.securityToOperational),
            .authenticationFailure)
    }

    @Test func `a target that has no secret of its own refuses to prove itself`() throws {
        var (login, identifier, challenge) = try challenged(isMutual: false)
        expectFailure(
            &login,
            loginRequest(
                proof(identifier, challenge) + [("CHAP_I", "1"), ("CHAP_C", "0x0102")],
                flags: Flags.securityToOperational), .authenticationFailure)
    }

    @Test func `algorithms other than MD5, and methods other than CHAP, are refused`() throws {
        for algorithms in ["6", "", "55", "7,8"] {
            var login = targetLogin(chap: true)
            _ = try answer(
                &login, loginRequest(names + [("AuthMethod", "CHAP")], flags: Flags.security))
            expectFailure(
                &login, loginRequest([("CHAP_A", algorithms)], flags: Flags.security),
                .authenticationFailure)
        }
        for methods in ["None", "KRB5,None", "", "chap"] {
            var login = targetLogin(chap: true)
            expectFailure(
                &login,
                loginRequest(names + [("AuthMethod", methods)], flags: Flags.securityToOperational),
                .authenticationFailure)
        }
    }

    @Test func `no way round the proof`() throws {
        // Straight to the operational stage, or on without answering.
        var login = targetLogin(chap: true)
        expectFailure(
            &login, loginRequest(names, flags: Flags.operationalToFull), .authenticationFailure)
        for flags in [Flags.securityToOperational, Flags.securityToFull] {
            login = targetLogin(chap: true)
            expectFailure(&login, loginRequest(names, flags: flags), .authenticationFailure)
            login = targetLogin(chap: true)
            _ = try answer(
                &login, loginRequest(names + [("AuthMethod", "CHAP")], flags: Flags.security))
            expectFailure(&login, loginRequest([], flags: flags), .authenticationFailure)
        }
        for stage in [Flags.operationalToFull, Flags.operational] {
            var (login, _, _) = try challenged()
            expectFailure(&login, loginRequest([], flags: stage), .authenticationFailure)
        }
    }
}
