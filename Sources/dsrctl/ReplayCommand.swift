import ArgumentParser
import ControlPlane
import DataPlane
import Foundation

struct ReplayCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "replay",
        abstract: "Runs captures through the switch's pipeline, without a daemon or privileges.",
        discussion: """
            The captures' time is the clock: the same input gives the same output. Port names in \
            rules, --in-port and --in are those of --ports, numbered from 1. Several captures are \
            merged by time.

            What leaves the switch goes to --out: one file for each port when the name has a %p, \
            a pcapng file with one interface for each port when it ends in .pcapng, else one pcap \
            file for all.
            """)

    @Option(help: "File of rules, as flow replace takes it; - is standard input.")
    var rules: String

    @Option(
        name: .customLong("in"),
        help: "pcap or pcapng file; PORT=FILE for another port than --in-port.")
    var inputs: [String]

    @Option(help: "Where to write what leaves the switch.")
    var out: String?

    @Option(help: "Port where captures come in; without it the first of --ports.")
    var inPort: String?

    @Option(help: "Names of the ports, separated by commas.")
    var ports = "port1,port2,port3,port4"

    @Option(help: "The port where action cpu sends.")
    var cpu: String?

    @Flag(help: "Tell what happens to each packet.")
    var trace = false

    @OptionGroup var output: OutputOptions

    private struct Input {
        var name: String
        var port: PortNumber
        var reader: CaptureReader
        var next: (bytes: [UInt8], time: UInt64)?
        var count = 0

        mutating func advance() throws {
            do throws(PortError) {
                next = try reader.next()
                count += 1
            } catch {
                throw CommandFailure("\(name), packet \(count + 1): \(error.message)")
            }
        }
    }

    func validate() throws {
        let names = portList
        if names.contains("") { throw ValidationError("--ports has an empty name") }
        if let inPort, number(inPort) == nil {
            throw ValidationError("--in-port \(inPort) is not one of --ports \(ports)")
        }
        if let cpu, !names.contains(cpu) {
            throw ValidationError("--cpu \(cpu) is not one of --ports \(ports)")
        }
    }

    private var portList: [String] {
        ports.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
    }

    private func number(_ name: String) -> PortNumber? {
        if let number = PortNames(portList).number(name) { return number }
        guard let number = PortNumber(name), number > 0, Int(number) <= portList.count else {
            return nil
        }
        return number
    }

    func run() throws {
        let parsed = try readRules()
        var inputs = try self.inputs.map(open)
        let start = inputs.compactMap { $0.next?.time }.min() ?? 0
        let replay: Replay
        do throws(Replay.Failure) {
            replay = try Replay(portNames: portList, cpu: cpu, rules: parsed, start: start)
        } catch {
            throw CommandFailure(error.description)
        }
        let sink = try out.map(create)
        var index = 0
        while let earliest = earliest(inputs), let packet = inputs[earliest].next {
            index += 1
            try feed(packet, index, port: inputs[earliest].port, to: replay, sink)
            try inputs[earliest].advance()
        }
        let report = replay.report()
        if output.json { output.printJSON(report) } else { print(ReplayText.report(report)) }
    }

    private func feed(
        _ packet: (bytes: [UInt8], time: UInt64), _ index: Int, port: PortNumber,
        to replay: Replay, _ sink: ReplayOutput?
    ) throws {
        let result = try replay.feed(packet.bytes, port: port, time: packet.time, isTraced: trace)
        if trace {
            let lines = result.trace.map { "  \($0)" }
            let text = (["packet \(index):"] + lines).joined(separator: "\n")
            // JSON on standard output stays JSON.
            if output.json { Failure.warn(text) } else { print(text) }
        }
        for frame in result.outputs { try sink?.write(frame) }
    }

    private func readRules() throws -> [Rule] {
        let text = try TextFile.read(rules)
        do throws(RuleSyntaxError) {
            return try RuleFile.parse(text, ports: PortNames(portList)).map(\.rule)
        } catch {
            var model = ErrorModel(message: error.message)
            (model.column, model.length) = (error.column, error.length)
            (model.text, model.suggestion) = (error.text, error.suggestion)
            throw PlacedRefusal(model: model, place: "\(rules):\(error.line)")
        }
    }

    /// `FILE` or `PORT=FILE`.
    private func open(_ text: String) throws -> Input {
        var path = text
        var port = inPort.flatMap(number) ?? 1
        if let equals = text.firstIndex(of: "="), let named = number(String(text[..<equals])) {
            port = named
            path = String(text[text.index(after: equals)...])
        }
        var input = Input(name: path, port: port, reader: try reader(path))
        try input.advance()
        return input
    }

    private func reader(_ path: String) throws -> CaptureReader {
        do throws(PortError) {
            return try CaptureReader(path: path)
        } catch {
            throw CommandFailure(
                error.message.hasPrefix(path) ? error.message : "\(path): \(error.message)")
        }
    }

    private func create(_ path: String) throws -> ReplayOutput {
        do {
            return try ReplayOutput(path: path, portNames: portList)
        } catch let error as PortError {
            throw CommandFailure("cannot write \(path): \(error.message)")
        } catch let error as Replay.Failure {
            throw CommandFailure(error.description)
        }
    }

    /// The capture whose next packet is the oldest.
    private func earliest(_ inputs: [Input]) -> Int? {
        inputs.indices.filter { inputs[$0].next != nil }
            .min { (inputs[$0].next?.time ?? 0) < (inputs[$1].next?.time ?? 0) }
    }
}

enum ReplayText {
    static func report(_ report: ReplayModel) -> String {
        var lines = [
            "\(report.packets) packets in \(DecimalText.seconds(report.durationS)) s of capture"
        ]
        if report.timeWentBack > 0 {
            lines.append("\(report.timeWentBack) packets were older than the one before them")
        }
        var table = Table([
            ("PORT", .right), ("NAME", .left), ("RX PACKETS", .right), ("RX BYTES", .right),
            ("TX PACKETS", .right), ("TX BYTES", .right),
        ])
        for port in report.ports {
            table.add([
                "\(port.number)", port.name, "\(port.rxPackets)", "\(port.rxBytes)",
                "\(port.txPackets)", "\(port.txBytes)",
            ])
        }
        lines.append(table.text)
        var drops = Table([("DROPS", .left), ("PACKETS", .right)])
        for (reason, count) in report.drops.sorted(by: { $0.key < $1.key }) {
            drops.add([reason, "\(count)"])
        }
        lines.append(report.drops.isEmpty ? "no drops" : drops.text)
        lines.append("\(report.rulesInstalled) rules installed, \(report.rulesExpired) expired")
        return (lines + report.rules.map(\.listing)).joined(separator: "\n")
    }
}
