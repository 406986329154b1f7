package import DataPlane

/// A switch with ports in memory and a clock that the test moves.
package final class TestSwitch {
    package struct PortDescription {
        package var number: PortNumber
        package var domain: DomainID
        package var isCPU: Bool
        package var mtu: Int

        package init(
            _ number: PortNumber, domain: DomainID = 0, isCPU: Bool = false, mtu: Int = 0
        ) {
            self.number = number
            self.domain = domain
            self.isCPU = isCPU
            self.mtu = mtu
        }
    }

    /// Never started: its jobs run here and now.
    package let worker: DataPlaneWorker
    package let ports: [PortNumber: MemoryPort]
    /// ns.
    package var now: UInt64 = 10_000_000_000

    package static var configuration: PipelineConfiguration {
        var configuration = PipelineConfiguration()
        configuration.rules = 64
        configuration.flows = 64
        configuration.macsPerDomain = 16
        configuration.fragments = 16
        configuration.splices = 8
        configuration.datagramServices = 4
        configuration.datagramBindings = 64
        configuration.datagramHandles = 1_024
        configuration.datagramCalls = 1_024
        configuration.heldOctets = 1 << 20
        configuration.fragmentOctets = 1 << 20
        configuration.events = 64
        return configuration
    }

    package init(
        _ descriptions: [PortDescription], configuration: PipelineConfiguration = configuration
    ) {
        worker = DataPlaneWorker(configuration: configuration)
        var made: [PortNumber: MemoryPort] = [:]
        for description in descriptions {
            made[description.number] = MemoryPort(name: "p\(description.number)")
        }
        ports = made
        _ = worker.call { pipeline in
            for description in descriptions {
                guard let port = made[description.number] else { continue }
                pipeline.addPort(
                    port, number: description.number, domain: description.domain,
                    isCPU: description.isCPU, mtu: description.mtu)
            }
        }
    }

    /// A network port and a CPU port in each of two domains: 1 and 2, 3 and 4.
    package static func twoSides(heldOctets: Int) -> TestSwitch {
        var configuration = configuration
        configuration.heldOctets = heldOctets
        return TestSwitch(
            [
                .init(1), .init(2, isCPU: true), .init(3, domain: 1),
                .init(4, domain: 1, isCPU: true),
            ], configuration: configuration)
    }

    @discardableResult
    package func apply(_ commands: [Command]) throws(BatchError) -> [CommandResult] {
        let now = now
        let outcome = worker.call { pipeline -> Result<[CommandResult], BatchError> in
            do throws(BatchError) {
                return .success(try pipeline.apply(commands, now: now))
            } catch {
                return .failure(error)
            }
        }
        guard let outcome else { throw BatchError(index: 0, reason: .stopped) }
        return try outcome.get()
    }

    /// One rule for everything, or for `match`.
    package func addRule(
        _ actions: [Action], match: Match = Match(), priority: UInt16 = 100, cookie: UInt64 = 0
    ) throws(BatchError) {
        try apply([
            .addRule(Rule(priority: priority, match: match, actions: actions, cookie: cookie))
        ])
    }

    /// Puts frames in and returns what came out of each port.
    package func send(
        _ frames: [[UInt8]], on port: PortNumber, offload: VirtioHeader = VirtioHeader()
    ) -> [PortNumber: [MemoryPort.SentFrame]] {
        for frame in frames { ports[port]?.inject(frame, offload: offload) }
        let now = now
        _ = worker.call { pipeline in
            while pipeline.step(now: now) > 0 {}
        }
        return drain()
    }

    package func send(
        _ frame: [UInt8], on port: PortNumber, offload: VirtioHeader = VirtioHeader()
    ) -> [PortNumber: [MemoryPort.SentFrame]] {
        send([frame], on: port, offload: offload)
    }

    /// Like `send`, when exactly one frame must come out: the port and the frame.
    package func sendOne(
        _ frame: [UInt8], on port: PortNumber, offload: VirtioHeader = VirtioHeader()
    ) -> (port: PortNumber, frame: MemoryPort.SentFrame)? {
        let sent = send([frame], on: port, offload: offload).flatMap { number, frames in
            frames.map { (port: number, frame: $0) }
        }
        return sent.count == 1 ? sent[0] : nil
    }

    package func drain() -> [PortNumber: [MemoryPort.SentFrame]] {
        ports.mapValues { $0.drain() }.filter { !$0.value.isEmpty }
    }

    /// Moves the clock and lets the switch do its maintenance.
    package func advance(_ nanoseconds: UInt64) {
        now += nanoseconds
        let now = now
        _ = worker.call { $0.tick(now: now) }
    }

    package func advance(seconds: Double) { advance(UInt64(seconds * 1_000_000_000)) }

    package var events: [Event] {
        var result: [Event] = []
        while let event = worker.nextEvent() { result.append(event) }
        return result
    }

    package var status: PipelineStatus {
        guard let status = worker.call({ $0.status() }) else { preconditionFailure("stopped") }
        return status
    }

    package func drops(_ reason: DropReason) -> UInt64 { status.drops[reason] ?? 0 }

    package var rules: [RuleStatus] {
        let now = now
        return worker.call { $0.ruleStatus(now: now) } ?? []
    }

    package var macs: [MACStatus] {
        let now = now
        return worker.call { $0.macStatus(now: now) } ?? []
    }
}
