import Foundation
import Testing

private let exports = (1...6).map { "/e\($0)" }

extension Laboratory {
    /// What the dataplane has forwarded by itself.
    fileprivate func fastCalls() async throws -> Int {
        try await metric("dsr_datagram_packets_total{direction=\"call\"}")
    }

    fileprivate func nfs(_ verb: String, _ host: String) async throws {
        try await dsrlab("service", prefix, host, verb)
    }
}

extension SystemTests {
    /// Real nfs-ganesha servers that share their directories, behind one address.
    @Suite("NFS", .serialized, .lab("fig2-nas"))
    struct NFS {
        /// Every procedure once at three servers' exports; over TCP all over one connection.
        @Test(arguments: ["tcp", "udp"], [false, true])
        func walk(transport: String, isFromRoot: Bool) async throws {
            let lab = try Laboratory.here()
            let load = try await NFSLoad(
                lab, "walk", exports: ["/e1", "/e3", "/e5"], transport: transport,
                options: ["--mib", "8", "--entries", "1000"] + (isFromRoot ? ["--from-root"] : []))
            let report = try await load.report()
            #expect(report.ok, "\(report)")
        }

        /// A copy of 1 GiB there and back, and a directory of 10,000, listed with and without attributes.
        @Test(arguments: ["tcp", "udp"])
        func large(transport: String) async throws {
            let lab = try Laboratory.here()
            let load = try await NFSLoad(
                lab, "walk", exports: ["/e2"], transport: transport,
                options: ["--mib", "1024", "--entries", "10000"])
            let report = try await load.report(within: 240)
            #expect(report.ok, "\(report)")
        }

        /// libnfs, over TCP: files as large as they come, equal to the server's own.
        @Test func copies() async throws {
            let lab = try Laboratory.here()
            let file = try await lab.makeRandomFile("nfs.data")
            let place = "nfs://10.10.0.100/e4/copied.data"
            try await lab.run("client1", ["nfs-cp", file, place])
            let stored = try await lab.run(
                "client1", ["sh", "-c", "nfs-cat '\(place)' | cmp - \(file) && echo equal"])
            #expect(stored.contains("equal"))
            let own = try await lab.run(
                "server2",
                ["sh", "-c", "cmp \(file) \(lab.state)/exports/e4/copied.data && echo equal"])
            #expect(own.contains("equal"))
            let listed = try await lab.run("client1", ["nfs-ls", "nfs://10.10.0.100/e4"])
            #expect(listed.contains("copied.data"))
        }

        @Test func showsItsExports() async throws {
            let lab = try Laboratory.here()
            let shown = try await lab.run("client1", ["showmount", "-e", "10.10.0.100"])
            for export in ["/"] + exports { #expect(shown.contains("\(export) ")) }
            let ports = try await lab.run("client1", ["rpcinfo", "-p", "10.10.0.100"])
            #expect(ports.contains("2049") && ports.contains("20048"))
        }

        /// Reads and writes of 4 to 32 KiB over UDP, which are fragments on the wire, go through the fast path.
        @Test func datagrams() async throws {
            let lab = try Laboratory.here()
            let before = try await lab.fastCalls()
            let load = try await NFSLoad(
                lab, "verify", exports: exports, transport: "udp",
                options: ["--seconds", "4", "--final-verify", "--range-mib", "2"])
            let report = try await load.report()
            #expect(report.ok && report.wrongBlocks == 0, "\(report)")
            let fast = try await lab.fastCalls() - before
            #expect(fast > report.requests / 2, "\(fast) of \(report.requests)")
        }

        /// Servers are killed under changes of names: none is lost, none is done twice.
        @Test(arguments: ["tcp", "udp"])
        func killed(transport: String) async throws {
            let lab = try Laboratory.here()
            let load = try await NFSLoad(
                lab, "names", exports: exports, transport: transport, waits: true,
                options: ["--seconds", "12", "--operations", "1000000"])
            for server in ["server1", "server3"] {
                try await Task.sleep(for: .seconds(1))
                try await lab.nfs("kill", server)
                let isLeft = await eventually(within: 5) {
                    (try? await lab.assignment().values.contains(server)) == false
                }
                #expect(isLeft, "\(server) still has exports")
                try await lab.nfs("start", server)
                let isUp = await eventually(within: 15) {
                    (try? await lab.dsrctl("server", "list").components(separatedBy: " up ").count)
                        == 4
                }
                #expect(isUp)
            }
            let report = try await load.report()
            #expect(report.ok, "\(report)")
            #expect((report.longestStallMs ?? .infinity) < 1_500, "\(report)")
        }

        /// Reads and writes go on while exports move and a server dies.
        @Test(arguments: ["tcp", "udp"])
        func moved(transport: String) async throws {
            let lab = try Laboratory.here()
            let load = try await NFSLoad(
                lab, "verify", exports: exports, transport: transport, waits: true,
                options: ["--seconds", "10", "--final-verify", "--range-mib", "2"])
            for round in 0..<6 {
                try await Task.sleep(for: .milliseconds(300))
                let name = "e\(round + 1)"
                let present = try await lab.assignment()[name]
                let other = present == "server1" ? "server2" : "server1"
                _ = try await lab.dsrctl("resource", "move", name, other)
            }
            try await lab.nfs("kill", "server2")
            try await Task.sleep(for: .seconds(1))
            try await lab.nfs("start", "server2")
            let report = try await load.report()
            #expect(report.ok && report.wrongBlocks == 0, "\(report)")
            let isUp = await eventually(within: 15) {
                (try? await lab.dsrctl("server", "list").components(separatedBy: " up ").count) == 4
            }
            #expect(isUp)
        }
    }

    /// Independent boxes, whose handles are equal for different files.
    @Suite("NFS: independent boxes", .serialized, .lab("fig1-nas"))
    struct IndependentBoxes {
        @Test(arguments: ["tcp", "udp"], [false, true])
        func everyOperationReachesItsBox(transport: String, isFromRoot: Bool) async throws {
            let lab = try Laboratory.here()
            let load = try await NFSLoad(
                lab, "walk", exports: ["/n1", "/n2", "/n3"], transport: transport,
                options: ["--mib", "2", "--entries", "200"] + (isFromRoot ? ["--from-root"] : []))
            let report = try await load.report()
            #expect(report.ok, "\(report)")
        }

        /// Files with equal handles at two boxes at once: each gets what was written to it.
        @Test(arguments: ["tcp", "udp"])
        func equalHandles(transport: String) async throws {
            let lab = try Laboratory.here()
            let load = try await NFSLoad(
                lab, "verify", exports: ["/n1", "/n2", "/n3"], transport: transport,
                options: [
                    "--seconds", "3", "--final-verify", "--range-mib", "1", "--use", "files/01",
                    "--use", "files/02",
                ])
            let report = try await load.report()
            #expect(report.ok && report.wrongBlocks == 0, "\(report)")
        }
    }

    /// 5 % of all packets are lost, and some come twice, or late.
    @Suite(
        "NFS over bad networks", .serialized,
        .lab(
            "fig2-nas",
            configuration: {
                $0.replacing(
                    "{name: c0, device: c0, side: client}",
                    with: "{name: c0, device: c0, side: client, faults: {drop: 0.05, "
                        + "duplicate: 0.05, reorder: 0.05, seed: 7}}")
            }))
    struct BadNetworks {
        @Test func fragmentsAreLost() async throws {
            let lab = try Laboratory.here()
            // Where datagrams remain incomplete the kernels of both ends keep their fragments for 30 s, and take
            // no more of any datagram once they hold 4 MiB.
            for host in ["client1", "server1", "server2", "server3"] {
                try await lab.run(host, ["sysctl", "-qw", "net.ipv4.ipfrag_time=1"])
            }
            let load = try await NFSLoad(
                lab, "verify", exports: ["/e1", "/e4"], transport: "udp",
                options: [
                    "--seconds", "8", "--range-mib", "1", "--rto", "0.05", "--rto-max", "0.2",
                    "--flows", "2", "--depth", "2", "--call-seconds", "60", "--setup-seconds", "60",
                ])
            let report = try await load.report()
            #expect(report.ok && report.wrongBlocks == 0, "\(report)")
            #expect(report.requests > 50, "\(report)")
            // What is incomplete is forgotten.
            for name in ["dsr_fragmented_datagrams", "dsr_fragments_waiting"] {
                let isEmpty = await eventually(within: 8) {
                    (try? await lab.metric(name)) == 0
                }
                #expect(isEmpty, "\(name)")
            }
        }

        @Test func namesAreNotChangedTwice() async throws {
            let lab = try Laboratory.here()
            let load = try await NFSLoad(
                lab, "names", exports: ["/e2", "/e6"], transport: "udp",
                options: ["--seconds", "6", "--operations", "1000000", "--rto", "0.05"])
            let report = try await load.report()
            #expect(report.ok, "\(report)")
        }
    }
}
