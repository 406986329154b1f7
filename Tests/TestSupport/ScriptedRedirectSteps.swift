import DataPlane

// The steps in the order in which the control plane takes them.

extension ScriptedRedirect {
    private func makeSocket(_ side: SpliceSide, seed: UInt64) -> ScriptedTCP {
        var own = side == .client ? options.clientSocket : options.serverSocket
        own.seed = options.seed &+ seed
        let socket =
            side == .client
            ? ScriptedTCP(local: virtualEnd, remote: clientEnd, options: own)
            : ScriptedTCP(local: sourceEnd, remote: serverEnd, options: own)
        adopt(socket, side == .client ? .clientSocket : .serverSocket)
        return socket
    }

    /// Both handshakes and the relay between the sockets.
    package func connect() -> Bool {
        do { try network.addRule([.flood]) } catch { return false }
        let clientSocket = makeSocket(.client, seed: 1)
        self.clientSocket = clientSocket
        clientSocket.listen()
        client.connect()
        guard run(until: { clientSocket.state == .established && client.state == .established })
        else { return false }
        let base = SequenceNumber(clientSocket.remoteBase)
        apply(
            .open(
                id,
                client: SpliceLeg(
                    domain: 0, localAddress: virtualEnd.address, localPort: virtualEnd.port,
                    localMAC: virtualEnd.mac, remoteAddress: clientEnd.address,
                    remotePort: clientEnd.port, remoteScale: clientSocket.remoteScale,
                    localScale: clientSocket.localScale, remoteBase: base),
                usesTimestamps: clientSocket.usesTimestamps, usesSACK: clientSocket.usesSACK))
        apply(
            .updateLeg(
                id, .client, remoteScale: clientSocket.remoteScale,
                localScale: clientSocket.localScale,
                received: (base: base, end: SequenceNumber(clientSocket.receiveNext))))
        apply(
            .attachServer(
                id,
                SpliceLeg(
                    domain: 1, localAddress: sourceEnd.address, localPort: sourceEnd.port,
                    localMAC: sourceEnd.mac, remoteAddress: serverEnd.address,
                    remotePort: serverEnd.port, remoteMAC: serverEnd.mac,
                    stripTimestamps: !clientSocket.usesTimestamps,
                    stripSACK: !clientSocket.usesSACK)))
        let serverSocket = makeSocket(.server, seed: 2)
        server.listen()
        // As an ARP answer would do it: the switch learns where the server is.
        inject(ScriptedTCPSegment(), from: .server)
        run(seconds: 0.001)
        self.serverSocket = serverSocket
        serverSocket.now = now
        serverSocket.connect()
        guard run(until: { serverSocket.state == .established && server.state == .established })
        else { return false }
        apply(
            .updateLeg(
                id, .server, remoteScale: serverSocket.remoteScale,
                localScale: serverSocket.localScale, received: nil))
        return problems.isEmpty
    }

    // MARK: Relay

    func pump() {
        guard let clientSocket, let serverSocket else { return }
        for (from, to) in [(clientSocket, serverSocket), (serverSocket, clientSocket)] {
            while !from.readable.isEmpty, to.sendBuffer.count < 65_536 {
                let side: SpliceSide = from === clientSocket ? .client : .server
                let start = from.receiveNext &- UInt32(from.readable.count)
                to.write(transform(side, start, from.read(maximum: 16_384)))
            }
            if from.hasEnded, from.state == .established { to.close() }
            if from.state == .reset, to.state == .established { to.abort() }
        }
    }

    /// One look, as the control plane takes it by events and by timer.
    func poll() {
        switch state {
        case .relaying where wantsSplice && now >= retryAt: beginSplice()
        case .drainingToSplice: continueSplice()
        case .spliced where !wantsSplice && now >= retryAt: beginUnsplice()
        case .drainingToRelay: continueUnsplice()
        default: break
        }
    }

    // MARK: Splice

    private func beginSplice() {
        guard let clientSocket, let serverSocket, clientSocket.state == .established,
            serverSocket.state == .established, !clientSocket.hasFIN, !serverSocket.hasFIN
        else { return }
        let snapshot = snapshot
        guard snapshot.client.isKnown, snapshot.server.isKnown else { return }
        apply(.beginDrainToSplice(id))
        state = .drainingToSplice
        drainStarted = now
        nextProbe = now + 2_000_000
        freezeRetries = 0
        continueSplice()
    }

    private func isDrained(_ snapshot: SpliceSnapshot, _ positions: [SocketPositions]) -> Bool {
        for side in SpliceSide.allCases {
            guard let socket = socket(side), socket.state == .established,
                socket.readable.isEmpty, socket.sendBuffer.isEmpty,
                socket.sendNext == socket.unacknowledged
            else { return false }
            if snapshot[side].isCutoffValid,
                positions[side.index].receiveNext.isBefore(snapshot[side].cutoff)
            {
                return false
            }
        }
        return isAtRest(positions)
    }

    private func continueSplice() {
        pump()
        guard let clientSocket, let serverSocket else { return }
        if clientSocket.hasFIN || serverSocket.hasFIN { return giveUpSplice() }
        var positions = [clientSocket.positions, serverSocket.positions]
        if isDrained(snapshot, positions) {
            apply(.hold(id))
            let held = snapshot
            self.held = held
            if freeze(&positions, held) { return }
        }
        if now > drainStarted + 50_000_000 { return giveUpSplice() }
        if now > nextProbe {
            nextProbe = now + 5_000_000
            apply(.probe(id))
        }
    }

    private func freeze(_ positions: inout [SocketPositions], _ held: SpliceSnapshot) -> Bool {
        guard let clientSocket, let serverSocket else { return true }
        positions = [clientSocket.positions, serverSocket.positions]
        guard isDrained(held, positions) else {
            apply(.resumeDrain(id))
            freezeRetries += 1
            return false
        }
        for side in SpliceSide.allCases
        where held[side].heldPackets > 0 && positions[side.other.index].sendWindow < 2_920 {
            giveUpSplice()
            return true
        }
        for side in SpliceSide.allCases { spoil(&positions[side.index], side) }
        positionsAtInstall = positions
        self.clientSocket = nil
        self.serverSocket = nil
        apply(
            .install(
                id, client: positions[0], server: positions[1], messages: messages(positions),
                log: log))
        splices += 1
        state = .spliced
        return true
    }

    private func giveUpSplice() {
        giveUps += 1
        apply(.abortToSlow(id))
        state = .relaying
        retryAt = now + 20_000_000
    }

    // MARK: Unsplice

    private func isClosing(_ snapshot: SpliceSnapshot) -> Bool {
        snapshot.closeReason != nil || snapshot.client.hasFIN || snapshot.server.hasFIN
    }

    private func beginUnsplice() {
        let snapshot = snapshot
        guard !isClosing(snapshot), snapshot.client.isKnown, snapshot.server.isKnown else { return }
        apply(.beginDrainToSlow(id))
        state = .drainingToRelay
        drainStarted = now
        nextProbe = now + 2_000_000
        continueUnsplice()
    }

    private func stayInSplice() {
        giveUps += 1
        apply(.abortToSpliced(id))
        state = .spliced
        retryAt = now + 20_000_000
    }

    private func continueUnsplice() {
        let snapshot = snapshot
        if isClosing(snapshot) { return stayInSplice() }
        if snapshot.isQuiet { return finishUnsplice() }
        if now > drainStarted + 50_000_000 { return stayInSplice() }
        if now > nextProbe {
            nextProbe = now + 5_000_000
            apply(.probe(id))
        }
    }

    private func position(of side: SpliceSide, _ snapshot: SpliceSnapshot) -> SocketPositions {
        let own = snapshot[side]
        let other = snapshot[side.other]
        let delta = side == .client ? snapshot.clientDelta : snapshot.serverDelta
        let receiveNext = other.acknowledged - delta
        let receiveWindow = UInt32(max(0, Int32(bitPattern: own.sentEdge - receiveNext)))
        let sendWindow = UInt32(own.window) << UInt32(own.remoteScale)
        let isBeyond = own.windowUpdate.isAfter(receiveNext + receiveWindow)
        return SocketPositions(
            receiveNext: receiveNext, sendNext: own.acknowledged, sendWindow: sendWindow,
            sendWL1: (isBeyond ? receiveNext : own.windowUpdate).rawValue,
            maximumWindow: max(65_535, sendWindow), receiveWindow: receiveWindow,
            receiveWindowUpdate: receiveNext.rawValue, timestamp: own.sentTimestamp)
    }

    private func finishUnsplice() {
        apply(.hold(id))
        let snapshot = snapshot
        guard snapshot.isQuiet, !isClosing(snapshot) else { return stayInSplice() }
        var positions = SpliceSide.allCases.map { position(of: $0, snapshot) }
        for side in SpliceSide.allCases {
            spoil(&positions[side.index], side)
            let socket = makeSocket(side, seed: UInt64(unsplices * 2 + side.index + 3))
            var start = positions[side.index]
            start.timestamp = (snapshot[side].sentTimestamp &+ 2) & ~1
            let own = snapshot[side]
            let end = side == .client ? client : server
            socket.restore(
                start, remoteScale: own.remoteScale, localScale: own.localScale,
                timestamps: end.usesTimestamps, sack: end.usesSACK)
            if side == .client { clientSocket = socket } else { serverSocket = socket }
        }
        held = snapshot
        apply(.finishToSlow(id, client: positions[0], server: positions[1]))
        unsplices += 1
        state = .relaying
    }
}
