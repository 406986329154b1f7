import StorageProtocols

private let target = "iqn.2026-01.test:disk"
private let user = ISCSICredential(user: "alice", secret: "alice-secret-1")
private let own = ISCSICredential(user: "switch", secret: "switch-secret-1")
private let challenge = (0..<17).map { UInt8($0) }

private func login(_ pairs: [(String, String)], _ flags: UInt8) -> ISCSIPDU {
    var pdu = ISCSIPDU(opcode: ISCSIOpcode.login, flags: flags, isImmediate: true)
    pdu.isid = [0x80, 1, 2, 3, 4, 5]
    pdu.data = ISCSIText(pairs).encoded()
    return pdu
}

private let names = [("InitiatorName", "iqn.2026-01.test:i"), ("TargetName", target)]
private let parameters = [
    ("HeaderDigest", "None,CRC32C"), ("DataDigest", "None"), ("InitialR2T", "No"),
    ("ImmediateData", "Yes"), ("MaxBurstLength", "262144"), ("FirstBurstLength", "65536"),
    ("MaxOutstandingR2T", "1"), ("MaxRecvDataSegmentLength", "8192"), ("X-other", "1"),
]

private func session() -> [ISCSIPDU] {
    var text = ISCSIPDU(opcode: ISCSIOpcode.text, flags: 0x80)
    text.targetTransferTag = ISCSIPDU.reservedTag
    text.data = Array("SendTargets=All\0".utf8)
    var ping = ISCSIPDU(opcode: ISCSIOpcode.nopOut, flags: 0x80)
    ping.data = [1, 2, 3]
    return [
        text, ping, ISCSIPDU(opcode: ISCSIOpcode.scsiCommand, flags: 0x81),
        ISCSIPDU(opcode: ISCSIOpcode.taskManagement, flags: 0x81),
        ISCSIPDU(opcode: ISCSIOpcode.logout, flags: 0x80),
    ]
}

private func chapLogin() -> [ISCSIPDU] {
    let proof = CHAP.response(
        identifier: challenge[0], secret: user.secret, challenge: Array(challenge.dropFirst()))
    return [
        login(names + [("AuthMethod", "CHAP,None")], 0x81), login([("CHAP_A", "5")], 0x00),
        login(
            [
                ("CHAP_N", user.user), ("CHAP_R", ISCSIText.hex(proof)), ("CHAP_I", "7"),
                ("CHAP_C", "0x0102030405060708090a0b0c0d0e0f10"),
            ], 0x81), login(parameters, 0x87),
    ]
}

/// A client's stream; with CHAP nobody gets in without the secret's proof.
func runISCSI(_ random: inout SeededGenerator) throws -> String? {
    let usesCHAP = random.chance(2)
    let isDiscovery = !usesCHAP && random.chance(3)
    let first =
        isDiscovery
        ? [login([names[0], ("SessionType", "Discovery")] + parameters, 0x87)]
        : usesCHAP ? chapLogin() : [login(names + parameters, 0x87)]
    let policy = ISCSILoginPolicy(
        requiresCHAP: usesCHAP, credentials: [user], mutual: [user.user: own],
        server: ISCSIServerParameters())
    var login = ISCSITargetLogin(tsih: 1, random: { _ in challenge }) { name, _ in
        name == nil || name == target ? policy : nil
    }
    var stream = random.mutated((first + session()).flatMap { $0.encoded() })
    var reader = ISCSIPDUReader(dataMaximum: 8_192)
    var session: ISCSITargetSession?
    while !stream.isEmpty {
        let count = random.number(1...min(200, stream.count))
        reader.append(stream.prefix(count))
        stream.removeFirst(count)
        while true {
            let next: ISCSIPDU?
            do { next = try reader.next() } catch { return nil }
            guard let pdu = next else { break }
            if session != nil {
                for action in session?.receive(pdu) ?? [] {
                    if action == .needServer {
                        _ = session?.refuse(pdu, sense: (key: 2, code: 4, qualifier: 1))
                    }
                }
                continue
            }
            for action in login.receive(pdu) {
                guard case .established(let result) = action else { continue }
                if usesCHAP, result.user != user.user { return "CHAP without a user" }
                let targets = (0..<100).map {
                    ISCSIDiscovery.Target(name: "iqn.x:\($0)", addresses: ["10.0.0.1:3260"])
                }
                session = ISCSITargetSession(result, discovery: ISCSIDiscovery(targets: targets))
            }
        }
    }
    return nil
}

/// A server's stream; a mutual login never succeeds without the server's proof.
func runInitiator(_ random: inout SeededGenerator) throws -> String? {
    func response(_ pairs: [(String, String)], _ flags: UInt8) -> ISCSIPDU {
        var pdu = ISCSIPDU(opcode: ISCSIOpcode.loginResponse, flags: flags)
        pdu.tsih = 5
        pdu.data = ISCSIText(pairs).encoded()
        return pdu
    }
    let usesCHAP = random.chance(2)
    let proof = CHAP.response(
        identifier: challenge[0], secret: own.secret, challenge: Array(challenge.dropFirst()))
    let answers =
        usesCHAP
        ? [
            response([("AuthMethod", "CHAP")], 0),
            response([("CHAP_A", "5"), ("CHAP_I", "9"), ("CHAP_C", "0x01020304")], 0),
            response([("CHAP_N", own.user), ("CHAP_R", ISCSIText.hex(proof))], 0x81),
            response([("InitialR2T", "Yes"), ("MaxBurstLength", "262144")], 0x87),
        ] : [response([("InitialR2T", "Yes"), ("FirstBurstLength", "65536")], 0x87)]
    let request = ISCSIInitiatorRequest(
        initiatorName: "iqn.2026-01.test:i", targetName: target, isid: [0x80, 1, 2, 3, 4, 5],
        credential: usesCHAP ? user : nil, mutual: usesCHAP ? own : nil, isStrict: random.chance(2))
    var initiator = ISCSIInitiatorLogin(request) { _ in challenge }
    _ = initiator.start()
    let stream = random.mutated(answers.flatMap { $0.encoded() })
    let text = ISCSIText.hex(proof).dropFirst(2)
    let hasProof = String(decoding: stream, as: UTF8.self).lowercased().contains(text)
    var reader = ISCSIPDUReader(dataMaximum: 8_192)
    reader.append(stream)
    while let pdu = try? reader.next() {
        for case .established in initiator.receive(pdu) where usesCHAP && !hasProof {
            return "a login without the server's proof"
        }
    }
    return nil
}

func runISCSIText(_ random: inout SeededGenerator) throws -> String? {
    let seed = Array("CHAP_C=0x0123abcd\0CHAP_R=0bAAECAw==\0MaxBurstLength=0x1000\0A=b\0".utf8)
    let bytes = random.mutated(
        seed, words: ["=", "\0", "0x", "0b", "-", "+", "é"].map { Array($0.utf8) })
    guard let text = try? ISCSIText(bytes) else { return nil }
    for (_, value) in text.pairs {
        _ = ISCSIText.number(value)
        if let binary = ISCSIText.binary(value), ISCSIText.binary(ISCSIText.hex(binary)) != binary {
            return "binary value \(value)"
        }
    }
    return (try? ISCSIText(text.encoded())) == text ? nil : "text is not read again"
}
