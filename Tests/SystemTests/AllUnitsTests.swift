import Foundation
import Testing

private let everyUnit = "all/1,2,3,4,5,6"

extension SystemTests {
    /// One session, one connection, to the target that has all resources as its units: on three servers.
    @Suite("One session, many units", .serialized, .lab())
    struct AllUnits {
        private struct Session: Decodable {
            var state: String
            var grain: String
            var grainReason: String?
            var target: String?
            var units: [Unit]
            struct Unit: Decodable {
                var unit: Int
                var resource: String
                var server: String?
            }
        }

        private func load(
            _ lab: Laboratory, seconds: Int, options: [String] = []
        ) async throws -> VerifiedLoad {
            try await VerifiedLoad(
                lab, resources: [everyUnit], sessions: 1, seconds: seconds,
                options: ["--depth", "32", "--range-mib", "48"] + options)
        }

        private func sessions(_ lab: Laboratory) async throws -> [Session] {
            try await lab.get([Session].self, "/sessions").filter {
                $0.target == "iqn.2026-01.lab.dsr:all"
            }
        }

        /// Connections of clients that a server has, by target.
        private func connections(_ lab: Laboratory, _ server: String) async throws -> [String: Int]
        {
            let text = try await lab.run(
                server,
                [
                    "env", "TGT_IPC_SOCKET=\(lab.state)/\(server).tgtd", "tgtadm", "--lld", "iscsi",
                    "--op", "show", "--mode", "target",
                ])
            var result: [String: Int] = [:]
            var target = ""
            for line in text.split(separator: "\n") {
                if line.hasPrefix("Target ") {
                    target = line.split(separator: ":").last.map(String.init) ?? ""
                } else if line.contains("Connection:") {
                    result[target, default: 0] += 1
                }
            }
            return result
        }

        @Test func everyUnitIsReadAndWrittenThroughOneConnection() async throws {
            let lab = try Laboratory.here()
            let load = try await load(lab, seconds: 4)
            try await Task.sleep(for: .seconds(1))
            let session = try #require(try await sessions(lab).first)
            #expect(try await sessions(lab).count == 1)
            let assignment = try await lab.assignment()
            #expect(session.units.map(\.resource) == ["r1", "r2", "r3", "r4", "r5", "r6"])
            #expect(session.units.map(\.unit) == [1, 2, 3, 4, 5, 6])
            #expect(session.units.allSatisfy { $0.server == assignment[$0.resource] })
            #expect(session.grain == "message")
            let clients = try await lab.run(
                "client1", ["ss", "-Htn", "state", "established", "dport", "=", ":3260"])
            #expect(clients.split(separator: "\n").count == 1, "\(clients)")
            // Each server sees its own units only, each in a session of ours.
            for server in ["server1", "server2", "server3"] {
                let own = assignment.filter { $0.value == server }.map(\.key)
                #expect(
                    try await connections(lab, server)
                        == Dictionary(uniqueKeysWithValues: own.map { ($0, 1) }))
            }
            try await expectShortcut(lab)
            let report = try await load.report()
            #expect(report.ok && report.requests > 2_000, "\(report)")
        }

        /// The packets of a routed session pass the dataplane by, where the kernel can do that (TCX, Linux 6.6).
        private func expectShortcut(_ lab: Laboratory) async throws {
            let version = try await Program.run(["uname", "-r"]).split(separator: ".")
                .prefix(2).compactMap { Int($0) }
            guard version.count == 2, (version[0], version[1]) >= (6, 6) else { return }
            let before = try await lab.get([Laboratory.Port].self, "/ports")
            try await Task.sleep(for: .seconds(1))
            let after = try await lab.get([Laboratory.Port].self, "/ports")
            for (old, new) in zip(before, after) where old.kind == "packet" {
                let packets = new.rxPackets + new.txPackets - old.rxPackets - old.txPackets
                #expect(packets < 300, "port \(old.name): \(packets) packets")
            }
        }

        @Test func inventoryIsTheResources() async throws {
            let lab = try Laboratory.here()
            let text = try await lab.run("client1", ["iscsi-ls", "-s", "iscsi://10.10.0.100"])
            let lines = text.split(separator: "\n").map(String.init)
            let start = try #require(lines.firstIndex { $0.contains("lab.dsr:all ") })
            let units = lines[(start + 1)...].prefix { $0.hasPrefix("Lun:") }
            #expect(units.map { $0.dropFirst(4).first } == ["1", "2", "3", "4", "5", "6"])
            // A unit that is not there.
            let missing = try await lab.attempt(
                "client1", ["iscsi-inq", "iscsi://10.10.0.100/iqn.2026-01.lab.dsr:all/9"])
            #expect(missing.status != 0)
        }

        private func expectUnnoticed(
            _ report: VerifiedLoad.Report, within milliseconds: Double,
            location: SourceLocation = #_sourceLocation
        ) {
            #expect(
                report.ok && report.requests > 1_000 && report.longestStallMs < milliseconds,
                "\(report)", sourceLocation: location)
        }

        @Test func killedServer() async throws {
            let lab = try Laboratory.here()
            let load = try await load(lab, seconds: 5)
            try await Task.sleep(for: .seconds(1))
            try await lab.dsrlab("service", lab.prefix, "server1", "kill")
            expectUnnoticed(try await load.report(), within: 1_500)
            let now = try await lab.assignment()
            #expect(now["r1"] == "server3" && now["r2"] == "server2", "\(now)")
            try await restore(lab, "server1", ["r1", "r2"])
        }

        private func restore(
            _ lab: Laboratory, _ server: String, _ resources: [String]
        ) async throws {
            try await lab.dsrlab("service", lab.prefix, server, "start")
            let isUp = try await eventually(within: 20) { try await lab.health(server) == "up" }
            try #require(isUp)
            for name in resources {
                _ = try await lab.dsrctl("resource", "move", name, server, "--wait")
            }
        }

        @Test func movesUnderLoad() async throws {
            let lab = try Laboratory.here()
            let load = try await load(lab, seconds: 6)
            try await Task.sleep(for: .seconds(1))
            _ = try await lab.dsrctl("server", "drain", "server2", "--wait")
            let session = try #require(try await sessions(lab).first)
            #expect(!session.units.contains { $0.server == "server2" })
            _ = try await lab.dsrctl("server", "undrain", "server2")
            for name in ["r3", "r4"] {
                _ = try await lab.dsrctl("resource", "move", name, "server2", "--wait")
            }
            expectUnnoticed(try await load.report(), within: 1_000)
        }

        /// From one unit to the other every 120 ms, into the dataplane whenever there is a chance, over links that
        /// lose packets: every change back is one that a request for another unit has forced.
        @Test func forcedChangesOfGrain() async throws {
            let lab = try await Laboratory.bringUp(topology: "fig2-san") {
                $0.replacing(/side: (client|storage)}/) {
                    "side: \($0.1), faults: {drop: 0.01, seed: 3}}"
                }
            }
            do {
                let load = try await VerifiedLoad(
                    lab, resources: ["all/1,3,6"], sessions: 1, seconds: 12,
                    options: ["--range-mib", "24", "--unit-seconds", "0.12"])
                let id = try #require(
                    try await lab.get([Laboratory.Session].self, "/sessions").first
                ).id
                var changes = 0
                for _ in 0..<400 {
                    _ = try await lab.change(id, "splice")
                    guard
                        let now = try await lab.get([Laboratory.Session].self, "/sessions").first
                    else { break }
                    changes = now.splices + now.unsplices
                    if changes >= 60 { break }
                }
                let report = try await load.report()
                #expect(report.ok, "\(report)")
                // How many there are in that time is the links' matter: retransmission time-outs hold changes up.
                #expect(changes >= 20)
            } catch {
                try await lab.takeDown()
                throw error
            }
            try await lab.takeDown()
        }

        /// By itself, and back; what it is and why can be asked for.
        @Test func oneUnitIsSpliced() async throws {
            let lab = try Laboratory.here()
            let load = try await VerifiedLoad(
                lab, resources: ["all/2,5"], sessions: 1, seconds: 8,
                options: ["--range-mib", "16", "--unit-seconds", "3"])
            let isSpliced = try await eventually(within: 6) {
                try await sessions(lab).contains {
                    $0.state == "spliced" && $0.grain == "connection"
                        && $0.grainReason?.hasPrefix("only unit") == true
                }
            }
            #expect(isSpliced)
            try await lab.dsrlab("service", lab.prefix, "server1", "kill")
            let report = try await load.report()
            #expect(report.ok && report.requests > 1_000, "\(report)")
            try await restore(lab, "server1", ["r1", "r2"])
        }

        /// A client has sent a part of a command when its server is lost: in the middle of its data, or of its header;
        /// spliced, or at the message grain. The rest comes later, and the command is carried out.
        @Test func aCommandIsCutInTwo() async throws {
            let lab = try Laboratory.here()
            var clients: [(initiator: RawInitiator, block: UInt32, data: [UInt8], cut: Int)] = []
            for (number, cut) in [1_000, 20, 1_000, 20].enumerated() {
                let initiator = try RawInitiator(lab, host: "client1", address: "10.10.0.100")
                initiator.setTimeout(seconds: 10)
                let login = try initiator.login(target: "iqn.2026-01.lab.dsr:all")
                try #require(login.loginStatus == 0)
                let data = (0..<4_096).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ number) }
                clients.append((initiator, UInt32(100_000 + 8 * number), data, cut))
            }
            // The first two use one unit only, and are spliced for it; the others use a second one all the time.
            let areSpliced = try await eventually(within: 8) {
                for (number, client) in clients.enumerated() {
                    _ = try client.initiator.testUnitReady(unit: 1)
                    if number >= 2 { _ = try client.initiator.testUnitReady(unit: 3) }
                }
                return try await sessions(lab).filter { $0.state == "spliced" }.count == 2
            }
            try #require(areSpliced)
            for (number, client) in clients.enumerated() where number >= 2 {
                _ = try client.initiator.testUnitReady(unit: 3)
            }
            for client in clients {
                try client.initiator.beginWrite(
                    unit: 1, block: client.block, data: client.data, cutAfter: client.cut)
            }
            try await Task.sleep(for: .milliseconds(50))
            try await lab.dsrlab("service", lab.prefix, "server1", "kill")
            try await Task.sleep(for: .seconds(1))
            for (number, client) in clients.enumerated() {
                #expect(try client.initiator.finishWrite().scsiStatus == 0, "client \(number)")
                let back = try client.initiator.read(unit: 1, block: client.block, count: 8)
                #expect(back.scsiStatus == 0 && back.data == client.data, "client \(number)")
                // The first one at a unit gets a unit attention.
                _ = try client.initiator.testUnitReady(unit: 3)
                #expect(try client.initiator.testUnitReady(unit: 3).scsiStatus == 0)
            }
            try await restore(lab, "server1", ["r1", "r2"])
        }

        /// KiB of memory that dsrd has.
        private func memory(_ lab: Laboratory) async throws -> Int {
            let found = try await Program.run(["pgrep", "-f", "dsrd .*\(lab.state)/dsrd.sock"])
            let pid = try #require(found.split(separator: "\n").first)
            let status = try String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8)
            let line = try #require(
                status.split(separator: "\n").first { $0.hasPrefix("VmRSS:") })
            return try #require(line.split(separator: " ").compactMap { Int($0) }.first)
        }

        /// Units of other servers go on as if nothing were; what is lost is answered when it is found out.
        @Test func aFrozenServerHoldsUpItsOwnUnitsOnly() async throws {
            let lab = try await Laboratory.bringUp(topology: "fig2-san") {
                // Nothing is moved away: the frozen server is waited for.
                try withoutAlternatives($0) + "\nhealth: {request_deadline_ms: 60000, fall: 100}\n"
            }
            do {
                let frozen = try await load(
                    lab, seconds: 6,
                    options: [
                        "--depth", "32", "--depth-of-unit", "--rate", "600", "--drain-seconds",
                        "20",
                    ])
                try await Task.sleep(for: .seconds(2))
                let before = try await memory(lab)
                try await lab.dsrlab("service", lab.prefix, "server1", "freeze")
                try await Task.sleep(for: .seconds(2))
                let session = try #require(try await sessions(lab).first)
                #expect(session.units.count == 6)
                // Two units with all that a session may have open there, 64 commands with 64 KiB of data, twice: on
                // their way and in the log.
                let grown = try await memory(lab) - before
                #expect(grown < 2 * 2 * 64 * 64, "\(grown) KiB")
                try await lab.dsrlab("service", lab.prefix, "server1", "thaw")
                let report = try await frozen.report()
                #expect(report.ok, "\(report)")
                for unit in report.units ?? [] {
                    let limit = unit.unit <= 2 ? 4_000.0 : 500.0
                    #expect(unit.max < limit, "unit \(unit.unit): \(unit.max) ms")
                }
            } catch {
                try await lab.takeDown()
                throw error
            }
            try await lab.takeDown()
        }
    }
}
