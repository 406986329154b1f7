import ArgumentParser
import Foundation

/// How commands name a lab that is up.
struct LabSelection: ParsableArguments {
    @Argument(help: "Name of the lab: of its topology, or its prefix.")
    var name: String

    @Option(help: "Prefix that the lab was brought up with (default: its name).")
    var prefix: String?

    @Option(help: "State directory that the lab was brought up with.")
    var state: String?

    /// A topology may be named by its path.
    var lab: String {
        if let prefix { return prefix }
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
