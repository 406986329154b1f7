import DataPlane
import TestSupport
import Testing

/// Clients at port 1 and servers at port 3 of a switch with a datagram service; CPU ports are 2 and 4. What the
/// service does not take goes to the CPU port as it is.
struct DatagramFixture {
    static let service: DatagramServiceID = 1
    static let magic: UInt32 = 0xd512_3450
    static let clientSideMAC = MACAddress(rawValue: 0x0200_0000_0101)
    static let storageSideMAC = MACAddress(rawValue: 0x0200_0000_0201)

    let network: TestSwitch
    let isIPv4: Bool
    let virtual: IPAddress
    let storage: IPAddress

    /// The service is there, and the switch knows where two servers are.
    init(
        isIPv4: Bool = true, mtu: Int = 0,
        configuration: PipelineConfiguration = TestSwitch.configuration
    ) throws {
        self.isIPv4 = isIPv4
        virtual = Self.address(isIPv4, 1, 1)
        storage = Self.address(isIPv4, 2, 1)
        network = TestSwitch(
            [
                .init(1, mtu: mtu), .init(2, isCPU: true), .init(3, domain: 1, mtu: mtu),
                .init(4, domain: 1, isCPU: true),
            ], configuration: configuration)
        try network.addRule([.normal])
        try apply(.setService(Self.service, Self.description))
        for number in 0..<2 { meet(number) }
    }

    /// In the network of the clients (1) or the servers (2).
    static func address(_ isIPv4: Bool, _ network: UInt64, _ host: UInt64) -> IPAddress {
        isIPv4
            ? IPAddress(v4: UInt32(0x0a00_0000 | network << 16 | host))
            : IPAddress(high: 0xfd00 << 48 | network << 48, low: host)
    }

    static var description: DatagramService {
        DatagramService(
            clientDomain: 0,
            virtualAddresses: DatagramAddresses(
                ipv4: address(true, 1, 1), ipv6: address(false, 1, 1)),
            clientMAC: clientSideMAC, storageDomain: 1,
            storageAddresses: DatagramAddresses(
                ipv4: address(true, 2, 1), ipv6: address(false, 2, 1)),
            storageMAC: storageSideMAC, handleMagic: magic)
    }

    // MARK: Who is there

    func client(_ number: Int) -> DatagramEndpoint {
        DatagramEndpoint(
            address: Self.address(isIPv4, 1, UInt64(16 + number)), port: 700 + UInt16(number))
    }

    func clientMAC(_ number: Int) -> MACAddress {
        MACAddress(rawValue: 0x0200_0000_1100 + UInt64(number))
    }

    func localPort(_ number: Int) -> UInt16 { 40_000 + UInt16(number) }

    func server(_ number: Int) -> DatagramServer {
        DatagramServer(
            address: Self.address(isIPv4, 2, UInt64(16 + number)), port: 2_049,
            mac: MACAddress(rawValue: 0x0200_0000_2200 + UInt64(number)))
    }

    /// The switch learns where a server is.
    func meet(_ number: Int) {
        var hello = PacketBuilder()
        hello.sourceMAC = server(number).mac
        hello.destinationMAC = Self.storageSideMAC
        _ = network.send(hello.arp(), on: 3)
    }

    // MARK: Commands

    func apply(_ commands: DatagramCommand...) throws(BatchError) {
        _ = try network.apply(commands.map { .datagram($0) })
    }

    func bind(_ number: Int = 0, resources: DatagramResourceSet = .all) throws(BatchError) {
        try apply(
            .bind(
                Self.service, client: client(number), localPort: localPort(number),
                resources: resources))
    }

    var status: DatagramStatus {
        guard let status = network.worker.call({ $0.datagramStatus() }) else {
            preconditionFailure("stopped")
        }
        return status
    }

    func resource(_ id: DatagramResourceID) -> DatagramResourceStatus? {
        network.worker.call { $0.datagramResource(id) } ?? nil
    }

    func binding(_ number: Int = 0) -> DatagramBindingStatus? {
        let client = client(number)
        return network.worker.call { $0.datagramBinding(Self.service, client: client) } ?? nil
    }

    var bindings: [DatagramBindingStatus] {
        var result: [DatagramBindingStatus] = []
        var next: Int? = 0
        while let start = next {
            guard
                let page = network.worker.call({ $0.datagramBindings(from: start, limit: 7) })
            else { break }
            result += page.bindings
            next = page.next
        }
        return result
    }

    // MARK: Packets

    /// A handle that names its resource itself.
    static func prefixed(_ resource: UInt32, _ handle: [UInt8]) -> [UInt8] {
        bigEndian32(magic) + bigEndian32(resource) + handle
    }

    private func packet(
        _ message: [UInt8], from source: DatagramEndpoint, _ sourceMAC: MACAddress,
        to destination: DatagramEndpoint, _ destinationMAC: MACAddress
    ) -> PacketBuilder {
        var builder = PacketBuilder("10.0.0.1", "10.0.0.2", .udp, payload: message)
        builder.source = source.address
        builder.destination = destination.address
        builder.sourcePort = source.port
        builder.destinationPort = destination.port
        builder.sourceMAC = sourceMAC
        builder.destinationMAC = destinationMAC
        return builder
    }

    private var virtualEndpoint: DatagramEndpoint {
        DatagramEndpoint(address: virtual, port: 2_049)
    }

    private func localEndpoint(_ number: Int) -> DatagramEndpoint {
        DatagramEndpoint(address: storage, port: localPort(number))
    }

    private func endpoint(_ server: DatagramServer) -> DatagramEndpoint {
        DatagramEndpoint(address: server.address, port: server.port)
    }

    /// A call as the client sends it.
    func call(_ message: [UInt8], client number: Int = 0) -> PacketBuilder {
        packet(
            message, from: client(number), clientMAC(number), to: virtualEndpoint,
            Self.clientSideMAC)
    }

    /// A call as the server gets it.
    func forwarded(_ message: [UInt8], client number: Int = 0, server: Int = 0) -> PacketBuilder {
        let server = self.server(server)
        return packet(
            message, from: localEndpoint(number), Self.storageSideMAC, to: endpoint(server),
            server.mac)
    }

    /// A reply as the server sends it.
    func reply(_ message: [UInt8], client number: Int = 0, server: Int = 0) -> PacketBuilder {
        let server = self.server(server)
        return packet(
            message, from: endpoint(server), server.mac, to: localEndpoint(number),
            Self.storageSideMAC)
    }

    /// A reply as the client gets it.
    func returned(_ message: [UInt8], client number: Int = 0) -> PacketBuilder {
        packet(
            message, from: virtualEndpoint, Self.clientSideMAC, to: client(number),
            clientMAC(number))
    }

    static func identification(of frame: [UInt8]) -> UInt32 {
        func number(_ range: Range<Int>) -> UInt32 {
            frame[range].reduce(0) { $0 << 8 | UInt32($1) }
        }
        guard frame.count >= 20 else { return 0 }
        if frame[12] == 8 { return number(18..<20) }
        return frame.count >= 62 && frame[20] == 44 ? number(58..<62) : 0
    }

    // MARK: What comes out

    typealias Sent = [PortNumber: [MemoryPort.SentFrame]]

    func send(_ builder: PacketBuilder, on port: PortNumber) -> Sent {
        network.send(builder.frame(), on: port)
    }

    /// One frame came out, at `port`: this one, but for the identification, which is the switch's.
    func check(
        _ sent: Sent, _ port: PortNumber, _ wanted: PacketBuilder, _ comment: Comment? = nil,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        var wanted = wanted
        wanted.identification = Self.identification(of: sent[port]?.first?.bytes ?? [])
        let bytes = sent.mapValues { $0.map(\.bytes) }
        #expect(bytes == [port: [wanted.frame()]], comment, sourceLocation: sourceLocation)
    }

    /// The frame came out at a CPU port as it was.
    func checkMiss(
        _ sent: Sent, _ port: PortNumber, _ frame: [UInt8], _ comment: Comment? = nil,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let bytes = sent.mapValues { $0.map(\.bytes) }
        #expect(bytes == [port: [frame]], comment, sourceLocation: sourceLocation)
    }
}
