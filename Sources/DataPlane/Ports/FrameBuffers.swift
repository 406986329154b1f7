import Glibc

/// Memory for a burst of received frames.
final class FrameBuffers {
    let count: Int
    private let memory: UnsafeMutableRawPointer
    private let mapping: UnsafeMutableRawPointer
    private let size: Int
    private static let hugePage = 2 << 20
    private static let stride = (Frame.bufferSize + 63) & ~63

    init(count: Int) {
        self.count = count
        // Huge pages, if there are any: every octet of bulk data is copied into and out of these buffers.
        size = (count * Self.stride + 2 * Self.hugePage - 1) & ~(Self.hugePage - 1)
        guard
            let mapping = mmap(
                nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            mapping != MAP_FAILED
        else { fatalError("cannot map frame buffers") }
        self.mapping = mapping
        memory = mapping.alignedUp(toMultipleOf: Self.hugePage)
        madvise(memory, size - Self.hugePage, MADV_HUGEPAGE)
    }

    deinit { munmap(mapping, size) }

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
