import Foundation
import Testing

extension SystemTests {
    /// What dsr-lab breaks and mends.
    @Suite("Lab: failures", .serialized)
    struct LabFailures {
        private let lab = BareLab("broken")

        @Test func servicesDieFreezeAndComeBack() async throws {
            try await lab.with("fig2-san") {
                try await lab.expect("service", lab.name, "server1", "status", output: "alive")
                let url = "iscsi://127.0.0.1"
                let ask = ["exec", lab.name, "server1", "--", "timeout", "1", "iscsi-ls", url]
                func answers() async throws -> Bool {
                    try await Program(["\(Laboratory.products)/dsr-lab"] + ask).result(within: 10)
                        .status == 0
                }
                let freezing = try await lab.expect("service", lab.name, "server1", "freeze")
                try await lab.expect(
                    "service", lab.name, "server1", "status", status: 1, output: "frozen")
                let isFrozen = try await !answers()
                #expect(isFrozen)
                try await lab.expect("service", lab.name, "server1", "thaw")
                let isThawed = try await answers()
                #expect(isThawed)

                // As a fence command runs it: inside another host.
                let program = "\(Laboratory.products)/dsr-lab"
                let killing = try await lab.expect(
                    "exec", lab.name, "dsr1", "--", program, "service", lab.name, "server1", "kill")
                // Some 15 ms; the limit is for a machine that does other things at the same time.
                #expect(freezing < 0.5 && killing < 0.5)
                try await lab.expect(
                    "service", lab.name, "server1", "status", status: 1, output: "ENDED")
                try await lab.expect("service", lab.name, "server1", "kill", output: "already")
                try await lab.expect(
                    "service", lab.name, "server1", "freeze", status: 1, output: "does not run")
                try await lab.expect("service", lab.name, "server1", "start")
                #expect(try await lab.targets("server1") == ["r1", "r2", "r3", "r4", "r5", "r6"])

                // A frozen one is ended in order nevertheless.
                try await lab.expect("service", lab.name, "server1", "freeze")
                try await lab.expect("service", lab.name, "server1", "stop")
                try await lab.expect("service", lab.name, "server1", "restart")
                try await lab.expect("service", lab.name, "server1", "restart")
                try await lab.expect("service", lab.name, "server1", "status", output: "alive")

                try await lab.expect(
                    "service", lab.name, "client1", "kill", status: 1, output: "no service")
                try await lab.expect(
                    "service", lab.name, "nobody", "kill", status: 1, output: "no host nobody")
                try await lab.expect(
                    "service", lab.name, "server1", "kill", "--kind", "agent", status: 1,
                    output: "no service agent")
                try await lab.expect("service", lab.name, "server1", "hit", status: 64)
            }
        }

        @Test func linksAreRemovedAndAdded() async throws {
            try await lab.with("fig2-san") {
                try await lab.expect("link", lab.name, "server2", "remove")
                #expect(try await !lab.has("server2", "eth0"))
                #expect(try await !lab.has("dsr1", "s2@"))
                #expect(try await lab.has("dsr1", "s3@"))
                try await lab.expect(
                    "link", lab.name, "server2", "remove", status: 1, output: "s2")
                try await lab.expect("link", lab.name, "server2", "add")
                for address in ["10.20.0.12/24", "fd20::12/64"] {
                    #expect(try await lab.has("server2", address))
                }
                #expect(try await lab.has("dsr1", "s2@"))
                try await lab.expect("link", lab.name, "server2:eth0", "down")
                #expect(try await lab.has("server2", "state DOWN"))
                try await lab.expect("link", lab.name, "server2:eth0", "up")
                #expect(try await !lab.has("server2", "state DOWN"))
                #expect(try await lab.has("server2", "fd20::12/64"))
                try await lab.expect(
                    "link", lab.name, "server2:eth7", "down", status: 1, output: "no link")
            }
        }

        /// In place of dsr-agent a program that says what it was started with.
        @Test func volumesFollowTheirController() async throws {
            let agent = "/tmp/\(lab.name).agent"
            try "#!/bin/sh\necho \"$@\"\nexec sleep 600\n".write(
                toFile: agent, atomically: true, encoding: .utf8)
            chmod(agent, 0o755)
            defer { unlink(agent) }
            let first = ["r1", "r2", "r3"]
            let second = ["r4", "r5", "r6"]
            try await lab.with("fig3-raid", ["--agent", agent]) {
                func expect(_ servers: [[String]], _ location: SourceLocation) async throws {
                    for (index, units) in servers.enumerated() {
                        let server = "server\(index + 1)"
                        let served = try await lab.targets(server)
                        #expect(served == units, sourceLocation: location)
                        #expect(try lab.announced(server) == units, sourceLocation: location)
                    }
                }
                let state = "/run/dsr-lab/\(lab.name)"
                let started = try String(
                    contentsOfFile: "\(state)/server1.agent.log", encoding: .utf8)
                #expect(
                    started == "--server server1 --dsr 10.20.0.1 --secret-file "
                        + "\(state)/agents.secret --resources \(state)/server1.resources.yaml\n")
                let secret = try String(contentsOfFile: "\(state)/agents.secret", encoding: .utf8)
                #expect(secret.count == 65 && secret.dropLast().allSatisfy(\.isHexDigit))

                try await expect([first, second, first + second], #_sourceLocation)
                try await lab.expect("controller", lab.name, "raid1", "fail")
                try await lab.expect(
                    "controller", lab.name, "raid2", "status",
                    output: "raid2 good r1 r2 r3 r4 r5 r6")
                try await expect([[], first + second, first + second], #_sourceLocation)
                try await lab.expect(
                    "controller", lab.name, "raid1", "fail", status: 1, output: "already")

                // A server that starts meanwhile serves what it has a path to.
                try await lab.expect(
                    "service", lab.name, "server2", "restart", "--kind", "tgtd")
                try await expect([[], first + second, first + second], #_sourceLocation)

                try await lab.expect("controller", lab.name, "raid1", "repair")
                try await expect([first, second, first + second], #_sourceLocation)
                try await lab.expect(
                    "controller", lab.name, "raid1", "repair", status: 1, output: "has not failed")
                try await lab.expect("controller", lab.name, "raid1", "fail")
                try await lab.expect("controller", lab.name, "raid2", "fail")
                try await expect([[], [], []], #_sourceLocation)
                try await lab.expect(
                    "controller", lab.name, "raid3", "fail", status: 1, output: "raid1, raid2")
                try await lab.expect(
                    "service", lab.name, "server1", "kill", "--kind", "agent")
                try await lab.expect(
                    "service", lab.name, "server1", "status", status: 1, output: "ENDED")
            }
        }
    }
}
