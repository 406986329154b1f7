/// Decides from evidence whether one server serves. No clock, no sockets: evidence and times go in, effects
/// come out.
///
/// | Evidence | Effect |
/// |---|---|
/// | probe good or bad | flips after `rise` good ones or `fall` bad ones in a row; the first ever decides at once |
/// | probe refused, link down, port removed | hard: down at once |
/// | reset, unexpected FIN, late request, silent agent | soft: suspect, and a probe at once decides |
///
/// A suspect is down after `suspectFall` bad probes and cleared by a good one. Without an answer its probe
/// counts as bad; an answer that is not as it should be must come twice, since it may be of a volume that is on
/// its way to another server. A silent agent counts once until it is heard again. Each failure counts for `FlapDamping`.
package struct ServerMonitor: Hashable, Sendable {
    package struct Settings: Hashable, Sendable {
        /// Good probes in a row until a server that was down is up.
        package var rise: Int
        /// Bad probes in a row until a server that was up is down.
        package var fall: Int
        /// Bad probes in a row until a suspect is down.
        package var suspectFall: Int
        /// ns for the probe of a suspect.
        package var urgentTimeout: UInt64
        /// ns for the first probe of a server.
        package var firstTimeout: UInt64
        /// ns between two urgent probes of one server: a storm of resets is no storm of probes.
        package var urgentInterval: UInt64
        /// ns from a good probe of a server that is down to the next one.
        package var riseInterval: UInt64
        /// ns after a probe's time-out until its answer counts as lost.
        package var answerSlack: UInt64
        package var damping: FlapDamping.Settings

        package init(
            rise: Int = 2, fall: Int = 2, suspectFall: Int = 1, urgentTimeout: UInt64 = 300_000_000,
            firstTimeout: UInt64 = 2_000_000_000, urgentInterval: UInt64 = 100_000_000,
            riseInterval: UInt64 = 1_000_000_000, answerSlack: UInt64 = 50_000_000,
            damping: FlapDamping.Settings = .init()
        ) {
            self.rise = max(1, rise)
            self.fall = max(1, fall)
            self.suspectFall = max(1, suspectFall)
            self.urgentTimeout = urgentTimeout
            self.firstTimeout = firstTimeout
            self.urgentInterval = urgentInterval
            self.riseInterval = riseInterval
            self.answerSlack = answerSlack
            self.damping = damping
        }
    }

    package enum State: Hashable, Sendable {
        case unknown, up, suspect, down
    }

    private var settings: Settings
    package private(set) var state = State.unknown
    /// Why it is down.
    package private(set) var cause: ServerDownCause?
    /// ns since when it is suspected.
    private var suspectedAt: UInt64?
    private var good = 0
    private var bad = 0
    private var isAgentSilent = false
    /// When the next urgent probe is to start.
    private var probeAt: UInt64?
    /// Until when the urgent probe must have been answered.
    private var answerBy: UInt64?
    private var lastUrgent: UInt64?
    private var damping: FlapDamping

    package init(_ settings: Settings = Settings()) {
        self.settings = settings
        damping = FlapDamping(settings.damping)
    }

    /// Fails so often that it should get nothing new.
    package var isFlapping: Bool { damping.isSuppressed }

    /// Down, but its last probe was good.
    package var isReturning: Bool { state == .down && good > 0 }

    /// The same server under other settings. A probe that is under way may have been given up with the old ones:
    /// another one decides.
    package func resumed(_ settings: Settings, now: UInt64) -> ServerMonitor {
        var result = self
        result.settings = settings
        if answerBy != nil {
            result.answerBy = nil
            result.probeAt = state == .unknown ? nil : now
        }
        return result
    }

    package enum Effect: Hashable, Sendable {
        /// Probe it at once; ns that it may take.
        case probe(timeout: UInt64)
        case suspected(ServerSuspicion)
        /// It was suspected without reason.
        case cleared
        /// ns from the suspicion to the verdict; zero without one.
        case down(ServerDownCause, sinceSuspicion: UInt64)
        case up
        /// It shows signs of life while it is down: what was known of its end does not hold any more.
        case stirred
        case flapping(Bool)
    }

    /// Asks for the first probe.
    package mutating func start(now: UInt64) -> [Effect] {
        guard state == .unknown, answerBy == nil else { return [] }
        return probe(now: now, timeout: settings.firstTimeout)
    }

    package mutating func handle(_ evidence: ServerEvidence, now: UInt64) -> [Effect] {
        switch evidence {
        case .probe(.good): return goodProbe(now: now)
        case .probe(.refused): return goDown(.refused, now: now)
        case .probe(.timedOut): return badProbe(.timedOut, now: now)
        case .probe(.bad): return badProbe(.badAnswer, now: now)
        case .linkDown: return goDown(.linkDown, now: now)
        case .portRemoved: return goDown(.portRemoved, now: now)
        case .linkUp: return state == .down ? urgentProbe(now: now) : []
        case .soft(let suspicion):
            if suspicion == .agentSilent {
                if isAgentSilent { return [] }
                isAgentSilent = true
            }
            return suspect(suspicion, now: now)
        case .agentHeard:
            isAgentSilent = false
            return []
        }
    }

    /// Timers that are due.
    package mutating func tick(now: UInt64) -> [Effect] {
        var effects: [Effect] = []
        if damping.release(now: now) { effects.append(.flapping(false)) }
        if let time = answerBy, time <= now { effects += badProbe(.timedOut, now: now) }
        if let time = probeAt, time <= now {
            effects += probe(now: now, timeout: settings.urgentTimeout)
        }
        return effects
    }

    /// ns at which `tick` has something to do.
    package var nextDeadline: UInt64? {
        [answerBy, probeAt, damping.reuseTime].compactMap { $0 }.min()
    }

    private mutating func probe(now: UInt64, timeout: UInt64) -> [Effect] {
        probeAt = nil
        lastUrgent = now
        answerBy = now + timeout + settings.answerSlack
        return [.probe(timeout: timeout)]
    }

    private mutating func urgentProbe(now: UInt64) -> [Effect] {
        guard answerBy == nil, probeAt == nil else { return [] }
        if let lastUrgent, lastUrgent + settings.urgentInterval > now {
            probeAt = lastUrgent + settings.urgentInterval
            return []
        }
        return probe(now: now, timeout: settings.urgentTimeout)
    }

    private mutating func suspect(_ suspicion: ServerSuspicion, now: UInt64) -> [Effect] {
        guard state == .up else { return [] }
        state = .suspect
        suspectedAt = now
        bad = 0
        return [.suspected(suspicion)] + urgentProbe(now: now)
    }

    private mutating func goodProbe(now: UInt64) -> [Effect] {
        answerBy = nil
        bad = 0
        switch state {
        case .up: return []
        case .suspect:
            state = .up
            suspectedAt = nil
            probeAt = nil
            return [.cleared]
        case .unknown: return goUp()
        case .down:
            good += 1
            if good >= settings.rise { return goUp() }
            // It runs again: when it stops next, it may do so with requests in hand.
            cause = .timedOut
            probeAt = now + settings.riseInterval
            return [.stirred]
        }
    }

    private mutating func goUp() -> [Effect] {
        state = .up
        cause = nil
        good = 0
        probeAt = nil
        return [.up]
    }

    private mutating func badProbe(_ reason: ServerDownCause, now: UInt64) -> [Effect] {
        answerBy = nil
        good = 0
        switch state {
        case .down: return []
        case .unknown: return goDown(reason, now: now)
        case .up:
            bad += 1
            return bad >= settings.fall ? goDown(reason, now: now) : []
        case .suspect:
            bad += 1
            let enough = reason == .badAnswer ? max(2, settings.suspectFall) : settings.suspectFall
            return bad >= enough ? goDown(reason, now: now) : urgentProbe(now: now)
        }
    }

    private mutating func goDown(_ reason: ServerDownCause, now: UInt64) -> [Effect] {
        answerBy = nil
        probeAt = nil
        good = 0
        bad = 0
        if state == .down {
            // A refusal proves that the process which held the requests is gone.
            if reason == .refused { cause = .refused }
            return []
        }
        let wasServing = state != .unknown
        state = .down
        cause = reason
        let since = suspectedAt.map { now - min(now, $0) } ?? 0
        suspectedAt = nil
        let isNew = wasServing && damping.fail(now: now)
        return [.down(reason, sinceSuspicion: since)] + (isNew ? [.flapping(true)] : [])
    }
}
