import ArgumentParser
import ControlPlane
import Foundation

struct VolumeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "volume", abstract: "Units that are made of several resources.",
        subcommands: [VolumeList.self, VolumeShow.self], defaultSubcommand: VolumeList.self)
}

struct VolumeList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "One line for each volume.")

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        daemon.show(try daemon.get([VolumeModel].self, "/volumes")) { volumes in
            var table = Table([
                ("NAME", .left), ("UNIT", .right), ("KIND", .left), ("CAPACITY", .right),
                ("STATE", .left), ("MEMBERS", .left),
            ])
            for volume in volumes {
                table.add([
                    volume.name, "\(volume.unit)", volume.kind,
                    volume.capacity.map(VolumeText.octets) ?? "-", VolumeText.state(volume),
                    Text.list(volume.members.map(\.resource)),
                ])
            }
            return table.text
        }
    }
}

struct VolumeShow: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Everything that is known of one volume.")

    @Argument(help: "As volume list prints it.")
    var name: String

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        let volume = try daemon.get(VolumeModel.self, "/volumes/" + DaemonOptions.query(name))
        daemon.show(volume, people: VolumeText.details)
    }
}

enum VolumeText {
    /// The whole volume in a word or two.
    static func state(_ volume: VolumeModel) -> String {
        if volume.trouble != nil { return "in trouble" }
        guard volume.capacity != nil else { return "unknown" }
        let copying = volume.members.filter { $0.state == .copying }
        if !copying.isEmpty {
            let done = copying.reduce(0) { $0 + ($1.copied ?? 0) }
            let all = copying.reduce(0) { $0 + ($1.toCopy ?? 0) }
            return "copying \(percent(done, of: all)) %"
        }
        return volume.members.contains { $0.state == .out } ? "degraded" : "whole"
    }

    static func details(_ volume: VolumeModel) -> String {
        let head = Table.pairs([
            ("volume", volume.name),
            ("unit", "\(volume.unit)"),
            ("kind", volume.kind),
            ("capacity", volume.capacity.map { "\($0) bytes, \(octets($0))" }),
            ("state", state(volume)),
            ("trouble", volume.trouble),
            ("changed", changed(volume)),
        ])
        return head + "\n" + members(volume)
    }

    private static func changed(_ volume: VolumeModel) -> String? {
        volume.changedRegions.map { count in
            "\(count)" + (volume.regions.map { " of \($0)" } ?? "") + " regions"
        }
    }

    private static func members(_ volume: VolumeModel) -> String {
        var table = Table([
            ("MEMBER", .left), ("SERVER", .left), ("STATE", .left), ("PROGRESS", .left),
            ("REASON", .left),
        ])
        for member in volume.members {
            table.add([
                member.resource, member.server ?? "-",
                // Nobody has looked at them yet.
                volume.capacity == nil ? "-" : member.state.rawValue, progress(member),
                member.reason ?? "",
            ])
        }
        return table.text
    }

    private static func progress(_ member: VolumeMemberModel) -> String {
        guard member.state == .copying, let done = member.copied, let all = member.toCopy else {
            return "-"
        }
        return "\(done) of \(all) regions, \(percent(done, of: all)) %"
    }

    /// Rounded down: 100 is the end.
    private static func percent(_ done: Int, of all: Int) -> Int {
        all > 0 ? min(100, max(0, done * 100 / all)) : 100
    }

    /// With a unit that fits: three digits that count.
    static func octets(_ count: UInt64) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
        var value = Double(count)
        var unit = 0
        while value >= 1_024, unit + 1 < units.count {
            value /= 1_024
            unit += 1
        }
        let places = value < 9.995 ? 2 : value < 99.95 ? 1 : 0
        let digits = value.formatted(
            .number.precision(.fractionLength(0...places)).grouping(.never)
                .locale(Locale(identifier: "en_US_POSIX")))
        return "\(digits) \(units[unit])"
    }
}
