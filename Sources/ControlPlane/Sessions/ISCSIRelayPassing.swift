import DataPlane
import StorageProtocols

/// PDUs on their way from one leg to the other.
extension ISCSIRelay {
    /// The rest of a data segment that is on its way.
    var plainServerOctets: Int {
        guard case .passing = mode, directions[1].gathered == nil else { return 0 }
        return Int(directions[1].remaining)
    }

    func passedPlain(_ count: Int) {
        position += UInt32(count)
        directions[1].remaining -= UInt32(count)
        log?.delivered(position)
        if splitIfPossible() { return tellSplit() }
        tellIfQuiet()
    }

    func pass(
        _ bytes: UnsafeRawBufferPointer, from side: SpliceSide, output: inout RelayOutput
    ) throws(RelayError) {
        var offset = 0
        while offset < bytes.count {
            if side == .client, foreign != nil {
                return keepForeign(Array(bytes[offset...]))
            }
            if side == .server, splitIfPossible() || isSplit {
                splitRest?.append(contentsOf: bytes[offset...])
                break
            }
            if side == .server, former?.waiting.isEmpty == false {
                try flushFormer(output: &output)
            }
            if directions[side.index].remaining > 0 {
                let count = min(bytes.count - offset, Int(directions[side.index].remaining))
                let part = UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count])
                if directions[side.index].gathered != nil {
                    directions[side.index].gathered?.append(contentsOf: part)
                } else if side == .client {
                    if directions[0].isFormer {
                        output.toFormer.append(part)
                    } else {
                        output.toServer.append(part)
                    }
                    log?.clientData(part)
                } else {
                    output.toClient.append(part)
                    position += UInt32(count)
                }
                directions[side.index].remaining -= UInt32(count)
                offset += count
            } else {
                let missing = ISCSIPDU.headerLength - directions[side.index].header.count
                let count = min(missing, bytes.count - offset)
                directions[side.index].header += bytes[offset..<offset + count]
                offset += count
                if count == missing { try takeHeader(side, output: &output) }
            }
            if directions[side.index].remaining == 0, let whole = directions[side.index].gathered {
                directions[side.index].gathered = nil
                try takeGathered(whole, from: side, output: &output)
            }
            if side == .client { try passHeldIfPossible(output: &output) }
        }
        if side == .server {
            log?.delivered(position)
            try passHeldIfPossible(output: &output)
            try flushFormer(output: &output)
            if splitIfPossible() || isSplit, wantsSplit { return tellSplit() }
        } else if isSplit, isClientBetweenMessages {
            return onQuiet()
        }
        tellIfQuiet()
    }

    private func takeHeader(
        _ side: SpliceSide, output: inout RelayOutput
    ) throws(RelayError) {
        var header = directions[side.index].header
        directions[side.index].header = []
        let data = UInt32(header[5]) << 16 | UInt32(header[6]) << 8 | UInt32(header[7])
        let padded = (data + 3) & ~3
        let rest = UInt32(header[4]) * 4 + padded
        directions[side.index].remaining = rest
        let opcode = header[0] & 0x3f
        if side == .client {
            if isForeign(header) {
                directions[0].remaining = 0
                return keepForeign(header)
            }
            if opcode == ISCSIOpcode.text, data > UInt32(ISCSIText.maximumLength) {
                throw RelayError(message: "Text request of \(data) octets")
            }
            directions[0].isHeld = mustWait(header)
            if opcode == ISCSIOpcode.text || directions[0].isHeld {
                directions[0].gathered = header
                return
            }
            noteClient(header)
            log?.clientHeader(header, kind: opcode, now: clock())
            directions[0].isFormer = isForFormer(header)
            if directions[0].isFormer {
                toFormer(&header)
                header.withUnsafeBytes { output.toFormer.append($0) }
                return
            }
            difference.assign(header)
            difference.toServer(&header)
            header.withUnsafeBytes { output.toServer.append($0) }
            return
        }
        difference.noteWindow(header)
        difference.toClient(&header)
        // What the client must not have in part only.
        let isGathered = opcode != ISCSIOpcode.dataIn && rest > 0 && rest <= 4_096 - 48
        if isGathered {
            directions[1].gathered = header
            return
        }
        if opcode == ISCSIOpcode.nopIn, rest == 0, owed[header.field32(16)] != nil {
            return sayWhole(header, output: &output)
        }
        passed(header, length: UInt32(header.count) + rest, data: nil)
        header.withUnsafeBytes { output.toClient.append($0) }
        position += UInt32(header.count)
    }

    /// While new requests wait, or the server has no room for them: data for open ones goes on, nothing else.
    private func mustWait(_ header: [UInt8]) -> Bool {
        if isSplit { return true }
        if header[0] & 0x3f == ISCSIOpcode.dataOut { return heldTags.contains(header.field32(16)) }
        if isHolding || difference.assignsCommands && !held.isEmpty { return true }
        // Behind the first that must wait for the former server nothing overtakes.
        if former != nil, !held.isEmpty || Self.hasOrder(header) { return true }
        return difference.isWindowFull && header[0] & 0x40 == 0
    }

    private func takeGathered(
        _ whole: [UInt8], from side: SpliceSide, output: inout RelayOutput
    ) throws(RelayError) {
        guard side == .client else { return sayWhole(whole, output: &output) }
        if directions[0].isHeld {
            directions[0].isHeld = false
            guard held.count + whole.count <= Self.heldMaximum else {
                throw RelayError(message: "the client sends too much while its server changes")
            }
            held += whole
            if whole[0] & 0x3f != ISCSIOpcode.dataOut { heldTags.insert(whole.field32(16)) }
            return
        }
        noteClient(Array(whole[..<ISCSIPDU.headerLength]))
        guard let ping = try answered(whole) else { return }
        var octets = ping.encoded()
        difference.assign(octets)
        difference.toServer(&octets)
        output.toServer.append(octets)
    }

    /// A message of the server that is complete; `octets` with the client's numbers.
    private func sayWhole(_ octets: [UInt8], output: inout RelayOutput) {
        var octets = octets
        let opcode = octets[0] & 0x3f
        if opcode == ISCSIOpcode.nopIn,
            let answer = owed.removeValue(forKey: octets.field32(16))
        {
            var stamped = answer
            stamped.statusSequence = octets.field32(24)
            stamped.expectedCommand = octets.field32(28)
            stamped.maximumCommand = octets.field32(32)
            octets = stamped.encoded()
        }
        let header = Array(octets[..<ISCSIPDU.headerLength])
        passed(
            header, length: UInt32(octets.count),
            data: octets.count > header.count ? Array(octets[header.count...]) : nil)
        output.toClient.append(octets)
        position += UInt32(octets.count)
    }

    func stamped(_ answer: ISCSIPDU, like pdu: ISCSIPDU) -> ISCSIPDU {
        var answer = answer
        answer.statusSequence = pdu.statusSequence
        answer.expectedCommand = pdu.expectedCommand
        answer.maximumCommand = pdu.maximumCommand
        return answer
    }

    /// A message of the server is about to go to the client.
    func passed(_ header: [UInt8], length: UInt32, data: [UInt8]?) {
        noteServer(header)
        log?.serverMessage(
            header, kind: header[0] & 0x3f, position: position, length: length, data: data,
            now: clock())
    }

    /// A Text request is answered here, and the server gets a NOP-Out in its place: so that both count one
    /// command and one response.
    func answered(_ whole: [UInt8]) throws(RelayError) -> ISCSIPDU? {
        guard owed.count < Self.owedMaximum else {
            throw RelayError(message: "more than \(Self.owedMaximum) Text requests at once")
        }
        var reader = ISCSIPDUReader(dataMaximum: ISCSIText.maximumLength)
        reader.append(whole)
        guard let pdu = try? reader.next() else { return nil }
        var answer: ISCSIPDU
        do throws(ISCSIRejectReason) {
            answer = try discovery.answer(pdu, login: loginResult)
            answer.initiatorTaskTag = pdu.initiatorTaskTag
        } catch {
            answer = ISCSIPDU(rejecting: pdu, error)
        }
        owed[pdu.initiatorTaskTag] = answer
        var ping = ISCSIPDU(
            opcode: ISCSIOpcode.nopOut, flags: 0x80, isImmediate: pdu.isImmediate)
        ping.initiatorTaskTag = pdu.initiatorTaskTag
        ping.targetTransferTag = ISCSIPDU.reservedTag
        ping.commandSequence = pdu.commandSequence
        ping.expectedStatus = pdu.expectedStatus
        return ping
    }
}
