import DataPlane
import TestSupport
import Testing

@Suite struct FaultInjectingPortTests {
    /// Numbered frames, sent through a port that has faults, as they come out with their times.
    private func run(
        _ count: Int, isReceive: Bool = true, _ profile: FaultProfile
    ) -> (out: [(time: UInt64, bytes: [UInt8])], counters: FaultInjectingPort.Counters) {
        let inner = MemoryPort(name: "inner")
        let port = FaultInjectingPort(inner, faults: profile)
        let memory = FrameMemory()
        let burst = UnsafeMutablePointer<Frame>.allocate(capacity: 64)
        defer { burst.deallocate() }
        var out: [(time: UInt64, bytes: [UInt8])] = []
        func poll(_ now: UInt64) {
            while true {
                let received = port.receive(into: burst, limit: 64, now: now)
                if received == 0 { break }
                for index in 0..<received { out.append((now, burst[index].octets)) }
            }
            for frame in inner.drain() { out.append((now, frame.bytes)) }
        }
        var now: UInt64 = 1_000_000
        for number in 0..<count {
            let bytes = frame(number)
            if isReceive {
                inner.inject(bytes)
            } else {
                port.transmit(memory.frame(bytes), now: now)
                port.flush(now: now)
            }
            poll(now)
            now += 10_000
        }
        for _ in 0..<20 {
            now += 1_000_000
            poll(now)
        }
        return (out, port.counters)
    }

    private func frame(_ number: Int) -> [UInt8] {
        PacketBuilder(payload: bigEndian32(UInt32(number)) + [1, 2, 3, 4]).frame()
    }

    private func number(_ bytes: [UInt8]) -> UInt32 {
        bytes[54..<58].reduce(0) { $0 << 8 | UInt32($1) }
    }

    /// Within five standard deviations.
    private func isLikely(_ count: UInt64, of total: Int, _ probability: Double) -> Bool {
        let mean = Double(total) * probability
        let deviation = (mean * (1 - probability)).squareRoot()
        return abs(Double(count) - mean) < 5 * deviation
    }

    @Test func clean() {
        let result = run(500, FaultProfile())
        #expect(result.out.map(\.bytes) == (0..<500).map { frame($0) })
        #expect(result.counters == FaultInjectingPort.Counters())
    }

    @Test(arguments: [true, false])
    func drops(isReceive: Bool) {
        var profile = FaultProfile()
        profile.drop = 0.1
        let result = run(10_000, isReceive: isReceive, profile)
        #expect(isLikely(result.counters.dropped, of: 10_000, 0.1))
        #expect(result.out.count == 10_000 - Int(result.counters.dropped))
        let numbers = result.out.map { number($0.bytes) }
        #expect(numbers == numbers.sorted() && Set(numbers).count == numbers.count)
    }

    @Test(arguments: [true, false])
    func duplicates(isReceive: Bool) {
        var profile = FaultProfile()
        profile.duplicate = 0.2
        let result = run(10_000, isReceive: isReceive, profile)
        #expect(isLikely(result.counters.duplicated, of: 10_000, 0.2))
        #expect(result.out.count == 10_000 + Int(result.counters.duplicated))
        #expect(Set(result.out.map { number($0.bytes) }).count == 10_000)
    }

    @Test(arguments: [true, false])
    func reorders(isReceive: Bool) {
        var profile = FaultProfile()
        profile.reorder = 0.3
        let result = run(10_000, isReceive: isReceive, profile)
        let numbers = result.out.map { number($0.bytes) }
        #expect(Set(numbers).count == 10_000 && numbers.count == 10_000)
        #expect(numbers != numbers.sorted())
        #expect(isLikely(result.counters.delayed, of: 10_000, 0.3))
        // Late by 3 ms at most: 300 frames at this rate, and what a poll adds.
        for (index, number) in numbers.enumerated() where abs(index - Int(number)) > 310 {
            Issue.record("\(number) at \(index)")
        }
    }

    @Test func corrupts() {
        var profile = FaultProfile()
        profile.corrupt = 0.25
        let result = run(10_000, profile)
        #expect(isLikely(result.counters.corrupted, of: 10_000, 0.25))
        var damaged: UInt64 = 0
        for (index, entry) in result.out.enumerated() where entry.bytes != frame(index) {
            damaged += 1
            let bits = zip(entry.bytes, frame(index)).map { ($0 ^ $1).nonzeroBitCount }
            if bits.reduce(0, +) != 1 || bits[0..<14].contains(1) { Issue.record("\(bits)") }
        }
        #expect(damaged == result.counters.corrupted)
    }

    @Test(arguments: [true, false])
    func delays(isReceive: Bool) {
        var profile = FaultProfile()
        profile.delay = 500_000
        let result = run(1_000, isReceive: isReceive, profile)
        #expect(result.out.map { number($0.bytes) } == (0..<1_000).map { UInt32($0) })
        for (index, entry) in result.out.enumerated() {
            let due = 1_000_000 + UInt64(index) * 10_000 + 500_000
            if entry.time < due { Issue.record("\(index) came too early") }
        }
        #expect(result.counters.delayed == 1_000)
    }

    @Test func offloadedFramesAreNotDamaged() {
        var profile = FaultProfile()
        profile.corrupt = 1
        let inner = MemoryPort(name: "inner")
        let port = FaultInjectingPort(inner, faults: profile)
        var offload = VirtioHeader()
        offload.flags = VirtioHeader.needsChecksum
        let memory = FrameMemory()
        port.transmit(memory.frame(frame(1), offload: offload), now: 1)
        #expect(inner.drain() == [.init(bytes: frame(1), offload: offload)])
        // Too short to be damaged behind the Ethernet header.
        port.transmit(memory.frame(Array(frame(1).prefix(14))), now: 1)
        port.transmit(memory.frame([]), now: 1)
        #expect(inner.drain().count == 2)
        #expect(port.counters.corruptSkipped == 3 && port.counters.corrupted == 0)
    }

    @Test func seeds() {
        var profile = FaultProfile()
        profile.drop = 0.1
        profile.duplicate = 0.1
        profile.reorder = 0.1
        profile.corrupt = 0.1
        profile.seed = 42
        let first = run(2_000, profile)
        let again = run(2_000, profile)
        #expect(first.out.map(\.bytes) == again.out.map(\.bytes))
        #expect(first.counters == again.counters)
        profile.seed = 43
        #expect(run(2_000, profile).out.map(\.bytes) != first.out.map(\.bytes))
    }
}
