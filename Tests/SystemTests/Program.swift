import Foundation
import Testing

/// A program that a test runs.
final class Program: @unchecked Sendable {
    struct Result: Sendable {
        var status: Int32
        /// Standard output and standard error, as they came.
        var output: String
    }

    private let process = Process()
    private let file: String

    /// Starts it.
    init(_ words: [String]) throws {
        file = FileManager.default.temporaryDirectory.path + "/systest-\(UUID().uuidString).out"
        _ = FileManager.default.createFile(atPath: file, contents: nil)
        let handle = try #require(FileHandle(forWritingAtPath: file))
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = words
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = handle
        process.standardError = handle
        try process.run()
        try handle.close()
    }

    deinit {
        if process.isRunning { kill(process.processIdentifier, SIGKILL) }
        unlink(file)
    }

    var isRunning: Bool { process.isRunning }

    /// What it has written so far.
    var output: String {
        String(decoding: FileManager.default.contents(atPath: file) ?? Data(), as: UTF8.self)
    }

    func signal(_ number: Int32) {
        if process.isRunning { kill(process.processIdentifier, number) }
    }

    /// Waits for its end; kills it and fails the test when that takes too long.
    func result(
        within seconds: Double = 60, location: SourceLocation = #_sourceLocation
    ) async throws -> Result {
        let deadline = Date().addingTimeInterval(seconds)
        while process.isRunning {
            if Date() > deadline {
                kill(process.processIdentifier, SIGKILL)
                Issue.record(
                    "\(process.arguments ?? []) runs for more than \(seconds) s: \(output)",
                    sourceLocation: location)
                throw TimeLimit()
            }
            try await Task.sleep(for: .milliseconds(10))
        }
        return Result(status: process.terminationStatus, output: output)
    }

    struct TimeLimit: Error {}

    /// Runs it to its end; the test fails when it does.
    @discardableResult
    static func run(
        _ words: [String], within seconds: Double = 60,
        location: SourceLocation = #_sourceLocation
    ) async throws -> String {
        let result = try await Program(words).result(within: seconds, location: location)
        try #require(
            result.status == 0, "\(words.joined(separator: " ")): \(result.output)",
            sourceLocation: location)
        return result.output
    }
}

/// Looks again and again until it is so; false when it is not in time.
func eventually(
    within seconds: Double, _ condition: () async throws -> Bool
) async rethrows -> Bool {
    let deadline = Date().addingTimeInterval(seconds)
    while true {
        if try await condition() { return true }
        guard Date() < deadline else { return false }
        try? await Task.sleep(for: .milliseconds(20))
    }
}
