import ArgumentParser
import ControlPlane
import Foundation
import Glibc

struct FlowCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "flow", abstract: "Rules and exact flows.",
        discussion: """
            Rules are written as ovs-ofctl(8) takes them:
              priority=100,tcp,nw_dst=10.0.0.1 actions=output:2
            """,
        subcommands: [
            FlowAdd.self, FlowList.self, FlowDelete.self, FlowReplace.self, FlowTrace.self,
        ])
}

/// Sends rules, and gives a refusal its place.
private func sendRules(
    _ rules: [RuleFile.Line], file: String?, method: String, daemon: DaemonOptions
) throws {
    do throws(any Error) {
        let request = RulesRequest(rules: rules.map(\.text))
        let change = try daemon.send(method, "/rules", request, as: ChangeModel.self)
        daemon.show(change) { _ in "" }
    } catch let refused as ControlClient.Refused {
        guard let file, let index = refused.model.line, rules.indices.contains(index - 1) else {
            throw refused
        }
        throw PlacedRefusal(model: refused.model, place: "\(file):\(rules[index - 1].number)")
    }
}

struct FlowAdd: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "add", abstract: "Adds rules: all of them, or none.")

    @Argument(help: "Rules, each as one argument.")
    var rules: [String]

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        let lines = rules.enumerated().map { RuleFile.Line(number: $0 + 1, text: $1) }
        try sendRules(lines, file: nil, method: "POST", daemon: daemon)
    }
}

struct FlowReplace: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "replace",
        abstract: "Replaces all rules at once by those of a file.",
        discussion: """
            Rules that are there already keep their counters. The switch's own rules stay.
            """)

    @Argument(help: "One rule a line, # starts a comment; - is standard input.")
    var file: String

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        let name = file == "-" ? "<stdin>" : file
        try sendRules(
            RuleFile.lines(TextFile.read(file)), file: name, method: "PUT", daemon: daemon)
    }
}

struct FlowList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "Prints rules as ovs-ofctl dump-flows does, and exact flows.")

    @Argument(help: "Only rules at least as specific as this match; no exact flows then.")
    var match: String?

    @Flag(help: "Only rules, no exact flows.")
    var rules = false

    @Flag(help: "Also the switch's own rules.")
    var all = false

    @OptionGroup var daemon: DaemonOptions

    struct Listing: Codable {
        var rules: [RuleModel]
        var flows: [FlowModel]?
    }

    func run() throws {
        let target = match.map { "/rules?match=" + DaemonOptions.query($0) } ?? "/rules"
        let found = try daemon.get([RuleModel].self, target).filter { all || !$0.isOfSwitch }
        let flows = match == nil && !rules ? try exactFlows() : nil
        daemon.show(Listing(rules: found, flows: flows)) { listing in
            (listing.rules.map(\.listing) + (listing.flows ?? []).map(\.listing))
                .joined(separator: "\n")
        }
    }

    /// All pages.
    private func exactFlows() throws -> [FlowModel] {
        var flows: [FlowModel] = []
        while true {
            let page = try daemon.get(
                FlowPage.self, "/flows?offset=\(flows.count)&limit=10000")
            flows += page.flows
            if page.flows.isEmpty || flows.count >= page.total { return flows }
        }
    }
}

struct FlowDelete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete", abstract: "Deletes rules as ovs-ofctl del-flows does.",
        discussion: "Prints how many were deleted. The switch's own rules stay.")

    @Argument(
        help: "Rules at least as specific as this match; cookie=V/M and out_port=P narrow it.")
    var match: String?

    @Flag(help: "The rule with exactly this match and priority.")
    var strict = false

    @Flag(help: "Needed to delete every rule.")
    var all = false

    @OptionGroup var daemon: DaemonOptions

    func validate() throws {
        if match == nil, !all {
            throw ValidationError("say which rules: a match, or --all for every rule")
        }
        if match != nil, all { throw ValidationError("--all and a match exclude each other") }
    }

    func run() throws {
        let selector = DaemonOptions.query(match ?? "")
        let change = try daemon.send(
            "DELETE", "/rules?match=\(selector)&strict=\(strict ? 1 : 0)", as: ChangeModel.self)
        daemon.show(change) { "\($0.count)" }
    }
}

struct FlowTrace: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "trace",
        abstract: "Runs one packet through the switch and tells what happens to it.",
        discussion: """
            The packet is a whole Ethernet frame in hexadecimal, or a description in rule syntax:
              dsrctl flow trace in_port=1,dl_dst=02:00:00:00:00:02,tcp,nw_dst=10.0.0.1,tcp_dst=3260
            Nothing is sent, learned or counted. dsrctl replay --trace does the same to a capture \
            without a daemon.
            """)

    @Argument(help: "Hexadecimal, or a description.")
    var packet: String

    @Option(help: "Number or name of the port where it comes in; may stand in a description.")
    var inPort: String?

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        var request = TraceRequest(packet: packet, inPort: inPort)
        let isHexadecimal = packet.allSatisfy { $0.isHexDigit || $0.isWhitespace }
        if !isHexadecimal {
            let names = try daemon.get([PortModel].self, "/ports")
            let (frame, port) = try describe(names)
            request.packet = frame.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
            if inPort == nil, port != 0 { request.inPort = "\(port)" }
        }
        guard request.inPort != nil else {
            throw ValidationError("say where the packet comes in: --in-port, or in_port= in it")
        }
        let model = try daemon.send("POST", "/trace", request, as: TraceModel.self)
        daemon.show(model) { $0.steps.joined(separator: "\n") }
    }

    private func describe(_ ports: [PortModel]) throws -> (frame: [UInt8], inPort: UInt16) {
        // Names by number; a number may be free.
        let count = Int(ports.map(\.number).max() ?? 0)
        let names = (0..<count).map { index in
            ports.first { Int($0.number) == index + 1 }?.name ?? ""
        }
        do throws(RuleSyntaxError) {
            return try PacketDescription.parse(packet, ports: PortNames(names))
        } catch {
            throw CommandFailure("the packet's description:\n" + error.rendering)
        }
    }
}

enum TextFile {
    /// Content of a file or, for `-`, of standard input.
    static func read(_ path: String) throws -> String {
        var handle = FileHandle.standardInput
        if path != "-" {
            // Pipes and devices too, which `Data(contentsOf:)` refuses.
            guard let file = FileHandle(forReadingAtPath: path) else {
                throw CommandFailure("cannot read \(path): \(String(cString: strerror(errno)))")
            }
            handle = file
        }
        let data: Data
        do {
            data = try handle.readToEnd() ?? Data()
        } catch {
            throw CommandFailure("cannot read \(path)")
        }
        guard let text = String(bytes: data, encoding: .utf8) else {
            throw CommandFailure("\(path) is not text in UTF-8")
        }
        return text
    }
}
