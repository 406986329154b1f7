import StorageProtocols
import Testing

@Suite struct DiscoveryTests {
    static let targets = [
        ISCSIDiscovery.Target(name: "iqn.2026-01.test:a", addresses: ["10.0.0.1:3260"]),
        ISCSIDiscovery.Target(
            name: "iqn.2026-01.test:b", addresses: ["10.0.0.1:3260", "[fd00::1]:3260"]),
    ]

    private func login(isDiscovery: Bool, maxReceive: UInt64 = 8_192) -> ISCSILoginResult {
        var result = ISCSILoginResult()
        result.isDiscovery = isDiscovery
        result.targetName = isDiscovery ? nil : "iqn.2026-01.test:b"
        result.initiatorMaxReceive = maxReceive
        return result
    }

    private func request(_ text: String, tag: UInt32 = ISCSIPDU.reservedTag) -> ISCSIPDU {
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.text, flags: 0x80)
        pdu.targetTransferTag = tag
        pdu.data = Array(text.utf8)
        return pdu
    }

    @Test(
        arguments: [
            ("SendTargets=All\0", true, ["a", "b"]),
            ("SendTargets=iqn.2026-01.test:a\0", true, ["a"]),
            ("SendTargets=iqn.2026-01.test:c\0", true, []), ("SendTargets=\0", true, []),
            ("SendTargets=\0", false, ["b"]), ("SendTargets=iqn.2026-01.test:b\0", false, ["b"]),
        ] as [(String, Bool, [String])])
    func `which targets are told`(text: String, isDiscovery: Bool, names: [String]) throws {
        var discovery = ISCSIDiscovery(targets: Self.targets)
        let answer = try discovery.answer(request(text), login: login(isDiscovery: isDiscovery))
        #expect(answer.opcode == ISCSIOpcode.textResponse)
        #expect(answer.flags == 0x80)
        #expect(answer.targetTransferTag == ISCSIPDU.reservedTag)
        var expected: [UInt8] = []
        for target in Self.targets where names.contains(String(target.name.suffix(1))) {
            expected += Array("TargetName=\(target.name)\0".utf8)
            for address in target.addresses {
                expected += Array("TargetAddress=\(address),1\0".utf8)
            }
        }
        #expect(answer.data == expected)
    }

    @Test func `all targets are not told in a session with one of them`() throws {
        var discovery = ISCSIDiscovery(targets: Self.targets)
        let answer = try discovery.answer(
            request("SendTargets=All\0"), login: login(isDiscovery: false))
        #expect(answer.data == Array("SendTargets=Reject\0".utf8))
    }

    @Test func `other keys are not understood, malformed text is rejected`() throws {
        var discovery = ISCSIDiscovery(targets: Self.targets)
        let session = login(isDiscovery: true)
        #expect(
            try discovery.answer(request("Foo=1\0"), login: session).data
                == Array("Foo=NotUnderstood\0".utf8))
        for text in ["nonsense", "=1\0", "A=1\0A=2\0"] {
            #expect(throws: ISCSIRejectReason.protocolError) {
                try discovery.answer(request(text), login: session)
            }
        }
        #expect(try discovery.answer(request(""), login: session).data.isEmpty)
    }

    @Test(arguments: [100, 512, 1_024, 8_192] as [UInt64])
    func `a long answer comes in pieces that the initiator can take`(maximum: UInt64) throws {
        let targets = (0..<200).map {
            ISCSIDiscovery.Target(name: "iqn.2026-01.test:disk\($0)", addresses: ["10.0.0.1:3260"])
        }
        var discovery = ISCSIDiscovery(targets: targets)
        let session = login(isDiscovery: true, maxReceive: maximum)
        let limit = max(512, Int(maximum))
        var data: [UInt8] = []
        var tags: Set<UInt32> = []
        var answer = try discovery.answer(request("SendTargets=All\0"), login: session)
        while answer.targetTransferTag != ISCSIPDU.reservedTag {
            #expect(answer.flags == 0x40)
            #expect(answer.data.count == limit)
            #expect(tags.insert(answer.targetTransferTag).inserted)
            data += answer.data
            answer = try discovery.answer(
                request("", tag: answer.targetTransferTag), login: session)
        }
        #expect(answer.flags == 0x80)
        #expect(answer.data.count <= limit)
        data += answer.data
        #expect(tags.count == (data.count - 1) / limit)
        let text = String(decoding: data, as: UTF8.self).split(separator: "\0")
        #expect(text.count == 400)
        #expect(text.last == "TargetAddress=10.0.0.1:3260,1")
        #expect(text[398] == "TargetName=iqn.2026-01.test:disk199")
    }

    @Test func `a new question drops the rest of the last answer`() throws {
        let targets = (0..<50).map {
            ISCSIDiscovery.Target(name: "iqn.2026-01.test:disk\($0)", addresses: ["10.0.0.1:3260"])
        }
        var discovery = ISCSIDiscovery(targets: targets)
        let session = login(isDiscovery: true, maxReceive: 512)
        let first = try discovery.answer(request("SendTargets=All\0"), login: session)
        #expect(first.flags == 0x40)
        let second = try discovery.answer(
            request("SendTargets=iqn.2026-01.test:disk7\0"), login: session)
        #expect(second.flags == 0x80)
        #expect(
            second.data
                == Array("TargetName=iqn.2026-01.test:disk7\0TargetAddress=10.0.0.1:3260,1\0".utf8))
    }

    /// A request in parts: `flags` C 0x40, F 0x80.
    private func part(_ text: String, flags: UInt8, tag: UInt32) -> ISCSIPDU {
        var pdu = request(text, tag: tag)
        pdu.flags = flags
        return pdu
    }

    @Test func `a request in several parts is answered when it is whole`() throws {
        var discovery = ISCSIDiscovery(targets: Self.targets)
        let session = login(isDiscovery: true)
        var tag = ISCSIPDU.reservedTag
        for text in ["SendTar", "gets=iqn.2026-", "01.test"] {
            let answer = try discovery.answer(part(text, flags: 0x40, tag: tag), login: session)
            #expect(answer.flags == 0)
            #expect(answer.data.isEmpty)
            #expect(answer.targetTransferTag != ISCSIPDU.reservedTag)
            #expect(answer.targetTransferTag != tag)
            tag = answer.targetTransferTag
        }
        let answer = try discovery.answer(part(":a\0", flags: 0x80, tag: tag), login: session)
        #expect(answer.flags == 0x80)
        #expect(answer.targetTransferTag == ISCSIPDU.reservedTag)
        #expect(
            answer.data
                == Array("TargetName=iqn.2026-01.test:a\0TargetAddress=10.0.0.1:3260,1\0".utf8))
    }

    @Test func `a request that is not final gets no final answer`() throws {
        var discovery = ISCSIDiscovery(targets: Self.targets)
        let session = login(isDiscovery: true)
        let first = try discovery.answer(
            part("Foo=1\0", flags: 0, tag: ISCSIPDU.reservedTag), login: session)
        #expect(first.flags == 0)
        #expect(first.data == Array("Foo=NotUnderstood\0".utf8))
        let last = try discovery.answer(
            part("", flags: 0x80, tag: first.targetTransferTag), login: session)
        #expect(last.flags == 0x80)
        #expect(last.data.isEmpty)
    }

    @Test func `parts that do not belong together are rejected`() throws {
        var discovery = ISCSIDiscovery(targets: Self.targets)
        let session = login(isDiscovery: true)
        #expect(throws: ISCSIRejectReason.protocolError) {
            try discovery.answer(part("A=1\0", flags: 0xc0, tag: .max), login: session)
        }
        #expect(throws: ISCSIRejectReason.invalidField) {
            try discovery.answer(part("A=1\0", flags: 0x80, tag: 77), login: session)
        }
        let first = try discovery.answer(part("A", flags: 0x40, tag: .max), login: session)
        #expect(throws: ISCSIRejectReason.invalidField) {
            let tag = first.targetTransferTag &+ 1
            return try discovery.answer(part("=1\0", flags: 0x80, tag: tag), login: session)
        }
        // The exchange is over with that.
        #expect(throws: ISCSIRejectReason.invalidField) {
            let tag = first.targetTransferTag
            return try discovery.answer(part("=1\0", flags: 0x80, tag: tag), login: session)
        }
    }

    @Test func `what is gathered is bounded`() throws {
        var discovery = ISCSIDiscovery(targets: Self.targets)
        let session = login(isDiscovery: true)
        let text = String(repeating: "a", count: 8_192)
        var tag = ISCSIPDU.reservedTag
        for _ in 0..<(ISCSIText.maximumLength / 8_192) {
            tag = try discovery.answer(part(text, flags: 0x40, tag: tag), login: session)
                .targetTransferTag
        }
        #expect(throws: ISCSIRejectReason.protocolError) {
            try discovery.answer(part("a", flags: 0x40, tag: tag), login: session)
        }
    }
}
