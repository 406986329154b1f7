import Foundation
import Testing

extension Laboratory {
    struct Resource: Decodable {
        var name: String
        var assigned: String
    }

    /// Runs dsrctl, whatever becomes of it.
    func control(
        _ words: [String], location: SourceLocation = #_sourceLocation
    ) async throws -> Program.Result {
        try await Program(["\(Self.products)/dsrctl", "--socket", socket] + words)
            .result(within: 30, location: location)
    }

    /// All sessions of a resource are at this server, or come there within 5 s.
    func expectSessions(
        of resource: String, at server: String, count: Int,
        sourceLocation: SourceLocation = #_sourceLocation
    ) async throws {
        var servers: [String?] = []
        for _ in 0..<100 {
            servers = try await sessions(of: resource).map(\.server)
            if servers == Array(repeating: server, count: count) { return }
            try await Task.sleep(for: .milliseconds(50))
        }
        Issue.record("sessions of \(resource) are at \(servers)", sourceLocation: sourceLocation)
    }

    func assigned(_ resource: String) async throws -> String? {
        try await get([Resource].self, "/resources").first { $0.name == resource }?.assigned
    }
}

extension SystemTests {
    /// The configuration is read again while clients work.
    @Suite("Reload", .serialized, .lab())
    struct ReloadTests {
        private let address = "10.10.0.100"
        private let target = "iqn.2026-01.lab.dsr:r1"

        private func open(
            _ lab: Laboratory, target: String? = nil, port: UInt16 = 3260
        ) throws -> RawInitiator {
            let session = try RawInitiator(lab, host: "client1", address: address, port: port)
            let answer = try session.login(target: target ?? self.target)
            try #require(answer.loginStatus == 0)
            // The first command of a session meets a unit attention.
            _ = try session.testUnitReady()
            return session
        }

        /// The file without r1's first assignment, and with a service and a rule.
        private func changed(_ text: String) throws -> String {
            let range = try #require(text.range(of: "assigned: server1"))
            return text.replacingCharacters(in: range, with: "assigned: server2") + """

                services: [{name: direct, listen: {port: 3300}, server: server1, port: 3260}]
                rules: ["priority=77,tcp,tp_dst=9999 actions=drop"]
                log: {level: debug}

                """
        }

        @Test func aReloadLeavesLiveSessionsAlone() async throws {
            let lab = try Laboratory.here()
            let original = try lab.configurationInUse()
            let old = try open(lab)
            let added = try await lab.control([
                "flow", "add", "priority=78,tcp,tp_dst=8 actions=drop",
            ])
            #expect(added.status == 0, "\(added.output)")
            try lab.configure(changed(original))

            let plan = try await lab.control(["reload", "--dry-run"])
            #expect(plan.status == 0)
            for line in [
                "resource r1: assigned to server2 instead of server1", "service direct: added",
                "rule added: priority=77,tcp,tp_dst=9999 actions=drop", "log.level: info to debug",
                "disturbs: resource r1: 1 sessions move to server2", "not applied",
            ] {
                #expect(plan.output.contains(line), "\(plan.output)")
            }
            let before = try await lab.assigned("r1")
            #expect(before == "server1")

            let applied = try await lab.control(["reload"])
            #expect(
                applied.status == 0 && applied.output.hasSuffix("applied\n"), "\(applied.output)")
            let after = try await lab.assigned("r1")
            #expect(after == "server2")
            #expect(try old.testUnitReady().scsiStatus == 0)
            let new = try open(lab)
            #expect(try new.testUnitReady().scsiStatus == 0)
            // The one that was open follows, and does not notice.
            try await lab.expectSessions(of: "r1", at: "server2", count: 2)
            #expect(try old.testUnitReady().scsiStatus == 0)
            let direct = try open(lab, port: 3300)
            let rules = try await lab.control(["flow", "list", "--rules"]).output
            #expect(rules.contains("tp_dst=9999") && rules.contains("tp_dst=8 "), "\(rules)")

            try lab.configure(original)
            let back = try await lab.control(["reload"])
            #expect(back.output.contains("service direct: removed"), "\(back.output)")
            #expect(throws: RawInitiator.Failure.self) {
                try RawInitiator(lab, host: "client1", address: address, port: 3300)
            }
            for session in [old, new, direct] {
                #expect(try session.testUnitReady().scsiStatus == 0)
            }
            // What was added by command is none of the file's business.
            let left = try await lab.control(["flow", "list", "--rules"]).output
            #expect(!left.contains("tp_dst=9999") && left.contains("tp_dst=8 "), "\(left)")
            let home = try await lab.assigned("r1")
            #expect(home == "server1")
            try await lab.expectSessions(of: "r1", at: "server1", count: 2)
            #expect(try old.testUnitReady().scsiStatus == 0)
        }

        @Test(arguments: [
            ("\nnonsense: 1\n", "", "nonsense: unknown"),
            ("\nrules: [\"priority=1,tcp actions=fly\"]\n", "", "rules[0]"),
            ("", "02:64:73:72:00:01", "needs a restart: cpu.client: changed"),
            ("", "name: c0, device: c0", "needs a restart: port c0: removed"),
            ("\nrules: [\"priority=0 actions=drop\"]\n", "", "the switch itself has a rule"),
            (
                "\nservices: [{name: a, listen: {port: 3260}, server: server1, port: 1}]\n", "",
                "3260 is taken by iscsi"
            ),
        ])
        func aWrongFileChangesNothing(
            tail: String, replaced: String, message: String
        ) async throws {
            let lab = try Laboratory.here()
            let original = try lab.configurationInUse()
            let session = try open(lab)
            let other = [
                "02:64:73:72:00:01": "02:64:73:72:00:07",
                "name: c0, device: c0": "name: cc, device: c0",
            ]
            var text = original + tail
            if !replaced.isEmpty {
                text = text.replacingOccurrences(of: replaced, with: try #require(other[replaced]))
            }
            let range = try #require(text.range(of: "assigned: server1"))
            try lab.configure(text.replacingCharacters(in: range, with: "assigned: server3"))
            let refused = try await lab.control(["reload"])
            try lab.configure(original)
            #expect(refused.status == 1 && refused.output.contains(message), "\(refused.output)")
            let assigned = try await lab.assigned("r1")
            #expect(assigned == "server1")
            #expect(try session.testUnitReady().scsiStatus == 0)
            let unchanged = try await lab.control(["reload", "--dry-run"])
            #expect(unchanged.output == "not applied\n")
        }

        @Test func newLoginsNeedTheNewSecrets() async throws {
            let lab = try Laboratory.here()
            let original = try lab.configurationInUse()
            let session = try open(lab, target: "iqn.2026-01.lab.dsr:r3")
            try lab.configure(
                original.replacingOccurrences(
                    of: "iscsi: {", with: "iscsi: {authentication: chap, ")
                    + "\ncredentials: [{user: late, secret: late-secret-12}]\n")
            try #require(try await lab.control(["reload"]).status == 0)
            let refused = try await lab.attempt("client1", ["iscsi-inq", lab.url("r3")])
            #expect(refused.status != 0)
            let accepted = try await lab.attempt(
                "client1", ["iscsi-inq", lab.url("r3", user: "late%late-secret-12")])
            #expect(accepted.status == 0, "\(accepted.output)")
            #expect(try session.testUnitReady().scsiStatus == 0)
            try lab.configure(original)
            try #require(try await lab.control(["reload"]).status == 0)
            try await lab.run("client1", ["iscsi-inq", lab.url("r3")])
        }

        @Test func aDrainOutlivesAReload() async throws {
            let lab = try Laboratory.here()
            let original = try lab.configurationInUse()
            let session = try open(lab)
            let drained = try await lab.control(["server", "drain", "server1", "--wait"])
            try #require(drained.status == 0, "\(drained.output)")
            try lab.configure(original + "\nhealth: {interval_ms: 400}\n")
            let applied = try await lab.control(["reload"])
            try #require(applied.status == 0, "\(applied.output)")
            let refused = try await lab.control(["resource", "move", "r1", "server1"])
            #expect(refused.status == 1 && refused.output.contains("it is being drained"))
            // The others need not be probed anew before they are used.
            let place = try #require(try await lab.assigned("r1"))
            let other = place == "server2" ? "server3" : "server2"
            let moved = try await lab.control(["resource", "move", "r1", other, "--wait"])
            #expect(moved.status == 0, "\(moved.output)")
            #expect(try session.testUnitReady().scsiStatus == 0)

            let undrained = try await lab.control(["server", "undrain", "server1"])
            #expect(undrained.status == 0, "\(undrained.output)")
            for resource in ["r1", "r2"] {
                let back = try await lab.control(
                    ["resource", "move", resource, "server1", "--wait"])
                #expect(back.status == 0, "\(back.output)")
            }
            #expect(try session.testUnitReady().scsiStatus == 0)
            try lab.configure(original)
            try #require(try await lab.control(["reload"]).status == 0)
        }

        @Test func aHangUpSignalReloads() async throws {
            struct Status: Decodable {
                var pid: Int
            }
            let lab = try Laboratory.here()
            let original = try lab.configurationInUse()
            try lab.configure(original + "\nhealth: {interval_ms: 200}\n")
            let pid = try await lab.get(Status.self, "/status").pid
            try await Program.run(["kill", "-HUP", "\(pid)"])
            let isReloaded = try await eventually(within: 5) {
                try await lab.control(["events"]).output.contains("configuration_reloaded")
            }
            #expect(isReloaded)
            let same = try await lab.get(Status.self, "/status").pid
            #expect(same == pid)
            // The new interval counts: more than 3 checks of each server within a second.
            let metric = "dsr_server_checks_total{server=\"server2\"}"
            let first = try await lab.metric(metric)
            try await Task.sleep(for: .milliseconds(1_000))
            let second = try await lab.metric(metric)
            #expect(second - first >= 3)
            try lab.configure(original)
            try #require(try await lab.control(["reload"]).status == 0)
        }
    }
}
