import ControlPlane
import Testing

private let millisecond: UInt64 = 1_000_000
private let second: UInt64 = 1_000_000_000

@Suite struct ServerMonitorTests {
    private var monitor = ServerMonitor()

    /// One that serves.
    private static func up(_ settings: ServerMonitor.Settings = .init()) -> ServerMonitor {
        var monitor = ServerMonitor(settings)
        _ = monitor.start(now: 0)
        _ = monitor.handle(.probe(.good), now: 0)
        return monitor
    }

    @Test(arguments: [
        (ProbeResult.good, ServerMonitor.State.up), (.bad, .down), (.timedOut, .down),
        (.refused, .down),
    ])
    func `the first probe decides`(result: ProbeResult, state: ServerMonitor.State) {
        var monitor = ServerMonitor()
        #expect(monitor.start(now: 0) == [.probe(timeout: 2 * second)])
        #expect(monitor.start(now: 0) == [])
        #expect(monitor.state == .unknown)
        _ = monitor.handle(.probe(result), now: 1)
        #expect(monitor.state == state)
        // A server that never served has not failed: no penalty.
        #expect(monitor.nextDeadline == nil)
    }

    @Test func `a first probe that is lost counts as bad`() {
        var monitor = ServerMonitor()
        _ = monitor.start(now: 0)
        #expect(monitor.nextDeadline == 2 * second + 50 * millisecond)
        #expect(monitor.tick(now: 2 * second + 49 * millisecond) == [])
        #expect(
            monitor.tick(now: 2 * second + 50 * millisecond)
                == [.down(.timedOut, sinceSuspicion: 0)])
    }

    @Test func `fall and rise count results in a row`() {
        var monitor = Self.up()
        #expect(monitor.handle(.probe(.timedOut), now: 1) == [])
        #expect(monitor.handle(.probe(.good), now: 2) == [])
        #expect(monitor.handle(.probe(.timedOut), now: 3) == [])
        #expect(monitor.handle(.probe(.bad), now: 4) == [.down(.badAnswer, sinceSuspicion: 0)])
        #expect(monitor.handle(.probe(.good), now: 5) == [.stirred])
        #expect(monitor.isReturning)
        #expect(monitor.handle(.probe(.timedOut), now: 6) == [])
        #expect(!monitor.isReturning)
        #expect(monitor.handle(.probe(.good), now: 7) == [.stirred])
        #expect(monitor.state == .down)
        #expect(monitor.handle(.probe(.good), now: 8) == [.up])
        #expect(monitor.state == .up)
    }

    /// A volume that is on its way to another server is answered for wrongly for a moment; only silence counts at
    /// once.
    @Test func `a suspect that answers wrongly is asked twice`() {
        var monitor = Self.up()
        _ = monitor.handle(.soft(.sessionReset), now: 10 * second)
        #expect(monitor.state == .suspect)
        let later = 10 * second + 5 * millisecond
        #expect(monitor.handle(.probe(.bad), now: later) == [])
        #expect(monitor.nextDeadline == 10 * second + 100 * millisecond)
        #expect(
            monitor.tick(now: 10 * second + 100 * millisecond)
                == [.probe(timeout: 300 * millisecond)])
        var other = monitor
        #expect(other.handle(.probe(.good), now: 11 * second) == [.cleared])
        #expect(
            monitor.handle(.probe(.bad), now: 10 * second + 110 * millisecond)
                == [.down(.badAnswer, sinceSuspicion: 110 * millisecond)])
        var silent = Self.up()
        _ = silent.handle(.soft(.sessionReset), now: 10 * second)
        #expect(
            silent.handle(.probe(.timedOut), now: later)
                == [.down(.timedOut, sinceSuspicion: 5 * millisecond)])
    }

    @Test func `a server that returns is asked again soon`() {
        var monitor = Self.up()
        _ = monitor.handle(.probe(.refused), now: 0)
        _ = monitor.handle(.probe(.good), now: second)
        #expect(monitor.nextDeadline == 2 * second)
        #expect(monitor.tick(now: 2 * second) == [.probe(timeout: 300 * millisecond)])
    }

    @Test(arguments: [
        (ServerEvidence.probe(.refused), ServerDownCause.refused), (.linkDown, .linkDown),
        (.portRemoved, .portRemoved),
    ])
    func `hard evidence decides at once`(evidence: ServerEvidence, cause: ServerDownCause) {
        var monitor = Self.up()
        #expect(monitor.handle(evidence, now: 1) == [.down(cause, sinceSuspicion: 0)])
        #expect(monitor.handle(evidence, now: 2) == [])
        #expect(monitor.cause?.isSilent == (cause != .refused))
    }

    @Test
    func `a refusal after silence proves the end, a good probe after a refusal ends the proof`() {
        var monitor = Self.up()
        _ = monitor.handle(.linkDown, now: 1)
        #expect(monitor.cause == .linkDown)
        _ = monitor.handle(.probe(.refused), now: 2)
        #expect(monitor.cause == .refused)
        _ = monitor.handle(.probe(.good), now: 3)
        #expect(monitor.cause?.isSilent == true)
    }

    @Test(arguments: [
        ServerSuspicion.sessionReset, .unexpectedEnd, .lateRequest, .agentSilent,
    ])
    func `soft evidence asks, the probe decides`(suspicion: ServerSuspicion) {
        var monitor = Self.up()
        let asked = monitor.handle(.soft(suspicion), now: second)
        #expect(asked == [.suspected(suspicion), .probe(timeout: 300 * millisecond)])
        #expect(monitor.state == .suspect)
        #expect(monitor.handle(.probe(.good), now: second + 5) == [.cleared])
        #expect(monitor.state == .up)
        #expect(monitor.nextDeadline == nil)

        var other = Self.up()
        _ = other.handle(.soft(suspicion), now: second)
        #expect(
            other.handle(.probe(.timedOut), now: second + 300 * millisecond)
                == [.down(.timedOut, sinceSuspicion: 300 * millisecond)])
    }

    @Test func `the probe of a suspect without an answer is a bad one`() {
        var monitor = Self.up()
        _ = monitor.handle(.soft(.sessionReset), now: second)
        #expect(monitor.nextDeadline == second + 350 * millisecond)
        #expect(
            monitor.tick(now: second + 350 * millisecond)
                == [.down(.timedOut, sinceSuspicion: 350 * millisecond)])
    }

    @Test func `a suspect may be given more than one probe`() {
        var monitor = Self.up(.init(suspectFall: 2))
        _ = monitor.handle(.soft(.sessionReset), now: second)
        let again = monitor.handle(.probe(.timedOut), now: second + 300 * millisecond)
        #expect(again == [.probe(timeout: 300 * millisecond)])
        #expect(monitor.state == .suspect)
        _ = monitor.handle(.probe(.timedOut), now: second + 600 * millisecond)
        #expect(monitor.state == .down)
    }

    @Test func `a storm of resets is no storm of probes`() {
        var monitor = Self.up()
        var probes = 0
        for step in 0..<1000 {
            let now = second + UInt64(step) * millisecond
            let effects = monitor.handle(.soft(.sessionReset), now: now) + monitor.tick(now: now)
            for case .probe in effects {
                probes += 1
                _ = monitor.handle(.probe(.good), now: now)
            }
        }
        #expect(probes == 10)
    }

    @Test func `a silent agent counts once until it is heard`() {
        var monitor = Self.up()
        _ = monitor.handle(.soft(.agentSilent), now: 0)
        _ = monitor.handle(.probe(.good), now: 1)
        #expect(monitor.handle(.soft(.agentSilent), now: second) == [])
        _ = monitor.handle(.agentHeard, now: 2 * second)
        #expect(monitor.handle(.soft(.agentSilent), now: 3 * second).count == 2)
    }

    @Test func `soft evidence is nothing to a server that is down or unknown`() {
        var monitor = ServerMonitor()
        #expect(monitor.handle(.soft(.lateRequest), now: 0) == [])
        _ = monitor.handle(.probe(.refused), now: 0)
        #expect(monitor.handle(.soft(.lateRequest), now: 0) == [])
        #expect(monitor.handle(.linkUp, now: 1) == [.probe(timeout: 300 * millisecond)])
    }

    @Test func `the third failure within a minute is flapping, until the penalty has decayed`() {
        var monitor = Self.up()
        var effects: [ServerMonitor.Effect] = []
        for step in 0..<3 {
            let now = UInt64(step) * 5 * second
            #expect(effects.contains(.flapping(true)) == false)
            effects = monitor.handle(.probe(.refused), now: now)
            _ = monitor.handle(.probe(.good), now: now + second)
            _ = monitor.handle(.probe(.good), now: now + 2 * second)
        }
        #expect(effects.contains(.flapping(true)))
        #expect(monitor.state == .up && monitor.isFlapping)
        let reuse = monitor.nextDeadline ?? 0
        #expect(reuse > 90 * second && reuse < 150 * second)
        #expect(monitor.tick(now: reuse - 1) == [])
        #expect(monitor.tick(now: reuse) == [.flapping(false)])
        #expect(!monitor.isFlapping && monitor.nextDeadline == nil)
    }

    @Test func `failures far apart are not flapping`() {
        var monitor = Self.up()
        for step in 0..<100 {
            let now = UInt64(step) * 120 * second
            _ = monitor.handle(.probe(.refused), now: now)
            _ = monitor.handle(.probe(.good), now: now + second)
            _ = monitor.handle(.probe(.good), now: now + 2 * second)
            #expect(!monitor.isFlapping)
        }
    }
}

@Suite struct FlapDampingTests {
    @Test func `the penalty halves in its half-life and is bounded`() {
        var damping = FlapDamping(.init(halfLife: second))
        _ = damping.fail(now: 0)
        #expect(abs(damping.penalty(now: second) - 500) < 0.001)
        for _ in 0..<100 { _ = damping.fail(now: 0) }
        #expect(damping.penalty(now: 0) == 6000)
        // Three halvings: 6000 to 750.
        #expect(damping.reuseTime.map { abs(Int($0) - 3 * Int(second)) < 1000 } == true)
        // Time that goes backwards does no harm.
        var late = damping
        _ = late.fail(now: 10 * second)
        #expect(late.penalty(now: second) == late.penalty(now: 10 * second))
    }
}

@Suite struct RequestDeadlineTests {
    @Test func `follows the latency within its bounds`() {
        let deadline = RequestDeadline(minimum: 500 * millisecond)
        // Nothing measured yet.
        #expect(deadline.value(latency: 0, deviation: 0) == 500 * millisecond)
        #expect(deadline.value(latency: millisecond, deviation: 0) == 500 * millisecond)
        // Steady: four times the mean.
        #expect(deadline.value(latency: 400 * millisecond, deviation: 0) == 1_600 * millisecond)
        // The same mean, but a deviation of its size.
        #expect(
            deadline.value(latency: 400 * millisecond, deviation: 400 * millisecond) == 8 * second)
        #expect(deadline.value(latency: 60 * second, deviation: 0) == 10 * second)
        #expect(
            RequestDeadline(minimum: 20 * second).value(latency: 1, deviation: 1) == 20 * second)
    }

    @Test func `no figure is too large`() {
        let deadline = RequestDeadline(minimum: 1)
        for (latency, deviation) in [
            (UInt64.max, UInt64(0)), (0, .max), (.max, .max), (.max / 2, 0), (.max - 3, 1),
        ] {
            #expect(deadline.value(latency: latency, deviation: deviation) == 10 * second)
        }
    }

    /// RFC 6298 section 2: RTO = SRTT + 4 * RTTVAR.
    @Test func `the sum of RFC 6298, without a factor`() {
        let deadline = RequestDeadline(factor: 1, minimum: 0)
        #expect(
            deadline.value(latency: 100 * millisecond, deviation: 50 * millisecond)
                == 300 * millisecond)
    }
}
