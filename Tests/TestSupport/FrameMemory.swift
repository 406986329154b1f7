package import DataPlane
import Glibc

/// A frame's memory between pages that nobody may touch: a read or write behind its end, or far
/// before its headroom, ends the test at once.
package final class FrameMemory {
    private let memory: UnsafeMutableRawPointer
    private static let page = 4_096
    private static let pages = 20

    package init() {
        let size = (Self.pages + 2) * Self.page
        guard
            let mapping = mmap(
                nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            mapping != MAP_FAILED
        else { preconditionFailure("cannot map a frame") }
        memory = mapping
        mprotect(memory, Self.page, PROT_NONE)
        mprotect(memory + (Self.pages + 1) * Self.page, Self.page, PROT_NONE)
    }

    deinit { munmap(memory, (Self.pages + 2) * Self.page) }

    /// A frame with these octets whose end is the end of the memory.
    package func frame(_ bytes: [UInt8], offload: VirtioHeader = VirtioHeader()) -> Frame {
        precondition(bytes.count <= (Self.pages - 1) * Self.page, "frame too long")
        let start = memory + ((Self.pages + 1) * Self.page - bytes.count)
        bytes.withUnsafeBytes { source in
            if let base = source.baseAddress {
                start.copyMemory(from: base, byteCount: source.count)
            }
        }
        let frame = Frame(start: start, length: bytes.count)
        frame.offload = offload
        return frame
    }
}

extension Frame {
    package var octets: [UInt8] { [UInt8](UnsafeRawBufferPointer(start: start, count: length)) }
}
