import DataPlane
import Glibc
import TestSupport
import Testing

/// Capture files: what is written is read back, what is damaged is told.
@Suite struct CaptureTests {
    /// A file that goes with the test.
    private final class TemporaryFile {
        let path: String

        init(_ bytes: [UInt8]? = nil) {
            var template = Array("/tmp/dsr-capture-XXXXXX".utf8CString)
            close(mkstemp(&template))
            path = String(
                decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
            if let bytes { write(bytes) }
        }

        deinit { unlink(path) }

        func write(_ bytes: [UInt8]) {
            guard let file = fopen(path, "w") else { return }
            fwrite(bytes, 1, bytes.count, file)
            fclose(file)
        }

        var bytes: [UInt8] {
            guard let file = fopen(path, "r") else { return [] }
            defer { fclose(file) }
            var buffer = [UInt8](repeating: 0, count: 1 << 20)
            let count = fread(&buffer, 1, buffer.count, file)
            return Array(buffer.prefix(count))
        }
    }

    private func read(_ path: String) throws -> [(bytes: [UInt8], time: UInt64)] {
        let reader = try CaptureReader(path: path)
        var result: [(bytes: [UInt8], time: UInt64)] = []
        while let next = try reader.next() { result.append(next) }
        return result
    }

    private func write(_ frames: [[UInt8]], to path: String) throws {
        let memory = FrameMemory()
        let output = try CaptureOutput(path: path)
        for (index, bytes) in frames.enumerated() {
            output.write(memory.frame(bytes), time: 1_700_000_000_123_456_789 + UInt64(index))
        }
    }

    private var frames: [[UInt8]] {
        PacketBuilder.samples.map(\.bytes) + [
            [1], PacketBuilder(payload: [UInt8](repeating: 7, count: 60_000)).frame(),
        ]
    }

    @Test func roundTrip() throws {
        let file = TemporaryFile()
        try write(frames, to: file.path)
        let result = try read(file.path)
        #expect(result.map(\.bytes) == frames)
        // Nanoseconds.
        #expect(result.map(\.time) == frames.indices.map { 1_700_000_000_123_456_789 + UInt64($0) })
    }

    @Test func emptyCapture() throws {
        let file = TemporaryFile()
        try write([], to: file.path)
        #expect(try read(file.path).isEmpty)
    }

    /// Cut at every place of the first records: an error, or the records before; never more.
    @Test func truncation() throws {
        let file = TemporaryFile()
        let two = Array(frames.prefix(2))
        try write(two, to: file.path)
        let whole = file.bytes
        let ends = [24, 24 + 16 + two[0].count, whole.count]
        for length in 0..<whole.count {
            file.write(Array(whole.prefix(length)))
            if ends.contains(length) {
                #expect(
                    try read(file.path).map(\.bytes)
                        == Array(two.prefix(ends.firstIndex(of: length) ?? 0)))
                continue
            }
            do {
                _ = try read(file.path)
                Issue.record("\(length) octets were read without an error")
            } catch let error as PortError {
                if error.port != file.path || error.message.isEmpty { Issue.record("\(error)") }
            }
        }
    }

    @Test func damage() throws {
        let file = TemporaryFile()
        try write(Array(frames.prefix(2)), to: file.path)
        let whole = file.bytes
        // A magic number that is none; a link type that is not Ethernet; an impossible length.
        for (offset, octets) in [
            (0, [9, 9, 9, 9]), (20, [101, 0, 0, 0]), (32, [255, 255, 255, 127]),
        ] as [(Int, [UInt8])] {
            var changed = whole
            changed.replaceSubrange(offset..<offset + 4, with: octets)
            file.write(changed)
            #expect(throws: PortError.self, "\(offset)") { try read(file.path) }
        }
        var random = SplitMix64(seed: 12)
        for _ in 0..<300 {
            var changed = whole
            for _ in 0..<4 { changed[random.below(120)] = UInt8(truncatingIfNeeded: random.next()) }
            file.write(changed)
            _ = try? read(file.path)
        }
    }

    @Test func missingFile() {
        #expect(throws: PortError.self) { try CaptureReader(path: "/nonexistent/file") }
        #expect(throws: PortError.self) { try CaptureOutput(path: "/nonexistent/file") }
        let file = TemporaryFile([])
        #expect(throws: PortError.self) { try CaptureReader(path: file.path) }
    }

    // MARK: Recording

    private func pass(_ frames: [[UInt8]], _ port: RecordingPort, _ inner: MemoryPort) {
        let memory = FrameMemory()
        let burst = UnsafeMutablePointer<Frame>.allocate(capacity: 64)
        defer { burst.deallocate() }
        for (index, bytes) in frames.enumerated() {
            if index % 2 == 0 {
                inner.inject(bytes)
                #expect(port.receive(into: burst, limit: 64, now: 0) == 1)
            } else {
                port.transmit(memory.frame(bytes), now: 0)
                port.flush(now: 0)
            }
        }
    }

    @Test func recordsBothDirections() throws {
        let inner = MemoryPort(name: "inner")
        let port = RecordingPort(inner)
        let file = TemporaryFile()
        let frames = PacketBuilder.samples.map(\.bytes)
        #expect(port.stop() == nil)
        pass(frames, port, inner)
        try port.start(path: file.path, limit: 0)
        pass(frames, port, inner)
        let recording = try #require(port.stop())
        pass(frames, port, inner)
        #expect(recording.packets == UInt64(frames.count) && !recording.isRunning)
        #expect(recording.bytes == UInt64(frames.map(\.count).reduce(0, +)))
        #expect(try read(file.path).map(\.bytes) == frames)
        #expect(inner.drain().count == frames.count / 2 * 3)
    }

    @Test func limitAndFilter() throws {
        let inner = MemoryPort(name: "inner")
        let port = RecordingPort(inner)
        let file = TemporaryFile()
        let udp = PacketBuilder("10.0.0.1", "10.0.0.2", .udp, payload: [1]).frame()
        let frames = Array(repeating: [PacketBuilder().frame(), udp], count: 10).flatMap { $0 }
        try port.start(path: file.path, limit: 3, filter: "udp port 3260")
        pass(frames, port, inner)
        #expect(port.recording?.packets == 3 && port.recording?.isRunning == false)
        #expect(try read(file.path).map(\.bytes) == [udp, udp, udp])
    }

    /// A second recording is refused, and does no harm to the first.
    @Test func refusals() throws {
        let inner = MemoryPort(name: "inner")
        let port = RecordingPort(inner)
        let file = TemporaryFile()
        #expect(throws: PortError.self) {
            try port.start(path: file.path, limit: 0, filter: "no such filter")
        }
        #expect(throws: PortError.self) { try port.start(path: "/nonexistent/file", limit: 0) }
        #expect(port.recording == nil)
        try port.start(path: file.path, limit: 0)
        let frames = Array(PacketBuilder.samples.map(\.bytes).prefix(6))
        pass(Array(frames.prefix(4)), port, inner)
        #expect(throws: PortError.self) { try port.start(path: file.path, limit: 0) }
        pass(Array(frames.suffix(2)), port, inner)
        #expect(port.stop()?.packets == 6)
        #expect(try read(file.path).map(\.bytes) == frames)
        // Now another one may start.
        try port.start(path: file.path, limit: 0)
        #expect(port.stop()?.packets == 0)
    }
}
