import ControlPlane
import Foundation

/// Aligned columns.
struct Table {
    enum Alignment { case left, right }
    private let heads: [(name: String, alignment: Alignment)]
    private var rows: [[String]] = []

    init(_ heads: [(name: String, alignment: Alignment)]) { self.heads = heads }

    mutating func add(_ cells: [String]) { rows.append(cells) }

    var text: String {
        let all = [heads.map(\.name)] + rows
        let widths = heads.indices.map { column in all.map { $0[column].count }.max() ?? 0 }
        return all.map { row in
            let cells = row.indices.map { column in
                let space = String(repeating: " ", count: widths[column] - row[column].count)
                return heads[column].alignment == .left
                    ? row[column] + space : space + row[column]
            }
            let line = cells.joined(separator: "  ")
            return String(line.reversed().drop { $0 == " " }.reversed())
        }.joined(separator: "\n")
    }

    /// Names and values, one pair a line; pairs without a value are left out.
    static func pairs(_ pairs: [(String, String?)]) -> String {
        let known = pairs.compactMap { name, value in value.map { (name, $0) } }
        let width = known.map(\.0.count).max() ?? 0
        return known.map { name, value in
            name + String(repeating: " ", count: width - name.count) + "  " + value
        }.joined(separator: "\n")
    }
}

/// Values for people.
enum Text {
    /// A span of time with a unit that fits.
    static func duration(_ seconds: Double) -> String {
        switch seconds {
        case ..<120: return DecimalText.seconds(seconds) + " s"
        case ..<7_200: return "\(Int(seconds) / 60) min \(Int(seconds) % 60) s"
        case ..<172_800: return "\(Int(seconds) / 3_600) h \(Int(seconds) / 60 % 60) min"
        default:
            return "\(Int(min(seconds, 1e15)) / 86_400) d \(Int(min(seconds, 1e15)) / 3_600 % 24) h"
        }
    }

    /// A short span of time: three digits that count.
    static func short(_ seconds: Double) -> String {
        let value = max(0, seconds)
        func digits(_ value: Double) -> String {
            let places = value < 9.995 ? 2 : value < 99.95 ? 1 : 0
            return value.formatted(
                .number.precision(.fractionLength(0...places)).grouping(.never)
                    .locale(Locale(identifier: "en_US_POSIX")))
        }
        switch value {
        case ..<0.001: return "\(Int((value * 1e6).rounded())) us"
        case ..<0.9995: return digits(value * 1e3) + " ms"
        case ..<120: return digits(value) + " s"
        default: return duration(value)
        }
    }

    /// In the unit of the load formula: as many digits as anybody needs.
    static func load(_ value: Double) -> String {
        guard value.isFinite, abs(value) < 1e15 else { return "\(value)" }
        let rounded = (value * 10).rounded() / 10
        return rounded == rounded.rounded() ? "\(Int(rounded))" : "\(rounded)"
    }

    static func list(_ values: [String]) -> String {
        values.isEmpty ? "-" : values.joined(separator: ",")
    }
}
