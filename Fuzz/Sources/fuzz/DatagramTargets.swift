import DataPlane
import StorageProtocols

/// An IPv4 address with a UDP port.
private struct Endpoint {
    var address: UInt32
    var port: UInt16
}

private let client = Endpoint(address: 0x0a00_0009, port: 700)
private let virtual = Endpoint(address: 0x0a00_0001, port: 2_049)
private let ownStorage = Endpoint(address: 0x0a00_0101, port: 40_000)
private let server = Endpoint(address: 0x0a00_010b, port: 2_049)
private let clientMAC: [UInt8] = [2, 0, 0, 0, 0, 9]
private let clientSideMAC: [UInt8] = [2, 0, 0, 0, 1, 1]
private let storageSideMAC: [UInt8] = [2, 0, 0, 0, 2, 1]
private let serverMAC: [UInt8] = [2, 0, 0, 0, 0, 11]
private let magic: UInt32 = 0xd512_3450
/// Of resource 6.
private let installed = [UInt8](repeating: 0x43, count: 32)

private func address(_ octets: [UInt8]) -> MACAddress {
    MACAddress(rawValue: octets.reduce(0) { $0 << 8 | UInt64($1) })
}

/// A datagram over IPv4 with right checksums, in fragments of `size` octets, a multiple of 8.
private func datagram(
    _ payload: [UInt8], from source: Endpoint, to destination: Endpoint, ethernet: [UInt8],
    identification: UInt16, size: Int
) -> [[UInt8]] {
    var segment = big(source.port) + big(destination.port)
    segment += big(UInt16(8 + payload.count)) + [0, 0] + payload
    var pseudo = big(source.address) + big(destination.address)
    pseudo += [0, 17] + segment[4..<6]
    segment.replaceSubrange(6..<8, with: checksum(sum(pseudo) + sum(segment)))
    return stride(from: 0, to: segment.count, by: size).map { start in
        let part = segment[start..<min(segment.count, start + size)]
        let more: UInt16 = part.endIndex < segment.count ? 0x2000 : 0
        var ip: [UInt8] = [0x45, 0] + big(UInt16(20 + part.count)) + big(identification)
        ip += big(more | UInt16(start / 8)) + [64, 17, 0, 0]
        ip += big(source.address) + big(destination.address)
        ip.replaceSubrange(10..<12, with: checksum(sum(ip)))
        return ethernet + [8, 0] + ip + part
    }
}

private func makeCall(_ random: inout SeededGenerator) -> [UInt8] {
    let procedure = anyProcedure(&random)
    var handle = installed
    if random.chance(2) {
        handle = big(magic) + big(UInt32(random.number(4...6))) + random.octets(28)
        // Of version 2 too, where no such handle is: all have 32 octets.
        if procedure.version == .v2 { handle = Array(handle.prefix(32)) }
    }
    var arguments = nfsArguments(procedure, known: [handle], &random)
    if random.chance(3) { arguments += random.octets(random.number(0...3_000)) }
    return rpcCall(
        NFSProgram.number, procedure.version.rawValue, procedure.number, arguments,
        xid: UInt32(random.number(0...20)))
}

private func makeReply(_ random: inout SeededGenerator) -> [UInt8] {
    RPCMessage.reply(
        xid: UInt32(random.number(0...20)), results: random.octets(random.number(0...3_000)))
}

private func commands() -> [DatagramCommand] {
    let service = DatagramService(
        clientDomain: 0,
        virtualAddresses: DatagramAddresses(ipv4: IPAddress(v4: virtual.address)),
        clientMAC: address(clientSideMAC), storageDomain: 1,
        storageAddresses: DatagramAddresses(ipv4: IPAddress(v4: ownStorage.address)),
        storageMAC: address(storageSideMAC), handleMagic: magic)
    let place = DatagramServer(
        address: IPAddress(v4: server.address), mac: address(serverMAC))
    let endpoint = DatagramEndpoint(address: IPAddress(v4: client.address), port: client.port)
    return [
        .setService(0, service), .setResource(5, server: place), .setResource(6, server: place),
        .installHandle(installed, resource: 6),
        .bind(0, client: endpoint, localPort: ownStorage.port, resources: .all),
    ]
}

/// Calls and replies of NFS through a switch with a datagram service: in fragments that come in any
/// order, twice or not at all, and changed in any place. When time has gone by, none of them is left.
func runDatagrams(_ random: inout SeededGenerator) throws -> String? {
    let ports = (1...4).map { MemoryPort(name: "p\($0)", capacity: 1_024) }
    var pipeline = smallPipeline(ports)
    let setup = commands()
    _ = try pipeline.apply(
        [.addRule(Rule(priority: 1, match: Match(), actions: [.normal]))]
            + setup.map { .datagram($0) }, now: 1)
    let others: [DatagramCommand] = [
        .setResource(5, server: nil), .removeHandles(of: 6), .removeHandle(installed),
        .setService(0, nil),
    ]
    var now: UInt64 = 1_000_000
    // The switch learns where the server is.
    let towardsSwitch = storageSideMAC + serverMAC
    for frame in datagram(
        [0], from: server, to: ownStorage, ethernet: towardsSwitch, identification: 9, size: 64)
    { ports[2].inject(frame) }
    for _ in 0..<random.number(4...24) {
        let isReply = random.chance(3)
        let message = isReply ? makeReply(&random) : makeCall(&random)
        var frames = datagram(
            random.chance(3) ? random.mutated(message) : message,
            from: isReply ? server : client, to: isReply ? ownStorage : virtual,
            ethernet: isReply ? towardsSwitch : clientSideMAC + clientMAC,
            identification: UInt16(random.number(0...3)),
            size: random.pick([64, 512, 1_480, 65_528]))
        if random.chance(3) { frames.shuffle(using: &random) }
        for frame in frames where !random.chance(12) {
            ports[isReply ? 2 : 0].inject(random.chance(6) ? random.mutated(frame) : frame)
            if random.chance(12) { ports[isReply ? 2 : 0].inject(frame) }
        }
        if random.chance(8) {
            let command = random.pick(others + setup)
            _ = try? pipeline.apply([.datagram(command)], now: now)
        }
        now += UInt64(random.number(0...500_000_000))
        while pipeline.step(now: now) > 0 {}
        pipeline.tick(now: now)
        for port in ports
        where port.drain().contains(where: { $0.bytes.count > Frame.maximumLength }) {
            return "a frame longer than any was sent"
        }
    }
    for _ in 0..<2 {
        now += 3_000_000_000
        pipeline.tick(now: now)
    }
    let status = pipeline.datagramStatus()
    guard status.fragments == 0, status.waitingFragments == 0, status.waitingOctets == 0 else {
        return "\(status.fragments) fragmented datagrams are kept for ever"
    }
    return nil
}
