import DataPlane

/// Sequence of flow numbers: each packet's flow is the next one of a random walk over all flows.
struct FlowOrder {
    private var state: UInt64 = 0x9e37_79b9_7f4a_7c15
    let count: UInt64

    init(count: Int) { self.count = UInt64(count) }

    mutating func next() -> UInt32 {
        // xorshift64* (Vigna 2016): fast and without a pattern that a prefetcher would know.
        state ^= state >> 12
        state ^= state << 25
        state ^= state >> 27
        let random = state &* 0x2545_f491_4f6c_dd1d
        return UInt32(truncatingIfNeeded: (random >> 32 &* count) >> 32)
    }
}

/// A port that always has a burst: one frame in each buffer, its source address set to the flow's.
final class BurstPort: Port {
    let name: String
    var pollDescriptor: Int32 { -1 }
    var isUp: Bool { true }
    var needsPolling: Bool { true }
    var deviceCounters: PortDeviceCounters { PortDeviceCounters() }

    private static let burst = 64
    private static let stride = 256
    private let memory: UnsafeMutableRawPointer
    private let template: [UInt8]
    private var greeting: [UInt8]
    private var order: FlowOrder
    private let patch: (UnsafeMutableRawPointer, UInt32) -> Void
    private(set) var sent = 0

    /// - Parameters:
    ///   - template: of all frames; empty: none come.
    ///   - greeting: a frame that comes once, before all others; empty: none does.
    ///   - patch: writes the fields of a flow into a frame.
    init(
        name: String, template: [UInt8], flows: Int, greeting: [UInt8] = [],
        patch: @escaping (UnsafeMutableRawPointer, UInt32) -> Void
    ) {
        let longest = max(template.count, greeting.count)
        precondition(longest <= Self.stride - Frame.headroom, "template too long")
        self.name = name
        self.template = template
        self.greeting = greeting
        self.patch = patch
        order = FlowOrder(count: flows)
        memory = .allocate(byteCount: Self.burst * Self.stride, alignment: 64)
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: Self.burst * Self.stride)
    }

    deinit { memory.deallocate() }

    func receive(into burst: UnsafeMutablePointer<Frame>, limit: Int, now: UInt64) -> Int {
        if !greeting.isEmpty, limit > 0 {
            burst[0] = frame(greeting, 0)
            greeting = []
            return 1
        }
        guard !template.isEmpty else { return 0 }
        let count = min(limit, Self.burst)
        for index in 0..<count {
            burst[index] = frame(template, index)
            patch(burst[index].start, order.next())
        }
        return count
    }

    @inline(__always)
    private func frame(_ octets: [UInt8], _ index: Int) -> Frame {
        let start = memory + index * Self.stride + Frame.headroom
        octets.withUnsafeBytes { source in
            guard let base = source.baseAddress else { return }
            start.copyMemory(from: base, byteCount: source.count)
        }
        let frame = Frame(start: start, length: octets.count)
        frame.offload = VirtioHeader()
        return frame
    }

    func transmit(_ frame: Frame, now: UInt64) { sent &+= 1 }
    func flush(now: UInt64) {}
    func maintain(now: UInt64) -> Bool { false }
}
