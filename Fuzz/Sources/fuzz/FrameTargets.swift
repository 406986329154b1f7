import ControlPlane
import DataPlane
import Foundation
import StorageProtocols

func sum(_ bytes: some Sequence<UInt8>) -> UInt32 {
    var (total, isHigh) = (UInt32(0), true)
    for octet in bytes {
        total += isHigh ? UInt32(octet) << 8 : UInt32(octet)
        isHigh.toggle()
    }
    return total
}

func checksum(_ total: UInt32) -> [UInt8] {
    var value = total
    while value > 0xffff { value = value & 0xffff + value >> 16 }
    value = ~value & 0xffff
    return [UInt8(value >> 8), UInt8(value & 255)]
}

func big(_ value: UInt32) -> [UInt8] {
    (0..<4).map { UInt8(value >> UInt32(24 - $0 * 8) & 255) }
}
func big(_ value: UInt16) -> [UInt8] { [UInt8(value >> 8), UInt8(value & 255)] }

/// A TCP segment over IPv4 with right checksums.
private func segment(
    from source: UInt32, _ sourcePort: UInt16, to destination: UInt32, _ port: UInt16,
    sequence: UInt32, acknowledgement: UInt32, flags: UInt8 = 0x10, payload: [UInt8] = []
) -> [UInt8] {
    var tcp = big(sourcePort) + big(port) + big(sequence) + big(acknowledgement)
    tcp += [0x50, flags, 0x40, 0, 0, 0, 0, 0] + payload
    let pseudo = big(source) + big(destination) + [0, 6] + big(UInt16(tcp.count))
    tcp.replaceSubrange(16..<18, with: checksum(sum(pseudo) + sum(tcp)))
    var ip: [UInt8] = [0x45, 0] + big(UInt16(20 + tcp.count)) + [0, 1, 0x40, 0, 64, 6, 0, 0]
    ip += big(source) + big(destination)
    ip.replaceSubrange(10..<12, with: checksum(sum(ip)))
    return [2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 9, 8, 0] + ip + tcp
}

private let client: UInt32 = 0x0a00_0009
private let virtual: UInt32 = 0x0a00_0001
private let ownStorage: UInt32 = 0x0a00_0101
private let server: UInt32 = 0x0a00_010b

private func hex(_ text: String) -> [UInt8] {
    let digits = text.compactMap(\.hexDigitValue)
    return stride(from: 0, to: digits.count - 1, by: 2).map {
        UInt8(digits[$0] << 4 | digits[$0 + 1])
    }
}

private let frameSeeds: [[UInt8]] = [
    segment(
        from: client, 40_000, to: virtual, 80, sequence: 1, acknowledgement: 1,
        payload: [1, 2, 3, 4]),
    segment(from: client, 40_000, to: virtual, 80, sequence: 1, acknowledgement: 0, flags: 2),
    // ARP request.
    hex(
        "ffffffffffff020000000009 0806 0001080006040001 020000000009 0a000009 000000000000 0a000001"
    ),
    // Tagged IPv6 UDP.
    hex(
        "020000000101020000000009 8100 2005 86dd 60000000 000c 1140 fd000000000000000000000000000009"
            + "fd000000000000000000000000000001 0035 0035 000c 0000 01020304"),
    // IPv6 with hop-by-hop, routing and fragment headers before ICMPv6.
    hex(
        "020000000101020000000009 86dd 60000000 0020 0040 fd000000000000000000000000000009"
            + "fd000000000000000000000000000001 2b00010400000000 2c00000000000000 3a00000100000001"
            + "8000 0000 00010001"),
    // IPv4 fragment with options; ICMP error that quotes a datagram.
    hex(
        "020000000101020000000009 0800 46000024 0001 2000 40 11 0000 0a000009 0a000001 01010100"
            + "00350035 0010 0000 01020304 05060708"),
    hex(
        "020000000101020000000009 0800 45000038 0001 0000 40 01 0000 0a000009 0a000001 0304 0000"
            + "00000578 45000028 0001 4000 4006 0000 0a000001 0a000009 0050 9c40 00000001"),
]

func smallPipeline(_ ports: [MemoryPort]) -> Pipeline {
    var configuration = PipelineConfiguration()
    configuration.rules = 64
    configuration.flows = 256
    configuration.macsPerDomain = 32
    configuration.fragments = 8
    configuration.fragmentOctets = 1 << 16
    configuration.splices = 4
    configuration.heldOctets = 1 << 16
    configuration.datagramServices = 2
    configuration.datagramBindings = 16
    configuration.datagramHandles = 64
    configuration.datagramCalls = 64
    configuration.events = 64
    var pipeline = Pipeline(configuration: configuration)
    for (index, port) in ports.enumerated() {
        // Network and CPU port of each of two domains.
        pipeline.addPort(
            port, number: PortNumber(index + 1), domain: DomainID(index / 2),
            isCPU: index % 2 == 1, mtu: 1_500)
    }
    return pipeline
}

private let rules: [Rule] = [
    "priority=5,tcp,tp_dst=80 actions=dec_ttl,mod_nw_dst:10.0.1.11,mod_tp_dst:81,output:3",
    "priority=4,udp6 actions=set_field:fd00::5->ipv6_dst,pop_vlan,push_vlan:0x88a8,mod_vlan_vid:9,3",
    "priority=3,icmp actions=mod_nw_tos:4,mirror:4,in_port", "priority=2,arp actions=FLOOD",
    "priority=1,ip,nw_frag=later actions=cpu", "priority=0 actions=NORMAL",
].compactMap { try? RuleSyntax.parse($0) }

func runFrames(_ random: inout SeededGenerator) throws -> String? {
    let ports = (1...4).map { MemoryPort(name: "p\($0)", capacity: 1_024) }
    var pipeline = smallPipeline(ports)
    _ = try pipeline.apply(rules.map { .addRule($0) }, now: 1)
    var now: UInt64 = 1_000_000
    for _ in 0..<random.number(1...12) {
        var offload = VirtioHeader()
        if random.chance(4) {
            offload.flags = random.octet() & 3
            offload.segmentationType = random.pick([0, 1, 3, 4, 5, 0x81, 0xff])
            offload.headerLength = UInt16(random.number(0...200))
            offload.segmentSize = UInt16(random.number(0...2_000))
            offload.checksumStart = UInt16(random.number(0...100))
            offload.checksumOffset = UInt16(random.number(0...20))
        }
        random.pick(ports).inject(random.mutated(random.pick(frameSeeds)), offload: offload)
        now += UInt64(random.number(0...2_000_000_000))
        _ = pipeline.step(now: now)
        pipeline.tick(now: now)
    }
    for port in ports where port.drain().contains(where: { $0.bytes.count > Frame.maximumLength }) {
        return "a frame longer than any was sent"
    }
    return nil
}

/// Of the calls that a spliced session of NFS passes.
private let known = [UInt8](repeating: 0x42, count: 32)

/// A record of RPC: a call with a handle that is known or not, or a reply; mostly the last fragment.
private func record(isReply: Bool, _ random: inout SeededGenerator) -> [UInt8] {
    let xid = UInt32(random.number(0...3))
    var message = RPCMessage.reply(xid: xid, results: random.octets(random.number(0...300)))
    if !isReply {
        let procedure = anyProcedure(&random)
        message = rpcCall(
            NFSProgram.number, procedure.version.rawValue, procedure.number,
            nfsArguments(procedure, known: [known], &random), xid: xid)
    }
    let mark: UInt32 = random.chance(12) ? 0 : 0x8000_0000
    return big(mark | UInt32(message.count)) + message
}

/// A session that is spliced: segments of both ends, in and out of order, with PDUs or calls in them.
func runSplice(_ random: inout SeededGenerator) throws -> String? {
    let ports = (1...4).map { MemoryPort(name: "p\($0)", capacity: 1_024) }
    var pipeline = smallPipeline(ports)
    func leg(
        _ domain: DomainID, _ local: UInt32, _ localPort: UInt16, _ remote: UInt32, _ port: UInt16
    )
        -> SpliceLeg
    {
        SpliceLeg(
            domain: domain, localAddress: IPAddress(v4: local), localPort: localPort,
            localMAC: MACAddress(rawValue: 0x0200_0000_0101), remoteAddress: IPAddress(v4: remote),
            remotePort: port, remoteMAC: MACAddress(rawValue: 0x0200_0000_0009),
            remoteBase: SequenceNumber(1_000))
    }
    let position = SocketPositions(
        receiveNext: SequenceNumber(1_000), sendNext: SequenceNumber(5_000), sendWindow: 65_535,
        maximumWindow: 65_535, receiveWindow: 65_535)
    let edit = MessageEdit(
        field: .init(offset: 24, width: 4), operation: .add(7), kinds: random.next())
    let format: MessageFormat = random.pick([.iscsi, .rpc, .smb2])
    // The others have shorter headers.
    let edits = format == .iscsi ? [edit] : []
    let isRPC = format == .rpc
    let rules: RequestRules? = isRPC ? .rpc : format == .iscsi ? .iscsi : nil
    let messages = SpliceMessages(
        format: format, clientEdits: edits, serverEdits: edits,
        clientHoldKinds: random.chance(3) ? random.next() : 0, requests: rules,
        clientHandles: isRPC && !random.chance(4) ? RPCHandleSet([known: 3]) : nil)
    let log = rules.flatMap { rules -> SessionLog? in
        guard random.chance(2) else { return nil }
        return SessionLog(
            format: format, rules: rules, maximum: 1 << 20,
            budget: RequestLogBudget(maximum: 1 << 20))
    }
    var commands: [SpliceCommand] = [
        .open(
            0, client: leg(0, virtual, 3_260, client, 40_000), usesTimestamps: false,
            usesSACK: false), .attachServer(0, leg(1, ownStorage, 50_000, server, 3_260)),
        .beginDrainToSplice(0), .hold(0),
        .install(0, client: position, server: position, messages: messages, log: log),
    ]
    let others: [SpliceCommand] = [
        .beginDrainToSlow(0), .abortToSpliced(0), .probe(0), .hold(0), .resumeDrain(0),
        .abortToSlow(0), .finishToSlow(0, client: position, server: position), .inspect(0),
        .close(0),
    ]
    var now: UInt64 = 1_000_000
    var sequences: [UInt32] = [1_000, 1_000]
    for _ in 0..<random.number(4...24) {
        if !commands.isEmpty {
            _ = try? pipeline.apply([.splice(commands.removeFirst())], now: now)
            if random.chance(8) {
                _ = try? pipeline.apply([.splice(random.pick(others))], now: now)
            }
            // Mostly the session is spliced before anything is sent.
            if !random.chance(10) { continue }
        } else if random.chance(12) {
            _ = try? pipeline.apply([.splice(random.pick(others))], now: now)
        }
        let side = random.number(0...1)
        var pdu = [UInt8](repeating: 0, count: 48)
        pdu[0] = random.octet() & 0x3f
        pdu[7] = random.octet()
        let data = random.octets(random.number(0...300))
        let message = isRPC ? record(isReply: side == 1, &random) : pdu + data
        let payload = isRPC && !random.chance(3) ? message : random.mutated(message)
        let sequence =
            random.chance(4)
            ? sequences[side] &+ UInt32(truncatingIfNeeded: random.number(-400...400))
            : sequences[side]
        sequences[side] &+= UInt32(payload.count)
        let flags: UInt8 = random.chance(12) ? random.octet() : 0x18
        let acknowledgement = UInt32(5_000 + random.number(-10...1_000))
        var frame =
            side == 0
            ? segment(
                from: client, 40_000, to: virtual, 3_260, sequence: sequence,
                acknowledgement: acknowledgement, flags: flags, payload: payload)
            : segment(
                from: server, 3_260, to: ownStorage, 50_000, sequence: sequence,
                acknowledgement: acknowledgement, flags: flags, payload: payload)
        if random.chance(6) { frame = random.mutated(frame) }
        ports[side * 2].inject(frame)
        now += UInt64(random.number(0...50_000_000))
        _ = pipeline.step(now: now)
        pipeline.tick(now: now)
    }
    return nil
}

func runCapture(_ random: inout SeededGenerator) throws -> String? {
    // Header of a pcap file, little endian, Ethernet; then two records.
    var seed = hex("d4c3b2a1 0200 0400 00000000 00000000 00000400 01000000")
    for frame in frameSeeds.prefix(2) {
        let length = [UInt8(frame.count), 0, 0, 0]
        seed += hex("01000000 02000000") + length + length + frame
    }
    let path = NSTemporaryDirectory() + "dsr-fuzz-\(getpid()).pcap"
    defer { unlink(path) }
    try Data(random.mutated(seed)).write(to: URL(fileURLWithPath: path))
    guard let reader = try? CaptureReader(path: path) else { return nil }
    var frames = 0
    while frames < 1_000, (try? reader.next()) != nil { frames += 1 }
    return frames > 100 ? "\(frames) frames from two" : nil
}
