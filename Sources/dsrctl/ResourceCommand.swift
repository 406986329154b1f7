import ArgumentParser
import ControlPlane

struct ResourceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resource", abstract: "What clients can reach.",
        subcommands: [ResourceList.self, ResourceMove.self], defaultSubcommand: ResourceList.self)
}

struct ResourceList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Resources, and the servers that hold them.")

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        daemon.show(try daemon.get([ResourceModel].self, "/resources")) { resources in
            var table = Table([
                ("NAME", .left), ("PROTOCOL", .left), ("TARGET", .left), ("ASSIGNED", .left),
                ("STATE", .left), ("SINCE", .right), ("LOAD", .right), ("SERVERS", .left),
                ("SESSIONS", .right), ("FROM CLIENTS", .right), ("FROM SERVERS", .right),
            ])
            for resource in resources {
                table.add([
                    resource.name, resource.protocol, resource.target,
                    resource.assigned + (resource.home.map { " (for \($0))" } ?? ""),
                    resource.state.rawValue, Text.duration(resource.stateAgeS),
                    Text.load(resource.load), Text.list(resource.servers),
                    "\(resource.sessions)", "\(resource.clientBytes)",
                    "\(resource.serverBytes)",
                ])
            }
            return table.text
        }
    }
}

struct ResourceMove: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "move", abstract: "Moves a resource, with its sessions, to another server.",
        discussion: """
            The new server is asked first whether it serves the very same resource. Requests that \
            are open are answered by the old server; then each session goes on at the new one.
            """)

    @Argument(help: "As resource list prints it.")
    var resource: String

    @Argument(help: "A server that holds it.")
    var server: String

    @OptionGroup var waiting: WaitOptions
    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        let operation = try daemon.send(
            "POST", "/resources/\(DaemonOptions.query(resource))/move", MoveRequest(to: server),
            as: OperationModel.self)
        try OperationProgress(daemon: daemon, options: waiting)
            .show(operation, judge: ChangeJudge(operation.change).judge)
    }
}
