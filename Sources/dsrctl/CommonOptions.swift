import ArgumentParser
import ControlPlane
import Foundation

struct OutputOptions: ParsableArguments {
    @Flag(help: "Print JSON, as the API gives it.")
    var json = false

    func printJSON(_ value: some Encodable) {
        print(String(decoding: JSONCoding.encode(value, pretty: true), as: UTF8.self))
    }
}

/// How the daemon is reached.
struct DaemonOptions: ParsableArguments {
    @Option(help: "Control socket of dsrd; without it DSR_SOCKET, then /run/dsr/dsrd.sock.")
    var socket: String?

    @OptionGroup var output: OutputOptions

    var client: ControlClient {
        let environment = ProcessInfo.processInfo.environment["DSR_SOCKET"] ?? ""
        let fallback = environment.isEmpty ? ControlClient.defaultPath : environment
        return ControlClient(path: socket ?? fallback)
    }

    func get<Value: Decodable>(_ type: Value.Type, _ target: String) throws -> Value {
        try client.get(type, target)
    }

    /// A request with a body and an answer.
    func send<Value: Decodable>(
        _ method: String, _ target: String, _ body: (some Encodable)? = ChangeModel?.none,
        as type: Value.Type
    ) throws -> Value {
        let data = body.map { JSONCoding.encode($0) }
        return try JSONCoding.decode(type, client.request(method, target, body: data))
    }

    /// JSON, or what `people` makes of the value.
    func show<Value: Encodable>(_ value: Value, people: (Value) -> String) {
        if output.json { return output.printJSON(value) }
        let text = people(value)
        if !text.isEmpty { print(text) }
    }

    static func query(_ value: String) -> String {
        value.addingPercentEncoding(withAllowedCharacters: .alphanumerics) ?? ""
    }
}
