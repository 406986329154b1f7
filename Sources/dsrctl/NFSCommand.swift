import ArgumentParser
import ControlPlane

struct NFSCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "nfs", abstract: "Exports, and who uses them.",
        subcommands: [NFSExportsCommand.self, NFSMountsCommand.self, NFSClientsCommand.self],
        defaultSubcommand: NFSExportsCommand.self)
}

struct NFSExportsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "exports", abstract: "Exports with their servers and what they do.",
        discussion: """
            CALLS and REPLIES are all that went to servers and came back, FAST the calls among \
            them that the dataplane has forwarded by itself; REPLIES/S and LATENCY are the last \
            second's. GIVEN UP are calls for which no server was there in time.
            """)

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        daemon.show(try daemon.get([NFSExportModel].self, "/nfs/exports")) { exports in
            var table = Table([
                ("NAME", .left), ("DIRECTORY", .left), ("PATH", .left), ("HANDLES", .left),
                ("INDEX", .right), ("ASSIGNED", .left), ("STATE", .left), ("REPLIES/S", .right),
                ("LATENCY", .right), ("CALLS", .right), ("REPLIES", .right), ("FAST", .right),
                ("GIVEN UP", .right),
            ])
            for export in exports {
                table.add([
                    export.name, export.directory, export.path, export.handles,
                    "\(export.index)", export.assigned, export.state.rawValue,
                    Text.load(export.repliesPerS), export.latencyUs.map { "\($0) us" } ?? "-",
                    "\(export.calls)", "\(export.replies)", "\(export.fastCalls)",
                    "\(export.givenUp)",
                ])
            }
            return table.text
        }
    }
}

struct NFSMountsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mounts", abstract: "What clients have mounted.",
        discussion: """
            Clients forget to say that they are gone, and what they have mounted works without \
            this list: it begins anew with the daemon.
            """)

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        daemon.show(try daemon.get([NFSMountModel].self, "/nfs/mounts")) { mounts in
            var table = Table([
                ("CLIENT", .left), ("PATH", .left), ("RESOURCE", .left), ("SINCE", .right),
            ])
            for mount in mounts {
                table.add([
                    mount.client, mount.path, mount.resource ?? "-", Text.duration(mount.ageS),
                ])
            }
            return table.text
        }
    }
}

struct NFSClientsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "clients", abstract: "Clients, by address.",
        discussion: """
            OPEN are calls in the control plane. FAST PORTS are UDP ports whose calls pass the \
            dataplane alone, FAST CALLS what they have brought there, IDLE the time since the last \
            packet.
            """)

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        daemon.show(try daemon.get([NFSClientModel].self, "/nfs/clients")) { clients in
            var table = Table([
                ("CLIENT", .left), ("TRANSPORTS", .left), ("MOUNTS", .right),
                ("CONNECTIONS", .right), ("OPEN", .right), ("FAST PORTS", .right),
                ("FAST CALLS", .right), ("IDLE", .right),
            ])
            for client in clients {
                table.add([
                    client.client, Text.list(client.transports), "\(client.mounts)",
                    "\(client.connections)", "\(client.openCalls)", "\(client.fastPorts)",
                    "\(client.fastCalls)", client.fastIdleS.map(Text.duration) ?? "-",
                ])
            }
            return table.text
        }
    }
}
