import DataPlane

/// What is measured: returns how many packets, or look-ups, were done in one round of `bursts`,
/// each of 64.
struct Case {
    var run: (_ bursts: Int) -> Int
}

let client = IPAddress(v4: 0x0a00_0000)
let virtual = IPAddress(v4: 0xc0a8_0001)
let server = IPAddress(v4: 0xc0a8_0102)

private func octets(_ word: UInt16) -> [UInt8] {
    [UInt8(word >> 8), UInt8(truncatingIfNeeded: word)]
}

/// Ethernet, IPv4, UDP from port 40000; the header checksum is right for flow 0.
func udpFrame(
    _ payload: [UInt8] = [UInt8](repeating: 7, count: 18), destinationPort: UInt16 = 3_260
) -> [UInt8] {
    let length = UInt16(8 + payload.count)
    var ip: [UInt8] = [
        0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 0, 192, 168, 0, 1,
    ]
    ip.replaceSubrange(2..<4, with: octets(20 + length))
    var sum = 0
    for index in stride(from: 0, to: 20, by: 2) {
        sum += Int(ip[index]) << 8 | Int(ip[index + 1])
    }
    while sum >> 16 != 0 { sum = sum & 0xffff + sum >> 16 }
    ip[10] = UInt8(~sum >> 8 & 0xff)
    ip[11] = UInt8(~sum & 0xff)
    // A UDP checksum of 1, kept up to date by the switch; nobody here verifies it.
    let udp = octets(40_000) + octets(destinationPort) + octets(length) + octets(1)
    return [2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 2, 8, 0] + ip + udp + payload
}

/// Sets the low 24 bits of the source address and mends the header checksum (RFC 1624).
private func setSource(_ frame: UnsafeMutableRawPointer, _ flow: UInt32) {
    func word(_ offset: Int) -> UInt32 {
        UInt32(frame.loadUnaligned(fromByteOffset: offset, as: UInt16.self).bigEndian)
    }
    let high = 0x0a00 | flow >> 16 & 0xff
    let low = flow & 0xffff
    var sum = (~word(24) & 0xffff) + (~word(26) & 0xffff) + (~word(28) & 0xffff) + high + low
    while sum >> 16 != 0 { sum = sum & 0xffff + sum >> 16 }
    frame.storeBytes(
        of: UInt16(truncatingIfNeeded: ~sum).bigEndian, toByteOffset: 24, as: UInt16.self)
    frame.storeBytes(of: (high << 16 | low).bigEndian, toByteOffset: 26, as: UInt32.self)
}

/// A pipeline with a port that is never empty and one where everything goes.
final class Bench {
    private var pipeline: Pipeline
    private let output: BurstPort

    init(flows: Int, configuration: PipelineConfiguration) {
        pipeline = Pipeline(configuration: configuration)
        output = BurstPort(name: "out", template: [], flows: 1) { _, _ in }
        let input = BurstPort(name: "in", template: udpFrame(), flows: flows, patch: setSource)
        pipeline.addPort(input, number: 1)
        pipeline.addPort(output, number: 2)
    }

    /// The same with two sides: `input` is in domain 0, what goes out is in domain 1.
    /// - Parameter greeting: a frame from there, by which the switch learns who is there.
    init(input: BurstPort, greeting: [UInt8], configuration: PipelineConfiguration) {
        pipeline = Pipeline(configuration: configuration)
        output = BurstPort(name: "out", template: [], flows: 1, greeting: greeting) { _, _ in }
        pipeline.addPort(output, number: 1, domain: 1)
        // The greeting comes before anything that goes out.
        pipeline.step(now: 1)
        pipeline.addPort(input, number: 2)
    }

    func apply(_ commands: [Command]) {
        do throws(BatchError) { _ = try pipeline.apply(commands, now: 1) } catch {
            fatalError("\(error)")
        }
    }

    func run(_ bursts: Int) -> Int {
        let before = output.sent
        for index in 0..<bursts {
            // The clock costs the same whatever the table holds: it is not read here.
            pipeline.step(now: 1_000_000_000 &+ UInt64(index))
        }
        return output.sent - before
    }
}

func configuration(flows: Int) -> PipelineConfiguration {
    var configuration = PipelineConfiguration()
    configuration.flows = flows
    configuration.splices = 1
    configuration.heldOctets = 1 << 20
    configuration.fragmentOctets = 1 << 20
    return configuration
}

/// `count` exact flows, each with its own list of actions. The table is as large in every case, so that
/// only the number of flows differs.
func exactFlows(_ count: Int) -> Case {
    let bench = Bench(flows: count, configuration: configuration(flows: 1 << 20))
    var batch: [Command] = []
    for flow in 0..<UInt32(count) {
        let key = FlowKey(
            source: IPAddress(v4: client.v4 | flow), sourcePort: 40_000, destination: virtual,
            destinationPort: 3_260, ipProtocol: 17, domain: 0, origin: .network)
        batch.append(
            .addFlow(
                key,
                actions: [
                    .setDestinationAddress(server), .setDestinationPort(3_261), .output(2),
                ], cookie: UInt64(flow), idleTimeout: 0))
        if batch.count == 10_000 || flow + 1 == UInt32(count) {
            bench.apply(batch)
            batch.removeAll(keepingCapacity: true)
        }
    }
    return Case { bench.run($0) }
}

/// Rules with `count` different masks; only the one of lowest priority matches, so that every tuple is
/// looked at.
func maskedRules(_ count: Int) -> Case {
    let bench = Bench(flows: 1_000, configuration: configuration(flows: 64))
    var commands: [Command] = []
    for index in 0..<count {
        // One mask for each prefix length of the source and destination addresses; low bits differ.
        var match = Match()
        let isLast = index == count - 1
        match.mask.etherType = 0xffff
        match.value.etherType = 0x0800
        if !isLast {
            match.mask.sourceLow = (UInt64.max << UInt64(index % 24)) | 0xffff_ffff_0000_0000
            match.mask.sourceHigh = .max
            match.mask.destinationLow =
                (UInt64.max << UInt64(index / 24)) | 0xffff_ffff_0000_0000
            match.mask.destinationHigh = .max
            // No packet comes from this address.
            match.value.sourceLow = (0xffff_0b00_0000 | 1 << 23) & match.mask.sourceLow
            match.value.destinationLow = virtual.low & match.mask.destinationLow
        }
        commands.append(
            .addRule(
                Rule(
                    priority: UInt16(1_000 - index), match: match,
                    actions: [
                        .setDestinationAddress(server), .setDestinationPort(3_261), .output(2),
                    ])))
    }
    bench.apply(commands)
    return Case { bench.run($0) }
}
