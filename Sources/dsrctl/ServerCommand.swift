import ArgumentParser
import ControlPlane

struct ServerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "server", abstract: "Storage servers.",
        subcommands: [
            ServerList.self, ServerDrain.self, ServerUndrain.self, ServerAdd.self,
            ServerRemove.self,
        ], defaultSubcommand: ServerList.self)
}

struct ServerList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Servers with their state and load.")

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        daemon.show(try daemon.get([ServerModel].self, "/servers")) { servers in
            var table = Table([
                ("NAME", .left), ("ADDRESS", .left), ("STATE", .left), ("SINCE", .right),
                ("LOAD", .right), ("CHECKS", .right), ("FAILED", .right), ("LATENCY", .right),
                ("SESSIONS", .right), ("RESOURCES", .left), ("REASON", .left),
            ])
            for server in servers {
                table.add([
                    server.name, server.activeAddress ?? Text.list(server.addresses),
                    server.state.rawValue, Text.duration(server.stateAgeS), Text.load(server.load),
                    "\(server.checks)", "\(server.checksFailed)",
                    server.latencyUs.map { "\($0) us" } ?? "-",
                    "\(server.sessions)", Text.list(server.resources), server.healthReason ?? "",
                ])
            }
            return table.text
        }
    }
}

struct ServerDrain: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "drain",
        abstract: "Moves everything away from a server; it gets nothing new.",
        discussion: "Sessions go on. The server stays drained until server undrain.")

    @Argument(help: "As server list prints it.")
    var name: String

    @OptionGroup var waiting: WaitOptions
    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        let operation = try ServerDrain.change(name, .drain, daemon)
        let judge = ServerJudge(
            name, end: ["drain_finished"], failures: ["drain_cancelled", "server_removed"])
        try OperationProgress(daemon: daemon, options: waiting)
            .show(operation, judge: judge.judge)
    }

    static func change(
        _ name: String, _ verb: ServerVerb, _ daemon: DaemonOptions
    ) throws -> OperationModel {
        try daemon.send(
            "POST", "/servers/\(DaemonOptions.query(name))/\(verb.rawValue)",
            as: OperationModel.self)
    }
}

struct ServerUndrain: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "undrain", abstract: "A drained server takes resources again.",
        discussion: "None goes back by itself: balance or resource move does that.")

    @Argument(help: "As server list prints it.")
    var name: String

    @OptionGroup var waiting: WaitOptions
    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        let operation = try ServerDrain.change(name, .undrain, daemon)
        try OperationProgress(daemon: daemon, options: waiting)
            .show(operation, judge: ServerJudge(name, end: ["drain_cancelled"]).judge)
    }
}

struct ServerAdd: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "add", abstract: "Adds a server until the configuration is read again.",
        discussion: """
            It is used when it has been probed. Change the configuration file too: a reload or \
            restart knows only what that says. A fence, an agent's key and a node exporter are \
            for the file alone.
            """)

    @Argument(help: "A name that no server has.")
    var name: String

    @Option(parsing: .upToNextOption, help: "Its addresses, the preferred one first.")
    var address: [String]

    @Option(help: "TCP port of its iSCSI target.")
    var port = 3260

    @Option(parsing: .upToNextOption, help: "Resources that it holds.")
    var resource: [String]

    @Flag(help: "Used only while another server fails.")
    var spare = false

    @Option(help: "Relative power.")
    var weight = 1.0

    @Option(help: "CHAP name of the switch at this server; without, it does not authenticate.")
    var user: String?

    @Option(help: "File with its secret, one line; - is the standard input.")
    var secretFile: String?

    @Option(help: "CHAP name that the server must prove to have.")
    var mutualUser: String?

    @Option(help: "File with the server's secret, one line.")
    var mutualSecretFile: String?

    @OptionGroup var waiting: WaitOptions
    @OptionGroup var daemon: DaemonOptions

    func validate() throws {
        guard (user == nil) == (secretFile == nil) else {
            throw ValidationError("--user and --secret-file go together")
        }
        guard (mutualUser == nil) == (mutualSecretFile == nil) else {
            throw ValidationError("--mutual-user and --mutual-secret-file go together")
        }
        guard mutualUser == nil || user != nil else {
            throw ValidationError("--mutual-user needs --user")
        }
    }

    /// Secrets are read from files: everybody sees the words of a command.
    private func credentials() throws -> CHAPRequest? {
        guard let user, let secretFile else { return nil }
        var request = CHAPRequest(user: user, secret: try Self.secret(secretFile))
        if let mutualUser, let mutualSecretFile {
            request.mutual = .init(user: mutualUser, secret: try Self.secret(mutualSecretFile))
        }
        return request
    }

    private static func secret(_ file: String) throws -> String {
        let text = try TextFile.read(file)
        return String(text.prefix { !$0.isNewline })
    }

    func run() throws {
        let request = ServerRequest(
            name: name, addresses: address, port: port, resources: resource, isSpare: spare,
            weight: weight, credentials: try credentials())
        let operation = try daemon.send("POST", "/servers", request, as: OperationModel.self)
        let judge = ServerJudge(
            name, end: ["server_up"], failures: ["server_down", "server_removed"])
        try OperationProgress(daemon: daemon, options: waiting)
            .show(operation, judge: judge.judge)
    }
}

struct ServerRemove: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove", abstract: "Removes a server until the configuration is read again.",
        discussion: "Refused while it serves something. Change the configuration file too.")

    @Argument(help: "As server list prints it.")
    var name: String

    @Flag(help: "Drain it first, then remove it.")
    var force = false

    @OptionGroup var waiting: WaitOptions
    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        let operation = try daemon.send(
            "DELETE", "/servers/\(DaemonOptions.query(name))?force=\(force ? 1 : 0)",
            as: OperationModel.self)
        let judge = ServerJudge(
            name, end: ["server_removed"], failures: ["drain_cancelled"])
        try OperationProgress(daemon: daemon, options: waiting)
            .show(operation, judge: judge.judge)
    }
}
