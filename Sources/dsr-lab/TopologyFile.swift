import Foundation
import Yams

/// A topology with the place where it was found.
struct TopologyFile {
    /// Absolute.
    var path: String
    var topology: Topology

    var folder: String { (path as NSString).deletingLastPathComponent }

    /// - Parameter name: a file, a folder with topology.yaml, or the name of a folder in `topologies`.
    static func find(_ name: String) throws -> TopologyFile {
        let candidates = [
            name, "\(name)/topology.yaml", "topologies/\(name)/topology.yaml",
        ]
        let here = FileManager.default.currentDirectoryPath
        var paths = candidates.map { $0.hasPrefix("/") ? $0 : "\(here)/\($0)" }
        // The build puts programs into .build/CONFIGURATION of the folder with `topologies`.
        var folder = (Executable.own as NSString).deletingLastPathComponent
        for _ in 0..<4 {
            folder = (folder as NSString).deletingLastPathComponent
            paths.append("\(folder)/topologies/\(name)/topology.yaml")
        }
        for path in paths {
            var isFolder: ObjCBool = false
            if FileManager.default.fileExists(atPath: path, isDirectory: &isFolder),
                !isFolder.boolValue
            {
                return try load((path as NSString).standardizingPath)
            }
        }
        throw LabError(
            "there is no topology \"\(name)\": neither a file, nor a folder with topology.yaml, "
                + "nor topologies/\(name)/topology.yaml")
    }

    static func load(_ path: String) throws -> TopologyFile {
        guard let data = FileManager.default.contents(atPath: path) else {
            throw LabError("\(path): cannot be read")
        }
        let text = String(decoding: data, as: UTF8.self)
        do {
            if let node = try Yams.compose(yaml: text) { try TopologyKeys.check(node, path) }
            let topology = try YAMLDecoder().decode(Topology.self, from: text)
            try TopologyCheck(topology: topology, path: path).check()
            return TopologyFile(path: path, topology: topology)
        } catch let error as DecodingError {
            throw LabError("\(path): \(explain(error))")
        } catch let error as YamlError {
            throw LabError("\(path): \(error)")
        }
    }

    private static func explain(_ error: DecodingError) -> String {
        func place(_ keys: [any CodingKey]) -> String {
            keys.map { key in key.intValue.map { "[\($0)]" } ?? ".\(key.stringValue)" }
                .joined().trimmingCharacters(in: CharacterSet(charactersIn: "."))
        }
        switch error {
        case .keyNotFound(let key, let context):
            return "\(place(context.codingPath + [key])): is missing"
        case .typeMismatch(_, let context), .valueNotFound(_, let context),
            .dataCorrupted(let context):
            return "\(place(context.codingPath)): \(context.debugDescription)"
        @unknown default:
            return "\(error)"
        }
    }
}

/// Programs beside this one.
enum Executable {
    static let own =
        (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe"))
        ?? CommandLine.arguments[0]

    static func beside(_ name: String) -> String {
        (own as NSString).deletingLastPathComponent + "/" + name
    }
}
