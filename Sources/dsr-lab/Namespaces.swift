import Foundation
import Glibc

/// Network namespaces, through ip(8).
enum Namespaces {
    static func all() throws -> [String] {
        try Command.attempt(["ip", "netns", "list"]).output.split(separator: "\n").map {
            String($0.prefix { $0 != " " })
        }
    }

    static func make(_ name: String) throws {
        try Command.run(["ip", "netns", "add", name])
        try Command.run(["ip", "-n", name, "link", "set", "lo", "up"])
    }

    static func processes(_ name: String) throws -> [pid_t] {
        try Command.attempt(["ip", "netns", "pids", name]).output.split(separator: "\n")
            .compactMap { pid_t($0) }
    }

    /// Ends everything that runs in the namespaces and removes them.
    static func remove(_ names: [String]) throws {
        let present = Set(try all())
        let mine = names.filter(present.contains)
        for _ in 0..<50 {
            let running = try mine.flatMap { try processes($0) }
            if running.isEmpty { break }
            for pid in running { kill(pid, SIGKILL) }
            usleep(20_000)
        }
        var failures: [String] = []
        for name in mine {
            let result = try Command.attempt(["ip", "netns", "delete", name])
            if result.status != 0 { failures.append(result.output) }
        }
        guard failures.isEmpty else { throw LabError(failures.joined(separator: "\n")) }
    }

    /// What a lab's hosts do not take over from the machine. BBR, where that is the machine's choice, sends four
    /// segments for each round trip during 200 ms in every 10 s (its PROBE_RTT), which looks like a fault of the
    /// switch. Reno is what every namespace may choose; CUBIC, Debian's own choice, need not be.
    static let usualSettings: [String: String] = {
        let path = "/proc/sys/net/ipv4/tcp_congestion_control"
        let present = (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
        return ["cubic", "reno"].contains(present.trimmingCharacters(in: .whitespacesAndNewlines))
            ? [:] : ["net.ipv4.tcp_congestion_control": "reno"]
    }()

    static func set(_ name: String, _ values: [String: String]) throws {
        guard !values.isEmpty else { return }
        let words = values.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
        try Command.run(["ip", "netns", "exec", name, "sysctl", "-qw"] + words)
    }
}
