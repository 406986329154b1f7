import ArgumentParser
import ControlPlane
import Foundation

struct BalanceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "balance", abstract: "Even loads of servers.",
        subcommands: [
            BalanceStatus.self, BalancePlanCommand.self, BalanceApply.self, BalanceAuto.self,
        ], defaultSubcommand: BalanceStatus.self)

    static func loads(_ loads: [ServerLoadModel], isPlan: Bool) -> String {
        var table = Table(
            [("SERVER", .left), (isPlan ? "BEFORE" : "LOAD", .right)]
                + (isPlan ? [("AFTER", .right)] : []))
        for load in loads {
            table.add(
                [load.server, Text.load(load.before)] + (isPlan ? [Text.load(load.after)] : []))
        }
        return table.text
    }

    static func text(_ plan: BalancePlanModel) -> String {
        var lines = [loads(plan.loads, isPlan: true)]
        lines += plan.moves.map { "move \($0.resource) from \($0.from) to \($0.to)" }
        lines.append((plan.moves.isEmpty ? "no moves: " : "why: ") + plan.reason)
        if let obstacle = plan.obstacle { lines.append("not now: \(obstacle)") }
        return lines.joined(separator: "\n")
    }

    static func text(_ balance: BalanceModel) -> String {
        let automatic =
            balance.isAutomatic
            ? "automatic"
                + (balance.nextCheckS.map { ", next look in \(Text.duration($0))" } ?? "")
            : "by command only"
        return [
            loads(balance.loads, isPlan: false), "balancing: \(automatic)",
            "loads: \(balance.reason)",
        ].joined(separator: "\n")
    }
}

struct BalanceStatus: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Loads of servers, and whether they are balanced.")

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        daemon.show(try daemon.get(BalanceModel.self, "/balance"), people: BalanceCommand.text)
    }
}

struct BalancePlanCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "plan", abstract: "Moves that would make the loads even, and why.",
        discussion: """
            Nothing is changed. --json > FILE keeps the plan for balance apply FILE.
            """)

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        daemon.show(
            try daemon.get(BalancePlanModel.self, "/balance/plan"), people: BalanceCommand.text)
    }
}

struct BalanceApply: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "apply", abstract: "Carries a plan out.",
        discussion: """
            Without a file the best moves for the present loads are planned and made. With one, \
            that plan is carried out, if it is still the best: else nothing is changed, and the \
            new plan is shown.
            """)

    @Argument(help: "A plan as balance plan --json prints it; - is standard input.")
    var file: String?

    @Flag(help: "Make the moves of the file even when other ones would be better now.")
    var force = false

    @OptionGroup var waiting: WaitOptions
    @OptionGroup var daemon: DaemonOptions

    func validate() throws {
        if force, file == nil { throw ValidationError("--force needs the file of a plan") }
    }

    func run() throws {
        let present = try daemon.get(BalancePlanModel.self, "/balance/plan")
        var plan = present
        if let file {
            plan = try BalanceApply.read(file)
            let isSame = Set(plan.moves) == Set(present.moves)
            guard isSame || force else {
                Failure.warn(BalanceCommand.text(present))
                throw CommandFailure(
                    "loads have changed: the plan above is better now; nothing was changed. "
                        + "balance apply makes that one, --force that of the file")
            }
        }
        guard !plan.moves.isEmpty else {
            return daemon.show(plan, people: BalanceCommand.text)
        }
        if !daemon.output.json { print(BalanceCommand.text(plan)) }
        let operation = try daemon.send(
            "POST", "/balance/apply", BalanceRequest(moves: plan.moves), as: OperationModel.self)
        try OperationProgress(daemon: daemon, options: waiting)
            .show(operation, judge: ChangeJudge(operation.change).judge)
    }

    private static func read(_ file: String) throws -> BalancePlanModel {
        do {
            return try JSONCoding.decode(
                BalancePlanModel.self, Data(TextFile.read(file).utf8))
        } catch is DecodingError {
            throw CommandFailure("\(file) is no plan: balance plan --json prints one")
        }
    }
}

struct BalanceAuto: ParsableCommand {
    enum Switch: String, ExpressibleByArgument, CaseIterable { case on, off }

    static let configuration = CommandConfiguration(
        commandName: "auto", abstract: "Lets the daemon balance by itself, or not.")

    @Argument(help: "on or off.")
    var state: Switch

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        let balance = try daemon.send(
            "PUT", "/balance/auto", AutomaticBalanceRequest(isOn: state == .on),
            as: BalanceModel.self)
        daemon.show(balance, people: BalanceCommand.text)
    }
}
