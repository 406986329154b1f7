import ControlPlane
import Dispatch
import Foundation
import Glibc
import Synchronization
import TestSupport
import Testing

@Suite struct EventLogTests {
    private func event(_ message: String) -> EventModel {
        var event = EventModel()
        event.message = message
        return event
    }

    @Test func `the newest are kept, numbers go on`() {
        let log = EventLog(capacity: 16)
        #expect(log.events(after: nil).isEmpty)
        for number in 1...100 { log.add(event("\(number)")) }
        let kept = log.events(after: nil)
        #expect(kept.map(\.sequence) == Array(85...100))
        #expect(kept.map(\.message) == (85...100).map { "\($0)" })
        #expect(kept.allSatisfy { $0.timeS > 1_600_000_000 })
        #expect(log.events(after: 98).map(\.sequence) == [99, 100])
        #expect(log.events(after: 100).isEmpty)
        #expect(log.events(after: 0).count == 16)
        #expect(log.events(after: .max).isEmpty)
    }

    @Test func `events from many threads have numbers without gaps`() {
        let log = EventLog(capacity: 4_096)
        DispatchQueue.concurrentPerform(iterations: 8) { _ in
            for _ in 0..<100 { log.add(EventModel()) }
        }
        #expect(log.events(after: nil).map(\.sequence) == Array(1...800))
    }
}

/// Each test has a loop of its own and runs it until it stops itself.
@Suite struct EventLoopTests {
    /// Stops a loop that a defect keeps running.
    private func run(_ loop: EventLoop) {
        var isLate = false
        let guardian = loop.schedule(after: 5_000_000_000) {
            isLate = true
            loop.stop()
        }
        loop.run()
        guardian.cancel()
        #expect(!isLate)
    }

    @Test func `timers fire in order of their time`() {
        let loop = EventLoop()
        var fired: [Int] = []
        var random = SplitMix64(seed: 1)
        for delay in (1...40).shuffled(using: &random) {
            loop.schedule(after: UInt64(delay) * 500_000) { fired.append(delay) }
        }
        let start = loop.clock()
        loop.schedule(after: 30_000_000) { loop.stop() }
        run(loop)
        #expect(fired == Array(1...40))
        #expect(loop.clock() - start >= 30_000_000)
    }

    @Test func `a timer that was called off does not fire`() {
        let loop = EventLoop()
        var fired = 0
        let timers = (0..<20).map { place in
            loop.schedule(after: UInt64(place) * 100_000) { fired += 1 }
        }
        for timer in timers where timer !== timers[7] { timer.cancel() }
        #expect(timers[0].isCancelled)
        #expect(!timers[7].isCancelled)
        loop.schedule(after: 5_000_000) { loop.stop() }
        run(loop)
        #expect(fired == 1)
    }

    @Test func `a timer can set others, and call them off`() {
        let loop = EventLoop()
        var count = 0
        func again() {
            count += 1
            guard count < 10 else { return loop.stop() }
            let other = loop.schedule(after: 0) { count = 1_000 }
            loop.schedule(after: 0) { again() }
            other.cancel()
        }
        loop.schedule(after: 0) { again() }
        run(loop)
        #expect(count == 10)
    }

    @Test func `work from other threads, in order`() async {
        let loop = EventLoop()
        let seen = Mutex<[Int]>([])
        Thread.detachNewThread {
            for number in 0..<1_000 { loop.post { seen.withLock { $0.append(number) } } }
            loop.post { loop.stop() }
        }
        run(loop)
        #expect(seen.withLock { $0 } == Array(0..<1_000))
    }

    @Test func `local work runs in the next round`() {
        let loop = EventLoop()
        var order: [String] = []
        loop.postLocal {
            order.append("first")
            loop.postLocal {
                order.append("second")
                loop.stop()
            }
            order.append("still first")
        }
        run(loop)
        #expect(order == ["first", "still first", "second"])
    }

    @Test func `a descriptor that can be read, until it is unregistered`() throws {
        let loop = EventLoop()
        var pipe: [Int32] = [0, 0]
        try #require(Glibc.pipe(&pipe) == 0)
        defer { for descriptor in pipe { close(descriptor) } }
        var events = 0
        loop.register(pipe[0], events: .read) { ready in
            #expect(ready.contains(.read))
            events += 1
            var octet: UInt8 = 0
            #expect(read(pipe[0], &octet, 1) == 1)
            if events == 3 { loop.unregister(pipe[0]) }
        }
        var octets: [UInt8] = [1, 2, 3, 4, 5]
        #expect(write(pipe[1], &octets, 5) == 5)
        loop.schedule(after: 10_000_000) { loop.stop() }
        run(loop)
        #expect(events == 3)
    }

    @Test func `a handler can be replaced, also by itself`() throws {
        let loop = EventLoop()
        var pipe: [Int32] = [0, 0]
        try #require(Glibc.pipe(&pipe) == 0)
        defer { for descriptor in pipe { close(descriptor) } }
        var order: [String] = []
        loop.register(pipe[1], events: .write) { ready in
            #expect(ready.contains(.write))
            order.append("first")
            loop.register(pipe[1], events: .write) { _ in
                order.append("second")
                loop.unregister(pipe[1])
                loop.stop()
            }
        }
        run(loop)
        #expect(order == ["first", "second"])
        loop.unregister(pipe[1])
    }

    @Test
    func `an event of a descriptor that another handler closed is not given to its successor`()
        throws
    {
        let loop = EventLoop()
        var first: [Int32] = [0, 0]
        var second: [Int32] = [0, 0]
        try #require(Glibc.pipe(&first) == 0 && Glibc.pipe(&second) == 0)
        var octet: UInt8 = 1
        #expect(write(first[1], &octet, 1) == 1)
        #expect(write(second[1], &octet, 1) == 1)
        var calls = 0
        // Both are ready in one round; whoever is called takes the other's place.
        func takeOver(_ own: Int32, _ other: Int32) {
            loop.register(own, events: .read) { _ in
                calls += 1
                loop.unregister(own)
                loop.unregister(other)
                loop.register(other, events: .write) { _ in Issue.record("event of the old one") }
                loop.unregister(other)
            }
        }
        takeOver(first[0], second[0])
        takeOver(second[0], first[0])
        loop.schedule(after: 5_000_000) { loop.stop() }
        run(loop)
        #expect(calls == 1)
        for descriptor in first + second { close(descriptor) }
    }
}
