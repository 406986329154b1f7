import ControlPlane
import Foundation
import Logging
import Testing

/// `dsrctl` against an API with known values.
@Suite(.serialized) struct CommandLineTests {
    private let api: ServedAPI<CommandLineService>
    private var service: CommandLineService { api.service }
    private var folder: TemporaryDirectory { api.folder }

    init() throws { api = try ServedAPI(CommandLineService()) }

    private func run(
        _ arguments: String..., input: String? = nil, folder: String? = nil, limit: Double = 20
    ) async throws -> CommandLineTool.Result {
        try await api.control(arguments, input: input, folder: folder, limit: limit)
    }

    @Test("flow list prints what ovs-ofctl dump-flows prints, then all pages of exact flows")
    func flowList() async throws {
        let result = try await run("flow", "list")
        #expect(result.status == 0)
        #expect(
            result.lines == [
                " cookie=0x2a, duration=1.500s, table=0, n_packets=7, n_bytes=700, "
                    + "idle_timeout=60, idle_age=0, priority=100,tcp,nw_dst=10.0.0.1 "
                    + "actions=output:2",
                " cookie=0x0, n_packets=8, n_bytes=9000, exact, domain=0, origin=network, "
                    + "tcp,nw_src=10.0.0.1,nw_dst=10.0.0.2,tp_src=40000,tp_dst=3260 "
                    + "actions=splice=1",
                " cookie=0x0, n_packets=8, n_bytes=9000, exact, domain=0, origin=network, "
                    + "tcp,nw_src=10.0.0.1,nw_dst=10.0.0.2,tp_src=40001,tp_dst=3260 "
                    + "actions=splice=1",
                " cookie=0x0, n_packets=8, n_bytes=9000, exact, domain=0, origin=network, "
                    + "tcp6,ipv6_src=fd00::1,ipv6_dst=fd00::2,tp_src=40002,tp_dst=3260 "
                    + "actions=splice=1",
            ])
        #expect(service.calls == ["rules -", "flows 0", "flows 2"])
    }

    @Test("A match arrives as it was typed")
    func matchIsQuoted() async throws {
        let match = "tcp,nw_dst=10.0.0.0/8,tcp_flags=+syn-ack"
        #expect(try await run("flow", "list", match).status == 0)
        #expect(try await run("flow", "delete", match, "--strict").lines == ["5"])
        #expect(service.calls == ["rules \(match)", "delete \(match) true"])
    }

    @Test("--json prints the API's names and values")
    func json() async throws {
        let result = try await run("port", "list", "--json")
        let ports = try JSONCoding.decode([PortModel].self, Data(result.output.utf8))
        #expect(ports.map(\.name) == ["client0", "storage0"])
        #expect(result.output.contains("\"rx_packets\" : 1000000"))
        let flows = try await run("flow", "list", "--json")
        let value = try #require(
            JSONSerialization.jsonObject(with: Data(flows.output.utf8)) as? [String: Any])
        #expect((value["flows"] as? [Any])?.count == 3)
    }

    @Test("Columns of a table are aligned")
    func table() async throws {
        let lines = try await run("port", "list").lines
        #expect(lines.count == 3)
        let starts = lines.map { line in
            ["RX PACKETS", "0 ", "1000000 "].compactMap { line.range(of: $0) }
                .first.map { line.distance(from: line.startIndex, to: $0.upperBound) }
        }
        #expect(lines[0].hasPrefix("PORT  NAME      DEVICE  KIND"))
        #expect(lines[2].hasPrefix("   2  storage0  eth1    packet"))
        #expect(starts.allSatisfy { $0 != nil })
    }

    @Test("A wrong rule is shown with a mark below the wrong word; nothing is added")
    func refusedRule() async throws {
        let rule = "priority=1,tcp,nw_dts=1.2.3.4 actions=output:2"
        let result = try await run("flow", "add", "actions=drop", rule)
        #expect(result.status == 1)
        #expect(result.output.isEmpty)
        let lines = result.errors.split(separator: "\n").map(String.init)
        #expect(lines.count == 4)
        #expect(lines.first == rule)
        #expect(lines[1] == String(repeating: " ", count: 15) + "^^^^^^^^^^^^^^")
        #expect(lines[2].contains("unknown field \"nw_dts\""))
        #expect(lines[3].contains("nw_dst"))
        #expect(service.calls.isEmpty)
    }

    @Test("A wrong rule of a file is named by file, line and column")
    func refusedFile() async throws {
        let file = try folder.write("rules", "# head\n\nactions=drop\n\n tcp actions=outptu:2\n")
        let result = try await run("flow", "replace", file)
        #expect(result.status == 1)
        #expect(result.errors.contains("\(file):5:14: "))
        let good = try await run("flow", "replace", "-", input: "#x\nip actions=drop # y\n")
        #expect(good.status == 0)
        #expect(service.calls == ["replace [\"ip actions=drop \"]"])
        let missing = try await run("flow", "replace", folder.path + "/missing")
        #expect(missing.status == 1)
        #expect(missing.errors.contains("No such file"))
    }

    @Test("A described packet is sent as a frame, to the port it names")
    func trace() async throws {
        let result = try await run(
            "flow", "trace", "in_port=storage0,dl_dst=02:00:00:00:00:02,dl_type=0x88b5")
        #expect(result.output == "one step\n")
        let frame = "020000000002" + "000000000000" + "88b5"
        #expect(service.calls == ["trace 2 " + frame + String(repeating: "0", count: 92)])
        #expect(try await run("flow", "trace", "00ff").status == 2)
        #expect(try await run("flow", "trace", "00ff", "--in-port", "1").status == 0)
        #expect(service.calls.last == "trace 1 00ff")
    }

    @Test("Sessions are shown and changed")
    func sessions() async throws {
        #expect(try await run("session", "list").output.contains("10.0.0.1:40000"))
        #expect(try await run("session", "show", "12").output.contains("server-a"))
        #expect(try await run("session", "splice", "12").output == "session 12 is spliced\n")
        let refused = try await run("session", "unsplice", "13")
        #expect(refused.status == 1)
        #expect(refused.errors.contains("it gets one with its first command"))
        #expect(try await run("session", "show", "14").status == 1)
        #expect(service.calls == ["splice 12", "unsplice 13"])
    }

    @Test("A capture's file is absolute: the daemon stands elsewhere")
    func capture() async throws {
        let result = try await run(
            "capture", "start", "client0", "a.pcap", "--count", "3", "--filter", "tcp port 80",
            folder: folder.path)
        #expect(result.status == 0)
        let path = URL(fileURLWithPath: folder.path).resolvingSymlinksInPath().path
        #expect(service.calls == ["capture client0 \(path)/a.pcap 3 tcp port 80"])
        #expect(try await run("capture", "stop", "client0").status == 1)
        #expect(try await run("capture", "start", "1", "x", "--count", "0").status == 2)
    }

    @Test("events --follow prints new events only, each once, as they happen")
    func followEvents() async throws {
        service.addEvent("old")
        async let followed = run("events", "--follow", limit: 3)
        try await Task.sleep(nanoseconds: 1_200_000_000)
        service.addEvent("first")
        try await Task.sleep(nanoseconds: 500_000_000)
        service.addEvent("second")
        let lines = try await followed.lines
        #expect(
            lines == [
                "2  2023-11-14T22:13:20.250Z  first  about first",
                "3  2023-11-14T22:13:20.250Z  second  about second",
            ])
        #expect(try await run("events", "--after", "1").lines.count == 2)
        #expect(try await run("events").lines.count == 3)
    }

    @Test("status tells ports and drops")
    func status() async throws {
        let output = try await run("status").output
        #expect(output.contains("9.8.7"))
        #expect(output.contains("2, 1 up"))
        #expect(output.contains("noRule 3, tooBig 1"))
    }

    @Test("Without a daemon the exit status is 3, --socket wins over DSR_SOCKET")
    func unreachable() async throws {
        let result = try await run("status", "--socket", folder.path + "/none")
        #expect(result.status == 3)
        #expect(result.errors.contains("no daemon answers on \(folder.path)/none"))
        let stale = try folder.write("stale", "")
        #expect(try await run("port", "list", "--socket", stale).status == 3)
        let long = "/" + String(repeating: "x", count: 200)
        #expect(try await run("port", "list", "--socket", long).status == 3)
    }

    @Test(
        "A wrong command line has exit status 2 and says what is wrong",
        arguments: [
            ["bogus"], ["flow", "add"], ["flow", "delete"], ["flow", "delete", "ip", "--all"],
            ["session", "show", "x"], ["session", "show"], ["replay"], ["status", "--bogus"],
            ["replay", "--rules", "x", "--in", "y", "--in-port", "z"],
            ["replay", "--rules", "x", "--in", "y", "--ports", "a,,b"], ["metrics", "--json"],
            ["events", "--after", "-1"],
        ])
    func usage(_ arguments: [String]) async throws {
        let result = try await CommandLineTool.run(arguments)
        #expect(result.status == 2)
        #expect(result.output.isEmpty)
        #expect(result.errors.contains("Usage: dsrctl"))
    }

    @Test("Help and version are no errors")
    func help() async throws {
        let help = try await CommandLineTool.run(["flow", "--help"])
        #expect(help.status == 0)
        #expect(help.output.contains("replace"))
        #expect(try await CommandLineTool.run(["--version"]).status == 0)
    }
}
