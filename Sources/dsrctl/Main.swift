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
            ResourceCommand.self, VolumeCommand.self, NFSCommand.self, ServerCommand.self,
            BalanceCommand.self, CaptureCommand.self, ReplayCommand.self, StatusCommand.self,
            MetricsCommand.self, EventsCommand.self, ReloadCommand.self,
        ])
}

@main
enum Main {
    static func main() {
        do {
            var command = try Control.parseAsRoot(arguments)
            try command.run()
        } catch {
            exit(Failure.report(error))
        }
    }

    /// Options may stand before the verb too: `dsrctl --socket PATH flow list`.
    private static var arguments: [String] {
        var words = Array(CommandLine.arguments.dropFirst())
        var leading: [String] = []
        while let word = words.first {
            if word == "--json" || word.hasPrefix("--socket=") {
                leading.append(words.removeFirst())
            } else if word == "--socket", words.count > 1 {
                leading += words.prefix(2)
                words.removeFirst(2)
            } else {
                break
            }
        }
        // Behind the verb, which is at most two words, and before any "--".
        let verb = words.prefix(2).prefix { !$0.hasPrefix("-") }
        return verb + leading + words.dropFirst(verb.count)
    }
}
