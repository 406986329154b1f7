import ArgumentParser
import ControlPlane
import Foundation

/// A command that could not do what was asked: message, then exit status 1.
struct CommandFailure: Error {
    var message: String
    init(_ message: String) { self.message = message }
}

/// Something in a file is wrong.
struct PlacedRefusal: Error {
    var model: ErrorModel
    /// `FILE:LINE`.
    var place: String
}

enum Failure {
    static let failed: Int32 = 1
    static let usage: Int32 = 2
    static let unreachable: Int32 = 3

    /// Tells people what went wrong; the exit status.
    static func report(_ error: any Error) -> Int32 {
        switch error {
        case let error as ControlClient.Unreachable:
            warn("dsrctl: \(error)")
            return unreachable
        case let error as ControlClient.Refused:
            warn(rendering(error.model))
            return failed
        case let error as PlacedRefusal:
            warn(rendering(error.model, place: error.place))
            return failed
        case let error as CommandFailure:
            warn("dsrctl: \(error.message)")
            return failed
        case let error as DecodingError:
            warn("dsrctl: the daemon's answer is of another version: \(error)")
            return failed
        default: break
        }
        let code = Control.exitCode(for: error)
        let message = Control.fullMessage(for: error)
        if code == .success {
            print(message)
            return 0
        }
        warn(message)
        return code == .validationFailure ? usage : code.rawValue
    }

    static func warn(_ text: String) {
        FileHandle.standardError.write(Data((text + "\n").utf8))
    }

    /// The wrong text with a mark below the wrong word, what is wrong, and what would be right.
    static func rendering(_ model: ErrorModel, place: String? = nil) -> String {
        var lines: [String] = []
        if let text = model.text {
            lines.append(text)
            if let column = model.column {
                lines.append(mark(text, column: column, length: model.length ?? 1))
            }
        }
        var head = place ?? "dsrctl"
        if let column = model.column, model.text != nil {
            head += place == nil ? ": column \(column)" : ":\(column)"
        } else if let field = model.field {
            head += ": \(field)"
        }
        lines.append("\(head): \(model.message)")
        if let suggestion = model.suggestion { lines.append("  \(suggestion)") }
        return lines.joined(separator: "\n")
    }

    /// Tabs stay tabs, so that the mark is below its word.
    private static func mark(_ text: String, column: Int, length: Int) -> String {
        let before = text.prefix(max(0, column - 1)).map { $0 == "\t" ? "\t" : " " }
        let missing = max(0, column - 1 - before.count)
        return before.joined() + String(repeating: " ", count: missing)
            + String(repeating: "^", count: max(1, length))
    }
}
