import DataPlane
import TestSupport
import Testing

/// Commands of the datagram grain: refused with a reason, or done as the batch says.
@Suite struct DatagramCommandTests {
    private typealias Reason = BatchError.Reason

    private let service = DatagramFixture.service

    private func refusal(
        _ fixture: DatagramFixture, _ commands: [DatagramCommand]
    ) -> BatchError? {
        do throws(BatchError) {
            _ = try fixture.network.apply(commands.map { .datagram($0) })
            return nil
        } catch {
            return error
        }
    }

    private func bind(
        _ fixture: DatagramFixture, _ number: Int, port: UInt16? = nil,
        service: DatagramServiceID = DatagramFixture.service
    ) -> DatagramCommand {
        .bind(
            service, client: fixture.client(number), localPort: port ?? fixture.localPort(number),
            resources: .all)
    }

    @Test func refusals() throws {
        let fixture = try DatagramFixture()
        try fixture.bind(0)
        let client = fixture.client(0)
        let stranger = fixture.client(1)
        var noStorage = DatagramFixture.description
        noStorage.storageAddresses.ipv6 = nil
        var nothing = DatagramFixture.description
        nothing.virtualAddresses = DatagramAddresses()
        var wrongFamily = DatagramFixture.description
        wrongFamily.virtualAddresses.ipv4 = DatagramFixture.address(false, 1, 1)
        var noPort = DatagramFixture.description
        noPort.port = 0
        var noDomain = DatagramFixture.description
        noDomain.clientDomain = 16
        let cases: [(DatagramCommand, Reason)] = [
            (.setService(4, DatagramFixture.description), .datagramServiceOutOfRange(4, limit: 4)),
            (.setService(0, nil), .noSuchDatagramService(0)),
            (.setService(2, noStorage), .datagramServiceInvalid(2)),
            (.setService(2, nothing), .datagramServiceInvalid(2)),
            (.setService(2, wrongFamily), .datagramServiceInvalid(2)),
            (.setService(2, noPort), .datagramServiceInvalid(2)),
            (.setService(2, noDomain), .datagramServiceInvalid(2)),
            (.setService(2, DatagramFixture.description), .datagramServiceInUse(by: service)),
            (bind(fixture, 1, service: 3), .noSuchDatagramService(3)),
            (bind(fixture, 1, service: 200), .noSuchDatagramService(200)),
            (bind(fixture, 0, port: 7), .datagramBindingExists),
            (bind(fixture, 1, port: fixture.localPort(0)), .datagramPortInUse(40_000)),
            (bind(fixture, 1, port: 0), .datagramPortInUse(0)),
            (.unbind(service, client: stranger), .noSuchDatagramBinding),
            (.unbind(3, client: client), .noSuchDatagramBinding),
            (
                .allow(service, client: stranger, resource: 1, isAllowed: true),
                .noSuchDatagramBinding
            ),
            (.installHandle([], resource: 1), .datagramHandleLength(0)),
            (
                .installHandle([UInt8](repeating: 0, count: 65), resource: 1),
                .datagramHandleLength(65)
            ),
        ]
        for (number, (command, reason)) in cases.enumerated() {
            // Good commands around the bad one leave nothing behind.
            let batch: [DatagramCommand] = [
                bind(fixture, 9), .installHandle([1], resource: 3),
                .setResource(3, server: fixture.server(0)), command,
                .unbind(service, client: client),
            ]
            #expect(
                refusal(fixture, batch) == BatchError(index: 3, reason: reason), "\(number)")
            let status = fixture.status
            #expect(status.bindings == 1 && status.handles == 0, "\(number)")
            #expect(status.resources.isEmpty, "\(number)")
        }
    }

    @Test func addressFamily() throws {
        let fixture = try DatagramFixture(isIPv4: false)
        var service = DatagramFixture.description
        service.virtualAddresses.ipv6 = nil
        try fixture.apply(.setService(DatagramFixture.service, service))
        let error = refusal(fixture, [bind(fixture, 0)])
        #expect(error == BatchError(index: 0, reason: .datagramAddressFamily))
    }

    @Test func full() throws {
        let fixture = try DatagramFixture()
        for number in 0..<64 { try fixture.bind(number) }
        #expect(fixture.status.bindings == 64 && fixture.status.bindingCapacity == 64)
        let one = refusal(fixture, [bind(fixture, 64)])
        #expect(one == BatchError(index: 0, reason: .datagramBindingTableFull(limit: 64)))
        let exchange: [DatagramCommand] = [
            .unbind(service, client: fixture.client(3)), bind(fixture, 64),
        ]
        #expect(refusal(fixture, exchange) == nil)
        let two: [DatagramCommand] = [
            .unbind(service, client: fixture.client(4)), bind(fixture, 3), bind(fixture, 65),
        ]
        #expect(
            refusal(fixture, two)
                == BatchError(index: 2, reason: .datagramBindingTableFull(limit: 64)))
        #expect(fixture.status.bindings == 64)
    }

    /// Commands see what earlier ones of their batch did.
    @Test func order() throws {
        let fixture = try DatagramFixture()
        let client = fixture.client(0)
        let batch: [DatagramCommand] = [
            bind(fixture, 0), .unbind(service, client: client), bind(fixture, 0, port: 9),
            bind(fixture, 1), .unbind(service, client: fixture.client(1)),
            bind(fixture, 2, port: fixture.localPort(1)),
            .allow(service, client: client, resource: 7, isAllowed: false),
        ]
        #expect(refusal(fixture, batch) == nil)
        #expect(Set(fixture.bindings.map(\.localPort)) == [9, fixture.localPort(1)])
        #expect(fixture.binding(0)?.resources.contains(7) == false)
        #expect(fixture.binding(0)?.resources.elements.count == 255)
        // Another service takes the place of the first one, whose bindings are gone.
        var other = DatagramFixture.description
        other.port = 2_050
        let replacement: [DatagramCommand] = [
            bind(fixture, 5), .setService(service, other), bind(fixture, 0, port: 9),
            bind(fixture, 5),
        ]
        #expect(refusal(fixture, replacement) == nil)
        #expect(Set(fixture.bindings.map(\.localPort)) == [9, fixture.localPort(5)])
        let gone: [DatagramCommand] = [
            .setService(service, nil), .unbind(service, client: client),
        ]
        #expect(refusal(fixture, gone) == BatchError(index: 1, reason: .noSuchDatagramBinding))
        #expect(fixture.status.bindings == 2)
        let exchanged: [DatagramCommand] = [
            .setService(service, nil), .setService(0, other), bind(fixture, 0, port: 9, service: 0),
        ]
        #expect(refusal(fixture, exchanged) == nil)
        #expect(fixture.bindings.map(\.service) == [0])
    }

    /// Two services with the same storage address cannot give out a port twice.
    @Test func servicesShareStorageAddresses() throws {
        let fixture = try DatagramFixture()
        var other = DatagramFixture.description
        other.virtualAddresses = DatagramAddresses(ipv4: DatagramFixture.address(true, 1, 2))
        try fixture.apply(.setService(0, other))
        try fixture.bind(0)
        let taken = refusal(fixture, [bind(fixture, 1, port: 40_000, service: 0)])
        #expect(taken == BatchError(index: 0, reason: .datagramPortInUse(40_000)))
        // A client may use both.
        try fixture.apply(
            bind(fixture, 0, port: 50_000, service: 0),
            .setResource(5, server: fixture.server(0)))
        let handle: [UInt8] = [1, 2, 3, 4]
        let message = NFSMessage(handle: DatagramFixture.prefixed(5, handle))
        var call = fixture.call(message.call)
        let own = NFSMessage(handle: handle).call
        fixture.check(fixture.send(call, on: 1), 3, fixture.forwarded(own))
        call.destination = DatagramFixture.address(true, 1, 2)
        var wanted = fixture.forwarded(own)
        wanted.sourcePort = 50_000
        fixture.check(fixture.send(call, on: 1), 3, wanted)
        var reply = fixture.reply(message.reply())
        fixture.check(fixture.send(reply, on: 3), 1, fixture.returned(message.reply()))
        reply.destinationPort = 50_000
        var returned = fixture.returned(message.reply())
        returned.source = call.destination
        fixture.check(fixture.send(reply, on: 3), 1, returned)
    }

    /// Local ports of the two families are apart.
    @Test func families() throws {
        let fixture = try DatagramFixture()
        let six = try DatagramFixture(isIPv4: false)
        try fixture.bind(0)
        try fixture.apply(bind(six, 0))
        #expect(fixture.bindings.map(\.localPort) == [40_000, 40_000])
        #expect(Set(fixture.bindings.map(\.client)) == [fixture.client(0), six.client(0)])
    }

    /// Random bindings, compared with a dictionary.
    @Test func againstADictionary() throws {
        let fixture = try DatagramFixture()
        var model: [DatagramEndpoint: UInt16] = [:]
        var random = SplitMix64(seed: 4)
        for round in 0..<4_000 {
            let number = random.below(100)
            let client = fixture.client(number)
            if random.below(10) < (round / 1_000 % 2 == 0 ? 7 : 3) {
                let port = UInt16(1 + random.below(120))
                var expected: Reason?
                if model[client] != nil {
                    expected = .datagramBindingExists
                } else if model.values.contains(port) {
                    expected = .datagramPortInUse(port)
                } else if model.count == 64 {
                    expected = .datagramBindingTableFull(limit: 64)
                } else {
                    model[client] = port
                }
                let error = refusal(fixture, [bind(fixture, number, port: port)])
                if error?.reason != expected { Issue.record("bind, round \(round)") }
            } else {
                let isThere = model.removeValue(forKey: client) != nil
                let error = refusal(fixture, [.unbind(service, client: client)])
                if (error == nil) != isThere { Issue.record("unbind, round \(round)") }
            }
            let other = random.below(100)
            if fixture.binding(other)?.localPort != model[fixture.client(other)] {
                Issue.record("look-up, round \(round)")
            }
            if round % 100 == 0 {
                var read: [DatagramEndpoint: UInt16] = [:]
                for binding in fixture.bindings { read[binding.client] = binding.localPort }
                if read != model || fixture.status.bindings != model.count {
                    Issue.record("reading, round \(round)")
                }
            }
        }
    }

    @Test func readingOfBindings() throws {
        let fixture = try DatagramFixture()
        let start = fixture.network.now
        try fixture.bind(0, resources: [1, 200])
        fixture.network.advance(seconds: 1)
        try fixture.bind(1)
        let bindings = fixture.bindings
        #expect(bindings.map(\.client) == [fixture.client(0), fixture.client(1)])
        #expect(bindings.map(\.lastUsed) == [start, start + 1_000_000_000])
        #expect(bindings[0].resources.elements == [1, 200])
        #expect(bindings[1].resources == .all)
        #expect(bindings.allSatisfy { $0.mac == .zero && $0.port == 0 && $0.calls == 0 })
        #expect(fixture.binding(2) == nil)
        let client = fixture.client(0)
        let none = fixture.network.worker.call { $0.datagramBinding(99, client: client) }
        #expect(none == .some(nil))
    }

    /// A full table of handles forgets, and says so.
    @Test func handleEviction() throws {
        var configuration = TestSwitch.configuration
        configuration.datagramHandles = 10
        let fixture = try DatagramFixture(configuration: configuration)
        for number in 0..<25 as Range<UInt32> {
            try fixture.apply(.installHandle(bigEndian32(number), resource: 3))
        }
        let status = fixture.status
        #expect(status.handles == 10 && status.handleCapacity == 10)
        #expect(status.handleEvictions == 15)
        #expect(status.resources.map(\.handles) == [10])
    }

    @Test func resourceSets() {
        var set: DatagramResourceSet = [0, 63, 64, 127, 128, 191, 192, 255]
        #expect(set.elements == [0, 63, 64, 127, 128, 191, 192, 255])
        set.remove(64)
        set.insert(65)
        #expect(!set.contains(64) && set.contains(65) && set.contains(63))
        #expect(DatagramResourceSet.all.elements.count == 256)
        #expect(DatagramResourceSet().elements.isEmpty)
        #expect(DatagramResourceSet([7]) == [7])
    }
}
