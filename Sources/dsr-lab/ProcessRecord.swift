import Foundation
import Glibc

/// A program that the lab started. The number alone is not enough to find it again: the kernel gives
/// numbers out anew, so the start time goes with it.
struct ProcessRecord: Codable {
    var host: String
    var kind: String
    var pid: Int32
    /// Field 22 of /proc/PID/stat: ticks since the machine's start.
    var startTime: UInt64
    var log: String

    init(host: String, kind: String, pid: Int32, log: String) {
        self.host = host
        self.kind = kind
        self.pid = pid
        self.log = log
        startTime = Self.look(pid)?.startTime ?? 0
    }

    /// False for zombies too: whoever should fetch their status may take long. A zombie whose other
    /// threads are still ending has its files open, and its TAP devices are still there.
    var isAlive: Bool {
        guard let seen = Self.look(pid), seen.startTime == startTime else { return false }
        return seen.state == "Z" ? seen.threads > 1 : seen.state != "X"
    }

    /// For people and tests.
    var condition: String {
        guard isAlive else { return "ENDED" }
        return Self.look(pid)?.state == "T" ? "frozen" : "alive"
    }

    func signal(_ number: Int32) {
        if isAlive { kill(pid, number) }
    }

    /// Waits until the program has ended; false when it did not in time.
    func waitForEnd(seconds: Double) -> Bool {
        let deadline = Date().addingTimeInterval(seconds)
        while isAlive {
            guard Date() < deadline else { return false }
            waitpid(pid, nil, WNOHANG)
            usleep(1_000)
        }
        return true
    }

    private static func look(
        _ pid: Int32
    ) -> (state: Substring, threads: Int, startTime: UInt64)? {
        guard let data = FileManager.default.contents(atPath: "/proc/\(pid)/stat") else {
            return nil
        }
        // The name in parentheses may have spaces and parentheses itself.
        let text = String(decoding: data, as: UTF8.self)
        guard let end = text.lastIndex(of: ")") else { return nil }
        let fields = text[text.index(after: end)...].split(separator: " ")
        guard fields.count > 19, let start = UInt64(fields[19]) else { return nil }
        return (fields[0], Int(fields[17]) ?? 1, start)
    }
}
