import Dispatch
import Foundation
import Logging

/// Loads of the past on disk, so that a forecast survives a restart.
///
/// JSON, replaced as a whole by a file beside it, so that a crash leaves the old one or the new one. What is wrong
/// with the file costs the histories and nothing else.
package struct LoadHistoryFile: Codable, Equatable, Sendable {
    package struct Entry: Codable, Equatable, Sendable {
        /// Slot of the newest value, counted from 1970-01-01.
        package var lastSlot: UInt64
        /// The oldest first; null: not measured.
        package var values: [Double?]

        private enum CodingKeys: String, CodingKey {
            case lastSlot = "last_slot"
            case values
        }
    }

    package var version = 1
    package var slotSeconds: Int
    package var resources: [String: Entry]

    private enum CodingKeys: String, CodingKey {
        case version
        case slotSeconds = "slot_s"
        case resources
    }

    package struct Unusable: Error, Equatable, CustomStringConvertible {
        package var description: String
    }

    package init(_ histories: [String: LoadHistory], slotSeconds: Int) {
        self.slotSeconds = slotSeconds
        resources = histories.compactMapValues { history in
            history.last.map { Entry(lastSlot: $0, values: history.values) }
        }
    }

    /// Histories of slots of this length; a missing file is an empty one.
    package static func load(
        path: String, slotSeconds: Int, capacity: Int
    ) throws -> [String: LoadHistory] {
        guard FileManager.default.fileExists(atPath: path) else { return [:] }
        let data = try Data(contentsOf: URL(fileURLWithPath: path))
        let file = try JSONDecoder().decode(Self.self, from: data)
        guard file.version == 1 else {
            throw Unusable(description: "it has version \(file.version), not 1")
        }
        guard file.slotSeconds == slotSeconds else {
            throw Unusable(
                description: "its slots have \(file.slotSeconds) s, not \(slotSeconds) s")
        }
        return file.resources.mapValues {
            LoadHistory(
                slotLength: .seconds(slotSeconds), capacity: capacity, values: $0.values,
                last: $0.lastSlot)
        }
    }

    package func write(to path: String) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        try encoder.encode(self).write(to: URL(fileURLWithPath: path), options: .atomic)
    }

    private static let queue = DispatchQueue(label: "load history")

    /// Writes it on another thread, one after the other.
    func writeLater(to path: String, log: Logger) {
        Self.queue.async {
            do {
                try write(to: path)
            } catch {
                log.error("load history \(path) cannot be written: \(error)")
            }
        }
    }
}
