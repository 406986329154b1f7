import DataPlane
import TestSupport
import Testing

@Suite struct FlowTableTests {
    private func key(_ number: UInt64) -> FlowKey {
        FlowKey(
            source: IPAddress(v4: 0x0a00_0000 | UInt32(number >> 16)),
            sourcePort: UInt16(truncatingIfNeeded: number),
            destination: IPAddress(v4: 0x0a01_0001), destinationPort: 3_260, ipProtocol: 6,
            domain: 0, origin: .network)
    }

    /// Many random changes, compared with a dictionary, between empty and full.
    @Test(arguments: [1, 100, 5_000])
    func againstADictionary(capacity: Int) {
        var table = FlowTable(capacity: capacity)
        var model: [FlowKey: FlowTarget] = [:]
        var random = SplitMix64(seed: UInt64(capacity))
        var refusedFull = 0
        for round in 0..<60_000 {
            let key = key(random.next() % UInt64(capacity * 2))
            // Fills and empties in turn.
            if random.below(10) < (round / 10_000 % 2 == 0 ? 8 : 2) {
                let number = UInt32(random.below(1 << 20))
                let target: FlowTarget =
                    random.below(2) == 0
                    ? .actions(number) : .splice(number, number & 1 == 0 ? .client : .server)
                let isRoom = model.count < capacity && model[key] == nil
                if model.count == capacity { refusedFull += 1 }
                if table.insert(key, target) != isRoom { Issue.record("insert, round \(round)") }
                if isRoom { model[key] = target }
            } else {
                let isThere = model.removeValue(forKey: key) != nil
                if table.remove(key) != isThere { Issue.record("remove, round \(round)") }
            }
            let other = self.key(random.next() % UInt64(capacity * 2))
            let slot = table.find(other, hash: table.hash(other))
            let found = slot < 0 ? nil : table.target(slot)
            if found != model[other] { Issue.record("find, round \(round)") }
            if table.count != model.count { Issue.record("count, round \(round)") }
        }
        #expect(refusedFull > 0)
        // Every entry is there, and reading the slots finds each once.
        var read: [FlowKey: FlowTarget] = [:]
        for index in 0..<table.slotCount {
            guard let slot = table.slot(index) else { continue }
            #expect(read.updateValue(slot.target, forKey: slot.key) == nil)
        }
        #expect(read == model)
    }

    /// All parts of a key count.
    @Test func keysDiffer() throws {
        let a = IPAddress(v4: 1)
        let b = IPAddress(v4: 2)
        let six = IPAddress(high: 1, low: a.low)
        let keys: [FlowKey] = [
            FlowKey(
                source: a, sourcePort: 1, destination: b, destinationPort: 2, ipProtocol: 6,
                domain: 0, origin: .network),
            FlowKey(
                source: b, sourcePort: 1, destination: b, destinationPort: 2, ipProtocol: 6,
                domain: 0, origin: .network),
            FlowKey(
                source: six, sourcePort: 1, destination: b, destinationPort: 2, ipProtocol: 6,
                domain: 0, origin: .network),
            FlowKey(
                source: a, sourcePort: 2, destination: b, destinationPort: 2, ipProtocol: 6,
                domain: 0, origin: .network),
            FlowKey(
                source: a, sourcePort: 1, destination: a, destinationPort: 2, ipProtocol: 6,
                domain: 0, origin: .network),
            FlowKey(
                source: a, sourcePort: 1, destination: six, destinationPort: 2, ipProtocol: 6,
                domain: 0, origin: .network),
            FlowKey(
                source: a, sourcePort: 1, destination: b, destinationPort: 1, ipProtocol: 6,
                domain: 0, origin: .network),
            FlowKey(
                source: a, sourcePort: 1, destination: b, destinationPort: 2, ipProtocol: 17,
                domain: 0, origin: .network),
            FlowKey(
                source: a, sourcePort: 1, destination: b, destinationPort: 2, ipProtocol: 6,
                domain: 1, origin: .network),
            FlowKey(
                source: a, sourcePort: 1, destination: b, destinationPort: 2, ipProtocol: 6,
                domain: 0, origin: .cpu),
        ]
        #expect(Set(keys).count == keys.count)
        var table = FlowTable(capacity: 64)
        for (index, key) in keys.enumerated() {
            #expect(table.contains(key) == false)
            #expect(table.insert(key, .actions(UInt32(index))) == true)
        }
        for (index, key) in keys.enumerated() {
            let slot = table.find(key, hash: table.hash(key))
            try #require(slot >= 0)
            #expect(table.target(slot) == .actions(UInt32(index)))
        }
    }

    @Test func targetsAtTheirLimits() {
        var table = FlowTable(capacity: 8)
        let targets: [FlowTarget] = [
            .actions(0), .actions(0x7fff_fffe), .splice(0, .client), .splice(0, .server),
            .splice(8_191, .server), .splice(0x3fff_fffe, .server),
        ]
        for (index, target) in targets.enumerated() {
            let key = key(UInt64(index))
            #expect(table.insert(key, target) == true)
            #expect(table.target(table.find(key, hash: table.hash(key))) == target)
        }
    }

    @Test func counters() {
        var table = FlowTable(capacity: 8)
        #expect(table.insert(key(1), .actions(0), now: 5_000_000_000) == true)
        let slot = table.find(key(1), hash: table.hash(key(1)))
        #expect(table.slot(slot)?.lastUsed == 5)
        table.count(slot, bytes: 100, now: 7_900_000_000)
        table.count(slot, bytes: 50, now: 8_000_000_000)
        let counters = table.counters(of: key(1))
        #expect(counters?.packets == 2 && counters?.bytes == 150)
        #expect(table.slot(slot)?.lastUsed == 8)
        #expect(table.counters(of: key(2)) == nil)
        #expect(table.slot(-1) == nil && table.slot(table.slotCount) == nil)
    }

    /// The hash depends on the seed: collisions cannot be chosen from outside.
    @Test func seeds() {
        let one = FlowTable(capacity: 1_000, seed: (1, 2))
        let other = FlowTable(capacity: 1_000, seed: (3, 4))
        let equal = (0..<1_000).filter { one.hash(key($0)) & 0xfff == other.hash(key($0)) & 0xfff }
        #expect(equal.count < 20)
    }

    /// Keys that differ in few bits spread over the table.
    @Test func spread() {
        let table = FlowTable(capacity: 1 << 16)
        var used: Set<UInt64> = []
        for number in 0..<UInt64(1 << 14) { used.insert(table.hash(key(number)) & 0x3fff) }
        // Random throwing would hit 1 - 1/e = 63 %.
        #expect(used.count > (1 << 14) * 60 / 100)
    }
}
