import ArgumentParser
import Foundation

/// How commands name a lab that is up.
struct LabSelection: ParsableArguments {
    @Argument(
        help: "Name of the lab: of its topology, or its prefix; \"this\" for what dsrd runs in it.")
    var name: String

    @Option(help: "Prefix that the lab was brought up with (default: its name).")
    var prefix: String?

    @Option(help: "State directory that the lab was brought up with.")
    var state: String?

    /// Programs that the lab's redirector runs find the lab, and this program, by their environment.
    static let variable = "DSR_LAB"
    static func environment(_ state: LabState) -> [String: String] {
        let own = (CommandLine.arguments.first.map(absolute) ?? "") as NSString
        let path = ProcessInfo.processInfo.environment["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin"
        return [variable: state.prefix, "PATH": own.deletingLastPathComponent + ":" + path]
    }

    /// A topology may be named by its path.
    var lab: String {
        if let prefix { return prefix }
        if name == "this", let own = ProcessInfo.processInfo.environment[Self.variable] {
            return own
        }
        guard name.contains("/") else { return name }
        return (try? TopologyFile.find(name).topology.name) ?? name
    }

    func find() -> LabState? {
        LabState.load(directory: state.map(absolute) ?? LabState.registered(lab))
    }

    func load() throws -> LabState {
        try requireRoot()
        guard let found = find() else {
            throw LabError("no lab \"\(lab)\" is up; dsr-lab up brings one up")
        }
        return found
    }
}

func absolute(_ path: String) -> String {
    let full = path.hasPrefix("/") ? path : FileManager.default.currentDirectoryPath + "/" + path
    return (full as NSString).standardizingPath
}
