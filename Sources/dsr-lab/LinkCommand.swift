import ArgumentParser

struct LinkCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "link",
        abstract:
            "Pulls the cables of a host out (down), puts them in again (up), removes or adds them.",
        discussion: """
            dsr-lab link NAME HOST[:DEVICE] down|up|remove|add

            remove deletes the device at the other end, the switch's port, and with it the host's own; add \
            makes both again with the same addresses and routes.
            """)

    enum Change: String, ExpressibleByArgument, CaseIterable { case down, up, remove, add }

    @OptionGroup var selection: LabSelection

    @Argument(help: "Host, or one device of it as server1:eth0.")
    var place: String

    @Argument(help: "down, up, remove or add.")
    var change: Change

    private var host: String { String(place.prefix { $0 != ":" }) }
    private var device: String? {
        place.contains(":") ? String(place.drop { $0 != ":" }.dropFirst()) : nil
    }

    func run() throws {
        let state = try selection.load()
        let topology = try Lab(state).topology
        switch change {
        case .down, .up: try pull(state, topology)
        case .remove, .add: try exchange(state, topology)
        }
        // Routes go with the link; those of its own networks come back by themselves.
        guard change == .up || change == .add else { return }
        for route in topology.hosts.first(where: { $0.name == host })?.routes ?? [] {
            try Command.run([
                "ip", "-n", state.namespace(host), "route", "replace", route.to, "via", route.via,
            ])
        }
    }

    private func isMeant(_ interface: Topology.Interface) -> Bool {
        interface.host == host && (device == nil || interface.device == device)
    }

    private func pull(_ state: LabState, _ topology: Topology) throws {
        let interfaces = topology.interfaces.filter(isMeant)
        guard !interfaces.isEmpty else { throw LabError("\(place) has no link") }
        for interface in interfaces {
            try Command.run([
                "ip", "-n", state.namespace(host), "link", "set", interface.device, change.rawValue,
            ])
        }
    }

    private func exchange(_ state: LabState, _ topology: Topology) throws {
        let links = (topology.links ?? []).filter { $0.ends.contains(where: isMeant) }
        guard !links.isEmpty else {
            throw LabError("\(place) has no link of its own (an end of networks stays)")
        }
        for link in links {
            if change == .add {
                try Wiring(state: state, topology: topology).connect(link)
            } else {
                let port = link.ends.first { !isMeant($0) } ?? link.ends[0]
                try Command.run([
                    "ip", "-n", state.namespace(port.host), "link", "delete", port.device,
                ])
            }
        }
    }
}
