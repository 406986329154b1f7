import ControlPlane
import Foundation
import Testing

/// `dsrctl`'s commands for resources, servers and balance, against an API with known values.
@Suite(.serialized) struct ManagementCommandTests {
    private let api: ServedAPI<CommandLineService>
    private var service: CommandLineService { api.service }
    private var folder: TemporaryDirectory { api.folder }

    init() throws { api = try ServedAPI(CommandLineService()) }

    private func run(
        _ arguments: String..., input: String? = nil, limit: Double = 20
    ) async throws -> CommandLineTool.Result {
        try await api.control(arguments, input: input, limit: limit)
    }

    private func add(
        _ kind: String, change: UInt64? = nil, server: String? = nil, resource: String? = nil,
        _ details: [String: String] = [:]
    ) {
        service.add { event in
            event.kind = kind
            event.message = "about \(kind)"
            event.server = server
            event.resource = resource
            event.details = details
            if let change { event.details["change"] = "\(change)" }
        }
    }

    @Test("Commands arrive as they were typed; notes are shown")
    func commands() async throws {
        let moved = try await run("resource", "move", "r-1", "s2")
        #expect(moved.lines == ["r-1 is being moved to s2", "a note"])
        _ = try await run("server", "drain", "s1")
        _ = try await run("server", "undrain", "s1")
        _ = try await run(
            "server", "add", "s9", "--address", "10.0.0.9", "fd00::9", "--resource", "r1", "r2",
            "--spare", "--weight", "2")
        _ = try await run("server", "remove", "s9", "--force")
        _ = try await run("balance", "auto", "on")
        #expect(
            service.calls == [
                "move r-1 s2", "drain s1", "undrain s1",
                #"addServer s9 ["10.0.0.9", "fd00::9"] 3260 ["r1", "r2"] true 2.0"#,
                "removeServer s9 true", "setAutomaticBalance true",
            ])
        let unknown = try await run("resource", "move", "nobody", "s2")
        #expect(unknown.status == 1)
        #expect(unknown.errors.contains("there is no nobody"))
        #expect(unknown.errors.contains("there are others"))
    }

    @Test("Secrets of a new server are read from files")
    func secrets() async throws {
        let file = try folder.write("secret", "server-secret-1\nnot this\n")
        let words = ["server", "add", "s9", "--address", "10.0.0.9", "--resource", "r1"]
        let added = try await api.control(
            words + [
                "--user", "dsr", "--secret-file", file, "--mutual-user", "s9",
                "--mutual-secret-file", "-",
            ], input: "other-secret-2\n")
        #expect(added.status == 0, "\(added.errors)")
        #expect(
            service.calls == [
                #"addServer s9 ["10.0.0.9"] 3260 ["r1"] false 1.0 dsr/server-secret-1 "#
                    + "s9/other-secret-2"
            ])
        let missing = try await api.control(
            words + ["--user", "dsr", "--secret-file", folder.path + "/none"])
        #expect(missing.status == 1 && missing.errors.contains("cannot read"))
        #expect(service.calls.count == 1)
    }

    @Test("--wait ends with the change, tells its steps, and nothing of others")
    func wait() async throws {
        async let result = run("resource", "move", "r1", "s2", "--wait")
        try await Task.sleep(nanoseconds: 600_000_000)
        add("change_planned", change: 7)
        add("change_finished", change: 6)
        add("session_opened")
        add("change_confirmed", change: 7)
        add("sessions_moved", change: 7, resource: "r1", ["moved": "2", "failed": "0"])
        add("change_finished", change: 7, ["duration_us": "12345"])
        let lines = try await result.lines
        #expect(try await result.status == 0)
        try #require(lines.count == 7, "\(lines)")
        #expect(lines[0] == "r1 is being moved to s2")
        #expect(lines[2] == "  about change_confirmed (+0 us) change=7")
        #expect(lines[4].hasSuffix("change=7 duration=12.3ms"))
        #expect(lines[5...] == ["done", "a note"])
    }

    @Test("A change that did not happen, and sessions that ended, are failures")
    func failures() async throws {
        async let dropped = run("resource", "move", "r1", "s2", "--wait")
        try await Task.sleep(nanoseconds: 600_000_000)
        add("change_dropped", change: 7, resource: "r1")
        add("change_finished", change: 7)
        #expect(try await dropped.status == 1)
        #expect(try await dropped.errors == "dsrctl: about change_dropped\n")

        service.forgetEvents()
        async let lost = run("resource", "move", "r1", "s2", "--wait")
        try await Task.sleep(nanoseconds: 600_000_000)
        add("sessions_moved", change: 7, resource: "r1", ["moved": "2", "failed": "1"])
        add("change_finished", change: 7)
        #expect(try await lost.status == 1)
        #expect(try await lost.errors == "dsrctl: r1: 1 sessions have ended\n")
    }

    @Test("A time-out says what was last; a reload ends the waiting")
    func timeout() async throws {
        add("change_planned", change: 7)
        let late = try await run("resource", "move", "r1", "s2", "--wait", "--timeout", "0.3")
        #expect(late.status == 1)
        #expect(late.errors.contains("not done within"))
        #expect(late.errors.contains("Last: about change_planned"))
        add("configuration_reloaded")
        let reloaded = try await run("resource", "move", "r1", "s2", "--wait")
        #expect(reloaded.status == 1)
        #expect(reloaded.errors.contains("read again"))
    }

    @Test("A drain is followed through its changes to its end")
    func drain() async throws {
        add("change_planned", change: 3, server: "s2")
        add("change_planned", change: 4, server: "s1")
        add("unplaceable", server: "s1")
        add("change_finished", change: 3, server: "s2")
        add("change_finished", change: 4, server: "s1")
        add("drain_finished", server: "s2")
        add("drain_finished", server: "s1", ["duration_us": "2000000"])
        let result = try await run("server", "drain", "s1", "--wait")
        #expect(result.status == 0)
        #expect(
            result.lines == [
                "server s1: drain", "  about change_planned change=4", "  about unplaceable",
                "  about change_finished (+0 us) change=4",
                "  about drain_finished duration=2s", "done", "a note",
            ])
        service.forgetEvents()
        add("drain_cancelled", server: "s1")
        #expect(try await run("server", "drain", "s1", "--wait").status == 1)
        #expect(try await run("server", "undrain", "s1", "--wait").status == 0)
    }

    @Test("With --json waiting prints the last event and nothing else")
    func json() async throws {
        add("server_up", server: "s9")
        let result = try await run(
            "server", "add", "s9", "--address", "10.0.0.9", "--resource", "r1", "--wait", "--json")
        let event = try JSONCoding.decode(EventModel.self, Data(result.output.utf8))
        #expect(event.kind == "server_up" && result.status == 0)
    }

    @Test(
        "balance plan shows loads, moves and why; apply makes the moves of a plan that still holds")
    func balance() async throws {
        #expect(
            try await run("balance", "plan").lines == [
                "SERVER  BEFORE  AFTER", "s1         700  400.3", "s2         100  399.8",
                "move r1 from s1 to s2", "why: 1 move brings the highest load from 700 to 400",
            ])
        let plan = try await run("balance", "plan", "--json").output
        let file = try folder.write("plan", plan)
        #expect(try await run("balance", "apply", file).lines.last == "a note")
        #expect(service.calls.last == #"applyBalance ["r1 s1 s2"]"#)
        #expect(try await run("balance", "apply", "-", input: plan).status == 0)
        let count = service.calls.count { $0.hasPrefix("apply") }

        let old = try folder.write(
            "old", plan.replacingOccurrences(of: "\"r1\"", with: "\"r2\""))
        let refused = try await run("balance", "apply", old)
        #expect(refused.status == 1)
        #expect(refused.errors.contains("move r1 from s1 to s2"))
        #expect(refused.errors.contains("nothing was changed"))
        #expect(service.calls.count { $0.hasPrefix("apply") } == count)
        #expect(try await run("balance", "apply", old, "--force").status == 0)
        #expect(service.calls.last == #"applyBalance ["r2 s1 s2"]"#)
        let wrong = try folder.write("wrong", "{}")
        #expect(try await run("balance", "apply", wrong).errors.contains("is no plan"))
        #expect(try await run("balance").output.contains("balancing: by command only"))
    }

    @Test("events --follow tells steps with the time since their change was planned")
    func follow() async throws {
        async let followed = run("events", "--follow", limit: 2.5)
        try await Task.sleep(nanoseconds: 900_000_000)
        add("change_planned", change: 1)
        service.add { event in
            event.timeS += 0.0125
            event.kind = "change_finished"
            event.message = "done"
            event.details = ["change": "1", "duration_us": "12500"]
        }
        let lines = try await followed.lines
        try #require(lines.count == 2, "\(lines)")
        #expect(lines[1].hasSuffix("change_finished  done (+12.5 ms) change=1 duration=12.5ms"))
        service.forgetEvents(keepingNumbers: true)
        add("late")
        let gap = try await run("events", "--after", "1")
        #expect(gap.errors == "dsrctl: 1 events are lost: they are not kept any more\n")
        #expect(try await run("events", "--after", "1", "--json").errors.isEmpty)
    }

    @Test(
        "A wrong command line has exit status 2",
        arguments: [
            ["resource", "move", "r1"], ["resource", "move", "r1", "s1", "--timeout", "0"],
            ["server", "drain"], ["server", "add", "s1"], ["balance", "auto", "maybe"],
            ["server", "add", "s1", "--address", "10.0.0.1"], ["balance", "apply", "--force"],
            ["server", "add", "s1", "--address", "1.1.1.1", "--resource", "r", "--user", "u"],
            [
                "server", "add", "s1", "--address", "1.1.1.1", "--resource", "r",
                "--mutual-user", "u", "--mutual-secret-file", "/dev/null",
            ],
        ])
    func usage(_ arguments: [String]) async throws {
        let result = try await CommandLineTool.run(arguments)
        #expect(result.status == 2)
        #expect(result.errors.contains("Usage: dsrctl"))
    }
}
