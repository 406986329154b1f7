import Foundation
import Testing

extension SystemTests {
    /// Locks (NLM) at real nfs-ganesha servers, which see one host.
    @Suite("NFS: locks", .serialized, .lab("fig2-nas-locks"))
    struct NFSLocks {
        /// Conflicts, shared locks, parts, waiting with GRANTED, cancelling, messages.
        @Test(arguments: ["tcp", "udp"])
        func everyKindOfConflict(transport: String) async throws {
            let lab = try Laboratory.here()
            let load = try await NFSLoad(
                lab, "locks", exports: ["/e1", "/e3", "/e5"], transport: transport,
                options: ["--seconds", "60"])
            let report = try await load.report(within: 180)
            #expect(report.ok, "\(report)")
            let held = try await lab.metric("dsr_nlm_locks")
            let waiting = try await lab.metric("dsr_nlm_waiting")
            #expect(held == 0)
            #expect(waiting == 0)
        }

        @Test func isRegistered() async throws {
            let lab = try Laboratory.here()
            let ports = try await lab.run("client1", ["rpcinfo", "-p", "10.10.0.100"])
            #expect(ports.contains("100021") && ports.contains("100024"))
        }

        /// A server with locks dies: nobody else ever gets them, and who waits gets them in the end.
        @Test(arguments: ["tcp", "udp"])
        func killed(transport: String) async throws {
            let lab = try Laboratory.here()
            let before = try await lab.metric("dsr_nlm_reclaimed_total")
            let lost = try await lab.metric("dsr_nlm_lost_total")
            let load = try await NFSLoad(
                lab, "locks", exports: ["/e1", "/e2", "/e5"], transport: transport, waits: true,
                options: ["--hold", "10"])
            try await Task.sleep(for: .seconds(2))
            let places = try await lab.assignment()
            let server = try #require(places["e1"])
            try await lab.dsrlab("service", lab.prefix, server, "kill")
            let isLeft = await eventually(within: 5) {
                (try? await lab.assignment().values.contains(server)) == false
            }
            #expect(isLeft, "\(server) still has exports")
            try await lab.dsrlab("service", lab.prefix, server, "start")
            let report = try await load.report()
            #expect(report.ok, "\(report)")
            let again = try await lab.metric("dsr_nlm_reclaimed_total")
            #expect(again > before)
            let lostNow = try await lab.metric("dsr_nlm_lost_total")
            #expect(lostNow == lost)
            let isUp = await eventually(within: 15) {
                (try? await lab.dsrctl("server", "list").components(separatedBy: " up ").count)
                    == 4
            }
            #expect(isUp)
        }

        /// Exports go from server to server with their locks, there and back.
        @Test func moved() async throws {
            let lab = try Laboratory.here()
            let lost = try await lab.metric("dsr_nlm_lost_total")
            let before = try await lab.metric("dsr_nlm_reclaimed_total")
            let load = try await NFSLoad(
                lab, "locks", exports: ["/e3"], transport: "tcp", waits: true,
                options: ["--hold", "8"])
            for _ in 0..<4 {
                try await Task.sleep(for: .seconds(1))
                let present = try await lab.assignment()["e3"]
                let other = present == "server1" ? "server2" : "server1"
                _ = try await lab.dsrctl("resource", "move", "e3", other)
            }
            let report = try await load.report()
            #expect(report.ok, "\(report)")
            let again = try await lab.metric("dsr_nlm_reclaimed_total")
            // Two ranges, four times.
            #expect(again >= before + 8)
            let lostNow = try await lab.metric("dsr_nlm_lost_total")
            #expect(lostNow == lost)
        }
    }
}
