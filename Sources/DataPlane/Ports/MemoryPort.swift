import Glibc

/// A port in memory: tests and replays put frames in and take frames out.
public final class MemoryPort: Port {
    /// A frame as it left the switch.
    public struct SentFrame: Equatable, Sendable {
        public var bytes: [UInt8]
        public var offload: VirtioHeader
        public init(bytes: [UInt8], offload: VirtioHeader = VirtioHeader()) {
            self.bytes = bytes
            self.offload = offload
        }
    }

    public let name: String
    public var pollDescriptor: Int32 { -1 }
    public var isUp = true
    public var needsPolling: Bool { true }
    public private(set) var deviceCounters = PortDeviceCounters()
    /// Frames that wait on either side; beyond it they are dropped and counted.
    public let capacity: Int

    private var input: [SentFrame] = []
    private var inputHead = 0
    private var output: [SentFrame] = []
    private let buffers = FrameBuffers(count: 64)
    private weak var peer: MemoryPort?
    /// When set, frames sent are given to it and not kept.
    public var onTransmit: ((Frame) -> Void)?

    public init(name: String, capacity: Int = 65_536) {
        self.name = name
        self.capacity = capacity
    }

    /// Two ports, each receiving what the other sends.
    public static func pair(_ first: String, _ second: String) -> (MemoryPort, MemoryPort) {
        let ports = (MemoryPort(name: first), MemoryPort(name: second))
        ports.0.peer = ports.1
        ports.1.peer = ports.0
        return ports
    }

    /// Queues a frame for the switch to receive; false when the queue is full.
    @discardableResult
    public func inject(_ bytes: [UInt8], offload: VirtioHeader = VirtioHeader()) -> Bool {
        guard input.count - inputHead < capacity, bytes.count <= Frame.maximumLength else {
            return false
        }
        input.append(SentFrame(bytes: bytes, offload: offload))
        return true
    }

    /// Everything sent since the last call.
    public func drain() -> [SentFrame] {
        defer { output.removeAll(keepingCapacity: true) }
        return output
    }

    public func receive(
        into burst: UnsafeMutablePointer<Frame>, limit: Int, now: UInt64
    ) -> Int {
        var frames = 0
        while frames < min(limit, buffers.count), inputHead < input.count {
            let next = input[inputHead]
            inputHead += 1
            let start = buffers.start(frames)
            next.bytes.withUnsafeBytes { bytes in
                if let base = bytes.baseAddress {
                    start.copyMemory(from: base, byteCount: bytes.count)
                }
            }
            burst[frames] = Frame(start: start, length: next.bytes.count)
            burst[frames].offload = next.offload
            frames += 1
        }
        if inputHead == input.count {
            input.removeAll(keepingCapacity: true)
            inputHead = 0
        }
        return frames
    }

    public func transmit(_ frame: Frame, now: UInt64) {
        if let onTransmit { return onTransmit(frame) }
        let bytes = [UInt8](UnsafeRawBufferPointer(start: frame.start, count: frame.length))
        if let peer {
            if !peer.inject(bytes, offload: frame.offload) { deviceCounters.transmitDrops &+= 1 }
            return
        }
        guard output.count < capacity else {
            deviceCounters.transmitDrops &+= 1
            return
        }
        output.append(SentFrame(bytes: bytes, offload: frame.offload))
    }

    public func flush(now: UInt64) {}
    public func maintain(now: UInt64) -> Bool { false }
}
