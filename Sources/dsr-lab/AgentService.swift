import Foundation
import Glibc

/// dsr-agent beside a server: announces what its tgtd serves.
struct AgentService {
    let state: LabState
    let service: Topology.Service
    /// What the server serves now.
    let targets: [Topology.Target]

    func start() throws -> ProcessRecord {
        let program = state.agent ?? Executable.beside("dsr-agent")
        guard FileManager.default.isExecutableFile(atPath: program) else {
            throw LabError("\(program): no such program; --agent names another, --no-agents none")
        }
        try Self.makeSecret(state)
        try writeResources()
        let log = state.log(service.host, "agent")
        let pid = try Command.start(
            [
                "ip", "netns", "exec", state.namespace(service.host), program, "--server",
                service.host, "--dsr", service.dsr ?? "", "--secret-file", state.agentSecret,
                "--resources", state.agentResources(service.host),
            ], log: log)
        let record = ProcessRecord(host: service.host, kind: "agent", pid: pid, log: log)
        // Bad arguments end it at once.
        usleep(50_000)
        guard record.isAlive else {
            throw LabError("dsr-agent of \(service.host) does not come up:\n\(tail(log))")
        }
        return record
    }

    func stop(_ record: ProcessRecord) {
        record.signal(SIGTERM)
        if !record.waitForEnd(seconds: 3) {
            record.signal(SIGKILL)
            _ = record.waitForEnd(seconds: 3)
        }
    }

    /// Replaced as a whole: the agent never reads half of it.
    func writeResources() throws {
        let lines = targets.map { "  - {name: \($0.name), target: \"\($0.iqn)\"}" }
        let text =
            lines.isEmpty
            ? "resources: []\n" : "resources:\n" + lines.joined(separator: "\n") + "\n"
        try text.write(
            toFile: state.agentResources(service.host), atomically: true, encoding: .utf8)
    }

    /// One secret for a lab, made when it comes up: agents and redirector read the same file.
    static func makeSecret(_ state: LabState) throws {
        let path = state.agentSecret
        if FileManager.default.fileExists(atPath: path) { return }
        var generator = SystemRandomNumberGenerator()
        let digits = (0..<4).map { _ in
            let word = String(generator.next(), radix: 16)
            return String(repeating: "0", count: 16 - word.count) + word
        }
        let text = digits.joined() + "\n"
        let descriptor = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw LabError("\(path): \(Command.reason(errno))") }
        defer { close(descriptor) }
        guard write(descriptor, text, text.utf8.count) == text.utf8.count else {
            throw LabError("\(path): \(Command.reason(errno))")
        }
    }
}
