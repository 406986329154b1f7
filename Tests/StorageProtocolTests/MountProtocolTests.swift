import StorageProtocols
import TestSupport
import Testing

@Suite struct MountProtocolTests {
    private static let handle1 = (0..<32).map { UInt8($0) }
    private static let statuses: [(MountStatus, UInt32)] = [
        (.ok, 0), (.notOwner, 1), (.noEntry, 2), (.inputOutput, 5), (.accessDenied, 13),
        (.notDirectory, 20), (.invalidArgument, 22), (.nameTooLong, 63), (.notSupported, 10_004),
        (.serverFault, 10_006), (.other(70), 70), (.other(.max), .max),
    ]
    private static let calls: [(MountCall, UInt32)] = [
        (.null, 0), (.mount(path: "/export/a"), 1), (.dump, 2), (.unmount(path: "/export/ä"), 3),
        (.unmountAll, 4), (.export, 5), (.mount(path: ""), 1),
    ]

    /// The call in a message.
    private func call(_ message: [UInt8]) throws -> MountCall {
        try message.withXDR { reader in
            let header = try RPCCallHeader(&reader)
            return try MountCall(header, &reader)
        }
    }

    private func result(_ bytes: [UInt8], _ version: MountProtocol.Version) throws -> MountResult {
        try bytes.withXDR { reader in
            let result = try MountResult(&reader, version: version)
            #expect(reader.remaining == 0)
            return result
        }
    }

    // MARK: Calls

    /// RFC 1813 section 5.2.1: the argument of MNT is a string.
    @Test func `MNT octet by octet`() throws {
        let bytes = octets(
            """
            00000007 00000000 00000002 000186a5 00000003 00000001
            00000000 00000000 00000000 00000000
            00000007 2f657870 6f727400
            """)
        #expect(MountCall.mount(path: "/export").message(xid: 7, version: .three) == bytes)
        let read = try call(bytes)
        #expect(read == .mount(path: "/export"))
    }

    @Test(arguments: MountProtocol.Version.allCases)
    func `calls are read as they were written`(version: MountProtocol.Version) throws {
        let credential = RPCSystemCredential(machineName: "host", uid: 0, gid: 0)
        for (given, procedure) in Self.calls {
            #expect(given.procedure == procedure)
            let plain = given.message(xid: 1, version: version)
            let signed = given.message(xid: 1, version: version, credential: credential)
            let fromPlain = try call(plain)
            let fromSigned = try call(signed)
            #expect(fromPlain == given)
            #expect(fromSigned == given)
            let header = try signed.withXDR { try RPCCallHeader(&$0) }
            #expect(header.program == 100_005)
            #expect(header.version == version.rawValue)
            #expect(header.procedure == procedure)
            #expect(header.credential.flavor == RPCFlavor.system)
        }
    }

    private func message(
        program: UInt32 = MountProtocol.program, version: UInt32 = 3, procedure: UInt32,
        arguments: [UInt8] = []
    ) -> [UInt8] {
        RPCMessage.call(
            xid: 1, program: program, version: version, procedure: procedure,
            arguments: arguments)
    }

    @Test func `what is to be answered to calls that are none`() {
        #expect(throws: RPCRefusal.programUnavailable) {
            try call(message(program: 100_003, procedure: 0))
        }
        for version: UInt32 in [0, 2, 4, .max] {
            #expect(throws: RPCRefusal.programMismatch(low: 1, high: 3)) {
                try call(message(version: version, procedure: 0))
            }
        }
        for procedure: UInt32 in [6, 7, .max] {
            #expect(throws: RPCRefusal.procedureUnavailable) {
                try call(message(procedure: procedure))
            }
        }
    }

    @Test(arguments: [1, 3] as [UInt32])
    func `paths have 1024 octets at most and are whole`(procedure: UInt32) throws {
        let longest = xdr { $0.string(String(repeating: "p", count: 1_024)) }
        let read = try call(message(procedure: procedure, arguments: longest))
        #expect(read.arguments == longest)
        let long = xdr { $0.string(String(repeating: "p", count: 1_025)) }
        #expect(throws: RPCRefusal.garbageArguments) {
            try call(message(procedure: procedure, arguments: long))
        }
        let path = xdr { $0.string("/exported") }
        for end in 0..<path.count {
            #expect(throws: RPCRefusal.garbageArguments) {
                try call(message(procedure: procedure, arguments: Array(path[..<end])))
            }
        }
    }

    // MARK: MNT

    @Test func `statuses have the numbers of RFC 1813`() {
        for (status, code) in Self.statuses {
            #expect(status.code == code)
            #expect(MountStatus(code) == status)
        }
    }

    /// RFC 1813 section 5.2.1: status, handle, flavors.
    @Test func `version 3 MNT octet by octet`() throws {
        let bytes = octets("00000000 00000005 deadbeef 01000000 00000002 00000001 00000006")
        let mounted = MountResult.mounted(
            handle: [0xde, 0xad, 0xbe, 0xef, 1], flavors: [RPCFlavor.system, RPCFlavor.gss])
        #expect(mounted.encoded(version: .three) == bytes)
        let read = try result(bytes, .three)
        #expect(read == mounted)
        let denied = try result(octets("0000000d"), .three)
        #expect(denied == .failed(.accessDenied))
        #expect(MountResult.failed(.accessDenied).encoded(version: .three) == octets("0000000d"))
    }

    /// RFC 1094 appendix A.4: status, 32 octets.
    @Test func `version 1 MNT octet by octet`() throws {
        let bytes = octets(
            """
            00000000 00010203 04050607 08090a0b 0c0d0e0f 10111213 14151617 18191a1b 1c1d1e1f
            """)
        let mounted = MountResult.mounted(handle: Self.handle1, flavors: [])
        #expect(mounted.encoded(version: .one) == bytes)
        let read = try result(bytes, .one)
        #expect(read == mounted)
        let failed = try result(octets("00000002"), .one)
        #expect(failed == .failed(.noEntry))
    }

    @Test func `handles of all lengths are read as they were written`() throws {
        for length in 0...64 {
            let mounted = MountResult.mounted(
                handle: [UInt8](repeating: 7, count: length),
                flavors: (0..<length).map { UInt32($0) })
            let bytes = mounted.encoded(version: .three)
            let read = try result(bytes, .three)
            #expect(read == mounted)
            for end in 0..<bytes.count {
                #expect(throws: XDRError.truncated) { try result(Array(bytes[..<end]), .three) }
            }
        }
        let bytes = MountResult.mounted(handle: Self.handle1, flavors: []).encoded(version: .one)
        for end in 0..<bytes.count {
            #expect(throws: XDRError.truncated) { try result(Array(bytes[..<end]), .one) }
        }
    }

    @Test func `handles that a version cannot carry are not sent`() {
        let failed = octets("00000005")
        for length in [0, 31, 33, 64] {
            let handle = [UInt8](repeating: 7, count: length)
            let mounted = MountResult.mounted(handle: handle, flavors: [])
            #expect(mounted.encoded(version: .one) == failed)
        }
        let long = [UInt8](repeating: 7, count: 65)
        #expect(MountResult.mounted(handle: long, flavors: []).encoded(version: .three) == failed)
        for version in MountProtocol.Version.allCases {
            #expect(MountResult.failed(.ok).encoded(version: version) == failed)
            #expect(MountResult.failed(.other(0)).encoded(version: version) == failed)
        }
    }

    @Test func `handles and flavors have a bound`() {
        let handle = xdr { writer in
            writer.uint32(0)
            writer.opaque([UInt8](repeating: 7, count: 65))
            writer.uint32(0)
        }
        #expect(throws: XDRError.tooLong) { try result(handle, .three) }
        for count: UInt32 in [65, .max] {
            let flavors = xdr { writer in
                for value: UInt32 in [0, 0, count] { writer.uint32(value) }
                for _ in 0..<65 { writer.uint32(1) }
            }
            #expect(throws: XDRError.tooLong) { try result(flavors, .three) }
        }
    }

    @Test func `failures are read as they were written`() throws {
        for version in MountProtocol.Version.allCases {
            for (status, _) in Self.statuses.dropFirst() {
                let bytes = MountResult.failed(status).encoded(version: version)
                let read = try result(bytes, version)
                #expect(read == .failed(status))
            }
        }
    }

    // MARK: Lists

    private func exports(_ bytes: [UInt8]) throws -> [MountExport] {
        try bytes.withXDR { reader in
            let list = try MountExport.list(&reader)
            #expect(reader.remaining == 0)
            return list
        }
    }

    private func entries(_ bytes: [UInt8]) throws -> [MountEntry] {
        try bytes.withXDR { reader in
            let list = try MountEntry.list(&reader)
            #expect(reader.remaining == 0)
            return list
        }
    }

    /// RFC 1813 section 5.2.5: TRUE before each entry and each of its groups, FALSE at both ends.
    @Test func `EXPORT octet by octet`() throws {
        let bytes = octets(
            """
            00000001 00000004 2f737276
            00000001 00000001 2a000000 00000001 00000005 686f7374 31000000 00000000
            00000001 00000002 2f610000 00000000
            00000000
            """)
        let list = [
            MountExport(directory: "/srv", groups: ["*", "host1"]), MountExport(directory: "/a"),
        ]
        #expect(MountExport.encoded(list) == bytes)
        let read = try exports(bytes)
        #expect(read == list)
        for end in 0..<bytes.count {
            #expect(throws: XDRError.truncated) { try exports(Array(bytes[..<end])) }
        }
    }

    /// RFC 1813 section 5.2.2.
    @Test func `DUMP octet by octet`() throws {
        let bytes = octets(
            """
            00000001 00000005 686f7374 31000000 00000004 2f737276
            00000001 00000001 68000000 00000000
            00000000
            """)
        let list = [
            MountEntry(hostName: "host1", directory: "/srv"),
            MountEntry(hostName: "h", directory: ""),
        ]
        #expect(MountEntry.encoded(list) == bytes)
        let read = try entries(bytes)
        #expect(read == list)
        for end in 0..<bytes.count {
            #expect(throws: XDRError.truncated) { try entries(Array(bytes[..<end])) }
        }
    }

    @Test func `empty lists`() throws {
        let end = octets("00000000")
        #expect(MountExport.encoded([]) == end)
        #expect(MountEntry.encoded([]) == end)
        let noExports = try exports(end)
        let noEntries = try entries(end)
        #expect(noExports.isEmpty)
        #expect(noEntries.isEmpty)
    }

    @Test func `texts of lists have a bound`() throws {
        let path = String(repeating: "p", count: 1_024)
        let name = String(repeating: "n", count: 255)
        let export = [MountExport(directory: path, groups: [name])]
        let entry = [MountEntry(hostName: name, directory: path)]
        let readExport = try exports(MountExport.encoded(export))
        let readEntry = try entries(MountEntry.encoded(entry))
        #expect(readExport == export)
        #expect(readEntry == entry)
        for long in [
            MountExport(directory: path + "p"), MountExport(directory: path, groups: [name + "n"]),
        ] {
            #expect(throws: XDRError.tooLong) { try exports(MountExport.encoded([long])) }
        }
        for long in [
            MountEntry(hostName: name + "n", directory: path),
            MountEntry(hostName: name, directory: path + "p"),
        ] {
            #expect(throws: XDRError.tooLong) { try entries(MountEntry.encoded([long])) }
        }
    }

    @Test func `random lists are read as they were written`() throws {
        var random = SplitMix64(seed: 61)
        func text(_ maximum: Int) -> String {
            String(repeating: "t", count: random.below(maximum))
        }
        for _ in 0..<100 {
            let exportList = (0..<random.below(6)).map { _ in
                MountExport(directory: text(20), groups: (0..<random.below(5)).map { _ in text(9) })
            }
            let entryList = (0..<random.below(6)).map { _ in
                MountEntry(hostName: text(20), directory: text(9))
            }
            let readExports = try exports(MountExport.encoded(exportList))
            let readEntries = try entries(MountEntry.encoded(entryList))
            #expect(readExports == exportList)
            #expect(readEntries == entryList)
        }
    }

    @Test func `random octets and changed messages never trap`() {
        var random = SplitMix64(seed: 62)
        let samples: [[UInt8]] = [
            MountCall.mount(path: "/export").message(xid: 1, version: .three),
            MountCall.export.message(xid: 1, version: .one),
            MountResult.mounted(handle: Self.handle1, flavors: [1, 6]).encoded(version: .three),
            MountResult.mounted(handle: Self.handle1, flavors: []).encoded(version: .one),
            MountExport.encoded([MountExport(directory: "/srv", groups: ["*", "host1"])]),
            MountEntry.encoded([MountEntry(hostName: "host1", directory: "/srv")]),
        ]
        for _ in 0..<5_000 {
            var bytes = samples[random.below(samples.count)]
            if random.below(8) == 0 { bytes = random.bytes(random.below(120)) }
            for _ in 0..<random.below(4) { random.mutate(&bytes, inserting: "\0\u{1}\u{7f}") }
            _ = try? call(bytes)
            for version in MountProtocol.Version.allCases {
                let read = bytes.withXDR { try? MountResult(&$0, version: version) }
                if case .mounted(let handle, let flavors)? = read {
                    #expect(handle.count <= 64)
                    #expect(flavors.count <= 64)
                }
            }
            // An entry has eight octets at least.
            let exports = bytes.withXDR { try? MountExport.list(&$0) }
            let entries = bytes.withXDR { try? MountEntry.list(&$0) }
            #expect((exports?.count ?? 0) * 8 <= bytes.count)
            #expect((entries?.count ?? 0) * 8 <= bytes.count)
        }
    }
}
