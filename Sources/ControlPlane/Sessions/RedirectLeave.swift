import DataPlane

/// A server that is left in good order: what is open ends there, what is new waits.
extension Redirect {
    /// Lets what is open end, holds what is new, then leaves the server: `onOutcome` tells.
    func leaveInOrder() {
        guard !isLeaving else { return }
        isLeaving = true
        switch state {
        case .relaying: holdRelay()
        case .drainingToSplice: giveUpSplice(retryAfter: nil)
        case .spliced: beginUnsplice()
        case .drainingToRelay, .clientOnly, .connecting, .restoring, .ended: break
        }
    }

    /// The session stays where it is.
    func stayAfterAll() {
        dropStandby()
        guard isLeaving else { return }
        isLeaving = false
        if relay.isHolding {
            do { try relay.release(output: &output) } catch {
                return end(error.message, reset: true)
            }
        }
        if state == .relaying { pump() }
    }

    func holdRelay() {
        guard relay.canHold, !relay.isHolding else { return }
        relay.onQuiet = { [weak self] in
            // Not from within the relay: it is in the middle of the server's octets.
            self?.engine.loop.postLocal { self?.leaveQuietServer() }
        }
        relay.hold()
        onOutcome(.serverHeld)
        if standby?.isReady == true { relay.splitWhenPossible() }
    }

    /// The next server is decided: the present one may be left now. Or it waits to be.
    func standbyDecided() {
        guard isLeaving else {
            let isWanted = standby.map { isStandbyWanted($0.purpose) } ?? false
            return isWanted ? leaveInOrder() : dropStandby()
        }
        guard state == .relaying, relay.isHolding else { return }
        if standby?.isReady == true { relay.splitWhenPossible() }
        leaveQuietServer()
    }

    /// Nothing is open at the server, or what is stays there, or the standby is decided: goes on when all is so.
    func leaveQuietServer() {
        guard isLeaving, state == .relaying, relay.isHolding else { return }
        guard relay.isReadyToChange else {
            // Where the server is to go on by itself the relay tells of it in any case.
            return relay.isSplit ? () : relay.tellWhenQuiet()
        }
        if let standby, standby.outcome == nil { return }
        if let purpose = standby?.purpose, isStandbyWanted(purpose), let next = takeStandby() {
            stopTimer()
            return onOutcome(.serverReplaced(purpose, next.session, rest: next.rest))
        }
        if relay.isSplit {
            // Without a successor the server had better finish, and be left then.
            tellRelay { output throws(RelayError) in try relay.undoSplit(output: &output) }
            return relay.tellWhenQuiet()
        }
        stopTimer()
        leaveServer()
        onOutcome(.serverLeft)
    }
}
