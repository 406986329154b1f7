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
        let words = ["ip", "netns", "exec", state.namespace(host)] + command
        var arguments = words.map { strdup($0) } + [nil]
        execvp("ip", &arguments)
        throw LabError("ip cannot be run: \(Command.reason(errno)); is iproute2 installed?")
    }
}
