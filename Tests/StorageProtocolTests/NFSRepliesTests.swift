import StorageProtocols
import Testing

@Suite struct NFSAttributesTests {
    private static let zero = String(repeating: "00000000 ", count: 8)

    @Test func `fattr3 as RFC 1813 section 2 writes it`() throws {
        let attributes = NFSv3Attributes(
            type: .directory, mode: 0o755, linkCount: 3, userID: 4, groupID: 5, size: 1 << 32 | 6,
            used: 7, deviceMajor: 8, deviceMinor: 9, fileSystemID: 10, fileID: 1 << 40,
            accessTime: NFSv3Time(seconds: 11, nanoseconds: 12),
            modifyTime: NFSv3Time(seconds: 13, nanoseconds: 14),
            changeTime: NFSv3Time(seconds: 15, nanoseconds: 16))
        var writer = XDRWriter()
        attributes.encode(into: &writer)
        #expect(
            writer.bytes
                == octets(
                    """
                    00000002 000001ed 00000003 00000004 00000005 00000001 00000006
                    00000000 00000007 00000008 00000009 00000000 0000000a 00000100 00000000
                    0000000b 0000000c 0000000d 0000000e 0000000f 00000010
                    """))
        #expect(writer.bytes.count == 84)
        #expect(try attributes3(writer.bytes) == attributes)
        for end in 0..<84 {
            let part = Array(writer.bytes[..<end])
            #expect(xdrError { try attributes3(part) } == .truncated)
        }
        #expect(xdrError { try attributes3(octets("00000008" + Self.zero)) } == .badValue)
    }

    @Test func `fattr as RFC 1094 section 2 writes it`() throws {
        let attributes = NFSv2Attributes(
            type: .directory, mode: 0o040755, linkCount: 3, userID: 4, groupID: 5, size: 6,
            blockSize: 4_096, device: 8, blocks: 9, fileSystemID: 10, fileID: 11,
            accessTime: NFSv2Time(seconds: 12, microseconds: 13),
            modifyTime: NFSv2Time(seconds: 14, microseconds: 15),
            changeTime: NFSv2Time(seconds: 16, microseconds: 17))
        var writer = XDRWriter()
        attributes.encode(into: &writer)
        #expect(
            writer.bytes
                == octets(
                    """
                    00000002 000041ed 00000003 00000004 00000005 00000006 00001000 00000008
                    00000009 0000000a 0000000b
                    0000000c 0000000d 0000000e 0000000f 00000010 00000011
                    """))
        #expect(writer.bytes.count == 68)
        #expect(try attributes2(writer.bytes) == attributes)
        for end in 0..<68 {
            let part = Array(writer.bytes[..<end])
            #expect(xdrError { try attributes2(part) } == .truncated)
        }
        #expect(xdrError { try attributes2(octets("00000007" + Self.zero)) } == .badValue)
    }

    private func attributes3(_ octets: [UInt8]) throws -> NFSv3Attributes {
        try octets.withUnsafeBytes { (bytes: UnsafeRawBufferPointer) throws -> NFSv3Attributes in
            var reader = XDRReader(bytes)
            return try NFSv3Attributes(&reader)
        }
    }

    private func attributes2(_ octets: [UInt8]) throws -> NFSv2Attributes {
        try octets.withUnsafeBytes { (bytes: UnsafeRawBufferPointer) throws -> NFSv2Attributes in
            var reader = XDRReader(bytes)
            return try NFSv2Attributes(&reader)
        }
    }
}

@Suite struct NFSRepliesTests {
    private static let root = NFSv3Attributes(
        type: .directory, mode: 0o555, linkCount: 2, size: 4_096, used: 4_096, fileSystemID: 1,
        fileID: 1)
    private static let root2 = NFSv2Attributes(
        type: .directory, mode: 0o040555, linkCount: 2, size: 4_096, fileSystemID: 1, fileID: 1)

    private static func entries(_ count: Int) -> [NFSDirectoryEntry] {
        (0..<count).map { index in
            NFSDirectoryEntry(
                fileID: UInt64(index + 2), name: Array("share\(index)".utf8),
                cookie: UInt64(index + 1), attributes: index % 3 == 0 ? nil : root,
                handle: index % 4 == 0 ? nil : [UInt8](repeating: 7, count: index % 60))
        }
    }

    // MARK: Errors

    @Test(arguments: NFSv3Procedure.allCases)
    func `errors of version 3`(procedure: NFSv3Procedure) throws {
        for status in NFSv3Status.allCases where status != .ok {
            let sample = NFSSample.failure(.v3(procedure), status: status.rawValue, isFull: false)
            let results = NFSv3Replies.failure(procedure, status)
            #expect(results == Array(sample.octets[NFSSample.start...]))
            let read = try nfsResults(.v3(procedure), results)
            #expect(read.status == (procedure == .null ? 0 : status.rawValue))
            #expect(read.end == results.count)
        }
        #expect(
            NFSv3Replies.failure(procedure, .ok) == NFSv3Replies.failure(procedure, .serverFault))
    }

    @Test(arguments: NFSv2Procedure.allCases)
    func `errors of version 2`(procedure: NFSv2Procedure) {
        for status in NFSv2Status.allCases where status != .ok {
            let sample = NFSSample.failure(.v2(procedure), status: status.rawValue, isFull: false)
            #expect(
                NFSv2Replies.failure(procedure, status)
                    == Array(sample.octets[NFSSample.start...]))
        }
        #expect(NFSv2Replies.failure(procedure, .ok) == NFSv2Replies.failure(procedure, .ioError))
    }

    @Test(arguments: [
        (NFSv3Procedure.getattr, "00000046"), (.lookup, "00000046 00000000"),
        (.write, "00000046 00000000 00000000"), (.link, "00000046 00000000 00000000 00000000"),
        (.rename, "00000046 00000000 00000000 00000000 00000000"),
        (.readdirplus, "00000046 00000000"), (.commit, "00000046 00000000 00000000"),
    ])
    func `errors by hand`(procedure: NFSv3Procedure, text: String) {
        #expect(NFSv3Replies.failure(procedure, .stale) == octets(text))
    }

    // MARK: Version 3

    @Test func `all of a root directory can be read back`() throws {
        for attributes in [nil, Self.root] {
            let replies: [(NFSv3Procedure, [UInt8])] = [
                (.getattr, NFSv3Replies.getattr(Self.root)),
                (.lookup, NFSv3Replies.lookup([1, 2, 3], attributes, directory: attributes)),
                (.access, NFSv3Replies.access(NFSAccess.read | NFSAccess.lookup, attributes)),
                (.fsstat, NFSv3Replies.fsstat(NFSv3FileSystemStatistics(), attributes)),
                (.fsinfo, NFSv3Replies.fsinfo(NFSv3FileSystemInformation(), attributes)),
                (.pathconf, NFSv3Replies.pathconf(NFSv3PathConfiguration(), attributes)),
            ]
            for (procedure, results) in replies {
                let read = try nfsResults(.v3(procedure), results)
                #expect(read.isSuccess, "\(procedure)")
                #expect(read.end == results.count, "\(procedure)")
                #expect(read.handles.count == (procedure == .lookup ? 1 : 0))
            }
        }
    }

    @Test func `LOOKUP, ACCESS, FSSTAT, FSINFO and PATHCONF by hand`() {
        #expect(
            NFSv3Replies.lookup([0x0a, 0x0b, 0x0c], nil, directory: nil)
                == octets("00000000 00000003 0a0b0c00 00000000 00000000"))
        #expect(NFSv3Replies.access(0x23, nil) == octets("00000000 00000000 00000023"))
        #expect(
            NFSv3Replies.fsstat(
                NFSv3FileSystemStatistics(
                    totalOctets: 1, freeOctets: 2, availableOctets: 3, totalFiles: 4,
                    freeFiles: 5, availableFiles: 6, stableSeconds: 7), nil)
                == octets(
                    """
                    00000000 00000000 00000000 00000001 00000000 00000002 00000000 00000003
                    00000000 00000004 00000000 00000005 00000000 00000006 00000007
                    """))
        let information = NFSv3FileSystemInformation(
            readMaximum: 1, readPreferred: 2, readMultiple: 3, writeMaximum: 4, writePreferred: 5,
            writeMultiple: 6, directoryPreferred: 7, fileSizeMaximum: 8,
            timeDelta: NFSv3Time(seconds: 9, nanoseconds: 10), properties: 0x1b)
        #expect(
            NFSv3Replies.fsinfo(information, nil)
                == octets(
                    """
                    00000000 00000000 00000001 00000002 00000003 00000004 00000005 00000006
                    00000007 00000000 00000008 00000009 0000000a 0000001b
                    """))
        let configuration = NFSv3PathConfiguration(
            linkMaximum: 1, nameMaximum: 255, refusesLongNames: true, restrictsOwnerChange: false,
            ignoresCase: true, preservesCase: false)
        #expect(
            NFSv3Replies.pathconf(configuration, nil)
                == octets(
                    """
                    00000000 00000000 00000001 000000ff 00000001 00000000 00000001 00000000
                    """))
    }

    @Test func `a handle that is too long`() {
        let handle = [UInt8](repeating: 1, count: 65)
        #expect(
            NFSv3Replies.lookup(handle, nil, directory: nil)
                == NFSv3Replies.failure(.lookup, .serverFault))
        let entry = NFSDirectoryEntry(fileID: 2, name: [0x61], cookie: 1, handle: handle)
        let results = NFSv3Replies.readdirplus(
            NFSDirectoryRequest(cookie: 0, maxcount: 4_096), [entry], nil, verifier: 0)
        #expect((try? nfsResults(.v3(.readdirplus), results))?.handles == [])
    }

    // MARK: Directories

    @Test func `READDIR and READDIRPLUS by hand`() {
        let entry = NFSDirectoryEntry(fileID: 2, name: [0x61], cookie: 1, handle: [9, 8])
        // The structure has 48 octets, and the status.
        let expected = octets(
            """
            00000000 00000000 00000000 00000007
            00000001 00000000 00000002 00000001 61000000 00000000 00000001
            00000000 00000001
            """)
        func list(_ maxcount: UInt32) -> [UInt8] {
            NFSv3Replies.readdir(
                NFSDirectoryRequest(cookie: 0, maxcount: maxcount), [entry], nil, verifier: 7)
        }
        #expect(list(48) == expected)
        #expect(list(.max) == expected)
        for maxcount: UInt32 in 0..<48 { #expect(list(maxcount) == octets("00002715 00000000")) }

        // 64 octets here.
        func listPlus(_ maxcount: UInt32, dircount: UInt32 = .max) -> [UInt8] {
            NFSv3Replies.readdirplus(
                NFSDirectoryRequest(cookie: 0, dircount: dircount, maxcount: maxcount), [entry],
                nil, verifier: 7)
        }
        let expectedPlus = octets(
            """
            00000000 00000000 00000000 00000007
            00000001 00000000 00000002 00000001 61000000 00000000 00000001
            00000000 00000001 00000002 09080000
            00000000 00000001
            """)
        #expect(listPlus(64) == expectedPlus)
        #expect(listPlus(64, dircount: 0) == expectedPlus)
        #expect(listPlus(63) == octets("00002715 00000000"))
    }

    @Test func `an empty directory, and the end of one`() {
        let empty = octets("00000000 00000000 00000000 00000007 00000000 00000001")
        let request = NFSDirectoryRequest(cookie: 0, maxcount: 20)
        #expect(NFSv3Replies.readdir(request, [], nil, verifier: 7) == empty)
        let end = NFSDirectoryRequest(cookie: 5, verifier: 7, maxcount: 20)
        #expect(NFSv3Replies.readdir(end, Self.entries(5), nil, verifier: 7) == empty)
    }

    @Test func `a cookie of another verifier`() {
        let request = NFSDirectoryRequest(cookie: 1, verifier: 6, maxcount: 4_096)
        #expect(
            NFSv3Replies.readdir(request, Self.entries(5), nil, verifier: 7)
                == octets("00002713 00000000"))
        #expect(
            NFSv3Replies.readdirplus(request, Self.entries(5), nil, verifier: 7)
                == octets("00002713 00000000"))
    }

    @Test(arguments: [(600, .max), (900, 100), (4_096, 512), (65_536, 0)] as [(UInt32, UInt32)])
    func `a directory in parts`(maxcount: UInt32, dircount: UInt32) throws {
        let entries = Self.entries(100)
        for procedure in [NFSv3Procedure.readdir, .readdirplus] {
            var request = NFSDirectoryRequest(cookie: 0, dircount: dircount, maxcount: maxcount)
            var names: [String] = []
            var rounds = 0
            var isAtEnd = false
            while !isAtEnd {
                rounds += 1
                try #require(rounds <= 101)
                let results =
                    procedure == .readdir
                    ? NFSv3Replies.readdir(request, entries, Self.root, verifier: 9)
                    : NFSv3Replies.readdirplus(request, entries, Self.root, verifier: 9)
                #expect(results.count - 4 <= Int(maxcount))
                let list = try Listing(results, procedure)
                try #require(!list.names.isEmpty)
                let information = list.names.reduce(0) { $0 + 24 + ($1.utf8.count + 3) & ~3 }
                if procedure == .readdirplus, list.names.count > 1 {
                    #expect(information <= Int(dircount))
                }
                names += list.names
                isAtEnd = list.isAtEnd
                request.cookie = list.cookie
                request.verifier = list.verifier
            }
            #expect(names == entries.map { String(decoding: $0.name, as: UTF8.self) })
        }
    }

    /// A list of entries, read by a client.
    private struct Listing {
        var names: [String] = []
        var cookie: UInt64 = 0
        var verifier: UInt64 = 0
        var isAtEnd = false

        init(_ results: [UInt8], _ procedure: NFSv3Procedure) throws {
            self = try results.withUnsafeBytes {
                (bytes: UnsafeRawBufferPointer) throws -> Listing in
                var reader = XDRReader(bytes)
                return try Listing(&reader, isPlus: procedure == .readdirplus)
            }
            #expect(try nfsResults(.v3(procedure), results).end == results.count)
        }

        private init(_ reader: inout XDRReader, isPlus: Bool) throws {
            let status = try reader.uint32()
            try #require(status == 0)
            let hasAttributes = try reader.bool()
            try #require(hasAttributes)
            _ = try NFSv3Attributes(&reader)
            verifier = try reader.uint64()
            while try reader.bool() {
                _ = try reader.uint64()
                names.append(try reader.string(maximum: 255))
                cookie = try reader.uint64()
                guard isPlus else { continue }
                if try reader.bool() { _ = try NFSv3Attributes(&reader) }
                if try reader.bool() { _ = try reader.opaque(maximum: 64) }
            }
            isAtEnd = try reader.bool()
            let remaining = reader.remaining
            #expect(remaining == 0)
        }
    }

    // MARK: Version 2

    @Test func `version 2 by hand`() throws {
        let handle = [UInt8](repeating: 0x5a, count: 32)
        let found = NFSv2Replies.lookup(handle, Self.root2)
        let read = try nfsResults(.v2(.lookup), found)
        #expect(read.handles == [4..<36])
        #expect(read.end == found.count)
        #expect(found.count == 104)
        #expect(NFSv2Replies.lookup([1], Self.root2) == octets("00000005"))

        let attributes = NFSv2Replies.getattr(Self.root2)
        #expect(try nfsResults(.v2(.getattr), attributes).end == 72)
        #expect(attributes.count == 72)

        let statistics = NFSv2FileSystemStatistics(
            transferSize: 8_192, blockSize: 512, totalBlocks: 3, freeBlocks: 2, availableBlocks: 1)
        #expect(
            NFSv2Replies.statfs(statistics)
                == octets("00000000 00002000 00000200 00000003 00000002 00000001"))
    }

    @Test func `READDIR of version 2`() {
        let entries = [
            NFSDirectoryEntry(fileID: 2, name: [0x61], cookie: 1),
            NFSDirectoryEntry(fileID: 3, name: [0x62, 0x62], cookie: 2),
        ]
        func list(_ cookie: UInt64, _ count: UInt32) -> [UInt8] {
            NFSv2Replies.readdir(NFSDirectoryRequest(cookie: cookie, maxcount: count), entries)
        }
        let first = "00000001 00000002 00000001 61000000 00000001"
        let second = "00000001 00000003 00000002 62620000 00000002"
        #expect(list(0, 48) == octets("00000000" + first + second + "00000000 00000001"))
        #expect(list(0, 47) == octets("00000000" + first + "00000000 00000000"))
        #expect(list(1, 28) == octets("00000000" + second + "00000000 00000001"))
        #expect(list(2, 28) == octets("00000000 00000000 00000001"))
        #expect(list(0, 27) == octets("00000005"))
    }
}
