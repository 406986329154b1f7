import Foundation
import Glibc

/// A lab: brings itself up, takes itself down, starts and ends its services.
struct Lab {
    var state: LabState
    let file: TopologyFile

    init(state: LabState, file: TopologyFile) {
        self.state = state
        self.file = file
    }

    /// The lab of a state that was saved.
    init(_ state: LabState) throws {
        self.init(state: state, file: try TopologyFile.load(state.topology))
    }

    var topology: Topology { file.topology }

    func services(
        of host: String, kind: Topology.ServiceKind? = nil
    ) throws -> [Topology.Service] {
        guard topology.hosts.contains(where: { $0.name == host }) else {
            let names = topology.hosts.map(\.name).joined(separator: ", ")
            throw LabError("there is no host \(host); there are \(names)")
        }
        let found = (topology.services ?? []).filter { $0.host == host }
        guard !found.isEmpty else { throw LabError("\(host) has no service") }
        guard let kind else { return found }
        let chosen = found.filter { $0.kind == kind }
        guard !chosen.isEmpty else { throw LabError("\(host) has no service \(kind.rawValue)") }
        return chosen
    }

    // MARK: Whole

    /// Takes everything down again when a part fails.
    mutating func bringUp(withRedirector: Bool, withAgents: Bool) throws {
        try checkAbsence()
        Interruption.catchSignals()
        do {
            try register()
            try Wiring(state: state, topology: topology).connect()
            // Servers first: the redirector asks for their health at once.
            let services = topology.services ?? []
            for service in services where service.kind == .tgtd || service.kind.isNFS {
                try start(service)
            }
            // The redirector reads it too.
            if services.contains(where: { $0.kind == .agent }) {
                try AgentService.makeSecret(state)
            }
            for service in services where service.kind == .dsrd && withRedirector {
                try start(service)
            }
            for service in services where service.kind == .agent && withAgents {
                try start(service)
            }
        } catch {
            Interruption.clear()
            do { try Self.takeDown(state) } catch let second {
                throw LabError("\(error)\nand then, when it was taken down: \(second)")
            }
            throw error
        }
    }

    private func checkAbsence() throws {
        let advice = "\"dsr-lab down \(state.prefix)\" takes it down; --prefix makes a second lab"
        if LabState.load(directory: LabState.registered(state.prefix)) != nil {
            throw LabError("lab \(state.prefix) is up already; \(advice)")
        }
        if let other = LabState.load(directory: state.directory) {
            throw LabError("\(state.directory) belongs to lab \(other.prefix), which is up")
        }
        let present = Set(try Namespaces.all())
        if let left = state.namespaces.first(where: present.contains) {
            throw LabError("namespace \(left) is there already, left by an earlier lab? \(advice)")
        }
    }

    private func register() throws {
        let manager = FileManager.default
        try manager.createDirectory(atPath: LabState.registry, withIntermediateDirectories: true)
        try manager.createDirectory(atPath: state.directory, withIntermediateDirectories: true)
        let entry = LabState.registered(state.prefix)
        if entry != state.directory {
            // What an earlier lab left is not a lab, or checkAbsence had refused.
            if (try? manager.destinationOfSymbolicLink(atPath: entry)) != nil {
                try manager.removeItem(atPath: entry)
            } else {
                rmdir(entry)
            }
            try manager.createSymbolicLink(atPath: entry, withDestinationPath: state.directory)
        }
        try state.save()
    }

    /// Needs nothing but the state: also after a crash in the middle of anything.
    static func takeDown(_ state: LabState) throws {
        let processes = state.processes + (state.companions ?? [])
        for process in processes { process.signal(SIGKILL) }
        try Namespaces.remove(state.namespaces)
        for process in processes where !process.waitForEnd(seconds: 5) {
            throw LabError("\(process.kind) of \(process.host), pid \(process.pid), does not end")
        }
        try ExportImages(state: state).waitUntilFree()
        state.removeFiles()
    }

    // MARK: Services

    mutating func start(_ service: Topology.Service) throws {
        if let running = process(service), running.isAlive {
            throw LabError(
                "\(service.kind.rawValue) of \(service.host) is running, pid \(running.pid)")
        }
        let record: ProcessRecord
        switch service.kind {
        case .tgtd: record = try targets(service).start()
        case .ganesha:
            let started = try ganesha(service).start()
            let others = (state.companions ?? []).filter { $0.host != service.host }
            state.companions = others + started.companions
            record = started.server
        case .nfs2: record = try nfsVersion2(service).start()
        case .dsrd: record = try redirector(service).start()
        case .agent: record = try agent(service).start()
        }
        state.processes.removeAll { $0.host == service.host && $0.kind == record.kind }
        state.processes.append(record)
        try state.save()
    }

    func stop(_ service: Topology.Service) throws {
        guard let record = process(service), record.isAlive else {
            throw LabError("\(service.kind.rawValue) of \(service.host) does not run")
        }
        // What is frozen hears nothing.
        record.signal(SIGCONT)
        switch service.kind {
        case .tgtd: targets(service).stop(record)
        case .ganesha: ganesha(service).stop(record)
        case .nfs2: nfsVersion2(service).stop(record)
        case .dsrd: try redirector(service).stop(record)
        case .agent: agent(service).stop(record)
        }
    }

    func kill(_ service: Topology.Service) throws {
        guard let record = process(service), record.isAlive else {
            throw LabError("\(service.kind.rawValue) of \(service.host) does not run")
        }
        record.signal(SIGKILL)
        guard record.waitForEnd(seconds: 5) else { throw LabError("pid \(record.pid) lives on") }
    }

    func isRunning(_ service: Topology.Service) -> Bool { process(service)?.isAlive == true }

    func process(_ service: Topology.Service) -> ProcessRecord? {
        state.processes.last { $0.host == service.host && $0.kind == service.kind.rawValue }
    }

    func targets(_ service: Topology.Service) -> TargetService {
        TargetService(
            state: state, service: service, all: topology.targets(of: service),
            targets: reachableTargets(of: service))
    }

    private func ganesha(_ service: Topology.Service) -> GaneshaService {
        GaneshaService(
            state: state, service: service, exports: topology.exports(of: service),
            companions: (state.companions ?? []).filter { $0.host == service.host })
    }

    private func nfsVersion2(_ service: Topology.Service) -> NFSVersion2Service {
        NFSVersion2Service(
            state: state, service: service, exports: topology.exports(of: service),
            program: path(service.program ?? ""))
    }

    /// Of something that the topology names.
    private func path(_ name: String) -> String {
        let path = name.hasPrefix("/") ? name : "\(file.folder)/\(name)"
        return (path as NSString).standardizingPath
    }

    func agent(_ service: Topology.Service) -> AgentService {
        AgentService(state: state, service: service, targets: announcedTargets(by: service))
    }

    private func redirector(_ service: Topology.Service) throws -> RedirectorService {
        RedirectorService(
            state: state, service: service,
            configuration: state.redirectorConfiguration ?? path(service.configuration ?? ""),
            socket: redirectorSocket(service.host))
    }

    /// Control socket of the host's dsrd; of the only one of the lab when the host has none.
    func redirectorSocket(_ host: String) -> String {
        let hosts = (topology.services ?? []).filter { $0.kind == .dsrd }.map(\.host)
        let owner = hosts.contains(host) ? host : hosts.first ?? host
        return state.redirectorSocket(owner, isOnly: hosts.count < 2)
    }
}
