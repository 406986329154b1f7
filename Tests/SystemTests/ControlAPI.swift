import Foundation
import Testing

/// The daemon's API, as far as the tests read it.
extension Laboratory {
    struct Port: Decodable {
        var name: String
        var kind: String
        var rxPackets: Int
        var txPackets: Int
    }

    struct Session: Decodable {
        var id: Int
        var state: String
        var target: String?
        var resource: String?
        var server: String?
        var user: String?
        var splices: Int
        var unsplices: Int
    }

    struct Server: Decodable {
        var name: String
        var health: String
    }

    var socket: String { "\(state)/dsrd.sock" }

    /// Answer of a request; throws when it is refused.
    func request(
        _ method: String, _ path: String, location: SourceLocation = #_sourceLocation
    ) async throws -> Data {
        let text = try await Program.run(
            [
                "curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "20",
                "--request", method, "--unix-socket", socket, "http://dsr\(path)",
            ], location: location)
        return Data(text.utf8)
    }

    func get<Value: Decodable>(
        _ type: Value.Type, _ path: String, location: SourceLocation = #_sourceLocation
    ) async throws -> Value {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(type, from: await request("GET", path, location: location))
    }

    func sessions(of resource: String) async throws -> [Session] {
        try await get([Session].self, "/sessions").filter { $0.resource == resource }
    }

    /// Asks for `splice` or `unsplice`; false when the daemon says that it cannot be now.
    func change(_ session: Int, _ verb: String) async throws -> Bool {
        let result = try await Program([
            "curl", "--silent", "--fail", "--max-time", "20", "--request", "POST", "--unix-socket",
            socket, "http://dsr/sessions/\(session)/\(verb)",
        ]).result(within: 30)
        return result.status == 0
    }

    /// Value of a metric, with its labels as they are written.
    func metric(_ name: String) async throws -> Int {
        let text = String(decoding: try await request("GET", "/metrics"), as: UTF8.self)
        let line = try #require(
            text.split(separator: "\n").first { $0.hasPrefix("\(name) ") }, "no metric \(name)")
        return try #require(line.split(separator: " ").last.flatMap { Int($0) })
    }

    func health(_ server: String) async throws -> String? {
        try await get([Server].self, "/servers").first { $0.name == server }?.health
    }
}
