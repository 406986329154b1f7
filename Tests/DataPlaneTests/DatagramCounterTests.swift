import DataPlane
import TestSupport
import Testing

/// What is counted of resources and clients.
@Suite struct DatagramCounterTests {
    private let handle = [UInt8](1...32)

    private func fixture() throws -> DatagramFixture {
        let fixture = try DatagramFixture()
        try fixture.bind()
        try fixture.apply(
            .setResource(5, server: fixture.server(0)), .setResource(6, server: fixture.server(0)),
            .setResource(7, server: fixture.server(1)), .installHandle(handle, resource: 5))
        return fixture
    }

    private func message(_ xid: UInt32, resource: UInt32 = 5) -> NFSMessage {
        var message = NFSMessage(handle: DatagramFixture.prefixed(resource, handle))
        message.xid = xid
        return message
    }

    private func call(_ fixture: DatagramFixture, _ message: NFSMessage) {
        let sent = fixture.send(fixture.call(message.call), on: 1)
        #expect(Array(sent.keys) == [3])
    }

    private func reply(_ fixture: DatagramFixture, _ message: NFSMessage, server: Int = 0) {
        let sent = fixture.send(fixture.reply(message.reply(), server: server), on: 3)
        #expect(Array(sent.keys) == [1])
    }

    @Test func sums() throws {
        let fixture = try fixture()
        let start = fixture.network.now
        for number in 0..<3 as Range<UInt32> { call(fixture, message(number)) }
        call(fixture, message(9, resource: 6))
        var resource = try #require(fixture.resource(5))
        #expect(resource.calls == 3 && resource.replies == 0)
        let length = UInt64(28 + message(0).call.count - 8)
        #expect(resource.callOctets == 3 * length)
        #expect(resource.callsSinceReply == 3 && resource.unansweredSince == start)
        #expect(resource.lastReply == 0)
        fixture.network.advance(1_000_000)
        reply(fixture, message(1))
        resource = try #require(fixture.resource(5))
        #expect(resource.replies == 1 && resource.latencySum == 1_000_000)
        #expect(resource.replyOctets == UInt64(28 + message(0).reply().count))
        #expect(resource.callsSinceReply == 0 && resource.unansweredSince == 0)
        #expect(resource.lastReply == start + 1_000_000)
        // 2^5 * 16.384 µs < 1 ms <= 2^6 * 16.384 µs.
        #expect(resource.histogram.count == 20 && resource.histogram[6] == 1)
        #expect(resource.histogram.reduce(0, +) == 1)
        // The other resource of the server has no reply yet.
        #expect(fixture.resource(6)?.unansweredSince == start)
        #expect(fixture.resource(6)?.callsSinceReply == 1)
        fixture.network.advance(1_000_000)
        call(fixture, message(20))
        #expect(fixture.resource(5)?.unansweredSince == start + 2_000_000)
        let binding = try #require(fixture.binding())
        #expect(binding.calls == 5 && binding.replies == 1)
        #expect(binding.lastUsed == start + 2_000_000)
        #expect(fixture.status.resources.map(\.id) == [5, 6, 7])
    }

    /// A call that is said again counts again; its latency is that from its first time.
    @Test func retransmissions() throws {
        let fixture = try fixture()
        call(fixture, message(1))
        fixture.network.advance(700_000_000)
        call(fixture, message(1))
        fixture.network.advance(10_000_000)
        reply(fixture, message(1))
        reply(fixture, message(1))
        let resource = try #require(fixture.resource(5))
        #expect(resource.calls == 2 && resource.replies == 1)
        #expect(resource.latencySum == 710_000_000)
        #expect(fixture.status.unknownReplies == 1)
        // Long after, it is another call.
        call(fixture, message(2))
        fixture.network.advance(seconds: 100)
        call(fixture, message(2))
        fixture.network.advance(1_000)
        reply(fixture, message(2))
        #expect(fixture.resource(5)?.latencySum == 710_001_000)
    }

    /// The control plane sees that a server is silent.
    @Test func silence() throws {
        let fixture = try fixture()
        let start = fixture.network.now
        for number in 0..<5 as Range<UInt32> {
            call(fixture, message(number, resource: 7))
            fixture.network.advance(seconds: 1)
        }
        #expect(fixture.resource(7)?.unansweredSince == start)
        #expect(fixture.resource(7)?.callsSinceReply == 5)
        // The next server begins anew; what the one before says is nothing of it.
        try fixture.apply(.setResource(7, server: fixture.server(0)))
        #expect(fixture.resource(7)?.unansweredSince == 0)
        call(fixture, message(9, resource: 7))
        let since = fixture.network.now
        try fixture.apply(.setResource(8, server: fixture.server(1)))
        reply(fixture, message(3, resource: 7), server: 1)
        #expect(fixture.resource(7)?.unansweredSince == since)
        #expect(fixture.resource(7)?.replies == 1)
        // The same server again changes nothing.
        try fixture.apply(.setResource(7, server: fixture.server(0)))
        #expect(fixture.resource(7)?.unansweredSince == since)
        reply(fixture, message(9, resource: 7))
        #expect(fixture.resource(7)?.unansweredSince == 0)
    }

    /// A reply to a call that nobody knows any more is a sign of life of all that is there.
    @Test func unknownReplies() throws {
        let fixture = try fixture()
        call(fixture, message(1, resource: 5))
        call(fixture, message(2, resource: 6))
        call(fixture, message(3, resource: 7))
        reply(fixture, message(77))
        #expect(fixture.status.unknownReplies == 1)
        #expect(fixture.resource(5)?.unansweredSince == 0)
        #expect(fixture.resource(6)?.unansweredSince == 0)
        #expect(fixture.resource(7)?.unansweredSince != 0)
        #expect(fixture.resource(5)?.replies == 0)
    }

    /// More calls at a time than can be measured: all pass, some are not measured.
    @Test func moreThanCanBeMeasured() throws {
        var configuration = TestSwitch.configuration
        configuration.datagramCalls = 16
        let fixture = try DatagramFixture(configuration: configuration)
        try fixture.bind()
        try fixture.apply(.setResource(5, server: fixture.server(0)))
        for number in 0..<100 as Range<UInt32> { call(fixture, message(number)) }
        for number in 0..<100 as Range<UInt32> { reply(fixture, message(number)) }
        let resource = try #require(fixture.resource(5))
        #expect(resource.calls == 100 && resource.replies <= 16 && resource.replies > 4)
        #expect(fixture.status.unknownReplies == 100 - resource.replies)
    }

    /// A new binding has none of the calls of the one before.
    @Test func bindingsAreApart() throws {
        let fixture = try fixture()
        call(fixture, message(1))
        try fixture.apply(.unbind(DatagramFixture.service, client: fixture.client(0)))
        try fixture.bind()
        call(fixture, message(2))
        reply(fixture, message(1))
        #expect(fixture.resource(5)?.replies == 0 && fixture.status.unknownReplies == 1)
        reply(fixture, message(2))
        #expect(fixture.resource(5)?.replies == 1)
    }
}
