import ControlPlane
import Foundation
import Testing

/// `dsrctl replay`: no daemon is there.
@Suite struct CommandLineReplayTests {
    private let folder: TemporaryDirectory

    init() throws { folder = try TemporaryDirectory() }

    private func replay(_ extra: [String]) async throws -> CommandLineTool.Result {
        let arguments = try [
            "replay", "--rules", ReplayTests.capture("Replay.rules"), "--in",
            ReplayTests.capture("ReplayClient.pcap"), "--in",
            "server=" + ReplayTests.capture("ReplayServer.pcap"), "--ports",
            "client,server,monitor",
        ]
        return try await CommandLineTool.run(arguments + extra)
    }

    private func contents(_ path: String) throws -> Data {
        try Data(contentsOf: URL(fileURLWithPath: path))
    }

    @Test("With %p there is a file for each port, byte for byte the golden ones")
    func perPort() async throws {
        let result = try await replay(["--out", folder.path + "/ReplayOut-%p.pcap"])
        #expect(result.status == 0)
        #expect(result.errors.isEmpty)
        for port in ["client", "server", "monitor"] {
            let name = "ReplayOut-\(port).pcap"
            #expect(
                try contents(folder.path + "/" + name) == contents(ReplayTests.capture(name)),
                "\(name)")
        }
        #expect(result.lines.first == "16 packets in 5.200 s of capture")
        #expect(result.lines.contains("headerChecksum           1"))
        #expect(result.lines.contains("6 rules installed, 1 expired"))
    }

    @Test("One file holds the frames of all ports; so does pcapng, where libpcap reads them back")
    func oneFile() async throws {
        for name in ["all.pcap", "all.pcapng"] {
            let path = folder.path + "/" + name
            #expect(try await replay(["--out", path]).status == 0)
            let golden = try ["client", "server", "monitor"].flatMap {
                try ReplayTests.frames(ReplayTests.capture("ReplayOut-\($0).pcap"))
            }
            let found = try ReplayTests.frames(path)
            #expect(found.count == golden.count)
            #expect(
                Set(found.map { "\($0.time) \($0.bytes)" })
                    == Set(golden.map { "\($0.time) \($0.bytes)" }))
            #expect(found.map(\.time) == found.map(\.time).sorted())
        }
        let names = try contents(folder.path + "/all.pcapng")
        #expect(names.range(of: Data("monitor".utf8)) != nil)
    }

    @Test("--json prints counters; --trace goes to standard error then")
    func json() async throws {
        let result = try await replay(["--json", "--trace"])
        let report = try JSONCoding.decode(ReplayModel.self, Data(result.output.utf8))
        #expect(report.packets == 16)
        #expect(report.ports.map(\.txPackets) == [4, 7, 6])
        #expect(report.drops["headerChecksum"] == 1)
        #expect(result.errors.contains("packet 10:\n  drop: headerChecksum\n"))
    }

    @Test("Rules that are wrong are shown with place and mark")
    func badRules() async throws {
        let rules = try folder.write("bad", "ip actions=drop\nip,nw_dst=1.2.3 actions=drop\n")
        let result = try await CommandLineTool.run(["replay", "--rules", rules, "--in", "none"])
        #expect(result.status == 1)
        #expect(result.errors.contains("\n          ^^^^^\n"))
        #expect(result.errors.contains("\(rules):2:11: \"1.2.3\" is not an IPv4 address"))
    }

    @Test("Rules can come through a pipe")
    func rulesFromPipe() async throws {
        let result = try await CommandLineTool.run(
            ["replay", "--rules", "-", "--in", ReplayTests.capture("ReplayClient.pcap")],
            input: "actions=drop\n")
        #expect(result.status == 0)
        #expect(result.output.contains(/ruleAction +11\n/))
    }

    @Test("Captures that cannot be read are named")
    func badCaptures() async throws {
        let rules = try folder.write("rules", "actions=NORMAL\n")
        let text = try folder.write("text", "this is no capture at all, just text\n")
        var cut = try contents(ReplayTests.capture("ReplayClient.pcap"))
        cut.removeLast(7)
        let short = folder.path + "/short.pcap"
        try cut.write(to: URL(fileURLWithPath: short))
        for (path, words) in [
            (folder.path + "/none", "No such file"), (text, "unknown file format"),
            (short, "packet 13: truncated"),
        ] {
            let result = try await CommandLineTool.run(
                ["replay", "--rules", rules, "--in", path])
            #expect(result.status == 1)
            #expect(result.errors.contains(path), "\(result.errors)")
            #expect(result.errors.contains(words), "\(result.errors)")
        }
        let unwritable = try await replay(["--out", folder.path + "/no/such/folder.pcap"])
        #expect(unwritable.status == 1)
        #expect(unwritable.errors.contains("cannot write"))
    }
}
