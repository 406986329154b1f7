import Foundation
import Testing

extension SystemTests {
    /// tools/verify-load.py finds what it is there to find: every test of failover stands on that. Directly at
    /// a server, without the redirector.
    @Suite("Verifying load", .serialized)
    struct VerifyingLoad {
        private let lab = BareLab("load")

        private struct Report: Decodable {
            var ok: Bool
            var requests: Int
            var errors: [String: Int]
            var closedConnections: Int
            var wrongBlocks: Int
            var longestStallMs: Double
            var finalVerify: Verified?
            struct Verified: Decodable {
                var blocks: Int
                var wrong: Int
            }
        }

        /// - Parameter meanwhile: runs a second after the load has begun.
        private func load(
            _ options: [String] = [], _ meanwhile: () async throws -> Void = {}
        ) async throws -> Report {
            let words = [
                "exec", lab.name, "server1", "--", "\(Laboratory.root)/tools/verify-load.py",
                "--portal", "127.0.0.1", "--seconds", "3", "--range-mib", "4", "--rate", "200",
                "--target", "iqn.2026-01.lab.dsr:r1", "--target", "iqn.2026-01.lab.dsr:r2",
                "--final-verify", "--output", output,
            ]
            let program = try Program(["\(Laboratory.products)/dsr-lab"] + words + options)
            let isRunning = await eventually(within: 20) { program.output.contains("running") }
            try #require(isRunning, "\(program.output)")
            try await Task.sleep(for: .seconds(1))
            try await meanwhile()
            let result = try await program.result(within: 60)
            let data = try Data(contentsOf: URL(fileURLWithPath: output))
            let decoder = JSONDecoder()
            decoder.keyDecodingStrategy = .convertFromSnakeCase
            let report = try decoder.decode(Report.self, from: data)
            #expect(result.status == (report.ok ? 0 : 1), "\(result.output)")
            return report
        }

        private var output: String { "/tmp/\(lab.name).json" }
        private var disk: String { "/run/dsr-lab/\(lab.name)/san/r1.img" }

        /// Half of a block behind the server's back, and a block where it does not belong.
        private func spoil(_ source: String, from: Int, to place: Int, count: Int) async throws {
            try await Program.run([
                "dd", "if=\(source)", "of=\(disk)", "bs=512", "skip=\(from)", "seek=\(place)",
                "count=\(count)", "conv=notrunc",
            ])
        }

        @Test func findsEveryKindOfFault() async throws {
            defer { unlink(output) }
            try await lab.with("fig2-san") {
                let good = try await load()
                #expect(good.ok && good.errors.isEmpty && good.requests > 300)
                #expect(good.finalVerify?.blocks == 2048 && good.longestStallMs < 1000)

                let parts = try await load(["--sessions-per-target", "2"])
                #expect(parts.ok && parts.finalVerify?.blocks == 4096)

                // Nothing is written after the fill: what is spoilt stays so.
                let onlyReads = ["--read-share", "1", "--seed", "2"]
                let torn = try await load(onlyReads) {
                    try await spoil("/dev/zero", from: 0, to: 8 * 100 + 5, count: 1)
                }
                #expect(torn.errors["wrong-torn"] == torn.wrongBlocks && torn.wrongBlocks > 0)
                #expect(!torn.ok && torn.errors.count == 1 && torn.finalVerify?.wrong == 1)

                let misplaced = try await load(onlyReads) {
                    try await spoil(disk, from: 8 * 300, to: 8 * 301, count: 8)
                }
                #expect(misplaced.errors["wrong-misplaced"] == misplaced.wrongBlocks)
                #expect(!misplaced.ok && misplaced.finalVerify?.wrong == 1)

                let foreign = try await load(onlyReads) {
                    try await spoil("/dev/zero", from: 0, to: 8 * 300, count: 8)
                }
                #expect(!foreign.ok && foreign.errors["wrong-foreign"] == foreign.wrongBlocks)

                // All that was acknowledged later is gone from the first MiB.
                let copy = "/tmp/\(lab.name).img"
                defer { unlink(copy) }
                let stale = try await load(["--largest", "4096"]) {
                    try await Program.run(["cp", disk, copy])
                    try await Task.sleep(for: .seconds(1))
                    try await spoil(copy, from: 0, to: 0, count: 2048)
                }
                #expect(!stale.ok && (stale.errors["wrong-stale"] ?? 0) > 0)
            }
        }

        @Test func countsStallsAndClosedConnections() async throws {
            defer { unlink(output) }
            try await lab.with("fig2-san") {
                let stalled = try await load {
                    try await lab.expect("service", lab.name, "server1", "freeze")
                    try await Task.sleep(for: .milliseconds(700))
                    try await lab.expect("service", lab.name, "server1", "thaw")
                }
                #expect(stalled.ok && (650..<2500).contains(stalled.longestStallMs))

                let killed = try await load {
                    try await lab.expect("service", lab.name, "server1", "kill")
                    try await lab.expect("service", lab.name, "server1", "start")
                }
                #expect(!killed.ok && killed.closedConnections == 2)
                // All is read back over new connections.
                #expect(killed.finalVerify?.blocks == 2048 && killed.wrongBlocks == 0)

                let again = try await load(["--reconnect"]) {
                    try await lab.expect("service", lab.name, "server1", "kill")
                    try await lab.expect("service", lab.name, "server1", "start")
                }
                #expect(!again.ok && again.closedConnections == 2 && again.wrongBlocks == 0)
                #expect(again.finalVerify?.blocks == 2048)
            }
        }
    }
}
