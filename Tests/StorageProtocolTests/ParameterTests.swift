import StorageProtocols
import TestSupport
import Testing

/// RFC 7143 section 13: how each key's result comes from both sides' values.
@Suite struct ParameterTests {
    struct Case: Sendable, CustomTestStringConvertible {
        let key: String
        let own: String
        let offer: String
        let result: String?
        var testDescription: String { "\(key): \(own) and \(offer)" }
        init(_ key: String, _ own: String, _ offer: String, _ result: String?) {
            self.key = key
            self.own = own
            self.offer = offer
            self.result = result
        }
    }

    static let cases = [
        // OR: one Yes is enough.
        Case("InitialR2T", "No", "No", "No"), Case("InitialR2T", "No", "Yes", "Yes"),
        Case("InitialR2T", "Yes", "No", "Yes"), Case("InitialR2T", "Yes", "Yes", "Yes"),
        Case("DataPDUInOrder", "No", "No", "No"), Case("DataPDUInOrder", "Yes", "No", "Yes"),
        Case("DataSequenceInOrder", "No", "Yes", "Yes"),
        Case("DataSequenceInOrder", "No", "No", "No"),
        // AND: both must say Yes.
        Case("ImmediateData", "Yes", "Yes", "Yes"), Case("ImmediateData", "Yes", "No", "No"),
        Case("ImmediateData", "No", "Yes", "No"), Case("ImmediateData", "No", "No", "No"),
        // Minimum.
        Case("MaxBurstLength", "262144", "512", "512"),
        Case("MaxBurstLength", "262144", "16777215", "262144"),
        Case("MaxBurstLength", "262144", "0x400", "1024"),
        Case("FirstBurstLength", "65536", "65536", "65536"),
        Case("FirstBurstLength", "65536", "1000", "1000"),
        Case("MaxOutstandingR2T", "1", "65535", "1"), Case("MaxOutstandingR2T", "8", "4", "4"),
        Case("DefaultTime2Retain", "20", "0", "0"), Case("DefaultTime2Retain", "20", "3600", "20"),
        Case("ErrorRecoveryLevel", "0", "2", "0"), Case("MaxConnections", "1", "65535", "1"),
        // Maximum.
        Case("DefaultTime2Wait", "2", "0", "2"), Case("DefaultTime2Wait", "2", "3600", "3600"),
        // Out of range, or of another type.
        Case("InitialR2T", "Yes", "yes", nil), Case("ImmediateData", "Yes", "1", nil),
        Case("MaxBurstLength", "262144", "511", nil),
        Case("MaxBurstLength", "262144", "16777216", nil),
        Case("FirstBurstLength", "65536", "-1", nil), Case("FirstBurstLength", "65536", "", nil),
        Case("MaxOutstandingR2T", "1", "0", nil), Case("MaxOutstandingR2T", "1", "65536", nil),
        Case("DefaultTime2Wait", "2", "3601", nil), Case("DefaultTime2Retain", "2", "3601", nil),
        Case("ErrorRecoveryLevel", "0", "3", nil), Case("MaxConnections", "1", "0", nil),
        Case("MaxConnections", "1", "Yes", nil),
    ]

    @Test(arguments: cases) func result(of test: Case) {
        var own = ISCSIParameters()
        let isSet = own.set(test.key, test.own)
        #expect(isSet)
        #expect(own.text(test.key) == test.own)
        #expect(own.result(test.key, offer: test.offer) == test.result)
    }

    @Test(arguments: cases) func `a login answers with the result, or is refused`(test: Case) throws
    {
        var server = ISCSIServerParameters()
        let isSet = server.limits.set(test.key, test.own)
        #expect(isSet)
        var login = targetLogin(server: server)
        let request = loginRequest(names + [(test.key, test.offer)], flags: Flags.operationalToFull)
        guard let result = test.result else {
            return expectFailure(&login, request, .initiatorError)
        }
        let actions = login.receive(request)
        #expect(actions.first?.sent?.text[test.key] == result)
        let established = try #require(actions.last?.established)
        #expect(established.parameters.text(test.key) == result)
    }

    @Test func `defaults are those of RFC 7143`() {
        let defaults = ISCSIParameters()
        let expected = [
            "InitialR2T": "Yes", "ImmediateData": "Yes", "MaxBurstLength": "262144",
            "FirstBurstLength": "65536", "MaxOutstandingR2T": "1", "DataPDUInOrder": "Yes",
            "DataSequenceInOrder": "Yes", "DefaultTime2Wait": "2", "DefaultTime2Retain": "20",
            "ErrorRecoveryLevel": "0", "MaxConnections": "1",
        ]
        for (key, value) in expected { #expect(defaults.text(key) == value) }
        #expect(defaults.text("MaxRecvDataSegmentLength") == nil)
    }

    @Test func `an unknown key or a bad value changes nothing`() {
        var parameters = ISCSIParameters()
        for (key, value) in [("NoSuchKey", "1"), ("MaxBurstLength", "0"), ("InitialR2T", "Maybe")] {
            let isSet = parameters.set(key, value)
            #expect(!isSet)
        }
        #expect(parameters == ISCSIParameters())
        #expect(parameters.result("NoSuchKey", offer: "1") == nil)
    }

    @Test(arguments: [511, 16_777_216]) func `MaxRecvDataSegmentLength out of range`(value: Int) {
        var login = targetLogin()
        expectFailure(
            &login,
            loginRequest(
                names + [("MaxRecvDataSegmentLength", "\(value)")],
                flags: Flags.operationalToFull), .initiatorError)
    }

    @Test(arguments: [
        ("HeaderDigest", "CRC32C,None", "None"), ("HeaderDigest", "None", "None"),
        ("DataDigest", "CRC32C", "Reject"), ("IFMarker", "Yes", "No"), ("OFMarker", "No", "No"),
        ("IFMarkInt", "2048~8192", "Irrelevant"), ("OFMarkInt", "Reject", "Irrelevant"),
        ("TaskReporting", "RFC3720", "NotUnderstood"), ("X-com.example.key", "1", "NotUnderstood"),
        ("iSCSIProtocolLevel", "1", "NotUnderstood"), ("Nonsense", "", "NotUnderstood"),
    ])
    func `keys that have no table entry`(key: String, offer: String, result: String) throws {
        var login = targetLogin()
        let actions = login.receive(
            loginRequest(names + [(key, offer)], flags: Flags.operationalToFull))
        #expect(actions.first?.sent?.text[key] == result)
        #expect(actions.last?.established != nil)
    }

    @Test func `each side declares what it can receive`() throws {
        for own in [nil, 65_536 as UInt64?] {
            var login = targetLogin(
                server: ISCSIServerParameters(maxReceiveDataSegmentLength: own))
            let actions = login.receive(
                loginRequest(
                    names + [("MaxRecvDataSegmentLength", "16384")],
                    flags: Flags.operationalToFull))
            let key = "MaxRecvDataSegmentLength"
            #expect(actions.first?.sent?.text[key] == own.map { String($0) })
            #expect(actions.last?.established?.initiatorMaxReceive == 16_384)
        }
    }

    // MARK: One session over several servers

    static let accepted: [Case] = cases.filter { $0.result != nil }

    @Test(arguments: accepted) func `what two servers take is the stricter of each key`(test: Case)
    {
        var one = ISCSIServerParameters()
        var other = ISCSIServerParameters()
        let areSet = [
            one.limits.set(test.key, test.own), other.limits.set(test.key, test.offer),
        ]
        #expect(areSet == [true, true])
        let common = one.common(with: other)
        #expect(common.limits.text(test.key) == test.result)
        #expect(common == other.common(with: one))
        var limits = common.limits
        let isReset = limits.set(test.key, ISCSIParameters().text(test.key) ?? "")
        #expect(isReset)
        #expect(limits == ISCSIParameters(), "another key is not the default")
    }

    /// RFC 7143 section 13.12: without a declaration 8192 holds.
    @Test(
        arguments: [
            (nil, nil, 8_192), (nil, 65_536, 8_192), (nil, 512, 512), (nil, 8_192, 8_192),
            (65_536, 16_384, 16_384), (65_536, 65_536, 65_536),
        ] as [(UInt64?, UInt64?, UInt64)])
    func `the shorter data segment`(one: UInt64?, other: UInt64?, expected: UInt64) {
        let first = ISCSIServerParameters(maxReceiveDataSegmentLength: one)
        let second = ISCSIServerParameters(maxReceiveDataSegmentLength: other)
        #expect(first.common(with: second).maxReceiveDataSegmentLength == expected)
        #expect(second.common(with: first).maxReceiveDataSegmentLength == expected)
    }

    @Test func `the smaller command window`() {
        let first = ISCSIServerParameters(commandWindow: 32)
        let second = ISCSIServerParameters(commandWindow: 128)
        #expect(first.common(with: second).commandWindow == 32)
        #expect(second.common(with: first).commandWindow == 32)
    }

    private func server(_ random: inout SplitMix64) -> ISCSIServerParameters {
        var limits = ISCSIParameters()
        limits.initialR2T = random.below(2) == 0
        limits.immediateData = random.below(2) == 0
        limits.maxBurstLength = UInt64(512 + random.below(1_000_000))
        limits.firstBurstLength = UInt64(512 + random.below(1_000_000))
        limits.maxOutstandingR2T = UInt64(1 + random.below(8))
        limits.dataPDUInOrder = random.below(2) == 0
        limits.dataSequenceInOrder = random.below(2) == 0
        limits.defaultTime2Wait = UInt64(random.below(10))
        limits.defaultTime2Retain = UInt64(random.below(10))
        limits.errorRecoveryLevel = UInt64(random.below(3))
        limits.maxConnections = UInt64(1 + random.below(8))
        let length = random.below(3) == 0 ? nil : UInt64(512 + random.below(20_000))
        return ISCSIServerParameters(
            limits: limits, maxReceiveDataSegmentLength: length,
            commandWindow: UInt32(1 + random.below(200)))
    }

    @Test func `the order of servers does not count`() {
        var random = SplitMix64(seed: 1)
        for _ in 0..<500 {
            let one = server(&random)
            let other = server(&random)
            let third = server(&random)
            let common = one.common(with: other)
            #expect(common == other.common(with: one))
            #expect(common.common(with: third) == one.common(with: other.common(with: third)))
            #expect(common.common(with: other) == common)
        }
    }
}
