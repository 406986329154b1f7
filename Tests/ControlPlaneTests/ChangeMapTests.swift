import ControlPlane
import Foundation
import Glibc
import Synchronization
import TestSupport
import Testing

@Suite struct ChangeMapTests {
    /// Four regions of 2048 blocks, the last with one block; two are set, one member is out.
    static func small() -> ChangeMap {
        var map = ChangeMap(members: ["a", "märz"], blockLength: 512, capacity: 3 * 2048 + 1)
        map.clear(0)
        map.clear(2)
        map.isOut[1] = true
        return map
    }

    /// Bit by bit, unlike the one that is tested.
    static func checksum(_ octets: [UInt8]) -> [UInt8] {
        var value = UInt32.max
        for octet in octets {
            for bit in 0..<8 {
                let input = UInt32(octet >> UInt8(bit)) & 1
                let isSet = (value & 1) ^ input == 1
                value >>= 1
                if isSet { value ^= 0xedb8_8320 }
            }
        }
        value = ~value
        return [24, 16, 8, 0].map { (shift: UInt32) in UInt8(truncatingIfNeeded: value >> shift) }
    }

    // MARK: Regions

    @Test(
        arguments: [
            // Block length, capacity, blocks of a region, regions.
            (512, 1, 2048, 1),
            (512, 2048, 2048, 1),
            (512, 2049, 2048, 2),
            (4096, 16_777_216, 256, 65_536),
            (4096, 16_777_217, 512, 32_769),
            (512, 1_099_511_627_776, 16_777_216, 65_536),
            (520, 10_000, 2048, 5),
            (1, 1_048_576, 1_048_576, 1),
            (2_097_152, 10, 1, 10),
            (512, 0, 2048, 0),
        ] as [(UInt32, UInt64, UInt64, Int)])
    func `size of regions`(
        blockLength: UInt32, capacity: UInt64, regionBlocks: UInt64, count: Int
    ) {
        let map = ChangeMap(members: ["a"], blockLength: blockLength, capacity: capacity)
        #expect(map.regionBlocks == regionBlocks)
        #expect(map.regionCount == count)
        #expect(map.changedCount == count)
        #expect(map.changed == Array(0..<count))
        #expect(map.isOut == [false])
    }

    @Test func `the largest there can be`() {
        let map = ChangeMap(members: [], blockLength: .max, capacity: .max)
        #expect(map.regionBlocks == 1 << 48)
        #expect(map.regionCount == 65_536)
        #expect(map.blocks(of: 65_535) == UInt64(65_535) << 48..<UInt64.max)
        #expect(map.regions(of: UInt64.max - 1..<UInt64.max) == 65_535..<65_536)
        #expect(map.regions(of: 0..<UInt64.max) == 0..<65_536)
    }

    @Test func `blocks and their regions`() {
        let map = ChangeMap(members: ["a", "b"], blockLength: 512, capacity: 3 * 2048 + 1)
        #expect(map.regionCount == 4)
        #expect(map.blocks(of: 0) == 0..<2048)
        #expect(map.blocks(of: 2) == 4096..<6144)
        #expect(map.blocks(of: 3) == 6144..<6145)
        #expect(map.regions(of: 0..<1) == 0..<1)
        #expect(map.regions(of: 0..<2048) == 0..<1)
        #expect(map.regions(of: 0..<2049) == 0..<2)
        #expect(map.regions(of: 2047..<2048) == 0..<1)
        #expect(map.regions(of: 2047..<2049) == 0..<2)
        #expect(map.regions(of: 2048..<2049) == 1..<2)
        #expect(map.regions(of: 0..<6145) == 0..<4)
        #expect(map.regions(of: 6144..<6145) == 3..<4)
        #expect(map.regions(of: 6144..<UInt64.max) == 3..<4)
        #expect(map.regions(of: 6145..<7000).isEmpty)
        #expect(map.regions(of: 100..<100).isEmpty)
    }

    @Test func `set and cleared`() {
        var map = ChangeMap(members: ["a", "b"], blockLength: 512, capacity: 20 * 2048)
        let isNews = map.set(0..<20)
        #expect(!isNews)
        for region in 0..<20 {
            let cleared = [map.clear(region), map.clear(region)]
            #expect(cleared == [true, false])
        }
        #expect(map.changed == [])
        #expect(map.changedCount == 0)
        let set = [map.set(7..<9), map.set(8..<9), map.set(8..<10), map.set(5..<5)]
        #expect(set == [true, false, true, false])
        #expect(map.changed == [7, 8, 9])
        #expect(map.changedCount == 3)
        #expect(map.isSet(7))
        #expect(!map.isSet(6))
        // What is not there cannot be set.
        let outside = [map.set(20..<30), map.set(19..<30), map.clear(20)]
        #expect(outside == [false, true, false])
        #expect(!map.isSet(20))
        #expect(!map.isSet(-1))
        #expect(map.changed == [7, 8, 9, 19])
        #expect(map.changedCount == 4)
    }

    // MARK: Encoding

    @Test func `what was encoded is decoded`() throws {
        var large = ChangeMap(members: ["x", "", "y"], blockLength: 4096, capacity: 1 << 33)
        var random = SplitMix64(seed: 7)
        for _ in 0..<30_000 { large.clear(random.below(large.regionCount)) }
        large.isOut = [true, false, true]
        let empty = ChangeMap(members: [], blockLength: 512, capacity: 0)
        for map in [Self.small(), large, empty] {
            for sequence in [0, 1, 0x0102_0304_0506_0708, UInt64.max] {
                let octets = map.encoded(sequence: sequence)
                let decoded = try ChangeMap.decode(octets)
                #expect(decoded.map == map)
                #expect(decoded.sequence == sequence)
                #expect(decoded.map.changedCount == map.changed.count)
            }
        }
    }

    @Test func `the octets of a small one`() {
        let octets = Self.small().encoded(sequence: 5)
        var wanted = Array("DSRCHMAP".utf8)
        wanted += [0, 0, 0, 1]
        wanted += [0, 0, 0, 0, 0, 0, 0, 5]
        wanted += [0, 0, 2, 0]
        wanted += [0, 0, 0, 0, 0, 0, 0x18, 1]
        wanted += [0, 0, 0, 0, 0, 0, 8, 0]
        wanted += [0, 0, 0, 2]
        wanted += [0, 0, 0, 1, UInt8(ascii: "a"), 0]
        wanted += [0, 0, 0, 5]
        wanted += Array("märz".utf8)
        wanted += [1]
        wanted += [0, 0, 0, 4, 0b1010]
        wanted += Self.checksum(wanted)
        #expect(octets == wanted)
        // The check value of the CRC catalogue.
        #expect(Self.checksum(Array("123456789".utf8)) == [0xcb, 0xf4, 0x39, 0x26])
    }

    @Test func `no part of one is taken`() {
        let octets = Self.small().encoded(sequence: 5)
        for length in 0..<octets.count {
            #expect(throws: ChangeMapError.self) {
                try ChangeMap.decode(Array(octets.prefix(length)))
            }
        }
        #expect(throws: ChangeMapError.self) { try ChangeMap.decode(octets + [0]) }
    }

    @Test func `no bit may differ`() {
        let octets = Self.small().encoded(sequence: 5)
        for bit in 0..<octets.count * 8 {
            var changed = octets
            changed[bit / 8] ^= UInt8(1) << UInt8(bit % 8)
            #expect(throws: ChangeMapError.self, "bit \(bit)") { try ChangeMap.decode(changed) }
        }
    }

    /// Places of the fields of `small`, and what must not be there.
    @Test(
        arguments: [
            ("block length 0", 20, [0, 0, 0, 0]),
            ("blocks too short", 20, [0, 0, 1, 0]),
            ("other capacity", 24, [0, 0, 0, 0, 0, 0, 0x20, 1]),
            ("too many regions", 24, [1, 0, 0, 0, 0, 0, 0, 0]),
            ("no region size", 32, [0, 0, 0, 0, 0, 0, 0, 0]),
            ("no power of two", 32, [0, 0, 0, 0, 0, 0, 0x0c, 0]),
            ("other region size", 32, [0, 0, 0, 0, 0, 0, 0x10, 0]),
            ("fewer members", 40, [0, 0, 0, 1]),
            ("very many members", 40, [0xff, 0xff, 0xff, 0xff]),
            ("very long name", 44, [0xff, 0xff, 0xff, 0xff]),
            ("not UTF-8", 48, [0xff]),
            ("flag of a member", 49, [2]),
            ("number of bits", 60, [0, 0, 0, 5]),
            ("bits behind the end", 64, [0x1a]),
        ] as [(String, Int, [UInt8])])
    func `fields that cannot be, with the right checksum`(
        what: String, place: Int, field: [UInt8]
    ) throws {
        var body = Array(Self.small().encoded(sequence: 5).dropLast(4))
        try #require(body.count == 65)
        body.replaceSubrange(place..<place + field.count, with: field)
        let error = #expect(throws: ChangeMapError.self, "\(what)") {
            try ChangeMap.decode(body + Self.checksum(body))
        }
        #expect(error != .checksumMismatch)
    }

    @Test func `errors say what it is`() {
        let octets = Self.small().encoded(sequence: 5)
        var other = octets
        other[11] = 2
        #expect(throws: ChangeMapError.unknownVersion(2)) { try ChangeMap.decode(other) }
        other = octets
        other[0] = 0
        #expect(throws: ChangeMapError.notAChangeMap) { try ChangeMap.decode(other) }
        other = octets
        other[64] = 0
        #expect(throws: ChangeMapError.checksumMismatch) { try ChangeMap.decode(other) }
        #expect(throws: ChangeMapError.truncated) { try ChangeMap.decode([]) }
        #expect("\(ChangeMapError.unknownVersion(2))" == "it has version 2, not 1")
    }

    /// With right checksums: nothing crashes, and what is taken is encoded to the same octets.
    @Test func `random changes`() throws {
        let body = Array(Self.small().encoded(sequence: 5).dropLast(4))
        var random = SplitMix64(seed: 11)
        for _ in 0..<20_000 {
            var changed = body
            for _ in 0...random.below(3) { random.mutate(&changed, inserting: "\u{0}\u{1}\u{7f}") }
            let octets = changed + Self.checksum(changed)
            guard let decoded = try? ChangeMap.decode(octets) else { continue }
            try #require(decoded.map.encoded(sequence: decoded.sequence) == octets)
        }
    }
}

@Suite struct ChangeMapFileTests {
    /// What a thread does that runs what others post: here it is the test, when it calls `run`.
    private final class Bodies: Sendable {
        private let bodies = Mutex<[@Sendable () -> Void]>([])

        func post(_ body: @escaping @Sendable () -> Void) {
            bodies.withLock { $0.append(body) }
        }

        /// Runs what was posted until `isDone`; false when that took too long.
        func run(until isDone: () -> Bool) -> Bool {
            let deadline = ContinuousClock.now + .seconds(30)
            while !isDone() {
                guard ContinuousClock.now < deadline else { return false }
                let work = bodies.withLock { queue in
                    let taken = queue
                    queue.removeAll()
                    return taken
                }
                for body in work { body() }
                if work.isEmpty { usleep(500) }
            }
            return true
        }
    }

    /// What callbacks have said, in order.
    private final class Answers {
        var all: [String?] = []
        var names: [Int] = []
    }

    private let directory: TemporaryDirectory
    private let path: String
    private let bodies = Bodies()

    init() throws {
        directory = try TemporaryDirectory()
        path = directory.path + "/map"
    }

    private func makeFile(_ path: String? = nil) -> ChangeMapFile {
        let bodies = self.bodies
        return ChangeMapFile(path: path ?? self.path) { body in bodies.post(body) }
    }

    /// A map of 16 regions with this one set.
    private func map(_ region: Int, members: [String] = ["a", "b"]) -> ChangeMap {
        var map = ChangeMap(members: members, blockLength: 512, capacity: 16 * 2048)
        for other in 0..<16 where other != region { map.clear(other) }
        return map
    }

    private func wait(until isDone: () -> Bool) throws {
        let isInTime = bodies.run(until: isDone)
        try #require(isInTime)
    }

    /// Saves and waits for it: what the callback said.
    private func save(_ map: ChangeMap, to file: ChangeMapFile) throws -> String? {
        let answers = Answers()
        file.save(map) { answers.all.append($0) }
        try wait { !answers.all.isEmpty }
        #expect(answers.all.count == 1)
        return answers.all[0]
    }

    private func octets() throws -> [UInt8] {
        Array(try Data(contentsOf: URL(fileURLWithPath: path)))
    }

    private func replace(_ octets: [UInt8]) throws {
        try Data(octets).write(to: URL(fileURLWithPath: path))
    }

    /// Sequences of the slots; nil for one that is not valid.
    private func sequences() throws -> [UInt64?] {
        let whole = try octets()
        let half = whole.count / 2
        return [0, half].map { start in
            let slot = whole[start..<start + half]
            let length = slot.prefix(4).reduce(0) { $0 * 256 + Int($1) }
            let encoding = Array(slot.dropFirst(4).prefix(length))
            return (try? ChangeMap.decode(encoding))?.sequence
        }
    }

    @Test func `no file is no map`() throws {
        #expect(try makeFile().load() == nil)
        #expect(try makeFile(directory.path + "/none/map").load() == nil)
    }

    @Test func `what was saved is loaded`() throws {
        let file = makeFile()
        #expect(try file.load() == nil)
        for region in 0..<5 {
            #expect(try save(map(region), to: file) == nil)
            #expect(try makeFile().load() == map(region))
        }
        // Each slot in its turn; the first save has made the file, with both.
        #expect(try sequences() == [5, 4])
        #expect(try octets().count == 2 * 4096)
        var status = stat()
        try #require(stat(path, &status) == 0)
        #expect(status.st_mode & 0o777 == 0o600)
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path) == ["map"])

        // The next one goes on where this one was.
        let next = makeFile()
        #expect(try next.load() == map(4))
        #expect(try save(map(9), to: next) == nil)
        #expect(try sequences() == [5, 6])
        #expect(try next.load() == map(9))
    }

    @Test func `a write that is cut off leaves the map before it, or the new one`() throws {
        let file = makeFile()
        for region in 0..<3 { #expect(try save(map(region), to: file) == nil) }
        let before = try octets()
        #expect(try save(map(3), to: file) == nil)
        let after = try octets()
        #expect(try sequences() == [3, 4])
        let start = before.count / 2
        let changed = before.indices.filter { before[$0] != after[$0] }
        let first = try #require(changed.first)
        let last = try #require(changed.last)
        #expect(first >= start)
        for cut in first...last + 1 {
            try replace(Array(before[..<cut]) + Array(after[cut...]))
            let torn = try makeFile().load()
            #expect(torn == map(cut == first ? 3 : 2), "new from \(cut) on")
            try replace(Array(after[..<cut]) + Array(before[cut...]))
            let other = try makeFile().load()
            #expect(other == map(cut == last + 1 ? 3 : 2), "new up to \(cut)")
        }
    }

    @Test func `the slot that counts is lost`() throws {
        let file = makeFile()
        for region in 0..<4 { #expect(try save(map(region), to: file) == nil) }
        #expect(try sequences() == [3, 4])
        var torn = try octets()
        for place in torn.count / 2..<torn.count / 2 + 40 { torn[place] = 0xaa }
        try replace(torn)
        let next = makeFile()
        #expect(try next.load() == map(2))
        // What is lost is written next, what counts stays.
        #expect(try save(map(8), to: next) == nil)
        #expect(try sequences() == [3, 4])
        #expect(try makeFile().load() == map(8))
    }

    @Test func `a file that is none`() throws {
        try replace([])
        #expect(throws: ChangeMapError.noValidSlot([])) { try makeFile().load() }
        try replace([UInt8](repeating: 0, count: 8191))
        #expect(throws: ChangeMapError.noValidSlot([])) { try makeFile().load() }
        try replace([UInt8](repeating: 0, count: 8192))
        #expect(throws: ChangeMapError.noValidSlot([.truncated, .truncated])) {
            try makeFile().load()
        }
        try replace([UInt8](repeating: 0xff, count: 6))
        #expect(throws: ChangeMapError.self) { try makeFile().load() }
        // A directory.
        #expect(throws: ChangeMapError.self) { try makeFile(directory.path).load() }
        // It is replaced all the same.
        let file = makeFile()
        #expect(throws: ChangeMapError.self) { try file.load() }
        #expect(try save(map(1), to: file) == nil)
        #expect(try makeFile().load() == map(1))
    }

    @Test func `saves are merged while one is under way`() throws {
        let file = makeFile()
        let answers = Answers()
        // The first write's end is known only when `run` is called.
        for region in 0..<6 {
            file.save(map(region)) { problem in
                answers.all.append(problem)
                answers.names.append(region)
                let isOnDisk = (try? self.makeFile().load()) == self.map(region == 0 ? 0 : 5)
                #expect(isOnDisk)
            }
        }
        #expect(answers.names == [])
        try wait { answers.names.count == 6 }
        #expect(answers.names == [0, 1, 2, 3, 4, 5])
        #expect(answers.all == [nil, nil, nil, nil, nil, nil])
        // Two writes.
        #expect(try sequences() == [1, 2])
    }

    @Test func `callbacks save again`() throws {
        let file = makeFile()
        let answers = Answers()
        file.save(map(0)) { _ in
            answers.names.append(0)
            for region in 1..<4 {
                file.save(map(region)) { _ in answers.names.append(region) }
            }
        }
        file.save(map(4)) { _ in answers.names.append(4) }
        try wait { answers.names.count == 5 }
        #expect(answers.names == [0, 4, 1, 2, 3])
        #expect(try makeFile().load() == map(3))
        #expect(try sequences() == [1, 2])
    }

    @Test func `a path that cannot be written, until it can`() throws {
        let folder = directory.path + "/folder"
        let file = makeFile(folder + "/map")
        let answers = Answers()
        for _ in 0..<3 { file.save(map(1)) { answers.all.append($0) } }
        try wait { answers.all.count == 3 }
        for answer in answers.all { #expect(answer?.contains(folder) == true) }
        try FileManager.default.createDirectory(
            atPath: folder, withIntermediateDirectories: false)
        #expect(try save(map(2), to: file) == nil)
        #expect(try makeFile(folder + "/map").load() == map(2))
    }

    @Test func `made anew when it is gone or too short, beside what a crash has left`() throws {
        let file = makeFile()
        let left = try directory.write("map.new", "left")
        #expect(try save(map(0), to: file) == nil)
        #expect(!FileManager.default.fileExists(atPath: left))
        try FileManager.default.removeItem(atPath: path)
        #expect(try save(map(1), to: file) == nil)
        #expect(try makeFile().load() == map(1))
        #expect(try sequences() == [2, 2])

        try replace([1, 2, 3])
        #expect(try save(map(2), to: file) == nil)
        #expect(try makeFile().load() == map(2))

        let long = map(3, members: ["a", String(repeating: "b", count: 5000)])
        #expect(try save(long, to: file) == nil)
        #expect(try makeFile().load() == long)
        #expect(try octets().count == 4 * 4096)
        // And a shorter one again, into the same slots.
        #expect(try save(map(4), to: file) == nil)
        #expect(try makeFile().load() == map(4))
        #expect(try octets().count == 4 * 4096)
        #expect(try sequences() == [4, 5])
    }

    @Test func `a sequence that is the last there is`() throws {
        let encoding = map(1).encoded(sequence: .max)
        var slot: [UInt8] = [0, 0, 0, UInt8(encoding.count)] + encoding
        slot += [UInt8](repeating: 0, count: 4096 - slot.count)
        try replace(slot + slot)
        let file = makeFile()
        #expect(try file.load() == map(1))
        #expect(try save(map(2), to: file) == nil)
        #expect(try makeFile().load() == map(2))
        #expect(try sequences() == [1, 1])
    }

    @Test func `finish waits for what was asked for`() throws {
        let file = makeFile()
        let answers = Answers()
        file.finish()
        for region in 0..<3 { file.save(map(region)) { answers.all.append($0) } }
        file.finish()
        #expect(try makeFile().load() == map(2))
        #expect(answers.all.isEmpty)
        try wait { answers.all.count == 3 }
        #expect(answers.all == [nil, nil, nil])
        #expect(try save(map(7), to: file) == nil)
        #expect(try makeFile().load() == map(7))
    }
}
