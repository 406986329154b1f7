import ControlPlane
import TestSupport
import Testing

@Suite struct RangeLockTests {
    /// Writes down in which order requests are granted.
    private final class Order {
        var names: [String] = []
    }

    @Test(arguments: [
        (RangeLocks.Purpose.read, RangeLocks.Purpose.read, false),
        (RangeLocks.Purpose.read, RangeLocks.Purpose.write, false),
        (RangeLocks.Purpose.read, RangeLocks.Purpose.atomic, true),
        (RangeLocks.Purpose.write, RangeLocks.Purpose.read, false),
        (RangeLocks.Purpose.write, RangeLocks.Purpose.write, true),
        (RangeLocks.Purpose.write, RangeLocks.Purpose.atomic, true),
        (RangeLocks.Purpose.atomic, RangeLocks.Purpose.read, true),
        (RangeLocks.Purpose.atomic, RangeLocks.Purpose.write, true),
        (RangeLocks.Purpose.atomic, RangeLocks.Purpose.atomic, true),
    ])
    func `who waits for whom`(
        first: RangeLocks.Purpose, second: RangeLocks.Purpose, conflict: Bool
    ) {
        let locks = RangeLocks()
        let order = Order()
        let one = locks.acquire(10..<20, for: first) { order.names.append("one") }
        #expect(order.names == ["one"])
        let two = locks.acquire(19..<25, for: second) { order.names.append("two") }
        #expect(order.names == (conflict ? ["one"] : ["one", "two"]))
        #expect(locks.waiting == (conflict ? 1 : 0))
        locks.release(one)
        #expect(order.names == ["one", "two"])
        #expect(locks.waiting == 0)
        #expect(!locks.isEmpty)
        locks.release(two)
        #expect(locks.isEmpty)
        #expect(order.names == ["one", "two"])
    }

    @Test func `what only touches does not conflict, what is empty never does`() {
        let locks = RangeLocks()
        let order = Order()
        let tickets = [
            locks.acquire(10..<20, for: .atomic) { order.names.append("middle") },
            locks.acquire(0..<10, for: .atomic) { order.names.append("before") },
            locks.acquire(20..<UInt64.max, for: .atomic) { order.names.append("behind") },
            locks.acquire(15..<15, for: .atomic) { order.names.append("empty") },
        ]
        #expect(order.names == ["middle", "before", "behind", "empty"])
        // Nor does anything wait for it.
        let other = RangeLocks()
        let empty = other.acquire(5..<5, for: .atomic) {}
        let around = other.acquire(0..<10, for: .atomic) { order.names.append("around") }
        #expect(order.names.last == "around")
        for ticket in tickets { locks.release(ticket) }
        other.release(empty)
        other.release(around)
        #expect(locks.isEmpty)
        #expect(other.isEmpty)
    }

    @Test func `first come, first served`() {
        let locks = RangeLocks()
        let order = Order()
        let reading = locks.acquire(0..<10, for: .read) { order.names.append("reading") }
        let atomic = locks.acquire(5..<15, for: .atomic) { order.names.append("atomic") }
        // Would not conflict with what is held, but with what waits.
        let second = locks.acquire(0..<6, for: .read) { order.names.append("second") }
        let third = locks.acquire(12..<13, for: .write) { order.names.append("third") }
        let free = locks.acquire(15..<16, for: .write) { order.names.append("free") }
        #expect(order.names == ["reading", "free"])
        #expect(locks.waiting == 3)
        locks.release(reading)
        #expect(order.names == ["reading", "free", "atomic"])
        locks.release(atomic)
        #expect(order.names == ["reading", "free", "atomic", "second", "third"])
        for ticket in [second, third, free] { locks.release(ticket) }
        #expect(locks.isEmpty)
        #expect(locks.waiting == 0)
    }

    @Test func `one that waits is called off`() {
        let locks = RangeLocks()
        let order = Order()
        let reading = locks.acquire(0..<10, for: .read) { order.names.append("reading") }
        let atomic = locks.acquire(0..<10, for: .atomic) { order.names.append("atomic") }
        let behind = locks.acquire(0..<10, for: .read) { order.names.append("behind") }
        #expect(locks.waiting == 2)
        locks.release(atomic)
        #expect(order.names == ["reading", "behind"])
        #expect(locks.waiting == 0)
        // Twice, or never given: nothing.
        locks.release(atomic)
        locks.release(0)
        locks.release(.max)
        locks.release(reading)
        locks.release(behind)
        #expect(order.names == ["reading", "behind"])
        #expect(locks.isEmpty)
    }

    @Test func `one that was released by a sooner one is not granted`() {
        let locks = RangeLocks()
        let order = Order()
        var second: RangeLocks.Ticket = 0
        let first = locks.acquire(0..<10, for: .atomic) {}
        let reading = locks.acquire(0..<5, for: .read) {
            order.names.append("reading")
            locks.release(second)
        }
        second = locks.acquire(0..<5, for: .read) { order.names.append("second") }
        let third = locks.acquire(0..<5, for: .read) { order.names.append("third") }
        locks.release(first)
        #expect(order.names == ["reading", "third"])
        #expect(locks.waiting == 0)
        locks.release(reading)
        locks.release(third)
        #expect(locks.isEmpty)
    }

    @Test func `what a granted one frees or asks for comes in its turn`() {
        let locks = RangeLocks()
        let order = Order()
        var late: [RangeLocks.Ticket] = []
        let first = locks.acquire(0..<10, for: .atomic) {}
        let other = locks.acquire(20..<30, for: .atomic) {}
        let one = locks.acquire(0..<5, for: .write) {
            order.names.append("one")
            // Frees "three", which comes behind "two": that was due before.
            locks.release(other)
            // Nothing conflicts: at once.
            late.append(locks.acquire(40..<50, for: .write) { order.names.append("four") })
            // Waits for "two", though that does not know yet that it is held.
            late.append(locks.acquire(5..<6, for: .write) { order.names.append("five") })
        }
        let two = locks.acquire(5..<10, for: .write) { order.names.append("two") }
        let three = locks.acquire(20..<30, for: .write) { order.names.append("three") }
        locks.release(first)
        #expect(order.names == ["one", "four", "two", "three"])
        #expect(locks.waiting == 1)
        locks.release(two)
        #expect(order.names == ["one", "four", "two", "three", "five"])
        for ticket in [one, three] + late { locks.release(ticket) }
        #expect(locks.isEmpty)
    }

    @Test func `a chain of any length needs no stack`() {
        let locks = RangeLocks()
        var granted = 0
        var tickets: [RangeLocks.Ticket] = []
        let first = locks.acquire(0..<1, for: .write) {}
        let length = 500
        for index in 0..<length {
            tickets.append(
                locks.acquire(0..<1, for: .write) {
                    granted += 1
                    locks.release(tickets[index])
                })
        }
        #expect(locks.waiting == length)
        locks.release(first)
        #expect(granted == length)
        #expect(locks.isEmpty)
    }

    @Test(arguments: [1, 2, 3, 4] as [UInt64])
    func `as a naive model has it, at every step`(seed: UInt64) {
        let model = LockModel(seed: seed)
        for step in 0..<3000 where model.problems.isEmpty {
            model.step()
            model.compare(step)
        }
        model.releaseAll()
        #expect(model.problems == [])
        #expect(model.locks.isEmpty)
        #expect(model.locks.waiting == 0)
        #expect(model.count > 1000)
    }
}

/// Random requests, and what must come of them: one is held when none before it conflicts with it.
private final class LockModel {
    private struct Request {
        let number: Int
        let blocks: Range<UInt64>
        let purpose: RangeLocks.Purpose
    }

    let locks = RangeLocks()
    private(set) var problems: [String] = []
    /// Requests so far.
    private(set) var count = 0
    private var random: SplitMix64
    /// Not released, in the order of asking.
    private var requests: [Request] = []
    private var tickets: [Int: RangeLocks.Ticket] = [:]
    private var granted: Set<Int> = []
    private var depth = 0

    init(seed: UInt64) { random = SplitMix64(seed: seed) }

    func step() {
        let isFull = requests.count >= 24
        if isFull || random.below(100) < 45 {
            release()
        } else {
            acquire()
        }
    }

    func releaseAll() {
        depth = 100
        while let first = requests.first { release(first.number) }
    }

    private func acquire() {
        let number = count
        count += 1
        let start = UInt64(random.below(40))
        let length = UInt64(random.below(8))
        let purposes: [RangeLocks.Purpose] = [.read, .read, .write, .write, .atomic]
        let request = Request(
            number: number, blocks: start..<start + length,
            purpose: purposes[random.below(purposes.count)])
        requests.append(request)
        let ticket = locks.acquire(request.blocks, for: request.purpose) { [unowned self] in
            self.wasGranted(request)
        }
        tickets[number] = ticket
    }

    /// Any that has its ticket by now, held or not.
    private func release() {
        let known = requests.map(\.number).filter { tickets[$0] != nil }
        guard !known.isEmpty else { return }
        release(known[random.below(known.count)])
    }

    private func release(_ number: Int) {
        guard let ticket = tickets.removeValue(forKey: number) else { return }
        requests.removeAll { $0.number == number }
        granted.remove(number)
        locks.release(ticket)
    }

    private func wasGranted(_ request: Request) {
        if !requests.contains(where: { $0.number == request.number }) {
            problems.append("\(request.number) was granted after its release")
        }
        for other in requests where granted.contains(other.number) {
            if Self.conflict(other, request) {
                problems.append("\(request.number) was granted beside \(other.number)")
            }
        }
        if !granted.insert(request.number).inserted {
            problems.append("\(request.number) was granted twice")
        }
        guard depth < 3, random.below(3) == 0 else { return }
        depth += 1
        step()
        depth -= 1
    }

    func compare(_ step: Int) {
        var held: Set<Int> = []
        for (index, request) in requests.enumerated() {
            let waits = requests[..<index].contains(where: { Self.conflict($0, request) })
            if !waits { held.insert(request.number) }
        }
        if held != granted {
            problems.append("step \(step): \(granted.sorted()) are held, not \(held.sorted())")
        }
        if locks.waiting != requests.count - held.count {
            problems.append("step \(step): \(locks.waiting) wait")
        }
        if locks.isEmpty != requests.isEmpty { problems.append("step \(step): empty or not") }
    }

    private static func conflict(_ one: Request, _ other: Request) -> Bool {
        let touch = one.blocks.contains(where: { other.blocks.contains($0) })
        guard touch else { return false }
        if one.purpose == .atomic || other.purpose == .atomic { return true }
        return one.purpose == .write && other.purpose == .write
    }
}
