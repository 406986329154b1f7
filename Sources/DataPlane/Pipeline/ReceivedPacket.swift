/// The headers of the packet that is being processed, as they came in: kept when an action changes
/// them, for errors about the packet go to who sent it and quote what was sent.
struct ReceivedPacket: ~Copyable {
    /// Ethernet, two tags, IP and transport headers; only these are changed by actions.
    private static let maximum = 256
    private let memory: UnsafeMutableRawPointer
    private var length = 0
    private var headers = PacketHeaders()
    private(set) var isKept = false

    init() { memory = .allocate(byteCount: Self.maximum, alignment: 8) }

    deinit { memory.deallocate() }

    /// A new packet, not changed yet.
    @inline(__always)
    mutating func reset() { isKept = false }

    @inline(__always)
    mutating func keep(_ frame: Frame, _ headers: PacketHeaders) {
        isKept = true
        self.headers = headers
        length = min(frame.length, Self.maximum)
        memory.copyMemory(from: frame.start, byteCount: length)
    }

    /// Writes the packet as it came in to `buffer`. `changed` is what became of it: behind the kept
    /// octets it is the same, but for its place.
    func restore(
        _ changed: Frame, _ changedHeaders: PacketHeaders, to buffer: Frame
    ) -> (frame: Frame, headers: PacketHeaders) {
        let shift = Int(changedHeaders.networkOffset - headers.networkOffset)
        let total = changed.length - shift
        buffer.start.copyMemory(from: memory, byteCount: length)
        if total > length {
            (buffer.start + length).copyMemory(
                from: changed.start + (length + shift), byteCount: total - length)
        }
        return (Frame(start: buffer.start, length: total), headers)
    }
}
