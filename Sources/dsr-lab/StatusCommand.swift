import ArgumentParser
import Foundation

struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Shows hosts, addresses and processes; status 1 when a process has ended.")

    @OptionGroup var selection: LabSelection

    func run() throws {
        let state = try selection.load()
        let lab = try Lab(state)
        print("lab        \(state.prefix)")
        print("topology   \(state.topology)")
        print("state      \(state.directory)")
        var ended = false
        for host in lab.topology.hosts {
            print("\n\(host.name) (namespace \(state.namespace(host.name)))")
            for line in try interfaces(state.namespace(host.name)) { print("  \(line)") }
            let processes = state.processes + (state.companions ?? [])
            for process in processes where process.host == host.name {
                if !process.isAlive { ended = true }
                print("  \(process.kind) pid \(process.pid) \(process.condition)")
            }
        }
        if ended { throw ExitCode(1) }
    }

    private func interfaces(_ name: String) throws -> [String] {
        let result = try Command.attempt(["ip", "-n", name, "-brief", "address"])
        guard result.status == 0 else { return ["namespace is GONE"] }
        return result.output.split(separator: "\n").compactMap { line in
            let words = line.split(separator: " ").map(String.init)
            guard words.count >= 2, words[0] != "lo" else { return nil }
            let device = words[0].prefix { $0 != "@" }
            let addresses = words.dropFirst(2).filter { $0.contains("/") && !$0.hasPrefix("fe80") }
            return ([String(device), words[1].lowercased()] + addresses).joined(separator: " ")
        }
    }
}
