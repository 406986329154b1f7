import DataPlane
import TestSupport
import Testing

@Suite struct FragmentTableTests {
    let memory = FrameMemory()

    private func key(_ identification: UInt32) -> FragmentTable.Key {
        FragmentTable.Key(
            source: IPAddress(v4: 1), destination: IPAddress(v4: 2),
            identification: identification, ipProtocol: 17, domain: 0, origin: 0)
    }

    @Test func waitsInOrder() {
        var table = FragmentTable(capacity: 16, octets: 1 << 20)
        let index = table.entry(for: key(1), now: 0)
        #expect(table.decision(index) == .unknown)
        for number in 0..<5 {
            #expect(
                table.wait(index, memory.frame([UInt8(number), 9]), ingress: PortNumber(number))
                    == true)
        }
        table.decide(index, .flow(.actions(3)), now: 0)
        var seen: [[UInt8]] = []
        while let (frame, ingress) = table.firstWaiting(index) {
            #expect(frame.octets[0] == UInt8(ingress))
            seen.append(frame.octets)
            table.removeFirstWaiting(index)
        }
        #expect(seen == (0..<5).map { [$0, 9] })
        #expect(table.entry(for: key(1), now: 1) == index)
        #expect(table.decision(index) == .flow(.actions(3)))
    }

    @Test func queueIsBounded() {
        var table = FragmentTable(capacity: 16, octets: 1 << 20)
        let index = table.entry(for: key(1), now: 0)
        var taken = 0
        for _ in 0..<100 where table.wait(index, memory.frame([1]), ingress: 1) { taken += 1 }
        #expect(taken == 64)
        #expect(table.expire(now: 1_999_999_999) == 0)
        #expect(table.expire(now: 2_000_000_000) == 64)
        #expect(table.count == 0)
        // Its memory is free again, its entry new.
        let again = table.entry(for: key(1), now: 3_000_000_000)
        #expect(table.decision(again) == .unknown && table.firstWaiting(again) == nil)
        #expect(table.wait(again, memory.frame([1]), ingress: 1) == true)
    }

    @Test func entriesAreBounded() {
        var table = FragmentTable(capacity: 64, octets: 1 << 16)
        var indices: Set<Int> = []
        var refused = 0
        for number in 0..<500 {
            let index = table.entry(for: key(UInt32(number)), now: 0)
            if index < 0 { refused += 1 } else { #expect(indices.insert(index).inserted) }
        }
        #expect(indices.count + refused == 500 && table.count == indices.count)
        #expect(indices.count > 48 && indices.count <= 64)
        _ = table.expire(now: 10_000_000_000)
        #expect(table.count == 0)
    }

    /// A decision lives on while fragments come, each entry for itself.
    @Test func timesAreSeparate() {
        var table = FragmentTable(capacity: 64, octets: 1 << 16)
        let old = table.entry(for: key(1), now: 0)
        let new = table.entry(for: key(2), now: 1_000_000_000)
        table.decide(new, .rules, now: 1_500_000_000)
        table.decide(old, .rules, now: 0)
        #expect(table.expire(now: 2_500_000_000) == 0)
        #expect(table.count == 1)
        #expect(table.entry(for: key(2), now: 2_500_000_000) == new)
        #expect(table.decision(new) == .rules)
    }

    @Test func datagramsAreApart() {
        var table = FragmentTable(capacity: 256, octets: 1 << 16)
        var keys = [key(1), key(2)]
        var other = key(1)
        other.source = IPAddress(high: 1, low: 1)
        keys.append(other)
        other = key(1)
        other.destination = IPAddress(v4: 9)
        keys.append(other)
        other = key(1)
        other.ipProtocol = 6
        keys.append(other)
        other = key(1)
        other.domain = 1
        keys.append(other)
        other = key(1)
        other.origin = 1
        keys.append(other)
        #expect(Set(keys.map { table.entry(for: $0, now: 0) }).count == keys.count)
    }

    /// A datagram whose fragments have all come is not counted any more, and its entry is the first to give way.
    @Test func completeness() {
        var table = FragmentTable(capacity: 16, octets: 1 << 16)
        let index = table.entry(for: key(1), isFirst: true, now: 0)
        table.note(index, offset: 64, count: 10, isLast: true, now: 0)
        #expect(table.count == 1)
        table.decide(index, .rules, now: 0)
        table.note(index, offset: 0, count: 32, isLast: false, now: 0)
        #expect(table.count == 1)
        table.note(index, offset: 32, count: 32, isLast: false, now: 0)
        #expect(table.count == 0)
        // It stays for a moment, for what is repeated.
        #expect(table.entry(for: key(1), now: 99_000_000) == index)
        #expect(table.decision(index) == .rules)
        #expect(table.expire(now: 99_000_000) == 0)
        #expect(table.entry(for: key(1), now: 99_000_000) == index)
        // The first one again: all of the datagram is awaited again.
        table.decide(index, .flow(.actions(1)), now: 99_000_000)
        #expect(table.count == 1)
        #expect(table.expire(now: 2_098_000_000) == 0)
        #expect(table.count == 1)
        #expect(table.expire(now: 2_099_000_000) == 0)
        #expect(table.count == 0)
    }

    /// Complete ones give way before those that were decided about, and these before those that wait.
    @Test func whoGivesWay() {
        var table = FragmentTable(capacity: 16, octets: 1 << 20)
        // Full of entries for which something waits.
        var waiting = 0
        for number in 0..<2_000 as Range<UInt32> {
            let index = table.entry(for: key(number), now: 0)
            if index >= 0, table.decision(index) == .unknown,
                table.wait(index, memory.frame([1]), ingress: 1)
            {
                waiting += 1
            }
        }
        #expect(table.count == 16 && table.waitingCount == 16 && waiting == 16)
        #expect(table.waitingOctets > 0)
        #expect(table.entry(for: key(9_999), now: 0) == -1)
        // A first one takes a place; what waited there is told as dropped.
        let first = table.entry(for: key(9_999), isFirst: true, now: 1)
        #expect(first >= 0)
        #expect(table.count == 16 && table.waitingCount == 15)
        table.decide(first, .rules, now: 1)
        #expect(table.expire(now: 1) == 1)
        // The next ones take the place of the one that was decided about, wherever they can.
        var taken = 0
        for number in 20_000..<20_100 as Range<UInt32> {
            let index = table.entry(for: key(number), isFirst: true, now: 2)
            if index == first {
                taken += 1
                table.decide(index, .rules, now: 2)
            } else if index >= 0 {
                table.decide(index, .rules, now: 2)
            }
        }
        #expect(taken > 0)
        let left = table.waitingCount
        #expect(table.expire(now: 10_000_000_000) == 15)
        #expect(left < 15 && table.count == 0 && table.waitingCount == 0)
        #expect(table.waitingOctets == 0)
    }

    @Test func lifetime() {
        var table = FragmentTable(capacity: 16, octets: 1 << 16, lifetime: 500)
        let index = table.entry(for: key(1), now: 100)
        #expect(table.wait(index, memory.frame([1]), ingress: 1) == true)
        #expect(table.expire(now: 599) == 0)
        #expect(table.expire(now: 600) == 1)
        #expect(table.count == 0)
    }
}
