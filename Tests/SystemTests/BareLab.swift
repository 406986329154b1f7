import Foundation
import Testing

/// A lab without redirector that a test brings up, breaks and takes down by itself.
struct BareLab {
    let name: String

    init(_ name: String) { self.name = "systest-\(getpid())-\(name)" }

    private var program: String { "\(Laboratory.products)/dsr-lab" }

    func attempt(_ words: String...) async throws -> Program.Result {
        try await Program([program] + words).result(within: 60)
    }

    /// The time that it took, in seconds.
    @discardableResult
    func expect(
        _ words: String..., status: Int32 = 0, output: String = "",
        location: SourceLocation = #_sourceLocation
    ) async throws -> Double {
        let start = Date()
        let result = try await Program([program] + words).result(within: 60)
        #expect(
            result.status == status && (output.isEmpty || result.output.contains(output)),
            "\(words.joined(separator: " ")): \(result.status) \(result.output)",
            sourceLocation: location)
        return Date().timeIntervalSince(start)
    }

    func with(
        _ topology: String, _ options: [String] = [], _ body: () async throws -> Void
    ) async throws {
        let path = "\(Laboratory.root)/topologies/\(topology)"
        let up = try await Program([program, "up", path, "--prefix", name, "--no-dsrd"] + options)
            .result(within: 60)
        try #require(up.status == 0, "\(up.output)")
        do { try await body() } catch {
            try await expect("down", name)
            throw error
        }
        try await expect("down", name)
    }

    /// Targets that a server's tgtd has. Not asked over iSCSI: without any it takes no connection.
    func targets(_ server: String) async throws -> [String] {
        let output = try await Program.run([
            "TGT_IPC_SOCKET=/run/dsr-lab/\(name)/\(server).tgtd", "tgtadm", "--lld", "iscsi",
            "--op", "show", "--mode", "target",
        ])
        return output.split(separator: "\n").filter { $0.hasPrefix("Target ") }
            .compactMap { $0.split(separator: ":").last.map(String.init) }.sorted()
    }

    /// Whether a server's address answers at its own end of the cable.
    func has(_ host: String, _ text: String) async throws -> Bool {
        try await attempt("exec", name, host, "--", "ip", "address").output.contains(text)
    }

    func announced(_ server: String) throws -> [String] {
        let path = "/run/dsr-lab/\(name)/\(server).resources.yaml"
        return try String(contentsOf: URL(fileURLWithPath: path), encoding: .utf8)
            .split(separator: "\n").compactMap { $0.split(separator: ":").last }
            .filter { $0.hasSuffix("\"}") }.map { String($0.dropLast(2)) }
    }
}
