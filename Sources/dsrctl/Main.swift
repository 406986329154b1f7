import ArgumentParser
import Glibc

/// Command line of the Dynamic Session Redirector.
struct Control: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dsrctl",
        abstract: "Looks into and controls a running dsrd, and replays captures without one.",
        discussion: """
            Exit status: 0 done, 1 refused or failed, 2 wrong command line, 3 no daemon answers.
            """,
        version: "0.1.0",
        subcommands: [
            FlowCommand.self, PortCommand.self, MACCommand.self, SessionCommand.self,
            ResourceCommand.self, ServerCommand.self, CaptureCommand.self, ReplayCommand.self,
            StatusCommand.self, MetricsCommand.self, EventsCommand.self, ReloadCommand.self,
        ])
}

@main
enum Main {
    static func main() {
        do {
            var command = try Control.parseAsRoot()
            try command.run()
        } catch {
            exit(Failure.report(error))
        }
    }
}
