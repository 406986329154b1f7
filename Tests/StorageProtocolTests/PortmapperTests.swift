import StorageProtocols
import TestSupport
import Testing

@Suite struct PortmapperTests {
    private static let nfs: UInt32 = 100_003
    private static let mount: UInt32 = 100_005
    private static let portmapper = Portmapper([
        .init(program: nfs, version: 3, transport: .tcp, port: 2_049),
        .init(program: nfs, version: 3, transport: .udp, port: 2_050),
        .init(program: mount, version: 1, transport: .udp, port: 635),
        .init(program: mount, version: 3, transport: .tcp, port: 20_048),
    ])
    private static let v4: [UInt8] = [192, 0, 2, 10]
    private static let v6: [UInt8] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]
    private static let both = Portmapper.Listener(transport: .tcp, addresses: [v4, v6])

    /// What the portmapper replies to a call: why not, or the octets of its results.
    private func ask(
        _ version: UInt32, _ procedure: UInt32, _ arguments: [UInt8] = [],
        program: UInt32 = Portmapper.program,
        of portmapper: Portmapper = PortmapperTests.portmapper,
        at listener: Portmapper.Listener = PortmapperTests.both, time: UInt32? = nil
    ) throws -> (refusal: RPCRefusal?, results: [UInt8]) {
        let call = RPCMessage.call(
            xid: 0x0102_0304, program: program, version: version, procedure: procedure,
            arguments: arguments)
        let answer = try #require(portmapper.answer(call, at: listener, time: time))
        let header = try answer.withXDR { try RPCReplyHeader(&$0) }
        #expect(header.xid == 0x0102_0304)
        return (header.refusal, Array(answer.dropFirst(header.results)))
    }

    private func mapping(
        _ program: UInt32, _ version: UInt32, _ transport: UInt32, port: UInt32 = 0
    ) -> [UInt8] {
        xdr { writer in
            for value in [program, version, transport, port] { writer.uint32(value) }
        }
    }

    private func binding(
        _ program: UInt32, _ version: UInt32, _ networkIdentifier: String,
        address: String = "", owner: String = ""
    ) -> [UInt8] {
        xdr { writer in
            writer.uint32(program)
            writer.uint32(version)
            writer.string(networkIdentifier)
            writer.string(address)
            writer.string(owner)
        }
    }

    // MARK: Octets by hand

    /// RFC 1833 section 3.1: GETPORT of NFS version 3 over TCP gives 2049.
    @Test func `GETPORT octet by octet`() {
        let call = octets(
            """
            00000007 00000000 00000002 000186a0 00000002 00000003
            00000000 00000000 00000000 00000000
            000186a3 00000003 00000006 00000000
            """)
        let reply = octets("00000007 00000001 00000000 00000000 00000000 00000000 00000801")
        #expect(Self.portmapper.answer(call, at: Self.both) == reply)
    }

    /// RFC 1833 section 3.1: each mapping behind TRUE, FALSE at the end.
    @Test func `version 2 DUMP octet by octet`() {
        let call = octets(
            """
            00000007 00000000 00000002 000186a0 00000002 00000004
            00000000 00000000 00000000 00000000
            """)
        let reply = octets(
            """
            00000007 00000001 00000000 00000000 00000000 00000000
            00000001 000186a3 00000003 00000006 00000801
            00000001 000186a3 00000003 00000011 00000802
            00000001 000186a5 00000001 00000011 0000027b
            00000001 000186a5 00000003 00000006 00004e50
            00000000
            """)
        #expect(Self.portmapper.answer(call, at: Self.both) == reply)
    }

    /// RFC 1833 section 2.1: GETADDR of NFS version 3 with "tcp" gives "192.0.2.10.8.1".
    @Test func `GETADDR octet by octet`() {
        let call = octets(
            """
            00000008 00000000 00000002 000186a0 00000004 00000003
            00000000 00000000 00000000 00000000
            000186a3 00000003 00000003 74637000 00000000 00000000
            """)
        let reply = octets(
            """
            00000008 00000001 00000000 00000000 00000000 00000000
            0000000e 3139322e 302e322e 31302e38 2e310000
            """)
        #expect(Self.portmapper.answer(call, at: Self.both) == reply)
    }

    // MARK: Version 2

    @Test func `ports that are registered`() throws {
        for registration in Self.portmapper.registrations {
            // The port of the question does not count.
            let question = mapping(
                registration.program, registration.version, registration.transport.rawValue,
                port: 99)
            let answer = try ask(2, 3, question)
            let port = xdr { $0.uint32(UInt32(registration.port)) }
            #expect(answer.refusal == nil)
            #expect(answer.results == port)
        }
    }

    @Test(
        arguments: [
            (100_003, 4, 6), (100_003, 2, 17), (100_005, 1, 6), (100_000, 2, 6), (100_003, 3, 0),
            (100_003, 3, 132), (100_003, 3, .max), (0, 0, 0), (.max, .max, .max),
        ] as [(UInt32, UInt32, UInt32)])
    func `port 0 for what is not registered`(
        program: UInt32, version: UInt32, transport: UInt32
    ) throws {
        let answer = try ask(2, 3, mapping(program, version, transport))
        #expect(answer.refusal == nil)
        #expect(answer.results == [0, 0, 0, 0])
    }

    // MARK: Versions 3 and 4

    private func address(
        _ networkIdentifier: String, _ listener: Portmapper.Listener = PortmapperTests.both,
        program: UInt32 = PortmapperTests.nfs, version: UInt32 = 3, rpcbind: UInt32 = 4
    ) throws -> String {
        let answer = try ask(
            rpcbind, 3, binding(program, version, networkIdentifier, address: "0.0.0.0.0.0"),
            at: listener)
        #expect(answer.refusal == nil)
        return try answer.results.withXDR { reader in
            let text = try reader.string(maximum: 255)
            #expect(reader.remaining == 0)
            return text
        }
    }

    @Test(arguments: [3, 4] as [UInt32])
    func `addresses by network identifier`(rpcbind: UInt32) throws {
        let tcp = try address("tcp", rpcbind: rpcbind)
        let udp = try address("udp", rpcbind: rpcbind)
        let tcp6 = try address("tcp6", rpcbind: rpcbind)
        let udp6 = try address("udp6", rpcbind: rpcbind)
        #expect(tcp == "192.0.2.10.8.1")
        #expect(udp == "192.0.2.10.8.2")
        #expect(tcp6 == "2001:db8::10.8.1")
        #expect(udp6 == "2001:db8::10.8.2")
        for other in ["local", "TCP", "tcp ", "sctp", "tcp\0", "\u{fffd}"] {
            let text = try address(other, rpcbind: rpcbind)
            #expect(text.isEmpty)
        }
    }

    @Test func `without a network identifier that of the listener counts`() throws {
        let listeners: [(Portmapper.Listener, String)] = [
            (.init(transport: .tcp, addresses: [Self.v4, Self.v6]), "192.0.2.10.8.1"),
            (.init(transport: .udp, addresses: [Self.v4]), "192.0.2.10.8.2"),
            (.init(transport: .tcp, addresses: [Self.v6, Self.v4]), "2001:db8::10.8.1"),
            (.init(transport: .udp, addresses: [Self.v6]), "2001:db8::10.8.2"),
            (.init(transport: .udp, addresses: []), ""),
            (.init(transport: .udp, addresses: [[1, 2, 3]]), ""),
        ]
        for (listener, expected) in listeners {
            let text = try address("", listener)
            #expect(text == expected)
        }
    }

    @Test func `no address where there is none`() throws {
        let only4 = Portmapper.Listener(transport: .tcp, addresses: [Self.v4])
        let only6 = Portmapper.Listener(transport: .tcp, addresses: [[], [1, 2, 3], Self.v6])
        let texts = [
            try address("tcp6", only4), try address("tcp", only6),
            try address("tcp", program: Self.mount, version: 1),
            try address("tcp", version: 4), try address("tcp", program: Portmapper.program),
        ]
        #expect(texts.allSatisfy { $0.isEmpty })
        let found = try address("tcp6", only6)
        #expect(found == "2001:db8::10.8.1")
    }

    private struct Entry: Equatable {
        var program: UInt32
        var version: UInt32
        var networkIdentifier: String
        var address: String
    }

    private func dump(_ version: UInt32, _ listener: Portmapper.Listener) throws -> [Entry] {
        let answer = try ask(version, 4, at: listener)
        #expect(answer.refusal == nil)
        return try answer.results.withXDR { reader in
            var result: [Entry] = []
            while try reader.bool() {
                let program = try reader.uint32()
                let version = try reader.uint32()
                let identifier = try reader.string(maximum: 255)
                let address = try reader.string(maximum: 255)
                let owner = try reader.string(maximum: 255)
                #expect(owner.isEmpty)
                result.append(
                    Entry(
                        program: program, version: version, networkIdentifier: identifier,
                        address: address))
            }
            #expect(reader.remaining == 0)
            return result
        }
    }

    @Test(arguments: [3, 4] as [UInt32])
    func `DUMP tells each address`(version: UInt32) throws {
        func entry(
            _ program: UInt32, _ version: UInt32, _ identifier: String, _ address: String
        ) -> Entry {
            Entry(
                program: program, version: version, networkIdentifier: identifier,
                address: address)
        }
        let expected = [
            entry(Self.nfs, 3, "tcp", "192.0.2.10.8.1"),
            entry(Self.nfs, 3, "tcp6", "2001:db8::10.8.1"),
            entry(Self.nfs, 3, "udp", "192.0.2.10.8.2"),
            entry(Self.nfs, 3, "udp6", "2001:db8::10.8.2"),
            entry(Self.mount, 1, "udp", "192.0.2.10.2.123"),
            entry(Self.mount, 1, "udp6", "2001:db8::10.2.123"),
            entry(Self.mount, 3, "tcp", "192.0.2.10.78.80"),
            entry(Self.mount, 3, "tcp6", "2001:db8::10.78.80"),
        ]
        let all = try dump(version, Self.both)
        #expect(all == expected)
        let some = try dump(version, .init(transport: .udp, addresses: [Self.v4]))
        let expected4 = expected.filter { !$0.networkIdentifier.hasSuffix("6") }
        #expect(some == expected4)
        let none = try dump(version, .init(transport: .udp, addresses: []))
        #expect(none.isEmpty)
    }

    @Test func `GETTIME is there when the time is given`() throws {
        for version: UInt32 in [3, 4] {
            let time = try ask(version, 6, time: 0x6543_2100)
            #expect(time.refusal == nil)
            #expect(time.results == [0x65, 0x43, 0x21, 0])
            let none = try ask(version, 6)
            #expect(none.refusal == .procedureUnavailable)
        }
        let portMapper = try ask(2, 6, time: 1)
        #expect(portMapper.refusal == .procedureUnavailable)
    }

    // MARK: All versions

    @Test(arguments: [2, 3, 4] as [UInt32])
    func `NULL gives nothing`(version: UInt32) throws {
        let answer = try ask(version, 0)
        #expect(answer.refusal == nil)
        #expect(answer.results.isEmpty)
    }

    @Test(arguments: [2, 3, 4] as [UInt32])
    func `an empty table`(version: UInt32) throws {
        let empty = Portmapper([])
        let list = try ask(version, 4, of: empty)
        #expect(list.refusal == nil)
        #expect(list.results == [0, 0, 0, 0])
        let question = version == 2 ? mapping(Self.nfs, 3, 6) : binding(Self.nfs, 3, "tcp")
        let answer = try ask(version, 3, question, of: empty)
        #expect(answer.refusal == nil)
        #expect(answer.results == [0, 0, 0, 0])
    }

    @Test(arguments: [1, 2] as [UInt32])
    func `nobody sets or unsets`(procedure: UInt32) throws {
        let two = try ask(2, procedure, mapping(Self.nfs, 3, 6, port: 2_049))
        #expect(two.refusal == nil)
        #expect(two.results == [0, 0, 0, 0])
        for version: UInt32 in [3, 4] {
            let answer = try ask(
                version, procedure,
                binding(Self.nfs, 3, "tcp", address: "0.0.0.0.8.1", owner: "superuser"))
            #expect(answer.refusal == nil)
            #expect(answer.results == [0, 0, 0, 0])
        }
    }

    @Test func `procedures that there are not`() throws {
        for version: UInt32 in [2, 3, 4] {
            for procedure: UInt32 in [5, 6, 7, 8, 9, 10, 11, 12, 13, .max] {
                let answer = try ask(version, procedure, mapping(Self.nfs, 3, 6))
                #expect(answer.refusal == .procedureUnavailable)
                #expect(answer.results.isEmpty)
            }
        }
    }

    @Test(arguments: [0, 1, 5, .max] as [UInt32])
    func `versions that there are not`(version: UInt32) throws {
        for procedure: UInt32 in [0, 3, 99] {
            let answer = try ask(version, procedure)
            #expect(answer.refusal == .programMismatch(low: 2, high: 4))
        }
    }

    @Test(arguments: [0, 100_003, 100_001, .max] as [UInt32])
    func `another program`(program: UInt32) throws {
        let answer = try ask(2, 0, program: program)
        #expect(answer.refusal == .programUnavailable)
    }

    @Test func `arguments cut off`() throws {
        for procedure: UInt32 in [1, 2, 3] {
            let two = mapping(Self.nfs, 3, 6)
            for end in 0..<two.count {
                let answer = try ask(2, procedure, Array(two[..<end]))
                #expect(answer.refusal == .garbageArguments)
            }
            let four = binding(Self.nfs, 3, "tcp", address: "0.0.0.0.8.1", owner: "root")
            for end in 0..<four.count {
                let answer = try ask(4, procedure, Array(four[..<end]))
                #expect(answer.refusal == .garbageArguments)
            }
        }
    }

    @Test func `texts have a bound`() throws {
        let longest = String(repeating: "x", count: 1_024)
        let taken = try ask(3, 3, binding(Self.nfs, 3, "tcp", address: longest, owner: longest))
        #expect(taken.refusal == nil)
        for arguments in [
            binding(Self.nfs, 3, longest + "x"),
            binding(Self.nfs, 3, "tcp", address: longest + "x"),
            binding(Self.nfs, 3, "tcp", owner: longest + "x"),
        ] {
            let answer = try ask(3, 3, arguments)
            #expect(answer.refusal == .garbageArguments)
        }
    }

    // MARK: Messages

    @Test func `a call that is cut off or a reply is not answered`() {
        let call = RPCMessage.call(
            xid: 1, program: Portmapper.program, version: 2, procedure: 0,
            credential: RPCSystemCredential(machineName: "host", uid: 0, gid: 0))
        #expect(Self.portmapper.answer(call, at: Self.both) != nil)
        for end in 0..<call.count {
            #expect(Self.portmapper.answer(Array(call[..<end]), at: Self.both) == nil)
        }
        let reply = RPCMessage.reply(xid: 1, results: [])
        #expect(Self.portmapper.answer(reply, at: Self.both) == nil)
    }

    @Test func `another version of RPC is denied`() {
        let call = octets("00000007 00000000 00000003 000186a0 00000002 00000000")
        let reply = octets("00000007 00000001 00000001 00000000 00000002 00000002")
        #expect(Self.portmapper.answer(call, at: Self.both) == reply)
    }

    @Test(arguments: [RPCFlavor.short, RPCFlavor.diffieHellman, RPCFlavor.gss, 390_003])
    func `flavors that we do not speak are denied`(flavor: UInt32) throws {
        let call = xdr { writer in
            for value: UInt32 in [7, 0, 2, Portmapper.program, 2, 4, flavor, 0, 0, 0] {
                writer.uint32(value)
            }
        }
        let answer = try #require(Self.portmapper.answer(call, at: Self.both))
        let header = try answer.withXDR { try RPCReplyHeader(&$0) }
        #expect(header.refusal == .authenticationError(.rejectedCredential))
    }

    @Test func `random octets and changed calls never trap`() {
        var random = SplitMix64(seed: 51)
        let questions: [(UInt32, UInt32, [UInt8])] = [
            (2, 3, mapping(Self.nfs, 3, 6)), (2, 4, []), (2, 1, mapping(Self.nfs, 3, 6)),
            (3, 3, binding(Self.nfs, 3, "tcp")), (4, 3, binding(Self.nfs, 3, "udp6")), (4, 4, []),
            (4, 6, []),
        ]
        let samples = questions.map { version, procedure, arguments in
            RPCMessage.call(
                xid: 7, program: Portmapper.program, version: version, procedure: procedure,
                arguments: arguments)
        }
        var answered = 0
        for _ in 0..<5_000 {
            var bytes = samples[random.below(samples.count)]
            if random.below(8) == 0 { bytes = random.bytes(random.below(120)) }
            for _ in 0..<random.below(4) { random.mutate(&bytes, inserting: "\0\u{1}\u{7f}") }
            guard let answer = Self.portmapper.answer(bytes, at: Self.both, time: 1) else {
                continue
            }
            answered += 1
            #expect(answer.count % 4 == 0)
            #expect(answer.prefix(4) == bytes.prefix(4))
        }
        #expect(answered > 1_000)
    }

    // MARK: Universal addresses

    /// RFC 5665 section 5.2.3.3 and 5.2.3.4, RFC 5952 section 4.
    @Test(arguments: [
        ("c0000201", 2_049, "192.0.2.1.8.1"), ("00000000", 0, "0.0.0.0.0.0"),
        ("ffffffff", 65_535, "255.255.255.255.255.255"), ("0a000001", 111, "10.0.0.1.0.111"),
        ("20010db8000000000000000000000010", 2_049, "2001:db8::10.8.1"),
        ("00000000000000000000000000000000", 256, "::.1.0"),
        ("00000000000000000000000000000001", 255, "::1.0.255"),
        ("00010000000000000000000000000000", 1, "1::.0.1"),
        ("20010db8000000000001000000000001", 1, "2001:db8::1:0:0:1.0.1"),
        ("20010000000000010000000000000001", 1, "2001:0:0:1::1.0.1"),
        ("20010db8000000010001000100010001", 1, "2001:db8:0:1:1:1:1:1.0.1"),
        ("20010db80a0b0c0d0e0f101112131415", 1, "2001:db8:a0b:c0d:e0f:1011:1213:1415.0.1"),
        ("fe80000000000000ABCDEF0000000000", 1, "fe80::abcd:ef00:0:0.0.1"),
    ])
    func `universal addresses`(hexadecimal: String, port: Int, text: String) {
        let address = octets(hexadecimal)
        #expect(Portmapper.universalAddress(address, port: UInt16(clamping: port)) == text)
    }

    @Test func `only addresses of 4 and 16 octets are some`() {
        for count in 0...20 where count != 4 && count != 16 {
            let address = [UInt8](repeating: 1, count: count)
            #expect(Portmapper.universalAddress(address, port: 1) == nil)
        }
    }
}
