import Foundation
import Testing

private let servers = ["server1", "server2", "server3"]

/// Where fig2-volumes has its resources when nothing has happened.
private let home = [
    "r1": "server1", "s1": "server1", "s2": "server2", "s3": "server3", "c1": "server3",
    "c2": "server1", "m1": "server1", "m2": "server2",
]

/// A server that returns is found soon: some tests wait for several.
private let withQuickHealthChecks: @Sendable (String) throws -> String = {
    $0 + "\nhealth: {interval_ms: 500}\n"
}

extension SystemTests {
    /// Units that the switch makes of disks of several servers: 7 is a stripe of s1, s2 and s3, 8 a mirror of m1 and
    /// m2, 9 a concatenation of c1 and c2; 1 is r1 itself.
    @Suite(
        "Volumes", .serialized, .lab("fig2-volumes", configuration: withQuickHealthChecks))
    struct Volumes {
        private static let target = "iqn.2026-01.lab.dsr:all"

        private func url(_ unit: Int) -> String { "iscsi://10.10.0.100/\(Self.target)/\(unit)" }

        // MARK: What the daemon says

        private struct Volume: Decodable {
            var name: String
            var changedRegions: Int?
            var members: [Member]
            struct Member: Decodable {
                var resource: String
                var state: String
                var reason: String?
            }
        }

        private func mirror(_ lab: Laboratory) async throws -> Volume {
            try #require(
                try await lab.get([Volume].self, "/volumes").first { $0.name == "v8" })
        }

        /// `in_service`, `out` or `copying`.
        private func state(_ lab: Laboratory, _ member: String) async throws -> String? {
            try await mirror(lab).members.first { $0.resource == member }?.state
        }

        private struct Session: Decodable {
            var target: String?
            var units: [Unit]
            struct Unit: Decodable {
                var unit: Int
                var resource: String
                var server: String?
                var clientBytes: Int
                var serverBytes: Int
            }
        }

        /// What the sessions of clients use: one for each disk.
        private func units(_ lab: Laboratory) async throws -> [Session.Unit] {
            try await lab.get([Session].self, "/sessions").filter { $0.target == Self.target }
                .flatMap(\.units)
        }

        /// Targets of a server that somebody is logged in to.
        private func targetsInUse(
            _ lab: Laboratory, _ server: String
        ) async throws -> Set<String> {
            let text = try await lab.run(
                server,
                [
                    "env", "TGT_IPC_SOCKET=\(lab.state)/\(server).tgtd", "tgtadm", "--lld", "iscsi",
                    "--op", "show", "--mode", "target",
                ])
            var result: Set<String> = []
            var target = ""
            for line in text.split(separator: "\n") {
                if line.hasPrefix("Target ") {
                    target = line.split(separator: ":").last.map(String.init) ?? ""
                } else if line.contains("Connection:") {
                    result.insert(target)
                }
            }
            return result
        }

        // MARK: Before and after

        /// The servers have what they have at home, the volumes were used, both disks of the mirror have everything:
        /// each test begins there.
        private func begin() async throws -> Laboratory {
            let lab = try Laboratory.here()
            try await restore(lab)
            for unit in 7...9 {
                try await lab.run("client1", ["iscsi-inq", url(unit)], within: 15)
            }
            try await expectWhole(lab)
            return lab
        }

        private func restore(_ lab: Laboratory) async throws {
            for server in servers {
                // One that runs is left alone.
                _ = try await Program([
                    "\(Laboratory.products)/dsr-lab", "service", lab.prefix, server, "start",
                ]).result(within: 20)
            }
            let areUp = try await eventually(within: 20) {
                for server in servers
                where try await lab.health(server) != "up" { return false }
                return true
            }
            try #require(areUp, "not all servers are healthy")
            for (resource, server) in try await lab.assignment() where server != home[resource] {
                _ = try await lab.dsrctl(
                    "resource", "move", resource, home[resource] ?? "", "--wait")
            }
        }

        /// Both disks of the mirror are in service, and nothing is on its way to them any more.
        private func expectWhole(
            _ lab: Laboratory, location: SourceLocation = #_sourceLocation
        ) async throws {
            let isWhole = try await eventually(within: 20) {
                let volume = try await mirror(lab)
                return volume.changedRegions == 0
                    && volume.members.allSatisfy { $0.state == "in_service" }
            }
            let volume = try await mirror(lab)
            try #require(isWhole, "\(volume)", sourceLocation: location)
        }

        /// tgtd writes through the page cache of this kernel: what is in the files is what it has.
        private func expectEqualDisks(
            _ lab: Laboratory, location: SourceLocation = #_sourceLocation
        ) async throws {
            try await expectWhole(lab, location: location)
            try await Program.run(
                ["cmp", lab.backing("m1"), lab.backing("m2")], location: location)
        }

        /// One session that uses `units` of the target.
        private func load(
            _ lab: Laboratory, _ units: String, seconds: Int, options: [String] = []
        ) async throws -> VerifiedLoad {
            try await VerifiedLoad(
                lab, resources: ["all/\(units)"], sessions: 1, seconds: seconds, options: options)
        }

        private func expectUnnoticed(
            _ report: VerifiedLoad.Report, requests: Int = 500,
            location: SourceLocation = #_sourceLocation
        ) {
            #expect(
                report.ok && report.closedConnections == 0 && report.requests > requests
                    && report.longestStallMs < 1_500,
                "\(report)", sourceLocation: location)
        }

        // MARK: What they are

        @Test func unitsAreWhatTheyAreMadeOf() async throws {
            let lab = try await begin()
            for (unit, mebibytes) in [(1, 64), (7, 192), (8, 64), (9, 48)] {
                let capacity = try await lab.run("client1", ["iscsi-readcapacity16", url(unit)])
                #expect(capacity.contains("Total size:\(mebibytes << 20)\n"), "\(capacity)")
                let inquiry = try await lab.run("client1", ["iscsi-inq", url(unit)])
                #expect(inquiry.contains("Product:VOLUME") == (unit != 1), "\(inquiry)")
            }
            let missing = try await lab.attempt("client1", ["iscsi-inq", url(2)])
            #expect(missing.status != 0)
        }

        @Test func membersAreNobodysTargets() async throws {
            let lab = try await begin()
            let text = try await lab.run("client1", ["iscsi-ls", "iscsi://10.10.0.100"])
            let wanted = ["r1", "all"].map {
                "Target:iqn.2026-01.lab.dsr:\($0) Portal:10.10.0.100:3260,1"
            }
            #expect(Set(text.split(separator: "\n").map(String.init)) == Set(wanted))
            for member in ["m1", "s2", "c2"] {
                let session = try RawInitiator(lab, host: "client1", address: "10.10.0.100")
                // Target name: not found (RFC 7143 section 11.13.5).
                let answer = try session.login(target: "iqn.2026-01.lab.dsr:\(member)")
                #expect(answer.loginStatus == 0x0203, "\(member)")
            }
        }

        @Test func bytesLieWhereTheLayoutSays() async throws {
            let lab = try await begin()
            // Ends within a chunk.
            let length = 32 << 20 + 96 << 10
            let file = "\(lab.directory)/stripe.data"
            try await Program.run(["sh", "-c", "head -c \(length) /dev/urandom > \(file)"])
            try await lab.run(
                "client1", ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", file, url(7)])
            let data = try contents(file)
            try #require(data.count == length)
            let disks = try ["s1", "s2", "s3"].map { try contents(lab.backing($0)) }
            let chunk = 64 << 10
            var wrong: [Int] = []
            for start in stride(from: 0, to: length, by: chunk) {
                let (row, disk) = (start / chunk).quotientAndRemainder(dividingBy: disks.count)
                let count = min(chunk, length - start)
                let there = disks[disk][row * chunk..<row * chunk + count]
                if data[start..<start + count] != there { wrong.append(start / chunk) }
            }
            #expect(wrong.isEmpty, "chunks \(wrong.prefix(10)), \(wrong.count) in all")

            // Over the border of the concatenation's disks.
            try await lab.run(
                "client1",
                ["qemu-io", "-f", "raw", "-c", "write -P 90 \(32 << 20 - 4_096) 8192", url(9)])
            let border =
                try contents(lab.backing("c1")).suffix(4_096)
                + contents(lab.backing("c2")).prefix(4_096)
            #expect(border == Data(repeating: 90, count: 8_192))
        }

        private func contents(_ path: String) throws -> Data {
            try Data(contentsOf: URL(fileURLWithPath: path), options: .mappedIfSafe)
        }

        // MARK: Reads and writes

        @Test func everyKindIsReadAndWritten() async throws {
            let lab = try await begin()
            // 40 MiB of each: of the concatenation also the second disk.
            let load = try await load(
                lab, "1,7,8,9", seconds: 5, options: ["--depth", "32", "--range-mib", "160"])
            try await Task.sleep(for: .seconds(2))
            for server in servers {
                let own = Set(home.filter { $0.value == server }.keys)
                #expect(try await targetsInUse(lab, server) == own)
            }
            let units = try await units(lab)
            #expect(Set(units.map(\.resource)) == Set(home.keys))
            #expect(units.allSatisfy { $0.server == home[$0.resource] }, "\(units)")
            // Each has got blocks and has given some.
            #expect(
                units.allSatisfy { min($0.clientBytes, $0.serverBytes) > 64 << 10 }, "\(units)")
            expectUnnoticed(try await load.report())
            try await expectEqualDisks(lab)
        }

        /// A read of four chunks is as much of three disks' as of one.
        @Test func largeReadsReachAllThree() async throws {
            let lab = try await begin()
            let load = try await load(
                lab, "7", seconds: 4,
                options: ["--range-mib", "24", "--smallest", "262144", "--read-share", "1"])
            try await Task.sleep(for: .milliseconds(500))
            let before = try await octetsRead(lab)
            try await Task.sleep(for: .seconds(2))
            let after = try await octetsRead(lab)
            let grown = ["s1", "s2", "s3"].map { (after[$0] ?? 0) - (before[$0] ?? 0) }
            let least = try #require(grown.min())
            let most = try #require(grown.max())
            #expect(least > 2 << 20 && most < 2 * least, "\(grown)")
            expectUnnoticed(try await load.report(), requests: 100)
        }

        private func octetsRead(_ lab: Laboratory) async throws -> [String: Int] {
            Dictionary(
                try await units(lab).map { ($0.resource, $0.serverBytes) }, uniquingKeysWith: +)
        }

        // MARK: Servers that fail

        @Test func killedServerOfTheStripe() async throws {
            let lab = try await begin()
            let load = try await load(
                lab, "7", seconds: 5, options: ["--depth", "32", "--range-mib", "48"])
            try await Task.sleep(for: .seconds(1))
            try await lab.dsrlab("service", lab.prefix, "server1", "kill")
            expectUnnoticed(try await load.report())
            let now = try await lab.assignment()
            #expect(now["s1"] != "server1" && now["s2"] == "server2", "\(now)")
            // There is no other server for this one.
            #expect(now["m1"] == "server1" && now["s3"] == "server3", "\(now)")
            try await restore(lab)
            #expect(try await lab.assignment() == home)
        }

        /// One after the other, and each gets what it has missed while clients write.
        @Test func mirrorLosesAndRegains() async throws {
            let lab = try await begin()
            let events = try await lab.eventRows().count
            let load = try await load(lab, "8", seconds: 12, options: ["--range-mib", "16"])
            for (server, member) in [("server1", "m1"), ("server2", "m2")] {
                try await Task.sleep(for: .seconds(1))
                try await lab.dsrlab("service", lab.prefix, server, "kill")
                let isOut = try await eventually(within: 3) {
                    try await state(lab, member) == "out"
                }
                #expect(isOut, "\(member) has lost its server and is in service")
                try await lab.dsrlab("service", lab.prefix, server, "start")
                let isBack = try await eventually(within: 20) {
                    try await state(lab, member) == "in_service"
                }
                let volume = try await mirror(lab)
                try #require(isBack, "\(volume)")
            }
            expectUnnoticed(try await load.report())
            try await expectEqualDisks(lab)
            let told = try await lab.eventRows().dropFirst(events)
                .filter { $0.kind.hasPrefix("volume_member_") }
                .map { "\($0.resource ?? "") \($0.kind)" }
            let wanted = ["m1", "m2"].flatMap {
                ["\($0) volume_member_out", "\($0) volume_member_in_service"]
            }
            #expect(Set(told) == Set(wanted), "\(told)")
        }

        /// One request at a time: no other one brings the one on its way that has to be sent again, to the other disk.
        @Test func readsOneByOneOutliveADisk() async throws {
            let lab = try await begin()
            let load = try await load(
                lab, "8", seconds: 4, options: ["--depth", "1", "--read-share", "1"])
            try await Task.sleep(for: .seconds(1))
            // Unlike one that is killed it keeps the read that it has.
            try await lab.dsrlab("service", lab.prefix, "server2", "freeze")
            expectUnnoticed(try await load.report(), requests: 100)
            #expect(try await state(lab, "m2") == "out")
            try await restore(lab)
            try await expectEqualDisks(lab)
        }

        // MARK: The daemon ends in the middle

        /// What was on its way to the disks of the mirror when the daemon was killed may be on one of them only.
        @Test func mirrorAfterRestart() async throws {
            let lab = try await begin()
            // A client that has sent nothing since does not hear that its session is gone, and waits.
            let load = try await load(
                lab, "8", seconds: 4,
                options: ["--range-mib", "16", "--reconnect", "--drain-seconds", "3"])
            try await Task.sleep(for: .milliseconds(1_500))
            try await lab.server("kill", "dsr1")
            try await lab.server("start", "dsr1")
            let report = try await load.report()
            #expect(report.wrongBlocks == 0 && report.requests > 500, "\(report)")
            expectUnnoticed(try await self.load(lab, "8", seconds: 2).report(), requests: 200)
            try await expectEqualDisks(lab)
        }

        /// Without one of its disks the mirror begins all the same, and gets it when its server is there.
        @Test func mirrorBeginsWithoutADisk() async throws {
            let lab = try await begin()
            try await lab.dsrlab("service", lab.prefix, "server2", "kill")
            try await lab.server("kill", "dsr1")
            try await lab.server("start", "dsr1")
            let load = try await load(lab, "8", seconds: 2)
            #expect(try await state(lab, "m1") == "in_service")
            #expect(try await state(lab, "m2") == "out")
            expectUnnoticed(try await load.report(), requests: 200)
            try await restore(lab)
            try await expectEqualDisks(lab)
        }
    }
}
