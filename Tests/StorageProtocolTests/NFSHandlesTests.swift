import StorageProtocols
import TestSupport
import Testing

@Suite struct NFSCallTests {
    @Test(arguments: NFSSample.procedures, [true, false])
    func `handles, names and data of every call`(procedure: NFSProcedure, isFull: Bool) throws {
        let sample = NFSSample.call(procedure, isFull: isFull)
        let call = try nfsCall(procedure, sample.octets, at: NFSSample.start)
        #expect(call.procedure == procedure)
        #expect(call.handles == sample.handles)
        #expect(call.names == sample.names)
        #expect(call.data == sample.data)
        #expect(call.end == sample.octets.count)
        // What stands behind the arguments does not matter.
        let longer = try nfsCall(procedure, sample.octets + [9, 9], at: NFSSample.start)
        #expect(longer == call)
    }

    @Test(arguments: NFSSample.procedures, [true, false])
    func `a call that was cut off anywhere`(procedure: NFSProcedure, isFull: Bool) {
        let octets = NFSSample.call(procedure, isFull: isFull).octets
        for end in NFSSample.start..<octets.count {
            let error = xdrError {
                try nfsCall(procedure, Array(octets[..<end]), at: NFSSample.start)
            }
            #expect(error == .truncated, "\(end) octets of \(octets.count)")
        }
        for start in [-1, octets.count + 1, .min, .max] {
            #expect(xdrError { try nfsCall(procedure, octets, at: start) } == .truncated)
        }
    }

    // MARK: By hand, from RFC 1813 section 3.3 and RFC 1094 section 2.2

    @Test func `LOOKUP as RFC 1813 writes it`() throws {
        let call = try nfsCall(.v3(.lookup), octets("00000004 01020304 00000001 61000000"))
        #expect(call.handles == [4..<8])
        #expect(call.names == [12..<13])
        #expect(call.end == 16)
        #expect(call.isIdempotent)
    }

    @Test func `READ as RFC 1813 writes it`() throws {
        let call = try nfsCall(
            .v3(.read), octets("00000003 aabbcc00 00000001 00001000 00002000"))
        #expect(call.handles == [4..<7])
        #expect(call.offset == 0x1_0000_1000)
        #expect(call.count == 8_192)
        #expect(call.data == nil)
    }

    @Test func `WRITE as RFC 1813 writes it`() throws {
        let call = try nfsCall(
            .v3(.write),
            octets("00000004 01020304 00000000 00000200 00000003 00000002 00000003 61626300"))
        #expect(call.handles == [4..<8])
        #expect(call.offset == 512)
        #expect(call.count == 3)
        #expect(call.data == 28..<31)
        #expect(call.end == 32)
    }

    @Test func `RENAME and LINK as RFC 1813 writes it`() throws {
        let rename = try nfsCall(
            .v3(.rename),
            octets(
                """
                00000002 a1a20000 00000003 6f6c6400 00000001 b1000000 00000003 6e657700
                """))
        #expect(rename.handles == [4..<6, 20..<21])
        #expect(rename.names == [12..<15, 28..<31])
        #expect(!rename.isIdempotent)
        let link = try nfsCall(
            .v3(.link), octets("00000001 11000000 00000001 22000000 00000001 78000000"))
        #expect(link.handles == [4..<5, 12..<13])
        #expect(link.names == [20..<21])
    }

    @Test func `READDIRPLUS as RFC 1813 writes it`() throws {
        let call = try nfsCall(
            .v3(.readdirplus),
            octets(
                """
                00000001 11000000 00000000 00000007 01020304 05060708 00000200 00008000
                """))
        #expect(
            call.directory
                == NFSDirectoryRequest(
                    cookie: 7, verifier: 0x0102_0304_0506_0708, dircount: 512, maxcount: 32_768))
        #expect(call.end == 32)
    }

    @Test func `READ and READDIR as RFC 1094 writes it`() throws {
        let handle = String(repeating: "5a", count: 32)
        let read = try nfsCall(.v2(.read), octets(handle + "00001000 00002000 00000000"))
        #expect(read.handles == [0..<32])
        #expect(read.offset == 4_096)
        #expect(read.count == 8_192)
        let list = try nfsCall(.v2(.readdir), octets(handle + "00000003 00000400"))
        #expect(list.directory == NFSDirectoryRequest(cookie: 3, maxcount: 1_024))
    }

    @Test func `ACCESS as RFC 1813 writes it`() throws {
        let call = try nfsCall(.v3(.access), octets("00000000 0000001f"))
        #expect(call.handles == [4..<4])
        #expect(call.access == 0x1f)
    }

    // MARK: Limits

    @Test func `longest handles and names`() throws {
        for length in 0...64 {
            var writer = XDRWriter()
            writer.opaque([UInt8](repeating: 1, count: length))
            #expect(try nfsCall(.v3(.getattr), writer.bytes).handles == [4..<4 + length])
        }
        var writer = XDRWriter()
        writer.opaque([UInt8](repeating: 1, count: 65))
        #expect(xdrError { try nfsCall(.v3(.getattr), writer.bytes) } == .tooLong)

        for (length, error) in [(255, nil), (256, XDRError.tooLong)] as [(Int, XDRError?)] {
            var writer = XDRWriter()
            writer.fixedOpaque([UInt8](repeating: 1, count: 32))
            writer.opaque([UInt8](repeating: 0x61, count: length))
            #expect(xdrError { try nfsCall(.v2(.lookup), writer.bytes) } == error)
        }
        for (length, error) in [(8_192, nil), (8_193, XDRError.tooLong)] as [(Int, XDRError?)] {
            var writer = XDRWriter()
            writer.fixedOpaque([UInt8](repeating: 1, count: 44))
            writer.opaque([UInt8](repeating: 0x61, count: length))
            #expect(xdrError { try nfsCall(.v2(.write), writer.bytes) } == error)
        }
    }

    @Test(arguments: [
        // sattr3 with a boolean of 2, with a time_how of 3; a guard of 2.
        (NFSv3Procedure.setattr, "00000000 00000002"),
        (.setattr, "00000000 00000000 00000000 00000000 00000000 00000003"),
        (.setattr, "00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000002"),
        // stable_how of 3.
        (.write, "00000000 00000000 00000000 00000000 00000003 00000000"),
        // createmode3 of 3.
        (.create, "00000000 00000000 00000003"),
        // ftype3 of 0 and of 8.
        (.mknod, "00000000 00000000 00000000"), (.mknod, "00000000 00000000 00000008"),
    ])
    func `values that there are not`(procedure: NFSv3Procedure, text: String) {
        #expect(xdrError { try nfsCall(.v3(procedure), octets(text)) } == .badValue)
    }

    @Test func `MKNOD of a regular file is left to the server`() throws {
        let call = try nfsCall(.v3(.mknod), octets("00000000 00000000 00000001"))
        #expect(call.end == 12)
    }

    // MARK: Procedures

    @Test func `what may be done twice`() throws {
        let once: Set<String> = [
            "SETATTR", "CREATE", "MKDIR", "SYMLINK", "MKNOD", "REMOVE", "RMDIR", "RENAME", "LINK",
        ]
        for procedure in NFSv3Procedure.allCases {
            #expect(procedure.isIdempotent != once.contains(procedure.name))
        }
        for procedure in NFSv2Procedure.allCases where procedure != .setattr {
            #expect(procedure.isIdempotent != once.contains(procedure.name))
        }
        #expect(NFSv2Procedure.setattr.isIdempotent)
        // A guarded SETATTR, an exclusive CREATE.
        for isFull in [true, false] {
            for procedure in [NFSProcedure.v3(.setattr), .v3(.create)] {
                let sample = NFSSample.call(procedure, isFull: isFull)
                let call = try nfsCall(procedure, sample.octets, at: NFSSample.start)
                #expect(call.isIdempotent == !isFull)
            }
        }
    }

    @Test func `numbers and names`() {
        #expect(NFSProcedure(version: 3, number: 17) == .v3(.readdirplus))
        #expect(NFSProcedure(version: 2, number: 17) == .v2(.statfs))
        for (version, number) in [(3, 22), (2, 18), (4, 1), (1, 0)] as [(UInt32, UInt32)] {
            #expect(NFSProcedure(version: version, number: number) == nil)
        }
        #expect(NFSProcedure.v2(.writecache).name == "WRITECACHE")
        for procedure in NFSSample.procedures {
            #expect(
                NFSProcedure(version: procedure.version.rawValue, number: procedure.number)
                    == procedure)
        }
        #expect(NFSv3Status(rawValue: 10_008) == .jukebox)
        #expect(NFSv2Status(rawValue: 99) == .writeFlushed)
        #expect(NFSv2Status(rawValue: 10_008) == nil)
    }

    // MARK: Anything

    @Test(arguments: NFSSample.procedures)
    func `random and changed octets`(procedure: NFSProcedure) {
        var random = SplitMix64(seed: 11)
        for round in 0..<600 {
            var octets: [UInt8]
            if round % 2 == 0 {
                octets = random.bytes(random.below(300))
                // Small lengths and booleans get further.
                for place in octets.indices where place % 4 != 3 && random.below(8) > 0 {
                    octets[place] = 0
                }
            } else {
                octets = NFSSample.call(procedure, isFull: round % 4 == 1).octets
                for _ in 0...random.below(4) {
                    octets[random.below(octets.count)] = UInt8(random.below(256))
                }
            }
            guard let call = try? nfsCall(procedure, octets, at: round % 2 == 0 ? 0 : 40) else {
                continue
            }
            #expect(call.end <= octets.count)
            for range in call.handles + call.names {
                #expect(range.lowerBound >= 0 && range.upperBound <= call.end)
            }
        }
    }
}

@Suite struct NFSResultsTests {
    @Test(arguments: NFSSample.procedures, [true, false])
    func `handles and data of every reply`(procedure: NFSProcedure, isFull: Bool) throws {
        let sample = NFSSample.results(procedure, isFull: isFull)
        let results = try nfsResults(procedure, sample.octets, at: NFSSample.start)
        #expect(results.isSuccess)
        #expect(results.handles == sample.handles)
        #expect(results.fileSystems == sample.fileSystems)
        #expect(results.data == sample.data)
        #expect(results.end == sample.octets.count)
    }

    @Test(arguments: NFSSample.procedures, [true, false])
    func `errors carry no handles`(procedure: NFSProcedure, isFull: Bool) throws {
        let sample = NFSSample.failure(procedure, status: 70, isFull: isFull)
        let results = try nfsResults(procedure, sample.octets, at: NFSSample.start)
        #expect(results.status == (sample.octets.count == NFSSample.start ? 0 : 70))
        #expect(results.handles.isEmpty)
        #expect(results.fileSystems == sample.fileSystems)
        #expect(results.data == nil)
        #expect(results.end == sample.octets.count)
    }

    @Test(arguments: NFSSample.procedures, [true, false])
    func `a reply that was cut off anywhere`(procedure: NFSProcedure, isFull: Bool) {
        for sample in [
            NFSSample.results(procedure, isFull: isFull),
            NFSSample.failure(procedure, status: 70, isFull: isFull),
        ] {
            for end in NFSSample.start..<sample.octets.count {
                let error = xdrError {
                    try nfsResults(procedure, Array(sample.octets[..<end]), at: NFSSample.start)
                }
                #expect(error == .truncated, "\(end) octets of \(sample.octets.count)")
            }
        }
    }

    // MARK: By hand, from RFC 1813 section 3.3 and RFC 1094 section 2.2

    @Test func `LOOKUP as RFC 1813 writes it`() throws {
        let results = try nfsResults(
            .v3(.lookup), octets("00000000 00000004 0a0b0c0d 00000000 00000000"))
        #expect(results.handles == [8..<12])
        #expect(results.end == 20)
        let failure = try nfsResults(.v3(.lookup), octets("00000002 00000000"))
        #expect(failure.status == NFSv3Status.noEntry.rawValue)
        #expect(failure.handles.isEmpty)
    }

    @Test func `CREATE as RFC 1813 writes it`() throws {
        let results = try nfsResults(
            .v3(.create),
            octets("00000000 00000001 00000002 abcd0000 00000000 00000000 00000000"))
        #expect(results.handles == [12..<14])
        #expect(results.end == 28)
        let without = try nfsResults(
            .v3(.create), octets("00000000 00000000 00000000 00000000 00000000"))
        #expect(without.handles.isEmpty)
    }

    @Test func `READ as RFC 1813 writes it`() throws {
        let results = try nfsResults(
            .v3(.read), octets("00000000 00000000 00000002 00000001 00000002 61620000"))
        #expect(results.data == 20..<22)
        #expect(results.end == 24)
    }

    @Test func `READDIRPLUS as RFC 1813 writes it`() throws {
        let results = try nfsResults(
            .v3(.readdirplus),
            octets(
                """
                00000000 00000000 00000000 00000009
                00000001 00000000 00000002 00000001 78000000 00000000 00000001
                00000000 00000001 00000004 0a0b0c0d
                00000000 00000001
                """))
        #expect(results.handles == [56..<60])
        #expect(results.end == 68)
    }

    @Test func `LOOKUP as RFC 1094 writes it`() throws {
        let text =
            "00000000" + String(repeating: "5a", count: 32) + String(repeating: "00", count: 68)
        let results = try nfsResults(.v2(.lookup), octets(text))
        #expect(results.handles == [4..<36])
        #expect(results.end == 104)
    }

    @Test func `a handle that is too long, a boolean that is none`() {
        #expect(xdrError { try nfsResults(.v3(.lookup), octets("00000000 00000041")) } == .tooLong)
        #expect(xdrError { try nfsResults(.v3(.mkdir), octets("00000000 00000002")) } == .badValue)
    }

    // MARK: Much, and anything

    @Test func `READDIRPLUS with 10000 entries`() throws {
        let sample = NFSSample.results(.v3(.readdirplus), isFull: true, entries: 10_000)
        let clock = ContinuousClock()
        let start = clock.now
        let results = try nfsResults(.v3(.readdirplus), sample.octets, at: NFSSample.start)
        #expect(start.duration(to: clock.now) < .seconds(1))
        #expect(results.handles.count == 10_000)
        #expect(results.handles == sample.handles)
    }

    @Test(arguments: NFSSample.procedures)
    func `random and changed octets`(procedure: NFSProcedure) {
        var random = SplitMix64(seed: 12)
        for round in 0..<600 {
            var octets: [UInt8]
            if round % 2 == 0 {
                octets = [0, 0, 0, 0] + random.bytes(random.below(300))
                for place in octets.indices where place % 4 != 3 && random.below(8) > 0 {
                    octets[place] = 0
                }
            } else {
                octets = NFSSample.results(procedure, isFull: round % 4 == 1).octets
                for _ in 0...random.below(4) {
                    octets[random.below(octets.count)] = UInt8(random.below(256))
                }
            }
            let start = round % 2 == 0 ? 0 : NFSSample.start
            guard let results = try? nfsResults(procedure, octets, at: start) else { continue }
            #expect(results.end <= octets.count)
            for range in results.handles + results.fileSystems {
                #expect(range.lowerBound >= 0 && range.upperBound <= results.end)
            }
        }
    }
}
