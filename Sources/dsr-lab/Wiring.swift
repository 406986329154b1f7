/// Cables and switches between namespaces.
struct Wiring {
    let state: LabState
    let topology: Topology

    func connect() throws {
        for host in topology.hosts {
            try Namespaces.make(state.namespace(host.name))
            try Namespaces.set(
                state.namespace(host.name),
                Namespaces.usualSettings.merging(host.sysctl ?? [:]) { $1 })
        }
        for link in topology.links ?? [] { try connect(link) }
        for network in topology.networks ?? [] { try build(network) }
        for host in topology.hosts {
            for route in host.routes ?? [] {
                try Command.run([
                    "ip", "-n", state.namespace(host.name), "route", "add", route.to, "via",
                    route.via,
                ])
            }
        }
    }

    func connect(_ link: Topology.Link) throws {
        try cable(
            state.namespace(link.ends[0].host), link.ends[0].device,
            state.namespace(link.ends[1].host), link.ends[1].device, mtu: link.mtu)
        for end in link.ends { try configure(end) }
    }

    private func build(_ network: Topology.Network) throws {
        let name = state.namespace("net-\(network.name)")
        try Namespaces.make(name)
        try Namespaces.set(name, ["net.ipv6.conf.default.disable_ipv6": "1"])
        try Command.run(["ip", "-n", name, "link", "add", "bridge", "type", "bridge"])
        try Command.run(["ip", "-n", name, "link", "set", "bridge", "up"])
        for (index, member) in network.members.enumerated() {
            try cable(
                state.namespace(member.host), member.device, name, "p\(index)", mtu: network.mtu)
            try Command.run(["ip", "-n", name, "link", "set", "p\(index)", "master", "bridge"])
            try configure(member)
        }
    }

    /// The queue is long because what reads it shares the processors with all the others here.
    private func cable(
        _ first: String, _ firstDevice: String, _ second: String, _ secondDevice: String, mtu: Int?
    ) throws {
        let size = mtu.map { ["mtu", String($0)] } ?? []
        let length = ["txqueuelen", "10000"]
        try Command.run(
            ["ip", "-n", first, "link", "add", firstDevice] + size + length
                + ["type", "veth", "peer", "name", secondDevice] + size + length
                + ["netns", second])
        for (name, device) in [(first, firstDevice), (second, secondDevice)] {
            try Command.run(["ip", "-n", name, "link", "set", device, "txqueuelen", "10000", "up"])
        }
    }

    private func configure(_ interface: Topology.Interface) throws {
        let name = state.namespace(interface.host)
        let setting = "net.ipv6.conf.\(interface.device)"
        let addresses = interface.addresses ?? []
        guard !addresses.isEmpty else {
            return try Namespaces.set(name, ["\(setting).disable_ipv6": "1"])
        }
        // A pulled cable must not take the IPv6 addresses with it.
        try Namespaces.set(
            name,
            [
                "\(setting).keep_addr_on_down": "1", "\(setting).accept_dad": "0",
                "\(setting).accept_ra": "0",
            ])
        for address in addresses {
            let flags = address.contains(":") ? ["nodad"] : []
            try Command.run(
                ["ip", "-n", name, "address", "add", address, "dev", interface.device] + flags)
        }
    }
}
