import Foundation
import Testing

extension SystemTests {
    /// Clients log in at the redirector with their secrets, the redirector at the servers with others.
    @Suite("CHAP", .serialized, .lab("fig2-san-chap", configuration: withRareHealthChecks))
    struct CHAPTests {
        private func inquire(
            _ resource: String, user: String, query: String = ""
        ) async throws -> Program.Result {
            let lab = try Laboratory.here()
            return try await lab.attempt(
                "client1", ["iscsi-inq", lab.url(resource, user: user, query: query)], within: 20)
        }

        /// Status 0x0201 is 513 in libiscsi's message.
        @Test(arguments: ["", "client%wrong-secret-1", "nobody%client-secret-1"])
        func aWrongSecretIsRefusedAndReachesNoServer(user: String) async throws {
            let lab = try Laboratory.here()
            let metric = "dsr_logins_total{result=\"authentication_failure\"}"
            let countedBefore = try await lab.metric(metric)
            let capture = try await PacketCapture(lab, host: "dsr1")
            let result = try await inquire("r1", user: user)
            #expect(result.status != 0)
            #expect(result.output.contains("Authentication failure(513)"), "\(result.output)")
            let packets = try await capture.stop()
            #expect(packets.contains { $0.device == "c0" && $0.length > 0 })
            #expect(!packets.contains { ["s1", "s2", "s3"].contains($0.device) })
            let counted = try await lab.metric(metric)
            #expect(counted == countedBefore + 1)
        }

        @Test func theRightSecretIsEnough() async throws {
            let result = try await inquire("r1", user: "client%client-secret-1")
            #expect(result.status == 0, "\(result.output)")
        }

        /// The servers' own credentials are of no use to a client.
        @Test func credentialsOfServersAreNotForClients() async throws {
            let result = try await inquire("r1", user: "redirector%server-secret-1")
            #expect(result.output.contains("Authentication failure(513)"), "\(result.output)")
        }

        /// A server lets nobody in without the redirector's credentials.
        @Test func serversDemandTheRedirectorsCredentials() async throws {
            let lab = try Laboratory.here()
            let target = "10.20.0.11/iqn.2026-01.lab.dsr:r1/1"
            let refused = try await lab.attempt(
                "server1", ["iscsi-inq", "iscsi://client%client-secret-1@\(target)"])
            #expect(refused.output.contains("Authentication failure(513)"), "\(refused.output)")
            try await lab.run(
                "server1", ["iscsi-inq", "iscsi://redirector%server-secret-1@\(target)"])
        }

        @Test func mutualCHAPIsCheckedByTheClient() async throws {
            let query = "target_user=san&target_password="
            let right = try await inquire(
                "r2", user: "client%client-secret-1", query: query + "client-secret-2")
            #expect(right.status == 0, "\(right.output)")
            let wrong = try await inquire(
                "r2", user: "client%client-secret-1", query: query + "other-secret-22")
            #expect(wrong.status != 0)
        }

        /// A user may be held to some of the resources.
        @Test func aUserReachesOnlyItsResources() async throws {
            let allowed = try await inquire("r2", user: "reader%reader-secret-1")
            #expect(allowed.status == 0, "\(allowed.output)")
            let refused = try await inquire("r3", user: "reader%reader-secret-1")
            #expect(refused.status != 0)
        }

        /// Names of targets are nobody's business who cannot log in.
        @Test func discoveryNeedsCHAPAndShowsAUserItsResources() async throws {
            let lab = try Laboratory.here()
            func find(_ user: String) async throws -> Program.Result {
                try await lab.attempt(
                    "client1", ["iscsi-ls", "iscsi://\(user)10.10.0.100"], within: 20)
            }
            func names(_ result: Program.Result) -> [String] {
                (1...6).map { "r\($0)" }.filter { result.output.contains("lab.dsr:\($0) ") }
            }
            for user in ["", "client%wrong-secret-1@", "nobody%client-secret-1@"] {
                let refused = try await find(user)
                #expect(refused.status != 0)
                #expect(names(refused).isEmpty, "\(refused.output)")
            }
            let all = try await find("client%client-secret-1@")
            #expect(names(all) == ["r1", "r2", "r3", "r4", "r5", "r6"], "\(all.output)")
            let some = try await find("reader%reader-secret-1@")
            #expect(names(some) == ["r1", "r2"], "\(some.output)")
        }

        @Test func dataFlowsUnderCHAP() async throws {
            let lab = try Laboratory.here()
            let file = try await lab.makeRandomFile("chap.data")
            let url = lab.url("r4", user: "client%client-secret-1")
            try await lab.run(
                "client1", ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", file, url])
            try await Program.run(["cmp", file, lab.backing("r4")])
        }

        /// A server that cannot prove itself to the redirector is not used.
        @Test func mutualCHAPIsCheckedByTheRedirector() async throws {
            let lab = try Laboratory.here()
            let text = try lab.configurationInUse()
            let changed = text.replacingOccurrences(of: "server-secret-2", with: "server-secret-X")
            try #require(changed != text)
            try lab.configure(changed)
            try await lab.server("stop", "dsr1")
            try await lab.server("start", "dsr1")
            let refused = try await inquire("r1", user: "client%client-secret-1")
            #expect(refused.status != 0, "\(refused.output)")

            try lab.configure(text)
            try await lab.server("stop", "dsr1")
            try await lab.server("start", "dsr1")
            let accepted = try await inquire("r1", user: "client%client-secret-1")
            #expect(accepted.status == 0, "\(accepted.output)")
        }
    }
}
