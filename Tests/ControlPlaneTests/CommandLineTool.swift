import Foundation
import Glibc

/// Runs the built `dsrctl`, which stands beside the tests.
enum CommandLineTool {
    struct Result {
        var status: Int32
        var output: String
        var errors: String
        var lines: [String] { output.split(separator: "\n").map(String.init) }
    }

    static let executable = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        .deletingLastPathComponent().appendingPathComponent("dsrctl")

    /// Ends what runs longer than `limit` seconds, with status -1.
    static func run(
        _ arguments: [String], input: String? = nil, environment: [String: String] = [:],
        folder: String? = nil, limit: Double = 20, executable: URL = executable
    ) async throws -> Result {
        let process = Process()
        process.executableURL = executable
        process.arguments = arguments
        process.environment = environment
        if let folder { process.currentDirectoryURL = URL(fileURLWithPath: folder) }
        let (output, errors, standardInput) = (Pipe(), Pipe(), Pipe())
        process.standardOutput = output
        process.standardError = errors
        process.standardInput = standardInput
        try process.run()
        if let input { standardInput.fileHandleForWriting.write(Data(input.utf8)) }
        try standardInput.fileHandleForWriting.close()
        let guardian = Task {
            try await Task.sleep(nanoseconds: UInt64(limit * 1e9))
            // Foundation starts children with signals blocked.
            kill(process.processIdentifier, SIGKILL)
        }
        async let outputData = read(output)
        async let errorData = read(errors)
        let texts = await (outputData, errorData)
        while process.isRunning { try await Task.sleep(nanoseconds: 2_000_000) }
        guardian.cancel()
        return Result(
            status: process.terminationReason == .exit ? process.terminationStatus : -1,
            output: texts.0, errors: texts.1)
    }

    /// Not on a thread of the concurrency pool: the daemon of a test needs those.
    private static func read(_ pipe: Pipe) async -> String {
        await withCheckedContinuation { continuation in
            Thread.detachNewThread {
                let data = pipe.fileHandleForReading.readDataToEndOfFile()
                continuation.resume(returning: String(decoding: data, as: UTF8.self))
            }
        }
    }
}
