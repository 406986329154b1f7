import ArgumentParser
import Foundation
import Glibc

/// What happens to programs: they die, hang, end in order, come back.
struct ServiceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "service",
        abstract: "Kills, freezes, thaws, stops, starts or shows the services of a host.",
        discussion: """
            dsr-lab service NAME HOST kill|freeze|thaw|stop|start|restart|status [--kind KIND]

            kill is SIGKILL (no error when the service has ended already), freeze SIGSTOP, thaw SIGCONT; stop ends the service in order, start makes it \
            again with the same targets and exports; status has status 1 unless all services run.
            """)

    enum Verb: String, ExpressibleByArgument, CaseIterable {
        case kill, freeze, thaw, stop, start, restart, status
    }

    @OptionGroup var selection: LabSelection

    @Argument(help: "Host, as server1 or dsr1.")
    var host: String

    @Argument(help: "kill, freeze, thaw, stop, start, restart or status.")
    var verb: Verb

    @Option(
        help: "Only this service: tgtd, ganesha, nfs2, agent or dsrd (default: all of the host).")
    var kind: Topology.ServiceKind?

    func run() throws {
        let state = try selection.load()
        switch verb {
        case .kill: try signal(state, SIGKILL)
        case .freeze: try signal(state, SIGSTOP)
        case .thaw: try signal(state, SIGCONT)
        case .stop, .start, .restart: try change(state)
        case .status: try show(state)
        }
    }

    /// Without a look at the topology: a fence command must not take longer than it needs to.
    private func signal(_ state: LabState, _ number: Int32) throws {
        let all = try records(of: state)
        let records = all.filter(\.isAlive)
        // What a fence command is to achieve holds already when the service has ended; a dead service
        // cannot be frozen.
        for record in all where !record.isAlive {
            guard number == SIGKILL else {
                throw LabError("\(record.kind) of \(host) does not run")
            }
            print("\(record.kind) of \(host) had ended already")
        }
        for record in records {
            guard Glibc.kill(record.pid, number) == 0 else {
                throw LabError("pid \(record.pid): \(Command.reason(errno))")
            }
        }
        guard number == SIGKILL else { return }
        for record in records where !record.waitForEnd(seconds: 5) {
            throw LabError("\(record.kind) of \(host), pid \(record.pid), lives on")
        }
    }

    private func records(of state: LabState) throws -> [ProcessRecord] {
        let records = state.processes.filter {
            $0.host == host && (kind == nil || $0.kind == kind?.rawValue)
        }
        guard records.isEmpty else { return records }
        // Says what is wrong: no such host, no such service, or one that was never started.
        let services = try Lab(state).services(of: host, kind: kind)
        let names = services.map(\.kind.rawValue).joined(separator: ", ")
        throw LabError("\(names) of \(host) does not run")
    }

    private func change(_ state: LabState) throws {
        var lab = try Lab(state)
        let services = try lab.services(of: host, kind: kind)
        if verb != .start {
            for service in services where verb == .stop || lab.isRunning(service) {
                try lab.stop(service)
            }
        }
        if verb != .stop {
            for service in services { try lab.start(service) }
        }
    }

    private func show(_ state: LabState) throws {
        let lab = try Lab(state)
        var isWhole = true
        for service in try lab.services(of: host, kind: kind) {
            let record = lab.process(service)
            let condition = record?.condition ?? "not started"
            if condition != "alive" { isWhole = false }
            let pid = record.map { " pid \($0.pid)" } ?? ""
            print("\(service.kind.rawValue)\(pid) \(condition)")
        }
        if !isWhole { throw ExitCode(1) }
    }
}

extension Topology.ServiceKind: ExpressibleByArgument {}
