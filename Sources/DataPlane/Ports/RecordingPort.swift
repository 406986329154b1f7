import CPcap
import Glibc
import Synchronization

/// A port that can write what passes to a capture file: nanosecond pcap, both directions.
public final class RecordingPort: Port, @unchecked Sendable {
    /// A recording, running or ended.
    public struct Recording: Sendable {
        public var path: String
        public var packets: UInt64 = 0
        public var bytes: UInt64 = 0
        public var limit: UInt64
        public var filter: String?
        public var isRunning = true
        /// Why it ended early.
        public var error: String?
    }

    private struct State: ~Copyable {
        var writer: CaptureWriter?
        var recording: Recording?
    }

    private let inner: any Port
    private let isRecording = Atomic<Bool>(false)
    private let state = Mutex(State())

    public init(_ inner: any Port) { self.inner = inner }

    public var name: String { inner.name }
    public var pollDescriptor: Int32 { inner.pollDescriptor }
    public var isUp: Bool { inner.isUp }
    public var needsPolling: Bool { inner.needsPolling }
    public var deviceCounters: PortDeviceCounters { inner.deviceCounters }

    /// Starts to write to `path`; ends by itself after `limit` packets (0: none). From any thread.
    public func start(path: String, limit: UInt64, filter: String? = nil) throws(PortError) {
        let name = name
        // Under the lock: a second start must not truncate the file of the first.
        try state.withLock { state throws(PortError) in
            guard state.recording?.isRunning != true else {
                throw PortError(port: name, message: "is being recorded already")
            }
            state.writer = try CaptureWriter(path: path, filter: filter)
            state.recording = Recording(path: path, limit: limit, filter: filter)
        }
        isRecording.store(true, ordering: .releasing)
    }

    /// Ends a recording; nil when there was none. From any thread.
    public func stop() -> Recording? {
        isRecording.store(false, ordering: .releasing)
        return state.withLock { state in
            Self.finish(&state)
            return state.recording
        }
    }

    /// Completes the file; an error of the disk shows at the latest here.
    private static func finish(_ state: inout State) {
        guard let writer = state.writer else { return }
        writer.flush()
        if let failure = writer.failure { state.recording?.error = failure }
        state.writer = nil
        state.recording?.isRunning = false
    }

    public var recording: Recording? { state.withLock { $0.recording } }

    private func record(_ frame: Frame) {
        // Only while somebody records is there a lock on the packet path, and it is not contended.
        state.withLock { state in
            guard state.recording?.isRunning == true, let writer = state.writer else { return }
            guard writer.write(frame) else { return }
            state.recording?.packets += 1
            state.recording?.bytes += UInt64(frame.length)
            let isFull = state.recording.map { $0.limit > 0 && $0.packets >= $0.limit } ?? false
            if isFull || writer.failure != nil {
                Self.finish(&state)
                isRecording.store(false, ordering: .releasing)
            }
        }
    }

    public func receive(
        into burst: UnsafeMutablePointer<Frame>, limit: Int, now: UInt64
    ) -> Int {
        let count = inner.receive(into: burst, limit: limit, now: now)
        if count > 0, isRecording.load(ordering: .relaxed) {
            for index in 0..<count { record(burst[index]) }
        }
        return count
    }

    public func transmit(_ frame: Frame, now: UInt64) {
        if isRecording.load(ordering: .relaxed) { record(frame) }
        inner.transmit(frame, now: now)
    }

    public func flush(now: UInt64) { inner.flush(now: now) }
    public func maintain(now: UInt64) -> Bool { inner.maintain(now: now) }
}
