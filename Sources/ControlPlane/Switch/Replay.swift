public import DataPlane

/// The switch without a daemon: frames of captures go through the same pipeline as live ones, and the
/// captures' time is the clock. What comes out depends on nothing else.
public final class Replay {
    public struct Failure: Error, Hashable, Sendable, CustomStringConvertible {
        public var description: String
        public init(description: String) { self.description = description }
    }
    /// A frame as it left the switch.
    public struct Output: Hashable, Sendable {
        public var port: PortNumber
        /// ns since 1970.
        public var time: UInt64
        public var bytes: [UInt8]
    }

    public static let portMaximum = 63
    public let ports: PortNames
    private let portCount: Int
    private var pipeline: Pipeline
    private let memoryPorts: [MemoryPort]
    /// Outputs of the frame in work.
    private let sent = OutputList()
    private var clock: UInt64 = 0
    private var first: UInt64?
    private var last: UInt64 = 0
    private var received: UInt64 = 0
    private var tooLong: UInt64 = 0
    private var backwards: UInt64 = 0
    private let installed: Int

    private final class OutputList {
        var outputs: [Output] = []
        var time: UInt64 = 0
    }

    /// - Parameters:
    ///   - portNames: ports 1, 2, 3, ... of one L2 domain.
    ///   - cpu: the one that stands for the switch's own TCP/IP stack, where action `cpu` sends.
    ///   - start: time of the first frame, ns since 1970; rules are installed then.
    public init(
        portNames: [String], cpu: String? = nil, rules: [Rule], start: UInt64
    ) throws(Failure) {
        guard !portNames.isEmpty, portNames.count <= Self.portMaximum else {
            throw Failure(
                description: "\(portNames.count) ports; a switch has 1 to \(Self.portMaximum)")
        }
        if let twice = portNames.first(where: { name in portNames.count { $0 == name } > 1 }) {
            throw Failure(description: "there are two ports \"\(twice)\"")
        }
        if let cpu, !portNames.contains(cpu) {
            throw Failure(description: "CPU port \"\(cpu)\" is not among the ports")
        }
        ports = PortNames(portNames)
        portCount = portNames.count
        memoryPorts = portNames.map { MemoryPort(name: $0) }
        var configuration = PipelineConfiguration()
        // Nothing here has exact flows.
        configuration.flows = 64
        configuration.splices = 16
        configuration.heldOctets = 1 << 20
        pipeline = Pipeline(configuration: configuration)
        clock = start
        do throws(BatchError) {
            _ = try pipeline.apply([.replaceRules(rules)], now: start)
        } catch {
            throw Failure(description: "the rules cannot be installed: \(error.reason)")
        }
        installed = pipeline.status().rules
        for (index, port) in memoryPorts.enumerated() {
            let number = PortNumber(index + 1)
            port.onTransmit = { [sent] frame in
                let bytes = UnsafeRawBufferPointer(start: frame.start, count: frame.length)
                sent.outputs.append(Output(port: number, time: sent.time, bytes: Array(bytes)))
            }
            pipeline.addPort(port, number: number, isCPU: port.name == cpu)
        }
    }

    /// One frame into a port; `time` in ns since 1970. Time that goes back stands still instead.
    /// - Returns: what came out, and the trace when `isTraced`.
    public func feed(
        _ bytes: [UInt8], port: PortNumber, time: UInt64, isTraced: Bool = false
    ) throws(Failure) -> (outputs: [Output], trace: [String]) {
        guard port > 0, Int(port) <= portCount else {
            throw Failure(description: "there is no port \(port)")
        }
        if time < clock { backwards += 1 }
        clock = max(clock, time)
        if first == nil { first = clock }
        last = clock
        received += 1
        sent.outputs.removeAll(keepingCapacity: true)
        sent.time = clock
        // Rules whose time has come expire before the frame.
        pipeline.tick(now: clock)
        guard memoryPorts[Int(port) - 1].inject(bytes) else {
            tooLong += 1
            return ([], ["drop: longer than \(Frame.maximumLength) octets"])
        }
        var trace: [String] = []
        if isTraced {
            trace = pipeline.tracedStep(now: clock)
            trace += sent.outputs.map {
                "output: \($0.bytes.count) octets to port \($0.port) (\(ports.name($0.port) ?? ""))"
            }
        } else {
            pipeline.step(now: clock)
        }
        return (sent.outputs, trace)
    }

    /// Counters up to now.
    public func report() -> ReplayModel {
        var model = ReplayModel()
        let status = pipeline.status()
        model.packets = received
        model.durationS = Double(last - (first ?? last)) / 1e9
        model.timeWentBack = backwards
        for port in pipeline.portStatus() {
            model.ports.append(
                ReplayPortModel(
                    number: port.number, name: port.name,
                    rxPackets: port.counters.receivedPackets,
                    rxBytes: port.counters.receivedBytes, txPackets: port.counters.sentPackets,
                    txBytes: port.counters.sentBytes))
        }
        for (reason, count) in status.drops { model.drops["\(reason)"] = count }
        if tooLong > 0 { model.drops["frameTooLong"] = tooLong }
        model.rulesInstalled = installed
        model.rulesExpired = installed - status.rules
        model.rules = pipeline.ruleStatus(now: clock)
            .sorted { ($1.rule.priority, $0.ruleID) < ($0.rule.priority, $1.ruleID) }
            .map { RuleModel($0) }
        return model
    }
}

/// What a replay counted.
public struct ReplayModel: Codable, Hashable, Sendable {
    /// Frames of the captures.
    public var packets: UInt64 = 0
    /// From the first frame to the last.
    public var durationS: Double = 0
    /// Frames whose time was before that of the frame ahead of them.
    public var timeWentBack: UInt64 = 0
    public var ports: [ReplayPortModel] = []
    /// Packets not forwarded, by reason.
    public var drops: [String: UInt64] = [:]
    public var rulesInstalled = 0
    /// By their time-outs, within the capture's time.
    public var rulesExpired = 0
    /// Those left at the end.
    public var rules: [RuleModel] = []
    public init() {}
}

public struct ReplayPortModel: Codable, Hashable, Sendable {
    public var number: UInt16
    public var name: String
    public var rxPackets: UInt64
    public var rxBytes: UInt64
    public var txPackets: UInt64
    public var txBytes: UInt64
}
