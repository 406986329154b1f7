import Foundation
import Testing

extension SystemTests {
    /// Boxes that speak version 2 of NFS alone (tools/nfs2-server.py), whose handles are equal for
    /// different files.
    @Suite("NFS version 2", .serialized, .lab("fig1-nas2"))
    struct NFSVersion2 {
        private static let exports = ["/n1", "/n2"]

        private struct Report: Decodable {
            var ok: Bool
            var roots: [String: String]
        }

        /// Where a walk finds the servers' own directories.
        private func directories(_ lab: Laboratory) -> [String] {
            [
                "--local", "/n1=\(lab.state)/exports/n1.nas1", "--local",
                "/n2=\(lab.state)/exports/n2.nas2",
            ]
        }

        /// Handles of exports' roots, by their paths, as a short walk from a host finds them.
        private func roots(
            _ lab: Laboratory, _ host: String, at server: String, _ exports: [String]
        ) async throws -> [String: String] {
            let output = "\(lab.directory)/roots-\(host).json"
            var words = [
                "\(Laboratory.root)/tools/nfs-load.py", "walk", "--version", "2", "--server",
                server, "--output", output, "--mib", "0", "--entries", "5",
            ]
            for export in exports { words += ["--export", export] }
            try await lab.run(host, words)
            let data = try Data(contentsOf: URL(fileURLWithPath: output))
            let report = try JSONDecoder().decode(Report.self, from: data)
            #expect(report.ok)
            return report.roots
        }

        private func areUp(_ lab: Laboratory) async throws -> Bool {
            try await lab.dsrctl("server", "list").components(separatedBy: " up ").count == 3
        }

        /// Every procedure at both boxes; what is written and made is in the boxes' directories.
        @Test(arguments: ["tcp", "udp"], [false, true])
        func walk(transport: String, isFromRoot: Bool) async throws {
            let lab = try Laboratory.here()
            let load = try await NFSLoad(
                lab, "walk", exports: Self.exports, transport: transport,
                options: ["--version", "2", "--mib", "2", "--entries", "300"]
                    + directories(lab) + (isFromRoot ? ["--from-root"] : []))
            let report = try await load.report()
            #expect(report.ok, "\(report)")
        }

        @Test func boxesGiveEqualHandlesAndTheSwitchDoesNot() async throws {
            let lab = try Laboratory.here()
            let first = try await roots(lab, "nas1", at: "127.0.0.1", ["/vol1"])
            let second = try await roots(lab, "nas2", at: "127.0.0.1", ["/vol1"])
            #expect(first == second && first["/vol1"]?.count == 64)
            let seen = try await roots(lab, "client1", at: "10.10.0.100", Self.exports)
            #expect(Set(seen.values).count == 2)
            #expect(seen.values.allSatisfy { $0.count == 64 && $0 != first["/vol1"] })
        }

        /// Servers were found healthy though they know no version 3, and neither does the switch.
        @Test(arguments: [("client1", "10.10.0.100", "/n1"), ("nas1", "127.0.0.1", "/vol1")])
        func version3IsRefused(host: String, server: String, export: String) async throws {
            let lab = try Laboratory.here()
            let isUp = try await areUp(lab)
            #expect(isUp)
            let result = try await lab.attempt(
                host,
                [
                    "\(Laboratory.root)/tools/nfs-load.py", "walk", "--server", server,
                    "--export", export, "--port", "2049", "--mount-port", "20048",
                ])
            // PROG_MISMATCH.
            #expect(
                result.status == 1 && result.output.contains("accept status 2"),
                "\(result.output)")
        }

        /// A box is killed and comes back under a walk: its handles mean what they meant, and nothing
        /// is done twice.
        @Test(arguments: ["tcp", "udp"])
        func killed(transport: String) async throws {
            let lab = try Laboratory.here()
            let load = try await NFSLoad(
                lab, "walk", exports: ["/n1"], transport: transport, waits: true,
                options: ["--version", "2", "--mib", "16", "--entries", "600"]
                    + directories(lab).prefix(2))
            try await Task.sleep(for: .milliseconds(400))
            try await lab.dsrlab("service", lab.prefix, "nas1", "kill")
            try await lab.dsrlab("service", lab.prefix, "nas1", "start")
            let report = try await load.report()
            #expect(report.ok, "\(report)")
            let isBack = await eventually(within: 15) { (try? await areUp(lab)) == true }
            #expect(isBack)
        }
    }
}
