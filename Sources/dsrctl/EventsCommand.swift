import ArgumentParser
import ControlPlane
import Foundation
import Glibc

struct EventsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "events", abstract: "What happened.",
        discussion: """
            Steps of a change of resources tell the time since it was planned. With --json one event \
            a line.
            """)

    @Flag(name: .shortAndLong, help: "Go on with new events as they happen.")
    var follow = false

    @Option(help: "Only events behind this sequence number.")
    var after: UInt64?

    @OptionGroup var daemon: DaemonOptions

    /// Microseconds between two looks.
    private static let interval: UInt32 = 200_000

    func run() throws {
        var position = after
        if follow, position == nil {
            position = try daemon.events(after: nil).last?.sequence ?? 0
        }
        var text = EventText()
        while true {
            let events = try daemon.events(after: position)
            if !daemon.output.json, let lost = Self.lost(events, behind: position) {
                Failure.warn("dsrctl: \(lost) events are lost: they are not kept any more")
            }
            for event in events {
                if daemon.output.json {
                    print(String(decoding: JSONCoding.encode(event), as: UTF8.self))
                } else {
                    print(text.line(event))
                }
                position = event.sequence
            }
            // Whoever reads a pipe sees an event when it happens.
            fflush(nil)
            guard follow else { return }
            usleep(Self.interval)
        }
    }

    /// Events between what was seen and what is kept; nil: none.
    private static func lost(_ events: [EventModel], behind position: UInt64?) -> UInt64? {
        guard let position, let first = events.first?.sequence, first > position + 1 else {
            return nil
        }
        return first - position - 1
    }
}

extension DaemonOptions {
    func events(after: UInt64?) throws -> [EventModel] {
        try get([EventModel].self, after.map { "/events?after=\($0)" } ?? "/events")
    }
}

/// Events as lines. Remembers when changes were planned.
struct EventText {
    /// Seconds since 1970, by change.
    private var planned: [String: Double] = [:]

    mutating func line(_ event: EventModel) -> String {
        let time = Date(timeIntervalSince1970: event.timeS)
        return "\(event.sequence)  \(Self.stamp(time))  \(event.kind)  \(message(event))"
    }

    /// What happened, with its values, and how long after the start of its change.
    mutating func message(_ event: EventModel) -> String {
        var text = event.message
        if let change = event.details["change"] {
            if event.kind == "change_planned" { planned[change] = event.timeS }
            if let start = planned[change], event.kind != "change_planned" {
                text += " (+\(Text.short(event.timeS - start)))"
            }
            if event.kind == "change_finished" { planned[change] = nil }
        }
        return text + Self.details(event.details)
    }

    private static func details(_ details: [String: String]) -> String {
        details.sorted { $0.key < $1.key }.map { name, value in
            guard name.hasSuffix("_us"), let time = Double(value) else {
                return " \(name)=\(value)"
            }
            return " \(name.dropLast(3))=\(Text.short(time / 1e6).filter { $0 != " " })"
        }.joined()
    }

    /// ISO 8601 in UTC.
    private static func stamp(_ date: Date) -> String {
        date.formatted(
            Date.ISO8601FormatStyle(includingFractionalSeconds: true, timeZone: .gmt))
    }
}
