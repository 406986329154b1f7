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
        guard isLeaving else { return }
        isLeaving = false
        dropStandby()
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
    }

    /// Nothing is open at the server, or the standby is decided: goes on when both are so.
    func leaveQuietServer() {
        guard isLeaving, state == .relaying, relay.isHolding else { return }
        guard relay.isQuiet else { return relay.tellWhenQuiet() }
        if let standby, standby.outcome == nil { return }
        stopTimer()
        if let purpose = standby?.purpose, isStandbyWanted(purpose), let next = takeStandby() {
            return onOutcome(.serverReplaced(purpose, next.session, rest: next.rest))
        }
        leaveServer()
        onOutcome(.serverLeft)
    }
}
