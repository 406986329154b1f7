import Foundation
import Testing

extension SystemTests {
    /// Neither side can reach the other but through sessions.
    @Suite("Isolation", .serialized, .lab())
    struct IsolationTests {
        /// Also for a client that sends packets for the storage network to the redirector's MAC address.
        @Test func clientsDoNotReachServers() async throws {
            let lab = try Laboratory.here()
            let routes = [
                ["route", "replace", "10.20.0.0/24", "via", "10.10.0.100"],
                ["-6", "route", "replace", "fd20::/64", "via", "fd10::100"],
            ]
            let direct = [
                ["route", "replace", "10.20.0.0/24", "dev", "eth0"],
                ["-6", "route", "replace", "fd20::/64", "dev", "eth0"],
            ]
            for commands in [routes, direct] {
                for command in commands { try await lab.run("client1", ["ip"] + command) }
                for address in ["10.20.0.1", "10.20.0.11", "10.20.0.13", "fd20::1", "fd20::12"] {
                    let ping = try await lab.attempt(
                        "client1", ["ping", "-c", "1", "-W", "1", address])
                    #expect(ping.status == 1, "\(address): \(ping.output)")
                }
                for address in ["10.20.0.11", "fd20::11", "10.20.0.1"] {
                    #expect(throws: RawInitiator.Failure.self, "\(address) can be reached") {
                        try RawInitiator(lab, host: "client1", address: address)
                    }
                }
            }
            // What the test would see if it could: the virtual address answers in the same way.
            try await lab.run("client1", ["ping", "-c", "1", "-W", "1", "10.10.0.100"])
            try await lab.run("client1", ["ping", "-c", "1", "-W", "1", "fd10::100"])
            _ = try RawInitiator(lab, host: "client1", address: "10.10.0.100")
        }

        @Test func serversDoNotReachClients() async throws {
            let lab = try Laboratory.here()
            try await lab.run(
                "server1", ["ip", "route", "replace", "10.10.0.0/24", "via", "10.20.0.1"])
            try await lab.run(
                "server1", ["ip", "-6", "route", "replace", "fd10::/64", "via", "fd20::1"])
            for address in ["10.10.0.11", "10.10.0.100", "fd10::11", "fd10::100"] {
                let ping = try await lab.attempt(
                    "server1", ["ping", "-c", "1", "-W", "1", address])
                #expect(ping.status == 1, "\(address): \(ping.output)")
            }
            try await lab.run("server1", ["ping", "-c", "1", "-W", "1", "10.20.0.1"])
        }

        /// Spliced packets are the client's own, with every address replaced.
        @Test(arguments: [("10.10.0.100", "10.20.0.1."), ("[fd10::100]", "fd20::1.")])
        func serversSeeOnlyTheRedirector(address: String, own: String) async throws {
            let lab = try Laboratory.here()
            let capture = try await PacketCapture(lab, host: "server2", filter: "ip or ip6")
            let file = try await lab.makeRandomFile("isolation.data")
            try await lab.run(
                "client1",
                [
                    "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", file,
                    lab.url("r3", address: address),
                ])
            let packets = try await capture.stop()
            let octets = packets.filter { $0.source.hasPrefix(own) }.reduce(0) { $0 + $1.length }
            #expect(octets >= Laboratory.diskOctets, "the capture does not see the transfer")
            let foreign = packets.filter { packet in
                [packet.source, packet.destination].contains {
                    $0.hasPrefix("10.10.") || $0.hasPrefix("fd10:")
                }
            }
            #expect(foreign.isEmpty, "\(foreign.prefix(3))")
            let tcp = packets.filter { !$0.flags.isEmpty }
            let peers = ["10.20.0.1.", "fd20::1."]
            let others = tcp.filter { packet in
                !peers.contains {
                    packet.source.hasPrefix($0) || packet.destination.hasPrefix($0)
                }
            }
            #expect(others.isEmpty, "\(others.prefix(3))")
        }
    }
}
