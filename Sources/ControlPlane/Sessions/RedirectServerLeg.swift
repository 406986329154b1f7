import DataPlane

/// The connection to a server: made, given up, forgotten.
extension Redirect {
    /// Starts the connection to a server; `onOutcome` tells when it is up.
    func connect(to address: SocketAddress, from local: IPAddress, serverMAC: MACAddress) {
        guard let port = engine.ports.allocate(address: local, now: engine.loop.now) else {
            return onOutcome(.connectFailed("no free source port for \(address)"))
        }
        let source = SocketAddress(address: local, port: port)
        do {
            // Before the SYN leaves: the splicer learns positions from it and blanks options.
            if !hasMemoryClient {
                try engine.apply([
                    .splice(
                        .attachServer(
                            id,
                            SpliceLeg(
                                domain: engine.storageDomain, localAddress: local, localPort: port,
                                localMAC: engine.storageMAC, remoteAddress: address.address,
                                remotePort: address.port, remoteMAC: serverMAC,
                                stripTimestamps: !client.usesTimestamps,
                                stripSACK: !client.usesSACK)))
                ])
            }
            let descriptor = try Socket.connect(
                to: address,
                options: client.serverOptions(from: source, device: engine.storageDevice))
            server = Leg(descriptor: descriptor, local: source, remote: address)
        } catch {
            engine.ports.release(address: local, port: port, now: engine.loop.now, quarantine: 0)
            return onOutcome(.connectFailed("\(error)"))
        }
        state = .connecting
        watch(.server)
    }

    func connectProgress() {
        guard let server else { return }
        if let failure = Socket.connectFailure(server.descriptor) {
            dropServer()
            state = .clientOnly
            return onOutcome(.connectFailed(failure))
        }
        guard let info = try? TCPInfo(descriptor: server.descriptor), !info.isConnecting else {
            return
        }
        // A server may have sent all it has, and its FIN, before we look.
        guard info.isEstablished || info.isHalfClosed else {
            dropServer()
            state = .clientOnly
            return onOutcome(.connectFailed("closed by the server"))
        }
        Socket.setWindowClamp(server.descriptor, 1 << 30)
        self.server?.update(from: info)
        if !hasMemoryClient {
            engine.post(
                id,
                [
                    .updateLeg(
                        id, .server, remoteScale: info.sendScale, localScale: info.receiveScale,
                        received: nil)
                ])
        }
        // The splicer saw the handshake; its base is asked for when a splice begins.
        isServerBaseKnown = false
        connectedAt = engine.loop.now
        state = .relaying
        relay.begin(output: &output)
        onOutcome(.connected)
        if state == .relaying { pump() }
    }

    /// Gives the server leg up; the client leg goes on alone, its socket watched by nobody.
    func detachServer() {
        guard state == .connecting || state == .relaying else { return }
        stopTimer()
        dropStandby()
        dropFormer()
        wantsSplice = false
        if let server { Socket.setReset(server.descriptor) }
        dropServer()
        if !hasMemoryClient { engine.loop.unregister(client.descriptor) }
        output.toServer = OutboundBuffer()
        isEOF = [false, false]
        isShut = [false, false]
        state = .clientOnly
    }

    /// Gives a server leg up that did not come to be; the client's socket stays watched.
    func abandonServer() {
        guard state == .connecting || state == .relaying else { return }
        leaveServer()
    }

    /// Both legs are kernel sockets: the server's goes, what it had to do stays with the relay.
    func leaveServer() {
        dropStandby()
        dropFormer()
        relay.detach()
        forgetServer()
    }

    /// The same, with the relay as it is: it knows what comes.
    func forgetServer() {
        if let server { Socket.setReset(server.descriptor) }
        dropServer()
        output.toServer = OutboundBuffer()
        isEOF = [false, false]
        isShut = [false, false]
        isLeaving = false
        isReplacing = true
        state = .clientOnly
    }

    /// Forgets the server leg: its port is quarantined.
    private func dropServer() {
        guard let server else { return }
        dropShortcut()
        engine.loop.unregister(server.descriptor)
        Socket.close(server.descriptor)
        engine.ports.release(
            address: server.local.address, port: server.local.port, now: engine.loop.now,
            quarantine: Self.portRest)
        self.server = nil
    }
}
