import ArgumentParser
import Foundation
import Glibc

struct ExecCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "exec", abstract: "Runs a command on a host of a lab.",
        discussion: "dsr-lab exec NAME HOST -- COMMAND. The command's status is the status. "
            + "DSR_SOCKET is set for dsrctl.")

    @OptionGroup var selection: LabSelection

    @Argument(help: "Host.")
    var host: String

    @Flag(
        help: "With the mounts of the host's nfs-ganesha: images of exports are seen only there.")
    var withMounts = false

    @Argument(parsing: .postTerminator, help: "Command with its arguments, after --.")
    var command: [String]

    func validate() throws {
        if command.isEmpty { throw ValidationError("a command is missing after --") }
    }

    func run() throws {
        let state = try selection.load()
        let lab = try Lab(state)
        guard lab.topology.hosts.contains(where: { $0.name == host }) else {
            let names = lab.topology.hosts.map(\.name).joined(separator: ", ")
            throw LabError("there is no host \(host); there are \(names)")
        }
        Interruption.unblockSignals()
        setenv("DSR_SOCKET", lab.redirectorSocket(host), 0)
        let words = try inside(state) + command
        var arguments = words.map { strdup($0) } + [nil]
        execvp(words[0], &arguments)
        throw LabError("\(words[0]) cannot be run: \(Command.reason(errno)); is it installed?")
    }

    private func inside(_ state: LabState) throws -> [String] {
        guard withMounts else { return ["ip", "netns", "exec", state.namespace(host)] }
        let keeper = (state.companions ?? []).first { $0.host == host && $0.kind == "rpcbind" }
        guard let keeper, keeper.isAlive else { throw LabError("\(host) has no nfs-ganesha") }
        return ["nsenter", "--target", String(keeper.pid), "--mount", "--net"]
    }
}
