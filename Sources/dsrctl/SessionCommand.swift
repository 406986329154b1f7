import ArgumentParser
import ControlPlane

struct SessionCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "session", abstract: "Redirected sessions.",
        subcommands: [
            SessionList.self, SessionShow.self, SessionSplice.self, SessionUnsplice.self,
            SessionClose.self,
        ], defaultSubcommand: SessionList.self)
}

struct SessionList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "One line for each session.")

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        daemon.show(try daemon.get([SessionModel].self, "/sessions")) { sessions in
            var table = Table([
                ("ID", .right), ("PROTOCOL", .left), ("STATE", .left), ("CLIENT", .left),
                ("SERVES", .left), ("SERVER", .left), ("FROM CLIENT", .right),
                ("FROM SERVER", .right), ("SPLICES", .right), ("AGE", .right),
            ])
            for session in sessions {
                table.add([
                    "\(session.id)", session.protocol, session.state.rawValue, session.client,
                    session.resource ?? session.service ?? session.target ?? "-",
                    session.server ?? "-", "\(session.clientBytes)", "\(session.serverBytes)",
                    "\(session.splices)", Text.duration(session.ageS),
                ])
            }
            return table.text
        }
    }
}

struct SessionShow: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Everything that is known of one session.")

    @Argument(help: "As session list prints it.")
    var id: UInt64

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        let session = try daemon.get(SessionModel.self, "/sessions/\(id)")
        daemon.show(session, people: SessionText.details)
    }
}

enum SessionText {
    static func details(_ session: SessionModel) -> String {
        Table.pairs([
            ("session", "\(session.id)"),
            ("protocol", session.protocol),
            ("state", session.state.rawValue),
            ("grain", session.grain.rawValue + (session.grainReason.map { ": \($0)" } ?? "")),
            ("client", session.client),
            ("initiator", session.initiator),
            ("target", session.target),
            ("resource", session.resource),
            ("service", session.service),
            ("server", session.server),
            ("user", session.user),
            (
                "spliceable",
                session.isSpliceable
                    ? "yes" : "no" + (session.notSpliceable.map { ": \($0)" } ?? "")
            ),
            ("client leg", leg(session.clientLeg)),
            ("server leg", session.serverLeg.map(leg)),
            ("from client", "\(session.clientBytes) bytes, \(session.clientPackets) packets"),
            ("from server", "\(session.serverBytes) bytes, \(session.serverPackets) packets"),
            (
                "changes",
                "\(session.splices) splices, \(session.unsplices) unsplices, "
                    + "\(session.giveUps) given up"
            ),
            ("longest stall", "\(session.longestStallUs) us"),
            ("outstanding", session.outstandingRequests.map { "\($0) requests" }),
            ("protection", protection(session)),
            ("moves", moves(session)),
            ("age", Text.duration(session.ageS)),
            ("idle", Text.duration(session.idleS)),
        ]) + units(session)
    }

    private static func units(_ session: SessionModel) -> String {
        guard !session.units.isEmpty else { return "" }
        var table = Table([
            ("UNIT", .right), ("RESOURCE", .left), ("SERVER", .left), ("STATE", .left),
            ("OPEN", .right), ("FROM CLIENT", .right), ("FROM SERVER", .right),
        ])
        for unit in session.units {
            table.add([
                "\(unit.unit)", unit.resource, unit.server ?? "-", unit.state.rawValue,
                "\(unit.outstandingRequests)", "\(unit.clientBytes)", "\(unit.serverBytes)",
            ])
        }
        return "\n" + table.text
    }

    /// What becomes of open requests when the server fails.
    private static func protection(_ session: SessionModel) -> String? {
        guard let isProtected = session.isProtected else { return nil }
        guard let bytes = session.logBytes else {
            return "none: the end of the server ends the session"
        }
        let count = session.unprotectedRequests ?? 0
        return (isProtected ? "whole" : "\(count) requests could not be sent again")
            + ", \(bytes) bytes kept"
    }

    private static func moves(_ session: SessionModel) -> String {
        guard let stall = session.lastMoveStallUs else { return "none" }
        return "\(session.moves), the last one took \(Text.short(Double(stall) / 1e6))"
    }

    private static func leg(_ leg: LegModel) -> String {
        "\(leg.local) - \(leg.remote)" + (leg.port.isEmpty ? "" : " on port \(leg.port)")
    }

    /// Asks for a change; the answer comes when it is made.
    static func change(_ id: UInt64, _ verb: SessionVerb, _ daemon: DaemonOptions) throws {
        let session = try daemon.send(
            "POST", "/sessions/\(id)/\(verb.rawValue)", as: SessionModel.self)
        daemon.show(session) { "session \($0.id) is \($0.state.rawValue)" }
    }
}

struct SessionSplice: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "splice",
        abstract: "Lets the session's packets go from port to port; waits until they do.")

    @Argument(help: "As session list prints it.")
    var id: UInt64

    @OptionGroup var daemon: DaemonOptions

    func run() throws { try SessionText.change(id, .splice, daemon) }
}

struct SessionUnsplice: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unsplice",
        abstract: "Takes the session back into the control plane; waits until it is there.")

    @Argument(help: "As session list prints it.")
    var id: UInt64

    @OptionGroup var daemon: DaemonOptions

    func run() throws { try SessionText.change(id, .unsplice, daemon) }
}

struct SessionClose: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "close", abstract: "Ends the session.")

    @Argument(help: "As session list prints it.")
    var id: UInt64

    @OptionGroup var daemon: DaemonOptions

    func run() throws { try SessionText.change(id, .close, daemon) }
}
