import ArgumentParser

/// RAID controllers that fail and are repaired.
struct ControllerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "controller",
        abstract: "Fails or repairs a RAID controller, or shows who manages which units.",
        discussion: """
            dsr-lab controller NAME CONTROLLER fail|repair|status

            The units of a controller that fails go to the first that is left, in the order of the topology; \
            servers serve, and their agents announce, the units of the controllers that they have a path to. \
            repair gives a controller its own units back.
            """)

    enum Verb: String, ExpressibleByArgument, CaseIterable { case fail, repair, status }

    @OptionGroup var selection: LabSelection

    @Argument(help: "Controller.")
    var controller: String

    @Argument(help: "fail, repair or status.")
    var verb: Verb

    func run() throws {
        var lab = try Lab(selection.load())
        let known = (lab.topology.controllers ?? []).map(\.name)
        guard known.contains(controller) else {
            throw LabError(
                known.isEmpty
                    ? "\(lab.state.topology) has no controllers"
                    : "there is no controller \(controller); there are "
                        + known.joined(separator: ", "))
        }
        let isFailed = lab.state.failedControllers?.contains(controller) == true
        switch verb {
        case .fail:
            if isFailed { throw LabError("\(controller) has failed already") }
            try lab.setFailedControllers((lab.state.failedControllers ?? []) + [controller])
        case .repair:
            guard isFailed else { throw LabError("\(controller) has not failed") }
            try lab.setFailedControllers(lab.state.failedControllers?.filter { $0 != controller })
        case .status:
            let array = lab.array
            let units = array.units(of: controller).sorted().joined(separator: " ")
            print("\(controller) \(isFailed ? "FAILED" : "good") \(units)")
            if isFailed { throw ExitCode(1) }
        }
    }
}

/// The storage behind the servers: which server may serve which unit at the moment.
struct StorageArray {
    let topology: Topology
    let failed: Set<String>

    private var surviving: Topology.Controller? {
        topology.controllers?.first { !failed.contains($0.name) }
    }

    /// The controller that manages a unit now; nil when none is left.
    func owner(of unit: String) -> String? {
        let home = topology.controllers?.first { $0.units.contains(unit) }
        guard let home, !failed.contains(home.name) else { return surviving?.name }
        return home.name
    }

    func units(of controller: String) -> [String] {
        (topology.controllers ?? []).flatMap(\.units).filter { owner(of: $0) == controller }
    }

    /// Units without a controller are there for all.
    func isReachable(_ unit: String, from server: String) -> Bool {
        guard (topology.controllers ?? []).contains(where: { $0.units.contains(unit) }) else {
            return true
        }
        guard let owner = owner(of: unit) else { return false }
        return (topology.paths ?? []).contains { $0.server == server && $0.controller == owner }
    }
}
