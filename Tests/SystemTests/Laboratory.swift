import Foundation
import Testing

/// A lab of the suite that runs, brought up with the built dsr-lab.
struct Laboratory: Sendable {
    @TaskLocal static var current: Laboratory?

    /// The lab of this suite.
    static func here(location: SourceLocation = #_sourceLocation) throws -> Laboratory {
        try #require(current, "the suite has no lab", sourceLocation: location)
    }

    let prefix: String
    let directory: String
    /// Configuration of dsrd, which tests may change before they start it again.
    var configuration: String { "\(directory)/test.dsr.yaml" }
    var state: String { "\(directory)/state" }

    static let products = (executable as NSString).deletingLastPathComponent
    private static let executable =
        (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
    static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().deletingLastPathComponent().path

    static func configurationText(_ topology: String) throws -> String {
        try String(
            contentsOf: URL(fileURLWithPath: "\(root)/topologies/\(topology)/dsr.yaml"),
            encoding: .utf8)
    }

    // MARK: Life

    static func bringUp(
        topology: String, configuration: (String) throws -> String
    ) async throws -> Laboratory {
        try await removeLeftovers()
        let name = "systest-\(getpid())-\(UInt16.random(in: 0 ... .max))"
        let lab = Laboratory(prefix: name, directory: "/tmp/\(name)")
        try FileManager.default.createDirectory(
            atPath: lab.directory, withIntermediateDirectories: true)
        // What the lab keeps for its redirector is where this lab is.
        let text = try configurationText(topology).replacingOccurrences(
            of: "/run/dsr-lab/\(topology)/", with: "\(lab.state)/")
        try lab.configure(configuration(text))
        do {
            try await Program.run([
                "\(products)/dsr-lab", "up", "\(root)/topologies/\(topology)", "--prefix", name,
                "--state", lab.state, "--dsr-config", lab.configuration,
            ])
        } catch {
            // It cleans up after itself, unless it was killed for taking too long.
            _ = try? await Program(["\(products)/dsr-lab", "down", name]).result(within: 20)
            try? FileManager.default.removeItem(atPath: lab.directory)
            throw error
        }
        return lab
    }

    func takeDown() async throws {
        try await Program.run(["\(Self.products)/dsr-lab", "down", prefix])
        try FileManager.default.removeItem(atPath: directory)
    }

    /// Labs of test runs that were killed.
    private static func removeLeftovers() async throws {
        let names = try? FileManager.default.contentsOfDirectory(atPath: "/run/dsr-lab")
        for name in names ?? [] where name.hasPrefix("systest-") {
            let parts = name.split(separator: "-")
            guard parts.count == 3, let pid = pid_t(parts[1]), kill(pid, 0) != 0 else { continue }
            try await Program.run(["\(products)/dsr-lab", "down", name])
            try? FileManager.default.removeItem(atPath: "/tmp/\(name)")
        }
    }

    func configurationInUse() throws -> String {
        try String(contentsOf: URL(fileURLWithPath: configuration), encoding: .utf8)
    }

    func configure(_ text: String) throws {
        try text.write(
            to: URL(fileURLWithPath: configuration), atomically: true, encoding: .utf8)
    }

    // MARK: Use

    func namespace(_ host: String) -> String { "\(prefix)-\(host)" }
    func backing(_ resource: String) -> String { "\(state)/san/\(resource).img" }

    private func words(_ host: String, _ command: [String]) -> [String] {
        ["\(Self.products)/dsr-lab", "exec", prefix, host, "--"] + command
    }

    /// Starts a command on a host.
    func start(_ host: String, _ command: [String]) throws -> Program {
        try Program(words(host, command))
    }

    /// Runs a command on a host; the test fails when it does.
    @discardableResult
    func run(
        _ host: String, _ command: [String], within seconds: Double = 60,
        location: SourceLocation = #_sourceLocation
    ) async throws -> String {
        try await Program.run(words(host, command), within: seconds, location: location)
    }

    /// Runs a command on a host, whatever becomes of it.
    func attempt(
        _ host: String, _ command: [String], within seconds: Double = 60,
        location: SourceLocation = #_sourceLocation
    ) async throws -> Program.Result {
        try await start(host, command).result(within: seconds, location: location)
    }

    /// `stop`, `kill` or `start` of the services of a host.
    func server(_ verb: String, _ host: String) async throws {
        try await Program.run(["\(Self.products)/dsr-lab", "server", verb, prefix, host])
    }

    /// URL of a disk at the virtual address.
    func url(
        _ resource: String, address: String = "10.10.0.100", user: String = "", query: String = ""
    ) -> String {
        let login = user.isEmpty ? "" : "\(user)@"
        let tail = query.isEmpty ? "" : "?\(query)"
        return "iscsi://\(login)\(address)/iqn.2026-01.lab.dsr:\(resource)/1\(tail)"
    }
}

/// Gives a suite one lab, which is taken down after its last test whatever they did.
struct LabTrait: SuiteTrait, TestScoping {
    var topology: String
    var configuration: @Sendable (String) throws -> String
    var isRecursive: Bool { false }

    func provideScope(
        for test: Test, testCase: Test.Case?,
        performing function: @Sendable () async throws -> Void
    ) async throws {
        let lab = try await Laboratory.bringUp(topology: topology, configuration: configuration)
        do {
            try await Laboratory.$current.withValue(lab) { try await function() }
        } catch {
            try await lab.takeDown()
            throw error
        }
        try await lab.takeDown()
    }
}

extension Trait where Self == LabTrait {
    /// - Parameter configuration: changes the text of the topology's dsr.yaml.
    static func lab(
        _ topology: String = "fig2-san",
        configuration: @escaping @Sendable (String) throws -> String = { $0 }
    ) -> LabTrait { LabTrait(topology: topology, configuration: configuration) }
}

/// Faults at the client's port and at those of three servers.
func withFaults(_ faults: String) -> @Sendable (String) throws -> String {
    { text in
        let ports = ["c0": "client", "s1": "storage", "s2": "storage", "s3": "storage"]
        return ports.reduce(text) { result, port in
            result.replacingOccurrences(
                of: "device: \(port.key), side: \(port.value)}",
                with: "device: \(port.key), side: \(port.value), faults: {\(faults)}}")
        }
    }
}

/// Health is checked at the start, then not before the suite is over: what is on the wire is the sessions'.
let withRareHealthChecks: @Sendable (String) throws -> String = {
    $0 + "\nhealth: {interval_ms: 3600000}\n"
}

/// Each resource is held by the server that has it: nobody takes a failed server's place.
func withoutAlternatives(_ text: String) throws -> String {
    let held = /servers: \[server1, server2, server3\]\n    assigned: (server\d)/
    return text.replacing(held) { "servers: [\($0.1)]\n    assigned: \($0.1)" }
}
