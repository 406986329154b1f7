import DataPlane
import TestSupport
import Testing

@Suite struct HandleTableTests {
    /// The handle of a number: 1 ... 64 octets.
    private func handle(_ number: Int) -> [UInt8] {
        var random = SplitMix64(seed: UInt64(number) &* 77)
        return random.bytes(1 + number % HandleTable.handleMaximum)
    }

    private func resource(
        _ handle: [UInt8], in table: borrowing HandleTable
    ) -> DatagramResourceID? {
        let cell = table.find(handle, length: handle.count)
        return cell < 0 ? nil : table.resource(cell)
    }

    private func count(
        _ model: [[UInt8]: DatagramResourceID], _ resource: DatagramResourceID
    ) -> Int {
        model.values.count { $0 == resource }
    }

    /// Many random changes, compared with a dictionary. What gives way in a full table is taken out of the
    /// dictionary, and must be as much as the table says.
    @Test(arguments: [1, 10, 300])
    func againstADictionary(capacity: Int) {
        var table = HandleTable(capacity: capacity)
        var model: [[UInt8]: DatagramResourceID] = [:]
        var random = SplitMix64(seed: UInt64(capacity))
        var evictions: UInt64 = 0
        for round in 0..<30_000 {
            let handle = handle(random.below(capacity * 3))
            let resource = DatagramResourceID(random.below(5) * 60)
            switch random.below(round / 5_000 % 2 == 0 ? 6 : 12) {
            case 0...3:
                table.install(handle, length: handle.count, resource: resource)
                model[handle] = resource
            case 4 where round % 50 == 0:
                let expected = count(model, resource)
                model = model.filter { $0.value != resource }
                if table.removeAll(of: resource) != expected {
                    Issue.record("removal of a resource, round \(round)")
                }
            default:
                let isThere = model.removeValue(forKey: handle) != nil
                if table.remove(handle, length: handle.count) != isThere {
                    Issue.record("remove, round \(round)")
                }
            }
            if table.evictions != evictions {
                let before = model.count
                model = model.filter { self.resource($0.key, in: table) != nil }
                if UInt64(before - model.count) != table.evictions - evictions {
                    Issue.record("evictions, round \(round)")
                }
                evictions = table.evictions
            }
            let other = self.handle(random.below(capacity * 3))
            if self.resource(other, in: table) != model[other] {
                Issue.record("find, round \(round)")
            }
            if table.count != model.count { Issue.record("count, round \(round)") }
            if round % 100 == 0 {
                let wrong = ([0, 60, 120, 180, 240] as [DatagramResourceID]).filter {
                    table.count(of: $0) != count(model, $0)
                }
                if !wrong.isEmpty { Issue.record("counts of \(wrong), round \(round)") }
            }
        }
        #expect(evictions > 0)
        let missing = model.filter { resource($0.key, in: table) != $0.value }
        #expect(missing.isEmpty)
    }

    /// All octets and the length count.
    @Test func handlesDiffer() {
        var table = HandleTable(capacity: 10_000)
        var handles: [[UInt8]] = []
        for length in 1...HandleTable.handleMaximum {
            let zero = [UInt8](repeating: 0, count: length)
            handles.append(zero)
            for place in 0..<length {
                var changed = zero
                changed[place] = 0x80
                handles.append(changed)
            }
        }
        for (index, handle) in handles.enumerated() {
            table.install(
                handle, length: handle.count, resource: DatagramResourceID(index % 251))
        }
        #expect(table.count == handles.count)
        for (index, handle) in handles.enumerated()
        where resource(handle, in: table) != DatagramResourceID(index % 251) {
            Issue.record("\(handle)")
        }
    }

    @Test func lengthsThatNoHandleHas() {
        var table = HandleTable(capacity: 8)
        let long = [UInt8](repeating: 1, count: 65)
        table.install(long, length: 65, resource: 1)
        table.install(long, length: 0, resource: 1)
        #expect(table.count == 0)
        #expect(table.find(long, length: 65) == -1)
        #expect(table.find(long, length: 0) == -1)
        #expect(table.remove(long, length: 65) == false)
    }

    /// Nothing behind a handle is read: it lies at the end of a page.
    @Test func nothingBehindIsRead() {
        let memory = FrameMemory()
        var table = HandleTable(capacity: 100)
        for length in 1...64 {
            let handle = [UInt8](repeating: UInt8(length), count: length)
            let start = memory.frame(handle).start
            table.install(start, length: length, resource: 7)
            let cell = table.find(start, length: length)
            #expect(cell >= 0, "\(length)")
        }
        #expect(table.count == 64)
    }

    /// What is used again and again stays, nearly all of it, while others come and go.
    @Test func whatIsUsedStays() {
        var table = HandleTable(capacity: 1_000)
        let favourites = (0..<300).map { handle($0 + 1_000_000) }
        for handle in favourites { table.install(handle, length: handle.count, resource: 1) }
        for number in 0..<5_000 {
            for handle in favourites {
                let cell = table.find(handle, length: handle.count)
                if cell >= 0 { table.touch(cell) }
            }
            let other = [UInt8](bigEndian32(UInt32(number))) + [1, 2, 3, 4, 5, 6, 7, 8]
            table.install(other, length: other.count, resource: 2)
        }
        let left = favourites.filter { resource($0, in: table) == 1 }
        #expect(left.count > 270, "\(left.count)")
        #expect(table.count == 1_000)
        #expect(table.evictions >= 4_290)
    }

    /// The memory of a resource's removed handles is used again before others give way, sooner or later.
    @Test func removedHandlesMakeRoom() {
        var table = HandleTable(capacity: 1_000)
        for number in 0..<1_000 {
            let handle = bigEndian32(UInt32(number))
            table.install(handle, length: 4, resource: number % 2 == 0 ? 1 : 2)
        }
        let removed = table.removeAll(of: 1)
        #expect(removed == 500)
        #expect(table.count == 500 && table.count(of: 1) == 0 && table.count(of: 2) == 500)
        // Installed again with the same resource: found again.
        table.install(bigEndian32(0), length: 4, resource: 1)
        let found = resource(bigEndian32(0), in: table)
        #expect(found == 1)
        let old = resource(bigEndian32(2), in: table)
        #expect(old == nil)
        for number in 2_000..<2_400 {
            table.install(bigEndian32(UInt32(number)), length: 4, resource: 3)
        }
        #expect(table.count(of: 3) == 400)
        #expect(table.evictions < 20, "\(table.evictions)")
    }

    @Test func aHandleMovesToAnotherResource() {
        var table = HandleTable(capacity: 10)
        let handle: [UInt8] = [1, 2, 3]
        table.install(handle, length: 3, resource: 4)
        table.install(handle, length: 3, resource: 5)
        #expect(table.count == 1 && table.count(of: 4) == 0 && table.count(of: 5) == 1)
        let removed = table.removeAll(of: 4)
        #expect(removed == 0)
        let found = resource(handle, in: table)
        #expect(found == 5)
    }

    /// The hash depends on the seed: collisions cannot be chosen from outside.
    @Test func seeds() {
        let one = HandleTable(capacity: 10, seed: (1, 2))
        let other = HandleTable(capacity: 10, seed: (3, 4))
        var equal = 0
        var used: Set<UInt32> = []
        for number in 0..<1_000 {
            let handle = bigEndian32(UInt32(number)) + [UInt8](repeating: 0, count: 28)
            let hash = one.hash(handle, length: 32)
            if hash & 0xfff == other.hash(handle, length: 32) & 0xfff { equal += 1 }
            used.insert(hash & 0x3ff)
        }
        #expect(equal < 20)
        // Random throwing would hit 62 % of 1024.
        #expect(used.count > 600)
    }
}
