import ArgumentParser
import ControlPlane

struct ResourceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resource", abstract: "What clients can reach.",
        subcommands: [ResourceList.self], defaultSubcommand: ResourceList.self)
}

struct ResourceList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Resources, and the servers that hold them.")

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        daemon.show(try daemon.get([ResourceModel].self, "/resources")) { resources in
            var table = Table([
                ("NAME", .left), ("PROTOCOL", .left), ("TARGET", .left), ("ASSIGNED", .left),
                ("SERVERS", .left), ("SESSIONS", .right), ("FROM CLIENTS", .right),
                ("FROM SERVERS", .right),
            ])
            for resource in resources {
                table.add([
                    resource.name, resource.protocol, resource.target, resource.assigned,
                    Text.list(resource.servers), "\(resource.sessions)",
                    "\(resource.clientBytes)", "\(resource.serverBytes)",
                ])
            }
            return table.text
        }
    }
}

struct ServerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "server", abstract: "Storage servers.", subcommands: [ServerList.self],
        defaultSubcommand: ServerList.self)
}

struct ServerList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Servers with their health.")

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        daemon.show(try daemon.get([ServerModel].self, "/servers")) { servers in
            var table = Table([
                ("NAME", .left), ("ADDRESS", .left), ("HEALTH", .left), ("SINCE", .right),
                ("CHECKS", .right), ("FAILED", .right), ("LATENCY", .right), ("SESSIONS", .right),
                ("RESOURCES", .left), ("REASON", .left),
            ])
            for server in servers {
                table.add([
                    server.name, server.activeAddress ?? Text.list(server.addresses),
                    server.health.rawValue, Text.duration(server.stateAgeS), "\(server.checks)",
                    "\(server.checksFailed)", server.latencyUs.map { "\($0) us" } ?? "-",
                    "\(server.sessions)", Text.list(server.resources), server.healthReason ?? "",
                ])
            }
            return table.text
        }
    }
}
