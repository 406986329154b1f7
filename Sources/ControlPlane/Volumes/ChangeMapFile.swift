import Dispatch
import Glibc

/// Keeps a `ChangeMap` in a file that survives being cut off at any moment.
///
/// The file has two slots of equal size, each with the length of an encoding (4 octets, big-endian) and the encoding.
/// They are written in turn; the valid one with the highest sequence counts. So a write that is cut off costs the new
/// map only, which nobody was told of. A file that is not there, or whose slots are too short, is made under another
/// name and then renamed.
///
/// All but the writing itself belongs to the owner's thread.
package final class ChangeMapFile: @unchecked Sendable {
    // Unchecked: callbacks may be called on the owner's thread only, which no lock could say. What is under "Owner" is
    // used on that thread only, by its calls and by what `post` runs; what is under "Disk" on the serial queue only.

    private typealias Callback = (String?) -> Void

    /// Where the file stands.
    private struct Slots {
        /// Octets of one slot.
        var length: Int
        /// The one that counts: 0 or 1.
        var newest: Int
    }

    /// Slots begin and end with blocks of the disk, so that writing one cannot harm the other.
    private static let slotUnit = 4096
    private static let slotMaximum = 1 << 24

    private let path: String
    private let post: @Sendable (@escaping @Sendable () -> Void) -> Void
    private let queue = DispatchQueue(label: "change map")

    // Owner.
    /// Asked for while a write was under way.
    private var newest: ChangeMap?
    /// Who asked for `newest` or for one before it that was not written.
    private var callbacks: [Callback] = []
    /// Callbacks of writes that were given to the queue, in order.
    private var batches: [[Callback]] = []
    /// Writes whose callbacks have not all been called.
    private var underWay = 0

    // Disk.
    /// Of the last write, even if it failed: a sequence is not used twice.
    private var sequence: UInt64 = 0
    /// Nil: nothing is known of the file, the next write makes a new one.
    private var slots: Slots?

    /// - Parameter post: runs a body on the owner's thread, later; does not wait for it. From any thread.
    package init(
        path: String, post: @escaping @Sendable (@escaping @Sendable () -> Void) -> Void
    ) {
        self.path = path
        self.post = post
    }

    // MARK: Owner

    /// The map on disk; nil when there is no file. Waits for writes under way. To be called before the first `save`,
    /// which else replaces the file whatever is in it; it does so too after this has thrown.
    package func load() throws(ChangeMapError) -> ChangeMap? {
        let result: Result<ChangeMap?, ChangeMapError> = queue.sync { self.found() }
        return try result.get()
    }

    /// Writes `map` without waiting for it. `then` is called on the owner's thread after this has returned: with nil
    /// when this map or a later one is on disk, else with what went wrong (the next `save` tries again). While a write
    /// is under way, only the newest map is kept for the next one: so a region must not be cleared again before the
    /// `then` of the map that has set it.
    package func save(_ map: ChangeMap, then: @escaping (String?) -> Void) {
        newest = map
        callbacks.append(then)
        if underWay == 0 { startWrite() }
    }

    /// Waits until all that was asked for is on disk or has failed; for shutdown. Callbacks are still called by way of
    /// `post`.
    package func finish() {
        startWrite()
        queue.sync { () -> Void in }
    }

    /// Gives the newest map to the queue, if there is one.
    private func startWrite() {
        guard let map = newest else { return }
        newest = nil
        batches.append(callbacks)
        callbacks = []
        underWay += 1
        queue.async {
            let problem = self.store(map)
            self.post { self.answer(problem) }
        }
    }

    /// The first of `batches` was written, or not. What callbacks save goes into the next write together.
    private func answer(_ problem: String?) {
        let batch = batches.removeFirst()
        for callback in batch { callback(problem) }
        underWay -= 1
        if underWay == 0 { startWrite() }
    }

    // MARK: Disk: writing

    /// Nil: it is on disk.
    private func store(_ map: ChangeMap) -> String? {
        do throws(SystemCallError) {
            try put(map)
            return nil
        } catch {
            return error.description
        }
    }

    private func put(_ map: ChangeMap) throws(SystemCallError) {
        if sequence == UInt64.max {
            // Nobody counts that far; a file may say so all the same.
            sequence = 0
            slots = nil
        }
        sequence += 1
        let octets = Self.framed(map.encoded(sequence: sequence))
        guard octets.count <= Self.slotMaximum else {
            throw SystemCallError(function: "pwrite", errno: EFBIG, context: path)
        }
        if let known = slots, octets.count <= known.length {
            // After a failure the same one again: the other is the last that is known to be good.
            let slot = 1 - known.newest
            if try overwrite(octets, slot: slot, length: known.length) {
                slots = Slots(length: known.length, newest: slot)
                return
            }
        }
        slots = nil
        let length = (octets.count + Self.slotUnit - 1) / Self.slotUnit * Self.slotUnit
        try create(octets, length: length)
        slots = Slots(length: length, newest: 0)
    }

    /// An encoding behind its length.
    private static func framed(_ encoding: [UInt8]) -> [UInt8] {
        let length = UInt32(encoding.count)
        var octets: [UInt8] = []
        octets.reserveCapacity(4 + encoding.count)
        for shift: UInt32 in [24, 16, 8, 0] {
            octets.append(UInt8(truncatingIfNeeded: length >> shift))
        }
        octets.append(contentsOf: encoding)
        return octets
    }

    /// False when the file is not the one that is known: it is gone, or has another size.
    private func overwrite(
        _ octets: [UInt8], slot: Int, length: Int
    ) throws(SystemCallError) -> Bool {
        let descriptor = open(path, O_WRONLY | O_CLOEXEC)
        if descriptor < 0 {
            if errno == ENOENT { return false }
            throw failure("open")
        }
        defer { close(descriptor) }
        guard lseek(descriptor, 0, SEEK_END) == off_t(2 * length) else { return false }
        try writeAll(octets, to: descriptor, at: slot * length)
        guard fdatasync(descriptor) == 0 else { throw failure("fdatasync") }
        return true
    }

    /// Makes the file anew, the same in both slots.
    private func create(_ octets: [UInt8], length: Int) throws(SystemCallError) {
        let temporary = path + ".new"
        // One that was left by a crash.
        unlink(temporary)
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw failure("open") }
        let slot = octets + [UInt8](repeating: 0, count: length - octets.count)
        do throws(SystemCallError) {
            defer { close(descriptor) }
            try writeAll(slot + slot, to: descriptor, at: 0)
            guard fsync(descriptor) == 0 else { throw failure("fsync") }
            guard rename(temporary, path) == 0 else { throw failure("rename") }
        } catch {
            unlink(temporary)
            throw error
        }
        try synchronizeDirectory()
    }

    private func synchronizeDirectory() throws(SystemCallError) {
        var directory = "."
        if let slash = path.lastIndex(of: "/") {
            directory = slash == path.startIndex ? "/" : String(path[..<slash])
        }
        let descriptor = open(directory, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw failure("open") }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw failure("fsync") }
    }

    private func writeAll(
        _ octets: [UInt8], to descriptor: Int32, at offset: Int
    ) throws(SystemCallError) {
        var done = 0
        while done < octets.count {
            let from = done
            let count = octets.withUnsafeBytes { bytes -> Int in
                let rest = UnsafeRawBufferPointer(rebasing: bytes[from...])
                return pwrite(descriptor, rest.baseAddress, rest.count, off_t(offset + from))
            }
            if count < 0 {
                if errno == EINTR { continue }
                throw failure("pwrite")
            }
            guard count > 0 else {
                throw SystemCallError(function: "pwrite", errno: EIO, context: path)
            }
            done += count
        }
    }

    private func failure(_ function: String) -> SystemCallError {
        SystemCallError(function: function, errno: errno, context: path)
    }

    // MARK: Disk: reading

    private func found() -> Result<ChangeMap?, ChangeMapError> {
        do throws(ChangeMapError) {
            return .success(try find())
        } catch {
            return .failure(error)
        }
    }

    private func find() throws(ChangeMapError) -> ChangeMap? {
        slots = nil
        guard let octets = try contents() else { return nil }
        let length = octets.count / 2
        guard length > 0, octets.count == 2 * length else { throw .noValidSlot([]) }
        var best: ChangeMap?
        var problems: [ChangeMapError] = []
        for slot in 0..<2 {
            do throws(ChangeMapError) {
                let (map, number) = try Self.unframed(octets[slot * length..<(slot + 1) * length])
                if best == nil || number > sequence {
                    best = map
                    sequence = number
                    slots = Slots(length: length, newest: slot)
                }
            } catch {
                problems.append(error)
            }
        }
        guard best != nil else { throw .noValidSlot(problems) }
        return best
    }

    private static func unframed(
        _ slot: ArraySlice<UInt8>
    ) throws(ChangeMapError) -> (map: ChangeMap, sequence: UInt64) {
        guard slot.count >= 4 else { throw .truncated }
        let length = slot.prefix(4).reduce(0) { $0 << 8 | Int($1) }
        guard length <= slot.count - 4 else { throw .truncated }
        return try ChangeMap.decode(Array(slot.dropFirst(4).prefix(length)))
    }

    /// The whole file; nil when there is none.
    private func contents() throws(ChangeMapError) -> [UInt8]? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        if descriptor < 0 {
            if errno == ENOENT { return nil }
            throw .unreadable(failure("open").description)
        }
        defer { close(descriptor) }
        let size = lseek(descriptor, 0, SEEK_END)
        guard size >= 0 else { throw .unreadable(failure("lseek").description) }
        guard size <= off_t(2 * Self.slotMaximum) else {
            throw .unreadable("\(path): too long for a change map")
        }
        var octets = [UInt8](repeating: 0, count: Int(size))
        var done = 0
        while done < octets.count {
            let from = done
            let count = octets.withUnsafeMutableBytes { bytes -> Int in
                let rest = UnsafeMutableRawBufferPointer(rebasing: bytes[from...])
                return pread(descriptor, rest.baseAddress, rest.count, off_t(from))
            }
            if count < 0 {
                if errno == EINTR { continue }
                throw .unreadable(failure("pread").description)
            }
            guard count > 0 else { throw .truncated }
            done += count
        }
        return octets
    }
}
