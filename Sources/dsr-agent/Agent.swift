import Glibc
import StorageProtocols

/// Announces at the start, at every interval, and at once when resources have changed.
struct Agent {
    private var source: any ResourceSource
    private var sender: AnnouncementSender
    private let socket: AgentSocket
    private let interval: UInt64
    private var meter = LoadMeter()
    /// What went wrong the last time; told once.
    private var trouble: String?

    /// ns between looks at what may have changed.
    private static let look: UInt64 = 100_000_000

    init(
        source: any ResourceSource, sender: AnnouncementSender, socket: AgentSocket,
        interval: UInt64
    ) {
        self.source = source
        self.sender = sender
        self.socket = socket
        self.interval = interval
    }

    mutating func announceOnce() throws {
        meter.waitForLoad()
        let result = source.look(isDue: true)
        if let problem = result.problem { throw AgentFailure(problem) }
        for datagram in try datagrams(result.resources) {
            if let problem = socket.send(datagram) { throw AgentFailure(problem) }
        }
    }

    /// Until SIGTERM or SIGINT.
    mutating func run() throws {
        var signals = sigset_t()
        sigemptyset(&signals)
        for signal in [SIGTERM, SIGINT] { sigaddset(&signals, signal) }
        pthread_sigmask(SIG_BLOCK, &signals, nil)
        signal(SIGPIPE, SIG_IGN)
        var due: UInt64 = 0
        var announced: [AnnouncedResource]?
        while true {
            let now = nanoseconds(CLOCK_MONOTONIC)
            let result = source.look(isDue: now >= due)
            tell(result.problem, "reads its resources again")
            if now >= due || result.resources != announced {
                announced = result.resources
                due = nanoseconds(CLOCK_MONOTONIC) + interval
                try announce(result.resources)
            }
            let later = min(due, nanoseconds(CLOCK_MONOTONIC) + Self.look)
            if Self.waitForSignal(&signals, until: later) { break }
        }
        _ = socket.send(sender.leave(timestamp: wallMilliseconds()))
    }

    private mutating func announce(_ resources: [AnnouncedResource]) throws {
        var problem: String?
        for datagram in try datagrams(resources) { problem = socket.send(datagram) ?? problem }
        if let problem {
            if sendTrouble != problem { report(problem) }
        } else if sendTrouble != nil {
            report("announcements are sent again")
        }
        sendTrouble = problem
    }
    private var sendTrouble: String?

    private mutating func datagrams(_ resources: [AnnouncedResource]) throws -> [[UInt8]] {
        do {
            return try sender.announce(
                resources, load: meter.load(), timestamp: wallMilliseconds())
        } catch {
            throw AgentFailure(error.description)
        }
    }

    private mutating func tell(_ problem: String?, _ recovery: String) {
        if let problem, problem != trouble { report(problem) }
        if problem == nil, trouble != nil { report(recovery) }
        trouble = problem
    }

    private static func waitForSignal(_ signals: inout sigset_t, until time: UInt64) -> Bool {
        while true {
            let now = nanoseconds(CLOCK_MONOTONIC)
            let rest = time > now ? time - now : 0
            var timeout = timespec(
                tv_sec: Int(rest / 1_000_000_000), tv_nsec: Int(rest % 1_000_000_000))
            if sigtimedwait(&signals, nil, &timeout) > 0 { return true }
            // Another signal, as one that stops and goes on.
            guard errno == EINTR else { return false }
        }
    }
}
