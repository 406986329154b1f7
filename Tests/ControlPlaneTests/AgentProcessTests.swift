import ControlPlane
import Foundation
import Glibc
import StorageProtocols
import Testing

/// The built `dsr-agent`, which stands beside the tests, as a process.
private final class AgentProcess {
    static let executable = CommandLineTool.executable.deletingLastPathComponent()
        .appendingPathComponent("dsr-agent")

    let process = Process()
    let folder: TemporaryDirectory
    let resources: String
    private let errors = Pipe()

    init(port: UInt16, resources text: String, options: [String] = []) throws {
        folder = try TemporaryDirectory()
        resources = try folder.write("resources.yaml", text)
        let secret = try folder.write("secret", ListeningReceiver.secret + "\n")
        process.executableURL = Self.executable
        process.arguments =
            [
                "--server", "server1", "--dsr", "127.0.0.1:\(port)", "--secret-file", secret,
                "--resources", resources,
            ] + options
        process.standardError = errors
        try process.run()
    }

    deinit { kill(process.processIdentifier, SIGKILL) }

    func signal(_ number: Int32) { kill(process.processIdentifier, number) }

    /// What it has said, when it has ended.
    func end() async throws -> (status: Int32, errors: String) {
        for _ in 0..<2_000 where process.isRunning {
            try await Task.sleep(for: .milliseconds(5))
        }
        signal(SIGKILL)
        return try await blocking { [errors, process] in
            let data = errors.fileHandleForReading.readDataToEndOfFile()
            process.waitUntilExit()
            return (process.terminationStatus, String(decoding: data, as: UTF8.self))
        }
    }
}

private let one = #"resources: [{name: r1, target: "iqn.2026-01.lab.dsr:r1"}]"#
private let two =
    #"resources: [{name: r1, target: "iqn.2026-01.lab.dsr:r1", state: standby}, {name: r2, target: "iqn.2026-01.lab.dsr:r2", luns: 3}]"#

@Suite(.serialized) struct AgentProcessTests {
    private func change(_ told: ListeningReceiver.Told) -> AgentTable.Change? {
        if case .change(_, let change) = told { change } else { nil }
    }

    @Test func `announces, follows its file, and is missed when it dies`() async throws {
        let configuration = ListeningReceiver.configuration.replacingOccurrences(
            of: "silence_ms: 300", with: "silence_ms: 1500")
        let room = try await ListeningReceiver(configuration)
        let agent = try AgentProcess(port: room.port, resources: one)
        #expect(
            try await room.first { change($0)?.appeared.map(\.name) == ["r1"] } != nil,
            "\(room.events)")
        let written = ContinuousClock.now
        _ = try agent.folder.write("resources.yaml", two)
        let seen = try #require(
            try await room.first { change($0)?.appeared.map(\.name) == ["r2"] })
        #expect(written.duration(to: seen) < .milliseconds(500))
        let told = try #require(room.events.compactMap(change).last)
        #expect(
            told.changed == [
                AnnouncedResource(name: "r1", target: "iqn.2026-01.lab.dsr:r1", state: .standby)
            ])
        #expect(told.appeared.first?.lunCount == 3)
        // The load takes two looks.
        #expect(try await room.first { $0 == .load("server1") } != nil)
        // A file that is wrong, then none: what was there stays, and people are told.
        _ = try agent.folder.write("resources.yaml", "resources: [{name: r1}]")
        try await Task.sleep(for: .milliseconds(300))
        try FileManager.default.removeItem(atPath: agent.resources)
        try await Task.sleep(for: .milliseconds(300))
        #expect(room.events.compactMap(change).count == 2)
        agent.signal(SIGKILL)
        let killed = ContinuousClock.now
        let silence = try #require(try await room.first { $0 == .silence("server1") })
        #expect(killed.duration(to: silence) > .milliseconds(400))
        let errors = try await agent.end().errors
        #expect(errors.contains("resources[0].target is missing"), "\(errors)")
        #expect(errors.contains("No such file or directory; what was read before"), "\(errors)")
        #expect(!errors.contains(ListeningReceiver.secret))
        let table = await room.thread.call { room.receiver.table }
        #expect(table["server1"]?.resources.map(\.name) == ["r1", "r2"])
        #expect(await room.counts().refused.isEmpty)
        await room.stop()
    }

    @Test func `a signal ends it with a last word`() async throws {
        let configuration = ListeningReceiver.configuration.replacingOccurrences(
            of: "silence_ms: 300", with: "silence_ms: 600000")
        let room = try await ListeningReceiver(configuration)
        let agent = try AgentProcess(port: room.port, resources: one)
        #expect(try await room.first { $0 == .back("server1") } != nil)
        agent.signal(SIGTERM)
        #expect(try await room.first { $0 == .silence("server1") } != nil)
        #expect(try await agent.end() == (0, ""))
        // Started anew it is heard at once.
        let next = try AgentProcess(port: room.port, resources: two, options: ["--once"])
        #expect(try await room.first { change($0)?.appeared.map(\.name) == ["r2"] } != nil)
        #expect(try await next.end() == (0, ""))
        await room.stop()
    }

    private func run(_ arguments: [String]) async throws -> CommandLineTool.Result {
        try await CommandLineTool.run(arguments, executable: AgentProcess.executable)
    }

    @Test func `prints what it would announce`() async throws {
        let folder = try TemporaryDirectory()
        let secret = try folder.write("secret", ListeningReceiver.secret)
        let file = try folder.write("r.yaml", two)
        let result = try await run([
            "--server", "server1", "--dsr", "10.20.0.1", "--secret-file", secret, "--resources",
            file, "--print",
        ])
        #expect(result.status == 0, "\(result.errors)")
        struct Printed: Decodable {
            var server: String
            var load: AgentLoad
            var resources: [AnnouncedResource]
            var datagrams: [Int]
        }
        let printed = try JSONDecoder().decode(Printed.self, from: Data(result.output.utf8))
        #expect(printed.server == "server1")
        #expect(printed.resources.map(\.name) == ["r1", "r2"])
        #expect(printed.load.cores > 0)
        #expect(printed.load.memoryPermille > 0)
        #expect(printed.datagrams.count == 1)
        #expect(!result.output.contains(ListeningReceiver.secret))
    }

    @Test(arguments: [
        (["--server", ""], "--server is a name of 1 to 63 octets"),
        (["--dsr", "host"], "--dsr \"host\" is not as 10.20.0.1"),
        (["--dsr", "1.2.3.4:0"], "is not as 10.20.0.1"),
        (["--dsr", "[::1]x"], "is not as 10.20.0.1"),
        (["--interval-ms", "1"], "--interval-ms is a number from 50"),
        (["--tgtd", "--resources", "x"], "exclude each other"),
        (["--control-port", "1"], "--control-port belongs to --tgtd"),
        (["--port-bind", "::1"], "of two families"),
        (["--port-bind", "1.2.3.4:5"], "--port-bind \"1.2.3.4:5\" is no address"),
    ]) func `wrong command lines`(words: [String], message: String) async throws {
        var arguments = ["--server", "s", "--dsr", "1.2.3.4", "--secret-file", "/x"]
        // What is given twice is wrong in another way.
        if let place = arguments.firstIndex(of: words[0]) {
            arguments.removeSubrange(place...place + 1)
        }
        let result = try await run(arguments + words)
        #expect(result.status == 64)
        #expect(result.errors.contains(message), "\(result.errors)")
    }

    @Test func `files that are not there or are wrong`() async throws {
        let folder = try TemporaryDirectory()
        let good = try folder.write("secret", ListeningReceiver.secret)
        let short = try folder.write("short", "abc")
        let twice = try folder.write(
            "twice.yaml", one.dropLast() + #", {name: r1, target: "iqn.2026-01.lab.dsr:r2"}]"#)
        for (secret, resources, message) in [
            ("/nonexistent/x", twice, "/nonexistent/x: cannot be read: No such file"),
            (folder.path, twice, "is no regular file"),
            (short, twice, "a secret has 16 to 255 octets"),
            (good, "/nonexistent/y", "/nonexistent/y: cannot be read"),
            (good, twice, "twice.yaml: the name r1 is given twice"),
        ] {
            let result = try await run([
                "--server", "s", "--dsr", "127.0.0.1", "--secret-file", secret, "--resources",
                resources,
            ])
            #expect(result.status == 1)
            #expect(result.errors.contains(message), "\(result.errors)")
        }
    }
}
