import ArgumentParser
import ControlPlane
import Foundation
import Glibc

/// Whether a command waits for what it has started.
struct WaitOptions: ParsableArguments {
    @Flag(help: "Wait until it is done, and tell each step.")
    var wait = false

    @Option(help: "Seconds that --wait may take.")
    var timeout = 60.0

    func validate() throws {
        guard timeout > 0, timeout <= 86_400 else {
            throw ValidationError("--timeout is more than 0 and at most 86400")
        }
    }
}

/// Follows an operation by the events about it.
struct OperationProgress {
    enum Verdict: Equatable {
        /// About something else.
        case unrelated
        case step
        case done
        case failed(String)
    }

    let daemon: DaemonOptions
    let options: WaitOptions
    private static let interval: UInt32 = 50_000

    /// Tells people of the operation; with `--wait` until `judge` says that it has ended.
    func show(
        _ operation: OperationModel, judge: (EventModel) -> Verdict
    ) throws {
        guard options.wait else {
            return daemon.show(operation) { ([$0.message] + $0.notes).joined(separator: "\n") }
        }
        say(operation.message)
        let end = try follow(operation, judge)
        if daemon.output.json { daemon.output.printJSON(end) }
        for note in operation.notes { say(note) }
    }

    private func say(_ text: String) {
        guard !daemon.output.json else { return }
        print(text)
        fflush(nil)
    }

    /// The event that ended it.
    private func follow(
        _ operation: OperationModel, _ judge: (EventModel) -> Verdict
    ) throws -> EventModel {
        let started = ContinuousClock.now
        var position = operation.eventsAfter
        var text = EventText()
        var last = operation.message
        while true {
            for event in try daemon.events(after: position) {
                position = event.sequence
                if event.kind == "configuration_reloaded" {
                    throw CommandFailure(
                        "the configuration was read again meanwhile: what has become of it is "
                            + "told by resource list")
                }
                switch judge(event) {
                case .unrelated: continue
                case .step:
                    last = event.message
                    say("  " + text.message(event))
                case .done:
                    say("  " + text.message(event))
                    say("done")
                    return event
                case .failed(let why):
                    say("  " + text.message(event))
                    throw CommandFailure(why)
                }
            }
            let elapsed = ContinuousClock.now - started
            guard elapsed < .seconds(options.timeout) else {
                throw CommandFailure(
                    "not done within \(DecimalText.seconds(options.timeout)) s; it goes on. "
                        + "Last: \(last)")
            }
            usleep(Self.interval)
        }
    }
}

/// Judges events about one change of resources.
final class ChangeJudge {
    private let change: String?
    private var trouble: [String] = []

    init(_ change: UInt64?) { self.change = change.map(String.init) }

    func judge(_ event: EventModel) -> OperationProgress.Verdict {
        guard let change, event.details["change"] == change else { return .unrelated }
        switch event.kind {
        case "change_dropped", "sessions_abandoned":
            trouble.append(event.message)
            return .step
        case "sessions_moved":
            if let failed = event.details["failed"], failed != "0" {
                trouble.append("\(event.resource ?? ""): \(failed) sessions have ended")
            }
            return .step
        case "change_finished":
            return trouble.isEmpty ? .done : .failed(trouble.joined(separator: "; "))
        default: return .step
        }
    }
}

/// Judges events about one server, and about the changes that empty it.
final class ServerJudge {
    private let server: String
    private let end: Set<String>
    private let failures: Set<String>
    private var changes: Set<String> = []

    init(_ server: String, end: Set<String>, failures: Set<String> = []) {
        self.server = server
        self.end = end
        self.failures = failures
    }

    func judge(_ event: EventModel) -> OperationProgress.Verdict {
        if let change = event.details["change"] {
            if event.kind == "change_planned", event.server == server { changes.insert(change) }
            return changes.contains(change) ? .step : .unrelated
        }
        guard event.server == server, event.session == nil else { return .unrelated }
        if end.contains(event.kind) { return .done }
        return failures.contains(event.kind) ? .failed(event.message) : .step
    }
}
