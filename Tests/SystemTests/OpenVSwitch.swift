import Foundation
import Glibc

/// Open vSwitch with its datapath in userspace and dummy ports: nothing of the system is touched.
final class OpenVSwitch {
    struct Failure: Error, CustomStringConvertible { var description: String }
    struct Counters: Equatable {
        var packets: UInt64
        var bytes: UInt64
    }

    static let portCount = 8
    private static let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
    private static let schema = "/usr/share/openvswitch/vswitch.ovsschema"

    static func tool(_ name: String) -> String? {
        folders.map { "\($0)/\(name)" }.first { access($0, X_OK) == 0 }
    }

    static var isInstalled: Bool {
        ["ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl", "ovs-appctl"]
            .allSatisfy { tool($0) != nil } && access(schema, R_OK) == 0
    }

    private let folder: String
    private var daemons: [Process] = []
    /// Octets of each port's capture that were read already.
    private var positions = [Int](repeating: 24, count: OpenVSwitch.portCount + 1)
    /// Goes from port 8 to port 7 when everything before it has been processed.
    private let marker =
        [UInt8](repeating: 0xee, count: 12) + [0x88, 0xb6]
        + [UInt8](repeating: 0x5a, count: 46)

    init() throws {
        // Unix sockets: the path must be short.
        folder = "/tmp/dsr-ovs-\(UUID().uuidString.prefix(8))"
        try FileManager.default.createDirectory(
            atPath: folder, withIntermediateDirectories: true)
        do { try start() } catch {
            stop()
            throw error
        }
    }

    deinit { stop() }

    private func stop() {
        for daemon in daemons where daemon.isRunning {
            // Foundation starts children with signals blocked.
            kill(daemon.processIdentifier, SIGKILL)
            daemon.waitUntilExit()
        }
        try? FileManager.default.removeItem(atPath: folder)
    }

    private func start() throws {
        try run("ovsdb-tool", "create", "\(folder)/conf.db", Self.schema)
        try launch(
            "ovsdb-server", "\(folder)/conf.db", "--remote=punix:\(folder)/db.sock",
            "--unixctl=\(folder)/db.ctl")
        try waitFor("\(folder)/db.sock")
        try database(["--no-wait", "init"])
        try launch(
            "ovs-vswitchd", "unix:\(folder)/db.sock", "--enable-dummy", "--disable-system",
            "--unixctl=\(folder)/vs.ctl")
        try waitFor("\(folder)/vs.ctl")
        var commands = ["--", "add-br", "br0", "--", "set", "bridge", "br0", "datapath-type=dummy"]
        commands += ["fail-mode=secure", "other-config:hwaddr=02:ff:00:00:00:01"]
        for port in 1...Self.portCount {
            commands += ["--", "add-port", "br0", "p\(port)", "--", "set", "interface", "p\(port)"]
            commands += ["type=dummy", "ofport_request=\(port)"]
            commands += ["options:tx_pcap=\(folder)/p\(port).pcap"]
        }
        try database(commands)
        try waitFor("\(folder)/br0.mgmt")
        try waitFor("\(folder)/p\(Self.portCount).pcap")
    }

    // MARK: Tools

    private var environment: [String: String] {
        var result = ["PATH": Self.folders.joined(separator: ":")]
        for name in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            result[name] = folder
        }
        return result
    }

    private func process(_ name: String, _ arguments: [String]) throws -> Process {
        guard let path = Self.tool(name) else { throw Failure(description: "no \(name)") }
        let process = Process()
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = arguments
        process.environment = environment
        process.currentDirectoryURL = URL(fileURLWithPath: folder)
        process.standardInput = FileHandle.nullDevice
        return process
    }

    private func launch(_ name: String, _ arguments: String...) throws {
        let daemon = try process(
            name, arguments + ["--no-chdir", "--log-file=\(folder)/\(name).log", "-vconsole:off"])
        daemon.standardOutput = FileHandle.nullDevice
        daemon.standardError = FileHandle.nullDevice
        try daemon.run()
        daemons.append(daemon)
    }

    @discardableResult
    private func run(_ name: String, _ arguments: String...) throws -> String {
        try run(name, arguments)
    }

    private func run(_ name: String, _ arguments: [String]) throws -> String {
        let tool = try process(name, arguments)
        let pipe = Pipe()
        tool.standardOutput = pipe
        tool.standardError = pipe
        try tool.run()
        let data = pipe.fileHandleForReading.readDataToEndOfFile()
        // `waitUntilExit` takes much longer than these tools.
        while tool.isRunning { usleep(200) }
        let text = String(decoding: data, as: UTF8.self)
        guard tool.terminationStatus == 0 else {
            throw Failure(description: "\(name) \(arguments.joined(separator: " ")): \(text)")
        }
        return text
    }

    private func database(_ commands: [String]) throws {
        _ = try run("ovs-vsctl", ["--db=unix:\(folder)/db.sock", "--timeout=20"] + commands)
    }

    private func control(_ arguments: String...) throws {
        _ = try run("ovs-appctl", ["-t", "\(folder)/vs.ctl"] + arguments)
    }

    private func waitFor(_ path: String) throws {
        try wait("\(path) to appear") { access(path, F_OK) == 0 }
    }

    private func wait(_ what: String, _ condition: () throws -> Bool) throws {
        let deadline = Date().addingTimeInterval(10)
        while try !condition() {
            guard Date() < deadline else { throw Failure(description: "waited for \(what)") }
            usleep(1_000)
        }
    }

    // MARK: The switch

    /// Replaces all rules, forgets all addresses.
    func install(_ rules: [String]) throws {
        let file = "\(folder)/rules"
        let barrier = "cookie=0xffff,priority=65535,in_port=8,dl_type=0x88b6,actions=output:7"
        try (rules + [barrier, ""]).joined(separator: "\n")
            .write(toFile: file, atomically: true, encoding: .utf8)
        try run("ovs-ofctl", "del-flows", "unix:\(folder)/br0.mgmt")
        // OpenFlow 1.0 has no push_vlan. Beyond it, ovs-ofctl writes mod_vlan_vid as a push and a change,
        // which is something else for a packet that has a tag.
        let version = rules.contains { $0.contains("push_vlan") } ? "OpenFlow13" : "OpenFlow10"
        try run(
            "ovs-ofctl", "-O", version, "add-flows", "unix:\(folder)/br0.mgmt", file)
        try control("fdb/flush", "br0")
        try control("revalidator/purge")
    }

    func receive(_ frame: [UInt8], port: UInt16) throws {
        try control("netdev-dummy/receive", "p\(port)", Self.hexadecimal(frame))
    }

    static func hexadecimal(_ bytes: [UInt8]) -> String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    /// What left each port since the last call, in order.
    func sent() throws -> [UInt16: [[UInt8]]] {
        try control("netdev-dummy/receive", "p8", Self.hexadecimal(marker))
        var result: [UInt16: [[UInt8]]] = [:]
        try wait("the marker") {
            result[7, default: []] += try newFrames(7)
            return result[7]?.last == marker
        }
        result[7]?.removeLast()
        for port in 1...UInt16(Self.portCount) where port != 7 {
            result[port] = try newFrames(port)
        }
        return result.filter { !$0.value.isEmpty }
    }

    /// Whole records of the capture of a port behind those read already.
    private func newFrames(_ port: UInt16) throws -> [[UInt8]] {
        let data = [UInt8](try Data(contentsOf: URL(fileURLWithPath: "\(folder)/p\(port).pcap")))
        var frames: [[UInt8]] = []
        var position = positions[Int(port)]
        while position + 16 <= data.count {
            let length = (0..<4).reduce(0) { $0 | Int(data[position + 8 + $1]) << ($1 * 8) }
            guard position + 16 + length <= data.count else { break }
            frames.append(Array(data[position + 16..<position + 16 + length]))
            position += 16 + length
        }
        positions[Int(port)] = position
        return frames
    }

    /// Counters of the rules by cookie.
    func counters() throws -> [UInt64: Counters] {
        // Counters of cached flows reach the rules now.
        try control("revalidator/purge")
        let text = try run("ovs-ofctl", "dump-flows", "unix:\(folder)/br0.mgmt")
        var result: [UInt64: Counters] = [:]
        let expression = /cookie=0x([0-9a-f]+),.* n_packets=(\d+), n_bytes=(\d+),/
        for line in text.split(separator: "\n") {
            guard let found = line.firstMatch(of: expression),
                let cookie = UInt64(found.1, radix: 16), cookie != 0xffff,
                let packets = UInt64(found.2), let bytes = UInt64(found.3)
            else { continue }
            result[cookie] = Counters(packets: packets, bytes: bytes)
        }
        return result
    }
}
