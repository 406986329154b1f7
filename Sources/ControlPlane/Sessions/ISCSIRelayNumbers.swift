package import DataPlane
package import StorageProtocols

/// The fields of PDU headers in which a client's leg and its server's differ.
package struct ISCSILegDifference {
    /// Server's CmdSN - client's, and the same for StatSN.
    package var command: UInt32 = 0
    package var status: UInt32 = 0
    /// LUN fields of the one unit that the server has for the client, when they are not the same.
    package var unit: (client: UInt64, server: UInt64)?
    /// The client uses its numbers for other servers too: what goes to this one is numbered here.
    package var assignsCommands = false
    /// CmdSN that the server expects next, and the last one that it takes; in its own numbers.
    package var nextCommand: UInt32 = 0
    package var maximumCommand: UInt32 = 0
    /// What the newest commands were called on both sides, for task management: by the client's number.
    private var renumbered: [(client: UInt32, server: UInt32)?] = []
    /// Numbers of the client that differed by a constant, while it used no other server, and the constant.
    private var constant: (first: UInt32, end: UInt32, difference: UInt32)?
    package init() {}

    /// Commands that an initiator may have open: what is older is not referred to.
    private static let renumberedMaximum: UInt32 = 256

    // RFC 7143 section 4.2.2.1: requests for immediate delivery carry the number of the next command and do not
    // use it up. Data-Out and SNACK have none (sections 11.7 and 11.16).
    /// Kinds whose octets 24 to 27 are CmdSN.
    static let commandKinds: UInt64 =
        ~(1 << UInt64(ISCSIOpcode.dataOut) | 1 << UInt64(ISCSIOpcode.snack))
    /// Kinds whose LUN names a unit, from the client and from the server. A NOP's says whose question it answers
    /// (section 11.18.3), and is told back as it came.
    static let clientUnitKinds: UInt64 =
        1 << UInt64(ISCSIOpcode.scsiCommand) | 1 << UInt64(ISCSIOpcode.taskManagement)
        | 1 << UInt64(ISCSIOpcode.dataOut)
    static let serverUnitKinds: UInt64 =
        1 << UInt64(ISCSIOpcode.readyToTransfer) | 1 << UInt64(ISCSIOpcode.asyncMessage)

    private static func holds(_ kinds: UInt64, _ opcode: UInt8) -> Bool {
        kinds >> UInt64(opcode & 0x3f) & 1 != 0
    }

    /// Another server counts from here on.
    package mutating func begin(nextCommand: UInt32) {
        self.nextCommand = nextCommand
        command = 0
        renumbered = []
        constant = nil
    }

    /// A command that goes to the server now takes the next number.
    package mutating func assign(_ header: [UInt8]) {
        guard assignsCommands, Self.holds(Self.commandKinds, header[0]) else { return }
        let number = header.field32(24)
        command = nextCommand &- number
        guard header[0] & 0x40 == 0 else { return }
        let place = Int(number % Self.renumberedMaximum)
        if renumbered.isEmpty {
            renumbered = Array(repeating: nil, count: Int(Self.renumberedMaximum))
        }
        renumbered[place] = (number, nextCommand)
        nextCommand &+= 1
    }

    /// No command can be sent before the server has made room.
    package var isWindowFull: Bool {
        assignsCommands && Int32(bitPattern: maximumCommand &- nextCommand) < 0
    }

    /// The window, as a PDU of the server has it.
    package mutating func noteWindow(_ header: [UInt8]) {
        let maximum = header.field32(32)
        if Int32(bitPattern: maximum &- maximumCommand) > 0 { maximumCommand = maximum }
    }

    /// A PDU of the client with the server's numbers, for a recovery: those that it gives out itself, and the unit,
    /// are still the client's.
    package mutating func numbered(_ pdu: ISCSIPDU) -> ISCSIPDU {
        assign(pdu.header)
        var numbered = pdu
        if Self.holds(Self.commandKinds, pdu.opcode) { numbered.commandSequence &+= command }
        // Tasks that are sent again are the recovery's to find.
        if pdu.opcode == ISCSIOpcode.taskManagement, let known = known(pdu.field32(32)) {
            numbered.setField32(known, 32)
        }
        return numbered
    }

    package func toServer(_ header: inout [UInt8]) {
        let opcode = header[0] & 0x3f
        if Self.holds(Self.commandKinds, opcode) { header.add(command, at: 24) }
        header.add(status, at: 28)
        if opcode == ISCSIOpcode.taskManagement {
            header.set(reference(header.field32(32)), at: 32)
        }
        if let unit, Self.holds(Self.clientUnitKinds, opcode), header.unit == unit.client {
            header.unit = unit.server
        }
    }

    /// RFC 7143 section 11.5.6: RefCmdSN is the CmdSN of the task that is meant.
    private func reference(_ number: UInt32) -> UInt32 { known(number) ?? number &+ command }

    private func known(_ number: UInt32) -> UInt32? {
        if !renumbered.isEmpty, let entry = renumbered[Int(number % Self.renumberedMaximum)],
            entry.client == number
        {
            return entry.server
        }
        guard let constant, number &- constant.first < constant.end &- constant.first else {
            return nil
        }
        return number &+ constant.difference
    }

    /// From `first` on the client's numbers, up to `end`, had one difference.
    mutating func endConstant(first: UInt32, end: UInt32) {
        constant = (first, end, command)
    }

    package func toClient(_ header: inout [UInt8]) {
        header.add(0 &- status, at: 24)
        if command != 0 {
            header.add(0 &- command, at: 28)
            header.add(0 &- command, at: 32)
        }
        unitToClient(&header)
    }

    package func unitToServer(_ header: inout [UInt8]) {
        if let unit, Self.holds(Self.clientUnitKinds, header[0]), header.unit == unit.client {
            header.unit = unit.server
        }
    }

    package func unitToClient(_ header: inout [UInt8]) {
        if let unit, Self.holds(Self.serverUnitKinds, header[0]), header.unit == unit.server {
            header.unit = unit.client
        }
    }

    // MARK: In the dataplane

    private static func edit(
        _ offset: UInt16, _ difference: UInt32, kinds: UInt64 = .max
    ) -> MessageEdit? {
        difference == 0
            ? nil
            : MessageEdit(
                field: MessageFormat.Field(offset: offset, width: 4),
                operation: .add(UInt64(difference)), kinds: kinds)
    }

    private static func edit(unit: UInt64, kinds: UInt64) -> MessageEdit {
        MessageEdit(
            field: MessageFormat.Field(offset: 8, width: 8), operation: .set(unit), kinds: kinds)
    }

    package var clientEdits: [MessageEdit] {
        [
            Self.edit(24, command, kinds: Self.commandKinds), Self.edit(28, status),
            unit.map { Self.edit(unit: $0.server, kinds: Self.clientUnitKinds) },
        ].compactMap { $0 }
    }

    package var serverEdits: [MessageEdit] {
        [
            Self.edit(24, 0 &- status), Self.edit(28, 0 &- command), Self.edit(32, 0 &- command),
            unit.map { Self.edit(unit: $0.client, kinds: Self.serverUnitKinds) },
        ].compactMap { $0 }
    }
}

extension [UInt8] {
    /// Eight octets that address a unit, as a number to compare.
    var unitField: UInt64 { reduce(0) { $0 << 8 | UInt64($1) } }

    /// The LUN field of a PDU header (RFC 7143 section 11.2.1.7).
    var unit: UInt64 {
        get { self[8..<16].reduce(0) { $0 << 8 | UInt64($1) } }
        set {
            for index in 0..<8 {
                self[8 + index] = UInt8(truncatingIfNeeded: newValue >> UInt64(56 - index * 8))
            }
        }
    }

    mutating func set(_ value: UInt32, at offset: Int) {
        for octet in 0..<4 {
            self[offset + octet] = UInt8(truncatingIfNeeded: value >> UInt32(24 - octet * 8))
        }
    }

    mutating func add(_ value: UInt32, at offset: Int) {
        if value != 0 { set(field32(offset) &+ value, at: offset) }
    }
}
