import StorageProtocols
import Testing

/// Octets of hexadecimal text; white space does not count.
func octets(_ hexadecimal: String) -> [UInt8] {
    var result: [UInt8] = []
    var high: Int?
    for character in hexadecimal {
        guard let digit = character.hexDigitValue else { continue }
        if let first = high {
            result.append(UInt8(first << 4 | digit))
            high = nil
        } else {
            high = digit
        }
    }
    return result
}

/// All PDUs of a stream that has nothing else.
func pdus(_ stream: [UInt8]) throws -> [ISCSIPDU] {
    var reader = ISCSIPDUReader()
    reader.append(stream)
    var result: [ISCSIPDU] = []
    while let pdu = try reader.next() { result.append(pdu) }
    try #require(reader.isEmpty)
    return result
}

let isid: [UInt8] = [0x80, 1, 2, 3, 4, 5]

/// A login request. `flags`: T 0x80, C 0x40, CSG << 2, NSG.
func loginRequest(
    _ pairs: [(String, String)], flags: UInt8, tsih: UInt16 = 0, isid octets: [UInt8] = isid
) -> ISCSIPDU {
    var pdu = ISCSIPDU(opcode: ISCSIOpcode.login, flags: flags, isImmediate: true)
    pdu.isid = octets
    pdu.tsih = tsih
    pdu.initiatorTaskTag = 7
    pdu.commandSequence = 100
    pdu.data = ISCSIText(pairs).encoded()
    return pdu
}

/// Stage 0 (security) to 1, 1 (operational) to 3, 0 to 3, and without transit.
enum Flags {
    static let security: UInt8 = 0x00
    static let securityToOperational: UInt8 = 0x81
    static let securityToFull: UInt8 = 0x83
    static let operational: UInt8 = 0x04
    static let operationalToFull: UInt8 = 0x87
    static let more: UInt8 = 0x40
}

let initiatorName = "iqn.2026-01.test:initiator"
let targetName = "iqn.2026-01.test:disk"
let names = [("InitiatorName", initiatorName), ("TargetName", targetName)]
let alice = ISCSICredential(user: "alice", secret: "alice-secret-1")
let switchUser = ISCSICredential(user: "switch", secret: "switch-secret-1")

/// A target side that knows `targetName`. CHAP when `chap`; `random` is 17 octets: identifier, challenge.
func targetLogin(
    chap: Bool = false, isMutual: Bool = false,
    server: ISCSIServerParameters? = ISCSIServerParameters(),
    random: @escaping (Int) -> [UInt8] = { (0..<$0).map { UInt8($0 + 1) } }
) -> ISCSITargetLogin {
    let policy = ISCSILoginPolicy(
        requiresCHAP: chap, credentials: chap ? [alice] : [],
        mutual: isMutual ? [alice.user: switchUser] : [:], server: server)
    return ISCSITargetLogin(tsih: 0x1234, random: random) { target, _ in
        target == nil || target == targetName ? policy : nil
    }
}

extension ISCSITargetLogin.Action {
    var sent: ISCSIPDU? { if case .send(let pdu) = self { pdu } else { nil } }
    var established: ISCSILoginResult? {
        if case .established(let result) = self { result } else { nil }
    }
    var failure: ISCSILoginStatus? { if case .failed(let status, _) = self { status } else { nil } }
}

extension ISCSIPDU {
    /// Text of the data segment.
    var text: ISCSIText { (try? ISCSIText(data)) ?? ISCSIText() }
    var status: UInt16 { field16(36) }
}

/// Sends one request and gives the text of the answer; the login must go on.
func answer(_ login: inout ISCSITargetLogin, _ pdu: ISCSIPDU) throws -> ISCSIPDU {
    let actions = login.receive(pdu)
    try #require(actions.count == 1 || actions.count == 2)
    let response = try #require(actions[0].sent)
    #expect(response.opcode == ISCSIOpcode.loginResponse)
    return response
}

/// Sends one request that must be refused, and checks that the response says why.
func expectFailure(
    _ login: inout ISCSITargetLogin, _ pdu: ISCSIPDU, _ status: ISCSILoginStatus,
    sourceLocation: SourceLocation = #_sourceLocation
) {
    let actions = login.receive(pdu)
    #expect(actions.count == 2, sourceLocation: sourceLocation)
    #expect(actions.first?.sent?.status == status.rawValue, sourceLocation: sourceLocation)
    #expect(actions.first?.sent?.data.isEmpty == true, sourceLocation: sourceLocation)
    #expect(actions.last?.failure == status, sourceLocation: sourceLocation)
    // Nothing is answered afterwards.
    #expect(login.receive(pdu).isEmpty, sourceLocation: sourceLocation)
}
