import DataPlane
import Yams

/// Reads nodes of a YAML file and gathers everything that is wrong with them, with its place.
final class ConfigurationReader {
    private(set) var errors: [ConfigurationError] = []

    func fail(_ node: Node?, _ field: String, _ message: String) {
        let mark = node?.mark
        errors.append(
            ConfigurationError(
                line: mark?.line ?? 1, column: mark?.column ?? 1, field: field, message: message))
    }

    /// The mapping's values by key; unknown and double keys are errors.
    func mapping(
        _ node: Node?, _ field: String, keys: [String], required: [String] = []
    ) -> [String: Node] {
        guard let node else { return [:] }
        guard let mapping = node.mapping else {
            fail(node, field, "must be a mapping of \(keys.joined(separator: ", "))")
            return [:]
        }
        var result: [String: Node] = [:]
        for (key, value) in mapping {
            let name = key.string ?? ""
            if !keys.contains(name) {
                let near = Self.nearest(name, keys)
                fail(
                    key, field.isEmpty ? name : "\(field).\(name)",
                    near.map { "unknown; did you mean \($0)?" }
                        ?? "unknown; known are \(keys.joined(separator: ", "))")
            } else if result[name] != nil {
                fail(key, "\(field).\(name)", "given twice")
            } else {
                result[name] = value
            }
        }
        for name in required where result[name] == nil {
            fail(node, field.isEmpty ? name : "\(field).\(name)", "is missing")
        }
        return result
    }

    func sequence(_ node: Node?, _ field: String) -> [(node: Node, field: String)] {
        guard let node else { return [] }
        guard let sequence = node.sequence else {
            fail(node, field, "must be a list")
            return []
        }
        return sequence.enumerated().map { ($0.element, "\(field)[\($0.offset)]") }
    }

    func string(_ node: Node?, _ field: String, default fallback: String = "") -> String {
        guard let node else { return fallback }
        guard let text = node.scalar?.string, !text.isEmpty else {
            fail(node, field, "must be a text that is not empty")
            return fallback
        }
        return text
    }

    func integer(
        _ node: Node?, _ field: String, in range: ClosedRange<Int>, default fallback: Int
    ) -> Int {
        integer(node, field, in: range) ?? fallback
    }

    /// Nil: there is none, or it is wrong.
    func integer(_ node: Node?, _ field: String, in range: ClosedRange<Int>) -> Int? {
        guard let node else { return nil }
        guard let text = node.scalar?.string, let value = Int(text), range.contains(value) else {
            fail(
                node, field,
                "must be a number from \(range.lowerBound) to \(range.upperBound), not "
                    + "\"\(node.scalar?.string ?? "?")\"")
            return nil
        }
        return value
    }

    func real(_ node: Node?, _ field: String, in range: ClosedRange<Double>) -> Double {
        guard let node else { return 0 }
        guard let text = node.scalar?.string, let value = Double(text), range.contains(value)
        else {
            fail(node, field, "must be a number from \(range.lowerBound) to \(range.upperBound)")
            return 0
        }
        return value
    }

    func choice<Value: RawRepresentable & CaseIterable>(
        _ node: Node?, _ field: String, default fallback: Value
    ) -> Value where Value.RawValue == String {
        guard let node else { return fallback }
        let known = Value.allCases.map(\.rawValue)
        guard let text = node.scalar?.string, let value = Value(rawValue: text) else {
            let given = node.scalar?.string ?? "?"
            let near = Self.nearest(given, known).map { "; did you mean \($0)?" } ?? ""
            fail(
                node, field,
                "\"\(given)\" is none of \(known.joined(separator: ", "))\(near)")
            return fallback
        }
        return value
    }

    func address(_ node: Node, _ field: String) -> IPAddress? {
        let text = node.scalar?.string ?? ""
        guard let address = IPAddress(text) else {
            fail(node, field, "\"\(text)\" is not an IPv4 or IPv6 address")
            return nil
        }
        return address
    }

    func interfaceAddress(_ node: Node, _ field: String) -> InterfaceAddress? {
        let text = node.scalar?.string ?? ""
        guard text.contains("/"), let prefix = IPPrefix(text) else {
            fail(
                node, field,
                "\"\(text)\" is not an address with its prefix length, as 10.0.0.1/24")
            return nil
        }
        return InterfaceAddress(
            address: prefix.address, prefixLength: UInt8(truncatingIfNeeded: prefix.length))
    }

    func mac(_ node: Node?, _ field: String) -> MACAddress {
        guard let node else { return .zero }
        let text = node.scalar?.string ?? ""
        guard let mac = MACAddress(text), !mac.isGroup, mac != .zero else {
            fail(node, field, "\"\(text)\" is not a unicast MAC address, as 02:00:00:00:00:01")
            return .zero
        }
        return mac
    }

    func device(_ node: Node?, _ field: String) -> String {
        let name = string(node, field)
        if let node, name.utf8.count > 15 || name.contains("/") || name.contains(" ") {
            fail(
                node, field,
                "\"\(name)\" is not a device name: at most 15 characters, no / or space")
        }
        return name
    }

    /// The known word with the fewest changes, when there are few.
    static func nearest(_ word: String, _ known: [String]) -> String? {
        let best = known.map { ($0, distance(word, $0)) }.min { $0.1 < $1.1 }
        guard let best, best.1 <= max(1, word.count / 3) else { return nil }
        return best.0
    }

    /// Levenshtein's distance.
    static func distance(_ left: String, _ right: String) -> Int {
        let a = Array(left)
        let b = Array(right)
        var row = Array(0...b.count)
        for i in a.indices {
            var previous = row[0]
            row[0] = i + 1
            for j in b.indices {
                let old = row[j + 1]
                row[j + 1] = min(old + 1, row[j] + 1, previous + (a[i] == b[j] ? 0 : 1))
                previous = old
            }
        }
        return row[b.count]
    }
}
