import DataPlane
import Synchronization

/// Recorders of the ports, by name.
final class CaptureTable: Sendable {
    private let recorders = Mutex<[(name: String, port: RecordingPort)]>([])

    func add(_ port: RecordingPort, name: String) {
        recorders.withLock { $0.append((name, port)) }
    }

    func recorder(_ name: String) -> RecordingPort? {
        recorders.withLock { $0.first { $0.name == name }?.port }
    }

    var all: [(name: String, port: RecordingPort)] { recorders.withLock { $0 } }
}
