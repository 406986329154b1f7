import ArgumentParser

struct LinkCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "link",
        abstract: "Pulls the cables of a host out (down) or puts them in again (up).",
        discussion: "dsr-lab link NAME HOST up|down")

    enum Position: String, ExpressibleByArgument, CaseIterable { case up, down }

    @OptionGroup var selection: LabSelection

    @Argument(help: "Host.")
    var host: String

    @Argument(help: "up or down.")
    var position: Position

    func run() throws {
        let state = try selection.load()
        let topology = try Lab(state).topology
        let interfaces = topology.interfaces.filter { $0.host == host }
        guard !interfaces.isEmpty else { throw LabError("\(host) has no link") }
        for interface in interfaces {
            try Command.run([
                "ip", "-n", state.namespace(host), "link", "set", interface.device,
                position.rawValue,
            ])
        }
        // Routes go with the link; those of its own networks come back by themselves.
        guard position == .up else { return }
        for route in topology.hosts.first(where: { $0.name == host })?.routes ?? [] {
            try Command.run([
                "ip", "-n", state.namespace(host), "route", "replace", route.to, "via", route.via,
            ])
        }
    }
}
