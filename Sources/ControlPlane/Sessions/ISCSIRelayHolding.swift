import DataPlane
import StorageProtocols

/// New requests wait while the session changes its server in good order.
extension ISCSIRelay {
    package func hold() {
        isHolding = true
        tellWhenQuiet()
    }

    func tellWhenQuiet() {
        isQuietTold = false
        tellIfQuiet()
    }

    package func release(output: inout RelayOutput) throws(RelayError) {
        isHolding = false
        try undoSplit(output: &output)
        // Behind data that is on its way to the server.
        guard directions[0].remaining == 0 || directions[0].gathered != nil else { return }
        // What has come of a PDU follows those that waited.
        held += directions[0].gathered ?? directions[0].header
        directions[0] = Direction()
        try passHeld(output: &output)
    }

    /// Between two PDUs of the client, and when the server has room.
    func passHeldIfPossible(output: inout RelayOutput) throws(RelayError) {
        guard !held.isEmpty, !isHolding, former == nil, !difference.isWindowFull,
            case .passing = mode,
            directions[0].remaining == 0, directions[0].header.isEmpty
        else { return }
        try passHeld(output: &output)
    }

    private func passHeld(output: inout RelayOutput) throws(RelayError) {
        let waiting = held
        held = []
        heldTags = []
        try waiting.withBytes { buffer throws(RelayError) in
            try pass(buffer, from: .client, output: &output)
        }
    }

    var isForeign: Bool { foreign != nil }

    var isQuiet: Bool {
        guard isHolding, former == nil, !isSplit, case .passing = mode else { return false }
        return log?.openCount == 0 && owed.isEmpty && directions[1].remaining == 0
            && directions[1].header.isEmpty && directions[1].gathered == nil
    }

    func tellIfQuiet() {
        guard !isQuietTold, isQuiet else { return }
        isQuietTold = true
        onQuiet()
    }
}
