import DataPlane
import Logging

/// The client's connection comes from a relay of several servers, and goes back there.
extension Redirect {
    /// Takes the client's socket over: from here on the session can be spliced. Between two messages of the client,
    /// with nothing on its way to it.
    func adoptClient(_ leg: Leg) throws {
        guard state == .relaying, hasMemoryClient, let server else {
            throw RelayError(message: "no server leg")
        }
        var known = server
        known.base = try base(of: server)
        dropShortcut()
        // What the dataplane knew of the connection is old: it begins anew, in the middle.
        try engine.apply([.splice(.close(id))])
        try engine.followClient(id, leg)
        try followServer(known)
        self.server = known
        client = leg
        isServerBaseKnown = true
        connectedAt = engine.loop.now
        setMemoryClient(nil)
        watch(.client)
    }

    /// Gives it back. The server leg stays, when there is one; neither is in the dataplane. Nothing is read here: what
    /// the client has sent meanwhile comes after what its new owner was given, and must not get to the server before.
    func releaseClient(_ onOutput: @escaping () -> Void) -> Leg {
        if state == .drainingToSplice { undoDrainToSplice() }
        stopTimer()
        wantsSplice = false
        engine.loop.unregister(client.descriptor)
        let leg = client
        client.descriptor = -1
        setMemoryClient(onOutput)
        return leg
    }

    /// Sequence number from which the socket of a connection counts what it receives.
    func base(of leg: Leg) throws -> SequenceNumber {
        let before = try TCPInfo(descriptor: leg.descriptor)
        let positions = try TCPRepair.freeze(leg.descriptor, timestamps: true)
        try TCPRepair.thaw(leg.descriptor)
        let after = try TCPInfo(descriptor: leg.descriptor)
        guard after.isEstablished, after.bytesReceived == before.bytesReceived else {
            throw RelayError(message: "the server closes it, or sends without being asked")
        }
        return positions.receiveNext - UInt32(truncatingIfNeeded: after.bytesReceived)
    }

    /// Once, and not from within the relay.
    func tellForeign() {
        guard !isForeignTold else { return }
        isForeignTold = true
        engine.loop.postLocal { [weak self] in
            guard let self else { return }
            isForeignTold = false
            if state == .relaying || state == .drainingToSplice { onOutcome(.clientForeign) }
        }
    }
}
