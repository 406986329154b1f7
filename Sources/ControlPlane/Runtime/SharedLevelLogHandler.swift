public import Logging
import Synchronization

/// Gives all copies of a logger one level, so that it can be changed while the program runs.
public struct SharedLevelLogHandler: LogHandler {
    private final class Level: Sendable {
        let value: Mutex<Logger.Level>
        init(_ value: Logger.Level) { self.value = Mutex(value) }
    }

    private var inner: any LogHandler
    private let level: Level

    /// - Parameter inner: writes the lines.
    public init(_ inner: any LogHandler, level: Logger.Level) {
        self.inner = inner
        // What is too fine for the shared level does not come this far.
        self.inner.logLevel = .trace
        self.level = Level(level)
    }

    public var logLevel: Logger.Level {
        get { level.value.withLock { $0 } }
        set { level.value.withLock { $0 = newValue } }
    }

    public var metadata: Logger.Metadata {
        get { inner.metadata }
        set { inner.metadata = newValue }
    }

    public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { inner[metadataKey: key] }
        set { inner[metadataKey: key] = newValue }
    }

    public func log(event: LogEvent) { inner.log(event: event) }
}
