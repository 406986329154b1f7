import Foundation
import Testing

/// A client that logs in at the virtual address finds no server: it is told by an error of SCSI, at once or
/// when the server had its time, and its session stays.
private struct FailingServer {
    let lab: Laboratory
    let metric = "dsr_server_failures_total"

    func connect() throws -> RawInitiator {
        let session = try RawInitiator(lab, host: "client1", address: "10.10.0.100")
        session.setTimeout(seconds: 10)
        return session
    }

    func logIn(
        _ target: String, location: SourceLocation = #_sourceLocation
    ) throws -> RawInitiator {
        let session = try connect()
        let status = try session.login(target: "iqn.2026-01.lab.dsr:\(target)").loginStatus
        try #require(status == 0, sourceLocation: location)
        return session
    }

    /// No server was ever found that serves the target: the login is answered with 0x0301, service
    /// unavailable (RFC 7143 section 11.13.5), at once.
    func expectNoService(
        _ target: String, location: SourceLocation = #_sourceLocation
    ) async throws {
        let counter = "dsr_logins_total{result=\"refused\"}"
        let before = try await lab.metric(counter)
        let start = Date()
        let answer = try connect().login(target: "iqn.2026-01.lab.dsr:\(target)")
        #expect(answer.loginStatus == 0x0301, sourceLocation: location)
        #expect(Date().timeIntervalSince(start) < 1, sourceLocation: location)
        let after = try await lab.metric(counter)
        #expect(after == before + 1, sourceLocation: location)
    }

    /// The first command of a session that is logged in must fail within `seconds`.
    func expectNotReady(
        _ session: RawInitiator, within seconds: Double,
        location: SourceLocation = #_sourceLocation
    ) async throws {
        let before = try await lab.metric(metric)
        let start = Date()
        let answer = try session.testUnitReady()
        let time = Date().timeIntervalSince(start)
        #expect(time < seconds, sourceLocation: location)
        // CHECK CONDITION; fixed sense: NOT READY, LOGICAL UNIT COMMUNICATION FAILURE.
        #expect(answer.scsiStatus == 0x02, sourceLocation: location)
        try #require(answer.data.count >= 16, sourceLocation: location)
        #expect(answer.data[2] & 0x7f == 0x70 && answer.data[4] & 0x0f == 0x02)
        #expect(answer.data[14] == 0x08 && answer.data[15] == 0x00)
        let after = try await lab.metric(metric)
        #expect(after == before + 1, sourceLocation: location)
    }

    /// The server is there again: the same session works.
    func expectRecovery(_ session: RawInitiator) async throws {
        let isBack = try await eventually(within: 10) {
            try session.testUnitReady().scsiStatus == 0
        }
        #expect(isBack)
    }
}

extension SystemTests {
    @Suite(
        "Failing servers", .serialized,
        .lab(configuration: {
            // A target that no server has.
            try withRareHealthChecks(withoutAlternatives($0)).replacingOccurrences(
                of: "target: iqn.2026-01.lab.dsr:r6", with: "target: iqn.2026-01.lab.dsr:nowhere"
            )
            .replacingOccurrences(
                of: "interval_ms: 3600000", with: "interval_ms: 3600000, timeout_ms: 1500")
        }))
    struct FailingServers {
        @Test func aTargetThatTheServerDoesNotHave() async throws {
            let failing = FailingServer(lab: try Laboratory.here())
            try await failing.expectNoService("nowhere")
        }

        /// Nobody listens: the kernel of the server refuses.
        @Test func aServerProcessThatIsGone() async throws {
            let failing = FailingServer(lab: try Laboratory.here())
            try await failing.lab.server("kill", "server2")
            let session = try failing.logIn("r3")
            try await failing.expectNotReady(session, within: 1)
            try await failing.lab.server("start", "server2")
            try await failing.expectRecovery(session)
        }

        /// Something else listens there: it hangs up at once, or takes the login and never answers.
        @Test(arguments: [("true", 1.0), ("sleep 20", 2.5)])
        func aServerThatIsNone(script: String, seconds: Double) async throws {
            let lab = try Laboratory.here()
            let failing = FailingServer(lab: lab)
            try await lab.server("kill", "server2")
            let listener = try lab.start(
                "server2", ["socat", "TCP-LISTEN:3260,reuseaddr,fork", "EXEC:\(script)"])
            let isListening = try await eventually(within: 5) {
                try await lab.attempt("server2", ["ss", "-lnt"]).output.contains(":3260")
            }
            try #require(isListening)
            let session = try failing.logIn("r3")
            try await failing.expectNotReady(session, within: seconds)
            listener.signal(SIGTERM)
            _ = try await listener.result(within: 10)
            try await lab.server("start", "server2")
            try await failing.expectRecovery(session)
        }

        /// Nobody answers: the time-out of health checks counts.
        @Test func aServerThatIsCutOff() async throws {
            let lab = try Laboratory.here()
            let failing = FailingServer(lab: lab)
            try await Program.run([
                "\(Laboratory.products)/dsr-lab", "link", lab.prefix, "server3", "down",
            ])
            let session = try failing.logIn("r5")
            try await failing.expectNotReady(session, within: 2.5)
            try await Program.run([
                "\(Laboratory.products)/dsr-lab", "link", lab.prefix, "server3", "up",
            ])
            try await failing.expectRecovery(session)
        }
    }

    @Suite(
        "Refusing servers", .serialized,
        .lab(
            "fig2-san-chap",
            configuration: {
                // The redirector knows a wrong secret, and asks clients for none.
                try withRareHealthChecks(withoutAlternatives($0))
                    .replacingOccurrences(
                        of: "secret: server-secret-1", with: "secret: server-secret-X"
                    )
                    .replacingOccurrences(of: "authentication: chap", with: "authentication: none")
            }))
    struct RefusingServers {
        private func reload(_ lab: Laboratory, _ old: String, _ new: String) async throws {
            let text = try lab.configurationInUse()
            try #require(text.contains(old))
            try lab.configure(text.replacingOccurrences(of: old, with: new))
            let result = try await lab.control(["reload"])
            try #require(result.status == 0, "\(result.output)")
        }

        /// From the start; and behind the back of a session that is logged in already. With the right
        /// secret again the same session works, without a new login.
        @Test func wrongCredentialsAtTheServer() async throws {
            let lab = try Laboratory.here()
            let failing = FailingServer(lab: lab)
            try await failing.expectNoService("r1")
            try await reload(lab, "server-secret-X", "server-secret-1")
            let isLearned = try await eventually(within: 5) {
                try failing.connect().login(target: "iqn.2026-01.lab.dsr:r1").loginStatus == 0
            }
            try #require(isLearned)

            let session = try failing.logIn("r1")
            try await reload(lab, "server-secret-1", "server-secret-X")
            try await failing.expectNotReady(session, within: 1)
            try await reload(lab, "server-secret-X", "server-secret-1")
            try await failing.expectRecovery(session)
        }
    }
}
