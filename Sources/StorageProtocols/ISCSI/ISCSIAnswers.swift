/// Answers of a target that no server was asked for; sequence numbers are the caller's.
extension ISCSIPDU {
    /// SCSI Response with CHECK CONDITION (RFC 7143 section 11.4).
    /// - Parameter command: the header of the command that it ends; of its data nothing was moved.
    public init(sense: SCSISense, to command: [UInt8]) {
        self.init(status: 0x02, to: command)
        // Section 11.4.7.2: the sense data is behind its length.
        let octets = sense.fixed
        data = [UInt8(octets.count >> 8), UInt8(octets.count & 0xff)] + octets
    }

    /// SCSI Response with a status (SAM-5 section 5.3.1) and without data.
    public init(status: UInt8, to command: [UInt8]) {
        self.init(opcode: ISCSIOpcode.scsiResponse, flags: 0x80)
        self[3] = status
        initiatorTaskTag = command.field32(16)
        setResidual(moved: 0, expected: Int(command.field32(20)))
    }

    /// Data-In PDUs with GOOD status in the last one (RFC 7143 section 11.7), or a SCSI Response when the command
    /// takes no data.
    /// - Parameter maximum: longest data segment that the initiator takes.
    public static func data(_ data: [UInt8], to command: [UInt8], maximum: Int) -> [ISCSIPDU] {
        let expected = command[1] & 0x40 != 0 ? Int(command.field32(20)) : 0
        let sent = Array(data.prefix(expected))
        guard !sent.isEmpty else {
            var answer = ISCSIPDU(status: 0, to: command)
            answer.setResidual(moved: data.count, expected: expected)
            return [answer]
        }
        var result: [ISCSIPDU] = []
        var offset = 0
        while offset < sent.count {
            let part = Array(sent[offset..<min(sent.count, offset + max(512, maximum))])
            let isLast = offset + part.count == sent.count
            // F and S: the status is in the last one (section 11.7.1).
            var pdu = ISCSIPDU(opcode: ISCSIOpcode.dataIn, flags: isLast ? 0x81 : 0)
            pdu.initiatorTaskTag = command.field32(16)
            pdu.targetTransferTag = reservedTag
            pdu.setField32(UInt32(result.count), 36)
            pdu.setField32(UInt32(offset), 40)
            if isLast { pdu.setResidual(moved: data.count, expected: expected) }
            pdu.data = part
            result.append(pdu)
            offset += part.count
        }
        return result
    }

    /// Residual count with its flag (RFC 7143 section 11.4.5): O when more would have come than was expected, U when
    /// less did.
    package mutating func setResidual(moved: Int, expected: Int) {
        flags &= ~0x06
        if moved > expected { flags |= 0x04 } else if moved < expected { flags |= 0x02 }
        setField32(UInt32(clamping: abs(moved - expected)), 44)
    }
}
