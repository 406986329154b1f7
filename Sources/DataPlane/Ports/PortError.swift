import Glibc

/// A port could not be opened.
public struct PortError: Error, CustomStringConvertible, Sendable {
    public var port: String
    public var message: String
    public init(port: String, message: String) {
        self.port = port
        self.message = message
    }
    init(port: String, operation: String, errno code: Int32) {
        self.init(port: port, message: "\(operation): \(String(cString: strerror(code)))")
    }
    public var description: String { "port \(port): \(message)" }
}

/// Memory for a burst of received frames.
final class FrameBuffers {
    let count: Int
    private let memory: UnsafeMutableRawPointer
    private static let stride = (Frame.bufferSize + 63) & ~63

    init(count: Int) {
        self.count = count
        guard
            let mapping = mmap(
                nil, count * Self.stride, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            mapping != MAP_FAILED
        else { fatalError("cannot map frame buffers") }
        memory = mapping
    }

    deinit { munmap(memory, count * Self.stride) }

    /// Where the Ethernet header of buffer `index` lies.
    @inline(__always)
    func start(_ index: Int) -> UnsafeMutableRawPointer {
        memory + (index * Self.stride + Frame.headroom)
    }
}

extension Frame {
    /// Puts a VLAN tag that the kernel took off back in its place (`tag`: TPID << 16 | TCI).
    @inline(__always)
    mutating func restoreVLAN(_ tag: UInt32) {
        let moved = start - 4
        memmove(moved - VirtioHeader.size, start - VirtioHeader.size, VirtioHeader.size + 12)
        moved.store32(tag, 12)
        start = moved
        length += 4
        var header = offload
        if header.isChecksumPartial { header.checksumStart &+= 4 }
        if header.headerLength != 0 { header.headerLength &+= 4 }
        offload = header
    }
}
