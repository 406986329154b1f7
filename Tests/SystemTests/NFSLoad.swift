import Foundation
import Testing

/// tools/nfs-load.py on client1 through the redirector: a client of NFS that verifies what it is told.
struct NFSLoad {
    struct Report: Decodable, CustomStringConvertible {
        var ok: Bool
        var requests: Int
        var errors: [String: Int]
        var wrongBlocks: Int?
        var closedConnections: Int?
        var operations: Int?
        var longestStallMs: Double?

        var description: String {
            "\(requests) requests, \(operations ?? 0) operations, longest \(longestStallMs ?? 0) ms, "
                + "errors \(errors), \(wrongBlocks ?? 0) wrong blocks, "
                + "\(closedConnections ?? 0) closed"
        }
    }

    private let program: Program
    private let output: String

    /// Starts it. `waits`: until it runs.
    init(
        _ lab: Laboratory, _ mode: String, exports: [String], transport: String = "tcp",
        waits: Bool = false, options: [String] = []
    ) async throws {
        output = "\(lab.directory)/nfs-\(UInt32.random(in: 0 ... .max)).json"
        var words = [
            "\(Laboratory.root)/tools/nfs-load.py", mode, "--server", "10.10.0.100",
            "--transport", transport, "--output", output,
        ]
        for export in exports { words += ["--export", export] }
        program = try lab.start("client1", words + options)
        guard waits else { return }
        let started = program
        let isRunning = await eventually(within: 30) { started.output.contains("running") }
        try #require(isRunning, "\(program.output)")
    }

    /// Ends it early, as if its time were over.
    func end() { program.signal(SIGTERM) }

    func report(within seconds: Double = 90) async throws -> Report {
        let result = try await program.result(within: seconds)
        guard let data = FileManager.default.contents(atPath: output) else {
            Issue.record("no report: \(result.output)")
            throw CancellationError()
        }
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(Report.self, from: data)
    }
}
