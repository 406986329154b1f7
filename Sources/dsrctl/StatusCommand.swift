import ArgumentParser
import ControlPlane
import Foundation
import Glibc

struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "The daemon in a few lines.")

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        daemon.show(try daemon.get(StatusModel.self, "/status"), people: text)
    }

    private func text(_ status: StatusModel) -> String {
        func counts(_ values: [String: some BinaryInteger]) -> String {
            values.isEmpty
                ? "none"
                : values.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }
                    .joined(separator: ", ")
        }
        let states = status.sessionsByState
        return Table.pairs([
            ("version", status.version),
            ("process", "\(status.pid), up \(Text.duration(status.uptimeS))"),
            ("configuration", status.configuration),
            ("addresses", Text.list(status.virtualAddresses)),
            ("ready", status.isReady ? "yes" : "no"),
            ("ports", "\(status.ports), \(status.portsUp) up"),
            ("rules", "\(status.rules)"),
            ("exact flows", "\(status.flows)"),
            ("learned addresses", "\(status.macs)"),
            ("sessions", "\(status.sessions)" + (states.isEmpty ? "" : ": " + counts(states))),
            (
                "unprotected",
                status.sessionsUnprotected == 0 && status.requestsUnprotected == 0
                    ? "no session"
                    : "\(status.sessionsUnprotected) sessions now, "
                        + "\(status.requestsUnprotected) requests since the start"
            ),
            ("resources", "\(status.resources)"),
            ("servers", "\(status.servers), \(status.serversHealthy) healthy"),
            ("packets", "\(status.rxPackets) received, \(status.txPackets) sent"),
            ("drops", counts(status.drops)),
            ("events lost", status.eventsLost == 0 ? nil : "\(status.eventsLost)"),
            (
                "warnings",
                status.warnings.isEmpty ? nil : status.warnings.joined(separator: "; ")
            ),
        ])
    }
}

struct MetricsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "metrics", abstract: "All counters, in Prometheus' text format.")

    @OptionGroup var daemon: DaemonOptions

    func validate() throws {
        if daemon.output.json { throw ValidationError("metrics have no JSON form") }
    }

    func run() throws {
        let data = try daemon.client.request("GET", "/metrics")
        print(String(decoding: data, as: UTF8.self), terminator: "")
    }
}

struct ReloadCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "reload", abstract: "Lets the daemon read its configuration again.")

    @Flag(help: "Only say what would change and what that would disturb.")
    var dryRun = false

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        let model = try daemon.send(
            "POST", "/reload", ReloadRequest(dryRun: dryRun), as: ReloadModel.self)
        daemon.show(model) { model in
            let lines =
                model.changes + model.disturbs.map { "disturbs: \($0)" }
                + model.warnings.map { "warning: \($0)" }
            return (lines + [model.isApplied ? "applied" : "not applied"]).joined(separator: "\n")
        }
    }
}
