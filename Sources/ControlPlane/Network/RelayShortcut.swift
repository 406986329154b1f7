import CLinux
import DataPlane
import Glibc

/// A shorter way for connections that are relayed for good: their packets pass between network port and CPU port
/// inside the kernel (eBPF), and the dataplane sees nothing of them. The relay's octets are then copied as often as
/// those of a proxy with sockets on the network itself.
///
/// Needs TCX (Linux 6.6). A port with injected faults, or one that is no network device, has none. Lives on the
/// session thread, but for its start.
final class RelayShortcut {
    private struct NetworkPort {
        var index: UInt32
        var domain: DomainID
        var link: Int32
    }

    private var programs = dsr_shortcut()
    private var ports: [PortNumber: NetworkPort] = [:]
    /// By domain: index and attachment of the CPU port's device.
    private var cpus: [DomainID: (index: UInt32, link: Int32)] = [:]
    private var flows: [ObjectIdentifier: WeakFlow] = [:]

    private struct WeakFlow { weak var flow: Flow? }

    /// Connections at once; both directions of each are an entry.
    private static let maximum: UInt32 = 1 << 17

    init() throws(SystemCallError) {
        let result = dsr_shortcut_open(&programs, Self.maximum)
        guard result == 0 else {
            throw SystemCallError(function: "bpf", errno: -result, context: "relay shortcut")
        }
    }

    deinit {
        for port in ports.values { close(port.link) }
        for cpu in cpus.values { close(cpu.link) }
        dsr_shortcut_close(&programs)
    }

    /// What a packet socket must be given, or it would see, and forward, what has gone already.
    var socketFilter: Int32 { programs.filter }

    private func attach(
        _ program: Int32, _ device: String, isEgress: Bool
    ) throws(SystemCallError) -> (UInt32, Int32) {
        let index = if_nametoindex(device)
        guard index > 0 else {
            throw SystemCallError(function: "if_nametoindex", errno: errno, context: device)
        }
        let link = dsr_shortcut_attach(program, Int32(index), isEgress ? 1 : 0)
        guard link >= 0 else {
            throw SystemCallError(function: "BPF_LINK_CREATE", errno: -link, context: device)
        }
        return (index, link)
    }

    /// A network port with the filter at its socket. One that came back is told again.
    func add(_ number: PortNumber, device: String, domain: DomainID) throws(SystemCallError) {
        if let old = ports.removeValue(forKey: number) { close(old.link) }
        let (index, link) = try attach(programs.ingress, device, isEgress: false)
        ports[number] = NetworkPort(index: index, domain: domain, link: link)
    }

    func add(cpu device: String, domain: DomainID) throws(SystemCallError) {
        let (index, link) = try attach(programs.egress, device, isEgress: true)
        cpus[domain] = (index, link)
    }

    /// The link of a port has gone down, or the device: what goes there must go by the dataplane, which knows.
    func lost(_ number: PortNumber) {
        for flow in flows.values.compactMap(\.flow) where flow.port == number { flow.remove() }
    }

    /// One connection. It ends with the object.
    final class Flow {
        private let owner: RelayShortcut
        private let local: SocketAddress
        private let remote: SocketAddress
        private let domain: DomainID
        /// Nil: its packets go by the dataplane.
        fileprivate(set) var port: PortNumber?

        fileprivate init(
            _ owner: RelayShortcut, local: SocketAddress, remote: SocketAddress, domain: DomainID
        ) {
            self.owner = owner
            self.local = local
            self.remote = remote
            self.domain = domain
        }

        deinit {
            remove()
            owner.flows[ObjectIdentifier(self)] = nil
        }

        /// Its remote end is behind this port; nil: nobody knows, and nothing changes.
        func update(_ number: PortNumber?) {
            guard let number, number != port else { return }
            remove()
            guard let device = owner.ports[number], device.domain == domain,
                let cpu = owner.cpus[domain]
            else { return }
            var inward = RelayShortcut.key(from: remote, to: local, device.index)
            var outward = RelayShortcut.key(from: local, to: remote, cpu.index)
            guard dsr_shortcut_set(owner.programs.map, &inward, cpu.index) == 0 else { return }
            guard dsr_shortcut_set(owner.programs.map, &outward, device.index) == 0 else {
                _ = dsr_shortcut_remove(owner.programs.map, &inward)
                return
            }
            port = number
        }

        fileprivate func remove() {
            guard let number = port else { return }
            port = nil
            if let device = owner.ports[number] {
                var inward = RelayShortcut.key(from: remote, to: local, device.index)
                _ = dsr_shortcut_remove(owner.programs.map, &inward)
            }
            if let cpu = owner.cpus[domain] {
                var outward = RelayShortcut.key(from: local, to: remote, cpu.index)
                _ = dsr_shortcut_remove(owner.programs.map, &outward)
            }
        }
    }

    /// For a connection of the CPU port of a domain; `update` starts it.
    func flow(local: SocketAddress, remote: SocketAddress, domain: DomainID) -> Flow {
        let flow = Flow(self, local: local, remote: remote, domain: domain)
        flows[ObjectIdentifier(flow)] = WeakFlow(flow: flow)
        return flow
    }

    private static func key(
        from source: SocketAddress, to destination: SocketAddress, _ device: UInt32
    ) -> dsr_shortcut_key {
        var key = dsr_shortcut_key()
        withUnsafeMutableBytes(of: &key) { bytes in
            put(source.address, into: bytes, at: 0)
            put(destination.address, into: bytes, at: 16)
        }
        key.source_port = source.port.bigEndian
        key.destination_port = destination.port.bigEndian
        key.ifindex = device
        return key
    }

    private static func put(
        _ address: IPAddress, into bytes: UnsafeMutableRawBufferPointer, at offset: Int
    ) {
        if address.isIPv4 {
            bytes.storeBytes(of: address.v4.bigEndian, toByteOffset: offset, as: UInt32.self)
        } else {
            bytes.storeBytes(of: address.high.bigEndian, toByteOffset: offset, as: UInt64.self)
            bytes.storeBytes(of: address.low.bigEndian, toByteOffset: offset + 8, as: UInt64.self)
        }
    }
}
