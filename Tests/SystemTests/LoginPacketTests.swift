import Foundation
import Testing

extension SystemTests {
    /// What goes over the wire before and after a session is in the dataplane.
    @Suite("Login packets", .serialized, .lab(configuration: withRareHealthChecks))
    struct LoginPacketTests {
        private static let storagePorts = ["s1", "s2", "s3"]

        private func onStorage(_ packets: [PacketCapture.Packet]) -> [PacketCapture.Packet] {
            packets.filter { Self.storagePorts.contains($0.device) }
        }

        @Test func discoveryReachesNoServer() async throws {
            let lab = try Laboratory.here()
            let capture = try await PacketCapture(lab, host: "dsr1")
            try await lab.run("client1", ["iscsi-ls", "iscsi://10.10.0.100"])
            try await lab.run("client1", ["iscsi-ls", "iscsi://[fd10::100]"])
            let packets = try await capture.stop()
            #expect(packets.contains { $0.device == "c0" && $0.length > 0 })
            #expect(onStorage(packets).isEmpty, "\(onStorage(packets).prefix(3))")
        }

        /// The redirector logs the client in by itself; the server leg begins with the first command.
        @Test func theServerLegStartsWithTheFirstCommand() async throws {
            let lab = try Laboratory.here()
            let capture = try await PacketCapture(lab, host: "dsr1")
            let initiator = try RawInitiator(lab, host: "client1", address: "10.10.0.100")
            #expect(try initiator.login(target: "iqn.2026-01.lab.dsr:r3").loginStatus == 0)
            try await Task.sleep(for: .milliseconds(700))
            let before = capture.soFar
            #expect(before.contains { $0.device == "c0" && $0.length > 0 })
            #expect(onStorage(before).isEmpty, "\(onStorage(before).prefix(3))")

            _ = try initiator.testUnitReady()
            #expect(try initiator.testUnitReady().scsiStatus == 0)
            let after = onStorage(try await capture.stop())
            let opening = try #require(after.first)
            #expect(opening.device == "s2" && opening.flags == "S")
            #expect(opening.source.hasPrefix("10.20.0.1."))
            #expect(opening.destination == "10.20.0.12.3260")
            #expect(
                after.allSatisfy { $0.device == "s2" }, "other servers see packets of the session")
        }

        /// During a transfer the control plane is out of the way: the packets go from port to port.
        @Test func aBulkTransferBypassesTheControlPlane() async throws {
            let lab = try Laboratory.here()
            // Blocks that were never written are not transferred: the initiator asks for their state.
            let file = try await lab.makeRandomFile("bulk.data")
            try await lab.writeAndReadBack("r1", file: file)
            let carried = try await resource(lab, "r1").serverBytes
            let device = try await lab.startBlockDevice("r1")
            let fio = try lab.startFio(
                socket: device.socket, seconds: 6, pattern: "read", blockSize: "256k")
            let isSpliced = try await eventually(within: 5) {
                try await lab.sessions(of: "r1").contains { $0.state == "spliced" }
            }
            let sessions = try await lab.sessions(of: "r1")
            #expect(isSpliced, "\(sessions)")
            #expect(sessions.count == 1 && sessions.first?.server == "server1", "\(sessions)")

            let before = try await lab.get([Laboratory.Port].self, "/ports")
            try await Task.sleep(for: .seconds(3))
            let after = try await lab.get([Laboratory.Port].self, "/ports")
            func packets(_ ports: [Laboratory.Port], isCPU: Bool) -> Int {
                ports.filter { ($0.kind == "cpu") == isCPU }.reduce(0) {
                    $0 + $1.rxPackets + $1.txPackets
                }
            }
            let network = packets(after, isCPU: false) - packets(before, isCPU: false)
            let control = packets(after, isCPU: true) - packets(before, isCPU: true)
            #expect(before.filter { $0.kind == "cpu" }.count == 2)
            #expect(network > 10_000, "there is hardly a transfer: \(network) packets")
            #expect(control * 1_000 < network, "\(control) of \(network) packets")

            let result = try await lab.fioResult(fio, within: 30)
            #expect(result.error == 0 && result.readKiB > 100_000, "\(result)")
            device.program.signal(SIGTERM)
            _ = try await device.program.result(within: 10)

            // What a resource has carried stays counted when its sessions are over.
            let isOver = try await eventually(within: 5) {
                try await lab.sessions(of: "r1").isEmpty
            }
            #expect(isOver)
            let octets = result.readKiB * 1_024
            let counted = try await resource(lab, "r1").serverBytes - carried
            #expect(counted > octets && counted < octets + octets / 5, "\(counted), \(octets)")
        }

        private struct Resource: Decodable {
            var name: String
            var serverBytes: Int
        }

        private func resource(_ lab: Laboratory, _ name: String) async throws -> Resource {
            let all = try await lab.get([Resource].self, "/resources")
            return try #require(all.first { $0.name == name })
        }
    }
}
