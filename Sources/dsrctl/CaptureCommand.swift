import ArgumentParser
import ControlPlane
import Foundation

struct CaptureCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "capture", abstract: "Captures of ports, for tcpdump and Wireshark.",
        subcommands: [CaptureStart.self, CaptureStop.self, CaptureList.self],
        defaultSubcommand: CaptureList.self)

    static func table(_ captures: [CaptureModel]) -> String {
        var table = Table([
            ("PORT", .left), ("STATE", .left), ("PACKETS", .right), ("BYTES", .right),
            ("DROPS", .right), ("FILE", .left), ("FILTER", .left), ("ERROR", .left),
        ])
        for capture in captures {
            table.add([
                capture.port, capture.isRunning ? "running" : "ended", "\(capture.packets)",
                "\(capture.bytes)", "\(capture.drops)", capture.file, capture.filter ?? "",
                capture.error ?? "",
            ])
        }
        return table.text
    }
}

struct CaptureStart: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "start",
        abstract: "Writes what passes a port, in both directions, to a pcap file.",
        discussion: """
            The daemon writes the file; it is replaced when it is there already. With all, x.pcap \
            becomes one file for each port: x-PORT.pcap; --count is for each of them.
            """)

    @Argument(help: "Number or name of a port, or all.")
    var port: String

    @Argument(help: "The capture file.")
    var file: String

    @Option(help: "End after this many packets.")
    var count: Int?

    @Option(help: "Only packets that this pcap-filter(7) expression takes.")
    var filter: String?

    @OptionGroup var daemon: DaemonOptions

    func validate() throws {
        if let count, count < 1 { throw ValidationError("--count is 1 or more") }
    }

    func run() throws {
        // The daemon has another working directory.
        let path = URL(fileURLWithPath: file).standardizedFileURL.path
        let request = CaptureRequest(port: port, file: path, count: count, filter: filter)
        let capture = try daemon.send("POST", "/capture", request, as: CaptureModel.self)
        daemon.show(capture) {
            ($0.port == "all" ? "all ports are written to " : "port \($0.port) is written to ")
                + $0.file
        }
    }
}

struct CaptureStop: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stop", abstract: "Ends a capture and completes its file.")

    @Argument(help: "Number or name of the port, or all.")
    var port: String

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        let capture = try daemon.send(
            "DELETE", "/capture?port=" + DaemonOptions.query(port), as: CaptureModel.self)
        daemon.show(capture) {
            "\($0.packets) packets, \($0.bytes) bytes in \($0.file)"
                + ($0.error.map { "; ended early: \($0)" } ?? "")
        }
    }
}

struct CaptureList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Captures, running and ended.")

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        daemon.show(
            try daemon.get([CaptureModel].self, "/capture"), people: CaptureCommand.table)
    }
}
