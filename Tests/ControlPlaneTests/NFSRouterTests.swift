import ControlPlane
import DataPlane
import StorageProtocols
import TestSupport
import Testing

@Suite struct NFSRouterTests {
    // MARK: Every procedure

    @Test(arguments: [28, 60])
    func `every procedure of version 3 reaches its file`(handleLength: Int) throws {
        let bench = NFSBench.boxes(handleLength: handleLength)
        let storage = bench.server("r1").storage
        let root = bench.root("/r1")
        #expect(root.count == (handleLength == 28 ? 36 : 32))
        let file = try #require(
            bench.call3(.create, NFSArguments.create(root, "file", mode: 1)))
        #expect(file.isOK)
        #expect(bench.lookUp("file", in: root)?.handle == file.handle)
        #expect(bench.call3(.write, NFSArguments.write(file.handle, [1, 2, 3]))?.isOK == true)
        #expect(bench.call3(.read, NFSArguments.read(file.handle))?.data == [1, 2, 3])
        #expect(bench.call3(.commit, NFSArguments.read(file.handle))?.isOK == true)
        let grown =
            NFSArguments.handle(file.handle) + NFSArguments.words(0, 0, 0, 1, 0, 5, 0, 0, 0)
        #expect(bench.call3(.setattr, grown)?.isOK == true)
        let number = try #require(storage.find("file"))
        #expect(storage[number]?.data == [1, 2, 3, 0, 0])
        let made = NFSArguments.place(root, "dir") + NFSArguments.nothing
        let directory = try #require(bench.call3(.mkdir, made))
        #expect(directory.isOK)
        let node = NFSArguments.place(directory.handle, "pipe") + NFSArguments.words(7)
        #expect(bench.call3(.mknod, node + NFSArguments.nothing)?.isOK == true)
        let link = try #require(
            bench.call3(.symlink, NFSArguments.symlink(directory.handle, "link", "../file")))
        #expect(link.isOK)
        #expect(
            bench.call3(.readlink, NFSArguments.handle(link.handle))?.octets.suffix(8)
                == Array("../file\0".utf8)[...])
        let hard = NFSArguments.handle(file.handle) + NFSArguments.place(directory.handle, "hard")
        #expect(bench.call3(.link, hard)?.isOK == true)
        #expect(bench.lookUp("hard", in: directory.handle)?.handle == file.handle)
        let moved = NFSArguments.place(root, "file") + NFSArguments.place(directory.handle, "new")
        #expect(bench.call3(.rename, moved)?.isOK == true)
        for procedure in [NFSv3Procedure.getattr, .fsstat, .fsinfo, .pathconf] {
            #expect(bench.call3(procedure, NFSArguments.handle(directory.handle))?.isOK == true)
        }
        let access = NFSArguments.handle(root) + NFSArguments.words(0x3f)
        #expect(bench.call3(.access, access)?.octets.last == 0x3f)
        let list = try #require(
            bench.call3(.readdir, NFSArguments.readdir(directory.handle, count: 4_096)))
        #expect(
            nfsListing(list)?.entries.map(\.name).sorted() == ["hard", "link", "new", "pipe"])
        let plus = try #require(
            bench.call3(.readdirplus, NFSArguments.readdirplus(directory.handle, count: 4_096)))
        #expect(plus.isOK)
        #expect(plus.handles.contains(file.handle) && plus.handles.contains(link.handle))
        for name in ["hard", "new"] {
            let place = NFSArguments.place(directory.handle, name)
            #expect(bench.call3(.remove, place)?.isOK == true)
        }
        #expect(
            bench.call3(.rmdir, NFSArguments.place(root, "dir"))?.status
                == NFSv3Status.notEmpty.rawValue)
        #expect(
            bench.call3(.getattr, NFSArguments.handle(file.handle))?.status
                == NFSv3Status.stale.rawValue)
        #expect(bench.call3(.null, [])?.isOK == true)
        // Nothing of it was at the other box.
        #expect(bench.server("r2").takeLog().isEmpty)
        #expect(bench.router.counters.unusableReplies == 0)
    }

    @Test func `every procedure of version 2 reaches its file`() throws {
        let bench = NFSBench.boxes()
        let root = bench.root("/r1", .one)
        #expect(root.count == 32)
        let new = NFSArguments.place2(root, "file") + NFSArguments.nothing2
        let file = try #require(bench.call2(.create, new))
        #expect(file.isOK)
        #expect(bench.call2(.lookup, NFSArguments.place2(root, "file"))?.handle == file.handle)
        let data = file.handle + NFSArguments.words(0, 0, 0) + NFSArguments.opaque([4, 5])
        #expect(bench.call2(.write, data)?.isOK == true)
        let read = try #require(
            bench.call2(.read, file.handle + NFSArguments.words(0, 10, 0)))
        #expect(read.data == [4, 5])
        #expect(bench.call2(.setattr, file.handle + NFSArguments.nothing2)?.isOK == true)
        let directory = try #require(
            bench.call2(.mkdir, NFSArguments.place2(root, "dir") + NFSArguments.nothing2))
        let text = NFSArguments.opaque(Array("file".utf8)) + NFSArguments.nothing2
        #expect(bench.call2(.symlink, NFSArguments.place2(root, "link") + text)?.isOK == true)
        let link = try #require(bench.call2(.lookup, NFSArguments.place2(root, "link")))
        #expect(bench.call2(.readlink, link.handle)?.octets.suffix(4) == Array("file".utf8)[...])
        let hard = file.handle + NFSArguments.place2(directory.handle, "hard")
        #expect(bench.call2(.link, hard)?.isOK == true)
        let moved =
            NFSArguments.place2(directory.handle, "hard") + NFSArguments.place2(root, "moved")
        #expect(bench.call2(.rename, moved)?.isOK == true)
        for procedure in [NFSv2Procedure.getattr, .statfs] {
            #expect(bench.call2(procedure, root)?.isOK == true)
        }
        let list = try #require(bench.call2(.readdir, root + NFSArguments.words(0, 4_096)))
        #expect(
            nfsListing(list)?.entries.map(\.name).sorted() == ["dir", "file", "link", "moved"])
        #expect(bench.call2(.remove, NFSArguments.place2(root, "moved"))?.isOK == true)
        #expect(bench.call2(.rmdir, NFSArguments.place2(root, "dir"))?.isOK == true)
        for procedure in [NFSv2Procedure.null, .root, .writecache] {
            #expect(bench.call2(procedure, [])?.isOK == true)
        }
        #expect(bench.server("r2").takeLog().isEmpty)
    }

    // MARK: Boxes that do not know each other

    @Test(arguments: MountProtocol.Version.allCases)
    func `equal handles of two boxes reach the right files`(
        version: MountProtocol.Version
    ) throws {
        let bench = NFSBench.boxes()
        var handles: [[UInt8]] = []
        for (name, octet) in [("r1", 1), ("r2", 2)] as [(String, UInt8)] {
            bench.server(name).storage.put("file", data: [octet])
            let root = bench.root("/\(name)", version)
            let found = try #require(
                version == .three
                    ? bench.lookUp("file", in: root)
                    : bench.call2(.lookup, NFSArguments.place2(root, "file")))
            handles += [root, found.handle]
        }
        // The boxes have given the same ones.
        #expect(
            bench.server("r1").handle(3, version == .one ? .v2 : .v3)
                == bench.server("r2").handle(3, version == .one ? .v2 : .v3))
        #expect(Set(handles).count == 4)
        for (place, octet) in [(1, 1), (3, 2), (1, 1)] as [(Int, UInt8)] {
            let answer =
                version == .three
                ? bench.call3(.read, NFSArguments.read(handles[place]))
                : bench.call2(.read, handles[place] + NFSArguments.words(0, 10, 0))
            #expect(answer?.data == [octet])
        }
    }

    @Test func `RENAME and LINK do not go from one export to another`() throws {
        let bench = NFSBench.boxes()
        let roots = [bench.root("/r1"), bench.root("/r2")]
        let roots2 = [bench.root("/r1", .one), bench.root("/r2", .one)]
        let expected = NFSv3Status.crossDevice.rawValue
        let rename = NFSArguments.place(roots[0], "a") + NFSArguments.place(roots[1], "b")
        #expect(bench.call3(.rename, rename)?.status == expected)
        let link = NFSArguments.handle(roots[0]) + NFSArguments.place(roots[1], "b")
        #expect(bench.call3(.link, link)?.status == expected)
        let rename2 = NFSArguments.place2(roots2[1], "a") + NFSArguments.place2(roots2[0], "b")
        #expect(bench.call2(.rename, rename2)?.status == expected)
        #expect(
            bench.call2(.link, roots2[0] + NFSArguments.place2(roots2[1], "b"))?.status == expected)
        #expect(bench.forwards.isEmpty)
        #expect(bench.router.counters.refusals[.crossExport] == 4)
    }

    @Test func `file systems of two boxes are two, over TCP`() throws {
        let bench = NFSBench.boxes()
        func systems(_ name: String) throws -> Set<UInt64> {
            let root = bench.root("/\(name)")
            bench.server(name).storage.put("file")
            let calls: [NFSAnswer?] = [
                bench.call3(.getattr, NFSArguments.handle(root)), bench.lookUp("file", in: root),
                bench.call3(.readdirplus, NFSArguments.readdirplus(root, count: 4_096)),
                bench.lookUp("nothing", in: root),
                bench.call3(.create, NFSArguments.create(root, "new", mode: 1)),
            ]
            return Set(try calls.flatMap { try #require($0).fileSystems })
        }
        let first = try systems("r1")
        let second = try systems("r2")
        #expect(first.count == 1 && second.count == 1 && first != second)
        // Datagrams that the dataplane passes by itself are as servers make them.
        bench.client.transport = .udp
        let found4 = try systems("r1")
        #expect(found4 == [7])
        var settings = bench.router.settings
        settings.masksDatagrams = true
        bench.router.update(settings, wallTime: NFSv3Time(seconds: 1))
        let found5 = try systems("r1")
        #expect(found5 == first)
    }

    // MARK: Lists that become longer

    @Test(arguments: [false, true], [4_096, 32_768] as [UInt32])
    func `READDIRPLUS of many entries fits what the client has asked for`(
        isSilent: Bool, count: UInt32
    ) throws {
        let bench = NFSBench.boxes()
        let server = bench.server("r1")
        server.isSilent = isSilent
        let directory = server.storage.put("dir", .directory)
        let total = count < 10_000 ? 2_000 : 10_000
        for number in 0..<total {
            server.storage.make(
                NFSFakeStorage.File(type: .regular), Array("f\(number)".utf8), in: directory)
        }
        let root = bench.root("/r1")
        let handle = try #require(bench.lookUp("dir", in: root)).handle
        var names: Set<String> = []
        var cookie: UInt64 = 0
        var pages = 0
        while true {
            let arguments = NFSArguments.readdirplus(
                handle, cookie: cookie, verifier: cookie == 0 ? 0 : 3, count: count)
            let answer = try #require(bench.call3(.readdirplus, arguments))
            #expect(answer.isOK)
            #expect(answer.body.count <= Int(count))
            let page = try #require(nfsListing(answer))
            #expect(answer.handles.count == page.entries.count)
            names.formUnion(page.entries.map(\.name))
            cookie = page.entries.last?.cookie ?? 0
            pages += 1
            if page.isAtEnd { break }
            try #require(!page.entries.isEmpty && pages < 1_000)
        }
        #expect(names.count == total)
    }

    // MARK: What is no call

    @Test func `every call cut off anywhere`() throws {
        let bench = NFSBench.boxes(hasRoot: true)
        let root = bench.root("/r1")
        let top = bench.root("/")
        let root2 = bench.root("/r1", .one)
        var calls: [[UInt8]] = []
        for handle in [root, top, [1, 2, 3]] {
            calls += [
                bench.message(.v3(.lookup), NFSArguments.place(handle, "r1")),
                bench.message(.v3(.create), NFSArguments.create(handle, "x", mode: 1)),
                bench.message(
                    .v3(.rename), NFSArguments.place(root, "a") + NFSArguments.place(handle, "b")),
                bench.message(.v3(.readdirplus), NFSArguments.readdirplus(handle, count: 999)),
                bench.message(.v3(.write), NFSArguments.write(handle, [1, 2, 3, 4, 5])),
            ]
        }
        calls.append(bench.message(.v2(.lookup), NFSArguments.place2(root2, "x")))
        calls.append(bench.message(MountProtocol.program, 3, 1, NFSArguments.opaque([0x2f, 0x72])))
        calls.append(bench.message(MountProtocol.program, 1, 3, NFSArguments.opaque([0x2f])))
        calls.append(bench.message(Portmapper.program, 2, 3, NFSArguments.words(100_003, 3, 6, 0)))
        for call in calls {
            let header = call.withUnsafeBytes { raw -> RPCCallHeader? in
                var reader = XDRReader(raw)
                return try? RPCCallHeader(&reader)
            }
            let start = try #require(header).arguments
            for end in 0..<call.count {
                switch bench.decision(Array(call[..<end])) {
                case .malformed: #expect(end < start)
                case .answer(let reply): #expect(reply.prefix(4) == call.prefix(4))
                case .forward, .resolve, .underWay:
                    Issue.record("\(end) octets of \(call.count) go on")
                }
            }
        }
    }

    @Test func `any octets, and any reply`() throws {
        var random = SplitMix64(seed: 77)
        let bench = NFSBench.boxes(hasRoot: true)
        let root = bench.root("/r1")
        let original = bench.message(.v3(.lookup), NFSArguments.place(root, "x"))
        for round in 0..<10_000 {
            var octets = round % 4 == 0 ? random.bytes(random.below(200)) : original
            for _ in 0...random.below(3) where !octets.isEmpty {
                octets[random.below(octets.count)] = UInt8(random.below(256))
            }
            bench.client.transport = round % 2 == 0 ? .tcp : .udp
            guard case .forward(let forward) = bench.decision(octets) else { continue }
            var reply = bench.server("r1").reply(to: forward.call) ?? []
            for _ in 0..<random.below(3) where !reply.isEmpty {
                reply[random.below(reply.count)] = UInt8(random.below(256))
            }
            reply.removeLast(random.below(min(8, reply.count + 1)))
            _ = bench.router.finish(forward.context, reply: reply, now: bench.now)
        }
    }

    @Test func `replies cut off anywhere are none`() throws {
        let bench = NFSBench.boxes()
        let root = bench.root("/r1")
        bench.server("r1").storage.put("x")
        let call = bench.message(.v3(.lookup), NFSArguments.place(root, "x"))
        guard case .forward(let forward) = bench.decision(call) else {
            Issue.record("is not forwarded")
            return
        }
        let reply = try #require(bench.server("r1").reply(to: forward.call))
        for end in 0..<reply.count {
            let part = Array(reply[..<end])
            #expect(bench.router.finish(forward.context, reply: part, now: bench.now) == nil)
        }
        #expect(bench.router.finish(forward.context, reply: call, now: bench.now) == nil)
        #expect(bench.router.counters.unusableReplies == UInt64(reply.count) + 1)
        #expect(bench.router.finish(forward.context, reply: reply, now: bench.now) != nil)
    }

    @Test func `what has to be refused`() throws {
        let bench = NFSBench.boxes()
        let program = NFSProgram.number
        let cases: [([UInt8], RPCRefusal)] = [
            (bench.message(100_021, 4, 1, []), .programUnavailable),
            (bench.message(program, 4, 1, []), .programMismatch(low: 2, high: 3)),
            (bench.message(MountProtocol.program, 2, 1, []), .programMismatch(low: 1, high: 3)),
            (bench.message(program, 3, 22, []), .procedureUnavailable),
            (bench.message(MountProtocol.program, 3, 6, []), .procedureUnavailable),
            (bench.message(program, 3, 1, [0, 0, 0, 65]), .garbageArguments),
            (bench.message(MountProtocol.program, 3, 1, []), .garbageArguments),
        ]
        for (call, refusal) in cases {
            let answer = NFSAnswer(
                try #require(bench.send(call)), to: .v3(.null), call: call)
            #expect(answer.refusal == refusal)
        }
        var other = bench.message(program, 3, 0, [])
        other[11] = 3
        let reply = try #require(bench.send(other))
        #expect(
            NFSAnswer(reply, to: .v3(.null), call: other).refusal
                == .versionMismatch(low: 2, high: 2))
        other[7] = 1
        #expect(bench.send(other) == nil)
        for flavor in [RPCFlavor.gss, RPCFlavor.short, RPCFlavor.diffieHellman] {
            var writer = XDRWriter()
            for word in [1, 0, 2, program, 3, 0, flavor, 0, 0, 0] { writer.uint32(word) }
            let found = NFSAnswer(
                try #require(bench.send(writer.bytes)), to: .v3(.null), call: writer.bytes)
            #expect(found.refusal == .authenticationError(.rejectedCredential))
        }
        #expect(bench.forwards.isEmpty)
        let counters = bench.router.counters
        #expect(counters.refusals[.version] == 2)
        #expect(counters.refusals[.credential] == 3)
        #expect(counters.refusals[.malformed] == 1)
    }

    @Test func `one version alone`() throws {
        var settings = NFSBench.settings([("r1", NFSExport(directory: "/r1"))])
        settings.nfs.versions = [.v3]
        let bench = NFSBench(settings, [:])
        let call = bench.message(.v2(.null), [])
        let answer1 = NFSAnswer(
            try #require(bench.send(call)), to: .v2(.null), call: call)
        #expect(answer1.refusal == .programMismatch(low: 3, high: 3))
        let mount = bench.message(MountProtocol.program, 1, 0, [])
        let answer2 = NFSAnswer(
            try #require(bench.send(mount)), to: .v2(.null), call: mount)
        #expect(answer2.refusal == .programMismatch(low: 3, high: 3))
    }

    @Test func `handles of nobody`() throws {
        let bench = NFSBench.boxes()
        let getattr = { (handle: [UInt8]) in
            bench.call3(.getattr, NFSArguments.handle(handle))?.status
        }
        #expect(getattr([1, 2, 3]) == NFSv3Status.badHandle.rawValue)
        #expect(getattr([]) == NFSv3Status.badHandle.rawValue)
        // Ours, of an export that there is not.
        var gone = bench.root("/r1")
        gone[7] ^= 1
        #expect(getattr(gone) == NFSv3Status.stale.rawValue)
        let foreign = [UInt8](repeating: 7, count: 32)
        #expect(bench.call2(.getattr, foreign)?.status == NFSv2Status.stale.rawValue)
    }

    @Test func `a verifier of the server stays here`() throws {
        let bench = NFSBench.boxes()
        let root = bench.root("/r1")
        bench.server("r1").verifier = [1, 2, 3, 4, 5]
        #expect(bench.call3(.getattr, NFSArguments.handle(root))?.isOK == true)
        #expect(bench.call3(.access, NFSArguments.handle(root) + [0, 0, 0, 1])?.isOK == true)
    }

    @Test func `no server`() throws {
        let bench = NFSBench.boxes()
        let root = bench.root("/r1")
        let root2 = bench.root("/r1", .one)
        bench.servers["r1"] = nil
        #expect(
            bench.call3(.getattr, NFSArguments.handle(root))?.status
                == NFSv3Status.jukebox.rawValue)
        #expect(bench.call2(.getattr, root2)?.status == NFSv2Status.ioError.rawValue)
        #expect(bench.mount("/r1") == .failed(.serverFault))
        #expect(bench.mount("/r1", .one) == .failed(.inputOutput))
        bench.client.transport = .udp
        #expect(bench.call3(.getattr, NFSArguments.handle(root)) == nil)
        #expect(bench.mount("/r1") == nil)
        #expect(bench.router.counters.refusals[.noServer] == 6)
    }

    // MARK: The portmapper

    @Test func `the portmapper tells what there is`() throws {
        let bench = NFSBench.boxes()
        func port(_ program: UInt32, _ version: UInt32, _ transport: UInt32) throws -> UInt32? {
            let call = bench.message(
                Portmapper.program, 2, 3, NFSArguments.words(program, version, transport, 0))
            return nfsResults(of: try #require(bench.send(call))) { try $0.uint32() }
        }
        for transport: UInt32 in [6, 17] {
            let found6 = try port(NFSProgram.number, 2, transport)
            #expect(found6 == 2_049)
            let found7 = try port(NFSProgram.number, 3, transport)
            #expect(found7 == 2_049)
            let found8 = try port(NFSProgram.number, 4, transport)
            #expect(found8 == 0)
            let found9 = try port(MountProtocol.program, 1, transport)
            #expect(found9 == 20_048)
            let found10 = try port(MountProtocol.program, 3, transport)
            #expect(found10 == 20_048)
            let found11 = try port(Portmapper.program, 4, transport)
            #expect(found11 == 111)
        }
        // CALLIT, also as a datagram.
        bench.client.transport = .udp
        let callIt = bench.message(Portmapper.program, 2, 5, NFSArguments.words(100_003, 3, 0, 0))
        let answer = NFSAnswer(try #require(bench.send(callIt)), to: .v3(.null), call: callIt)
        #expect(answer.refusal == .procedureUnavailable)
        // rpcbind: GETADDR, at the address that the call came to.
        var writer = XDRWriter()
        writer.uint32(MountProtocol.program)
        writer.uint32(3)
        for text in ["udp", "", ""] { writer.string(text) }
        let getAddress = bench.message(Portmapper.program, 4, 3, writer.bytes)
        for (local, expected) in [
            (nil, "10.0.0.1.78.80"), (NFSBench.address("10.0.0.77"), "10.0.0.77.78.80"),
        ] as [(IPAddress?, String)] {
            guard
                case .answer(let reply) = bench.router.take(
                    getAddress, from: bench.client, at: local, now: 1)
            else {
                Issue.record("no answer")
                continue
            }
            #expect(nfsResults(of: reply) { try $0.string(maximum: 100) } == expected)
        }
    }

    @Test func `no portmapper`() throws {
        var settings = NFSBench.settings([("r1", NFSExport(directory: "/r1"))])
        settings.nfs.hasPortmapper = false
        let bench = NFSBench(settings, [:])
        let call = bench.message(Portmapper.program, 2, 0, [])
        let answer3 = NFSAnswer(
            try #require(bench.send(call)), to: .v3(.null), call: call)
        #expect(answer3.refusal == .programUnavailable)
        #expect(settings.registrations.isEmpty)
    }

    @Test func `settings of a configuration`() throws {
        let text = """
            ports:
              - { name: c, device: c0, side: client }
              - { name: s, device: s0, side: storage }
            cpu:
              client: { device: k0, mac: "02:00:00:00:01:01", addresses: [10.0.0.1/24] }
              storage: { device: k1, mac: "02:00:00:00:02:01", addresses: [10.1.0.1/24] }
            servers:
              - { name: a, addresses: [10.1.0.11] }
            resources:
              - { name: r1, export: /r1, servers: [a], assigned: a }
              - { name: disk, target: iqn.2026-01.test:disk, servers: [a], assigned: a }
            """
        let configuration = try Configuration.parse(text: text, file: "x")
        let settings = try #require(NFSRouter.Settings(configuration))
        #expect(settings.exports.map(\.name) == ["r1"])
        #expect(settings.addresses == [NFSBench.address("10.0.0.1")])
        #expect(settings.seed == 0x0200_0000_0101)
        #expect(settings.registrations.count == 14)
        #expect(!settings.masksDatagrams)
        let more = text + "\nnfs: { root_export: true }\n"
        let rooted = try #require(
            NFSRouter.Settings(try Configuration.parse(text: more, file: "x")))
        #expect(rooted.masksDatagrams)
    }
}
