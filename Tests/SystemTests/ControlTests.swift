import Foundation
import Testing

extension SystemTests {
    /// Commands of the switch, with a daemon at work.
    @Suite(
        "Control", .serialized,
        .lab(configuration: { try withRareHealthChecks($0) + "limits: {idle_timeout_s: 1}\n" }))
    struct ControlTests {
        private struct Rule: Decodable {
            var cookie: String
            var nPackets: Int
            var text: String
        }

        private func ownRules(_ lab: Laboratory) async throws -> [String] {
            try await lab.get([Rule].self, "/rules").filter { $0.cookie == "0xd5" }.map(\.text)
        }

        @Test func theSwitchsOwnRulesStay() async throws {
            let lab = try Laboratory.here()
            let own = try await ownRules(lab)
            try #require(own.count > 20)
            let hidden = try await lab.control(["flow", "list", "--rules"])
            #expect(!hidden.output.contains("0xd5"), "\(hidden.output)")
            let shown = try await lab.control(["flow", "list", "--rules", "--all"])
            #expect(shown.output.split(separator: "\n").count == own.count)

            _ = try await lab.control(["flow", "add", "priority=9,tcp,tp_dst=9 actions=drop"])
            for words in [
                ["delete", "--all"], ["delete", "cookie=0xd5/-1"], ["delete", "ip"],
                ["delete", "--strict", "priority=0"],
            ] {
                let result = try await lab.control(["flow"] + words)
                #expect(result.status == 0, "\(result.output)")
                #expect(result.output == (words[1] == "--all" ? "1\n" : "0\n"))
            }
            let file = "\(lab.directory)/rules"
            try Data("priority=8,udp actions=drop\n".utf8).write(to: URL(fileURLWithPath: file))
            let replaced = try await lab.control(["flow", "replace", file])
            #expect(replaced.status == 0, "\(replaced.output)")
            let list = try await lab.control(["flow", "list", "--rules"]).output
            #expect(list.contains("udp") && list.split(separator: "\n").count == 1)
            let refused = try await lab.control(["flow", "add", "priority=0 actions=drop"])
            #expect(refused.status == 1 && refused.output.contains("the switch itself"))
            _ = try await lab.control(["flow", "delete", "--all"])
            let left = try await ownRules(lab)
            #expect(left == own)
            try await lab.run("client1", ["iscsi-inq", lab.url("r1")])
        }

        @Test func aTraceSendsAndCountsNothing() async throws {
            let lab = try Laboratory.here()
            // Rules of its own: other packets are on their way all the time.
            _ = try await lab.control(["flow", "add", "priority=9,udp,tp_dst=4242 actions=NORMAL"])
            let capture = try await PacketCapture(lab, host: "dsr1", filter: "udp port 4242")
            let result = try await lab.control([
                "--json", "flow", "trace",
                "in_port=s1,dl_src=02:00:00:00:00:09,dl_dst=ff:ff:ff:ff:ff:ff,udp,"
                    + "nw_src=10.20.0.99,nw_dst=10.20.0.255,tp_dst=4242",
            ])
            struct Trace: Decodable {
                var outputs: [Int]
                var steps: [String]
            }
            let trace = try JSONDecoder().decode(Trace.self, from: Data(result.output.utf8))
            // s2, s3 and the storage side's CPU port.
            #expect(trace.outputs == [3, 4, 6])
            let rule = try await lab.get([Rule].self, "/rules").first {
                $0.text.contains("4242")
            }
            #expect(rule?.nPackets == 0)
            let macs = String(decoding: try await lab.request("GET", "/macs"), as: UTF8.self)
            #expect(!macs.contains("02:00:00:00:00:09"))
            let packets = try await capture.stop()
            #expect(packets.isEmpty)
            _ = try await lab.control(["flow", "delete", "udp"])
        }

        private func packets(_ file: String) async throws -> [Substring] {
            try await Program.run(["sh", "-c", "tcpdump -nn -r \(file) 2>/dev/null"])
                .split(separator: "\n")
        }

        @Test func allPortsAreCaptured() async throws {
            let lab = try Laboratory.here()
            let file = "\(lab.directory)/x.pcap"
            let started = try await lab.control([
                "capture", "start", "all", file, "--filter", "tcp",
            ])
            #expect(started.status == 0, "\(started.output)")
            let again = try await lab.control(["capture", "start", "s1", "\(lab.directory)/y.pcap"])
            #expect(again.status == 1 && again.output.contains("being captured already"))
            try await lab.run("client1", ["iscsi-inq", lab.url("r1")])
            let stopped = try await lab.control(["capture", "stop", "all"])
            #expect(stopped.status == 0, "\(stopped.output)")
            var counts: [String: Int] = [:]
            for port in ["c0", "s1", "s2", "s3", "dsr-client", "dsr-storage"] {
                counts[port] = try await packets("\(lab.directory)/x-\(port).pcap").count
            }
            #expect(counts["c0"] ?? 0 > 5 && counts["s1"] ?? 0 > 5, "\(counts)")
            #expect(counts["s2"] == 0 && counts["s3"] == 0, "\(counts)")
            let total = counts.values.reduce(0, +)
            #expect(stopped.output.hasPrefix("\(total) packets"), "\(stopped.output)")
            let none = try await lab.control(["capture", "stop", "all"])
            #expect(none.status == 1)
        }

        @Test(arguments: [
            ("c0", "/nonexistent/x.pcap", "No such file or directory"),
            ("all", "/nonexistent/x.pcap", "No such file or directory"),
            ("c7", "/tmp/x.pcap", "there is no port c7"),
        ])
        func aBadCaptureIsRefused(port: String, file: String, message: String) async throws {
            let lab = try Laboratory.here()
            let result = try await lab.control(["capture", "start", port, file])
            #expect(result.status == 1 && result.output.contains(message), "\(result.output)")
        }

        @Test func aFullDiskEndsACapture() async throws {
            let lab = try Laboratory.here()
            let started = try await lab.control(["capture", "start", "c0", "/dev/full"])
            try #require(started.status == 0, "\(started.output)")
            // More than the buffer of the file takes.
            try await lab.run(
                "client1",
                ["qemu-img", "bench", "-c", "20", "-s", "64k", "-f", "raw", lab.url("r1")])
            let list = try await lab.control(["capture", "list"])
            let line = list.output.split(separator: "\n").first { $0.hasPrefix("c0 ") } ?? ""
            #expect(line.contains("ended") && line.contains("No space left on device"), "\(line)")
        }

        @Test func aStopCompletesACapture() async throws {
            let lab = try Laboratory.here()
            let file = "\(lab.directory)/stop.pcap"
            let started = try await lab.control(["capture", "start", "c0", file])
            try #require(started.status == 0, "\(started.output)")
            try await lab.run("client1", ["ping", "-c", "3", "-i", "0.2", "10.10.0.100"])
            try await lab.server("stop", "dsr1")
            let seen = try await packets(file).filter { $0.contains("ICMP echo") }
            #expect(seen.count == 6, "\(seen)")
            try await lab.server("start", "dsr1")
        }

        /// `limits.idle_timeout_s`: a spliced session that nobody uses is closed.
        @Test func anIdleSessionIsClosed() async throws {
            struct Session: Decodable {
                var state: String
                var idleS: Double
            }
            let lab = try Laboratory.here()
            let session = try RawInitiator(lab, host: "client1", address: "10.10.0.100")
            try #require(try session.login(target: "iqn.2026-01.lab.dsr:r2").loginStatus == 0)
            _ = try session.testUnitReady()
            let isIdle = try await eventually(within: 3) {
                try await lab.get([Session].self, "/sessions").contains {
                    $0.state == "spliced" && $0.idleS > 0.3
                }
            }
            #expect(isIdle)
            let isOver = try await eventually(within: 4) {
                try await lab.get([Session].self, "/sessions").isEmpty
            }
            #expect(isOver)
            #expect(session.waitForEnd())
        }

        /// What a socket in the middle of a session begins with, in both families; no route is there twice.
        @Test func routesHaveTheInitialWindow() async throws {
            let lab = try Laboratory.here()
            for (device, networks) in [
                ("dsr-client", ["10.10.0.0/24", "fd10::/64"]),
                ("dsr-storage", ["10.20.0.0/24", "fd20::/64"]),
            ] {
                for (family, network) in zip(["-4", "-6"], networks) {
                    let text = try await lab.run(
                        "dsr1", ["ip", family, "route", "show", network, "dev", device])
                    let routes = text.split(separator: "\n")
                    #expect(routes.count == 1, "\(text)")
                    #expect(text.contains(" initcwnd 400"), "\(text)")
                    #expect(text.contains("proto kernel"), "\(text)")
                }
            }
        }

        /// The announcements at a start, on both sides and in both families.
        @Test func addressesAreAnnounced() async throws {
            let lab = try Laboratory.here()
            let hosts = ["client1", "server2"]
            let captures = try hosts.map {
                try lab.start(
                    $0,
                    [
                        "tcpdump", "-i", "eth0", "-nnel", "--immediate-mode", "arp or icmp6",
                    ])
            }
            for capture in captures {
                let isListening = await eventually(within: 10) {
                    capture.output.contains("listening on")
                }
                try #require(isListening)
            }
            try await lab.server("stop", "dsr1")
            try await lab.server("start", "dsr1")
            let expected = [
                [
                    "02:64:73:72:00:01": [
                        "who-has 10.10.0.100 tell 10.10.0.100", "advertisement, tgt is fd10::100",
                    ]
                ],
                [
                    "02:64:73:72:00:02": [
                        "who-has 10.20.0.1 tell 10.20.0.1", "advertisement, tgt is fd20::1",
                    ]
                ],
            ]
            for (index, capture) in captures.enumerated() {
                for (mac, texts) in expected[index] {
                    for text in texts {
                        func count() -> Int {
                            capture.output.split(separator: "\n").count {
                                $0.contains(" \(mac) > ") && $0.contains(text)
                            }
                        }
                        let isThere = await eventually(within: 5) { count() == 3 }
                        #expect(isThere, "\(hosts[index]): \(text): \(count())")
                    }
                }
                capture.signal(SIGINT)
                _ = try await capture.result(within: 10)
            }
        }

        /// A cable that is pulled and put back, and a device that goes and comes back.
        @Test func portsThatChangeAreEvents() async throws {
            let lab = try Laboratory.here()
            let program = try Program([
                "\(Laboratory.products)/dsrctl", "--socket", lab.socket, "events", "--follow",
            ])
            defer { program.signal(SIGTERM) }
            try await Task.sleep(for: .milliseconds(500))
            let tool = "\(Laboratory.products)/dsr-lab"
            for (state, kind) in [("down", "port_down"), ("up", "port_up")] {
                try await Program.run([tool, "link", lab.prefix, "server1", state])
                let isTold = await eventually(within: 3) {
                    program.output.contains("\(kind)  port s1 is \(state)")
                }
                #expect(isTold, "\(program.output)")
            }
            try await lab.run("dsr1", ["ip", "link", "set", "s3", "name", "s3away"])
            let isDown = await eventually(within: 3) { program.output.contains("port s3 is down") }
            #expect(isDown, "\(program.output)")
            try await lab.run("dsr1", ["ip", "link", "set", "s3away", "down"])
            try await lab.run("dsr1", ["ip", "link", "set", "s3away", "name", "s3"])
            try await lab.run("dsr1", ["ip", "link", "set", "s3", "up"])
            let isBack = await eventually(within: 3) {
                program.output.contains("port_rejoined  port s3")
            }
            #expect(isBack, "\(program.output)")
            try await lab.run("client1", ["iscsi-inq", lab.url("r5")])
        }

        /// A device that is replaced by another one of the same name, faster than the switch looks.
        @Test func aReplacedDeviceIsJoined() async throws {
            let lab = try Laboratory.here()
            let server = "\(lab.prefix)-server3"
            let mac = try await lab.run("server3", ["cat", "/sys/class/net/eth0/address"])
                .trimmingCharacters(in: .whitespacesAndNewlines)
            try await lab.run(
                "dsr1",
                [
                    "sh", "-ec",
                    """
                    ip link del s3
                    ip link add s3 type veth peer name eth0 address \(mac) netns \(server)
                    ip -n \(server) address add 10.20.0.13/24 dev eth0
                    ip -n \(server) link set eth0 up
                    ip link set s3 up
                    """,
                ])
            let isServed = try await eventually(within: 10) {
                try await lab.attempt("client1", ["timeout", "2", "iscsi-inq", lab.url("r5")])
                    .status == 0
            }
            #expect(isServed)
        }

        /// Packets flow from the moment when the switch says that it is ready.
        @Test func readyMeansThatPortsAreUp() async throws {
            struct Status: Decodable {
                var ports: Int
                var portsUp: Int
                var isReady: Bool
                var drops: [String: Int]
            }
            let lab = try Laboratory.here()
            try await lab.server("stop", "dsr1")
            // Cables that were just put in.
            for port in ["c0", "s1", "s2", "s3"] {
                try await lab.run("dsr1", ["ip", "link", "set", port, "down"])
            }
            for port in ["c0", "s1", "s2", "s3"] {
                try await lab.run("dsr1", ["ip", "link", "set", port, "up"])
            }
            try await lab.server("start", "dsr1")
            let status = try await lab.get(Status.self, "/status")
            #expect(status.isReady && status.portsUp == status.ports)
            #expect(status.drops["portDown"] == nil, "\(status.drops)")
            try await lab.run("client1", ["iscsi-inq", lab.url("r1")], within: 3)
        }
    }
}
