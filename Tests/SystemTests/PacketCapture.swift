import Foundation
import Testing

/// tcpdump on a host, with what it saw in a form that tests can ask.
final class PacketCapture: Sendable {
    struct Packet {
        /// Seconds since midnight.
        var time: Double
        var device: String
        /// As tcpdump writes them, with the port: `10.20.0.1.3260`.
        var source: String
        var destination: String
        var flags: String
        var length: Int
    }

    private let program: Program

    init(_ lab: Laboratory, host: String, filter: String = "tcp") async throws {
        program = try lab.start(
            host,
            [
                "tcpdump", "-i", "any", "-nn", "-U", "-l", "--immediate-mode", "-s", "128", "-B",
                "65536",
            ]
                + filter.split(separator: " ").map(String.init))
        let program = program
        let isListening = await eventually(within: 10) {
            program.output.contains("listening on")
        }
        try #require(isListening, "tcpdump does not start: \(program.output)")
    }

    /// Ends it and reads what it has written; the packets of the last moment are waited for.
    func stop() async throws -> [Packet] {
        try await Task.sleep(for: .milliseconds(300))
        program.signal(SIGINT)
        let output = try await program.result(within: 10).output
        try #require(
            output.contains("0 packets dropped by kernel"),
            "the capture has holes: \(output.suffix(300))")
        return packets(output)
    }

    /// What was seen so far.
    var soFar: [Packet] { packets(program.output) }

    /// `12:00:00.000001 s1    Out IP 10.20.0.1.40000 > 10.20.0.11.3260: Flags [S], ..., length 0`
    private func packets(_ output: String) -> [Packet] {
        output.split(separator: "\n").compactMap { line in
            let words = line.split(separator: " ", omittingEmptySubsequences: true)
            guard words.count > 6, words[3] == "IP" || words[3] == "IP6", words[5] == ">" else {
                return nil
            }
            let clock = words[0].split(separator: ":").compactMap { Double($0) }
            guard clock.count == 3 else { return nil }
            var flags = ""
            if words.count > 8, words[7] == "Flags" {
                flags = words[8].trimmingCharacters(in: CharacterSet(charactersIn: "[],"))
            }
            return Packet(
                time: clock[0] * 3_600 + clock[1] * 60 + clock[2], device: String(words[1]),
                source: String(words[4]),
                destination: words[6].trimmingCharacters(in: CharacterSet(charactersIn: ":")),
                flags: flags, length: words.last.flatMap { Int($0) } ?? 0)
        }
    }
}
