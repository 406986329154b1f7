import ArgumentParser

struct ServerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "server",
        abstract: "Stops, kills (SIGKILL) or starts the services of a host.",
        discussion: "dsr-lab server stop|kill|start NAME SERVER")

    enum Verb: String, ExpressibleByArgument, CaseIterable { case stop, kill, start }

    @Argument(help: "stop, kill or start.")
    var verb: Verb

    @OptionGroup var selection: LabSelection

    @Argument(help: "Host, as server1 or dsr1.")
    var server: String

    func run() throws {
        var lab = try Lab(selection.load())
        for service in try lab.services(of: server) {
            switch verb {
            case .stop: try lab.stop(service)
            case .kill: try lab.kill(service)
            case .start: try lab.start(service)
            }
        }
    }
}
