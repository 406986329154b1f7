import StorageProtocols
import Testing

@Suite struct TargetLoginTests {
    @Test func `one exchange without authentication`() throws {
        var login = targetLogin(server: ISCSIServerParameters(commandWindow: 16))
        var request = loginRequest(
            names + [("InitiatorAlias", "me"), ("SessionType", "Normal"), ("InitialR2T", "No")],
            flags: Flags.operationalToFull)
        request.connectionID = 3
        request.expectedStatus = 77
        let actions = login.receive(request)
        try #require(actions.count == 2)
        let response = try #require(actions[0].sent)
        #expect(response.flags == 0x87)
        #expect(response.status == 0)
        #expect(response.isid == isid)
        #expect(response.tsih == 0x1234)
        #expect(response.initiatorTaskTag == request.initiatorTaskTag)
        #expect(response.statusSequence == 77)
        #expect(response.expectedCommand == 100)
        #expect(response.maximumCommand == 115)
        #expect(response.text["TargetPortalGroupTag"] == "1")
        #expect(response.text["InitialR2T"] == "Yes")
        let result = try #require(actions[1].established)
        #expect(!result.isDiscovery)
        #expect(result.initiatorName == initiatorName)
        #expect(result.initiatorAlias == "me")
        #expect(result.targetName == targetName)
        #expect(result.user == nil)
        #expect(result.isid == isid)
        #expect(result.tsih == 0x1234)
        #expect(result.connectionID == 3)
        #expect(result.expectedCommand == 100)
        #expect(result.nextStatus == 78)
        #expect(result.commandWindow == 16)
        #expect(result.initiatorMaxReceive == 8_192)
        // The login is over.
        #expect(login.receive(request).isEmpty)
    }

    @Test func `AuthMethod=None, then the operational stage`() throws {
        var login = targetLogin()
        let first = try answer(
            &login,
            loginRequest(
                names + [("AuthMethod", "CHAP,None")], flags: Flags.securityToOperational))
        #expect(first.flags == 0x81)
        #expect(first.text["AuthMethod"] == "None")
        // No handle before the end (RFC 7143 section 11.13.3).
        #expect(first.tsih == 0)
        let second = try answer(
            &login, loginRequest([("MaxBurstLength", "1024")], flags: Flags.operational))
        #expect(second.flags == 0x04)
        #expect(second.text["MaxBurstLength"] == "1024")
        #expect(second.text["TargetPortalGroupTag"] == nil)
        let end = login.receive(loginRequest([], flags: Flags.operationalToFull))
        #expect(end.first?.sent?.flags == 0x87)
        #expect(end.first?.sent?.tsih == 0x1234)
        #expect(end.last?.established?.parameters.maxBurstLength == 1_024)
    }

    @Test func `from the security stage straight to the full feature phase`() throws {
        var login = targetLogin()
        let actions = login.receive(
            loginRequest(names + [("AuthMethod", "None")], flags: Flags.securityToFull))
        #expect(actions.first?.sent?.flags == 0x83)
        #expect(actions.first?.sent?.tsih == 0x1234)
        #expect(actions.last?.established != nil)
    }

    @Test func `the security stage without AuthMethod and without transit`() throws {
        var login = targetLogin()
        let first = try answer(&login, loginRequest(names, flags: Flags.security))
        #expect(first.flags == 0)
        let second = try answer(&login, loginRequest([], flags: Flags.securityToOperational))
        #expect(second.flags == 0x81)
    }

    /// RFC 7143 section 13.14.
    @Test(
        arguments: [
            ([("MaxBurstLength", "4096"), ("FirstBurstLength", "65536")], "4096", 4_096),
            ([("FirstBurstLength", "65536"), ("MaxBurstLength", "4096")], "4096", 4_096),
            ([("FirstBurstLength", "2048"), ("MaxBurstLength", "4096")], "2048", 2_048),
            ([("FirstBurstLength", "16777215")], "65536", 65_536),
            ([("MaxBurstLength", "4096")], nil, 4_096),
        ] as [([(String, String)], String?, UInt64)])
    func `FirstBurstLength is at most MaxBurstLength`(
        pairs: [(String, String)], answered: String?, agreed: UInt64
    ) throws {
        var login = targetLogin()
        let actions = login.receive(loginRequest(names + pairs, flags: Flags.operationalToFull))
        let response = try #require(actions.first?.sent)
        #expect(response.text["FirstBurstLength"] == answered)
        let parameters = try #require(actions.last?.established).parameters
        #expect(parameters.firstBurstLength == agreed)
        #expect(parameters.firstBurstLength <= parameters.maxBurstLength)
    }

    @Test func `MaxBurstLength below the agreed FirstBurstLength is refused`() throws {
        var login = targetLogin()
        let first = try answer(
            &login,
            loginRequest(names + [("FirstBurstLength", "32768")], flags: Flags.operational))
        #expect(first.text["FirstBurstLength"] == "32768")
        expectFailure(
            &login, loginRequest([("MaxBurstLength", "16384")], flags: Flags.operationalToFull),
            .initiatorError)
    }

    @Test func `text in several PDUs`() throws {
        let pairs = names + [("MaxBurstLength", "1024"), ("ImmediateData", "No")]
        let text = ISCSIText(pairs).encoded()
        for cut in 0...text.count {
            var login = targetLogin()
            var part = loginRequest([], flags: Flags.operational | Flags.more)
            part.data = Array(text[..<cut])
            let first = try answer(&login, part)
            #expect(first.flags == 0x04)
            #expect(first.data.isEmpty)
            part = loginRequest([], flags: Flags.operationalToFull)
            part.data = Array(text[cut...])
            let actions = login.receive(part)
            #expect(actions.first?.sent?.text["ImmediateData"] == "No")
            let result = try #require(actions.last?.established)
            #expect(result.initiatorName == initiatorName)
            #expect(result.parameters.maxBurstLength == 1_024)
        }
    }

    @Test func `discovery needs no target`() throws {
        var login = targetLogin(server: nil)
        let actions = login.receive(
            loginRequest(
                [("InitiatorName", initiatorName), ("SessionType", "Discovery")],
                flags: Flags.operationalToFull))
        #expect(actions.first?.sent?.text["TargetPortalGroupTag"] == nil)
        #expect(actions.first?.sent?.text["MaxRecvDataSegmentLength"] == "8192")
        let result = try #require(actions.last?.established)
        #expect(result.isDiscovery)
        #expect(result.targetName == nil)
    }

    // MARK: Refusals

    @Test func `unknown target`() {
        for stage in [Flags.operationalToFull, Flags.securityToOperational] {
            var login = targetLogin()
            expectFailure(
                &login,
                loginRequest(
                    [("InitiatorName", initiatorName), ("TargetName", "iqn.2026-01.test:other")],
                    flags: stage), .notFound)
        }
    }

    @Test func `missing names`() {
        for pairs in [
            [("TargetName", targetName)], [("InitiatorName", ""), ("TargetName", targetName)],
            [("InitiatorName", initiatorName)],
            [("InitiatorName", initiatorName), ("SessionType", "Normal")], [],
        ] {
            var login = targetLogin()
            expectFailure(
                &login, loginRequest(pairs, flags: Flags.operationalToFull), .missingParameter)
        }
    }

    @Test func `session types and handles that do not exist`() {
        var login = targetLogin()
        expectFailure(
            &login,
            loginRequest(names + [("SessionType", "Other")], flags: Flags.operationalToFull),
            .sessionTypeNotSupported)
        // A second connection of a session, or its reinstatement by handle.
        login = targetLogin()
        expectFailure(
            &login, loginRequest(names, flags: Flags.operationalToFull, tsih: 0x1234),
            .sessionDoesNotExist)
    }

    @Test func `a version that is not 0`() {
        var login = targetLogin()
        var request = loginRequest(names, flags: Flags.operationalToFull)
        request[2] = 1
        request[3] = 1
        expectFailure(&login, request, .unsupportedVersion)
        // Version 0 is the least: an initiator that knows more is served.
        login = targetLogin()
        request[3] = 0
        #expect(login.receive(request).last?.established != nil)
    }

    @Test func `no server was reached yet`() {
        var login = targetLogin(server: nil)
        expectFailure(
            &login, loginRequest(names, flags: Flags.operationalToFull), .serviceUnavailable)
    }

    @Test func `another ISID in the middle`() throws {
        var login = targetLogin()
        _ = try answer(&login, loginRequest(names, flags: Flags.operational))
        expectFailure(
            &login,
            loginRequest([], flags: Flags.operationalToFull, isid: [0x80, 1, 2, 3, 4, 6]),
            .initiatorError)
    }

    @Test func `stages that do not exist, and back`() throws {
        for flags: UInt8 in [0x08, 0x0c, 0x8b, 0x8f] {
            var login = targetLogin()
            expectFailure(&login, loginRequest(names, flags: flags), .initiatorError)
        }
        for flags: UInt8 in [0x80, 0x82, 0x84, 0x85, 0x86] {
            var login = targetLogin()
            expectFailure(&login, loginRequest(names, flags: flags), .initiatorError)
        }
        var login = targetLogin()
        _ = try answer(&login, loginRequest(names, flags: Flags.operational))
        expectFailure(&login, loginRequest([], flags: Flags.security), .initiatorError)
    }

    @Test func `text that goes on cannot ask for the next stage`() {
        var login = targetLogin()
        expectFailure(
            &login, loginRequest(names, flags: Flags.operationalToFull | Flags.more),
            .initiatorError)
    }

    @Test func `every PDU but a login request`() {
        for opcode: UInt8 in 0..<0x40 where opcode != ISCSIOpcode.login {
            var login = targetLogin()
            expectFailure(&login, ISCSIPDU(opcode: opcode), .invalidDuringLogin)
        }
    }

    @Test(arguments: ["A", "=1", "InitiatorName=a\0InitiatorName=a\0"])
    func `malformed text`(text: String) {
        var login = targetLogin()
        var request = loginRequest([], flags: Flags.operationalToFull)
        request.data = Array(text.utf8)
        expectFailure(&login, request, .initiatorError)
    }

    @Test func `a login is bounded in exchanges`() {
        var login = targetLogin()
        var count = 0
        while let response = login.receive(
            loginRequest(count == 0 ? names : [], flags: Flags.operational)
        )
        .first?.sent {
            count += 1
            guard response.status == 0 else {
                #expect(response.status == ISCSILoginStatus.outOfResources.rawValue)
                break
            }
        }
        #expect(count == ISCSITargetLogin.exchangeMaximum + 1)
    }

    @Test func `text is bounded over all its PDUs`() {
        var login = targetLogin()
        var request = loginRequest([], flags: Flags.operational | Flags.more)
        request.data = [UInt8](repeating: 0x61, count: 8_192)
        for _ in 0..<8 { #expect(login.receive(request).count == 1) }
        expectFailure(&login, request, .outOfResources)
    }

    @Test func `an answer that the initiator could not take is not sent`() {
        var login = targetLogin()
        let unknown = (0..<400).map { ("X-unknown-key-\($0)", "1") }
        expectFailure(
            &login, loginRequest(names + unknown, flags: Flags.operationalToFull), .outOfResources)
    }
}
