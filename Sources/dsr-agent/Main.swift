import ArgumentParser
import Foundation
import Glibc
import StorageProtocols

/// Announces a storage server to the Dynamic Session Redirector.
@main
struct DSRAgent: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dsr-agent",
        abstract:
            "Tells a Dynamic Session Redirector what this storage server has and how busy it is.",
        discussion: """
            Exit status: 0 done or ended by a signal, 1 failed, 64 wrong command line.
            """)

    @Option(help: "Name of this server in the configuration of the DSR.")
    var server: String

    @Option(help: "Storage-side address of the DSR: ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT.")
    var dsr: String

    @Option(help: "File with the secret that the DSR knows too, 16 to 255 octets.")
    var secretFile: String

    @Option(help: "File with the resources (YAML); a change is announced at once.")
    var resources: String?

    @Flag(help: "Announce the targets of the tgtd that runs here.")
    var tgtd = false

    @Option(help: "Control port of tgtd, as tgtadm -C.")
    var controlPort: Int?

    @Option(help: "Milliseconds between announcements.")
    var intervalMs = 1_000

    @Option(help: "Address of this server to announce from.")
    var portBind: String?

    @Flag(help: "Announce once, then end.")
    var once = false

    @Flag(help: "Print what would be announced as JSON; nothing is sent.")
    var print = false

    func validate() throws {
        guard (1...Announcement.nameMaximum).contains(server.utf8.count) else {
            throw ValidationError(
                "--server is a name of 1 to \(Announcement.nameMaximum) octets")
        }
        guard (50...60_000).contains(intervalMs) else {
            throw ValidationError("--interval-ms is a number from 50 to 60000")
        }
        guard Destination(dsr) != nil else {
            throw ValidationError(
                "--dsr \"\(dsr)\" is not as 10.20.0.1, 10.20.0.1:7411 or [fd00::1]:7411")
        }
        if let portBind {
            guard let own = Destination(portBind), own.hasDefaultPort else {
                throw ValidationError("--port-bind \"\(portBind)\" is no address")
            }
            guard own.isIPv4 == Destination(dsr)?.isIPv4 else {
                throw ValidationError("--port-bind and --dsr are of two families")
            }
        }
        if tgtd, resources != nil {
            throw ValidationError("--tgtd and --resources exclude each other")
        }
        if let controlPort {
            guard tgtd else { throw ValidationError("--control-port belongs to --tgtd") }
            guard (0...65_535).contains(controlPort) else {
                throw ValidationError("--control-port is a number from 0 to 65535")
            }
        }
        if once, self.print { throw ValidationError("--once and --print exclude each other") }
    }

    func run() throws {
        do {
            try start()
        } catch let failure as AgentFailure {
            report(failure.message)
            throw ExitCode(1)
        }
    }

    private func start() throws {
        let secret: String
        do {
            secret = try AnnouncementKey.secret(file: secretFile)
        } catch {
            throw AgentFailure("\(secretFile): \(error)")
        }
        var source: any ResourceSource = NoResources()
        if let resources { source = try ResourceFile(path: resources) }
        if tgtd { source = TargetDaemon(controlPort: controlPort) }
        let started = wallMilliseconds()
        let sender: AnnouncementSender
        do {
            sender = try AnnouncementSender(
                server: server, key: AnnouncementKey(secret: secret),
                bootID: UInt64.random(in: .min ... .max), bootTime: started)
        } catch {
            throw AgentFailure(error.description)
        }
        if self.print {
            return try Preview(server: server, dsr: dsr).print(source: &source, sender: sender)
        }
        guard let destination = Destination(dsr) else { return }
        let socket = try AgentSocket(to: destination, from: portBind.flatMap(Destination.init))
        var agent = Agent(
            source: source, sender: sender, socket: socket,
            interval: UInt64(intervalMs) * 1_000_000)
        if once { return try agent.announceOnce() }
        try agent.run()
    }
}

/// A message, then exit status 1.
struct AgentFailure: Error {
    var message: String
    init(_ message: String) { self.message = message }
}

func report(_ text: String) {
    FileHandle.standardError.write(Data("dsr-agent: \(text)\n".utf8))
}

func nanoseconds(_ clock: clockid_t) -> UInt64 {
    var time = timespec()
    clock_gettime(clock, &time)
    return UInt64(clamping: time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

func wallMilliseconds() -> UInt64 { nanoseconds(CLOCK_REALTIME) / 1_000_000 }
