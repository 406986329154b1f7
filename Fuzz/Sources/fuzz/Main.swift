import ArgumentParser
import Foundation

@main
struct Fuzz: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "fuzz", abstract: "Feeds changed inputs to the parsers of the DSR.",
        subcommands: [Run.self, Replay.self, List.self, Child.self], defaultSubcommand: Run.self)

    static func target(_ name: String) throws -> Target {
        guard let target = Target.all.first(where: { $0.name == name }) else {
            throw ValidationError(
                "there is no target \(name); there are "
                    + Target.all.map(\.name).joined(separator: ", "))
        }
        return target
    }
}

struct Run: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Runs targets, one after the other; fails after a finding.")
    @Argument(help: "Targets; all when none is named.") var targets: [String] = []
    @Option(help: "Seconds for each target.") var seconds: Double = 60
    @Option(help: "The same seed gives the same inputs.") var seed: UInt64 = 1

    func validate() throws {
        guard seconds > 0, seconds < 1_000_000 else {
            throw ValidationError("--seconds is more than 0")
        }
        for name in targets { _ = try Fuzz.target(name) }
    }

    func run() throws {
        var isGood = true
        for target in try targets.isEmpty ? Target.all : targets.map(Fuzz.target) {
            if try !Supervisor.run(target, seed: seed, seconds: seconds) { isGood = false }
        }
        if !isGood { throw ExitCode(1) }
    }
}

struct Replay: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Repeats one execution.")
    @Argument var target: String
    @Option var seed: UInt64 = 1
    @Option var execution: UInt64

    func run() throws {
        if let finding = Runner.once(try Fuzz.target(target), seed: seed, execution: execution) {
            print("\(target): execution \(execution): \(finding)")
            throw ExitCode(1)
        }
        print("\(target): execution \(execution): no finding")
    }
}

struct List: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Names the targets.")
    func run() { for target in Target.all { print("\(target.name): \(target.about)") } }
}

struct Child: ParsableCommand {
    static let configuration = CommandConfiguration(shouldDisplay: false)
    @Argument var target: String
    @Option var seed: UInt64
    @Option var seconds: Double
    @Option var state: String

    func run() throws {
        let isGood = Runner.run(
            try Fuzz.target(target), seed: seed, seconds: seconds,
            progress: try Progress(path: state))
        if !isGood { throw ExitCode(1) }
    }
}
