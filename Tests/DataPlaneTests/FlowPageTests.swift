import DataPlane
import TestSupport
import Testing

/// Flows are read in bounded steps.
@Suite struct FlowPageTests {
    private func key(_ number: UInt32) -> FlowKey {
        FlowKey(
            source: IPAddress(v4: number), sourcePort: 1, destination: IPAddress(v4: 2),
            destinationPort: 2, ipProtocol: 17, domain: 0, origin: .network)
    }

    @Test func `every flow is told once, a bounded number in a step`() throws {
        var configuration = TestSwitch.configuration
        configuration.flows = 20_000
        let fixture = TestSwitch([.init(1)], configuration: configuration)
        let keys = (0..<10_000 as Range<UInt32>).map(key)
        try fixture.apply(
            keys.map { .addFlow($0, actions: [.output(1)], cookie: 0, idleTimeout: 0) })
        // Holes in the list are passed over.
        try fixture.apply(keys[100..<9_000].map { .deleteFlow($0) })
        var cursor = FlowCursor()
        var seen: [FlowKey] = []
        var steps = 0
        while !cursor.isAtEnd {
            let before = cursor
            let (flows, after) = try #require(
                fixture.worker.call { pipeline in
                    var cursor = before
                    let flows = pipeline.nextFlows(&cursor, limit: 300)
                    return (flows, cursor)
                })
            #expect(flows.count <= 300)
            seen += flows.map(\.key)
            cursor = after
            steps += 1
            try #require(steps < 100)
        }
        #expect(seen == Array(keys[..<100] + keys[9_000...]))
        // 8900 holes and 1100 flows: no step looks at all of them.
        #expect(steps >= 5)
    }

    @Test func `pages of splices and flows together`() throws {
        let fixture = try SpliceFixture()
        try fixture.network.apply(
            (0..<10 as Range<UInt32>).map {
                .addFlow(key($0), actions: [.drop], cookie: 7, idleTimeout: 0)
            })
        let worker = fixture.network.worker
        let all = FlowPager.read(worker, offset: 0, limit: 1_000)
        #expect(all.count == 14)
        #expect(worker.call { $0.flowCount } == 14)
        #expect(
            all.map { $0.splice?.id } == Array(repeating: 2, count: 4)
                + Array(repeating: nil, count: 10))
        #expect(Set(all.map(\.key)).count == 14)
        for offset in 0...15 {
            for limit in [1, 2, 3, 14] {
                let page = FlowPager.read(worker, offset: offset, limit: limit)
                #expect(page.map(\.key) == Array(all.map(\.key).dropFirst(offset).prefix(limit)))
            }
        }
        #expect(FlowPager.read(worker, offset: 0, limit: 0).isEmpty)
    }
}
