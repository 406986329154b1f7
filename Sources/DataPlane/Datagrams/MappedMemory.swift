import Glibc

/// Memory that is all zero at first and that the kernel fills only as it is touched.
struct MappedMemory: ~Copyable {
    let start: UnsafeMutableRawPointer
    private let size: Int

    /// `usesHugePages`: for what is touched all over, so that a look-up needs no walk of page tables.
    init(octets: Int, usesHugePages: Bool = false) {
        let size = max(1, octets)
        guard
            let mapping = mmap(
                nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                0), mapping != MAP_FAILED
        else { fatalError("cannot map \(size) octets for a table") }
        if usesHugePages { madvise(mapping, size, MADV_HUGEPAGE) }
        self.size = size
        start = mapping
    }

    deinit { munmap(start, size) }
}
