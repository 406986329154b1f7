import DataPlane
import TestSupport
import Testing

/// A splice installed at once at chosen positions, for tests of the translation alone.
struct SpliceFixture {
    struct Options {
        var isIPv6 = false
        var usesTimestamps = true
        var usesSACK = true
        /// Announced by the end, and by us to it.
        var clientScale: UInt8 = 7
        var clientLocalScale: UInt8 = 7
        var serverScale: UInt8 = 7
        var serverLocalScale: UInt8 = 7
        var clientNext: UInt32 = 1_000
        /// Next octet that we send to the client.
        var toClientNext: UInt32 = 5_000_000
        var serverNext: UInt32 = 9_000_000
        var toServerNext: UInt32 = 7_000
        var clientTimestamp: UInt32 = 100_000
        var toClientTimestamp: UInt32 = 3_000_000
        var serverTimestamp: UInt32 = 8_000_000
        var toServerTimestamp: UInt32 = 500_000
        var messages: SpliceMessages?
        var log: SessionLog?
        var clientIsSilent = false
        var serverIsSilent = false
        var heldOctets = 1 << 20
        /// Window field of our socket's last word to the client; nil: it says nothing before the splice.
        var promisedWindow: UInt16?
    }

    static let id: SpliceID = 2
    let options: Options
    let network: TestSwitch
    let client: TCPEndpoint
    let virtual: TCPEndpoint
    let source: TCPEndpoint
    let server: TCPEndpoint

    init(_ options: Options = Options()) throws {
        self.options = options
        let v6 = options.isIPv6
        client = TCPEndpoint(v6 ? "fd01::2" : "10.1.0.2", port: 40_000, mac: 0x0200_0000_0102)
        virtual = TCPEndpoint(v6 ? "fd01::1" : "10.1.0.1", port: 3_260, mac: 0x0200_0000_0101)
        source = TCPEndpoint(v6 ? "fd02::1" : "10.2.0.1", port: 50_000, mac: 0x0200_0000_0201)
        server = TCPEndpoint(v6 ? "fd02::2" : "10.2.0.2", port: 3_261, mac: 0x0200_0000_0202)
        network = .twoSides(heldOctets: options.heldOctets)
        try open()
        try apply(.beginDrainToSplice(Self.id))
        try apply(.hold(Self.id))
        try install()
        _ = network.drain()
        _ = network.events
    }

    static func leg(
        _ domain: DomainID, _ local: TCPEndpoint, _ remote: TCPEndpoint, remoteScale: UInt8 = 7,
        localScale: UInt8 = 7
    ) -> SpliceLeg {
        SpliceLeg(
            domain: domain, localAddress: local.address, localPort: local.port,
            localMAC: local.mac, remoteAddress: remote.address, remotePort: remote.port,
            remoteMAC: remote.mac, remoteScale: remoteScale, localScale: localScale)
    }

    private func open() throws {
        try network.addRule([.flood])
        // The switch learns where the ends are.
        for (end, port) in [(client, 1), (server, 3)] as [(TCPEndpoint, PortNumber)] {
            _ = network.send(ScriptedTCPSegment().frame(from: end, to: virtual), on: port)
        }
        try apply(
            .open(
                Self.id,
                client: Self.leg(
                    0, virtual, client, remoteScale: options.clientScale,
                    localScale: options.clientLocalScale),
                usesTimestamps: options.usesTimestamps, usesSACK: options.usesSACK))
        try apply(
            .attachServer(
                Self.id,
                Self.leg(
                    1, source, server, remoteScale: options.serverScale,
                    localScale: options.serverLocalScale)))
        if !options.clientIsSilent {
            var segment = ScriptedTCPSegment(
                sequence: options.clientNext, acknowledgement: options.toClientNext)
            if options.usesTimestamps {
                segment.timestamps = .init(options.clientTimestamp, options.toClientTimestamp)
            }
            _ = network.send(segment.frame(from: client, to: virtual), on: 1)
        }
        if let window = options.promisedWindow {
            var segment = ScriptedTCPSegment(
                sequence: options.toClientNext, acknowledgement: options.clientNext, window: window)
            if options.usesTimestamps {
                segment.timestamps = .init(options.toClientTimestamp, options.clientTimestamp)
            }
            _ = network.send(segment.frame(from: virtual, to: client), on: 2)
        }
        if !options.serverIsSilent {
            var segment = ScriptedTCPSegment(
                sequence: options.serverNext, acknowledgement: options.toServerNext)
            if options.usesTimestamps {
                segment.timestamps = .init(options.serverTimestamp, options.toServerTimestamp)
            }
            _ = network.send(segment.frame(from: server, to: source), on: 3)
        }
    }

    private func install() throws {
        let hasTimestamps = options.usesTimestamps
        try apply(
            .install(
                Self.id,
                client: SocketPositions(
                    receiveNext: SequenceNumber(options.clientNext),
                    sendNext: SequenceNumber(options.toClientNext), sendWindow: 128_000,
                    timestamp: hasTimestamps ? options.toClientTimestamp : 0),
                server: SocketPositions(
                    receiveNext: SequenceNumber(options.serverNext),
                    sendNext: SequenceNumber(options.toServerNext), sendWindow: 128_000,
                    timestamp: hasTimestamps ? options.toServerTimestamp : 0),
                messages: options.messages, log: options.log))
    }

    @discardableResult
    func apply(_ command: SpliceCommand) throws -> CommandResult {
        try network.apply([.splice(command)])[0]
    }

    var snapshot: SpliceSnapshot {
        guard case .splice(let snapshot)? = try? apply(.inspect(Self.id)) else {
            return SpliceSnapshot()
        }
        return snapshot
    }

    // MARK: Positions, counted from those of the installation

    /// A segment of the client: positions are offsets.
    func fromClient(
        _ sequence: Int = 0, acknowledges: Int = 0, flags: UInt8 = ScriptedTCPSegment.ack,
        window: UInt16 = 1_000, payload: [UInt8] = []
    ) -> ScriptedTCPSegment {
        segment(
            options.clientNext &+ UInt32(truncatingIfNeeded: sequence),
            options.toClientNext &+ UInt32(truncatingIfNeeded: acknowledges), flags, window,
            payload,
            timestamps: (options.clientTimestamp, options.toClientTimestamp))
    }

    func fromServer(
        _ sequence: Int = 0, acknowledges: Int = 0, flags: UInt8 = ScriptedTCPSegment.ack,
        window: UInt16 = 1_000, payload: [UInt8] = []
    ) -> ScriptedTCPSegment {
        segment(
            options.serverNext &+ UInt32(truncatingIfNeeded: sequence),
            options.toServerNext &+ UInt32(truncatingIfNeeded: acknowledges), flags, window,
            payload,
            timestamps: (options.serverTimestamp, options.toServerTimestamp))
    }

    private func segment(
        _ sequence: UInt32, _ acknowledgement: UInt32, _ flags: UInt8, _ window: UInt16,
        _ payload: [UInt8], timestamps: (value: UInt32, echo: UInt32)
    ) -> ScriptedTCPSegment {
        var segment = ScriptedTCPSegment(
            flags: flags, sequence: sequence, acknowledgement: acknowledgement, window: window,
            payload: payload)
        if options.usesTimestamps {
            segment.timestamps = .init(timestamps.value &+ 10, timestamps.echo)
        }
        return segment
    }

    /// What comes out, with checksums verified, by port.
    func send(
        _ side: SpliceSide, _ segment: ScriptedTCPSegment, isPartial: Bool = false,
        segmentSize: Int = 1_448
    ) throws -> [PortNumber: [ReceivedTCPSegment]] {
        let ends = side == .client ? (client, virtual) : (server, source)
        let offload =
            isPartial
            ? segment.offload(segmentSize: segmentSize, isIPv4: !options.isIPv6)
            : VirtioHeader()
        return try read(
            network.send(
                segment.frame(from: ends.0, to: ends.1, isPartial: isPartial),
                on: side == .client ? 1 : 3, offload: offload))
    }

    func read(
        _ sent: [PortNumber: [MemoryPort.SentFrame]]
    ) throws -> [PortNumber: [ReceivedTCPSegment]] {
        try sent.mapValues { frames in
            try frames.map { try ReceivedTCPSegment($0.bytes, offload: $0.offload) }
        }
    }

    /// The one segment that reaches the other end.
    func pass(
        _ side: SpliceSide, _ segment: ScriptedTCPSegment, isPartial: Bool = false
    ) throws -> ScriptedTCPSegment {
        let sent = try send(side, segment, isPartial: isPartial)
        let frames = sent[side == .client ? 3 : 1] ?? []
        try #require(frames.count == 1 && sent.count == 1, "\(sent)")
        let expected = side == .client ? (source, server) : (virtual, client)
        #expect(frames[0].source == expected.0)
        #expect(frames[0].destination == expected.1)
        return frames[0].segment
    }
}
