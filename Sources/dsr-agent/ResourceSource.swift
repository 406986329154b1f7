import Foundation
import Glibc
import StorageProtocols
import Yams

/// Where an agent learns what its server has.
protocol ResourceSource {
    /// What is there now, and what kept it from looking. `isDue`: an announcement is due; looks in between must
    /// be cheap.
    mutating func look(isDue: Bool) -> (resources: [AnnouncedResource], problem: String?)
}

/// Only the load is announced.
struct NoResources: ResourceSource {
    mutating func look(isDue: Bool) -> (resources: [AnnouncedResource], problem: String?) {
        ([], nil)
    }
}

/// `resources: [{name: r1, target: "iqn.2026-01.lab.dsr:r1", state: serving, luns: 1}]`
struct ResourceFile: ResourceSource {
    private struct Contents: Decodable {
        struct Entry: Decodable {
            var name: String
            var target: String
            var state: AnnouncedResource.State?
            var luns: UInt16?
        }
        var resources: [Entry]
    }

    /// Tells one state of the file from another.
    private struct Mark: Equatable {
        var device: UInt
        var inode: UInt
        var size: Int
        var seconds: Int
        var nanoseconds: Int
    }

    private let path: String
    private var resources: [AnnouncedResource] = []
    private var mark: Mark?
    private var problem: String?
    private static let lengthMaximum = 1 << 20

    init(path: String) throws(AgentFailure) {
        self.path = path
        mark = Self.mark(path)
        resources = try Self.read(path)
    }

    /// A file that is wrong or not there changes nothing: half a file is not a server without resources.
    mutating func look(isDue: Bool) -> (resources: [AnnouncedResource], problem: String?) {
        let now = Self.mark(path)
        if now == nil {
            problem = "\(path): \(String(cString: strerror(errno)))"
        } else if now != mark {
            do throws(AgentFailure) {
                resources = try Self.read(path)
                problem = nil
            } catch {
                problem = error.message
            }
        }
        mark = now
        return (resources, problem.map { $0 + "; what was read before is announced" })
    }

    private static func mark(_ path: String) -> Mark? {
        var status = stat()
        guard stat(path, &status) == 0 else { return nil }
        return Mark(
            device: UInt(status.st_dev), inode: UInt(status.st_ino), size: Int(status.st_size),
            seconds: status.st_mtim.tv_sec, nanoseconds: status.st_mtim.tv_nsec)
    }

    private static func read(_ path: String) throws(AgentFailure) -> [AnnouncedResource] {
        guard let file = FileHandle(forReadingAtPath: path),
            let data = try? file.read(upToCount: lengthMaximum + 1)
        else { throw AgentFailure("\(path): cannot be read") }
        guard data.count <= lengthMaximum else {
            throw AgentFailure("\(path): longer than \(lengthMaximum) octets")
        }
        do {
            let contents = try YAMLDecoder().decode(
                Contents.self, from: String(decoding: data, as: UTF8.self))
            let resources = contents.resources.map {
                AnnouncedResource(
                    name: $0.name, target: $0.target, state: $0.state ?? .serving,
                    lunCount: $0.luns ?? 1)
            }
            try AnnouncementSender.check(resources)
            return resources
        } catch let invalid as AnnouncementSender.Invalid {
            throw AgentFailure("\(path): \(invalid)")
        } catch let error as DecodingError {
            throw AgentFailure("\(path): \(reason(error))")
        } catch {
            throw AgentFailure("\(path): \(error)")
        }
    }

    private static func reason(_ error: DecodingError) -> String {
        func place(_ path: [any CodingKey]) -> String {
            path.isEmpty
                ? "file"
                : path.map { $0.intValue.map { "[\($0)]" } ?? ".\($0.stringValue)" }.joined()
                    .trimmingPrefix(".").description
        }
        switch error {
        case .keyNotFound(let key, let context):
            return "\(place(context.codingPath + [key])) is missing"
        case .typeMismatch(_, let context), .valueNotFound(_, let context):
            return "\(place(context.codingPath)): \(context.debugDescription)"
        case .dataCorrupted(let context):
            let below = context.underlyingError.map { ": \($0)" } ?? ""
            return "\(place(context.codingPath)): \(context.debugDescription)\(below)"
        @unknown default: return "\(error)"
        }
    }
}

/// The targets of tgtd.
struct TargetDaemon: ResourceSource {
    private let controlPort: Int?
    private var resources: [AnnouncedResource] = []
    private var problem: String?

    init(controlPort: Int?) { self.controlPort = controlPort }

    mutating func look(isDue: Bool) -> (resources: [AnnouncedResource], problem: String?) {
        guard isDue else { return (resources, problem) }
        var words = ["tgtadm", "--lld", "iscsi", "--op", "show", "--mode", "target"]
        if let controlPort { words += ["-C", String(controlPort)] }
        do throws(BoundedCommand.Failure) {
            let output = try BoundedCommand.run(
                words, nanoseconds: 2_000_000_000,
                maximum: TargetAdministratorOutput.lengthMaximum)
            guard output.status == 0 else {
                // No tgtd, no targets.
                resources = []
                problem = "tgtd does not answer: tgtadm ended with status \(output.status)"
                return (resources, problem)
            }
            resources = TargetAdministratorOutput.resources(output.text)
            problem = nil
        } catch {
            // Whether it serves is not known; what was seen last stands.
            problem = "tgtadm \(error.reason); what was read before is announced"
        }
        return (resources, problem)
    }
}
