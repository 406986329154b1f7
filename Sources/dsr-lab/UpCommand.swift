import ArgumentParser
import Foundation

struct UpCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "up", abstract: "Brings a lab up.")

    @Argument(help: "Topology: a name in topologies, a folder, or a file.")
    var topology: String

    @Option(help: "Prefix of the namespaces and name of the lab (default: the topology's name).")
    var prefix: String?

    @Option(help: "Directory for logs, sockets and the SAN's files (default: /run/dsr-lab/PREFIX).")
    var state: String?

    @Option(help: "dsrd to run (default: the one beside dsr-lab).")
    var dsrd: String?

    @Option(help: "Configuration of dsrd (default: the one that the topology names).")
    var dsrConfig: String?

    @Option(help: "dsr-agent to run (default: the one beside dsr-lab).")
    var agent: String?

    @Flag(help: "Leave dsrd out.")
    var noDsrd = false

    @Flag(help: "Leave the agents of servers out.")
    var noAgents = false

    func run() throws {
        try requireRoot()
        let file = try TopologyFile.find(topology)
        let prefix = prefix ?? file.topology.name
        guard !prefix.isEmpty,
            prefix.allSatisfy({ $0.isLetter || $0.isNumber || $0 == "-" || $0 == "_" })
        else { throw ValidationError("--prefix consists of letters, digits, - and _") }
        if let dsrConfig, !FileManager.default.isReadableFile(atPath: dsrConfig) {
            throw LabError("\(dsrConfig): cannot be read")
        }
        var state = LabState(
            prefix: prefix, topology: file.path,
            directory: state.map(absolute) ?? LabState.registered(prefix),
            dsrd: dsrd.map(absolute) ?? Executable.beside("dsrd"),
            redirectorConfiguration: dsrConfig.map(absolute), agent: agent.map(absolute),
            namespaces: [])
        state.namespaces = file.topology.namespaces.map(state.namespace)
        var lab = Lab(state: state, file: file)
        try lab.bringUp(withRedirector: !noDsrd, withAgents: !noAgents)
        print("lab \(prefix) is up: \(file.topology.hosts.map(\.name).joined(separator: ", "))")
    }
}
