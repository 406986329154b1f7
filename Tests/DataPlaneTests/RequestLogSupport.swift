import DataPlane

/// PDUs as the log sees them: a header and data, with the fields that the iSCSI rules look at.
enum LogMessage {
    static let nopOut: UInt8 = 0x00
    static let command: UInt8 = 0x01
    static let dataOut: UInt8 = 0x05
    static let nopIn: UInt8 = 0x20
    static let response: UInt8 = 0x21
    static let dataIn: UInt8 = 0x25
    static let readyToTransfer: UInt8 = 0x31
    static let reject: UInt8 = 0x3f

    static func header(
        _ kind: UInt8, id: UInt32, data: Int = 0, flags: UInt8 = 0, mark: UInt32 = 0
    ) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 48)
        // Requests are immediate: CmdSN does not count them.
        bytes[0] = [nopOut, command, 0x02, 0x06].contains(kind) ? kind | 0x40 : kind
        bytes[1] = flags
        put(UInt32(data), into: &bytes, at: 4)
        put(id, into: &bytes, at: 16)
        put(mark, into: &bytes, at: 24)
        return bytes
    }

    static func put(_ value: UInt32, into bytes: inout [UInt8], at offset: Int) {
        for octet in 0..<4 {
            bytes[offset + octet] = UInt8(truncatingIfNeeded: value >> UInt32(24 - octet * 8))
        }
    }
}

extension SessionLog {
    /// A whole message of the client; its data in pieces of at most `piece` octets.
    func client(_ header: [UInt8], data: [UInt8] = [], piece: Int = .max, now: UInt64 = 1) {
        clientHeader(header, kind: header[0] & 0x3f, now: now)
        var offset = 0
        while offset < data.count {
            let end = offset + min(piece, data.count - offset)
            data.withUnsafeBytes { clientData(UnsafeRawBufferPointer(rebasing: $0[offset..<end])) }
            offset = end
        }
    }

    /// A message of the server at `position`, kept until something acknowledges it.
    func server(
        _ header: [UInt8], at position: UInt32, length: UInt32 = 48, data: [UInt8]? = nil,
        now: UInt64 = 1
    ) {
        var header = header
        let kind = UInt64(header[0] & 0x3f)
        header.withUnsafeMutableBytes { bytes in
            guard let start = bytes.baseAddress else { return }
            guard let data else {
                return log.pointee.serverMessage(
                    start, kind: kind, position: SequenceNumber(position), length: length,
                    data: nil, now: now)
            }
            data.withUnsafeBytes { part in
                log.pointee.serverMessage(
                    start, kind: kind, position: SequenceNumber(position), length: length,
                    data: part.baseAddress.map { ($0, part.count) }, now: now)
            }
        }
    }

    var hasRoom: Bool { log.pointee.hasReplyRoom }

    static func iscsi(
        maximum: Int = 4 << 20, budget: RequestLogBudget = RequestLogBudget(maximum: 64 << 20)
    ) -> SessionLog {
        SessionLog(format: .iscsi, rules: .iscsi, maximum: maximum, budget: budget)
    }

    static func rpc() -> SessionLog {
        SessionLog(
            format: .rpc, rules: .rpc, maximum: 4 << 20,
            budget: RequestLogBudget(maximum: 64 << 20))
    }
}
