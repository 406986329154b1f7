import ArgumentParser
import ControlPlane

struct PortCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "port", abstract: "Ports of the switch.", subcommands: [PortList.self],
        defaultSubcommand: PortList.self)
}

struct PortList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Ports with their counters.")

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        daemon.show(try daemon.get([PortModel].self, "/ports")) { ports in
            var table = Table([
                ("PORT", .right), ("NAME", .left), ("DEVICE", .left), ("KIND", .left),
                ("SIDE", .left), ("STATE", .left), ("RX PACKETS", .right), ("RX BYTES", .right),
                ("RX DROPS", .right), ("TX PACKETS", .right), ("TX BYTES", .right),
                ("TX DROPS", .right),
            ])
            for port in ports {
                table.add([
                    "\(port.number)", port.name, port.device, port.kind, port.side,
                    port.isUp ? "up" : "down", "\(port.rxPackets)", "\(port.rxBytes)",
                    "\(port.rxDrops + port.rxTruncated)", "\(port.txPackets)", "\(port.txBytes)",
                    "\(port.txDrops)",
                ])
            }
            return table.text
        }
    }
}

struct MACCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mac", abstract: "Learned addresses.",
        subcommands: [MACList.self, MACFlush.self], defaultSubcommand: MACList.self)
}

struct MACList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Addresses, and the ports behind which they are.")

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        daemon.show(try daemon.get([MACModel].self, "/macs")) { macs in
            var table = Table([
                ("MAC", .left), ("DOMAIN", .right), ("PORT", .right), ("NAME", .left),
                ("AGE", .right),
            ])
            for mac in macs {
                table.add([
                    mac.mac, "\(mac.domain)", "\(mac.port)", mac.portName,
                    Text.duration(mac.ageS),
                ])
            }
            return table.text
        }
    }
}

struct MACFlush: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "flush", abstract: "Forgets learned addresses; prints how many.")

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        let change = try daemon.send("DELETE", "/macs", as: ChangeModel.self)
        daemon.show(change) { "\($0.count)" }
    }
}
