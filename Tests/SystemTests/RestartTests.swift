import Foundation
import Testing

extension SystemTests {
    /// The daemon ends, well or badly, and is started again.
    @Suite("Restart", .serialized, .lab())
    struct RestartTests {
        private func expectNothingLeft(_ lab: Laboratory, socketToo: Bool) async throws {
            let devices = try await lab.run("dsr1", ["ip", "-brief", "link"])
            #expect(devices.contains("c0") && !devices.contains("dsr-"), "\(devices)")
            let addresses = try await lab.run("dsr1", ["ip", "-brief", "address"])
            #expect(!addresses.contains("10.10.0.100") && !addresses.contains("fd10::100"))
            if socketToo { #expect(!FileManager.default.fileExists(atPath: lab.socket)) }
        }

        @Test func aKilledDaemonStartsAgain() async throws {
            let lab = try Laboratory.here()
            let session = try RawInitiator(lab, host: "client1", address: "10.10.0.100")
            #expect(try session.login(target: "iqn.2026-01.lab.dsr:r1").loginStatus == 0)
            _ = try session.testUnitReady()

            try await lab.server("kill", "dsr1")
            try await expectNothingLeft(lab, socketToo: false)
            try await lab.server("start", "dsr1")
            try await lab.run("client1", ["iscsi-inq", lab.url("r1")], within: 5)
            try await lab.run(
                "client1", ["iscsi-inq", lab.url("r6", address: "[fd10::100]")], within: 5)
            // Nobody knows the old session any more, and its client hears so.
            #expect(throws: RawInitiator.Failure.closed) { try session.testUnitReady() }
        }

        @Test func aStoppedDaemonLeavesNothing() async throws {
            let lab = try Laboratory.here()
            try await lab.server("stop", "dsr1")
            try await expectNothingLeft(lab, socketToo: true)
            try await lab.server("start", "dsr1")
            try await lab.run("client1", ["iscsi-inq", lab.url("r3")], within: 5)
        }

        /// A second daemon with the same socket is refused, and does the first one no harm.
        @Test func aSecondDaemonIsRefused() async throws {
            let lab = try Laboratory.here()
            let second = try await lab.attempt(
                "dsr1",
                [
                    "\(Laboratory.products)/dsrd", "--config", lab.configuration, "--socket",
                    lab.socket,
                ], within: 20)
            #expect(second.status != 0)
            try await lab.run("client1", ["iscsi-inq", lab.url("r3")], within: 5)
        }
    }
}
