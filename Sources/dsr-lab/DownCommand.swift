import ArgumentParser
import Foundation

struct DownCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "down",
        abstract: "Ends everything that runs in a lab and removes it, whatever state it is in.")

    @OptionGroup var selection: LabSelection

    func run() throws {
        try requireRoot()
        if let state = selection.find() {
            try Lab.takeDown(state)
        } else {
            // The state is gone or broken; what the topology would have made may be there still.
            guard let state = try leftover() else {
                return print("lab \(selection.lab) is not up")
            }
            try Lab.takeDown(state)
        }
        print("lab \(selection.lab) is down")
    }

    private func leftover() throws -> LabState? {
        let directory = selection.state.map(absolute) ?? LabState.registered(selection.lab)
        let present = Set(try Namespaces.all())
        guard let file = try? TopologyFile.find(selection.name) else {
            let mine = present.filter { $0.hasPrefix(selection.lab + "-") }.sorted()
            if mine.isEmpty { return nil }
            throw LabError(
                "there is no state of lab \(selection.lab) and no topology \(selection.name), but "
                    + "there is \(mine.joined(separator: ", ")): give the topology, and --prefix")
        }
        var state = LabState(
            prefix: selection.lab, topology: file.path, directory: directory, dsrd: "",
            namespaces: [])
        state.namespaces = file.topology.namespaces.map(state.namespace)
        let hasFiles = FileManager.default.fileExists(atPath: directory)
        return hasFiles || state.namespaces.contains(where: present.contains) ? state : nil
    }
}
