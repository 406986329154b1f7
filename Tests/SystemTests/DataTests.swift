import Foundation
import Testing

extension SystemTests {
    /// Real clients use the disks through the virtual address.
    @Suite("Data", .serialized, .lab())
    struct DataTests {
        private static let resources = (1...6).map { "r\($0)" }

        @Test(arguments: ["10.10.0.100", "[fd10::100]"])
        func discoveryListsEveryTargetAtTheVirtualAddress(address: String) async throws {
            let lab = try Laboratory.here()
            let text = try await lab.run("client1", ["iscsi-ls", "iscsi://\(address)"])
            let lines = Set(text.split(separator: "\n").map(String.init))
            let wanted = (Self.resources + ["all"]).map {
                "Target:iqn.2026-01.lab.dsr:\($0) Portal:\(address):3260,1"
            }
            #expect(lines == Set(wanted))
        }

        /// Four sessions at once, then two.
        @Test(arguments: [["r1", "r2", "r3", "r5"], ["r4", "r6"]])
        func everyOctetArrives(resources: [String]) async throws {
            let lab = try Laboratory.here()
            try await writeAndRead(lab, resources, address: "10.10.0.100")
        }

        @Test func everyOctetArrivesOverIPv6() async throws {
            let lab = try Laboratory.here()
            try await writeAndRead(lab, ["r1", "r3", "r5"], address: "[fd10::100]")
        }

        private func writeAndRead(
            _ lab: Laboratory, _ resources: [String], address: String
        ) async throws {
            try await withThrowingTaskGroup(of: Void.self) { group in
                for resource in resources {
                    group.addTask {
                        let file = try await lab.makeRandomFile("\(resource).data")
                        try await lab.writeAndReadBack(resource, file: file, address: address)
                    }
                }
                try await group.waitForAll()
            }
        }

        /// All six disks, four sessions at once, then two.
        @Test(arguments: [
            ("10.10.0.100", ["r1", "r2", "r3", "r5"]), ("10.10.0.100", ["r4", "r6"]),
            ("[fd10::100]", ["r1", "r3", "r4", "r6"]),
        ])
        func mixedLoadIsVerified(address: String, resources: [String]) async throws {
            let lab = try Laboratory.here()
            var loads: [(device: Program, fio: Program)] = []
            for resource in resources {
                let device = try await lab.startBlockDevice(resource, address: address)
                let fio = try lab.startFio(socket: device.socket, seconds: 4)
                loads.append((device.program, fio))
            }
            let isSpliced = try await eventually(within: 4) {
                let sessions = try await lab.get([Laboratory.Session].self, "/sessions")
                return sessions.count { $0.state == "spliced" } == resources.count
            }
            #expect(isSpliced)
            for load in loads {
                let result = try await lab.fioResult(load.fio, within: 40)
                #expect(result.error == 0)
                #expect(result.readKiB > 5_000 && result.writtenKiB > 5_000, "\(result)")
                load.device.signal(SIGTERM)
                _ = try await load.device.result(within: 10)
                #expect(!load.device.output.contains("rror"), "\(load.device.output)")
            }
        }

        /// A server that is killed costs no session: each goes on with another server, and the killed one
        /// serves again when it is back.
        @Test func aKilledServerCostsNoSession() async throws {
            let lab = try Laboratory.here()
            let first = try RawInitiator(lab, host: "client1", address: "10.10.0.100")
            #expect(try first.login(target: "iqn.2026-01.lab.dsr:r1").loginStatus == 0)
            let other = try RawInitiator(lab, host: "client1", address: "10.10.0.100")
            #expect(try other.login(target: "iqn.2026-01.lab.dsr:r3").loginStatus == 0)
            for session in [first, other] {
                _ = try session.testUnitReady()
                #expect(try session.testUnitReady().scsiStatus == 0)
            }
            try await lab.server("kill", "server1")
            // No unit attention either: to the client nothing has happened.
            #expect(try first.testUnitReady().scsiStatus == 0)
            #expect(try other.testUnitReady().scsiStatus == 0)
            try await lab.run("client1", ["iscsi-inq", lab.url("r1")], within: 20)

            try await lab.server("start", "server1")
            let isUp = try await eventually(within: 20) { try await lab.health("server1") == "up" }
            #expect(isUp, "server1 is not found healthy again")
            try await lab.run("client1", ["iscsi-inq", lab.url("r1")], within: 20)
            #expect(try first.testUnitReady().scsiStatus == 0)
            #expect(try other.testUnitReady().scsiStatus == 0)
        }
    }
}
