import Foundation
import Testing

/// tools/verify-load.py on client1 through the redirector: reads and writes that verify every octet, while
/// something happens to the servers.
struct VerifiedLoad {
    struct Report: Decodable, CustomStringConvertible {
        var ok: Bool
        var requests: Int
        var errors: [String: Int]
        var errorDetails: [Detail]
        var closedConnections: Int
        var wrongBlocks: Int
        /// Of any request.
        var longestStallMs: Double
        /// Of a load that uses several; ms.
        var units: [Unit]?
        struct Unit: Decodable {
            var unit: Int
            var p99: Double
            var max: Double
        }
        struct Detail: Decodable { var text: String }

        var description: String {
            "\(requests) requests, longest \(longestStallMs) ms, errors \(errors) "
                + "\(errorDetails.prefix(3).map(\.text)), \(closedConnections) closed, "
                + "\(wrongBlocks) wrong blocks"
        }
    }

    let lab: Laboratory
    private let program: Program
    private let output: String

    /// Logged in and filled; the load runs when this returns.
    init(
        _ lab: Laboratory, resources: [String], sessions: Int, seconds: Int,
        address: String = "10.10.0.100", options: [String] = []
    ) async throws {
        self.lab = lab
        output = "\(lab.directory)/load-\(UInt32.random(in: 0 ... .max)).json"
        var words = [
            "\(Laboratory.root)/tools/verify-load.py", "--portal", address, "--seconds",
            "\(seconds)", "--sessions", "\(sessions)", "--depth", "16", "--range-mib", "8",
            "--final-verify", "--output", output,
        ]
        for name in resources { words += ["--target", "iqn.2026-01.lab.dsr:\(name)"] }
        program = try lab.start("client1", words + options)
        let started = program
        let isRunning = await eventually(within: 30) { started.output.contains("running") }
        try #require(isRunning, "\(program.output)")
    }

    func report(within seconds: Double = 90) async throws -> Report {
        _ = try await program.result(within: seconds)
        let data = try Data(contentsOf: URL(fileURLWithPath: output))
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(Report.self, from: data)
    }
}

extension Laboratory {
    /// Server of each resource, by the control API.
    func assignment() async throws -> [String: String] {
        struct Row: Decodable {
            var name: String
            var assigned: String
        }
        let rows = try await get([Row].self, "/resources")
        return Dictionary(uniqueKeysWithValues: rows.map { ($0.name, $0.assigned) })
    }

    func dsrlab(_ words: String...) async throws {
        try await Program.run(["\(Self.products)/dsr-lab"] + words)
    }

    func dsrctl(_ words: String...) async throws -> String {
        try await Program.run(
            ["\(Self.products)/dsrctl", "--socket", "\(state)/dsrd.sock"] + words)
    }

    struct EventRow: Decodable {
        var kind: String
        var server: String?
        var resource: String?
        var message: String
    }
    func eventRows() async throws -> [EventRow] { try await get([EventRow].self, "/events") }
}
