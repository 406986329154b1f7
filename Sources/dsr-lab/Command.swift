import Foundation
import Glibc

/// Programs that the lab runs.
enum Command {
    struct Result {
        var status: Int32
        /// Standard output and standard error.
        var output: String
    }

    /// Runs a program to its end; throws unless it succeeds.
    @discardableResult
    static func run(
        _ arguments: [String], environment: [String: String] = [:]
    ) throws -> String {
        try Interruption.check()
        let result = try attempt(arguments, environment: environment)
        guard result.status == 0 else {
            throw LabError(
                "\(arguments.joined(separator: " ")): status \(result.status): "
                    + result.output.trimmingCharacters(in: .whitespacesAndNewlines))
        }
        return result.output
    }

    /// Runs a program to its end, whatever it answers.
    static func attempt(
        _ arguments: [String], environment: [String: String] = [:]
    ) throws -> Result {
        var ends: [Int32] = [0, 0]
        guard pipe(&ends) == 0 else { throw LabError("no pipe: \(reason(errno))") }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        defer { close(ends[0]) }
        let pid: pid_t
        do {
            pid = try spawn(arguments, environment, newSession: false) { actions in
                posix_spawn_file_actions_adddup2(&actions, ends[1], 1)
                posix_spawn_file_actions_adddup2(&actions, ends[1], 2)
            }
        } catch {
            close(ends[1])
            throw error
        }
        close(ends[1])
        let output = readAll(ends[0])
        var status: Int32 = 0
        while waitpid(pid, &status, 0) < 0, errno == EINTR {}
        let code = status & 0x7f == 0 ? (status >> 8) & 0xff : 128 + (status & 0x7f)
        return Result(status: code, output: output)
    }

    /// Starts a program that outlives this one, in a session of its own so that the terminal's signals
    /// pass it by; its output goes to the end of a log file.
    static func start(
        _ arguments: [String], log: String, environment: [String: String] = [:]
    ) throws -> pid_t {
        try Interruption.check()
        keepDescriptors()
        return try spawn(arguments, environment, newSession: true) { actions in
            posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
            posix_spawn_file_actions_addopen(
                &actions, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0o644)
            posix_spawn_file_actions_adddup2(&actions, 1, 2)
        }
    }

    /// What this program has inherited is not for those that outlive it: whoever waits for the other end
    /// of a pipe to close would wait for them.
    private static func keepDescriptors() {
        for name in (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd")) ?? [] {
            guard let descriptor = Int32(name), descriptor > 2 else { continue }
            _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        }
    }

    private static func spawn(
        _ arguments: [String], _ environment: [String: String], newSession: Bool,
        _ prepare: (inout posix_spawn_file_actions_t) -> Void
    ) throws -> pid_t {
        Interruption.unblockSignals()
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        prepare(&actions)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        if newSession { posix_spawnattr_setflags(&attributes, Int16(0x80)) }  // POSIX_SPAWN_SETSID
        let merged = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        var words = arguments.map { strdup($0) } + [nil]
        var variables = merged.map { strdup("\($0.key)=\($0.value)") } + [nil]
        defer { (words + variables).forEach { free($0) } }
        var pid: pid_t = 0
        let error = posix_spawnp(&pid, arguments[0], &actions, &attributes, &words, &variables)
        guard error == 0 else {
            throw LabError("\(arguments[0]) cannot be run: \(reason(error)); is it installed?")
        }
        return pid
    }

    private static func readAll(_ descriptor: Int32) -> String {
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 16_384)
        while true {
            let count = read(descriptor, &buffer, buffer.count)
            if count > 0 {
                bytes += buffer[..<count]
            } else if count == 0 || errno != EINTR {
                return String(decoding: bytes, as: UTF8.self)
            }
        }
    }

    static func reason(_ error: Int32) -> String { String(cString: strerror(error)) }
}
