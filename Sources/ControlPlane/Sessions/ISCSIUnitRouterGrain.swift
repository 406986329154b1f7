import DataPlane
import Logging
import StorageProtocols

/// Between the message grain and the connection grain: a session that uses one unit only is that unit's nexus's, which
/// can be spliced; with the first request for something else it comes back.
extension ISCSIUnitRouter {
    /// The one that has the client's connection; nil: the relay has it.
    var redirect: Redirect? { alone.flatMap { units[$0]?.nexus?.redirect } }

    /// ns between looks.
    private static let interval: UInt64 = 100_000_000

    func watchGrain() {
        grain.timer?.cancel()
        grain.timer = engine.loop.schedule(after: Self.interval) { [weak self] in
            guard let self, !isOver else { return }
            considerAlone()
            watchGrain()
        }
    }

    private func considerAlone() {
        guard alone == nil, portal.splicesAutomatically, let newestUnit else { return }
        guard engine.loop.now - aloneSince >= grain.settle else {
            grain.reason = "several units are in use"
            return
        }
        guard units[newestUnit]?.volume == nil else {
            grain.reason = "a volume is several servers'"
            return
        }
        grain.isWanted = true
        goAlone(newestUnit)
    }

    /// By command: the unit of the newest request gets the session, as soon as nothing else is open.
    func setWantsSplice(_ wanted: Bool) {
        if let redirect { return redirect.setWantsSplice(wanted) }
        grain.isWanted = wanted
        if let newestUnit { goAlone(newestUnit) }
    }

    /// Octets of a server wait for the client.
    func outputReady() {
        relay.send()
        guard grain.isWanted, alone == nil, let newestUnit, relay.isAtRest else { return }
        // Not from within the nexus.
        engine.loop.postLocal { [weak self] in self?.goAlone(newestUnit) }
    }

    /// The client's connection becomes the unit's, at a moment when nothing is on its way in the relay.
    private func goAlone(_ number: Int) {
        guard grain.isWanted, !isOver, alone == nil, newestUnit == number, relay.isAtRest,
            shared.isEmpty, let unit = units[number], let nexus = unit.nexus,
            tasks.values.allSatisfy({ $0.unit == number })
        else { return }
        // Without a log nobody would know, back here, what is open.
        guard nexus.log != nil, nexus.redirect.state == .relaying, !nexus.redirect.isLeaving,
            nexus.relay.isSettled,
            nexus.redirect.output.toServer.isEmpty,
            nexus.redirect.server.map({
                $0.usesTimestamps == client.usesTimestamps && $0.usesSACK == client.usesSACK
            }) == true
        else { return }
        guard nexus.relay.covers(maximumCommand: maximumCommand, nextCommand: expectedCommand)
        else {
            grain.reason = "the server's command window is smaller than the client was told"
            return
        }
        grain.isWanted = false
        dropShortcut()
        var leg = client
        leg.descriptor = relay.detach()
        do {
            try nexus.redirect.adoptClient(leg)
        } catch {
            engine.log.notice("session \(id): unit \(number) alone: \(error)")
            grain.reason = "\(error)"
            aloneSince = engine.loop.now
            // The record may be gone; the relay needs none.
            relay.attach(leg.descriptor, waiting: [])
            return shorten()
        }
        nexus.relay.beginAlone(
            unit: SCSIUnitNumber.octets(number).unitField,
            position: ISCSIClientPosition(
                nextCommand: expectedCommand, nextStatus: nextStatus,
                expectedCommand: expectedCommand, maximumCommand: maximumCommand))
        alone = number
        engine.log.debug(
            "session \(id): unit \(number) alone, command \(expectedCommand), \(tasks.count) open")
        grain.changedAt = engine.loop.now
        grain.reason = "only unit \(number) is in use"
        nexus.redirect.setWantsSplice(true)
        nexus.redirect.pump()
    }

    // MARK: Back

    func nexusHasForeign(_ nexus: ISCSINexus) {
        guard let alone, units[alone]?.nexus === nexus else { return }
        takeClientBack()
    }

    func nexusLostServer(_ nexus: ISCSINexus) {
        guard let alone, units[alone]?.nexus === nexus else { return }
        takeClientBack()
    }

    func nexusMayLeave(_ nexus: ISCSINexus) -> Bool {
        guard let alone, units[alone]?.nexus === nexus else { return true }
        takeClientBack { [weak nexus] in
            nexus?.move(isOrderly: true, reason: "its resource has moved")
        }
        return self.alone == nil
    }

    /// The relay gets the client's connection back: at once where it is a kernel socket, else as soon as it is.
    func takeClientBack(_ then: @escaping () -> Void = {}) {
        grain.afterwards.append(then)
        comeBack()
    }

    private func comeBack() {
        guard let alone, let unit = units[alone], let nexus = unit.nexus, !isOver else { return }
        let redirect = nexus.redirect
        switch redirect.state {
        case .spliced, .drainingToRelay, .restoring:
            // It tries again by itself.
            if redirect.wantsSplice { redirect.setWantsSplice(false) }
            grain.timer?.cancel()
            grain.timer = engine.loop.schedule(after: 1_000_000) { [weak self] in
                self?.comeBack()
            }
            return
        case .connecting, .ended: return
        case .clientOnly, .relaying, .drainingToSplice: break
        }
        let unfinished = redirect.output.toClient.count + nexus.relay.unfinishedOctets
        // Where the server is lost the begin of a header is the relay's to complete.
        let header =
            redirect.state == .clientOnly
            ? nexus.relay.takeCutHeader() : nexus.relay.takeHeaderPart()
        let cut =
            redirect.state == .clientOnly ? nexus.relay.cutRemaining : nexus.relay.clientRemaining
        let numbers = nexus.relay.numbers
        let waiting = header + nexus.relay.endAlone()
        let leg = redirect.releaseClient { [weak self] in self?.outputReady() }
        let number = alone
        engine.log.debug(
            "session \(id): back from unit \(number), \(redirect.state): \(waiting.count) octets wait, \(cut) are cut off, \(unfinished) unfinished (\(redirect.output.toClient.count) here), command \(numbers.nextCommand)"
        )
        self.alone = nil
        client = leg
        expectedCommand = numbers.nextCommand
        nextStatus = numbers.nextStatus
        unit.nextStatus = numbers.nextStatus
        unit.unacknowledged = []
        takeTasks(of: unit, number)
        // A command that was cut in two is not in the log any more, nor counted: its rest is on its way here.
        if redirect.state == .clientOnly, cut > 0, let command = nexus.relay.cutHeader,
            command[0] & 0x3f == ISCSIOpcode.scsiCommand
        {
            tasks[command.field32(16)] = Task(unit: number, header: command)
            unit.open += 1
            if command[0] & 0x40 == 0 { expectedCommand = command.field32(24) &+ 1 }
        }
        let now = engine.loop.now
        grain.cameBack(at: now)
        grain.reason = "several units are in use"
        aloneSince = now
        newestUnit = nil
        relay.attach(
            leg.descriptor, waiting: waiting, cut: (number, Int(cut)),
            unfinished: (number, unfinished))
        shorten()
        watchGrain()
        let steps = grain.afterwards
        grain.afterwards = []
        for step in steps { step() }
    }

    /// What the unit has open now.
    private func takeTasks(of unit: Unit, _ number: Int) {
        tasks = [:]
        unit.open = 0
        for request in unit.nexus?.log?.openRequests ?? []
        where request.octets.count >= ISCSIPDU.headerLength {
            let header = Array(request.octets[..<ISCSIPDU.headerLength])
            guard header[0] & 0x3f == ISCSIOpcode.scsiCommand else { continue }
            tasks[header.field32(16)] = Task(unit: number, header: header)
            unit.open += 1
        }
    }
}
