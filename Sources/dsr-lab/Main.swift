import ArgumentParser

/// Laboratories of network namespaces on one machine.
@main
struct DSRLab: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dsr-lab",
        abstract: "Runs a network with real clients and servers in network namespaces.",
        subcommands: [
            UpCommand.self, DownCommand.self, StatusCommand.self, ExecCommand.self,
            ServerCommand.self, ServiceCommand.self, LinkCommand.self, ControllerCommand.self,
        ])
}
