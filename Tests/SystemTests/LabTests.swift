import Foundation
import Testing

extension SystemTests {
    /// dsr-lab itself.
    @Suite("Lab", .serialized)
    struct LabTests {
        private let program = "\(Laboratory.products)/dsr-lab"
        private let name = "systest-\(getpid())-lab"

        private func attempt(_ words: String...) async throws -> Program.Result {
            try await Program([program] + words).result(within: 60)
        }

        private func expect(
            _ words: String..., status: Int32, location: SourceLocation = #_sourceLocation
        ) async throws {
            let result = try await Program([program] + words).result(within: 60)
            #expect(result.status == status, "\(result.output)", sourceLocation: location)
        }

        private func namespaces() async throws -> [Substring] {
            try await Program.run(["ip", "netns", "list"]).split(separator: "\n")
                .filter { $0.hasPrefix(name) }
        }

        @Test func comesUpOnceAndGoesDownWhole() async throws {
            let topology = "\(Laboratory.root)/topologies/fig2-san"
            let up = try await attempt("up", topology, "--prefix", name, "--no-dsrd")
            #expect(up.status == 0, "\(up.output)")
            let made = try await namespaces()
            #expect(made.count == 5)
            let again = try await attempt("up", topology, "--prefix", name, "--no-dsrd")
            #expect(again.status != 0 && again.output.contains("is up already"), "\(again.output)")
            try await expect("status", name, status: 0)

            // Two labs side by side.
            let second = try await attempt("up", topology, "--prefix", "\(name)2", "--no-dsrd")
            #expect(second.status == 0, "\(second.output)")
            try await expect("down", "\(name)2", status: 0)

            // Also what was started by hand ends, and what crashed is found out.
            let sleeper = try Program([program, "exec", name, "client1", "--", "sleep", "600"])
            let code = try await attempt("exec", name, "server1", "--", "sh", "-c", "exit 7")
            #expect(code.status == 7)
            try await expect("server", "kill", name, "server2", status: 0)
            let status = try await attempt("status", name)
            #expect(status.status == 1 && status.output.contains("ENDED"), "\(status.output)")
            try await expect("down", name, status: 0)
            let end = try await sleeper.result(within: 5)
            #expect(end.status != 0)
            let left = try await namespaces()
            #expect(left.isEmpty)
            #expect(!FileManager.default.fileExists(atPath: "/run/dsr-lab/\(name)"))
        }

        @Test func aLabWhoseStateIsLostGoesDown() async throws {
            let topology = "\(Laboratory.root)/topologies/fig2-san"
            try await expect("up", topology, "--prefix", name, "--no-dsrd", status: 0)
            try FileManager.default.removeItem(atPath: "/run/dsr-lab/\(name)/lab.json")
            let refused = try await attempt("up", topology, "--prefix", name, "--no-dsrd")
            #expect(refused.status != 0 && refused.output.contains("is there already"))
            let down = try await attempt("down", topology, "--prefix", name)
            #expect(down.status == 0, "\(down.output)")
            let left = try await namespaces()
            #expect(left.isEmpty)
            #expect(!FileManager.default.fileExists(atPath: "/run/dsr-lab/\(name)"))
        }

        @Test func aFailingUpLeavesNothing() async throws {
            let up = try await attempt(
                "up", "\(Laboratory.root)/topologies/fig2-san", "--prefix", name, "--dsrd",
                "/nonexistent/dsrd")
            #expect(up.status != 0 && up.output.contains("no such program"), "\(up.output)")
            let left = try await namespaces()
            #expect(left.isEmpty)
            #expect(!FileManager.default.fileExists(atPath: "/run/dsr-lab/\(name)"))
        }

        @Test(arguments: [
            (
                "name: x\nhosts: [{name: a}]\nlinks: [{ends: [{host: a, device: e}, {host: b, device: f}]}]",
                "host b, which is not among the hosts"
            ),
            ("name: x\nhosts: [{nam: a}]", "hosts.nam: unknown"),
            ("name: x\nhosts: [{name: a}, {name: a}]", "given twice"),
            ("name: x\nhosts: [{name: a}]\nservices: [{host: a, kind: nfsd}]", "services"),
            ("name: x\nhosts: [{name: a}]\nservices: [{host: a, kind: agent}]", "dsr is missing"),
            (
                "name: x\nhosts: [{name: a}]\ncontrollers: [{name: c, units: [u]}]",
                "controller c: there is no target u"
            ),
            (
                "name: x\nhosts: [{name: a}]\npaths: [{server: a, controller: c}]",
                "there is no controller c"
            ),
        ])
        func badTopologiesAreExplained(text: String, message: String) async throws {
            let path = "/tmp/\(name).yaml"
            try text.write(to: URL(fileURLWithPath: path), atomically: true, encoding: .utf8)
            defer { unlink(path) }
            let result = try await attempt("up", path, "--prefix", name)
            #expect(result.status != 0 && result.output.contains(message), "\(result.output)")
        }
    }
}
